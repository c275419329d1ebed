//! A `.safetensors` file, and an index of several.
//!
//! - `header`: where the tensors are.
//! - `own`: what this library puts into the map of strings beside them.
#![forbid(unsafe_code)]

mod header;
mod own;

use std::collections::BTreeMap;

use self::header::Tensors;
use self::own::Own;
use super::Opening;
use super::checksums::Checksums;
use super::content::{Content, File, Spot, unzipped};
use super::hdf5::path_order;
use super::index::Index;
use super::json::{Object, quoted};
use super::source::{Source, damaged};
use crate::error::Result;
use crate::layout::data_key;
use crate::layout::safetensors::{MAX_HEADER, METADATA_KEY};
use crate::memory;
use crate::tensor::TensorSpec;

/// Bytes before the header: its length.
const PREFIX: u64 = 8;

/// How many of its first bytes say whether a file is one of these.
pub(super) const HEAD: usize = 9;

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// A header begins that fits the file.
    Sure,
    /// A header seems to begin, of a length that cannot be.
    Broken,
    /// It is something else.
    None,
}

/// Whether a file of `len` bytes that begins like this is one of these.
pub(super) fn likeness(head: [u8; HEAD], len: u64) -> Likeness {
    let [length @ .., first] = head;
    match u64::from_le_bytes(length) {
        _ if first != b'{' => Likeness::None,
        header if header <= MAX_HEADER && header <= len.saturating_sub(PREFIX) => Likeness::Sure,
        _ => Likeness::Broken,
    }
}

/// Where the header ends of a file that begins like this.
pub(super) fn header_end(head: [u8; HEAD]) -> u64 {
    let [length @ .., _] = head;
    u64::from_le_bytes(length).saturating_add(PREFIX)
}

/// Reads a file.
pub(super) fn read(source: &Source, opening: &Opening) -> Result<Content> {
    // What is under a name of our own is no tensor here.
    let Part { tensors, own, data } = Part::read(source, opening.only.is_none())?;
    let Tensors { listed, others } = tensors;
    let (mut own_data, mut tensors) = (Vec::new(), Vec::new());
    for (spec, begin) in listed {
        let list = if data_key(&spec.path).is_some() { &mut own_data } else { &mut tensors };
        memory::push(list, (spec, Spot::here(0, data + begin)))?;
    }
    let (tensors, spots) = sorted(tensors)?;
    Ok(Content {
        files: vec![file(source, own.checksums)],
        tensors,
        spots,
        data: own_data,
        names: own.names,
        aliases: BTreeMap::new(),
        unlisted: others.into_iter().next(),
        state: own.state,
        config: own.config,
        metadata: own.metadata,
        archive: None,
    })
}

/// Reads the files of an index. What is in them and not in the index is not listed.
pub(super) fn read_index(source: &Source, index: Index) -> Result<Content> {
    if let Some((name, files)) = index.map.iter().find(|(_, files)| files.len() > 1) {
        return Err(damaged(format!("tensor {}: it is said to be in {} files", quoted(name), files.len())));
    }
    // The tensors of the index that have not been met.
    let mut missing: Vec<Option<usize>> =
        memory::collect(index.map.iter().map(|(_, files)| files.first().copied()))?;
    let mut meet = |tensor: &str, file: usize| {
        let entry = index.map.binary_search_by(|(name, _)| name.as_str().cmp(tensor)).ok();
        let entry = entry.and_then(|entry| missing.get_mut(entry)).filter(|entry| **entry == Some(file));
        entry.and_then(Option::take).is_some()
    };
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    let (mut names, mut config, mut unlisted) = (BTreeMap::new(), None, None);
    for (i, name) in index.files.iter().enumerate() {
        let part = Index::open(source, name)?;
        let Part { tensors: found, own, data } =
            Part::read(&part, true).map_err(|e| e.context(format_args!("its file {}", quoted(name))))?;
        for tensor in found.others {
            if meet(&tensor, i) {
                unlisted = Some(tensor);
            }
        }
        let wanted = found.listed.into_iter().filter(|(spec, _)| meet(&spec.path, i));
        for (spec, begin) in wanted {
            memory::push(&mut tensors, (spec, Spot::here(i, data + begin)))?;
        }
        memory::push(&mut files, file(&part, own.checksums))?;
        names.extend(own.names);
        config = config.or(own.config);
    }
    let absent = missing.iter().zip(&index.map).find_map(|(file, (name, _))| Some(((*file)?, name)));
    if let Some((file, tensor)) = absent {
        let file = index.files.get(file).map_or("", String::as_str);
        return Err(damaged(format!(
            "tensor {} is not in {}, where it should be",
            quoted(tensor),
            quoted(file)
        )));
    }
    let (tensors, spots) = sorted(tensors)?;
    let metadata = index.metadata;
    Ok(Content {
        files,
        tensors,
        spots,
        data: Vec::new(),
        names,
        aliases: BTreeMap::new(),
        unlisted,
        state: Ok(None),
        config,
        metadata,
        archive: None,
    })
}

/// What is in one file.
struct Part {
    tensors: Tensors,
    own: Own,
    /// Where the data begins.
    data: u64,
}

impl Part {
    /// Reads a header, and lists its tensors if that is asked for.
    fn read(source: &Source, list: bool) -> Result<Part> {
        let text = header_text(source)?;
        let data = PREFIX + text.len() as u64;
        let header = Object::parse(&text).map_err(|e| e.context("its header"))?;
        let own = Own::parse(header.get(METADATA_KEY)).map_err(|e| e.context(METADATA_KEY))?;
        let tensors = match list {
            true => header::tensors(header, source.len() - data)?,
            false => Tensors::default(),
        };
        Ok(Part { tensors, own, data })
    }
}

fn file(source: &Source, checksums: Checksums) -> File {
    File { source: source.clone(), checksums }
}

fn sorted(mut tensors: Vec<(TensorSpec, Spot)>) -> Result<(Vec<TensorSpec>, Vec<Spot>)> {
    tensors.sort_unstable_by(|(a, _), (b, _)| path_order(&a.path, &b.path));
    unzipped(tensors)
}

/// The header's text.
fn header_text(source: &Source) -> Result<String> {
    let mut length = [0; PREFIX as usize];
    source.read_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    let room = source.len() - PREFIX;
    if length > room {
        return Err(damaged(format!("its header of {length} bytes reaches beyond its end, {room} bytes on")));
    }
    if length > MAX_HEADER {
        return Err(damaged(format!("its header has {length} bytes, at most {MAX_HEADER} are allowed")));
    }
    let bytes = source.read_vec(PREFIX, length)?;
    String::from_utf8(bytes).map_err(|e| damaged(format!("its header is not UTF-8: {e}")))
}
