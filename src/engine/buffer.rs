//! The caller's memory for one tensor: where its elements are, and its bytes in row-major order.

use crate::error::{Error, Result, Status};

use super::strided::{Axis, Strided};

#[cfg(target_endian = "big")]
compile_error!(
    "checkpoints hold little-endian elements, and buffers are moved as they are: not on this host"
);

/// The memory that the caller keeps for one tensor, read by a save and written by a load.
///
/// The memory is borrowed with no lifetime that Rust could check: see [`Buffer::new`].
#[derive(Clone, Debug)]
pub struct Buffer {
    data: *mut u8,
    nbytes: usize,
    /// `None`: the elements stand in row-major order without gaps.
    strided: Option<Box<Strided>>,
}

// SAFETY: a Buffer is an address and numbers. The memory behind it is touched only by `bytes`, `pack`,
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
        if !matches!(itemsize, 1 | 2 | 4 | 8) {
            return Err(bad(format!("elements of {itemsize} bytes: expected 1, 2, 4 or 8")));
        }
        if let Some(strides) = strides
            && strides.len() != shape.len()
        {
            return Err(bad(format!("{} strides for {} dimensions: one each", strides.len(), shape.len())));
        }
        let nbytes = size(itemsize, shape).ok_or_else(|| {
            bad(format!("shape {shape:?} of {itemsize}-byte elements is too large for memory"))
        })?;
        if nbytes == 0 {
            return Ok(Buffer { data: ptr, nbytes, strided: None });
        }
        let axes = match strides {
            None => Vec::new(),
            Some(strides) => axes(itemsize, shape, strides).ok_or_else(|| {
                bad(format!("strides {strides:?} over shape {shape:?} reach further than memory"))
            })?,
        };
        let contiguous = axes.is_empty() || axes.len() == 1 && axes[0].stride == itemsize as isize;
        let strided = (!contiguous).then(|| Box::new(Strided::new(itemsize, axes)));
        let mut buffer = Buffer { data: ptr, nbytes, strided };
        buffer.set_data(ptr)?;
        Ok(buffer)
    }

    fn set_data(&mut self, ptr: *mut u8) -> Result<()> {
        let (low, high) = match &self.strided {
            None => (0, self.nbytes as isize),
            Some(strided) => strided.reach(),
        };
        if ptr.is_null() && self.nbytes > 0 {
            return Err(bad(format!("data is NULL, but the tensor has {} bytes", self.nbytes)));
        }
        if ptr.addr().checked_add_signed(low).is_none() || ptr.addr().checked_add_signed(high).is_none() {
            return Err(bad(format!(
                "the tensor at {ptr:p} reaches from {low} to {high} bytes: past memory's end"
            )));
        }
        self.data = ptr;
        Ok(())
    }

    /// The same tensor in other memory.
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

    /// Whether elements share memory, by a stride of 0 or strides that overlap, or might: only where each stride
    /// leads beyond all that the smaller ones reach is it certain that they do not. Such a tensor can be saved,
    /// not loaded into.
    pub fn overlaps_itself(&self) -> bool {
        self.strided.as_ref().is_some_and(|s| s.overlaps_itself())
    }

    /// The row-major bytes, where they stand in memory as they are.
    pub fn bytes(&self) -> Option<&[u8]> {
        if self.nbytes == 0 {
            return Some(&[]);
        }
        if self.strided.is_some() {
            return None;
        }
        // SAFETY: `nbytes` bytes from `data`, which is not NULL, are the elements that the maker of this
        // Buffer promised to be readable and unchanged; `size` keeps them below isize::MAX.
        Some(unsafe { std::slice::from_raw_parts(self.data, self.nbytes) })
    }

    /// Gathers the row-major bytes from `offset` on, as many as `dst` holds.
    ///
    /// # Panics
    ///
    /// Where the tensor has fewer bytes.
    pub fn pack(&self, offset: u64, dst: &mut [u8]) {
        let offset = self.check(offset, dst.len());
        match &self.strided {
            // SAFETY: the elements at `data` are readable, by the promise to `new`, and stay within what
            // `check` has compared.
            Some(strided) => unsafe { strided.pack(self.data, offset, dst) },
            None => {
                if let Some(bytes) = self.bytes() {
                    dst.copy_from_slice(&bytes[offset..offset + dst.len()]);
                }
            }
        }
    }

    /// Scatters row-major bytes into the tensor, from byte `offset` of it on. Where
    /// [`Buffer::overlaps_itself`], which of the bytes wins is undefined.
    ///
    /// # Safety
    ///
    /// The elements that `src` covers can be written, and nobody else reads or writes them meanwhile.
    ///
    /// # Panics
    ///
    /// Where the tensor has fewer bytes.
    pub unsafe fn unpack(&self, offset: u64, src: &[u8]) {
        let offset = self.check(offset, src.len());
        if src.is_empty() {
            return;
        }
        match &self.strided {
            // SAFETY: the elements are writable, by our caller's promise.
            Some(strided) => unsafe { strided.unpack(self.data, offset, src) },
            // SAFETY: as above; `check` has compared the range with the tensor's bytes.
            None => unsafe { self.data.add(offset).copy_from_nonoverlapping(src.as_ptr(), src.len()) },
        }
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
        if len == 0 {
            return Some(&mut []);
        }
        if self.strided.is_some() {
            return None;
        }
        // SAFETY: `data` is not NULL, `check` has compared the range with the tensor's bytes, and they can be written
        // and nobody else uses them, by our caller's promise.
        Some(unsafe { std::slice::from_raw_parts_mut(self.data.add(offset), len) })
    }

    /// `offset`, if `len` bytes from there on are the tensor's.
    fn check(&self, offset: u64, len: usize) -> usize {
        let fits = offset.checked_add(len as u64).is_some_and(|end| end <= self.nbytes as u64);
        assert!(fits, "bytes {offset} and {len} more of a tensor of {} bytes", self.nbytes);
        offset as usize
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
