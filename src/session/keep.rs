//! What becomes of checkpoints: which stay and which go, and the stable name of the newest.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{self, Component, Path, PathBuf};
use std::sync::Arc;

use crate::engine::storage::FileId;
use crate::engine::{self, WriteStats, Written};
use crate::error::{Error, Result, Status};
use crate::layout::Format;
use crate::memory;
use crate::policy::{Level, Place, Record, Retention, Template, Ticket};

use super::flight::{Flight, Follow};
use super::options::Stats;
use super::shared::{Core, Line, Saved, Shared};

/// A checkpoint that no rule keeps.
pub(super) struct Dropped {
    saved: Saved,
    /// What it was, and which rules do not keep it.
    why: String,
}

impl Shared {
    /// A save has been made, or has failed: takes it over or gives it back; returns what no rule keeps any more.
    pub fn settle(
        &self,
        counter: u64,
        ticket: Ticket,
        flight: &Arc<Flight>,
        written: Result<WriteStats>,
    ) -> (Result<()>, Vec<Dropped>) {
        let stats = match written {
            Ok(stats) => stats,
            Err(error) => {
                let mut core = self.lock();
                core.policy.give_back(ticket);
                if let Some(path) = flight.placed() {
                    core.forget(&path);
                }
                return (Err(error), Vec::new());
            }
        };
        let mut core = self.lock();
        let took = Stats {
            bytes: stats.bytes,
            stall_secs: 0.0,
            copy_secs: 0.0,
            write_secs: stats.write_secs,
            sync_secs: stats.sync_secs,
        };
        core.stats = Some((took, flight.clone()));
        let due = ticket.due();
        let place = due.place;
        let record = Record {
            path: stats.file.path.to_string_lossy().into_owned(),
            counter,
            epoch: due.epoch,
            value: due.value,
            saved_at: flight.began(),
        };
        let saved = Saved { shown: due.path.clone(), file: stats.file, is_linked: false };
        core.policy.confirm(ticket);
        if place != Place::Own {
            return (Ok(()), Vec::new());
        }
        core.dirs.extend(saved.file.made_dirs.iter().cloned());
        core.files.insert(counter, saved);
        (Ok(()), core.keep(record))
    }

    /// What earlier saves to this path have put beside the file, and the last one has left there.
    pub fn left_beside(&self, path: &Path) -> Vec<(PathBuf, FileId)> {
        let mut beside = Vec::new();
        for earlier in self.lock().files.values().filter(|earlier| earlier.file.path == path) {
            // Where there is no memory for them, they stay.
            let more = earlier.file.companions.iter().cloned();
            beside.extend(memory::collect(more).unwrap_or_default());
        }
        beside.retain(|(path, id)| engine::stands(&*self.storage, path, *id).unwrap_or(false));
        beside
    }

    /// Removes a checkpoint that no rule keeps, with the directories that were made for it where nothing is left in them;
    /// says what became of it: the save that brought it about has succeeded.
    pub fn remove(&self, dropped: &Dropped) -> Line {
        self.end(dropped, self.spares.retire(&dropped.saved.file), "")
    }

    /// A checkpoint has been removed, or not: does the rest.
    fn end(&self, Dropped { saved, why }: &Dropped, removed: Result<bool>, when: &str) -> Line {
        let path = &saved.shown;
        match removed {
            Ok(true) => {}
            Ok(false) => {
                return (Level::Warn, format!("'{path}' is no longer the file of this session: left alone"));
            }
            Err(e) => return (Level::Warn, e.message().to_owned()),
        }
        for dir in saved.file.path.ancestors().skip(1) {
            let ours = self.lock().dirs.contains(dir);
            if !ours || !engine::remove_dir(&*self.storage, dir) {
                break;
            }
            self.lock().dirs.remove(dir);
        }
        (Level::Debug, format!("removed '{path}' {why}{when}"))
    }

    /// The checkpoints on this device that go anyway once a save is durable, the first to go first, and the bytes that
    /// each frees. None where the newest or the best of those that are to stay does not stand.
    pub fn dispensable(&self, follow: &Follow<'_>, device: u64) -> Vec<(u64, u64)> {
        if follow.place != Place::Own {
            return Vec::new();
        }
        let Some((epoch, value)) = self.lock().open.get(&follow.counter).map(|open| (open.epoch, open.value))
        else {
            return Vec::new();
        };
        let (path, saved_at) = (follow.path.to_owned(), follow.flight.began());
        self.dispensable_for(Record { path, counter: follow.counter, epoch, value, saved_at }, device)
    }

