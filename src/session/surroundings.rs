//! What a session finds where its files will go: leftovers of saves that were cut off, and earlier checkpoints.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::engine::{self, Storage};
use crate::policy::{Level, Template};
use crate::reader;

use super::log::Log;
use super::state::save_counter;

/// Removes the leftovers that nobody holds from the directories of a template, and gives the largest save counter
/// of the checkpoints that it could have written; 0 where there is none. What fails is logged: the first save will
/// say it again where it matters.
pub fn look_around(storage: &dyn Storage, template: &Template, log: &Log) -> u64 {
    let top = template.fixed_dir();
    let depth = template.source().matches('/').count() - top.matches('/').count();
    let mut visit = Visit { storage, template, log, newest: 0, open: Vec::new() };
    visit.directory(top, depth);
    visit.newest
}

struct Visit<'a> {
    storage: &'a dyn Storage,
    template: &'a Template,
    log: &'a Log,
    newest: u64,
    /// Device and inode of the directories on the way to where the visit is: links may lead back.
    open: Vec<(u64, u64)>,
}

impl Visit<'_> {
    /// Looks into the directory that `prefix`, with its slash, names ("" is the current one), and into those below
    /// that the template leads to, `depth` levels at most. Links are followed, as a save follows them.
    fn directory(&mut self, prefix: &str, depth: usize) {
        let dir = Path::new(if prefix.is_empty() { "." } else { prefix });
        match engine::sweep(self.storage, dir) {
            Ok(removed) => removed.iter().for_each(|path| {
                let line = format!("removed '{}', left by a save that was cut off", path.display());
                self.log.line(Level::Debug, &line);
            }),
            Err(e) => self.log.line(Level::Warn, e.message()),
        }
        let (Ok(here), Ok(entries)) = (fs::metadata(dir), fs::read_dir(dir)) else { return };
        self.open.push((here.dev(), here.ino()));
        for entry in entries.flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let path = format!("{prefix}{name}");
            let below = format!("{path}/");
            let (is_dir, is_file) = (self.template.begins(&below), self.template.matches(&path));
            if !is_dir && !is_file {
                continue;
            }
            let Ok(what) = fs::metadata(&path) else { continue };
            if what.is_dir() && is_dir && depth > 0 {
                if !self.open.contains(&(what.dev(), what.ino())) {
                    self.directory(&below, depth - 1);
                }
            } else if what.is_file() && is_file {
                let state = reader::training_state(Path::new(&path));
                self.newest = self.newest.max(state.as_deref().and_then(save_counter).unwrap_or(0));
            }
        }
        self.open.pop();
    }
}
