//! What each fuzz target does with its bytes, and what must hold whatever they are. The same functions run in
//! `make test`, on mutated files: tests/fuzz.rs.
#![allow(dead_code, reason = "tests/fuzz.rs has its own files")]
#![allow(clippy::unwrap_used, reason = "a panic is what a fuzzer looks for")]

use std::path::Path;
use std::sync::Mutex;

use ckpt::engine::Buffer as Elements;
use ckpt::error::{Error, Result, Status};
use ckpt::layout::{self, Format, Schema, Source, Stamp, check_config};
use ckpt::policy::template::{Buffer, Template, Value};
use ckpt::reader::{Reader, Target, training_state};
use ckpt::session::{Lock, Model, Options, Session, save_counter};
use ckpt::tensor::{Dtype, TensorSpec};

/// Looks on while a checkpoint is read.
pub trait Watch {
    /// It has been opened.
    fn opened(&mut self, _: &Reader) {}
    /// Its texts have been read: the configuration, and the training state.
    fn texts(&mut self, _config: Option<&str>, _state: Option<&[u8]>) {}
    /// A tensor has been read, and its checksum is right if it has one.
    fn tensor(&mut self, _: &TensorSpec, _: &[u8]) {}
}

/// Looks at nothing.
impl Watch for () {}

/// Puts the bytes into a file: readers take no others.
pub fn in_file(bytes: &[u8], test: impl FnOnce(&Path)) {
    let path = std::env::temp_dir().join(format!("ckpt-fuzz-{}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    test(&path);
    std::fs::remove_file(&path).unwrap();
}

/// Does with a checkpoint all that a reader can do.
pub fn checkpoint(path: &Path, watch: &mut dyn Watch) {
    let Some(reader) = sound(Reader::open(path)) else { return };
    watch.opened(&reader);
    for (i, spec) in reader.tensors().iter().enumerate() {
        assert!(spec.checked_nbytes().is_some(), "{spec:?}");
        assert_eq!(reader.find(&spec.path), Some(i), "{spec:?}");
    }
    let config = sound(reader.config()).flatten();
    let state = sound(reader.state()).flatten();
    watch.texts(config.as_deref(), state);
    sound(reader.metadata());
    sound(reader.assets());
    sound(reader.data());
    let of_its_own = training_state(path).ok().flatten();
    assert!(state.is_none() || of_its_own.as_deref() == state);
    let verified = sound(reader.verify()).is_some();

    let mut wrong = 0;
    for (i, spec) in reader.tensors().iter().enumerate() {
        let mut bytes = vec![0; spec.nbytes() as usize];
        match sound(reader.read(i, &mut bytes)) {
            Some(()) => watch.tensor(spec, &bytes),
            None => wrong += 1,
        }
    }
    let targets: Vec<_> = reader.tensors().iter().map(|spec| Memory::new(spec.nbytes())).collect();
    let list: Vec<_> = targets.iter().enumerate().map(|(i, target)| (i, target as &dyn Target)).collect();
    let loaded = sound(reader.load(&list, 1)).is_some();
    assert_eq!(loaded, wrong == 0, "a load and the reads of its tensors do not agree");
    assert!(loaded || !verified || wrong > 0);
}

/// A result that damage can have: the value, or nothing where it was refused as it should be.
fn sound<T>(result: Result<T>) -> Option<T> {
    result.inspect_err(|e| assert!(is_refusal(e), "{:?}: {e}", e.status())).ok()
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.status(), Status::Format | Status::Unsupported) && !error.message().is_empty()
}

/// Memory that a tensor is loaded into.
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn new(nbytes: u64) -> Memory {
        Memory(Mutex::new(vec![0; nbytes as usize]))
    }
}

