//! `ckpt_model`: the named tensors that are handed over.

use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::path::Path;

use crate::engine::Buffer;
use crate::error::Result;
use crate::session::Model;
use crate::tensor::{Dtype, MAX_RANK, TensorSpec};

use super::args::{self, free_handle, into_handle, invalid, some, string};
use super::status::{answer, ckpt_status, guard};

/// The tensors of a model by their paths in the checkpoint, with the caller's buffers. By one thread at a time.
///
/// Paths, shapes, strides and names are copied; the buffers are borrowed: they have to live until the model is freed
/// or ckpt_model_set_data() replaces them.
pub struct ckpt_model {
    pub(super) model: Model,
    /// What the last load left as it was: path and reason.
    pub(super) skipped: Vec<(CString, CString)>,
}

/// The type of an element. Enum arguments enter as plain integers; a number that is none of them is refused.
#[repr(C)]
pub enum ckpt_dtype {
    /// float, IEEE single
    CKPT_DTYPE_F32 = 0,
    /// double, IEEE double
    CKPT_DTYPE_F64 = 1,
    /// IEEE half
    CKPT_DTYPE_F16 = 2,
    /// bfloat16
    CKPT_DTYPE_BF16 = 3,
    /// int8_t
    CKPT_DTYPE_I8 = 4,
    /// uint8_t
    CKPT_DTYPE_U8 = 5,
    /// int16_t
    CKPT_DTYPE_I16 = 6,
    /// uint16_t
    CKPT_DTYPE_U16 = 7,
    /// int32_t
    CKPT_DTYPE_I32 = 8,
    /// uint32_t
    CKPT_DTYPE_U32 = 9,
    /// int64_t
    CKPT_DTYPE_I64 = 10,
    /// uint64_t
    CKPT_DTYPE_U64 = 11,
    /// bool, one byte: 0 or 1 (a file of somebody else's can hold other bytes; they are passed on as they are)
    CKPT_DTYPE_BOOL = 12,
}

/// A dtype as a caller hands it in: any number.
pub type ckpt_dtype_arg = c_int;

impl From<Dtype> for ckpt_dtype {
    fn from(dtype: Dtype) -> ckpt_dtype {
        match dtype {
            Dtype::F32 => ckpt_dtype::CKPT_DTYPE_F32,
            Dtype::F64 => ckpt_dtype::CKPT_DTYPE_F64,
            Dtype::F16 => ckpt_dtype::CKPT_DTYPE_F16,
            Dtype::Bf16 => ckpt_dtype::CKPT_DTYPE_BF16,
            Dtype::I8 => ckpt_dtype::CKPT_DTYPE_I8,
            Dtype::U8 => ckpt_dtype::CKPT_DTYPE_U8,
            Dtype::I16 => ckpt_dtype::CKPT_DTYPE_I16,
            Dtype::U16 => ckpt_dtype::CKPT_DTYPE_U16,
            Dtype::I32 => ckpt_dtype::CKPT_DTYPE_I32,
            Dtype::U32 => ckpt_dtype::CKPT_DTYPE_U32,
            Dtype::I64 => ckpt_dtype::CKPT_DTYPE_I64,
            Dtype::U64 => ckpt_dtype::CKPT_DTYPE_U64,
            Dtype::Bool => ckpt_dtype::CKPT_DTYPE_BOOL,
        }
    }
}

/// Makes a model without tensors; *out is to be freed with ckpt_model_free().
///
/// @param out  not NULL; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_model_new(out: Option<&mut MaybeUninit<*mut ckpt_model>>) -> ckpt_status {
    guard("ckpt_model_new", || {
        some(out, "out")?.write(into_handle(ckpt_model { model: Model::new(), skipped: Vec::new() }));
        Ok(())
    })
}

/// Frees a model, not its buffers; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_free(model: *mut ckpt_model) {
    // SAFETY: NULL or from ckpt_model_new, freed once, by the header's contract.
    unsafe { free_handle(model) }
}

