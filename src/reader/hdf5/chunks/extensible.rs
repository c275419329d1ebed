//! The extensible array of chunks: a header; an index block with the first elements; data blocks, which grow in
//! size, named by the index block or by super blocks; large data blocks are cut into pages.

use super::{bit, check_element, check_owner, elements};
use crate::error::Result;
use crate::reader::hdf5::checksum::verified;
use crate::reader::hdf5::cursor::Cursor;
use crate::reader::hdf5::metadata::Metadata;
use crate::reader::source::damaged;

const HEADER: u64 = 72;
/// Bytes of a block up to the address of its array.
const PREFIX: u64 = 14;
const CHECKSUM: u64 = 4;

/// What the header says.
struct Array {
    address: u64,
    /// Bytes of an element.
    size: u64,
    /// Bytes of a number of an element.
    width: u64,
    /// Elements of a page.
    page: u64,
    /// The first number that is not wanted.
    end: u64,
}

type Visit<'v> = dyn FnMut(u64, &[u8]) -> Result<()> + 'v;

/// Visits the elements of the array at `address`, each with its number. Blocks and pages that were never written, or
/// hold none below `end`, are left out.
pub(super) fn each(
    meta: &mut Metadata,
    address: u64,
    filtered: bool,
    end: u64,
    visit: &mut Visit,
) -> Result<()> {
    let mut c = Cursor::new(verified(meta.get(address, HEADER)?, "extensible array")?);
    c.magic(b"EAHD\0", "extensible array")?;
    let (kind, size, bits) = (c.u8()?, c.u8()?, c.u8()?);
    let (inside, smallest, pointers, page_bits) = (u64::from(c.u8()?), c.u8()?, c.u8()?, c.u8()?);
    c.take(6 * 8)?;
    let index = c.u64()?;
    let size = check_element(kind, size, filtered)?;
    let sound = smallest.is_power_of_two() && pointers.is_power_of_two();
    let blocks = u32::from(bits).checked_sub(smallest.trailing_zeros()).map(|n| n + 1);
    let direct = 2 * pointers.trailing_zeros();
    let (true, Some(blocks), 1..=64) = (sound, blocks.filter(|&n| n >= direct), bits) else {
        return Err(damaged("the header of its extensible array of chunks makes no sense"));
    };
    if index == u64::MAX {
        return Ok(());
    }
    let page = 1_u64.checked_shl(page_bits.into()).unwrap_or(u64::MAX);
    let array = Array { address, size, width: u64::from(bits).div_ceil(8), page, end };

    let addresses = 2 * (u64::from(pointers) - 1) + u64::from(blocks - direct);
    let block = meta.get_vec(index, PREFIX + inside * size + addresses * 8 + CHECKSUM)?;
    let mut c = Cursor::new(verified(&block, "index block of an extensible array")?);
    c.magic(b"EAIB\0", "index block of an extensible array")?;
    c.u8()?;
    check_owner(&mut c, address)?;
    elements(c.take((inside * size) as usize)?, size, 0, visit)?;
    let mut first = inside;
    for level in 0..blocks {
        // The super block of a level has so many data blocks, of so many elements.
        let (count, len) = (1_u64 << (level / 2), u64::from(smallest) << level.div_ceil(2));
        if level < direct {
            for _ in 0..count {
                array.data(meta, c.u64()?, first, len, None, visit)?;
                first = first.saturating_add(len);
            }
        } else {
            array.super_block(meta, c.u64()?, first, count, len, visit)?;
            first = first.saturating_add(count.saturating_mul(len));
        }
    }
    Ok(())
}

impl Array {
    /// A super block: its data blocks, `count` of `len` elements each, the first of which has the number `first`.
    fn super_block(
        &self,
        meta: &mut Metadata,
        at: u64,
        first: u64,
        count: u64,
        len: u64,
        visit: &mut Visit,
    ) -> Result<()> {
        if at == u64::MAX || first >= self.end {
            return Ok(());
        }
        let pages = if len > self.page { len / self.page } else { 0 };
        let bitmaps = pages.div_ceil(8).saturating_mul(count);
        let bytes =
            bitmaps.saturating_add(count.saturating_mul(8)).saturating_add(PREFIX + self.width + CHECKSUM);
        let block = meta.get_vec(at, bytes)?;
        let mut c = Cursor::new(verified(&block, "super block of an extensible array")?);
        c.magic(b"EASB\0", "super block of an extensible array")?;
        c.u8()?;
        check_owner(&mut c, self.address)?;
        c.take(self.width as usize)?;
        let bitmaps = c.take(usize::try_from(bitmaps).unwrap_or(usize::MAX))?;
        for n in 0..count {
            let written = (pages > 0).then_some((bitmaps, n * pages));
            self.data(meta, c.u64()?, first.saturating_add(n.saturating_mul(len)), len, written, visit)?;
        }
        Ok(())
    }

    /// A data block of `len` elements; `written` says which of its pages are there: the bits from a place on.
    fn data(
        &self,
        meta: &mut Metadata,
        at: u64,
        first: u64,
        len: u64,
        written: Option<(&[u8], u64)>,
        visit: &mut Visit,
    ) -> Result<()> {
        if at == u64::MAX || first >= self.end {
            return Ok(());
        }
        let paged = len > self.page;
        let bytes = len.checked_mul(self.size).filter(|&bytes| bytes <= meta.len());
        let (Some(bytes), true) = (bytes, paged == written.is_some()) else {
            return Err(damaged("a block of its extensible array of chunks is larger than it can be"));
        };
        let prefix = PREFIX + self.width;
        let block = meta.get_vec(at, prefix + if paged { 0 } else { bytes } + CHECKSUM)?;
        let mut c = Cursor::new(verified(&block, "data block of an extensible array")?);
        c.magic(b"EADB\0", "data block of an extensible array")?;
        c.u8()?;
        check_owner(&mut c, self.address)?;
        c.take(self.width as usize)?;
        let Some((bitmap, from)) = written else { return elements(c.rest(), self.size, first, visit) };
        let page_bytes = self.page * self.size + CHECKSUM;
        let wanted = (self.end - first).div_ceil(self.page).min(len / self.page);
        for n in (0..wanted).filter(|n| bit(bitmap, from + n)) {
            let at = at.saturating_add(prefix + CHECKSUM + n * page_bytes);
            let page = verified(meta.get(at, page_bytes)?, "page of an extensible array")?;
            elements(page, self.size, first.saturating_add(n * self.page), visit)?;
        }
        Ok(())
    }
}
