//! HDF5 of our own: superblock, groups and contiguous datasets in one block of metadata, then the data.
//!
//! The subset is what the library writes at its earliest compatibility setting, with the groups of HDF5 1.8 where
//! they are small, so that everything since 1.8 reads and edits it. Nothing in it needs the library's help.

mod attributes;
mod datatype;
mod global_heap;
mod group;
mod header;
mod superblock;

#[cfg(test)]
mod tests;

use std::collections::btree_map;

pub(super) use self::attributes::{Attribute, Attributes};
use self::global_heap::GlobalHeap;
use self::group::{Link, Object};
use self::header::Header;
pub(super) use self::superblock::SIGNATURE;
use super::bytes::{Put, set_u64};
use super::guard;
use super::own::{CHECKSUMS, CHECKSUMS_PATH, ROW, STATE, STATE_PATH, Slots};
use super::schema::{Node, NodeId, OWN_GROUP, Schema};
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::tensor::{Dtype, max_path_bytes};

/// The address of what is not there.
const UNDEFINED: u64 = u64::MAX;

/// Data begins at a multiple of this: a cache line, and what vector loads like.
pub(super) const ALIGNMENT: u64 = 64;

/// Large data begins at a multiple of this: a page and a block of the disk.
pub(super) const LARGE_ALIGNMENT: u64 = 4096;

/// Bytes from which data is large.
pub(super) const LARGE: u64 = 1 << 20;

/// An HDF5 file: addresses count from its superblock.
pub(super) struct Image {
    /// The metadata, the first bytes of the file.
    pub(super) metadata: Vec<u8>,
    /// Where each tensor's bytes begin, and how many there are, in the order of the schema; `None` if none.
    pub(super) data: Vec<Option<(u64, u64)>>,
    /// Bytes of the file.
    pub(super) end: u64,
    /// What a save fills in, by its place in the metadata.
    pub(super) slots: Slots,
}

/// Lays out the file of a schema, with room for `state_capacity` bytes of training state.
pub(super) fn lay_out(schema: &Schema, state_capacity: usize) -> Result<Image> {
    lay_out_with(schema, &Attributes::default(), state_capacity)
}

/// As [`lay_out`], with more attributes of the groups than the schema has.
pub(super) fn lay_out_with(schema: &Schema, attributes: &Attributes, state_capacity: usize) -> Result<Image> {
    attributes.check()?;
    let mut writer = Writer::new(schema, attributes)?;
    writer.out.put_zeros(superblock::LEN);
    writer.out.put_zeros(guard::LEN);
    writer.out.align(ALIGNMENT as usize);
    let slots = Slots::put(&mut writer.out, schema.tensors(), state_capacity)?;
    let own = writer.put_own_datasets(&slots)?;
    let root = writer.put_tree(own)?;
    writer.finish(root, slots)
}

/// The metadata while it grows. An object is written after those that it refers to; the addresses that are known
/// only at the end (data, strings) are filled in then.
struct Writer<'a> {
    schema: &'a Schema,
    attributes: &'a Attributes,
    out: Vec<u8>,
    heap: GlobalHeap,
    /// Where in `out` an address within the heap is, to which the heap's own must be added.
    heap_refs: Vec<(usize, u64)>,
    /// Where in `out` the address of each tensor's data is.
    data_refs: Vec<usize>,
}

/// A group on the way from the root to where the writer is.
struct Frame<'a> {
    name: &'a str,
    id: NodeId,
    children: btree_map::Iter<'a, Box<str>, NodeId>,
    /// Its first link among those of all groups on the way.
    first_link: usize,
}

