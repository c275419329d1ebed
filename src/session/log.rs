//! Where a session's lines go: the caller's function, else the terminal if asked.

use std::ffi::CString;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use crate::policy::Level;

use super::callbacks::{self, Gate};

type Sink = dyn Fn(Level, &str) + Send + Sync;

/// A function that receives lines, one at a time; clones share it. Without one, nothing is printed unless `verbose`.
#[derive(Clone, Default)]
pub struct Log {
    sink: Option<Arc<Sink>>,
    /// Through which the sink is called, and whatever else must not be at the same time.
    gate: Gate,
    verbose: bool,
}

impl Log {
    /// A log that calls `sink`.
    pub fn new(sink: impl Fn(Level, &str) + Send + Sync + 'static) -> Log {
        Log { sink: Some(Arc::new(sink)), ..Log::default() }
    }

    /// The same log, which prints if it has no function: Keras' lines to standard output, as under its verbose=1,
    /// and warnings to standard error.
    pub fn verbose(mut self, verbose: bool) -> Log {
        self.verbose = verbose;
        self
    }

    /// The same log, for a session of this process.
    pub(super) fn here(&self) -> Log {
        Log { gate: self.gate.here(), ..self.clone() }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Hands a line over.
    pub fn line(&self, level: Level, text: &str) {
        match &self.sink {
            Some(sink) => self.gate.pass(callbacks::in_background(), || sink(level, text)),
            None if !self.verbose => {}
            // A line that cannot be printed (a closed pipe) is no reason to fail a save.
            None => match level {
                Level::Info => print(format!("\n{text}")),
                Level::Error | Level::Warn => drop(writeln!(io::stderr(), "{text}")),
                Level::Debug => {}
            },
        }
    }
}

/// Prints a line through C's own buffer, so that it stands where it belongs among the lines of the host program.
#[cfg(target_os = "linux")]
fn print(line: String) {
    unsafe extern "C" {
        static stdout: *mut libc::FILE;
    }
    let line = CString::new(line).unwrap_or_default();
    // SAFETY: the line is a string; `stdout` is the stream that every C library has under this name on Linux, which
    // locks itself.
    unsafe {
        libc::puts(line.as_ptr());
        libc::fflush(stdout);
    }
}

/// Prints a line.
#[cfg(not(target_os = "linux"))]
fn print(line: String) {
    drop(writeln!(io::stdout(), "{line}"));
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("sink", &self.sink.is_some()).field("verbose", &self.verbose).finish()
    }
}
