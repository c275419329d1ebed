//! *How it comes back*: name, bytes, the caller's buffer.
//!
//! - `source`: a read-only stretch of a file.
//! - `content`: what a format's reader finds in a checkpoint; one file a format:
//!   - `weights`: an HDF5 file of the weights;
//!   - `legacy`: a whole model of Keras' legacy `.h5`;
//!   - `keras`: a `.keras` archive;
//!   - `safetensors`: a `.safetensors` file, or the index of several;
//!   - `shards`: a `.weights.json`, the index of several HDF5 files.
//! - `index`: which files beside it an index names; `json`: JSON within bounds.
//! - `former`: what former versions of Keras called the variables.
//! - `zip`: the members of an archive.
//! - `hdf5`: our own bounded reader of HDF5 files.
//! - `checksums`: the table of the checksums that this library writes.
//! - `load`: many tensors at once, in parallel; `floats`: those of one width as those of another.
//! - `stream`: one tensor from its beginning to its end.

mod checksums;
mod content;
mod floats;

mod former;
mod guard;
mod hdf5;
mod index;
pub(crate) mod json;
mod keras;
mod legacy;
mod load;
mod safetensors;
mod shards;
mod source;
mod stream;
mod weights;
mod zip;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use self::floats::{convert, converts};
pub use self::load::Target;
pub use self::stream::Stream;

use self::content::{Content, File};
use self::hdf5::Place;
use self::index::Index;
use self::json::Object;
use self::load::Scratch;
use self::safetensors::Likeness;
use self::source::{Source, damaged};
use self::zip::Archive;
use crate::error::{Error, Result, Status};
use crate::layout::data_key;
use crate::layout::own::OWN_GROUP;
use crate::memory;
use crate::tensor::{TensorSpec, shape_text};

/// An open checkpoint, of any format that is written here. Any thread may use it, several at once too.
///
/// The file is read as it was when it was opened: one that another program changes in the meantime gives errors
/// or that program's bytes. A file that is renamed over it does no harm.
pub struct Reader {
    /// The file that was opened, for messages.
    source: Source,
    content: Content,
    /// The tensor that was found last.
    found: AtomicUsize,
}

impl Reader {
    /// Opens a checkpoint; its content decides what it is, not its name.
    ///
    /// # Errors
    /// `NotFound` if there is no such file; `Io` if it cannot be opened; `Format` if it is no checkpoint, is
    /// damaged, or refers to bytes outside itself (soft and external links, virtual and external datasets);
    /// `Unsupported` if it is packed in a way that Keras does not use.
    pub fn open(path: &Path) -> Result<Reader> {
        Reader::open_with(path, &Opening { only: None })
    }

    fn open_with(path: &Path, opening: &Opening) -> Result<Reader> {
        let source = Source::open(path)?;
        let content = read(&source, opening).map_err(|e| named(&source, e))?;
        Ok(Reader { source, content, found: AtomicUsize::new(usize::MAX) })
    }

