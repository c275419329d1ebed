//! What the files of a sharded checkpoint are called.

use super::index;
use crate::error::Result;
use crate::memory;

/// The ending of a shard.
const ENDING: &str = ".weights.h5";

/// Hexadecimal digits of a generation.
const GENERATION_DIGITS: usize = 16;

/// Decimal digits of a shard's number, at least.
const NUMBER_DIGITS: usize = 5;

/// Whether a file with this name may be an index, be it one that somebody has put aside: `m.weights.json.bak`.
pub fn may_be_index(name: &str) -> bool {
    name.to_ascii_lowercase().contains(".json")
}

/// What stands in the text of every index that names this companion.
pub fn mention(companion: &str) -> String {
    let generation =
        before_number(companion).and_then(|rest| rest.rsplit_once('_')).map(|(_, digits)| digits);
    if let Some(digits) = generation.filter(|digits| is_generation(digits)) {
        return digits.to_owned();
    }
    let mut name = Vec::new();
    // A name is short, and ASCII as it stands in an index.
    let _ = index::put_string(&mut name, companion);
    String::from_utf8(name).unwrap_or_default()
}

/// The companion that Keras opens beside an index called so, whatever that says.
pub fn opened_for(index: &str) -> String {
    Names::new(index, 0).opened_by_keras()
}

/// Those of `names`, all that are in the directory, that saves to an index called so have put there as its shards.
pub fn shards_beside<'n>(index: &str, names: &'n [String]) -> Result<Vec<&'n str>> {
    Names::new(index, 0).superseded(names)
}

/// The names of the files of one save.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// The index.
    file: String,
    /// What the others begin with.
    base: String,
    generation: u64,
}

impl Names {
    /// Of the save of this generation whose index is called `file`.
    pub(super) fn new(file: &str, generation: u64) -> Names {
        Names { file: file.to_owned(), base: base(file), generation }
    }

    /// The shard with this number.
    pub(super) fn shard(&self, number: usize) -> String {
        let Names { base, generation, .. } = self;
        format!("{base}_{generation:0GENERATION_DIGITS$x}_{number:0NUMBER_DIGITS$}{ENDING}")
    }

    /// The file that Keras opens before it has looked into the index, and so fails without.
    pub(super) fn opened_by_keras(&self) -> String {
        format!("{}_{:0NUMBER_DIGITS$}{ENDING}", self.base, 0)
    }

    /// Those of `names`, all that are in the directory, that belong to other saves of this index.
    pub(super) fn superseded<'n>(&self, names: &'n [String]) -> Result<Vec<&'n str>> {
        let others = names.iter().filter(|name| name.ends_with(".json") && **name != self.file);
        let others = memory::set(others.map(|name| base(name)))?;
        // Of which of two indices a shard is, only they could say.
        if others.contains(&self.base) {
            return Ok(Vec::new());
        }
        let is_of_other_save = |name: &&str| {
            self.generation_of(name).is_some_and(|digits| {
                // Beside an index that is called so, it is a shard of Keras'.
                u64::from_str_radix(digits, 16) != Ok(self.generation)
                    && !others.contains(&format!("{}_{digits}", self.base))
            })
        };
        memory::collect(names.iter().map(String::as_str).filter(is_of_other_save))
    }

    /// The digits of the generation of a shard of this index.
    fn generation_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        let generation = before_number(name)?.strip_prefix(self.base.as_str())?.strip_prefix('_')?;
        is_generation(generation).then_some(generation)
    }
}

/// What is before the number in the name of a shard.
fn before_number(name: &str) -> Option<&str> {
    let (rest, number) = name.strip_suffix(ENDING)?.rsplit_once('_')?;
    let fits = number.len() >= NUMBER_DIGITS && number.bytes().all(|b| b.is_ascii_digit());
    fits.then_some(rest)
}

fn is_generation(digits: &str) -> bool {
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    digits.len() == GENERATION_DIGITS && digits.bytes().all(is_hex)
}

/// What Keras begins the names of the shards with where the index is called `file`: its stem, in Python's sense,
/// without any `.weights`.
fn base(file: &str) -> String {
    let stem = match file.rfind('.') {
        Some(dot) if dot > 0 && dot + 1 < file.len() => &file[..dot],
        _ => file,
    };
    stem.replace(".weights", "")
}
