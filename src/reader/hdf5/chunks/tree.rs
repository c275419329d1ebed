//! The version 1 B-tree of chunks.

use super::{Chunk, Chunks, Visit};
use crate::error::Result;
use crate::reader::hdf5::cursor::Cursor;
use crate::reader::hdf5::metadata::Metadata;
use crate::reader::source::damaged;
use crate::tensor::MAX_RANK;

/// Visits every chunk of the tree whose root is at `root`.
pub(super) fn each(meta: &mut Metadata, root: u64, chunks: &Chunks, visit: &mut Visit) -> Result<()> {
    let mut c = Cursor::new(meta.get(root, 8)?);
    c.magic(b"TREE\x01", "B-tree of chunks")?;
    let level = c.u8()?;
    node(meta, root, level, chunks, visit)
}

/// Walks a node. Levels fall by one at each step, so that the recursion ends.
fn node(meta: &mut Metadata, at: u64, level: u8, chunks: &Chunks, visit: &mut Visit) -> Result<()> {
    meta.visit(at)?;
    let mut c = Cursor::new(meta.get(at, 24)?);
    c.magic(b"TREE\x01", "B-tree of chunks")?;
    if c.u8()? != level {
        return Err(damaged("a node of its B-tree of chunks is not on the level of its parent's children"));
    }
    let used = u64::from(c.u16()?);
    // Size, skipped filters, a place along each axis and in the element, and the child; the last key is not needed.
    let entry = 8 + 8 * (chunks.axes.len() as u64 + 1) + 8;
    let entries = meta.get_vec(at.saturating_add(24), used * entry)?;
    let mut c = Cursor::new(&entries);
    for _ in 0..used {
        let (stored, skipped) = (u64::from(c.u32()?), c.u32()?);
        let mut place = [0; MAX_RANK];
        let place = place.get_mut(..chunks.axes.len()).unwrap_or_default();
        let mut straight = true;
        for (at, axis) in place.iter_mut().zip(&chunks.axes) {
            let start = c.u64()?;
            (*at, straight) = (start / axis, straight && start % axis == 0);
        }
        c.u64()?;
        let child = c.u64()?;
        match level.checked_sub(1) {
            Some(below) => node(meta, child, below, chunks, visit)?,
            None if !straight => return Err(damaged("a chunk of it begins where none can")),
            None => visit(&Chunk { place, address: child, stored, skipped })?,
        }
    }
    Ok(())
}