impl<'a> Writer<'a> {
    fn new(schema: &'a Schema, attributes: &'a Attributes) -> Result<Writer<'a>> {
        let tensors = schema.tensors().len();
        let mut out = Vec::new();
        out.make_room(8192 + 320 * tensors)?;
        Ok(Writer {
            schema,
            attributes,
            out,
            heap: GlobalHeap::default(),
            heap_refs: Vec::new(),
            data_refs: memory::filled(0, tensors)?,
        })
    }

    /// What is in the group `/libckpt` of every file, and has its data in the metadata.
    fn put_own_datasets(&mut self, slots: &Slots) -> Result<[Link<'a>; 2]> {
        self.out.make_room(2 * Header::DATASET_LEN)?;
        let rows = [slots.rows() as u64, 2];
        let state = [slots.state_capacity() as u64];
        let datasets = [
            (CHECKSUMS, Dtype::U64, &rows[..], slots.checksums_at(), rows[0] * ROW as u64),
            (STATE, Dtype::U8, &state[..], slots.state_at(), state[0]),
        ];
        Ok(datasets.map(|(name, dtype, shape, at, len)| {
            let mut header = Header::begin(&mut self.out);
            let address = header.dataset(dtype, shape, len);
            let object = Object { header: header.end(), table: None };
            if len > 0 {
                set_u64(&mut self.out, address, at as u64);
            }
            Link { name, object }
        }))
    }

    /// All groups and datasets, children before their parent; the root. Without recursion: a path can have any
    /// number of components.
    fn put_tree(&mut self, own: [Link<'a>; 2]) -> Result<Object> {
        let mut links: Vec<Link<'a>> = Vec::new();
        let mut path: Vec<Frame<'a>> = Vec::new();
        let mut next = Some(("", Schema::ROOT));
        let root = self.schema.node(Schema::ROOT);
        let has_own = matches!(root, Node::Group { children, .. } if children.contains_key(OWN_GROUP));
        // Where the schema has nothing in it, it is that of every file.
        let mut own_group = if has_own { None } else { Some(group::put(&mut self.out, &own, |_| Ok(()))?) };
        loop {
            if let Some((name, id)) = next {
                match self.schema.node(id) {
                    Node::Tensor(index) => {
                        memory::push(&mut links, Link { name, object: self.put_tensor(*index)? })?;
                    }
                    Node::Group { children, .. } => {
                        let frame = Frame { name, id, children: children.iter(), first_link: links.len() };
                        memory::push(&mut path, frame)?;
                    }
                }
            }
            let Some(frame) = path.last_mut() else { break };
            next = frame.children.next().map(|(name, &id)| (&**name, id));
            if next.is_some() {
                continue;
            }
            let (name, id, first) = (frame.name, frame.id, frame.first_link);
            path.pop();
            memory::reserve(&mut links, own.len())?;
            if path.is_empty() {
                if let Some(object) = own_group.take() {
                    let at = links.partition_point(|link| link.name < OWN_GROUP);
                    links.insert(at, Link { name: OWN_GROUP, object });
                }
                return self.put_group(id, &links);
            }
            if path.len() == 1 && name == OWN_GROUP {
                links.extend(own);
                links[first..].sort_unstable_by_key(|link| link.name);
            }
            let object = self.put_group(id, &links[first..])?;
            links.truncate(first);
            memory::push(&mut links, Link { name, object })?;
        }
        self.put_group(Schema::ROOT, &links)
    }

    fn put_group(&mut self, id: NodeId, links: &[Link]) -> Result<Object> {
        let keras_name = match self.schema.node(id) {
            Node::Group { name, .. } => name.as_deref(),
            Node::Tensor(_) => None,
        };
        let (attributes, heap, heap_refs) = (self.attributes, &mut self.heap, &mut self.heap_refs);
        group::put(&mut self.out, links, |header| {
            if let Some(name) = keras_name {
                memory::push(heap_refs, put_attribute(header, heap, "name", name)?)?;
            }
            for (name, value) in attributes.of(id) {
                match value {
                    Attribute::Text(text) => {
                        memory::push(heap_refs, put_attribute(header, heap, name, text)?)?;
                    }
                    Attribute::List(list) => header.list_attribute(name, list)?,
                }
            }
            Ok(())
        })
    }

    fn put_tensor(&mut self, index: usize) -> Result<Object> {
        self.out.make_room(Header::DATASET_LEN)?;
        let spec = &self.schema.tensors()[index];
        let mut header = Header::begin(&mut self.out);
        self.data_refs[index] = header.dataset(spec.dtype, &spec.shape, spec.nbytes());
        if spec.dtype == Dtype::Bf16 {
            let put = put_attribute(&mut header, &mut self.heap, "dtype", spec.dtype.name())?;
            memory::push(&mut self.heap_refs, put)?;
        }
        Ok(Object { header: header.end(), table: None })
    }

    /// The heap behind the objects, the data behind the metadata, and every address in its place.
    fn finish(mut self, root: Object, mut slots: Slots) -> Result<Image> {
        let heap = self.out.here();
        memory::append(&mut self.out, &self.heap.finish())?;
        for (at, offset) in self.heap_refs {
            set_u64(&mut self.out, at, heap + offset);
        }
        let mut end = self.out.here();
        let mut data = Vec::new();
        memory::reserve(&mut data, self.data_refs.len())?;
        for (spec, at) in self.schema.tensors().iter().zip(self.data_refs) {
            let len = spec.nbytes();
            if len == 0 {
                data.push(None);
                continue;
            }
            let unit = if len >= LARGE { LARGE_ALIGNMENT } else { ALIGNMENT };
            let begin = end.checked_next_multiple_of(unit).ok_or_else(too_large)?;
            end = begin.checked_add(len).filter(|&e| e <= MAX_FILE).ok_or_else(too_large)?;
            set_u64(&mut self.out, at, begin);
            data.push(Some((begin, len)));
        }
        let own = [OWN_GROUP, STATE_PATH, CHECKSUMS_PATH].map(str::len).iter().sum::<usize>();
        let paths = self.schema.path_bytes() + self.attributes.list_bytes() + own as u64;
        if paths > max_path_bytes(end) {
            return Err(Error::new(
                Status::InvalidArgument,
                format!(
                    "the paths of the tensors and their groups have {paths} bytes together, in a file of {end}: at \
                     most {} are possible; shorten the names of the groups",
                    max_path_bytes(end)
                ),
            ));
        }
        self.out[..superblock::LEN].copy_from_slice(&superblock::encode(root, end));
        slots.set_tail(&self.out);
        Ok(Image { metadata: self.out, data, end, slots })
    }
}

/// The most bytes of a file: offsets are signed, and there is more around the HDF5 part of it.
pub(super) const MAX_FILE: u64 = 1 << 62;

pub(super) fn too_large() -> Error {
    Error::new(
        Status::InvalidArgument,
        "the tensors have more than 2^62 bytes together: no file can hold them",
    )
}

/// A string attribute; where the address of its heap collection is, and what that is within the heap.
fn put_attribute(
    header: &mut Header,
    heap: &mut GlobalHeap,
    name: &str,
    value: &str,
) -> Result<(usize, u64)> {
    let place = heap.insert(value.as_bytes())?;
    // Shorter than 4 GiB: the schema bounds names, `Attributes::check` what else there is.
    let at = header.string_attribute(name, value.len() as u32, place.index.into())?;
    Ok((at, place.offset))
}
