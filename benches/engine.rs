//! The engine against the machine: `cargo bench --bench engine [-- DIR [ROUNDS]]`.
//!
//! Files go to a directory of their own in DIR (by default the system's for temporary files). Every line is a
//! ratio to the first of its table, of medians taken in one interleaved run; the brackets hold the quartiles.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops at an error")]

use std::fs;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ckpt::engine::{Arena, Backend, Buffer, Disk, Loan, Save, Tensors, Unwatched, WriteOptions, save, stage};
use ckpt::layout::{Extent, Layout, Source, Stamp};

const MIB: usize = 1 << 20;

/// One way to do the work.
struct Way<'a> {
    name: String,
    run: Box<dyn Fn(&Path) + 'a>,
}

fn way<'a>(name: impl Into<String>, run: impl Fn(&Path) + 'a) -> Way<'a> {
    Way { name: name.into(), run: Box::new(run) }
}

/// Runs all of them in turn, `rounds` times, each with a path where nothing is, and prints the ratios.
fn compare(title: &str, dir: &Path, rounds: usize, ways: &[Way<'_>]) {
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..=rounds {
        for i in 0..ways.len() {
            let i = (i + round) % ways.len();
            let path = dir.join(format!("{round}-{i}"));
            let start = Instant::now();
            (ways[i].run)(&path);
            let time = start.elapsed().as_secs_f64();
            let _ = fs::remove_file(&path);
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
        let [low, median, high] = [1, 2, 3].map(|q| quartile(t, q) / base);
        println!("  {:<44} {:>9.3} ms  {median:.3} [{low:.3} {high:.3}]", way.name, median * base * 1e3);
    }
}

/// Elements that no disk could compress.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    (0..bytes as u64 / 8)
        .flat_map(|i| ((i + seed) ^ 0x5bd1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

/// A file of these tensors behind a block of metadata, as HDF5's layout has it.
fn layout(tensors: &[Buffer], meta: usize, align: u64) -> Layout {
    let mut extents = vec![Extent { offset: 0, len: meta as u64, source: Source::Literal(0) }];
    let mut end = meta as u64;
    for (i, tensor) in tensors.iter().enumerate() {
        let offset = end.next_multiple_of(align);
        end = offset + tensor.nbytes();
        extents.push(Extent { offset, len: tensor.nbytes(), source: Source::Tensor(i) });
    }
    Layout::from_parts(end, extents, vec![vec![7; meta]])
}

fn save_with(layout: &Layout, tensors: &[Buffer], threads: u32) -> impl Fn(&Path) {
    let options = WriteOptions { threads, durable: false, ..WriteOptions::default() };
    move |path| {
        save(&Disk, path, &mut layout.copied().unwrap(), &Stamp::default(), tensors, &options).unwrap();
    }
}

/// Rows-major memory seen with other strides, as 4-byte elements.
fn buffer(memory: &[u8], shape: &[u64], strides: Option<&[i64]>) -> Buffer {
    // SAFETY: the benchmark's memory holds every element, lives on, and is only read.
    unsafe { Buffer::new(memory.as_ptr().cast_mut(), 4, shape, strides).unwrap() }
}

fn large(dir: &Path, rounds: usize) {
    let memory: Vec<Vec<u8>> = (0..100).map(|i| noise(512 * MIB / 100 / 64 * 64, i)).collect();
    let flat: Vec<Buffer> = memory.iter().map(|m| buffer(m, &[m.len() as u64 / 4], None)).collect();
    let turned: Vec<Buffer> = (memory.iter())
        .map(|m| {
            let rows = m.len() as u64 / 4 / 1024;
            buffer(m, &[1024, rows], Some(&[1, 1024]))
        })
        .collect();
    let (flat_layout, turned_layout) = (layout(&flat, 64 << 10, 4096), layout(&turned, 64 << 10, 4096));
    let plain = |path: &Path| {
        let file = fs::File::create_new(path).unwrap();
        let mut at = 64 << 10;
        for m in &memory {
            file.write_all_at(m, at).unwrap();
            at += m.len() as u64;
        }
    };
    let ways = [
        way("plain pwrite of the same buffers", plain),
        way("save, not durable", save_with(&flat_layout, &flat, 0)),
        way("save, not durable, 2 threads", save_with(&flat_layout, &flat, 2)),
        way("save, not durable, every tensor transposed", save_with(&turned_layout, &turned, 0)),
    ];
    compare("512 MiB in 100 tensors", dir, rounds, &ways);
}

/// What it takes until the disk has it.
fn durable(dir: &Path, rounds: usize) {
    let memory: Vec<Vec<u8>> = (0..100).map(|i| noise(512 * MIB / 100 / 64 * 64, i)).collect();
    let flat: Vec<Buffer> = memory.iter().map(|m| buffer(m, &[m.len() as u64 / 4], None)).collect();
    let layout = layout(&flat, 64 << 10, 4096);
    let sync_dir = || fs::File::open(dir).unwrap().sync_all().unwrap();
    let plain = |path: &Path| {
        let file = fs::File::create_new(path).unwrap();
        let mut at = 64 << 10;
        for m in &memory {
            file.write_all_at(m, at).unwrap();
            at += m.len() as u64;
        }
        file.sync_all().unwrap();
        sync_dir();
    };
    let save_by = |backend, threads| {
        let options = WriteOptions { threads, durable: true, backend };
        let (layout, flat) = (&layout, &flat);
        move |path: &Path| {
            save(&Disk, path, &mut layout.copied().unwrap(), &Stamp::default(), flat, &options).unwrap();
        }
    };
    let arena = Arena::new(0, None);
    arena.prefault(layout.size()).unwrap();
    let staged = |path: &Path| {
        let mut layout = layout.copied().unwrap();
        let (filler, feed) = stage(&arena, &layout, flat.len()).unwrap();
        filler.fill(Loan::of(&flat), 0, &Unwatched).unwrap();
        let start = Instant::now();
        let (tensors, options) = (Tensors::Staged(feed), WriteOptions::default());
        let stamp = &Stamp::default();
        let layout = &mut layout;
        Save {
            storage: &Disk,
            path,
            layout,
            stamp,
            tensors,
            options,
            watch: &Unwatched,
            arena: None,
            spares: None,
        }
        .run()
        .unwrap();
        println!("    staged: {:.3} s", start.elapsed().as_secs_f64());
    };
    let to: std::cell::RefCell<Vec<u8>> = vec![1; layout.size() as usize].into();
    let copy = |_: &Path| {
        let mut to = to.borrow_mut();
        let mut at = 0;
        for m in &memory {
            to[at..at + m.len()].copy_from_slice(m);
            at += m.len();
        }
        black_box(&to);
    };
    let fill = |threads| {
        let (arena, layout, flat) = (&arena, &layout, &flat);
        move |_: &Path| {
            let (filler, _feed) = stage(arena, layout, flat.len()).unwrap();
            filler.fill(Loan::of(flat), threads, &Unwatched).unwrap();
        }
    };
    let ways =
        [way("memcpy to warm memory", copy), way("staging, one thread", fill(1)), way("staging", fill(0))];
    compare("512 MiB in 100 tensors, copied", dir, rounds, &ways);
    let ways = [
        way("plain pwrite + fsync", plain),
        way("save, durable, buffered", save_by(Backend::Buffered, 0)),
        way("save, durable, direct", save_by(Backend::Direct, 0)),
        way("save, durable, direct, 2 threads", save_by(Backend::Direct, 2)),
        way("save, durable, by itself", save_by(Backend::Auto, 0)),
        way("staging and save", staged),
    ];
    compare("512 MiB in 100 tensors, durable", dir, rounds, &ways);
}

fn small(dir: &Path, rounds: usize) {
    for (count, bytes) in [(600, 1024), (60_000, 256), (60_000, 4096), (4096, 64 << 10)] {
        let memory: Vec<Vec<u8>> = (0..count).map(|i| noise(bytes, i)).collect();
        let one = noise(bytes * count as usize, 0);
        let whole = [buffer(&one, &[one.len() as u64 / 4], None)];
        let parts: Vec<Buffer> = memory.iter().map(|m| buffer(m, &[bytes as u64 / 4], None)).collect();
        let (whole_layout, parts_layout) = (layout(&whole, 4096, 64), layout(&parts, 4096, 64));
        let plain = |path: &Path| fs::File::create_new(path).unwrap().write_all_at(&one, 4096).unwrap();
        let ways = [
            way("one plain pwrite of as many bytes", plain),
            way("save of one tensor of as many bytes", save_with(&whole_layout, &whole, 0)),
            way("save", save_with(&parts_layout, &parts, 0)),
        ];
        compare(&format!("{count} tensors of {bytes} bytes"), dir, rounds * 3, &ways);
    }
}

fn packing(dir: &Path, rounds: usize) {
    let memory = noise(64 * MIB, 1);
    let n = 4 * MIB;
    let shapes: [(&str, &[u64], &[i64]); 7] = [
        ("linear.weight.t(), 4096 x 4096", &[4096, 4096], &[1, 4096]),
        ("linear.weight.t(), 1000 x 2049", &[1000, 2049], &[1, 1000]),
        ("conv.weight.permute(2, 3, 1, 0), 512 x 512 x 3 x 3", &[3, 3, 512, 512], &[3, 1, 9, 4608]),
        ("conv.weight.permute(2, 3, 1, 0), 64 x 3 x 7 x 7", &[7, 7, 3, 64], &[7, 1, 49, 147]),
        ("every second element", &[8 << 20], &[2]),
        ("rows of 100 out of 128", &[100_000, 100], &[128, 1]),
        ("reversed", &[8 << 20], &[-1]),
    ];
    for (name, shape, strides) in shapes {
        let last = &memory[memory.len() - 4..];
        let start = if strides[0] < 0 { last } else { &memory };
        let tensor = buffer(start, shape, Some(strides));
        let blocks = |each: &dyn Fn(usize, &mut [u8])| {
            let mut block = vec![0; n.min(tensor.nbytes() as usize)];
            for at in (0..tensor.nbytes() as usize).step_by(n) {
                let len = n.min(tensor.nbytes() as usize - at);
                each(at, &mut block[..len]);
                black_box(&block);
            }
        };
        let ways = [
            way("memcpy", |_| blocks(&|at, b| b.copy_from_slice(&memory[at..at + b.len()]))),
            way("pack", |_| blocks(&|at, b| tensor.pack(at as u64, b).unwrap())),
        ];
        compare(&format!("{name}, by blocks of 4 MiB"), dir, rounds, &ways);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.is_empty() {
        return; // Run by `cargo test --benches`, which only asks whether it builds.
    }
    let args: Vec<String> = args.into_iter().filter(|a| a != "--bench").collect();
    let root = args.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds = args.get(1).map_or(15, |n| n.parse().unwrap());
    let dir = root.join(format!("ckpt-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    durable(&dir, rounds);
    large(&dir, rounds);
    small(&dir, rounds);
    packing(&dir, rounds);
    fs::remove_dir_all(&dir).unwrap();
}
