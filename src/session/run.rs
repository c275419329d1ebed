//! The checkpointing session: events in, saves out.

use std::path::Path;
use std::sync::Arc;

use crate::engine::{self, claim::Taken};
use crate::error::{Error, Result, Status};
use crate::layout::Format;
use crate::policy::{Level, Logs, Policy};
use crate::reader::Reader;

use super::data::Data;
use super::keep;
use super::lock::TemplateLock;
use super::model::{Kind, Model};
use super::options::{Async, Options, Stats};
use super::resume::Resumed;
use super::shared::Shared;
use super::signals::Signals;
use super::surroundings;

/// A checkpointing session. Any thread may use it; dropped, it waits for the saves that are being made.
///
/// In a process that was forked from the one that the session has a thread in, all of it is refused.
pub struct Session {
    shared: Arc<Shared>,
}

impl Session {
    /// A session for this template, which no other process uses, as far as [`Options::lock`] asks; removes what cut-off
    /// saves have left beside its files.
    pub fn new(filepath: &str, mut options: Options) -> Result<Session> {
        let log = options.log.here().verbose(options.policy.verbose);
        let mut policy = Policy::new(filepath, options.policy.clone())?;
        if let Some(last) = &options.policy.save_last {
            options.policy.save_last = Some(keep::resolve_last(last, policy.template())?);
            policy = Policy::new(filepath, options.policy.clone())?;
        }
        let kind = Kind::new(Format::of(filepath)?, options.max_shard_bytes);
        let save_last = options.policy.save_last.as_deref();
        let storage = &options.storage;
        let template = TemplateLock::new(storage.clone(), options.lock, policy.template());
        // Before anybody looks at what is there.
        template.begin(&log)?;
        let saves = surroundings::look_around(&**storage, policy.template(), save_last, &log)?;
        if options.mode == Async::Snapshot {
            let line =
                "CKPT_ASYNC_SNAPSHOT falls back to COPY: this version makes no copy-on-write snapshots";
            log.line(Level::Warn, line);
        }
        let signals = Signals::listen(&options.policy.signals)?;
        let shared = Shared::new(options, kind, policy, log, template, saves, signals);
        let session = Session { shared: Arc::new(shared) };
        session.shared.say([]);
        Ok(session)
    }

    /// The session, in the process that it belongs to.
    fn here(&self) -> Result<&Arc<Shared>> {
        self.shared.home.check()?;
        Ok(&self.shared)
    }

    /// An epoch begins.
    pub fn on_epoch_begin(&self, epoch: u64) -> Result<()> {
        let shared = self.here()?;
        let mut core = shared.lock();
        shared.look(&mut core);
        core.policy.on_epoch_begin(epoch);
        Ok(())
    }

    /// A batch has ended: is a save due?
    pub fn on_train_batch_end(&self, batch: u64, logs: &dyn Logs) -> Result<()> {
        let shared = self.here()?;
        let mut core = shared.lock();
        shared.look(&mut core);
        let result = core.policy.on_train_batch_end(batch, logs);
        drop(core);
        shared.say([]);
        result
    }

    /// An epoch has ended: is a save due?
    pub fn on_epoch_end(&self, epoch: u64, logs: &dyn Logs) -> Result<()> {
        let shared = self.here()?;
        let mut core = shared.lock();
        shared.look(&mut core);
        let result = core.policy.on_epoch_end(epoch, logs);
        drop(core);
        shared.say([]);
        result
    }

    /// The training has ended: waits for all saves, tells of a failure, and loads the best checkpoint where that is asked
    /// for.
    pub fn on_train_end(&self, model: Option<&mut Model>) -> Result<()> {
        let shared = self.here()?;
        let model = match (shared.restore_best, model) {
            (false, _) => None,
            (true, Some(model)) => Some(model),
            (true, None) => {
                let message = "model is NULL: with restore_best it is to get the best weights";
                return Err(Error::new(Status::InvalidArgument, message));
            }
        };
        self.wait()?;
        shared.lock().policy.on_train_end();
        match model.map(|model| self.load_best(model)) {
            Some(Err(error)) if error.status() == Status::NotFound && self.best_path().is_err() => {
                let line = format!("restore_best: {}: the weights stay as they are", error.message());
                shared.say([(Level::Warn, line)]);
                Ok(())
            }
            Some(result) => result,
            None => Ok(()),
        }
    }

    /// Whether one of the session's signals has come.
    pub fn is_preempted(&self) -> bool {
        // In a signal handler: nothing is allocated.
        !self.shared.home.is_elsewhere() && self.shared.signals.count() > 0
    }

    /// Whether the last event made a save due that has not been made.
    pub fn should_save(&self) -> bool {
        self.here().is_ok_and(|shared| shared.lock().policy.due().is_some())
    }

    /// Where the save that is due goes.
    pub fn due_path(&self) -> Option<String> {
        self.here().ok()?.lock().policy.due().map(|due| due.path.clone())
    }

    /// Makes the save that is due, or has it made in the background; after an error it is still due. Tells of an earlier
    /// save's failure instead, if nobody has been told of it.
    pub fn save(&self, model: &Model) -> Result<()> {
        self.here()?.save(model)
    }

