//! The version 2 B-tree: records of one size, found by their order. Here all of them are wanted.

use super::checksum::verified;
use super::cursor::Cursor;
use super::metadata::Metadata;
use crate::error::Result;
use crate::reader::source::damaged;

const HEADER: u64 = 38;
/// Bytes of a node before its records, and those of its checksum.
const PREFIX: u64 = 6;
const CHECKSUM: u64 = 4;
/// Far more levels than a tree of 2^64 records has.
const MAX_DEPTH: u16 = 64;

struct Tree {
    kind: u8,
    node: u64,
    record: u64,
    /// Bytes of the number of records in a node.
    width: u64,
    /// Bytes of the number of records below a node of each level; 0 for a leaf.
    below: Vec<u64>,
}

/// Visits every record of the tree at `address`, which must be of this kind.
pub(super) fn records(
    meta: &mut Metadata,
    address: u64,
    kind: u8,
    visit: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut c = Cursor::new(verified(meta.get(address, HEADER)?, "B-tree")?);
    c.magic(&[b'B', b'T', b'H', b'D', 0, kind], "B-tree of its kind")?;
    let (node, record, depth) = (u64::from(c.u32()?), u64::from(c.u16()?), c.u16()?);
    c.u16()?;
    let (root, used) = (c.u64()?, u64::from(c.u16()?));
    if used == 0 {
        return Ok(());
    }
    let tree = Tree::new(kind, node, record, depth)?;
    tree.node(meta, root, used, depth, visit)
}

impl Tree {
    fn new(kind: u8, node: u64, record: u64, depth: u16) -> Result<Tree> {
        let odd = || damaged("the header of a B-tree makes no sense");
        if record == 0 || depth > MAX_DEPTH {
            return Err(odd());
        }
        let most = node.checked_sub(PREFIX + CHECKSUM).ok_or_else(odd)? / record;
        let mut tree = Tree { kind, node, record, width: bytes_for(most), below: vec![0] };
        let mut all = most;
        for level in 1..=depth {
            let pointer = tree.pointer(level);
            let room = node.checked_sub(PREFIX + CHECKSUM + pointer).ok_or_else(odd)?;
            let most = room / (record + pointer);
            all = (most + 1).saturating_mul(all).saturating_add(most);
            tree.below.push(bytes_for(all));
        }
        Ok(tree)
    }

    /// Bytes of a pointer in a node of this level.
    fn pointer(&self, level: u16) -> u64 {
        let below = level.checked_sub(1).and_then(|below| self.below.get(usize::from(below)));
        8 + self.width + below.copied().unwrap_or(0)
    }

    /// A node with `used` records. Levels fall by one at each step, so that the recursion ends.
    fn node(
        &self,
        meta: &mut Metadata,
        at: u64,
        used: u64,
        level: u16,
        visit: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        meta.visit(at)?;
        let pointers = if level == 0 { 0 } else { (used + 1) * self.pointer(level) };
        let len = PREFIX + used * self.record + pointers + CHECKSUM;
        if len > self.node {
            return Err(damaged("a node of a B-tree has more records than it can hold"));
        }
        let bytes = meta.get_vec(at, len)?;
        let mut c = Cursor::new(verified(&bytes, "node of a B-tree")?);
        let magic = if level == 0 { *b"BTLF" } else { *b"BTIN" };
        c.magic(&magic, "node of a B-tree")?;
        c.magic(&[0, self.kind], "node of a B-tree of its kind")?;
        for _ in 0..used {
            visit(c.take(self.record as usize)?)?;
        }
        let Some(below) = level.checked_sub(1) else { return Ok(()) };
        for _ in 0..=used {
            let (child, used) = (c.u64()?, c.number(self.width as usize)?);
            c.take((self.pointer(level) - 8 - self.width) as usize)?;
            self.node(meta, child, used, below, visit)?;
        }
        Ok(())
    }
}

/// Bytes that hold every number up to `most`.
fn bytes_for(most: u64) -> u64 {
    u64::from(most.checked_ilog2().unwrap_or(0)) / 8 + 1
}
