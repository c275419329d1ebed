//! Fractal heaps, where large groups keep their links and objects with many attributes those: small objects in
//! blocks, which grow in size; those of a few bytes in the identifier itself; very large ones by themselves.

use std::collections::HashMap;

use super::btree2;
use super::checksum::verified;
use super::cursor::Cursor;
use super::metadata::Metadata;
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::reader::source::damaged;

const HEADER: u64 = 146;
/// Bytes of a block up to the address of its heap.
const PREFIX: u64 = 13;
const CHECKSUM: u64 = 4;

/// A heap whose blocks were all looked at.
pub(super) struct Heap {
    shape: Shape,
    /// In the order of their offsets.
    blocks: Vec<Block>,
    /// Address and length of the objects that stand by themselves, by their number.
    huge: HashMap<u64, (u64, u64)>,
}

/// What the header says.
struct Shape {
    address: u64,
    /// Bytes of an offset and of a length in an identifier.
    offset_width: u64,
    length_width: u64,
    /// Do the blocks of objects carry a checksum?
    checked: bool,
    /// Blocks in a row.
    width: u64,
    /// Bytes of a block in the first row.
    start: u64,
    /// Rows whose blocks hold objects; below come those whose blocks hold blocks.
    direct_rows: u64,
    /// The most rows that there can be.
    most_rows: u64,
}

/// A block of objects.
struct Block {
    /// Where it begins in the heap's own count.
    offset: u64,
    size: u64,
    address: u64,
}

impl Heap {
    /// Reads the heap whose header is at `address`.
    pub fn read(meta: &mut Metadata, address: u64) -> Result<Heap> {
        let mut c = Cursor::new(meta.get(address, 9)?);
        c.magic(b"FRHP\0", "fractal heap")?;
        c.u16()?;
        if c.u16()? != 0 {
            let what =
                "its heap of links or attributes is compressed, which is not read: write it without filters";
            return Err(Error::new(Status::Unsupported, what));
        }
        let mut c = Cursor::new(verified(meta.get(address, HEADER)?, "fractal heap")?);
        c.take(9)?;
        let (flags, largest) = (c.u8()?, u64::from(c.u32()?));
        c.u64()?;
        let huge = c.u64()?;
        c.take(10 * 8)?;
        let (width, start, largest_block) = (u64::from(c.u16()?), c.u64()?, c.u64()?);
        let bits = u64::from(c.u16()?);
        c.u16()?;
        let (root, rows) = (c.u64()?, u64::from(c.u16()?));

        let sound = [width, start, largest_block].iter().all(|n| n.is_power_of_two()) && bits <= 64;
        let row = width.checked_mul(start).map_or(64, |n| u64::from(n.trailing_zeros()));
        if !sound || start > largest_block || row > bits || largest_block.trailing_zeros() > 32 {
            return Err(damaged("the header of a fractal heap makes no sense"));
        }
        let bytes = |n: u64| u64::from(n.checked_ilog2().unwrap_or(0)) / 8 + 1;
        let shape = Shape {
            address,
            offset_width: bits.div_ceil(8),
            length_width: u64::from(largest_block.trailing_zeros()).div_ceil(8).min(bytes(largest)),
            checked: flags & 2 != 0,
            width,
            start,
            direct_rows: u64::from(largest_block.trailing_zeros() - start.trailing_zeros()) + 2,
            most_rows: bits - row + 1,
        };
        let mut heap = Heap { shape, blocks: Vec::new(), huge: HashMap::new() };
        if huge != u64::MAX {
            btree2::records(meta, huge, 1, &mut |record| {
                let mut c = Cursor::new(record);
                let (address, len, number) = (c.u64()?, c.u64()?, c.u64()?);
                memory::insert(&mut heap.huge, number, (address, len))?;
                Ok(())
            })?;
        }
        match (root, rows) {
            (u64::MAX, _) => (),
            (root, 0) => heap.direct(meta, root, 0, start)?,
            (root, rows) if rows <= heap.shape.most_rows => heap.indirect(meta, root, 0, rows)?,
            _ => return Err(damaged("a fractal heap has more rows than it can have")),
        }
        Ok(heap)
    }

