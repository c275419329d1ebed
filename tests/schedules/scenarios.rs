//! Who does what at once.

use std::sync::Arc;

use ckpt::session::{Async, Backpressure};
use shuttle::thread;

use crate::explore::{below, explore, one_of};
use crate::trial::{Setup, Tensor, Trial};

/// Two blocks, the least that there can be.
const LITTLE: u64 = 1;

fn quiet() {}

/// Saves one epoch after the other; the caller of borrowed buffers waits for them now and then, or takes others.
fn train(trial: &Trial, epochs: std::ops::Range<u64>, tensors: &[Tensor]) {
    let mut next = 0;
    for epoch in epochs {
        trial.save(epoch, &tensors[next]);
        next += 1;
        if next == tensors.len() || below(2) == 0 {
            if below(4) == 0 { trial.wait() } else { trial.wait_buffers() }
            tensors.iter().for_each(Tensor::spoil);
            next = 0;
        }
    }
}

/// What another thread does with a session.
fn meddle(trial: &Trial, times: u64) {
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
}

fn tensors(count: usize) -> Arc<Vec<Tensor>> {
    Arc::new((0..count).map(|_| Tensor::new()).collect())
}

/// Frees the session while the tensors still are, as they have to be.
fn end(trial: Arc<Trial>, tensors: Arc<Vec<Tensor>>) {
    Arc::into_inner(trial).unwrap().end();
    drop(tensors);
}

fn some_setup() -> Setup {
    Setup {
        backpressure: one_of(&[Backpressure::Block, Backpressure::Replace]),
        staging_limit: one_of(&[0, LITTLE]),
        threads: one_of(&[1, 1, 2]),
        ..Setup::new(one_of(&[Async::Off, Async::Copy, Async::Copy, Async::Borrow, Async::Borrow]))
    }
}

#[test]
fn at_most_one_save_is_made_and_one_waits() {
    explore(1, || {
        let mode = one_of(&[Async::Copy, Async::Borrow]);
        let setup = Setup { staging_limit: one_of(&[0, LITTLE]), ..Setup::new(mode) };
        let (trial, tensors) = (Trial::new(setup, quiet), tensors(4));
        for epoch in 0..4 {
            trial.save(epoch, &tensors[epoch as usize]);
            assert!(trial.account.accepted() <= trial.made().len() as u64 + 2);
        }
        end(Arc::new(trial), tensors);
    });
}

#[test]
fn one_trains_and_others_cancel_and_wait() {
    explore(2, || {
        let (trial, tensors) = (Arc::new(Trial::new(some_setup(), quiet)), tensors(2));
        let others: Vec<_> = (0..1 + below(2))
            .map(|_| {
                let trial = trial.clone();
                thread::spawn(move || meddle(&trial, 2))
            })
            .collect();
        train(&trial, 0..3, &tensors);
        others.into_iter().for_each(|other| other.join().unwrap());
        end(trial, tensors);
    });
}

#[test]
fn two_save_at_once() {
    explore(3, || {
        let setup = Setup { staging_limit: one_of(&[0, LITTLE, LITTLE]), ..some_setup() };
        let trial = Arc::new(Trial::new(setup, quiet));
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
        let setup = Setup { fails: Some(below(60) as usize), ..some_setup() };
        let (trial, tensors) = (Arc::new(Trial::new(setup, quiet)), tensors(2));
        let other = {
            let trial = trial.clone();
            thread::spawn(move || meddle(&trial, below(3)))
        };
        train(&trial, 0..3, &tensors);
        other.join().unwrap();
        end(trial, tensors);
    });
}