    /// Every tensor of the checkpoint in the order of the tree: group by group, names sorted as bytes. What is
    /// in the file and cannot be a tensor (text, compounds) is not listed, nor is `/libckpt`.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.content.tensors
    }

    /// The place of the tensor with this path.
    pub fn find(&self, path: &str) -> Option<usize> {
        // Who asks for one after the other mostly asks for the next.
        let next = self.found.load(Ordering::Relaxed).wrapping_add(1);
        let index = match self.tensors().get(next) {
            Some(spec) if spec.path == path => next,
            _ => self.content.find(path)?,
        };
        self.found.store(index, Ordering::Relaxed);
        Some(index)
    }

    /// Something in the checkpoint that is not listed, since it cannot be a tensor here: text, a dtype that we do not
    /// have. `None` if everything is listed.
    pub fn unlisted(&self) -> Option<&str> {
        self.content.unlisted.as_deref()
    }

    /// Keras' `name` attribute of `group`/vars; the root's is that of `""`.
    pub fn name(&self, group: &str) -> Option<&str> {
        self.content.names.get(group).map(String::as_str)
    }

    /// Every group whose `vars` have a `name` attribute, and that name.
    pub fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.content.names.iter().map(|(group, name)| (group.as_str(), name.as_str()))
    }

    /// Fills `dst`, which must be of the tensor's size, with its elements: row-major and little-endian. Its
    /// checksum is verified if the checkpoint has one.
    ///
    /// # Errors
    /// `Mismatch` if the size is another; `Format` if the bytes do not match their checksum, and `dst` holds
    /// them all the same.
    pub fn read(&self, index: usize, dst: &mut [u8]) -> Result<()> {
        if index >= self.tensors().len() {
            return Err(self.no_tensor(index));
        }
        self.read_one(index, dst).map_err(|e| named(&self.source, e))
    }

    fn read_one(&self, index: usize, dst: &mut [u8]) -> Result<()> {
        let (spec, file, place) = self.entry(index)?;
        if dst.len() as u64 != spec.nbytes() {
            return Err(wrong_size(spec, dst.len() as u64));
        }
        let mut crc = 0;
        let checked = file.checksums.covers(&spec.path);
        match place {
            Place::Here(offset) => {
                let crc = checked.then_some(&mut crc);
                load::read(&file.source, offset, dst, crc, &mut Scratch::default())?;
            }
            place => {
                file.decode(place, spec, dst)
                    .map_err(|e| e.context(format_args!("tensor '{}'", spec.path)))?;
                crc = crc32fast::hash(dst);
            }
        }
        file.checksums.check(spec, crc)
    }

    /// Fills every target with the tensor of its index, in parallel, and verifies the checksums in the same pass.
    /// `threads` is how many to use at most; 0: as many as help.
    ///
    /// # Errors
    /// As [`Reader::read`]; of several tensors that are damaged, the first is named. The targets' memory holds
    /// anything then.
    pub fn load(&self, targets: &[(usize, &dyn Target)], threads: u32) -> Result<()> {
        load::load(self, targets, threads, true).map_err(|e| named(&self.source, e))
    }

    /// As [`Reader::load`], but compares no checksums: a tensor that somebody has changed is loaded all the same.
    ///
    /// # Errors
    /// As [`Reader::load`].
    pub fn load_unverified(&self, targets: &[(usize, &dyn Target)], threads: u32) -> Result<()> {
        load::load(self, targets, threads, false).map_err(|e| named(&self.source, e))
    }

    /// Checks all bytes that have a checksum against it: every tensor's, the state's, those of the metadata, and every
    /// member's of an archive. Tensors without a checksum are skipped, and metadata that another program has changed.
    ///
    /// # Errors
    /// `Format` names the first tensor that is wrong, or the place.
    pub fn verify(&self) -> Result<()> {
        let covered = self.content.covered();
        let discards = memory::collect(covered.map(|(i, spec)| (i, Discard(spec.nbytes()))))?;
        let targets = memory::collect(discards.iter().map(|(i, discard)| (*i, discard as &dyn Target)))?;
        self.load(&targets, 0)?;
        self.state()?;
        for file in &self.content.files {
            guard::check(&file.source).map_err(|e| named(&file.source, e))?;
        }
        if self.content.files.iter().all(|file| file.source.path() != self.source.path()) {
            guard::check_index(&self.source).map_err(|e| named(&self.source, e))?;
        }
        match &self.content.archive {
            Some(archive) => archive.verify().map_err(|e| named(&self.source, e)),
            None => Ok(()),
        }
    }

    /// The model's configuration, JSON: `config.json` of a `.keras` file, and what the other formats have of it.
    ///
    /// # Errors
    /// `Format` if it is damaged, `Unsupported` if it is compressed.
    pub fn config(&self) -> Result<Option<String>> {
        self.text(&self.content.config, "config.json")
    }

    /// What the file says of itself, JSON: `metadata.json` of a `.keras` file (what wrote it, and when), and what
    /// the other formats have of it.
    ///
    /// # Errors
    /// As [`Reader::config`].
    pub fn metadata(&self) -> Result<Option<String>> {
        self.text(&self.content.metadata, "metadata.json")
    }

    /// What of [`Reader::metadata`] is a text, by its key.
    ///
    /// # Errors
    /// As [`Reader::config`].
    pub fn metadata_texts(&self) -> Result<Vec<(String, String)>> {
        let Some(json) = self.metadata()? else { return Ok(Vec::new()) };
        let object = match Object::parse(&json) {
            Err(e) if e.os() == libc::ENOMEM => return Err(e),
            // It is another program's.
            Err(_) => return Ok(Vec::new()),
            Ok(object) => object,
        };
        let texts = object.into_entries().filter(|(_, value)| value.starts_with('"'));
        memory::try_collect(
            texts.map(|(key, value)| Ok((key.into_owned(), memory::owned(json::text(value, "a text")?)?))),
        )
    }

    fn text(&self, found: &Option<String>, member: &str) -> Result<Option<String>> {
        match (found, &self.content.archive) {
            (None, Some(archive)) => archive.text(member).map_err(|e| named(&self.source, e)),
            (found, _) => found.as_deref().map(memory::text).transpose(),
        }
    }

    /// The names of the assets of a `.keras` file, what follows `assets/` there, in their order.
    pub fn asset_names(&self) -> impl Iterator<Item = &str> {
        let names = self.content.archive.iter().flat_map(Archive::names);
        names
            .filter_map(|name| name.strip_prefix(ASSETS))
            .filter(|name| !name.is_empty() && !name.ends_with('/'))
    }

    /// The bytes of an asset.
    ///
    /// # Errors
    /// As [`Reader::config`].
    pub fn asset(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match &self.content.archive {
            Some(archive) => archive.bytes(&format!("{ASSETS}{name}")).map_err(|e| named(&self.source, e)),
            None => Ok(None),
        }
    }

    /// Every asset with its name.
    ///
    /// # Errors
    /// As [`Reader::config`].
    pub fn assets(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let assets =
            self.asset_names().map(|name| Ok((name.to_owned(), self.asset(name)?.unwrap_or_default())));
        memory::try_collect(assets)
    }

    /// The training state that this library put into the file, JSON without its padding.
    ///
    /// # Errors
    /// `Format` if it does not match its checksum.
    pub fn state(&self) -> Result<Option<&[u8]>> {
        match &self.content.state {
            Ok(state) => Ok(state.as_deref()),
            Err(error) => Err(named(&self.source, error.clone())),
        }
    }

    /// The trainer's own bytes by their keys, and the bytes of each.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn data(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let first = self.tensors().len();
        let keyed = (first..).zip(&self.content.data);
        let keyed = keyed.filter_map(|(index, (spec, _))| Some((data_key(&spec.path)?, index, spec)));
        memory::try_collect(keyed.map(|(key, index, spec)| {
            let len = usize::try_from(spec.nbytes()).map_err(|_| too_large(spec))?;
            let mut bytes = memory::filled(0, len)?;
            self.read_one(index, &mut bytes).map_err(|e| named(&self.source, e))?;
            Ok((key, bytes))
        }))
    }

    fn entry(&self, index: usize) -> Result<(&TensorSpec, &File, Place)> {
        self.content.entry(index).ok_or_else(|| self.no_tensor(index))
    }

    fn no_tensor(&self, index: usize) -> Error {
        let what = format!("there is no tensor {index}: the checkpoint has {}", self.tensors().len());
        Error::new(Status::InvalidArgument, what)
    }
}