impl Target for Memory {
    fn nbytes(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        self.0.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
}

/// The configuration of a model.
pub fn config(bytes: &[u8]) {
    let Ok(json) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = check_config(json) {
        assert_eq!(error.status(), Status::InvalidArgument, "{error}");
    }
}

/// The training state of a checkpoint, as `ckpt_new` looks for the number of the last save in it.
pub fn state(bytes: &[u8]) {
    assert!(save_counter(bytes).is_none_or(|n| n < u64::MAX));
}

/// A checkpoint, or the training state of a sound one: a training resumes from it, or is told why not; then it goes on.
pub fn resume(bytes: &[u8]) {
    let dir = std::env::temp_dir().join(format!("ckpt-fuzz-{}.d", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let is_file = bytes.starts_with(b"\x89HDF");
    let file = if is_file { bytes.to_vec() } else { file_with(bytes) };
    std::fs::write(dir.join("7.weights.h5"), file).unwrap();

    let mut weight = 1.0f32;
    let mut model = Model::new();
    // SAFETY: the weight outlives the model, and nothing else uses it meanwhile.
    let buffer = unsafe { Elements::new((&raw mut weight).cast(), 4, &[], None) }.unwrap();
    model.add("layers/dense/vars/0", Dtype::F32, &[], buffer).unwrap();
    let mut options = Options { lock: Lock::Off, durable: false, ..Options::default() };
    options.policy.save_weights_only = true;
    (options.policy.keep_last, options.policy.keep_best) = (2, 1);
    let template = dir.join("{epoch}.weights.h5");
    let session = Session::new(template.to_str().unwrap(), options).unwrap();
    let epoch = match session.resume(&mut model) {
        Ok(resumed) => resumed.epoch,
        Err(e) => {
            let expected = [Status::Format, Status::Unsupported, Status::Mismatch];
            assert!(is_file && expected.contains(&e.status()), "{:?}: {e}", e.status());
            0
        }
    };
    session.on_epoch_end(epoch, &[("val_loss", 0.5)]).unwrap();
    session.save(&model).unwrap();
    session.best_path().unwrap();
    drop(session);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A checkpoint of one weight with this training state.
fn file_with(state: &[u8]) -> Vec<u8> {
    let mut schema = Schema::new();
    schema.add("layers/dense/vars/0", Dtype::F32, &[]).unwrap();
    let options = layout::Options { state_capacity: state.len(), ..layout::Options::default() };
    let mut layout = layout::plan(&schema, Format::WeightsH5, &options).unwrap();
    let weight = 0.5f32.to_le_bytes();
    let stamp = Stamp { state: state.to_vec(), date: [2026, 11, 24, 21, 47, 30] };
    layout.seal(&[crc32fast::hash(&weight)], &stamp).unwrap();
    let mut file = vec![0; layout.size() as usize];
    for extent in layout.extents() {
        let bytes = match extent.source {
            Source::Literal(i) => &layout.literals()[i][..],
            Source::Tensor(_) => &weight,
        };
        file[extent.offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    file
}

/// The path of a checkpoint with fields.
pub fn template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let template = match Template::parse(source, &["epoch", "batch"]) {
        Ok(template) => template,
        Err(error) => return assert_eq!(error.status(), Status::Template, "{error}"),
    };
    assert_eq!(template.source(), source);
    let mut buffer = Buffer::default();
    for (epoch, loss) in [(1, 0.25), (u128::MAX, f64::NAN), (7, -1e308), (0, f64::INFINITY), (12, 5e-324)] {
        let value = |name: &str| match name {
            "epoch" | "batch" => Some(Value::Int(epoch)),
            "none" => None,
            _ => Some(Value::Float(loss)),
        };
        let checked = template.check(&value, &mut buffer).is_ok();
        let path = template.render(&value, &mut buffer).map(str::to_owned);
        assert_eq!(checked, path.is_ok(), "{source}: {path:?}");
        if let Ok(path) = path {
            assert!(template.matches(&path), "{source} does not match what it wrote: {path}");
            let mut prefixes = path.char_indices().map(|(at, _)| &path[..at]).take(100);
            assert!(prefixes.all(|prefix| template.begins(prefix)), "{source}: {path}");
        }
    }
}
