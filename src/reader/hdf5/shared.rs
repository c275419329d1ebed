//! Messages that several objects share: a committed datatype is one in the header of its own object.

use super::cursor::Cursor;
use super::header::{Header, Message};
use super::metadata::Metadata;
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::reader::source::damaged;

/// The body of a message, wherever it stands.
pub(super) fn body(meta: &mut Metadata, message: &Message) -> Result<Vec<u8>> {
    if !message.shared {
        return memory::collect(message.body.iter().copied());
    }
    let mut c = Cursor::new(message.body);
    let (version, how) = (c.u8()?, c.u8()?);
    let address = match (version, how) {
        (1, _) => {
            c.take(14)?;
            c.u64()?
        }
        (3, 1) => return Err(in_table()),
        (2 | 3, _) => c.u64()?,
        _ => return Err(damaged(format!("a shared message has the unknown version {version}"))),
    };
    let mut header = Header::default();
    header.read(meta, address).map_err(|e| e.context("the object that a shared message stands in"))?;
    match header.find(message.kind) {
        Some(found) if !found.shared => memory::collect(found.body.iter().copied()),
        _ => Err(damaged("a shared message does not stand where it is said to be")),
    }
}

/// The refusal of a message that stands in the file's table of shared messages.
pub(super) fn in_table() -> Error {
    let what = "a message of its header stands in the file's table of shared messages, which is not read: \
                rewrite the file without one, as h5repack does";
    Error::new(Status::Unsupported, what)
}
