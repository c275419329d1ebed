//! Whether more or less of a metric is better.

/// How the direction is found; the discriminants are those of `ckpt_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Mode {
    /// By the metric's name.
    Auto = 0,
    /// Less is better.
    Min = 1,
    /// More is better.
    Max = 2,
}

/// Which way is better; Keras calls it so too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// More is better.
    Up,
    /// Less is better.
    Down,
}

/// The metrics that Keras marks as "up", and their common short names: in small letters, without underscores.
/// Those with "acc" in them are known by that.
const UP: [&str; 21] = [
    "auc",
    "binaryiou",
    "concordancecorrelation",
    "cosinesimilarity",
    "f1",
    "f1score",
    "fbetascore",
    "iou",
    "meaniou",
    "miou",
    "onehotiou",
    "onehotmeaniou",
    "pearsoncorrelation",
    "precision",
    "precisionatrecall",
    "r2",
    "r2score",
    "recall",
    "recallatprecision",
    "sensitivityatspecificity",
    "specificityatsensitivity",
];

/// The metrics that Keras marks as "down", and their short names; likewise.
const DOWN: [&str; 23] = [
    "bce",
    "binarycrossentropy",
    "categoricalcrossentropy",
    "categoricalhinge",
    "crossentropy",
    "hinge",
    "kldivergence",
    "logcosh",
    "loss",
    "mae",
    "mape",
    "meanabsoluteerror",
    "meanabsolutepercentageerror",
    "meansquarederror",
    "meansquaredlogarithmicerror",
    "mse",
    "msle",
    "perplexity",
    "poisson",
    "rmse",
    "rootmeansquarederror",
    "sparsecategoricalcrossentropy",
    "squaredhinge",
];

impl Direction {
    /// The direction of a metric by its name; `None` where the name says nothing.
    pub fn of(monitor: &str) -> Option<Direction> {
        let name = monitor.strip_prefix("val_").unwrap_or(monitor).to_ascii_lowercase();
        if name.contains("acc") || name.starts_with("fmeasure") {
            return Some(Direction::Up);
        }
        if name.ends_with("_loss") {
            return Some(Direction::Down);
        }
        // Keras numbers metrics of one class: auc, auc_1, ...
        let numbered =
            name.rsplit_once('_').filter(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        let plain = numbered.map_or(name.as_str(), |(stem, _)| stem).replace('_', "");
        if UP.contains(&plain.as_str()) {
            Some(Direction::Up)
        } else if DOWN.contains(&plain.as_str()) {
            Some(Direction::Down)
        } else {
            None
        }
    }

    /// Is `value` better than `best` by more than `min_delta`? NaN never is.
    pub fn improves(self, value: f64, best: f64, min_delta: f64) -> bool {
        match self {
            Direction::Up => value - min_delta > best,
            Direction::Down => value + min_delta < best,
        }
    }
}
