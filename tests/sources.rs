//! Tensors that are not in host memory: what a save asks their functions for, and what a load hands to them.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod device;
mod scratch;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ckpt::error::{Error, Status};
use ckpt::policy;
use ckpt::reader::Reader;
use ckpt::session::{Loading, Model, Options, Session};
use ckpt::tensor::{Dtype, TensorSpec};
use device::{Device, Memory, Way};
use scratch::Scratch;

const CONFIG: &str = r#"{"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [
    {"class_name": "Dense", "config": {"name": "zz"}}, {"class_name": "Dense", "config": {"name": "aa"}}]}}"#;

/// The formats by their endings; a legacy file has an order of its own.
const ENDINGS: [&str; 5] = ["weights.h5", "keras", "h5", "weights.json", "safetensors"];

/// Tensors of no bytes, of one element, small ones, and some of several blocks; not in the order of their names.
fn specs() -> Vec<TensorSpec> {
    let spec =
        |path: &str, dtype, shape: &[u64]| TensorSpec { path: path.into(), dtype, shape: shape.into() };
    let mut all = vec![
        spec("layers/dense/vars/1", Dtype::Bf16, &[5 << 19, 1]),
        spec("layers/dense/vars/0", Dtype::F32, &[5 << 18]),
        spec("layers/dense_1/vars/0", Dtype::I64, &[3, 7]),
        spec("layers/dense_1/vars/1", Dtype::Bool, &[(4 << 20) + 3]),
        spec("layers/dense_1/vars/2", Dtype::F32, &[0, 4]),
        spec("optimizer/vars/0", Dtype::F64, &[]),
        spec("optimizer/vars/1", Dtype::F16, &[1023]),
    ];
    all.extend((2..60).map(|i| spec(&format!("optimizer/vars/{i}"), Dtype::ALL[i % 13], &[i as u64])));
    all
}

/// Bytes that the dtype can have, and no other tensor has.
fn noise(spec: &TensorSpec, seed: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut bytes = vec![0; spec.nbytes() as usize];
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let value = (state ^ (state >> 33)).to_le_bytes();
        chunk.copy_from_slice(&value[..chunk.len()]);
    }
    if spec.dtype == Dtype::Bool {
        bytes.iter_mut().for_each(|b| *b &= 1);
    }
    bytes
}

/// The tensors in memory, or on a device; `on_device` says which are.
fn model(specs: &[TensorSpec], memory: &Memory, device: &Device, on_device: impl Fn(usize) -> bool) -> Model {
    let mut model = Model::new();
    for (i, spec) in specs.iter().enumerate() {
        let buffer = match on_device(i) {
            true => device.buffer(i, spec),
            false => memory.buffer(i, spec),
        };
        model.add(&spec.path, spec.dtype, &spec.shape, buffer).unwrap();
    }
    model.set_name("layers/dense", "zz").unwrap();
    model.set_name("layers/dense_1", "aa").unwrap();
    model.set_config(CONFIG).unwrap();
    model
}

/// What `act` makes of the model in memory.
fn in_memory<T>(specs: &[TensorSpec], bytes: &[Vec<u8>], act: impl FnOnce(&Model) -> T) -> T {
    let memory = Memory::new(bytes.to_vec());
    act(&model(specs, &memory, &Device::new(Vec::new()), |_| false))
}

fn filled(specs: &[TensorSpec]) -> Vec<Vec<u8>> {
    specs.iter().enumerate().map(|(i, spec)| noise(spec, i)).collect()
}

/// A session's save of shards of a MiB or so, or of one file.
fn save(model: &Model, path: &Path) -> Result<(), Error> {
    let name = path.to_str().unwrap();
    if !name.ends_with(".weights.json") {
        // Without a session nothing in it but the date is of the moment.
        return model.save(path);
    }
    let policy = policy::Options { save_weights_only: true, ..policy::Options::default() };
    let options = Options { policy, durable: false, max_shard_bytes: 6 << 20, ..Options::default() };
    let session = Session::new(name, options).unwrap();
    session.on_epoch_end(0, &[("val_loss", 0.5)].as_slice()).unwrap();
    session.save(model)
}

