//! A file driver that lets the HDF5 library read a [`Source`]: no file is opened by name, none is locked, and
//! a member of an archive is a file like any other.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use std::ptr;

use hdf5_metno_sys::h5fd::H5FDregister;
use hdf5_metno_sys::h5i::hid_t;
use hdf5_metno_sys::h5p::{H5Pget_driver_info, H5Pset_driver};

use crate::reader::source::Source;

/// `H5FD_class_t` of HDF5 1.14.6. (That of `hdf5-metno-sys` 0.10 lacks fields.)
#[repr(C)]
struct Class {
    version: c_uint,
    value: c_int,
    name: *const c_char,
    max_address: u64,
    close_degree: c_int,
    terminate: Unused,
    superblock: [Unused; 3],
    info_size: usize,
    info_get: Unused,
    info_copy: Unused,
    info_free: Unused,
    transfer_size: usize,
    transfer: [Unused; 2],
    open: unsafe extern "C" fn(*const c_char, c_uint, hid_t, u64) -> *mut File,
    close: unsafe extern "C" fn(*mut File) -> c_int,
    cmp: Unused,
    query: Unused,
    type_map: Unused,
    alloc: Unused,
    free: Unused,
    get_end: unsafe extern "C" fn(*const File, c_int) -> u64,
    set_end: unsafe extern "C" fn(*mut File, c_int, u64) -> c_int,
    get_length: unsafe extern "C" fn(*const File, c_int) -> u64,
    handle: Unused,
    read: unsafe extern "C" fn(*mut File, c_int, hid_t, u64, usize, *mut c_void) -> c_int,
    write: unsafe extern "C" fn(*mut File, c_int, hid_t, u64, usize, *const c_void) -> c_int,
    vectors: [Unused; 4],
    flush: Unused,
    truncate: Unused,
    lock: Unused,
    unlock: Unused,
    delete: Unused,
    control: Unused,
    free_lists: [c_int; 7],
}

/// A callback that is left out.
type Unused = Option<unsafe extern "C" fn()>;

/// An open file: `H5FD_t` of HDF5 1.14.6, which the library fills, and what is ours behind it.
#[repr(C)]
struct File {
    driver: hid_t,
    class: *const Class,
    number: c_ulong,
    access: c_uint,
    features: c_ulong,
    max_address: u64,
    base: u64,
    threshold: u64,
    alignment: u64,
    paged: bool,
    source: *const Source,
    end: u64,
}

const FAILED: c_int = -1;
const MAX_ADDRESS: u64 = i64::MAX as u64;

/// Registers the driver; a negative number if the library refuses. Once for a process.
///
/// # Safety
/// The library must be initialised, and its lock held.
pub(super) unsafe fn register() -> hid_t {
    let class = Class {
        version: 1,
        // From 512 on the numbers are for private use.
        value: 512,
        name: c"libckpt".as_ptr(),
        max_address: MAX_ADDRESS,
        close_degree: 1,
        terminate: None,
        superblock: [None; 3],
        info_size: size_of::<*const Source>(),
        info_get: None,
        info_copy: None,
        info_free: None,
        transfer_size: 0,
        transfer: [None; 2],
        open,
        close,
        cmp: None,
        query: None,
        type_map: None,
        alloc: None,
        free: None,
        get_end,
        set_end,
        get_length,
        handle: None,
        read,
        write,
        vectors: [None; 4],
        flush: None,
        truncate: None,
        lock: None,
        unlock: None,
        delete: None,
        control: None,
        free_lists: [0; 7],
    };
    // SAFETY: the library copies the class, which has the layout of its own; the name is static.
    unsafe { H5FDregister((&raw const class).cast()) }
}

/// Makes `access` (a list of file access properties) open `source`; a negative number on failure.
///
/// # Safety
/// The library must be initialised, its lock held, and `source` must outlive every file opened through `access`.
pub(super) unsafe fn set(access: hid_t, driver: hid_t, source: *const Source) -> c_int {
    // SAFETY: the library copies `info_size` bytes, the pointer, out of the local variable.
    unsafe { H5Pset_driver(access, driver, (&raw const source).cast()) }
}

unsafe extern "C" fn open(_: *const c_char, _: c_uint, access: hid_t, _: u64) -> *mut File {
    // SAFETY: a call by the library, within one of ours: it is initialised and locked.
    let info = unsafe { H5Pget_driver_info(access) }.cast::<*const Source>();
    if info.is_null() {
        return ptr::null_mut();
    }
    Box::into_raw(Box::new(File {
        driver: 0,
        class: ptr::null(),
        number: 0,
        access: 0,
        features: 0,
        max_address: 0,
        base: 0,
        threshold: 0,
        alignment: 0,
        paged: false,
        // SAFETY: the properties hold the pointer that `set` put there.
        source: unsafe { *info },
        end: 0,
    }))
}

unsafe extern "C" fn close(file: *mut File) -> c_int {
    // SAFETY: the library gives back, once, what `open` gave it.
    drop(unsafe { Box::from_raw(file) });
    0
}

unsafe extern "C" fn get_end(file: *const File, _: c_int) -> u64 {
    // SAFETY: a file that `open` made and the library has not closed.
    unsafe { (*file).end }
}

unsafe extern "C" fn set_end(file: *mut File, _: c_int, end: u64) -> c_int {
    // SAFETY: a file that `open` made and the library has not closed.
    unsafe { (*file).end = end };
    0
}

unsafe extern "C" fn get_length(file: *const File, _: c_int) -> u64 {
    // SAFETY: a file that `open` made and the library has not closed; `set`'s caller keeps the source alive.
    unsafe { (*(*file).source).len() }
}

unsafe extern "C" fn read(
    file: *mut File,
    _: c_int,
    _: hid_t,
    address: u64,
    size: usize,
    buf: *mut c_void,
) -> c_int {
    if size == 0 {
        return 0;
    }
    // SAFETY: a file that `open` made and the library has not closed; `set`'s caller keeps the source alive.
    let source = unsafe { &*(*file).source };
    if address.checked_add(size as u64).is_none_or(|end| end > source.len()) {
        return FAILED;
    }
    // SAFETY: the library hands over `size` bytes to write to; zeroed first, since they may be fresh memory.
    let buf = unsafe {
        ptr::write_bytes(buf.cast::<u8>(), 0, size);
        std::slice::from_raw_parts_mut(buf.cast::<u8>(), size)
    };
    if source.read_at(address, buf).is_ok() { 0 } else { FAILED }
}

unsafe extern "C" fn write(_: *mut File, _: c_int, _: hid_t, _: u64, _: usize, _: *const c_void) -> c_int {
    FAILED
}
