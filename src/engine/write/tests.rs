use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::super::queue::{Ended, Queue, Write};
use super::super::storage::{Info, Storage};
use super::super::tiles::TILE;
use super::super::watch::{Unwatched, Watch};
use super::*;
use crate::layout::Extent;

/// A file in memory, full of another file's bytes, that takes at most `most` bytes a call, fails from byte `room` on,
/// and counts the bytes that come from the addresses `own`. It is the disk, too.
#[derive(Clone)]
struct MemFile {
    own: Range<usize>,
    most: usize,
    room: u64,
    /// What a write past the page cache is refused with from the first on that is here; 0: what opening it is.
    refuse: Option<(u64, i32)>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    bytes: Mutex<Vec<u8>>,
    in_place: AtomicU64,
    calls: AtomicU64,
    pushed: AtomicU64,
    /// Bytes written, those that were written again included.
    written: AtomicU64,
}

impl MemFile {
    fn new(size: u64, most: usize) -> MemFile {
        let seen = Arc::new(Seen { bytes: Mutex::new(vec![0xaa; size as usize]), ..Seen::default() });
        MemFile { own: 0..0, most, room: u64::MAX, refuse: None, seen }
    }

    fn put(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        if offset >= self.room {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let mut bytes = self.seen.bytes.lock();
        let (mut at, mut left) = (offset as usize, self.most);
        for part in parts {
            let n = part.len().min(left);
            bytes[at..at + n].copy_from_slice(&part[..n]);
            (at, left) = (at + n, left - n);
        }
        let n = at - offset as usize;
        self.seen.written.fetch_add(n as u64, Relaxed);
        Ok(n)
    }
}

impl Handle for MemFile {
    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }
    fn set_mode(&self, _: u32) -> io::Result<()> {
        Ok(())
    }
    fn preallocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.seen.calls.fetch_add(1, Relaxed);
        assert!(!parts.is_empty() && parts.iter().all(|p| !p.is_empty()), "a write of nothing");
        let own = parts.iter().filter(|p| self.own.contains(&p.as_ptr().addr()));
        self.seen.in_place.fetch_add(own.map(|p| p.len() as u64).sum(), Relaxed);
        self.put(parts, offset)
    }
}

impl Storage for MemFile {
    fn queue(&self, _: &Path) -> io::Result<Box<dyn Queue>> {
        match self.refuse {
            Some((0, code)) => Err(io::Error::from_raw_os_error(code)),
            _ => Ok(Box::new(MemQueue { file: self.clone(), writes: VecDeque::new() })),
        }
    }
    fn create(&self, _: &Path, _: u32) -> io::Result<Box<dyn Handle>> {
        unimplemented!()
    }
    fn open(&self, _: &Path) -> io::Result<Box<dyn Handle>> {
        unimplemented!()
    }
    fn read(&self, _: &Path, _: u64, _: &mut [u8]) -> io::Result<usize> {
        unimplemented!()
    }
    fn info(&self, _: &Path) -> io::Result<Info> {
        unimplemented!()
    }
    fn real_path(&self, _: &Path) -> io::Result<PathBuf> {
        unimplemented!()
    }
    fn read_link(&self, _: &Path) -> io::Result<PathBuf> {
        unimplemented!()
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        unimplemented!()
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        unimplemented!()
    }
    fn make_dir(&self, _: &Path) -> io::Result<()> {
        unimplemented!()
    }
    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        unimplemented!()
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        unimplemented!()
    }
    fn list(&self, _: &Path) -> io::Result<Vec<OsString>> {
        unimplemented!()
    }
}

/// Instead of the code of a refusal: the queue itself is broken.
const BROKEN: i32 = -1;

/// Writes that end in another order than they began.
struct MemQueue {
    file: MemFile,
    writes: VecDeque<Write>,
}

