//! Every bit of a checkpoint flipped, one at a time: it is noticed, or all that the checkpoint says is as before.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ckpt::reader::Reader;

use crate::scratch::{Place, Scratch, files};
use crate::tally::Tally;
use crate::weights::Weights;

/// Bytes of a tensor, so that the checkpoint has 256 KiB.
const BYTES: u64 = 240 << 10;

/// Bits of a case.
const TOGETHER: u64 = 4096;

const NAMES: [&str; 5] = ["m.keras", "m.weights.h5", "m.h5", "m.safetensors", "m.weights.json"];

struct Victim {
    _scratch: Scratch,
    path: PathBuf,
    /// The files of the checkpoint, and how many bits there are before each.
    files: Vec<(PathBuf, Vec<u8>, u64)>,
    bits: u64,
    truth: String,
    weights: Weights,
}

// SAFETY: the memory of the weights is only read from here on.
unsafe impl Sync for Victim {}
// SAFETY: as above.
unsafe impl Send for Victim {}

/// The checkpoints, one a format.
fn victims() -> &'static [Victim] {
    static VICTIMS: OnceLock<Vec<Victim>> = OnceLock::new();
    VICTIMS.get_or_init(|| NAMES.iter().map(|name| Victim::new(name)).collect())
}

pub fn case(case: u64, tally: &mut Tally) -> bool {
    let victims = victims();
    let cases: u64 = victims.iter().map(|victim| victim.bits.div_ceil(TOGETHER)).sum();
    // In an order in which few of them are a part of each kind.
    let mut number = case.wrapping_mul(1_000_003) % cases;
    for victim in victims {
        let own = victim.bits.div_ceil(TOGETHER);
        if number < own {
            let end = ((number + 1) * TOGETHER).min(victim.bits);
            for bit in number * TOGETHER..end {
                match victim.flip(bit) {
                    Ok(what) => tally.count(what, 1),
                    Err(e) => tally.finding(case, e),
                }
                tally.count("bits", 1);
            }
            return case + 1 < cases;
        }
        number -= own;
    }
    false
}

impl Victim {
    fn new(name: &str) -> Victim {
        let scratch = Scratch::new(Place::Memory).unwrap_or_else(|e| panic!("no directory: {e}"));
        let path = scratch.path().join(name);
        let mut weights = Weights::new(BYTES);
        weights.fill(7);
        weights.model.save(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut bits = 0;
        let files = files(scratch.path()).into_iter().map(|path| {
            let bytes = fs::read(&path).unwrap_or_default();
            bits += bytes.len() as u64 * 8;
            let before = bits - bytes.len() as u64 * 8;
            (path, bytes, before)
        });
        let files = files.collect();
        let truth = Reader::open(&path).map_err(|e| e.message().to_owned());
        let truth =
            truth.and_then(|reader| says(&reader, &weights)).unwrap_or_else(|e| panic!("{name}: {e}"));
        Victim { _scratch: scratch, path, files, bits, truth, weights }
    }

    /// Flips a bit, looks, flips it back; what became of it.
    fn flip(&self, bit: u64) -> Result<&'static str, String> {
        let place = self.files.partition_point(|(.., before)| *before <= bit) - 1;
        let (path, bytes, before) = &self.files[place];
        let (at, mask) = ((bit - before) / 8, 1u8 << (bit % 8));
        let byte = bytes[at as usize];
        let file = fs::OpenOptions::new().write(true).open(path).map_err(|e| e.to_string())?;
        let put = |byte: u8| file.write_all_at(&[byte], at).map_err(|e| e.to_string());
        put(byte ^ mask)?;
        let verdict = look(&self.path, &self.truth, &self.weights);
        put(byte)?;
        verdict.map_err(|e| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            format!("{name}, byte {at} of {}, mask {mask:#04x}: {e}", bytes.len())
        })
    }
}

fn look(path: &Path, truth: &str, weights: &Weights) -> Result<&'static str, String> {
    let Ok(reader) = Reader::open(path) else { return Ok("refused") };
    if reader.verify().is_err() {
        return Ok("noticed");
    }
    match says(&reader, weights) {
        Ok(said) if said == *truth => Ok("harmless"),
        Ok(said) => {
            let differs = said.lines().zip(truth.lines()).find(|(a, b)| a != b);
            Err(format!("passes, and says {:?}", differs.unwrap_or((&said, truth))))
        }
        Err(e) => Err(format!("passes verify, and then: {e}")),
    }
}

/// All that a checkpoint says.
fn says(reader: &Reader, weights: &Weights) -> Result<String, String> {
    let text = |e: ckpt::error::Error| e.message().to_owned();
    let time = weights.time_in(reader)?;
    let mut names: Vec<(&str, &str)> = reader.names().collect();
    names.sort_unstable();
    let state = reader.state().map_err(text)?.map(String::from_utf8_lossy);
    let (config, metadata) = (reader.config().map_err(text)?, reader.metadata().map_err(text)?);
    let assets = reader.assets().map_err(text)?;
    Ok(format!("{time}\n{names:?}\n{state:?}\n{config:?}\n{metadata:?}\n{assets:?}\n{:?}", reader.unlisted()))
}
