//! Many tensors at once, in parallel: large ones in blocks, straight into the caller's memory; runs of small
//! neighbours with one read. Checksums are computed in the same pass, while the bytes are in the cache.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;

use crc32fast::Hasher;
use parking_lot::Mutex;

use super::{Place, Reader};
use crate::error::{Error, Result, Status};
use crate::reader::source::{Source, zeros};

/// Memory that a tensor is read into.
pub trait Target: Sync {
    /// Bytes of the whole tensor.
    fn nbytes(&self) -> u64;

    /// Takes the bytes `[offset, offset + len)` of the tensor, row-major and little-endian, by calling `read`
    /// one or more times with the places that they go to, in order, `len` bytes in all: once with the memory
    /// itself where it is contiguous, piece by piece with scratch memory that is scattered afterwards where it
    /// is not. Called from several threads at once, for ranges that do not overlap; `offset` is a multiple of
    /// 8, and `len` is one of the element's size.
    fn fill(&self, offset: u64, len: usize, read: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<()>;
}

/// Bytes of a block: one job of a thread.
const BLOCK: u64 = 4 << 20;
/// A tensor below this is read together with its neighbours.
const SMALL: u64 = 64 << 10;
/// Bytes of such a run, at most.
const RUN: u64 = 256 << 10;
/// Bytes between neighbours that are read for nothing.
const GAP: u64 = 4 << 10;
/// Bytes of one read: as much as stays in a core's cache until its checksum is computed.
const PIECE: usize = 256 << 10;
/// More threads than this do not help: the memory is the limit.
const MAX_THREADS: usize = 16;

/// A tensor to read.
struct Item<'a> {
    tensor: usize,
    /// The place of its file in the content.
    file: usize,
    source: &'a Source,
    offset: u64,
    nbytes: u64,
    target: &'a dyn Target,
    checked: bool,
    /// Its place in the list of the blocks' checksums.
    blocks: usize,
}

/// What a thread does at a time.
enum Job {
    Block { item: usize, block: u64 },
    Run(Range<usize>),
}

struct Plan<'a> {
    reader: &'a Reader,
    items: Vec<Item<'a>>,
    jobs: Vec<Job>,
    /// The CRC-32 of each block.
    crcs: Vec<AtomicU32>,
    next: AtomicUsize,
    stop: AtomicBool,
    /// The failure of the first tensor that failed.
    fault: Mutex<Option<(usize, Error)>>,
}

/// Fills every target with its tensor.
pub(super) fn load(reader: &Reader, targets: &[(usize, &dyn Target)], threads: u32) -> Result<()> {
    let mut items = Vec::with_capacity(targets.len());
    let mut foreign = Vec::new();
    for &(tensor, target) in targets {
        let (spec, file, place) = reader.entry(tensor)?;
        let nbytes = spec.nbytes();
        if target.nbytes() != nbytes {
            return Err(super::wrong_size(spec, target.nbytes()));
        }
        match place {
            Place::Here(offset) => items.push(Item {
                tensor,
                file: reader.content.spots.get(tensor).map_or(0, |spot| spot.file),
                source: &file.source,
                offset,
                nbytes,
                target,
                checked: file.checksums.covers(&spec.path),
                blocks: 0,
            }),
            place => foreign.push((tensor, place, target)),
        }
    }
    let plan = Plan::new(reader, items);
    plan.run(plan.threads(threads));
    plan.finish()?;
    for (tensor, place, target) in foreign {
        fill_foreign(reader, tensor, place, target)?;
    }
    Ok(())
}

