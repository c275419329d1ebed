//! Keras' `.weights.json`: an index of weights in several HDF5 files beside it.
//!
//! The files are packed in the order of the tensors, so each holds a range of them. Their names carry the generation
//! of the save, so that they never take the place of the files of a checkpoint that still stands; Keras' own reader
//! opens a file without one, too, so there is an empty file under that name.

mod index;
mod names;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use self::names::Names;
pub use self::names::{may_be_index, mention, opened_for, shards_beside};
use super::{Layout, Options, Schema, Stamp, hdf5};
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::tensor::TensorSpec;

/// The most bytes of tensors in a shard where nothing else is asked for.
pub const MAX_SHARD_BYTES: u64 = 5 << 30;

/// The most shards of a checkpoint: all are open at once while it is saved, and while it is read.
pub const MAX_SHARDS: usize = 10_000;

/// The most bytes of an index that are read: a larger file is none.
pub const MAX_INDEX: u64 = 100_000_000;

/// Bytes at the beginning of a companion that tell its kind.
pub const HEAD: usize = hdf5::SIGNATURE.len();

/// A file that is written beside the one of a layout, and put in place before it.
#[derive(Debug)]
pub struct Companion {
    name: String,
    layout: Layout,
    tensors: Range<usize>,
    yields: bool,
}

impl Companion {
    fn copied(&self) -> Result<Companion> {
        let Companion { name, layout, tensors, yields } = self;
        Ok(Companion {
            name: name.clone(),
            layout: layout.copied()?,
            tensors: tensors.clone(),
            yields: *yields,
        })
    }

    /// Its name, in the directory of the file that it belongs to. Final after [`Layout::name_companions`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is in it: its tensors are those of [`Companion::tensors`], counted from 0.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The tensors of the schema that it holds.
    pub fn tensors(&self) -> Range<usize> {
        self.tensors.clone()
    }

    /// Whether it is left out where a file of its kind, as [`Companion::is_of_its_kind`] has it, has its name.
    pub fn yields(&self) -> bool {
        self.yields
    }

    /// Whether a file that begins with `head` is of its kind, so that Keras opens it.
    pub fn is_of_its_kind(&self, head: &[u8; HEAD]) -> bool {
        *head == hdf5::SIGNATURE
    }
}

/// What an index is made of.
#[derive(Debug)]
pub(super) struct Shards {
    /// The file that Keras opens whatever the index says, then the shards.
    files: Vec<Companion>,
    /// Bytes of the tensors as Keras counts them.
    total_size: f64,
    /// The groups that hold tensors, in the order of their first, and the shards that hold some of them.
    groups: Arc<Groups>,
    names: Names,
}

/// Groups, and the shards that hold some of their tensors.
type Groups = Vec<(String, Vec<usize>)>;

/// Lays out the file of a schema.
pub(super) fn plan(schema: &Schema, options: &Options) -> Result<Layout> {
    let tensors = schema.tensors();
    let ranges = pack(tensors, options.max_shard_bytes)?;
    if ranges.len() > MAX_SHARDS {
        return Err(Error::new(
            Status::InvalidArgument,
            format!(
                "with at most {} bytes in a file, the checkpoint would have {} files, more than {MAX_SHARDS}: make the \
                 limit larger",
                options.max_shard_bytes,
                ranges.len()
            ),
        ));
    }
    let file = |schema: &Schema, tensors: Range<usize>, yields: bool| -> Result<Companion> {
        // The training state is in the index.
        let layout = Layout::new(hdf5::lay_out(schema, 0)?, 0)?;
        Ok(Companion { name: String::new(), layout, tensors, yields })
    };
    let mut files = vec![file(&Schema::new(), 0..0, true)?];
    let names = schema.names()?;
    for (i, range) in ranges.iter().enumerate() {
        let mut part = Schema::new();
        if i == 0 {
            name_groups_without_tensors(&mut part, &names, tensors)?;
        }
        for (j, spec) in tensors[range.clone()].iter().enumerate() {
            part.add_anywhere(&spec.path, spec.dtype, &spec.shape)?;
            let group = group_of(spec);
            let follows = j > 0 && group_of(&tensors[range.start + j - 1]) == group;
            if !follows
                && let Some(above) = above_vars(group)
                && let Some(name) = names.get(above)
            {
                part.set_name(above, name)?;
            }
        }
        memory::push(&mut files, file(&part, range.clone(), false)?)?;
    }
    let mut layout = Layout::from_parts(0, Vec::new(), Vec::new());
    layout.shards = Some(Shards {
        files,
        total_size: index::total_size(tensors),
        groups: Arc::new(groups(tensors, &ranges)?),
        names: Names::default(),
    });
    // What is known of its size before it has a name.
    layout.name_companions("model.weights.json", 0, &Stamp::default())?;
    Ok(layout)
}

