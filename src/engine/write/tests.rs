use std::sync::Mutex;

use super::*;

/// A file in memory that takes at most `most` bytes a call, fails from byte `room` on, and counts the bytes that
/// come from the addresses `own`.
struct MemFile {
    own: Range<usize>,
    direct: AtomicU64,
    bytes: Mutex<Vec<u8>>,
    calls: AtomicU64,
    most: usize,
    room: u64,
}

impl MemFile {
    fn new(size: u64, most: usize) -> MemFile {
        MemFile {
            own: 0..0,
            direct: AtomicU64::new(0),
            bytes: Mutex::new(vec![0; size as usize]),
            calls: AtomicU64::new(0),
            most,
            room: u64::MAX,
        }
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
        self.calls.fetch_add(1, Relaxed);
        assert!(!parts.is_empty() && parts.iter().all(|p| !p.is_empty()), "a write of nothing");
        if offset >= self.room {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let own = parts.iter().filter(|p| self.own.contains(&p.as_ptr().addr()));
        self.direct.fetch_add(own.map(|p| p.len() as u64).sum(), Relaxed);
        let mut bytes = self.bytes.lock().unwrap();
        let (mut at, mut left) = (offset as usize, self.most);
        for part in parts {
            let n = part.len().min(left);
            bytes[at..at + n].copy_from_slice(&part[..n]);
            (at, left) = (at + n, left - n);
        }
        Ok(at - offset as usize)
    }
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

    fn write(&self, file: &MemFile, threads: u32) {
        let layout = self.layout();
        check(&layout, &self.buffers).unwrap();
        let crcs = tensors(file, &layout, &self.buffers, threads).ok().unwrap();
        literals(file, &layout).unwrap();
        assert!(*file.bytes.lock().unwrap() == self.file, "other bytes than expected");
        for (i, bytes) in self.tensors.iter().enumerate() {
            assert_eq!(crcs[i], crc32fast::hash(bytes), "checksum of tensor {i} of {} bytes", bytes.len());
        }
    }
}

/// Every kind of extent in every order, across blocks, at odd offsets.
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
            (1, DIRECT / 4, false),
            (2, DIRECT / 8, true),
            (1100, 2049, round != 1),
        ] {
            m.tensor(rows, cols, turned);
            m.gap(if rows == 100 { 59 } else { 0 });
        }
        m.gap([4096, 70_000, BLOCK as usize * 2 + 3][round]);
        m.literal(5);
        m.literal(7);
    }
    m.tensor(3, 3, false);
    m
}

#[test]
fn writes_every_extent_and_takes_every_checksum() {
    let model = mixed();
    for threads in [0, 1, 2, 7] {
        model.write(&MemFile::new(model.file.len() as u64, usize::MAX), threads);
    }
}

#[test]
fn goes_on_after_short_writes() {
    let model = mixed();
    for most in [333_333, 4099] {
        model.write(&MemFile::new(model.file.len() as u64, most), 2);
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
    model.write(&file, 1);
    assert_eq!(file.calls.load(Relaxed), 2, "a call for the tensors and one for the literal");
}

#[test]
fn large_tensors_are_not_copied() {
    let mut model = Model::default();
    model.tensor(1024, 1024, false);
    let range = model.memory[0].as_ptr_range();
    let size = model.file.len() as u64;
    let own = range.start.addr()..range.end.addr();
    let file = MemFile { own, ..MemFile::new(size, usize::MAX) };
    tensors(&file, &model.layout(), &model.buffers, 0).ok().unwrap();
    assert_eq!(file.direct.load(Relaxed), size);
}

#[test]
fn stops_at_the_first_error() {
    let mut model = Model::default();
    for _ in 0..12 {
        model.tensor(1024, 1024, false);
    }
    for threads in [1, 2] {
        let file = MemFile { room: BLOCK * 2, ..MemFile::new(model.file.len() as u64, usize::MAX) };
        let failed = tensors(&file, &model.layout(), &model.buffers, threads);
        let Err(Failure::Io(error)) = failed else { panic!("a full disk took everything") };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert!(file.calls.load(Relaxed) <= 2 + 2 * u64::from(threads), "it went on after the error");
    }
}

#[test]
fn refuses_a_layout_that_is_not_the_tensors() {
    let mut model = Model::default();
    model.literal(64);
    model.tensor(4, 4, false);
    let good = model.extents.clone();
    let size = model.file.len() as u64;
    let refuses = |size, extents: Vec<Extent>, buffers: &[Buffer]| {
        let layout = Layout::from_parts(size, extents, model.literals.clone());
        assert_eq!(check(&layout, buffers).unwrap_err().status(), Status::Internal);
    };
    refuses(size, good.clone(), &[]);
    refuses(size - 1, good.clone(), &model.buffers);
    refuses(size, vec![good[1], good[0]], &model.buffers);
    refuses(size, vec![good[0], Extent { offset: 63, ..good[1] }], &model.buffers);
    refuses(size, vec![good[0], Extent { offset: u64::MAX, ..good[1] }], &model.buffers);
    refuses(size, vec![good[0], Extent { len: 60, ..good[1] }], &model.buffers);
    refuses(size, vec![Extent { source: Source::Literal(1), ..good[0] }], &model.buffers);
    refuses(size, vec![Extent { len: 63, ..good[0] }], &model.buffers);
}