/// Fills a target whose tensor has to be decoded as a whole.
fn fill_foreign(reader: &Reader, tensor: usize, place: Place, target: &dyn Target) -> Result<()> {
    let (spec, file, _) = reader.entry(tensor)?;
    // No more than a foreign tensor's share of the file's size, which was checked when it was opened.
    let len = usize::try_from(spec.nbytes()).map_err(|_| super::too_large(spec))?;
    let mut hasher = Hasher::new();
    let mut whole = Vec::new();
    let mut done = 0;
    target
        .fill(0, len, &mut |dst| {
            if dst.len() == len {
                file.decode(place, spec, dst)?;
            } else {
                if whole.is_empty() {
                    whole = zeros(len)?;
                    file.decode(place, spec, &mut whole)?;
                }
                let piece = whole.get(done..).and_then(|rest| rest.get(..dst.len()));
                dst.copy_from_slice(piece.ok_or_else(|| misused(&spec.path))?);
            }
            done += dst.len();
            hasher.update(dst);
            Ok(())
        })
        .map_err(|e| e.context(format_args!("tensor '{}'", spec.path)))?;
    if done != len {
        return Err(misused(&spec.path));
    }
    file.checksums.check(spec, hasher.finalize())
}

/// Reads `dst` from `offset` on, piece by piece, and adds it to the checksum if there is to be one.
pub(super) fn read_piecewise(
    source: &Source,
    offset: u64,
    dst: &mut [u8],
    mut hasher: Option<&mut Hasher>,
) -> Result<()> {
    let mut at = offset;
    for piece in dst.chunks_mut(PIECE) {
        source.read_at(at, piece)?;
        if let Some(hasher) = &mut hasher {
            hasher.update(piece);
        }
        at += piece.len() as u64;
    }
    Ok(())
}

fn misused(path: &str) -> Error {
    Error::new(
        Status::Internal,
        format!("the memory for tensor '{path}' did not take the bytes it was to take"),
    )
}

