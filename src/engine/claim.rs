//! The lock file of a template: which process may save under it.
//!
//! The file is in the template's directory, held by its lock, which goes with its process; a record in it says whose it
//! is. Where a process has died and left the lock to a child that it had forked, the file is replaced. Whoever takes,
//! replaces or judges a lock file has a turn, which is a lock file too, but there for a moment only: nobody reads a
//! record that is not the holder's, and nobody replaces a file that another one has just put there.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Status};

use super::destination::MadeDirs;
use super::forks::{Listed, PerProcess};
use super::holder::{Holder, MOST};
use super::storage::{Handle, Storage, read_full, retry, write_all};

/// How the name of every lock file begins.
pub const LOCK_PREFIX: &str = ".ckpt-lock";

/// What the name of a turn ends in.
const TURN: &str = "-turn";

/// How often a turn is asked for, and how long to wait between.
const PATIENCE: (u32, Duration) = (2000, Duration::from_millis(5));

/// Times to put a lock file in its place before giving up: each can be lost to one who looks whether it is free.
const TRIES: u32 = 32;

/// Permissions, less the process' umask, of lock files: every user is to be able to read whose they are.
const MODE: u32 = 0o666;

/// The lock files that this process holds.
static HELD: PerProcess<Mutex<Vec<Held>>> = PerProcess::new();

/// How many this process has taken.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A lock file that this process holds, for all of its sessions that share it.
struct Held {
    /// Its number among those that this process has taken.
    number: u64,
    storage: Arc<dyn Storage>,
    file: PathBuf,
    inode: (u64, u64),
    shares: usize,
    /// Before the handle, which closes it.
    listed: Option<Listed>,
    handle: Box<dyn Handle>,
}

/// A session's part in a lock file that its process holds.
struct Share {
    storage: Arc<dyn Storage>,
    file: PathBuf,
    inode: (u64, u64),
    /// Of its [`Held`].
    number: u64,
    /// The process whose it is: a forked child has none of it.
    holder: Holder,
    owner: u32,
}

/// Why a template could not be claimed.
#[derive(Debug)]
pub enum Refusal {
    /// A process has its lock file.
    Held {
        /// Which.
        by: Holder,
        /// The lock file.
        file: PathBuf,
    },
    /// The lock file could not be made, which says nothing of other processes.
    Failed(Error),
}

/// A session's claim to a template. Dropped, it is given up; with the last one in the process the lock file goes.
pub struct Claim {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    None,
    Held(Share),
    /// Files cannot be locked here.
    NoLocks,
}

impl Claim {
    /// One to the template that goes on with `below` in `dir`; not taken yet.
    ///
    /// The lock file is in the directory, whatever path leads there, so that its name tells the rest alone.
    pub fn new(storage: Arc<dyn Storage>, dir: &Path, below: &str) -> Claim {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let name = format!("{LOCK_PREFIX}-{:016x}", hash(below));
        Claim { storage, dir: dir.to_owned(), name, state: Mutex::default() }
    }

