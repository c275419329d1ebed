//! Room for a save: what is free, and what can be given up where that is too little.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Status};

use super::destination::parent;
use super::spare::Spares;
use super::storage::{Storage, retry};
use super::temp::TempFile;
use super::watch::Watch;

/// The room for a save of `bytes` to `path`.
///
/// Spares are given up first, then what [`Watch::give_up`] has; that only where all of it together would be enough.
pub(super) struct Space<'a> {
    pub storage: &'a dyn Storage,
    pub path: &'a Path,
    pub bytes: u64,
    pub spares: Option<&'a Spares>,
    pub watch: &'a dyn Watch,
    /// Whether it helps to give something up; `None`: nobody has asked.
    pub helps: Option<bool>,
}

impl Space<'_> {
    /// Looks for room before anything is touched.
    pub fn find(&mut self) -> Result<()> {
        let Some((dir, free)) = free_in(self.storage, parent(self.path)) else { return Ok(()) };
        if free >= self.bytes {
            return Ok(());
        }
        let device = device(self.storage, &dir);
        let spare = self.spares.map_or(0, |spares| spares.bytes_on(device));
        let there = free.saturating_add(spare);
        if there >= self.bytes {
            return Ok(());
        }
        let dispensable = self.watch.dispensable(device);
        let mut missing = self.bytes - there;
        let fits = dispensable >= missing;
        if fits {
            self.spares.map(Spares::release);
        }
        while fits && missing > 0 {
            match self.watch.give_up(device) {
                Some(freed) => missing = missing.saturating_sub(freed),
                None => break,
            }
        }
        if fits && missing == 0 {
            return Ok(());
        }
        let cause = io::Error::from_raw_os_error(libc::ENOSPC);
        let Space { path, bytes, .. } = self;
        Err(Error::io("save to", path, &cause).context(no_room(*bytes, there, dispensable)))
    }

    /// The file system has refused to make or to reserve a file, for whatever reason it counts otherwise than it says (a
    /// quota, blocks that are reserved). Whether there is more room now, so that it is to be tried again.
    pub fn make_more(&mut self, refusal: &Error) -> bool {
        let full = refusal.status() == Status::NoSpace;
        if !full && !matches!(refusal.os(), libc::EMFILE | libc::ENFILE) {
            return false;
        }
        if self.spares.is_some_and(Spares::release) {
            return true;
        }
        if !full {
            return false;
        }
        let Ok(dir) = retry(|| self.storage.real_path(parent(self.path))) else { return false };
        let device = device(self.storage, &dir);
        let helps = match self.helps {
            Some(helps) => helps,
            None => {
                let dispensable = self.watch.dispensable(device);
                // How much there is nobody says; but whether there is what would be missing then can be tried.
                let rest = self.bytes.saturating_sub(dispensable);
                dispensable > 0 && (rest == 0 || can_reserve(self.storage, &dir, rest))
            }
        };
        self.helps = Some(helps);
        helps && self.watch.give_up(device).is_some()
    }
}

/// What is free where `dir` is or will be, in the nearest directory above that is there; `None` where it does not say.
pub(super) fn free_in(storage: &dyn Storage, dir: &Path) -> Option<(PathBuf, u64)> {
    let mut dir = dir;
    loop {
        match retry(|| storage.free_space(dir)) {
            Ok(free) => return Some((dir.to_owned(), free?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound && parent(dir) != dir => dir = parent(dir),
            Err(_) => return None,
        }
    }
}

/// The device of a directory; 0 where that cannot be told.
pub(super) fn device(storage: &dyn Storage, dir: &Path) -> u64 {
    let real = retry(|| storage.real_path(dir)).unwrap_or_else(|_| dir.to_owned());
    retry(|| storage.info(&real)).map_or(0, |info| info.id.inode.0)
}

/// That a file of `bytes` finds no room, in words.
pub(super) fn no_room(bytes: u64, free: u64, dispensable: u64) -> String {
    let more = match dispensable {
        0 => String::new(),
        n => format!(", and {n} in checkpoints that no keep_* rule keeps"),
    };
    format!("no room for {bytes} bytes: {free} are free{more}")
}

fn can_reserve(storage: &dyn Storage, dir: &Path, bytes: u64) -> bool {
    let reserved = || retry(|| TempFile::create(storage, dir, 0o600)?.handle().preallocate(bytes));
    reserved().is_ok()
}