    /// As [`Shared::dispensable`], in bytes, for the next save, whichever that is; `path` where it is known.
    pub fn dispensable_next(&self, path: Option<&str>, device: u64) -> u64 {
        let counter = self.lock().saves.saturating_add(1);
        let path = path.unwrap_or_default().to_owned();
        let new = Record { path, counter, epoch: 0, value: None, saved_at: 0.0 };
        self.dispensable_for(new, device).iter().map(|(_, bytes)| bytes).sum()
    }

    /// Those that go once there is this one, whose path is as the template makes it.
    fn dispensable_for(&self, mut new: Record, device: u64) -> Vec<(u64, u64)> {
        let file =
            |core: &Core, record: &Record| core.files.get(&record.counter).map(|saved| saved.file.clone());
        let is_linked = |core: &Core, record: &Record| {
            core.files.get(&record.counter).is_some_and(|saved| saved.is_linked)
        };
        let (needed, going) = {
            let core = self.lock();
            if let Some(same) = core.files.values().find(|saved| saved.shown == new.path) {
                new.path = same.file.path.to_string_lossy().into_owned();
            }
            let needed = [core.retention.newest(), core.retention.best()].into_iter().flatten();
            let needed: Vec<Option<Written>> = needed.map(|record| file(&core, record)).collect();
            let going = core.retention.would_drop(&new);
            let going = going.iter().filter(|record| !is_linked(&core, record));
            let going = going.filter_map(|record| Some((record.counter, file(&core, record)?)));
            (needed, going.collect::<Vec<_>>())
        };
        let storage = &*self.storage;
        let stands = |file: &Written| engine::stands(storage, &file.path, file.id).unwrap_or(false);
        if !needed.iter().all(|file| file.as_ref().is_some_and(stands)) {
            return Vec::new();
        }
        let here = going.into_iter().filter(|(_, file)| file.id.inode.0 == device);
        let freed = here.map(|(counter, file)| (counter, engine::frees(storage, &file)));
        freed.filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// Removes the first of those; the bytes that it has freed.
    pub fn give_up(&self, follow: &Follow<'_>, device: u64) -> Option<u64> {
        let (counter, bytes) = self.dispensable(follow, device).first().copied()?;
        let dropped = self.lock().drop_file(counter)?;
        let removed = engine::remove(&*self.storage, &dropped.saved.file);
        let gone = matches!(removed, Ok(true));
        let when = format!("; before the save to '{}', for which there was no room", follow.path);
        let (level, line) = self.end(&dropped, removed, &when);
        follow.flight.tell(level, line);
        Some(if gone { bytes } else { 0 })
    }

    /// Gives the stable name to a checkpoint that has just been put in place. Failing that is no failure of the save.
    pub fn put_last(&self, follow: &Follow<'_>, file: &Written) {
        let Some(last) = self.save_last.as_deref().filter(|_| follow.place == Place::Own) else { return };
        let put = engine::alias(&*self.storage, file, last, self.write.durable);
        // On the disk an earlier checkpoint may have the name still.
        self.spares.distrust(put.is_err());
        if let Err(error) = put {
            let last = last.display();
            let line = format!("save_last '{last}' is not yet '{}', which is saved: {error}", follow.path);
            follow.flight.tell(Level::Warn, line);
        }
    }
}

impl Core {
    /// Takes a durable save over; gives what no rule keeps any more.
    fn keep(&mut self, record: Record) -> Vec<Dropped> {
        let dropped = self.retention.saved(record);
        self.drop_files(&dropped)
    }

    /// Takes over the checkpoints of a training that stand, and knows of no others; gives what no rule keeps.
    pub fn adopt(&mut self, found: Vec<(Record, Saved)>) -> Vec<Dropped> {
        self.files.clear();
        self.retention = Retention::new(self.policy.options(), self.policy.direction());
        for (record, saved) in found {
            self.dirs.extend(saved.file.made_dirs.iter().cloned());
            self.files.insert(record.counter, saved);
            self.retention.adopt(record);
        }
        let dropped = self.retention.prune();
        self.drop_files(&dropped)
    }

