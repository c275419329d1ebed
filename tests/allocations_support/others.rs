//! Files that other programs wrote: packed, in groups of every kind, of former versions of Keras.

use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt::error::Result;
use ckpt::reader::{Reader, Target};

use super::{again, refusing};

pub const FILES: [&str; 6] = [
    "others-earliest.h5",
    "others-latest.h5",
    "keras2.h5",
    "former.weights.h5",
    "deflated.keras",
    "model.safetensors.index.json",
];

/// Has Python write them.
pub fn make() -> PathBuf {
    let python = std::env::var("CKPT_TEST_PYTHON");
    let python =
        python.expect("CKPT_TEST_PYTHON is not set: run `make test`, or set it to a Python with h5py");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("allocation_files");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/allocation_files.py");
    let run = Command::new(python).arg(script).arg(&dir).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    dir
}

/// Takes the bytes of a tensor and keeps none.
struct Nowhere(u64);

impl Target for Nowhere {
    fn nbytes(&self) -> u64 {
        self.0
    }

    fn put(&self, _: u64, _: &[u8]) {}
}

/// All bytes of all tensors, each in memory that is there already.
fn read(path: &Path, tensors: &mut [Vec<u8>]) -> Result<()> {
    let reader = Reader::open(path)?;
    reader.config()?;
    reader.metadata()?;
    reader.metadata_texts()?;
    reader.assets()?;
    reader.verify()?;
    for (i, bytes) in tensors.iter_mut().enumerate() {
        reader.read(i, bytes)?;
    }
    Ok(())
}

/// Opens a file and reads all that is in it.
pub fn all(path: &Path) {
    let reader = Reader::open(path).unwrap();
    let room = |reader: &Reader| -> Vec<Vec<u8>> {
        reader.tensors().iter().map(|spec| vec![0; spec.nbytes() as usize]).collect()
    };
    let (mut expected, mut found) = (room(&reader), room(&reader));
    let nowhere: Vec<_> = reader.tensors().iter().map(|spec| Nowhere(spec.nbytes())).collect();
    let targets: Vec<(usize, &dyn Target)> =
        nowhere.iter().enumerate().map(|(i, target)| (i, target as &dyn Target)).collect();
    read(path, &mut expected).unwrap();
    if let Err(error) = refusing(|| reader.load(&targets, 2).and_then(|()| read(path, &mut found))) {
        again(error, || reader.load(&targets, 2).and_then(|()| read(path, &mut found)));
    }
    assert!(expected == found, "other bytes");
}
