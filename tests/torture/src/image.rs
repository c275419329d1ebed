//! Real file systems in files without a name, on loop devices, in a mount namespace of this process': with the process,
//! whatever ends it, they go.
//!
//! - [`Image`]: one that crashes; [`format`], [`mount`] and [`unmount`]: what others do with one.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::scratch::{Place, Scratch};
use crate::trainer::RUNNING;

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
        }
    }

    /// Bytes of an image; XFS makes none that is smaller.
    fn size(self) -> u64 {
        match self {
            Kind::Ext4 => 128 << 20,
            Kind::Xfs => 300 << 20,
        }
    }
}

/// What becomes of the journal at a crash; the numbers are those of the ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Crash {
    /// All is written first.
    Flush = 0,
    /// The journal is.
    Journal = 1,
    /// Nothing is.
    Nothing = 2,
}

/// EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN: _IOR('X', 125, __u32).
const SHUTDOWN: u64 = 0x8004_587d;

const LOOP_CTL_GET_FREE: u64 = 0x4c82;
const LOOP_CONFIGURE: u64 = 0x4c0a;
/// The device goes with its last user.
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// How often something busy is tried again, and after which time.
const TRIES: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(5);

/// A file system that is mounted.
pub struct Image {
    kind: Kind,
    file: File,
    at: Scratch,
    is_mounted: bool,
}

/// struct loop_config.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// struct loop_info64.
#[repr(C)]
struct LoopInfo {
    numbers: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
}

impl Image {
    /// Makes one, and mounts it.
    pub fn new(kind: Kind) -> Result<Image, String> {
        let file = format(kind)?;
        let failed = |e: io::Error| format!("an image: {e}");
        let at = Scratch::new(Place::Disk).map_err(failed)?;
        remember(at.path());
        let mut image = Image { kind, file, at, is_mounted: false };
        image.mount()?;
        fs::create_dir(image.dir()).and_then(|()| File::open(image.at.path())?.sync_all()).map_err(failed)?;
        Ok(image)
    }

    /// A directory in it, which is there after every crash.
    pub fn dir(&self) -> PathBuf {
        self.at.path().join("run")
    }

    /// What a crash wants.
    pub fn root(&self) -> Result<File, String> {
        File::open(self.at.path()).map_err(|e| format!("the root of {}: {e}", self.kind.name()))
    }

    /// As a boot after the crash does; nobody has a file open in it any more.
    pub fn mount_again(&mut self) -> Result<(), String> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&mut self) -> Result<(), String> {
        mount(self.kind, &self.file, self.at.path())?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), String> {
        unmount(self.kind, self.at.path())?;
        self.is_mounted = false;
        Ok(())
    }
}

/// A file without a name, with an empty file system in it; mounts are this process' own from here on.
pub fn format(kind: Kind) -> Result<File, String> {
    private().clone()?;
    let failed = |e: io::Error| format!("an image: {e}");
    // SAFETY: a name that lives through the call; the descriptor is new, and nobody else's.
    let file = unsafe {
        match libc::memfd_create(c"ckpt-torture".as_ptr(), libc::MFD_CLOEXEC) {
            -1 => return Err(failed(io::Error::last_os_error())),
            fd => File::from_raw_fd(fd),
        }
    };
    file.set_len(kind.size()).map_err(failed)?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let (tool, force) = match kind {
        Kind::Ext4 => ("mkfs.ext4", "-F"),
        Kind::Xfs => ("mkfs.xfs", "-f"),
    };
    let made = Command::new(tool).args(["-q", force, &path]).stdin(Stdio::null()).output();
    let made = made.map_err(|e| format!("{tool}: {e}"))?;
    if !made.status.success() {
        return Err(format!("{tool}: {}", String::from_utf8_lossy(&made.stderr)));
    }
    Ok(file)
}

/// Mounts the file system in a file, on a loop device of its own: of what another one has cached, nothing reaches it.
pub fn mount(kind: Kind, file: &File, at: &Path) -> Result<(), String> {
    let failed = |e: io::Error| format!("mounting {}: {e}", kind.name());
    let (_device, path) = attach(file).map_err(failed)?;
    let (from, to) = (c_string(&path), c_string(at));
    let name = c_string(Path::new(kind.name()));
    // SAFETY: strings that live through the call, and no data.
    match unsafe { libc::mount(from.as_ptr(), to.as_ptr(), name.as_ptr(), 0, ptr::null()) } {
        0 => Ok(()),
        _ => Err(failed(io::Error::last_os_error())),
    }
}

