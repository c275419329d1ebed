//! The layers by their names, with how much of each makes a full run.

use crate::tally::Tally;

/// A layer.
pub struct Layer {
    pub name: &'static str,
    /// What it counts, and how many of them are a full run.
    pub unit: &'static str,
    pub enough: u64,
    /// Its part of the time, in hundredths.
    pub share: u32,
    /// What it needs of the machine and does not find.
    pub missing: fn() -> Option<String>,
    /// Makes the case of this number; `false` where there is none of that number, and none after it.
    pub case: fn(u64, &mut Tally) -> bool,
}

pub const LAYERS: &[Layer] = &[];
