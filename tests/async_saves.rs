//! Saves in the background: when buffers may change, what becomes of failures, of the best, and of what is kept.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod async_support;
mod scratch;

use std::fs;
use std::sync::Arc;
use std::thread;

use async_support::*;
use ckpt::engine::Buffer;
use ckpt::error::Status;
use ckpt::reader::training_state;
use ckpt::session::{Async, Level, Model, Session};
use ckpt::tensor::Dtype;
use scratch::Scratch;
use serde_json::Value;

fn session(dir: &Scratch, template: &str, options: ckpt::session::Options) -> Session {
    Session::new(dir.join(template).to_str().unwrap(), options).unwrap()
}

#[test]
fn borrow_returns_at_once_and_says_when_the_buffers_may_change() {
    let dir = Scratch::new("async-borrow");
    let session = session(&dir, "{epoch}.weights.h5", options(Async::Borrow));
    let valve = Valve::default();
    epoch(&session, 0, 0.5);
    session.save(&valve.model(1000)).unwrap();
    assert!(!session.should_save() && session.due_path().is_none());
    assert_eq!(session.best_path().unwrap_err().status(), Status::NotFound, "it is not durable");
    assert_eq!(session.last_stats().unwrap_err().status(), Status::NotFound);
    valve.wait_asked(1);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| session.wait_buffers());
        thread::sleep(std::time::Duration::from_millis(30));
        assert!(!waiting.is_finished(), "the buffers are in use");
        valve.set(Tap::Open(7));
        waiting.join().unwrap().unwrap();
    });
    session.wait().unwrap();
    assert_eq!(dir.names(), ["1.weights.h5"]);
    assert_eq!(byte(&dir.join("1.weights.h5")), 7);
    assert_eq!(session.best_path().unwrap(), dir.join("1.weights.h5").to_str().unwrap());
    let stats = session.last_stats().unwrap();
    assert!(stats.bytes > 1000 && stats.stall_secs < 0.02 && stats.copy_secs == 0.0, "{stats:?}");
}

#[test]
fn a_model_may_change_and_go_while_it_is_saved() {
    let dir = Scratch::new("async-model");
    let session = session(&dir, "{epoch}.weights.h5", options(Async::Borrow));
    let valve = Valve::default();
    let mut values = [5u8; 100];
    let mut others = [6u8; 100];
    let mut model = Model::new();
    // SAFETY: the values outlive the session's saves, which are waited for.
    let buffer = unsafe { Buffer::new(values.as_mut_ptr(), 1, &[100], None) }.unwrap();
    model.add("layers/dense/vars/0", Dtype::U8, &[100], buffer).unwrap();
    valve.add(&mut model, "z", 10);
    epoch(&session, 0, 0.5);
    session.save(&model).unwrap();
    // Another buffer, another tensor, another name: the next save has them.
    let buffer = model.buffer_mut("layers/dense/vars/0").unwrap();
    // SAFETY: as above.
    *buffer = unsafe { buffer.moved_to(others.as_mut_ptr()) }.unwrap();
    valve.add(&mut model, "y", 10);
    epoch(&session, 1, 0.5);
    session.save(&model).unwrap();
    drop(model);
    valve.set(Tap::Open(1));
    session.wait().unwrap();
    assert_eq!([1, 2].map(|n| byte(&dir.join(format!("{n}.weights.h5")))), [5, 6]);
}

#[test]
fn copies_are_of_the_time_of_the_call() {
    for limit in [0, 1, 6 << 20] {
        let dir = Scratch::new("async-copy");
        let mut options = options(Async::Copy);
        options.staging_limit = limit;
        let session = session(&dir, "{epoch}.weights.h5", options);
        let mut values = vec![0u8; 9 << 20];
        let shape = [values.len() as u64];
        let at = values.as_mut_ptr();
        let mut model = Model::new();
        // SAFETY: the values outlive the model, which alone touches them during a call.
        let buffer = unsafe { Buffer::new(at, 1, &shape, None) }.unwrap();
        model.add("layers/dense/vars/0", Dtype::U8, &shape, buffer).unwrap();
        session.prepare(&model).unwrap();
        for n in 0..5 {
            values.fill(n as u8 + 1);
            epoch(&session, n, 0.5);
            session.save(&model).unwrap();
            session.wait_buffers().unwrap();
        }
        values.fill(0);
        session.wait().unwrap();
        let found = [1, 2, 3, 4, 5].map(|n| byte(&dir.join(format!("{n}.weights.h5"))));
        assert_eq!(found, [1, 2, 3, 4, 5], "staging limit {limit}");
        let stats = session.last_stats().unwrap();
        assert!(stats.copy_secs > 0.0 && stats.copy_secs <= stats.stall_secs, "{stats:?}");
    }
}

