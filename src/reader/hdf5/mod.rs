//! A bounded reader of HDF5 files. It believes no number: every address and length is checked against the file
//! before anything is read or allocated, and every walk ends.
#![forbid(unsafe_code)]

mod attribute;
mod btree2;
mod checksum;
mod chunks;
mod cursor;
mod dataset;
mod datatype;
mod filters;
mod group;
mod header;
mod heap;
mod layout;

mod labels;
mod metadata;
mod read;
mod shared;
mod superblock;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};

use self::dataset::Dataset;
use self::header::{Header, kind};
use self::layout::Layout;
use self::metadata::Metadata;
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::reader::source::{Source, damaged};
use crate::tensor::{MAX_PATH, TensorSpec, max_path_bytes};

pub(super) use self::read::read as decode;

pub(super) use self::labels::Labels;
pub(super) use self::superblock::find;

/// Where the bytes of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the source from this offset on, row-major and little-endian.
    Here(u64),
    /// To be put together from what the object header at this address says: [`decode`] does.
    Decoded(u64),
}

/// All tensors of a file.
#[derive(Debug)]
pub(super) struct Tree {
    /// The stretch that places refer to.
    pub source: Source,
    /// Groups depth first, the names in each sorted as bytes: the order of [`path_order`].
    pub tensors: Vec<(TensorSpec, Place)>,
    /// The attribute `name` of the groups called `vars`, by what they are in.
    pub names: BTreeMap<String, String>,
    /// What Keras' legacy format says in attributes.
    pub labels: Labels,
    /// A dataset that is no tensor, where there are some.
    pub unlisted: Option<String>,
}

/// How many times the file's size the tensors may claim that are not in it as they are: deflate's limit.
const MAX_EXPANSION: u64 = 1032;
/// And so many bytes more: a chunk that can hold much may hold little.
const EXPANSION: u64 = 16 << 20;
/// How many times the file's size the tensors may have that are in it as they are, by several names.
const MAX_ALIASES: u64 = 16;

/// The order of paths in a tree: component by component.
pub(super) fn path_order(a: &str, b: &str) -> std::cmp::Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let same = common(a.as_bytes(), b.as_bytes());
    match (a.as_bytes().get(same), b.as_bytes().get(same)) {
        (Some(x), Some(y)) => rank(x).cmp(&rank(y)),
        _ => a.len().cmp(&b.len()),
    }
}

/// How many bytes at their beginnings are the same: most of a path and its neighbour's, so they are compared by words.
fn common(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    let same = 8 * words.take_while(|(x, y)| x == y).count();
    let rest = a.iter().zip(b).skip(same);
    same + rest.take_while(|(x, y)| x == y).count()
}

/// Lists the tensors of the HDF5 file that begins at `origin`; with `only`, those under this name at the root.
pub(super) fn read(source: &Source, origin: u64, only: Option<&str>) -> Result<Tree> {
    let superblock = superblock::read(source, origin)?;
    let mut walk = Walk {
        meta: Metadata::new(&superblock.source),
        heaps: attribute::Heaps::default(),
        header: Header::default(),
        groups: HashSet::new(),
        names: BTreeMap::new(),
        labels: Labels::default(),
        unlisted: None,
        labelled: only.is_none(),
        extents: Vec::new(),
        paths: 0,
        expanded: 0,
    };
    if let Some(extension) = superblock.extension {
        walk.check_extension(extension)?;
    }
    let tensors = walk.run(superblock.root, only)?;
    walk.check_overlap()?;
    let (names, labels, unlisted) = (walk.names, walk.labels, walk.unlisted);
    Ok(Tree { source: superblock.source, tensors, names, labels, unlisted })
}

struct Walk<'a> {
    meta: Metadata<'a>,
    heaps: attribute::Heaps,
    header: Header,
    /// The headers of the groups that were met.
    groups: HashSet<u64>,
    names: BTreeMap<String, String>,
    labels: Labels,
    unlisted: Option<String>,
    /// Whether the labels are wanted.
    labelled: bool,
    /// Offset, end and object header of each tensor's bytes.
    extents: Vec<(u64, u64, u64)>,
    /// Bytes of all paths and names.
    paths: u64,
    /// Bytes of the tensors that are not in the file as they are.
    expanded: u64,
}

