//! *Where each byte goes*: a schema in, a list of extents out. No I/O, no C library, no unsafe.
#![forbid(unsafe_code)]

mod assets;
mod bytes;
mod config;
mod crc;
pub mod guard;
mod hdf5;
mod json;
mod keras;
pub mod legacy;
pub mod own;
pub mod safetensors;
pub mod schema;
mod shards;
mod zip;

#[cfg(test)]
mod tests;

pub use assets::Assets;
pub use config::check_config;
pub(crate) use json::put_string as put_json_string;
pub use keras::KERAS_VERSION;
pub use schema::{MAX_NAME, Schema, data_key, data_path, is_own};
pub use shards::{
    Companion, HEAD, MAX_INDEX, MAX_SHARD_BYTES, MAX_SHARDS, may_be_index, mention, opened_for, shards_beside,
};
pub use zip::MAX_DIRECTORY;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result, Status};
use crate::memory;

/// The files that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Keras' `.weights.h5`: an HDF5 file of the weights.
    WeightsH5,
    /// Keras' `.keras`: a zip archive of the weights, the configuration and the metadata.
    Keras,
    /// Keras' legacy `.h5`: an HDF5 file of a whole model.
    LegacyH5,
    /// Keras' `.weights.json`: an index of weights in several HDF5 files beside it.
    Shards,
    /// `.safetensors`: the weights behind a JSON header.
    Safetensors,
}

impl Format {
    /// The endings of the files; one that is the end of another comes after it.
    const ENDINGS: [(&str, Format); 5] = [
        (".weights.h5", Format::WeightsH5),
        (".weights.json", Format::Shards),
        (".safetensors", Format::Safetensors),
        (".keras", Format::Keras),
        (".h5", Format::LegacyH5),
    ];

    /// The format of a file, by the ending of its path.
    pub fn of(path: &str) -> Result<Format> {
        let known = Format::ENDINGS.iter().find(|(ending, _)| path.ends_with(ending));
        known.map(|(_, format)| *format).ok_or_else(|| {
            let endings: Vec<_> = Format::ENDINGS.iter().map(|(ending, _)| format!("'{ending}'")).collect();
            let message = format!("cannot write '{path}': its ending is none of {}", endings.join(", "));
            Error::new(Status::Unsupported, message)
        })
    }
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

/// What a file holds beside the tensors.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The model's configuration, which [`Format::Keras`] and [`Format::LegacyH5`] need; it must have passed [`check_config`].
    pub config: Option<&'a str>,
    /// What [`Format::Keras`] has under `assets/`; the other formats leave it out.
    pub assets: &'a Assets,
    /// What [`Format::Safetensors`] has in its `__metadata__`; the other formats leave it out.
    pub metadata: &'a BTreeMap<String, String>,
    /// The most bytes of the tensors in one file of [`Format::Shards`]; a tensor alone may have more.
    pub max_shard_bytes: u64,
    /// Room for [`Stamp::state`], in bytes.
    pub state_capacity: usize,
}

impl Default for Options<'_> {
    fn default() -> Self {
        static NONE: Assets = Assets::new();
        static EMPTY: BTreeMap<String, String> = BTreeMap::new();
        Options {
            config: None,
            assets: &NONE,
            metadata: &EMPTY,
            max_shard_bytes: shards::MAX_SHARD_BYTES,
            state_capacity: own::STATE_CAPACITY,
        }
    }
}

/// A file as a list of extents, computed once for a schema and replayed at each save.
#[derive(Debug)]
pub struct Layout {
    size: u64,
    /// Shared with whoever moves the bytes.
    extents: Arc<Vec<Extent>>,
    /// Shared where someone else has them too: the assets.
    literals: Vec<Arc<Vec<u8>>>,
    /// None for a file whose bytes are final.
    slots: Option<Slots>,
    archive: Option<keras::Archive>,
    /// For an index of other files.
    shards: Option<shards::Shards>,
}

/// What a save fills in, in the literal [`METADATA`]: the training state and the checksums.
#[derive(Clone, Debug)]
enum Slots {
    /// In `/libckpt` of an HDF5 file.
    Group(own::Slots),
    /// In the header of a `.safetensors` file.
    Header(safetensors::Slots),
}

impl Slots {
    fn tensors(&self) -> usize {
        match self {
            Slots::Group(slots) => slots.tensors(),
            Slots::Header(slots) => slots.tensors(),
        }
    }

    fn state_capacity(&self) -> usize {
        match self {
            Slots::Group(slots) => slots.state_capacity(),
            Slots::Header(slots) => slots.state_capacity(),
        }
    }

    /// Nothing has changed after an error.
    fn fill(&self, metadata: &mut [u8], crcs: &[u32], state: &[u8]) -> Result<()> {
        match self {
            Slots::Group(slots) => slots.fill(metadata, crcs, state),
            Slots::Header(slots) => slots.fill(metadata, crcs, state),
        }
    }
}

/// The literal that is the metadata of HDF5, or the header: in every format.
const METADATA: usize = 0;

