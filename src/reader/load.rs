//! Many tensors at once, in parallel: large ones block by block, runs of small neighbours with one read, those that
//! are not in the file as they are decoded as a whole. Checksums are computed in the same pass, while the bytes are
//! in the cache.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;

use crc32fast::Hasher;
use parking_lot::Mutex;

use super::checksums::Rows;
use super::content::File;
use super::source::Source;
use super::{Place, Reader, too_large, wrong_size};
use crate::copy;
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::tensor::TensorSpec;

/// Memory that a tensor is read into.
pub trait Target: Sync {
    /// Bytes of the whole tensor, as the checkpoint has it.
    fn nbytes(&self) -> u64;

    /// Takes bytes of the tensor, row-major and little-endian, that begin at `offset` in it. Called from several
    /// threads at once, as `fill` is, for ranges that do not overlap, in any order; `offset` and the length are
    /// multiples of the element's size.
    fn put(&self, offset: u64, bytes: &[u8]);

    /// Has `read` fill the `len` bytes from `offset` on in the tensor's own memory, and says so, where that memory
    /// holds bytes just as `put` gets them.
    fn fill(&self, offset: u64, len: usize, read: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<bool> {
        let _ = (offset, len, read);
        Ok(false)
    }
}

/// Bytes of a block: one job of a thread.
const BLOCK: u64 = 4 << 20;
/// A tensor below this is read together with its neighbours.
const SMALL: u64 = 64 << 10;
/// Bytes of one read, of a part of a tensor or a run of small ones: what stays in a core's cache.
const PIECE: usize = 128 << 10;
/// Bytes of a page of memory.
const PAGE: usize = 4096;
/// Bytes between neighbours that are read for nothing.
const GAP: u64 = 4 << 10;
/// More threads than this do not help: the memory is the limit.
const MAX_THREADS: usize = 16;
/// Threads for each core: where the file is not in memory, one waits while the other copies.
const THREADS_PER_CORE: usize = 2;

/// A tensor to read.
struct Item<'a> {
    tensor: usize,
    spec: &'a TensorSpec,
    nbytes: u64,
    file: &'a File,
    target: &'a dyn Target,
    /// What is compared: nothing where it is not to be verified.
    sums: Rows<'a>,
}

/// One that is in its file as it is.
struct Plain<'a> {
    item: Item<'a>,
    /// The number of its file, and where it begins there.
    at: (usize, u64),
    /// Where the checksums of its blocks begin.
    crcs: usize,
}

/// One that is not.
struct Coded<'a> {
    item: Item<'a>,
    place: Place,
}

/// What a thread does at a time; tensors by their numbers in the plan.
enum Job {
    Coded(usize),
    Block { plain: usize, block: u64 },
    Run(Range<usize>),
}

/// A thread's share of the jobs. Each is a stretch of a file, which the system reads ahead of its thread: the
/// disk has more to do at a time than if all threads read one.
struct Share<'a> {
    jobs: &'a [Job],
    next: AtomicUsize,
}

