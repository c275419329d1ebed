//! What only Linux tells of a file that is to be rewritten: who else can see its bytes. Elsewhere nothing is recycled.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `F_SETSIG` of fcntl(2): libc has no name for it.
const F_SETSIG: libc::c_int = 10;

/// Bytes of extended attributes that are looked at; a file that has more is not recycled.
const MAX_LABELS: usize = 4096;

/// Whether nobody else has the file open or mapped, by whatever descriptor. An error of the kind `Unsupported` where
/// that cannot be told: there may be users on other hosts, or there are no leases.
pub(super) fn is_unshared(file: &File) -> io::Result<bool> {
    if !is_local(file)? {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let fd = file.as_raw_fd();
    // Whoever opens the file while the lease is held waits until it is not, and we are sent a signal: by default one
    // that ends the process. This one is ignored by default, and those who handle it expect it at any time.
    // SAFETY: fcntl takes a descriptor, which `file` keeps open, and plain numbers.
    let call =
        |command: libc::c_int, argument: libc::c_int| match unsafe { libc::fcntl(fd, command, argument) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
    call(F_SETSIG, libc::SIGURG)?;
    match call(libc::F_SETLEASE, libc::c_int::from(libc::F_WRLCK as i16)) {
        Ok(()) => call(libc::F_SETLEASE, libc::c_int::from(libc::F_UNLCK as i16)).map(|()| true),
        Err(e) => match e.raw_os_error() {
            Some(libc::EAGAIN) => Ok(false),
            Some(libc::EINVAL | libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP | libc::EACCES) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, e))
            }
            _ => Err(e),
        },
    }
}

/// Whether the file is on a file system that this host alone uses, and that writes in place: where it copies on write
/// (Btrfs, ZFS), nothing would be gained.
fn is_local(file: &File) -> io::Result<bool> {
    let mut fs = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `file` keeps the descriptor open, and `fs` is a live value that the call fills where it succeeds.
    let fs = unsafe {
        if libc::fstatfs(file.as_raw_fd(), fs.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        fs.assume_init()
    };
    let local = [libc::EXT4_SUPER_MAGIC, libc::XFS_SUPER_MAGIC, libc::F2FS_SUPER_MAGIC, libc::TMPFS_MAGIC];
    Ok(local.contains(&fs.f_type))
}

/// The extended attributes of a file (access control lists, security labels): their names and values, in the order
/// of the names.
pub(super) fn labels(file: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let fd = file.as_raw_fd();
    let fill = |call: &dyn Fn(*mut libc::c_void, usize) -> isize| {
        let mut bytes = vec![0u8; MAX_LABELS];
        let n = usize::try_from(call(bytes.as_mut_ptr().cast(), bytes.len()))
            .map_err(|_| io::Error::last_os_error())?;
        bytes.truncate(n);
        Ok::<_, io::Error>(bytes)
    };
    // SAFETY: `file` keeps the descriptor open, and `fill` hands over memory of its own and that memory's length.
    let names = match fill(&|bytes, len| unsafe { libc::flistxattr(fd, bytes.cast(), len) }) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => Vec::new(),
        names => names?,
    };
    let mut labels = Vec::new();
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let text = CString::new(name)?;
        // SAFETY: as above, and the name is a string that outlives the call.
        let value = fill(&|bytes, len| unsafe { libc::fgetxattr(fd, text.as_ptr(), bytes, len) })?;
        labels.push((name.to_vec(), value));
    }
    labels.sort_unstable();
    Ok(labels)
}

/// Lets two files change names, at once.
pub(super) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let one = CString::new(one.as_os_str().as_bytes())?;
    let other = CString::new(other.as_os_str().as_bytes())?;
    // By its number: not every C library has the function.
    // SAFETY: both paths are strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    match e.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, e))
        }
        _ => Err(e),
    }
}
