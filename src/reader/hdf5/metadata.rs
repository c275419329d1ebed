//! The file's metadata, read through a small cache of pages and within a budget.

use crate::error::Result;
use crate::reader::source::{Source, damaged};

const PAGE: u64 = 64 << 10;
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
    pages: Vec<Option<Page>>,
    scratch: Vec<u8>,
    budget: u64,
}

impl<'a> Metadata<'a> {
    pub fn new(source: &'a Source) -> Metadata<'a> {
        let budget = source.len().saturating_mul(4).saturating_add(16 << 20);
        let pages = (0..SLOTS).map(|_| None).collect();
        Metadata { source, pages, scratch: Vec::new(), budget }
    }

    /// Bytes that addresses can reach.
    pub fn len(&self) -> u64 {
        self.source.len()
    }

    /// Takes `work` bytes from the budget.
    pub fn charge(&mut self, work: u64) -> Result<()> {
        match self.budget.checked_sub(work) {
            Some(left) => self.budget = left,
            None => return Err(damaged("its HDF5 metadata refers to the same bytes over and over")),
        }
        Ok(())
    }

    /// The bytes `[address, address + len)`.
    pub fn get(&mut self, address: u64, len: u64) -> Result<&[u8]> {
        let end = address.checked_add(len).filter(|&end| end <= self.source.len());
        let (Some(end), Ok(size)) = (end, usize::try_from(len)) else {
            return Err(damaged(format!("HDF5 metadata at address {address} lies beyond its end")));
        };
        self.charge(len.max(16))?;
        let number = address / PAGE;
        if len == 0 || (end - 1) / PAGE != number {
            self.scratch.clear();
            self.scratch.resize(size, 0);
            self.source.read_at(address, &mut self.scratch)?;
            return Ok(&self.scratch);
        }
        let start = (address % PAGE) as usize;
        let page = self.page(number)?;
        page.get(start..start + size).ok_or_else(|| damaged("a page of its HDF5 metadata is short"))
    }

    fn page(&mut self, number: u64) -> Result<&[u8]> {
        let slot = &mut self.pages[(number % SLOTS) as usize];
        let hit = slot.as_ref().is_some_and(|page| page.number == number);
        if !hit {
            let mut bytes = slot.take().map(|page| page.bytes).unwrap_or_default();
            let at = number * PAGE;
            bytes.resize((self.source.len() - at).min(PAGE) as usize, 0);
            self.source.read_at(at, &mut bytes)?;
            *slot = Some(Page { number, bytes });
        }
        Ok(slot.as_ref().map(|page| page.bytes.as_slice()).unwrap_or_default())
    }
}
