//! An HDF5 file of the weights: `.weights.h5`, and what is in the other formats of Keras'.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::Opening;
use super::checksums::Checksums;
use super::content::{Content, File, Spot};
use super::hdf5::{self, Place};
use super::source::Source;
use super::{former, legacy};
use crate::error::Result;
use crate::layout::own::OWN_GROUP;
use crate::layout::{data_key, is_own};
use crate::memory;
use crate::tensor::{Dtype, TensorSpec};

/// Reads the HDF5 file that begins at `origin`.
pub(super) fn read(source: &Source, origin: u64, opening: &Opening) -> Result<Content> {
    let mut content = read_part(source, origin, opening)?;
    former::adopt(&mut content)?;
    Ok(content)
}

/// Reads the HDF5 file that begins at `origin` and may be one of several.
pub(super) fn read_part(source: &Source, origin: u64, opening: &Opening) -> Result<Content> {
    let tree = hdf5::read(source, origin, opening.only)?;
    let mut file = File { source: tree.source, checksums: Checksums::default() };
    let (mut tensors, mut spots) = (Vec::new(), Vec::new());
    memory::reserve(&mut tensors, tree.tensors.len())?;
    memory::reserve(&mut spots, tree.tensors.len())?;
    let (mut own, mut data) = (Vec::new(), Vec::new());
    for (spec, place) in tree.tensors {
        if data_key(&spec.path).is_some() {
            memory::push(&mut data, (spec, Spot { file: 0, place }))?;
        } else if is_own(&spec.path) {
            memory::push(&mut own, (spec, place))?;
        } else {
            tensors.push(spec);
            spots.push(Spot { file: 0, place });
        }
    }
    let state = read_own(&mut file, &own)?;
    let mut content = Content {
        files: vec![file],
        tensors,
        spots,
        data,
        names: tree.names,
        aliases: BTreeMap::new(),
        unlisted: tree.unlisted,
        state,
        config: None,
        metadata: None,
        archive: None,
    };
    legacy::adopt(&mut content, &tree.labels)?;
    Ok(content)
}

/// Reads what `/libckpt` holds: the checksums, and the training state. A state that is damaged does not keep
/// anyone from the tensors.
fn read_own(file: &mut File, own: &[(TensorSpec, Place)]) -> Result<Result<Option<Vec<u8>>>> {
    let find = |name: &str| own.iter().find(|(spec, _)| spec.path.strip_prefix(OWN_GROUP) == Some(name));
    if let Some((spec, place)) = find("/checksums")
        && spec.shape.len() == 2
        && spec.shape.get(1) == Some(&2)
        && spec.dtype == Dtype::U64
    {
        file.checksums = Checksums::from_bytes(&file.whole(*place, spec)?)?;
    }
    let Some((spec, place)) = find("/state") else { return Ok(Ok(None)) };
    let whole = match file.whole(*place, spec) {
        Err(e) if e.os() == libc::ENOMEM => return Err(e),
        whole => whole,
    };
    Ok(whole.and_then(|mut bytes| {
        file.checksums.check(spec, crc32fast::hash(&bytes))?;
        bytes.truncate(bytes.trim_ascii_end().len());
        Ok((!bytes.is_empty()).then_some(bytes))
    }))
}