impl Queue for MemQueue {
    fn push(&mut self, write: Write) -> io::Result<()> {
        assert!(self.writes.len() < super::super::queue::DEPTH, "more writes than the queue has room for");
        let (page, len) = (PAGE as usize, write.range.len());
        assert!(
            write.offset.is_multiple_of(PAGE) && len.is_multiple_of(page) && len > 0,
            "{len} bytes at {}",
            write.offset
        );
        let memory = write.block[write.range.clone()].as_ptr();
        assert!(memory.addr().is_multiple_of(page), "memory at {memory:p}");
        self.writes.push_back(write);
        Ok(())
    }
    fn pop(&mut self) -> io::Result<Option<Ended>> {
        let last = self.writes.len() % 3 == 1;
        let write = if last { self.writes.pop_back() } else { self.writes.pop_front() };
        let Some(write) = write else { return Ok(None) };
        let count = self.file.seen.pushed.fetch_add(1, Relaxed);
        let result = match self.file.refuse {
            Some((from, BROKEN)) if count >= from => {
                self.writes.clear();
                return Err(io::Error::from_raw_os_error(libc::ENXIO));
            }
            Some((from, code)) if count >= from => Err(io::Error::from_raw_os_error(code)),
            _ if count % 5 == 3 => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            _ => self.file.put(&[IoSlice::new(&write.block[write.range.clone()])], write.offset),
        };
        Ok(Some((write, result)))
    }
    fn in_flight(&self) -> usize {
        self.writes.len()
    }
}

/// Writes a body; gives the checksums and what is held.
fn body(file: &MemFile, layout: &Layout, buffers: &[Buffer], threads: u32, choice: Choice) -> Moved<Body> {
    let meter = Meter::new(&Unwatched, layout.size());
    // A device that nothing else is on.
    let device = u64::MAX - file.seen.bytes.lock().as_ptr().addr() as u64;
    let means = Means { threads, choice, durable: true, device, meter, refused: AtomicBool::new(false) };
    let target = Target { storage: file, path: Path::new("file"), handle: file };
    let mut jobs = jobs(layout, buffers.len())?;
    let job = jobs.pop().unwrap();
    job.write(target, buffers, &means)?;
    Ok(job.finish()?)
}

fn noise(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| ((i + seed * 977).wrapping_mul(0x9e37_79b1) >> 13) as u8).collect()
}

/// The tensors of a test, and what a file of them must be.
#[derive(Default)]
struct Model {
    memory: Vec<Vec<u8>>,
    buffers: Vec<Buffer>,
    tensors: Vec<Vec<u8>>,
    extents: Vec<Extent>,
    literals: Vec<Vec<u8>>,
    file: Vec<u8>,
}

impl Model {
    fn gap(&mut self, n: usize) {
        self.file.extend(vec![0; n]);
    }

    fn literal(&mut self, n: usize) {
        let bytes = noise(n, 1000 + self.literals.len());
        let source = Source::Literal(self.literals.len());
        self.extents.push(Extent { offset: self.file.len() as u64, len: n as u64, source });
        self.file.extend(&bytes);
        self.literals.push(bytes);
    }

    /// A tensor of `rows` by `cols` 4-byte elements, `turned` or row-major.
    fn tensor(&mut self, rows: usize, cols: usize, turned: bool) {
        let mut memory = noise(rows * cols * 4, self.tensors.len());
        let strides = [1, rows as i64];
        let shape = [rows as u64, cols as u64];
        // SAFETY: the memory has all elements, stays where it is when the Vec moves, and is only read.
        let buffer =
            unsafe { Buffer::new(memory.as_mut_ptr(), 4, &shape, turned.then_some(&strides[..])).unwrap() };
        let bytes = match turned {
            false => memory.clone(),
            true => (0..rows * cols)
                .flat_map(|i| {
                    let at = (i % cols * rows + i / cols) * 4;
                    memory[at..at + 4].to_vec()
                })
                .collect(),
        };
        if !bytes.is_empty() {
            let source = Source::Tensor(self.tensors.len());
            self.extents.push(Extent { offset: self.file.len() as u64, len: bytes.len() as u64, source });
        }
        self.file.extend(&bytes);
        self.memory.push(memory);
        self.buffers.push(buffer);
        self.tensors.push(bytes);
    }

    fn layout(&self) -> Layout {
        Layout::from_parts(self.file.len() as u64, self.extents.clone(), self.literals.clone())
    }

