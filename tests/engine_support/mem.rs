//! A file system in memory that fails, dies or is used by others at the call that a test chooses, and that knows what
//! a loss of power would leave of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(not(ckpt_shuttle))]
use std::sync::{Mutex, MutexGuard};

use ckpt::engine::storage::{Attributes, FileId, Handle, Info, Kind};
use ckpt::engine::{Storage, sweep};
#[cfg(ckpt_shuttle)]
use ckpt::sync::{Mutex, MutexGuard};

/// What a name stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Dir,
    Link(PathBuf),
    File(usize),
}

/// A change of names that may not be on the disk yet.
#[derive(Clone, Debug)]
enum Change {
    Set(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
    Exchange([(PathBuf, Node); 2]),
}

pub type Names = BTreeMap<PathBuf, Node>;

/// The bytes of files by their paths.
pub type Files = BTreeMap<String, Vec<u8>>;

impl Change {
    fn dir(&self) -> &Path {
        let (Change::Set(path, _)
        | Change::Remove(path)
        | Change::Rename(path, ..)
        | Change::Exchange([(path, _), _])) = self;
        path.parent().unwrap()
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Change::Set(path, node) => {
                names.insert(path.clone(), node.clone());
            }
            Change::Remove(path) => {
                names.remove(path);
            }
            Change::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), node.clone());
            }
            Change::Exchange(both) => names.extend(both.iter().cloned()),
        }
    }
}

#[derive(Clone, Default)]
pub struct Inode {
    pub bytes: Vec<u8>,
    /// What a loss of power leaves of it.
    pub durable: Vec<u8>,
    pub mode: u32,
    pub locked: bool,
    /// How often it has been written to; this is its time.
    pub writes: i64,
    /// Its open handles.
    pub opens: u32,
    pub labels: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What happens at one of the calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The call fails, once.
    Errno(i32),
    /// Nothing reaches the disk from this call on.
    Death,
    /// Another process does something before the call: [`State::meanwhile`].
    Meanwhile,
}

