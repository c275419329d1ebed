//! Sharded checkpoints, read back: those that our own layout makes, and those that are damaged, mixed up, or made to do
//! harm.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod layout_support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ckpt::error::{Error, Status};
use ckpt::layout::{Format, Options, Schema, Stamp, plan};
use ckpt::reader::{Reader, training_state};
use ckpt::tensor::Dtype;
use layout_support::{Random, Scratch, data, materialize, random_schema};
use serde_json::{Value, json};

const STATE: &str = r#"{"save": 3, "größe": "NaN"}"#;

/// Writes the files of a schema, the index as `name.weights.json`.
fn write(scratch: &Scratch, name: &str, schema: &Schema, data: &[Vec<u8>], max_shard_bytes: u64) -> PathBuf {
    let options = Options { max_shard_bytes, ..Options::default() };
    let mut layout = plan(schema, Format::Shards, &options).unwrap();
    let stamp = Stamp { state: STATE.into(), ..Stamp::default() };
    layout.name_companions(&format!("{name}.weights.json"), 7, &stamp).unwrap();
    for file in layout.companions() {
        let bytes = materialize(&mut file.layout().copied().unwrap(), &data[file.tensors()], b"");
        scratch.write(file.name(), &bytes);
    }
    scratch.write(&format!("{name}.weights.json"), &layout.literals()[0])
}

/// Layers `a`, in two shards, and `b`, in the second of them: shards 0 and 1 of the generation 7.
fn small(scratch: &Scratch, name: &str) -> PathBuf {
    let mut schema = Schema::new();
    for path in ["a/vars/0", "a/vars/1", "b/vars/0"] {
        schema.add(path, Dtype::F32, &[2]).unwrap();
    }
    schema.set_name("a", "the a").unwrap();
    schema.set_name("empty", "no tensor").unwrap();
    let data = data(&schema, &mut Random(1));
    write(scratch, name, &schema, &data, 16 - 1)
}

fn shard(name: &str, number: usize) -> String {
    format!("{name}_0000000000000007_{number:05}.weights.h5")
}

/// Changes the index.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut index = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut index);
    fs::write(path, index.to_string()).unwrap();
}

fn error(path: &Path) -> Error {
    let result = Reader::open(path).and_then(|reader| reader.verify());
    result.expect_err(&format!("{} is read", path.display()))
}

/// Refused as damaged, with a message that names the index and has all of these.
fn refused(path: &Path, parts: &[&str]) {
    let error = error(path);
    assert_eq!(error.status(), Status::Format, "{error}");
    for part in parts.iter().chain([&path.to_str().unwrap()]) {
        assert!(error.message().contains(part), "'{part}' is not in '{error}'");
    }
}

#[test]
fn reads_what_the_layout_writes() {
    let scratch = Scratch::new("reader-shards");
    for seed in 0..60 {
        let mut r = Random(seed);
        let n = r.pick(&[0, 1, 5, 40, 300]);
        let schema = random_schema(&mut r, n);
        let data = data(&schema, &mut r);
        let max = r.pick(&[500, 5_000, 100_000, u64::MAX]);
        let path = write(&scratch, "file", &schema, &data, max);
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
        assert_eq!(reader.state().unwrap(), Some(STATE.as_bytes()));
        assert_eq!(training_state(&path).unwrap().as_deref(), Some(STATE.as_bytes()));
        let metadata: Value = serde_json::from_str(&reader.metadata().unwrap().unwrap()).unwrap();
        assert!(metadata["total_size"].is_f64() && metadata.as_object().unwrap().len() == 1, "{metadata}");
        assert_eq!(reader.config().unwrap(), None);
    }
}

#[test]
fn names_are_found_in_whichever_shard_they_are() {
    let scratch = Scratch::new("reader-shards");
    let reader = Reader::open(&small(&scratch, "m")).unwrap();
    let names: Vec<_> = reader.names().collect();
    assert_eq!(names, [("a", "the a"), ("empty", "no tensor")]);
}

#[test]
fn what_the_index_does_not_name_is_not_listed() {
    let scratch = Scratch::new("reader-shards");
    let path = small(&scratch, "m");
    edit(&path, |index| {
        index["weight_map"].as_object_mut().unwrap().remove("/b/vars");
    });
    let reader = Reader::open(&path).unwrap();
    let found: Vec<_> = reader.tensors().iter().map(|spec| spec.path.as_str()).collect();
    assert_eq!(found, ["a/vars/0", "a/vars/1"]);
    // One name without a list, and without the slash.
    edit(&path, |index| index["weight_map"] = json!({"b/vars": shard("m", 2)}));
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.tensors().iter().map(|spec| spec.path.as_str()).collect::<Vec<_>>(), ["b/vars/0"]);
    edit(&path, |index| index["weight_map"] = json!({}));
    assert!(Reader::open(&path).unwrap().tensors().is_empty());
}