impl<'a> Share<'a> {
    fn new(jobs: &'a [Job]) -> Share<'a> {
        Share { jobs, next: AtomicUsize::new(0) }
    }

    /// Takes a job that nobody has taken yet.
    fn next(&self) -> Option<&'a Job> {
        self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

struct Plan<'a> {
    /// Sorted by where they are.
    plain: Vec<Plain<'a>>,
    coded: Vec<Coded<'a>>,
    jobs: Vec<Job>,
    /// The CRC-32 of each block.
    crcs: Vec<AtomicU32>,
    stop: AtomicBool,
    /// The failure of the first tensor that failed.
    fault: Mutex<Option<(usize, Error)>>,
    /// Held by whoever decodes more than a block into temporary memory.
    temporary: Mutex<()>,
}

/// Fills every target with its tensor; with `verify`, whose checksums are compared.
pub(super) fn load(
    reader: &Reader,
    targets: &[(usize, &dyn Target)],
    threads: u32,
    verify: bool,
) -> Result<()> {
    let (mut plain, mut coded) = (Vec::new(), Vec::new());
    memory::reserve(&mut plain, targets.len())?;
    for &(tensor, target) in targets {
        let (spec, file, place) = reader.entry(tensor)?;
        let nbytes = spec.nbytes();
        if target.nbytes() != nbytes {
            return Err(wrong_size(spec, target.nbytes()));
        }
        let sums = if verify { file.checksums.of(&spec.path) } else { Rows::default() };
        let item = Item { tensor, spec, nbytes, file, target, sums };
        match place {
            Place::Here(offset) => {
                let number = reader.content.at(tensor).map_or(0, |(_, spot)| spot.file);
                plain.push(Plain { item, at: (number, offset), crcs: 0 });
            }
            place => memory::push(&mut coded, Coded { item, place })?,
        }
    }
    let plan = Plan::new(plain, coded)?;
    plan.run(plan.threads(threads))?;
    plan.finish()
}

/// A little memory to read into, which stays in a core's cache.
#[derive(Default)]
pub(super) struct Scratch(Vec<u8>);

impl Scratch {
    /// `len` bytes, for what is at this position in a file: half a page away from where it is in a page there. (AMD's
    /// Zen 3 takes three times as long for the kernel's `rep movsb` to a place in a page just behind the one that it
    /// copies from: so it would be from a large tensor, which begins on a page of the file, to memory from malloc, which
    /// begins 16 bytes behind the start of a page.)
    fn piece(&mut self, position: u64, len: usize) -> Result<&mut [u8]> {
        if self.0.len() < len + PAGE {
            memory::lengthen(&mut self.0, len.max(PIECE) + PAGE)?;
        }
        let start = (position as usize).wrapping_add(PAGE / 2).wrapping_sub(self.0.as_ptr().addr()) % PAGE;
        Ok(self.0.get_mut(start..start + len).unwrap_or_default())
    }
}

/// Fills `dst` with what stands in the file from `offset` on; `crc`, if there is one, becomes the CRC-32 of what it was
/// that of and these bytes.
///
/// Where copies can go past the caches, two of them, with the cache between, take less time than the kernel's alone:
/// that reads every line of the destination before it writes it.
pub(super) fn read(
    source: &Source,
    offset: u64,
    dst: &mut [u8],
    mut crc: Option<&mut u32>,
    scratch: &mut Scratch,
) -> Result<()> {
    let mut at = offset;
    for chunk in dst.chunks_mut(PIECE) {
        if copy::STREAMS {
            let piece = scratch.piece(source.position(at), chunk.len())?;
            source.read_at(at, piece)?;
            match &mut crc {
                Some(crc) => **crc = copy::summed(piece, chunk, **crc),
                None => copy::streamed(piece, chunk),
            }
        } else {
            source.read_at(at, chunk)?;
            if let Some(crc) = &mut crc {
                **crc = copy::crc32(chunk, **crc);
            }
        }
        at += chunk.len() as u64;
    }
    Ok(())
}

impl<'a> Plan<'a> {
    fn new(mut plain: Vec<Plain<'a>>, coded: Vec<Coded<'a>>) -> Result<Plan<'a>> {
        plain.sort_unstable_by_key(|p| p.at);
        // First what cannot be divided.
        let mut jobs = memory::collect((0..coded.len()).map(Job::Coded))?;
        let mut crcs = Vec::new();
        for (i, large) in plain.iter_mut().enumerate().filter(|(_, p)| p.item.nbytes >= SMALL) {
            large.crcs = crcs.len();
            for block in 0..large.item.nbytes.div_ceil(BLOCK) {
                memory::push(&mut jobs, Job::Block { plain: i, block })?;
                memory::push(&mut crcs, AtomicU32::new(0))?;
            }
        }
        let mut run: Range<usize> = 0..0;
        for (i, small) in plain.iter().enumerate().filter(|(_, p)| p.item.nbytes < SMALL) {
            let last = plain.get(run.clone()).and_then(|run| run.last());
            let joins = run.end == i
                && plain.get(run.start).zip(last).is_some_and(|(first, last)| small.joins(first, last));
            if joins {
                run.end = i + 1;
            } else {
                memory::reserve(&mut jobs, 1)?;
                jobs.extend((!run.is_empty()).then_some(Job::Run(run)));
                run = i..i + 1;
            }
        }
        memory::reserve(&mut jobs, 1)?;
        jobs.extend((!run.is_empty()).then_some(Job::Run(run)));
        Ok(Plan {
            plain,
            coded,
            jobs,
            crcs,
            stop: AtomicBool::new(false),
            fault: Mutex::new(None),
            temporary: Mutex::new(()),
        })
    }

    /// How many threads to use where `wanted` are; 0 is as many as help.
    fn threads(&self, wanted: u32) -> usize {
        let items = self.plain.iter().map(|p| &p.item).chain(self.coded.iter().map(|c| &c.item));
        let total = items.fold(0, |sum: u64, item| sum.saturating_add(item.nbytes));
        let most = match usize::try_from(wanted).unwrap_or(MAX_THREADS) {
            0 => {
                let cores = thread::available_parallelism().map_or(1, usize::from);
                cores.saturating_mul(THREADS_PER_CORE).min(MAX_THREADS)
            }
            n => n,
        };
        let useful = usize::try_from(total / BLOCK).unwrap_or(usize::MAX);
        most.min(useful).min(self.jobs.len()).max(1)
    }

    /// Does all jobs, on this thread and `threads - 1` more.
    fn run(&self, threads: usize) -> Result<()> {
        let size = self.jobs.len().div_ceil(threads).max(1);
        let shares = memory::collect(self.jobs.chunks(size).map(Share::new))?;
        thread::scope(|scope| {
            for own in 1..shares.len() {
                // With fewer threads than hoped for, the work is done all the same.
                let thread = thread::Builder::new().name("ckpt-read".into());
                let shares = &shares;
                if thread.spawn_scoped(scope, move || self.work(shares, own)).is_err() {
                    break;
                }
            }
            self.work(&shares, 0);
        });
        Ok(())
    }

