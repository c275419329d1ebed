//! A model to save, whose files are known byte for byte; [`mem`] is a place to save it to, [`shards`] makes several
//! files of it, [`rounds`] saves it again and again.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

pub mod mem;
pub mod rounds;
pub mod shards;

use ckpt::engine::{Buffer, Loan, Save, Spares, Storage, Tensors, Unwatched, WriteOptions, WriteStats, save};
use ckpt::error::Result;
use ckpt::layout::{Extent, Layout, Source, Stamp};
use std::path::Path;

/// Tensors, the layout of their file, and the file.
pub struct Model {
    pub layout: Layout,
    pub buffers: Vec<Buffer>,
    pub file: Vec<u8>,
    _memory: Vec<Vec<u8>>,
}

/// A literal, then tensors of these many bytes, every byte `fill`, every third tensor strided.
pub fn model(fill: u8, sizes: &[usize]) -> Model {
    let mut file = vec![!fill; 777];
    let mut extents = vec![Extent { offset: 0, len: 777, source: Source::Literal(0) }];
    let (mut buffers, mut memory) = (Vec::new(), Vec::new());
    for (i, &size) in sizes.iter().enumerate() {
        file.resize(file.len().next_multiple_of(64), 0);
        extents.push(Extent { offset: file.len() as u64, len: size as u64, source: Source::Tensor(i) });
        file.resize(file.len() + size, fill);
        let step = if i % 3 == 2 { 2 } else { 1 };
        let mut bytes = vec![fill; size * step];
        // SAFETY: `bytes` holds every element, moves into the Model with its heap memory in place, and is only read.
        let buffer = unsafe { Buffer::new(bytes.as_mut_ptr(), 1, &[size as u64], Some(&[step as i64])) };
        buffers.push(buffer.unwrap());
        memory.push(bytes);
    }
    Model {
        layout: Layout::from_parts(file.len() as u64, extents, vec![vec![!fill; 777]]),
        buffers,
        file,
        _memory: memory,
    }
}

impl Model {
    /// Saves it.
    pub fn save(&self, storage: &dyn Storage, path: &Path, options: WriteOptions) -> Result<WriteStats> {
        save(storage, path, &mut self.layout.copied().unwrap(), &Stamp::default(), &self.buffers, &options)
    }

    /// Saves it as a session that recycles files does.
    pub fn save_with(
        &self,
        storage: &dyn Storage,
        path: &Path,
        options: WriteOptions,
        spares: &Spares,
    ) -> Result<WriteStats> {
        let (mut layout, stamp) = (self.layout.copied().unwrap(), Stamp::default());
        let (layout, stamp) = (&mut layout, &stamp);
        let tensors = Tensors::Lent(Loan::of(&self.buffers));
        let spares = Some(spares);
        Save { storage, path, layout, stamp, tensors, options, watch: &Unwatched, arena: None, spares }.run()
    }
}
