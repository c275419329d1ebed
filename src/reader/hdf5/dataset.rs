//! Datasets: element type, shape, and where the bytes are.

use super::attribute::{self, Heaps};
use super::cursor::{Cursor, until_nul};
use super::header::{Header, Message, kind};
use super::metadata::Metadata;
use crate::error::Result;
use crate::reader::source::damaged;
use crate::tensor::{Dtype, MAX_RANK, TensorSpec};

/// What a header says of a dataset.
pub(super) enum Dataset {
    /// A tensor, and where its bytes begin, row-major and little-endian.
    Known { dtype: Dtype, shape: Vec<u64>, offset: u64 },
    /// Maybe a tensor, but in a way that only the HDF5 library reads: chunked, big-endian, ...
    Foreign,
    /// No tensor: text, a compound, nothing at all.
    Other,
}

/// Decodes the header of an object that is not a group.
pub(super) fn read(meta: &mut Metadata, heaps: &mut Heaps, header: &Header) -> Result<Dataset> {
    if header.find(kind::EXTERNAL_FILES).is_some() {
        return Err(damaged("its bytes are in external files, which are not read"));
    }
    let (Some(layout), Some(datatype), Some(dataspace)) =
        (header.find(kind::LAYOUT), header.find(kind::DATATYPE), header.find(kind::DATASPACE))
    else {
        return Ok(Dataset::Other);
    };
    let place = place(&layout)?;
    if datatype.shared || dataspace.shared || layout.shared {
        return Ok(Dataset::Foreign);
    }
    let dtype = match element(datatype.body)? {
        Element::Known(dtype) => dtype,
        Element::Opaque16 => match attribute::text(meta, heaps, header, "dtype")?.as_deref() {
            Some("bfloat16") => Dtype::Bf16,
            Some(_) => return Ok(Dataset::Other),
            None if header.find(kind::ATTRIBUTE_INFO).is_some() => return Ok(Dataset::Foreign),
            None => return Ok(Dataset::Other),
        },
        Element::Foreign => return Ok(Dataset::Foreign),
        Element::Other => return Ok(Dataset::Other),
    };
    let Some(shape) = extent(dataspace.body)? else { return Ok(Dataset::Other) };
    let spec = TensorSpec { path: String::new(), dtype, shape };
    let Some(nbytes) = spec.checked_nbytes() else {
        return Err(damaged(format!("its shape {:?} is larger than 2^63 bytes", spec.shape)));
    };
    let shape = spec.shape;
    let filtered = header.find(kind::FILTERS).is_some();
    match place {
        _ if nbytes == 0 => Ok(Dataset::Known { dtype, shape, offset: 0 }),
        Place::Here { offset, size } if !filtered => {
            if size != nbytes {
                return Err(damaged(format!(
                    "shape {shape:?} of {} needs {nbytes} bytes, it has {size}",
                    dtype.name()
                )));
            }
            if offset.checked_add(size).is_none_or(|end| end > meta.len()) {
                return Err(damaged(format!(
                    "its {size} bytes at address {offset} reach beyond the end of the file"
                )));
            }
            Ok(Dataset::Known { dtype, shape, offset })
        }
        _ => Ok(Dataset::Foreign),
    }
}

enum Place {
    Here { offset: u64, size: u64 },
    Elsewhere,
}

fn place(layout: &Message) -> Result<Place> {
    let mut c = Cursor::new(layout.body);
    let (version, class) = (c.u8()?, c.u8()?);
    match (version, class) {
        (3 | 4, 0) => {
            let size = u64::from(c.u16()?);
            let offset = layout.address.saturating_add(4);
            c.take(size as usize)?;
            Ok(Place::Here { offset, size })
        }
        (3 | 4, 1) => match (c.u64()?, c.u64()?) {
            // Never written: the library knows the fill value.
            (u64::MAX, _) => Ok(Place::Elsewhere),
            (offset, size) => Ok(Place::Here { offset, size }),
        },
        (4.., 3) => {
            Err(damaged("it is a virtual dataset, whose bytes are in other files: these are not read"))
        }
        _ => Ok(Place::Elsewhere),
    }
}