    /// Waits until the buffers of all saves so far may change, then tells of a failure.
    pub fn wait_buffers(&self) -> Result<()> {
        let shared = self.here()?;
        shared.check_may_wait()?;
        shared.wait_for_buffers();
        shared.lock().take_failure()
    }

    /// Waits until all saves so far have ended, then tells of a failure.
    pub fn wait(&self) -> Result<()> {
        let shared = self.here()?;
        shared.check_may_wait()?;
        let core = shared.lock();
        let last = core.saves;
        let mut core = shared.wait_while(core, |core| core.open.range(..=last).next().is_some());
        core.take_failure()
    }

    /// Ends the saves that are being made or wait, as soon as can be.
    pub fn cancel(&self) -> Result<()> {
        self.here()?.cancel();
        Ok(())
    }

    /// Loads the newest whole checkpoint that the template could have written, and goes on from where it was saved; waits
    /// for the saves that are being made first. What the trainer had set of its own is that of the checkpoint then.
    ///
    /// After an error other than `NotFound` and `Mismatch` the model may hold anything; nothing else has changed.
    pub fn resume(&self, model: &mut Model) -> Result<Resumed> {
        self.wait()?;
        let (resumed, lines) = self.here()?.resume(model);
        self.shared.say(lines);
        resumed
    }

    /// Sets bytes of the trainer's own, which every save from now on has.
    pub fn set_state(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let shared = self.here()?;
        let entry = Data::entry(key, bytes)?;
        Arc::make_mut(&mut shared.lock().data).set(entry);
        Ok(())
    }

    /// The bytes of the trainer's own: as they were set, or as the checkpoint had them that was resumed.
    pub fn state(&self, key: &str) -> Result<Arc<Vec<u8>>> {
        let data = self.here()?.lock().data.clone();
        data.get(key).ok_or_else(|| {
            let keys: Vec<String> = data.keys().map(|key| format!("'{key}'")).collect();
            let keys = if keys.is_empty() { "there is none".to_owned() } else { keys.join(", ") };
            Error::new(Status::NotFound, format!("no state is called '{key}': {keys}"))
        })
    }

    /// The value to beat.
    pub fn best(&self) -> Result<f64> {
        let best = self.here()?.lock().policy.best();
        best.ok_or_else(|| Error::new(Status::NotFound, "nothing is best yet: no save under save_best_only"))
    }

    /// The file of the best save that still stands.
    pub fn best_path(&self) -> Result<String> {
        let core = self.here()?.lock();
        core.best_file().map(|(_, best)| best.shown.clone())
    }

    /// Loads the file of the best save.
    pub fn load_best(&self, model: &mut Model) -> Result<()> {
        let shared = self.here()?;
        if shared.mode == Async::Borrow {
            shared.check_may_wait()?;
            shared.wait_for_buffers();
        }
        loop {
            let (number, path) = {
                let core = shared.lock();
                let (number, best) = core.best_file()?;
                (number, best.file.path.clone())
            };
            let loaded = Reader::open(&path).and_then(|reader| {
                let loaded = model.load(&reader, shared.write.threads);
                loaded.map_err(|e| e.context(format_args!("'{}'", path.display())))
            });
            // A save in the background may have taken its place, and its file may have gone.
            let is_best = shared.lock().best_file().is_ok_and(|(best, _)| best == number);
            if loaded.is_ok() || is_best {
                return loaded;
            }
        }
    }

    /// Finds out now what would fail at the first save, computes the layout, and makes staging memory where saves copy.
    pub fn prepare(&self, model: &Model) -> Result<()> {
        let shared = self.here()?;
        let (kind, dir, file) = {
            let core = shared.lock();
            let kind = shared.kind.with(&core.data)?;
            let template = core.policy.template();
            (kind, template.fixed_dir().to_owned(), template.constant())
        };
        let bytes = model.prepare(kind)?;
        if let Some(file) = &file {
            engine::check(&*shared.storage, Path::new(file))?;
        }
        if let Some(last) = &shared.save_last {
            engine::check(&*shared.storage, last)?;
        }
        let taken = shared.template.hold(shared.write.durable, &shared.log, &|| None)?;
        engine::probe(
            &*shared.storage,
            Path::new(if dir.is_empty() { "." } else { &dir }),
            bytes,
            &|device| (shared.spares.bytes_on(device), shared.dispensable_next(file.as_deref(), device)),
        )?;
        taken.map(Taken::keep);
        if shared.mode.copies() { shared.arena.prefault(bytes) } else { Ok(()) }
    }

    /// What the last save took that has been made.
    pub fn last_stats(&self) -> Result<Stats> {
        let core = self.here()?.lock();
        let (stats, flight) =
            core.stats.as_ref().ok_or_else(|| Error::new(Status::NotFound, "no save has been made yet"))?;
        Ok(Stats { stall_secs: flight.stall_secs(), copy_secs: flight.copy_secs(), ..*stats })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        match self.shared.home.is_elsewhere() {
            false => self.shared.close(),
            // Its files and its locks are its own process'.
            true => std::mem::forget(self.shared.clone()),
        }
    }
}
