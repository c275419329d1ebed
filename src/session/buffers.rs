//! The buffers of a model, shared with the saves in the background, and who waits for the end of that.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;

use crate::engine::Buffer;
use crate::error::Result;
use crate::memory;

/// What lives as long as a model's buffers are needed.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// The buffers of a model, in the order of its schema.
#[derive(Default)]
pub struct Buffers {
    list: Vec<Buffer>,
    owners: Vec<Owner>,
}

impl Buffers {
    /// These, to be changed: a copy where others have them, too.
    pub fn make_mut(shared: &mut Arc<Buffers>) -> Result<&mut Buffers> {
        if Arc::get_mut(shared).is_none() {
            *shared = Arc::new(shared.with([])?);
        }
        // It is nobody else's now: there are no weak references.
        Ok(Arc::get_mut(shared).unwrap_or_else(|| unreachable!("a copy of its own")))
    }

    /// A copy, with more of them at the end.
    pub fn with(&self, more: impl IntoIterator<Item = Buffer>) -> Result<Buffers> {
        let list = memory::collect(self.list.iter().cloned().chain(more))?;
        Ok(Buffers { list, owners: memory::collect(self.owners.iter().cloned())? })
    }

    /// Makes room for one.
    pub fn reserve(&mut self) -> Result<()> {
        memory::reserve(&mut self.list, 1)
    }

    /// Adds one, for which there is room.
    pub fn push(&mut self, buffer: Buffer) {
        self.list.push(buffer);
    }

    /// One of them.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Buffer> {
        self.list.get_mut(index)
    }

    /// Keeps something as long as anybody has these; it is not made after an error.
    pub fn own(&mut self, owner: impl FnOnce() -> Owner) -> Result<()> {
        memory::reserve(&mut self.owners, 1)?;
        self.owners.push(owner());
        Ok(())
    }
}

impl Deref for Buffers {
    type Target = [Buffer];

    fn deref(&self) -> &[Buffer] {
        &self.list
    }
}
