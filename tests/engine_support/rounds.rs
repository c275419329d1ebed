//! Rounds of saves as a session with retention makes them, on a file system in memory that recycles files.

use std::path::Path;
use std::sync::Arc;

use ckpt::engine::{Recycle, Spares, WriteOptions, WriteStats, Written, sweep};
use ckpt::error::Result;

use super::mem::{Fault, Files, Mem, Node};
use super::shards::{Sharded, sharded};
use super::{Model, model};

pub fn options(durable: bool) -> WriteOptions {
    WriteOptions { threads: 1, durable, ..WriteOptions::default() }
}

pub fn spares(mem: &Mem) -> Spares {
    Spares::new(Arc::new(mem.clone()), Recycle::On)
}

/// The checkpoint of a round, larger and smaller in turn.
pub fn plain(round: usize) -> Model {
    model(round as u8 + 1, if round.is_multiple_of(2) { &[5, 3000, 999, 7_000] } else { &[7_000, 4200] })
}

pub fn shards(round: usize) -> Sharded {
    sharded(round as u8 + 1, if round.is_multiple_of(2) { &[500, 400, 5] } else { &[450, 600] }, 500)
}

/// A template, and how its checkpoints are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Template {
    /// One file that is saved over.
    OneFile,
    /// A file a round, the last of which is kept.
    Last,
    /// As above, in several files.
    OneIndex,
    LastIndex,
}

impl Template {
    pub const ALL: [Template; 4] =
        [Template::OneFile, Template::Last, Template::OneIndex, Template::LastIndex];

    pub fn path(self, round: usize) -> String {
        match self {
            Template::OneFile => "/d/x.keras".to_owned(),
            Template::Last => format!("/d/x-{round}.keras"),
            Template::OneIndex => "/d/x.weights.json".to_owned(),
            Template::LastIndex => format!("/d/x{round}.weights.json"),
        }
    }

    pub fn replaces(self) -> bool {
        matches!(self, Template::OneFile | Template::OneIndex)
    }

    pub fn save(self, mem: &Mem, spares: &Spares, round: usize, durable: bool) -> Result<WriteStats> {
        let (path, options) = (self.path(round), options(durable));
        match self {
            Template::OneFile | Template::Last => {
                plain(round).save_with(mem, Path::new(&path), options, spares)
            }
            _ => shards(round).save_with(mem, Path::new(&path), options, spares),
        }
    }

    /// Whether the checkpoint of a round is among the files, whole.
    pub fn is_in(self, round: usize, files: &Files) -> bool {
        let path = self.path(round);
        match self {
            Template::OneFile | Template::Last => files.get(&path) == Some(&plain(round).file),
            _ => shards(round).is_in(files, &path),
        }
    }

    /// Whether what has the name of a checkpoint is the checkpoint of one of these rounds, whole.
    pub fn is_whole(self, rounds: &[usize], files: &Files) -> bool {
        rounds.iter().all(|&round| {
            let one_of = |&r: &usize| self.path(r) == self.path(round) && self.is_in(r, files);
            !files.contains_key(&self.path(round)) || rounds.iter().any(one_of)
        })
    }
}

/// A session's saves with their retention.
pub struct Run {
    pub template: Template,
    pub mem: Mem,
    pub spares: Spares,
    pub durable: bool,
    pub kept: Option<Written>,
    pub round: usize,
}

impl Run {
    pub fn new(template: Template, durable: bool) -> Run {
        let mem = Mem::new(Fault::None, 0);
        Run { template, spares: spares(&mem), mem, durable, kept: None, round: 0 }
    }

    /// After this many rounds.
    pub fn after(template: Template, durable: bool, rounds: usize) -> Run {
        let mut run = Run::new(template, durable);
        (0..rounds).for_each(|_| drop(run.step().unwrap()));
        run
    }

    /// One save, and the end of what it makes superfluous: an error there is not the save's.
    pub fn step(&mut self) -> Result<WriteStats> {
        let stats = self.template.save(&self.mem, &self.spares, self.round, self.durable)?;
        self.round += 1;
        let earlier = self.kept.replace(stats.file.clone());
        if let Some(earlier) = earlier.filter(|_| !self.template.replaces()) {
            let _ = self.spares.retire(&earlier);
        }
        Ok(stats)
    }

    pub fn set(&self, fault: Fault, at: usize) -> usize {
        let mut s = self.mem.0.lock().unwrap();
        (s.fault, s.at) = (fault, s.calls.len() + at);
        s.at
    }

    /// The call at which the fault was, if there was one.
    pub fn unset(&self, at: usize) -> Option<&'static str> {
        let mut s = self.mem.0.lock().unwrap();
        s.fault = Fault::None;
        s.calls.get(at).copied()
    }

    pub fn temps(&self) -> usize {
        self.mem.names().iter().filter(|name| name.contains(".ckpt-tmp")).count()
    }

    pub fn inode(&self, path: &str) -> usize {
        match self.mem.0.lock().unwrap().names.get(Path::new(path)) {
            Some(&Node::File(inode)) => inode,
            other => panic!("{path} is {other:?}"),
        }
    }
}

/// Nothing is left of the spares once they have gone, but for what a sweep takes.
pub fn assert_ends(run: Run, case: &str, swept: usize) {
    let mem = run.mem.clone();
    let spares: Option<u64> = Some(run.temps() as u64);
    drop(run);
    let left = sweep(&mem, Path::new("/d")).unwrap();
    assert!(left.len() <= swept, "{case}: {spares:?} spares, left {left:?}");
    assert!(mem.names().iter().all(|name| !name.contains(".ckpt")), "{case}: {:?}", mem.names());
}
