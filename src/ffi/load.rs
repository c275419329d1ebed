//! Loading: a checkpoint into a model, and what may differ between the two.

use std::ffi::c_char;
use std::mem::MaybeUninit;

use crate::error::Result;
use crate::memory;
use crate::session::{Loading, Rename, Renames};

use super::args::{self, some, string};
use super::model::ckpt_model;
use super::reader::ckpt_reader;
use super::status::{ckpt_status, guard};

/// How a model is loaded: flags, to be combined with |. Another bit is CKPT_E_INVALID_ARGUMENT.
#[repr(C)]
pub enum ckpt_load_flags {
    /// All tensors of the model, as they are.
    CKPT_LOAD_EXACT = 0,
    /// Where the file and the model have floats of other widths (float16, bfloat16, float32, float64), they are
    /// converted: to the nearest, ties to even, what is too large to infinity; NaN stays NaN.
    CKPT_LOAD_CONVERT_FLOATS = 1,
    /// Tensors of the model that the file does not have are left as they are.
    CKPT_LOAD_PARTIAL = 2,
    /// As Keras' load_weights(skip_mismatch=True): where the shape or the dtype of a tensor is another, or the file
    /// does not have it, its whole group is left as it is: all tensors of the model whose paths differ from its own
    /// in the last component alone. (A tensor at the root has no group. With CKPT_LOAD_PARTIAL, one that the file
    /// does not have does not keep its group from being loaded.)
    CKPT_LOAD_SKIP_MISMATCH = 4,
    /// Checksums are not compared: a tensor that another program has changed is loaded all the same.
    CKPT_LOAD_UNVERIFIED = 8,
}

const LOAD_FLAGS: [u32; 4] = [
    ckpt_load_flags::CKPT_LOAD_CONVERT_FLOATS as u32,
    ckpt_load_flags::CKPT_LOAD_PARTIAL as u32,
    ckpt_load_flags::CKPT_LOAD_SKIP_MISMATCH as u32,
    ckpt_load_flags::CKPT_LOAD_UNVERIFIED as u32,
];

/// A part of a model that is called otherwise in a file: paths that begin with model_prefix begin with file_prefix
/// there. A prefix is whole components ("layers/dense", not "layers/den"); "" is the beginning of every path.
#[repr(C)]
pub struct ckpt_rename {
    /// Its name in the file, UTF-8.
    pub file_prefix: *const c_char,
    /// Its name in the model, UTF-8.
    pub model_prefix: *const c_char,
}

impl ckpt_rename {
    /// # Safety
    /// The prefixes are NULL or strings that nobody changes while the result is used.
    unsafe fn read(&self, i: usize) -> Result<Rename<'_>> {
        // SAFETY: this function's contract.
        unsafe {
            Ok(Rename {
                file_prefix: string(self.file_prefix, &format!("renames[{i}].file_prefix"))?,
                model_prefix: string(self.model_prefix, &format!("renames[{i}].model_prefix"))?,
            })
        }
    }
}

/// Fills every tensor of a model, in parallel, and verifies the checksums where the file has them (CKPT_E_FORMAT).
///
/// Names, dtypes and shapes are compared first: the file has to hold every tensor of the model, else
/// CKPT_E_MISMATCH, and nothing is touched; a tensor with a stride of 0, or strides that overlap, or without a put
/// function, is CKPT_E_UNSUPPORTED. What else the file holds is ignored. After a later failure the content of the
/// model's tensors is not defined.
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

/// As ckpt_reader_load(), where the file and the model need not be equal. ckpt_model_skipped() tells afterwards which
/// tensors were left as they were, and why.
///
/// @param flags           ckpt_load_flags
/// @param renames         n_renames parts of the model that are called otherwise in the file; NULL is fine where
///                        n_renames is 0. Of those that fit a path, the one with the longest model_prefix counts; a
///                        model_prefix that is given twice is CKPT_E_INVALID_ARGUMENT. Several tensors of the model
///                        may come from one of the file.
/// @param loaded_or_null  receives how many tensors were loaded; untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_load_flags(
    reader: Option<&ckpt_reader>,
    model: Option<&mut ckpt_model>,
    flags: u32,
    renames: *const ckpt_rename,
    n_renames: usize,
    loaded_or_null: Option<&mut MaybeUninit<usize>>,
) -> ckpt_status {
    guard("ckpt_reader_load_flags", || {
        let reader = &some(reader, "reader")?.reader;
        let model = some(model, "model")?;
        let flags = args::flags(flags, &LOAD_FLAGS, "flags")?;
        // SAFETY: NULL or `n_renames` of them, by the header's contract.
        let renames = unsafe { args::slice(renames, n_renames, "renames") }?;
        let renames = renames.iter().enumerate().map(|(i, rename)| {
            // SAFETY: NULL or strings, by the header's contract.
            unsafe { rename.read(i) }
        });
        let renames = renames.collect::<Result<Vec<_>>>()?;
        let has = |flag: ckpt_load_flags| flags & flag as u32 != 0;
        let loading = Loading {
            threads: 0,
            convert_floats: has(ckpt_load_flags::CKPT_LOAD_CONVERT_FLOATS),
            partial: has(ckpt_load_flags::CKPT_LOAD_PARTIAL),
            skip_mismatch: has(ckpt_load_flags::CKPT_LOAD_SKIP_MISMATCH),
            unverified: has(ckpt_load_flags::CKPT_LOAD_UNVERIFIED),
            renames: Renames::new(renames)?,
        };
        let loaded = model.model.load_with(reader, &loading)?;
        let skipped = loaded.skipped.into_iter();
        model.skipped = memory::try_collect(
            skipped.map(|skipped| Ok((args::c_string(&skipped.path)?, args::c_string(&skipped.reason)?))),
        )?;
        if let Some(out) = loaded_or_null {
            out.write(loaded.count);
        }
        Ok(())
    })
}
