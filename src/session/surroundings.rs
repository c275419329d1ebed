//! What a session finds where its files will go: leftovers of saves that were cut off, and earlier checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use crate::engine::{self, Disk};
use crate::policy::{Level, Template};
use crate::reader;

use super::log::Log;
use super::state::save_counter;

/// Removes the leftovers that nobody holds from the directories of a template, and gives the largest save counter
/// of the checkpoints that it could have written; 0 where there is none. What fails is logged: the first save will
/// say it again where it matters.
pub fn look_around(template: &Template, log: &Log) -> u64 {
    let fixed = template.fixed_dir();
    let below = template.source().get(fixed.len()..).unwrap_or_default().trim_start_matches('/');
    let top = if fixed.is_empty() && !template.source().starts_with('/') { "." } else { fixed };
    let mut visit = Visit { template, log, newest: 0 };
    visit.directory(Path::new(if top.is_empty() { "/" } else { top }), fixed, below.matches('/').count());
    visit.newest
}

struct Visit<'a> {
    template: &'a Template,
    log: &'a Log,
    newest: u64,
}

impl Visit<'_> {
    /// Looks into `dir`, which paths of the template begin with as `prefix`, and `depth` levels below.
    fn directory(&mut self, dir: &Path, prefix: &str, depth: usize) {
        match engine::sweep(&Disk, dir) {
            Ok(removed) => removed.iter().for_each(|path: &PathBuf| {
                let line = format!("removed '{}', left by a save that was cut off", path.display());
                self.log.line(Level::Debug, &line);
            }),
            Err(e) => self.log.line(Level::Warn, e.message()),
        }
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let slash = if prefix.is_empty() && !dir.has_root() { "" } else { "/" };
            let path = format!("{prefix}{slash}{name}");
            if kind.is_dir() && depth > 0 {
                self.directory(&entry.path(), &path, depth - 1);
            } else if kind.is_file() && self.template.matches(&path) {
                let state = reader::training_state(&entry.path());
                self.newest = self.newest.max(state.as_deref().and_then(save_counter).unwrap_or(0));
            }
        }
    }
}