    /// Takes the lock file, unless this session has it already.
    ///
    /// `make`: the directory is made, durably or not, if it is not there; it goes again with the result, and the lock
    /// file in it, unless that is kept.
    pub fn take(&self, make: Option<bool>) -> Result<Taken<'_>, Refusal> {
        let mut state = lock(&self.state);
        let mut made = MadeDirs::new(&*self.storage);
        let former = match &*state {
            State::NoLocks => return Ok(Taken { claim: self, made }),
            State::Held(share) if share.stands() => return Ok(Taken { claim: self, made }),
            State::Held(share) if !share.is_ours() => Some(share.holder.clone()),
            State::Held(_) | State::None => None,
        };
        match self.share(&mut made, make) {
            Ok(share) => *state = State::Held(share),
            // By the process that this one was forked from, whose session this is.
            Err(Refusal::Held { by, .. }) if Some(&by) == former.as_ref() => {}
            Err(refusal) => {
                if matches!(&refusal, Refusal::Failed(e) if e.status() == Status::Unsupported) {
                    *state = State::NoLocks;
                }
                return Err(refusal);
            }
        }
        Ok(Taken { claim: self, made })
    }

    /// Whether it may be that the lock file can be had now.
    pub fn seems_free(&self) -> bool {
        let storage = &*self.storage;
        let Ok(dir) = retry(|| storage.real_path(&self.dir)) else { return true };
        let file = dir.join(&self.name);
        let Ok(handle) = retry(|| storage.open(&file)) else { return true };
        match retry(|| handle.try_lock()) {
            Ok(false) => record(storage, &file).is_none_or(|holder| holder.has_ended()),
            Ok(true) | Err(_) => true,
        }
    }

    /// A part in the lock file.
    fn share(&self, made: &mut MadeDirs<'_>, make: Option<bool>) -> Result<Share, Refusal> {
        let storage = &*self.storage;
        let mut dir = retry(|| storage.real_path(&self.dir));
        if let (Err(e), Some(durable)) = (&dir, make)
            && e.kind() == io::ErrorKind::NotFound
        {
            made.make(&self.dir)?;
            if durable {
                made.sync()?;
            }
            dir = retry(|| storage.real_path(&self.dir));
        }
        let file = dir.map_err(|e| Error::io("make a lock file in", &self.dir, &e))?.join(&self.name);
        if let Some(share) = self.join(&file) {
            return Ok(share);
        }
        let not_made = |e: io::Error| match e.kind() {
            io::ErrorKind::Unsupported => {
                Error::new(Status::Unsupported, format!("cannot lock '{}': {e}", file.display()))
            }
            _ => Error::io("make the lock file", &file, &e),
        };
        let turn = Turn::wait(storage, &file).map_err(not_made)?;
        // Another thread may have had a turn before.
        if let Some(share) = self.join(&file) {
            return Ok(share);
        }
        let holder = Holder::this();
        let (handle, inode) = match place(storage, &file, &holder).map_err(not_made)? {
            Ok(placed) => placed,
            Err(by) => return Err(Refusal::Held { by, file }),
        };
        let (number, listed) = (COUNT.fetch_add(1, Relaxed), handle.descriptor().map(Listed::new));
        let (storage, path) = (self.storage.clone(), file.clone());
        held().push(Held { number, storage, file: path, inode, shares: 1, listed, handle });
        drop(turn);
        Ok(self.part(file, inode, number, holder))
    }

    /// A part in the lock file that this process has already.
    fn join(&self, file: &Path) -> Option<Share> {
        let there = retry(|| self.storage.info(file)).ok()?.id.inode;
        let mut all = held();
        // By its number a file is known among those of the system only.
        let ours = all.iter_mut().find(|held| held.inode == there && held.listed.is_some())?;
        ours.shares += 1;
        Some(self.part(file.to_owned(), there, ours.number, Holder::this()))
    }

    fn part(&self, file: PathBuf, inode: (u64, u64), number: u64, holder: Holder) -> Share {
        Share { storage: self.storage.clone(), file, inode, number, holder, owner: process::id() }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("dir", &self.dir).field("name", &self.name).finish_non_exhaustive()
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Refusal {
        Refusal::Failed(e)
    }
}

/// A claim that has been taken, with the directories that were made for its lock file. Dropped, those go again.
pub struct Taken<'a> {
    claim: &'a Claim,
    made: MadeDirs<'a>,
}

impl Taken<'_> {
    /// The directories are of use; gives them behind links, outermost first.
    pub fn keep(mut self) -> Vec<PathBuf> {
        let made = std::mem::replace(&mut self.made, MadeDirs::new(&*self.claim.storage));
        let storage = &self.claim.storage;
        let dirs = made.dirs().iter().filter_map(|dir| retry(|| storage.real_path(dir)).ok()).collect();
        made.keep();
        dirs
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.made.dirs().is_empty() {
            // Before the directory that it is in.
            *lock(&self.claim.state) = State::None;
        }
    }
}

impl Share {
    fn is_ours(&self) -> bool {
        self.owner == process::id()
    }

    /// Whether this process has the file, and that still is the lock file.
    fn stands(&self) -> bool {
        self.is_ours() && stands(&*self.storage, &self.file, self.inode)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        let mut all = held();
        let Some(at) = all.iter().position(|held| held.number == self.number) else { return };
        all[at].shares -= 1;
        if all[at].shares > 0 {
            return;
        }
        let held = all.swap_remove(at);
        held.remove();
        drop(held.listed);
        drop(held.handle);
    }
}

impl Held {
    /// Removes the file, if it still is that one, while it is held. An error leaves a file that whoever comes next
    /// takes.
    fn remove(&self) {
        if stands(&*self.storage, &self.file, self.inode) {
            let _ = retry(|| self.storage.remove(&self.file));
        }
    }
}

