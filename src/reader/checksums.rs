//! The checksums that this library writes, by the keys of the tensors' paths.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::memory;
use crate::reader::source::damaged;
use crate::tensor::{TensorSpec, path_key};

/// The table of checksums: pairs of a path's key and a tensor's checksum, sorted. Two paths may share a key.
#[derive(Debug, Default)]
pub(super) struct Checksums {
    rows: Vec<(u64, u64)>,
}

impl Checksums {
    /// From its rows, in any order: a path's key, a tensor's checksum.
    pub fn new(rows: impl IntoIterator<Item = (u64, u64)>) -> Result<Checksums> {
        let mut rows = memory::collect(rows)?;
        rows.sort_unstable();
        Ok(Checksums { rows })
    }

    /// From the bytes of the dataset: rows of two little-endian numbers.
    pub fn from_bytes(bytes: &[u8]) -> Result<Checksums> {
        let (rows, _) = bytes.as_chunks::<16>();
        let number = |row: &[u8; 16], half: usize| {
            row.iter().skip(half * 8).take(8).rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
        };
        Checksums::new(rows.iter().map(|row| (number(row, 0), number(row, 1))))
    }

    /// The rows for this path: none where it has no checksum.
    pub fn of(&self, path: &str) -> Rows<'_> {
        let key = path_key(path);
        let start = self.rows.partition_point(|row| row.0 < key);
        let rows = self.rows.get(start..).unwrap_or_default();
        Rows(rows.get(..rows.iter().take_while(|row| row.0 == key).count()).unwrap_or_default())
    }

    /// Is there a checksum for this path?
    pub fn covers(&self, path: &str) -> bool {
        !self.of(path).is_empty()
    }

    /// Fails if there are checksums for this tensor and none of them is that of its bytes, whose CRC-32 is
    /// `data_crc`.
    pub fn check(&self, spec: &TensorSpec, data_crc: u32) -> Result<()> {
        self.of(&spec.path).check(spec, spec.checksum(data_crc))
    }
}

/// The checksums that a tensor may have.
#[derive(Clone, Copy, Default)]
pub(super) struct Rows<'a>(&'a [(u64, u64)]);

impl Rows<'_> {
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Fails if there are some, and none of them is the one that was found.
    pub fn check(self, spec: &TensorSpec, found: u32) -> Result<()> {
        let Some((_, expected)) = self.0.last() else { return Ok(()) };
        if self.0.iter().any(|(_, sum)| *sum == u64::from(found)) {
            return Ok(());
        }
        Err(damaged(format!(
            "tensor '{}' does not match its checksum (expected {expected:08x}, found {found:08x}): it is damaged, or \
             another program has changed it (CKPT_LOAD_UNVERIFIED loads it all the same)",
            spec.path
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Dtype;

    #[test]
    fn finds_rows_in_any_order_and_among_equal_keys() {
        let spec = TensorSpec { path: "a/b".into(), dtype: Dtype::F32, shape: vec![2, 3] };
        let other = TensorSpec { path: "c".into(), ..spec.clone() };
        let good = u64::from(spec.checksum(7));
        let rows = [(u64::MAX, 1), (path_key("a/b"), 99), (path_key("a/b"), good), (0, 5)];
        let bytes: Vec<u8> =
            rows.iter().flat_map(|r| [r.0.to_le_bytes(), r.1.to_le_bytes()].concat()).collect();
        let sums = Checksums::from_bytes(&bytes).unwrap();
        assert!(sums.covers("a/b") && !sums.covers("c"));
        sums.check(&spec, 7).unwrap();
        sums.check(&other, 1).unwrap();
        let error = sums.check(&spec, 8).unwrap_err();
        assert!(error.message().contains("tensor 'a/b'"), "{error}");
    }
}
