//! Groups: a small one keeps its links in its own header, a large one in a symbol table.

use super::super::bytes::{Put, set_u64};
use super::UNDEFINED;
use super::header::Header;
use crate::error::Result;
use crate::memory;

/// A group of more links than this has a symbol table. It is the library's own limit (the default of its group
/// information message), so that a group of ours grows as one of its own does.
const MAX_COMPACT: usize = 8;

/// Half the entries of a full symbol table node, and half the children of a full B-tree node: the library's
/// defaults. The superblock states them.
pub(super) const LEAF_K: u16 = 4;
/// See [`LEAF_K`].
pub(super) const INTERNAL_K: u16 = 16;

const LEAF_ENTRIES: usize = 2 * LEAF_K as usize;
const CHILDREN: usize = 2 * INTERNAL_K as usize;

/// Bytes of a B-tree node, full or not.
const TREE_NODE_LEN: usize = 24 + 8 * CHILDREN + 8 * (CHILDREN + 1);

/// Bytes of a symbol table node, full or not.
const LEAF_LEN: usize = 8 + LEAF_ENTRIES * ENTRY_LEN;

/// Bytes of a symbol table entry.
const ENTRY_LEN: usize = 40;

/// The most bytes of the header of a compact group, without its names and attributes.
const GROUP_LEN: usize = 128 + MAX_COMPACT * 32;

/// Where an object is: its header and, of a group with a symbol table, its parts.
#[derive(Clone, Copy)]
pub(super) struct Object {
    pub(super) header: u64,
    pub(super) table: Option<SymbolTable>,
}

/// The parts of a symbol table.
#[derive(Clone, Copy)]
pub(super) struct SymbolTable {
    tree: u64,
    heap: u64,
}

/// A name in a group, and what it stands for.
#[derive(Clone, Copy)]
pub(super) struct Link<'a> {
    pub(super) name: &'a str,
    pub(super) object: Object,
}

/// Writes a group with these links, which are sorted by name; `attributes` adds to its header.
pub(super) fn put(
    out: &mut Vec<u8>,
    links: &[Link],
    attributes: impl FnOnce(&mut Header) -> Result<()>,
) -> Result<Object> {
    let is_compact = links.len() <= MAX_COMPACT;
    let table = if is_compact { None } else { Some(put_symbol_table(out, links)?) };
    let names = links.iter().take(MAX_COMPACT).map(|link| link.name.len()).sum::<usize>();
    out.make_room(GROUP_LEN + names)?;
    let mut header = Header::begin(out);
    match table {
        Some(table) => header.symbol_table(table.tree, table.heap),
        None => {
            header.link_group();
            for link in links {
                header.link(link.name, link.object.header);
            }
        }
    }
    attributes(&mut header)?;
    Ok(Object { header: header.end(), table })
}

/// A symbol table entry. What a table's header says is cached in it, as the library does.
pub(super) fn put_entry(out: &mut Vec<u8>, name: u64, object: Object) {
    out.put_u64(name);
    out.put_u64(object.header);
    match object.table {
        Some(table) => {
            out.put_u64(1); // the scratch pad holds a symbol table's addresses
            out.put_u64(table.tree);
            out.put_u64(table.heap);
        }
        None => out.put_zeros(24),
    }
}

fn put_symbol_table(out: &mut Vec<u8>, links: &[Link]) -> Result<SymbolTable> {
    let heap = put_names(out, links)?;
    let leaves = put_leaves(out, links)?;
    Ok(SymbolTable { tree: put_tree(out, leaves)?, heap })
}

/// The local heap: every name, NUL-terminated, padded to 8 bytes; the empty one first.
fn put_names(out: &mut Vec<u8>, links: &[Link]) -> Result<u64> {
    const NO_FREE_SPACE: u64 = 1;
    let names = links.iter().map(|link| name_len(link.name) as usize).sum::<usize>();
    out.make_room(40 + names)?;
    let heap = out.here();
    out.put(b"HEAP\0\0\0\0");
    let len_at = out.len();
    out.put_u64(0);
    out.put_u64(NO_FREE_SPACE);
    let segment = out.here() + 8;
    out.put_u64(segment);
    out.put_zeros(8);
    for link in links {
        out.put(link.name.as_bytes());
        out.put_u8(0);
        out.align(8);
    }
    let len = out.here() - segment;
    set_u64(out, len_at, len);
    Ok(heap)
}

/// Bytes that a name takes in the local heap.
fn name_len(name: &str) -> u64 {
    (name.len() as u64 + 1).next_multiple_of(8)
}

/// A node of the level below, for its B-tree node: its address, and the greatest name in it.
struct Child {
    address: u64,
    last_name: u64,
}

/// The symbol table nodes.
fn put_leaves(out: &mut Vec<u8>, links: &[Link]) -> Result<Vec<Child>> {
    let count = links.len().div_ceil(LEAF_ENTRIES);
    out.make_room(count * LEAF_LEN)?;
    let mut leaves = Vec::new();
    memory::reserve(&mut leaves, count)?;
    let mut name = 8;
    for entries in links.chunks(LEAF_ENTRIES) {
        let address = out.here();
        let end = out.len() + LEAF_LEN;
        out.put(b"SNOD\x01\0");
        out.put_u16(entries.len() as u16);
        let mut last_name = 0;
        for link in entries {
            put_entry(out, name, link.object);
            last_name = name;
            name += name_len(link.name);
        }
        out.put_zeros(end - out.len());
        leaves.push(Child { address, last_name });
    }
    Ok(leaves)
}

/// The B-tree over the symbol table nodes, level by level; the address of its root.
fn put_tree(out: &mut Vec<u8>, mut nodes: Vec<Child>) -> Result<u64> {
    let mut level = 0;
    loop {
        let first = out.here();
        let count = nodes.len().div_ceil(CHILDREN);
        out.make_room(count * TREE_NODE_LEN)?;
        let mut parents = Vec::new();
        memory::reserve(&mut parents, count)?;
        let mut greatest = 0; // so far on this level; at first the empty name
        for (i, children) in nodes.chunks(CHILDREN).enumerate() {
            let address = out.here();
            let end = out.len() + TREE_NODE_LEN;
            let neighbour = |i: usize| first + (i * TREE_NODE_LEN) as u64;
            out.put(b"TREE\0");
            out.put_u8(level);
            out.put_u16(children.len() as u16);
            out.put_u64(if i > 0 { neighbour(i - 1) } else { UNDEFINED });
            out.put_u64(if i + 1 < count { neighbour(i + 1) } else { UNDEFINED });
            out.put_u64(greatest);
            for child in children {
                out.put_u64(child.address);
                out.put_u64(child.last_name);
                greatest = child.last_name;
            }
            out.put_zeros(end - out.len());
            parents.push(Child { address, last_name: greatest });
        }
        if count <= 1 {
            return Ok(first);
        }
        nodes = parents;
        level += 1;
    }
}
