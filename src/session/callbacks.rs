//! The caller's functions: one at a time, and only while the process that they belong to is whole.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::parking_lot::{Mutex, ReentrantMutex};
use crate::sync::thread_local;

use super::process;

/// The least time between two calls of the progress function.
const PERIOD: Duration = Duration::from_millis(100);

/// How long a thread in the background waits for another's call before it asks whether the process is ending.
const PATIENCE: Duration = Duration::from_millis(100);

thread_local! {
    static BACKGROUND: Cell<bool> = const { Cell::new(false) };
    /// The session whose save this thread is making or copying, by its address.
    static SAVING: Cell<usize> = const { Cell::new(0) };
}

/// Says that this thread makes or copies a save, for as long as it lives.
pub(super) struct Saving(usize);

impl Saving {
    /// A save of the session at this address.
    pub fn of<T>(session: &T) -> Saving {
        Saving(SAVING.with(|saving| saving.replace(address(session))))
    }

    /// Whether this thread makes or copies a save of the session at this address.
    pub fn is_of<T>(session: &T) -> bool {
        SAVING.with(Cell::get) == address(session)
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        SAVING.with(|saving| saving.set(self.0));
    }
}

fn address<T>(session: &T) -> usize {
    std::ptr::from_ref(session).addr()
}

/// Says that this thread is one of ours.
pub(super) fn enter_background() {
    BACKGROUND.with(|background| background.set(true));
}

/// Whether this thread is one of ours.
pub(super) fn in_background() -> bool {
    BACKGROUND.with(Cell::get)
}

/// Lets one call through at a time; clones are the same gate. Reentrant, since a function may call into the session that
/// calls it.
#[derive(Clone)]
pub(super) struct Gate {
    turn: Arc<ReentrantMutex<()>>,
    generation: u64,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { turn: Arc::default(), generation: process::generation() }
    }
}

impl Gate {
    /// The same gate, in the process that made it; in a child another one, since who is in that may not exist here.
    pub fn here(&self) -> Gate {
        if self.generation == process::generation() { self.clone() } else { Gate::default() }
    }

    /// Makes the call; one in the background only until the process begins to end: what the function needs may be gone
    /// then, and the thread that is in a call may never come back.
    pub fn pass(&self, background: bool, call: impl FnOnce()) {
        if !background {
            let _turn = self.turn.lock();
            return call();
        }
        while !process::is_ending() {
            if let Some(_turn) = self.turn.try_lock_for(PATIENCE) {
                return call();
            }
        }
    }

    /// Whether this thread is in such a call.
    pub fn is_inside(&self) -> bool {
        self.turn.is_owned_by_current_thread()
    }
}

type Call = dyn Fn(&str, u64, u64) + Send + Sync;

/// A function that hears how far a save has come: path, bytes done, bytes in all. Clones share it.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<Call>>);

impl Progress {
    /// One that calls `call`.
    pub fn new(call: impl Fn(&str, u64, u64) + Send + Sync + 'static) -> Progress {
        Progress(Some(Arc::new(call)))
    }

    /// Whether there is a function.
    pub(super) fn is_heard(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.is_heard()).finish()
    }
}

/// Tells of the progress of a session's saves, not too often.
pub(super) struct Meter {
    progress: Progress,
    gate: Gate,
    /// Whether saves are made in the background.
    background: bool,
    /// When the function was called last, and how far the save had come.
    last: Mutex<(Option<Instant>, u64)>,
}

impl Meter {
    /// No save so far.
    pub fn new(progress: Progress, gate: Gate, background: bool) -> Meter {
        Meter { progress, gate, background, last: Mutex::default() }
    }

    /// A save begins.
    pub fn begin(&self) {
        self.last.lock().1 = 0;
    }

    /// Whether anybody hears it.
    pub fn is_heard(&self) -> bool {
        self.progress.is_heard()
    }

    /// The save has come so far; from several threads at once.
    pub fn at(&self, path: &str, done: u64, total: u64) {
        if self.is_heard() && done < total && self.is_time(done) {
            self.call(path, done, total);
        }
    }

    /// The save has been made.
    pub fn end(&self, path: &str, total: u64) {
        self.call(path, total, total);
    }

    fn is_time(&self, done: u64) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock();
        let is_time = done > last.1 && last.0.is_none_or(|at| now.saturating_duration_since(at) >= PERIOD);
        if is_time {
            *last = (Some(now), done);
        }
        is_time
    }

    fn call(&self, path: &str, done: u64, total: u64) {
        if let Some(call) = &self.progress.0 {
            self.gate.pass(self.background, || call(path, done, total));
        }
    }
}
