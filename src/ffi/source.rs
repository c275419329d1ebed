//! Tensors that are not in host memory: functions of the caller's move their bytes.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use crate::engine::{Buffer, Source};
use crate::error::{Error, Result, Status};
use crate::tensor::TensorSpec;

use super::args::{invalid, some};
use super::model::{self, ckpt_dtype_arg, ckpt_model};
use super::status::{self, ckpt_status, ckpt_status_arg, guard};

/// Fills dst with nbytes of a tensor, row-major, from byte `offset` of it on: whole elements, 2 MiB at most, never 0.
///
/// A save calls the fetch functions of its model in the order of the bytes in the file, which is not that of
/// ckpt_model_add_source(): HDF5 sorts names. Of each tensor, every byte is asked for once, in ascending order without
/// gaps. Never two calls at once, all of one save from one thread: the one that calls ckpt_save() or ckpt_model_save(),
/// but of CKPT_ASYNC_BORROW's a thread of the library's. No lock of the library's is held.
///
/// @param dst  memory of the library's, aligned to the elements; filled when the function returns, so it waits for what a
///             stream or a queue still has to do. With ckpt_options_set_staging_allocator(), mostly memory of that.
/// @return CKPT_OK; another status ends the save, which fails with it, and with what ckpt_set_last_error() said, and leaves
///         the old file. A number that no status has counts as CKPT_E_INVALID_ARGUMENT. The function must not throw,
///         longjmp, or use its model.
pub type ckpt_fetch_fn = Option<
    unsafe extern "C" fn(dst: *mut c_void, offset: u64, nbytes: u64, user: *mut c_void) -> ckpt_status_arg,
>;

/// Takes nbytes of a tensor, row-major, from byte `offset` of it on: whole elements, 2 MiB at most, never 0.
///
/// A load calls the put functions of its model from the thread that called it, never two at once; tensor by tensor as
/// they are in the file, each byte once, in ascending order without gaps. Other threads meanwhile read what comes next,
/// and fill tensors that are in memory. No lock of the library's is held.
///
/// @param src  memory of the library's, aligned to the elements, valid until the function returns, which waits for a
///             stream or a queue that still has to read it
/// @return as of ckpt_fetch_fn; the load fails with it, and the content of the model's tensors is not defined
pub type ckpt_put_fn = Option<
    unsafe extern "C" fn(src: *const c_void, offset: u64, nbytes: u64, user: *mut c_void) -> ckpt_status_arg,
>;

/// Adds a tensor that is not in host memory (on a GPU, in another process): functions move its bytes. In a file it is
/// as one of ckpt_model_add(). Nothing has changed after a failure.
///
/// @param path, dtype, rank, shape  as in ckpt_model_add()
/// @param fetch        gives the bytes to a save; not NULL
/// @param put_or_null  takes the bytes of a load; NULL: the tensor can be saved, not loaded into (CKPT_E_UNSUPPORTED)
/// @param user         what both functions get. Like them it has to live until the model is freed and no save of it
///                     is under way in the background any more: ckpt_model_own() can see to that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_add_source(
    model: Option<&mut ckpt_model>,
    path: *const c_char,
    dtype: ckpt_dtype_arg,
    rank: usize,
    shape: *const i64,
    fetch: ckpt_fetch_fn,
    put_or_null: ckpt_put_fn,
    user: *mut c_void,
) -> ckpt_status {
    guard("ckpt_model_add_source", || {
        let model = &mut some(model, "model")?.model;
        // SAFETY: NULL, or a string and `rank` elements, by the header's contract.
        let spec = unsafe { model::spec(path, dtype, rank, shape) }?;
        let buffer = buffer(&spec, fetch, put_or_null, user)?;
        model.add(&spec.path, spec.dtype, &spec.shape, buffer)
    })
}

/// The bytes of a tensor that functions move.
pub(super) fn buffer(
    spec: &TensorSpec,
    fetch: ckpt_fetch_fn,
    put: ckpt_put_fn,
    user: *mut c_void,
) -> Result<Buffer> {
    let functions = Functions { path: spec.path.clone(), fetch: some(fetch, "fetch")?, put, user };
    let too_large = || invalid(format!("tensor '{}' has more bytes than can be counted", spec.path));
    let nbytes = spec.checked_nbytes().ok_or_else(too_large)?;
    Buffer::source(nbytes, spec.dtype.size(), Arc::new(functions))
        .map_err(|e| e.context(format_args!("tensor '{}'", spec.path)))
}

/// A tensor that the caller's functions move.
struct Functions {
    /// For messages.
    path: String,
    fetch: unsafe extern "C" fn(*mut c_void, u64, u64, *mut c_void) -> ckpt_status_arg,
    put: Option<unsafe extern "C" fn(*const c_void, u64, u64, *mut c_void) -> ckpt_status_arg>,
    user: *mut c_void,
}

// SAFETY: `user` goes to the caller's functions alone, which may be called from any thread, by the header's contract.
unsafe impl Send for Functions {}
// SAFETY: as above; the engine and the session call one at a time.
unsafe impl Sync for Functions {}

impl Functions {
    /// Calls the `name` function, for messages.
    fn call(
        &self,
        name: &str,
        offset: u64,
        nbytes: usize,
        call: impl FnOnce() -> ckpt_status_arg,
    ) -> Result<()> {
        status::answered(call, || {
            format!("tensor '{}': its {name} function, called for {nbytes} bytes at {offset},", self.path)
        })
    }
}

impl Source for Functions {
    fn fetch(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let nbytes = dst.len();
        // SAFETY: the function and its pointer are those that the caller gave to be called with each other, and alive, by
        // the header's contract; `dst` is ours to be filled.
        let fetch = || unsafe { (self.fetch)(dst.as_mut_ptr().cast(), offset, nbytes as u64, self.user) };
        self.call("fetch", offset, nbytes, fetch)
    }

    fn put(&self, offset: u64, src: &[u8]) -> Result<()> {
        let put = self.put.ok_or_else(|| {
            Error::new(Status::Internal, format!("tensor '{}' has no put function", self.path))
        })?;
        // SAFETY: as in `fetch`; `src` is only read.
        let put = || unsafe { put(src.as_ptr().cast(), offset, src.len() as u64, self.user) };
        self.call("put", offset, src.len(), put)
    }

    fn can_put(&self) -> bool {
        self.put.is_some()
    }
}