/// Lays out the file of a schema in a format. Until the first [`Layout::seal`] its checksums are wrong and its
/// training state is empty.
pub fn plan(schema: &Schema, format: Format, options: &Options) -> Result<Layout> {
    match format {
        Format::WeightsH5 => Layout::new(hdf5::lay_out(schema, options.state_capacity)?, 0),
        Format::Keras => keras::plan(schema, options),
        Format::LegacyH5 => legacy::plan(schema, options),
        Format::Shards => shards::plan(schema, options),
        Format::Safetensors => safetensors::plan(schema, options),
    }
}

impl Layout {
    /// An HDF5 file that begins at `base`.
    fn new(image: hdf5::Image, base: u64) -> Result<Layout> {
        let mut extents = Vec::new();
        memory::reserve(&mut extents, image.data.len() + 5)?;
        let len = image.metadata.len() as u64;
        extents.push(Extent { offset: base, len, source: Source::Literal(METADATA) });
        extents.extend(image.data.iter().enumerate().filter_map(|(i, run)| {
            let (begin, len) = (*run)?;
            Some(Extent { offset: base + begin, len, source: Source::Tensor(i) })
        }));
        let literals = vec![Arc::new(image.metadata)];
        Ok(Layout {
            size: base + image.end,
            extents: Arc::new(extents),
            literals,
            slots: Some(Slots::Group(image.slots)),
            archive: None,
            shards: None,
        })
    }

    /// The same once more, for another save. What a save does not change they have in common.
    pub fn copied(&self) -> Result<Layout> {
        Ok(Layout {
            size: self.size,
            extents: self.extents.clone(),
            literals: memory::collect(self.literals.iter().cloned())?,
            slots: self.slots.clone(),
            archive: self.archive.clone(),
            shards: self.shards.as_ref().map(shards::Shards::copied).transpose()?,
        })
    }

    /// A layout without slots, made of its parts: for tests of what moves the bytes.
    pub fn from_parts(size: u64, extents: Vec<Extent>, literals: Vec<Vec<u8>>) -> Layout {
        let literals = literals.into_iter().map(Arc::new).collect();
        Layout { size, extents: Arc::new(extents), literals, slots: None, archive: None, shards: None }
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The files that belong to this one, and are put in place before it.
    pub fn companions(&self) -> &[Companion] {
        self.shards.as_ref().map_or(&[], shards::Shards::files)
    }

    /// Bytes of the file and its companions.
    pub fn total_size(&self) -> u64 {
        self.companions().iter().fold(self.size, |sum, file| sum.saturating_add(file.layout().size()))
    }

    /// Names the companions of a save whose own file is called `file`; `generation` tells them from those of all other
    /// saves. To be called before a layout with companions is written: sizes are final after it.
    pub fn name_companions(&mut self, file: &str, generation: u64, stamp: &Stamp) -> Result<()> {
        let Some(shards) = &mut self.shards else { return Ok(()) };
        let index = shards.name(file, generation, &stamp.state)?;
        self.set_only_literal(index);
        Ok(())
    }

    /// Which of the `names` in its directory are those of companions that a committed save has superseded.
    pub fn superseded<'n>(&self, names: &'n [String]) -> Result<Vec<&'n str>> {
        self.shards.as_ref().map_or(Ok(Vec::new()), |shards| shards.superseded(names))
    }

    /// Makes the file of these bytes.
    fn set_only_literal(&mut self, bytes: Vec<u8>) {
        self.size = bytes.len() as u64;
        self.extents = Arc::new(vec![Extent { offset: 0, len: self.size, source: Source::Literal(0) }]);
        self.literals = vec![Arc::new(bytes)];
    }

    /// All extents in the order of the file: no overlap; what lies between them is zero.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The same, for who needs them while the layout is being sealed.
    pub fn shared_extents(&self) -> Arc<Vec<Extent>> {
        self.extents.clone()
    }

    /// The bytes of the literal extents. Final after [`Layout::seal`].
    pub fn literals(&self) -> &[Arc<Vec<u8>>] {
        &self.literals
    }

    /// Room for [`Stamp::state`], in bytes.
    pub fn state_capacity(&self) -> usize {
        match &self.shards {
            Some(_) => usize::MAX,
            None => self.slots.as_ref().map_or(0, Slots::state_capacity),
        }
    }

    /// Fills the slots of the literals for one save. `crcs` are the CRC-32s of the tensors' bytes, in the order
    /// of the schema, 0 for a tensor of none. Every slot is rewritten, so that a layout can be sealed again and
    /// again; nothing has changed after an error, which is [`Status::State`] where the state is too large.
    pub fn seal(&mut self, crcs: &[u32], stamp: &Stamp) -> Result<()> {
        if let Some(shards) = &mut self.shards {
            return shards.seal(crcs, stamp.date);
        }
        let Some(slots) = &self.slots else { return Ok(()) };
        let tensors = slots.tensors();
        if crcs.len() != tensors {
            let message = format!("sealing a file of {tensors} tensors with {} checksums", crcs.len());
            return Err(Error::new(Status::Internal, message));
        }
        let metadata = memory::make_mut(&mut self.literals[METADATA])?;
        slots.fill(metadata, crcs, &stamp.state)?;
        if let Some(archive) = &mut self.archive {
            archive.seal(&self.extents, &mut self.literals, crcs, stamp.date)?;
        }
        Ok(())
    }
}
