//! Deflated members. Nothing is allocated from the size that the archive claims.

use flate2::{Decompress, FlushDecompress, Status};

use super::pieces;
use crate::error::Result;
use crate::memory;
use crate::reader::source::{Source, damaged};

/// Bytes that are unpacked at a time.
const PIECE: usize = 64 << 10;

/// Unpacks `part`, which must give exactly `size` bytes, to `sink`, piece by piece.
pub(super) fn inflate(part: &Source, size: u64, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let out = memory::filled(0, PIECE)?;
    let mut stream = Stream { inner: Decompress::new(false), size, out, ended: false };
    pieces(part, &mut |packed| {
        let mut rest = packed;
        while !rest.is_empty() {
            let taken = stream.step(rest, FlushDecompress::None, sink)?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    })?;
    // The last bytes may unpack to more than one piece.
    while !stream.ended {
        stream.step(&[], FlushDecompress::Finish, sink)?;
    }
    match stream.inner.total_out() {
        found if found == size => Ok(()),
        found => Err(damaged(format!("it unpacks to {found} bytes, and is said to have {size}"))),
    }
}

struct Stream {
    inner: Decompress,
    /// The most bytes that it may give.
    size: u64,
    out: Vec<u8>,
    ended: bool,
}

impl Stream {
    /// Unpacks at most a piece; returns how many bytes of `input` that took.
    fn step(
        &mut self,
        input: &[u8],
        flush: FlushDecompress,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<usize> {
        if self.ended {
            return Err(damaged("its compressed bytes go on behind their end"));
        }
        let (read, written) = (self.inner.total_in(), self.inner.total_out());
        let status = self.inner.decompress(input, &mut self.out, flush);
        let status = status.map_err(|e| damaged(format!("it cannot be unpacked: {e}")))?;
        self.ended = status == Status::StreamEnd;
        let taken = (self.inner.total_in() - read) as usize;
        let given = (self.inner.total_out() - written) as usize;
        if self.inner.total_out() > self.size {
            let size = self.size;
            return Err(damaged(format!("it unpacks to more than the {size} bytes that it is said to have")));
        }
        if taken == 0 && given == 0 && !self.ended {
            return Err(damaged("its compressed bytes are cut off"));
        }
        sink(self.out.get(..given).unwrap_or_default())?;
        Ok(taken)
    }
}
