//! *How it comes back*: name, bytes, the caller's buffer.
//!
//! - `source`: a read-only stretch of a file.
//! - `zip`: the members of a `.keras` archive.
//! - `hdf5`: our own bounded parser of HDF5 metadata.
//! - `library`: the HDF5 library, for what that parser does not know; holds all `unsafe` of the reader.
//! - `checksums`: the table in `/libckpt`.
//! - `load`: many tensors at once, in parallel.

mod checksums;
mod hdf5;
mod library;
mod load;
mod source;
mod zip;

use std::path::Path;

pub use self::load::Target;

use self::checksums::Checksums;
use self::hdf5::Place;
use self::library::Library;
use self::source::{Source, damaged, zeros};
use self::zip::Archive;
use crate::error::{Error, Result, Status};
use crate::tensor::{Dtype, TensorSpec, shape_text};

/// The member of a `.keras` archive that holds the weights.
const WEIGHTS: &str = "model.weights.h5";

/// The group of our own, which is not listed.
const OWN_GROUP: &str = "libckpt";

/// An open checkpoint: a `.weights.h5` or a `.keras` file. Any thread may use it, several at once too.
///
/// The file is read as it was when it was opened: one that another program changes in the meantime gives errors
/// or that program's bytes. A file that is renamed over it does no harm.
pub struct Reader {
    /// The stretch that the tensors' places refer to.
    source: Source,
    tensors: Vec<TensorSpec>,
    /// Where each tensor's bytes are.
    places: Vec<Place>,
    checksums: Checksums,
    state: Result<Option<Vec<u8>>>,
    archive: Option<Archive>,
    library: Library,
}

impl Reader {
    /// Opens a checkpoint; its content decides what it is, not its name.
    ///
    /// # Errors
    /// `NotFound` if there is no such file; `Io` if it cannot be opened; `Format` if it is no checkpoint, is
    /// damaged, or refers to bytes outside itself (soft and external links, virtual and external datasets);
    /// `Unsupported` if it is packed in a way that Keras does not use.
    pub fn open(path: &Path) -> Result<Reader> {
        Reader::open_with(path, None, Library::new(true))
    }

