//! Writes one file: its body, with the checksums taken in the same pass, and, once those are in the layout, its edges.
//!
//! The body goes one of two ways. Through the page cache, each piece is gathered as it stands: large runs from the
//! caller's memory as they are, small tensors and strided ones through a staging block; several workers overlap, one
//! checksums while another is in the kernel. Past the page cache, a piece is copied to a staging block, in huge pages,
//! while the device writes the pieces before it.
#![cfg_attr(not(test), forbid(unsafe_code))]

use std::io::{self, IoSlice};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use crate::error::{Error, Result, Status};
use crate::layout::{Layout, Source};
use crate::memory;
use crate::sync::parking_lot::Mutex;
use crate::sync::thread;

use super::arena::{Arena, BLOCK};
use super::backend::{self, Choice};
use super::buffer::Buffer;
use super::gather::{self, Held, Next, Stop};
use super::sink::{self, Early, Sink, Target};
use super::storage::{Handle, retry, write_all};
use super::sums::Sums;
use super::tiles::{PAGE, Piece, Role, Tiles};
use super::watch::{Failure, Meter};

/// Contiguous runs from this length on are written from where they are. Shorter ones are copied: with them, a
/// piece would have more parts than the kernel takes in one call.
const IN_PLACE: usize = 8 << 10;

/// Staging blocks of a worker past the page cache: one is filled while the device writes the others.
const BLOCKS: u64 = 4;

/// The result of moving bytes.
type Moved<T> = std::result::Result<T, Failure>;

/// By what means the bodies of a save are written.
pub(super) struct Means<'a> {
    /// Threads that gather, 0: as many as help.
    pub threads: u32,
    pub choice: Choice,
    pub durable: bool,
    /// The device that the files are on.
    pub device: u64,
    pub meter: Meter<'a>,
    /// No file can be written past the page cache after all.
    pub refused: AtomicBool,
}

impl<'a> Means<'a> {
    /// Whether to go past the page cache.
    fn is_direct(&self) -> bool {
        self.choice != Choice::Buffered && !self.refused.load(Relaxed)
    }

    /// The way of blocks into a file.
    pub fn open<'s>(&'s self, target: Target<'s>) -> Sink<'s> {
        if self.is_direct() {
            match Sink::direct(target, &self.meter) {
                Ok(sink) => return sink,
                Err(e) => self.refuse(&e),
            }
        }
        Sink::buffered(target, &self.meter, self.durable)
    }

    /// Takes a refusal that a sink has met.
    pub fn heed(&self, sink: &mut Sink<'_>) -> bool {
        let refusal = sink.refusal();
        if let Some(e) = &refusal {
            self.refuse(e);
        }
        refusal.is_some()
    }

    fn refuse(&self, cause: &io::Error) {
        self.refused.store(true, Relaxed);
        // Another cause (no more descriptors or memory, for example) is this save's alone.
        if sink::refuses(cause)
            && cause.raw_os_error() != Some(libc::ENOMEM)
            && let Some(line) = backend::refused(self.device, cause)
        {
            self.meter.watch().note(&line);
        }
    }
}

/// What is known of a file once its body is written.
pub(super) struct Body {
    /// The CRC-32s of its tensors.
    pub crcs: Vec<u32>,
    /// The tensors' bytes in its edges, in the order of the file.
    pub held: Vec<Held>,
}

/// One file whose body is being written.
pub(super) struct Job {
    tiles: Tiles,
    pieces: Vec<Piece>,
    /// Which of the save's tensors it holds.
    tensors: Range<usize>,
    sums: Sums,
    held: Mutex<Vec<Held>>,
}

/// The files of a layout that is for `tensors` tensors: the companions, then the file itself.
pub(super) fn jobs(layout: &Layout, tensors: usize) -> Result<Vec<Job>> {
    let companions = layout.companions();
    let own = if companions.is_empty() { 0..tensors } else { 0..0 };
    let beside = companions.iter().map(|companion| Job::new(companion.layout(), companion.tensors()));
    memory::try_collect(beside.chain([Job::new(layout, own)]))
}

