//! Keras' `.weights.json`: an index of groups of variables in several HDF5 files beside it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use super::content::{Content, Spot, unzipped};
use super::hdf5::{self, path_order};
use super::index::Index;
use super::json::{self, Object, end_of_entries, put_entry, quoted};
use super::source::{Source, damaged};
use super::{Opening, former, weights};
use crate::error::Result;
use crate::layout::guard::KEY;
use crate::layout::is_own;
use crate::layout::own::OWN_GROUP;
use crate::memory;
use crate::tensor::TensorSpec;

/// Reads the files of an index. A group's tensors are those in the files that the index names for it: what else is in
/// them is not listed.
pub(super) fn read_index(source: &Source, index: &Index, opening: &Opening) -> Result<Content> {
    let Metadata { own, rest } = Metadata::parse(index.metadata.as_deref())?;
    let mut content = Content {
        files: Vec::new(),
        tensors: Vec::new(),
        spots: Vec::new(),
        data: Vec::new(),
        names: BTreeMap::new(),
        aliases: BTreeMap::new(),
        unlisted: None,
        state: own,
        config: None,
        metadata: rest,
        archive: None,
    };
    if opening.only.is_some() {
        // What is our own is in the index.
        return Ok(content);
    }
    // The entries of the map that name each file.
    let mut entries: Vec<Vec<u32>> = memory::filled(Vec::new(), index.files.len())?;
    for (entry, (_, files)) in (0..).zip(&index.map) {
        for file in files {
            if let Some(entries) = entries.get_mut(*file) {
                memory::push(entries, entry)?;
            }
        }
    }
    let mut tensors = Vec::new();
    for (i, (name, entries)) in index.files.iter().zip(entries).enumerate() {
        let part = Index::open(source, name)?;
        let part =
            read_file(&part, opening).map_err(|e| e.context(format_args!("its file {}", quoted(name))))?;
        // The groups that it is to hold tensors of, and whether one was met.
        let keys = entries.iter().filter_map(|entry| index.map.get(*entry as usize));
        let groups = keys.map(|(key, _)| (key.strip_prefix('/').unwrap_or(key), false));
        // What is ours is told from the rest by itself.
        let groups = groups.filter(|(group, _)| !is_own(group));
        let mut groups: HashMap<&str, bool> = memory::map(groups)?;
        for (spec, spot) in part.tensors.into_iter().zip(part.spots) {
            let group = spec.path.rsplit_once('/').map_or("", |(group, _)| group);
            if let Some(met) = groups.get_mut(group) {
                *met = true;
                memory::push(&mut tensors, (spec, Spot { file: i, ..spot }))?;
            }
        }
        // The first by name, so that the message is always the same.
        if let Some(group) = groups.into_iter().filter(|(_, met)| !met).map(|(group, _)| group).min() {
            return Err(damaged(format!(
                "its file {} holds no variable of {}, which it should: it is of another checkpoint",
                quoted(name),
                quoted(&format!("/{group}"))
            )));
        }
        for (spec, spot) in part.data {
            memory::push(&mut content.data, (spec, Spot { file: i, ..spot }))?;
        }
        for file in part.files {
            memory::push(&mut content.files, file)?;
        }
        content.unlisted = content.unlisted.or(part.unlisted);
        for (group, name) in part.names {
            content.names.entry(group).or_insert(name);
        }
    }
    tensors.sort_unstable_by(|(a, _), (b, _)| path_order(&a.path, &b.path));
    refuse_twice(&tensors, &index.files)?;
    (content.tensors, content.spots) = unzipped(tensors)?;
    former::adopt(&mut content)?;
    Ok(content)
}

fn read_file(source: &Source, opening: &Opening) -> Result<Content> {
    match hdf5::find(source)? {
        Some(origin) => weights::read_part(source, origin, opening),
        None => Err(damaged("it is not an HDF5 file")),
    }
}

/// Refuses a tensor that two files hold.
fn refuse_twice(tensors: &[(TensorSpec, Spot)], files: &[String]) -> Result<()> {
    let name = |spot: &Spot| quoted(files.get(spot.file).map_or("", String::as_str));
    for pair in tensors.windows(2) {
        if let [(a, first), (b, second)] = pair
            && a.path == b.path
        {
            let (path, first, second) = (quoted(&a.path), name(first), name(second));
            return Err(damaged(format!("tensor {path} is in two of its files, {first} and {second}")));
        }
    }
    Ok(())
}

/// The metadata of an index.
struct Metadata {
    /// The training state; an error if it is damaged, which keeps nobody from the tensors.
    own: Result<Option<Vec<u8>>>,
    /// What is not ours, JSON; none if it is empty.
    rest: Option<String>,
}

impl Metadata {
    fn parse(json: Option<&str>) -> Result<Metadata> {
        let object = match json.map(Object::parse) {
            Some(Ok(object)) => object,
            Some(Err(e)) if e.os() == libc::ENOMEM => return Err(e),
            _ => return Ok(Metadata { own: Ok(None), rest: json.map(memory::text).transpose()? }),
        };
        let own = object.get(OWN_GROUP).map(state).transpose();
        let own = own.map_err(|e| e.context(format_args!("the training state, \"{OWN_GROUP}\"")));
        let mut rest = Vec::new();
        for (key, value) in object.into_entries().filter(|(key, _)| key != OWN_GROUP && key != KEY) {
            put_entry(&mut rest, &key, value)?;
        }
        Ok(Metadata { own, rest: end_of_entries(rest)? })
    }
}

/// The training state in our part of the metadata.
fn state(json: &str) -> Result<Vec<u8>> {
    let object = Object::parse(json)?;
    let field = |key: &str| object.get(key).ok_or_else(|| damaged(format!("it has no \"{key}\"")));
    let state = json::text(field("state")?, "a string")?;
    let expected: u32 = json::value(field("crc32")?, "a number of 32 bits")?;
    let found = crc32fast::hash(state.as_bytes());
    match found == expected {
        true => memory::owned(state).map(String::into_bytes),
        false => Err(damaged(format!(
            "it does not match its checksum (expected {expected:08x}, found {found:08x}): it is damaged, or another \
             program has changed it"
        ))),
    }
}
