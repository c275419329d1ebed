//! Saves in the background: too many of them, their end before their time, and what is heard of them.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod async_support;
mod scratch;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use async_support::*;
use ckpt::engine::{Buffer, Source};
use ckpt::error::{Result, Status};
use ckpt::policy::OnNan;
use ckpt::session::{Async, Backpressure, Level, Log, Model, Options, Progress, Session};
use ckpt::tensor::Dtype;
use parking_lot::Mutex;
use scratch::Scratch;

fn session(dir: &Scratch, options: Options) -> Session {
    Session::new(dir.join("{epoch}.weights.h5").to_str().unwrap(), options).unwrap()
}

fn saves(dir: &Scratch) -> Vec<String> {
    let names = dir.names().into_iter();
    names.filter_map(|name| name.strip_suffix(".weights.h5").map(str::to_owned)).collect()
}

/// Begins a save of each loss, the first of which is being made afterwards; gives what they wait for.
fn begin(session: &Session, losses: &[f64]) -> Valve {
    let valve = Valve::default();
    for (n, loss) in losses.iter().enumerate() {
        epoch(session, n as u64, *loss);
        session.save(&valve.model(10)).unwrap();
    }
    valve.wait_asked(1);
    valve
}

#[test]
fn a_third_save_waits_for_room() {
    let dir = Scratch::new("async-block");
    let session = session(&dir, options(Async::Borrow));
    let valve = begin(&session, &[3.0, 2.0]);
    epoch(&session, 2, 1.0);
    thread::scope(|scope| {
        let third = scope.spawn(|| session.save(&valve.model(10)));
        thread::sleep(Duration::from_millis(50));
        assert!(!third.is_finished());
        assert_eq!(valve.asked(), 1, "one at a time");
        // An event meanwhile takes nothing away from it.
        session.on_epoch_begin(3).unwrap();
        valve.set(Tap::Open(1));
        third.join().unwrap().unwrap();
    });
    session.wait().unwrap();
    assert_eq!(saves(&dir), ["1", "2", "3"]);
}

#[test]
fn a_third_save_takes_the_place_of_the_one_that_waits() {
    // The losses of the saves, and those that are made.
    let cases: [(&[f64], &[&str]); 4] = [
        (&[3.0, 2.0, 1.0], &["1", "3"]),
        (&[3.0, 5.0, 4.0, 6.0], &["1", "4"]),
        (&[3.0, 2.0, 1.0, 0.5, 0.25], &["1", "5"]),
        (&[f64::NAN, f64::NAN, 7.0], &["1", "3"]),
    ];
    for (losses, made) in cases {
        let dir = Scratch::new("async-replace");
        let mut options = options(Async::Borrow);
        options.backpressure = Backpressure::Replace;
        options.policy.on_nan = OnNan::Keras;
        let lines = listen(&mut options);
        let session = session(&dir, options);
        let valve = begin(&session, losses);
        assert_eq!(valve.asked(), 1);
        valve.set(Tap::Open(1));
        session.wait().unwrap();
        assert_eq!(saves(&dir), made, "{losses:?}");
        let told = lines.lock().iter().filter(|(level, _)| *level == Level::Info).count();
        assert_eq!(told, losses.len() - made.len(), "{lines:?}");
        assert!(has_line(&lines, Level::Info, "/2.weights.h5' gives way to that to '"));
    }
}

#[test]
fn the_best_does_not_give_way_to_what_is_no_better() {
    for (third, rest) in [(2.5, "2"), (2.0, "2"), (f64::NAN, "2")] {
        let dir = Scratch::new("async-keep");
        let mut options = options(Async::Borrow);
        options.backpressure = Backpressure::Replace;
        options.policy.on_nan = OnNan::Keras;
        let session = session(&dir, options);
        let valve = begin(&session, &[3.0, 2.0]);
        epoch(&session, 2, third);
        thread::scope(|scope| {
            let waits = scope.spawn(|| session.save(&valve.model(10)));
            thread::sleep(Duration::from_millis(30));
            assert!(!waits.is_finished(), "{third} after {rest}");
            valve.set(Tap::Open(1));
            waits.join().unwrap().unwrap();
        });
        session.wait().unwrap();
        assert_eq!(saves(&dir), ["1", "2", "3"]);
    }
}

#[test]
fn what_gave_way_is_as_if_it_had_never_been() {
    let dir = Scratch::new("async-gave-way");
    let mut options = best_only(Async::Borrow);
    options.backpressure = Backpressure::Replace;
    let session = session(&dir, options);
    let valve = begin(&session, &[3.0, 2.0]);
    let worst = Valve::new(Tap::Broken);
    epoch(&session, 2, 1.0);
    session.save(&worst.model(10)).unwrap();
    assert_eq!(session.best().unwrap(), 1.0);
    valve.set(Tap::Open(1));
    session.wait().unwrap_err();
    assert_eq!(session.best().unwrap(), 3.0);
    assert_eq!(saves(&dir), ["1"]);
}

