//! The one error type, and the statuses that C sees. Their numbers never change.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::path::Path;

/// What kind of failure it is; the discriminants are those of `ckpt_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// An argument is NULL, not UTF-8, out of range, or makes no sense.
    InvalidArgument = 1,
    /// The file path's template: syntax, unknown or missing key.
    Template = 2,
    /// The operating system refused; [`Error::os`] holds its number.
    Io = 3,
    /// The disk or the quota is full.
    NoSpace = 4,
    /// Not a checkpoint, damaged, or made to do harm.
    Format = 5,
    /// There is no such thing.
    NotFound = 6,
    /// A tensor's name, dtype or shape is not what was expected.
    Mismatch = 7,
    /// Not now: wrong order of calls, or busy.
    State = 8,
    /// Not something that this version can do.
    Unsupported = 9,
    /// The caller cancelled it.
    Cancelled = 10,
    /// A bug in this library.
    Internal = 11,
}

impl Status {
    /// Every status, in the order of its number, from 1.
    pub const ALL: [Status; 11] = [
        Status::InvalidArgument,
        Status::Template,
        Status::Io,
        Status::NoSpace,
        Status::Format,
        Status::NotFound,
        Status::Mismatch,
        Status::State,
        Status::Unsupported,
        Status::Cancelled,
        Status::Internal,
    ];
}

/// A failure: its status, a message for a person, and the `errno` behind it (0 if none).
#[derive(Clone, Debug)]
pub struct Error {
    status: Status,
    message: String,
    os: i32,
}

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure that no system call is behind.
    pub fn new(status: Status, message: impl Into<String>) -> Error {
        Error { status, message: message.into(), os: 0 }
    }

    /// A failure of the operating system while doing `what` (a verb) to `path`; a full disk or quota becomes
    /// [`Status::NoSpace`].
    pub fn io(what: &str, path: &Path, cause: &io::Error) -> Error {
        let os = cause.raw_os_error().unwrap_or(0);
        let full = os == libc::ENOSPC || os == libc::EDQUOT;
        let status = if full { Status::NoSpace } else { Status::Io };
        Error { status, message: format!("cannot {what} '{}': {cause}", path.display()), os }
    }

    /// There is no memory of `bytes` for `what`.
    pub fn no_memory(what: &str, bytes: u64) -> Error {
        let cause = io::Error::from_raw_os_error(libc::ENOMEM);
        let message = format!("{bytes} bytes for {what}: {cause}");
        Error { status: Status::Io, message, os: libc::ENOMEM }
    }

    /// The kind of failure.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The message: what failed, on what, and what to do.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The `errno` behind it, or 0.
    pub fn os(&self) -> i32 {
        self.os
    }

    /// The same failure with `context` before its message.
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
