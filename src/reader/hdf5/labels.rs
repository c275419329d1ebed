//! What Keras' legacy format says in attributes: texts at the root, and lists of names in groups.

use std::collections::BTreeMap;

use super::attribute::{self, Body, Heaps};
use super::cursor::{Cursor, until_nul};
use super::header::{Header, kind};
use super::metadata::Metadata;
use crate::error::Result;
use crate::layout::legacy::{LAYER_NAMES, MODEL_CONFIG, TRAINING_CONFIG, VERSION, WEIGHT_NAMES};
use crate::memory;
use crate::reader::source::damaged;

/// The attributes of a legacy file; none of another.
#[derive(Debug, Default)]
pub(in crate::reader) struct Labels {
    /// The root's texts.
    pub texts: BTreeMap<&'static str, String>,
    /// The layers that a group lists, by its path; the root's is "".
    pub layers: BTreeMap<String, Vec<String>>,
    /// The weights that a group lists.
    pub weights: BTreeMap<String, Vec<String>>,
}

/// Bytes that a name takes in memory beside its own.
const OVERHEAD: u64 = size_of::<String>() as u64;

impl Labels {
    /// Whether the root has made it a legacy file.
    pub fn any(&self) -> bool {
        !self.texts.is_empty() || !self.layers.is_empty()
    }

    /// Takes what the group with this header says. The lists may take `room` bytes; how many they did.
    pub(super) fn note(
        &mut self,
        meta: &mut Metadata,
        heaps: &mut Heaps,
        header: &Header,
        path: &str,
        room: u64,
    ) -> Result<u64> {
        if path.is_empty() {
            for name in [MODEL_CONFIG, TRAINING_CONFIG, VERSION] {
                if let Some(text) = attribute::text(meta, heaps, header, name)? {
                    self.texts.insert(name, text);
                }
            }
        } else if !self.any() {
            return Ok(0);
        }
        let mut left = room;
        for (name, lists) in [(LAYER_NAMES, &mut self.layers), (WEIGHT_NAMES, &mut self.weights)] {
            if let Some(names) = whole_list(meta, heaps, header, name, &mut left)? {
                lists.insert(path.to_owned(), names);
            }
        }
        Ok(room - left)
    }
}

/// The list in the attribute `name`, or in `name0`, `name1`, ...
fn whole_list(
    meta: &mut Metadata,
    heaps: &mut Heaps,
    header: &Header,
    name: &str,
    left: &mut u64,
) -> Result<Option<Vec<String>>> {
    let mut names = Vec::new();
    if list(meta, heaps, header, name, left, &mut names)? {
        return Ok(Some(names));
    }
    let mut part = 0;
    while list(meta, heaps, header, &format!("{name}{part}"), left, &mut names)? {
        part += 1;
    }
    Ok((part > 0).then_some(names))
}

/// Appends the strings in an attribute; whether there is one of strings.
fn list(
    meta: &mut Metadata,
    heaps: &mut Heaps,
    header: &Header,
    name: &str,
    left: &mut u64,
    names: &mut Vec<String>,
) -> Result<bool> {
    let attributes = header.messages().filter(|m| m.kind == kind::ATTRIBUTE && !m.shared);
    // The first of this name that is a list.
    let mut found = attributes.filter_map(|m| list_of(m.body, name).transpose());
    let Some((body, count)) = found.next().transpose()? else { return Ok(false) };
    let mut c = Cursor::new(body.datatype);
    let class = c.u8()? & 0x0f;
    let flags = c.u8()?;
    c.u16()?;
    let size = c.u32()? as usize;
    let variable = class == 9 && flags & 0x0f == 1;
    // A list without elements has the datatype that NumPy gives to nothing.
    if count == 0 {
        return Ok(true);
    }
    if (class != 3 && !variable) || size == 0 {
        return Ok(false);
    }
    let mut c = Cursor::new(body.data);
    for _ in 0..count {
        let element = c.take(size)?;
        let bytes = if variable {
            let mut c = Cursor::new(element);
            let (len, heap, index) = (c.u32()?, c.u64()?, c.u32()?);
            heaps.get(meta, heap, index, len)?
        } else {
            memory::collect(until_nul(element).iter().copied())?
        };
        *left = left.checked_sub(bytes.len() as u64 + OVERHEAD).ok_or_else(|| {
            damaged(format!("its lists '{name}' are longer than a file of this size can have"))
        })?;
        let text = String::from_utf8(bytes);
        let text = text.map_err(|_| damaged(format!("a name in '{name}' is not UTF-8")))?;
        memory::push(names, text)?;
    }
    Ok(true)
}

/// An attribute and the number of its elements, if it is called `name` and has one dimension.
fn list_of<'a>(body: &'a [u8], name: &str) -> Result<Option<(Body<'a>, u64)>> {
    let Some(body) = Body::of(body, name)? else { return Ok(None) };
    Ok(count(body.dataspace)?.map(|count| (body, count)))
}

/// How many elements a dataspace of one dimension has; None if it has another number of them.
fn count(dataspace: &[u8]) -> Result<Option<u64>> {
    let mut c = Cursor::new(dataspace);
    let (version, rank) = (c.u8()?, c.u8()?);
    c.take(if version == 1 { 6 } else { 2 })?;
    if rank == 1 { c.u64().map(Some) } else { Ok(None) }
}
