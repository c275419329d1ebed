//! The fixed array of chunks: a header, and a data block that may be cut into pages.

use super::{bit, check_element, check_owner, elements};
use crate::error::Result;
use crate::reader::hdf5::checksum::verified;
use crate::reader::hdf5::cursor::Cursor;
use crate::reader::hdf5::metadata::Metadata;
use crate::reader::source::damaged;

const HEADER: u64 = 28;
/// Bytes of a data block before its bitmap, elements or checksum.
const PREFIX: u64 = 14;
const CHECKSUM: u64 = 4;

/// Visits the elements of the array at `address`, each with its number. Pages that were never written, or hold none
/// below `end`, are left out.
pub(super) fn each(
    meta: &mut Metadata,
    address: u64,
    filtered: bool,
    end: u64,
    visit: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut c = Cursor::new(verified(meta.get(address, HEADER)?, "fixed array")?);
    c.magic(b"FAHD\0", "fixed array")?;
    let (kind, size, page_bits) = (c.u8()?, c.u8()?, c.u8()?);
    let (count, block) = (c.u64()?, c.u64()?);
    let size = check_element(kind, size, filtered)?;
    if block == u64::MAX {
        return Ok(());
    }
    let bytes = count.checked_mul(size).filter(|&bytes| bytes <= meta.len());
    let Some(bytes) = bytes else { return Err(damaged("its fixed array of chunks is larger than the file")) };
    let page = 1_u64.checked_shl(page_bits.into()).unwrap_or(u64::MAX);
    let pages = if count > page { count.div_ceil(page) } else { 0 };
    let inside = if pages > 0 { pages.div_ceil(8) } else { bytes };
    let head = meta.get_vec(block, PREFIX + inside + CHECKSUM)?;
    let mut c = Cursor::new(verified(&head, "block of a fixed array")?);
    c.magic(b"FADB\0", "block of a fixed array")?;
    c.u8()?;
    check_owner(&mut c, address)?;
    if pages == 0 {
        return elements(c.rest(), size, 0, visit);
    }
    let first = block.saturating_add(PREFIX + inside + CHECKSUM);
    for n in (0..pages.min(end.div_ceil(page))).filter(|&n| bit(c.rest(), n)) {
        let at = first.saturating_add(n * (page * size + CHECKSUM));
        let len = page.min(count - n * page) * size;
        elements(verified(meta.get(at, len + CHECKSUM)?, "page of a fixed array")?, size, n * page, visit)?;
    }
    Ok(())
}
