//! How a training saves: one of the many ways, by its number.

use std::path::Path;
use std::sync::{Arc, Mutex};

use ckpt::engine::{Backend, Recycle, Storage};
use ckpt::error::Result;
use ckpt::policy;
use ckpt::session::{Async, Level, Log, Options, Session};

use crate::random::Random;

/// Epochs of a training.
pub const EPOCHS: usize = 5;

const ENDINGS: [&str; 5] = [".keras", ".weights.h5", ".h5", ".weights.json", ".safetensors"];

/// Names: one file that is saved over; a file an epoch; one in a directory of its own; a name that comes again.
const NAMES: [&str; 5] = ["m", "m-{epoch:02d}", "e{epoch}/m", "a/b/m", "m-{val_loss:.1f}"];

/// Losses of an epoch, some of them equal.
const LOSSES: [f64; 6] = [0.5, 0.4, 0.3, 0.3, 0.2, 0.6];

/// A way of saving.
#[derive(Clone, Debug)]
pub struct Setup {
    pub ending: &'static str,
    pub name: &'static str,
    pub mode: Async,
    pub keep_last: u64,
    pub keep_best: u64,
    pub best_only: bool,
    pub recycle: bool,
    pub direct: bool,
    pub durable: bool,
    pub prepare: bool,
    pub losses: [f64; EPOCHS],
}

/// The errors in the log.
pub type Errors = Arc<Mutex<Vec<String>>>;

impl Setup {
    pub fn of(random: &mut Random) -> Setup {
        let direct = random.one_in(16);
        Setup {
            ending: random.one_of(&ENDINGS),
            name: random.one_of(&NAMES),
            mode: random.one_of(&[Async::Off, Async::Copy, Async::Borrow]),
            keep_last: random.below(3),
            keep_best: random.below(3),
            best_only: random.one_in(4),
            recycle: !random.one_in(3),
            direct,
            durable: direct || !random.one_in(5),
            prepare: random.one_in(2),
            losses: std::array::from_fn(|_| random.one_of(&LOSSES)),
        }
    }

    /// Bytes of the model: past the page cache goes what is large.
    pub fn bytes(&self) -> u64 {
        if self.direct { 5 << 19 } else { 0 }
    }

    pub fn is_sharded(&self) -> bool {
        self.ending == ".weights.json"
    }

    pub fn session(&self, dir: &Path, storage: Arc<dyn Storage>) -> Result<(Session, Errors)> {
        let policy = policy::Options {
            save_weights_only: !matches!(self.ending, ".keras" | ".h5"),
            save_best_only: self.best_only,
            keep_last: self.keep_last,
            keep_best: self.keep_best,
            ..policy::Options::default()
        };
        let errors = Errors::default();
        let heard = errors.clone();
        let log = move |level, line: &str| {
            if level == Level::Error
                && let Ok(mut heard) = heard.lock()
            {
                heard.push(line.to_owned());
            }
        };
        let options = Options {
            policy,
            mode: self.mode,
            durable: self.durable,
            backend: if self.direct { Backend::Direct } else { Backend::Auto },
            max_shard_bytes: if self.direct { 5 << 18 } else { 1 << 10 },
            recycle: if self.recycle { Recycle::On } else { Recycle::Off },
            storage,
            log: Log::new(log),
            ..Options::default()
        };
        let template = dir.join(format!("{}{}", self.name, self.ending));
        Ok((Session::new(&template.to_string_lossy(), options)?, errors))
    }
}