pub fn unmount(kind: Kind, at: &Path) -> Result<(), String> {
    let at = c_string(at);
    for _ in 0..TRIES {
        // SAFETY: a string that lives through the call.
        if unsafe { libc::umount2(at.as_ptr(), 0) } == 0 {
            return Ok(());
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EBUSY) {
            break;
        }
        // What a killed process had in a ring is let go of a little later.
        thread::sleep(PAUSE);
    }
    Err(format!("unmounting {}: {}", kind.name(), io::Error::last_os_error()))
}

/// Unmounts what is at a path, and below it, from where anybody can see it, whoever uses it still.
pub fn detach(at: &Path) {
    let at = c_string(at);
    // SAFETY: a string that lives through the call.
    unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.is_mounted && self.unmount().is_err() {
            detach(self.at.path());
        }
        // Again empty.
        let _ = fs::remove_dir(self.at.path());
        forget();
    }
}

/// Has the file system of a root fail now, as if the power went.
pub fn crash(root: &File, how: Crash) -> io::Result<()> {
    let how = how as u32;
    // SAFETY: the request reads one word, which lives through the call.
    match unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN as libc::Ioctl, &raw const how) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A loop device of this file: it goes with the descriptor, or with the mount.
fn attach(file: &File) -> io::Result<(File, PathBuf)> {
    let control = fs::OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..TRIES {
        // SAFETY: a request without arguments.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as libc::Ioctl) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = fs::OpenOptions::new().read(true).write(true).open(&path)?;
        // SAFETY: all of it are numbers.
        let mut config: LoopConfig = unsafe { std::mem::zeroed() };
        config.fd = file.as_raw_fd() as u32;
        config.info.flags = LO_FLAGS_AUTOCLEAR;
        // SAFETY: the request reads a value of this type, which lives through the call.
        if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as libc::Ioctl, &raw const config) } == 0 {
            return Ok((device, path));
        }
        match io::Error::last_os_error() {
            // Somebody else was faster.
            e if e.raw_os_error() == Some(libc::EBUSY) => thread::sleep(PAUSE),
            e => return Err(e),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

/// Gives this thread, and what it starts, mounts of its own; at a signal, the one there is goes, and its directory.
fn private() -> &'static Result<(), String> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| {
        let handler: extern "C" fn(libc::c_int) = tidy_and_exit;
        // SAFETY: strings that live through the calls; the handler calls what a handler may call.
        unsafe {
            let none = ptr::null();
            if libc::unshare(libc::CLONE_NEWNS) != 0
                || libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) != 0
            {
                return Err(format!("mounts of its own: {}", io::Error::last_os_error()));
            }
            libc::signal(libc::SIGINT, handler as libc::sighandler_t);
            libc::signal(libc::SIGTERM, handler as libc::sighandler_t);
        }
        Ok(())
    })
}

/// Where something is mounted, or is to be; a signal unmounts it.
static MOUNTED: AtomicPtr<libc::c_char> = AtomicPtr::new(ptr::null_mut());

pub fn remember(path: &Path) {
    forget();
    MOUNTED.store(c_string(path).into_raw(), Relaxed);
}

pub fn forget() {
    let path = MOUNTED.swap(ptr::null_mut(), Relaxed);
    if !path.is_null() {
        // SAFETY: it comes from `into_raw`, and is not there any more.
        drop(unsafe { CString::from_raw(path) });
    }
}

extern "C" fn tidy_and_exit(signal: libc::c_int) {
    let (path, child) = (MOUNTED.load(Relaxed), RUNNING.load(Relaxed));
    // SAFETY: a string, if it is one; a child that has not been waited for. It does not return, and the rest goes with
    // the process.
    unsafe {
        if child > 0 {
            // It would make its directory anew.
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, ptr::null_mut(), 0);
        }
        if !path.is_null() {
            libc::umount2(path, libc::MNT_DETACH);
            libc::rmdir(path);
        }
        libc::_exit(128 + signal);
    }
}

pub fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}
