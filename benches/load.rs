//! Loading against the machine: `cargo bench --bench load [-- DIR [ROUNDS]]`.
//!
//! Files go to a directory of their own in DIR (by default the system's for temporary files). Every line is a
//! ratio to the first of its table, of medians taken in one interleaved run; the brackets hold the quartiles. Memory
//! to load into has been touched.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops at an error")]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use ckpt::engine::Buffer;
use ckpt::reader::Reader;
use ckpt::session::{Loading, Model};
use ckpt::tensor::Dtype;

const PAGE: usize = 4096;

/// Memory for tensors of so many bytes, that of each so far behind the start of a page.
struct Memory {
    whole: Vec<u8>,
    starts: Vec<usize>,
    nbytes: usize,
}

impl Memory {
    fn new(count: usize, nbytes: usize, behind: usize) -> Memory {
        let step = if behind == usize::MAX { nbytes } else { (nbytes + behind).next_multiple_of(PAGE) };
        let whole = vec![1; count * step + 2 * PAGE];
        let first = whole.as_ptr().addr().wrapping_neg() % PAGE;
        let behind = if behind == usize::MAX { 0 } else { behind };
        Memory { starts: (0..count).map(|i| first + i * step + behind).collect(), whole, nbytes }
    }

    fn parts(&mut self) -> Vec<&mut [u8]> {
        let (mut parts, mut rest, mut at) = (Vec::new(), &mut *self.whole, 0);
        for start in &self.starts {
            let (part, tail) = rest[start - at..].split_at_mut(self.nbytes);
            parts.push(part);
            (rest, at) = (tail, start + self.nbytes);
        }
        parts
    }

    fn fill(&mut self) {
        for (i, part) in self.parts().into_iter().enumerate() {
            for (j, word) in part.chunks_mut(8).enumerate() {
                let noise = ((i << 32 | j) as u64 ^ 0x5bd1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                word.copy_from_slice(&noise.to_le_bytes()[..word.len()]);
            }
        }
    }

    fn model(&mut self, name: impl Fn(usize) -> String) -> Model {
        let mut model = Model::new();
        let shape = [self.nbytes as u64 / 4];
        for (i, part) in self.parts().into_iter().enumerate() {
            // SAFETY: the memory outlives the model here, and one contestant at a time uses it.
            let buffer = unsafe { Buffer::new(part.as_mut_ptr(), 4, &shape, None).unwrap() };
            model.add(&name(i), Dtype::F32, &shape, buffer).unwrap();
        }
        model
    }
}

/// One way to do the work.
struct Way<'a> {
    name: String,
    run: Box<dyn FnMut() + 'a>,
}

fn way<'a>(name: impl Into<String>, run: impl FnMut() + 'a) -> Way<'a> {
    Way { name: name.into(), run: Box::new(run) }
}

/// Runs all of them in turn, `rounds` times, each after `before`, and prints the ratios.
fn compare(title: &str, rounds: usize, before: impl Fn(), mut ways: Vec<Way<'_>>) {
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..=rounds {
        for i in 0..ways.len() {
            let i = (i + round) % ways.len();
            before();
            let start = Instant::now();
            (ways[i].run)();
            let time = start.elapsed().as_secs_f64();
            // The first round warms up.
            if round > 0 {
                times[i].push(time);
            }
        }
    }
    for t in &mut times {
        t.sort_by(f64::total_cmp);
    }
    let quartile = |t: &[f64], q: usize| t[(t.len() - 1) * q / 4];
    let base = quartile(&times[0], 2);
    println!("\n{title}");
    for (way, t) in ways.iter().zip(&times) {
        let [least, low, median, high] = [0, 1, 2, 3].map(|q| quartile(t, q) / base);
        println!(
            "  {:<34} {:>9.3} ms  {median:.3} [{low:.3} {high:.3}], least {:.3} ms",
            way.name,
            median * base * 1e3,
            least * base * 1e3
        );
    }
}

fn open_and_load(path: &Path, model: &mut Model, threads: u32, unverified: bool) {
    let reader = Reader::open(path).unwrap();
    model.load_with(&reader, &Loading { threads, unverified, ..Loading::default() }).unwrap();
}

/// Plain reads of whole tensors, one after the other on each thread.
fn pread(path: &Path, parts: &mut [&mut [u8]], offset: u64, step: u64, threads: usize) {
    let file = File::open(path).unwrap();
    let next = AtomicUsize::new(0);
    let parts: Vec<_> = parts.iter_mut().map(|part| std::sync::Mutex::new(&mut **part)).collect();
    thread::scope(|scope| {
        let work = || {
            while let Some(part) = parts.get(next.load(Ordering::Relaxed)) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(_) = parts.get(i) else { break };
                let _ = part;
                file.read_exact_at(&mut parts[i].lock().unwrap(), offset + i as u64 * step).unwrap();
            }
        };
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}

/// What a program does that maps the file.
fn copy_from_map(path: &Path, parts: &mut [&mut [u8]], offset: u64, step: u64) {
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len() as usize;
    // SAFETY: a new mapping, read within its length while it stands.
    unsafe {
        let map =
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED);
        for (i, part) in parts.iter_mut().enumerate() {
            let at = offset as usize + i * step as usize;
            part.copy_from_slice(std::slice::from_raw_parts(map.cast::<u8>().add(at), part.len()));
        }
        libc::munmap(map, len);
    }
}