#[test]
fn a_cancelled_save_leaves_everything_as_it_was() {
    let dir = Scratch::new("async-cancel");
    let mut options = best_only(Async::Borrow);
    let lines = listen(&mut options);
    let session = session(&dir, options);
    session.cancel().unwrap();
    epoch(&session, 0, 3.0);
    session.save(&Valve::new(Tap::Open(1)).model(10)).unwrap();
    session.wait().unwrap();
    session.cancel().unwrap();
    session.wait().unwrap();

    // One over the old file, one that waits, and one for which there is no room.
    let valve = Valve::default();
    for (n, loss) in [(0, 2.0), (1, 1.0)] {
        epoch(&session, n, loss);
        session.save(&valve.model(9 << 20)).unwrap();
    }
    valve.wait_asked(1);
    epoch(&session, 2, 0.5);
    thread::scope(|scope| {
        let third = scope.spawn(|| session.save(&valve.model(10)));
        wait_for(|| !session.should_save());
        session.cancel().unwrap();
        assert_eq!(third.join().unwrap().unwrap_err().status(), Status::Cancelled);
    });
    valve.set(Tap::Open(2));
    assert_eq!(session.wait().unwrap_err().status(), Status::Cancelled);
    session.wait().unwrap();
    wait_for(|| has_line(&lines, Level::Error, "2.weights.h5' failed: cancelled"));
    assert_eq!(dir.names(), ["1.weights.h5"]);
    assert_eq!(byte(&dir.join("1.weights.h5")), 1);
    assert_eq!(session.best().unwrap(), 3.0);
    assert!(session.should_save(), "still due, since no event came after it");
    session.save(&Valve::new(Tap::Open(4)).model(10)).unwrap();
    session.wait().unwrap();
    assert_eq!((session.best().unwrap(), byte(&dir.join("3.weights.h5"))), (0.5, 4));
}

#[test]
fn calls_that_save_are_cancelled_from_other_threads() {
    for mode in [Async::Off, Async::Copy] {
        let dir = Scratch::new("async-cancel-call");
        let session = session(&dir, best_only(mode));
        let valve = Valve::default();
        epoch(&session, 0, 1.0);
        thread::scope(|scope| {
            let saving = scope.spawn(|| session.save(&valve.model(9 << 20)));
            valve.wait_asked(1);
            session.cancel().unwrap();
            valve.set(Tap::Open(1));
            assert_eq!(saving.join().unwrap().unwrap_err().status(), Status::Cancelled, "{mode:?}");
        });
        session.wait().unwrap();
        assert!(dir.names().is_empty(), "{mode:?}");
        assert!(session.should_save() && session.best().is_err());
        session.save(&valve.model(10)).unwrap();
        session.wait().unwrap();
        assert_eq!(saves(&dir), ["1"]);
    }
}

/// Calls of a progress function: path, done, total, when.
type Calls = Arc<Mutex<Vec<(String, u64, u64, Instant)>>>;

fn watch(options: &mut Options) -> Calls {
    let calls = Calls::default();
    let heard = calls.clone();
    options.progress = Progress::new(move |path, done, total| {
        heard.lock().push((path.to_owned(), done, total, Instant::now()));
    });
    calls
}

fn with_memory(values: &mut [u8]) -> Model {
    let mut model = Model::new();
    let shape = [values.len() as u64];
    // SAFETY: the values outlive the model in every test, which touches them through it alone meanwhile.
    let buffer = unsafe { Buffer::new(values.as_mut_ptr(), 1, &shape, None) }.unwrap();
    model.add("layers/dense/vars/0", Dtype::U8, &shape, buffer).unwrap();
    model
}

#[test]
fn progress_is_heard_ten_times_a_second_and_at_the_end() {
    let mut values = vec![3u8; 24 << 20];
    let model = with_memory(&mut values);
    for mode in [Async::Off, Async::Copy, Async::Borrow] {
        let dir = Scratch::new("async-progress");
        let mut options = options(mode);
        options.durable = true;
        let calls = watch(&mut options);
        let session = session(&dir, options);
        for n in 0..3 {
            epoch(&session, n, 0.5);
            assert_eq!(
                session.due_path().unwrap(),
                dir.join(format!("{}.weights.h5", n + 1)).to_str().unwrap()
            );
            session.save(&model).unwrap();
        }
        session.wait().unwrap();
        let calls = calls.lock();
        let bytes = session.last_stats().unwrap().bytes;
        let ends: Vec<&str> = calls
            .iter()
            .filter(|call| call.1 == call.2)
            .map(|call| call.0.rsplit('/').next().unwrap())
            .collect();
        assert_eq!(ends, ["1.weights.h5", "2.weights.h5", "3.weights.h5"], "{mode:?}: {calls:?}");
        assert!(calls.len() > 3 && calls.iter().all(|call| call.1 <= call.2 && call.2 == bytes), "{calls:?}");
        for pair in calls.windows(2) {
            assert!(pair[0].0 != pair[1].0 || pair[0].1 < pair[1].1, "it goes on: {calls:?}");
        }
        let between: Vec<Instant> = calls.iter().filter(|call| call.1 < call.2).map(|call| call.3).collect();
        for pair in between.windows(2) {
            // They are counted from before the call.
            assert!(pair[1] - pair[0] > Duration::from_millis(90), "{between:?}");
        }
    }
}

