//! One file to another format.

use std::ffi::c_char;
use std::path::Path;

use super::args::string;
use super::status::{ckpt_status, guard};

/// Writes a checkpoint anew in another format, or in the same: the tensors, and of Keras' names, the configuration,
/// the assets, and the training state what the new format has room for. Damaged tensors are CKPT_E_FORMAT. The tensors
/// pass through a few MiB of memory, those that are chunked or filtered one at a time. What src holds and no dtype here
/// can (text, float8) is CKPT_E_UNSUPPORTED, rather than lost.
///
/// @param src  what ckpt_reader_open() opens
/// @param dst  its ending says what it is, as in ckpt_model_save(); it may be src, and is replaced as a whole or not at
///             all. CKPT_E_STATE where it needs a configuration and src has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_convert(src: *const c_char, dst: *const c_char) -> ckpt_status {
    guard("ckpt_convert", || {
        // SAFETY: NULL or strings, by the header's contract.
        let (src, dst) = unsafe { (string(src, "src")?, string(dst, "dst")?) };
        crate::session::convert(Path::new(src), Path::new(dst))
    })
}
