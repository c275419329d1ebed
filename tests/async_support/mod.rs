//! What the tests of saves in the background have in common: a tensor that is read when the test says so.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ckpt::engine::{Buffer, Source};
use ckpt::error::{Error, Result, Status};
use ckpt::policy;
use ckpt::reader::Reader;
use ckpt::session::{Async, Level, Lock, Log, Model, Options, Session};
use ckpt::tensor::Dtype;
use parking_lot::{Condvar, Mutex};

/// No test waits longer for what has to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of a tensor that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Tap {
    /// Whoever asks waits.
    #[default]
    Shut,
    /// All bytes are this one.
    Open(u8),
    /// It cannot be had.
    Broken,
    /// A bug.
    Panics,
}

/// A tensor that is read when the test says so.
#[derive(Clone, Default)]
pub struct Valve(Arc<(Mutex<(Tap, usize)>, Condvar)>);

impl Valve {
    pub fn new(tap: Tap) -> Valve {
        let valve = Valve::default();
        valve.set(tap);
        valve
    }

    pub fn set(&self, tap: Tap) {
        self.0.0.lock().0 = tap;
        self.0.1.notify_all();
    }

    /// How often it was asked for.
    pub fn asked(&self) -> usize {
        self.0.0.lock().1
    }

    /// Waits until somebody has asked for it so often.
    pub fn wait_asked(&self, times: usize) {
        wait_for(|| self.asked() >= times);
    }

    /// A model of this one tensor, `bytes` of it.
    pub fn model(&self, bytes: u64) -> Model {
        let mut model = Model::new();
        self.add(&mut model, "layers/dense/vars/0", bytes);
        model
    }

    pub fn add(&self, model: &mut Model, path: &str, bytes: u64) {
        let buffer = Buffer::source(bytes, 1, Arc::new(self.clone())).unwrap();
        model.add(path, Dtype::U8, &[bytes], buffer).unwrap();
    }
}

impl Source for Valve {
    fn fetch(&self, _: u64, dst: &mut [u8]) -> Result<()> {
        let mut state = self.0.0.lock();
        state.1 += 1;
        self.0.1.notify_all();
        self.0.1.wait_while(&mut state, |(tap, _)| *tap == Tap::Shut);
        match state.0 {
            Tap::Open(byte) => dst.fill(byte),
            Tap::Broken => return Err(Error::new(Status::Mismatch, "the tensor is broken")),
            Tap::Panics => panic!("the tensor panics"),
            Tap::Shut => unreachable!(),
        }
        Ok(())
    }

    fn put(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn can_put(&self) -> bool {
        true
    }
}

pub fn wait_for(mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "it has not come to that");
        thread::sleep(Duration::from_millis(1));
    }
}

pub fn options(mode: Async) -> Options {
    let policy = policy::Options { save_weights_only: true, ..policy::Options::default() };
    // What a test finds in a directory is what its saves have put there.
    Options { policy, mode, durable: false, lock: Lock::Off, ..Options::default() }
}

pub fn best_only(mode: Async) -> Options {
    let mut options = options(mode);
    options.policy.save_best_only = true;
    options
}

/// The lines of a log.
pub type Lines = Arc<Mutex<Vec<(Level, String)>>>;

pub fn listen(options: &mut Options) -> Lines {
    let lines = Lines::default();
    let heard = lines.clone();
    options.log = Log::new(move |level, line| heard.lock().push((level, line.to_owned())));
    lines
}

pub fn has_line(lines: &Lines, level: Level, text: &str) -> bool {
    lines.lock().iter().any(|(l, line)| *l == level && line.contains(text))
}

pub fn epoch(session: &Session, epoch: u64, loss: f64) {
    session.on_epoch_end(epoch, &[("val_loss", loss)]).unwrap();
}

/// All bytes of the tensor of a checkpoint, which are the same.
pub fn byte(path: &Path) -> u8 {
    let reader = Reader::open(path).unwrap();
    reader.verify().unwrap();
    let index = reader.find("layers/dense/vars/0").unwrap();
    let mut bytes = vec![0; reader.tensors()[index].nbytes() as usize];
    reader.read(index, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a checkpoint of two times: {}", path.display());
    bytes[0]
}