    /// Does the jobs of its own share, and then what is left of the others'.
    fn work(&self, shares: &[Share], own: usize) {
        let mut scratch = Scratch::default();
        let (before, from_own) = shares.split_at_checked(own).unwrap_or_default();
        let jobs = from_own.iter().chain(before).flat_map(|share| std::iter::from_fn(|| share.next()));
        for job in jobs {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            match job {
                Job::Coded(number) => {
                    if let Some(coded) = self.coded.get(*number) {
                        self.note(&coded.item, self.decode(coded));
                    }
                }
                Job::Block { plain, block } => {
                    if let Some(plain) = self.plain.get(*plain) {
                        self.note(&plain.item, self.block(plain, *block, &mut scratch));
                    }
                }
                Job::Run(range) => {
                    self.small(self.plain.get(range.clone()).unwrap_or_default(), &mut scratch);
                }
            }
        }
    }

    /// Decodes a tensor: into the target's own memory, or through temporary memory, of which only one thread at a
    /// time has more than a block.
    fn decode(&self, Coded { item, place }: &Coded) -> Result<()> {
        let named = |e: Error| e.context(format_args!("tensor '{}'", item.spec.path));
        let mut crc = None;
        let mut decode = |dst: &mut [u8]| {
            item.file.decode(*place, item.spec, dst)?;
            crc = item.checked().then(|| crc32fast::hash(dst));
            Ok(())
        };
        let len = usize::try_from(item.nbytes).map_err(|_| too_large(item.spec))?;
        if !item.target.fill(0, len, &mut decode).map_err(named)? {
            let _alone = (item.nbytes > BLOCK).then(|| self.temporary.lock());
            // No more than such a tensor's share of the file's size, which was checked when it was opened.
            let mut bytes = memory::filled(0, len)?;
            decode(&mut bytes).map_err(named)?;
            item.target.put(0, &bytes);
        }
        crc.map_or(Ok(()), |crc| item.check(crc))
    }

    /// Reads a block of a large tensor.
    fn block(&self, plain: &Plain, block: u64, scratch: &mut Scratch) -> Result<()> {
        let Plain { item, at: (_, offset), crcs } = plain;
        let source = &item.file.source;
        let mut crc = 0;
        let start = block * BLOCK;
        let len = (item.nbytes - start).min(BLOCK) as usize;
        let mut fill =
            |dst: &mut [u8]| read(source, offset + start, dst, item.checked().then_some(&mut crc), scratch);
        if !item.target.fill(start, len, &mut fill)? {
            for at in (start..start + len as u64).step_by(PIECE) {
                let len = (start + len as u64 - at).min(PIECE as u64) as usize;
                let piece = scratch.piece(source.position(offset + at), len)?;
                source.read_at(offset + at, piece)?;
                if item.checked() {
                    crc = copy::crc32(piece, crc);
                }
                item.target.put(at, piece);
            }
        }
        if let Some(slot) = self.crcs.get(crcs + block as usize) {
            slot.store(crc, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads a run of small neighbours, at most a piece.
    fn small(&self, run: &[Plain], scratch: &mut Scratch) {
        let [first, ..] = run else { return };
        let start = first.at.1;
        let end = run.iter().map(Plain::end).max().unwrap_or(start);
        let source = &first.item.file.source;
        let piece = scratch.piece(source.position(start), (end - start) as usize);
        let bytes = match piece.and_then(|bytes| source.read_at(start, bytes).map(|()| bytes)) {
            Ok(bytes) => bytes,
            Err(error) => return self.note(&first.item, Err(error)),
        };
        for plain @ Plain { item, .. } in run {
            let range = (plain.at.1 - start) as usize..(plain.end() - start) as usize;
            let bytes = bytes.get(range).unwrap_or_default();
            item.target.put(0, bytes);
            if item.checked() {
                self.note(item, item.sums.check(item.spec, item.spec.checksum_of(bytes)));
            }
        }
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
            for Plain { item, crcs, .. } in
                self.plain.iter().filter(|p| p.item.checked() && p.item.nbytes >= SMALL)
            {
                let mut whole = Hasher::new();
                for (block, crc) in (0..item.nbytes.div_ceil(BLOCK)).zip(self.crcs.iter().skip(*crcs)) {
                    let len = (item.nbytes - block * BLOCK).min(BLOCK);
                    whole.combine(&Hasher::new_with_initial_len(crc.load(Ordering::Relaxed), len));
                }
                self.note(item, item.check(whole.finalize()));
            }
        }
        self.fault.into_inner().map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl Plain<'_> {
    fn end(&self) -> u64 {
        self.at.1 + self.item.nbytes
    }

    /// Whether this small tensor can join the run that begins with `first` and ends with `last`.
    fn joins(&self, first: &Plain, last: &Plain) -> bool {
        self.at.0 == first.at.0 && self.at.1 <= last.end() + GAP && self.end() - first.at.1 <= PIECE as u64
    }
}

impl Item<'_> {
    fn checked(&self) -> bool {
        !self.sums.is_empty()
    }

    /// Compares the checksum of a tensor whose bytes have this CRC-32.
    fn check(&self, crc: u32) -> Result<()> {
        self.sums.check(self.spec, self.spec.checksum(crc))
    }
}
