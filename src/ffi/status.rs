//! Statuses, the calling thread's last failure, and the boundary that every entry passes through.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result, Status};

use super::args;

/// What a call came to. The numbers never change; later versions may add some.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ckpt_status {
    /// It worked.
    CKPT_OK = 0,
    /// An argument is NULL, not UTF-8, out of range, or makes no sense; the message names it.
    CKPT_E_INVALID_ARGUMENT = 1,
    /// The file path's template: syntax, unknown or missing key.
    CKPT_E_TEMPLATE = 2,
    /// The operating system refused: see ckpt_last_os_error().
    CKPT_E_IO = 3,
    /// The disk or the quota is full (ENOSPC, EDQUOT).
    CKPT_E_NO_SPACE = 4,
    /// Not a checkpoint, damaged, or made to do harm.
    CKPT_E_FORMAT = 5,
    /// There is no such file, tensor or value.
    CKPT_E_NOT_FOUND = 6,
    /// A tensor's name, dtype or shape is not what was expected.
    CKPT_E_MISMATCH = 7,
    /// Not now: wrong order of calls, or busy.
    CKPT_E_STATE = 8,
    /// Not something that this version can do.
    CKPT_E_UNSUPPORTED = 9,
    /// The caller cancelled it.
    CKPT_E_CANCELLED = 10,
    /// A bug in this library (a panic, caught); the handle it happened on is best freed.
    CKPT_E_INTERNAL = 11,
}

use ckpt_status::*;

impl From<Status> for ckpt_status {
    fn from(status: Status) -> ckpt_status {
        match status {
            Status::InvalidArgument => CKPT_E_INVALID_ARGUMENT,
            Status::Template => CKPT_E_TEMPLATE,
            Status::Io => CKPT_E_IO,
            Status::NoSpace => CKPT_E_NO_SPACE,
            Status::Format => CKPT_E_FORMAT,
            Status::NotFound => CKPT_E_NOT_FOUND,
            Status::Mismatch => CKPT_E_MISMATCH,
            Status::State => CKPT_E_STATE,
            Status::Unsupported => CKPT_E_UNSUPPORTED,
            Status::Cancelled => CKPT_E_CANCELLED,
            Status::Internal => CKPT_E_INTERNAL,
        }
    }
}

/// A status as a caller hands it in: any number.
pub type ckpt_status_arg = c_int;

/// The failure with this number, and its name.
fn of_number(number: ckpt_status_arg) -> Option<(Status, &'static str)> {
    let index = usize::try_from(number).ok()?;
    let status = *Status::ALL.get(index.checked_sub(1)?)?;
    Some((status, NAMES.get(index)?.to_str().ok()?))
}

const NAMES: [&std::ffi::CStr; 12] = [
    c"CKPT_OK",
    c"CKPT_E_INVALID_ARGUMENT",
    c"CKPT_E_TEMPLATE",
    c"CKPT_E_IO",
    c"CKPT_E_NO_SPACE",
    c"CKPT_E_FORMAT",
    c"CKPT_E_NOT_FOUND",
    c"CKPT_E_MISMATCH",
    c"CKPT_E_STATE",
    c"CKPT_E_UNSUPPORTED",
    c"CKPT_E_CANCELLED",
    c"CKPT_E_INTERNAL",
];

struct LastError {
    message: CString,
    os: c_int,
    /// It is a function of the caller's that said it, in the call that is being made.
    said: bool,
}

thread_local! {
    static LAST: RefCell<LastError> = RefCell::new(LastError { message: CString::default(), os: 0, said: false });
}

/// Runs the body of an entry: failures become the thread's last error, a panic becomes `CKPT_E_INTERNAL`.
pub(super) fn guard(function: &str, body: impl FnOnce() -> Result<()>) -> ckpt_status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => CKPT_OK,
        Ok(Err(error)) => fail(function, &error),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without a message");
            fail(
                function,
                &Error::new(Status::Internal, format!("a bug in libckpt, please report it: {text}")),
            )
        }
    }
}

/// Runs the body of an entry that cannot fail but answers; `fallback` is its answer after a panic.
pub(super) fn answer<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(fallback)
}

