//! Tensors read one after the other, while the caller's thread works on what was read before.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use crate::engine::SOURCE_BLOCK;
use crate::error::Result;
use crate::memory;
use crate::reader::{Reader, Stream};

/// Where a part of a block begins: a cache line, so that every part is whole elements.
const ALIGNMENT: usize = 64;

/// Some memory, and what was read into it.
struct Block {
    bytes: Vec<u8>,
    parts: Vec<Part>,
}

/// A piece of a tensor in a block.
struct Part {
    /// Its place in the list of tensors.
    tensor: usize,
    /// Where in the tensor it begins.
    offset: u64,
    range: Range<usize>,
}

impl Block {
    fn new() -> Result<Block> {
        Ok(Block { bytes: memory::filled(0, SOURCE_BLOCK)?, parts: Vec::new() })
    }

    /// Where the next part begins; not beyond the end, which is a multiple of the alignment.
    fn used(&self) -> usize {
        self.parts.last().map_or(0, |part| part.range.end.next_multiple_of(ALIGNMENT))
    }

    fn room(&self) -> usize {
        SOURCE_BLOCK - self.used()
    }

    /// Reads what there is room for of the tensor's next bytes.
    fn read(&mut self, tensor: usize, stream: &mut Stream<&Reader>) -> Result<()> {
        let start = self.used();
        let len = stream.left().min(self.room() as u64) as usize;
        let range = start..start + len;
        let offset = stream.position();
        stream.read(self.bytes.get_mut(range.clone()).unwrap_or_default())?;
        memory::push(&mut self.parts, Part { tensor, offset, range })
    }
}

/// Reads the tensors with these indices, in this order, and hands all of their bytes, in their order, to `put`: the
/// place in the list, the offset in the tensor, the bytes. `put` runs on this thread; with `ahead`, another one reads
/// the next block meanwhile. With `verify`, checksums are compared.
///
/// # Errors
/// The first of `put`; those of [`Stream::read`].
pub(super) fn read(
    reader: &Reader,
    tensors: &[usize],
    verify: bool,
    ahead: bool,
    put: impl Fn(usize, u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let put = |block: &Block| {
        block.parts.iter().try_for_each(|part| {
            put(part.tensor, part.offset, block.bytes.get(part.range.clone()).unwrap_or_default())
        })
    };
    let alone = || {
        let mut done = Ok(());
        let read = fill(reader, tensors, verify, Block::new()?, |block| {
            done = put(&block);
            done.is_ok().then_some(block)
        });
        done.and(read)
    };
    if !ahead {
        return alone();
    }
    thread::scope(|scope| {
        // Two blocks: one is read into, the other is worked on or waits.
        let (full, filled) = sync_channel(1);
        let (back, empty) = channel();
        let more = move |block| full.send(block).ok().and_then(|()| empty.recv().ok());
        let (one, other) = (Block::new()?, Block::new()?);
        let read = move || fill(reader, tensors, verify, one, more);
        let Ok(reading) = thread::Builder::new().name("ckpt-read".into()).spawn_scoped(scope, read) else {
            return alone();
        };
        // It has gone where it has failed, or read all: no reason to stop.
        let give_back = |block| back.send(block).unwrap_or_default();
        give_back(other);
        let done = filled.into_iter().try_for_each(|block| put(&block).map(|()| give_back(block)));
        // Nobody waits for blocks any more: if the thread still reads, it ends.
        drop(back);
        done.and(reading.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Reads tensors into blocks. `full` takes a block that is full, or the last, and gives another, or none to end it.
fn fill(
    reader: &Reader,
    tensors: &[usize],
    verify: bool,
    mut block: Block,
    mut full: impl FnMut(Block) -> Option<Block>,
) -> Result<()> {
    for (tensor, &index) in tensors.iter().enumerate() {
        let mut stream = Stream::new(reader, index, verify)?;
        while stream.left() > 0 {
            if block.room() == 0 {
                match full(block) {
                    Some(next) => block = next,
                    None => return Ok(()),
                }
                block.parts.clear();
            }
            block.read(tensor, &mut stream)?;
        }
    }
    full(block);
    Ok(())
}