/// All files of a directory; the names of shards without their generation, which no two saves share, and the index
/// without its guard, which is over those names.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    let generation = names.iter().find_map(|p| {
        let name = p.file_name().unwrap().to_str().unwrap();
        name.strip_prefix("c_").and_then(|rest| rest.split_once('_')).map(|(digits, _)| digits.to_owned())
    });
    let plain = |text: &str| match &generation {
        Some(digits) => text.replace(digits, "GENERATION"),
        None => text.to_owned(),
    };
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        let bytes = match path.extension().is_some_and(|e| e == "json") {
            true => {
                // The state of the training, which says when it was saved.
                let mut index: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                let metadata = index["metadata"].as_object_mut().unwrap();
                metadata.remove("libckpt");
                metadata.remove("libckpt.guard");
                plain(&index.to_string()).into_bytes()
            }
            false => bytes,
        };
        (plain(path.file_name().unwrap().to_str().unwrap()), bytes)
    };
    names.into_iter().map(read).collect()
}

/// The same tensors saved from memory and through functions, in directories of their own: the files of both. Archives
/// and states hold the time, so both are within one second.
fn both(
    ending: &str,
    specs: &[TensorSpec],
    bytes: &[Vec<u8>],
    device: &Device,
) -> [BTreeMap<String, Vec<u8>>; 2] {
    let memory = Memory::new(bytes.to_vec());
    for _ in 0..5 {
        let dirs = [Scratch::new("sources-memory"), Scratch::new("sources-device")];
        device.forget();
        let before = ckpt::engine::local_date();
        save(&model(specs, &memory, device, |_| false), &dirs[0].join(format!("c.{ending}"))).unwrap();
        save(&model(specs, &memory, device, |_| true), &dirs[1].join(format!("c.{ending}"))).unwrap();
        if before == ckpt::engine::local_date() {
            return dirs.map(|dir| files(dir.path()));
        }
    }
    panic!("two saves take longer than a second, five times");
}

#[test]
fn a_file_is_that_of_host_memory() {
    let specs = specs();
    let bytes = filled(&specs);
    for ending in ENDINGS {
        let device = Device::new(bytes.clone());
        let [memory, device] = both(ending, &specs, &bytes, &device);
        assert_eq!(Vec::from_iter(memory.keys()), Vec::from_iter(device.keys()), "{ending}");
        assert!(memory.len() > 2 || ending != "weights.json", "{:?}", memory.keys());
        for (name, bytes) in &memory {
            assert!(device[name] == *bytes, "{name} differs");
        }
    }
}

#[test]
fn a_save_asks_for_each_byte_once_in_the_order_of_the_file() {
    let specs = specs();
    let bytes = filled(&specs);
    for ending in ENDINGS {
        let device = Device::new(bytes.clone());
        let [_, files] = both(ending, &specs, &bytes, &device);
        let calls = device.calls();
        let asked: Vec<usize> = device.order_of(Way::Fetch, &specs);
        let with_bytes: Vec<usize> = (0..specs.len()).filter(|&i| specs[i].nbytes() > 0).collect();
        let mut sorted = asked.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, with_bytes, "{ending}: not each tensor once");
        assert!(calls.iter().all(|c| c.thread == std::thread::current().id()), "{ending}: another thread");
        // Where each tensor is: those of 32 bytes or more are found by their first bytes, behind the one before.
        let files: Vec<&Vec<u8>> = files.values().collect();
        let (mut file, mut at) = (0, 0);
        for tensor in asked.into_iter().filter(|&i| bytes[i].len() >= 32) {
            let head = &bytes[tensor][..32];
            let found = |file: usize, from: usize| {
                files[file][from..].windows(32).position(|window| window == head).map(|at| from + at)
            };
            let in_this = found(file, at).map(|at| (file, at));
            let place = in_this.or_else(|| (file + 1..files.len()).find_map(|n| Some((n, found(n, 0)?))));
            let Some((n, begin)) = place else {
                panic!("{ending}: '{}' was asked for too late", specs[tensor].path);
            };
            (file, at) = (n, begin + bytes[tensor].len());
        }
    }
}