/// Drops the file's pages from memory.
fn evict(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    // SAFETY: takes only numbers.
    assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
}

fn large(dir: &Path, rounds: usize, what: &str) {
    let path = dir.join("large.weights.h5");
    let count = 100;
    let nbytes = 1310 * PAGE;
    let name = |i: usize| format!("layers/dense_{i:03}/vars/0");
    let mut memory = Memory::new(count, nbytes, 16);
    memory.fill();
    memory.model(name).save(&path).unwrap();
    // The tensors are in the order of their names, one behind the other from a page on.
    let step = nbytes as u64;
    let size = fs::metadata(&path).unwrap().len();
    let file = File::open(&path).unwrap();
    let mut first = vec![0; 64];
    let offset = (0..size).step_by(PAGE).find(|at| {
        file.read_exact_at(&mut first, *at).unwrap();
        first == memory.parts()[0][..64]
    });
    let offset = offset.unwrap();
    drop(memory);
    let read = || assert_eq!(fs::read(&path).unwrap().len() as u64, size);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let behinds: &[usize] = match what {
        "cold" => &[16],
        _ => &[0, 16, 64, 256, 1024, 2048, 4080],
    };
    for &behind in behinds {
        let mut memory = Memory::new(count, nbytes, behind);
        let mut again = Memory::new(count, nbytes, behind);
        let mut third = Memory::new(count, nbytes, behind);
        let mut fourth = Memory::new(count, nbytes, behind);
        let (mut plain, mut parallel, mut mapped) = (again.parts(), third.parts(), fourth.parts());
        let mut model = memory.model(name);
        let model = std::cell::RefCell::new(&mut model);
        let mut ways = vec![];
        if what == "cold" {
            ways.push(way("copied from a map", || copy_from_map(&path, &mut mapped, offset, step)));
        }
        ways.push(way("pread", || pread(&path, &mut plain, offset, step, 1)));
        ways.push(way(format!("pread, {cores} threads"), || {
            pread(&path, &mut parallel, offset, step, cores)
        }));
        ways.push(way("load", || open_and_load(&path, &mut model.borrow_mut(), 0, false)));
        ways.push(way("load, 1 thread", || open_and_load(&path, &mut model.borrow_mut(), 1, false)));
        ways.push(way("load, no checksums", || open_and_load(&path, &mut model.borrow_mut(), 0, true)));
        match what {
            "cold" => compare(
                &format!("512 MiB from the disk, to {behind} behind a page"),
                rounds,
                || evict(&path),
                ways,
            ),
            _ => {
                read();
                compare(&format!("512 MiB to {behind} behind a page"), rounds, || (), ways);
            }
        }
    }
    fs::remove_file(&path).unwrap();
}

fn small(dir: &Path, rounds: usize) {
    let path = dir.join("small.weights.h5");
    for (count, each, nbytes) in [(600, 3, 256), (60_000, 3, 16), (60_000, 3, 1024), (2000, 2, 65_536)] {
        let mut memory = Memory::new(count, nbytes, usize::MAX);
        memory.fill();
        let mut model = memory.model(|i| format!("layers/dense_{}/vars/{}", i / each, i % each));
        for i in 0..count / each {
            model.set_name(&format!("layers/dense_{i}"), &format!("dense_{i}")).unwrap();
        }
        model.save(&path).unwrap();
        let len = fs::metadata(&path).unwrap().len() as usize;
        let mut whole = vec![1; len];
        let reader = Reader::open(&path).unwrap();
        let model = std::cell::RefCell::new(&mut model);
        let ways = vec![
            way("open", || drop(Reader::open(&path).unwrap())),
            way("load", || model.borrow_mut().load(&reader, 0).unwrap()),
            way("open and load", || open_and_load(&path, &mut model.borrow_mut(), 0, false)),
            way("pread of the whole file", || {
                File::open(&path).unwrap().read_exact_at(&mut whole, 0).unwrap();
            }),
        ];
        compare(&format!("{count} tensors of {nbytes} bytes, {} KiB", len >> 10), rounds, || (), ways);
        drop(reader);
        fs::remove_file(&path).unwrap();
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if args.is_empty() {
        return; // Run by `cargo test --benches`, which only asks whether it builds.
    }
    let root = args.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds = args.get(1).map_or(15, |n| n.parse().unwrap());
    let only = args.get(2).map(String::as_str);
    let wanted = |what| only.is_none_or(|only| only == what);
    let dir = root.join(format!("ckpt-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    if wanted("warm") {
        large(&dir, rounds, "warm");
    }
    if wanted("cold") {
        large(&dir, rounds, "cold");
    }
    if wanted("small") {
        small(&dir, rounds * 3);
    }
    fs::remove_dir_all(&dir).unwrap();
}
