//! The superblock (version 0), the first bytes of an HDF5 file.

use super::super::bytes::Put;
use super::UNDEFINED;
use super::group::{self, INTERNAL_K, LEAF_K, Object};

/// What every HDF5 file begins with.
pub(in crate::layout) const SIGNATURE: [u8; 8] = *b"\x89HDF\r\n\x1a\n";

/// Bytes of the superblock.
pub(super) const LEN: usize = 96;

/// The superblock of a file of `end` bytes. The base address stays 0 even where the file has a user block: the
/// library takes the place where it finds the superblock, and the file is whole when it is cut out of that.
pub(super) fn encode(root: Object, end: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(LEN);
    out.put(&SIGNATURE);
    out.put(&[0, 0, 0, 0, 0]); // versions: superblock, free space, root entry, reserved, shared messages
    out.put(&[8, 8, 0]); // bytes of an address and of a length
    out.put_u16(LEAF_K);
    out.put_u16(INTERNAL_K);
    out.put_u32(0); // flags
    out.put_u64(0); // base address
    out.put_u64(UNDEFINED); // free space
    out.put_u64(end);
    out.put_u64(UNDEFINED); // driver information
    group::put_entry(&mut out, 0, root);
    out
}
