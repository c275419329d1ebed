//! The CRC-32 of each tensor, whose parts are summed by several threads in any order.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;

use super::tiles::Part;
use crate::error::Result;
use crate::memory;

/// The sums so far of the tensors of one file.
pub(super) struct Sums {
    /// Those of tensors that were summed whole.
    whole: Vec<AtomicU32>,
    parts: Mutex<Vec<PartSum>>,
}

/// The sum of a part of a tensor.
struct PartSum {
    tensor: usize,
    offset: u64,
    len: u64,
    crc: u32,
}

impl Sums {
    /// For `tensors` tensors; that of one without bytes is 0.
    pub fn new(tensors: usize) -> Result<Sums> {
        let whole = memory::collect((0..tensors).map(|_| AtomicU32::new(0)))?;
        Ok(Sums { whole, parts: Mutex::default() })
    }

    /// Takes the sum of a part. Every byte of a tensor is in one part.
    pub fn add(&self, part: &Part, crc: u32) -> Result<()> {
        if part.whole {
            self.whole[part.tensor].store(crc, Relaxed);
            Ok(())
        } else {
            let (tensor, offset, len) = (part.tensor, part.offset, part.len as u64);
            memory::push(&mut self.parts.lock(), PartSum { tensor, offset, len, crc })
        }
    }

    /// The CRC-32s, in the order of the tensors.
    pub fn finish(self) -> Result<Vec<u32>> {
        let mut crcs = memory::collect(self.whole.into_iter().map(AtomicU32::into_inner))?;
        let mut parts = self.parts.into_inner();
        parts.sort_unstable_by_key(|p| (p.tensor, p.offset));
        for of_one in parts.chunk_by(|a, b| a.tensor == b.tensor) {
            let mut whole = crc32fast::Hasher::new();
            for part in of_one {
                whole.combine(&crc32fast::Hasher::new_with_initial_len(part.crc, part.len));
            }
            crcs[of_one[0].tensor] = whole.finalize();
        }
        Ok(crcs)
    }
}