pub struct State {
    pub inodes: Vec<Inode>,
    pub names: Names,
    pub durable: Names,
    pending: Vec<Change>,
    pub calls: Vec<&'static str>,
    pub fault: Fault,
    pub at: usize,
    /// At first a sweep.
    pub meanwhile: fn(&Mem),
    /// Bytes that a write takes at most.
    pub most: usize,
    /// These calls always fail.
    pub broken: Option<(&'static str, i32)>,
    /// These are not to be had.
    pub unsupported: Option<&'static str>,
    pub locks: bool,
    /// Bytes that it has, if it is not endless.
    pub capacity: Option<u64>,
    /// Bytes that it says are free, and gives to nobody.
    pub reserve: u64,
}

/// A file system in memory that knows what is on its disk.
#[derive(Clone)]
pub struct Mem(pub Arc<Mutex<State>>);

struct MemHandle(Mem, usize, Mutex<bool>);

fn errno(n: i32) -> io::Error {
    io::Error::from_raw_os_error(n)
}

impl Mem {
    pub fn new(fault: Fault, at: usize) -> Mem {
        let names = Names::from([("/".into(), Node::Dir), ("/d".into(), Node::Dir)]);
        Mem(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            durable: names.clone(),
            names,
            pending: Vec::new(),
            calls: Vec::new(),
            fault,
            at,
            meanwhile: |mem| drop(sweep(mem, Path::new("/d")).unwrap()),
            most: usize::MAX,
            broken: None,
            unsupported: None,
            locks: true,
            capacity: None,
            reserve: 0,
        })))
    }

    /// Puts a node where it has been for long.
    pub fn put(&self, path: &str, node: Node) {
        let mut s = self.0.lock().unwrap();
        s.names.insert(path.into(), node.clone());
        s.durable.insert(path.into(), node);
    }

    /// Puts a file where it has been for long.
    pub fn put_file(&self, path: &str, bytes: &[u8]) {
        let mut s = self.0.lock().unwrap();
        s.inodes.push(Inode {
            bytes: bytes.to_vec(),
            durable: bytes.to_vec(),
            mode: 0o640,
            ..Inode::default()
        });
        let node = Node::File(s.inodes.len() - 1);
        drop(s);
        self.put(path, node);
    }

    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        let s = self.0.lock().unwrap();
        match s.names.get(Path::new(path)) {
            Some(&Node::File(i)) => Some(s.inodes[i].bytes.clone()),
            _ => None,
        }
    }

    pub fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().names.keys().map(|p| p.display().to_string()).collect()
    }

    /// What `path` can be after a loss of power now.
    pub fn after_power_loss(&self, path: &str) -> Vec<Option<Vec<u8>>> {
        let outcomes = self.outcomes();
        let s = self.0.lock().unwrap();
        let found = |names: &Names| match names.get(Path::new(path)) {
            Some(&Node::File(i)) => Some(s.inodes[i].durable.clone()),
            _ => None,
        };
        outcomes.iter().map(found).collect()
    }

    /// The files that there can be after a loss of power now.
    pub fn all_after_power_loss(&self) -> Vec<Files> {
        self.outcomes().iter().map(|names| self.files_of(names, |inode| &inode.durable)).collect()
    }

    /// The files as they are.
    pub fn files(&self) -> Files {
        let names = self.0.lock().unwrap().names.clone();
        self.files_of(&names, |inode| &inode.bytes)
    }

    fn files_of(&self, names: &Names, bytes: fn(&Inode) -> &Vec<u8>) -> Files {
        let s = self.0.lock().unwrap();
        let file = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(i) => Some((path.display().to_string(), bytes(&s.inodes[*i]).clone())),
            _ => None,
        };
        names.iter().filter_map(file).collect()
    }

    /// The names that there can be after a loss of power now: any of the pending changes may have arrived, or, where
    /// those are too many, any beginning of them.
    fn outcomes(&self) -> Vec<Names> {
        let s = self.0.lock().unwrap();
        let arrived = |which: &dyn Fn(usize) -> bool| {
            let mut names = s.durable.clone();
            let changes = s.pending.iter().enumerate().filter(|(i, _)| which(*i));
            changes.for_each(|(_, change)| change.apply(&mut names));
            let reached = |path: &PathBuf| path.ancestors().all(|p| names.contains_key(p));
            names.iter().filter(|(path, _)| reached(path)).map(|(p, n)| (p.clone(), n.clone())).collect()
        };
        match s.pending.len() {
            n @ ..=10 => (0..1 << n).map(|set: u32| arrived(&|i| set >> i & 1 == 1)).collect(),
            n => (0..=n).map(|end| arrived(&|i| i < end)).collect(),
        }
    }

    fn handle(&self, mut s: MutexGuard<'_, State>, inode: usize) -> Box<dyn Handle> {
        s.inodes[inode].opens += 1;
        Box::new(MemHandle(self.clone(), inode, Mutex::new(false)))
    }

    /// Counts a call, and lets it fail where it is its turn.
    fn call(&self, what: &'static str) -> io::Result<MutexGuard<'_, State>> {
        let mut s = self.0.lock().unwrap();
        let n = s.calls.len();
        s.calls.push(what);
        match s.fault {
            Fault::Errno(e) if n == s.at => return Err(errno(e)),
            Fault::Death if n >= s.at => return Err(errno(libc::EIO)),
            Fault::Meanwhile if n == s.at => {
                s.fault = Fault::None;
                let meanwhile = s.meanwhile;
                drop(s);
                meanwhile(self);
                s = self.0.lock().unwrap();
            }
            _ => {}
        }
        match s.broken {
            _ if s.unsupported == Some(what) => Err(io::ErrorKind::Unsupported.into()),
            Some((which, e)) if which == what => Err(errno(e)),
            _ => Ok(s),
        }
    }
}

/// What is on the disk of a file that is written anew, until it is synced.
const TORN: &[u8] = b"half of each";

