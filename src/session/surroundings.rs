//! What a session finds where its files go: leftovers of saves that were cut off, and checkpoints.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::engine::{self, Storage};
use crate::error::{Error, Result};
use crate::policy::{Level, Template};
use crate::reader;

use super::log::Log;
use super::state::Training;

/// A file that a template could have written.
pub(super) struct Found {
    /// As the template has it, or the stable name.
    pub path: String,
    /// Whether it has the stable name of the newest: it is none of the template's.
    pub is_last: bool,
    /// Seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// What it says of the training; `None` if it says nothing, as Keras' own files.
    pub training: Result<Option<Training>>,
}

impl Found {
    fn new(path: String, is_last: bool, what: &fs::Metadata) -> Found {
        let training = reader::training_state(Path::new(&path));
        let training = training.and_then(|json| json.map_or(Ok(None), |json| Training::parse(&json)));
        Found { path, is_last, modified: (what.mtime(), what.mtime_nsec()), training }
    }

    /// What it says of the training, if it can be read and says something.
    pub fn known(&self) -> Option<&Training> {
        self.training.as_ref().ok()?.as_ref()
    }

    /// The number of the save that made it; 0 where that is not known.
    pub fn save(&self) -> u64 {
        self.known().map_or(0, |training| training.save)
    }

    /// Whether it is no checkpoint to go on from.
    fn is_aside(&self) -> bool {
        matches!(&self.training, Ok(Some(training)) if training.aside)
    }
}

/// The files that a template could have written, and the one with the stable name of the newest.
///
/// # Errors
/// There is something that cannot be looked at: that none is known does not mean then that there is none.
pub(super) fn checkpoints(template: &Template, save_last: Option<&str>) -> Result<Vec<Found>> {
    let mut visit = Visit { template, sweep: None, found: Vec::new(), open: Vec::new(), failed: None };
    visit.begin(save_last);
    visit.failed.map_or(Ok(visit.found), Err)
}

/// Removes the leftovers that nobody holds from the directories of a template and of the stable name, and gives the
/// largest number of a save among the [`checkpoints`]; 0 where there is none. What fails is logged, but for want of memory:
/// the first save will say it again where it matters.
pub(super) fn look_around(
    storage: &dyn Storage,
    template: &Template,
    save_last: Option<&str>,
    log: &Log,
) -> Result<u64> {
    let mut visit =
        Visit { template, sweep: Some((storage, log)), found: Vec::new(), open: Vec::new(), failed: None };
    visit.begin(save_last);
    // One that is not looked at for want of memory may be the largest.
    let failed = visit.found.iter().filter_map(|found| found.training.as_ref().err());
    match failed.into_iter().find(|error| error.os() == libc::ENOMEM) {
        Some(error) => Err(error.clone()),
        None => Ok(visit.found.iter().map(Found::save).max().unwrap_or(0)),
    }
}

struct Visit<'a> {
    template: &'a Template,
    /// Where leftovers are removed, if they are, and who hears of it.
    sweep: Option<(&'a dyn Storage, &'a Log)>,
    found: Vec<Found>,
    /// Device and inode of the directories on the way to where the visit is: links may lead back.
    open: Vec<(u64, u64)>,
    /// What could not be looked at first.
    failed: Option<Error>,
}

impl Visit<'_> {
    fn begin(&mut self, save_last: Option<&str>) {
        if let Some(last) = save_last {
            if let (Some((storage, log)), Some(dir)) = (self.sweep, Path::new(last).parent()) {
                sweep(storage, dir, log);
            }
            if let Some(what) = self.there(last, fs::metadata(last))
                && what.is_file()
            {
                self.found.push(Found::new(last.to_owned(), true, &what));
            }
        }
        let top = self.template.fixed_dir();
        let depth = self.template.source().matches('/').count() - top.matches('/').count();
        self.directory(top, depth);
    }

    /// Looks into the directory that `prefix`, with its slash, names ("" is the current one), and into those below
    /// that the template leads to, `depth` levels at most. Links are followed, as a save follows them.
    fn directory(&mut self, prefix: &str, depth: usize) {
        let dir = Path::new(if prefix.is_empty() { "." } else { prefix });
        if let Some((storage, log)) = self.sweep {
            sweep(storage, dir, log);
        }
        let Some(here) = self.there(dir, fs::metadata(dir)) else { return };
        let Some(entries) = self.there(dir, fs::read_dir(dir)) else { return };
        self.open.push((here.dev(), here.ino()));
        for entry in entries {
            let Some(entry) = self.there(dir, entry) else { break };
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let path = format!("{prefix}{name}");
            let below = format!("{path}/");
            let (is_dir, is_file) = (self.template.begins(&below), self.template.matches(&path));
            if !is_dir && !is_file {
                continue;
            }
            let Some(what) = self.there(&path, fs::metadata(&path)) else { continue };
            if what.is_dir() && is_dir && depth > 0 {
                if !self.open.contains(&(what.dev(), what.ino())) {
                    self.directory(&below, depth - 1);
                }
            } else if what.is_file() && is_file {
                let found = Found::new(path, false, &what);
                self.found.extend((!found.is_aside()).then_some(found));
            }
        }
        self.open.pop();
    }

    /// What is at a path, if there is something.
    fn there<T>(&mut self, path: impl AsRef<Path>, result: io::Result<T>) -> Option<T> {
        let absent = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP];
        result
            .map_err(|e| {
                if e.raw_os_error().is_none_or(|code| !absent.contains(&code)) {
                    self.failed.get_or_insert(Error::io("look for checkpoints in", path.as_ref(), &e));
                }
            })
            .ok()
    }
}

fn sweep(storage: &dyn Storage, dir: &Path, log: &Log) {
    match engine::sweep(storage, dir) {
        Ok(removed) => removed.iter().for_each(|path| {
            let line = format!("removed '{}', left by a save that was cut off", path.display());
            log.line(Level::Debug, &line);
        }),
        Err(e) => log.line(Level::Warn, e.message()),
    }
}
