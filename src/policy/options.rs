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
    /// Save every so many batches; 0: at the end of every epoch.
    pub save_freq: u64,
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

impl Default for Options {
    fn default() -> Options {
        Options {
            monitor: "val_loss".to_owned(),
            mode: Mode::Auto,
            save_best_only: false,
            save_weights_only: false,
            save_freq: 0,
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

impl Options {
    /// Refuses what makes no sense.
    pub(super) fn check(&self) -> Result<()> {
        let problem = if self.monitor.is_empty() {
            "monitor is empty: it is the name of a metric, as in 'val_loss'".to_owned()
        } else if self.initial_value_threshold.is_some_and(f64::is_nan) {
            "initial_value_threshold is NaN: nothing is better than that".to_owned()
        } else if !self.min_delta.is_finite() {
            format!("min_delta is {}: expected a finite number", self.min_delta)
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
