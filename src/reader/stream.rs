//! One tensor from its first byte to its last, in pieces as the caller wants them.
#![forbid(unsafe_code)]

use std::ops::Deref;

use super::hdf5::Place;
use super::load::{self, Scratch};
use super::source::damaged;
use super::{Reader, named, too_large};
use crate::copy;
use crate::error::Result;
use crate::memory;

/// A tensor that is read from its beginning to its end. One that is in the file as it is takes no memory; another is
/// decoded as a whole at the first read, and kept until the last.
pub struct Stream<R> {
    reader: R,
    index: usize,
    nbytes: u64,
    /// Whether the checksum is compared, if there is one.
    verify: bool,
    at: u64,
    /// The CRC-32 of the bytes so far.
    crc: u32,
    decoded: Vec<u8>,
    scratch: Scratch,
}

impl<R: Deref<Target = Reader>> Stream<R> {
    /// The tensor with this index; with `verify`, whose checksum is compared.
    ///
    /// # Errors
    /// `InvalidArgument` if there is none; `Format` if it has no bytes, and its checksum is wrong.
    pub fn new(reader: R, index: usize, verify: bool) -> Result<Stream<R>> {
        let (spec, file, _) = reader.entry(index)?;
        let verify = verify && file.checksums.covers(&spec.path);
        let stream = Stream {
            index,
            nbytes: spec.nbytes(),
            verify,
            at: 0,
            crc: 0,
            decoded: Vec::new(),
            scratch: Scratch::default(),
            reader,
        };
        stream.check()?;
        Ok(stream)
    }

    /// How many of its bytes have been read.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// How many are left.
    pub fn left(&self) -> u64 {
        self.nbytes - self.at
    }

    /// Fills `dst` with the bytes that follow, row-major and little-endian. With the last of them, the checksum is
    /// compared.
    ///
    /// # Errors
    /// `Format` if the bytes do not match their checksum, or there are no more; `dst` holds anything then.
    pub fn read(&mut self, dst: &mut [u8]) -> Result<()> {
        self.fill(dst).map_err(|e| named(&self.reader.source, e))?;
        self.check()
    }

    fn fill(&mut self, dst: &mut [u8]) -> Result<()> {
        let (spec, file, place) = self.reader.entry(self.index)?;
        if dst.len() as u64 > self.left() {
            let (n, left) = (dst.len(), self.left());
            return Err(damaged(format!("tensor '{}' has {left} more bytes, not {n}", spec.path)));
        }
        let end = self.at + dst.len() as u64;
        match place {
            Place::Here(offset) => {
                let crc = self.verify.then_some(&mut self.crc);
                load::read(&file.source, offset + self.at, dst, crc, &mut self.scratch)?;
            }
            place => {
                if self.at == 0 {
                    let len = usize::try_from(self.nbytes).map_err(|_| too_large(spec))?;
                    // No more than such a tensor's share of the file's size, which was checked when it was opened.
                    self.decoded = memory::filled(0, len)?;
                    file.decode(place, spec, &mut self.decoded)
                        .map_err(|e| e.context(format_args!("tensor '{}'", spec.path)))?;
                }
                dst.copy_from_slice(self.decoded.get(self.at as usize..end as usize).unwrap_or_default());
                self.crc = copy::crc32(dst, self.crc);
            }
        }
        self.at = end;
        Ok(())
    }

    /// Compares the checksum, once the last byte has been read.
    fn check(&self) -> Result<()> {
        if !self.verify || self.left() > 0 {
            return Ok(());
        }
        let (spec, file, _) = self.reader.entry(self.index)?;
        let checked = file.checksums.check(spec, self.crc);
        checked.map_err(|e| named(&self.reader.source, e))
    }
}
