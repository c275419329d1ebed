//! *Where each byte goes*: a schema in, a list of extents out. No I/O, no C library, no unsafe.
#![forbid(unsafe_code)]

pub mod schema;

pub use schema::Schema;

use crate::error::Result;

/// The files that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Keras' `.weights.h5`: an HDF5 file of the weights.
    WeightsH5,
    /// Keras' `.keras`: a zip archive of the weights, the configuration and the metadata.
    Keras,
}

/// What a run of bytes in a file is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Bytes that the layout knows: an element of [`Layout::literals`].
    Literal(usize),
    /// The bytes of a tensor, row-major and little-endian: an element of [`Schema::tensors`].
    Tensor(usize),
}

/// A run of bytes in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// Bytes; never 0.
    pub len: u64,
    /// What they are.
    pub source: Source,
}

/// What is known only when a save is made.
#[derive(Clone, Debug, Default)]
pub struct Stamp {
    /// The training state, JSON; at most [`Layout::state_capacity`] bytes.
    pub state: Vec<u8>,
    /// Local time of the save: year, month, day, hour, minute, second.
    pub date: [u16; 6],
}

/// A file as a list of extents, computed once for a schema and replayed at each save.
#[derive(Clone, Debug)]
pub struct Layout {
    size: u64,
    extents: Vec<Extent>,
    literals: Vec<Vec<u8>>,
}

impl Layout {
    /// A layout without slots, made of its parts: for tests of what moves the bytes.
    pub fn from_parts(size: u64, extents: Vec<Extent>, literals: Vec<Vec<u8>>) -> Layout {
        Layout { size, extents, literals }
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// All extents in the order of the file: no overlap; what lies between them is zero.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The bytes of the literal extents. Final after [`Layout::seal`].
    pub fn literals(&self) -> &[Vec<u8>] {
        &self.literals
    }

    /// Room for [`Stamp::state`], in bytes.
    pub fn state_capacity(&self) -> usize {
        0
    }

    /// Fills the slots of the literals for one save. `crcs` are the CRC-32s of the tensors' bytes, in the order
    /// of the schema. Every slot is rewritten, so that a layout can be sealed again and again.
    pub fn seal(&mut self, _crcs: &[u32], _stamp: &Stamp) -> Result<()> {
        Ok(())
    }
}