    /// As [`Reader::open`], but never hands anything to the HDF5 library, whose own parser is not made for files
    /// from strangers: what only it reads is `Unsupported`.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_without_library(path: &Path) -> Result<Reader> {
        Reader::open_with(path, None, Library::new(false))
    }

    fn open_with(path: &Path, only: Option<&str>, library: Library) -> Result<Reader> {
        let source = Source::open(path)?;
        Reader::from_source(&source, only, library).map_err(|e| named(&source, e))
    }

    fn from_source(source: &Source, only: Option<&str>, mut library: Library) -> Result<Reader> {
        let mut magic = [0; zip::MAGIC.len()];
        if source.len() >= magic.len() as u64 {
            source.read_at(0, &mut magic)?;
        }
        let (archive, weights) = if magic == zip::MAGIC {
            let archive = Archive::open(source)?;
            let Some(weights) = archive.member(WEIGHTS)? else {
                return Err(damaged(format!(
                    "it is a zip archive without the member '{WEIGHTS}' of a .keras file"
                )));
            };
            (Some(archive), weights)
        } else {
            (None, source.clone())
        };
        let Some(origin) = hdf5::find(&weights)? else {
            return Err(damaged(match (source.len(), &archive) {
                (0, _) => "it is empty".to_owned(),
                (_, None) => "it is neither an HDF5 file nor a .keras archive".to_owned(),
                (_, Some(_)) => format!("its member '{WEIGHTS}' is not an HDF5 file"),
            }));
        };
        let tree = hdf5::read(&weights, origin, only, &mut library)?;
        let mut reader = Reader {
            source: tree.source,
            tensors: Vec::with_capacity(tree.tensors.len()),
            places: Vec::with_capacity(tree.tensors.len()),
            checksums: Checksums::default(),
            state: Ok(None),
            archive,
            library,
        };
        let mut own = Vec::new();
        for (spec, place) in tree.tensors {
            match spec.path.strip_prefix(OWN_GROUP) {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => own.push((spec, place)),
                _ => {
                    reader.tensors.push(spec);
                    reader.places.push(place);
                }
            }
        }
        reader.read_own(&own)?;
        Ok(reader)
    }

    /// Reads what `/libckpt` holds. A state that is damaged does not keep anyone from the tensors.
    fn read_own(&mut self, own: &[(TensorSpec, Place)]) -> Result<()> {
        let find = |name: &str| own.iter().find(|(spec, _)| spec.path.strip_prefix(OWN_GROUP) == Some(name));
        if let Some((spec, place)) = find("/checksums")
            && spec.shape.len() == 2
            && spec.shape.get(1) == Some(&2)
            && spec.dtype == Dtype::U64
        {
            self.checksums = Checksums::from_bytes(&self.whole(spec, *place)?);
        }
        if let Some((spec, place)) = find("/state") {
            self.state = self.whole(spec, *place).and_then(|mut bytes| {
                self.checksums.check(spec, crc32fast::hash(&bytes))?;
                bytes.truncate(bytes.trim_ascii_end().len());
                Ok((!bytes.is_empty()).then_some(bytes))
            });
        }
        Ok(())
    }

    /// Every tensor of the checkpoint in the order of the tree: group by group, names sorted as bytes. What is
    /// in the file and cannot be a tensor (text, compounds) is not listed, nor is `/libckpt`.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// The place of the tensor with this path.
    pub fn find(&self, path: &str) -> Option<usize> {
        self.tensors.binary_search_by(|spec| hdf5::path_order(&spec.path, path)).ok()
    }

    /// Fills `dst`, which must be of the tensor's size, with its elements: row-major and little-endian. Its
    /// checksum is verified if the checkpoint has one.
    ///
    /// # Errors
    /// `Mismatch` if the size is another; `Format` if the bytes do not match their checksum, and `dst` holds
    /// them all the same.
    pub fn read(&self, index: usize, dst: &mut [u8]) -> Result<()> {
        self.read_one(index, dst).map_err(|e| named(&self.source, e))
    }

    fn read_one(&self, index: usize, dst: &mut [u8]) -> Result<()> {
        let (spec, place) = self.entry(index)?;
        if dst.len() as u64 != spec.nbytes() {
            return Err(wrong_size(spec, dst.len() as u64));
        }
        let mut hasher = crc32fast::Hasher::new();
        let checked = self.checksums.covers(&spec.path);
        match place {
            Place::Here(offset) => {
                load::read_piecewise(&self.source, offset, dst, checked.then_some(&mut hasher))?;
            }
            Place::Foreign(header) => {
                self.library
                    .read(header, spec, dst)
                    .map_err(|e| e.context(format_args!("tensor '{}'", spec.path)))?;
                hasher.update(dst);
            }
        }
        self.checksums.check(spec, hasher.finalize())
    }

    /// Fills every target with the tensor of its index, in parallel and straight into the target's memory, and
    /// verifies the checksums in the same pass. `threads` is how many to use at most; 0: as many as help.
    ///
    /// # Errors
    /// As [`Reader::read`]; of several tensors that are damaged, the first is named. The targets' memory holds
    /// anything then.
    pub fn load(&self, targets: &[(usize, &dyn Target)], threads: u32) -> Result<()> {
        load::load(self, targets, threads).map_err(|e| named(&self.source, e))
    }

    /// Checks all bytes that have a checksum against it: every tensor's, the state's, and every member's of an
    /// archive. Tensors without a checksum are skipped.
    ///
    /// # Errors
    /// `Format` names the first tensor that is wrong.
    pub fn verify(&self) -> Result<()> {
        let covered = self.tensors.iter().enumerate().filter(|(_, spec)| self.checksums.covers(&spec.path));
        let discards: Vec<_> = covered.map(|(i, spec)| (i, Discard(spec.nbytes()))).collect();
        let targets: Vec<_> = discards.iter().map(|(i, discard)| (*i, discard as &dyn Target)).collect();
        self.load(&targets, 0)?;
        self.state()?;
        match &self.archive {
            Some(archive) => archive.verify().map_err(|e| named(&self.source, e)),
            None => Ok(()),
        }
    }

    /// The model's configuration, JSON: `config.json` of a `.keras` file.
    ///
    /// # Errors
    /// `Format` if it is damaged, `Unsupported` if it is compressed.
    pub fn config(&self) -> Result<Option<String>> {
        self.text("config.json")
    }

    /// What wrote the file and when, JSON: `metadata.json` of a `.keras` file.
    ///
    /// # Errors
    /// As [`Reader::config`].
    pub fn metadata(&self) -> Result<Option<String>> {
        self.text("metadata.json")
    }

    fn text(&self, member: &str) -> Result<Option<String>> {
        match &self.archive {
            Some(archive) => archive.text(member).map_err(|e| named(&self.source, e)),
            None => Ok(None),
        }
    }

    /// The training state that this library put into the file, JSON without its padding.
    ///
    /// # Errors
    /// `Format` if it does not match its checksum.
    pub fn state(&self) -> Result<Option<&[u8]>> {
        match &self.state {
            Ok(state) => Ok(state.as_deref()),
            Err(error) => Err(named(&self.source, error.clone())),
        }
    }

    fn entry(&self, index: usize) -> Result<(&TensorSpec, Place)> {
        match (self.tensors.get(index), self.places.get(index)) {
            (Some(spec), Some(place)) => Ok((spec, *place)),
            _ => {
                let what = format!("there is no tensor {index}: the checkpoint has {}", self.tensors.len());
                Err(Error::new(Status::InvalidArgument, what))
            }
        }
    }

    /// All bytes of a dataset of our own, which is never larger than the file.
    fn whole(&self, spec: &TensorSpec, place: Place) -> Result<Vec<u8>> {
        match place {
            Place::Here(offset) => self.source.read_vec(offset, spec.nbytes()),
            Place::Foreign(header) => {
                let len = usize::try_from(spec.nbytes()).map_err(|_| too_large(spec))?;
                if spec.nbytes() > self.source.len() {
                    return Err(damaged(format!("its '{}' is larger than the file", spec.path)));
                }
                let mut bytes = zeros(len)?;
                self.library.read(header, spec, &mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

/// The training state in a checkpoint, where it has one that is whole; what else the file holds is not looked at.
pub fn training_state(path: &Path) -> Option<Vec<u8>> {
    let own = Reader::open_with(path, Some(OWN_GROUP), Library::new(false)).ok()?;
    own.state().ok()?.map(<[u8]>::to_vec)
}

/// A target that keeps nothing.
struct Discard(u64);

impl Target for Discard {
    fn nbytes(&self) -> u64 {
        self.0
    }

    fn fill(&self, _: u64, len: usize, read: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<()> {
        let mut scratch = vec![0; len.min(256 << 10)];
        let mut left = len;
        while left > 0 {
            let n = left.min(scratch.len());
            read(scratch.get_mut(..n).unwrap_or_default())?;
            left -= n;
        }
        Ok(())
    }
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
