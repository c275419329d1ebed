//! Legacy files of our own, whole and made to do harm.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod layout_support;

use std::time::{Duration, Instant};

use ckpt::error::{Result, Status};
use ckpt::layout::{Format, Options, Schema, plan};
use ckpt::reader::Reader;
use ckpt::tensor::Dtype;
use layout_support::{Random, Scratch, data, materialize};

const CONFIG: &str =
    r#"{"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": []}}"#;

fn file() -> Vec<u8> {
    let mut schema = Schema::new();
    for path in ["layers/a/vars/0", "layers/a/vars/1", "layers/b/x/vars/0", "optimizer/vars/0", "other"] {
        schema.add(path, Dtype::F32, &[2]).unwrap();
    }
    schema.set_name("layers/a", "first").unwrap();
    let options = Options { config: Some(CONFIG), ..Options::default() };
    let mut layout = plan(&schema, Format::LegacyH5, &options).unwrap();
    let data = data(&schema, &mut Random(1));
    materialize(&mut layout, &data, b"{}")
}

fn open(bytes: &[u8]) -> Result<Reader> {
    let dir = Scratch::new("reader-legacy");
    let start = Instant::now();
    let reader = Reader::open(&dir.write("a.h5", bytes));
    assert!(start.elapsed() < Duration::from_secs(1));
    reader
}

#[test]
fn a_model_whose_weights_keras_would_not_find_is_refused() {
    let planned = |paths: &[&str]| {
        let mut schema = Schema::new();
        for path in paths {
            schema.add(path, Dtype::F32, &[2]).unwrap();
        }
        plan(&schema, Format::LegacyH5, &Options { config: Some(CONFIG), ..Options::default() }).map(|_| ())
    };
    // A subclassed model has its layers in attributes.
    let error = planned(&["optimizer/vars/0", "a/vars/0", "b/vars/0"]).unwrap_err();
    assert_eq!(error.status(), Status::Unsupported);
    assert!(error.message().contains("'a/vars/0'") && error.message().contains("layers/<layer>/"), "{error}");
    let former = planned(&["_layer_checkpoint_dependencies/dense/vars/0"]).unwrap_err();
    assert_eq!(former.status(), Status::Unsupported);

    planned(&[]).unwrap();
    planned(&["optimizer/vars/0", "layers/dropout/seed_generator/vars/0"]).unwrap();
    planned(&["vars/0", "a/vars/0"]).unwrap();
    planned(&["layers/a/vars/0", "a/vars/0"]).unwrap();
}

/// The attribute `name` of the last group that has it: where its datatype, its dataspace and its data are.
fn attribute(bytes: &[u8], name: &str) -> [usize; 3] {
    let named = format!("{name}\0");
    let at = bytes.windows(named.len()).rposition(|w| w == named.as_bytes()).unwrap();
    let datatype = at + named.len().next_multiple_of(8);
    [datatype, datatype + 8, datatype + 24]
}

#[test]
fn lists_what_is_in_it_by_the_paths_of_keras_3() {
    let reader = open(&file()).unwrap();
    let paths: Vec<_> = reader.tensors().iter().map(|spec| spec.path.as_str()).collect();
    assert_eq!(
        paths,
        ["layers/a/vars/0", "layers/a/vars/1", "layers/b/x/vars/0", "optimizer/vars/0", "other"]
    );
    assert_eq!(reader.find("model_weights/first/layers/a/vars/1"), Some(1));
    assert_eq!(reader.find("optimizer_weights/optimizer/vars/0"), Some(3));
    assert_eq!(reader.find("model_weights/first/layers/a/vars/2"), None);
    assert_eq!(reader.names().collect::<Vec<_>>(), [("layers/a", "first"), ("layers/b", "b")]);
    assert_eq!(reader.config().unwrap().as_deref(), Some(CONFIG));
    assert_eq!(reader.state().unwrap(), Some(&b"{}"[..]));
    reader.verify().unwrap();
}

#[test]
fn a_changed_tensor_is_refused_by_its_path() {
    let mut bytes = file();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let error = open(&bytes).unwrap().verify().unwrap_err();
    assert!(error.message().contains("'other'"), "{error}");
}

#[test]
fn lists_that_claim_too_much_are_refused() {
    for (list, count) in [("layer_names", 1 << 40), ("layer_names", u64::MAX), ("weight_names", 1 << 60)] {
        let mut bytes = file();
        let [_, dataspace, _] = attribute(&bytes, list);
        bytes[dataspace + 8..dataspace + 16].copy_from_slice(&u64::to_le_bytes(count));
        let error = open(&bytes).map(|_| ()).unwrap_err();
        assert_eq!(error.status(), Status::Format, "{error}");
    }
    for size in [0u32, u32::MAX] {
        let mut bytes = file();
        let [datatype, ..] = attribute(&bytes, "layer_names");
        bytes[datatype + 4..datatype + 8].copy_from_slice(&size.to_le_bytes());
        // A list of nothing is no list: the file has its tensors all the same.
        match open(&bytes) {
            Ok(reader) => assert_eq!((size, reader.tensors().len()), (0, 5)),
            Err(error) => assert_eq!((size, error.status()), (u32::MAX, Status::Format)),
        }
    }
}

#[test]
fn names_that_lead_nowhere_are_refused_or_lead_nowhere() {
    let mut bytes = file();
    let [.., data] = attribute(&bytes, "layer_names");
    bytes[data] = b'X';
    let error = open(&bytes).map(|_| ()).unwrap_err();
    assert!(error.message().contains("there is no group 'model_weights/Xirst'"), "{error}");
    bytes[data] = 0xff;
    let error = open(&bytes).map(|_| ()).unwrap_err();
    assert!(error.message().contains("not UTF-8"), "{error}");

    let mut bytes = file();
    let at =
        bytes.windows(17).rposition(|w| w == b"layers/a/vars/0\0l" || w == b"layers/a/vars/0la").unwrap();
    bytes[at + 14] = b'7';
    let reader = open(&bytes).unwrap();
    assert!(reader.find("layers/a/vars/7").is_none() && reader.find("layers/a/vars/1").is_some());
    assert!(reader.find("model_weights/first/layers/a/vars/0").is_some());
}

#[test]
fn every_byte_may_be_another() {
    let good = file();
    let dir = Scratch::new("reader-legacy");
    let mut random = Random(7);
    for _ in 0..1000 {
        let mut bytes = good.clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        let Ok(reader) = Reader::open(&dir.write("a.h5", &bytes)) else { continue };
        for (i, spec) in reader.tensors().iter().enumerate() {
            assert_eq!(reader.find(&spec.path), Some(i));
            if spec.nbytes() <= 1 << 20 {
                let _ = reader.read(i, &mut vec![0; spec.nbytes() as usize]); // an error or not: no signal
            }
        }
    }
}
