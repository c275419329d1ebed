//! Moves the extents of a layout into a file, and takes the checksums in the same pass.
//!
//! The file is cut into blocks of equal size. A worker takes the next block, gathers what stands in it (large
//! runs from the caller's memory as they are, small tensors, strided ones and the gaps between them through a
//! staging block), takes the checksums while it passes, and writes it with one call. Several workers overlap: one
//! checksums while another is in the kernel.
#![cfg_attr(not(test), forbid(unsafe_code))]

use std::io::{self, IoSlice};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;

use crate::error::{Error, Result, Status};
use crate::layout::{Extent, Layout, Source};

use super::buffer::Buffer;
use super::storage::{Handle, write_all};

/// Bytes of the file that are written as one, and the size of a worker's staging block.
const BLOCK: u64 = 4 << 20;

/// Contiguous runs from this length on are written from where they are. Shorter ones are copied: with them, a
/// block would have more parts than the kernel takes in one call.
const DIRECT: usize = 8 << 10;

/// Gaps up to this length are written as zeros, so as not to end a run; longer ones are left as they are in a
/// new file, zero.
const GAP: u64 = 4 << 10;

/// Refuses what would write outside the file, or a tensor that is not what the layout expects.
pub(super) fn check(layout: &Layout, buffers: &[Buffer]) -> Result<()> {
    let bug = |message: String| Err(Error::new(Status::Internal, message));
    let mut end = 0u64;
    for extent in layout.extents() {
        let len = match extent.source {
            Source::Literal(i) => layout.literals().get(i).map(|l| l.len() as u64),
            Source::Tensor(i) => buffers.get(i).map(Buffer::nbytes),
        };
        if len != Some(extent.len) {
            return bug(format!("{extent:?}: what it is made of has {len:?} bytes"));
        }
        if extent.offset < end {
            return bug(format!("extents overlap at byte {}", extent.offset));
        }
        let size = layout.size();
        match extent.offset.checked_add(extent.len).filter(|&e| e <= size) {
            Some(e) => end = e,
            None => {
                return bug(format!("an extent at {} ends outside a file of {size} bytes", extent.offset));
            }
        }
    }
    for companion in layout.companions() {
        match buffers.get(companion.tensors()) {
            Some(buffers) => check(companion.layout(), buffers)?,
            None => return bug(format!("a companion has tensors {:?}", companion.tensors())),
        }
    }
    Ok(())
}

/// Why tensors are not written.
pub(super) enum Failure {
    /// The file could not be written.
    Io(io::Error),
    /// A source did not give its bytes.
    Source(Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        Failure::Io(e)
    }
}

/// Writes the tensors; returns the CRC-32 of each, in the order of `buffers`. `threads` 0: two where they help. Sources
/// are asked from this thread alone.
pub(super) fn tensors(
    file: &dyn Handle,
    layout: &Layout,
    buffers: &[Buffer],
    threads: u32,
) -> std::result::Result<Vec<u32>, Failure> {
    let is_tensor = |e: &&Extent| matches!(e.source, Source::Tensor(_));
    let extents = layout.extents();
    let blocks = match (extents.iter().find(is_tensor), extents.iter().rfind(is_tensor)) {
        (Some(first), Some(last)) => first.offset / BLOCK..(last.offset + last.len).div_ceil(BLOCK),
        _ => 0..0,
    };
    let job = Job {
        file,
        extents,
        buffers,
        crcs: buffers.iter().map(|_| AtomicU32::new(0)).collect(),
        next: AtomicU64::new(blocks.start),
        end: blocks.end,
        failed: AtomicBool::new(false),
    };
    let threads = if buffers.iter().any(Buffer::is_source) { 1 } else { threads };
    let count = workers(threads, blocks.end - blocks.start);
    let results: Vec<_> = thread::scope(|scope| {
        let start = || thread::Builder::new().name("ckpt-write".into()).spawn_scoped(scope, || job.work());
        // Where the system gives no more threads, fewer do the work.
        let others: Vec<_> = (1..count).map_while(|_| start().ok()).collect();
        let mine = job.work();
        let theirs = others.into_iter().map(|t| t.join().unwrap_or_else(|panic| resume_unwind(panic)));
        std::iter::once(mine).chain(theirs).collect()
    });
    let mut pieces = Vec::new();
    for result in results {
        pieces.extend(result?);
    }
    let mut crcs: Vec<u32> = job.crcs.into_iter().map(AtomicU32::into_inner).collect();
    pieces.sort_unstable_by_key(|p| (p.tensor, p.offset));
    for of_one in pieces.chunk_by(|a, b| a.tensor == b.tensor) {
        let mut whole = crc32fast::Hasher::new();
        for piece in of_one {
            whole.combine(&crc32fast::Hasher::new_with_initial_len(piece.crc, piece.len));
        }
        crcs[of_one[0].tensor] = whole.finalize();
    }
    Ok(crcs)
}

/// Writes the literals of a layout that has been sealed.
pub(super) fn literals(file: &dyn Handle, layout: &Layout) -> io::Result<()> {
    for extent in layout.extents() {
        if let Source::Literal(i) = extent.source {
            write_all(file, &mut [IoSlice::new(&layout.literals()[i])], extent.offset)?;
        }
    }
    Ok(())
}