#[test]
fn a_load_puts_each_byte_once_from_the_caller_s_thread() {
    let specs = specs();
    let bytes = filled(&specs);
    let dir = Scratch::new("sources-load");
    for ending in ENDINGS {
        let path = dir.join(format!("c.{ending}"));
        in_memory(&specs, &bytes, |model| model.save(&path)).unwrap();
        let reader = Reader::open(&path).unwrap();
        // All on the device, and every second tensor in memory.
        for (step, threads) in [(1, 0), (2, 0), (2, 1)] {
            let zeros: Vec<Vec<u8>> = bytes.iter().map(|b| vec![0; b.len()]).collect();
            let (device, memory) = (Device::new(zeros.clone()), Memory::new(zeros));
            let on_device = |i: usize| i.is_multiple_of(step);
            let mut model = model(&specs, &memory, &device, on_device);
            model.load(&reader, threads).unwrap();
            let put = device.order_of(Way::Put, &specs).len();
            assert_eq!(put, (0..specs.len()).filter(|&i| on_device(i) && specs[i].nbytes() > 0).count());
            assert!(device.calls().iter().all(|c| c.thread == std::thread::current().id()));
            for (i, want) in bytes.iter().enumerate() {
                let have = if on_device(i) { device.bytes(i) } else { memory.bytes(i) };
                assert!(have == *want, "{ending}: '{}'", specs[i].path);
            }
        }
    }
}

#[test]
fn floats_are_converted_on_their_way() {
    let floats = [Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64];
    let spec = |dtype| TensorSpec { path: "a".into(), dtype, shape: vec![3, (1 << 20) + 1] };
    let dir = Scratch::new("sources-floats");
    for from in floats {
        let path = dir.join("c.weights.h5");
        let bytes = vec![noise(&spec(from), 0)];
        in_memory(&[spec(from)], &bytes, |model| model.save(&path)).unwrap();
        let reader = Reader::open(&path).unwrap();
        for to in floats {
            let specs = [spec(to)];
            let zeros = vec![vec![0; specs[0].nbytes() as usize]];
            let (device, memory) = (Device::new(zeros.clone()), Memory::new(zeros));
            for on_device in [true, false] {
                let mut model = model(&specs, &memory, &device, |_| on_device);
                if from != to {
                    let error = model.load(&reader, 0).unwrap_err();
                    assert_eq!(error.status(), Status::Mismatch);
                }
                assert!(device.calls().is_empty() || !on_device, "called before all was compared");
                let loading = Loading { convert_floats: true, ..Loading::default() };
                model.load_with(&reader, &loading).unwrap();
            }
            assert_eq!(device.order_of(Way::Put, &specs), [0]);
            assert!(device.bytes(0) == memory.bytes(0), "{from:?} to {to:?}");
        }
    }
}

#[test]
fn what_is_not_in_the_file_as_it_is_is_decoded_first() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files =
        ["fuzz/corpus/hdf5", "golden/legacy/good", "golden/keras/good"].map(|below| corpus.join(below));
    let mut seen = 0;
    for entry in files.iter().flat_map(|dir| fs::read_dir(dir).unwrap()) {
        let path = entry.unwrap().path();
        let Ok(reader) = Reader::open(&path) else { continue };
        let specs = reader.tensors().to_vec();
        let zeros: Vec<Vec<u8>> = specs.iter().map(|spec| vec![0; spec.nbytes() as usize]).collect();
        let (device, memory) = (Device::new(zeros.clone()), Memory::new(zeros));
        let load = |on_device: bool| {
            let mut model = Model::new();
            for (i, spec) in specs.iter().enumerate() {
                let buffer = if on_device { device.buffer(i, spec) } else { memory.buffer(i, spec) };
                model.add(&spec.path, spec.dtype, &spec.shape, buffer)?;
            }
            model.load(&reader, 0)
        };
        match (load(false), load(true)) {
            (Ok(()), Ok(())) => seen += specs.len(),
            (Err(a), Err(b)) => assert_eq!(a.message(), b.message(), "{}", path.display()),
            (a, b) => panic!("{}: {a:?} but {b:?}", path.display()),
        }
        for (i, spec) in specs.iter().enumerate() {
            assert!(device.bytes(i) == memory.bytes(i), "{}: '{}'", path.display(), spec.path);
        }
    }
    assert!(seen > 100, "{seen} tensors in {}", corpus.display());
}