#[test]
fn what_cannot_be_copied_is_told_at_once() {
    let dir = Scratch::new("async-fetch");
    let mut options = best_only(Async::Copy);
    let lines = listen(&mut options);
    let session = session(&dir, "{epoch}.weights.h5", options);
    for (tap, status) in [(Tap::Broken, Status::Mismatch), (Tap::Panics, Status::Internal)] {
        let valve = Valve::new(tap);
        let model = valve.model(9 << 20);
        epoch(&session, 0, 0.5);
        let error = session.save(&model).unwrap_err();
        assert_eq!(error.status(), status, "{error}");
        assert_eq!(session.best().unwrap_err().status(), Status::NotFound);
        assert!(session.should_save(), "it is still due");
        session.wait().unwrap();
        assert!(dir.names().is_empty());
    }
    session.save(&Valve::new(Tap::Open(3)).model(9 << 20)).unwrap();
    session.wait().unwrap();
    assert_eq!(byte(&dir.join("1.weights.h5")), 3);
    assert!(lines.lock().iter().all(|(level, _)| *level != Level::Error), "{lines:?}");
}

#[test]
fn a_failure_is_told_once_by_the_next_call() {
    let dir = Scratch::new("async-failures");
    let mut options = options(Async::Borrow);
    let lines = listen(&mut options);
    let session = session(&dir, "{epoch}.weights.h5", options);
    fs::create_dir(dir.join("1.weights.h5")).unwrap();
    let good = Valve::new(Tap::Open(1)).model(10);
    let fail = || {
        epoch(&session, 0, 0.5);
        session.save(&good).unwrap();
        wait_for(|| session.should_save());
    };

    // By ckpt_wait; the save is due again, and events tell nothing.
    fail();
    let error = session.wait().unwrap_err();
    assert_eq!((error.status(), error.os()), (Status::Io, libc::EISDIR), "{error}");
    assert!(error.message().contains("1.weights.h5' failed: "), "{error}");
    session.wait().unwrap();
    epoch(&session, 1, 0.5);

    // By ckpt_wait_buffers.
    fail();
    assert_eq!(session.wait_buffers().unwrap_err().os(), libc::EISDIR);
    session.wait_buffers().unwrap();

    // By the next save, which has not been made then.
    fail();
    epoch(&session, 1, 0.5);
    let error = session.save(&good).unwrap_err();
    assert_eq!((error.status(), error.os()), (Status::Io, libc::EISDIR), "{error}");
    for text in ["2.weights.h5' is still due (call again", "1.weights.h5' failed"] {
        assert!(error.message().contains(text), "{error}");
    }
    assert!(session.should_save());
    session.save(&good).unwrap();
    session.wait().unwrap();
    assert!(dir.join("2.weights.h5").is_file());
    assert!(lines.lock().is_empty(), "all has been told: {lines:?}");

    // Where none is due.
    fail();
    session.on_epoch_begin(5).unwrap();
    assert_eq!(session.save(&good).unwrap_err().os(), libc::EISDIR);
    assert_eq!(session.save(&good).unwrap_err().status(), Status::State);

    // Of several the first; the others go to the log.
    let (first, second) = (Valve::default(), Valve::new(Tap::Panics));
    epoch(&session, 2, 0.5);
    session.save(&first.model(10)).unwrap();
    epoch(&session, 3, 0.5);
    session.save(&second.model(10)).unwrap();
    first.set(Tap::Broken);
    let error = session.wait().unwrap_err();
    assert_eq!(error.status(), Status::Mismatch, "{error}");
    wait_for(|| has_line(&lines, Level::Error, "4.weights.h5' failed: a bug in libckpt"));
    session.wait().unwrap();

    // By ckpt_free: to the log.
    lines.lock().clear();
    fail();
    drop(session);
    assert!(has_line(&lines, Level::Error, "1.weights.h5' failed: "), "{lines:?}");
    assert_eq!(dir.names(), ["1.weights.h5", "2.weights.h5"]);
}

