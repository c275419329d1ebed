//! Where the elements of one tensor are, and its bytes in row-major order.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result, Status};

use super::strided::{Axis, Strided};

#[cfg(target_endian = "big")]
compile_error!(
    "checkpoints hold little-endian elements, and buffers are moved as they are: not on this host"
);

/// The most bytes that a [`Source`] is asked to move at once.
pub const SOURCE_BLOCK: usize = 2 << 20;

/// The elements of one tensor where only their owner can reach them: on a device, in another process, in a file.
///
/// A call concerns whole elements, [`SOURCE_BLOCK`] bytes at most and never none. One save, or one load, calls
/// from one thread, each byte once, those of a tensor in their order.
pub trait Source: Send + Sync {
    /// Fills `dst` with the tensor's row-major bytes from `offset` on. The error names the tensor.
    fn fetch(&self, offset: u64, dst: &mut [u8]) -> Result<()>;

    /// Takes the tensor's row-major bytes from `offset` on; only where [`Source::can_put`]. The error names the
    /// tensor.
    fn put(&self, offset: u64, src: &[u8]) -> Result<()>;

    /// Whether there is a way back: a tensor without one can be saved, not loaded into.
    fn can_put(&self) -> bool;
}

/// What the caller keeps for one tensor, read by a save and written by a load: memory, or a [`Source`].
///
/// Memory is borrowed with no lifetime that Rust could check: see [`Buffer::new`].
#[derive(Clone)]
pub struct Buffer {
    nbytes: usize,
    elements: Elements,
    /// Whose memory it is, where it is not the caller's.
    owner: Option<Arc<Vec<u8>>>,
}

/// Where the elements are.
#[derive(Clone)]
enum Elements {
    /// In memory from here on, in row-major order without gaps.
    Dense(*mut u8),
    /// In memory, the first of them here.
    Strided(*mut u8, Box<Strided>),
    /// Not in memory; each of `itemsize` bytes.
    Source { itemsize: usize, source: Arc<dyn Source> },
}

