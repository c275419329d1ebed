//! The seam below all I/O of a save: what a file system must do for us, the real one, and room for a test's
//! faulty one.
//!
//! A call here is one attempt, as a system call is: it may be interrupted, and a write may be short. Whoever
//! calls retries ([`retry`], [`write_all`]), so that a faulty storage can show that he does.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::memory;

use super::host;
#[cfg(any(target_os = "linux", target_os = "android"))]
use super::lease;
use super::queue::{self, Queue};

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A device, a pipe, a socket.
    Other,
}

/// What the file system says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// What it is.
    pub kind: Kind,
    /// The permission bits, `0o777` at most.
    pub mode: u32,
    /// Which file it is, and whether it has been written since.
    pub id: FileId,
}

/// Which file it is, in the state that it is in: another file, and the same one once it has been written to, differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileId {
    /// Device and inode.
    pub inode: (u64, u64),
    /// Bytes.
    pub size: u64,
    /// When it was last written: seconds and nanoseconds.
    pub modified: (i64, i64),
}

/// What an open file is, beyond its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Which file it is.
    pub id: FileId,
    /// Its names (hard links).
    pub links: u64,
    /// All permission bits, `0o7777` at most.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Its extended attributes by name: access control lists, security labels.
    pub labels: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The file system as a save sees it.
///
/// What has a default here serves the recycling of files, their further names and the search for room alone: a storage
/// without it does without them.
pub trait Storage: Send + Sync {
    /// Makes a new file, open for reading and writing, with `mode` less the process' umask; fails if the name
    /// is there.
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn Handle>>;
    /// Opens a file for its lock alone; never a link's target.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>>;
    /// Opens a file to write it anew; never a link's target.
    fn reopen(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Fills the beginning of `buf` with bytes of a file from `offset` on, and returns how many: 0 at its end; never a
    /// link's target.
    fn read(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// What `path` names; a link is not followed.
    fn info(&self, path: &Path) -> io::Result<Info>;
    /// The path without links and relative parts, so that it means the same from any directory.
    fn real_path(&self, path: &Path) -> io::Result<PathBuf>;
    /// Where a symbolic link points.
    fn read_link(&self, path: &Path) -> io::Result<PathBuf>;
    /// Gives a file another name in place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Lets two files of one directory change names, at once. An error of the kind `Unsupported`: it cannot be had here.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        let _ = (one, other);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Gives a file one more name, in the place of none; a link is not followed. An error of the kind `Unsupported`, or
    /// one of those that file systems have for it: it cannot be had here.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _ = (from, to);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Writes the bytes of one file to another one, which is empty.
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let to = self.reopen(to)?;
        let (mut bytes, mut offset) = (vec![0; COPIED], 0);
        loop {
            match read_full(self, from, offset, &mut bytes)? {
                0 => return Ok(()),
                n => write_all(&*to, &mut [IoSlice::new(bytes.get(..n).unwrap_or_default())], offset)?,
            }
            offset += bytes.len() as u64;
        }
    }
    /// Bytes that can still be written to the file system of a directory; `None` where that is not known.
    fn free_space(&self, dir: &Path) -> io::Result<Option<u64>> {
        let _ = dir;
        Ok(None)
    }
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory, open to all less the process' umask.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Waits until a directory's names are on the disk.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// A queue of writes to a file of ours, past the page cache. An error of the kind `Unsupported`, or one of those
    /// that file systems have for it: there is no such thing here.
    fn queue(&self, path: &Path) -> io::Result<Box<dyn Queue>> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// An open file of a [`Storage`]; closed when dropped.
pub trait Handle: Send + Sync {
    /// Takes the file's advisory lock for this handle, without waiting; `false` if another has it. The lock
    /// goes with the handle. An error of the kind `Unsupported`: there are no locks here.
    fn try_lock(&self) -> io::Result<bool>;
    /// Which file it is: device and inode. What cannot tell takes part in no lock of a template.
    fn inode(&self) -> io::Result<(u64, u64)> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The descriptor of a file of the system's, which a forked child has too.
    fn descriptor(&self) -> Option<RawFd> {
        None
    }
    /// Sets the permission bits.
    fn set_mode(&self, mode: u32) -> io::Result<()>;
    /// What the file is.
    fn attributes(&self) -> io::Result<Attributes> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Whether nobody else has the file open or mapped. An error of the kind `Unsupported`: that cannot be told here.
    fn is_unshared(&self) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Makes the file `size` bytes long, those that are added zero, and reserves the blocks where the file system can.
    fn preallocate(&self, size: u64) -> io::Result<()>;
    /// Writes some of `parts` at `offset`; returns how many bytes.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Has the disk begin to write a range of the file's bytes, so that [`Handle::sync`] has less to do; a hint.
    fn writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Ok(())
    }
    /// Waits until the file's bytes and size are on the disk.
    fn sync(&self) -> io::Result<()>;
    /// Tells of the errors that closing the file would tell of (NFS, quotas), and keeps it open.
    fn flush(&self) -> io::Result<()>;
}

/// How often a call is made again that a signal has interrupted, before that counts as its failure: no timer strikes so
/// often, but a broken file system may say so for ever.
pub(super) const PATIENCE: u32 = 10_000;

/// Makes a call again where a signal has interrupted it.
pub fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..PATIENCE {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
    call()
}

/// Writes all of `parts` at `offset`, in as many calls as it takes.
pub fn write_all(file: &dyn Handle, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let batch = parts.get(..MAX_PARTS).unwrap_or(parts);
        let n = retry(|| file.write_at(batch, offset))?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the file takes no more bytes"));
        }
        IoSlice::advance_slices(&mut parts, n);
        offset += n as u64;
    }
    Ok(())
}

