//! A call of save: from the save that is due to the thread that makes it.

use std::path::{self, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::engine::{Filler, Loan};
use crate::error::{Error, Result, Status};
use crate::policy::{Level, Ticket};
use crate::sync::MutexGuard;

use super::background;
use super::callbacks::Saving;
use super::data::Data;
use super::flight::{Flight, Follow};
use super::job::{Job, guarded};
use super::model::Model;
use super::options::Backpressure;
use super::shared::{Caller, Core, Line, Open, Shared};
use super::work::Work;

/// What the best value may add to a training state once the save begins, in bytes.
const BEST: usize = 32;

/// Saves in the background that are being made or wait: one each.
const ROOM: usize = 2;

/// A save that has been accepted.
struct Accepted {
    counter: u64,
    ticket: Ticket,
    flight: Arc<Flight>,
    /// The most bytes of its training state.
    state_bytes: usize,
    data: Arc<Data>,
}

impl Shared {
    /// Makes the save that is due, or has it made in the background. After an error it is still due.
    pub fn save(self: &Arc<Shared>, model: &Model) -> Result<()> {
        let begin = Instant::now();
        self.check_may_wait()?;
        let accepted = self.accept()?;
        let saving = Saving::of(&**self);
        let flight = accepted.flight.clone();
        let work = guarded(|| {
            let Accepted { data, state_bytes, .. } = &accepted;
            model.work(data, self.kind.clone(), *state_bytes, self.mode.is_on())
        });
        let (result, lines) = match work {
            Err(error) => (self.give_back(accepted, error), Vec::new()),
            Ok(work) if self.mode.is_on() => self.hand_over(accepted, work),
            Ok(work) => self.make(accepted.with(work, false)),
        };
        let stall = begin.elapsed().as_secs_f64();
        flight.set_stall_secs(stall);
        self.lock().policy.stalled(stall, result.is_ok());
        drop(saving);
        self.say(lines);
        result
    }

    /// Takes the save that is due; refuses it where the caller has to know of an earlier one first.
    fn accept(&self) -> Result<Accepted> {
        let mut core = self.lock();
        if core.closing {
            return Err(Error::new(Status::State, "the process is ending: no save is begun any more"));
        }
        if !self.mode.is_on() && !core.open.is_empty() {
            return Err(Error::new(Status::State, "another thread is in ckpt_save on this session"));
        }
        core.take_failure().map_err(|error| match core.policy.due() {
            Some(due) => error.context(format_args!(
                "the save to '{}' is still due (call again to make it), since an earlier one failed",
                due.path
            )),
            None => error,
        })?;
        let ticket = core.policy.accept()?;
        // A number is never used twice: a save that fails late may have left its file.
        core.saves += 1;
        let counter = core.saves;
        let flight = Arc::new(Flight::begin());
        let state_bytes =
            core.training_state(counter, &ticket, &flight, self.last_of.as_deref()).len() + BEST;
        let caller = if self.mode.is_on() { Caller::Arriving } else { Caller::Waiting };
        let (epoch, value) = (ticket.due().epoch, ticket.due().value);
        let open = Open { flight: flight.clone(), caller, borrowed: true, epoch, value };
        core.open.insert(counter, open);
        let data = core.data.clone();
        Ok(Accepted { counter, ticket, flight, state_bytes, data })
    }

    /// Ends a save that could not be begun.
    fn give_back(&self, accepted: Accepted, error: Error) -> Result<()> {
        let mut core = self.lock();
        core.policy.give_back(accepted.ticket);
        core.open.remove(&accepted.counter);
        drop(core);
        self.tell_change();
        Err(error)
    }

    /// Hands a save to the thread in the background, and copies the buffers where that is the mode.
    fn hand_over(self: &Arc<Shared>, accepted: Accepted, mut work: Work) -> (Result<()>, Vec<Line>) {
        let (counter, flight) = (accepted.counter, accepted.flight.clone());
        let (path, place) = (accepted.ticket.due().path.clone(), accepted.ticket.due().place);
        let copying = if self.mode.copies() { work.stage(&self.arena) } else { Ok(None) };
        let admitted = copying.and_then(|copying| Ok((copying, self.admit(&accepted)?)));
        let (copying, core) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                work.discard();
                return (self.give_back(accepted, error), Vec::new());
            }
        };
        let replaced = self.enqueue(core, accepted.with(work, true), copying.is_some());
        let (result, failed) = copying.map_or((Ok(()), None), |(filler, loan)| {
            let follow = Follow { shared: self, flight: &flight, counter, path: &path, place };
            self.copy(filler, loan, &follow)
        });
        (result, replaced.into_iter().chain(failed).collect())
    }

    /// Waits until there is room for a save, and those that came before it have had theirs.
    fn admit(self: &Arc<Shared>, accepted: &Accepted) -> Result<MutexGuard<'_, Core>> {
        let Accepted { counter, ticket, flight, .. } = accepted;
        let mut core = self.lock();
        background::begin(self, &mut core)?;
        let core = self.wait_while(core, |core| {
            let ahead = core.open.range(..counter).any(|(_, open)| open.is_in_the_way());
            let full = core.queue.len() + usize::from(core.running.is_some()) >= ROOM;
            let waits = ahead || full && !self.may_replace(core, ticket);
            waits && !flight.is_cancelled() && !core.closing
        });
        match flight.is_cancelled() || core.closing {
            true => Err(Flight::cancellation()),
            false => Ok(core),
        }
    }

    /// Whether the save that waits may give way to this one.
    fn may_replace(&self, core: &Core, ticket: &Ticket) -> bool {
        let Some(waiting) = core.queue.back().filter(|_| self.backpressure == Backpressure::Replace) else {
            return false;
        };
        let standing = core.retention.best().and_then(|record| record.value);
        let ahead = core.open.range(..waiting.counter).filter_map(|(_, open)| open.value);
        core.policy.may_give_way(waiting.ticket.due(), ticket.due(), standing.into_iter().chain(ahead))
    }

    /// Puts a save into the queue; in the place of the one that waits, where there is no other.
    fn enqueue(&self, mut core: MutexGuard<'_, Core>, job: Job, copying: bool) -> Option<Line> {
        if let Some(open) = core.open.get_mut(&job.counter) {
            open.caller = if copying { Caller::Copying } else { Caller::Gone };
        }
        let full = core.queue.len() + usize::from(core.running.is_some()) >= ROOM;
        let replaced = if full { core.queue.pop_back() } else { None };
        let path = job.ticket.due().path.clone();
        core.queue.push_back(job);
        let line = replaced.map(|Job { counter, ticket, work, .. }| {
            let text = format!("the save to '{}' gives way to that to '{path}'", ticket.due().path);
            core.policy.give_back(ticket);
            (counter, work, (Level::Info, text))
        });
        drop(core);
        self.tell_change();
        line.map(|(counter, work, line)| {
            // Before those who wait for its buffers hear of it.
            work.discard();
            self.lock().open.remove(&counter);
            self.tell_change();
            line
        })
    }

    /// Copies the buffers of a save that is in the queue or being made.
    fn copy(&self, filler: Filler, loan: Loan, follow: &Follow<'_>) -> (Result<()>, Option<Line>) {
        let begin = Instant::now();
        let filled = guarded(|| filler.fill(loan, self.write.threads, follow));
        follow.flight.set_copy_secs(begin.elapsed().as_secs_f64());
        let mut core = self.lock();
        let line = match core.open.get_mut(&follow.counter) {
            None => None,
            Some(open) => {
                open.borrowed = false;
                let caller = if filled.is_ok() { Caller::Gone } else { Caller::Waiting };
                match std::mem::replace(&mut open.caller, caller) {
                    Caller::Outrun(failure) => {
                        core.open.remove(&follow.counter);
                        // What has stopped the copying is the cause of the other.
                        failure.filter(|_| filled.is_ok()).and_then(|error| core.fail(follow.path, error))
                    }
                    _ if filled.is_err() => {
                        core = self.take_back(core, follow);
                        None
                    }
                    _ => None,
                }
            }
        };
        drop(core);
        self.tell_change();
        (filled, line)
    }

    /// Ends a save whose buffers could not be copied, and waits until it has.
    fn take_back<'a>(&'a self, mut core: MutexGuard<'a, Core>, follow: &Follow<'_>) -> MutexGuard<'a, Core> {
        let at = core.queue.iter().position(|job| job.counter == follow.counter);
        match at.and_then(|at| core.queue.remove(at)) {
            Some(Job { counter, ticket, work, .. }) => {
                core.policy.give_back(ticket);
                core.open.remove(&counter);
                work.discard();
                core
            }
            None => {
                follow.flight.cancel();
                self.wait_while(core, |core| core.open.contains_key(&follow.counter))
            }
        }
    }
}

impl Accepted {
    /// The save with what it needs; its path is what it is now.
    fn with(self, work: Work, in_background: bool) -> Job {
        let Accepted { counter, ticket, flight, .. } = self;
        let path = PathBuf::from(&ticket.due().path);
        let to = if in_background { path::absolute(&path).unwrap_or(path) } else { path };
        Job { counter, ticket, flight, work, to }
    }
}