/// Whether it comes before the copy is made, or after it.
#[test]
fn the_call_that_copies_does_not_tell_of_its_own_saves_failure() {
    let dir = Scratch::new("async-copy-fails");
    let session = session(&dir, "{epoch}.weights.h5", best_only(Async::Copy));
    fs::create_dir(dir.join("1.weights.h5")).unwrap();
    for bytes in [10, 20 << 20].repeat(5) {
        epoch(&session, 0, 0.5);
        session.save(&Valve::new(Tap::Open(1)).model(bytes)).unwrap();
        let error = session.wait().unwrap_err();
        assert_eq!(error.os(), libc::EISDIR, "{error}");
        assert!(error.message().contains("1.weights.h5' failed: "), "{error}");
        session.wait().unwrap();
        assert!(session.best().is_err() && session.should_save());
    }
}

#[test]
fn a_panic_is_a_failure_of_its_save_alone() {
    let dir = Scratch::new("async-panic");
    let session = session(&dir, "{epoch}.weights.h5", options(Async::Borrow));
    for (n, tap) in [Tap::Panics, Tap::Open(1), Tap::Panics].into_iter().enumerate() {
        epoch(&session, n as u64, 0.5);
        session.save(&Valve::new(tap).model(10)).unwrap();
        let result = session.wait().map_err(|error| error.status());
        assert_eq!(result, if tap == Tap::Panics { Err(Status::Internal) } else { Ok(()) });
    }
    assert_eq!(dir.names(), ["2.weights.h5"]);
}

/// Two saves on their way, the second the better one: how each ends, in the order in which they do, which is theirs.
#[test]
fn a_save_that_fails_leaves_the_best_as_if_it_had_never_been() {
    let cases = [
        ([Tap::Open(1), Tap::Open(2)], Some(4.0), Some("2")),
        ([Tap::Broken, Tap::Open(2)], Some(4.0), Some("2")),
        ([Tap::Open(1), Tap::Broken], Some(5.0), Some("1")),
        ([Tap::Broken, Tap::Broken], None, None),
    ];
    for (taps, best, best_path) in cases {
        let dir = Scratch::new("async-best");
        let session = session(&dir, "{epoch}.weights.h5", best_only(Async::Borrow));
        let valves = [Valve::default(), Valve::default()];
        for (n, (valve, loss)) in valves.iter().zip([5.0, 4.0]).enumerate() {
            epoch(&session, n as u64, loss);
            session.save(&valve.model(10)).unwrap();
            assert_eq!(session.best().unwrap(), loss, "taken over when accepted");
        }
        epoch(&session, 2, 4.5);
        assert!(!session.should_save(), "not better than what is on its way");
        for (valve, tap) in valves.iter().zip(taps) {
            valve.set(tap);
        }
        let failed = taps.contains(&Tap::Broken);
        assert_eq!(session.wait().is_err(), failed);
        assert_eq!(session.best().ok(), best, "{taps:?}");
        let path = session.best_path().ok();
        let expected = best_path.map(|n| dir.join(format!("{n}.weights.h5")).to_str().unwrap().to_owned());
        assert_eq!(path, expected, "{taps:?}");
        // What a save says of the best is its own, and what failed before it is not in it.
        for (n, loss) in [(1, 5.0), (2, 4.0)] {
            if let Ok(Some(state)) = training_state(&dir.join(format!("{n}.weights.h5"))) {
                assert_eq!(serde_json::from_slice::<Value>(&state).unwrap()["best"], loss);
            }
        }
        epoch(&session, 3, 4.5);
        assert_eq!(session.should_save(), best.is_none_or(|best| best > 4.5));
    }
}

#[test]
fn a_checkpoint_does_not_tell_of_a_best_that_failed() {
    let dir = Scratch::new("async-state");
    let mut options = best_only(Async::Borrow);
    options.policy.initial_value_threshold = Some(9.0);
    let session = session(&dir, "{epoch}.weights.h5", options);
    let valve = Valve::default();
    epoch(&session, 0, 5.0);
    session.save(&valve.model(10)).unwrap();
    // Without the metric a save is due whatever is best.
    session.on_epoch_end(1, &[("loss", 1.0)]).unwrap();
    session.save(&Valve::new(Tap::Open(1)).model(10)).unwrap();
    valve.set(Tap::Broken);
    session.wait().unwrap_err();
    let state: Value =
        serde_json::from_slice(&training_state(&dir.join("2.weights.h5")).unwrap().unwrap()).unwrap();
    assert_eq!((&state["best"], &state["epoch"], &state["save"]), (&9.0.into(), &1.into(), &2.into()));
}

