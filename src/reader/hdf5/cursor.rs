//! Little-endian numbers from a slice, each bounded by it.

use crate::error::Result;
use crate::reader::source::damaged;

/// What is left of a structure that is being decoded.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let Some((head, tail)) = self.rest.split_at_checked(n) else {
            return Err(damaged("a structure in its HDF5 metadata is cut off"));
        };
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of 1, 2, 4 or 8 bytes: `width` is the logarithm.
    pub fn uint(&mut self, width: u8) -> Result<u64> {
        match width {
            0 => self.u8().map(u64::from),
            1 => self.u16().map(u64::from),
            2 => self.u32().map(u64::from),
            _ => self.u64(),
        }
    }

    /// A number of `bytes` bytes, at most 8.
    pub fn number(&mut self, bytes: usize) -> Result<u64> {
        let mut out = [0; 8];
        match out.get_mut(..bytes) {
            Some(head) => head.copy_from_slice(self.take(bytes)?),
            None => return Err(damaged(format!("a number in its HDF5 metadata has {bytes} bytes"))),
        }
        Ok(u64::from_le_bytes(out))
    }

    /// Takes `magic`, or fails with the name of the structure that should stand here.
    pub fn magic(&mut self, magic: &[u8], name: &str) -> Result<()> {
        match self.rest.strip_prefix(magic) {
            Some(tail) => {
                self.rest = tail;
                Ok(())
            }
            None => Err(damaged(format!("there is no {name} where its HDF5 metadata points to one"))),
        }
    }
}

/// The text before the first NUL.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}