impl Inode {
    /// Its bytes, which are to be changed.
    fn written(&mut self) -> &mut Vec<u8> {
        self.writes += 1;
        if !self.durable.is_empty() {
            self.durable = TORN.to_vec();
        }
        &mut self.bytes
    }
}

impl State {
    fn id(&self, inode: usize) -> FileId {
        let (size, time) = (self.inodes[inode].bytes.len() as u64, self.inodes[inode].writes);
        FileId { inode: (0, inode as u64 + 1), size, modified: (time, 0) }
    }

    /// Bytes that can still be written, if there is an end to them.
    fn free(&self) -> Option<u64> {
        let is_used = |(i, inode): &(usize, &Inode)| inode.opens > 0 || self.links(*i) > 0;
        let used: u64 =
            self.inodes.iter().enumerate().filter(is_used).map(|(_, i)| i.bytes.len() as u64).sum();
        Some(self.capacity?.saturating_sub(used))
    }

    fn links(&self, inode: usize) -> u64 {
        self.names.values().filter(|node| **node == Node::File(inode)).count() as u64
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn need_dir(&self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Node::Dir) => Ok(()),
            Some(_) => Err(errno(libc::ENOTDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }
}

impl Storage for Mem {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn Handle>> {
        let mut s = self.call("create")?;
        s.need_dir(path.parent().unwrap())?;
        if s.names.contains_key(path) {
            return Err(errno(libc::EEXIST));
        }
        s.inodes.push(Inode { mode: mode & !0o022, ..Inode::default() });
        let id = s.inodes.len() - 1;
        s.change(Change::Set(path.into(), Node::File(id)));
        Ok(self.handle(s, id))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        let s = self.call("open")?;
        match s.names.get(path) {
            Some(&Node::File(id)) => Ok(self.handle(s, id)),
            _ => Err(errno(libc::ENOENT)),
        }
    }

    fn reopen(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        let s = self.call("reopen")?;
        match s.names.get(path) {
            Some(&Node::File(id)) => Ok(self.handle(s, id)),
            _ => Err(errno(libc::ENOENT)),
        }
    }

    fn read(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let s = self.call("read")?;
        let Some(&Node::File(id)) = s.names.get(path) else { return Err(errno(libc::ENOENT)) };
        let rest = s.inodes[id].bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len()).min(s.most);
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn info(&self, path: &Path) -> io::Result<Info> {
        let s = self.call("info")?;
        let (kind, mode, id) = match s.names.get(path) {
            None => return Err(errno(libc::ENOENT)),
            Some(Node::Dir) => (Kind::Dir, 0o755, FileId::default()),
            Some(Node::Link(_)) => (Kind::Link, 0o777, FileId::default()),
            Some(&Node::File(i)) => (Kind::File, s.inodes[i].mode, s.id(i)),
        };
        Ok(Info { kind, mode, id })
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        let s = self.call("real_path")?;
        if s.names.contains_key(path) { Ok(path.to_owned()) } else { Err(errno(libc::ENOENT)) }
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        match self.call("read_link")?.names.get(path) {
            Some(Node::Link(to)) => Ok(to.clone()),
            _ => Err(errno(libc::EINVAL)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut s = self.call("rename")?;
        assert_eq!(from.parent(), to.parent(), "a rename into another directory needs both synced");
        let node = s.names.get(from).cloned().ok_or_else(|| errno(libc::ENOENT))?;
        // Between two names of one file it does nothing.
        if s.names.get(to) != Some(&node) {
            s.change(Change::Rename(from.into(), to.into(), node));
        }
        Ok(())
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        let mut s = self.call("exchange")?;
        assert_eq!(one.parent(), other.parent());
        let node = |path| s.names.get(path).cloned().ok_or_else(|| errno(libc::ENOENT));
        let both = [(one.into(), node(other)?), (other.into(), node(one)?)];
        s.change(Change::Exchange(both));
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut s = self.call("link")?;
        let node = s.names.get(from).cloned().ok_or_else(|| errno(libc::ENOENT))?;
        s.need_dir(to.parent().unwrap())?;
        if s.names.contains_key(to) {
            return Err(errno(libc::EEXIST));
        }
        s.change(Change::Set(to.into(), node));
        Ok(())
    }

    fn free_space(&self, dir: &Path) -> io::Result<Option<u64>> {
        if self.0.lock().unwrap().capacity.is_none() {
            return Ok(None);
        }
        let s = self.call("free_space")?;
        s.need_dir(dir)?;
        Ok(s.free().map(|free| free + s.reserve))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut s = self.call("remove")?;
        if !s.names.contains_key(path) {
            return Err(errno(libc::ENOENT));
        }
        s.change(Change::Remove(path.into()));
        Ok(())
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut s = self.call("make_dir")?;
        s.need_dir(path.parent().unwrap())?;
        if s.names.contains_key(path) {
            return Err(errno(libc::EEXIST));
        }
        s.change(Change::Set(path.into(), Node::Dir));
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut s = self.call("remove_dir")?;
        if s.names.keys().any(|p| p.parent() == Some(path)) {
            return Err(errno(libc::ENOTEMPTY));
        }
        s.change(Change::Remove(path.into()));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut s = self.call("sync_dir")?;
        s.need_dir(path)?;
        let (synced, pending): (Vec<_>, Vec<_>) = s.pending.drain(..).partition(|c| c.dir() == path);
        synced.iter().for_each(|change| change.apply(&mut s.durable));
        s.pending = pending;
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let s = self.call("list")?;
        s.need_dir(path)?;
        let inside = s.names.keys().filter(|p| p.parent() == Some(path));
        Ok(inside.map(|p| p.file_name().unwrap().to_owned()).collect())
    }
}

impl Handle for MemHandle {
    fn try_lock(&self) -> io::Result<bool> {
        let mut s = self.0.call("try_lock")?;
        if !s.locks {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut mine = self.2.lock().unwrap();
        *mine = *mine || !s.inodes[self.1].locked;
        s.inodes[self.1].locked = true;
        Ok(*mine)
    }

    fn inode(&self) -> io::Result<(u64, u64)> {
        Ok(self.0.call("inode")?.id(self.1).inode)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.0.call("set_mode")?.inodes[self.1].mode = mode;
        Ok(())
    }

    fn attributes(&self) -> io::Result<Attributes> {
        let s = self.0.call("attributes")?;
        let Inode { mode, labels, .. } = s.inodes[self.1].clone();
        Ok(Attributes { id: s.id(self.1), links: s.links(self.1), mode, owner: (0, 0), labels })
    }

    fn is_unshared(&self) -> io::Result<bool> {
        Ok(self.0.call("is_unshared")?.inodes[self.1].opens == 1)
    }

    fn preallocate(&self, size: u64) -> io::Result<()> {
        let mut s = self.0.call("preallocate")?;
        let more = size.saturating_sub(s.inodes[self.1].bytes.len() as u64);
        if s.free().is_some_and(|free| free < more) {
            return Err(errno(libc::ENOSPC));
        }
        s.inodes[self.1].written().resize(size as usize, 0);
        Ok(())
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut s = self.0.call("write_at")?;
        let bytes: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).take(s.most).collect();
        let offset = offset as usize;
        let file = s.inodes[self.1].written();
        file.resize(file.len().max(offset + bytes.len()), 0);
        file[offset..offset + bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn sync(&self) -> io::Result<()> {
        let mut s = self.0.call("sync")?;
        s.inodes[self.1].durable = s.inodes[self.1].bytes.clone();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.0.call("flush").map(|_| ())
    }
}

impl Drop for MemHandle {
    fn drop(&mut self) {
        let mut s = self.0.0.lock().unwrap();
        s.inodes[self.1].opens -= 1;
        if *self.2.lock().unwrap() {
            s.inodes[self.1].locked = false;
        }
    }
}
