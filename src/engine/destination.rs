//! Where a save goes: the file behind the links, and the directories on the way.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Status};

use super::space::{device, free_in, no_room};
use super::storage::{Info, Kind, Storage, retry};
use super::temp::TempFile;

/// Links to follow before they count as a circle, as Linux does.
const MAX_LINKS: u32 = 40;

/// Finds out whether a file of `bytes` can be made in `dir`, and makes the directory, durably, if it is missing. `others`
/// are the bytes on a device of spares, which are as good as free, and of what a save removes where there is no room.
pub fn probe(
    storage: &dyn Storage,
    dir: &Path,
    bytes: u64,
    others: &dyn Fn(u64) -> (u64, u64),
) -> Result<()> {
    let mut made = MadeDirs::new(storage);
    drop(create(storage, dir, &mut made, None)?);
    if let Some((dir, free)) = free_in(storage, dir).filter(|(_, free)| *free < bytes) {
        let (spare, dispensable) = others(device(storage, &dir));
        let there = free.saturating_add(spare);
        if there.saturating_add(dispensable) < bytes {
            let cause = io::Error::from_raw_os_error(libc::ENOSPC);
            return Err(Error::io("save in", &dir, &cause).context(no_room(bytes, there, dispensable)));
        }
    }
    made.sync()?;
    made.keep();
    Ok(())
}

/// Finds out whether `path` can be that of a checkpoint, as [`save`](super::save) does.
pub fn check(storage: &dyn Storage, path: &Path) -> Result<()> {
    destination(storage, path).map(|_| ())
}

/// The file that `path` means, behind its symbolic links, and what is there now.
pub(super) fn destination(storage: &dyn Storage, path: &Path) -> Result<(PathBuf, Option<Info>)> {
    let refuse = |at: &Path, os: i32, why: &str| {
        let cause = io::Error::from_raw_os_error(os);
        Err(Error::io("save to", at, &cause).context(why))
    };
    let mut at = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let last = at.as_os_str().as_encoded_bytes().rsplit(|&b| b == b'/').next().unwrap_or_default();
        if matches!(last, b"" | b"." | b"..") {
            let message = format!("cannot save to '{}': expected the path of a file", at.display());
            return Err(Error::new(Status::InvalidArgument, message));
        }
        match retry(|| storage.info(&at)) {
            Ok(info) => match info.kind {
                Kind::File => return Ok((at, Some(info))),
                Kind::Link => {
                    let target =
                        retry(|| storage.read_link(&at)).map_err(|e| Error::io("read the link", &at, &e))?;
                    at = at.parent().map_or_else(|| target.clone(), |dir| dir.join(&target));
                }
                Kind::Dir => return refuse(&at, libc::EISDIR, "expected the path of a file"),
                Kind::Other => {
                    return refuse(&at, libc::EINVAL, "there is something that is no regular file");
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((at, None)),
            Err(e) if e.raw_os_error() == Some(libc::ENOTDIR) => {
                return refuse(&at, libc::ENOTDIR, "one of the directories in the path is a file");
            }
            Err(e) => return Err(Error::io("save to", &at, &e)),
        }
    }
    refuse(path, libc::ELOOP, "its symbolic links lead in a circle")
}

/// A temporary file in `dir`, which is made if it is not there.
pub(super) fn create<'a>(
    storage: &'a dyn Storage,
    dir: &Path,
    made: &mut MadeDirs<'_>,
    old: Option<Info>,
) -> Result<TempFile<'a>> {
    // Ours to read and write while it is temporary, whatever the old one was: a sweep must be able to open it.
    let mode = old.map_or(0o666, |old| old.mode | 0o600);
    let file = match TempFile::create(storage, dir, mode) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            made.make(dir)?;
            TempFile::create(storage, dir, mode)
        }
        result => result,
    };
    file.map_err(|e| Error::io("create a file in", dir, &e))
}

/// The directory that `path` is in.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The directories that a save has made, outermost first. Dropped before [`MadeDirs::keep`], they are removed:
/// a later save then makes them again, and syncs what they are in.
pub(super) struct MadeDirs<'a> {
    storage: &'a dyn Storage,
    dirs: Vec<PathBuf>,
}

impl<'a> MadeDirs<'a> {
    /// None so far.
    pub fn new(storage: &'a dyn Storage) -> MadeDirs<'a> {
        MadeDirs { storage, dirs: Vec::new() }
    }

    /// Those that were made.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Makes a directory and those above it.
    pub fn make(&mut self, dir: &Path) -> Result<()> {
        let mut result = retry(|| self.storage.make_dir(dir));
        if let (Err(e), Some(above)) = (&result, dir.parent())
            && e.kind() == io::ErrorKind::NotFound
        {
            self.make(above)?;
            result = retry(|| self.storage.make_dir(dir));
        }
        match result {
            Ok(()) => self.dirs.push(dir.to_owned()),
            // Somebody else made it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("make the directory", dir, &e)),
        }
        Ok(())
    }

    /// Syncs what they are in, the innermost first.
    pub fn sync(&self) -> Result<()> {
        for dir in self.dirs.iter().rev().map(|made| parent(made)) {
            retry(|| self.storage.sync_dir(dir)).map_err(|e| Error::io("sync the directory", dir, &e))?;
        }
        Ok(())
    }

    /// The file in them stands.
    pub fn keep(mut self) {
        self.dirs.clear();
    }
}

impl Drop for MadeDirs<'_> {
    fn drop(&mut self) {
        for dir in self.dirs.iter().rev() {
            // An error means that somebody uses it by now.
            let _ = retry(|| self.storage.remove_dir(dir));
        }
    }
}
