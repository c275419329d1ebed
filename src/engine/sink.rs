//! Takes blocks of staging memory to their file: past the page cache, several at once, or through it.
#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::path::Path;

use super::arena::Block;
use super::queue::{DEPTH, Queue, Write};
use super::storage::{Handle, Storage, retry, write_all};
use super::tiles::PAGE;
use super::watch::Meter;

/// Bytes that go to the disk as one, early, so that the final sync finds little to do.
const WRITEBACK: u64 = 8 << 20;

/// A file while it is temporary.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub storage: &'a dyn Storage,
    pub path: &'a Path,
    pub handle: &'a dyn Handle,
}

/// The way of blocks into one file.
pub(super) struct Sink<'a> {
    target: Target<'a>,
    meter: &'a Meter<'a>,
    queue: Option<Box<dyn Queue>>,
    refusal: Option<io::Error>,
    early: Option<Early<'a>>,
}

impl<'a> Sink<'a> {
    /// Past the page cache.
    ///
    /// # Errors
    /// The file system, or the kernel, has no such way.
    pub fn direct(target: Target<'a>, meter: &'a Meter<'a>) -> io::Result<Sink<'a>> {
        let queue = retry(|| target.storage.queue(target.path))?;
        Ok(Sink { target, meter, queue: Some(queue), refusal: None, early: None })
    }

    /// Through the page cache; `durable`: the disk is told of the bytes at once.
    pub fn buffered(target: Target<'a>, meter: &'a Meter<'a>, durable: bool) -> Sink<'a> {
        let early = durable.then(|| Early::new(target.handle));
        Sink { target, meter, queue: None, refusal: None, early }
    }

    /// Begins to write the first `len` bytes of a block, whole pages, to `offset`.
    pub fn write(&mut self, block: Block, len: usize, offset: u64) -> io::Result<()> {
        if self.queue.is_none() {
            return self.plain(&block[..len], offset);
        }
        self.push(Write { block, range: 0..len, offset })
    }

    fn push(&mut self, write: Write) -> io::Result<()> {
        while self.queue.as_ref().is_some_and(|queue| queue.in_flight() >= DEPTH) {
            self.reap()?;
        }
        match &mut self.queue {
            Some(queue) => queue.push(write),
            None => self.plain(&write.block[write.range], write.offset),
        }
    }

    /// Whether a write is under way.
    pub fn is_busy(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.in_flight() > 0)
    }

    /// Waits until one block is written, and gives it back; `false` if none is under way.
    pub fn reap(&mut self) -> io::Result<bool> {
        let busy = self.is_busy();
        let Some((mut write, result)) = self.queue.as_mut().and_then(|queue| queue.pop()) else {
            return match busy {
                true => Err(io::Error::other("the queue of writes is broken, and what was in it is lost")),
                false => Ok(false),
            };
        };
        match result {
            Ok(n) if n == write.range.len() => self.meter.wrote(n as u64),
            Ok(0) => return Err(io::Error::new(io::ErrorKind::WriteZero, "the file takes no more bytes")),
            Ok(n) => {
                self.meter.wrote(n as u64);
                write.range.start += n;
                write.offset += n as u64;
                match (n as u64).is_multiple_of(PAGE) {
                    true => self.push(write)?,
                    // The other way can go on from anywhere.
                    false => self.plain(&write.block[write.range], write.offset)?,
                }
            }
            Err(e) if again(&e) => self.push(write)?,
            Err(e) if refuses(&e) => {
                self.plain(&write.block[write.range], write.offset)?;
                self.refusal.get_or_insert(e);
            }
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// Waits until all blocks are written, as far as [`Sink::write`] began to.
    pub fn finish(&mut self) -> io::Result<()> {
        while self.reap()? {}
        Ok(())
    }

    /// Why blocks did not go past the page cache, once one was refused: the others had better not be tried.
    pub fn refusal(&mut self) -> Option<io::Error> {
        self.refusal.take()
    }

    fn plain(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all(self.target.handle, &mut [IoSlice::new(bytes)], offset)?;
        self.meter.wrote(bytes.len() as u64);
        if let Some(early) = &mut self.early {
            early.wrote(offset, bytes.len() as u64);
        }
        Ok(())
    }
}

/// Whether a call was cut short, and nothing was done.
fn again(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

/// Whether the file system cannot write past the page cache, or not as we do.
pub(super) fn refuses(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::Unsupported
        || matches!(
            e.raw_os_error(),
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM | libc::ENOMEM)
        )
}

/// Has the disk begin with what was written, some MiB at a time.
pub(super) struct Early<'a> {
    handle: &'a dyn Handle,
    since: u64,
    end: u64,
}

impl<'a> Early<'a> {
    pub fn new(handle: &'a dyn Handle) -> Early<'a> {
        Early { handle, since: 0, end: 0 }
    }

    /// Bytes were written, most of them behind those before.
    pub fn wrote(&mut self, offset: u64, len: u64) {
        if offset != self.end {
            self.flush();
            self.since = offset;
        }
        self.end = offset + len;
        if self.end - self.since >= WRITEBACK {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.end > self.since {
            // A hint: what it cannot write the sync at the end reports.
            let _ = self.handle.writeback(self.since, self.end - self.since);
        }
        self.since = self.end;
    }
}
