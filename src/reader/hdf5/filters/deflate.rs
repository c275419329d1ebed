//! gzip, as HDF5 calls it: a zlib stream.

use flate2::{Decompress, FlushDecompress, Status};

use crate::error::Result;
use crate::reader::source::damaged;

/// Two bits can stand for 258 bytes.
pub(super) const RATIO: u64 = 1032;

/// Unpacks `src` into `dst`, which it must not exceed; returns how many bytes there are.
pub(super) fn undo(src: &[u8], dst: &mut [u8]) -> Result<usize> {
    let mut inflate = Decompress::new(true);
    match inflate.decompress(src, dst, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) => Ok(usize::try_from(inflate.total_out()).unwrap_or(0)),
        Ok(_) => {
            Err(damaged(format!("a chunk of it is cut off, or unpacks to more than {} bytes", dst.len())))
        }
        Err(e) => Err(damaged(format!("a chunk of it cannot be unpacked: {e}"))),
    }
}
