//! `.safetensors` files of our own: read back, damaged, and in a session.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod layout_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ckpt::engine::Buffer;
use ckpt::error::Status;
use ckpt::layout::{Format, Options, Schema, Source, Stamp, plan};
use ckpt::policy;
use ckpt::reader::{Reader, training_state};
use ckpt::session::{self, Model, Session};
use ckpt::tensor::Dtype;
use layout_support::{Random, Scratch, data, random_schema};
use serde_json::Value;

const STATE: &[u8] = br#"{"epoch": 3, "metrics": {"a \"b\"\\": "\n"}}"#;
const CONFIG: &str = "{\"class_name\": \"Séquential\", \"x\": NaN}\n";

fn metadata() -> BTreeMap<String, String> {
    let entries = [("format", "pt"), ("", "\u{1}\"\\ö"), ("libckpt", "not a key of ours")];
    entries.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// The bytes of the file.
fn file(schema: &Schema, data: &[Vec<u8>]) -> Vec<u8> {
    let metadata = metadata();
    let options = Options { config: Some(CONFIG), metadata: &metadata, ..Options::default() };
    let mut layout = plan(schema, Format::Safetensors, &options).unwrap();
    let crcs: Vec<u32> = data.iter().map(|d| crc32fast::hash(d)).collect();
    layout.seal(&crcs, &Stamp { state: STATE.to_vec(), ..Stamp::default() }).unwrap();
    let mut file = Vec::new();
    for extent in layout.extents() {
        assert_eq!(extent.offset, file.len() as u64, "{extent:?} leaves a hole, or overlaps");
        file.extend_from_slice(match extent.source {
            Source::Literal(i) => &layout.literals()[i],
            Source::Tensor(i) => &data[i],
        });
        assert_eq!(extent.offset + extent.len, file.len() as u64);
        assert!(extent.len > 0);
    }
    assert_eq!(layout.size(), file.len() as u64);
    file
}

#[test]
fn reads_what_the_layout_writes() {
    let scratch = Scratch::new("safetensors-own");
    for seed in 0..60 {
        let mut r = Random(seed);
        let n = r.pick(&[0, 1, 5, 40, 300]);
        let schema = random_schema(&mut r, n);
        let data = data(&schema, &mut r);
        // The name says nothing.
        let path = scratch.write("file.h5", &file(&schema, &data));
        let reader = Reader::open(&path).unwrap();
        assert_eq!(reader.tensors().len(), schema.tensors().len());
        for (spec, bytes) in schema.tensors().iter().zip(&data) {
            let place = reader.find(&spec.path).unwrap();
            assert_eq!(&reader.tensors()[place], spec);
            let mut found = vec![0; bytes.len()];
            reader.read(place, &mut found).unwrap();
            assert_eq!(&found, bytes, "{}", spec.path);
        }
        reader.verify().unwrap();
        assert_eq!(reader.state().unwrap(), Some(STATE));
        assert_eq!(training_state(&path).unwrap().as_deref(), Some(STATE));
        assert_eq!(reader.config().unwrap().as_deref(), Some(CONFIG));
        let found: BTreeMap<String, String> =
            serde_json::from_str(&reader.metadata().unwrap().unwrap()).unwrap();
        assert_eq!(found, metadata());
        let weights = plan(&schema, Format::WeightsH5, &Options::default());
        // The names are those that an HDF5 file of the schema has.
        if let Ok(mut weights) = weights {
            let bytes = layout_support::materialize(&mut weights, &data, STATE);
            let other = Reader::open(&scratch.write("other", &bytes)).unwrap();
            assert!(reader.names().eq(other.names()));
            assert_eq!(reader.tensors(), other.tensors());
        }
    }
}

fn every_dtype() -> (Schema, Vec<Vec<u8>>) {
    let mut schema = Schema::new();
    for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
        schema.add(&format!("layers/dense_{i}/vars/0"), dtype, &[3, i as u64]).unwrap();
        schema.add(&format!("many/{i}"), dtype, &[]).unwrap();
        schema.set_name(&format!("layers/dense_{i}"), "dense").unwrap();
    }
    let data = data(&schema, &mut Random(1));
    (schema, data)
}

/// What became of damaged files.
#[derive(Default, Debug)]
struct Tally {
    refused: u32,
    found: u32,
    whole: u32,
}

/// Opens a damaged file. What it gives must be true: `single` says that one byte alone is wrong.
fn judge(path: &Path, schema: &Schema, data: &[Vec<u8>], single: bool, tally: &mut Tally) {
    let reader = match Reader::open(path) {
        Ok(reader) => reader,
        Err(error) => {
            assert_eq!(error.status(), Status::Format, "{error}");
            tally.refused += 1;
            return;
        }
    };
    let _ = (reader.config(), reader.metadata());
    if let (true, Ok(Some(state))) = (single, reader.state()) {
        assert_eq!(state, STATE);
    }
    let mut complete = reader.verify().is_ok();
    for (spec, bytes) in schema.tensors().iter().zip(data) {
        let place = reader.find(&spec.path).filter(|&i| reader.tensors()[i] == *spec);
        let mut found = vec![0; bytes.len()];
        match place.map(|i| reader.read(i, &mut found)) {
            Some(Ok(())) => assert!(!single || found == *bytes, "'{}' came back wrong", spec.path),
            Some(Err(error)) => {
                assert_eq!(error.status(), Status::Format, "{error}");
                complete = false;
            }
            None => complete = false,
        }
    }
    *(if complete { &mut tally.whole } else { &mut tally.found }) += 1;
}

