//! The file's metadata, read through a small cache of pages and within a budget.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::memory;
use crate::reader::source::{Source, damaged};

const PAGE: u64 = 64 << 10;
/// A page where little is to be read.
const SMALL_PAGE: u64 = 4 << 10;
const SLOTS: u64 = 64;

struct Page {
    number: u64,
    bytes: Vec<u8>,
}

/// Reads metadata by address. Memory is bounded by the number of pages, work by a budget: each byte of sound
/// metadata is looked at a few times, so that a file whose structures refer to each other in circles runs out
/// of it.
pub(super) struct Metadata<'a> {
    source: &'a Source,
    page: u64,
    pages: Vec<Option<Page>>,
    scratch: Vec<u8>,
    budget: u64,
    /// Bytes that are not yet taken by a link.
    unclaimed: u64,
    /// The nodes of groups that were visited.
    nodes: HashSet<u64>,
}

impl<'a> Metadata<'a> {
    /// For all objects of the file.
    pub fn new(source: &'a Source) -> Metadata<'a> {
        Metadata::with_pages(source, PAGE)
    }

    /// For one object.
    pub fn for_one(source: &'a Source) -> Metadata<'a> {
        Metadata::with_pages(source, SMALL_PAGE)
    }

    fn with_pages(source: &'a Source, page: u64) -> Metadata<'a> {
        let budget = source.len().saturating_mul(4).saturating_add(16 << 20);
        let pages = (0..SLOTS).map(|_| None).collect();
        let (scratch, nodes) = (Vec::new(), HashSet::new());
        Metadata { source, page, pages, scratch, budget, unclaimed: source.len(), nodes }
    }

    /// Bytes that addresses can reach.
    pub fn len(&self) -> u64 {
        self.source.len()
    }

    /// Lets no more than `budget` bytes be looked at from here on.
    pub fn limit(&mut self, budget: u64) {
        self.budget = self.budget.min(budget);
    }

    /// Takes `work` bytes from the budget.
    pub fn charge(&mut self, work: u64) -> Result<()> {
        match self.budget.checked_sub(work) {
            Some(left) => self.budget = left,
            None => return Err(again()),
        }
        Ok(())
    }

    /// Notes that a walk comes to the node at `address`, which has one parent: once is enough.
    pub fn visit(&mut self, address: u64) -> Result<()> {
        memory::reserve_set(&mut self.nodes, 1)?;
        if self.nodes.insert(address) { Ok(()) } else { Err(again()) }
    }

    /// Takes the bytes of links, which share none: a file of this size has room for no more.
    pub fn claim(&mut self, bytes: u64) -> Result<()> {
        match self.unclaimed.checked_sub(bytes) {
            Some(left) => self.unclaimed = left,
            None => return Err(damaged("its groups have more links than a file of this size can hold")),
        }
        Ok(())
    }

    /// The bytes `[address, address + len)`, to keep.
    pub fn get_vec(&mut self, address: u64, len: u64) -> Result<Vec<u8>> {
        let bytes = self.get(address, len)?;
        let mut kept = Vec::new();
        memory::reserve(&mut kept, bytes.len())?;
        kept.extend_from_slice(bytes);
        Ok(kept)
    }

    /// The bytes `[address, address + len)`.
    pub fn get(&mut self, address: u64, len: u64) -> Result<&[u8]> {
        let end = address.checked_add(len).filter(|&end| end <= self.source.len());
        let (Some(end), Ok(size)) = (end, usize::try_from(len)) else {
            return Err(damaged(format!("HDF5 metadata at address {address} lies beyond its end")));
        };
        self.charge(len.max(16))?;
        let number = address / self.page;
        if len == 0 || (end - 1) / self.page != number {
            self.scratch.clear();
            memory::reserve(&mut self.scratch, size)?;
            self.scratch.resize(size, 0);
            self.source.read_at(address, &mut self.scratch)?;
            return Ok(&self.scratch);
        }
        let start = (address % self.page) as usize;
        let page = self.page(number)?;
        page.get(start..start + size).ok_or_else(|| damaged("a page of its HDF5 metadata is short"))
    }

    fn page(&mut self, number: u64) -> Result<&[u8]> {
        let slot = &mut self.pages[(number % SLOTS) as usize];
        let hit = slot.as_ref().is_some_and(|page| page.number == number);
        if !hit {
            let mut bytes = slot.take().map(|page| page.bytes).unwrap_or_default();
            let at = number * self.page;
            let len = (self.source.len() - at).min(self.page) as usize;
            memory::lengthen(&mut bytes, len)?;
            bytes.truncate(len);
            self.source.read_at(at, &mut bytes)?;
            *slot = Some(Page { number, bytes });
        }
        Ok(slot.as_ref().map(|page| page.bytes.as_slice()).unwrap_or_default())
    }
}

fn again() -> Error {
    damaged("its HDF5 metadata refers to the same bytes over and over")
}
