//! An allocator that refuses one allocation, and the children in which it does.

pub mod c;
pub mod convert;
pub mod model;
pub mod others;
pub mod read;
pub mod save;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::os::fd::FromRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use ckpt::engine::Allocator;
use ckpt::error::{Error, Result};

use crate::scratch::Scratch;

/// Allocations of fewer bytes are let be. What grows with a model or a file is larger than that in the tests' model: its
/// tables have thousands of rows, its texts tens of KiB. What is smaller there does not grow (a node of a B-tree, a path, a
/// message), but for the first steps of what does; nor do those of [`CONSTANT`].
pub const LEAST: usize = 8 << 10;

/// The sizes of allocations in the library's dependencies that are as large whatever the file is: the state of a
/// decompressor.
static CONSTANT: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Whether what is met is noted there.
static LEARNING: AtomicBool = AtomicBool::new(false);
static ARMED: AtomicBool = AtomicBool::new(false);
/// The number, from 1, of the allocation that is refused.
static REFUSED: AtomicU64 = AtomicU64::new(0);
/// Those that were met while armed.
static MET: AtomicU64 = AtomicU64::new(0);
/// Whether the place is printed where one is refused.
static TRACED: AtomicBool = AtomicBool::new(false);

pub struct Refusing;

// SAFETY: all memory is the system's, and what is refused is null.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller's promise.
        if is_refused(layout.size()) { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller's promise.
        if is_refused(layout.size()) { std::ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() && is_refused(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: our caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: our caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Staging memory, which is as likely not to be there as any other.
pub struct Staging;

impl Allocator for Staging {
    fn alloc(&self, bytes: usize, align: usize) -> *mut u8 {
        let Ok(layout) = Layout::from_size_align(bytes, align) else { return std::ptr::null_mut() };
        // SAFETY: not of size 0.
        unsafe { Refusing.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, bytes: usize) {
        // SAFETY: our caller's promise; the system's allocator does not look at the alignment.
        unsafe { Refusing.dealloc(memory, Layout::from_size_align_unchecked(bytes, 4096)) }
    }
}

fn is_refused(size: usize) -> bool {
    if size < LEAST || !ARMED.load(SeqCst) || CONSTANT.iter().any(|one| one.load(SeqCst) == size as u64) {
        return false;
    }
    if LEARNING.load(SeqCst) {
        let free = CONSTANT.iter().find(|one| one.load(SeqCst) == 0);
        free.inspect(|one| one.store(size as u64, SeqCst));
        return false;
    }
    if MET.fetch_add(1, SeqCst) + 1 != REFUSED.load(SeqCst) {
        return false;
    }
    if TRACED.load(SeqCst) && ARMED.swap(false, SeqCst) {
        let place = Backtrace::force_capture().to_string();
        eprintln!("refused at:\n{}", shortened(&place));
        ARMED.store(true, SeqCst);
    }
    true
}

/// The places in this library that a backtrace names, the innermost first.
fn shortened(place: &str) -> String {
    let places = place.lines().filter_map(|line| line.trim().strip_prefix("at ./"));
    places.filter(|place| place.starts_with("src/")).take(5).collect::<Vec<_>>().join("\n")
}

/// Learns the sizes of [`CONSTANT`].
pub fn learn_constants() {
    ARMED.store(true, SeqCst);
    LEARNING.store(true, SeqCst);
    drop(flate2::Decompress::new(false));
    LEARNING.store(false, SeqCst);
    ARMED.store(false, SeqCst);
}

/// What is done with one allocation refused, if it comes to that.
pub fn refusing<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    ARMED.store(true, SeqCst);
    let done = catch_unwind(AssertUnwindSafe(work));
    ARMED.store(false, SeqCst);
    match done {
        Ok(Err(error)) => {
            assert_eq!(error.os(), libc::ENOMEM, "another error than that of the memory: {error}");
            Err(error)
        }
        Ok(done) => done,
        Err(_) => panic!("a panic crosses the boundary"),
    }
}

/// What became of a child.
#[derive(Debug, PartialEq)]
pub enum End {
    /// The allocation was refused, and nothing is wrong.
    Fine,
    /// There were fewer allocations.
    Over,
    /// It went wrong, as its output says.
    Wrong(String),
}

/// Stops where `work` does not work with all the memory that it asks for.
pub fn check(work: &dyn Fn(&Scratch)) {
    let (status, text) = run(u64::MAX, false, work);
    assert_eq!(status, OVER, "with all memory: {text}");
}

/// Runs `work` in a child in which the allocation of this number is refused.
pub fn child(refused: u64, work: &dyn Fn(&Scratch)) -> End {
    match run(refused, false, work) {
        (0, _) => End::Fine,
        (OVER, _) => End::Over,
        // Once more, to see where.
        (status, text) => {
            let (_, place) = run(refused, true, work);
            End::Wrong(format!("status {status}: {text}\n{place}"))
        }
    }
}

/// How a child ends in which the allocation was not met.
const OVER: i32 = 42;

/// Seconds that a child may take: one that hangs is ended.
const PATIENCE: u32 = 60;

fn run(refused: u64, traced: bool, work: &dyn Fn(&Scratch)) -> (i32, String) {
    let memory = Path::new("/dev/shm");
    let temporary = std::env::temp_dir();
    let dir = Scratch::at(if memory.is_dir() { memory } else { &temporary }, "allocations");
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors; this process has one thread, so that the child may do as it likes.
    let pid = unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        libc::fork()
    };
    assert!(pid >= 0, "no child");
    if pid == 0 {
        // SAFETY: descriptors of this process.
        unsafe {
            libc::dup2(ends[1], 2);
            libc::close(ends[0]);
            libc::alarm(PATIENCE);
        }
        MET.store(0, SeqCst);
        REFUSED.store(refused, SeqCst);
        TRACED.store(traced, SeqCst);
        let done = catch_unwind(AssertUnwindSafe(|| work(&dir)));
        let met = MET.load(SeqCst) >= refused;
        let status = if done.is_err() {
            1
        } else if met {
            0
        } else {
            OVER
        };
        // SAFETY: the child ends without what the parent has to do at its end.
        unsafe { libc::_exit(status) };
    }
    // SAFETY: descriptors of this process, each given away once.
    let (text, status) = unsafe {
        libc::close(ends[1]);
        let text = std::io::read_to_string(std::fs::File::from_raw_fd(ends[0]));
        let mut status = 0;
        libc::waitpid(pid, &mut status, 0);
        (text, status)
    };
    // What the standard library says of an abort has its size in it.
    let lines =
        text.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with("memory allocation of"));
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with("note: run with")).collect();
    let text = lines.join("\n").trim().to_owned();
    let status = if libc::WIFSIGNALED(status) { -libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    (status, text)
}

/// What is refused once there has to work the next time.
pub fn again<T>(error: Error, work: impl FnOnce() -> Result<T>) -> T {
    work().unwrap_or_else(|second| panic!("after '{error}', once more: {second}"))
}
