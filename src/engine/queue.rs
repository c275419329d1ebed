//! The queue of writes that go past the page cache, several at once: the storage seam's other way into a file.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::arena::Block;

/// The most writes that are under way at once; more gave nothing on any device that was tried.
pub const DEPTH: usize = 8;

/// A part of a block, and where it goes.
pub struct Write {
    /// The memory, kept for as long as the device reads it.
    pub block: Block,
    /// What of the block is to be written: whole pages.
    pub range: Range<usize>,
    /// Where its first byte goes in the file: a multiple of a page.
    pub offset: u64,
}

/// A write that has ended, and how many of its bytes are written.
pub type Ended = (Write, io::Result<usize>);

/// Writes to one file that the device makes in any order, past the page cache. Dropped, it waits for those that are
/// under way.
///
/// As with every call of the seam, a write is one attempt: it may be short, and whoever pushes pushes the rest.
pub trait Queue: Send {
    /// Begins a write; there is room for [`DEPTH`].
    fn push(&mut self, write: Write) -> io::Result<()>;
    /// Waits for one that has ended: what it was, and how many bytes are written. `None` where none is under way.
    ///
    /// # Errors
    /// The queue is broken. What was under way may have been written or not; nothing is under way any more.
    fn pop(&mut self) -> io::Result<Option<Ended>>;
    /// How many are under way.
    fn in_flight(&self) -> usize;
}

/// The queue of a file on the real disk.
///
/// # Errors
/// The file system or the kernel has no such thing.
#[cfg(target_os = "linux")]
pub(super) fn open(path: &Path) -> io::Result<Box<dyn Queue>> {
    Ok(Box::new(ring::Ring::open(path)?))
}

/// As above: elsewhere there is none.
#[cfg(not(target_os = "linux"))]
pub(super) fn open(_path: &Path) -> io::Result<Box<dyn Queue>> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
mod ring {
    use std::fs;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;
    use std::thread;

    use io_uring::{IoUring, opcode, types};

    use super::super::storage::PATIENCE;
    use super::{DEPTH, Ended, Queue, Write};

    /// io_uring and O_DIRECT.
    pub struct Ring {
        ring: IoUring,
        file: fs::File,
        /// The writes that are under way, by the number that the ring knows them by.
        slots: Vec<Option<Write>>,
    }

    impl Ring {
        pub fn open(path: &Path) -> io::Result<Ring> {
            let flags = libc::O_DIRECT | libc::O_NOFOLLOW;
            let file = fs::OpenOptions::new().write(true).custom_flags(flags).open(path)?;
            let ring = IoUring::new(DEPTH as u32)?;
            Ok(Ring { ring, file, slots: (0..DEPTH).map(|_| None).collect() })
        }

        /// Hands what was pushed to the kernel.
        fn submit(&mut self) -> io::Result<()> {
            loop {
                match self.ring.submit() {
                    Ok(_) => return Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    // Not now: it stays in the ring, and goes with the next or when somebody waits.
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => return Ok(()),
                    Err(e) => return Err(e),
                }
            }
        }
    }

    impl Queue for Ring {
        fn push(&mut self, write: Write) -> io::Result<()> {
            let full = || io::Error::new(io::ErrorKind::WouldBlock, "the queue is full");
            let slot = self.slots.iter().position(Option::is_none).ok_or_else(full)?;
            let bytes = &write.block[write.range.clone()];
            let (memory, len) = (bytes.as_ptr(), bytes.len() as u32);
            let entry = opcode::Write::new(types::Fd(self.file.as_raw_fd()), memory, len)
                .offset(write.offset)
                .build()
                .user_data(slot as u64);
            // SAFETY: the kernel reads the block until it reports the end of this write; `slots` keeps it that long,
            // and `drop` waits. The file is kept as long as the ring.
            unsafe { self.ring.submission().push(&entry) }.map_err(|_| full())?;
            self.slots[slot] = Some(write);
            self.submit()
        }

        fn pop(&mut self) -> io::Result<Option<Ended>> {
            let mut refusals = 0;
            while self.in_flight() > 0 {
                let ended = self.ring.completion().next();
                if let Some(entry) = ended {
                    let slot = self.slots.get_mut(entry.user_data() as usize);
                    let write = slot.and_then(Option::take).ok_or(io::ErrorKind::InvalidData)?;
                    let result = match entry.result() {
                        n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
                        n => Ok(n as usize),
                    };
                    return Ok(Some((write, result)));
                }
                let Err(e) = self.ring.submit_and_wait(1) else { continue };
                refusals += u32::from(e.kind() != io::ErrorKind::Interrupted);
                let passes = matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY));
                if !passes || refusals > PATIENCE {
                    // The kernel may still read the blocks, so they are never used again.
                    self.slots.iter_mut().filter_map(Option::take).for_each(|write| write.block.abandon());
                    return Err(e);
                }
                thread::yield_now();
            }
            Ok(None)
        }

        fn in_flight(&self) -> usize {
            self.slots.iter().filter(|slot| slot.is_some()).count()
        }
    }

    impl Drop for Ring {
        fn drop(&mut self) {
            while let Ok(Some(_)) = self.pop() {}
        }
    }
}
