//! What the threads in a session share, and how a save ends.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::engine::{Arena, Spares, Storage, WriteOptions, Written};
use crate::error::{Error, Result, Status};
use crate::policy::{Level, Now, Policy, Retention, Ticket};
use crate::sync::thread::JoinHandle;
use crate::sync::{Condvar, Mutex, MutexGuard};

use super::callbacks::{self, Meter, Saving};
use super::data::Data;
use super::flight::Flight;
use super::job::Job;
use super::keep;
use super::lock::TemplateLock;
use super::log::Log;
use super::model::Kind;
use super::options::{Async, Backpressure, Options, Stats};
use super::process::Home;
use super::signals::Signals;
use super::state::{self, Known, TrainingState};

/// Bytes of staging memory, where none was asked for, of a session that copies nothing: for tensors that are not in host
/// memory.
const FETCHED: u64 = 8 << 20;

/// What the threads in a session share.
pub(super) struct Shared {
    pub kind: Kind,
    pub write: WriteOptions,
    pub storage: Arc<dyn Storage>,
    pub mode: Async,
    pub backpressure: Backpressure,
    pub log: Log,
    pub meter: Meter,
    pub home: Home,
    pub restore_best: bool,
    /// When the session began.
    began: Instant,
    pub signals: Signals,
    /// Staging memory.
    pub arena: Arc<Arena>,
    /// The stable name of the newest save.
    pub save_last: Option<PathBuf>,
    /// The template, from where that is.
    pub last_of: Option<String>,
    /// Files that are not kept, for the next save to write anew.
    pub spares: Spares,
    /// Goes after all else that is in the template's directory.
    pub template: TemplateLock,
    /// The standard library's locks: those of others share a table, which another thread may hold during a fork.
    core: Mutex<Core>,
    /// Told of every change that somebody may wait for.
    changed: Condvar,
}

/// What the session's lock guards. It is never held while bytes move or one of the caller's functions runs.
pub(super) struct Core {
    pub policy: Policy,
    pub retention: Retention,
    /// The files of the records in `retention`, by their save counters.
    pub files: HashMap<u64, Saved>,
    /// The directories that were made for them.
    pub dirs: HashSet<PathBuf>,
    /// Saves of the template so far, those of earlier sessions included.
    pub saves: u64,
    /// The training that the saves belong to.
    pub run: String,
    /// The trainer's own bytes.
    pub data: Arc<Data>,
    /// Of the last save that was made.
    pub stats: Option<(Stats, Arc<Flight>)>,
    /// The saves that have been accepted and have not ended, by their numbers.
    pub open: BTreeMap<u64, Open>,
    /// Those that wait for the thread in the background, the next one first.
    pub queue: VecDeque<Job>,
    /// The one that the thread in the background is making.
    pub running: Option<u64>,
    pub thread: Option<JoinHandle<()>>,
    /// The session takes no more saves.
    pub closing: bool,
    /// The first failure that nobody has been told of.
    failure: Option<Error>,
}

/// A save that has been accepted and has not ended.
pub(super) struct Open {
    pub flight: Arc<Flight>,
    pub caller: Caller,
    /// Whether the caller's buffers are in use.
    pub borrowed: bool,
    /// The epoch, from 0, and the monitored value.
    pub epoch: u64,
    pub value: Option<f64>,
}

impl Open {
    fn is_copying(&self) -> bool {
        matches!(self.caller, Caller::Copying)
    }

    /// Whether a later save has to wait for its call: two that copy at once could hold all staging memory between them,
    /// and wait for each other.
    pub fn is_in_the_way(&self) -> bool {
        matches!(self.caller, Caller::Arriving | Caller::Copying)
    }
}

/// Where the call is that made a save.
#[derive(Debug)]
pub(super) enum Caller {
    /// It waits for room.
    Arriving,
    /// It copies the buffers.
    Copying,
    /// The save has ended while it was copying.
    Outrun(Option<Error>),
    /// It waits for the end of the save, and will tell of a failure by itself.
    Waiting,
    /// It has returned.
    Gone,
}

/// A checkpoint that this session wrote.
pub(super) struct Saved {
    /// The path as the template made it.
    pub shown: String,
    pub file: Written,
    /// Somebody has moved it elsewhere and left a link: it is not ours to remove.
    pub is_linked: bool,
}

/// A line for the log, to be handed over without a lock.
pub(super) type Line = (Level, String);

impl Shared {
    /// A session that has made no save, of a template of which there have been `saves`.
    pub fn new(
        options: Options,
        kind: Kind,
        policy: Policy,
        log: Log,
        template: TemplateLock,
        saves: u64,
        signals: Signals,
    ) -> Shared {
        let Options {
            restore_best,
            threads,
            durable,
            backend,
            mode,
            backpressure,
            staging_limit,
            allocator,
            recycle,
            storage,
            progress,
            ..
        } = options;
        let staging = if mode.copies() || staging_limit > 0 { staging_limit } else { FETCHED };
        let arena = Arena::new(staging, allocator);
        let meter = Meter::new(progress, log.gate().clone(), mode.is_on());
        let save_last = policy.options().save_last.clone().map(PathBuf::from);
        let last_of = save_last.as_deref().map(|last| keep::template_from(last, policy.template()));
        let retention = Retention::new(policy.options(), policy.direction());
        let core = Core {
            policy,
            retention,
            files: HashMap::new(),
            dirs: HashSet::new(),
            saves,
            run: state::new_run(),
            data: Arc::default(),
            stats: None,
            open: BTreeMap::new(),
            queue: VecDeque::new(),
            running: None,
            thread: None,
            closing: false,
            failure: None,
        };
        Shared {
            kind,
            write: WriteOptions { threads, durable, backend },
            mode,
            backpressure,
            log,
            meter,
            home: Home::default(),
            restore_best,
            began: Instant::now(),
            signals,
            arena,
            save_last,
            last_of,
            spares: Spares::new(storage.clone(), recycle),
            storage,
            template,
            core: Mutex::new(core),
            changed: Condvar::new(),
        }
    }

