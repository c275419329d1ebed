//! Files of ours with paths as former versions of Keras have them.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod layout_support;

use ckpt::layout::{Format, Options, Schema, plan};
use ckpt::reader::Reader;
use ckpt::tensor::Dtype;
use layout_support::{Random, Scratch, data, materialize};

#[test]
fn what_has_a_checksum_keeps_its_path() {
    let paths =
        ["_layer_checkpoint_dependencies/dense/vars/0", "_layer_checkpoint_dependencies/dense_2/vars/0"];
    let mut schema = Schema::new();
    for path in paths {
        schema.add(path, Dtype::F32, &[2]).unwrap();
    }
    let mut layout = plan(&schema, Format::WeightsH5, &Options::default()).unwrap();
    let data = data(&schema, &mut Random(1));
    let mut bytes = materialize(&mut layout, &data, b"{}");
    let dir = Scratch::new("reader-former");
    let reader = Reader::open(&dir.write("a.weights.h5", &bytes)).unwrap();
    let listed: Vec<_> = reader.tensors().iter().map(|spec| spec.path.as_str()).collect();
    assert_eq!(listed, paths);
    assert_eq!(reader.find("layers/dense_1/vars/0"), Some(1));
    reader.verify().unwrap();

    let at = bytes.windows(8).position(|window| window == data[1]).unwrap();
    bytes[at] ^= 1;
    let error = Reader::open(&dir.write("b.weights.h5", &bytes)).unwrap().verify().unwrap_err();
    assert!(error.message().contains(paths[1]), "{error}");
}
