//! Arguments as C hands them over, checked and named. One place knows what each pointer is.

use std::ffi::{CStr, CString, c_char, c_int};

use crate::error::{Error, Result, Status};
use crate::memory;

/// The failure that an argument causes.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Status::InvalidArgument, message)
}

/// A UTF-8 string that the caller keeps alive during the call.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that nobody changes during the call.
pub(super) unsafe fn string<'a>(text: *const c_char, argument: &str) -> Result<&'a str> {
    if text.is_null() {
        return Err(invalid(format!("{argument} is NULL")));
    }
    // SAFETY: not NULL, so NUL-terminated and unchanging by this function's contract.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|e| {
        invalid(format!("{argument} is not UTF-8: byte {} of {:?}", e.valid_up_to(), text.to_string_lossy()))
    })
}

/// A handle, or a place for a result: entries take them as `Option` of a reference, whose NULL is `None`.
pub(super) fn some<T>(pointer: Option<T>, argument: &str) -> Result<T> {
    pointer.ok_or_else(|| invalid(format!("{argument} is NULL")))
}

/// `n` elements that the caller keeps alive during the call; NULL is fine where `n` is 0.
///
/// # Safety
/// `first` is NULL or points to `n` initialised elements that nobody changes during the call.
pub(super) unsafe fn slice<'a, T>(first: *const T, n: usize, argument: &str) -> Result<&'a [T]> {
    if n == 0 {
        return Ok(&[]);
    }
    if first.is_null() {
        return Err(invalid(format!("{argument} is NULL, but {n} elements are announced")));
    }
    if !first.is_aligned() || n > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(invalid(format!("{argument} cannot hold {n} elements")));
    }
    // SAFETY: not NULL, aligned, of a possible size, and `n` elements long by this function's contract.
    Ok(unsafe { std::slice::from_raw_parts(first, n) })
}

/// As [`slice`], of an argument that may be left out: NULL is `None`.
///
/// # Safety
/// As of [`slice`].
pub(super) unsafe fn slice_or_null<'a, T>(
    first: *const T,
    n: usize,
    argument: &str,
) -> Result<Option<&'a [T]>> {
    // SAFETY: this function's contract.
    (!first.is_null()).then(|| unsafe { slice(first, n, argument) }).transpose()
}

/// The value of an enum argument, by its number.
pub(super) fn choice<T: Copy>(number: c_int, values: &[T], argument: &str) -> Result<T> {
    usize::try_from(number).ok().and_then(|i| values.get(i)).copied().ok_or_else(|| {
        invalid(format!(
            "{argument} is {number}: expected a number from 0 to {}",
            values.len().saturating_sub(1)
        ))
    })
}

/// Flags, if all of them are among those that there are.
pub(super) fn flags(bits: u32, known: &[u32], argument: &str) -> Result<u32> {
    match bits & !known.iter().fold(0, |all, flag| all | flag) {
        0 => Ok(bits),
        unknown => Err(invalid(format!("{argument} is {bits:#x}: there is no flag {unknown:#x}"))),
    }
}

/// A text for C, which ends at its first NUL: none that comes from here should have one.
pub(super) fn c_string(text: &str) -> Result<CString> {
    let text = text.split('\0').next().unwrap_or_default();
    let bytes = memory::collect(text.bytes().chain([0]).take(text.len() + 1))?;
    Ok(CString::from_vec_with_nul(bytes).unwrap_or_default())
}

/// Hands a new handle to the caller.
pub(super) fn into_handle<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Takes a handle back and drops it; NULL is fine.
///
/// # Safety
/// `handle` is NULL or came from [`into_handle`], and is not used again.
pub(super) unsafe fn free_handle<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: it came from `into_handle` by this function's contract, so from a Box.
        super::status::answer((), || drop(unsafe { Box::from_raw(handle) }));
    }
}

/// Memory of the caller's to fill; NULL is fine where `n` is 0.
///
/// # Safety
/// `first` is NULL or points to `n` elements, initialised or not, that nobody else uses during the call; `T` has no
/// invalid bit patterns.
pub(super) unsafe fn slice_mut<'a>(first: *mut u8, n: usize, argument: &str) -> Result<&'a mut [u8]> {
    if n == 0 {
        return Ok(&mut []);
    }
    if first.is_null() {
        return Err(invalid(format!("{argument} is NULL, but {n} bytes are announced")));
    }
    if n > isize::MAX as usize {
        return Err(invalid(format!("{argument} cannot hold {n} bytes")));
    }
    // SAFETY: not NULL, of a possible size, and `n` bytes long and exclusive by this function's contract.
    Ok(unsafe { std::slice::from_raw_parts_mut(first, n) })
}
