//! The CRC-32 of a file from those of its parts.

use std::sync::Arc;

use crc32fast::Hasher;

use crate::error::Result;
use crate::memory;

/// A run of bytes with parts at known places and zeros between them. What the zeros contribute is computed once,
/// so that the CRC of the whole costs one combination a part.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// For each part, bytes from the end of the one before to its own end.
    strides: Arc<Vec<u64>>,
    /// The CRC of the whole, were that of every part 0. CRCs are linear: what the parts' own contribute is
    /// XORed to it.
    rest: u32,
}

impl Parts {
    /// Parts as `(begin, end)`, in order; the run begins at 0 and ends with the last part.
    pub(super) fn new(parts: impl Iterator<Item = (u64, u64)> + Clone) -> Result<Parts> {
        let mut before = 0;
        let strides = parts.clone().map(|(_, end)| {
            let stride = end - before;
            before = end;
            stride
        });
        let mut whole = Parts { strides: Arc::new(memory::collect(strides)?), rest: 0 };
        // A run of zeros everywhere has this CRC, and its parts have theirs.
        whole.rest = zeros(before) ^ whole.combine(parts.map(|(begin, end)| zeros(end - begin)));
        Ok(whole)
    }

    /// The CRC of the whole, given that of each part.
    pub(super) fn combine(&self, crcs: impl Iterator<Item = u32>) -> u32 {
        let mut sum = Hasher::new_with_initial(0);
        for (&stride, crc) in self.strides.iter().zip(crcs) {
            sum.combine(&Hasher::new_with_initial_len(crc, stride));
        }
        sum.finalize() ^ self.rest
    }
}

/// The CRC of `n` zeros.
fn zeros(n: u64) -> u32 {
    let mut ones = Hasher::new_with_initial(u32::MAX);
    ones.combine(&Hasher::new_with_initial_len(0, n));
    !ones.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_have_their_crc() {
        for n in [0, 1, 7, 64, 4096, 100_003] {
            assert_eq!(zeros(n as u64), crc32fast::hash(&vec![0; n]), "{n}");
        }
    }

    #[test]
    fn the_whole_from_its_parts() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| (i * i % 251) as u8).collect();
        let parts = [(0, 100), (100, 101), (164, 164), (192, 1000), (4096, 5000)];
        let mut whole = vec![0; 5000];
        for (a, b) in parts {
            whole[a..b].copy_from_slice(&bytes[a..b]);
        }
        let sum = Parts::new(parts.iter().map(|&(a, b)| (a as u64, b as u64))).unwrap();
        let crcs = parts.iter().map(|&(a, b)| crc32fast::hash(&bytes[a..b]));
        assert_eq!(sum.combine(crcs), crc32fast::hash(&whole));
        assert_eq!(Parts::new([].into_iter()).unwrap().combine([].into_iter()), 0);
    }
}