    fn write(&self, file: &MemFile, threads: u32, choice: Choice) {
        let layout = self.layout();
        check(&layout, &self.sizes()).unwrap();
        let body = body(file, &layout, &self.buffers, threads, choice).unwrap();
        edges(file, &layout, &body.held, &Meter::new(&Unwatched, layout.size())).unwrap();
        assert!(*file.seen.bytes.lock() == self.file, "other bytes than expected");
        assert_eq!(file.seen.written.load(Relaxed), self.file.len() as u64, "bytes that were written twice");
        for (i, bytes) in self.tensors.iter().enumerate() {
            assert_eq!(
                body.crcs[i],
                crc32fast::hash(bytes),
                "checksum of tensor {i} of {} bytes",
                bytes.len()
            );
        }
    }

    fn sizes(&self) -> Vec<u64> {
        self.buffers.iter().map(Buffer::nbytes).collect()
    }
}

const CHOICES: [Choice; 3] = [Choice::Buffered, Choice::Direct, Choice::Trial];

/// Every kind of extent in every order, across pieces, at odd offsets.
fn mixed() -> Model {
    let mut m = Model::default();
    m.literal(3001);
    for round in 0..3 {
        for (rows, cols, turned) in [
            (1, 1, false),
            (7, 5, true),
            (0, 4, true),
            (100, 100, false),
            (100, 100, true),
            (1500, 1000, round == 1),
            (1, IN_PLACE / 4, false),
            (2, IN_PLACE / 8, true),
            (1100, 2049, round != 1),
        ] {
            m.tensor(rows, cols, turned);
            m.gap(if rows == 100 { 59 } else { 0 });
        }
        m.gap([4096, 70_000, BLOCK * 2 + 3][round]);
        m.literal(5);
        m.literal(7);
    }
    m.tensor(3, 3, false);
    m
}

#[test]
fn writes_every_byte_once_and_takes_every_checksum() {
    let model = mixed();
    for choice in CHOICES {
        for threads in [0, 1, 2, 7] {
            model.write(&MemFile::new(model.file.len() as u64, usize::MAX), threads, choice);
        }
    }
}

#[test]
fn goes_on_after_short_writes() {
    let model = mixed();
    for choice in CHOICES {
        // Whole pages, and parts of them.
        for most in [333_333, 4099, 5 * PAGE as usize] {
            model.write(&MemFile::new(model.file.len() as u64, most), 2, choice);
        }
    }
}

#[test]
fn goes_through_the_page_cache_where_the_other_way_is_refused() {
    let model = mixed();
    // The last two: for ever.
    for code in [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS, libc::EAGAIN, libc::EINTR] {
        for from in [0, 1, 4] {
            if from == 0 && code == libc::EINTR {
                continue;
            }
            for choice in [Choice::Direct, Choice::Trial] {
                let refuse = Some((from, code));
                let file = MemFile { refuse, ..MemFile::new(model.file.len() as u64, usize::MAX) };
                model.write(&file, 1, choice);
            }
        }
    }
}

#[test]
fn an_error_past_the_page_cache_is_one() {
    let model = mixed();
    let blocks = (model.file.len() / BLOCK) as u64;
    for (code, seen) in [(libc::EIO, libc::EIO), (BROKEN, libc::ENXIO)] {
        // The last one: when nothing is left to be begun.
        for from in [1, 3, blocks - 1] {
            let refuse = Some((from, code));
            let file = MemFile { refuse, ..MemFile::new(model.file.len() as u64, usize::MAX) };
            let failed = body(&file, &model.layout(), &model.buffers, 1, Choice::Direct);
            let Err(Failure::Io(error)) = failed else { panic!("a broken disk took everything") };
            assert_eq!(error.raw_os_error(), Some(seen));
        }
    }
}

#[test]
fn writes_that_a_broken_queue_has_lost_are_an_error() {
    let model = mixed();
    for from in 1..12 {
        let refuse = Some((from, BROKEN));
        let file = MemFile { refuse, ..MemFile::new(model.file.len() as u64, usize::MAX) };
        let done = body(&file, &model.layout(), &model.buffers, 1, Choice::Direct);
        let broke = file.seen.pushed.load(Relaxed) > from;
        assert_eq!(matches!(done, Err(Failure::Io(_))), broke, "from write {from} on");
    }
}

