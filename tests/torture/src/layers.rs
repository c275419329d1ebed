//! The layers by their names, with how much of each makes a full run.

use crate::tally::Tally;
use crate::{blocklog, flips, fs, mutants, process, seam};

/// A layer.
pub struct Layer {
    pub name: &'static str,
    /// What it counts, and how many of them are a full run.
    pub unit: &'static str,
    pub enough: u64,
    /// Its part of the time; of a layer that is nothing unless it is whole, none: it takes what it takes.
    pub share: Option<u32>,
    /// What it needs of the machine and does not find.
    pub missing: fn() -> Option<String>,
    /// Makes the case of this number; `false` where there is none of that number, and none after it.
    pub case: fn(u64, &mut Tally) -> bool,
}

pub const LAYERS: &[Layer] = &[
    Layer {
        name: "seam",
        unit: "faults",
        enough: 50_000,
        share: Some(15),
        missing: nothing,
        case: seam::case,
    },
    Layer {
        name: "process",
        unit: "kills",
        enough: 20_000,
        share: Some(20),
        missing: nothing,
        case: process::case,
    },
    Layer {
        name: "fs",
        unit: "crashes",
        enough: 2_000,
        share: Some(20),
        missing: fs::missing,
        case: fs::case,
    },
    Layer {
        name: "blocklog",
        unit: "losses of power",
        enough: 20_000,
        share: Some(20),
        missing: blocklog::missing,
        case: blocklog::case,
    },
    Layer { name: "mutants", unit: "mutants", enough: 5, share: None, missing: nothing, case: mutants::case },
    Layer {
        name: "flips",
        unit: "bits",
        enough: u64::MAX,
        share: Some(20),
        missing: nothing,
        case: flips::case,
    },
];

fn nothing() -> Option<String> {
    None
}
