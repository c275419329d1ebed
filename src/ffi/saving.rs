//! `ckpt_options`: how saves are made, beside the training or not, and who hears of it.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use crate::engine::{Allocator, Backend};
use crate::session::{Async, Backpressure, Progress};

use super::args::{self, invalid};
use super::options::{User, ckpt_options, set};
use super::status::ckpt_status;

/// How a save runs beside the training.
#[repr(C)]
pub enum ckpt_async {
    /// ckpt_save() returns when the file is committed.
    CKPT_ASYNC_OFF = 0,
    /// The buffers are copied to staging memory before ckpt_save() returns, and written in the background.
    CKPT_ASYNC_COPY = 1,
    /// The buffers are written in place in the background: they must not change before ckpt_wait_buffers().
    CKPT_ASYNC_BORROW = 2,
    /// The buffers are snapshot by copy-on-write. In this version as CKPT_ASYNC_COPY, and a warning is logged.
    CKPT_ASYNC_SNAPSHOT = 3,
}

/// What becomes of a save in the background while one is being made and another one waits.
#[repr(C)]
pub enum ckpt_backpressure {
    /// ckpt_save() waits until there is room.
    CKPT_BACKPRESSURE_BLOCK = 0,
    /// It takes the place of the one that waits, which is not made; see ckpt_options_set_backpressure().
    CKPT_BACKPRESSURE_REPLACE = 1,
}

/// How bytes reach the disk.
#[repr(C)]
pub enum ckpt_backend {
    /// What is faster here, found out at the first large save.
    CKPT_BACKEND_AUTO = 0,
    /// Through the page cache.
    CKPT_BACKEND_BUFFERED = 1,
    /// Past the page cache (O_DIRECT); through it where that is refused.
    CKPT_BACKEND_DIRECT = 2,
}

/// What a finished save survives.
#[repr(C)]
pub enum ckpt_durability {
    /// A loss of power: file and directory are flushed to the disk.
    CKPT_DURABILITY_FULL = 0,
    /// A crash of the process, not one of the machine: nothing is flushed.
    CKPT_DURABILITY_NONE = 1,
}

/// A kind of asynchrony as a caller hands it in: any number.
pub type ckpt_async_arg = c_int;
/// A backpressure as a caller hands it in: any number.
pub type ckpt_backpressure_arg = c_int;
/// A backend as a caller hands it in: any number.
pub type ckpt_backend_arg = c_int;
/// A durability as a caller hands it in: any number.
pub type ckpt_durability_arg = c_int;

/// Hears how far a save has come: the path as ckpt_path() gave it, bytes written, bytes in all. The same rules as for
/// ckpt_log_fn hold; ckpt_cancel() is fine.
pub type ckpt_progress_fn =
    Option<unsafe extern "C" fn(path: *const c_char, done: u64, total: u64, user: *mut c_void)>;

/// Gives staging memory: nbytes at a multiple of alignment, a power of two; NULL where there is none. From any thread.
pub type ckpt_alloc_fn =
    Option<unsafe extern "C" fn(nbytes: usize, alignment: usize, user: *mut c_void) -> *mut c_void>;

/// Takes staging memory back, as ckpt_alloc_fn gave it. From any thread.
pub type ckpt_dealloc_fn =
    Option<unsafe extern "C" fn(memory: *mut c_void, nbytes: usize, user: *mut c_void)>;

/// Sets how saves run beside the training; CKPT_ASYNC_OFF by default. What changes with the others, ckpt_save() says.
///
/// A process that ends by exit() or by returning from main() waits for the saves in the background that need the
/// caller's memory no more (CKPT_ASYNC_COPY: those whose ckpt_save() has returned), and they are made. All others are
/// cancelled, since the buffers may be going away: their destinations stay as they were, and no temporary file is left.
/// (What is freed before that, by the destructor of a static object or an interpreter, must not be borrowed any more: wait
/// first.)
/// No function of the caller's is called from the background then. (After _exit(), abort(), a signal, or an exit() in a
/// progress function the destinations are as they were, too, and the next ckpt_new() removes the temporary file.)
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_async(
    options: Option<&mut ckpt_options>,
    kind: ckpt_async_arg,
) -> ckpt_status {
    set("ckpt_options_set_async", options, |o| {
        o.mode = args::choice(kind, &[Async::Off, Async::Copy, Async::Borrow, Async::Snapshot], "kind")?;
        Ok(())
    })
}

/// Sets what becomes of a save in the background while one is being made and another one waits;
/// CKPT_BACKPRESSURE_BLOCK by default.
///
/// With CKPT_BACKPRESSURE_REPLACE the one that waits is not made; a line is logged, and it counts neither as made nor as
/// failed. But where it is the best so far by the monitored metric, and the new one is no better, ckpt_save() waits.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_backpressure(
    options: Option<&mut ckpt_options>,
    backpressure: ckpt_backpressure_arg,
) -> ckpt_status {
    set("ckpt_options_set_backpressure", options, |o| {
        let kinds = [Backpressure::Block, Backpressure::Replace];
        o.backpressure = args::choice(backpressure, &kinds, "backpressure")?;
        Ok(())
    })
}