#[test]
fn an_error_of_fetch_leaves_the_old_file() {
    let specs = specs();
    let bytes = filled(&specs);
    for ending in ENDINGS {
        let dir = Scratch::new("sources-fetch");
        let path = dir.join(format!("c.{ending}"));
        in_memory(&specs, &bytes, |model| save(model, &path)).unwrap();
        let old = files(dir.path());
        // At the first call, at one in the middle, at the last.
        let device = Device::new(bytes.clone());
        let model = model(&specs, &Memory::new(Vec::new()), &device, |_| true);
        save(&model, &dir.join(format!("other.{ending}"))).unwrap();
        let count = device.calls().len();
        let both = dir.names();
        for call in [0, count / 2, count - 1] {
            device.forget();
            device.fail_at(call);
            let error = save(&model, &path).unwrap_err();
            assert_eq!((error.status(), error.message()), (Status::NoSpace, "call failed"), "{ending}");
            assert_eq!(device.calls().len(), call + 1, "{ending}: asked again after the error");
            assert_eq!(dir.names(), both, "{ending}: something is left, or has gone");
        }
        let now = files(dir.path());
        assert!(old.iter().all(|(name, bytes)| now.get(name) == Some(bytes)), "{ending}: another file");
        // And it can be saved again.
        device.forget();
        save(&model, &path).unwrap();
        Reader::open(&path).unwrap().verify().unwrap();
    }
}

#[test]
fn an_error_of_put_ends_the_load() {
    let specs = specs();
    let bytes = filled(&specs);
    let dir = Scratch::new("sources-put");
    let path = dir.join("c.weights.h5");
    in_memory(&specs, &bytes, |model| model.save(&path)).unwrap();
    let reader = Reader::open(&path).unwrap();
    let device = Device::new(bytes.clone());
    for threads in [0, 1] {
        let memory = Memory::new(bytes.clone());
        let mut model = model(&specs, &memory, &device, |i| i != 3);
        device.forget();
        model.load(&reader, threads).unwrap();
        let count = device.calls().len();
        for call in [0, count / 2, count - 1] {
            device.forget();
            device.fail_at(call);
            let error = model.load(&reader, threads).unwrap_err();
            assert_eq!((error.status(), error.message()), (Status::NoSpace, "call failed"));
            assert_eq!(device.calls().len(), call + 1, "called again after the error");
        }
    }
}

#[test]
fn a_damaged_tensor_is_found() {
    let specs = specs();
    let bytes = filled(&specs);
    let dir = Scratch::new("sources-damage");
    let path = dir.join("c.weights.h5");
    in_memory(&specs, &bytes, |model| model.save(&path)).unwrap();
    let mut file = fs::read(&path).unwrap();
    for tensor in [1, 2] {
        let head = &bytes[tensor][..32];
        let at = file.windows(32).position(|window| window == head).unwrap();
        file[at + bytes[tensor].len() - 1] ^= 1;
        fs::write(&path, &file).unwrap();
        let reader = Reader::open(&path).unwrap();
        let device = Device::new(bytes.clone());
        let mut model = model(&specs, &Memory::new(Vec::new()), &device, |_| true);
        let error = model.load(&reader, 0).unwrap_err();
        // In the order of the file, 'layers/dense/vars/0' comes first.
        assert_eq!(error.status(), Status::Format);
        assert!(error.message().contains("'layers/dense/vars/0' does not match its checksum"), "{error}");
        let loading = Loading { unverified: true, ..Loading::default() };
        model.load_with(&reader, &loading).unwrap();
        assert_eq!(device.bytes(tensor).last().unwrap() ^ 1, *bytes[tensor].last().unwrap());
        // Nor is it converted.
        let error = ckpt::session::convert(&path, &dir.join("to.safetensors")).unwrap_err();
        assert!(error.status() == Status::Format && error.message().contains("checksum"), "{error}");
        assert_eq!(dir.names(), ["c.weights.h5"]);
    }
}

#[test]
fn without_put_a_tensor_is_saved_alone() {
    let specs = [specs().remove(2)];
    let bytes = filled(&specs);
    let dir = Scratch::new("sources-no-put");
    let path = dir.join("c.weights.h5");
    let device = Device::new(bytes.clone()).read_only();
    let mut model = model(&specs, &Memory::new(Vec::new()), &device, |_| true);
    model.save(&path).unwrap();
    let reader = Reader::open(&path).unwrap();
    let error = model.load(&reader, 0).unwrap_err();
    assert_eq!(error.status(), Status::Unsupported);
    assert!(error.message().contains("'layers/dense_1/vars/0' has no put function"), "{error}");
    // One that is left as it is needs none.
    let buffer = device.buffer(0, &specs[0]);
    let mut other = Model::new();
    other.add("elsewhere", specs[0].dtype, &specs[0].shape, buffer).unwrap();
    let loaded = other.load_with(&reader, &Loading { partial: true, ..Loading::default() }).unwrap();
    assert_eq!((loaded.count, loaded.skipped.len()), (0, 1));
}
