//! The way back into a training: the newest whole checkpoint, and what it says of the session that wrote it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::engine::storage::FileId;
use crate::engine::{Storage, Written};
use crate::error::{Error, Result, Status};
use crate::layout::{Format, opened_for};
use crate::memory;
use crate::policy::{Level, Record};
use crate::reader::{self, Reader};

use super::data::Data;
use super::model::Model;
use super::shared::{Line, Saved, Shared};
use super::state::Training;
use super::surroundings::{Found, checkpoints};

/// Where a training goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Resumed {
    /// The epoch to be run next, from 0.
    pub epoch: u64,
    /// The batch to be run next in it, from 0.
    pub batch: u64,
    /// The value to beat.
    pub best: Option<f64>,
    /// The checkpoint, as the template has it, or under the stable name of the newest.
    pub path: String,
}

impl Shared {
    /// Loads the newest whole checkpoint of the template, and goes on from where it was saved. The lines are for the log.
    pub fn resume(&self, model: &mut Model) -> (Result<Resumed>, Vec<Line>) {
        let mut lines = Vec::new();
        (self.resume_from(model, &mut lines), lines)
    }

    fn resume_from(&self, model: &mut Model, lines: &mut Vec<Line>) -> Result<Resumed> {
        let (template, save_last) = {
            let core = self.lock();
            (core.policy.template().clone(), core.policy.options().save_last.clone())
        };
        let mut found = checkpoints(&template, save_last.as_deref())?;
        self.leave_out_last(&mut found, lines);
        // Newest by the counter. Of files without one (Keras' own) there is only the time to tell; one that cannot be read
        // may be the newest. The stable name comes after the name that the template gave the same file.
        found.sort_by(|a, b| {
            let key = |f: &Found| (f.training.is_err(), f.save(), !f.is_last, f.modified);
            key(b).cmp(&key(a)).then_with(|| b.path.cmp(&a.path))
        });
        let mut skipped = None;
        for (at, file) in found.iter().enumerate() {
            match load(file, model, self.write.threads) {
                Ok(data) => return self.take_over(file, data, found.get(at..).unwrap_or_default(), lines),
                Err(error) if is_damage(&error) => {
                    let text = format!("resume passes over '{}', which is not whole: {error}", file.path);
                    lines.push((Level::Warn, text));
                    skipped = skipped.or(Some(error));
                }
                Err(error) => return Err(error.context(format_args!("cannot resume from '{}'", file.path))),
            }
        }
        let source = template.source();
        Err(match skipped {
            Some(error) => error.context(format_args!(
                "no checkpoint of '{source}' is whole: remove them to begin anew; the newest"
            )),
            None => {
                Error::new(Status::NotFound, format!("there is no checkpoint of '{source}' to resume from"))
            }
        })
    }

    /// Leaves out what has the stable name, but is the newest of another training: several may share the name.
    fn leave_out_last(&self, found: &mut Vec<Found>, lines: &mut Vec<Line>) {
        let last = found.iter().find(|file| file.is_last);
        let Some((last, training)) = last.and_then(|last| Some((last, last.known()?))) else { return };
        let of_run =
            |file: &Found| !file.is_last && file.known().is_some_and(|other| other.run == training.run);
        if training.run.is_none() || training.last_of == self.last_of || found.iter().any(of_run) {
            return;
        }
        let text = format!("resume passes over '{}', which is the newest of another training", last.path);
        lines.push((Level::Warn, text));
        found.retain(|file| !file.is_last);
    }

    /// Goes on as the session that wrote `file`; `standing` are the files of the template that are not newer.
    fn take_over(
        &self,
        file: &Found,
        data: Data,
        standing: &[Found],
        lines: &mut Vec<Line>,
    ) -> Result<Resumed> {
        let training = match &file.training {
            Ok(Some(training)) => training.clone(),
            // Keras' own: the values are all that there is.
            _ => Training::default(),
        };
        let monitor = self.lock().policy.options().monitor.clone();
        let adopted = self.standing_of(&training, standing, &monitor, lines)?;
        let mut core = self.lock();
        if training.event.is_some() {
            self.look(&mut core);
            core.policy.restore(&training.state(&monitor));
        }
        if let Some(other) = training.monitor.as_ref().filter(|other| **other != monitor) {
            let text = format!(
                "'{}' knows what was best by '{other}', not by '{monitor}': the best is found anew",
                file.path
            );
            lines.push((Level::Warn, text));
        }
        if let Some(run) = training.run.clone() {
            core.run = run;
        }
        core.saves = core.saves.max(standing.iter().map(Found::save).max().unwrap_or(0));
        core.data = Arc::new(data);
        let dropped = core.adopt(adopted);
        let (epoch, batch) = training.next();
        let best = core.policy.best();
        drop(core);
        // What the session that was cut off had no time to remove.
        lines.extend(dropped.iter().map(|saved| self.remove(saved)));
        let text =
            format!("resumed from '{}': the next is batch {batch} of epoch {epoch}, from 0", file.path);
        lines.push((Level::Debug, text));
        Ok(Resumed { epoch, batch, best, path: file.path.clone() })
    }

