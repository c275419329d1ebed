//! What must be there: the account of a training's saves, kept beside the session's own, and compared with the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ckpt::session::Session;

use crate::scratch::files;
use crate::setup::Setup;
use crate::weights::Weights;

/// A checkpoint that must be there.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub path: PathBuf,
    /// The time of its weights.
    pub time: u64,
    pub loss: f64,
}

/// What must be there, and what may be.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// In the order of the saves.
    pub records: Vec<Record>,
    /// Those of earlier sessions, which this one does not remove.
    earlier: Vec<Record>,
    /// Checkpoints that may be there, by the times that their weights may have.
    pub loose: BTreeMap<PathBuf, BTreeSet<u64>>,
}

impl Account {
    /// Another session begins.
    pub fn begin(&mut self) {
        self.earlier.append(&mut self.records);
    }

    /// A save has been reported.
    pub fn saved(&mut self, setup: &Setup, record: Record) {
        self.loose.remove(&record.path);
        self.records.retain(|r| r.path != record.path);
        self.earlier.retain(|r| r.path != record.path);
        self.records.push(record);
        if (setup.keep_last, setup.keep_best) == (0, 0) {
            return;
        }
        let mut ranked: Vec<usize> = (0..self.records.len()).collect();
        ranked.sort_by(|&a, &b| self.records[a].loss.total_cmp(&self.records[b].loss));
        let best = ranked.get(..(setup.keep_best.max(1) as usize).min(ranked.len())).unwrap_or_default();
        let last = self.records.len().saturating_sub(setup.keep_last.max(1) as usize);
        let stays: Vec<bool> = (0..self.records.len()).map(|i| i >= last || best.contains(&i)).collect();
        let (stay, go): (Vec<_>, Vec<_>) = self.records.drain(..).zip(stays).partition(|(_, stays)| *stays);
        self.records = stay.into_iter().map(|(record, _)| record).collect();
        for (record, _) in go {
            self.allow(record.path, record.time);
        }
    }

    /// A checkpoint may be there.
    pub fn allow(&mut self, path: PathBuf, time: u64) {
        self.loose.entry(path).or_default().insert(time);
    }

    /// The one with the least loss; of equal ones the oldest.
    pub fn best(&self) -> Option<&Record> {
        self.records.iter().min_by(|a, b| a.loss.total_cmp(&b.loss))
    }

    /// A save has been reported as failed: what was there is there, or the new one, if the report says so.
    pub fn failed(&mut self, path: &Path, time: u64, report: &str, weights: &Weights) -> Result<(), String> {
        let earlier = self.records.iter().position(|r| r.path == path);
        if !path.exists() {
            return match earlier {
                None => Ok(()),
                Some(_) => Err(format!("{} is lost", path.display())),
            };
        }
        let found = weights.time_of(path).map_err(|e| format!("{}: {e}", path.display()))?;
        if found != time {
            return Ok(());
        }
        if !report.contains("stands") {
            return Err(format!("{} is the new one after '{report}'", path.display()));
        }
        earlier.map(|i| self.records.remove(i));
        self.loose.insert(path.to_owned(), BTreeSet::from([time]));
        Ok(())
    }

    /// Compares with the disk.
    pub fn check(&self, dir: &Path, setup: &Setup, weights: &Weights) -> Result<(), String> {
        let standing = || self.records.iter().chain(&self.earlier);
        for record in standing() {
            let shown = record.path.display();
            match weights.time_of(&record.path) {
                Err(e) => return Err(format!("{shown} must be there: {e}")),
                Ok(time) if time == record.time => {}
                Ok(time) => return Err(format!("{shown} is of time {time}, not {}", record.time)),
            }
        }
        for path in files(dir) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_one = name.ends_with(setup.ending) && !name.starts_with(".ckpt-");
            if !is_one || standing().any(|record| record.path == path) {
                continue;
            }
            let time = weights.time_of(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            if !self.loose.get(&path).is_some_and(|times| times.contains(&time)) {
                return Err(format!("{} of time {time} should not be there", path.display()));
            }
        }
        Ok(())
    }

    /// Compares the session's best with ours.
    pub fn check_best(&self, session: &Session, setup: &Setup, weights: &Weights) -> Result<(), String> {
        let best = self.best();
        match (session.best_path(), best) {
            (Err(_), None) => {}
            (Err(e), Some(best)) => {
                return Err(format!("the session knows no best ({e}), which is {}", best.path.display()));
            }
            (Ok(path), None) => return Err(format!("'{path}' is the session's best, and there is none")),
            (Ok(path), Some(best)) => {
                let time =
                    weights.time_of(Path::new(&path)).map_err(|e| format!("the best, '{path}': {e}"))?;
                if (Path::new(&path), time) != (best.path.as_path(), best.time) {
                    let best = (best.path.display(), best.time);
                    return Err(format!("'{path}' of time {time} is the session's best, not {best:?}"));
                }
            }
        }
        match (session.best(), best) {
            (Ok(value), Some(best)) if setup.best_only && value != best.loss => {
                Err(format!("{value} is to be beaten, and the best that stands has {}", best.loss))
            }
            _ => Ok(()),
        }
    }

    /// Files of shards that no index needs.
    pub fn orphans(&self, dir: &Path, setup: &Setup) -> Vec<PathBuf> {
        if !setup.is_sharded() {
            return Vec::new();
        }
        let all = files(dir);
        let is_index = |path: &&PathBuf| path.to_string_lossy().ends_with(setup.ending);
        let texts: Vec<String> =
            all.iter().filter(is_index).filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        let orphan = |path: &&PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let needed =
                name.ends_with("_00000.weights.h5") || texts.iter().any(|text| text.contains(&*name));
            !is_index(path) && !name.starts_with(".ckpt-") && !needed
        };
        all.iter().filter(orphan).cloned().collect()
    }
}