#[test]
fn rules_act_after_each_save_and_never_on_one_that_is_on_its_way() {
    let dir = Scratch::new("async-retention");
    let mut options = options(Async::Borrow);
    options.policy.keep_last = 1;
    let session = session(&dir, "{epoch}.weights.h5", options);
    let valves: Vec<Valve> = (0..4).map(|_| Valve::default()).collect();
    thread::scope(|scope| {
        let training = scope.spawn(|| {
            for (n, valve) in valves.iter().enumerate() {
                epoch(&session, n as u64, [1.0, 2.0, 0.5, 3.0][n]);
                session.save(&valve.model(10)).unwrap();
            }
        });
        for (n, valve) in valves.iter().enumerate() {
            valve.wait_asked(1);
            valve.set(Tap::Open(n as u8));
            if n < 3 {
                valves[n + 1].wait_asked(1);
            }
            let names = dir.names();
            let kept: Vec<&str> =
                names.iter().map(String::as_str).filter(|name| !name.starts_with(".ckpt")).collect();
            match n {
                0 => assert_eq!(kept, ["1.weights.h5"]),
                1 => assert_eq!(kept, ["1.weights.h5", "2.weights.h5"], "the best and the newest"),
                2 => assert_eq!(kept, ["3.weights.h5"]),
                _ => {}
            }
        }
        training.join().unwrap();
    });
    session.wait().unwrap();
    assert_eq!(dir.names(), ["3.weights.h5", "4.weights.h5"]);
}

#[test]
fn the_best_is_loaded_while_a_save_is_made() {
    let dir = Scratch::new("async-load");
    let mut options = best_only(Async::Copy);
    options.policy.keep_last = 1;
    let session = session(&dir, "{epoch}.weights.h5", options);
    let mut own = vec![0u8; 3 << 20];
    let shape = [own.len() as u64];
    let mut target = Model::new();
    // SAFETY: the memory outlives the model, which alone touches it during a call.
    let buffer = unsafe { Buffer::new(own.as_mut_ptr(), 1, &shape, None) }.unwrap();
    target.add("layers/dense/vars/0", Dtype::U8, &shape, buffer).unwrap();
    for n in 0..60u8 {
        epoch(&session, u64::from(n), f64::from(100 - n));
        session.save(&Valve::new(Tap::Open(n)).model(3 << 20)).unwrap();
        match session.load_best(&mut target) {
            Ok(()) => assert!(own.iter().all(|byte| *byte == own[0] && *byte <= n), "a torn load"),
            Err(error) => assert!(n < 3 && error.status() == Status::NotFound, "{error}"),
        }
    }
    session.wait().unwrap();
    session.load_best(&mut target).unwrap();
    assert_eq!(own[0], 59);
}

#[test]
fn several_threads_wait_and_one_of_them_is_told() {
    let dir = Scratch::new("async-waiters");
    let session = Arc::new(session(&dir, "{epoch}.weights.h5", options(Async::Borrow)));
    let valve = Valve::default();
    epoch(&session, 0, 0.5);
    session.save(&valve.model(10)).unwrap();
    let waiters: Vec<_> = (0..8)
        .map(|n| {
            let session = session.clone();
            thread::spawn(move || if n % 2 == 0 { session.wait() } else { session.wait_buffers() })
        })
        .collect();
    valve.wait_asked(1);
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    valve.set(Tap::Broken);
    let told = waiters.into_iter().filter_map(|waiter| waiter.join().unwrap().err()).count();
    assert_eq!(told + usize::from(session.wait().is_err()), 1);
}

#[test]
fn a_dropped_session_has_made_its_saves() {
    let dir = Scratch::new("async-drop");
    for mode in [Async::Copy, Async::Borrow, Async::Snapshot] {
        let mut options = options(mode);
        let lines = listen(&mut options);
        let session = session(&dir, &format!("{mode:?}-{{epoch}}.weights.h5"), options);
        let model = Valve::new(Tap::Open(9)).model(5 << 20);
        for n in 0..4 {
            epoch(&session, n, 0.5);
            session.save(&model).unwrap();
        }
        drop(session);
        assert_eq!(has_line(&lines, Level::Warn, "falls back to COPY"), mode == Async::Snapshot);
    }
    let names = dir.names();
    assert_eq!(names.len(), 12, "{names:?}");
    assert!(names.iter().all(|name| byte(&dir.join(name)) == 9));
}