/// The directory of an archive that the assets are in.
const ASSETS: &str = "assets/";

/// The most bytes of white space, or about so, before an index.
const MAX_START: u64 = 4096;

/// How a checkpoint is opened.
struct Opening<'a> {
    /// Only what is under this name at the root of the HDF5 files.
    only: Option<&'a str>,
}

/// What is in a checkpoint; the first bytes say which format it has.
fn read(source: &Source, opening: &Opening) -> Result<Content> {
    let mut head = [0; safetensors::HEAD];
    let len = source.len().min(head.len() as u64);
    source.read_at(0, head.get_mut(..len as usize).unwrap_or_default())?;
    if head.starts_with(&zip::MAGIC) {
        return keras::read(source, opening);
    }
    let likeness = safetensors::likeness(head, source.len());
    if likeness == Likeness::Sure {
        return safetensors::read(source, opening);
    }
    if let Some(origin) = hdf5::find(source)? {
        let magic = u32::from_le_bytes(zip::MAGIC);
        if origin > 0
            && head.first_chunk().is_some_and(|four| (u32::from_le_bytes(*four) ^ magic).is_power_of_two())
        {
            return Err(damaged(
                "one of its first bytes is not that of the .keras archive that it seems to be",
            ));
        }
        return weights::read(source, origin, opening);
    }
    let start = source.read_vec(0, source.len().min(MAX_START))?;
    if index::likely(&start) {
        return read_index(source, opening);
    }
    if likeness == Likeness::Broken {
        return safetensors::read(source, opening);
    }
    Err(damaged(match source.len() {
        0 => "it is empty",
        _ => {
            "it is neither an HDF5 file, nor a .keras archive, nor a .safetensors file, nor an index of such files"
        }
    }))
}

