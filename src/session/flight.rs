//! A save on its way: what its caller, its writer and whoever cancels it have in common.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::engine::Watch;
use crate::error::{Error, Status};
use crate::policy::Level;

use super::callbacks::{self, Saving};
use super::shared::Shared;

/// A save on its way.
#[derive(Default)]
pub(super) struct Flight {
    cancelled: AtomicBool,
    released: AtomicBool,
    /// Seconds, as the bits of a double.
    stall: AtomicU64,
    copy: AtomicU64,
    /// For the log, once the save is over: a log function that is called before might wait for the save.
    notes: Mutex<Vec<(Level, String)>>,
}

impl Flight {
    /// The save is to end as soon as it can.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether it is.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// How a save ends that was cancelled before its first byte.
    pub fn cancellation() -> Error {
        Error::new(Status::Cancelled, "cancelled before it was begun")
    }

    /// Seconds that the caller was kept.
    pub fn stall_secs(&self) -> f64 {
        f64::from_bits(self.stall.load(Relaxed))
    }

    /// The caller was kept for so long.
    pub fn set_stall_secs(&self, secs: f64) {
        self.stall.store(secs.to_bits(), Relaxed);
    }

    /// Seconds of copying.
    pub fn copy_secs(&self) -> f64 {
        f64::from_bits(self.copy.load(Relaxed))
    }

    /// The copying took so long.
    pub fn set_copy_secs(&self, secs: f64) {
        self.copy.store(secs.to_bits(), Relaxed);
    }

    /// What the log should know.
    pub fn take_notes(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.notes.lock())
    }
}

/// Follows a save for its session.
pub(super) struct Follow<'a> {
    pub shared: &'a Shared,
    pub flight: &'a Flight,
    /// The number of the save.
    pub counter: u64,
    pub path: &'a str,
}

impl Watch for Follow<'_> {
    fn wrote(&self, done: u64, total: u64) {
        if self.shared.mode.is_on() {
            // It may be a thread that the engine has begun for this save.
            callbacks::enter_background();
        }
        let _saving = Saving::of(self.shared);
        self.shared.meter.at(self.path, done, total);
    }

    fn cancelled(&self) -> bool {
        self.flight.is_cancelled()
    }

    fn released(&self) {
        if !self.flight.released.swap(true, Relaxed) {
            self.shared.release(self.counter);
        }
    }

    fn note(&self, line: &str) {
        self.flight.notes.lock().push((Level::Debug, line.to_owned()));
    }
}
