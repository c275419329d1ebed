//! Cuts a file into pieces that are written as one each: the body, whole pages of tensors, and the edges, pages that
//! hold literals too.
//!
//! The body can go to the disk before the checksums are known, past the page cache if need be; the edges are final
//! only when the layout has been sealed. Together they are the file: every byte of it is written once, what lies
//! between extents as zeros, since a recycled file has old bytes there.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::layout::{Extent, Layout, Source};
use crate::memory;

/// Pieces of the body are cut at multiples of this, which is the size of a huge page; under the explorer of schedules a
/// small model has several pieces.
pub(super) const TILE: u64 = if cfg!(ckpt_shuttle) { 4 * PAGE } else { 2 << 20 };

/// Bytes of a page: what O_DIRECT is aligned to, everywhere.
pub(super) const PAGE: u64 = 4096;

/// What a piece of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Body,
    Edge,
}

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub role: Role,
    pub range: Range<u64>,
}

impl Piece {
    /// Bytes.
    pub fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }
}

/// The part of a tensor that is in a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub tensor: usize,
    /// Where it begins, in bytes from the start of the file.
    pub at: u64,
    /// Where it begins, in bytes from the start of the tensor.
    pub offset: u64,
    pub len: usize,
    /// Whether it is all of the tensor.
    pub whole: bool,
}

/// One file of a save, as what moves its bytes sees it; `tensor` counts from the first of its own.
#[derive(Clone, Debug)]
pub(super) struct Tiles {
    extents: Arc<Vec<Extent>>,
    size: u64,
}

impl Tiles {
    pub fn of(layout: &Layout) -> Tiles {
        Tiles { extents: layout.shared_extents(), size: layout.size() }
    }

    /// All pieces, in the order of the file.
    pub fn pieces(&self) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut done = 0;
        for edge in self.edges()? {
            cut(done..edge.start, &mut pieces)?;
            done = edge.end;
            memory::push(&mut pieces, Piece { role: Role::Edge, range: edge })?;
        }
        cut(done..self.size, &mut pieces)?;
        Ok(pieces)
    }

    /// The pages with literals, and the last one if it is not a whole page.
    fn edges(&self) -> Result<Vec<Range<u64>>> {
        let literal = |e: &&Extent| matches!(e.source, Source::Literal(_));
        let literals = self.extents.iter().filter(literal).map(|e| e.offset..e.offset + e.len);
        let last = self.size - self.size % PAGE..self.size;
        let mut edges: Vec<Range<u64>> = Vec::new();
        for range in literals.chain([last]).filter(|range| !range.is_empty()) {
            let start = range.start - range.start % PAGE;
            let end = range.end.next_multiple_of(PAGE).min(self.size);
            match edges.last_mut() {
                Some(before) if start <= before.end => before.end = end.max(before.end),
                _ => memory::push(&mut edges, start..end)?,
            }
        }
        Ok(edges)
    }

    /// The extents that are in a range, in the order of the file.
    pub fn extents(&self, range: Range<u64>) -> impl Iterator<Item = &Extent> {
        let from = self.extents.partition_point(|e| e.offset + e.len <= range.start);
        self.extents.iter().skip(from).take_while(move |e| e.offset < range.end)
    }

    /// The parts of tensors that are in a range, in the order of the file.
    pub fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Part> {
        self.extents(range.clone()).filter_map(move |e| {
            let Source::Tensor(tensor) = e.source else { return None };
            let (start, end) = (e.offset.max(range.start), (e.offset + e.len).min(range.end));
            let len = (end - start) as usize;
            Some(Part { tensor, at: start, offset: start - e.offset, len, whole: len as u64 == e.len })
        })
    }
}

/// Cuts a range of the body at multiples of [`TILE`].
fn cut(range: Range<u64>, pieces: &mut Vec<Piece>) -> Result<()> {
    let mut start = range.start;
    while start < range.end {
        let end = (start - start % TILE + TILE).min(range.end);
        memory::push(pieces, Piece { role: Role::Body, range: start..end })?;
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, len: u64, source: Source) -> Extent {
        Extent { offset, len, source }
    }

    fn pieces(size: u64, extents: Vec<Extent>) -> Vec<(Role, Range<u64>)> {
        let layout = Layout::from_parts(size, extents, vec![]);
        let tiles = Tiles::of(&layout);
        let pieces = tiles.pieces().unwrap();
        let ends: Vec<u64> = pieces.iter().map(|p| p.range.end).collect();
        let starts: Vec<u64> = pieces.iter().map(|p| p.range.start).collect();
        assert_eq!(starts.first().copied().unwrap_or(0), 0);
        assert_eq!(starts.get(1..).unwrap_or_default(), &ends[..ends.len().saturating_sub(1)]);
        assert_eq!(ends.last().copied().unwrap_or(0), size);
        pieces.into_iter().map(|p| (p.role, p.range)).collect()
    }

    #[test]
    fn a_page_with_a_literal_is_an_edge_and_so_is_a_last_part_of_a_page() {
        use Role::{Body, Edge};
        use Source::{Literal, Tensor};
        assert_eq!(pieces(0, vec![]), []);
        assert_eq!(pieces(100, vec![extent(0, 100, Tensor(0))]), [(Edge, 0..100)]);
        assert_eq!(pieces(PAGE, vec![extent(0, PAGE, Tensor(0))]), [(Body, 0..PAGE)]);
        assert_eq!(pieces(PAGE, vec![extent(0, 1, Literal(0)), extent(64, 9, Tensor(0))]), [(Edge, 0..PAGE)]);
        let head = extent(0, 777, Literal(0));
        let far = |end| extent(1024, end - 1024, Tensor(0));
        assert_eq!(
            pieces(2 * TILE + 5, vec![head, far(2 * TILE + 5)]),
            [(Edge, 0..PAGE), (Body, PAGE..TILE), (Body, TILE..2 * TILE), (Edge, 2 * TILE..2 * TILE + 5)]
        );
        // The tail of an archive: literals that begin in a page of a tensor, two of them in neighbouring pages.
        let tail = [extent(3 * PAGE + 1, 10, Literal(0)), extent(4 * PAGE, 10, Literal(1))];
        let all = [extent(0, 3 * PAGE + 1, Tensor(0))].into_iter().chain(tail).collect();
        assert_eq!(pieces(4 * PAGE + 10, all), [(Body, 0..3 * PAGE), (Edge, 3 * PAGE..4 * PAGE + 10)]);
        // A gap of whole pages is body: it is written too.
        assert_eq!(pieces(3 * PAGE, vec![head]), [(Edge, 0..PAGE), (Body, PAGE..3 * PAGE)]);
    }

    #[test]
    fn parts_of_tensors_are_those_in_the_range() {
        let extents = vec![
            extent(0, 10, Source::Literal(0)),
            extent(64, 100, Source::Tensor(1)),
            extent(192, 50, Source::Tensor(0)),
        ];
        let tiles = Tiles::of(&Layout::from_parts(242, extents, vec![]));
        let parts = |range| tiles.parts(range).collect::<Vec<_>>();
        let second = Part { tensor: 0, at: 192, offset: 0, len: 50, whole: true };
        assert_eq!(parts(0..64), []);
        assert_eq!(parts(0..242), [Part { tensor: 1, at: 64, offset: 0, len: 100, whole: true }, second]);
        assert_eq!(
            parts(100..200),
            [
                Part { tensor: 1, at: 100, offset: 36, len: 64, whole: false },
                Part { len: 8, whole: false, ..second },
            ]
        );
        assert_eq!(parts(164..192), []);
    }
}
