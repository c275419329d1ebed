//! The trainer's own bytes (random numbers, the data's position, a schedule): beside the tensors in every save.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::Buffer;
use crate::error::{Error, Result};
use crate::layout::{data_key, data_path};
use crate::memory;

/// Bytes by the paths that they have in a checkpoint; each is shared with the saves that hold it.
#[derive(Clone, Default)]
pub(super) struct Data(BTreeMap<String, Arc<Vec<u8>>>);

/// A path, and the bytes there.
pub(super) type Entry = (String, Arc<Vec<u8>>);

/// The paths of such bytes, and how many there are: what a layout has to know.
pub(super) type Sizes = Vec<(String, u64)>;

impl Data {
    /// Bytes under a key, for [`Data::set`].
    pub fn entry(key: &str, bytes: &[u8]) -> Result<Entry> {
        let path = data_path(key)?;
        let mut copy = Vec::new();
        copy.try_reserve_exact(bytes.len())
            .map_err(|e| Error::no_memory(&format!("the state '{key}'"), bytes.len() as u64).context(e))?;
        copy.extend_from_slice(bytes);
        Ok((path, Arc::new(copy)))
    }

    /// Sets bytes, in the place of those under the same key.
    pub fn set(&mut self, (path, bytes): Entry) {
        self.0.insert(path, bytes);
    }

    /// Takes over what a checkpoint has.
    pub fn of(entries: Vec<(String, Vec<u8>)>) -> Result<Data> {
        let mut data = Data::default();
        for (key, bytes) in entries {
            data.set((data_path(&key)?, Arc::new(bytes)));
        }
        Ok(data)
    }

    /// The bytes under a key.
    pub fn get(&self, key: &str) -> Option<Arc<Vec<u8>>> {
        self.0.get(&data_path(key).ok()?).cloned()
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        self.0.keys().filter_map(|path| data_key(path))
    }

    /// What a layout has to know.
    pub fn sizes(&self) -> Result<Sizes> {
        memory::collect(self.0.iter().map(|(path, bytes)| (path.clone(), bytes.len() as u64)))
    }

    /// The buffers of a model, and behind them these bytes.
    pub fn behind(&self, model: &Arc<Vec<Buffer>>) -> Result<Arc<Vec<Buffer>>> {
        match self.0.is_empty() {
            true => Ok(model.clone()),
            false => {
                let own = self.0.values().map(|bytes| Buffer::owned(bytes.clone()));
                memory::collect(model.iter().cloned().chain(own)).map(Arc::new)
            }
        }
    }
}