fn fail(function: &str, error: &Error) -> ckpt_status {
    let text: Vec<u8> = format!("{function}: {}", error.message()).bytes().filter(|&b| b != 0).collect();
    // A thread that is ending has no slot any more; the status alone has to do then.
    let _ = LAST.try_with(|last| {
        *last.borrow_mut() =
            LastError { message: CString::new(text).unwrap_or_default(), os: error.os(), said: false };
    });
    error.status().into()
}

/// Makes a call of a function of the caller's. Where it fails, the error says `what` was called, what it returned, and what
/// ckpt_set_last_error() was told meanwhile.
pub(super) fn answered(call: impl FnOnce() -> ckpt_status_arg, what: impl FnOnce() -> String) -> Result<()> {
    let _ = LAST.try_with(|last| last.borrow_mut().said = false);
    let number = call();
    if number == CKPT_OK as ckpt_status_arg {
        return Ok(());
    }
    let said = |last: &RefCell<LastError>| match &*last.borrow() {
        LastError { said: true, message, .. } => format!(": {}", message.to_string_lossy()),
        _ => String::new(),
    };
    let (what, said) = (what(), LAST.try_with(said).unwrap_or_default());
    Err(match of_number(number) {
        Some((status, name)) => Error::new(status, format!("{what} returned {name}{said}")),
        None => args::invalid(format!("{what} returned {number}, which is no status{said}")),
    })
}

/// The name of a status, as in "CKPT_E_IO".
///
/// A static string, never NULL: "unknown status" for a number that is none of them. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_status_name(status: ckpt_status_arg) -> *const c_char {
    usize::try_from(status).ok().and_then(|i| NAMES.get(i)).unwrap_or(&c"unknown status").as_ptr()
}

/// The message of the calling thread's last failure: which function, what failed, on what, what to do.
///
/// UTF-8, never NULL, "" where nothing has failed in this thread. A success leaves it as it is. Valid until the
/// thread's next failing call.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().message.as_ptr()).unwrap_or(c"".as_ptr())
}

/// Sets what ckpt_last_error() says in the calling thread: for functions of the caller's that the library calls (a
/// ckpt_fetch_fn, for example) and that are about to return a failure. What fails because of it says so, too, whichever thread
/// hears of it.
///
/// @param message  UTF-8 (what is not, is replaced), copied
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_set_last_error(message: *const c_char) -> ckpt_status {
    guard("ckpt_set_last_error", || {
        if message.is_null() {
            return Err(args::invalid("message is NULL"));
        }
        // SAFETY: not NULL, so a string, by the header's contract.
        let message = args::c_string(&unsafe { CStr::from_ptr(message) }.to_string_lossy())?;
        let _ = LAST.try_with(|last| *last.borrow_mut() = LastError { message, os: 0, said: true });
        Ok(())
    })
}

/// The `errno` behind the calling thread's last failure, if that was CKPT_E_IO or CKPT_E_NO_SPACE; else 0.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_last_os_error() -> c_int {
    LAST.try_with(|last| last.borrow().os).unwrap_or(0)
}

/// The version of the library that is running: major << 16 | minor << 8 | patch. Compare with CKPT_VERSION, that
/// of the header.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_version() -> u32 {
    CKPT_VERSION
}

/// The version of this header: major << 16 | minor << 8 | patch.
pub const CKPT_VERSION: u32 = 0x000100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_number() {
        assert_eq!(of_number(CKPT_E_IO as c_int), Some((Status::Io, "CKPT_E_IO")));
        for (i, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(ckpt_status::from(status) as usize, i + 1);
            assert_eq!(of_number(i as c_int + 1).map(|(s, _)| s), Some(status));
        }
        for number in [0, -1, 12, c_int::MIN, c_int::MAX] {
            assert_eq!(of_number(number), None);
        }
    }

    #[test]
    fn a_panic_becomes_a_status() {
        assert_eq!(guard("ckpt_x", || panic!("number {}", 7)), CKPT_E_INTERNAL);
        // SAFETY: the message is a string until this thread's next failure.
        let message = unsafe { std::ffi::CStr::from_ptr(ckpt_last_error()) }.to_str().unwrap();
        assert!(
            message.starts_with("ckpt_x: a bug in libckpt") && message.ends_with("number 7"),
            "{message}"
        );
        assert_eq!(ckpt_last_os_error(), 0);
        assert_eq!(answer(3, || panic!("again")), 3);
    }
}