impl Job {
    fn new(layout: &Layout, tensors: Range<usize>) -> Result<Job> {
        let tiles = Tiles::of(layout);
        let (pieces, sums) = (tiles.pieces()?, Sums::new(tensors.len())?);
        Ok(Job { tiles, pieces, tensors, sums, held: Mutex::default() })
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Those of the save's tensors that it holds.
    pub fn tensors(&self) -> Range<usize> {
        self.tensors.clone()
    }

    /// Gathers a piece of the body into `dst`, which is as long.
    pub fn gather(
        &self,
        piece: &Piece,
        buffers: &[Buffer],
        dst: &mut [u8],
        next: (Next, Stop<'_>),
    ) -> Result<()> {
        gather::body(&self.tiles, piece, &buffers[self.tensors()], &self.sums, dst, next)
    }

    /// Keeps the tensors' bytes in an edge.
    pub fn hold(&self, piece: &Piece, buffers: &[Buffer], stop: Stop<'_>) -> Result<()> {
        let held = gather::edge(&self.tiles, piece, &buffers[self.tensors()], &self.sums, stop)?;
        let mut all = self.held.lock();
        held.into_iter().try_for_each(|held| memory::push(&mut all, held))
    }

    /// All pieces have been gathered.
    pub fn finish(self) -> Result<Body> {
        let mut held = self.held.into_inner();
        held.sort_unstable_by_key(|held| held.at);
        Ok(Body { crcs: self.sums.finish()?, held })
    }

    /// Gathers and writes the body; all tensors are in host memory. The memory for staging is the save's own.
    pub fn write(&self, target: Target<'_>, buffers: &[Buffer], means: &Means<'_>) -> Moved<()> {
        let whole = Work::new(self, buffers, target, means, 0..self.pieces.len());
        match (means.is_direct(), means.choice) {
            (false, _) => whole.buffered(),
            (true, Choice::Trial) => self.trial(target, buffers, means),
            (true, _) => {
                whole.direct()?;
                // What is left where it was refused.
                whole.buffered()
            }
        }
    }

    /// Writes one half each way, and takes the times.
    fn trial(&self, target: Target<'_>, buffers: &[Buffer], means: &Means<'_>) -> Moved<()> {
        let middle = self.pieces.len() / 2;
        let bytes = |pieces: &[Piece]| pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let (first, second) = self.pieces.split_at(middle);
        let start = Instant::now();
        let work = Work::new(self, buffers, target, means, 0..middle);
        work.direct()?;
        let direct = (bytes(first), start.elapsed());
        work.buffered()?;
        let start = Instant::now();
        Work::new(self, buffers, target, means, middle..self.pieces.len()).buffered()?;
        if !means.refused.load(Relaxed) {
            retry(|| target.handle.sync())?;
            let buffered = (bytes(second), start.elapsed());
            means.meter.watch().note(&backend::learn(means.device, direct, buffered));
        }
        Ok(())
    }
}

/// Some pieces of a file, and what the workers on them share.
struct Work<'a> {
    job: &'a Job,
    buffers: &'a [Buffer],
    target: Target<'a>,
    means: &'a Means<'a>,
    /// The next piece that nobody has taken, and where they end.
    next: AtomicUsize,
    end: usize,
}

impl<'a> Work<'a> {
    fn new(
        job: &'a Job,
        buffers: &'a [Buffer],
        target: Target<'a>,
        means: &'a Means<'a>,
        pieces: Range<usize>,
    ) -> Work<'a> {
        Work { job, buffers, target, means, next: AtomicUsize::new(pieces.start), end: pieces.end }
    }