// SAFETY: a Buffer is a Source, which is Send and Sync, or an address and numbers. The memory behind it is touched only by `bytes`, `pack`,
// `unpack` and `bytes_mut`, and whoever made the Buffer promised that they may do so from any thread (see `Buffer::new`).
unsafe impl Send for Buffer {}
// SAFETY: as above; `bytes` and `pack` only read, and `unpack` and `bytes_mut` are unsafe to call.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// The memory of a tensor with this shape, its elements of `itemsize` bytes (1, 2, 4 or 8). The element
    /// with the indices i is at `ptr + itemsize * sum(i * stride)`: strides are in elements, of any sign;
    /// `None` is row-major. The address needs no alignment, and may be NULL for a tensor without elements.
    ///
    /// Errors tell of the numbers alone; the caller knows the tensor's path.
    ///
    /// # Safety
    ///
    /// For as long as the Buffer or a clone is used, every element is in memory that can be read from any
    /// thread and that nobody writes while [`Buffer::bytes`], what it returned, or [`Buffer::pack`] is in use. While
    /// [`Buffer::unpack`] or what [`Buffer::bytes_mut`] returned is in use, the elements in its range can be written
    /// from any thread, too, and nobody else reads or writes them.
    pub unsafe fn new(
        ptr: *mut u8,
        itemsize: usize,
        shape: &[u64],
        strides: Option<&[i64]>,
    ) -> Result<Buffer> {
        check_itemsize(itemsize)?;
        if let Some(strides) = strides
            && strides.len() != shape.len()
        {
            return Err(bad(format!("{} strides for {} dimensions: one each", strides.len(), shape.len())));
        }
        let nbytes = size(itemsize, shape).ok_or_else(|| {
            bad(format!("shape {shape:?} of {itemsize}-byte elements is too large for memory"))
        })?;
        if nbytes == 0 {
            return Ok(Buffer { nbytes, elements: Elements::Dense(ptr), owner: None });
        }
        let axes = match strides {
            None => Vec::new(),
            Some(strides) => axes(itemsize, shape, strides).ok_or_else(|| {
                bad(format!("strides {strides:?} over shape {shape:?} reach further than memory"))
            })?,
        };
        let contiguous = axes.is_empty() || axes.len() == 1 && axes[0].stride == itemsize as isize;
        let elements = match contiguous {
            true => Elements::Dense(ptr),
            false => Elements::Strided(ptr, Box::new(Strided::new(itemsize, axes))),
        };
        let mut buffer = Buffer { nbytes, elements, owner: None };
        buffer.set_data(ptr)?;
        Ok(buffer)
    }

    /// A tensor of `nbytes` bytes, its elements of `itemsize` bytes (1, 2, 4 or 8), that `source` moves.
    pub fn source(nbytes: u64, itemsize: usize, source: Arc<dyn Source>) -> Result<Buffer> {
        check_itemsize(itemsize)?;
        if !nbytes.is_multiple_of(itemsize as u64) {
            return Err(bad(format!("{nbytes} bytes are not whole elements of {itemsize} bytes")));
        }
        let nbytes = usize::try_from(nbytes)
            .map_err(|_| bad(format!("{nbytes} bytes are more than this machine can count")))?;
        Ok(Buffer { nbytes, elements: Elements::Source { itemsize, source }, owner: None })
    }

    /// Bytes that are kept as long as the Buffer is; to be saved, not loaded into.
    pub fn owned(bytes: Arc<Vec<u8>>) -> Buffer {
        let elements = Elements::Dense(bytes.as_ptr().cast_mut());
        Buffer { nbytes: bytes.len(), elements, owner: Some(bytes) }
    }

    fn set_data(&mut self, ptr: *mut u8) -> Result<()> {
        let (data, (low, high)) = match &mut self.elements {
            Elements::Dense(data) => (data, (0, self.nbytes as isize)),
            Elements::Strided(data, strided) => {
                let reach = strided.reach();
                (data, reach)
            }
            Elements::Source { .. } => {
                return Err(
                    bad("it has no memory that could move: functions give and take its bytes".into()),
                );
            }
        };
        if ptr.is_null() && self.nbytes > 0 {
            return Err(bad(format!("data is NULL, but the tensor has {} bytes", self.nbytes)));
        }
        if ptr.addr().checked_add_signed(low).is_none() || ptr.addr().checked_add_signed(high).is_none() {
            return Err(bad(format!(
                "the tensor at {ptr:p} reaches from {low} to {high} bytes: past memory's end"
            )));
        }
        *data = ptr;
        Ok(())
    }

    /// The same tensor in other memory; refused for a source.
    ///
    /// # Safety
    ///
    /// The promise of [`Buffer::new`], for the new address.
    pub unsafe fn moved_to(&self, ptr: *mut u8) -> Result<Buffer> {
        let mut moved = self.clone();
        moved.set_data(ptr)?;
        Ok(moved)
    }

    /// Bytes of all elements.
    pub fn nbytes(&self) -> u64 {
        self.nbytes as u64
    }

    /// Whether a [`Source`] moves the elements.
    pub fn is_source(&self) -> bool {
        matches!(self.elements, Elements::Source { .. })
    }

    /// Whether elements share memory, by a stride of 0 or strides that overlap, or might: only where each stride
    /// leads beyond all that the smaller ones reach is it certain that they do not. Such a tensor can be saved,
    /// not loaded into. Those of a source do not.
    pub fn overlaps_itself(&self) -> bool {
        matches!(&self.elements, Elements::Strided(_, strided) if strided.overlaps_itself())
    }

    /// Whether there is a way back to where the elements are: always, but for a source without one.
    pub fn can_put(&self) -> bool {
        match &self.elements {
            Elements::Source { source, .. } => source.can_put(),
            _ => self.owner.is_none(),
        }
    }

    /// The row-major bytes, where they stand in memory as they are.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self.elements {
            _ if self.nbytes == 0 => Some(&[]),
            // SAFETY: `nbytes` bytes from `data`, which is not NULL, are the elements that the maker of this
            // Buffer promised to be readable and unchanged, or those of its owner; `size` keeps them below isize::MAX.
            Elements::Dense(data) => Some(unsafe { std::slice::from_raw_parts(data, self.nbytes) }),
            _ => None,
        }
    }

    /// Gathers the row-major bytes from `offset` on, as many as `dst` holds. From memory this cannot fail; a source
    /// is asked for them [`SOURCE_BLOCK`] bytes at a time, and its first error ends it.
    ///
    /// # Panics
    ///
    /// Where the tensor has fewer bytes.
    pub fn pack(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let at = self.check(offset, dst.len());
        match &self.elements {
            Elements::Dense(_) => {
                if let Some(bytes) = self.bytes() {
                    dst.copy_from_slice(&bytes[at..at + dst.len()]);
                }
            }
            // SAFETY: the elements at `data` are readable, by the promise to `new`, and stay within what
            // `check` has compared.
            Elements::Strided(data, strided) => unsafe { strided.pack(*data, at, dst) },
            Elements::Source { itemsize, source } => {
                whole_elements(*itemsize, offset, dst.len())?;
                for (at, block) in (offset..).step_by(SOURCE_BLOCK).zip(dst.chunks_mut(SOURCE_BLOCK)) {
                    source.fetch(at, block)?;
                }
            }
        }
        Ok(())
    }

    /// Scatters row-major bytes into the tensor's memory, from byte `offset` of it on. Where
    /// [`Buffer::overlaps_itself`], which of the bytes wins is undefined.
    ///
    /// # Safety
    ///
    /// The elements that `src` covers can be written, and nobody else reads or writes them meanwhile.
    ///
    /// # Panics
    ///
    /// Where the tensor has fewer bytes, or a source moves them: [`Buffer::put`] is for those.
    pub unsafe fn unpack(&self, offset: u64, src: &[u8]) {
        let at = self.check(offset, src.len());
        if src.is_empty() {
            return;
        }
        match &self.elements {
            // SAFETY: the elements are writable, by our caller's promise; `check` has compared the range with the
            // tensor's bytes.
            Elements::Dense(data) => unsafe {
                data.add(at).copy_from_nonoverlapping(src.as_ptr(), src.len());
            },
            // SAFETY: as above.
            Elements::Strided(data, strided) => unsafe { strided.unpack(*data, at, src) },
            Elements::Source { .. } => panic!("a tensor of {} bytes is not in memory", self.nbytes),
        }
    }

    /// Hands row-major bytes, from byte `offset` of the tensor on, to the source that moves it, [`SOURCE_BLOCK`] bytes
    /// at a time; the first error ends it.
    ///
    /// # Panics
    ///
    /// Where the tensor has fewer bytes, or is in memory: [`Buffer::unpack`] is for that.
    pub fn put(&self, offset: u64, src: &[u8]) -> Result<()> {
        self.check(offset, src.len());
        let Elements::Source { itemsize, source } = &self.elements else {
            panic!("a tensor of {} bytes is in memory", self.nbytes);
        };
        whole_elements(*itemsize, offset, src.len())?;
        for (at, block) in (offset..).step_by(SOURCE_BLOCK).zip(src.chunks(SOURCE_BLOCK)) {
            source.put(at, block)?;
        }
        Ok(())
    }

    /// The row-major bytes from `offset` on, `len` of them, to be written, where they stand in memory as they are.
    ///
    /// # Safety
    ///
    /// As for [`Buffer::unpack`], for as long as what is returned is used.
    ///
    /// # Panics
    ///
    /// Where the tensor has fewer bytes.
    #[allow(
        clippy::mut_from_ref,
        reason = "the memory is the caller's, and is not reached through this Buffer"
    )]
    pub unsafe fn bytes_mut(&self, offset: u64, len: usize) -> Option<&mut [u8]> {
        let offset = self.check(offset, len);
        match self.elements {
            _ if len == 0 => Some(&mut []),
            // SAFETY: `data` is not NULL, `check` has compared the range with the tensor's bytes, and they can be written
            // and nobody else uses them, by our caller's promise.
            Elements::Dense(data) => Some(unsafe { std::slice::from_raw_parts_mut(data.add(offset), len) }),
            _ => None,
        }
    }

    /// `offset`, if `len` bytes from there on are the tensor's.
    fn check(&self, offset: u64, len: usize) -> usize {
        let fits = offset.checked_add(len as u64).is_some_and(|end| end <= self.nbytes as u64);
        assert!(fits, "bytes {offset} and {len} more of a tensor of {} bytes", self.nbytes);
        offset as usize
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes ", self.nbytes)?;
        match &self.elements {
            Elements::Dense(data) => write!(f, "at {data:p}"),
            Elements::Strided(data, strided) => write!(f, "at {data:p}, {strided:?}"),
            Elements::Source { .. } => f.write_str("of a source"),
        }
    }
}