/// Adds a tensor. Nothing has changed after a failure.
///
/// @param path     components joined by '/', as in "layers/dense/vars/0": none empty, ".", or "..", the first not
///                 "libckpt"; 16 KiB a component and 64 KiB in all at most; each path once, and never both a tensor and a group
/// @param dtype    the type of an element
/// @param rank     axes, 0 (a scalar) to 32
/// @param shape    rank sizes, each 0 or more; NULL is fine for a scalar
/// @param strides  rank distances, in elements, from an element to the next along each axis, of either sign; NULL:
///                 row-major without gaps. data is the address of the element whose indices are all 0. A tensor
///                 with a stride of 0, or strides that overlap, can be saved, not loaded into.
/// @param data     the buffer, borrowed: read by a save, written by a load; NULL only if the tensor has no elements.
///                 Tensors that are loaded into must not overlap.
///
/// Keras' layers/<class in snake case>[_<n>]/vars/<i> are the paths of a layer's variables, n counting the layers
/// of a class from 1 (the first has no number); "optimizer/vars/<i>" are the optimizer's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_add(
    model: Option<&mut ckpt_model>,
    path: *const c_char,
    dtype: ckpt_dtype_arg,
    rank: usize,
    shape: *const i64,
    strides_or_null: *const i64,
    data: *mut c_void,
) -> ckpt_status {
    guard("ckpt_model_add", || {
        let model = &mut some(model, "model")?.model;
        // SAFETY: NULL, or a string and `rank` elements, by the header's contract.
        let TensorSpec { path, dtype, shape } = unsafe { spec(path, dtype, rank, shape) }?;
        // SAFETY: NULL, or `rank` elements, by the header's contract.
        let strides = unsafe { args::slice_or_null(strides_or_null, rank, "strides") }?;
        // SAFETY: the header's contract: the buffer holds every element that shape and strides reach, as long as the
        // model has it, and nobody changes it during a save or uses it during a load.
        let buffer = unsafe { Buffer::new(data.cast(), dtype.size(), &shape, strides) }
            .map_err(|e| e.context(format_args!("tensor '{path}'")))?;
        model.add(&path, dtype, &shape, buffer)
    })
}

/// What a tensor is, as C hands it in.
///
/// # Safety
/// `path` is NULL or a string, `shape` is NULL or has `rank` elements, and nobody changes them during the call.
pub(super) unsafe fn spec(
    path: *const c_char,
    dtype: ckpt_dtype_arg,
    rank: usize,
    shape: *const i64,
) -> Result<TensorSpec> {
    // SAFETY: this function's contract.
    let path = unsafe { string(path, "path") }?.to_owned();
    let dtype = args::choice(dtype, &Dtype::ALL, "dtype")?;
    if rank > MAX_RANK {
        return Err(invalid(format!("rank of tensor '{path}' is {rank}: at most {MAX_RANK} is possible")));
    }
    // SAFETY: as above.
    let shape = unsafe { args::slice(shape, rank, "shape") }?;
    let size = |(axis, &n): (usize, &i64)| {
        u64::try_from(n).map_err(|_| invalid(format!("shape[{axis}] of tensor '{path}' is negative: {n}")))
    };
    let shape = shape.iter().enumerate().map(size).collect::<Result<Vec<u64>>>()?;
    Ok(TensorSpec { path, dtype, shape })
}

/// Sets Keras' "name" attribute of a group's variables, and makes the group where no tensor has: Keras writes such
/// empty groups (layers/flatten/vars). Calls on one group replace each other.
///
/// @param group  the path that "/vars" follows, such as "layers/dense" or "optimizer"; "" is the root
/// @param name   UTF-8, 60,000 bytes at most; copied
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_set_name(
    model: Option<&mut ckpt_model>,
    group: *const c_char,
    name: *const c_char,
) -> ckpt_status {
    guard("ckpt_model_set_name", || {
        let model = &mut some(model, "model")?.model;
        // SAFETY: NULL or strings, by the header's contract.
        let (group, name) = unsafe { (string(group, "group")?, string(name, "name")?) };
        model.set_name(group, name)
    })
}

/// Says that a tensor's buffer has moved; its dtype, shape and strides stay as they were. One of
/// ckpt_model_add_source() has no buffer: CKPT_E_INVALID_ARGUMENT.
///
/// @param path  a tensor that was added; CKPT_E_NOT_FOUND else
/// @param data  as in ckpt_model_add()
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_set_data(
    model: Option<&mut ckpt_model>,
    path: *const c_char,
    data: *mut c_void,
) -> ckpt_status {
    guard("ckpt_model_set_data", || {
        let model = &mut some(model, "model")?.model;
        // SAFETY: NULL or a string, by the header's contract.
        let path = unsafe { string(path, "path") }?;
        let buffer = model.buffer_mut(path)?;
        // SAFETY: the header's contract, as in ckpt_model_add: the new buffer holds what the old one held.
        *buffer = unsafe { buffer.moved_to(data.cast()) }
            .map_err(|e| e.context(format_args!("tensor '{path}'")))?;
        Ok(())
    })
}