/// Removes the lock files that this process holds, when it ends. Until it has they are held, but a save that comes all
/// the same makes its own anew.
pub fn remove_all() {
    held().iter().for_each(Held::remove);
}

/// Whether a lock file still is that one; where that cannot be told, it is.
fn stands(storage: &dyn Storage, file: &Path, inode: (u64, u64)) -> bool {
    match retry(|| storage.info(file)) {
        Ok(info) => info.id.inode == inode,
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    }
}

/// The right to take or replace a lock file.
struct Turn<'a> {
    storage: &'a dyn Storage,
    file: PathBuf,
    _handle: Box<dyn Handle>,
}

impl<'a> Turn<'a> {
    fn wait(storage: &'a dyn Storage, lock_file: &Path) -> io::Result<Turn<'a>> {
        let mut file = lock_file.as_os_str().to_owned();
        file.push(TURN);
        let file = PathBuf::from(file);
        for _ in 0..PATIENCE.0 {
            let (handle, is_new) = match retry(|| storage.open(&file)) {
                Ok(handle) => (handle, false),
                Err(e) if e.kind() == io::ErrorKind::NotFound => match create(storage, &file)? {
                    Some(handle) => (handle, true),
                    None => continue,
                },
                Err(e) => return Err(e),
            };
            let locked = match retry(|| handle.try_lock()) {
                // Who had it before may have removed it since it was opened.
                Ok(true) => is_at(storage, &file, &*handle),
                busy => busy,
            };
            match locked {
                Ok(true) => return Ok(Turn { storage, file, _handle: handle }),
                Ok(false) => thread::sleep(PATIENCE.1),
                Err(e) => {
                    if is_new {
                        let _ = retry(|| storage.remove(&file));
                    }
                    return Err(e);
                }
            }
        }
        let message = format!("another process has '{}' and does not let go", file.display());
        Err(io::Error::new(io::ErrorKind::WouldBlock, message))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // While it is held. An error leaves a file that whoever comes next takes.
        let _ = retry(|| self.storage.remove(&self.file));
    }
}

/// Makes a file; `None` where it is there.
fn create(storage: &dyn Storage, file: &Path) -> io::Result<Option<Box<dyn Handle>>> {
    match retry(|| storage.create(file, MODE)) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        handle => handle.map(Some),
    }
}

/// Whether the path still is that of the open file.
fn is_at(storage: &dyn Storage, file: &Path, handle: &dyn Handle) -> io::Result<bool> {
    let inode = retry(|| handle.inode())?;
    match retry(|| storage.info(file)) {
        Ok(info) => Ok(info.id.inode == inode),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// What has been put in place: the open file, locked, and which it is; or who has it.
type Placed = Result<(Box<dyn Handle>, (u64, u64)), Holder>;

/// Puts a new lock file in place of one that nobody has, or that a dead process has left to a child; for whoever has the
/// turn.
fn place(storage: &dyn Storage, file: &Path, holder: &Holder) -> io::Result<Placed> {
    for _ in 0..TRIES {
        match retry(|| storage.open(file)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(handle) => {
                if !retry(|| handle.try_lock())? {
                    match record(storage, file) {
                        // Its holder has just given it up.
                        None => continue,
                        Some(other) if !other.has_ended() => return Ok(Err(other)),
                        Some(_) => {}
                    }
                }
                match retry(|| storage.remove(file)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        let Some(handle) = create(storage, file)? else { continue };
        let write = || {
            let locked = retry(|| handle.try_lock())?;
            let record = holder.to_record();
            write_all(&*handle, &mut [IoSlice::new(record.as_bytes())], 0)?;
            Ok(locked.then_some(retry(|| handle.inode())?))
        };
        match write() {
            Ok(Some(inode)) => return Ok(Ok((handle, inode))),
            // One who looks whether it is free has it, for a moment.
            Ok(None) => {}
            Err(e) => {
                let _ = retry(|| storage.remove(file));
                return Err(e);
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "others look at the lock file all the time"))
}

/// Who has written the lock file; `None` where it is gone.
fn record(storage: &dyn Storage, file: &Path) -> Option<Holder> {
    let mut bytes = [0; MOST];
    match read_full(storage, file, 0, &mut bytes) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        len => Some(Holder::from_record(bytes.get(..len.unwrap_or(0)).unwrap_or_default())),
    }
}

fn held() -> MutexGuard<'static, Vec<Held>> {
    lock(HELD.get())
}

/// A lock of the standard library's: a panic elsewhere was caught and reported there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// FNV-1a: the same in every version of this library.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