    /// The next piece of the body that nobody has; edges on the way are kept.
    fn take(&self) -> Moved<Option<&'a Piece>> {
        self.means.meter.go_on()?;
        loop {
            let i = self.next.fetch_add(1, Relaxed);
            if i >= self.end {
                return Ok(None);
            }
            let piece = &self.job.pieces[i];
            match piece.role {
                Role::Body => return Ok(Some(piece)),
                Role::Edge => self.job.hold(piece, self.buffers, &|| false)?,
            }
        }
    }

    /// Has `count` threads do this, the calling one among them; after an error nobody takes another piece.
    fn with(&self, count: usize, work: impl Fn() -> Moved<()> + Sync) -> Moved<()> {
        together(vec![(); count], "ckpt-write", |()| {
            let result = work();
            if result.is_err() {
                self.next.store(self.end, Relaxed);
            }
            result
        })
    }

    /// Through the page cache. Two workers help: one packs and checksums while the other is in the kernel.
    fn buffered(&self) -> Moved<()> {
        let left = self.job.pieces.get(self.next.load(Relaxed).min(self.end)..self.end).unwrap_or_default();
        // An edge alone is no work for a thread, but somebody has to keep what is in it.
        let bodies = left.iter().filter(|piece| piece.role == Role::Body).count();
        let count = threads(self.means.threads, 2).min(bodies.max(1));
        self.with(count, || {
            let mut stage = Vec::new();
            let mut early = self.means.durable.then(|| Early::new(self.target.handle));
            while let Some(piece) = self.take()? {
                memory::lengthen(&mut stage, piece.len())?;
                self.gather_and_write(piece, &mut stage)?;
                if let Some(early) = &mut early {
                    early.wrote(piece.range.start, piece.len() as u64);
                }
            }
            Ok(())
        })
    }

    /// Past the page cache, until it is refused.
    fn direct(&self) -> Moved<()> {
        let strided = self.buffers[self.job.tensors()].iter().any(|buffer| buffer.bytes().is_none());
        let count = threads(self.means.threads, if strided { 2 } else { 1 }).min(self.end);
        self.with(count, || {
            let arena = Arena::new(BLOCKS * BLOCK as u64, None);
            let mut sink = self.means.open(self.target);
            while !self.means.refused.load(Relaxed) {
                let Some(piece) = self.take()? else { break };
                let mut block = loop {
                    match arena.try_take()? {
                        Some(block) => break block,
                        // The device has them.
                        None => _ = sink.reap()?,
                    }
                };
                self.job.gather(piece, self.buffers, &mut block[..piece.len()], (Next::Device, &|| false))?;
                sink.write(block, piece.len(), piece.range.start)?;
                self.means.heed(&mut sink);
            }
            sink.finish()?;
            self.means.heed(&mut sink);
            Ok(())
        })
    }

    /// Writes a piece from where its bytes are.
    fn gather_and_write(&self, piece: &Piece, stage: &mut [u8]) -> Moved<()> {
        /// Bytes of the stage, or a tensor's own.
        enum Run {
            Staged(Range<usize>),
            InPlace(usize, Range<usize>),
        }
        let buffers = &self.buffers[self.job.tensors()];
        let mut runs = Vec::new();
        let mut staged = 0..0;
        let mut at = piece.range.start;
        for part in self.job.tiles.parts(piece.range.clone()) {
            let gap = (part.at - at) as usize;
            stage[staged.end..staged.end + gap].fill(0);
            staged.end += gap;
            at = part.at + part.len as u64;
            let (buffer, begin) = (&buffers[part.tensor], part.offset as usize);
            let crc = match buffer.bytes().filter(|_| part.len >= IN_PLACE) {
                Some(bytes) => {
                    let range = begin..begin + part.len;
                    memory::push(&mut runs, Run::Staged(staged.clone()))?;
                    memory::push(&mut runs, Run::InPlace(part.tensor, range.clone()))?;
                    staged.start = staged.end;
                    crc32fast::hash(&bytes[range])
                }
                None => {
                    let room = &mut stage[staged.end..staged.end + part.len];
                    staged.end += part.len;
                    buffer.pack(part.offset, room)?;
                    crc32fast::hash(room)
                }
            };
            self.job.sums.add(&part, crc)?;
        }
        let rest = (piece.range.end - at) as usize;
        stage[staged.end..staged.end + rest].fill(0);
        staged.end += rest;
        memory::push(&mut runs, Run::Staged(staged))?;
        let slice = |run: &Run| match run {
            Run::Staged(range) => &stage[range.clone()],
            Run::InPlace(tensor, range) => &buffers[*tensor].bytes().unwrap_or_default()[range.clone()],
        };
        let slices = runs.iter().map(slice).filter(|bytes| !bytes.is_empty());
        let mut slices = memory::collect(slices.map(IoSlice::new))?;
        write_all(self.target.handle, &mut slices, piece.range.start)?;
        self.means.meter.wrote(piece.len() as u64);
        Ok(())
    }
}

