//! Where a session's lines go: the caller's function, else the terminal if asked.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::ReentrantMutex;

use crate::policy::Level;

type Sink = dyn Fn(Level, &str) + Send + Sync;

/// A function that receives lines, one at a time; clones share it. Without one, nothing is printed unless `verbose`.
#[derive(Clone, Default)]
pub struct Log {
    /// Reentrant, since the function may call into the session that is logging.
    sink: Option<Arc<ReentrantMutex<Box<Sink>>>>,
    verbose: bool,
}

impl Log {
    /// A log that calls `sink`.
    pub fn new(sink: impl Fn(Level, &str) + Send + Sync + 'static) -> Log {
        Log { sink: Some(Arc::new(ReentrantMutex::new(Box::new(sink)))), verbose: false }
    }

    /// The same log, which prints if it has no function: Keras' lines to standard output, as under its verbose=1,
    /// and warnings to standard error.
    pub fn verbose(mut self, verbose: bool) -> Log {
        self.verbose = verbose;
        self
    }

    /// Hands a line over.
    pub fn line(&self, level: Level, text: &str) {
        match &self.sink {
            Some(sink) => sink.lock()(level, text),
            None if !self.verbose => {}
            // A line that cannot be printed (a closed pipe) is no reason to fail a save.
            None => match level {
                Level::Info => drop(writeln!(io::stdout(), "\n{text}")),
                Level::Error | Level::Warn => drop(writeln!(io::stderr(), "{text}")),
                Level::Debug => {}
            },
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("sink", &self.sink.is_some()).field("verbose", &self.verbose).finish()
    }
}
