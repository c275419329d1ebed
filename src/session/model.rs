//! The model: a schema, the caller's buffers, and the layouts that were computed for it.

use std::collections::BTreeMap;
use std::path::Path;

use parking_lot::Mutex;

use crate::engine::{self, Buffer, Disk, Save, Spares, Tensors, Unwatched, WriteOptions, WriteStats};
use crate::error::{Error, Result, Status};
use crate::layout::{self, Assets, Format, Layout, Schema, Stamp};
use crate::tensor::Dtype;

use super::state::TrainingState;

/// What a file is made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub format: Format,
    /// The most bytes of tensors in one file of [`Format::Shards`].
    pub max_shard_bytes: u64,
}

/// The tensors of a model by their paths, with the caller's memory.
#[derive(Default)]
pub struct Model {
    pub(super) schema: Schema,
    pub(super) buffers: Vec<Buffer>,
    config: Option<String>,
    assets: Assets,
    metadata: BTreeMap<String, String>,
    /// The last layout: a further save of the same kind replays it. A save takes it out while bytes move.
    layout: Mutex<Option<(Kind, Layout)>>,
}

impl Model {
    /// A model without tensors.
    pub fn new() -> Model {
        Model::default()
    }

    /// Adds a tensor whose bytes are in `buffer`; nothing has changed after an error.
    pub fn add(&mut self, path: &str, dtype: Dtype, shape: &[u64], buffer: Buffer) -> Result<()> {
        self.schema.add(path, dtype, shape)?;
        self.buffers.push(buffer);
        *self.layout.get_mut() = None;
        Ok(())
    }

    /// The buffer of a tensor.
    pub fn buffer_mut(&mut self, path: &str) -> Result<&mut Buffer> {
        let index = self.schema.find(path);
        index.and_then(|i| self.buffers.get_mut(i)).ok_or_else(|| {
            Error::new(Status::NotFound, format!("the model has no tensor '{path}': add it first"))
        })
    }

    /// Gives `group`/vars Keras' attribute `name`.
    pub fn set_name(&mut self, group: &str, name: &str) -> Result<()> {
        self.schema.set_name(group, name)?;
        *self.layout.get_mut() = None;
        Ok(())
    }

    /// Sets the `config.json` of a `.keras` file.
    pub fn set_config(&mut self, config: &str) -> Result<()> {
        layout::check_config(config)?;
        self.config = Some(config.to_owned());
        *self.layout.get_mut() = None;
        Ok(())
    }

    /// Sets `assets/name` of a `.keras` file.
    pub fn set_asset(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.assets.set(name, bytes)?;
        *self.layout.get_mut() = None;
        Ok(())
    }

    /// Sets an entry of the `__metadata__` of a `.safetensors` file.
    pub fn set_metadata(&mut self, key: &str, value: &str) -> Result<()> {
        layout::safetensors::check_key(key)?;
        self.metadata.insert(key.to_owned(), value.to_owned());
        *self.layout.get_mut() = None;
        Ok(())
    }

    /// Saves one file, durably; its ending says what it is.
    pub fn save(&self, path: &Path) -> Result<()> {
        let format = Format::of(&path.to_string_lossy())?;
        let kind = Kind { format, max_shard_bytes: layout::MAX_SHARD_BYTES };
        let state = TrainingState::default().to_json();
        self.write(path, kind, state, &WriteOptions::default(), None).map(|_| ())
    }

    /// Bytes of a checkpoint of this kind.
    pub(super) fn prepare(&self, kind: Kind) -> Result<u64> {
        let layout = self.take_layout(kind, 0)?;
        let size = layout.total_size();
        *self.layout.lock() = Some((kind, layout));
        Ok(size)
    }

    /// Writes and commits one file.
    pub(super) fn write(
        &self,
        path: &Path,
        kind: Kind,
        state: Vec<u8>,
        options: &WriteOptions,
        spares: Option<&Spares>,
    ) -> Result<WriteStats> {
        let mut layout = self.take_layout(kind, state.len())?;
        let stamp = Stamp { state, date: engine::local_date() };
        let save = Save {
            storage: &Disk,
            path,
            layout: &mut layout,
            stamp: &stamp,
            tensors: Tensors::Buffers(&self.buffers),
            options: *options,
            watch: &Unwatched,
            arena: None,
            spares,
        };
        let stats = save.run();
        *self.layout.lock() = Some((kind, layout));
        stats
    }

    /// The cached layout if it fits, else a new one.
    fn take_layout(&self, kind: Kind, state_bytes: usize) -> Result<Layout> {
        match self.layout.lock().take() {
            Some((k, layout)) if k == kind && layout.state_capacity() >= state_bytes => Ok(layout),
            _ => {
                let capacity = state_bytes.next_power_of_two().max(layout::own::STATE_CAPACITY);
                let options = layout::Options {
                    config: self.config.as_deref(),
                    assets: &self.assets,
                    metadata: &self.metadata,
                    max_shard_bytes: kind.max_shard_bytes,
                    state_capacity: capacity,
                };
                layout::plan(&self.schema, kind.format, &options)
            }
        }
    }
}