/// Ranges of tensors of at most `max` bytes each, or of a single tensor that has more; one at least.
fn pack(tensors: &[TensorSpec], max: u64) -> Result<Vec<Range<usize>>> {
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (i, spec) in tensors.iter().enumerate() {
        let more = spec.nbytes();
        if bytes > 0 && more > 0 && bytes.saturating_add(more) > max {
            memory::push(&mut ranges, start..i)?;
            (start, bytes) = (i, 0);
        }
        bytes = bytes.saturating_add(more);
    }
    memory::push(&mut ranges, start..tensors.len())?;
    Ok(ranges)
}

/// The groups that hold tensors, in the order of their first, and the shards that hold some of them.
fn groups(tensors: &[TensorSpec], ranges: &[Range<usize>]) -> Result<Groups> {
    let mut places = BTreeMap::new();
    let mut groups = Groups::new();
    for (shard, range) in ranges.iter().enumerate() {
        for spec in &tensors[range.clone()] {
            let place = *places.entry(group_of(spec)).or_insert(groups.len());
            if place == groups.len() {
                memory::push(&mut groups, (group_of(spec).to_owned(), Vec::new()))?;
            }
            let shards = &mut groups[place].1;
            if shards.last() != Some(&shard) {
                memory::push(shards, shard)?;
            }
        }
    }
    Ok(groups)
}

/// The group that a tensor is in; "" is the root.
fn group_of(spec: &TensorSpec) -> &str {
    spec.path.rsplit_once('/').map_or("", |(group, _)| group)
}

/// The group whose variables are in this one: what `/vars` follows in its path. None if it is another.
fn above_vars(group: &str) -> Option<&str> {
    if group == "vars" { Some("") } else { group.strip_suffix("/vars") }
}

/// Names, in the schema of the first shard, the groups that no tensor is in: no other has them.
fn name_groups_without_tensors(
    part: &mut Schema,
    names: &BTreeMap<String, &str>,
    tensors: &[TensorSpec],
) -> Result<()> {
    let filled = memory::set(tensors.iter().filter_map(|spec| above_vars(group_of(spec))))?;
    for (group, name) in names.iter().filter(|(group, _)| !filled.contains(group.as_str())) {
        part.set_name(group, name)?;
    }
    Ok(())
}

impl Shards {
    /// See [`Layout::copied`].
    pub(super) fn copied(&self) -> Result<Shards> {
        Ok(Shards {
            files: memory::try_collect(self.files.iter().map(Companion::copied))?,
            total_size: self.total_size,
            groups: self.groups.clone(),
            names: self.names.clone(),
        })
    }

    /// See [`Layout::companions`].
    pub(super) fn files(&self) -> &[Companion] {
        &self.files
    }

    /// Names the files of a save; the bytes of its index.
    pub(super) fn name(&mut self, file: &str, generation: u64, state: &[u8]) -> Result<Vec<u8>> {
        self.names = Names::new(file, generation);
        let mut shard = 0;
        for file in &mut self.files {
            file.name = if file.yields {
                self.names.opened_by_keras()
            } else {
                shard += 1;
                self.names.shard(shard - 1)
            };
        }
        index::render(self.total_size, &self.groups, &self.names, state)
    }

    /// See [`Layout::superseded`].
    pub(super) fn superseded<'n>(&self, names: &'n [String]) -> Result<Vec<&'n str>> {
        self.names.superseded(names)
    }

    /// Fills in the checksums of the tensors in each file.
    pub(super) fn seal(&mut self, crcs: &[u32], date: [u16; 6]) -> Result<()> {
        let stamp = Stamp { state: Vec::new(), date };
        for file in &mut self.files {
            let Some(crcs) = crcs.get(file.tensors.clone()) else {
                let message = format!("sealing {:?} of {} tensors", file.tensors, crcs.len());
                return Err(Error::new(Status::Internal, message));
            };
            file.layout.seal(crcs, &stamp)?;
        }
        Ok(())
    }
}
