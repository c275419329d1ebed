//! What each fuzz target does with its bytes, and what must hold whatever they are. The same functions run in
//! `make test`, on mutated files: tests/fuzz.rs.
#![allow(dead_code, reason = "tests/fuzz.rs has its own files")]
#![allow(clippy::unwrap_used, reason = "a panic is what a fuzzer looks for")]

use std::path::Path;
use std::sync::Mutex;

use ckpt::error::{Error, Result, Status};
use ckpt::layout::check_config;
use ckpt::policy::template::{Buffer, Template, Value};
use ckpt::reader::{Reader, Target, training_state};
use ckpt::session::save_counter;
use ckpt::tensor::TensorSpec;

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
