//! Attributes that are text: fixed strings, and variable-length ones, which stand in global heaps. An object with
//! many attributes keeps them in a fractal heap.

use std::collections::HashMap;

use super::btree2;
use super::checksum::lookup3;
use super::cursor::{Cursor, until_nul};
use super::header::{Header, kind};
use super::heap::Heap;
use super::metadata::Metadata;
use super::shared;
use crate::error::Result;
use crate::memory;
use crate::reader::source::damaged;

/// The global heap collection that was read last: neighbours in a file share one.
#[derive(Default)]
pub(super) struct Heaps {
    address: Option<u64>,
    /// Address and length of each object.
    objects: HashMap<u16, (u64, u64)>,
}

/// The text of the attribute `name`, if the object has one that is a single string.
pub(super) fn text(
    meta: &mut Metadata,
    heaps: &mut Heaps,
    header: &Header,
    name: &str,
) -> Result<Option<String>> {
    for m in header.messages().filter(|m| m.kind == kind::ATTRIBUTE) {
        if m.shared {
            return Err(shared::in_table());
        }
        if let Some(Body { datatype, data, .. }) = Body::of(m.body, name)? {
            return value(meta, heaps, datatype, data);
        }
    }
    let Some(info) = header.find(kind::ATTRIBUTE_INFO) else { return Ok(None) };
    for body in dense(meta, info.body, name)? {
        if let Some(Body { datatype, data, .. }) = Body::of(&body, name)? {
            return value(meta, heaps, datatype, data);
        }
    }
    Ok(None)
}

/// The attributes in a fractal heap that may have this name: the index has a checksum of each.
fn dense(meta: &mut Metadata, info: &[u8], name: &str) -> Result<Vec<Vec<u8>>> {
    let mut c = Cursor::new(info);
    c.magic(&[0], "attribute info message")?;
    if c.u8()? & 1 != 0 {
        c.u16()?;
    }
    let (heap, index) = (c.u64()?, c.u64()?);
    if heap == u64::MAX || index == u64::MAX {
        return Ok(Vec::new());
    }
    let mut ids = Vec::new();
    btree2::records(meta, index, 8, &mut |record| {
        let mut c = Cursor::new(record);
        let (id, flags) = (c.take(8)?, c.u8()?);
        c.u32()?;
        if c.u32()? == lookup3(name.as_bytes()) {
            memory::push(&mut ids, (id.to_vec(), flags))?;
        }
        Ok(())
    })?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let heap = Heap::read(meta, heap)?;
    memory::try_collect(ids.iter().map(|(id, flags)| match flags & 2 {
        0 => heap.object(meta, id),
        _ => Err(shared::in_table()),
    }))
}

/// The text of an attribute.
fn value(meta: &mut Metadata, heaps: &mut Heaps, datatype: &[u8], data: &[u8]) -> Result<Option<String>> {
    let mut c = Cursor::new(datatype);
    let class = c.u8()? & 0x0f;
    let flags = c.u8()?;
    c.u16()?;
    let size = c.u32()? as usize;
    let bytes = match class {
        3 => {
            let data = data.get(..size).ok_or_else(|| damaged("a string attribute is cut off"))?;
            memory::collect(until_nul(data).iter().copied())?
        }
        9 if flags & 0x0f == 1 => {
            let mut c = Cursor::new(data);
            let (len, heap, index) = (c.u32()?, c.u64()?, c.u32()?);
            heaps.get(meta, heap, index, len)?
        }
        _ => return Ok(None),
    };
    Ok(String::from_utf8(bytes).ok())
}

/// An attribute message.
pub(super) struct Body<'a> {
    pub datatype: &'a [u8],
    pub dataspace: &'a [u8],
    pub data: &'a [u8],
}

impl<'a> Body<'a> {
    /// The attribute, if it is called `wanted`, and neither its datatype nor its dataspace is shared.
    pub fn of(body: &'a [u8], wanted: &str) -> Result<Option<Body<'a>>> {
        let mut c = Cursor::new(body);
        let (version, flags) = (c.u8()?, c.u8()?);
        let [name, datatype, dataspace] = [c.u16()?, c.u16()?, c.u16()?].map(usize::from);
        let pad = match version {
            1 => 8,
            2 => 1,
            3 => {
                c.u8()?;
                1
            }
            _ => return Ok(None),
        };
        let name = until_nul(c.take(name.next_multiple_of(pad))?);
        if name != wanted.as_bytes() || (version > 1 && flags & 3 != 0) {
            return Ok(None);
        }
        let datatype = c.take(datatype.next_multiple_of(pad))?;
        let dataspace = c.take(dataspace.next_multiple_of(pad))?;
        Ok(Some(Body { datatype, dataspace, data: c.rest() }))
    }
}

impl Heaps {
    /// The first `len` bytes of the object `index` in the collection at `address`.
    pub fn get(&mut self, meta: &mut Metadata, address: u64, index: u32, len: u32) -> Result<Vec<u8>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        if self.address != Some(address) {
            self.load(meta, address)?;
        }
        let object = u16::try_from(index).ok().and_then(|i| self.objects.get(&i));
        match object {
            Some(&(at, size)) if u64::from(len) <= size => meta.get_vec(at, u64::from(len)),
            _ => Err(damaged(format!("string {index} is not in the global heap that it is said to be in"))),
        }
    }

    fn load(&mut self, meta: &mut Metadata, address: u64) -> Result<()> {
        self.address = None;
        self.objects.clear();
        let mut c = Cursor::new(meta.get(address, 16)?);
        c.magic(b"GCOL\x01", "global heap")?;
        c.take(3)?;
        let end = address.checked_add(c.u64()?).filter(|&end| end <= meta.len());
        let end = end.ok_or_else(|| damaged("a global heap reaches beyond its end"))?;
        let mut at = address + 16;
        // The object 0 is the free space, and the last; less than a header of 16 bytes may be left too.
        while end.saturating_sub(at) >= 16 {
            let mut c = Cursor::new(meta.get(at, 16)?);
            let index = c.u16()?;
            c.take(6)?;
            let size = c.u64()?;
            if index == 0 {
                break;
            }
            let next = size.checked_next_multiple_of(8).and_then(|n| n.checked_add(at + 16));
            let Some(next) = next.filter(|&next| next <= end) else {
                return Err(damaged("an object reaches beyond the end of its global heap"));
            };
            memory::insert(&mut self.objects, index, (at + 16, size))?;
            at = next;
        }
        self.address = Some(address);
        Ok(())
    }
}
