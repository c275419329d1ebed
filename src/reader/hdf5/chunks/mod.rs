//! Chunked datasets: the grid of chunks, and the index that says where in the file each of them is.
//!
//! - `tree`: the version 1 B-tree, which every HDF5 reads and most files have;
//! - `fixed`: the fixed array, where no axis can grow;
//! - `extensible`: the extensible array, where one can.
//!
//! Where several axes can grow, it is a version 2 B-tree; a single chunk, and chunks that stand one after the
//! other, need no index.

mod extensible;
mod fixed;
mod grid;
mod tree;

pub(super) use self::grid::Grid;

use super::btree2;
use super::cursor::Cursor;
use super::metadata::Metadata;
use crate::error::Result;
use crate::reader::source::damaged;
use crate::tensor::MAX_RANK;

/// What a layout message says of a chunked dataset.
pub(super) struct Chunks {
    /// Elements of a chunk along each axis; none of them 0.
    pub axes: Vec<u64>,
    /// Bytes of an element.
    pub element: u64,
    /// Bytes of a chunk.
    pub bytes: u64,
    /// Chunks that reach beyond the shape are not filtered.
    plain_edges: bool,
    index: Index,
    /// Where the index is; `None` while no chunk is written.
    address: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Index {
    Tree1,
    /// One chunk, and if it is filtered, its stored size and the filters that were skipped.
    Single(Option<(u64, u32)>),
    /// One after the other.
    Implicit,
    Fixed,
    Extensible,
    Tree2,
}

/// A chunk that was written.
pub(super) struct Chunk<'a> {
    /// Its place in the grid.
    pub place: &'a [u64],
    pub address: u64,
    /// Bytes in the file.
    pub stored: u64,
    /// The filters that were skipped, a bit each.
    pub skipped: u32,
}

/// Bytes of an index that may be looked at, for each chunk and for the rest: datasets that share an index are not to
/// take the time of its size each.
const ENTRY: u64 = 512;
const SMALL: u64 = 256 << 10;

type Visit<'v> = dyn FnMut(&Chunk) -> Result<()> + 'v;

impl Chunks {
    /// As layout messages up to version 3 have it; the last of `sizes` is that of an element.
    pub fn tree(address: u64, sizes: Vec<u64>) -> Result<Chunks> {
        Chunks::new(address, sizes, Index::Tree1, false)
    }

    /// As layout messages from version 4 on have it, from the flags on.
    pub fn indexed(mut c: Cursor) -> Result<Chunks> {
        let (flags, axes, width) = (c.u8()?, c.u8()?, usize::from(c.u8()?));
        let sizes = (0..axes).map(|_| c.number(width)).collect::<Result<Vec<u64>>>()?;
        let (index, parameters) = match c.u8()? {
            1 if flags & 2 != 0 => (Index::Single(Some((c.u64()?, c.u32()?))), 0),
            1 => (Index::Single(None), 0),
            2 => (Index::Implicit, 0),
            // The parameters of the others stand in their headers too.
            3 => (Index::Fixed, 1),
            4 => (Index::Extensible, 5),
            5 => (Index::Tree2, 6),
            other => return Err(damaged(format!("its chunks have an index of the unknown kind {other}"))),
        };
        c.take(parameters)?;
        Chunks::new(c.u64()?, sizes, index, flags & 1 != 0)
    }

    fn new(address: u64, mut axes: Vec<u64>, index: Index, plain_edges: bool) -> Result<Chunks> {
        let bytes = axes.iter().try_fold(1, |n: u64, size| n.checked_mul(*size));
        let bytes = bytes.filter(|&n| n > 0 && n <= i64::MAX as u64 && axes.len() > 1);
        let (Some(bytes), Some(element)) = (bytes, axes.pop()) else {
            return Err(damaged(format!("it has chunks of the size {axes:?}")));
        };
        let address = (address != u64::MAX).then_some(address);
        Ok(Chunks { axes, element, bytes, plain_edges, index, address })
    }

