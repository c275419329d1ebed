//! Gathers what stands in a piece of a file into staging memory, and sums it in the same pass, while it is in the
//! cache.

use crate::error::Result;

use super::buffer::Buffer;
use super::sums::Sums;
use super::tiles::{Part, Piece, Tiles};

/// Bytes that are summed and then moved: what stays in a core's nearest cache.
const CHUNK: usize = 16 << 10;

/// Bytes from which on a move goes past the caches: what is shorter is not worth the fence.
const STREAM: usize = 4 << 10;

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

/// Gathers a piece of the body into `dst`, which is as long.
pub(super) fn body(
    tiles: &Tiles,
    piece: &Piece,
    buffers: &[Buffer],
    sums: &Sums,
    dst: &mut [u8],
    next: Next,
) -> Result<()> {
    let place = |at: u64| (at - piece.range.start) as usize;
    let mut done = 0;
    for part in tiles.parts(piece.range.clone()) {
        let begin = place(part.at);
        dst[done..begin].fill(0);
        done = begin + part.len;
        let (buffer, room) = (&buffers[part.tensor], &mut dst[begin..done]);
        let crc = match buffer.bytes() {
            Some(bytes) => copy(&bytes[part.offset as usize..][..part.len], room, next),
            None => {
                buffer.pack(part.offset, room)?;
                crc32fast::hash(room)
            }
        };
        sums.add(&part, crc);
    }
    dst[done..].fill(0);
    if next == Next::Memory {
        fence();
    }
    Ok(())
}

/// Gathers the tensors' bytes in an edge.
pub(super) fn edge(tiles: &Tiles, piece: &Piece, buffers: &[Buffer], sums: &Sums) -> Result<Vec<Held>> {
    let hold = |part: Part| {
        let mut bytes = vec![0; part.len];
        buffers[part.tensor].pack(part.offset, &mut bytes)?;
        sums.add(&part, crc32fast::hash(&bytes));
        Ok(Held { at: part.at, bytes })
    };
    tiles.parts(piece.range.clone()).map(hold).collect()
}

/// Copies bytes and gives their CRC-32.
fn copy(src: &[u8], dst: &mut [u8], next: Next) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for (src, dst) in src.chunks(CHUNK).zip(dst.chunks_mut(CHUNK)) {
        hasher.update(src);
        if next == Next::Memory && src.len() >= STREAM {
            stream(src, dst);
        } else {
            dst.copy_from_slice(src);
        }
    }
    hasher.finalize()
}

/// Copies bytes past the caches; [`fence`] must come before another thread reads them.
#[cfg(target_arch = "x86_64")]
fn stream(src: &[u8], dst: &mut [u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    const LINE: usize = 64;

    let ahead = dst.as_ptr().align_offset(LINE).min(dst.len());
    dst[..ahead].copy_from_slice(&src[..ahead]);
    let (src, dst) = (&src[ahead..], &mut dst[ahead..]);
    for (src, dst) in src.chunks_exact(LINE).zip(dst.chunks_exact_mut(LINE)) {
        let (from, to) = (src.as_ptr().cast::<__m128i>(), dst.as_mut_ptr().cast::<__m128i>());
        // SAFETY: both have LINE bytes, and `to` is at a multiple of as many; SSE2 is in every x86-64.
        unsafe {
            let line = [0, 1, 2, 3].map(|i| _mm_loadu_si128(from.add(i)));
            for (i, part) in line.into_iter().enumerate() {
                _mm_stream_si128(to.add(i), part);
            }
        }
    }
    let rest = src.len() - src.len() % LINE;
    dst[rest..].copy_from_slice(&src[rest..]);
}

#[cfg(target_arch = "x86_64")]
fn fence() {
    // SAFETY: SSE is in every x86-64; it only orders stores.
    unsafe { std::arch::x86_64::_mm_sfence() };
}

#[cfg(not(target_arch = "x86_64"))]
fn stream(src: &[u8], dst: &mut [u8]) {
    dst.copy_from_slice(src);
}

#[cfg(not(target_arch = "x86_64"))]
fn fence() {}
