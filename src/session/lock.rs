//! One process at a time under a template: two that save to the same paths would each undo what the other does.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::engine::claim::Taken;
use crate::engine::{Claim, Holder, Refusal, Storage};
use crate::error::{Error, Result, Status};
use crate::policy::{Level, Template};

use super::log::Log;
use super::options::Lock;
use super::process;

/// How long to wait before the lock is asked for again.
const PERIOD: Duration = Duration::from_millis(50);

/// A session's hold on its template.
pub(super) struct TemplateLock {
    kind: Lock,
    template: String,
    claim: Claim,
    /// Whether the log has had the line that the session goes on without.
    told: AtomicBool,
}

impl TemplateLock {
    /// None yet.
    pub fn new(storage: Arc<dyn Storage>, kind: Lock, template: &Template) -> TemplateLock {
        let claim = Claim::new(storage, Path::new(template.fixed_dir()), template.below_fixed_dir());
        TemplateLock { kind, template: template.source().to_owned(), claim, told: AtomicBool::new(false) }
    }

    /// Takes the lock, where the template's directory is there.
    pub fn begin(&self, log: &Log) -> Result<()> {
        self.take(None, log, &|| None).map(drop)
    }

    /// Takes the lock before something is written, unless the session has it: in a directory that is made for it,
    /// durably or not, and goes again with the result where that is not kept. Whoever waits for it gives up with an
    /// error of `end`.
    pub fn hold(
        &self,
        durable: bool,
        log: &Log,
        end: &dyn Fn() -> Option<Error>,
    ) -> Result<Option<Taken<'_>>> {
        self.take(Some(durable), log, end)
    }

    fn take(
        &self,
        make: Option<bool>,
        log: &Log,
        end: &dyn Fn() -> Option<Error>,
    ) -> Result<Option<Taken<'_>>> {
        if self.kind == Lock::Off {
            return Ok(None);
        }
        process::listen_for_locks();
        let mut waits = false;
        loop {
            let (by, file) = match self.claim.take(make) {
                Ok(taken) => return Ok(Some(taken)),
                Err(Refusal::Failed(e)) => {
                    // Without a directory there is nothing to lock yet.
                    let early = make.is_none() && e.os() == libc::ENOENT;
                    if !early && !self.told.swap(true, Relaxed) {
                        let without = "whether another process uses the same file path is not looked at";
                        log.line(Level::Warn, &format!("{}; {without}", e.message()));
                    }
                    return Ok(None);
                }
                Err(Refusal::Held { by, file }) => (by, file),
            };
            if self.kind == Lock::Fail {
                return Err(self.refusal(&by, &file));
            }
            if !waits {
                waits = true;
                let line =
                    format!("'{}' is in use: waits until {by} ends it ('{}')", self.template, file.display());
                log.line(Level::Warn, &line);
            }
            while !self.claim.seems_free() {
                if let Some(e) = end() {
                    return Err(e);
                }
                thread::sleep(PERIOD);
            }
        }
    }

    fn refusal(&self, by: &Holder, file: &Path) -> Error {
        let message = format!(
            "another process uses the file path '{}': {by} holds '{}'; let it end first, give each its own file path, \
             or see ckpt_options_set_lock()",
            self.template,
            file.display()
        );
        Error::new(Status::State, message)
    }
}