    /// The files of these records, and no longer those that have none.
    fn drop_files(&mut self, dropped: &[Record]) -> Vec<Dropped> {
        let dropped = dropped.iter().filter_map(|record| {
            let saved = self.files.remove(&record.counter).filter(|saved| !saved.is_linked)?;
            Some(Dropped { saved, why: self.retention.why(record) })
        });
        let dropped = dropped.collect();
        // Files that were saved over have no record any more.
        let standing: HashSet<u64> = self.retention.records().iter().map(|r| r.counter).collect();
        self.files.retain(|counter, _| standing.contains(counter));
        dropped
    }

    /// The file of this record alone.
    fn drop_file(&mut self, counter: u64) -> Option<Dropped> {
        let record = self.retention.records().iter().find(|record| record.counter == counter)?;
        let why = self.retention.why(record);
        let path = record.path.clone();
        let saved = self.files.remove(&counter)?;
        self.retention.forget(&path);
        Some(Dropped { saved, why })
    }

    /// The checkpoint at this path has been replaced, and not by one of ours.
    fn forget(&mut self, path: &Path) {
        self.retention.forget(&path.to_string_lossy());
        self.files.retain(|_, saved| saved.file.path != path);
    }

    /// The file of the best save, and its number.
    pub fn best_file(&self) -> Result<(u64, &Saved)> {
        let best = self.retention.best().map(|record| record.counter);
        best.and_then(|counter| Some((counter, self.files.get(&counter)?))).ok_or_else(|| {
            let monitor = &self.policy.options().monitor;
            Error::new(Status::NotFound, format!("no save stands that had '{monitor}' in its logs"))
        })
    }
}

/// The stable name from any directory; refused where the template could write it, or it could not be its checkpoints'.
pub(super) fn resolve_last(last: &str, template: &Template) -> Result<String> {
    let (fixed, source) = (template.fixed_dir(), template.source());
    let top = Path::new(if fixed.is_empty() { "." } else { fixed });
    let top = fs::canonicalize(top).unwrap_or_else(|_| without_links(top));
    let plain = without_links(Path::new(last));
    let below = plain.strip_prefix(&top).map(|below| format!("{fixed}{}", below.to_string_lossy()));
    if template.matches(last) || below.is_ok_and(|path| template.matches(&path)) {
        let message =
            format!("save_last '{last}' could be one of the files of '{source}': call it otherwise");
        return Err(Error::new(Status::InvalidArgument, message));
    }
    let in_one_dir = source.matches('/').count() == fixed.matches('/').count();
    if Format::of(source)? == Format::Shards && !(in_one_dir && plain.parent() == Some(&top)) {
        let message = format!(
            "save_last '{last}': an index names files in its own directory, so it has to be in that of '{source}'"
        );
        return Err(Error::new(Status::Unsupported, message));
    }
    let absolute = path::absolute(last).map_err(|e| Error::io("find", Path::new(last), &e))?;
    absolute.into_os_string().into_string().map_err(|_| {
        Error::new(Status::InvalidArgument, format!("save_last '{last}': the current directory is not UTF-8"))
    })
}

/// The template from the directory of its stable name: the same wherever both have been moved to.
pub(super) fn template_from(last: &Path, template: &Template) -> String {
    let fixed = template.fixed_dir();
    let below = without_links(&Path::new(fixed).join("x"));
    let (last, below) = (without_links(last), below.with_file_name(template.below_fixed_dir()));
    let last: Vec<Component<'_>> = last.parent().map(|dir| dir.components().collect()).unwrap_or_default();
    let shared = below.components().zip(&last).take_while(|(a, b)| a == *b).count();
    let up = last.iter().skip(shared).map(|_| Component::ParentDir);
    let path: PathBuf = up.chain(below.components().skip(shared)).collect();
    path.to_string_lossy().into_owned()
}

/// A path without links in its directories as far as they are there, from any directory.
fn without_links(path: &Path) -> PathBuf {
    let absolute = path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (dirs, name) = match (absolute.parent(), absolute.file_name()) {
        (Some(dirs), Some(name)) => (dirs, name),
        _ => (absolute.as_path(), OsStr::new("")),
    };
    let mut real = PathBuf::new();
    for dir in dirs.components() {
        match dir {
            // Of what is not there yet, the save will make a directory.
            Component::ParentDir => {
                real.pop();
            }
            dir => real.push(dir),
        }
        real = fs::canonicalize(&real).unwrap_or(real);
    }
    real.join(name)
}
