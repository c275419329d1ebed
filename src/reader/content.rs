//! What a format's reader finds in a checkpoint: the tensors, and where in which file their bytes are.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::checksums::Checksums;
use super::hdf5::{self, Place};
use super::source::{Source, damaged};
use super::too_large;
use super::zip::Archive;
use crate::error::Result;
use crate::memory;
use crate::tensor::TensorSpec;

/// A file, or the part of one, that holds tensors.
pub(super) struct File {
    /// The stretch that places refer to.
    pub source: Source,
    pub checksums: Checksums,
}

impl File {
    /// Fills `dst` with the elements of a tensor that is not in the file as it is.
    pub fn decode(&self, place: Place, spec: &TensorSpec, dst: &mut [u8]) -> Result<()> {
        match place {
            Place::Here(offset) => self.source.read_at(offset, dst),
            Place::Decoded(header) => hdf5::decode(&self.source, header, spec, dst),
        }
    }

    /// All bytes of a tensor that is never larger than the file, as the datasets of our own.
    pub fn whole(&self, place: Place, spec: &TensorSpec) -> Result<Vec<u8>> {
        let len = usize::try_from(spec.nbytes()).map_err(|_| too_large(spec))?;
        if spec.nbytes() > self.source.len() {
            return Err(damaged(format!("its '{}' is larger than the file", spec.path)));
        }
        let mut bytes = memory::filled(0, len)?;
        self.decode(place, spec, &mut bytes)?;
        Ok(bytes)
    }
}

/// Where the bytes of a tensor are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    /// The place in [`Content::files`].
    pub file: usize,
    pub place: Place,
}

impl Spot {
    /// In this file as it is, from `offset` on.
    pub fn here(file: usize, offset: u64) -> Spot {
        Spot { file, place: Place::Here(offset) }
    }
}

/// A checkpoint as it was found.
pub(super) struct Content {
    pub files: Vec<File>,
    /// In the order of [`hdf5::path_order`].
    pub tensors: Vec<TensorSpec>,
    /// Where each tensor is.
    pub spots: Vec<Spot>,
    /// The trainer's own bytes, which are not listed; their numbers follow those of the tensors.
    pub data: Vec<(TensorSpec, Spot)>,
    /// Keras' names of the groups: the attribute `name` of `group`/vars.
    pub names: BTreeMap<String, String>,
    /// Other paths of the tensors, where they have some: what the file itself or another version of Keras calls them.
    pub aliases: BTreeMap<String, usize>,
    /// Something that the checkpoint holds and that cannot be a tensor here (text, a dtype that we do not have).
    pub unlisted: Option<String>,
    /// The training state that this library wrote; an error if it is damaged.
    pub state: Result<Option<Vec<u8>>>,
    /// The model's configuration, JSON, where it is not a member of the archive.
    pub config: Option<String>,
    /// What the file says of itself, JSON, where it is not a member of the archive.
    pub metadata: Option<String>,
    /// The archive that the files are in.
    pub archive: Option<Archive>,
}

/// What is where, as a [`Content`] has it.
pub(super) fn unzipped(found: Vec<(TensorSpec, Spot)>) -> Result<(Vec<TensorSpec>, Vec<Spot>)> {
    let (mut tensors, mut spots) = (Vec::new(), Vec::new());
    memory::reserve(&mut tensors, found.len())?;
    memory::reserve(&mut spots, found.len())?;
    for (spec, spot) in found {
        tensors.push(spec);
        spots.push(spot);
    }
    Ok((tensors, spots))
}

impl Content {
    pub fn find(&self, path: &str) -> Option<usize> {
        let found = self.tensors.binary_search_by(|spec| hdf5::path_order(&spec.path, path)).ok();
        found.or_else(|| self.aliases.get(path).copied())
    }

    pub fn entry(&self, index: usize) -> Option<(&TensorSpec, &File, Place)> {
        let (spec, spot) = self.at(index)?;
        Some((spec, self.files.get(spot.file)?, spot.place))
    }

    /// What has this number, and where it is.
    pub fn at(&self, index: usize) -> Option<(&TensorSpec, &Spot)> {
        match index.checked_sub(self.tensors.len()) {
            None => Some((self.tensors.get(index)?, self.spots.get(index)?)),
            Some(data) => self.data.get(data).map(|(spec, spot)| (spec, spot)),
        }
    }

    /// What has a checksum: tensors, and the trainer's own bytes.
    pub fn covered(&self) -> impl Iterator<Item = (usize, &TensorSpec)> {
        let all = (0..self.tensors.len() + self.data.len()).filter_map(|i| Some((i, self.entry(i)?)));
        all.filter(|(_, (spec, file, _))| file.checksums.covers(&spec.path)).map(|(i, (spec, ..))| (i, spec))
    }
}
