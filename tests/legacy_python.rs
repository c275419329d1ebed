//! Keras judges the legacy format: the order of the weights, and models converted to it and back.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

#[expect(dead_code, reason = "nothing here is random")]
mod python;
mod scratch;

use std::collections::BTreeMap;
use std::path::Path;

use ckpt::engine::Buffer;
use ckpt::layout::legacy;
use ckpt::reader::Reader;
use ckpt::session::Model;
use serde_json::Value;

use scratch::Scratch;

/// Saves what a reader has, in this order, to another file.
fn convert(reader: &Reader, order: &[usize], config: &str, path: &Path) {
    let mut model = Model::new();
    let specs = reader.tensors();
    let mut bytes: Vec<Vec<u8>> = specs.iter().map(|spec| vec![0; spec.nbytes() as usize]).collect();
    for &i in order {
        let spec = &specs[i];
        reader.read(i, &mut bytes[i]).unwrap();
        // SAFETY: `bytes` outlives the model, and nothing else uses it while the model is saved.
        let buffer = unsafe { Buffer::new(bytes[i].as_mut_ptr(), spec.dtype.size(), &spec.shape, None) };
        model.add(&spec.path, spec.dtype, &spec.shape, buffer.unwrap()).unwrap();
    }
    for (group, name) in reader.names() {
        model.set_name(group, name).unwrap();
    }
    model.set_config(config).unwrap();
    model.save(path).unwrap();
}

fn paths(reader: &Reader) -> Vec<&str> {
    reader.tensors().iter().map(|spec| spec.path.as_str()).collect()
}

#[test]
fn keras_agrees_with_the_order_and_the_conversions() {
    let dir = Scratch::new("legacy");
    let folder = dir.path().to_str().unwrap();
    let lines = python::lines("legacy_files.py", &["save", folder]);
    assert!(lines.len() >= 20);
    for line in lines {
        let entry: Value = serde_json::from_str(&line).unwrap();
        let name = entry["name"].as_str().unwrap();
        let expected: Vec<_> =
            entry["order"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
        let modern = Reader::open(&dir.join(format!("{name}.keras"))).unwrap();
        let config = modern.config().unwrap().unwrap();
        let names: BTreeMap<_, _> = modern.names().map(|(g, n)| (g.to_owned(), n.to_owned())).collect();
        let order = legacy::order(&config, modern.tensors(), &names).unwrap();
        let mut all = order.clone();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..modern.tensors().len()), "{name}");
        // What Keras 3 has twice is behind the weights that it stands for, and the legacy format has it once.
        let found = order.iter().map(|&i| modern.tensors()[i].path.as_str());
        let found: Vec<_> = found.filter(|path| expected.contains(path)).collect();
        assert_eq!(found, expected, "{name}");

        let ours = dir.join(format!("{name}.ours.h5"));
        convert(&modern, &order, &config, &ours);
        let ours = Reader::open(&ours).unwrap();
        assert_eq!(ours.config().unwrap().unwrap(), config, "{name}");
        assert_eq!(paths(&ours), paths(&modern), "{name}");
        assert!(modern.names().eq(ours.names()), "{name}");
        ours.verify().unwrap();

        let keras = Reader::open(&dir.join(format!("{name}.h5"))).unwrap();
        assert_eq!(paths(&keras), paths(&modern), "{name}");
        let unordered: Vec<_> = (0..keras.tensors().len()).collect();
        let config = keras.config().unwrap().unwrap();
        convert(&keras, &unordered, &config, &dir.join(format!("{name}.back.keras")));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/legacy/good");
    // The only one that Keras 3 loads itself.
    let of_keras_2 = Reader::open(&golden.join("tf-2.15-dense.h5")).unwrap();
    let all: Vec<_> = (0..of_keras_2.tensors().len()).collect();
    let config = of_keras_2.config().unwrap().unwrap();
    convert(&of_keras_2, &all, &config, &dir.join("tf-2.15-dense.keras"));
    python::lines("legacy_files.py", &["check", folder]);
}