impl<'a> Plan<'a> {
    fn new(reader: &'a Reader, mut items: Vec<Item<'a>>) -> Plan<'a> {
        items.sort_by_key(|item| (item.file, item.offset));
        let mut jobs = Vec::new();
        let mut crcs = Vec::new();
        let mut run: Range<usize> = 0..0;
        for (i, item) in items.iter_mut().enumerate() {
            if item.nbytes >= SMALL {
                item.blocks = crcs.len();
                for block in 0..item.nbytes.div_ceil(BLOCK) {
                    jobs.push(Job::Block { item: i, block });
                    crcs.push(AtomicU32::new(0));
                }
            }
        }
        for (i, item) in items.iter().enumerate().filter(|(_, item)| item.nbytes < SMALL) {
            let joins = match (items.get(run.start), i.checked_sub(1).and_then(|last| items.get(last))) {
                (Some(first), Some(last)) if run.end == i && !run.is_empty() => {
                    item.file == first.file
                        && item.offset <= last.offset + last.nbytes + GAP
                        && item.offset + item.nbytes - first.offset <= RUN
                }
                _ => false,
            };
            if joins {
                run.end = i + 1;
            } else {
                if !run.is_empty() {
                    jobs.push(Job::Run(run));
                }
                run = i..i + 1;
            }
        }
        if !run.is_empty() {
            jobs.push(Job::Run(run));
        }
        Plan {
            reader,
            items,
            jobs,
            crcs,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            fault: Mutex::new(None),
        }
    }

    /// How many threads to use where `wanted` are; 0 is as many as help.
    fn threads(&self, wanted: u32) -> usize {
        let total: u64 = self.items.iter().map(|item| item.nbytes).sum();
        let most = match usize::try_from(wanted).unwrap_or(MAX_THREADS) {
            0 => thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS),
            n => n,
        };
        let useful = usize::try_from(total / BLOCK).unwrap_or(usize::MAX);
        most.min(useful).min(self.jobs.len()).max(1)
    }

    /// Does all jobs, on this thread and `threads - 1` more.
    fn run(&self, threads: usize) {
        thread::scope(|scope| {
            for _ in 1..threads {
                // With fewer threads than hoped for, the work is done all the same.
                if thread::Builder::new()
                    .name("ckpt-read".into())
                    .spawn_scoped(scope, || self.work())
                    .is_err()
                {
                    break;
                }
            }
            self.work();
        });
    }

    fn work(&self) {
        let mut scratch = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let Some(job) = self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed)) else { break };
            match job {
                Job::Block { item, block } => {
                    if let Some(item) = self.items.get(*item) {
                        let done = self.block(item, *block);
                        self.note(item, done);
                    }
                }
                Job::Run(range) => {
                    self.small(self.items.get(range.clone()).unwrap_or_default(), &mut scratch)
                }
            }
        }
    }

    fn block(&self, item: &Item, block: u64) -> Result<()> {
        let start = block * BLOCK;
        let crc = self.fill(item, start, (item.nbytes - start).min(BLOCK) as usize)?;
        if let Some(slot) = self.crcs.get(item.blocks + block as usize) {
            slot.store(crc, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads a part of a tensor straight into its target; returns the part's CRC-32.
    fn fill(&self, item: &Item, start: u64, len: usize) -> Result<u32> {
        let mut hasher = Hasher::new();
        let mut done = 0;
        item.target.fill(start, len, &mut |dst| {
            if dst.len() > len - done {
                return Err(self.misused(item));
            }
            let at = item.offset + start + done as u64;
            read_piecewise(item.source, at, dst, item.checked.then_some(&mut hasher))?;
            done += dst.len();
            Ok(())
        })?;
        if done != len { Err(self.misused(item)) } else { Ok(hasher.finalize()) }
    }

    /// Reads a run of small neighbours.
    fn small(&self, items: &[Item], scratch: &mut Vec<u8>) {
        let [first, ..] = items else { return };
        if let [item] = items {
            let done = self.fill(item, 0, item.nbytes as usize).and_then(|crc| self.check(item, crc));
            return self.note(item, done);
        }
        let end = items.iter().map(|item| item.offset + item.nbytes).max().unwrap_or(first.offset);
        scratch.resize((end - first.offset) as usize, 0);
        if let Err(error) = first.source.read_at(first.offset, scratch) {
            return self.note(first, Err(error));
        }
        for item in items {
            let start = (item.offset - first.offset) as usize;
            let bytes = scratch.get(start..start + item.nbytes as usize).unwrap_or_default();
            let done = self.copy(item, bytes).and_then(|()| match item.checked {
                true => self.check(item, crc32fast::hash(bytes)),
                false => Ok(()),
            });
            self.note(item, done);
        }
    }

    fn copy(&self, item: &Item, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        item.target.fill(0, bytes.len(), &mut |dst| {
            let (piece, tail) = rest.split_at_checked(dst.len()).ok_or_else(|| self.misused(item))?;
            dst.copy_from_slice(piece);
            rest = tail;
            Ok(())
        })?;
        if rest.is_empty() { Ok(()) } else { Err(self.misused(item)) }
    }

    fn check(&self, item: &Item, crc: u32) -> Result<()> {
        let (spec, file, _) = self.reader.entry(item.tensor)?;
        file.checksums.check(spec, crc)
    }

    fn misused(&self, item: &Item) -> Error {
        misused(self.reader.tensors().get(item.tensor).map_or("", |spec| &spec.path))
    }

    /// Keeps the failure of the first tensor. One that concerns more than its own tensor ends the work.
    fn note(&self, item: &Item, done: Result<()>) {
        let Err(error) = done else { return };
        if error.status() != Status::Format {
            self.stop.store(true, Ordering::Relaxed);
        }
        let mut fault = self.fault.lock();
        if fault.as_ref().is_none_or(|(tensor, _)| item.tensor < *tensor) {
            *fault = Some((item.tensor, error));
        }
    }

    /// Combines the checksums of blocks to those of tensors, and returns the first failure.
    fn finish(self) -> Result<()> {
        if !self.stop.load(Ordering::Relaxed) {
            for item in self.items.iter().filter(|item| item.checked && item.nbytes >= SMALL) {
                let mut whole = Hasher::new();
                for block in 0..item.nbytes.div_ceil(BLOCK) {
                    let len = (item.nbytes - block * BLOCK).min(BLOCK);
                    let crc =
                        self.crcs.get(item.blocks + block as usize).map_or(0, |c| c.load(Ordering::Relaxed));
                    whole.combine(&Hasher::new_with_initial_len(crc, len));
                }
                self.note(item, self.check(item, whole.finalize()));
            }
        }
        self.fault.into_inner().map_or(Ok(()), |(_, error)| Err(error))
    }
}