/// What is in the files that an index names; their names say which format it has.
fn read_index(source: &Source, opening: &Opening) -> Result<Content> {
    let index = Index::read(source)?;
    let found = if index.is_of(".safetensors") {
        safetensors::read_index(source, index)
    } else if index.is_of(".h5") || index.files.is_empty() {
        shards::read_index(source, &index, opening)
    } else {
        Err(damaged("it is an index of files that are neither .h5 nor .safetensors files"))
    };
    found.or_else(|e| match source.replaced() {
        // A save has put another in its place meanwhile, and removed the files of this one.
        Some(new) => read(&new, opening),
        None => Err(e),
    })
}

/// The training state in a checkpoint, where it has one; what else the file holds is not looked at.
///
/// # Errors
/// As [`Reader::open`] and [`Reader::state`].
pub fn training_state(path: &Path) -> Result<Option<Vec<u8>>> {
    let own = Reader::open_with(path, &Opening { only: Some(OWN_GROUP) })?;
    own.state()?.map(|state| memory::collect(state.iter().copied())).transpose()
}

/// The names of the files that a checkpoint is made of, beside its own: those that an index names.
///
/// # Errors
/// As [`Reader::open`].
pub fn companions(path: &Path) -> Result<Vec<String>> {
    let source = Source::open(path)?;
    Ok(Index::read(&source).map_err(|e| named(&source, e))?.files)
}

/// A target that keeps nothing.
struct Discard(u64);

impl Target for Discard {
    fn nbytes(&self) -> u64 {
        self.0
    }

    fn put(&self, _: u64, _: &[u8]) {}
}

/// Puts the file's name before what is wrong with its content.
fn named(source: &Source, error: Error) -> Error {
    match error.status() {
        Status::Format | Status::Unsupported | Status::Mismatch => {
            error.context(format_args!("'{}'", source.path().display()))
        }
        _ => error,
    }
}

fn wrong_size(spec: &TensorSpec, given: u64) -> Error {
    let message = format!(
        "tensor '{}' ({} {}) has {} bytes, the memory for it has {given}",
        spec.path,
        spec.dtype.name(),
        shape_text(&spec.shape),
        spec.nbytes()
    );
    Error::new(Status::Mismatch, message)
}

fn too_large(spec: &TensorSpec) -> Error {
    let message = format!("tensor '{}' of {} bytes does not fit the address space", spec.path, spec.nbytes());
    Error::new(Status::Unsupported, message)
}
