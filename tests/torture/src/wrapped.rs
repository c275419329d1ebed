//! A storage, with somebody who is asked before each call of the seam and told after it.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ckpt::engine::Storage;
use ckpt::engine::queue::{Ended, Queue, Write};
use ckpt::engine::storage::{Attributes, Handle, Info};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Go,
    /// It fails, and nothing is done.
    Fail(i32),
    /// Of the bytes it takes a part.
    Short,
}

/// Who is asked.
pub trait Hook: Send + Sync + 'static {
    fn before(&self, call: &'static str) -> Turn;
    fn after(&self, call: &'static str);
}

/// A storage, and a hook.
pub struct Wrapped(pub Arc<dyn Hook>, pub Arc<dyn Storage>);

struct WrappedHandle(Arc<dyn Hook>, Option<Box<dyn Handle>>);

fn call<T>(hook: &Arc<dyn Hook>, what: &'static str, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if let Turn::Fail(code) = hook.before(what) {
        return Err(io::Error::from_raw_os_error(code));
    }
    let result = make();
    hook.after(what);
    result
}

impl Wrapped {
    fn call<T>(&self, what: &'static str, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        call(&self.0, what, make)
    }

    fn file(
        &self,
        what: &'static str,
        open: impl FnOnce() -> io::Result<Box<dyn Handle>>,
    ) -> io::Result<Box<dyn Handle>> {
        let handle = self.call(what, open)?;
        Ok(Box::new(WrappedHandle(self.0.clone(), Some(handle))))
    }
}

impl Storage for Wrapped {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn Handle>> {
        self.file("create", || self.1.create(path, mode))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        self.file("open", || self.1.open(path))
    }
    fn reopen(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        self.file("reopen", || self.1.reopen(path))
    }
    fn read(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.call("read", || self.1.read(path, offset, buf))
    }
    fn info(&self, path: &Path) -> io::Result<Info> {
        self.call("info", || self.1.info(path))
    }
    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        self.call("real_path", || self.1.real_path(path))
    }
    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.call("read_link", || self.1.read_link(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("rename", || self.1.rename(from, to))
    }
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.call("exchange", || self.1.exchange(one, other))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call("remove", || self.1.remove(path))
    }
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.call("make_dir", || self.1.make_dir(path))
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.call("remove_dir", || self.1.remove_dir(path))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call("sync_dir", || self.1.sync_dir(path))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.call("list", || self.1.list(path))
    }
    fn queue(&self, path: &Path) -> io::Result<Box<dyn Queue>> {
        let queue = self.call("queue", || self.1.queue(path))?;
        Ok(Box::new(WrappedQueue { hook: self.0.clone(), queue, held: Vec::new(), cut: Vec::new() }))
    }
}

impl WrappedHandle {
    fn call<T>(&self, what: &'static str, make: impl FnOnce(&dyn Handle) -> io::Result<T>) -> io::Result<T> {
        call(&self.0, what, || self.1.as_deref().ok_or(io::ErrorKind::NotFound.into()).and_then(make))
    }
}

impl Handle for WrappedHandle {
    fn try_lock(&self) -> io::Result<bool> {
        self.call("try_lock", |handle| handle.try_lock())
    }
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.call("set_mode", |handle| handle.set_mode(mode))
    }
    fn attributes(&self) -> io::Result<Attributes> {
        self.call("attributes", |handle| handle.attributes())
    }
    fn is_unshared(&self) -> io::Result<bool> {
        self.call("is_unshared", |handle| handle.is_unshared())
    }
    fn preallocate(&self, size: u64) -> io::Result<()> {
        self.call("preallocate", |handle| handle.preallocate(size))
    }
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let turn = self.0.before("write_at");
        if let Turn::Fail(code) = turn {
            return Err(io::Error::from_raw_os_error(code));
        }
        let half = parts.first().map(|part| IoSlice::new(&part[..part.len().div_ceil(2)]));
        let some = half.as_ref().filter(|_| turn == Turn::Short).map_or(parts, std::slice::from_ref);
        let result = self.1.as_deref().map_or(Ok(0), |handle| handle.write_at(some, offset));
        self.0.after("write_at");
        result
    }
    fn writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        self.call("writeback", |handle| handle.writeback(offset, len))
    }
    fn sync(&self) -> io::Result<()> {
        self.call("sync", |handle| handle.sync())
    }
    fn flush(&self) -> io::Result<()> {
        self.call("flush", |handle| handle.flush())
    }
}

impl Drop for WrappedHandle {
    fn drop(&mut self) {
        // It cannot fail here: `flush` tells of that.
        self.0.before("close");
        self.1 = None;
        self.0.after("close");
    }
}

/// A queue whose writes end in the other order, and fail or are short where the hook says so.
struct WrappedQueue {
    hook: Arc<dyn Hook>,
    queue: Box<dyn Queue>,
    /// What has ended and has not been asked for.
    held: Vec<Ended>,
    /// Writes that were cut short: where, up to where they were to go, how much they say was written.
    cut: Vec<(u64, usize, usize)>,
}

const PAGE: usize = 4096;

impl Queue for WrappedQueue {
    fn push(&mut self, mut write: Write) -> io::Result<()> {
        match self.hook.before("push") {
            // The ring tries again itself.
            Turn::Fail(libc::EINTR) | Turn::Go | Turn::Short => {}
            Turn::Fail(code) => return Err(io::Error::from_raw_os_error(code)),
        }
        let half = write.range.len() / 2 / PAGE * PAGE;
        match self.hook.before("write") {
            Turn::Fail(code) => {
                self.held.push((write, Err(io::Error::from_raw_os_error(code))));
                return Ok(());
            }
            Turn::Short if half > 0 => {
                // Whole pages, and parts of them, in turn.
                let says = if self.cut.len().is_multiple_of(2) { half } else { half - 100 };
                self.cut.push((write.offset, write.range.end, says));
                write.range.end = write.range.start + half;
            }
            _ => {}
        }
        self.queue.push(write)?;
        self.hook.after("push");
        Ok(())
    }

    fn pop(&mut self) -> io::Result<Option<Ended>> {
        match self.hook.before("reap") {
            Turn::Fail(libc::EINTR | libc::EAGAIN) | Turn::Go | Turn::Short => {}
            Turn::Fail(code) => {
                // Broken: what was under way is lost.
                while self.queue.pop()?.is_some() {}
                self.held.clear();
                return Err(io::Error::from_raw_os_error(code));
            }
        }
        while let Some((mut write, mut result)) = self.queue.pop()? {
            if let Some(i) = self.cut.iter().position(|(at, ..)| *at == write.offset) {
                let (_, end, says) = self.cut.swap_remove(i);
                write.range.end = end;
                result = result.map(|n| n.min(says));
            }
            self.held.push((write, result));
        }
        self.hook.after("reap");
        Ok(self.held.pop())
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight() + self.held.len()
    }
}
