//! Another name of a checkpoint: a hard link to its file, or a copy where there are no such links.
#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::layout::{opened_for, shards_beside};

use super::commit::Written;
use super::destination::{MadeDirs, parent};
use super::remove::{file_name, remove_companions, stands};
use super::storage::{FileId, Storage, retry};
use super::temp::{TempFile, unique_name};

/// Names to try before giving up, as each can be lost to a sweep.
const TRIES: u32 = 8;

/// Gives a checkpoint one more name, at once in the place of what had it; the directory is made if it is missing. After an
/// error what had the name has it still; where the directory could not be synced, the checkpoint has it, but maybe not on
/// the disk.
///
/// A symbolic link at `to` is replaced, not followed. The name of an index gets what Keras opens beside it, and shards that
/// were saved under that name go where no index needs them.
pub fn alias(storage: &dyn Storage, file: &Written, to: &Path, durable: bool) -> Result<()> {
    let failed = |e| Error::io("put the newest checkpoint at", to, &e);
    let (mut made, dir) = (MadeDirs::new(storage), parent(to));
    let is_index = !file.companions.is_empty();
    if is_index {
        let first = file.path.with_file_name(opened_for(&file_name(&file.path)));
        let beside = to.with_file_name(opened_for(&file_name(to)));
        if is_missing(storage, &beside) {
            let id = retry(|| storage.info(&first)).map_err(failed)?.id;
            put(storage, (&first, id), &beside, durable).map_err(failed)?;
        }
    }
    let from = (&*file.path, file.id);
    match put(storage, from, to, durable) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && is_missing(storage, dir) => {
            made.make(dir)?;
            put(storage, from, to, durable)
        }
        result => result,
    }
    .map_err(failed)?;
    if durable {
        made.sync()?;
        retry(|| storage.sync_dir(dir)).map_err(|e| Error::io("sync the directory", dir, &e))?;
    }
    made.keep();
    if is_index && let Ok(info) = retry(|| storage.info(to)) {
        remove_companions(storage, to, info.id, None, |names| shards_beside(&file_name(to), names));
    }
    Ok(())
}

fn is_missing(storage: &dyn Storage, path: &Path) -> bool {
    matches!(retry(|| storage.info(path)), Err(e) if e.kind() == io::ErrorKind::NotFound)
}

fn put(storage: &dyn Storage, from: (&Path, FileId), to: &Path, durable: bool) -> io::Result<()> {
    // Files cannot be linked there, or not this one.
    let refusals = [libc::EXDEV, libc::EPERM, libc::EMLINK, libc::EOPNOTSUPP, libc::ENOTSUP, libc::ENOSYS];
    match link(storage, from, to) {
        Err(e)
            if e.kind() == io::ErrorKind::Unsupported
                || e.raw_os_error().is_some_and(|os| refusals.contains(&os)) =>
        {
            copy(storage, from, to, durable)
        }
        result => result,
    }
}

fn link(storage: &dyn Storage, (from, id): (&Path, FileId), to: &Path) -> io::Result<()> {
    if retry(|| storage.info(to)).is_ok_and(|info| info.id.inode == id.inode) {
        // Between two names of one file a rename does nothing.
        return Ok(());
    }
    for _ in 0..TRIES {
        let temp = to.with_file_name(unique_name());
        match retry(|| storage.link(from, &temp)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            result => result?,
        }
        let renamed = match retry(|| storage.info(&temp)) {
            Ok(info) if info.id != id => Err(replaced()),
            Ok(_) => retry(|| storage.rename(&temp, to)),
            Err(e) => Err(e),
        };
        match renamed {
            // A sweep has taken it for left over.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                // Nothing is left to do about an error here: the next sweep tries again.
                let _ = retry(|| storage.remove(&temp));
                return Err(e);
            }
            Ok(()) => return Ok(()),
        }
    }
    Err(io::Error::other("the link vanishes before it has its name"))
}

fn copy(storage: &dyn Storage, (from, id): (&Path, FileId), to: &Path, durable: bool) -> io::Result<()> {
    let mode = retry(|| storage.info(from))?.mode;
    let mut temp = TempFile::create(storage, parent(to), mode | 0o600)?;
    storage.copy(from, temp.path())?;
    // An error leaves it to no more people than the checkpoint was: no reason to fail.
    let _ = retry(|| temp.handle().set_mode(mode));
    match durable {
        true => retry(|| temp.handle().sync())?,
        false => retry(|| temp.handle().flush())?,
    }
    if !stands(storage, from, id)? {
        return Err(replaced());
    }
    temp.rename(to)
}

fn replaced() -> io::Error {
    io::Error::other("it has been replaced or removed since it was saved")
}
