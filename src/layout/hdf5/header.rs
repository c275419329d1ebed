//! Object headers (version 1) and the messages in them.

use super::super::bytes::Put;
use super::UNDEFINED;
use super::datatype;
use crate::error::Result;
use crate::tensor::{Dtype, MAX_RANK};

const DATASPACE: u16 = 0x01;
const LINK_INFO: u16 = 0x02;
const DATATYPE: u16 = 0x03;
const LINK: u16 = 0x06;
const LAYOUT: u16 = 0x08;
const GROUP_INFO: u16 = 0x0a;
const ATTRIBUTE: u16 = 0x0c;
const SYMBOL_TABLE: u16 = 0x11;

/// The flag of a message that never changes.
const CONSTANT: u8 = 1;

/// Bytes before the messages.
const PREFIX: usize = 16;

/// An object header that is being written at the end of a buffer.
pub(super) struct Header<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    messages: u16,
}

impl<'a> Header<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Header<'a> {
        let start = out.len();
        out.put_zeros(PREFIX);
        Header { out, start, messages: 0 }
    }

    /// Makes room for an attribute of this name, and `n` bytes in it.
    fn make_room(&mut self, name: &str, n: usize) -> Result<()> {
        self.out.make_room(128 + name.len() + n)
    }

    /// Completes the header; its address.
    pub(super) fn end(self) -> u64 {
        let messages = (self.out.len() - self.start - PREFIX) as u32;
        let prefix = &mut self.out[self.start..self.start + PREFIX];
        prefix[0] = 1; // version
        prefix[2..4].copy_from_slice(&self.messages.to_le_bytes());
        prefix[4..8].copy_from_slice(&1u32.to_le_bytes()); // links to it
        prefix[8..12].copy_from_slice(&messages.to_le_bytes());
        self.start as u64
    }

    fn message(&mut self, kind: u16, flags: u8, body: impl FnOnce(&mut Vec<u8>)) {
        self.out.put_u16(kind);
        self.out.put_u16(0);
        self.out.put(&[flags, 0, 0, 0]);
        let body_at = self.out.len();
        body(self.out);
        self.out.align(8);
        // Below 64 KiB: the schema bounds the names of links, `Attributes` its lists.
        let len = (self.out.len() - body_at) as u16;
        self.out[body_at - 6..body_at - 4].copy_from_slice(&len.to_le_bytes());
        self.messages += 1;
    }

    /// The most bytes of what [`Header::dataset`] appends, and the header's own.
    pub(super) const DATASET_LEN: usize = 128 + PREFIX + 8 * MAX_RANK;

    /// What a dataset of `shape` and `dtype` consists of, `len` bytes in one piece. Returns where in the buffer
    /// the address of its data is, undefined as it stands.
    pub(super) fn dataset(&mut self, dtype: Dtype, shape: &[u64], len: u64) -> usize {
        self.message(DATASPACE, 0, |out| put_dataspace(out, shape));
        self.message(DATATYPE, CONSTANT, |out| datatype::put(out, dtype));
        let mut address = 0;
        self.message(LAYOUT, 0, |out| {
            out.put(&[3, 1]); // version, contiguous
            address = out.len();
            out.put_u64(UNDEFINED);
            out.put_u64(len);
        });
        address
    }

    /// A scalar attribute: a string of `len` bytes that is object `index` of a global heap collection. Returns
    /// where in the buffer the collection's address is, 0 as it stands.
    pub(super) fn string_attribute(&mut self, name: &str, len: u32, index: u32) -> Result<usize> {
        self.make_room(name, 0)?;
        let mut address = 0;
        self.attribute(name, &[], datatype::STRING_LEN, datatype::put_string, |out| {
            out.put_u32(len);
            address = out.len();
            out.put_u64(0);
            out.put_u32(index);
        });
        Ok(address)
    }

    /// An attribute: a list of strings, each padded with zeros to the length of the longest.
    pub(super) fn list_attribute(&mut self, name: &str, list: &[String]) -> Result<()> {
        let width = list.iter().map(String::len).max().unwrap_or(0).max(1);
        self.make_room(name, width * list.len())?;
        let datatype = |out: &mut Vec<u8>| datatype::put_fixed_string(out, width as u32);
        self.attribute(name, &[list.len() as u64], datatype::FIXED_STRING_LEN, datatype, |out| {
            for text in list {
                out.put(text.as_bytes());
                out.put_zeros(width - text.len());
            }
        });
        Ok(())
    }

    /// An attribute of a datatype of `len` bytes.
    fn attribute(
        &mut self,
        name: &str,
        shape: &[u64],
        len: u16,
        datatype: impl FnOnce(&mut Vec<u8>),
        data: impl FnOnce(&mut Vec<u8>),
    ) {
        self.message(ATTRIBUTE, 0, |out| {
            out.put_u16(1); // version
            out.put_u16(name.len() as u16 + 1);
            out.put_u16(len);
            out.put_u16(8 + 8 * shape.len() as u16);
            out.put(name.as_bytes());
            out.put_u8(0);
            out.align(8);
            datatype(out);
            out.align(8);
            put_dataspace(out, shape);
            data(out);
        });
    }

    /// Where the B-tree and the local heap of a symbol table are.
    pub(super) fn symbol_table(&mut self, tree: u64, heap: u64) {
        self.message(SYMBOL_TABLE, 0, |out| {
            out.put_u64(tree);
            out.put_u64(heap);
        });
    }

    /// What makes it a group whose links are messages of this header.
    pub(super) fn link_group(&mut self) {
        self.message(LINK_INFO, 0, |out| {
            out.put_u16(0); // version, flags
            out.put_u64(UNDEFINED); // fractal heap
            out.put_u64(UNDEFINED); // index by name
        });
        self.message(GROUP_INFO, CONSTANT, |out| out.put_u16(0)); // version, flags
    }

    /// A hard link to the object whose header is at `target`.
    pub(super) fn link(&mut self, name: &str, target: u64) {
        const HAS_CHARSET: u8 = 0x10;
        const UTF8: u8 = 1;
        let long = name.len() > usize::from(u8::MAX);
        let charset = if name.is_ascii() { 0 } else { HAS_CHARSET };
        self.message(LINK, 0, |out| {
            out.put(&[1, charset | u8::from(long)]); // version, flags
            if charset != 0 {
                out.put_u8(UTF8);
            }
            if long {
                out.put_u16(name.len() as u16);
            } else {
                out.put_u8(name.len() as u8);
            }
            out.put(name.as_bytes());
            out.put_u64(target);
        });
    }
}

fn put_dataspace(out: &mut Vec<u8>, shape: &[u64]) {
    out.put(&[1, shape.len() as u8, 0, 0, 0, 0, 0, 0]); // version, rank, no maximum sizes
    for &d in shape {
        out.put_u64(d);
    }
}