    /// The checkpoints of a training that stand, with the newest first among `found`; the best of them is whole.
    fn standing_of(
        &self,
        training: &Training,
        found: &[Found],
        monitor: &str,
        lines: &mut Vec<Line>,
    ) -> Result<Vec<(Record, Saved)>> {
        let Some(run) = &training.run else { return Ok(Vec::new()) };
        let of_run = |file: &Found| match &file.training {
            Ok(Some(other)) if other.run.as_ref() == Some(run) && other.save > 0 && !file.is_last => {
                Some(other.clone())
            }
            _ => None,
        };
        let template = self.lock().policy.template().clone();
        let fixed = template.fixed_dir();
        let top = fs::canonicalize(if fixed.is_empty() { "." } else { fixed }).ok();
        let mut standing: HashMap<u64, (Record, Saved)> = HashMap::new();
        for (file, other) in found.iter().filter_map(|file| Some((file, of_run(file)?))) {
            let mut written = match written(&*self.storage, Path::new(&file.path)) {
                // Somebody has removed it meanwhile, or it has lost its companions.
                Err(e) if e.os() == libc::ENOENT || e.status() == Status::Format => continue,
                written => written?,
            };
            let record = Record {
                path: written.path.to_string_lossy().into_owned(),
                counter: other.save,
                epoch: other.event.map_or(0, |(epoch, _)| epoch),
                value: other.value(monitor),
                saved_at: other.saved_at,
            };
            let below = file.path.get(fixed.len()..).unwrap_or_default();
            let is_linked = top.as_ref().is_some_and(|top| top.join(below) != written.path);
            if let Some(top) = top.as_ref().filter(|_| !is_linked) {
                // The directories that the template has made.
                let dirs = written.path.ancestors().skip(1).take_while(|dir| dir != top);
                written.made_dirs = dirs.map(Path::to_owned).collect();
            }
            // The same file under another name is one: that which is no link. Of copies it is the oldest, which the others
            // were made of, but for the one that was loaded.
            let former = standing.get(&other.save).map(|(_, former)| former.is_linked);
            if former.is_none_or(|former| {
                former && !is_linked || former == is_linked && other.save != training.save
            }) {
                let saved = Saved { shown: file.path.clone(), file: written, is_linked };
                standing.insert(other.save, (record, saved));
            }
        }
        // Nothing may go on the strength of a best that cannot be loaded.
        loop {
            let records = standing.values().map(|(record, _)| record);
            let Some(best) = self.lock().retention.best_of(records).map(|record| record.counter) else {
                break;
            };
            let Some((record, saved)) = standing.get(&best) else { break };
            if best == training.save {
                break;
            }
            match Reader::open(Path::new(&record.path)).and_then(|reader| reader.verify()) {
                Ok(()) => break,
                Err(error) => {
                    let text = format!("'{}' was the best, and is not whole: {error}", saved.shown);
                    lines.push((Level::Warn, text));
                    standing.remove(&best);
                }
            }
        }
        let mut standing: Vec<_> = standing.into_values().collect();
        standing.sort_unstable_by_key(|(record, _)| record.counter);
        Ok(standing)
    }
}

/// Loads a checkpoint; gives the trainer's own bytes in it.
fn load(file: &Found, model: &mut Model, threads: u32) -> Result<Data> {
    file.training.clone()?;
    let reader = Reader::open(Path::new(&file.path))?;
    let data = Data::of(reader.data()?)?;
    model.load(&reader, threads)?;
    Ok(data)
}

/// Whether it is the file that is to blame, so that an older one may do.
fn is_damage(error: &Error) -> bool {
    match error.status() {
        Status::Format | Status::NotFound => true,
        Status::Io => error.os() == libc::EIO,
        _ => false,
    }
}

/// What a save has put in place at `path`, so far as can be seen.
fn written(storage: &dyn Storage, path: &Path) -> Result<Written> {
    let failed = |e| Error::io("look at", path, &e);
    let real = fs::canonicalize(path).map_err(failed)?;
    let id = |path: &Path| storage.info(path).map(|info| info.id);
    let mut file = Written { id: id(&real).map_err(failed)?, path: real, ..Written::default() };
    if Format::of(&path.to_string_lossy())? == Format::Shards {
        let own = file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let names = reader::companions(&file.path)?.into_iter().chain([opened_for(&own)]);
        let beside = names.map(|name| file.path.with_file_name(name));
        let beside = beside.filter_map(|path| id(&path).ok().map(|id: FileId| (path, id)));
        file.companions = Arc::new(memory::collect(beside)?);
    }
    Ok(file)
}
