//! Makes a damaged or hostile file of a good one.
#![allow(dead_code, reason = "each test binary uses a part of it")]

mod hdf5;
mod text;
mod zip;

use std::ops::Range;

pub use text::{mutate_json, mutate_template};

use crate::layout_support::Random;

/// A good file, and what is known of its inside.
pub struct Seed {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Structures of HDF5 that a checksum follows, as lengths without that.
    sums: Vec<Range<usize>>,
    /// Where the records of a zip archive begin.
    records: Vec<usize>,
    /// The JSON: all of an index, the header of a `.safetensors` file.
    json: Option<Range<usize>>,
}

impl Seed {
    pub fn new(name: &str, bytes: Vec<u8>) -> Seed {
        let is_zip = bytes.starts_with(b"PK");
        let records = if is_zip { zip::records(&bytes) } else { vec![] };
        Seed { name: name.into(), sums: hdf5::sums(&bytes), records, json: text::json(&bytes), bytes }
    }
}

/// How a file was changed.
#[derive(Default, Debug)]
pub struct Change {
    /// The bytes that were overwritten, before anything was cut or moved.
    pub runs: Vec<Range<usize>>,
    /// It has another length, or bytes moved.
    pub moved: bool,
    /// Checksums were set right again.
    pub repaired: bool,
}

impl Change {
    /// One number of at most 8 bytes is wrong, or the end is missing: what a checksum for every tensor finds.
    pub fn is_single(&self) -> bool {
        !self.moved && !self.repaired && self.runs.len() <= 1 && self.runs.iter().all(|run| run.len() <= 8)
    }
}

/// Changes a copy of a seed; `others` are what bytes are taken from, too.
pub fn mutate(seed: &Seed, others: &[Seed], r: &mut Random) -> (Vec<u8>, Change) {
    let mut bytes = seed.bytes.clone();
    let mut change = Change::default();
    match r.below(16) {
        0 | 1 => {
            let at = r.below(bytes.len());
            bytes[at] ^= 1 << r.below(8);
            change.runs.push(at..at + 1);
        }
        2 => {
            let len = r.below(bytes.len());
            bytes.truncate(len);
        }
        3 => resize(&mut bytes, others, r, &mut change),
        4 => {
            move_block(&mut bytes, r);
            change.moved = true;
        }
        5..10 if seed.json.is_some() => {
            text::mutate_part(&mut bytes, seed.json.clone().unwrap_or_default(), r);
            change.moved = true;
        }
        _ => {
            for _ in 0..r.pick(&[1, 1, 1, 2, 4]) {
                let runs = match r.below(3) {
                    0 if !seed.records.is_empty() => zip::change_field(&mut bytes, &seed.records, r),
                    _ => vec![set_number(&mut bytes, r)],
                };
                change.runs.extend(runs);
            }
        }
    }
    // Behind the checksums is where the parsers are: without them, most changes would end there.
    if !change.moved && r.below(3) > 0 {
        change.repaired |= hdf5::repair(&mut bytes, &seed.sums);
        change.repaired |= r.below(2) == 0 && zip::repair(&mut bytes, &seed.records);
    }
    (bytes, change)
}

/// Overwrites a number somewhere, mostly where one can be.
fn set_number(bytes: &mut [u8], r: &mut Random) -> Range<usize> {
    let width = r.pick(&[1, 2, 4, 8, 8]).min(bytes.len());
    let mut at = r.below(bytes.len() - width + 1);
    if r.below(4) > 0 {
        at -= at % r.pick(&[width, 2]).min(width);
    }
    let here = number(bytes, at, width);
    let there = number(bytes, r.below(bytes.len() - width + 1) / 8 * 8, width);
    let len = bytes.len() as u64;
    let value = interesting(r, here, there, len);
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    at..at + width
}

/// A number that is likely to be wrong, in the place of `here`, in a file of `len` bytes with `there` in it.
pub fn interesting(r: &mut Random, here: u64, there: u64, len: u64) -> u64 {
    let bit = r.below(64);
    let values = [
        0,
        1,
        0xff,
        0xffff,
        0xffff_ffff,
        u64::MAX,
        u64::MAX - 1,
        i64::MAX as u64,
        1 << bit,
        (1 << bit) - 1,
        here.wrapping_add(1),
        here.wrapping_sub(1),
        here.wrapping_mul(2),
        here ^ 1 << bit,
        here.wrapping_add(8),
        there,
        there.wrapping_add(8),
        len,
        len - 1,
        len + 1,
        len.wrapping_sub(here),
        len - len % 8,
    ];
    r.pick(&values)
}

fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    let mut out = [0; 8];
    if let Some(found) = bytes.get(at..at + width) {
        out[..width].copy_from_slice(found);
    }
    u64::from_le_bytes(out)
}

/// Takes bytes out or puts some in, of this file or of another.
fn resize(bytes: &mut Vec<u8>, others: &[Seed], r: &mut Random, change: &mut Change) {
    change.moved = true;
    let at = r.below(bytes.len());
    match r.below(3) {
        0 => {
            let end = (at + 1 + r.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        1 => {
            let more = vec![r.pick(&[0, 0xff, 0x41]); 1 + r.below(64)];
            bytes.splice(at..at, more);
        }
        _ => {
            let other = &others[r.below(others.len())].bytes;
            let from = if r.below(2) == 0 { at.min(other.len()) } else { r.below(other.len()) };
            let len = 1 + r.below((other.len() - from).clamp(1, 4096));
            let piece = other.get(from..from + len).unwrap_or_default().to_vec();
            let end = (at + piece.len()).min(bytes.len());
            bytes.splice(at..end, piece);
        }
    }
}

/// Copies or swaps blocks of the file.
fn move_block(bytes: &mut [u8], r: &mut Random) {
    let len = r.pick(&[8, 16, 40, 64, 512, 2048]).min(bytes.len() / 2);
    let aligned = |at: usize| at - at % 8;
    let (a, b) = (aligned(r.below(bytes.len() - len + 1)), aligned(r.below(bytes.len() - len + 1)));
    if r.below(2) == 0 {
        bytes.copy_within(a..a + len, b);
    } else {
        for i in 0..len {
            bytes.swap(a + i, b + i);
        }
    }
}
