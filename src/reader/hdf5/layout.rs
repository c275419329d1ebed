//! The layout message of a dataset: where its bytes are.

use super::chunks::Chunks;
use super::cursor::Cursor;
use super::header::Message;
use crate::error::Result;
use crate::reader::source::damaged;

/// Where the bytes of a dataset are.
pub(super) enum Layout {
    /// In one piece; old messages do not say how long it is.
    Whole {
        offset: u64,
        size: Option<u64>,
    },
    /// Not there yet.
    Unwritten,
    Chunked(Chunks),
}

/// Decodes the layout message of a dataset.
pub(super) fn read(message: &Message) -> Result<Layout> {
    let mut c = Cursor::new(message.body);
    let version = c.u8()?;
    match version {
        1 | 2 => old(c, message),
        3..=5 => match c.u8()? {
            0 => {
                let size = u64::from(c.u16()?);
                whole(c, message, size)
            }
            1 => Ok(contiguous(c.u64()?, Some(c.u64()?))),
            2 if version == 3 => {
                let axes = c.u8()?;
                let address = c.u64()?;
                Chunks::tree(address, (0..axes).map(|_| c.u32().map(u64::from)).collect::<Result<_>>()?)
                    .map(Layout::Chunked)
            }
            2 => Chunks::indexed(c).map(Layout::Chunked),
            3 => Err(damaged("it is a virtual dataset, whose bytes are in other files: these are not read")),
            class => Err(damaged(format!("its layout has the unknown class {class}"))),
        },
        _ => Err(damaged(format!("its layout has the unknown version {version}"))),
    }
}

/// Versions 1 and 2: the sizes of the axes are there for every class, but may be cut to 32 bits.
fn old(mut c: Cursor, message: &Message) -> Result<Layout> {
    let (axes, class) = (c.u8()?, c.u8()?);
    c.take(5)?;
    let address = if class == 0 { 0 } else { c.u64()? };
    let sizes = (0..axes).map(|_| c.u32().map(u64::from)).collect::<Result<Vec<u64>>>()?;
    match class {
        0 => {
            let size = u64::from(c.u32()?);
            whole(c, message, size)
        }
        1 => Ok(contiguous(address, None)),
        2 => Chunks::tree(address, sizes).map(Layout::Chunked),
        class => Err(damaged(format!("its layout has the unknown class {class}"))),
    }
}

/// The rest of the message holds the bytes themselves.
fn whole(mut c: Cursor, message: &Message, size: u64) -> Result<Layout> {
    let at = (message.body.len() - c.rest().len()) as u64;
    c.take(usize::try_from(size).unwrap_or(usize::MAX))?;
    Ok(Layout::Whole { offset: message.address.saturating_add(at), size: Some(size) })
}

fn contiguous(address: u64, size: Option<u64>) -> Layout {
    match address {
        u64::MAX => Layout::Unwritten,
        offset => Layout::Whole { offset, size },
    }
}
