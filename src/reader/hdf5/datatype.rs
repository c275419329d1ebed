//! Datatypes: which of them are exactly one of ours, and how their elements become ours.

use super::cursor::{Cursor, until_nul};
use crate::error::Result;
use crate::reader::source::damaged;
use crate::tensor::Dtype;

/// What a datatype message says.
pub(super) enum Datatype {
    /// A number or a boolean.
    Known { dtype: Dtype, encoding: Encoding },
    /// Two opaque bytes: bfloat16, if an attribute says so.
    Opaque16,
    /// No element of a tensor: text, a compound, a float of an odd layout, ...
    Other,
}

/// How an element stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    /// Bytes of an element.
    pub size: usize,
    /// Most significant byte first.
    pub big_endian: bool,
}

impl Encoding {
    /// As it is in memory.
    pub fn plain(dtype: Dtype) -> Encoding {
        Encoding { size: dtype.size(), big_endian: false }
    }

    /// Converts the elements in `src` to as many of `dtype` in `dst`.
    pub fn convert(self, dtype: Dtype, src: &[u8], dst: &mut [u8]) -> Result<()> {
        if self == Encoding::plain(dtype) {
            dst.copy_from_slice(src);
            return Ok(());
        }
        match (self.size, dtype.size()) {
            (2, 2) => swap::<2>(src, dst),
            (4, 4) => swap::<4>(src, dst),
            (8, 8) => swap::<8>(src, dst),
            _ => return self.narrow(src, dst),
        }
        Ok(())
    }

    /// Booleans of several bytes.
    fn narrow(self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        for (from, to) in src.chunks_exact(self.size).zip(dst) {
            match self.number(from)? {
                value @ (0 | 1) => *to = value as u8,
                value => return Err(damaged(format!("it is a boolean, and one of its values is {value}"))),
            }
        }
        Ok(())
    }

    /// The number that an element is.
    fn number(self, element: &[u8]) -> Result<u64> {
        let mut bytes = [0; 8];
        let bytes = bytes.get_mut(..element.len()).unwrap_or_default();
        bytes.copy_from_slice(element);
        if self.big_endian {
            bytes.reverse();
        }
        Cursor::new(bytes).number(element.len())
    }
}

/// Elements of the other byte order.
fn swap<const N: usize>(src: &[u8], dst: &mut [u8]) {
    for (from, to) in src.as_chunks::<N>().0.iter().zip(dst.as_chunks_mut::<N>().0) {
        *to = *from;
        to.reverse();
    }
}

/// An IEEE float: its bytes, the place of its sign, and its layout: offset, precision, exponent's place and size,
/// mantissa's place and size, and the bias.
const FLOATS: [(Dtype, u32, u8, [u8; 12]); 4] = [
    (Dtype::F16, 2, 15, [0, 0, 16, 0, 10, 5, 0, 10, 15, 0, 0, 0]),
    (Dtype::F32, 4, 31, [0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0]),
    (Dtype::F64, 8, 63, [0, 0, 64, 0, 52, 11, 0, 52, 0xff, 3, 0, 0]),
    (Dtype::Bf16, 2, 15, [0, 0, 16, 0, 7, 8, 0, 7, 127, 0, 0, 0]),
];

/// Decodes a datatype message.
pub(super) fn read(body: &[u8]) -> Result<Datatype> {
    let mut c = Cursor::new(body);
    let head = c.u8()?;
    let (class, version) = (head & 0x0f, head >> 4);
    let bits = [c.u8()?, c.u8()?, c.u8()?];
    let size = c.u32()?;
    if !(1..=5).contains(&version) {
        return Err(damaged(format!("a datatype has the unknown version {version}")));
    }
    let known = match class {
        0 => integer(bits, size, c.take(4)?),
        1 => float(bits, size, c.take(12)?),
        5 if size == 2 => return Ok(Datatype::Opaque16),
        8 => boolean(version, u16::from_le_bytes([bits[0], bits[1]]), size, c)?,
        _ => None,
    };
    Ok(known.map_or(Datatype::Other, |(dtype, encoding)| Datatype::Known { dtype, encoding }))
}

fn float(bits: [u8; 3], size: u32, properties: &[u8]) -> Option<(Dtype, Encoding)> {
    let known = FLOATS.iter().find(|(_, s, sign, layout)| {
        // No padding, and an implied first bit of the mantissa.
        *s == size && matches!(bits, [0x20 | 0x21, at, 0] if at == *sign) && layout == properties
    });
    known.map(|f| (f.0, Encoding { size: f.0.size(), big_endian: bits[0] & 1 != 0 }))
}

/// An integer that fills its bytes.
fn integer(bits: [u8; 3], size: u32, properties: &[u8]) -> Option<(Dtype, Encoding)> {
    let precision = u16::try_from(size.checked_mul(8)?).ok()?.to_le_bytes();
    let [order @ (0 | 1 | 8 | 9), 0, 0] = bits else { return None };
    if properties != [0, 0, precision[0], precision[1]] {
        return None;
    }
    let dtype = Dtype::integer(usize::try_from(size).ok()?, order & 8 != 0)?;
    // The order of a single byte does not matter.
    Some((dtype, Encoding { size: dtype.size(), big_endian: order & 1 != 0 && size > 1 }))
}

/// h5py's boolean: an enumeration, FALSE = 0, TRUE = 1, over an integer.
fn boolean(version: u8, members: u16, size: u32, mut c: Cursor) -> Result<Option<(Dtype, Encoding)>> {
    let mut base = Cursor::new(c.take(12)?);
    let class = base.u8()? & 0x0f;
    let bits = [base.u8()?, base.u8()?, base.u8()?];
    let base_size = base.u32()?;
    let Some((_, encoding)) = integer(bits, base_size, base.rest()) else { return Ok(None) };
    if members != 2 || class != 0 || base_size != size {
        return Ok(None);
    }
    let mut names = [&[][..]; 2];
    for name in &mut names {
        *name = until_nul(c.rest());
        let len = name.len() + 1;
        c.take(if version < 3 { len.next_multiple_of(8) } else { len })?;
    }
    let mut values = [0; 2];
    for value in &mut values {
        *value = encoding.number(c.take(encoding.size)?)?;
    }
    Ok(match (names, values) {
        ([b"FALSE", b"TRUE"], [0, 1]) | ([b"TRUE", b"FALSE"], [1, 0]) => Some((Dtype::Bool, encoding)),
        _ => None,
    })
}