fn check_itemsize(itemsize: usize) -> Result<()> {
    match itemsize {
        1 | 2 | 4 | 8 => Ok(()),
        _ => Err(bad(format!("elements of {itemsize} bytes: expected 1, 2, 4 or 8"))),
    }
}

/// Holds what a [`Source`] may rely on: every layout aligns tensors to their elements, and is cut at pages.
fn whole_elements(itemsize: usize, offset: u64, len: usize) -> Result<()> {
    match offset.is_multiple_of(itemsize as u64) && len.is_multiple_of(itemsize) {
        true => Ok(()),
        false => {
            let what = format!("{len} bytes at {offset} are not whole elements of {itemsize} bytes");
            Err(Error::new(Status::Internal, what))
        }
    }
}

/// Bytes of all elements, where memory could hold them.
fn size(itemsize: usize, shape: &[u64]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let mut n = itemsize;
    for &d in shape {
        n = n.checked_mul(usize::try_from(d).ok()?)?;
    }
    isize::try_from(n).is_ok().then_some(n)
}

/// The axes in bytes, those of one element left out and neighbours that run on merged; `None` where an element
/// would be further away than an `isize` can tell.
fn axes(itemsize: usize, shape: &[u64], strides: &[i64]) -> Option<Vec<Axis>> {
    let mut axes: Vec<Axis> = Vec::with_capacity(shape.len());
    let (mut low, mut high) = (0isize, itemsize as isize);
    for (&len, &stride) in shape.iter().zip(strides) {
        if len == 1 {
            continue;
        }
        let len = usize::try_from(len).ok()?;
        let stride = isize::try_from(stride).ok()?.checked_mul(itemsize as isize)?;
        // One more step than the last element needs, so that merging and stepping cannot overflow either.
        let reach = stride.checked_mul(isize::try_from(len).ok()?)?;
        if reach < 0 {
            low = low.checked_add(reach)?;
        } else {
            high = high.checked_add(reach)?;
        }
        match axes.last_mut() {
            Some(outer) if outer.stride == reach => *outer = Axis { len: outer.len * len, stride },
            _ => axes.push(Axis { len, stride }),
        }
    }
    high.checked_sub(low)?;
    Some(axes)
}

fn bad(message: String) -> Error {
    Error::new(Status::InvalidArgument, message)
}

#[cfg(test)]
mod tests;
