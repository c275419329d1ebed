//! The way back into a model: which tensor of a checkpoint goes to which of the model's, and what becomes of those
//! that do not fit.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::thread;

use super::ahead;
use super::model::Model;
use super::renames::Renames;
use crate::engine::{Buffer, Loan, Purpose};
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::reader::{self, Reader, Target};
use crate::tensor::{Dtype, TensorSpec, shape_text};

/// How a model is loaded; by default, every tensor as it is, or none.
#[derive(Clone, Debug, Default)]
pub struct Loading<'a> {
    /// Threads at most; 0 for as many as help.
    pub threads: u32,
    /// Convert floats to the width that the model has.
    pub convert_floats: bool,
    /// Leave tensors as they are that the checkpoint does not have.
    pub partial: bool,
    /// Leave groups as they are of which a tensor does not fit.
    pub skip_mismatch: bool,
    /// Compare no checksums.
    pub unverified: bool,
    /// What is called otherwise in the checkpoint.
    pub renames: Renames<'a>,
}

/// What a load came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// How many tensors were loaded.
    pub count: usize,
    /// Those that were not, in the order of the model.
    pub skipped: Vec<Skipped>,
}

/// A tensor of the model that was left as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its path in the model.
    pub path: String,
    /// Why.
    pub reason: String,
}

impl Model {
    /// Fills every tensor from a checkpoint. Everything is compared before the first byte is touched.
    pub fn load(&mut self, reader: &Reader, threads: u32) -> Result<()> {
        self.load_with(reader, &Loading { threads, ..Loading::default() }).map(|_| ())
    }

    /// Fills the tensors from a checkpoint, as `loading` says. Everything is compared before the first byte is
    /// touched.
    pub fn load_with(&mut self, reader: &Reader, loading: &Loading) -> Result<Loaded> {
        let tensors = self.schema.tensors();
        let (sources, skipped) = choose(tensors, reader, loading)?;
        let (mut host, mut elsewhere) = (Vec::new(), Vec::new());
        memory::reserve(&mut host, tensors.len())?;
        for ((want, buffer), source) in tensors.iter().zip(self.buffers.iter()).zip(sources) {
            let Some(index) = source else { continue };
            if buffer.overlaps_itself() {
                return Err(Error::new(
                    Status::Unsupported,
                    format!(
                        "tensor '{}' has elements that share memory (a stride of 0, or strides that overlap): it can \
                         be saved, not loaded into",
                        want.path
                    ),
                ));
            }
            if !buffer.can_put() {
                return Err(Error::new(
                    Status::Unsupported,
                    format!("tensor '{}' has no put function: it can be saved, not loaded into", want.path),
                ));
            }
            let have = &reader.tensors()[index];
            let destination = Destination { buffer, nbytes: have.nbytes(), from: have.dtype, to: want.dtype };
            match buffer.is_source() {
                true => memory::push(&mut elsewhere, (index, destination))?,
                false => host.push((index, destination)),
            }
        }
        let count = host.len() + elsewhere.len();
        let mut loan = Loan::begin(Purpose::Load, self.buffers.clone(), self.lender.clone())?;
        let filled = fill(reader, &host, elsewhere, loading);
        filled.and(loan.end())?;
        Ok(Loaded { count, skipped })
    }
}

/// Fills what is in memory, and what is elsewhere meanwhile, from this thread.
fn fill(
    reader: &Reader,
    host: &[(usize, Destination)],
    mut elsewhere: Vec<(usize, Destination)>,
    loading: &Loading,
) -> Result<()> {
    let host = || {
        let targets: Vec<(usize, &dyn Target)> = memory::collect(host.iter().map(|(i, t)| (*i, t as _)))?;
        match loading.unverified {
            false => reader.load(&targets, loading.threads),
            true => reader.load_unverified(&targets, loading.threads),
        }
    };
    if elsewhere.is_empty() {
        return host();
    }
    // As they are in the file.
    elsewhere.sort_unstable_by_key(|(index, _)| *index);
    let tensors = memory::collect(elsewhere.iter().map(|(index, _)| *index))?;
    let put = |tensor: usize, offset: u64, bytes: &[u8]| match elsewhere.get(tensor) {
        Some((_, destination)) => destination.hand_over(offset, bytes),
        None => Ok(()),
    };
    let elsewhere = || ahead::read(reader, &tensors, !loading.unverified, loading.threads != 1, put);
    if loading.threads == 1 {
        return elsewhere().and_then(|()| host());
    }
    thread::scope(|scope| {
        let beside = thread::Builder::new().name("ckpt-read".into()).spawn_scoped(scope, host);
        let mine = elsewhere();
        let theirs = match beside {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // Where the system gives no more threads, one thing comes after the other.
            Err(_) => host(),
        };
        mine.and(theirs)
    })
}

