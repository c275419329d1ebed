//! The model: a schema, the caller's buffers, and the layouts that were computed for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::engine::{Buffer, Disk, Fence, Kept, Lender, Loan, Purpose, Unwatched, WriteOptions, WriteStats};
use crate::error::{Error, Result, Status};
use crate::layout::{self, Assets, Format, Layout, Schema};
use crate::memory;
use crate::tensor::Dtype;

use super::data::{Data, Sizes};
use super::state::TrainingState;
use super::work::{Layouts, Work};

/// What a file is made as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub format: Format,
    /// The most bytes of tensors in one file of [`Format::Shards`].
    pub max_shard_bytes: u64,
    /// What it has beside the tensors of the model.
    pub data: Arc<Sizes>,
}

impl Kind {
    /// A file of the model alone.
    pub fn new(format: Format, max_shard_bytes: u64) -> Kind {
        Kind { format, max_shard_bytes, data: Arc::default() }
    }

    /// With these bytes of the trainer's.
    pub fn with(&self, data: &Data) -> Result<Kind> {
        Ok(Kind { data: Arc::new(data.sizes()?), ..*self })
    }
}

/// The tensors of a model by their paths, with the caller's memory.
#[derive(Default)]
pub struct Model {
    pub(super) schema: Schema,
    /// Shared with the saves in the background.
    pub(super) buffers: Arc<Vec<Buffer>>,
    /// Likewise.
    pub(super) lender: Lender,
    config: Option<String>,
    assets: Assets,
    metadata: BTreeMap<String, String>,
    /// Of the model as it is: a change begins anew.
    layouts: Arc<Layouts>,
}

impl Model {
    /// A model without tensors.
    pub fn new() -> Model {
        Model::default()
    }

    /// Adds a tensor whose bytes are in `buffer`; nothing has changed after an error.
    pub fn add(&mut self, path: &str, dtype: Dtype, shape: &[u64], buffer: Buffer) -> Result<()> {
        let buffers = memory::make_mut(&mut self.buffers)?;
        memory::reserve(buffers, 1)?;
        self.schema.add(path, dtype, shape)?;
        buffers.push(buffer);
        self.forget_layouts();
        Ok(())
    }

    /// The buffer of a tensor.
    pub fn buffer_mut(&mut self, path: &str) -> Result<&mut Buffer> {
        let index = self.schema.find(path);
        let buffers = memory::make_mut(&mut self.buffers)?;
        index.and_then(|i| buffers.get_mut(i)).ok_or_else(|| {
            Error::new(Status::NotFound, format!("the model has no tensor '{path}': add it first"))
        })
    }

    /// Has a fence stand at both ends of every save and load of the model from now on.
    pub fn add_fence(&mut self, fence: Arc<dyn Fence>) -> Result<()> {
        memory::push(memory::make_mut(&mut self.lender.fences)?, fence)
    }

    /// Keeps what `owned` gives for as long as the model or one of its saves needs it; `key` is its name, which nothing else
    /// has. `owned` is not called after an error.
    pub fn own(&mut self, key: Option<&str>, owned: impl FnOnce() -> Kept) -> Result<()> {
        if let Some(key) = key.filter(|key| self.owned(key).is_some()) {
            return Err(Error::new(
                Status::InvalidArgument,
                format!("the model owns something as '{key}' already"),
            ));
        }
        let key = key.map(memory::text).transpose()?;
        let kept = memory::make_mut(&mut self.lender.kept)?;
        memory::reserve(kept, 1)?;
        kept.push((key, owned()));
        Ok(())
    }

    /// What the model keeps under a name.
    pub fn owned(&self, key: &str) -> Option<&Kept> {
        self.lender.kept.iter().find(|(name, _)| name.as_deref() == Some(key)).map(|(_, owned)| owned)
    }

    /// Gives `group`/vars Keras' attribute `name`.
    pub fn set_name(&mut self, group: &str, name: &str) -> Result<()> {
        self.schema.set_name(group, name)?;
        self.forget_layouts();
        Ok(())
    }

