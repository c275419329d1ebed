//! Storages that do the steps of a commit wrongly: what a torture that can see must catch.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ckpt::engine::Storage;
use ckpt::engine::queue::Queue;
use ckpt::engine::storage::{Attributes, Handle, Info};

/// What is done wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A file is never synced.
    NoSync,
    /// A directory is never synced.
    NoDirSync,
    /// A file has its name before it is synced.
    RenameFirst,
    /// What a save supersedes goes before the directory that has the new one is synced.
    RemoveFirst,
    /// The index of shards has its name before they have theirs.
    IndexFirst,
}

/// A storage that does it.
pub struct Mutant {
    storage: Arc<dyn Storage>,
    mutation: Mutation,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Names that are given later.
    held: Vec<(PathBuf, PathBuf)>,
    /// The newest file that has its name, and the one before it.
    placed: Option<PathBuf>,
    superseded: Option<PathBuf>,
}

struct MutantHandle {
    handle: Box<dyn Handle>,
    syncs: bool,
}

impl Mutant {
    pub fn new(mutation: Mutation, storage: Arc<dyn Storage>) -> Mutant {
        Mutant { storage, mutation, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, handle: io::Result<Box<dyn Handle>>) -> io::Result<Box<dyn Handle>> {
        let syncs = !matches!(self.mutation, Mutation::NoSync | Mutation::RenameFirst);
        Ok(Box::new(MutantHandle { handle: handle?, syncs }))
    }

    /// A file is to have its name, by `give`.
    fn place(&self, from: &Path, to: &Path, give: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let is_ours = to.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".ckpt-"));
        if is_ours {
            return give();
        }
        let mut state = self.state();
        match self.mutation {
            Mutation::IndexFirst if !to.to_string_lossy().ends_with(".weights.json") => {
                state.held.push((from.to_owned(), to.to_owned()));
                Ok(())
            }
            Mutation::IndexFirst => {
                give()?;
                state.held.drain(..).try_for_each(|(from, to)| self.storage.rename(&from, &to))
            }
            Mutation::RenameFirst => {
                give()?;
                self.storage.open(to)?.sync()
            }
            Mutation::RemoveFirst => {
                state.superseded = state.placed.replace(to.to_owned()).filter(|placed| placed != to);
                give()
            }
            Mutation::NoSync | Mutation::NoDirSync => give(),
        }
    }
}

impl Storage for Mutant {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn Handle>> {
        self.file(self.storage.create(path, mode))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        self.file(self.storage.open(path))
    }
    fn reopen(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        self.file(self.storage.reopen(path))
    }
    fn read(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.storage.read(path, offset, buf)
    }
    fn info(&self, path: &Path) -> io::Result<Info> {
        self.storage.info(path)
    }
    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        self.storage.real_path(path)
    }
    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.storage.read_link(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.place(from, to, || self.storage.rename(from, to))
    }
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.place(one, other, || self.storage.exchange(one, other))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.storage.remove(path)
    }
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.storage.make_dir(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.storage.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.mutation == Mutation::NoDirSync {
            return Ok(());
        }
        if let Some(superseded) = self.state().superseded.take() {
            self.storage.remove(&superseded)?;
        }
        self.storage.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.storage.list(path)
    }
    fn queue(&self, path: &Path) -> io::Result<Box<dyn Queue>> {
        self.storage.queue(path)
    }
}

impl Handle for MutantHandle {
    fn try_lock(&self) -> io::Result<bool> {
        self.handle.try_lock()
    }
    fn inode(&self) -> io::Result<(u64, u64)> {
        self.handle.inode()
    }
    fn descriptor(&self) -> Option<RawFd> {
        self.handle.descriptor()
    }
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.handle.set_mode(mode)
    }
    fn attributes(&self) -> io::Result<Attributes> {
        self.handle.attributes()
    }
    fn is_unshared(&self) -> io::Result<bool> {
        self.handle.is_unshared()
    }
    fn preallocate(&self, size: u64) -> io::Result<()> {
        self.handle.preallocate(size)
    }
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.handle.write_at(parts, offset)
    }
    fn writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        self.handle.writeback(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        if self.syncs { self.handle.sync() } else { Ok(()) }
    }
    fn flush(&self) -> io::Result<()> {
        self.handle.flush()
    }
}