    /// Visits every chunk that was written; `filtered` says whether the dataset has filters. No chunk outside the
    /// grid is visited, but a damaged index may name one several times.
    pub fn each(&self, meta: &mut Metadata, grid: &Grid, filtered: bool, visit: &mut Visit) -> Result<()> {
        let Some(address) = self.address else { return Ok(()) };
        meta.limit(grid.count().saturating_mul(ENTRY).saturating_add(SMALL));
        let mut visit = |chunk: &Chunk| {
            if !grid.contains(chunk.place) {
                return Err(damaged(format!("its chunk {:?} lies outside its shape", chunk.place)));
            }
            let skipped =
                if self.plain_edges && grid.is_edge(chunk.place) { u32::MAX } else { chunk.skipped };
            visit(&Chunk { skipped, ..*chunk })
        };
        let stored = self.bytes;
        match self.index {
            Index::Tree1 => tree::each(meta, address, self, &mut visit),
            Index::Single(packed) => {
                if packed.is_some() != filtered || grid.count() != 1 {
                    return Err(damaged(
                        "it is said to have a single chunk, which does not fit its shape or filters",
                    ));
                }
                let (stored, skipped) = packed.unwrap_or((stored, 0));
                let place = vec![0; self.axes.len()];
                visit(&Chunk { place: &place, address, stored, skipped })
            }
            Index::Implicit if filtered => Err(damaged("it has filters, and chunks without an index")),
            Index::Implicit => {
                let order = grid.order(None)?;
                grid.places(|place| {
                    let address =
                        order.number(place).and_then(|n| n.checked_mul(stored)?.checked_add(address));
                    let address =
                        address.ok_or_else(|| damaged("its chunks lie beyond the end of the file"))?;
                    visit(&Chunk { place, address, stored, skipped: 0 })
                })
            }
            Index::Fixed => {
                let order = grid.order(None)?;
                fixed::each(meta, address, filtered, order.end(grid), &mut |n, element| {
                    self.entry(grid, &order, n, element, &mut visit)
                })
            }
            Index::Extensible => {
                let order = grid.order(Some(grid.growing()?))?;
                extensible::each(meta, address, filtered, order.end(grid), &mut |n, element| {
                    self.entry(grid, &order, n, element, &mut visit)
                })
            }
            Index::Tree2 => btree2::records(meta, address, if filtered { 11 } else { 10 }, &mut |record| {
                self.record(record, filtered, &mut visit)
            }),
        }
    }

    /// The element of an array, for the chunk with the number `n`.
    fn entry(
        &self,
        grid: &Grid,
        order: &grid::Order,
        n: u64,
        element: &[u8],
        visit: &mut Visit,
    ) -> Result<()> {
        let mut c = Cursor::new(element);
        let address = c.u64()?;
        if address == u64::MAX {
            return Ok(());
        }
        let (stored, skipped) = match c.rest().len().checked_sub(4) {
            Some(width) => (c.number(width)?, c.u32()?),
            None => (self.bytes, 0),
        };
        let mut place = [0; MAX_RANK];
        let place = place.get_mut(..grid.rank()).unwrap_or_default();
        order.place(n, place);
        visit(&Chunk { place, address, stored, skipped })
    }

    /// A record of a version 2 B-tree.
    fn record(&self, record: &[u8], filtered: bool, visit: &mut Visit) -> Result<()> {
        let mut c = Cursor::new(record);
        let address = c.u64()?;
        let (mut stored, mut skipped) = (self.bytes, 0);
        if filtered {
            let Some(width) = c.rest().len().checked_sub(4 + 8 * self.axes.len()) else {
                return Err(damaged("a record of its chunks is too short"));
            };
            (stored, skipped) = (c.number(width)?, c.u32()?);
        }
        let mut place = [0; MAX_RANK];
        let place = place.get_mut(..self.axes.len()).unwrap_or_default();
        for at in &mut *place {
            *at = c.u64()?;
        }
        visit(&Chunk { place, address, stored, skipped })
    }
}

/// Takes the address of an array out of `c`, the rest of one of its blocks: it must be the one that led here.
fn check_owner(c: &mut Cursor, owner: u64) -> Result<()> {
    match c.u64()? == owner {
        true => Ok(()),
        false => Err(damaged("a block of its index of chunks belongs to another index")),
    }
}

/// The bytes of an element of an array: an address, and of a filtered chunk its size and what was skipped.
fn check_element(kind: u8, size: u8, filtered: bool) -> Result<u64> {
    match (kind, size, filtered) {
        (0, 8, false) | (1, 13..=20, true) => Ok(u64::from(size)),
        _ => Err(damaged("its index of chunks does not fit its filters")),
    }
}

/// Visits the elements of a block or page that begins with that of the number `first`.
fn elements(
    bytes: &[u8],
    size: u64,
    first: u64,
    visit: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    for (n, element) in bytes.chunks_exact(size as usize).enumerate() {
        visit(first.saturating_add(n as u64), element)?;
    }
    Ok(())
}

/// A bit of a bitmap, the first of a byte being the highest.
fn bit(bitmap: &[u8], n: u64) -> bool {
    let byte = usize::try_from(n / 8).ok().and_then(|at| bitmap.get(at));
    byte.is_some_and(|byte| byte & (0x80 >> (n % 8)) != 0)
}
