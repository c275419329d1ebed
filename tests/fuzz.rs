//! The fuzz targets of tests/fuzz, on seeded mutations of good files: an error or the true data, never a signal, a
//! hang, or memory above twice the file plus the tensors. tests/fuzz_support says how to run more of them.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a run was, and which case it was that failed"
)]

mod fuzz_support;
mod layout_support;
mod meter;
mod mutation;
#[path = "fuzz/src/lib.rs"]
mod targets;

use ckpt::layout::Format;
use ckpt::reader::Reader;
use ckpt::tensor::TensorSpec;
use fuzz_support::{CONFIG, Ours, Run, STATE, Truth};
use layout_support::Random;
use meter::Memory;
use mutation::{Change, Seed, mutate, mutate_json, mutate_template};

/// Memory that a reader has for itself whatever the file: buffers.
const ROOM: u64 = 1 << 20;

/// The files of a target's corpus, which others wrote; none where it has none.
fn corpus(target: &str) -> Vec<Seed> {
    let dir = format!("{}/tests/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let Ok(entries) = std::fs::read_dir(dir) else { return vec![] };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seed = |path: &std::path::PathBuf| {
        Seed::new(&path.file_name().unwrap().to_string_lossy(), std::fs::read(path).unwrap())
    };
    paths.iter().map(seed).collect()
}

/// Looks on while a changed file is read, and holds what it gives against the truth.
struct Judge<'a> {
    file: u64,
    memory: Memory,
    /// Bytes of all tensors, and of the largest once more: it may be one chunk, which is unpacked beside it.
    tensors: u64,
    /// If the checksums must find the change.
    truth: Option<&'a Truth>,
    /// If those of the archive must, too.
    texts: bool,
    tally: &'a mut Tally,
}

#[derive(Default, Debug)]
struct Tally {
    opened: u32,
    tensors: u32,
    /// Of those, held against the truth.
    true_ones: u32,
}

impl targets::Watch for Judge<'_> {
    fn opened(&mut self, reader: &Reader) {
        self.tally.opened += 1;
        self.check_memory("opened");
        let sizes = reader.tensors().iter().map(TensorSpec::nbytes);
        self.tensors = sizes.clone().sum::<u64>() + sizes.max().unwrap_or(0);
    }

    fn texts(&mut self, config: Option<&str>, state: Option<&[u8]>) {
        if let Some(truth) = self.truth {
            let guarded = self.texts && truth.config.is_some();
            let config_is_true = !guarded || config.is_none_or(|found| truth.config == Some(found));
            assert!(config_is_true && state.is_none_or(|found| found == STATE), "{config:?} {state:?}");
        }
    }

    fn tensor(&mut self, spec: &TensorSpec, bytes: &[u8]) {
        self.tally.tensors += 1;
        if let Some((good, data)) = self.truth.and_then(|truth| truth.tensors.get(&spec.path)) {
            assert!(spec == good && bytes == data, "'{}' came back wrong without an error", spec.path);
            self.tally.true_ones += 1;
        }
    }
}

impl Judge<'_> {
    fn check_memory(&self, done: &str) {
        let (peak, most) = (self.memory.peak(), 2 * self.file + self.tensors + ROOM);
        assert!(peak <= most, "{peak} bytes of memory for a file of {}, {done}: at most {most}", self.file);
    }
}

/// Whether the checksums for the tensors must find the change of a file: one number is wrong; or only data is, which
/// begins at `data_at`, however much of it.
fn is_covered(change: &Change, data_at: usize) -> bool {
    let only_data = !change.moved && change.runs.iter().all(|run| run.start >= data_at);
    change.is_single() || (only_data && !change.repaired)
}

/// Checkpoints of a format, changed: ours, and those of the target's corpus.
fn checkpoints(target: &'static str, format: Format) {
    let Ours { files, truth } = Ours::new(format);
    let own = files.len();
    let run = Run::of(target);
    for (name, bytes) in &files {
        run.put(name, bytes);
    }
    let path = run.join(&files[0].0);
    let mut seeds: Vec<_> = files.into_iter().map(|(name, bytes)| Seed::new(&name, bytes)).collect();
    seeds.extend(corpus(target));
    let sizes: u64 = seeds[..own].iter().map(|seed| seed.bytes.len() as u64).sum();
    let mut tally = Tally::default();
    run.each(|_, r| {
        let others = seeds.len() - own;
        let place = if others == 0 || r.below(3) == 0 { r.below(own) } else { own + r.below(others) };
        let (bytes, change) = mutate(&seeds[place], &seeds, r);
        let changed = run.place(&bytes);
        let of_ours = place < own;
        if of_ours {
            run.put(&seeds[place].name, &bytes);
        }
        let mut judge = Judge {
            file: bytes.len() as u64 + if of_ours { sizes } else { 0 },
            memory: Memory::start(),
            tensors: 0,
            truth: (of_ours && is_covered(&change, truth.data_at[place])).then_some(&truth),
            texts: change.is_single(),
            tally: &mut tally,
        };
        targets::checkpoint(if of_ours { &path } else { &changed }, &mut judge);
        judge.check_memory("read");
        if of_ours {
            run.put(&seeds[place].name, &seeds[place].bytes);
        }
    });
    println!("{target}: {tally:?}");
    // A case alone may be refused.
    if run.cases.end - run.cases.start >= 1000 {
        assert!(tally.opened > 100 && tally.true_ones > 100, "{tally:?}");
    }
}

#[test]
fn hdf5() {
    checkpoints("hdf5", Format::WeightsH5);
}

#[test]
fn keras() {
    checkpoints("keras", Format::Keras);
}

#[test]
fn legacy() {
    checkpoints("legacy", Format::LegacyH5);
}

#[test]
fn safetensors() {
    checkpoints("safetensors", Format::Safetensors);
}

#[test]
fn shards() {
    checkpoints("shards", Format::Shards);
}

/// Texts of a corpus and of `more`, changed; the memory that a test may have is `copies` of the text.
fn texts(
    target: &'static str,
    more: &[&str],
    copies: u64,
    change: fn(&mut Vec<u8>, &mut Random),
    test: fn(&[u8]),
) {
    let mut seeds: Vec<Vec<u8>> = more.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.extend(corpus(target).into_iter().map(|seed| seed.bytes));
    let run = Run::of(target);
    run.each(|_, r| {
        let mut text = seeds[r.below(seeds.len())].clone();
        change(&mut text, r);
        run.place(&text);
        let (len, memory) = (text.len() as u64, Memory::start());
        test(&text);
        assert!(memory.peak() <= copies * len + ROOM, "{} bytes of memory for {len}", memory.peak());
    });
}

#[test]
fn config() {
    texts("config", &[CONFIG], 2, mutate_json, targets::config);
}

#[test]
fn state() {
    texts("state", &[std::str::from_utf8(STATE).unwrap()], 2, mutate_json, targets::state);
}

/// As above, with a training that resumes from it; the test makes the file, too.
#[test]
fn resume() {
    texts("resume", &[std::str::from_utf8(STATE).unwrap()], 8, mutate_json, targets::resume);
}

#[test]
fn template() {
    let templates = [
        "run/{epoch:02d}-{val_loss:.3f}.weights.h5",
        "{{{epoch!r:>{batch}}}}{loss:+,.{epoch}g}{val/acc:_^20.2%}.keras",
        "a/{batch:#x}/{loss:e}/{loss:n}/{loss!s:20}.keras",
    ];
    texts("template", &templates, 2, mutate_template, targets::template);
}
