//! Object headers, old (version 1) and new (version 2, `OHDR`): a list of messages in one or more chunks.

use std::ops::Range;

use super::checksum::verified;
use super::cursor::Cursor;
use super::metadata::Metadata;
use crate::error::Result;
use crate::memory;
use crate::reader::source::damaged;

/// The kinds of messages that matter here.
pub(super) mod kind {
    pub const DATASPACE: u16 = 0x01;
    pub const LINK_INFO: u16 = 0x02;
    pub const DATATYPE: u16 = 0x03;
    pub const OLD_FILL: u16 = 0x04;
    pub const FILL: u16 = 0x05;
    pub const LINK: u16 = 0x06;
    pub const EXTERNAL_FILES: u16 = 0x07;
    pub const LAYOUT: u16 = 0x08;
    pub const FILTERS: u16 = 0x0b;
    pub const ATTRIBUTE: u16 = 0x0c;
    pub const CONTINUATION: u16 = 0x10;
    pub const SYMBOL_TABLE: u16 = 0x11;
    pub const DRIVER_INFO: u16 = 0x14;
    pub const ATTRIBUTE_INFO: u16 = 0x15;
    pub const CACHE_IMAGE: u16 = 0x18;
}

/// More messages than an old header can count, and than a new one needs.
const MAX_MESSAGES: usize = 1 << 16;

/// A message of an object header.
pub(super) struct Message<'a> {
    pub kind: u16,
    /// The body stands elsewhere, shared between objects.
    pub shared: bool,
    /// The address of the body.
    pub address: u64,
    pub body: &'a [u8],
}

struct Entry {
    kind: u16,
    shared: bool,
    address: u64,
    body: Range<usize>,
}

/// The messages of one object. Made once and filled for object after object, so that a walk allocates little.
#[derive(Default)]
pub(super) struct Header {
    address: u64,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Chunks still to be read: address and length.
    chunks: Vec<(u64, u64)>,
}

impl Header {
    /// Reads the header at `address` in place of what was here before.
    pub fn read(&mut self, meta: &mut Metadata, address: u64) -> Result<()> {
        self.address = address;
        self.bytes.clear();
        self.entries.clear();
        self.chunks.clear();
        let prefix = meta.get(address, 16.min(meta.len().saturating_sub(address)))?;
        if prefix.starts_with(b"OHDR") { self.read_new(meta) } else { self.read_old(meta) }
    }

    /// Where the header is.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        self.entries.iter().map(|e| Message {
            kind: e.kind,
            shared: e.shared,
            address: e.address,
            body: self.bytes.get(e.body.clone()).unwrap_or_default(),
        })
    }

    /// The first message of this kind.
    pub fn find(&self, kind: u16) -> Option<Message<'_>> {
        self.messages().find(|m| m.kind == kind)
    }

    fn read_old(&mut self, meta: &mut Metadata) -> Result<()> {
        let mut c = Cursor::new(meta.get(self.address, 16)?);
        c.magic(&[1], "object header")?;
        c.take(7)?;
        let len = u64::from(c.u32()?);
        self.chunks.push((self.address.saturating_add(16), len));
        let mut i = 0;
        while let Some(&(address, len)) = self.chunks.get(i) {
            i += 1;
            let start = self.append(meta, address, len)?;
            self.split(start, address, 0, None)?;
        }
        Ok(())
    }

    fn read_new(&mut self, meta: &mut Metadata) -> Result<()> {
        let available = meta.len().saturating_sub(self.address).min(64);
        let mut c = Cursor::new(meta.get(self.address, available)?);
        c.magic(b"OHDR\x02", "object header")?;
        let flags = c.u8()?;
        if flags & 0x20 != 0 {
            c.take(16)?;
        }
        if flags & 0x10 != 0 {
            c.take(4)?;
        }
        let len = c.uint(flags & 3)?;
        let prefix = available - c.rest().len() as u64;
        let order = flags & 4 != 0;
        let whole = len.saturating_add(prefix + 4);
        self.chunks.push((self.address, whole));
        let mut i = 0;
        while let Some(&(address, len)) = self.chunks.get(i) {
            let start = self.append(meta, address, len)?;
            let (name, skip) = if i == 0 { ("object header", prefix as usize) } else { ("header chunk", 4) };
            let chunk = self.bytes.get(start..).unwrap_or_default();
            if i > 0 && !chunk.starts_with(b"OCHK") {
                return Err(damaged("an object header goes on where there is no header chunk"));
            }
            verified(chunk, name)?;
            self.bytes.truncate(self.bytes.len() - 4);
            self.split(start, address, skip, Some(order))?;
            i += 1;
        }
        Ok(())
    }

    /// Appends a chunk; returns where it begins in `bytes`.
    fn append(&mut self, meta: &mut Metadata, address: u64, len: u64) -> Result<usize> {
        let (start, most) = (self.bytes.len(), meta.len());
        let chunk = meta.get(address, len)?;
        // A file of this size has no more chunks that share no bytes.
        if (start as u64).saturating_add(len) > most {
            return Err(damaged("an object header goes on without end"));
        }
        memory::reserve(&mut self.bytes, chunk.len())?;
        self.bytes.extend_from_slice(chunk);
        Ok(start)
    }

    /// Splits the chunk at `bytes[start..]` into messages. `order` is `None` in an old header, else whether the
    /// messages carry their order of creation.
    fn split(&mut self, start: usize, address: u64, skip: usize, order: Option<bool>) -> Result<()> {
        let chunk = self.bytes.get(start..).unwrap_or_default();
        let mut c = Cursor::new(chunk);
        c.take(skip)?;
        let prefix = match order {
            None => 8,
            Some(false) => 4,
            Some(true) => 6,
        };
        // What is left at the end of a chunk and too small for a message is a gap.
        while c.rest().len() >= prefix {
            let kind = if order.is_none() { c.u16()? } else { u16::from(c.u8()?) };
            let len = usize::from(c.u16()?);
            let flags = c.u8()?;
            c.take(prefix - if order.is_none() { 5 } else { 4 })?;
            let from = chunk.len() - c.rest().len();
            let body = c.take(len)?;
            if kind == kind::CONTINUATION {
                let mut c = Cursor::new(body);
                memory::push(&mut self.chunks, (c.u64()?, c.u64()?))?;
            } else if kind != 0 {
                if self.entries.len() >= MAX_MESSAGES {
                    return Err(damaged("an object header has more messages than are possible"));
                }
                let entry = Entry {
                    kind,
                    shared: flags & 2 != 0,
                    address: address.saturating_add(from as u64),
                    body: start + from..start + from + len,
                };
                memory::push(&mut self.entries, entry)?;
            }
        }
        Ok(())
    }
}
