//! The checkpointing session: events in, saves out.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::engine::storage::FileId;
use crate::engine::{self, Disk, Recycle, Spares, WriteOptions, WriteStats, Written};
use crate::error::{Error, Result, Status};
use crate::layout::{self, Format};
use crate::policy::{self, Due, Level, Logs, Policy, Record, Retention};
use crate::reader::Reader;

use super::log::Log;
use super::model::{Kind, Model};
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
    /// The most bytes of tensors in one file, where a checkpoint is made of several.
    pub max_shard_bytes: u64,
    /// Whether files that are not kept are written anew.
    pub recycle: Recycle,
    /// Where lines go.
    pub log: Log,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            policy: policy::Options::default(),
            threads: 0,
            durable: true,
            max_shard_bytes: layout::MAX_SHARD_BYTES,
            recycle: Recycle::default(),
            log: Log::default(),
        }
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
    kind: Kind,
    write: WriteOptions,
    log: Log,
    spares: Spares,
    core: Mutex<Core>,
    /// Told when `Core::saving` ends.
    saved: Condvar,
}

/// What the session's lock guards. It is never held while bytes move or the log function runs.
struct Core {
    policy: Policy,
    retention: Retention,
    /// The files of the records in `retention`, by their save counters.
    files: HashMap<u64, Saved>,
    /// The directories that were made for them.
    dirs: HashSet<PathBuf>,
    /// Whether a save is being made, or what it made superfluous is being removed.
    saving: bool,
    /// Saves of the template so far, those of earlier sessions included.
    saves: u64,
    stats: Option<Stats>,
}

/// A checkpoint that this session wrote.
struct Saved {
    /// The path as the template made it.
    shown: String,
    file: Written,
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
            kind: Kind { format, max_shard_bytes: options.max_shard_bytes },
            write: WriteOptions {
                threads: options.threads,
                durable: options.durable,
                ..WriteOptions::default()
            },
            log,
            spares: Spares::new(Arc::new(Disk), options.recycle),
            core: Mutex::new(Core {
                policy,
                retention,
                files: HashMap::new(),
                dirs: HashSet::new(),
                saving: false,
                saves,
                stats: None,
            }),
            saved: Condvar::new(),
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
            // A number is never used twice: a save that fails late may have left its file.
            core.saves += 1;
            let monitor = &core.policy.options().monitor;
            let state = TrainingState::of(core.saves, monitor, ticket.due(), &core.policy.state()).to_json();
            core.saving = true;
            (ticket, state, core.saves)
        };
        let saving = Saving(self);
        let Due { path, epoch, value, .. } = ticket.due().clone();
        let mut written = model.write(Path::new(&path), self.kind, state, &self.write, Some(&self.spares));
        if let Ok(WriteStats { file, .. }) = &mut written {
            let mut beside = self.left_beside(&file.path);
            beside.retain(|earlier| !file.companions.contains(earlier));
            file.companions.extend(beside);
        }
        let (result, dropped) = {
            let mut core = self.core.lock();
            match written {
                Ok(stats) => {
                    core.stats = Some(Stats {
                        bytes: stats.bytes,
                        stall_secs: begin.elapsed().as_secs_f64(),
                        write_secs: stats.write_secs,
                        sync_secs: stats.sync_secs,
                    });
                    core.policy.confirm(ticket);
                    let file = stats.file.path.to_string_lossy().into_owned();
                    core.dirs.extend(stats.file.made_dirs.iter().cloned());
                    core.files.insert(counter, Saved { shown: path, file: stats.file });
                    (Ok(()), core.keep(Record { path: file, counter, epoch, value }))
                }
                Err(error) => {
                    core.policy.give_back(ticket);
                    (Err(error), Vec::new())
                }
            }
        };
        // Before the next save may begin: it could be one to the path of a file that goes.
        let removed: Vec<(Level, String)> = dropped.iter().map(|saved| self.remove(saved)).collect();
        if let (Ok(()), Some(stats)) = (&result, &mut self.core.lock().stats) {
            stats.stall_secs = begin.elapsed().as_secs_f64();
        }
        drop(saving);
        self.tell();
        removed.iter().for_each(|(level, line)| self.log.line(*level, line));
        result
    }

    /// What earlier saves to this path have put beside the file, and the last one has left there.
    fn left_beside(&self, path: &Path) -> Vec<(PathBuf, FileId)> {
        let mut beside = Vec::new();
        for earlier in self.core.lock().files.values().filter(|earlier| earlier.file.path == path) {
            beside.extend_from_slice(&earlier.file.companions);
        }
        beside.retain(|(path, id)| engine::stands(&Disk, path, *id).unwrap_or(false));
        beside
    }

    /// Removes a checkpoint that no rule keeps, with the directories that were made for it where nothing is left in them;
    /// says what became of it: the save that brought it about has succeeded.
    fn remove(&self, saved: &Saved) -> (Level, String) {
        let path = &saved.shown;
        match self.spares.retire(&saved.file) {
            Ok(true) => {}
            Ok(false) => {
                return (Level::Warn, format!("'{path}' is no longer the file of this session: left alone"));
            }
            Err(e) => return (Level::Warn, e.message().to_owned()),
        }
        for dir in saved.file.path.ancestors().skip(1) {
            let ours = self.core.lock().dirs.contains(dir);
            if !ours || !engine::remove_dir(&Disk, dir) {
                break;
            }
            self.core.lock().dirs.remove(dir);
        }
        (Level::Debug, format!("removed '{path}': no keep_* rule keeps it"))
    }

    /// Waits for a save that another thread is making.
    pub fn wait(&self) {
        let mut core = self.core.lock();
        self.saved.wait_while(&mut core, |core| core.saving);
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
        core.best_file().map(|best| best.shown.clone())
    }

    /// Loads the file of the best save.
    pub fn load_best(&self, model: &mut Model) -> Result<()> {
        let path = self.core.lock().best_file()?.file.path.clone();
        let reader = Reader::open(&path)?;
        model.load(&reader, self.write.threads).map_err(|e| e.context(format_args!("'{}'", path.display())))
    }

    /// Finds out now what would fail at the first save, and computes the layout.
    pub fn prepare(&self, model: &Model) -> Result<()> {
        let bytes = model.prepare(self.kind)?;
        let (dir, file) = {
            let core = self.core.lock();
            let template = core.policy.template();
            (template.fixed_dir().to_owned(), template.constant())
        };
        if let Some(file) = file {
            engine::check(&Disk, Path::new(&file))?;
        }
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

/// Ends a save, whatever became of it.
struct Saving<'a>(&'a Session);

impl Drop for Saving<'_> {
    fn drop(&mut self) {
        self.0.core.lock().saving = false;
        self.0.saved.notify_all();
    }
}

impl Core {
    /// Takes a durable save over; gives the files that no rule keeps any more.
    fn keep(&mut self, record: Record) -> Vec<Saved> {
        let dropped = self.retention.saved(record);
        let dropped = dropped.iter().filter_map(|record| self.files.remove(&record.counter)).collect();
        // Files that were saved over have no record any more.
        let standing: HashSet<u64> = self.retention.records().iter().map(|r| r.counter).collect();
        self.files.retain(|counter, _| standing.contains(counter));
        dropped
    }

    fn best_file(&self) -> Result<&Saved> {
        self.retention.best().and_then(|record| self.files.get(&record.counter)).ok_or_else(|| {
            let monitor = &self.policy.options().monitor;
            Error::new(Status::NotFound, format!("no save stands that had '{monitor}' in its logs"))
        })
    }
}
