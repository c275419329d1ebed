//! Who does what at once.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use ckpt::error::Status;
use ckpt::session::{Async, Backpressure, Session};
use ckpt::sync::lose_notification;
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread::{self, JoinHandle};

use crate::explore::{below, explore, one_of};
use crate::trial::{Setup, Tensor, Trial};

/// Two blocks, the least that there can be.
const LITTLE: u64 = 1;

type Tensors = Arc<Vec<Tensor>>;

fn tensors(count: usize) -> Tensors {
    Arc::new((0..count).map(|_| Tensor::new()).collect())
}

fn sources(count: usize) -> Tensors {
    Arc::new((0..count).map(|_| Tensor::source()).collect())
}

fn some_setup() -> Setup {
    Setup {
        backpressure: one_of(&[Backpressure::Block, Backpressure::Replace]),
        staging_limit: one_of(&[0, LITTLE]),
        threads: one_of(&[1, 1, 2]),
        ..Setup::new(one_of(&[Async::Off, Async::Copy, Async::Copy, Async::Borrow, Async::Borrow]))
    }
}

fn trial(setup: Setup) -> Arc<Trial> {
    Arc::new(Trial::new(setup, |_| ()))
}

/// Saves one epoch after the other; waits for the buffers now and then, or takes others.
fn train(trial: &Trial, epochs: Range<u64>, tensors: &[Tensor]) {
    let mut next = 0;
    for epoch in epochs {
        trial.save(epoch, below(4) as f64, &tensors[next]);
        next += 1;
        if next == tensors.len() || below(2) == 0 {
            if below(4) == 0 {
                trial.wait()
            } else {
                trial.wait_buffers()
            }
            tensors.iter().for_each(Tensor::spoil);
            next = 0;
        }
    }
}

/// What another thread does with a session.
fn meddle(trial: &Arc<Trial>, times: u64) -> JoinHandle<()> {
    let trial = trial.clone();
    thread::spawn(move || {
        for _ in 0..times {
            match below(5) {
                0 | 1 => trial.session.cancel().unwrap(),
                2 => trial.wait(),
                3 => trial.wait_buffers(),
                _ => {
                    trial.session.should_save();
                    let _ = trial.session.last_stats();
                }
            }
        }
    })
}

/// Frees the session while the tensors still are there, as they have to be.
fn end(trial: Arc<Trial>, tensors: Tensors) {
    Arc::into_inner(trial).unwrap().end();
    drop(tensors);
}

#[test]
fn at_most_one_save_is_made_and_one_waits() {
    explore(1, || {
        let setup = Setup::new(one_of(&[Async::Copy, Async::Borrow]));
        let (trial, tensors) = (trial(Setup { staging_limit: one_of(&[0, LITTLE]), ..setup }), tensors(4));
        for (epoch, tensor) in (0..).zip(tensors.iter()) {
            trial.save(epoch, 1.0, tensor);
            assert!(trial.account.open() <= 2);
        }
        end(trial, tensors);
    });
}

fn one_trains_while_others_meddle(setup: Setup) {
    let (trial, tensors) = (trial(setup), tensors(2));
    let others: Vec<_> = (0..1 + below(2)).map(|_| meddle(&trial, 2)).collect();
    train(&trial, 0..3, &tensors);
    others.into_iter().for_each(|other| other.join().unwrap());
    end(trial, tensors);
}

#[test]
fn one_trains_and_others_cancel_and_wait() {
    explore(2, || one_trains_while_others_meddle(some_setup()));
}

/// The explorer sees what it is for.
#[test]
#[should_panic(expected = "deadlock")]
fn a_wakeup_that_is_lost_is_found() {
    explore(2, || {
        lose_notification(below(20));
        one_trains_while_others_meddle(Setup::new(Async::Borrow));
    });
}

#[test]
fn two_save_at_once() {
    explore(3, || {
        let trial =
            trial(Setup { staging_limit: one_of(&[0, LITTLE, LITTLE]), alone: false, ..some_setup() });
        let (mine, others) = (tensors(2), tensors(2));
        let other = {
            let (trial, tensors) = (trial.clone(), others.clone());
            thread::spawn(move || train(&trial, 10..12, &tensors))
        };
        train(&trial, 0..2, &mine);
        if below(3) == 0 {
            trial.session.cancel().unwrap();
        }
        other.join().unwrap();
        end(trial, mine);
        drop(others);
    });
}

#[test]
fn a_failure_is_told_once() {
    explore(4, || {
        let (trial, tensors) = (trial(Setup { fails: Some(below(60) as usize), ..some_setup() }), tensors(2));
        let other = meddle(&trial, below(3));
        train(&trial, 0..3, &tensors);
        other.join().unwrap();
        end(trial, tensors);
    });
}

