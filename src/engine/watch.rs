//! Whoever follows a save: its progress, its cancellation, what the log should know.
#![forbid(unsafe_code)]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::{Error, Status};

use super::commit::Written;

/// Follows a save. All of it may be called from any thread that the save runs on.
pub trait Watch: Send + Sync {
    /// `done` of `total` bytes are written. From several threads at once, so that `done` may come out of order.
    fn wrote(&self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// Whether the save is to end; asked before each block and before the file gets its name.
    fn cancelled(&self) -> bool {
        false
    }

    /// All tensors have been read, or will not be any more: the buffers may change.
    fn released(&self) {}

    /// The file has its name, which is `path` behind links, in place of what had it; whatever becomes of the save now.
    fn placed(&self, path: &Path) {
        let _ = path;
    }

    /// Bytes on this device that [`Watch::give_up`] can free, all in all: asked where the disk is full, before anything is
    /// given up.
    fn dispensable(&self, device: u64) -> u64 {
        let _ = device;
        0
    }

    /// Frees a part of them in favour of the save; how many bytes. `None`: there is nothing left to give up.
    fn give_up(&self, device: u64) -> Option<u64> {
        let _ = device;
        None
    }

    /// The file has its name, as durably as was asked for; what it has replaced is not written anew before this returns.
    fn committed(&self, file: &Written) {
        let _ = file;
    }

    /// Something that the log should know: a fallback, a choice.
    fn note(&self, line: &str) {
        let _ = line;
    }
}

/// Nobody follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}

/// Counts the bytes of a save for who follows it.
pub(super) struct Meter<'a> {
    watch: &'a dyn Watch,
    total: u64,
    done: AtomicU64,
}

impl<'a> Meter<'a> {
    pub fn new(watch: &'a dyn Watch, total: u64) -> Meter<'a> {
        Meter { watch, total, done: AtomicU64::new(0) }
    }

    pub fn watch(&self) -> &'a dyn Watch {
        self.watch
    }

    /// So many more bytes are written.
    pub fn wrote(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Relaxed) + bytes;
        self.watch.wrote(done, self.total);
    }

    /// An error if the save is to end.
    pub fn go_on(&self) -> Result<(), Failure> {
        if self.watch.cancelled() { Err(Failure::Other(cancelled())) } else { Ok(()) }
    }
}

/// The failure of a save that is to end.
pub(super) fn cancelled() -> Error {
    Error::new(Status::Cancelled, "cancelled before the file was in place")
}

/// Why the bytes of a file were not moved.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file took no more.
    Io(io::Error),
    /// Whatever else: a tensor could not be had, no memory, cancelled.
    Other(Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        Failure::Io(e)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Other(e)
    }
}