/// Fills `buf` with bytes of a file from `offset` on, in as many calls as it takes; returns how many: fewer only where
/// the file ends.
pub fn read_full<S: Storage + ?Sized>(
    storage: &S,
    path: &Path,
    offset: u64,
    buf: &mut [u8],
) -> io::Result<usize> {
    let mut len = 0;
    while let Some(rest) = buf.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match retry(|| storage.read(path, offset + len as u64, rest))? {
            0 => break,
            n => len += n,
        }
    }
    Ok(len)
}

/// The most parts of one write: `IOV_MAX` on Linux, macOS and the BSDs.
const MAX_PARTS: usize = 1024;

/// Bytes that are copied at once.
const COPIED: usize = 1 << 20;

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Storage for Disk {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn Handle>> {
        let _streams = closed_streams();
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        // O_NONBLOCK: a pipe of that name must not make us wait for its reader.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let open = |write| fs::OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
        match open(true) {
            // A file of ours whose permissions are set already; its lock can be had all the same.
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => Ok(Box::new(open(false)?)),
            result => Ok(Box::new(result?)),
        }
    }

    fn reopen(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        let _streams = closed_streams();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        // For the opening alone: under io_uring, writes to the file would fail where they cannot go on at once.
        // SAFETY: fcntl takes a descriptor, which `file` keeps open, and a plain number.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) } {
            0 => Ok(Box::new(file)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn read(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?.read_at(buf, offset)
    }

    fn info(&self, path: &Path) -> io::Result<Info> {
        let m = fs::symlink_metadata(path)?;
        let kind = match m.file_type() {
            t if t.is_file() => Kind::File,
            t if t.is_dir() => Kind::Dir,
            t if t.is_symlink() => Kind::Link,
            _ => Kind::Other,
        };
        Ok(Info { kind, mode: m.mode() & 0o777, id: file_id(&m) })
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        fs::read_link(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        lease::exchange(one, other)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _streams = closed_streams();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut from = fs::OpenOptions::new().read(true).custom_flags(flags).open(from)?;
        let mut to = fs::OpenOptions::new().write(true).custom_flags(flags).open(to)?;
        // Within the kernel, sharing the blocks, wherever it can.
        io::copy(&mut from, &mut to).map(drop)
    }

    fn free_space(&self, dir: &Path) -> io::Result<Option<u64>> {
        host::free_space(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o777).create(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match fs::File::open(path)?.sync_all() {
            // Some network file systems cannot sync a directory: its names are as safe as they make them.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP)) => Ok(()),
            result => result,
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            memory::push(&mut names, entry?.file_name()).map_err(memory::io)?;
        }
        Ok(names)
    }

    fn queue(&self, path: &Path) -> io::Result<Box<dyn Queue>> {
        let _streams = closed_streams();
        queue::open(path)
    }
}

impl Handle for fs::File {
    fn try_lock(&self) -> io::Result<bool> {
        // SAFETY: flock takes a descriptor, which `self` keeps open, and no pointer.
        if unsafe { libc::flock(self.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        let cause = io::Error::last_os_error();
        match cause.raw_os_error() {
            Some(libc::EWOULDBLOCK) => Ok(false),
            Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, cause))
            }
            _ => Err(cause),
        }
    }

    fn inode(&self) -> io::Result<(u64, u64)> {
        self.metadata().map(|m| (m.dev(), m.ino()))
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.as_raw_fd())
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.set_permissions(fs::Permissions::from_mode(mode))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn attributes(&self) -> io::Result<Attributes> {
        let m = self.metadata()?;
        let (links, mode, owner) = (m.nlink(), m.mode() & 0o7777, (m.uid(), m.gid()));
        Ok(Attributes { id: file_id(&m), links, mode, owner, labels: lease::labels(self)? })
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn is_unshared(&self) -> io::Result<bool> {
        lease::is_unshared(self)
    }

    fn preallocate(&self, size: u64) -> io::Result<()> {
        if self.metadata()?.len() > size {
            self.set_len(size)?;
        }
        if size > size_limit() {
            // Asked for them, the system would send a signal that ends the process by default.
            return Err(too_far());
        }
        match reserve(self, size) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) => {
                self.set_len(size)
            }
            result => result,
        }
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let count = libc::c_int::try_from(parts.len()).map_err(|_| too_far())?;
        let offset = libc::off_t::try_from(offset).map_err(|_| too_far())?;
        // SAFETY: an IoSlice has the layout of an iovec, and `count` of them live through the call; the kernel
        // only reads what they point to.
        let n = unsafe { libc::pwritev(self.as_raw_fd(), parts.as_ptr().cast(), count, offset) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        let (Ok(offset), Ok(len)) = (libc::off64_t::try_from(offset), libc::off64_t::try_from(len)) else {
            return Err(too_far());
        };
        // SAFETY: sync_file_range takes a descriptor, which `self` keeps open, and no pointer.
        let result =
            unsafe { libc::sync_file_range(self.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn flush(&self) -> io::Result<()> {
        // Closing any descriptor of the file flushes it; the lock stays with ours.
        let copy = self.try_clone()?;
        let fd = std::os::fd::IntoRawFd::into_raw_fd(copy);
        // SAFETY: `fd` is open, and nobody else has it since `into_raw_fd` gave it up.
        if unsafe { libc::close(fd) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Takes the descriptors of the standard streams that the host has closed, for as long as the result lives: a file
/// that got one of them would receive what the host still prints.
fn closed_streams() -> Vec<fs::File> {
    let null = || fs::File::open("/dev/null").ok().filter(|file| file.as_raw_fd() <= libc::STDERR_FILENO);
    std::iter::from_fn(null).collect()
}

fn file_id(m: &fs::Metadata) -> FileId {
    FileId { inode: (m.dev(), m.ino()), size: m.len(), modified: (m.mtime(), m.mtime_nsec()) }
}

/// Reserves the blocks of a file's first `size` bytes and makes it that long.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reserve(file: &fs::File, size: u64) -> io::Result<()> {
    let size = libc::off64_t::try_from(size).map_err(|_| too_far())?;
    if size == 0 {
        return Ok(());
    }
    // SAFETY: fallocate takes a descriptor, which `file` keeps open, and no pointer. (Not posix_fallocate:
    // where the file system cannot, that one writes every block.)
    if unsafe { libc::fallocate64(file.as_raw_fd(), 0, 0, size) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The most bytes that this process may make a file have.
fn size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a live value, which the call fills where it succeeds.
    match unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } {
        0 if limit.rlim_cur != libc::RLIM_INFINITY => limit.rlim_cur,
        _ => u64::MAX,
    }
}

/// Makes a file `size` bytes long.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reserve(file: &fs::File, size: u64) -> io::Result<()> {
    file.set_len(size)
}

fn too_far() -> io::Error {
    io::Error::from_raw_os_error(libc::EFBIG)
}
