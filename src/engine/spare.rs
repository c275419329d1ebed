//! Recycling: a file that is no longer kept becomes a temporary file of the next save, its blocks allocated already.
//!
//! To write a file anew destroys what is in it, so it has to be nobody's but ours:
//! - Only what a save has put in place, and still is that, is taken; it is moved away first, to the name of a temporary
//!   file, and held by its lock as those are.
//! - It has one name, on the disk too, nobody has it open or mapped, and it is what a new file here would be: owner, access control
//!   list, labels, and no permission less. That is looked at when it is taken and again when it is used: whoever was
//!   about to open it by its old name has done so by then.
//! - Its old name is gone from the disk before the first byte is written: a loss of power must not bring the name of a
//!   checkpoint back with the bytes of another.
//!
//! Where any of it is not so, or cannot be told, the file is removed, and a new one is made.
#![cfg_attr(not(test), forbid(unsafe_code))]

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use crate::error::Result;
use crate::sync::parking_lot::Mutex;

use super::commit::Written;
use super::destination::parent;
use super::host;
use super::remove;
use super::storage::{FileId, Handle, Storage, retry};
use super::temp::{TempFile, unique_name};

/// When files are recycled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recycle {
    /// Where it helps and does not hurt: files of some size, on a disk with ample space.
    #[default]
    Auto,
    /// Wherever it can be done.
    On,
    /// Never.
    Off,
}

/// The smallest file that [`Recycle::Auto`] recycles: below it, what has to be looked at costs more than it saves.
const WORTH: u64 = 1 << 20;

/// How many checkpoints have to fit into what is free for [`Recycle::Auto`], and which part of the file system that
/// has to be at least.
const AMPLE: (u64, u64) = (4, 10);

/// Spares that are held at once: all are open, in a process that has other uses for its descriptors.
const MOST: usize = 64;

/// The files of a session that are to be recycled: those of one checkpoint at most. Removed with the value, but not by
/// a forked child.
pub struct Spares {
    storage: Arc<dyn Storage>,
    recycle: Recycle,
    /// The process whose they are.
    owner: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    spares: Vec<Spare>,
    /// What the last save has put in place, each by the path behind links; what the one before it has.
    placed: Written,
    earlier: Written,
    /// Where the last save went, and the bytes of its files.
    dir: PathBuf,
    bytes: u64,
    /// Files cannot change names here.
    no_exchange: bool,
    /// A file that goes may have one more name on the disk.
    distrusted: bool,
}

/// A file that nobody needs, under a temporary name, held by its lock.
struct Spare {
    path: PathBuf,
    id: FileId,
    handle: Box<dyn Handle>,
    /// Whether the disk knows that its former name has gone.
    synced: bool,
}

impl Spares {
    /// None yet.
    pub fn new(storage: Arc<dyn Storage>, recycle: Recycle) -> Spares {
        Spares { storage, recycle, owner: process::id(), state: Mutex::default() }
    }

    /// Removes a checkpoint as [`remove`](remove::remove) does, but keeps those of its files that the next save may
    /// use.
    pub fn retire(&self, file: &Written) -> Result<bool> {
        remove::discard(&*self.storage, file, Some(self))
    }

