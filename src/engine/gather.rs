//! Gathers what stands in a piece of a file into staging memory, and sums it in the same pass, while it is in the
//! cache.
#![forbid(unsafe_code)]

use crate::copy;
use crate::error::Result;
use crate::memory;

use super::buffer::Buffer;
use super::sums::Sums;
use super::tiles::{Part, Piece, Tiles};
use super::watch::cancelled;

/// Bytes that are summed and then moved: what stays in a core's nearest cache.
const CHUNK: usize = 16 << 10;

/// Tensor bytes of an edge, kept until the literals around them are final.
pub(super) struct Held {
    /// Where they begin in the file.
    pub at: u64,
    pub bytes: Vec<u8>,
}

/// Where the bytes of a block go next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// To the device at once: they stay in the cache.
    Device,
    /// They wait in memory: they go past the caches, which the trainer needs.
    Memory,
}

/// Asked before a source is: whether the save is to end. What is in memory takes no time that would matter.
pub(super) type Stop<'a> = &'a dyn Fn() -> bool;

/// Gathers a piece of the body into `dst`, which is as long.
pub(super) fn body(
    tiles: &Tiles,
    piece: &Piece,
    buffers: &[Buffer],
    sums: &Sums,
    dst: &mut [u8],
    (next, stop): (Next, Stop<'_>),
) -> Result<()> {
    let place = |at: u64| (at - piece.range.start) as usize;
    let mut done = 0;
    for part in tiles.parts(piece.range.clone()) {
        let begin = place(part.at);
        dst[done..begin].fill(0);
        done = begin + part.len;
        let (buffer, room) = (&buffers[part.tensor], &mut dst[begin..done]);
        let crc = match buffer.bytes() {
            Some(bytes) => summed(&bytes[part.offset as usize..][..part.len], room, next),
            None if buffer.is_source() && stop() => return Err(cancelled()),
            None => {
                buffer.pack(part.offset, room)?;
                crc32fast::hash(room)
            }
        };
        sums.add(&part, crc)?;
    }
    dst[done..].fill(0);
    Ok(())
}

/// Gathers the tensors' bytes in an edge.
pub(super) fn edge(
    tiles: &Tiles,
    piece: &Piece,
    buffers: &[Buffer],
    sums: &Sums,
    stop: Stop<'_>,
) -> Result<Vec<Held>> {
    let hold = |part: Part| {
        if buffers[part.tensor].is_source() && stop() {
            return Err(cancelled());
        }
        let mut bytes = memory::filled(0, part.len)?;
        buffers[part.tensor].pack(part.offset, &mut bytes)?;
        sums.add(&part, crc32fast::hash(&bytes))?;
        Ok(Held { at: part.at, bytes })
    };
    memory::try_collect(tiles.parts(piece.range.clone()).map(hold))
}

/// Copies bytes and gives their CRC-32.
fn summed(src: &[u8], dst: &mut [u8], next: Next) -> u32 {
    if next == Next::Memory {
        return copy::summed(src, dst, 0);
    }
    let mut hasher = crc32fast::Hasher::new();
    for (src, dst) in src.chunks(CHUNK).zip(dst.chunks_mut(CHUNK)) {
        hasher.update(src);
        dst.copy_from_slice(src);
    }
    hasher.finalize()
}
