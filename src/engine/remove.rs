//! The end of checkpoints: those that nobody keeps, and what a new one supersedes.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::layout::Layout;

use super::commit::Written;
use super::destination::parent;
use super::storage::{FileId, Storage, retry};
use super::temp::abandoned;

/// Removes what a save has put in place, if it still is that: `false` if somebody has removed or replaced the file
/// since. Its companions go after it, each if it still is that file.
pub fn remove(storage: &dyn Storage, file: &Written) -> Result<bool> {
    if !remove_file(storage, &file.path, file.id)? {
        return Ok(false);
    }
    if !file.companions.is_empty() {
        // So that no loss of power brings the file back without them; where that cannot be, they go all the same.
        let _ = retry(|| storage.sync_dir(parent(&file.path)));
    }
    // All that can go: an error at one keeps none of the others.
    let removed = file.companions.iter().map(|(path, id)| remove_file(storage, path, *id));
    let removed: Vec<Result<bool>> = removed.collect();
    removed.into_iter().collect::<Result<Vec<bool>>>().map(|_| true)
}

/// Whether it still is that file.
pub fn stands(storage: &dyn Storage, path: &Path, id: FileId) -> io::Result<bool> {
    match retry(|| storage.info(path)) {
        Ok(info) => Ok(info.id == id),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes a file, if it still is that file.
pub(super) fn remove_file(storage: &dyn Storage, path: &Path, id: FileId) -> Result<bool> {
    let failed = |e: io::Error| Error::io("remove", path, &e);
    if !stands(storage, path, id).map_err(failed)? {
        return Ok(false);
    }
    match retry(|| storage.remove(path)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed(e)),
        Ok(()) => Ok(true),
    }
}

/// Removes a directory, if it is empty.
pub fn remove_dir(storage: &dyn Storage, dir: &Path) -> bool {
    retry(|| storage.remove_dir(dir)).is_ok()
}

/// Removes the companions of earlier saves to `path`, where the file `id` with this layout has been put in place.
/// Those that a living save holds stay, and those that cannot be removed: the next save tries again.
pub(super) fn remove_superseded(storage: &dyn Storage, path: &Path, id: FileId, layout: &Layout) {
    if layout.companions().is_empty() {
        return;
    }
    let names = retry(|| storage.list(parent(path))).unwrap_or_default();
    let names: Vec<String> = names.into_iter().filter_map(|name| OsString::into_string(name).ok()).collect();
    for name in layout.superseded(&names) {
        let companion = path.with_file_name(name);
        let held = match abandoned(storage, &companion) {
            Ok(Some(held)) => Some(held),
            // Where there are no locks, two saves to one path at once are not protected from each other.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => None,
            Ok(None) | Err(_) => continue,
        };
        // Its save has ended, so no file can come to need it. Does the one that stands? Not if that is ours.
        if !matches!(stands(storage, path, id), Ok(true)) {
            return;
        }
        let _ = retry(|| storage.remove(&companion));
        drop(held);
    }
}
