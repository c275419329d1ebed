//! Checkpoints that are opened, read and resumed from.

use std::path::Path;

use ckpt::error::Result;
use ckpt::reader::{Reader, training_state};
use ckpt::session::{Async, Loading, Model};

use super::model::Weights;
use super::save::{begin, save, session};
use super::{again, refusing};
use crate::scratch::Scratch;

/// All that a reader can do.
fn read(path: &Path, model: &mut Model) -> Result<()> {
    let reader = Reader::open(path)?;
    reader.config()?;
    reader.metadata()?;
    reader.state()?;
    reader.data()?;
    reader.assets()?;
    reader.verify()?;
    training_state(path)?;
    model.load(&reader, 2)?;
    model.load_with(&reader, &Loading { unverified: true, threads: 1, ..Loading::default() })?;
    Ok(())
}

/// A checkpoint is opened, and all in it is read.
pub fn all(dir: &Scratch, file: &str) {
    let path = dir.join(file);
    let mut weights = Weights::new();
    weights.fill(1);
    let mut model = weights.model();
    save(&session(dir.path(), file, Async::Off), 0, &model).unwrap();
    weights.fill(2);
    if let Err(error) = refusing(|| read(&path, &mut model)) {
        again(error, || read(&path, &mut model));
    }
    assert!(weights.is_of(1));
}

/// A session resumes from the newest of two.
pub fn resume(dir: &Scratch, file: &str) {
    let mut weights = Weights::new();
    let mut model = weights.model();
    let template = file.replace("m.", "m-{epoch}.");
    {
        let session = session(dir.path(), &template, Async::Off);
        for epoch in 0..2 {
            weights.fill(epoch as u8 + 1);
            save(&session, epoch, &model).unwrap();
        }
    }
    weights.fill(9);
    let begin = || begin(dir.path(), &template, Async::Off);
    let session = refusing(begin).unwrap_or_else(|error| again(error, begin));
    let mut resume = || session.resume(&mut model);
    let resumed = refusing(&mut resume).unwrap_or_else(|error| again(error, resume));
    assert_eq!((resumed.epoch, weights.is_of(2)), (2, true));
    assert_eq!(session.state("rng").unwrap().as_slice(), [3; 20_000]);
}
