//! The global heap: the bytes of variable-length strings, many to a collection.

use super::super::bytes::{Put, set_u64};
use crate::error::Result;

/// HDF5 1.14 and later refuse smaller ones.
pub(super) const MIN_COLLECTION: usize = 4096;

/// A collection takes no further object beyond this size: the library holds whole collections in memory. It
/// also keeps the objects' numbers, at least 16 bytes an object, far below their limit of 65,535.
const FULL_COLLECTION: usize = 64 * 1024;

/// Bytes before the objects.
const PREFIX: usize = 16;

/// The collections, in a buffer of their own, as their place in the file is known last.
#[derive(Default)]
pub(super) struct GlobalHeap {
    bytes: Vec<u8>,
    /// Where the collection that is being filled starts.
    start: usize,
    /// The number of its last object; 0 if no collection is being filled.
    index: u16,
}

/// Where an object is.
pub(super) struct Place {
    /// Of the collection, from the start of the heap.
    pub(super) offset: u64,
    /// In the collection.
    pub(super) index: u16,
}

impl GlobalHeap {
    pub(super) fn insert(&mut self, value: &[u8]) -> Result<Place> {
        // The end of the collection, too.
        self.bytes.make_room(value.len() + 2 * PREFIX + MIN_COLLECTION)?;
        if self.index == 0 {
            self.start = self.bytes.len();
            self.bytes.put(b"GCOL\x01\0\0\0");
            self.bytes.put_u64(0);
        }
        self.index += 1;
        self.bytes.put_u16(self.index);
        self.bytes.put_u16(0); // references
        self.bytes.put_u32(0);
        self.bytes.put_u64(value.len() as u64);
        self.bytes.put(value);
        self.bytes.align(8);
        let place = Place { offset: self.start as u64, index: self.index };
        if self.bytes.len() - self.start >= FULL_COLLECTION {
            self.close();
        }
        Ok(place)
    }

    /// Completes the collection that is being filled.
    fn close(&mut self) {
        if self.index == 0 {
            return;
        }
        let used = self.bytes.len() - self.start;
        if let Some(free) = MIN_COLLECTION.checked_sub(used).filter(|&free| free > 0) {
            // Object 0 is the free space, its header counted; less than a header is free without saying.
            self.bytes.put_zeros(free);
            if free >= PREFIX {
                set_u64(&mut self.bytes, self.start + used + 8, free as u64);
            }
        }
        let len = (self.bytes.len() - self.start) as u64;
        set_u64(&mut self.bytes, self.start + 8, len);
        self.index = 0;
    }

    /// All collections.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.close();
        self.bytes
    }
}
