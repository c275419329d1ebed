//! Datasets: element type, shape, and where the bytes are.

use super::attribute::{self, Heaps};
use super::chunks::Grid;
use super::cursor::Cursor;
use super::datatype::{self, Datatype, Encoding};
use super::header::{Header, kind};
use super::layout::{self, Layout};
use super::metadata::Metadata;
use super::shared;
use crate::error::Result;
use crate::reader::source::damaged;
use crate::tensor::{Dtype, MAX_RANK, checked_nbytes};

/// A dataset that is a tensor.
pub(super) struct Dataset {
    pub dtype: Dtype,
    pub encoding: Encoding,
    pub extent: Extent,
    /// Bytes of all elements, in the file: where they are in one piece, that piece lies in it.
    pub stored: u64,
    pub layout: Layout,
}

/// The shape, and how far each axis can grow: `u64::MAX` is without limit.
pub(super) struct Extent {
    pub shape: Vec<u64>,
    pub max: Vec<u64>,
}

/// Decodes the header of an object that is not a group; `None` if it is no tensor: text, a compound, no dataset.
pub(super) fn read(meta: &mut Metadata, heaps: &mut Heaps, header: &Header) -> Result<Option<Dataset>> {
    if header.find(kind::EXTERNAL_FILES).is_some() {
        return Err(damaged("its bytes are in external files, which are not read"));
    }
    let (Some(layout), Some(datatype), Some(dataspace)) =
        (header.find(kind::LAYOUT), header.find(kind::DATATYPE), header.find(kind::DATASPACE))
    else {
        return Ok(None);
    };
    let layout = layout::read(&layout)?;
    let (dtype, encoding) = match datatype::read(&shared::body(meta, &datatype)?)? {
        Datatype::Known { dtype, encoding } => (dtype, encoding),
        Datatype::Opaque16 => match attribute::text(meta, heaps, header, "dtype")?.as_deref() {
            Some("bfloat16") => (Dtype::Bf16, Encoding::plain(Dtype::Bf16)),
            _ => return Ok(None),
        },
        Datatype::Other => return Ok(None),
    };
    let Some(extent) = extent(&shared::body(meta, &dataspace)?)? else { return Ok(None) };
    let stored = checked_nbytes(dtype.size(), &extent.shape)
        .and_then(|n| (n / dtype.size() as u64).checked_mul(encoding.size as u64));
    let Some(stored) = stored else {
        return Err(damaged(format!("its shape {:?} is larger than 2^63 bytes", extent.shape)));
    };
    let dataset = Dataset { dtype, encoding, extent, stored, layout };
    if stored > 0 {
        dataset.check(meta.len(), header.find(kind::FILTERS).is_some())?;
    }
    Ok(Some(dataset))
}

impl Dataset {
    /// Where the elements are in the file as they are in memory.
    pub fn here(&self) -> Option<u64> {
        match self.layout {
            _ if self.stored == 0 => Some(0),
            Layout::Whole { offset, .. } if self.encoding == Encoding::plain(self.dtype) => Some(offset),
            _ => None,
        }
    }

    /// The chunks of a dataset that is not empty.
    pub fn grid(&self, axes: &[u64]) -> Grid {
        Grid::new(&self.extent.shape, &self.extent.max, axes)
    }

    /// Is everything as large as it has to be?
    fn check(&self, file: u64, filtered: bool) -> Result<()> {
        let shape = &self.extent.shape;
        match &self.layout {
            Layout::Chunked(chunks) => {
                if chunks.axes.len() != shape.len() || chunks.element != self.encoding.size as u64 {
                    return Err(damaged(format!(
                        "its shape is {shape:?} of {} bytes, and that of its chunks {:?} of {}",
                        self.encoding.size, chunks.axes, chunks.element
                    )));
                }
            }
            _ if filtered => return Err(damaged("it has filters, but no chunks to filter")),
            Layout::Unwritten => (),
            Layout::Whole { offset, size } => {
                let size = size.unwrap_or(self.stored);
                if size != self.stored {
                    return Err(damaged(format!(
                        "shape {shape:?} of {} needs {} bytes, it has {size}",
                        self.dtype.name(),
                        self.stored
                    )));
                }
                if offset.checked_add(size).is_none_or(|end| end > file) {
                    return Err(damaged(format!(
                        "its {size} bytes at address {offset} reach beyond the end of the file"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Decodes a dataspace message; `None` for one that holds nothing, not even a scalar.
fn extent(body: &[u8]) -> Result<Option<Extent>> {
    let mut c = Cursor::new(body);
    let (version, rank, flags) = (c.u8()?, usize::from(c.u8()?), c.u8()?);
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
    let shape = (0..rank).map(|_| c.u64()).collect::<Result<Vec<u64>>>()?;
    let max = match flags & 1 {
        0 => shape.clone(),
        _ => (0..rank).map(|_| c.u64()).collect::<Result<Vec<u64>>>()?,
    };
    if shape.iter().zip(&max).any(|(size, max)| size > max) {
        return Err(damaged(format!("its shape {shape:?} is larger than it can be, {max:?}")));
    }
    Ok(Some(Extent { shape, max }))
}
