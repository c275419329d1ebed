//! The end of checkpoints: those that nobody keeps, and what a new one supersedes.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::memory;

use super::commit::Written;
use super::destination::parent;
use super::needed::needed;
use super::spare::Spares;
use super::storage::{FileId, Storage, retry};
use super::temp::abandoned;

/// Old companions that are looked at together: all are open then.
const TOGETHER: usize = 64;

/// Removes what a save has put in place, if it still is that: `false` if somebody has removed or replaced the file
/// since. Its companions go after it, each if it still is that file and no other index in the directory needs it.
pub fn remove(storage: &dyn Storage, file: &Written) -> Result<bool> {
    discard(storage, file, None)
}

/// As [`remove`], but what `spares` takes in is moved away.
pub(super) fn discard(storage: &dyn Storage, file: &Written, spares: Option<&Spares>) -> Result<bool> {
    let discard_file = |path: &Path, id| match spares.is_some_and(|spares| spares.take_in(path, id)) {
        true => Ok(true),
        false => remove_file(storage, path, id),
    };
    let names = names(file)?;
    if !discard_file(&file.path, file.id)? {
        return Ok(false);
    }
    if !file.companions.is_empty() {
        // So that no loss of power brings the file back without them; where that cannot be, they go all the same.
        let _ = retry(|| storage.sync_dir(parent(&file.path)));
    }
    let dir = parent(&file.path);
    let needed = match names.is_empty() {
        true => Vec::new(),
        false => {
            needed(storage, dir, &names, None).map_err(|e| Error::io("look for other indices in", dir, &e))?
        }
    };
    let companions = file.companions.iter().zip(needed).filter(|(_, needed)| !needed);
    // All that can go: an error at one keeps none of the others.
    let removed = companions.map(|((path, id), _)| discard_file(path, *id));
    let mut all = Ok(true);
    for removed in removed {
        all = all.and(removed.map(|_| true));
    }
    all
}

/// The names of the companions; one that is not UTF-8 is none of ours.
fn names(file: &Written) -> Result<Vec<&str>> {
    let names = file.companions.iter().map(|(path, _)| path.file_name().and_then(OsStr::to_str));
    memory::collect(names.map(Option::unwrap_or_default))
}

/// Bytes that [`remove`] would free, as far as can be told: files that have another name keep their bytes.
pub fn frees(storage: &dyn Storage, file: &Written) -> u64 {
    let size = |path: &Path, id: FileId| {
        let stands = stands(storage, path, id).unwrap_or(false);
        let links = || retry(|| storage.open(path)?.attributes()).map_or(1, |found| found.links);
        if stands && links() == 1 { id.size } else { 0 }
    };
    let own = size(&file.path, file.id);
    if own == 0 || file.companions.is_empty() {
        return own;
    }
    let Ok(names) = names(file) else { return own };
    let except = file_name(&file.path);
    let Ok(needed) = needed(storage, parent(&file.path), &names, Some(&except)) else { return own };
    let companions = file.companions.iter().zip(needed).filter(|(_, needed)| !needed);
    own + companions.map(|((path, id), _)| size(path, *id)).sum::<u64>()
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
/// Those that a living save holds or another index needs stay, and those that cannot be removed: the next save tries
/// again. What `spares` takes in is moved away.
pub(super) fn remove_superseded(
    storage: &dyn Storage,
    path: &Path,
    id: FileId,
    layout: &Layout,
    spares: Option<&Spares>,
) {
    if !layout.companions().is_empty() {
        remove_companions(storage, path, id, spares, |names| layout.superseded(names));
    }
}

/// As [`remove_superseded`], where `superseded` picks them out of the names in the directory.
pub(super) fn remove_companions(
    storage: &dyn Storage,
    path: &Path,
    id: FileId,
    spares: Option<&Spares>,
    superseded: impl for<'n> Fn(&'n [String]) -> Result<Vec<&'n str>>,
) {
    let names = retry(|| storage.list(parent(path))).unwrap_or_default();
    let names: Vec<String> = names.into_iter().filter_map(|name| OsString::into_string(name).ok()).collect();
    for names in superseded(&names).unwrap_or_default().chunks(TOGETHER) {
        let mut ended = Vec::new();
        for name in names {
            let companion = path.with_file_name(name);
            match abandoned(storage, &companion) {
                Ok(Some(held)) => ended.push((*name, companion, Some(held))),
                // Where there are no locks, two saves to one path at once are not protected from each other.
                Err(e) if e.kind() == io::ErrorKind::Unsupported => ended.push((*name, companion, None)),
                Ok(None) | Err(_) => {}
            }
        }
        if ended.is_empty() {
            continue;
        }
        // Their saves have ended, so no other save can come to need them. Is there an index that does?
        let names: Vec<&str> = ended.iter().map(|(name, ..)| *name).collect();
        let Ok(needed) = needed(storage, parent(path), &names, Some(&file_name(path))) else { return };
        // Not the one at the path, if that is ours.
        if !matches!(stands(storage, path, id), Ok(true)) {
            return;
        }
        for ((_, companion, held), _) in ended.into_iter().zip(needed).filter(|(_, needed)| !needed) {
            // Who takes it in wants the lock.
            drop(held);
            if !spares.is_some_and(|spares| spares.take_in_earlier(&companion)) {
                let _ = retry(|| storage.remove(&companion));
            }
        }
    }
}

pub(super) fn file_name(path: &Path) -> Cow<'_, str> {
    path.file_name().map_or(Cow::Borrowed(""), |name| name.to_string_lossy())
}
