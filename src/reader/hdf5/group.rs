//! The links of a group: a symbol table (B-tree, nodes and a heap of names), or link messages, in its header or, of
//! a large group, in a fractal heap.

use super::btree2;
use super::cursor::{Cursor, until_nul};
use super::header::{Header, kind};
use super::heap::Heap;
use super::metadata::Metadata;
use crate::error::{Error, Result};
use crate::memory;
use crate::reader::source::damaged;
use crate::tensor::MAX_PATH;

/// A hard link: a name, and the address of the object header it leads to.
pub(super) struct Link {
    pub name: String,
    pub header: u64,
}

/// Bytes of a link in a symbol table.
const SYMBOL: u64 = 40;

/// Is this the header of a group?
pub(super) fn is_group(header: &Header) -> bool {
    header.messages().any(|m| m.kind == kind::SYMBOL_TABLE || m.kind == kind::LINK_INFO)
}

/// The links of the group with this header, in the order of the file.
pub(super) fn links(meta: &mut Metadata, header: &Header) -> Result<Vec<Link>> {
    let mut found = Vec::new();
    if let Some(table) = header.find(kind::SYMBOL_TABLE) {
        let mut c = Cursor::new(table.body);
        symbol_table(meta, c.u64()?, c.u64()?, &mut found)?;
    }
    for m in header.messages().filter(|m| m.kind == kind::LINK) {
        meta.claim(m.body.len() as u64)?;
        memory::push(&mut found, link_message(m.body)?)?;
    }
    if let Some(info) = header.find(kind::LINK_INFO) {
        dense(meta, info.body, &mut found)?;
    }
    Ok(found)
}

/// The links in a fractal heap, if there is one.
fn dense(meta: &mut Metadata, info: &[u8], found: &mut Vec<Link>) -> Result<()> {
    let mut c = Cursor::new(info);
    c.magic(&[0], "link info message")?;
    if c.u8()? & 1 != 0 {
        c.u64()?;
    }
    let (heap, index) = (c.u64()?, c.u64()?);
    if heap == u64::MAX {
        return Ok(());
    }
    let heap = Heap::read(meta, heap)?;
    let mut ids = Vec::new();
    btree2::records(meta, index, 5, &mut |record| {
        let mut c = Cursor::new(record);
        c.u32()?;
        memory::reserve(&mut ids, 1)?;
        ids.push(<[u8; 7]>::try_from(c.take(7)?).unwrap_or_default());
        Ok(())
    })?;
    for id in ids {
        let message = heap.object(meta, &id)?;
        meta.claim(message.len() as u64)?;
        memory::push(found, link_message(&message)?)?;
    }
    Ok(())
}

fn link_message(body: &[u8]) -> Result<Link> {
    let mut c = Cursor::new(body);
    c.magic(&[1], "link message")?;
    let flags = c.u8()?;
    let class = if flags & 8 != 0 { c.u8()? } else { 0 };
    if flags & 4 != 0 {
        c.u64()?;
    }
    if flags & 16 != 0 {
        c.u8()?;
    }
    let len = usize::try_from(c.uint(flags & 3)?).unwrap_or(usize::MAX);
    let name = name(c.take(len)?)?;
    match class {
        0 => Ok(Link { name, header: c.u64()? }),
        _ => Err(not_hard(&name, class == 1)),
    }
}

fn symbol_table(meta: &mut Metadata, tree: u64, heap: u64, found: &mut Vec<Link>) -> Result<()> {
    let mut c = Cursor::new(meta.get(heap, 32)?);
    c.magic(b"HEAP", "local heap")?;
    c.u32()?;
    let (size, _, address) = (c.u64()?, c.u64()?, c.u64()?);
    let bytes = meta.get_vec(address, size)?;
    let mut names = Names { left: bytes.len(), bytes };
    let mut root = Cursor::new(meta.get(tree, 24)?);
    root.magic(b"TREE\0", "B-tree")?;
    let level = root.u8()?;
    tree_node(meta, tree, level, &mut names, found)
}

/// The local heap of a symbol table.
struct Names {
    bytes: Vec<u8>,
    /// Bytes that are not yet taken by a name: no two links share one.
    left: usize,
}

impl Names {
    fn get(&mut self, offset: u64) -> Result<String> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let tail = self.bytes.get(start..);
        let name = name(until_nul(tail.ok_or_else(|| damaged("the name of a link lies outside its heap"))?))?;
        let left = self.left.checked_sub(name.len());
        self.left = left.ok_or_else(|| damaged("the names of a group are longer than their heap"))?;
        Ok(name)
    }
}

/// Walks a B-tree node. Levels fall by one at each step, so that the recursion ends.
fn tree_node(
    meta: &mut Metadata,
    at: u64,
    level: u8,
    names: &mut Names,
    found: &mut Vec<Link>,
) -> Result<()> {
    meta.visit(at)?;
    let mut c = Cursor::new(meta.get(at, 24)?);
    c.magic(b"TREE\0", "B-tree")?;
    if c.u8()? != level {
        return Err(damaged("a node of a group's B-tree is not on the level of its parent's children"));
    }
    let used = u64::from(c.u16()?);
    // Keys and children alternate; the last key is not needed.
    let entries = meta.get_vec(at.saturating_add(24), used * 16)?;
    let mut c = Cursor::new(&entries);
    for _ in 0..used {
        c.u64()?;
        let child = c.u64()?;
        match level.checked_sub(1) {
            Some(below) => tree_node(meta, child, below, names, found)?,
            None => symbol_node(meta, child, names, found)?,
        }
    }
    Ok(())
}

fn symbol_node(meta: &mut Metadata, at: u64, names: &mut Names, found: &mut Vec<Link>) -> Result<()> {
    meta.visit(at)?;
    let mut c = Cursor::new(meta.get(at, 8)?);
    c.magic(b"SNOD\x01", "node of a symbol table")?;
    c.u8()?;
    let used = u64::from(c.u16()?);
    meta.claim(used * SYMBOL)?;
    memory::reserve(found, used as usize)?;
    let mut c = Cursor::new(meta.get(at.saturating_add(8), used * SYMBOL)?);
    let mut length = 0;
    for _ in 0..used {
        let (offset, header, cache) = (c.u64()?, c.u64()?, c.u32()?);
        c.take(20)?;
        let name = names.get(offset)?;
        if cache == 2 {
            return Err(not_hard(&name, true));
        }
        // Told here already, so that the zeros of a hole in the file are not collected as links.
        if found.last().is_some_and(|last| last.name == name) {
            return Err(twice(&name));
        }
        length += name.len() as u64;
        found.push(Link { name, header });
    }
    meta.charge(length)
}

fn name(bytes: &[u8]) -> Result<String> {
    if bytes.len() > MAX_PATH {
        return Err(damaged(format!("the name of a link has {} bytes: at most {MAX_PATH}", bytes.len())));
    }
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.is_empty() && !name.contains(['/', '\0']) => Ok(name.to_owned()),
        _ => Err(damaged(format!("'{}' cannot be the name of a link", String::from_utf8_lossy(bytes)))),
    }
}

/// The refusal of a group in which a name stands twice.
pub(super) fn twice(name: &str) -> Error {
    damaged(format!("the name '{name}' stands in it twice"))
}

/// The refusal of a link that is not a hard one.
fn not_hard(name: &str, soft: bool) -> Error {
    let what = if soft { "a soft" } else { "an external or user-defined" };
    damaged(format!("link '{name}' is {what} link: only hard links are read, the others can lead elsewhere"))
}
