//! What only the operating system knows: the local time, the free space.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Local time: year, month, day, hour, minute, second.
pub fn local_date() -> [u16; 6] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let now = libc::time_t::try_from(now).unwrap_or(0);
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values; all zeros is a valid `tm`, whether or not it is written.
    let parts = unsafe {
        libc::localtime_r(&now, parts.as_mut_ptr());
        parts.assume_init()
    };
    let fields =
        [parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec];
    fields.map(|n| u16::try_from(n).unwrap_or(0))
}

/// Bytes that this user can still write to the file system of `dir`, as far as that is known: quotas are not counted.
/// `None` where it does not say.
pub fn free_space(dir: &Path) -> io::Result<Option<u64>> {
    let dir = CString::new(dir.as_os_str().as_bytes())?;
    let mut fs = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is a string, and `fs` a live value that the call fills where it succeeds.
    let fs = unsafe {
        if libc::statvfs(dir.as_ptr(), fs.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        fs.assume_init()
    };
    // SAFETY: no arguments, and it cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    // What is reserved is root's to use. A file system that has no size (of memory without a limit, of a user's program)
    // says 0 of everything.
    let blocks = if is_root { fs.f_bfree } else { fs.f_bavail };
    #[allow(clippy::unnecessary_cast, reason = "these types differ from system to system")]
    Ok(if fs.f_blocks == 0 { None } else { (blocks as u64).checked_mul(fs.f_frsize as u64) })
}

/// The room on the file system of `dir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes that this user can still write.
    pub free: u64,
    /// Bytes that it has.
    pub total: u64,
    /// Whether it is the memory of this machine.
    pub in_memory: bool,
}

/// The room on the file system of `dir`; `None` where it does not say.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn room(dir: &Path) -> Option<Room> {
    let dir = CString::new(dir.as_os_str().as_bytes()).ok()?;
    let mut fs = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path is a string, and `fs` a live value that the call fills where it succeeds.
    let fs = unsafe {
        if libc::statfs(dir.as_ptr(), fs.as_mut_ptr()) != 0 {
            return None;
        }
        fs.assume_init()
    };
    let block = u64::try_from(fs.f_bsize).ok()?;
    Some(Room {
        free: fs.f_bavail.checked_mul(block)?,
        total: fs.f_blocks.checked_mul(block)?,
        in_memory: fs.f_type == libc::TMPFS_MAGIC,
    })
}

/// The room on the file system of `dir`: not known here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn room(_: &Path) -> Option<Room> {
    None
}
