//! Temporary files beside the checkpoint: held by their own lock while they live, swept when nobody holds them.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result, Status};

use super::storage::{Handle, Kind, Storage, retry};

/// How every temporary file's name begins.
pub const TEMP_PREFIX: &str = ".ckpt-tmp";

/// Names to try before giving up: each can be lost to a name that is there, or to a sweep that came between.
const TRIES: u32 = 32;

/// A new file that has no name of its own yet. Dropped before [`TempFile::rename`], it is removed.
pub(super) struct TempFile<'a> {
    storage: &'a dyn Storage,
    path: PathBuf,
    handle: Box<dyn Handle>,
    renamed: bool,
}

impl<'a> TempFile<'a> {
    /// Makes one in `dir` and takes its lock, so that no [`sweep`] removes it.
    pub fn create(storage: &'a dyn Storage, dir: &Path, mode: u32) -> io::Result<TempFile<'a>> {
        for _ in 0..TRIES {
            let path = dir.join(unique_name());
            let handle = match retry(|| storage.create(&path, mode)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result?,
            };
            let file = TempFile { storage, path, handle, renamed: false };
            match retry(|| file.handle.try_lock()) {
                Ok(true) => {}
                // A sweep holds it, and is about to remove it.
                Ok(false) => continue,
                Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(file),
                Err(e) => return Err(e),
            }
            // A sweep may have had the lock before us: then the name is gone, and nobody takes it again.
            match retry(|| storage.info(&file.path)) {
                Ok(_) => return Ok(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "no name for a temporary file is free"))
    }

    /// Its name so far.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn handle(&self) -> &dyn Handle {
        &*self.handle
    }

    /// Removes the file, and is this one from now on: `false` where it cannot be removed, and nothing has changed.
    pub fn recycle(&mut self, path: &Path, handle: Box<dyn Handle>) -> bool {
        if retry(|| self.storage.remove(&self.path)).is_err() {
            return false;
        }
        (self.path, self.handle) = (path.to_owned(), handle);
        true
    }

    /// Gives the file its name, and what had it the temporary one.
    pub fn exchange(&mut self, with: &Path) -> io::Result<()> {
        retry(|| self.storage.exchange(&self.path, with))?;
        self.renamed = true;
        Ok(())
    }

    /// Gives the file its name, in place of what had it.
    pub fn rename(&mut self, to: &Path) -> io::Result<()> {
        retry(|| self.storage.rename(&self.path, to))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for TempFile<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing is left to do about an error here: the next sweep tries again.
            let _ = retry(|| self.storage.remove(&self.path));
        }
    }
}

/// A name that no other process and no other call has taken, as far as can be told; creating the file tells.
pub(super) fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    format!("{TEMP_PREFIX}-{:x}-{now:x}-{:x}", std::process::id(), COUNT.fetch_add(1, Relaxed))
}

/// Removes the temporary files in `dir` that no living save holds, and returns their paths. Those that it may
/// not open or remove it leaves. A directory that is not there has none.
///
/// [`Status::Unsupported`] where files cannot be locked: nothing can be told to be abandoned there, so nothing
/// was removed; log it and go on.
pub fn sweep(storage: &dyn Storage, dir: &Path) -> Result<Vec<PathBuf>> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let names = match retry(|| storage.list(dir)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(|e| Error::io("list", dir, &e))?,
    };
    let mut removed = Vec::new();
    for name in names {
        if !name.as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
            continue;
        }
        let path = dir.join(name);
        match abandoned(storage, &path) {
            // If its save ended between our opening it and its lock, it has another name now, and this fails.
            Ok(Some(_held)) => {
                if retry(|| storage.remove(&path)).is_ok() {
                    removed.push(path);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                let message = format!("cannot tell whether '{}' is in use, so it stays: {e}", path.display());
                return Err(Error::new(Status::Unsupported, message));
            }
            Ok(None) | Err(_) => {}
        }
    }
    Ok(removed)
}

/// The file with its lock, if nobody had that.
pub(super) fn abandoned(storage: &dyn Storage, path: &Path) -> io::Result<Option<Box<dyn Handle>>> {
    if retry(|| storage.info(path))?.kind != Kind::File {
        return Ok(None);
    }
    let handle = retry(|| storage.open(path))?;
    Ok(retry(|| handle.try_lock())?.then_some(handle))
}
