//! Many threads on one session, whatever its mode: every file is whole, the last save is there, the best is right.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod async_support;
mod scratch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use async_support::*;
use ckpt::engine::Buffer;
use ckpt::error::Status;
use ckpt::reader::{Reader, training_state};
use ckpt::session::{Async, Backpressure, Model, Options, Session};
use ckpt::tensor::Dtype;
use parking_lot::Mutex;
use scratch::Scratch;
use serde_json::Value;

const THREADS: u64 = 4;
const TIME: Duration = Duration::from_secs(1);

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % n
    }
}

/// A model of two tensors with the same bytes, and their memory.
struct Mine {
    values: Vec<u8>,
    model: Model,
}

impl Mine {
    fn new(bytes: usize) -> Mine {
        let mut values = vec![0u8; bytes];
        let mut model = Model::new();
        let (first, second) = values.split_at_mut(bytes / 3);
        for (path, part) in [("layers/dense/vars/0", first), ("layers/dense/vars/1", second)] {
            let shape = [part.len() as u64];
            // SAFETY: the memory lives as long as the model, and is changed only where the mode allows it.
            let buffer = unsafe { Buffer::new(part.as_mut_ptr(), 1, &shape, None) }.unwrap();
            model.add(path, Dtype::U8, &shape, buffer).unwrap();
        }
        Mine { values, model }
    }
}

/// The byte of a checkpoint, all of which is from one time.
fn whole(path: &std::path::Path) -> u8 {
    let reader = Reader::open(path).unwrap();
    reader.verify().unwrap();
    let mut seen = None;
    for (i, tensor) in reader.tensors().iter().enumerate() {
        let mut bytes = vec![0; tensor.nbytes() as usize];
        reader.read(i, &mut bytes).unwrap();
        let first = *seen.get_or_insert(bytes[0]);
        assert!(bytes.iter().all(|byte| *byte == first), "{} is of two times", path.display());
    }
    seen.unwrap()
}

/// What the threads do until the time is over; the session is then as quiet as at its beginning.
fn run(dir: &Scratch, options: Options, cancels: bool, seed: u64) {
    let mode = options.mode;
    let replaces = options.backpressure == Backpressure::Replace;
    let session = Session::new(dir.join("{epoch}.weights.h5").to_str().unwrap(), options).unwrap();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    // An event and its save are one thread's, or another's event could come between them.
    let turn = Mutex::new(());
    let accepted = Mutex::new(Vec::new());
    let failures = AtomicU64::new(0);
    let told = |status: Status| {
        assert!(cancels && status == Status::Cancelled, "{mode:?}: {status:?}");
        failures.fetch_add(1, Relaxed);
    };
    thread::scope(|scope| {
        for t in 0..THREADS {
            let (session, next, stop, turn, accepted, told) =
                (&session, &next, &stop, &turn, &accepted, &told);
            scope.spawn(move || {
                let mut random = Random(seed * 100 + t + 1);
                let mut mine = Mine::new(3000 + random.below(5_000_000) as usize);
                loop {
                    // Before they change, and before they go.
                    if mode == Async::Borrow
                        && let Err(error) = session.wait_buffers()
                    {
                        told(error.status());
                    }
                    if stop.load(Relaxed) {
                        break;
                    }
                    let held = turn.lock();
                    let n = next.fetch_add(1, Relaxed);
                    let byte = (n % 251) as u8;
                    mine.values.fill(byte);
                    epoch(session, n, 1000.0 - random.below(1000) as f64);
                    let result = match session.save(&mine.model) {
                        // An earlier one's: this one is still due.
                        Err(error) if session.should_save() && error.message().contains("still due") => {
                            told(error.status());
                            session.save(&mine.model)
                        }
                        result => result,
                    };
                    match result {
                        Ok(()) => accepted.lock().push(n),
                        Err(error) => told(error.status()),
                    }
                    drop(held);
                    match random.below(8) {
                        0 => drop(session.wait().map_err(|error| told(error.status()))),
                        1 if cancels => session.cancel().unwrap(),
                        2 => drop((session.best_path(), session.last_stats(), session.best())),
                        3 => thread::sleep(Duration::from_micros(random.below(2000))),
                        _ => {}
                    }
                }
            });
        }
        let end = Instant::now() + TIME;
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Relaxed);
    });
    while let Err(error) = session.wait() {
        told(error.status());
    }
    let last = accepted.lock().iter().max().copied().unwrap();
    let mut best: Option<(f64, String)> = None;
    let mut newest = 0;
    let names = dir.names();
    for name in &names {
        assert!(!name.starts_with(".ckpt"), "a temporary file is left: {names:?}");
        let path = dir.join(name);
        let state: Value = serde_json::from_slice(&training_state(&path).unwrap().unwrap()).unwrap();
        let n = state["epoch"].as_u64().unwrap();
        assert_eq!(u64::from(whole(&path)), n % 251, "{name} holds what was saved then");
        newest = newest.max(n);
        let value = state["metrics"]["val_loss"].as_f64().unwrap();
        if best.as_ref().is_none_or(|(least, _)| value < *least) {
            best = Some((value, name.clone()));
        }
    }
    let (value, _) = best.unwrap();
    let path = session.best_path().unwrap();
    let state: Value = serde_json::from_slice(&training_state(path.as_ref()).unwrap().unwrap()).unwrap();
    assert_eq!(state["metrics"]["val_loss"].as_f64(), Some(value), "{mode:?}: the best of those that stand");
    if !cancels {
        assert_eq!(newest, last, "{mode:?}: the last save that was accepted stands");
        let all = accepted.lock().len();
        assert!(replaces || session.should_save() || all as u64 == last + 1);
    }
}

fn stressed(change: impl Fn(&mut Options), cancels: bool) {
    for (i, mode) in [Async::Off, Async::Copy, Async::Borrow].into_iter().enumerate() {
        let dir = Scratch::new("async-stress");
        let mut options = options(mode);
        change(&mut options);
        run(&dir, options, cancels, i as u64 + 1);
    }
}

#[test]
fn all_modes_with_all_that_is_kept() {
    stressed(|options| options.policy.keep_last = 3, false);
}

#[test]
fn the_one_that_waits_gives_way() {
    stressed(
        |options| {
            options.policy.keep_last = 5;
            options.backpressure = Backpressure::Replace;
            options.staging_limit = 3 << 20;
        },
        false,
    );
}

#[test]
fn many_are_cancelled() {
    stressed(|options| options.policy.keep_best = 4, true);
}

#[test]
fn one_path_for_all() {
    let dir = Scratch::new("async-one-path");
    for mode in [Async::Copy, Async::Borrow] {
        let session =
            Arc::new(Session::new(dir.join("m.weights.h5").to_str().unwrap(), options(mode)).unwrap());
        let turn = Mutex::new(0u64);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mut turn = turn.lock();
                        *turn += 1;
                        epoch(&session, *turn, 0.5);
                        session.save(&Valve::new(Tap::Open((*turn % 251) as u8)).model(10_000)).unwrap();
                    }
                });
            }
        });
        session.wait().unwrap();
        assert_eq!(byte(&dir.join("m.weights.h5")), 200, "the last one stands");
    }
}