/// The dimensions; `None` for a dataspace that holds nothing, not even a scalar.
fn extent(body: &[u8]) -> Result<Option<Vec<u64>>> {
    let mut c = Cursor::new(body);
    let (version, rank) = (c.u8()?, usize::from(c.u8()?));
    c.u8()?;
    match version {
        1 => {
            c.take(5)?;
        }
        2 => {
            if c.u8()? == 2 {
                return Ok(None);
            }
        }
        _ => return Err(damaged(format!("a dataspace has the unknown version {version}"))),
    }
    if rank > MAX_RANK {
        return Err(damaged(format!("it has rank {rank}: at most {MAX_RANK} is possible")));
    }
    (0..rank).map(|_| c.u64()).collect::<Result<Vec<u64>>>().map(Some)
}

enum Element {
    Known(Dtype),
    /// Two opaque bytes: bfloat16, if an attribute says so.
    Opaque16,
    Foreign,
    Other,
}

/// The layout of an IEEE float in the file: offset, precision, exponent's place and size, mantissa's place and
/// size, and the bias.
const FLOATS: [(Dtype, u32, u8, [u8; 12]); 4] = [
    (Dtype::F16, 2, 15, [0, 0, 16, 0, 10, 5, 0, 10, 15, 0, 0, 0]),
    (Dtype::F32, 4, 31, [0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0]),
    (Dtype::F64, 8, 63, [0, 0, 64, 0, 52, 11, 0, 52, 0xff, 3, 0, 0]),
    (Dtype::Bf16, 2, 15, [0, 0, 16, 0, 7, 8, 0, 7, 127, 0, 0, 0]),
];

fn element(body: &[u8]) -> Result<Element> {
    let mut c = Cursor::new(body);
    let head = c.u8()?;
    let (class, version) = (head & 0x0f, head >> 4);
    let bits = [c.u8()?, c.u8()?, c.u8()?];
    let size = c.u32()?;
    if !(1..=5).contains(&version) {
        return Err(damaged(format!("a datatype has the unknown version {version}")));
    }
    Ok(match class {
        0 => integer(bits, size, c.take(4)?).map_or(Element::Foreign, Element::Known),
        1 => {
            let properties = c.take(12)?;
            // Little-endian, no padding, implied first bit of the mantissa.
            let known = FLOATS
                .iter()
                .find(|(_, s, sign, p)| *s == size && bits == [0x20, *sign, 0] && p.as_slice() == properties);
            known.map_or(Element::Foreign, |f| Element::Known(f.0))
        }
        5 if size == 2 => Element::Opaque16,
        8 if size == 1 => boolean(version, u16::from_le_bytes([bits[0], bits[1]]), c)?,
        _ => Element::Other,
    })
}

/// A little-endian integer without padding.
fn integer(bits: [u8; 3], size: u32, properties: &[u8]) -> Option<Dtype> {
    let precision = u16::try_from(size.checked_mul(8)?).ok()?.to_le_bytes();
    let signed = match bits {
        [0, 0, 0] => false,
        [8, 0, 0] => true,
        // The order of a single byte does not matter.
        [1, 0, 0] if size == 1 => false,
        [9, 0, 0] if size == 1 => true,
        _ => return None,
    };
    if properties != [0, 0, precision[0], precision[1]] {
        return None;
    }
    Dtype::integer(usize::try_from(size).ok()?, signed)
}

/// h5py's boolean: an enumeration of one byte, FALSE = 0, TRUE = 1.
fn boolean(version: u8, members: u16, mut c: Cursor) -> Result<Element> {
    let base = c.take(12)?;
    if members != 2 || base.first().is_none_or(|head| head & 0x0f != 0) {
        return Ok(Element::Other);
    }
    let mut names = [&[][..]; 2];
    for name in &mut names {
        *name = until_nul(c.rest());
        let len = name.len() + 1;
        c.take(if version < 3 { len.next_multiple_of(8) } else { len })?;
    }
    let values = c.take(2)?;
    Ok(match (names, values) {
        ([b"FALSE", b"TRUE"], [0, 1]) | ([b"TRUE", b"FALSE"], [1, 0]) => Element::Known(Dtype::Bool),
        _ => Element::Other,
    })
}