    /// The lock. A panic elsewhere was caught and reported there.
    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks around before an event, where that can make a save due.
    pub fn look(&self, core: &mut Core) {
        if core.policy.is_paced() {
            let secs = self.began.elapsed().as_secs_f64();
            let saving = !core.open.is_empty();
            core.policy.look(Now { secs, saving, signals: self.signals.count() });
        }
    }

    /// Waits for as long as `condition` holds.
    pub fn wait_while<'a>(
        &self,
        core: MutexGuard<'a, Core>,
        condition: impl FnMut(&mut Core) -> bool,
    ) -> MutexGuard<'a, Core> {
        self.changed.wait_while(core, condition).unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait.
    pub fn tell_change(&self) {
        self.changed.notify_all();
    }

    /// Refuses what waits for a save, from within a function of the caller's which that save may have to wait for.
    pub fn check_may_wait(&self) -> Result<()> {
        let waited_for = self.mode.is_on() || self.meter.is_heard();
        let in_call = waited_for && self.log.gate().is_inside();
        if !in_call && !callbacks::in_background() && !Saving::is_of(self) {
            return Ok(());
        }
        let message = "called from a log, progress or fetch function: a save may have to wait for that to return, so \
                       nothing in it can wait for a save";
        Err(Error::new(Status::State, message))
    }

    /// Hands lines to the log: those of the policy, then these.
    pub fn say(&self, lines: impl IntoIterator<Item = Line>) {
        let notes = self.lock().policy.take_notes();
        let notes = notes.into_iter().map(|note| (note.level, note.text));
        notes.chain(lines).for_each(|(level, line)| self.log.line(level, &line));
    }

    /// Waits until the buffers of all saves so far may change.
    pub fn wait_for_buffers(&self) {
        let core = self.lock();
        let last = core.saves;
        drop(self.wait_while(core, |core| core.open.range(..=last).any(|(_, open)| open.borrowed)));
    }

    /// The buffers of a save may change.
    pub fn release(&self, counter: u64) {
        // The writer of copies cannot know: whoever copies says so himself.
        if let Some(open) = self.lock().open.get_mut(&counter).filter(|open| !open.is_copying()) {
            open.borrowed = false;
        }
        self.tell_change();
    }

    /// Keeps the failure of a save whose call has returned, which is then out of `outcome`; gives a line as
    /// [`Core::fail`] does.
    pub fn keep_failure(&self, counter: u64, path: &str, outcome: &mut Result<()>) -> Option<Line> {
        let mut core = self.lock();
        let gone = core.open.get(&counter).is_some_and(|open| matches!(open.caller, Caller::Gone));
        let error = gone.then(|| std::mem::replace(outcome, Ok(())).err()).flatten();
        error.and_then(|error| core.fail(path, error))
    }

    /// A save has ended, and what it brought about has been done.
    pub fn conclude(&self, counter: u64, path: &str, result: Result<()>) -> Option<Line> {
        let mut core = self.lock();
        core.running = core.running.filter(|running| *running != counter);
        let mut line = None;
        if let Some(open) = core.open.get_mut(&counter) {
            match open.caller {
                Caller::Copying => open.caller = Caller::Outrun(result.err()),
                Caller::Gone => {
                    core.open.remove(&counter);
                    line = result.err().and_then(|error| core.fail(path, error));
                }
                Caller::Arriving | Caller::Outrun(_) | Caller::Waiting => drop(core.open.remove(&counter)),
            }
        }
        drop(core);
        self.tell_change();
        line
    }
}

impl Core {
    /// What a save's checkpoint says of the training.
    pub fn training_state(
        &self,
        counter: u64,
        ticket: &Ticket,
        flight: &Flight,
        last_of: Option<&str>,
    ) -> Vec<u8> {
        let known = Known {
            run: &self.run,
            saved_at: flight.began(),
            monitor: &self.policy.options().monitor,
            due: ticket.due(),
            state: &self.policy.state_of(ticket),
            last_of,
        };
        TrainingState::of(counter, known).to_json()
    }

    /// The failure that nobody has been told of, if there is one.
    pub fn take_failure(&mut self) -> Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Keeps a failure until somebody asks; gives the line for the log where an earlier one is kept already.
    pub fn fail(&mut self, path: &str, error: Error) -> Option<Line> {
        let error = error.context(format_args!("the save to '{path}' failed"));
        match &self.failure {
            Some(_) => Some((Level::Error, error.message().to_owned())),
            None => {
                self.failure = Some(error);
                None
            }
        }
    }
}
