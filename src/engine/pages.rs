//! Memory straight from the system, in huge pages where it has them.

use std::ptr;

/// Maps zeroed memory of `bytes` at a multiple of `align`, both multiples of a huge page, and has the system give it
/// pages now; NULL where there is none.
pub(super) fn map(bytes: usize, align: usize) -> *mut u8 {
    let Some(room) = bytes.checked_add(align) else { return ptr::null_mut() };
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, where the system has room for it.
    let start = unsafe { libc::mmap(ptr::null_mut(), room, access, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return ptr::null_mut();
    }
    let start = start.cast::<u8>();
    let before = start.addr().next_multiple_of(align) - start.addr();
    // SAFETY: `before` is less than `align`, so that `bytes` from there on are in the mapping; what is before and behind
    // them are whole pages, which nobody uses.
    unsafe {
        let memory = start.add(before);
        unmap(start, before);
        unmap(memory.add(bytes), align - before);
        populate(memory, bytes);
        memory
    }
}

/// Gives mapped memory back.
///
/// # Safety
///
/// These are whole pages of a mapping, which nothing uses any more.
pub(super) unsafe fn unmap(memory: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: our caller's promise. It cannot fail for whole pages.
        unsafe { libc::munmap(memory.cast(), bytes) };
    }
}

/// Gives memory its pages, huge ones where they can be had.
///
/// # Safety
///
/// It is mapped, and nobody else uses it.
unsafe fn populate(memory: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: advice on memory that is ours; what the system does not know it refuses.
        let populated = unsafe {
            libc::madvise(memory.cast(), bytes, libc::MADV_HUGEPAGE);
            libc::madvise(memory.cast(), bytes, libc::MADV_POPULATE_WRITE)
        };
        if populated == 0 {
            return;
        }
    }
    // SAFETY: the memory is mapped and ours. One byte a page has it given.
    unsafe {
        for at in (0..bytes).step_by(4096) {
            memory.add(at).write_volatile(0);
        }
    }
}
