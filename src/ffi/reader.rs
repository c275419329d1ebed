//! `ckpt_reader`: an open checkpoint, the way back.

use std::ffi::{CString, c_char, c_void};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::OnceLock;

use crate::error::{Error, Result, Status};
use crate::reader::Reader;
use crate::tensor::TensorSpec;

use super::args::{self, free_handle, into_handle, invalid, some, string};
use super::model::{ckpt_dtype, ckpt_model};
use super::status::{answer, ckpt_status, guard};

/// An open checkpoint. Any thread may use it, several at a time.
pub struct ckpt_reader {
    reader: Reader,
    /// The paths as C strings, each made when it is first asked for.
    paths: Vec<OnceLock<CString>>,
}

/// What a tensor in a checkpoint is. Its pointers are valid while the reader lives.
#[repr(C)]
pub struct ckpt_tensor_info {
    /// Where it stands: components joined by '/'.
    pub path: *const c_char,
    /// The type of an element.
    pub dtype: ckpt_dtype,
    /// Axes; 0 for a scalar.
    pub rank: usize,
    /// Sizes along the axes: rank of them.
    pub shape: *const i64,
    /// Bytes of all elements.
    pub nbytes: u64,
}

/// Opens a .weights.h5 or .keras file, written by this library, Keras, or h5py; what it is, its content says.
/// *out is to be freed with ckpt_reader_free().
///
/// The file stays open, and what a save puts into its place later does not change this reader.
/// CKPT_E_NOT_FOUND where there is none; CKPT_E_FORMAT where it is damaged or something else.
///
/// @param path  UTF-8
/// @param out   not NULL; untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_open(
    path: *const c_char,
    out: Option<&mut MaybeUninit<*mut ckpt_reader>>,
) -> ckpt_status {
    guard("ckpt_reader_open", || {
        // SAFETY: NULL or a string, by the header's contract.
        let path = unsafe { string(path, "path") }?;
        let out = some(out, "out")?;
        let reader = Reader::open(Path::new(path))?;
        let paths = reader.tensors().iter().map(|_| OnceLock::new()).collect();
        out.write(into_handle(ckpt_reader { reader, paths }));
        Ok(())
    })
}

/// Closes a checkpoint; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_free(reader: *mut ckpt_reader) {
    // SAFETY: NULL or from ckpt_reader_open, freed once, by the header's contract.
    unsafe { free_handle(reader) }
}

/// How many tensors there are; 0 for NULL. What this library keeps in "/libckpt" is not among them.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_len(reader: Option<&ckpt_reader>) -> usize {
    answer(0, || reader.map_or(0, |r| r.reader.tensors().len()))
}

/// Finds a tensor by its path: its index is below ckpt_reader_len(). CKPT_E_NOT_FOUND where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_find(
    reader: Option<&ckpt_reader>,
    path: *const c_char,
    index: Option<&mut MaybeUninit<usize>>,
) -> ckpt_status {
    guard("ckpt_reader_find", || {
        let reader = &some(reader, "reader")?.reader;
        // SAFETY: NULL or a string, by the header's contract.
        let path = unsafe { string(path, "path") }?;
        let index = some(index, "index")?;
        let found = reader
            .find(path)
            .ok_or_else(|| Error::new(Status::NotFound, format!("the checkpoint has no tensor '{path}'")))?;
        index.write(found);
        Ok(())
    })
}

impl ckpt_reader {
    fn spec(&self, index: usize) -> Result<&TensorSpec> {
        let tensors = self.reader.tensors();
        tensors
            .get(index)
            .ok_or_else(|| invalid(format!("index is {index}, but there are {} tensors", tensors.len())))
    }
}

/// Tells what a tensor is.
///
/// @param index  below ckpt_reader_len()
/// @param out    not NULL; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_tensor(
    reader: Option<&ckpt_reader>,
    index: usize,
    out: Option<&mut MaybeUninit<ckpt_tensor_info>>,
) -> ckpt_status {
    guard("ckpt_reader_tensor", || {
        let reader = some(reader, "reader")?;
        let out = some(out, "out")?;
        let spec = reader.spec(index)?;
        let path = match reader.paths.get(index) {
            Some(slot) => slot.get_or_init(|| CString::new(spec.path.as_str()).unwrap_or_default()).as_ptr(),
            None => c"".as_ptr(),
        };
        out.write(ckpt_tensor_info {
            path,
            dtype: spec.dtype.into(),
            rank: spec.shape.len(),
            shape: spec.shape.as_ptr().cast(),
            nbytes: spec.nbytes(),
        });
        Ok(())
    })
}

/// Reads a tensor, row-major, and verifies its checksum where the file has one (CKPT_E_FORMAT).
///
/// @param index      below ckpt_reader_len()
/// @param dst        the caller's memory; NULL is fine for a tensor without elements. After a failure its content
///                   is not defined.
/// @param dst_bytes  the size of dst: exactly the tensor's nbytes, else CKPT_E_MISMATCH
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_read(
    reader: Option<&ckpt_reader>,
    index: usize,
    dst: *mut c_void,
    dst_bytes: usize,
) -> ckpt_status {
    guard("ckpt_reader_read", || {
        let reader = some(reader, "reader")?;
        let spec = reader.spec(index)?;
        if spec.nbytes() != dst_bytes as u64 {
            return Err(Error::new(
                Status::Mismatch,
                format!("tensor '{}' has {} bytes, but dst_bytes is {dst_bytes}", spec.path, spec.nbytes()),
            ));
        }
        // SAFETY: NULL or `dst_bytes` of the caller's memory that nobody else uses, by the header's contract.
        let dst = unsafe { args::slice_mut(dst.cast::<u8>(), dst_bytes, "dst") }?;
        reader.reader.read(index, dst)
    })
}

/// Fills every tensor of a model, in parallel, straight into its buffers, and verifies the checksums where the file
/// has them (CKPT_E_FORMAT).
///
/// Names, dtypes and shapes are compared first: the file has to hold every tensor of the model, else
/// CKPT_E_MISMATCH, and no buffer is touched; a tensor with a stride of 0, or strides that overlap, is
/// CKPT_E_UNSUPPORTED. What else the file holds is ignored. After a later failure the content of the buffers is not
/// defined.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_load(
    reader: Option<&ckpt_reader>,
    model: Option<&mut ckpt_model>,
) -> ckpt_status {
    guard("ckpt_reader_load", || {
        let reader = &some(reader, "reader")?.reader;
        some(model, "model")?.model.load(reader, 0)
    })
}

/// Reads all tensors and compares them with their checksums: CKPT_E_FORMAT names the first that differs. Tensors
/// without a checksum (Keras writes none) are skipped.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_verify(reader: Option<&ckpt_reader>) -> ckpt_status {
    guard("ckpt_reader_verify", || some(reader, "reader")?.reader.verify())
}
