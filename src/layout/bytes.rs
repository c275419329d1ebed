//! Appending numbers to a buffer, little-endian, as HDF5 and zip store them.
//!
//! What is of a certain size is appended without asking; whoever appends it has made room for all of it before.

use crate::error::Result;
use crate::memory;

/// What a growing piece of a file can take.
pub(super) trait Put {
    /// Makes room for what is appended next, `n` bytes at most.
    fn make_room(&mut self, n: usize) -> Result<()>;
    /// One byte.
    fn put_u8(&mut self, v: u8);
    /// Two bytes.
    fn put_u16(&mut self, v: u16);
    /// Four bytes.
    fn put_u32(&mut self, v: u32);
    /// Eight bytes.
    fn put_u64(&mut self, v: u64);
    /// Bytes as they are.
    fn put(&mut self, v: &[u8]);
    /// `n` zeros.
    fn put_zeros(&mut self, n: usize);
    /// Zeros up to the next multiple of `unit`, counted from the buffer's start.
    fn align(&mut self, unit: usize);
    /// The place of the next byte, as a file's address.
    fn here(&self) -> u64;
}

impl Put for Vec<u8> {
    fn make_room(&mut self, n: usize) -> Result<()> {
        memory::reserve(self, n)
    }

    fn put_u8(&mut self, v: u8) {
        self.push(v);
    }

    fn put_u16(&mut self, v: u16) {
        self.extend_from_slice(&v.to_le_bytes());
    }

    fn put_u32(&mut self, v: u32) {
        self.extend_from_slice(&v.to_le_bytes());
    }

    fn put_u64(&mut self, v: u64) {
        self.extend_from_slice(&v.to_le_bytes());
    }

    fn put(&mut self, v: &[u8]) {
        self.extend_from_slice(v);
    }

    fn put_zeros(&mut self, n: usize) {
        self.resize(self.len() + n, 0);
    }

    fn align(&mut self, unit: usize) {
        self.resize(self.len().next_multiple_of(unit), 0);
    }

    fn here(&self) -> u64 {
        self.len() as u64
    }
}

/// Overwrites the eight bytes at `at`.
pub(super) fn set_u64(buffer: &mut [u8], at: usize, v: u64) {
    buffer[at..at + 8].copy_from_slice(&v.to_le_bytes());
}
