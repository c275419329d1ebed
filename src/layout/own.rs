//! Our own group, `/libckpt`: the training state and every tensor's checksum, in slots of fixed size.
//!
//! - `/libckpt/state`: uint8 `[capacity]`: the training state, JSON, padded with spaces at its end.
//! - `/libckpt/checksums`: uint64 `[n + 1, 2]`: a row `(path_key(path), checksum)` for each of the n tensors and
//!   one for the path `libckpt/state`, sorted by key. The checksum is [`TensorSpec::checksum`] (the 32 bits zero
//!   extended), that of the state taken over the whole dataset, its padding included. Keys are hashes: rows may
//!   share one, and then stand in no certain order.
//!
//! Both are contiguous and stand in the metadata, before the tensors' data.

use std::sync::Arc;

use super::bytes::{Put, set_u64};
use super::guard::Tail;
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::tensor::{Dtype, TensorSpec, path_key};

pub use super::schema::OWN_GROUP;

/// The dataset of the training state, in [`OWN_GROUP`].
pub const STATE: &str = "state";

/// The dataset of the checksums, in [`OWN_GROUP`].
pub const CHECKSUMS: &str = "checksums";

/// The path of [`STATE`], as its checksum has it.
pub const STATE_PATH: &str = "libckpt/state";

/// The path of [`CHECKSUMS`].
pub(super) const CHECKSUMS_PATH: &str = "libckpt/checksums";

/// The state's capacity where nothing else is asked for.
pub const STATE_CAPACITY: usize = 4096;

/// Bytes of a row of checksums.
pub(super) const ROW: usize = 16;

/// Where the slots are in the metadata.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    state_at: usize,
    state_capacity: usize,
    checksums_at: usize,
    /// For each tensor, and for the state at the end.
    checksums: Arc<Vec<Slot>>,
    /// What is behind them.
    tail: Tail,
}

/// Where a checksum is, and what it would be if the CRC-32 of the data were 0. It is linear in that: the CRC is
/// XORed to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) at: usize,
    pub(super) head: u32,
}

/// A row of checksums for each of these, in the order of their keys. `put` writes one, and says where its checksum is.
pub(super) fn put_rows<'a>(
    specs: impl Iterator<Item = &'a TensorSpec> + Clone,
    mut put: impl FnMut(u64) -> usize,
) -> Result<Vec<Slot>> {
    let mut keys = memory::collect(specs.clone().enumerate().map(|(i, s)| (path_key(&s.path), i)))?;
    keys.sort_unstable();
    let mut slots = memory::collect(specs.map(|s| Slot { at: 0, head: s.checksum(0) }))?;
    for (key, index) in keys {
        slots[index].at = put(key);
    }
    Ok(slots)
}

/// Refuses a training state for which there is no room.
pub(super) fn check_state(state: &[u8], capacity: usize) -> Result<()> {
    if state.len() > capacity {
        return Err(Error::new(
            Status::State,
            format!(
                "the training state has {} bytes, the layout room for {capacity}: plan it anew with more",
                state.len()
            ),
        ));
    }
    Ok(())
}

impl Slots {
    /// Appends the data of both datasets, the keys filled in.
    pub(super) fn put(out: &mut Vec<u8>, tensors: &[TensorSpec], state_capacity: usize) -> Result<Slots> {
        out.make_room(state_capacity + 8 + (tensors.len() + 1) * ROW)?;
        let state =
            TensorSpec { path: STATE_PATH.into(), dtype: Dtype::U8, shape: vec![state_capacity as u64] };
        let state_at = out.len();
        out.put_zeros(state_capacity);
        out.align(8);
        let checksums_at = out.len();
        let checksums = put_rows(tensors.iter().chain([&state]), |key| {
            out.put_u64(key);
            let at = out.len();
            out.put_u64(0);
            at
        })?;
        let checksums = Arc::new(checksums);
        Ok(Slots { state_at, state_capacity, checksums_at, checksums, tail: Tail::default() })
    }

    /// The metadata are final but for the slots.
    pub(super) fn set_tail(&mut self, metadata: &[u8]) {
        self.tail = Tail::new(metadata, self.checksums_at + self.rows() * ROW);
    }

    pub(super) fn state_at(&self) -> usize {
        self.state_at
    }

    pub(super) fn state_capacity(&self) -> usize {
        self.state_capacity
    }

    pub(super) fn checksums_at(&self) -> usize {
        self.checksums_at
    }

    pub(super) fn rows(&self) -> usize {
        self.checksums.len()
    }

    pub(super) fn tensors(&self) -> usize {
        self.rows() - 1
    }

    /// Writes the state and all checksums; `crcs` are those of the tensors' bytes.
    pub(super) fn fill(&self, metadata: &mut [u8], crcs: &[u32], state: &[u8]) -> Result<()> {
        check_state(state, self.state_capacity)?;
        let room = &mut metadata[self.state_at..self.state_at + self.state_capacity];
        let (text, padding) = room.split_at_mut(state.len());
        text.copy_from_slice(state);
        padding.fill(b' ');
        let state_crc = crc32fast::hash(room);
        for (slot, crc) in self.checksums.iter().zip(crcs.iter().copied().chain([state_crc])) {
            set_u64(metadata, slot.at, u64::from(slot.head ^ crc));
        }
        self.tail.guard(metadata);
        Ok(())
    }
}
