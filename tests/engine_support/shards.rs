//! A model whose checkpoint is several files, known byte for byte but for their names.

use std::collections::BTreeSet;
use std::path::Path;

use ckpt::engine::{Buffer, Loan, Save, Spares, Storage, Tensors, Unwatched, WriteOptions, WriteStats, save};
use ckpt::error::Result;
use ckpt::layout::{Format, Layout, Options, Schema, Source, Stamp, plan};
use ckpt::tensor::Dtype;

use super::mem::Files;

/// A model, the layout of its files, and what is in them.
pub struct Sharded {
    pub layout: Layout,
    pub buffers: Vec<Buffer>,
    /// What is in the shards, in their order.
    pub shards: Vec<Vec<u8>>,
    /// What is in the file that Keras opens first.
    pub first: Vec<u8>,
    _memory: Vec<Vec<u8>>,
}

/// Tensors of these many bytes, every byte `fill`, in files of at most `max`.
pub fn sharded(fill: u8, sizes: &[usize], max: u64) -> Sharded {
    let mut schema = Schema::new();
    let (mut buffers, mut memory) = (Vec::new(), Vec::new());
    for (i, &size) in sizes.iter().enumerate() {
        schema.add(&format!("layers/dense/vars/{i}"), Dtype::U8, &[size as u64]).unwrap();
        let mut bytes = vec![fill; size];
        // SAFETY: `bytes` holds every element, moves into the model with its heap memory in place, and is only read.
        buffers.push(unsafe { Buffer::new(bytes.as_mut_ptr(), 1, &[size as u64], None) }.unwrap());
        memory.push(bytes);
    }
    let options = Options { max_shard_bytes: max, ..Options::default() };
    let mut layout = plan(&schema, Format::Shards, &options).unwrap();
    let crcs: Vec<u32> = memory.iter().map(|bytes| crc32fast::hash(bytes)).collect();
    layout.seal(&crcs, &Stamp::default()).unwrap();
    let files = layout.companions().iter().map(|file| {
        let mut bytes = vec![0; file.layout().size() as usize];
        for extent in file.layout().extents() {
            let from = match extent.source {
                Source::Literal(i) => &file.layout().literals()[i],
                Source::Tensor(i) => &memory[file.tensors()][i],
            };
            bytes[extent.offset as usize..][..from.len()].copy_from_slice(from);
        }
        bytes
    });
    let mut files: Vec<_> = files.collect();
    let first = files.remove(0);
    Sharded { layout, buffers, shards: files, first, _memory: memory }
}

impl Sharded {
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

    /// Whether `files` hold it, whole, under the index at `path`.
    pub fn is_in(&self, files: &Files, path: &str) -> bool {
        let Some(names) = files.get(path).map(|index| shards_of(index)) else { return false };
        let (dir, _) = path.rsplit_once('/').unwrap();
        let base = path.strip_suffix(".weights.json").unwrap();
        let found: Vec<_> = names.iter().map(|name| files.get(&format!("{dir}/{name}"))).collect();
        found.len() == self.shards.len()
            && found.iter().zip(&self.shards).all(|(found, shard)| *found == Some(shard))
            && files.contains_key(&format!("{base}_00000.weights.h5"))
    }
}

/// The names of the shards in an index, in their order.
pub fn shards_of(index: &[u8]) -> BTreeSet<String> {
    let index: serde_json::Value = serde_json::from_slice(index).unwrap();
    let groups = index["weight_map"].as_object().unwrap().values();
    groups.flat_map(|names| names.as_array().unwrap()).map(|name| name.as_str().unwrap().to_owned()).collect()
}