/// How many workers move `blocks`. Two help: one packs and checksums while the other is in the kernel.
fn workers(threads: u32, blocks: u64) -> usize {
    let wanted = match threads {
        0 => thread::available_parallelism().map_or(1, usize::from).min(2),
        n => n as usize,
    };
    wanted.min(usize::try_from(blocks).unwrap_or(usize::MAX)).max(1)
}

/// The checksum of a part of a tensor that is in more than one block.
struct Piece {
    tensor: usize,
    offset: u64,
    len: u64,
    crc: u32,
}

/// What the workers share.
struct Job<'a> {
    file: &'a dyn Handle,
    extents: &'a [Extent],
    buffers: &'a [Buffer],
    /// The checksums of tensors that are in one block whole.
    crcs: Vec<AtomicU32>,
    /// The next block that nobody has taken, and where they end.
    next: AtomicU64,
    end: u64,
    failed: AtomicBool,
}

/// A part of a run: of the staging block, or of a tensor's own memory.
enum Part {
    Staged(Range<usize>),
    Direct(usize, Range<usize>),
}

/// A run of the file that is being gathered.
struct Run {
    offset: u64,
    end: u64,
    parts: Vec<Part>,
}

impl Job<'_> {
    /// Takes blocks until there are none, or until some worker has failed.
    fn work(&self) -> std::result::Result<Vec<Piece>, Failure> {
        let mut pieces = Vec::new();
        let mut stage = vec![0; BLOCK as usize];
        while !self.failed.load(Relaxed) {
            let block = self.next.fetch_add(1, Relaxed);
            if block >= self.end {
                break;
            }
            if let Err(e) = self.block(block * BLOCK..(block + 1) * BLOCK, &mut stage, &mut pieces) {
                self.failed.store(true, Relaxed);
                return Err(e);
            }
        }
        Ok(pieces)
    }

    /// Writes the tensors' bytes in one block of the file.
    fn block(
        &self,
        block: Range<u64>,
        stage: &mut [u8],
        pieces: &mut Vec<Piece>,
    ) -> std::result::Result<(), Failure> {
        let from = self.extents.partition_point(|e| e.offset + e.len <= block.start);
        let mut run = Run { offset: block.start, end: block.start, parts: Vec::new() };
        let mut staged = 0;
        for extent in self.extents[from..].iter().take_while(|e| e.offset < block.end) {
            let Source::Tensor(tensor) = extent.source else {
                self.write(&mut run, stage)?;
                continue;
            };
            let start = extent.offset.max(block.start);
            let end = (extent.offset + extent.len).min(block.end);
            if run.parts.is_empty() || start - run.end > GAP {
                self.write(&mut run, stage)?;
                run.offset = start;
            } else {
                let gap = (start - run.end) as usize;
                stage[staged..staged + gap].fill(0);
                run.push_staged(staged..staged + gap);
                staged += gap;
            }
            run.end = end;
            let (offset, len) = (start - extent.offset, (end - start) as usize);
            let crc =
                self.gather(tensor, offset, len, &mut run, stage, &mut staged).map_err(Failure::Source)?;
            if end - start == extent.len {
                self.crcs[tensor].store(crc, Relaxed);
            } else {
                pieces.push(Piece { tensor, offset, len: end - start, crc });
            }
        }
        Ok(self.write(&mut run, stage)?)
    }

    /// Appends `len` bytes of a tensor to the run, and returns their checksum.
    fn gather(
        &self,
        tensor: usize,
        offset: u64,
        len: usize,
        run: &mut Run,
        stage: &mut [u8],
        staged: &mut usize,
    ) -> Result<u32> {
        let buffer = &self.buffers[tensor];
        let at = offset as usize;
        if let Some(bytes) = buffer.bytes()
            && len >= DIRECT
        {
            run.parts.push(Part::Direct(tensor, at..at + len));
            return Ok(crc32fast::hash(&bytes[at..at + len]));
        }
        let room = *staged..*staged + len;
        buffer.pack(offset, &mut stage[room.clone()])?;
        *staged += len;
        run.push_staged(room.clone());
        Ok(crc32fast::hash(&stage[room]))
    }

    /// Writes the run and empties it.
    fn write(&self, run: &mut Run, stage: &[u8]) -> io::Result<()> {
        if run.parts.is_empty() {
            return Ok(());
        }
        let slice = |part: &Part| match part {
            Part::Staged(range) => &stage[range.clone()],
            Part::Direct(tensor, range) => &self.buffers[*tensor].bytes().unwrap_or_default()[range.clone()],
        };
        let mut slices: Vec<IoSlice<'_>> = run.parts.iter().map(|p| IoSlice::new(slice(p))).collect();
        write_all(self.file, &mut slices, run.offset)?;
        run.parts.clear();
        Ok(())
    }
}

impl Run {
    /// Appends a range of the staging block; it continues the last part where that is staged too.
    fn push_staged(&mut self, range: Range<usize>) {
        match self.parts.last_mut() {
            Some(Part::Staged(last)) => last.end = range.end,
            _ if range.is_empty() => {}
            _ => self.parts.push(Part::Staged(range)),
        }
    }
}

#[cfg(test)]
mod tests;
