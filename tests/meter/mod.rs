//! Counts the memory that a thread has allocated through Rust, and the most that it ever was.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which keeps count for the calling thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes that are allocated; memory that another thread frees is not taken off.
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn count(change: i64) {
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + change);
        PEAK.with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is passed on.
        let new = unsafe { System.alloc(layout) };
        if !new.is_null() {
            count(layout.size() as i64);
        }
        new
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let new = unsafe { System.alloc_zeroed(layout) };
        if !new.is_null() {
            count(layout.size() as i64);
        }
        new
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let new = unsafe { System.realloc(ptr, layout, size) };
        if !new.is_null() {
            count(size as i64 - layout.size() as i64);
        }
        new
    }
}

/// What a thread allocates from now on.
pub struct Memory {
    start: i64,
}

impl Memory {
    pub fn start() -> Memory {
        PEAK.set(LIVE.get());
        Memory { start: LIVE.get() }
    }

    /// The most bytes that were allocated at any time since the start, beyond what was then.
    pub fn peak(&self) -> u64 {
        (PEAK.get() - self.start).max(0) as u64
    }
}

/// The time that the calling thread has computed: a busy machine does not lengthen it.
pub fn thread_time() -> std::time::Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is one to be written.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) }, 0);
    std::time::Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
