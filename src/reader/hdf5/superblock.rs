//! The superblock: where the addresses count from, where they end, where the root group is.

use super::checksum::verified;
use super::cursor::Cursor;
use crate::error::{Error, Result, Status};
use crate::reader::source::{Source, damaged};

const MAGIC: [u8; 8] = *b"\x89HDF\r\n\x1a\n";

/// What the superblock says.
pub(super) struct Superblock {
    /// The stretch that addresses refer to.
    pub source: Source,
    /// The address of the root group's object header.
    pub root: u64,
    /// The address of the extension's object header, if there is one.
    pub extension: Option<u64>,
}

/// Where the superblock is: at 0, 512, 1024, 2048, ... of the source.
pub(in crate::reader) fn find(source: &Source) -> Result<Option<u64>> {
    let mut at = 0;
    while source.len().saturating_sub(at) >= MAGIC.len() as u64 {
        let mut magic = [0; MAGIC.len()];
        source.read_at(at, &mut magic)?;
        if magic == MAGIC {
            return Ok(Some(at));
        }
        at = if at == 0 { 512 } else { at * 2 };
    }
    Ok(None)
}

/// Decodes the superblock at `origin`, whatever base address it states: so does the HDF5 library.
pub(super) fn read(source: &Source, origin: u64) -> Result<Superblock> {
    let bytes = source.read_vec(origin, (source.len() - origin).min(128))?;
    let mut c = Cursor::new(&bytes);
    c.magic(&MAGIC, "superblock")?;
    let version = c.u8()?;
    let (base, end, root, extension) = match version {
        0 | 1 => {
            c.take(4)?;
            widths(&mut c)?;
            c.take(if version == 0 { 9 } else { 13 })?;
            let base = c.u64()?;
            c.u64()?;
            let end = c.u64()?;
            if c.u64()? != u64::MAX {
                return Err(unsupported("it is one part of a file that HDF5 split over several"));
            }
            c.u64()?;
            (base, end, c.u64()?, None)
        }
        2 | 3 => {
            verified(bytes.get(..48).unwrap_or_default(), "superblock")?;
            widths(&mut c)?;
            c.take(1)?;
            let base = c.u64()?;
            let extension = c.u64()?;
            let end = c.u64()?;
            (base, end, c.u64()?, (extension != u64::MAX).then_some(extension))
        }
        _ => return Err(unsupported(format!("its HDF5 superblock has version {version}"))),
    };
    let len = end.checked_sub(base);
    let Some(part) = len.and_then(|len| source.part(origin, len)) else {
        return Err(damaged(format!(
            "it is cut off: its superblock promises {} bytes, {} are there",
            len.unwrap_or(0),
            source.len() - origin
        )));
    };
    Ok(Superblock { source: part, root, extension })
}

fn widths(c: &mut Cursor) -> Result<()> {
    let (offsets, lengths) = (c.u8()?, c.u8()?);
    if (offsets, lengths) != (8, 8) {
        return Err(unsupported(format!(
            "its HDF5 addresses have {offsets} bytes and its lengths {lengths}: 8 and 8 are possible"
        )));
    }
    Ok(())
}

fn unsupported(what: impl Into<String>) -> Error {
    Error::new(Status::Unsupported, what)
}
