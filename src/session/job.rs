//! A save, ready to be made: by the call that it is due to, or behind its back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::claim::Taken;
use crate::engine::{Watch, WriteStats};
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::policy::Ticket;

use super::flight::{Flight, Follow};
use super::process;
use super::shared::{Line, Shared};
use super::work::Work;

/// A save, ready to be made.
pub(super) struct Job {
    /// Its number among all saves of the template.
    pub counter: u64,
    pub ticket: Ticket,
    pub flight: Arc<Flight>,
    pub work: Work,
    /// Where the file goes: from whatever directory the process is in by then.
    pub to: PathBuf,
}

impl Shared {
    /// Makes a save and does what it brings about. Returns what became of it, and the lines that the log has not had; a
    /// failure that its call will not tell of is kept for the next one.
    pub fn make(&self, job: Job) -> (Result<()>, Vec<Line>) {
        let Job { counter, ticket, flight, work, to } = job;
        let (path, place) = (ticket.due().path.clone(), ticket.due().place);
        let follow = Follow { shared: self, flight: &flight, counter, path: &path, place };
        let state = self.lock().training_state(counter, &ticket, &flight, self.last_of.as_deref());
        let written = guarded(|| self.write(work, &to, state, &follow));
        follow.released();
        let bytes = written.as_ref().ok().map(|stats| stats.bytes);
        let (result, dropped) = self.settle(counter, ticket, &flight, written);
        // Before the next save may begin: it could be one to the path of a file that goes.
        let mut lines: Vec<Line> = dropped.iter().map(|dropped| self.remove(dropped)).collect();
        lines.extend(flight.take_notes());
        if let Some(bytes) = bytes {
            // A panic of the function's cannot undo the save.
            let _ = guarded(|| {
                self.meter.end(&path, bytes);
                Ok(())
            });
        }
        let mut outcome = result.clone();
        if self.mode.is_on() {
            // Before those who wait for the end of the save hear of it.
            lines.extend(self.keep_failure(counter, &path, &mut outcome));
            let lines = std::mem::take(&mut lines);
            let _ = guarded(|| {
                self.say(lines);
                Ok(())
            });
        }
        lines.extend(self.conclude(counter, &path, outcome));
        (result, lines)
    }

    fn write(&self, work: Work, to: &Path, state: Vec<u8>, follow: &Follow<'_>) -> Result<WriteStats> {
        if follow.cancelled() {
            return Err(Flight::cancellation());
        }
        let end =
            || (follow.cancelled() || self.mode.is_on() && process::is_ending()).then(Flight::cancellation);
        let taken = self.template.hold(self.write.durable, &self.log, &end)?;
        self.meter.begin();
        let mut stats = work.run(
            &*self.storage,
            to,
            state,
            &self.write,
            (Some(&self.arena), Some(&self.spares)),
            follow,
        )?;
        stats.file.made_dirs.extend(taken.map(Taken::keep).unwrap_or_default());
        let mut beside = self.left_beside(&stats.file.path);
        beside.retain(|earlier| !stats.file.companions.contains(earlier));
        // The file stands: where there is no memory for them, they stay beside it.
        if let Ok(companions) = memory::make_mut(&mut stats.file.companions)
            && memory::reserve(companions, beside.len()).is_ok()
        {
            companions.extend(beside);
        }
        Ok(stats)
    }
}

/// A panic is a failure of the save, which is to end as any other.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("a panic without a message");
        Err(Error::new(Status::Internal, format!("a bug in libckpt, please report it: {text}")))
    })
}