    /// Sets the `config.json` of a `.keras` file.
    pub fn set_config(&mut self, config: &str) -> Result<()> {
        layout::check_config(config)?;
        self.config = Some(memory::text(config)?);
        self.forget_layouts();
        Ok(())
    }

    /// Sets `assets/name` of a `.keras` file.
    pub fn set_asset(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.assets.set(name, bytes)?;
        self.forget_layouts();
        Ok(())
    }

    /// Sets an entry of the `__metadata__` of a `.safetensors` file.
    pub fn set_metadata(&mut self, key: &str, value: &str) -> Result<()> {
        layout::safetensors::check_key(key)?;
        self.metadata.insert(memory::text(key)?, memory::text(value)?);
        self.forget_layouts();
        Ok(())
    }

    /// Saves one file, durably; its ending says what it is.
    pub fn save(&self, path: &Path) -> Result<()> {
        let format = Format::of(&path.to_string_lossy())?;
        let kind = Kind::new(format, layout::MAX_SHARD_BYTES);
        let state = TrainingState::default().to_json();
        self.write(path, &Data::default(), kind, state, &WriteOptions::default()).map(|_| ())
    }

    /// The model has changed. Those that saves have in use go nowhere then.
    fn forget_layouts(&mut self) {
        match Arc::get_mut(&mut self.layouts) {
            Some(layouts) => *layouts = Layouts::default(),
            None => self.layouts = Arc::default(),
        }
    }

    /// Computes the layout; gives the bytes of a checkpoint of this kind.
    pub(super) fn prepare(&self, kind: Kind) -> Result<u64> {
        let layout = match self.layouts.take(&kind, 0, false)? {
            Some(layout) => layout,
            None => self.plan(&kind, 0)?,
        };
        let size = layout.total_size();
        self.layouts.put(kind, layout);
        Ok(size)
    }

    /// What a save needs that has these bytes of the trainer's, too, and room for a training state of so many; the tensors
    /// are on loan from now on. `again`: another save may begin before this one has ended, and is to find a layout, too.
    pub(super) fn work(&self, data: &Data, kind: Kind, state_bytes: usize, again: bool) -> Result<Work> {
        let kind = kind.with(data)?;
        let layout = match self.layouts.take(&kind, state_bytes, again)? {
            Some(layout) => layout,
            None => {
                let layout = self.plan(&kind, state_bytes)?;
                if again {
                    self.layouts.put(kind.clone(), layout.copied()?);
                }
                layout
            }
        };
        let buffers = data.behind(&self.buffers)?;
        let loan = Loan::begin(Purpose::Save, buffers, self.lender.clone())?;
        Ok(Work::new(kind, layout, self.layouts.clone(), loan))
    }

    /// Writes and commits one file.
    pub(super) fn write(
        &self,
        path: &Path,
        data: &Data,
        kind: Kind,
        state: Vec<u8>,
        options: &WriteOptions,
    ) -> Result<WriteStats> {
        self.work(data, kind, state.len(), false)?.run(&Disk, path, state, options, (None, None), &Unwatched)
    }

    fn plan(&self, kind: &Kind, state_bytes: usize) -> Result<Layout> {
        let mut with_data = None;
        for (path, bytes) in &*kind.data {
            let schema = match &mut with_data {
                Some(schema) => schema,
                None => with_data.insert(self.schema.copied()?),
            };
            schema.add_data(path, *bytes)?;
        }
        let options = layout::Options {
            config: self.config.as_deref(),
            assets: &self.assets,
            metadata: &self.metadata,
            max_shard_bytes: kind.max_shard_bytes,
            state_capacity: state_bytes.next_power_of_two().max(layout::own::STATE_CAPACITY),
        };
        layout::plan(with_data.as_ref().unwrap_or(&self.schema), kind.format, &options)
    }
}
