//! What a session is made with, and what it says of a save.

use std::fmt;
use std::sync::Arc;

use crate::engine::{Allocator, Backend, Disk, Recycle, Storage};
use crate::layout;
use crate::policy;

use super::callbacks::Progress;
use super::log::Log;

/// How a save runs beside the training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Async {
    /// Not at all: it is made before the call returns.
    #[default]
    Off,
    /// The buffers are copied, and may change when the call returns.
    Copy,
    /// The buffers are written from where they are, and may change when the save says so.
    Borrow,
    /// As a copy that is made only of what changes. A session takes it as [`Async::Copy`], and says so.
    Snapshot,
}

impl Async {
    /// Whether saves are made in the background.
    pub(super) fn is_on(self) -> bool {
        self != Async::Off
    }

    /// Whether the buffers are copied.
    pub(super) fn copies(self) -> bool {
        matches!(self, Async::Copy | Async::Snapshot)
    }
}

/// What becomes of a save while one is being made and another one waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backpressure {
    /// It waits for room.
    #[default]
    Block,
    /// It takes the place of the one that waits.
    Replace,
}

/// What becomes of a session whose template another process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lock {
    /// It is refused.
    #[default]
    Fail,
    /// It waits for the end of the other.
    Wait,
    /// It does not ask.
    Off,
}

/// What a session is made with.
#[derive(Clone)]
pub struct Options {
    /// When to save, what is best, what to keep.
    pub policy: policy::Options,
    /// Whether the end of the training loads the best checkpoint.
    pub restore_best: bool,
    /// How saves run beside the training.
    pub mode: Async,
    /// What becomes of a save for which there is no room.
    pub backpressure: Backpressure,
    /// Threads in a save or a load; 0 for as many as help.
    pub threads: u32,
    /// Whether a finished save survives a loss of power.
    pub durable: bool,
    /// How bytes reach the disk.
    pub backend: Backend,
    /// The most bytes of staging memory; 0: what one checkpoint needs.
    pub staging_limit: u64,
    /// Where staging memory comes from; `None`: from the system.
    pub allocator: Option<Arc<dyn Allocator>>,
    /// The most bytes of tensors in one file, where a checkpoint is made of several.
    pub max_shard_bytes: u64,
    /// Whether files that are not kept are written anew.
    pub recycle: Recycle,
    /// The file system; the real one, but for tests.
    pub storage: Arc<dyn Storage>,
    /// What becomes of the session where another process uses its template.
    pub lock: Lock,
    /// Where lines go.
    pub log: Log,
    /// Who hears of the progress of saves.
    pub progress: Progress,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            policy: policy::Options::default(),
            restore_best: false,
            mode: Async::Off,
            backpressure: Backpressure::Block,
            threads: 0,
            durable: true,
            backend: Backend::Auto,
            staging_limit: 0,
            allocator: None,
            max_shard_bytes: layout::MAX_SHARD_BYTES,
            recycle: Recycle::default(),
            storage: Arc::new(Disk),
            lock: Lock::default(),
            log: Log::default(),
            progress: Progress::default(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("policy", &self.policy)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// What a save took.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Bytes of the file.
    pub bytes: u64,
    /// Seconds that the caller was kept.
    pub stall_secs: f64,
    /// Seconds of copying buffers.
    pub copy_secs: f64,
    /// Seconds of writing.
    pub write_secs: f64,
    /// Seconds of flushing.
    pub sync_secs: f64,
}