impl Walk<'_> {
    fn check_extension(&mut self, address: u64) -> Result<()> {
        self.header.read(&mut self.meta, address)?;
        if self.header.messages().any(|m| m.kind == kind::DRIVER_INFO || m.kind == kind::CACHE_IMAGE) {
            let what = "it is split over several files, or holds an image of the HDF5 library's cache";
            return Err(Error::new(Status::Unsupported, what));
        }
        Ok(())
    }

    fn run(&mut self, root: u64, only: Option<&str>) -> Result<Vec<(TensorSpec, Place)>> {
        let mut tensors = Vec::new();
        let mut pending = Vec::new();
        self.visit(String::new(), root, &mut pending, &mut tensors)?;
        pending.retain(|(path, _)| only.is_none_or(|only| path == only));
        while let Some((path, address)) = pending.pop() {
            self.visit(path, address, &mut pending, &mut tensors)?;
        }
        Ok(tensors)
    }

    /// Looks at one object: the children of a group go on the stack, a tensor to the list.
    fn visit(
        &mut self,
        path: String,
        address: u64,
        pending: &mut Vec<(String, u64)>,
        tensors: &mut Vec<(TensorSpec, Place)>,
    ) -> Result<()> {
        let named = |e: Error| e.context(format_args!("object '/{path}'"));
        self.header.read(&mut self.meta, address).map_err(named)?;
        if group::is_group(&self.header) {
            self.note_name(&path).map_err(named)?;
            self.note_labels(&path).map_err(named)?;
            let children = self.children(&path, address).map_err(named)?;
            memory::reserve(pending, children.len())?;
            pending.extend(children);
            return Ok(());
        }
        if let Some(dataset) = dataset::read(&mut self.meta, &mut self.heaps, &self.header).map_err(named)? {
            self.claim(&dataset).map_err(named)?;
            let place = dataset.here().map_or(Place::Decoded(address), Place::Here);
            let spec = TensorSpec { path, dtype: dataset.dtype, shape: dataset.extent.shape };
            memory::push(tensors, (spec, place))?;
        } else if self.unlisted.is_none() && self.header.find(kind::LAYOUT).is_some() {
            self.unlisted = Some(path);
        }
        Ok(())
    }

    /// Notes what Keras calls the group whose header was read last.
    fn note_name(&mut self, path: &str) -> Result<()> {
        let group = match path.strip_suffix("vars") {
            Some("") => "",
            Some(above) if above.ends_with('/') => above.trim_end_matches('/'),
            _ => return Ok(()),
        };
        if let Some(name) = attribute::text(&mut self.meta, &mut self.heaps, &self.header, "name")? {
            // Many attributes can share the bytes of one.
            self.paths += name.len() as u64;
            self.check_paths()?;
            self.names.insert(group.to_owned(), name);
        }
        Ok(())
    }

    /// Notes what the legacy format says in the group whose header was read last.
    fn note_labels(&mut self, path: &str) -> Result<()> {
        if !self.labelled {
            return Ok(());
        }
        let room = max_path_bytes(self.meta.len()).saturating_sub(self.paths);
        self.paths += self.labels.note(&mut self.meta, &mut self.heaps, &self.header, path, room)?;
        Ok(())
    }

    fn check_paths(&self) -> Result<()> {
        match self.paths > max_path_bytes(self.meta.len()) {
            true => Err(damaged("its groups are nested too deep, or their names too long")),
            false => Ok(()),
        }
    }

    /// The children of a group, in falling order of their names, as the stack needs them.
    fn children(&mut self, path: &str, address: u64) -> Result<Vec<(String, u64)>> {
        memory::reserve_set(&mut self.groups, 1)?;
        if !self.groups.insert(address) {
            return Err(damaged("this group is linked to from another place too"));
        }
        let mut links = group::links(&mut self.meta, &self.header)?;
        links.sort_unstable_by(|a, b| b.name.cmp(&a.name));
        if let Some(pair) = links.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(group::twice(&pair[0].name));
        }
        let mut children = Vec::new();
        memory::reserve(&mut children, links.len())?;
        for link in links {
            let prefix = if path.is_empty() { 0 } else { path.len() + 1 };
            let len = prefix + link.name.len();
            self.paths += len as u64;
            if len > MAX_PATH {
                return Err(damaged("its groups are nested too deep, or their names too long"));
            }
            self.check_paths()?;
            let mut child = String::with_capacity(len);
            if !path.is_empty() {
                child.push_str(path);
                child.push('/');
            }
            child.push_str(&link.name);
            children.push((child, link.header));
        }
        Ok(children)
    }

    /// Notes where the dataset's bytes are, and refuses sizes that the file cannot account for.
    fn claim(&mut self, dataset: &Dataset) -> Result<()> {
        let elements = dataset.stored / dataset.encoding.size as u64;
        let elements = match &dataset.layout {
            _ if elements == 0 => 0,
            Layout::Whole { offset, .. } => {
                let end = offset.saturating_add(dataset.stored);
                memory::push(&mut self.extents, (*offset, end, self.header.address()))?;
                0
            }
            Layout::Unwritten => elements,
            Layout::Chunked(chunks) => dataset.grid(&chunks.axes).elements(),
        };
        self.expanded = self.expanded.saturating_add(elements.saturating_mul(dataset.encoding.size as u64));
        let most = self.meta.len().saturating_mul(MAX_EXPANSION).saturating_add(EXPANSION);
        if self.expanded > most {
            let shape = &dataset.extent.shape;
            return Err(damaged(format!(
                "its shape {shape:?} claims more than a file of this size can hold"
            )));
        }
        Ok(())
    }

    /// Refuses a file in which two datasets share bytes. (Two links to one dataset may, but not so many that a small
    /// file is a long read.)
    fn check_overlap(&mut self) -> Result<()> {
        let bytes = self.extents.iter().fold(0_u64, |sum, extent| sum.saturating_add(extent.1 - extent.0));
        if bytes > self.meta.len().saturating_mul(MAX_ALIASES) {
            return Err(damaged("its links lead to the same datasets over and over"));
        }
        self.extents.sort_unstable();
        self.extents.dedup();
        for pair in self.extents.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            if a.1 > b.0 {
                let what = format!("two datasets overlap, at {}..{} and {}..{}", a.0, a.1, b.0, b.1);
                return Err(damaged(what));
            }
        }
        Ok(())
    }
}
