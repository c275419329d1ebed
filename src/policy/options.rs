//! The options of `keras.callbacks.ModelCheckpoint` that decide when and where, and those of retention.

use super::direction::Mode;
use crate::error::{Error, Result, Status};

/// When to save, what is best, and what to keep. The defaults are Keras'.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The metric that is watched.
    pub monitor: String,
    /// Whether more or less of it is better.
    pub mode: Mode,
    /// Save only what is better than all before.
    pub save_best_only: bool,
    /// Save the weights alone, not the whole model.
    pub save_weights_only: bool,
    /// Save every so many batches; 0: at the end of every epoch; [`NEVER`]: by neither.
    pub save_freq: u64,
    /// Save where so many seconds have passed since the last save was due.
    pub save_every_secs: Option<f64>,
    /// Save when one of these signals has come.
    pub signals: Vec<i32>,
    /// Save as often as this part of the training's time pays for.
    pub overhead_budget: Option<f64>,
    /// Save as often as is best where failures are so many seconds apart, on average.
    pub mtbf: Option<f64>,
    /// What becomes of a save where the monitored value is NaN.
    pub on_nan: OnNan,
    /// The best that there is before the first save.
    pub initial_value_threshold: Option<f64>,
    /// What differs by less is no improvement; the sign does not matter, as in Keras.
    pub min_delta: f64,
    /// Say what is done, in Keras' words.
    pub verbose: bool,
    /// Keep the last so many saves; 0: this rule is off.
    pub keep_last: u64,
    /// Keep the so many best saves; 0: this rule is off.
    pub keep_best: u64,
    /// Keep the saves of epochs whose number, from 1, is a multiple of this; 0: this rule is off.
    pub keep_every: u64,
    /// Keep the first save, and each that was made so many seconds after the last that this rule keeps; 0: it is off.
    pub keep_every_secs: f64,
    /// The stable name of the newest save.
    pub save_last: Option<String>,
}

/// The `save_freq` of a session that saves neither by batches nor by epochs.
pub const NEVER: u64 = u64::MAX;

/// What becomes of a save that comes up where the monitored value is NaN; the discriminants are those of `ckpt_on_nan`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum OnNan {
    /// It is not made.
    #[default]
    Skip = 0,
    /// It is made under another name, and is no checkpoint to go on from.
    Aside = 1,
    /// It is made as Keras makes it: a first NaN is the best, and stays it.
    Keras = 2,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            monitor: "val_loss".to_owned(),
            mode: Mode::Auto,
            save_best_only: false,
            save_weights_only: false,
            save_freq: 0,
            save_every_secs: None,
            signals: Vec::new(),
            overhead_budget: None,
            mtbf: None,
            on_nan: OnNan::Skip,
            initial_value_threshold: None,
            min_delta: 0.0,
            verbose: false,
            keep_last: 0,
            keep_best: 0,
            keep_every: 0,
            keep_every_secs: 0.0,
            save_last: None,
        }
    }
}

/// The endings of whole models.
const MODEL: [&str; 2] = [".keras", ".h5"];

/// The endings of weights alone: Keras', its shards' index, and safetensors.
const WEIGHTS: [&str; 3] = [".weights.h5", ".weights.json", ".safetensors"];

fn is_span(secs: f64) -> bool {
    secs > 0.0 && secs.is_finite()
}

impl Options {
    /// Whether batches are counted.
    pub(super) fn by_batches(&self) -> bool {
        self.save_freq > 0 && self.save_freq != NEVER
    }

    /// Whether the end of an epoch brings a save up.
    pub(super) fn by_epochs(&self) -> bool {
        self.save_freq == 0
    }

    /// Whether there are saves beside those that batches and epochs bring up.
    pub fn is_paced(&self) -> bool {
        let by_time = self.save_every_secs.is_some();
        by_time || !self.signals.is_empty() || self.overhead_budget.is_some() || self.mtbf.is_some()
    }

    /// The path of a save aside: `.nan` before the format's ending.
    pub(super) fn aside(path: &str) -> String {
        let ending = WEIGHTS.iter().chain(&MODEL).find(|ending| path.ends_with(**ending)).unwrap_or(&"");
        let base = path.strip_suffix(ending).unwrap_or(path);
        format!("{base}.nan{ending}")
    }

    /// Refuses what makes no sense.
    pub(super) fn check(&self) -> Result<()> {
        let problem = if self.monitor.is_empty() {
            "monitor is empty: it is the name of a metric, as in 'val_loss'".to_owned()
        } else if self.initial_value_threshold.is_some_and(f64::is_nan) {
            "initial_value_threshold is NaN: nothing is better than that".to_owned()
        } else if !self.min_delta.is_finite() {
            format!("min_delta is {}: expected a finite number", self.min_delta)
        } else if let Some(secs) = self.save_every_secs.filter(|&secs| !is_span(secs)) {
            format!("save_every_secs is {secs}: expected a number of seconds above 0")
        } else if let Some(secs) = self.mtbf.filter(|&secs| !is_span(secs)) {
            format!("mtbf is {secs}: expected a number of seconds above 0")
        } else if let Some(part) = self.overhead_budget.filter(|&part| !(part > 0.0 && part <= 1.0)) {
            format!("overhead_budget is {part}: expected a fraction above 0, at most 1")
        } else if !self.keep_every_secs.is_finite() || self.keep_every_secs < 0.0 {
            format!("keep_every_secs is {}: expected seconds, 0 for none", self.keep_every_secs)
        } else {
            return Ok(());
        };
        Err(Error::new(Status::InvalidArgument, problem))
    }

    /// Refuses a file path whose ending does not go with `save_weights_only`; as in Keras, it is the template's
    /// own ending that counts, in small letters. An ending that is no format's is unsupported.
    pub(super) fn check_ending(&self, filepath: &str) -> Result<()> {
        let ends = |endings: &[&str]| endings.iter().any(|ending| filepath.ends_with(ending));
        if filepath.is_empty() {
            return Err(Error::new(
                Status::InvalidArgument,
                "filepath is empty: expected a path for the checkpoints",
            ));
        }
        let (status, problem) = match (self.save_weights_only, ends(&WEIGHTS), ends(&MODEL)) {
            (true, true, _) | (false, false, true) => return Ok(()),
            (true, false, true) => (
                Status::InvalidArgument,
                "with save_weights_only it must end in '.weights.h5', '.weights.json' or '.safetensors'",
            ),
            (false, true, _) => (
                Status::InvalidArgument,
                "this ending is for weights alone: set save_weights_only, or end it in '.keras' or '.h5'",
            ),
            (_, false, false) => (
                Status::Unsupported,
                "its ending is no format's: expected '.keras' or '.h5'; with save_weights_only '.weights.h5', \
                 '.weights.json' or '.safetensors'",
            ),
        };
        Err(Error::new(status, format!("filepath '{filepath}': {problem}")))
    }

    /// Refuses a stable name that another format than the file path's ends.
    pub(super) fn check_save_last(&self, filepath: &str) -> Result<()> {
        let Some(name) = &self.save_last else { return Ok(()) };
        // The longer ones first: '.weights.h5' ends in '.h5'.
        let ending = |path: &str| WEIGHTS.iter().chain(&MODEL).copied().find(|e| path.ends_with(e));
        match ending(filepath) {
            Some(expected) if ending(name) != Some(expected) => Err(Error::new(
                Status::InvalidArgument,
                format!(
                    "save_last '{name}' is to be a file as those of '{filepath}': end it in '{expected}'"
                ),
            )),
            _ => Ok(()),
        }
    }
}