#[test]
fn a_shard_that_is_missing_is_named() {
    let scratch = Scratch::new("reader-shards");
    let path = small(&scratch, "m");
    fs::remove_file(scratch.join(shard("m", 1))).unwrap();
    refused(&path, &[&shard("m", 1), "not beside it"]);
    assert!(training_state(&path).unwrap().is_some(), "the state is in the index");
}

#[test]
fn a_shard_of_another_checkpoint_is_refused() {
    let scratch = Scratch::new("reader-shards");
    let path = small(&scratch, "m");
    fs::copy(scratch.join(shard("m", 2)), scratch.join(shard("m", 1))).unwrap();
    refused(&path, &[&shard("m", 1), "'/a/vars'", "another checkpoint"]);
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let scratch = Scratch::new("reader-shards");
    let path = small(&scratch, "m");
    fs::copy(scratch.join(shard("m", 0)), scratch.join("copy.weights.h5")).unwrap();
    edit(&path, |index| {
        index["weight_map"]["/a/vars"].as_array_mut().unwrap().push("copy.weights.h5".into());
    });
    refused(&path, &["'a/vars/0'", "'copy.weights.h5'", &shard("m", 0)]);
    // The same shard twice is not two.
    edit(&path, |index| {
        index["weight_map"]["/a/vars"] = json!([shard("m", 0), shard("m", 0), shard("m", 1)])
    });
    Reader::open(&path).unwrap().verify().unwrap();
}

#[test]
fn a_name_that_leaves_the_directory_is_refused() {
    let scratch = Scratch::new("reader-shards");
    fs::create_dir(scratch.join("dir")).unwrap();
    small(&scratch, "m");
    let path = scratch.join("dir/m.weights.json");
    for name in [format!("../{}", shard("m", 0)), scratch.join(shard("m", 0)).to_str().unwrap().to_owned()] {
        fs::write(&path, json!({"weight_map": {"/a/vars": [name]}}).to_string()).unwrap();
        refused(&path, &[&shard("m", 0), "plain name"]);
    }
}

#[test]
fn what_is_no_shard_is_refused() {
    let scratch = Scratch::new("reader-shards");
    let path = small(&scratch, "m");
    for (content, part) in [(&b"PK\x03\x04"[..], "not an HDF5 file"), (b"", "not an HDF5 file")] {
        fs::write(scratch.join(shard("m", 1)), content).unwrap();
        refused(&path, &[&shard("m", 1), part]);
    }
    edit(&path, |index| index["weight_map"] = json!({"/a/vars": "m.npz"}));
    refused(&path, &["neither .h5 nor .safetensors"]);
    // An index is not a shard, not even of itself.
    fs::copy(&path, scratch.join("self.h5")).unwrap();
    edit(&path, |index| index["weight_map"] = json!({"/a/vars": "self.h5"}));
    refused(&path, &["'self.h5'", "not an HDF5 file"]);
}

#[test]
fn a_flipped_bit_is_found_whichever_shard_it_is_in() {
    let scratch = Scratch::new("reader-shards");
    let path = small(&scratch, "m");
    for number in 0..3 {
        let file = scratch.join(shard("m", number));
        let whole = fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&file, damaged).unwrap();
        Reader::open(&path).unwrap();
        refused(&path, &["checksum", ["'a/vars/0'", "'a/vars/1'", "'b/vars/0'"][number]]);
        fs::write(&file, whole).unwrap();
    }
    Reader::open(&path).unwrap().verify().unwrap();
}

#[test]
fn a_state_that_is_damaged_keeps_nobody_from_the_tensors() {
    let scratch = Scratch::new("reader-shards");
    let path = small(&scratch, "m");
    for own in [
        json!({"state": STATE, "crc32": 0}),
        json!({"state": STATE}),
        json!({"state": {}, "crc32": 0}),
        json!({"state": STATE, "crc32": "x"}),
        json!("state"),
    ] {
        edit(&path, |index| index["metadata"]["libckpt"] = own.clone());
        let reader = Reader::open(&path).unwrap();
        assert_eq!(reader.tensors().len(), 3);
        let e = reader.state().unwrap_err();
        assert_eq!(e.status(), Status::Format);
        assert!(e.message().contains("the training state"), "{own}: {e}");
        assert_eq!(training_state(&path).unwrap_err().message(), e.message());
    }
    for metadata in [json!({}), json!(null), json!([1])] {
        edit(&path, |index| index["metadata"] = metadata.clone());
        let reader = Reader::open(&path).unwrap();
        assert_eq!(reader.state().unwrap(), None, "{metadata}");
        reader.verify().unwrap();
    }
}

