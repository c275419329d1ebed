//! Files of ours before Python: h5py, zipfile, Keras, and HDF5's and zip's tools (`tests/python/layout_files.py`).
//!
//! A case is a manifest (`NAME.json`: tensors, names of groups, configuration) and the tensors' bytes one after
//! the other (`NAME.bin`). Python makes those of Keras' models; all are written here, and judged there.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod layout_support;

use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt::layout::schema::{Node, NodeId};
use ckpt::layout::{Format, Options, Schema, plan};
use ckpt::tensor::Dtype;
use layout_support::{Random, Scratch, data, materialize, random_schema};
use serde_json::{Value, json};

const CONFIG: &str = r#"{"module": "keras", "class_name": "Sequential", "config": {}}"#;

#[test]
fn python_reads_and_edits_our_files() {
    let scratch = Scratch::new("layout-python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/layout_files.py");
    run(python().arg(&script).arg(scratch.path()));
    for seed in 0..6 {
        let mut r = Random(1000 + seed);
        let schema = random_schema(&mut r, [0, 2, 10, 40, 150, 400][seed as usize]);
        let data = data(&schema, &mut r);
        put_case(&scratch, &format!("random-{seed}"), &schema, &data);
    }
    let (schema, data) = many_layers(500);
    put_case(&scratch, "many", &schema, &data);
    for case in cases(scratch.path()) {
        write_case(&case);
    }
    let mut tests = python();
    tests.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).arg(&script);
    run(tests.env("CKPT_LAYOUT_CASES", scratch.path()));
}

/// A model of many small layers, with an optimizer.
fn many_layers(n: usize) -> (Schema, Vec<Vec<u8>>) {
    let mut schema = Schema::new();
    for i in 0..n {
        let group = format!("layers/dense_{i}");
        for (k, shape) in [&[4, 4][..], &[4], &[1]].iter().enumerate() {
            schema.add(&format!("{group}/vars/{k}"), Dtype::F32, shape).unwrap();
        }
        schema.set_name(&group, &format!("dense_{i}")).unwrap();
    }
    for i in 0..n {
        schema.add(&format!("optimizer/vars/{i}"), Dtype::F32, &[4]).unwrap();
    }
    let data = data(&schema, &mut Random(1));
    (schema, data)
}

fn put_case(scratch: &Scratch, name: &str, schema: &Schema, data: &[Vec<u8>]) {
    let tensors: Vec<Value> = schema
        .tensors()
        .iter()
        .map(|t| json!({"path": t.path, "dtype": t.dtype.name(), "shape": t.shape}))
        .collect();
    let mut names = serde_json::Map::new();
    let mut todo: Vec<(String, NodeId)> = vec![(String::new(), Schema::ROOT)];
    while let Some((path, id)) = todo.pop() {
        if let Node::Group { children, name } = schema.node(id) {
            todo.extend(children.iter().map(|(part, &id)| (format!("{path}/{part}"), id)));
            if let Some(name) = name {
                let group = path.strip_suffix("/vars").unwrap();
                names.insert(group.trim_start_matches('/').to_owned(), json!(name));
            }
        }
    }
    let manifest = json!({"tensors": tensors, "names": names, "config": CONFIG});
    scratch.write(&format!("{name}.json"), manifest.to_string().as_bytes());
    scratch.write(&format!("{name}.bin"), &data.concat());
}

fn cases(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect()
}

/// Writes the files of a case, beside its manifest.
fn write_case(manifest: &Path) {
    let case: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let mut bytes = &std::fs::read(manifest.with_extension("bin")).unwrap()[..];
    let mut schema = Schema::new();
    let mut data = Vec::new();
    for tensor in case["tensors"].as_array().unwrap() {
        let dtype = Dtype::ALL.into_iter().find(|d| d.name() == tensor["dtype"]).unwrap();
        let shape: Vec<u64> =
            tensor["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
        let index = schema.add(tensor["path"].as_str().unwrap(), dtype, &shape).unwrap();
        let (head, rest) = bytes.split_at(schema.tensors()[index].nbytes() as usize);
        data.push(head.to_vec());
        bytes = rest;
    }
    assert!(bytes.is_empty());
    for (group, name) in case["names"].as_object().unwrap() {
        schema.set_name(group, name.as_str().unwrap()).unwrap();
    }
    let config = case["config"].as_str().unwrap();
    ckpt::layout::check_config(config).unwrap();
    for (format, ending) in [(Format::WeightsH5, "weights.h5"), (Format::Keras, "keras")] {
        let options = Options { config: Some(config), ..Options::default() };
        let mut layout = plan(&schema, format, &options).unwrap();
        let file = materialize(&mut layout, &data, br#"{"epoch": 3}"#);
        std::fs::write(manifest.with_extension(ending), file).unwrap();
    }
}

fn python() -> Command {
    let python = std::env::var_os("CKPT_TEST_PYTHON").expect(
        "CKPT_TEST_PYTHON is not set: run `make test`, or set CKPT_TEST_PYTHON to a Python with Keras",
    );
    let mut command = Command::new(python);
    command.env("KERAS_BACKEND", "numpy").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs it, its output in plain view.
fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}");
}