    /// Notes what a save has put in place, `bytes` in all. Spares that its successor cannot use go.
    pub(super) fn saved(&self, file: &Written, bytes: u64) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.state.lock();
        state.earlier = std::mem::take(&mut state.placed);
        state.placed = file.clone();
        (state.dir, state.bytes) = (parent(&file.path).to_owned(), bytes);
        let mut room = room_for(bytes);
        for spare in std::mem::take(&mut state.spares) {
            match room.checked_sub(spare.id.size).filter(|_| parent(&spare.path) == state.dir) {
                Some(rest) => {
                    room = rest;
                    state.spares.push(spare);
                }
                None => self.remove(&spare.path),
            }
        }
    }

    /// Puts a spare in the place of a temporary file that has just been made and is to have `size` bytes, if one can
    /// pass for it.
    pub(super) fn lend(&self, new: &mut TempFile<'_>, size: u64, durable: bool) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.state.lock();
        if state.spares.is_empty() {
            return;
        }
        let Ok(dir) = retry(|| self.storage.real_path(parent(new.path()))) else { return };
        // A small file has no use for the blocks of a large one.
        let fits = |spare: &&Spare| parent(&spare.path) == dir && spare.id.size / 2 <= size;
        let best = state.spares.iter().filter(fits).min_by_key(|spare| spare.id.size.abs_diff(size));
        let Some(index) = best.and_then(|best| state.spares.iter().position(|s| s.path == best.path)) else {
            return;
        };
        let mut spare = state.spares.swap_remove(index);
        if durable && !spare.synced {
            spare.synced = retry(|| self.storage.sync_dir(&dir)).is_ok();
            let gone = spare.synced;
            state.spares.iter_mut().filter(|s| parent(&s.path) == dir).for_each(|s| s.synced |= gone);
        }
        let usable = (spare.synced || !durable) && self.passes_for(&spare, new).unwrap_or(false);
        if !(usable && new.recycle(&spare.path, spare.handle)) {
            self.remove(&spare.path);
        }
    }

    /// Whether the spare is as the new file is but for its bytes. Its permissions are then those of the new file.
    fn passes_for(&self, spare: &Spare, new: &TempFile<'_>) -> io::Result<bool> {
        let expected = retry(|| new.handle().attributes())?;
        let found = retry(|| spare.handle.attributes())?;
        // Permissions are only taken away: the old bytes are still in it.
        let narrows = expected.mode & !found.mode == 0;
        if !narrows || (&found.owner, &found.labels) != (&expected.owner, &expected.labels) {
            return Ok(false);
        }
        if found.mode != expected.mode {
            retry(|| spare.handle.set_mode(expected.mode))?;
        }
        // After that, so that nobody has come in by the permissions that it had.
        self.is_nobody_elses(spare)
    }

    /// Whether a file that has been moved away can be written anew.
    fn is_nobody_elses(&self, spare: &Spare) -> io::Result<bool> {
        let alone = retry(|| spare.handle.is_unshared())?;
        let attributes = retry(|| spare.handle.attributes())?;
        let there = remove::stands(&*self.storage, &spare.path, spare.id)?;
        Ok(alone && there && attributes.links == 1 && attributes.id == spare.id)
    }

    /// Moves a file away that is no longer needed, if it still is that file: `false` where it is none for us, and
    /// nothing has changed. It is then a spare or gone.
    pub(super) fn take_in(&self, path: &Path, id: FileId) -> bool {
        if !self.wants(path, id.size) {
            return false;
        }
        let Ok(Some(handle)) = self.hold(path, id) else { return false };
        let temp = path.with_file_name(unique_name());
        if retry(|| self.storage.rename(path, &temp)).is_err() {
            return false;
        }
        if !remove::stands(&*self.storage, &temp, id).unwrap_or(false) {
            // Somebody has put another file there meanwhile.
            let _ = retry(|| self.storage.rename(&temp, path));
            return false;
        }
        self.keep(Spare { path: temp, id, handle, synced: false });
        true
    }

    /// As [`Spares::take_in`], for a file that may be one that the save before the last has put in place.
    pub(super) fn take_in_earlier(&self, path: &Path) -> bool {
        let id = self.is_ours().then(|| {
            let state = self.state.lock();
            id_of(&state.earlier, path)
        });
        id.flatten().is_some_and(|id| self.take_in(path, id))
    }

    /// Lets a temporary file change names with the one at `to`, which is `path` behind links, if the last save has put
    /// that there; `None` where the one at `to` is to be replaced.
    pub(super) fn exchange(&self, new: &mut TempFile<'_>, to: &Path, path: &Path) -> Option<Outgoing<'_>> {
        if !self.is_ours() {
            return None;
        }
        let placed = {
            let state = self.state.lock();
            id_of(&state.placed, path).filter(|_| !state.no_exchange)
        };
        let id = placed.filter(|id| self.wants(path, id.size))?;
        if !remove::stands(&*self.storage, path, id).unwrap_or(false) {
            return None;
        }
        let name = path.with_file_name(new.path().file_name()?);
        match new.exchange(to) {
            Ok(()) => Some(Outgoing { spares: self, name: Some(name), id }),
            Err(e) => {
                self.state.lock().no_exchange |= e.kind() == io::ErrorKind::Unsupported;
                None
            }
        }
    }

    /// Gives up all spares; whether there were any.
    pub fn release(&self) -> bool {
        if !self.is_ours() {
            return false;
        }
        let spares = std::mem::take(&mut self.state.lock().spares);
        let any = !spares.is_empty();
        spares.iter().for_each(|spare| self.remove(&spare.path));
        any
    }

    /// Whether what goes from now on may have a name on the disk that it seems not to have any more: then it is removed.
    pub fn distrust(&self, on: bool) {
        if self.is_ours() {
            self.state.lock().distrusted = on;
        }
    }

    /// Bytes of the spares on this device.
    pub fn bytes_on(&self, device: u64) -> u64 {
        if !self.is_ours() {
            return 0;
        }
        let state = self.state.lock();
        state.spares.iter().filter(|spare| spare.id.inode.0 == device).map(|spare| spare.id.size).sum()
    }

    /// Whether a file of `size` bytes at `path` is one to recycle.
    fn wants(&self, path: &Path, size: u64) -> bool {
        if self.recycle == Recycle::Off || !self.is_ours() {
            return false;
        }
        let state = self.state.lock();
        let spare: u64 = state.spares.iter().map(|spare| spare.id.size).sum();
        let fits = spare.checked_add(size).is_some_and(|all| all <= room_for(state.bytes));
        let helps = || size >= WORTH && is_ample(host::room(&state.dir), state.bytes);
        let fits = fits && state.spares.len() < MOST;
        fits && parent(path) == state.dir && (self.recycle == Recycle::On || helps())
    }

    /// Opens a file and takes its lock, so that no sweep takes it; `None` if it is not that file or somebody else has
    /// it.
    fn hold(&self, path: &Path, id: FileId) -> io::Result<Option<Box<dyn Handle>>> {
        let handle = retry(|| self.storage.reopen(path))?;
        // With its lock, and then by its name: a sweep that had the lock before has removed it.
        let is_it = retry(|| handle.attributes())?.id == id
            && retry(|| handle.try_lock())?
            && remove::stands(&*self.storage, path, id)?;
        Ok(is_it.then_some(handle))
    }

    /// Keeps a file that has been moved away, or removes it.
    fn keep(&self, spare: Spare) {
        let alone = self.is_nobody_elses(&spare).unwrap_or(false);
        let mut state = self.state.lock();
        if alone && !state.distrusted {
            state.spares.push(spare);
        } else {
            drop(state);
            self.remove(&spare.path);
        }
    }

    fn remove(&self, path: &Path) {
        // Nothing is left to do about an error here: the next sweep tries again.
        let _ = retry(|| self.storage.remove(path));
    }

    /// Whether this still is the process that made it. A forked child has copies of all this, but the files are its
    /// parent's; and a lock here may be one that a thread of the parent held.
    fn is_ours(&self) -> bool {
        self.owner == process::id()
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Spares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spares").field("recycle", &self.recycle).finish_non_exhaustive()
    }
}

