//! What the layouts' tests share: random schemas, and files as bytes.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod hdf5;
#[path = "../scratch/mod.rs"]
mod scratch;

pub use scratch::Scratch;

use ckpt::layout::{Layout, Schema, Source, Stamp};
use ckpt::tensor::Dtype;

/// SplitMix64: the same numbers on every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A name of a component: short, long, with any UTF-8.
fn component(r: &mut Random) -> String {
    match r.below(12) {
        0 => "vars".into(),
        1 => "löffel".into(),
        2 => "重み".into(),
        3 => format!("🦀 {}", r.below(5)),
        4 => "x".repeat(1 + r.below(300)),
        5 => "é".repeat(1 + r.below(200)),
        6 => format!("a\n\t\"\\{}", r.below(9)),
        7 => format!("{}.{}", r.below(3), r.below(3)),
        _ => format!("{}", r.below(40)),
    }
}

fn shape(r: &mut Random) -> Vec<u64> {
    match r.below(12) {
        0 => vec![],
        1 => vec![0],
        2 => vec![3, 0, 1 << 40],
        3 => vec![1; 32],
        4 => [vec![2; 8], vec![1; 24]].concat(),
        5 => vec![5000 + r.below(3000) as u64],
        _ => (0..r.below(5)).map(|_| 1 + r.below(7) as u64).collect(),
    }
}

/// A schema of about `n` tensors; some groups have many children.
pub fn random_schema(r: &mut Random, n: usize) -> Schema {
    let mut schema = Schema::new();
    let mut groups = vec![String::new()];
    for _ in 0..n / 3 + 1 {
        let parent = groups[r.below(groups.len())].clone();
        groups.push(format!("{parent}{}/", component(r)));
    }
    for _ in 0..n {
        // Half of all in few groups, so that these get symbol tables.
        let group = if r.below(2) == 0 { r.below(2) } else { r.below(groups.len()) };
        let path = format!("{}{}", groups[group], component(r));
        let _ = schema.add(&path, r.pick(&Dtype::ALL), &shape(r)); // refused: taken
    }
    for group in &groups {
        if r.below(2) == 0 {
            let name = component(r).repeat(r.pick(&[0, 1, 1, 1, 30]));
            let _ = schema.set_name(group.trim_end_matches('/'), &name); // refused: a tensor is in the way
        }
    }
    schema
}

/// Bytes for each tensor; booleans are 0 or 1.
pub fn data(schema: &Schema, r: &mut Random) -> Vec<Vec<u8>> {
    let mask = |dtype| if dtype == Dtype::Bool { 1 } else { 0xff };
    let bytes = |t: &ckpt::tensor::TensorSpec| {
        let salt = r.next();
        (0..t.nbytes()).map(|i| (i.wrapping_mul(salt | 1) >> 7) as u8 & mask(t.dtype)).collect()
    };
    schema.tensors().iter().map(bytes).collect()
}

/// A date for the stamps.
pub const DATE: [u16; 6] = [2026, 11, 24, 21, 47, 30];

/// The bytes of the file: seals the layout and follows its extents, checking what they promise.
pub fn materialize(layout: &mut Layout, data: &[Vec<u8>], state: &[u8]) -> Vec<u8> {
    let crcs: Vec<u32> = data.iter().map(|d| crc32fast::hash(d)).collect();
    layout.seal(&crcs, &Stamp { state: state.to_vec(), date: DATE }).unwrap();
    let mut file = vec![0; layout.size() as usize];
    let mut end = 0;
    let mut seen = vec![false; data.len()];
    for extent in layout.extents() {
        assert!(extent.len > 0 && extent.offset >= end, "{extent:?} begins before {end}");
        let bytes: &[u8] = match extent.source {
            Source::Literal(i) => &layout.literals()[i],
            Source::Tensor(i) => {
                assert_eq!(extent.offset % if extent.len >= 1 << 20 { 4096 } else { 64 }, 0);
                assert!(!std::mem::replace(&mut seen[i], true));
                &data[i]
            }
        };
        assert_eq!(extent.len, bytes.len() as u64, "{extent:?}");
        end = extent.offset + extent.len;
        file[extent.offset as usize..end as usize].copy_from_slice(bytes);
    }
    assert_eq!(end, layout.size());
    for (seen, bytes) in seen.iter().zip(data) {
        assert_eq!(*seen, !bytes.is_empty());
    }
    file
}