/// Sets the most bytes of staging memory that the saves of a session use; 0, the default, for what one checkpoint needs.
/// It is made in blocks of 2 MiB, two at least, when they are first needed or by ckpt_prepare(), and kept until
/// ckpt_free(). With less than a checkpoint, a copy (CKPT_ASYNC_COPY) goes on as fast as the disk takes it. Not counted
/// are 8 MiB for each thread that writes buffers past the page cache from where they are (CKPT_ASYNC_OFF and _BORROW).
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_staging_limit(
    options: Option<&mut ckpt_options>,
    bytes: u64,
) -> ckpt_status {
    set("ckpt_options_set_staging_limit", options, |o| {
        o.staging_limit = bytes;
        Ok(())
    })
}

/// Sets where staging memory comes from, pinned memory for example, and what the functions get as `user`; both NULL:
/// from the system, the default. `user` has to live as long as every session made from these options.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_staging_allocator(
    options: Option<&mut ckpt_options>,
    alloc: ckpt_alloc_fn,
    dealloc: ckpt_dealloc_fn,
    user: *mut c_void,
) -> ckpt_status {
    set("ckpt_options_set_staging_allocator", options, |o| {
        o.allocator = match (alloc, dealloc) {
            (Some(alloc), Some(dealloc)) => {
                Some(Arc::new(CallerAllocator { alloc, dealloc, user: User(user) }))
            }
            (None, None) => None,
            (None, Some(_)) => {
                return Err(invalid("alloc is NULL, but dealloc is not: expected both, or neither"));
            }
            (Some(_), None) => {
                return Err(invalid("dealloc is NULL, but alloc is not: expected both, or neither"));
            }
        };
        Ok(())
    })
}

/// The caller's functions for staging memory.
struct CallerAllocator {
    alloc: unsafe extern "C" fn(usize, usize, *mut c_void) -> *mut c_void,
    dealloc: unsafe extern "C" fn(*mut c_void, usize, *mut c_void),
    user: User,
}

impl Allocator for CallerAllocator {
    fn alloc(&self, bytes: usize, align: usize) -> *mut u8 {
        // SAFETY: the caller gave this function and pointer to be called with each other.
        unsafe { (self.alloc)(bytes, align, self.user.0) }.cast()
    }

    unsafe fn dealloc(&self, memory: *mut u8, bytes: usize) {
        // SAFETY: as above; the memory came from `alloc`, by our caller's promise.
        unsafe { (self.dealloc)(memory.cast(), bytes, self.user.0) }
    }
}

/// Sets how bytes reach the disk; CKPT_BACKEND_AUTO by default.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_backend(
    options: Option<&mut ckpt_options>,
    backend: ckpt_backend_arg,
) -> ckpt_status {
    set("ckpt_options_set_backend", options, |o| {
        o.backend = args::choice(backend, &[Backend::Auto, Backend::Buffered, Backend::Direct], "backend")?;
        Ok(())
    })
}

/// Sets what a finished save survives; CKPT_DURABILITY_FULL by default.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_durability(
    options: Option<&mut ckpt_options>,
    durability: ckpt_durability_arg,
) -> ckpt_status {
    set("ckpt_options_set_durability", options, |o| {
        o.durable = args::choice(durability, &[true, false], "durability")?;
        Ok(())
    })
}

/// Sets how many threads a save or a load may use, the caller's own among them; 0, the default, for as many as
/// help. None of them outlives the call.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_threads(options: Option<&mut ckpt_options>, threads: u32) -> ckpt_status {
    set("ckpt_options_set_threads", options, |o| {
        o.threads = threads;
        Ok(())
    })
}

/// Sets the function that hears how far saves have come, and what it gets as `user`; NULL takes it away.
///
/// It is called from the thread that writes, at most ten times a second, and once more when a save has been made, with
/// done equal to total. `user` has to live as long as every session made from these options.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_progress(
    options: Option<&mut ckpt_options>,
    progress: ckpt_progress_fn,
    user: *mut c_void,
) -> ckpt_status {
    set("ckpt_options_set_progress", options, |o| {
        o.progress = match progress {
            Some(function) => Progress::new(hearer(function, user)),
            None => Progress::default(),
        };
        Ok(())
    })
}

fn hearer(
    function: unsafe extern "C" fn(*const c_char, u64, u64, *mut c_void),
    user: *mut c_void,
) -> impl Fn(&str, u64, u64) + Send + Sync {
    let user = User(user);
    move |path, done, total| {
        let (user, path) = (&user, args::c_string(path).unwrap_or_default());
        // SAFETY: the caller gave this function and pointer to be called with each other.
        unsafe { function(path.as_ptr(), done, total, user.0) }
    }
}