#[test]
fn an_index_of_millions_of_names_is_answered_at_once() {
    let scratch = Scratch::new("reader-shards");
    let path = scratch.join("m.weights.json");
    let mut many = Vec::from("{\"weight_map\": {\"/a/vars\": [");
    for i in 0..1_000_000 {
        many.extend_from_slice(format!("{}\"{i}.h5\"", if i > 0 { "," } else { "" }).as_bytes());
    }
    many.extend_from_slice(b"]}}");
    let mut one = Vec::from("{\"weight_map\": {");
    for i in 0..500_000 {
        one.extend_from_slice(format!("{}\"/{i}/vars\": \"x.h5\"", if i > 0 { "," } else { "" }).as_bytes());
    }
    one.extend_from_slice(b"}}");
    for (index, part) in [(many, "more than 10000 files"), (one, "'x.h5'")] {
        fs::write(&path, index).unwrap();
        let start = Instant::now();
        refused(&path, &[part]);
        // Well below one; a machine may be busy.
        assert!(start.elapsed() < Duration::from_secs(5), "{part}: {:?}", start.elapsed());
    }
}

#[test]
fn a_link_leads_to_the_files_beside_the_index() {
    let scratch = Scratch::new("reader-shards");
    let path = small(&scratch, "m");
    fs::create_dir(scratch.join("dir")).unwrap();
    symlink("m.weights.json", scratch.join("latest.weights.json")).unwrap();
    symlink(&path, scratch.join("dir/best.weights.json")).unwrap();
    for link in ["latest.weights.json", "dir/best.weights.json"] {
        Reader::open(&scratch.join(link)).unwrap().verify().unwrap();
    }
    // As caches have them: every file a link to one of another name.
    fs::create_dir(scratch.join("cache")).unwrap();
    let blob = |file: &str, i: usize| {
        fs::copy(scratch.join(file), scratch.join(format!("blob{i}"))).unwrap();
        symlink(scratch.join(format!("blob{i}")), scratch.join("cache").join(file)).unwrap();
    };
    blob("m.weights.json", 9);
    (0..3).for_each(|i| blob(&shard("m", i), i));
    (0..3).for_each(|i| fs::remove_file(scratch.join(shard("m", i))).unwrap());
    Reader::open(&scratch.join("cache/m.weights.json")).unwrap().verify().unwrap();
}

/// Changes a few bytes: one is another, some go, some stand twice, or the rest is cut off.
fn mutate(bytes: &mut Vec<u8>, r: &mut Random) {
    for _ in 0..=r.below(3) {
        let at = r.below(bytes.len().max(1)).min(bytes.len());
        let end = (at + r.below(20)).min(bytes.len());
        match r.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 => bytes.insert(at, r.pick(b"\"\\,:[]{}/.0 \n\xc3")),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = r.pick(&[*byte ^ 1 << (at % 8), b'"', b'0', b'1', b'/', r.0 as u8]);
                }
            }
        }
    }
}

#[test]
fn an_index_that_was_changed_gives_an_error_or_the_true_data() {
    let scratch = Scratch::new("reader-shards");
    let path = small(&scratch, "m");
    let whole = fs::read(&path).unwrap();
    let bytes = |reader: &Reader, i: usize| {
        let mut bytes = vec![0; reader.tensors()[i].nbytes() as usize];
        reader.read(i, &mut bytes).map(|()| bytes)
    };
    let reader = Reader::open(&path).unwrap();
    let truth: Vec<_> = (0..3).map(|i| (reader.tensors()[i].clone(), bytes(&reader, i).unwrap())).collect();
    let mut r = Random(11);
    let (mut read, mut slowest) = (0, Duration::ZERO);
    for case in 0..10_000 {
        let mut index = whole.clone();
        mutate(&mut index, &mut r);
        // A new file: some file systems flush one that is written over.
        fs::remove_file(&path).unwrap();
        fs::write(&path, &index).unwrap();
        let start = Instant::now();
        let text = || format!("case {case}: {}", String::from_utf8_lossy(&index));
        if let Ok(reader) = Reader::open(&path) {
            for (i, spec) in reader.tensors().iter().enumerate() {
                let found = (spec.clone(), bytes(&reader, i).unwrap_or_else(|e| panic!("{}: {e}", text())));
                assert!(truth.contains(&found), "{}: {found:?}", text());
            }
            if let Ok(Some(state)) = reader.state() {
                assert_eq!(state, STATE.as_bytes(), "{}", text());
            }
            read += 1;
        }
        slowest = slowest.max(start.elapsed());
    }
    assert!(read > 100 && read < 9_000, "{read} of 10000 were read");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[test]
fn white_space_may_precede_an_index() {
    let scratch = Scratch::new("reader-shards");
    let path = small(&scratch, "m");
    let index = fs::read(&path).unwrap();
    let many = "\n".repeat(4000);
    for before in ["\n", "\t  ", "\r\n", "\u{feff}", "\u{feff}\n", &many] {
        fs::write(&path, [before.as_bytes(), &index].concat()).unwrap();
        assert_eq!(Reader::open(&path).unwrap().tensors().len(), 3, "{before:?}");
        assert_eq!(training_state(&path).unwrap().unwrap(), STATE.as_bytes());
    }
}