/// Sets the configuration of a .keras file (its config.json) or a legacy .h5 file, which need one: what Keras'
/// model.to_json() gives, or what it wrote into another file.
///
/// @param config_json  UTF-8; a JSON object with Keras' "module", "class_name" and "config"; copied. Checked here: what
///                     is not such an object is CKPT_E_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_set_config(
    model: Option<&mut ckpt_model>,
    config_json: *const c_char,
) -> ckpt_status {
    guard("ckpt_model_set_config", || {
        let model = &mut some(model, "model")?.model;
        // SAFETY: NULL or a string, by the header's contract.
        let config = unsafe { string(config_json, "config_json") }?;
        model.set_config(config)
    })
}

/// Sets one of the assets of a .keras file: what a layer keeps beside its weights, such as a vocabulary. A further
/// call with the name replaces the bytes. The other formats have no room for assets.
///
/// @param name   UTF-8, below "assets/" in the archive: components joined by '/', none empty, ".", or "..", no
///               backslash; at most 255 bytes in a component, 3,072 in all, so that it can be unpacked; never both an
///               asset and a directory of others. Keras hands a layer's load_assets() the directory
///               "layers/<layer>", named as in ckpt_model_add().
/// @param bytes  n bytes, copied; NULL is fine if n is 0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_set_asset(
    model: Option<&mut ckpt_model>,
    name: *const c_char,
    bytes: *const c_void,
    n: usize,
) -> ckpt_status {
    guard("ckpt_model_set_asset", || {
        let model = &mut some(model, "model")?.model;
        // SAFETY: NULL or a string, by the header's contract.
        let name = unsafe { string(name, "name") }?;
        // SAFETY: NULL or `n` bytes, by the header's contract.
        let bytes = unsafe { args::slice(bytes.cast::<u8>(), n, "bytes") }?;
        model.set_asset(name, bytes)
    })
}

/// Sets an entry of what a .safetensors file says of itself (its "__metadata__"), such as "format". A further call
/// with the key replaces the value. The other formats have no room for it.
///
/// @param key    UTF-8, not beginning with "libckpt.", which is ours; copied
/// @param value  UTF-8; copied
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_set_metadata(
    model: Option<&mut ckpt_model>,
    key: *const c_char,
    value: *const c_char,
) -> ckpt_status {
    guard("ckpt_model_set_metadata", || {
        let model = &mut some(model, "model")?.model;
        // SAFETY: NULL or strings, by the header's contract.
        let (key, value) = unsafe { (string(key, "key")?, string(value, "value")?) };
        model.set_metadata(key, value)
    })
}

/// Saves one file, with no policy, durably: as a whole or not at all (see ckpt_save()).
///
/// @param path  its ending says what it is: ".keras" or ".h5" (CKPT_E_STATE without ckpt_model_set_config()), or of the
///              weights alone ".weights.h5", ".weights.json" (with its shards beside it) or ".safetensors"; other
///              endings are CKPT_E_UNSUPPORTED. Missing directories are made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_save(model: Option<&ckpt_model>, path: *const c_char) -> ckpt_status {
    guard("ckpt_model_save", || {
        let model = &some(model, "model")?.model;
        // SAFETY: NULL or a string, by the header's contract.
        let path = unsafe { string(path, "path") }?;
        model.save(Path::new(path))
    })
}

/// How many tensors the model's last ckpt_reader_load_flags() left as they were; 0 before, and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_model_skipped_len(model: Option<&ckpt_model>) -> usize {
    answer(0, || model.map_or(0, |m| m.skipped.len()))
}

/// Tells which tensor the model's last ckpt_reader_load_flags() left as it was, and why. Both texts are valid until
/// the model's next such load, or its end.
///
/// @param index   below ckpt_model_skipped_len(); in the order of ckpt_model_add()
/// @param path    not NULL; its path in the model; untouched on failure
/// @param reason  not NULL; a message for a person; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_model_skipped(
    model: Option<&ckpt_model>,
    index: usize,
    path: Option<&mut MaybeUninit<*const c_char>>,
    reason: Option<&mut MaybeUninit<*const c_char>>,
) -> ckpt_status {
    guard("ckpt_model_skipped", || {
        let skipped = &some(model, "model")?.skipped;
        let (path, reason) = (some(path, "path")?, some(reason, "reason")?);
        let (of, why) = skipped.get(index).ok_or_else(|| {
            invalid(format!("index is {index}, but {} tensors were skipped", skipped.len()))
        })?;
        path.write(of.as_ptr());
        reason.write(why.as_ptr());
        Ok(())
    })
}