/// Writes the edges of a file whose layout has been sealed.
pub(super) fn edges(file: &dyn Handle, layout: &Layout, held: &[Held], meter: &Meter<'_>) -> io::Result<()> {
    static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
    let tiles = Tiles::of(layout);
    for edge in tiles.pieces().map_err(memory::io)?.iter().filter(|piece| piece.role == Role::Edge) {
        let mut slices: Vec<IoSlice<'_>> = Vec::new();
        let mut at = edge.range.start;
        for extent in tiles.extents(edge.range.clone()) {
            let begin = extent.offset.max(edge.range.start);
            let bytes: &[u8] = match extent.source {
                Source::Literal(i) => &layout.literals()[i],
                Source::Tensor(_) => {
                    let place = held.partition_point(|held| held.at < begin);
                    &held[place].bytes
                }
            };
            zeros(&ZEROS, begin - at, &mut slices)?;
            memory::push(&mut slices, IoSlice::new(bytes)).map_err(memory::io)?;
            at = begin + bytes.len() as u64;
        }
        zeros(&ZEROS, edge.range.end - at, &mut slices)?;
        write_all(file, &mut slices, edge.range.start)?;
        meter.wrote(edge.len() as u64);
    }
    Ok(())
}

/// Appends zeros.
fn zeros<'a>(page: &'a [u8], mut count: u64, slices: &mut Vec<IoSlice<'a>>) -> io::Result<()> {
    while count > 0 {
        let len = count.min(page.len() as u64);
        memory::push(slices, IoSlice::new(&page[..len as usize])).map_err(memory::io)?;
        count -= len;
    }
    Ok(())
}

/// Refuses a layout that would write outside the file, or that is not made of these tensors.
pub(super) fn check(layout: &Layout, tensors: &[u64]) -> Result<()> {
    let bug = |message: String| Err(Error::new(Status::Internal, message));
    let mut end = 0u64;
    for extent in layout.extents() {
        let len = match extent.source {
            Source::Literal(i) => layout.literals().get(i).map(|l| l.len() as u64),
            Source::Tensor(i) => tensors.get(i).copied(),
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
        match tensors.get(companion.tensors()) {
            Some(tensors) => check(companion.layout(), tensors)?,
            None => return bug(format!("a companion has tensors {:?}", companion.tensors())),
        }
    }
    Ok(())
}

/// How many threads where the user wants so many, 0 for as many as help, which is `helpful` if there are processors.
pub(super) fn threads(wanted: u32, helpful: usize) -> usize {
    // To find out takes longer than a small save.
    static PROCESSORS: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
    match wanted {
        0 => helpful.min(*PROCESSORS),
        n => n as usize,
    }
}

/// Has a thread for each of `shares` work on it, the calling one on the first. Where the system gives no more threads,
/// fewer do the work. The first error, in the order of the shares.
pub(super) fn together<S: Send, E: Send>(
    shares: Vec<S>,
    name: &str,
    work: impl Fn(S) -> std::result::Result<(), E> + Sync,
) -> std::result::Result<(), E> {
    let mut shares = shares.into_iter();
    let Some(mine) = shares.next() else { return Ok(()) };
    if shares.len() == 0 {
        return work(mine);
    }
    thread::scope(|scope| {
        let work = &work;
        let start = |share| thread::Builder::new().name(name.into()).spawn_scoped(scope, move || work(share));
        let others: Vec<_> = shares.map_while(|share| start(share).ok()).collect();
        let first = work(mine);
        let rest = others.into_iter().map(|t| t.join().unwrap_or_else(|panic| resume_unwind(panic)));
        std::iter::once(first).chain(rest).collect()
    })
}

#[cfg(test)]
mod tests;
