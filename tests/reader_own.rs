//! Files of our own layouts, read back; and the same, damaged: an error or the true data, whatever byte is wrong.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod layout_support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use ckpt::error::Status;
use ckpt::layout::{Format, Options, Schema, plan};
use ckpt::reader::{Reader, Target};
use ckpt::tensor::{Dtype, MAX_PATH};
use layout_support::{Random, Scratch, data, materialize, random_schema};
use parking_lot::Mutex;

const CONFIG: &str = r#"{"module": "keras", "class_name": "Sequential", "config": {}}"#;
const STATE: &[u8] = br#"{"epoch": 3}"#;

fn file(schema: &Schema, data: &[Vec<u8>], format: Format) -> Vec<u8> {
    let config = (format == Format::Keras).then_some(CONFIG);
    let mut layout = plan(schema, format, &Options { config, ..Options::default() }).unwrap();
    materialize(&mut layout, data, STATE)
}

struct Whole(Mutex<Vec<u8>>);

impl Whole {
    fn new(nbytes: u64) -> Whole {
        Whole(Mutex::new(vec![0; nbytes as usize]))
    }
}

impl Target for Whole {
    fn nbytes(&self) -> u64 {
        self.0.lock().len() as u64
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        self.0.lock()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
}

#[test]
fn reads_what_the_layouts_write() {
    let scratch = Scratch::new("reader-own");
    for seed in 0..60 {
        let mut r = Random(seed);
        let n = r.pick(&[0, 1, 5, 40, 300]);
        let schema = random_schema(&mut r, n);
        let data = data(&schema, &mut r);
        for format in [Format::WeightsH5, Format::Keras] {
            let path = scratch.write("file", &file(&schema, &data, format));
            let reader = Reader::open(&path).unwrap();
            assert_eq!(reader.tensors().len(), schema.tensors().len());
            let places: Vec<_> = schema.tensors().iter().map(|t| reader.find(&t.path).unwrap()).collect();
            let targets: Vec<_> = schema.tensors().iter().map(|t| Whole::new(t.nbytes())).collect();
            let list: Vec<_> = places.iter().zip(&targets).map(|(i, t)| (*i, t as &dyn Target)).collect();
            reader.load(&list, 3).unwrap();
            for ((spec, bytes), (place, target)) in
                schema.tensors().iter().zip(&data).zip(places.iter().zip(&targets))
            {
                assert_eq!(&reader.tensors()[*place], spec);
                assert_eq!(&*target.0.lock(), bytes, "{}", spec.path);
                let mut one = vec![0; bytes.len()];
                reader.read(*place, &mut one).unwrap();
                assert_eq!(&one, bytes);
            }
            reader.verify().unwrap();
            assert_eq!(reader.state().unwrap(), Some(STATE));
            assert_eq!(reader.config().unwrap().as_deref(), (format == Format::Keras).then_some(CONFIG));
        }
    }
}

/// Lays out a schema and opens the file, if the layout takes it. The tensors have no bytes.
fn opens(schema: &Schema, scratch: &Scratch) -> bool {
    let planned = plan(schema, Format::WeightsH5, &Options::default());
    let Ok(mut layout) = planned.inspect_err(|e| assert_eq!(e.status(), Status::InvalidArgument)) else {
        return false;
    };
    let bytes = materialize(&mut layout, &vec![vec![]; schema.tensors().len()], STATE);
    let reader = Reader::open(&scratch.write("file", &bytes)).unwrap();
    assert_eq!(reader.tensors().len(), schema.tensors().len());
    true
}

#[test]
fn opens_whatever_a_layout_takes() {
    let scratch = Scratch::new("reader-limits");
    // The longest path, of few components and of many.
    for component in [16_000, 8192, 500, 1] {
        let mut path = vec!["n".repeat(component); MAX_PATH / (component + 1)].join("/");
        path.extend(std::iter::repeat_n('x', (MAX_PATH - path.len()).min(16_384 - component)));
        let mut schema = Schema::new();
        schema.add(&path, Dtype::Bf16, &[0]).unwrap();
        assert_eq!(opens(&schema, &scratch), component > 1, "components of {component} bytes");
    }
    // As many tensors as fit, in a group whose path is long.
    let prefix = ["p".repeat(15_999), "q".repeat(16_000), "r".repeat(16_000), "s".repeat(15_999)].join("/");
    let many = |n: usize| {
        let mut schema = Schema::new();
        for i in 0..n {
            schema.add(&format!("{prefix}/{i}"), Dtype::F32, &[0]).unwrap();
        }
        opens(&schema, &scratch)
    };
    let (mut most, mut refused) = (1, 3000);
    while refused - most > 1 {
        let n = (most + refused) / 2;
        *(if many(n) { &mut most } else { &mut refused }) = n;
    }
    assert!((250..600).contains(&most), "{most}");
    // Texts that stand in the heap one after the other, for the reader to skip.
    let mut schema = Schema::new();
    for i in 0..400 {
        let group = format!("{:05}/{i}", i % 7);
        schema.add(&format!("{group}/vars/0"), Dtype::Bf16, &[0]).unwrap();
        schema.set_name(&group, &"n".repeat(i * 150)).unwrap();
    }
    assert!(opens(&schema, &scratch));
}

/// What became of a damaged file.
#[derive(Default, Debug)]
struct Tally {
    refused: u32,
    found: u32,
    whole: u32,
}

/// Opens a damaged file. What it gives must be true: `single` says that one byte alone is wrong.
fn judge(path: &std::path::Path, schema: &Schema, data: &[Vec<u8>], single: bool, tally: &mut Tally) {
    let reader = match Reader::open(path) {
        Ok(reader) => reader,
        Err(error) => {
            assert!(matches!(error.status(), Status::Format | Status::Unsupported), "{error}");
            tally.refused += 1;
            return;
        }
    };
    let _ = (reader.state(), reader.config(), reader.metadata());
    let mut complete = reader.verify().is_ok();
    for (spec, bytes) in schema.tensors().iter().zip(data) {
        let place = reader.find(&spec.path).filter(|&i| reader.tensors()[i] == *spec);
        let mut out = vec![0; bytes.len()];
        match place.map(|i| reader.read(i, &mut out)) {
            Some(Ok(())) => {
                assert!(!single || out == *bytes, "'{}' came back wrong without an error", spec.path)
            }
            Some(Err(error)) => {
                assert!(matches!(error.status(), Status::Format | Status::Unsupported), "{error}");
                complete = false;
            }
            None => complete = false,
        }
    }
    *(if complete { &mut tally.whole } else { &mut tally.found }) += 1;
}

#[test]
fn finds_damage_or_gives_the_true_data() {
    let scratch = Scratch::new("reader-damage");
    let mut schema = Schema::new();
    for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
        schema.add(&format!("layers/dense_{i}/vars/0"), dtype, &[3, i as u64]).unwrap();
        schema.add(&format!("many/{i}"), dtype, &[]).unwrap();
        schema.set_name(&format!("layers/dense_{i}"), "dense").unwrap();
    }
    let mut r = Random(1);
    let data = data(&schema, &mut r);
    let mut tally = Tally::default();
    for format in [Format::WeightsH5, Format::Keras] {
        let good = file(&schema, &data, format);
        for round in 0..3000 {
            let mut bytes = good.clone();
            let at = r.below(bytes.len());
            let single = match round % 3 {
                0 => {
                    bytes[at] ^= 1 << r.below(8);
                    true
                }
                1 => {
                    // Numbers that are likely to be wrong, over several fields.
                    for _ in 0..1 + r.below(4) {
                        let at = r.below(bytes.len());
                        let value = r.pick(&[0, 1, 0x7f, 0x80, 0xff]);
                        let end = (at + r.pick(&[1, 2, 4, 8])).min(bytes.len());
                        bytes[at..end].fill(value);
                    }
                    false
                }
                _ => {
                    bytes.truncate(at);
                    true
                }
            };
            let path = scratch.write("file", &bytes);
            let start = Instant::now();
            let judged = catch_unwind(AssertUnwindSafe(|| judge(&path, &schema, &data, single, &mut tally)));
            if judged.is_err() || start.elapsed() > Duration::from_secs(2) {
                let kept = std::env::temp_dir().join(format!("ckpt-reader-damaged-{format:?}-{round}"));
                std::fs::copy(&path, &kept).unwrap();
                panic!(
                    "round {round} of {format:?}, after {:?}: kept as {}",
                    start.elapsed(),
                    kept.display()
                );
            }
        }
    }
    println!("{tally:?}");
    assert!(tally.refused > 1000 && tally.found > 100 && tally.whole > 100, "{tally:?}");
}

#[test]
fn opens_many_tensors_quickly() {
    let mut schema = Schema::new();
    for i in 0..60_000 {
        schema.add(&format!("layers/dense_{}/vars/{}", i / 4, i % 4), Dtype::F32, &[4, 4]).unwrap();
    }
    let data = vec![vec![7; 64]; 60_000];
    let scratch = Scratch::new("reader-many");
    let path = scratch.write("file", &file(&schema, &data, Format::WeightsH5));
    let start = Instant::now();
    let reader = Reader::open(&path).unwrap();
    let opened = start.elapsed();
    let targets: Vec<_> = reader.tensors().iter().map(|t| Whole::new(t.nbytes())).collect();
    let list: Vec<_> = targets.iter().enumerate().map(|(i, t)| (i, t as &dyn Target)).collect();
    let start = Instant::now();
    reader.load(&list, 1).unwrap();
    println!("60,000 tensors: opened in {opened:?}, loaded in {:?}", start.elapsed());
    assert!(targets.iter().all(|t| *t.0.lock() == [7; 64]));
    // h5py takes seconds. This build is not optimised and its machine busy: ten times what it needs.
    assert!(opened < Duration::from_secs(2), "{opened:?}");
}