    /// The object with this identifier.
    pub fn object(&self, meta: &mut Metadata, id: &[u8]) -> Result<Vec<u8>> {
        let mut c = Cursor::new(id);
        let head = c.u8()?;
        match head >> 4 {
            0 => {
                let offset = c.number(self.shape.offset_width as usize)?;
                let len = c.number(self.shape.length_width as usize)?;
                let block = self.blocks.partition_point(|block| block.offset <= offset).checked_sub(1);
                let block = block.and_then(|i| self.blocks.get(i));
                let inside = block.and_then(|block| {
                    let at = offset - block.offset;
                    let fits = at >= self.shape.overhead() && at.checked_add(len)? <= block.size;
                    fits.then_some(block.address + at)
                });
                meta.get_vec(inside.ok_or_else(|| damaged("an object lies outside its fractal heap"))?, len)
            }
            1 => match self.huge.get(&c.number(c.rest().len().min(8))?) {
                Some(&(address, len)) => meta.get_vec(address, len),
                None => Err(damaged("a large object is not in its fractal heap")),
            },
            2 => {
                // Identifiers here have at most 8 bytes, so that the length is one of few bits.
                Ok(c.take(usize::from(head & 0x0f) + 1)?.to_vec())
            }
            _ => Err(damaged("an object has an identifier of an unknown kind")),
        }
    }

    /// A block of objects.
    fn direct(&mut self, meta: &mut Metadata, address: u64, offset: u64, size: u64) -> Result<()> {
        meta.visit(address)?;
        let mut bytes = meta.get_vec(address, size)?;
        let mut c = Cursor::new(&bytes);
        c.magic(b"FHDB\0", "block of a fractal heap")?;
        self.check_place(&mut c, offset)?;
        if self.shape.checked {
            // The checksum covers the whole block, with zeros where it stands.
            let at = bytes.len() - c.rest().len();
            let sum = c.u32()?;
            bytes.get_mut(at..at + 4).unwrap_or_default().fill(0);
            memory::append(&mut bytes, &sum.to_le_bytes())?;
            verified(&bytes, "block of a fractal heap")?;
        }
        memory::reserve(&mut self.blocks, 1)?;
        self.blocks.push(Block { offset, size, address });
        Ok(())
    }

    /// A block of blocks, which has so many rows. Those below it have fewer, so that the recursion ends.
    fn indirect(&mut self, meta: &mut Metadata, address: u64, offset: u64, rows: u64) -> Result<()> {
        meta.visit(address)?;
        let len = PREFIX + self.shape.offset_width + rows * self.shape.width * 8 + CHECKSUM;
        let bytes = meta.get_vec(address, len)?;
        let mut c = Cursor::new(verified(&bytes, "block of a fractal heap")?);
        c.magic(b"FHIB\0", "block of a fractal heap")?;
        self.check_place(&mut c, offset)?;
        let mut at = Some(offset);
        for row in 0..rows {
            // The first two rows are alike, then each has blocks of twice the size.
            let size = self.shape.start.checked_shl(row.saturating_sub(1) as u32);
            for _ in 0..self.shape.width {
                let child = c.u64()?;
                let (Some(offset), Some(size)) = (at, size) else {
                    return Err(damaged("a fractal heap is larger than it can be"));
                };
                at = offset.checked_add(size);
                if child == u64::MAX {
                    continue;
                }
                if row < self.shape.direct_rows {
                    self.direct(meta, child, offset, size)?;
                    continue;
                }
                match row.checked_sub(u64::from(self.shape.width.trailing_zeros())) {
                    Some(rows @ 1..) => self.indirect(meta, child, offset, rows)?,
                    _ => return Err(damaged("a block of a fractal heap has no rows")),
                }
            }
        }
        Ok(())
    }

    /// Takes the heap's address and the offset out of a block: they must be those that led here.
    fn check_place(&self, c: &mut Cursor, offset: u64) -> Result<()> {
        let place = (c.u64()?, c.number(self.shape.offset_width as usize)?);
        match place == (self.shape.address, offset) {
            true => Ok(()),
            false => Err(damaged("a block of a fractal heap belongs to another place")),
        }
    }
}

impl Shape {
    /// Bytes of a block of objects that are not for objects.
    fn overhead(&self) -> u64 {
        PREFIX + self.offset_width + if self.checked { CHECKSUM } else { 0 }
    }
}