#[test]
fn the_best_is_that_of_a_save_that_was_made() {
    explore(5, || {
        let fails = one_of(&[None, Some(below(60) as usize)]);
        let trial = trial(Setup { best_only: true, fails, ..some_setup() });
        let (losses, tensors) = ([3.0, one_of(&[2.0, 4.0]), 1.0], tensors(3));
        let other = meddle(&trial, below(3));
        for ((epoch, loss), tensor) in (0..).zip(losses).zip(tensors.iter()) {
            trial.save(epoch, loss, tensor);
        }
        other.join().unwrap();
        trial.wait();
        let path = |epoch: usize| format!("/d/{}.weights.h5", epoch + 1);
        let made = trial.account.made();
        let least =
            (0..3).filter(|epoch| made.contains(&path(*epoch))).map(|epoch| losses[epoch]).reduce(f64::min);
        assert_eq!(trial.session.best().ok(), least);
        assert_eq!(trial.session.best_path().ok(), (0..3).map(path).rfind(|path| made.contains(path)));
        end(trial, tensors);
    });
}

#[test]
fn what_is_not_kept_goes_and_is_written_anew() {
    explore(6, || {
        let (trial, tensors) = (trial(Setup { keep_last: 1, ..some_setup() }), tensors(2));
        let other = meddle(&trial, below(3));
        train(&trial, 0..4, &tensors);
        other.join().unwrap();
        trial.wait();
        let (mem, last) = (trial.mem.clone(), trial.account.made().pop());
        end(trial, tensors);
        // The newest and the best.
        let files = mem.files();
        assert!(files.len() <= 2 && last.is_none_or(|last| files.contains_key(&last)));
    });
}

#[test]
fn a_tensor_is_fetched_until_its_save_gives_it_back() {
    explore(7, || {
        let (trial, tensors) = (trial(some_setup()), sources(2));
        let other = meddle(&trial, below(3));
        train(&trial, 0..2, &tensors);
        other.join().unwrap();
        end(trial, tensors);
    });
}

#[test]
fn buffers_come_back_before_the_save_has_ended() {
    explore(9, || {
        let back: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let (came, trainer) = (back.clone(), thread::current().id());
        let hear = move |line: &str| {
            if line.contains("finished saving") && thread::current().id() != trainer {
                drop(came.1.wait_while(came.0.lock().unwrap(), |came| !*came));
            }
        };
        let (trial, tensors) = (Arc::new(Trial::new(Setup::new(Async::Borrow), hear)), tensors(1));
        trial.save(0, 1.0, &tensors[0]);
        trial.wait_buffers();
        *back.0.lock().unwrap() = true;
        back.1.notify_all();
        end(trial, tensors);
    });
}

#[test]
fn a_call_that_waits_for_room_ends_when_it_is_cancelled() {
    explore(10, || {
        let (trial, tensors) = (trial(Setup::new(Async::Borrow)), sources(3));
        tensors[0].hold(true);
        let returned = Arc::new(AtomicBool::new(false));
        let other = {
            let (trial, returned) = (trial.clone(), returned.clone());
            thread::spawn(move || {
                while !returned.load(Relaxed) {
                    trial.session.cancel().unwrap();
                    thread::yield_now();
                }
            })
        };
        (0..).zip(tensors.iter()).for_each(|(epoch, tensor)| trial.save(epoch, 1.0, tensor));
        returned.store(true, Relaxed);
        other.join().unwrap();
        tensors[0].hold(false);
        end(trial, tensors);
    });
}

#[test]
fn buffers_that_another_thread_copies_are_waited_for() {
    explore(11, || {
        let setup =
            Setup { staging_limit: LITTLE, fails: Some(below(40) as usize), ..Setup::new(Async::Copy) };
        let (trial, tensors) = (trial(setup), sources(1));
        let other = {
            let (trial, tensors) = (trial.clone(), tensors.clone());
            thread::spawn(move || {
                if tensors[0].was_asked() {
                    trial.wait_buffers();
                    tensors[0].spoil();
                }
            })
        };
        trial.save(0, 1.0, &tensors[0]);
        other.join().unwrap();
        end(trial, tensors);
    });
}

#[test]
fn the_log_function_may_call_into_the_session() {
    explore(8, || {
        let session: Arc<Mutex<Weak<Session>>> = Arc::default();
        let to = session.clone();
        let hear = move |_: &str| {
            let session = to.lock().unwrap();
            let Some(session) = session.upgrade() else { return };
            match below(3) {
                0 => session.cancel().unwrap(),
                1 => drop(session.should_save()),
                _ => {
                    let refused = session.wait().unwrap_err();
                    assert_eq!(refused.status(), Status::State);
                }
            }
        };
        let trial =
            Arc::new(Trial::new(Setup { mode: one_of(&[Async::Copy, Async::Borrow]), ..some_setup() }, hear));
        *session.lock().unwrap() = Arc::downgrade(&trial.session);
        let tensors = tensors(2);
        let other = meddle(&trial, below(3));
        train(&trial, 0..2, &tensors);
        other.join().unwrap();
        *session.lock().unwrap() = Weak::new();
        end(trial, tensors);
    });
}
