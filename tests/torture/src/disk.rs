//! A disk in memory: a file of FUSE, for a loop device. It writes down what is written to it and when it is flushed, and
//! can be made to what it would be after a loss of power.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, Session, SessionACL, WriteFlags,
};

use crate::image::{c_string, detach, forget, remember};
use crate::scratch::{Place, Scratch};

/// What a disk writes whole or not at all.
pub const PAGE: usize = 4096;

/// The directory to mount on, and the disk; each time that the disk is opened it is another file, of which nothing is
/// cached.
const AT: &str = "at";
const DISK: &str = "disk";
const AT_INODE: u64 = 2;

/// Nothing is to be remembered of a name.
const NEVER: Duration = Duration::ZERO;

/// What has happened to a disk.
#[derive(Clone, Debug)]
pub enum Event {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// All that was written before is on it.
    Flush,
    /// Nothing has: whoever uses it has said something.
    Said(String),
}

pub struct Disk {
    content: Arc<Mutex<Content>>,
    /// What has been opened last.
    times: u64,
    at: Scratch,
    /// Serves until it is dropped, and nobody has the disk open.
    _server: BackgroundSession,
}

struct Content {
    /// What is below.
    base: File,
    size: u64,
    /// Pages that are no longer as below, by their numbers.
    pages: HashMap<u64, Box<[u8; PAGE]>>,
    log: Option<Vec<Event>>,
    /// The inode of the disk.
    inode: u64,
}

struct Server(Arc<Mutex<Content>>);

impl Disk {
    /// A disk with these bytes.
    pub fn new(base: File) -> Result<Disk, String> {
        let failed = |e: io::Error| format!("a disk in memory: {e}");
        let size = base.metadata().map_err(failed)?.len();
        let content = Content { base, size, pages: HashMap::new(), log: None, inode: AT_INODE };
        let content = Arc::new(Mutex::new(content));
        let at = Scratch::new(Place::Disk).map_err(failed)?;
        let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(failed)?;
        remember(at.path());
        let options = format!("fd={},rootmode=40755,user_id=0,group_id=0", device.as_raw_fd());
        let (to, options) = (c_string(at.path()), c_string(options.as_ref()));
        // SAFETY: strings that live through the call.
        let mounted = unsafe {
            let flags = libc::MS_NODEV | libc::MS_NOSUID;
            libc::mount(c"ckpt".as_ptr(), to.as_ptr(), c"fuse".as_ptr(), flags, options.as_ptr().cast())
        };
        if mounted != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        let device = OwnedFd::from(device);
        let server = Session::from_fd(Server(content.clone()), device, SessionACL::Owner, Config::default());
        let server = server.and_then(Session::spawn).map_err(failed)?;
        Ok(Disk { content, times: 0, at, _server: server })
    }

    /// A directory to mount on.
    pub fn at(&self) -> PathBuf {
        self.at.path().join(AT)
    }

    /// The disk as it is.
    pub fn open(&mut self) -> Result<File, String> {
        self.times += 1;
        self.content().inode = AT_INODE + self.times;
        let path = self.at.path().join(DISK);
        let file = fs::OpenOptions::new().read(true).write(true).open(path);
        file.map_err(|e| format!("a disk in memory: {e}"))
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to write down what happens.
    pub fn record(&self) {
        self.content().log = Some(Vec::new());
    }

    /// What has happened since.
    pub fn end_record(&self) -> Vec<Event> {
        self.content().log.take().unwrap_or_default()
    }

    /// Writes down what somebody says.
    pub fn say(&self, line: &str) {
        self.content().push(|| Event::Said(line.to_owned()));
    }

    /// All that was written is below now.
    pub fn settle(&self) -> Result<(), String> {
        let mut content = self.content();
        let pages = std::mem::take(&mut content.pages);
        for (page, bytes) in pages {
            content.write_below(page * PAGE as u64, &bytes[..])?;
        }
        Ok(())
    }

    /// Forgets what was written, as if power had been lost before it was.
    pub fn forget(&self) {
        self.content().pages.clear();
    }

    /// This has been written, and is forgotten again.
    pub fn put(&self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        self.content().write(offset, bytes).map_err(|e| format!("a disk in memory: {e}"))
    }

    /// This has been written, and is below.
    pub fn put_below(&self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        self.content().write_below(offset, bytes)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        detach(self.at.path());
        // Empty again.
        let _ = fs::remove_dir(self.at.path());
        forget();
    }
}

impl Content {
    fn push(&mut self, event: impl FnOnce() -> Event) {
        if let Some(log) = &mut self.log {
            log.push(event());
        }
    }

    fn write_below(&mut self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        self.base.write_all_at(bytes, offset).map_err(|e| format!("a disk in memory: {e}"))
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.base.read_exact_at(bytes, offset)?;
        for part in parts(offset, bytes.len()) {
            if let Some(page) = self.pages.get(&part.page) {
                let from = &page[part.within..][..part.len];
                bytes[part.at..][..part.len].copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for part in parts(offset, bytes.len()) {
            if !self.pages.contains_key(&part.page) {
                let mut page = Box::new([0; PAGE]);
                if part.len < PAGE {
                    self.base.read_exact_at(&mut page[..], part.page * PAGE as u64)?;
                }
                self.pages.insert(part.page, page);
            }
            if let Some(page) = self.pages.get_mut(&part.page) {
                page[part.within..][..part.len].copy_from_slice(&bytes[part.at..][..part.len]);
            }
        }
        Ok(())
    }

    /// How much of a range is on the disk.
    fn cut(&self, offset: u64, len: usize) -> usize {
        self.size.saturating_sub(offset).min(len as u64) as usize
    }
}

/// The part of a range that is in one page.
pub struct Part {
    page: u64,
    /// Where it is in the page, and in the range.
    within: usize,
    pub at: usize,
    pub len: usize,
}

/// The parts of a range, each in a page.
pub fn parts(offset: u64, len: usize) -> impl Iterator<Item = Part> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let here = offset + at as u64;
        let within = here as usize % PAGE;
        let part = Part { page: here / PAGE as u64, within, at, len: (PAGE - within).min(len - at) };
        at += part.len;
        (part.len > 0).then_some(part)
    })
}

impl Server {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_dir = inode.0 <= AT_INODE;
        let size = if is_dir { 0 } else { self.content().size };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_dir { FileType::Directory } else { FileType::RegularFile },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        }
    }
}

/// It runs in a thread of its own, and must not look at what it serves.
impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inode = match name.to_str() {
            Some(AT) if parent == INodeNo::ROOT => AT_INODE,
            Some(DISK) if parent == INodeNo::ROOT => self.content().inode,
            _ => return reply.error(Errno::ENOENT),
        };
        // The directory stays the same one, or what is mounted on it would be gone.
        let time = if inode == AT_INODE { Duration::MAX } else { NEVER };
        reply.entry(&time, &self.attributes(INodeNo(inode)), Generation(0));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NEVER, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let content = self.content();
        let mut bytes = vec![0; content.cut(offset, size as usize)];
        match content.read(offset, &mut bytes) {
            Ok(()) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut content = self.content();
        if content.cut(offset, bytes.len()) < bytes.len() {
            return reply.error(Errno::ENOSPC);
        }
        content.push(|| Event::Write { offset, bytes: bytes.to_vec() });
        match content.write(offset, bytes) {
            Ok(()) => reply.written(bytes.len() as u32),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.content().push(|| Event::Flush);
        reply.ok();
    }
}