#[test]
fn finds_damage_or_gives_the_true_data() {
    let scratch = Scratch::new("safetensors-damage");
    let (schema, data) = every_dtype();
    let good = file(&schema, &data);
    let header = good.len() - data.iter().map(Vec::len).sum::<usize>();
    let mut r = Random(2);
    let mut tally = Tally::default();
    for round in 0..10_000 {
        let mut bytes = good.clone();
        // Half of it in the last part of the header, where the tensors are, and in the data.
        let from = if round % 2 == 0 { 0 } else { header - 3000 };
        let at = from + r.below(bytes.len() - from);
        match round % 4 {
            0 | 1 => bytes[at] ^= 1 << r.below(8),
            2 => {
                for _ in 0..1 + r.below(4) {
                    let at = from + r.below(bytes.len() - from);
                    bytes[at] = r.pick(b"09,:\"{}[]\\\0\xffaFU");
                }
            }
            _ if r.below(2) == 0 => bytes.truncate(at),
            _ => {
                let end = (at + r.below(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
        // A new file each time: ext4 flushes one that is written over.
        let path = scratch.write(&format!("file-{round}"), &bytes);
        let start = Instant::now();
        judge(&path, &schema, &data, round % 4 < 2, &mut tally);
        assert!(start.elapsed() < Duration::from_secs(1), "round {round}: {:?}", start.elapsed());
        std::fs::remove_file(path).unwrap();
    }
    println!("{tally:?}");
    assert!(tally.refused > 1000 && tally.found > 50 && tally.whole > 30, "{tally:?}");
}

#[test]
fn a_damaged_state_keeps_nobody_from_the_tensors() {
    let scratch = Scratch::new("safetensors-state");
    let (schema, data) = every_dtype();
    let mut bytes = file(&schema, &data);
    let at = bytes.windows(5).position(|w| w == b"epoch").unwrap();
    bytes[at] = b'E';
    let path = scratch.write("m.safetensors", &bytes);
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.tensors().len(), schema.tensors().len());
    for error in [reader.state().map(|_| ()).unwrap_err(), reader.verify().unwrap_err()] {
        assert_eq!(error.status(), Status::Format);
        assert!(error.message().contains("'libckpt/state' does not match its checksum"), "{error}");
    }
    assert!(training_state(&path).is_err());
}

fn model(values: &mut [f32]) -> Model {
    let mut model = Model::new();
    let shape = [values.len() as u64];
    // SAFETY: the values outlive the model in every test, which touches them through it alone meanwhile.
    let buffer = unsafe { Buffer::new(values.as_mut_ptr().cast(), 4, &shape, None) }.unwrap();
    model.add("layers/dense/vars/0", Dtype::F32, &shape, buffer).unwrap();
    model
}

fn epoch(session: &Session, epoch: u64, metric: &str, model: &Model) {
    session.on_epoch_end(epoch, &[(metric, 0.5)].as_slice()).unwrap();
    session.save(model).unwrap();
}

fn save_number(path: &Path) -> Option<u64> {
    let state: Value = serde_json::from_slice(&training_state(path).ok()??).unwrap();
    state["save"].as_u64()
}

#[test]
fn a_session_goes_on_where_the_last_one_ended() {
    let dir = Scratch::new("safetensors-session");
    let template = dir.join("m-{epoch}.safetensors").display().to_string();
    let policy = policy::Options { save_weights_only: true, ..policy::Options::default() };
    let options = session::Options { policy, durable: false, ..session::Options::default() };
    let mut values = [1.0f32, 2.0, 3.0];
    let mut model = model(&mut values);
    model.set_metadata("format", "pt").unwrap();
    model.set_name("layers/dense", "dense").unwrap();
    let first = Session::new(&template, options.clone()).unwrap();
    epoch(&first, 4, "loss", &model);
    // A state with quotes in it, larger than the room that the layout had for it.
    epoch(&first, 0, &"\"".repeat(5000), &model);
    epoch(&first, 2, "loss", &model);
    let second = Session::new(&template, options).unwrap();
    epoch(&second, 1, "loss", &model);
    for (epoch, save) in [(5, 1), (1, 2), (3, 3), (2, 4)] {
        assert_eq!(save_number(&dir.join(format!("m-{epoch}.safetensors"))), Some(save));
    }
    let state = training_state(&dir.join("m-1.safetensors")).unwrap().unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert_eq!(state["metrics"]["\"".repeat(5000)], 0.5);

    let reader = Reader::open(&dir.join("m-2.safetensors")).unwrap();
    assert_eq!(reader.metadata().unwrap().as_deref(), Some(r#"{"format":"pt"}"#));
    assert_eq!(reader.name("layers/dense"), Some("dense"));
    model.load(&reader, 0).unwrap();
    assert_eq!(values, [1.0, 2.0, 3.0]);
}

#[test]
fn weights_alone_are_asked_for() {
    let Err(error) = Session::new("m.safetensors", session::Options::default()) else { panic!() };
    assert!(error.message().contains("save_weights_only"), "{error}");
}

#[test]
fn the_keys_of_our_own_are_refused() {
    let mut model = Model::new();
    for key in ["libckpt.", "libckpt.state", "libckpt.x"] {
        let error = model.set_metadata(key, "x").unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        assert!(error.message().contains(key), "{error}");
    }
    for key in ["", "libckpt", "format", "LIBCKPT.state"] {
        model.set_metadata(key, "x").unwrap();
    }
}
