//! The two ways of bytes to the disk, and which one a file system takes better: found out at the first large save.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use parking_lot::Mutex;

/// How bytes reach the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// What is faster here, as far as is known: past the page cache where a save is to be durable, unless a trial at
    /// the first large save has shown otherwise.
    #[default]
    Auto,
    /// Through the page cache.
    Buffered,
    /// Past the page cache (O_DIRECT), several writes at once; where that is refused, through it.
    Direct,
}

/// From so many bytes on it matters.
const SMALL: u64 = 8 << 20;

/// From so many bytes on a trial says something.
const TRIAL: u64 = 64 << 20;

/// How much faster the page cache must be to be chosen: the other way leaves processors and memory to the trainer.
const MARGIN: f64 = 1.25;

/// What is known of file systems, by their device numbers.
static KNOWN: LazyLock<Mutex<HashMap<u64, Backend>>> = LazyLock::new(Mutex::default);

/// What a save does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Buffered,
    Direct,
    /// One half each way.
    Trial,
}

/// What a save of `bytes` does on this device.
pub(super) fn choose(wanted: Backend, durable: bool, device: u64, bytes: u64) -> Choice {
    let known = KNOWN.lock().get(&device).copied().unwrap_or_default();
    match (wanted, known) {
        (Backend::Buffered, _) => Choice::Buffered,
        (Backend::Direct, _) => Choice::Direct,
        (Backend::Auto, _) if !durable || bytes < SMALL => Choice::Buffered,
        (Backend::Auto, Backend::Buffered) => Choice::Buffered,
        (Backend::Auto, Backend::Auto) if bytes >= TRIAL => Choice::Trial,
        (Backend::Auto, _) => Choice::Direct,
    }
}

/// A half of a trial: its bytes and how long they took.
pub(super) type Half = (u64, Duration);

/// Takes the result of a trial; says what the log should know.
pub(super) fn learn(device: u64, direct: Half, buffered: Half) -> String {
    let rate = |(bytes, time): Half| bytes as f64 / time.as_secs_f64().max(1e-9);
    let (past, through) = (rate(direct), rate(buffered));
    let backend = if through > past * MARGIN { Backend::Buffered } else { Backend::Direct };
    KNOWN.lock().insert(device, backend);
    let name = if backend == Backend::Direct { "direct" } else { "buffered" };
    format!("durable saves go {name} here: {:.0} MB/s direct, {:.0} MB/s buffered", past / 1e6, through / 1e6)
}

/// Takes a refusal; says what the log should know, where it is new.
pub(super) fn refused(device: u64, cause: &io::Error) -> Option<String> {
    let new = KNOWN.lock().insert(device, Backend::Buffered) != Some(Backend::Buffered);
    new.then(|| format!("saves go through the page cache here: direct writes are refused ({cause})"))
}
