//! The checkpointing session: events in, saves out.

use std::path::Path;
use std::time::Instant;

use parking_lot::Mutex;

use crate::engine::{self, Disk, WriteOptions};
use crate::error::{Error, Result, Status};
use crate::layout::Format;
use crate::policy::{self, Due, Level, Logs, Policy, Record, Retention};
use crate::reader::Reader;

use super::log::Log;
use super::model::Model;
use super::state::TrainingState;
use super::surroundings;

/// What a session is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// When to save, what is best, what to keep.
    pub policy: policy::Options,
    /// Threads in a save or a load; 0 for as many as help.
    pub threads: u32,
    /// Whether a finished save survives a loss of power.
    pub durable: bool,
    /// Where lines go.
    pub log: Log,
}

impl Default for Options {
    fn default() -> Options {
        Options { policy: policy::Options::default(), threads: 0, durable: true, log: Log::default() }
    }
}

/// What a save took.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Bytes of the file.
    pub bytes: u64,
    /// Seconds that the caller was kept.
    pub stall_secs: f64,
    /// Seconds of writing.
    pub write_secs: f64,
    /// Seconds of flushing.
    pub sync_secs: f64,
}

/// A checkpointing session. Any thread may use it.
pub struct Session {
    format: Format,
    write: WriteOptions,
    log: Log,
    core: Mutex<Core>,
}

/// What the session's lock guards. It is never held while bytes move or the log function runs.
struct Core {
    policy: Policy,
    retention: Retention,
    /// Whether a save is being made.
    saving: bool,
    /// Saves of the template so far, those of earlier sessions included.
    saves: u64,
    stats: Option<Stats>,
}

impl Session {
    /// A session for this template; removes what cut-off saves have left beside its files.
    pub fn new(filepath: &str, options: Options) -> Result<Session> {
        let log = options.log.verbose(options.policy.verbose);
        let policy = Policy::new(filepath, options.policy)?;
        let format = Format::of(filepath)?;
        let saves = surroundings::look_around(policy.template(), &log);
        let retention = Retention::new(policy.options(), policy.direction());
        let session = Session {
            format,
            write: WriteOptions { threads: options.threads, durable: options.durable },
            log,
            core: Mutex::new(Core { policy, retention, saving: false, saves, stats: None }),
        };
        session.tell();
        Ok(session)
    }

    /// An epoch begins.
    pub fn on_epoch_begin(&self, epoch: u64) {
        self.core.lock().policy.on_epoch_begin(epoch);
    }

    /// A batch has ended: is a save due?
    pub fn on_train_batch_end(&self, batch: u64, logs: &dyn Logs) -> Result<()> {
        let result = self.core.lock().policy.on_train_batch_end(batch, logs);
        self.tell();
        result
    }

    /// An epoch has ended: is a save due?
    pub fn on_epoch_end(&self, epoch: u64, logs: &dyn Logs) -> Result<()> {
        let result = self.core.lock().policy.on_epoch_end(epoch, logs);
        self.tell();
        result
    }

    /// Whether the last event made a save due that has not been made.
    pub fn should_save(&self) -> bool {
        self.core.lock().policy.due().is_some()
    }

    /// Where the save that is due goes.
    pub fn due_path(&self) -> Option<String> {
        self.core.lock().policy.due().map(|due| due.path.clone())
    }

    /// Makes the save that is due; after an error it is still due.
    pub fn save(&self, model: &Model) -> Result<()> {
        let begin = Instant::now();
        let (ticket, state, counter) = {
            let mut core = self.core.lock();
            if core.saving {
                return Err(Error::new(Status::State, "another thread is in ckpt_save on this session"));
            }
            let ticket = core.policy.accept()?;
            core.saving = true;
            let counter = core.saves + 1;
            let monitor = &core.policy.options().monitor;
            let state = TrainingState::of(counter, monitor, ticket.due(), &core.policy.state()).to_json();
            (ticket, state, counter)
        };
        let Due { path, epoch, value, .. } = ticket.due().clone();
        let written = model.write(Path::new(&path), self.format, state, &self.write);
        let dropped = {
            let mut core = self.core.lock();
            core.saving = false;
            match &written {
                Ok(stats) => {
                    core.saves = counter;
                    core.stats = Some(Stats {
                        bytes: stats.bytes,
                        stall_secs: begin.elapsed().as_secs_f64(),
                        write_secs: stats.write_secs,
                        sync_secs: stats.sync_secs,
                    });
                    core.policy.confirm(ticket);
                    core.retention.saved(Record { path, counter, epoch, value })
                }
                Err(_) => {
                    core.policy.give_back(ticket);
                    Vec::new()
                }
            }
        };
        self.tell();
        for path in &dropped {
            self.drop_file(path);
        }
        written.map(|_| ())
    }

    /// Removes a file that no rule keeps. A failure is logged: the save that brought it about has succeeded.
    fn drop_file(&self, path: &str) {
        match engine::remove(&Disk, Path::new(path)) {
            Ok(()) => self.log.line(Level::Debug, &format!("removed '{path}': no keep_* rule keeps it")),
            Err(e) => self.log.line(Level::Warn, e.message()),
        }
    }

    /// The value to beat.
    pub fn best(&self) -> Result<f64> {
        self.core
            .lock()
            .policy
            .best()
            .ok_or_else(|| Error::new(Status::NotFound, "nothing is best yet: no save under save_best_only"))
    }

    /// The file of the best save that still stands.
    pub fn best_path(&self) -> Result<String> {
        let core = self.core.lock();
        let best = core.retention.best().map(|record| record.path.clone());
        best.ok_or_else(|| {
            let monitor = &core.policy.options().monitor;
            Error::new(Status::NotFound, format!("there is no save with '{monitor}' in its logs yet"))
        })
    }

    /// Loads the file of the best save.
    pub fn load_best(&self, model: &mut Model) -> Result<()> {
        let path = self.best_path()?;
        let reader = Reader::open(Path::new(&path))?;
        model.load(&reader, self.write.threads).map_err(|e| e.context(format_args!("'{path}'")))
    }

    /// Finds out now what would fail at the first save, and computes the layout.
    pub fn prepare(&self, model: &Model) -> Result<()> {
        let bytes = model.prepare(self.format)?;
        let dir = self.core.lock().policy.template().fixed_dir().to_owned();
        engine::probe(&Disk, Path::new(if dir.is_empty() { "." } else { &dir }), bytes)
    }

    /// What the last finished save took.
    pub fn last_stats(&self) -> Result<Stats> {
        self.core.lock().stats.ok_or_else(|| Error::new(Status::NotFound, "no save has been made yet"))
    }

    /// Hands the policy's lines to the log.
    fn tell(&self) {
        let notes = self.core.lock().policy.take_notes();
        for note in notes {
            self.log.line(note.level, &note.text);
        }
    }
}