#[test]
fn progress_may_cancel() {
    let mut values = vec![3u8; 24 << 20];
    let model = with_memory(&mut values);
    for mode in [Async::Off, Async::Copy, Async::Borrow] {
        let dir = Scratch::new("async-progress-cancel");
        let slot: Arc<OnceLock<Session>> = Arc::default();
        let (inner, calls) = (slot.clone(), Arc::new(AtomicU32::new(0)));
        let count = calls.clone();
        let mut options = options(mode);
        options.progress = Progress::new(move |_, done, total| {
            assert!(done < total);
            count.fetch_add(1, Relaxed);
            inner.get().unwrap().cancel().unwrap();
        });
        let session = slot.get_or_init(|| session(&dir, options));
        epoch(session, 0, 0.5);
        let result = session.save(&model).and(session.wait());
        assert_eq!(result.unwrap_err().status(), Status::Cancelled, "{mode:?}");
        session.wait().unwrap();
        assert_eq!(calls.load(Relaxed), 1);
        assert!(dir.names().is_empty());
    }
}

/// A log or progress function can ask and cancel; what would wait for it is refused.
#[test]
fn nothing_that_waits_works_in_a_callback() {
    for mode in [Async::Copy, Async::Borrow] {
        let dir = Scratch::new("async-callback");
        let slot: Arc<OnceLock<Session>> = Arc::default();
        let refused = Arc::new(AtomicU32::new(0));
        let ask = {
            let (inner, refused) = (slot.clone(), refused.clone());
            move || {
                let Some(session) = inner.get() else { return };
                let _ = (session.due_path(), session.best(), session.best_path(), session.last_stats());
                epoch(session, 7, 0.5);
                let model = Valve::new(Tap::Open(1)).model(10);
                for result in [session.wait(), session.wait_buffers(), session.save(&model)] {
                    assert_eq!(result.unwrap_err().status(), Status::State);
                    refused.fetch_add(1, Relaxed);
                }
            }
        };
        let mut options = options(mode);
        options.policy.verbose = true;
        let log = ask.clone();
        options.log = Log::new(move |_, line| {
            // The other lines are those of events.
            if line.contains("finished") {
                log();
            }
        });
        options.progress = Progress::new(move |_, _, _| ask());
        let session = slot.get_or_init(|| session(&dir, options));
        epoch(session, 0, 0.5);
        session.save(&Valve::new(Tap::Open(1)).model(10)).unwrap();
        session.wait().unwrap();
        wait_for(|| refused.load(Relaxed) >= 6);
        assert!(session.should_save(), "the event in there made one due");
    }
}

/// Nor in the function that a tensor comes from, on whichever thread it is called.
#[test]
fn nothing_that_waits_works_where_a_tensor_comes_from() {
    struct Asks(Arc<OnceLock<Session>>);
    impl Source for Asks {
        fn fetch(&self, _: u64, dst: &mut [u8]) -> Result<()> {
            let session = self.0.get().unwrap();
            session.on_epoch_end(1, &[("val_loss", 0.5)])?;
            for result in [session.wait(), session.wait_buffers(), session.save(&Model::new())] {
                assert_eq!(result.unwrap_err().status(), Status::State);
            }
            dst.fill(1);
            Ok(())
        }
        fn put(&self, _: u64, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn can_put(&self) -> bool {
            false
        }
    }
    for mode in [Async::Off, Async::Copy, Async::Borrow] {
        let dir = Scratch::new("async-source");
        let slot: Arc<OnceLock<Session>> = Arc::default();
        let session = slot.get_or_init(|| session(&dir, options(mode)));
        let mut model = Model::new();
        let buffer = Buffer::source(10, 1, Arc::new(Asks(slot.clone()))).unwrap();
        model.add("layers/dense/vars/0", Dtype::U8, &[10], buffer).unwrap();
        epoch(session, 0, 0.5);
        session.save(&model).unwrap();
        session.wait().unwrap();
        assert_eq!(saves(&dir), ["1"], "{mode:?}");
    }
}

#[test]
fn a_log_function_that_waits_for_a_save_does_not_stop_it() {
    let dir = Scratch::new("async-gate");
    let slot: Arc<OnceLock<Session>> = Arc::default();
    let inner = slot.clone();
    let finished = Arc::new(AtomicU32::new(0));
    let count = finished.clone();
    let mut options = options(Async::Borrow);
    options.policy.verbose = true;
    options.log = Log::new(move |_, line| {
        if line.contains("finished") {
            count.fetch_add(1, Relaxed);
        } else if line.contains("saving model to")
            && let Some(session) = inner.get()
        {
            let _ = session.wait();
        }
    });
    let session = slot.get_or_init(|| session(&dir, options));
    let model = Valve::new(Tap::Open(1)).model(10);
    for n in 0..100 {
        epoch(session, n, 0.5);
        session.save(&model).unwrap();
    }
    session.wait().unwrap();
    assert_eq!(finished.load(Relaxed), 100, "what the log hears of a save, it has heard when that has ended");
    assert_eq!(saves(&dir).len(), 100);
}