/// For each tensor of a model the number of the checkpoint's that it is loaded from; and those that are not loaded.
fn choose(
    tensors: &[TensorSpec],
    reader: &Reader,
    loading: &Loading,
) -> Result<(Vec<Option<usize>>, Vec<Skipped>)> {
    let mut sources = Vec::new();
    memory::reserve(&mut sources, tensors.len())?;
    let mut reasons = memory::filled(None, tensors.len())?;
    // The groups that are left out, each with the first tensor that is to blame.
    let mut out: HashMap<&str, &str> = HashMap::new();
    for (want, reason) in tensors.iter().zip(&mut reasons) {
        let source = find(want, reader, loading);
        sources.push(source.as_ref().ok().copied());
        let Err(misfit) = source else { continue };
        if !(misfit.absent && loading.partial) {
            if !loading.skip_mismatch {
                return Err(misfit.into());
            }
            if let Some(group) = group(&want.path).filter(|group| !out.contains_key(group)) {
                memory::insert(&mut out, group, &*want.path)?;
            }
        }
        *reason = Some(misfit.what);
    }
    for ((want, source), reason) in tensors.iter().zip(&mut sources).zip(&mut reasons) {
        if let Some(other) = group(&want.path).and_then(|group| out.get(group))
            && source.take().is_some()
        {
            *reason = Some(format!("tensor '{}' is left out with '{other}', which does not fit", want.path));
        }
    }
    let skipped = tensors.iter().zip(reasons);
    let skipped =
        skipped.filter_map(|(want, reason)| Some(Skipped { path: want.path.clone(), reason: reason? }));
    Ok((sources, memory::collect(skipped)?))
}

/// The group that a tensor is in; one at the root is in none.
fn group(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(group, _)| group)
}

/// Why a tensor of the model cannot be loaded.
struct Misfit {
    what: String,
    /// Whether the checkpoint does not have it.
    absent: bool,
    /// The flag with which a load goes on, and what it does.
    cure: Option<&'static str>,
}

impl From<Misfit> for Error {
    fn from(Misfit { what, cure, .. }: Misfit) -> Error {
        let message = cure.map_or(what.clone(), |cure| format!("{what} ({cure})"));
        Error::new(Status::Mismatch, message)
    }
}

/// Finds the tensor of a checkpoint that fits one of a model.
fn find(want: &TensorSpec, reader: &Reader, loading: &Loading) -> std::result::Result<usize, Misfit> {
    let path = loading.renames.in_file(&want.path);
    let name = || match path == want.path {
        true => format!("tensor '{path}'"),
        false => format!("tensor '{path}' ('{}' in the model)", want.path),
    };
    let Some(index) = reader.find(&path) else {
        return Err(Misfit {
            what: format!("the checkpoint has no {}, which the model has", name()),
            absent: true,
            cure: Some("CKPT_LOAD_PARTIAL leaves it as it is"),
        });
    };
    let have = &reader.tensors()[index];
    if have.shape != want.shape {
        let (have, want) = (shape_text(&have.shape), shape_text(&want.shape));
        return Err(Misfit {
            what: format!("{} has shape {have} in the checkpoint, {want} in the model", name()),
            absent: false,
            cure: None,
        });
    }
    let convertible = reader::converts(have.dtype, want.dtype);
    if have.dtype != want.dtype && !(convertible && loading.convert_floats) {
        let (have, want) = (have.dtype.name(), want.dtype.name());
        return Err(Misfit {
            what: format!("{} is {have} in the checkpoint, {want} in the model", name()),
            absent: false,
            cure: convertible.then_some("CKPT_LOAD_CONVERT_FLOATS converts it"),
        });
    }
    Ok(index)
}

/// A tensor that is loaded into.
struct Destination<'a> {
    buffer: &'a Buffer,
    /// Bytes that the tensor has in the checkpoint.
    nbytes: u64,
    /// The dtypes of the checkpoint and of the model.
    from: Dtype,
    to: Dtype,
}

/// Bytes of converted elements on the way to strided memory; a multiple of every element's size.
const SCRATCH: usize = 64 << 10;

impl Destination<'_> {
    /// Hands bytes of the file to the source, converted where that has another dtype.
    fn hand_over(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.from == self.to {
            return self.buffer.put(offset, bytes);
        }
        let (from, to) = (self.from.size(), self.to.size());
        let mut converted = memory::filled(0, bytes.len() / from * to)?;
        reader::convert(self.from, bytes, self.to, &mut converted);
        self.buffer.put(offset / from as u64 * to as u64, &converted)
    }
}

/// For those that are in memory.
impl Target for Destination<'_> {
    fn nbytes(&self) -> u64 {
        self.nbytes
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        let (from, to) = (self.from.size(), self.to.size());
        let start = offset / from as u64 * to as u64;
        if self.from == self.to {
            // SAFETY: the reader puts each range once, on one thread; whoever made the buffer promised that nobody
            // else uses its memory during a load, which has the model to itself.
            return unsafe { self.buffer.unpack(start, bytes) };
        }
        let len = bytes.len() / from * to;
        // SAFETY: as above.
        if let Some(memory) = unsafe { self.buffer.bytes_mut(start, len) } {
            return reader::convert(self.from, bytes, self.to, memory);
        }
        let mut scratch = [0; SCRATCH];
        let pieces = bytes.chunks(SCRATCH / to * from);
        for (at, piece) in (start..).step_by(SCRATCH).zip(pieces) {
            let converted = &mut scratch[..piece.len() / from * to];
            reader::convert(self.from, piece, self.to, converted);
            // SAFETY: as above.
            unsafe { self.buffer.unpack(at, converted) };
        }
    }

    fn fill(&self, offset: u64, len: usize, read: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<bool> {
        if self.from != self.to {
            return Ok(false);
        }
        // SAFETY: as in `put`; each range is filled or put, not both.
        match unsafe { self.buffer.bytes_mut(offset, len) } {
            Some(memory) => read(memory).map(|()| true),
            None => Ok(false),
        }
    }
}
