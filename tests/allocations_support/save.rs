//! Models that are built, prepared and saved.

use std::path::Path;
use std::sync::Arc;

use ckpt::error::Result;
use ckpt::policy;
use ckpt::session::{Async, Lock, Model, Options, Session};

use super::model::Weights;
use super::{Staging, again, refusing};
use crate::scratch::Scratch;

/// The files of the five formats.
pub const FILES: [&str; 5] = ["m.keras", "m.weights.h5", "m.h5", "m.weights.json", "m.safetensors"];

/// A session with bytes of the trainer's.
pub fn session(dir: &Path, file: &str, mode: Async) -> Session {
    let session = begin(dir, file, mode).unwrap();
    session.set_state("rng", &[3; 20_000]).unwrap();
    for i in 0..200 {
        session.set_state(&format!("state-{i}-{}", "k".repeat(60)), &[i as u8; 10]).unwrap();
    }
    session
}

pub fn begin(dir: &Path, file: &str, mode: Async) -> Result<Session> {
    let weights_only =
        [".weights.h5", ".weights.json", ".safetensors"].iter().any(|ending| file.ends_with(ending));
    let policy = policy::Options { save_weights_only: weights_only, ..policy::Options::default() };
    let options = Options {
        policy,
        mode,
        durable: false,
        lock: Lock::Off,
        max_shard_bytes: 60_000,
        threads: 1,
        allocator: Some(Arc::new(Staging)),
        ..Options::default()
    };
    Session::new(dir.join(file).to_str().unwrap(), options)
}

pub fn save(session: &Session, epoch: u64, model: &Model) -> Result<()> {
    session.on_epoch_end(epoch, &[("val_loss", 1.0)])?;
    session.save(model).and_then(|()| session.wait())
}

/// No temporary file is in the directory.
pub fn check_names(dir: &Scratch) {
    let temporary: Vec<_> = dir.names().into_iter().filter(|name| name.starts_with(".ckpt")).collect();
    assert_eq!(temporary, [""; 0]);
}

/// Each call that builds a model: nothing has changed after an error.
pub fn build(dir: &Scratch) {
    let mut weights = Weights::new();
    weights.fill(1);
    let model = weights.build(|call| {
        if let Err(error) = refusing(&mut *call) {
            again(error, call);
        }
    });
    let path = dir.join("m.keras");
    model.save(&path).unwrap();
    assert_eq!(weights.time_of(&path), 1);
}

/// The trainer's own bytes.
pub fn state(dir: &Scratch) {
    let mut weights = Weights::new();
    weights.fill(1);
    let model = weights.model();
    let session = session(dir.path(), "m.keras", Async::Off);
    let set = || session.set_state("rng", &[5; 30_000]);
    if let Err(error) = refusing(set) {
        assert_eq!(session.state("rng").unwrap().as_slice(), [3; 20_000]);
        again(error, set);
    }
    save(&session, 0, &model).unwrap();
    assert_eq!(session.state("rng").unwrap().as_slice(), [5; 30_000]);
}

/// A session prepares a model.
pub fn prepare(dir: &Scratch, file: &str) {
    let mut weights = Weights::new();
    weights.fill(1);
    let model = weights.model();
    let session = session(dir.path(), file, Async::Copy);
    if let Err(error) = refusing(|| session.prepare(&model)) {
        again(error, || session.prepare(&model));
    }
    save(&session, 0, &model).unwrap();
    assert_eq!(weights.time_of(&dir.join(file)), 1);
    drop(session);
    check_names(dir);
}

/// A save over an earlier checkpoint: of a model that is new, or has been saved before.
pub fn over(dir: &Scratch, file: &str, mode: Async, is_new: bool) {
    let path = dir.join(file);
    let mut weights = Weights::new();
    weights.fill(1);
    let session = session(dir.path(), file, mode);
    let first = weights.model();
    save(&session, 0, &first).unwrap();
    let second = if is_new { weights.model() } else { first };
    weights.fill(2);
    match refusing(|| save(&session, 1, &second)) {
        Ok(()) => assert_eq!(weights.time_of(&path), 2),
        Err(error) => {
            assert_eq!(weights.time_of(&path), 1, "after '{error}'");
            weights.fill(3);
            again(error, || save(&session, 2, &second));
            assert_eq!(weights.time_of(&path), 3);
        }
    }
    session.wait().unwrap();
    drop(session);
    check_names(dir);
}