/// Which file a save has put at this path.
fn id_of(saved: &Written, path: &Path) -> Option<FileId> {
    let beside = saved.companions.iter().find(|(beside, _)| beside == path);
    if saved.path == path { Some(saved.id) } else { beside.map(|(_, id)| *id) }
}

/// Bytes that spares may have where a checkpoint has `bytes`: the one before it can have been a little larger.
fn room_for(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 8)
}

/// Whether a checkpoint of `bytes` can be kept without need where there is this room.
fn is_ample(room: Option<host::Room>, bytes: u64) -> bool {
    room.is_some_and(|room| {
        !room.in_memory && room.free / AMPLE.0 >= bytes && room.free >= room.total / AMPLE.1
    })
}

/// The file that had the name of a new one, under the new one's temporary name. Dropped before [`Outgoing::keep`], it
/// is removed.
pub(super) struct Outgoing<'a> {
    spares: &'a Spares,
    /// Until it is kept.
    name: Option<PathBuf>,
    id: FileId,
}

impl Outgoing<'_> {
    /// The new one has the name, on the disk too where that is so: the old one is a spare, if it can be one.
    pub fn keep(mut self, synced: bool) {
        let Some(name) = &self.name else { return };
        let Ok(Some(handle)) = self.spares.hold(name, self.id) else { return };
        // A sweep that has opened the new file by this name, before it had its own, may be about to remove the name.
        let path = name.with_file_name(unique_name());
        if retry(|| self.spares.storage.rename(name, &path)).is_ok() {
            self.name = None;
            self.spares.keep(Spare { path, id: self.id, handle, synced });
        }
    }
}

impl Drop for Outgoing<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.spares.remove(name);
        }
    }
}

#[cfg(test)]
mod tests;
