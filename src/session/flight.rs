//! A save on its way: what its caller, its writer and whoever cancels it have in common.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::{Watch, Written};
use crate::error::{Error, Status};
use crate::policy::{Level, Place};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use crate::sync::parking_lot::Mutex;

use super::callbacks::{self, Saving};
use super::shared::Shared;

/// A save on its way.
pub(super) struct Flight {
    /// Seconds since 1970.
    began: f64,
    cancelled: AtomicBool,
    released: AtomicBool,
    /// Seconds, as the bits of a double.
    stall: AtomicU64,
    copy: AtomicU64,
    /// Where the save has put its file.
    placed: Mutex<Option<PathBuf>>,
    /// For the log, once the save is over: a log function that is called before might wait for the save.
    notes: Mutex<Vec<(Level, String)>>,
}

impl Flight {
    /// A save that begins now.
    pub fn begin() -> Flight {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
        Flight {
            began: now,
            cancelled: AtomicBool::default(),
            released: AtomicBool::default(),
            stall: AtomicU64::default(),
            copy: AtomicU64::default(),
            placed: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    /// When the save was begun, in seconds since 1970.
    pub fn began(&self) -> f64 {
        self.began
    }

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

    /// Where the save has put its file, if it has come to that.
    pub fn placed(&self) -> Option<PathBuf> {
        self.placed.lock().clone()
    }

    /// Something that the log should know.
    pub fn tell(&self, level: Level, line: String) {
        self.notes.lock().push((level, line));
    }

    /// All of that.
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
    /// What it is among the checkpoints.
    pub place: Place,
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

    fn placed(&self, path: &Path) {
        *self.flight.placed.lock() = Some(path.to_owned());
    }

    fn note(&self, line: &str) {
        self.flight.tell(Level::Debug, line.to_owned());
    }

    fn dispensable(&self, device: u64) -> u64 {
        self.shared.dispensable(self, device).iter().map(|(_, bytes)| bytes).sum()
    }

    fn give_up(&self, device: u64) -> Option<u64> {
        self.shared.give_up(self, device)
    }

    fn committed(&self, file: &Written) {
        self.shared.put_last(self, file);
    }
}