#[test]
fn coalesces_small_tensors() {
    let mut model = Model::default();
    model.literal(4096);
    for _ in 0..60_000 {
        model.tensor(4, 4, false);
        model.gap(0);
    }
    let file = MemFile::new(model.file.len() as u64, usize::MAX);
    model.write(&file, 1, Choice::Buffered);
    let pieces = model.file.len().div_ceil(BLOCK) as u64;
    assert_eq!(file.seen.calls.load(Relaxed), pieces + 2, "a call for a piece, and for each edge");
}

#[test]
fn large_tensors_are_not_copied() {
    let mut model = Model::default();
    model.tensor(1024, 1024, false);
    let range = model.memory[0].as_ptr_range();
    let size = model.file.len() as u64;
    let own = range.start.addr()..range.end.addr();
    let file = MemFile { own, ..MemFile::new(size, usize::MAX) };
    body(&file, &model.layout(), &model.buffers, 0, Choice::Buffered).unwrap();
    assert_eq!(file.seen.in_place.load(Relaxed), size);
}

#[test]
fn stops_at_the_first_error() {
    let mut model = Model::default();
    for _ in 0..12 {
        model.tensor(1024, 1024, false);
    }
    for threads in [1, 2] {
        let file = MemFile { room: TILE * 2, ..MemFile::new(model.file.len() as u64, usize::MAX) };
        let failed = body(&file, &model.layout(), &model.buffers, threads, Choice::Buffered);
        let Err(Failure::Io(error)) = failed else { panic!("a full disk took everything") };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert!(file.seen.calls.load(Relaxed) <= 2 + 2 * u64::from(threads), "it went on after the error");
    }
}

#[test]
fn ends_where_it_is_cancelled() {
    struct Cancelled(AtomicUsize);
    impl Watch for Cancelled {
        fn wrote(&self, done: u64, total: u64) {
            assert!(done <= total);
            self.0.fetch_add(1, Relaxed);
        }
        fn cancelled(&self) -> bool {
            self.0.load(Relaxed) > 1
        }
    }
    let mut model = Model::default();
    model.tensor(4096, 4096, false);
    for choice in CHOICES {
        let file = MemFile::new(model.file.len() as u64, usize::MAX);
        let (watch, layout) = (Cancelled(AtomicUsize::new(0)), model.layout());
        let meter = Meter::new(&watch, layout.size());
        let means =
            Means { threads: 1, choice, durable: false, device: 0, meter, refused: AtomicBool::new(false) };
        let target = Target { storage: &file, path: Path::new("file"), handle: &file };
        let failed = jobs(&layout, 1).unwrap()[0].write(target, &model.buffers, &means);
        let Err(Failure::Other(error)) = failed else { panic!("it went on") };
        assert_eq!(error.status(), Status::Cancelled);
        assert!(file.seen.written.load(Relaxed) < layout.size());
    }
}

#[test]
fn refuses_a_layout_that_is_not_the_tensors() {
    let mut model = Model::default();
    model.literal(64);
    model.tensor(4, 4, false);
    let good = model.extents.clone();
    let (size, sizes) = (model.file.len() as u64, model.sizes());
    let refuses = |size, extents: Vec<Extent>, tensors: &[u64]| {
        let layout = Layout::from_parts(size, extents, model.literals.clone());
        assert_eq!(check(&layout, tensors).unwrap_err().status(), Status::Internal);
    };
    refuses(size, good.clone(), &[]);
    refuses(size - 1, good.clone(), &sizes);
    refuses(size, vec![good[1], good[0]], &sizes);
    refuses(size, vec![good[0], Extent { offset: 63, ..good[1] }], &sizes);
    refuses(size, vec![good[0], Extent { offset: u64::MAX, ..good[1] }], &sizes);
    refuses(size, vec![good[0], Extent { len: 60, ..good[1] }], &sizes);
    refuses(size, vec![Extent { source: Source::Literal(1), ..good[0] }], &sizes);
    refuses(size, vec![Extent { len: 63, ..good[0] }], &sizes);
}
