//! What stands around the tensors of a model: who hears that they are in use, and what lives as long as they are.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::engine::{Fence, Purpose};
use crate::error::{Error, Result, Status};
use crate::session::is_out_of_reach;

use super::args::{some, string};
use super::model::ckpt_model;
use super::status::{self, ckpt_status, ckpt_status_arg, guard};

/// Where a fence stands.
#[repr(C)]
pub enum ckpt_fence_at {
    /// A save begins: what its tensors hold now is what it has to write.
    CKPT_FENCE_SAVE_BEGIN = 0,
    /// It has fetched all of them, or will fetch no more. Its file does not have its name yet.
    CKPT_FENCE_SAVE_END = 1,
    /// A load begins.
    CKPT_FENCE_LOAD_BEGIN = 2,
    /// It has put all of them, or will put no more.
    CKPT_FENCE_LOAD_END = 3,
}

/// Hears that the tensors of a model are in use, and that they no longer are: where what changes them is asynchronous
/// itself (a GPU's stream, a queue), it notes there what has to be done first, and what has to wait.
///
/// A BEGIN is called by the thread that makes the call (ckpt_save() of a save that is due, in whatever mode;
/// ckpt_model_save(); all loads), before any fetch or put function of the model. An END follows every BEGIN that returned
/// CKPT_OK, on whatever thread that is, before ckpt_wait_buffers() or the load returns. Several saves of one
/// model may be under way at once, in the background or in several sessions, each with its own BEGIN and END.
///
/// @return CKPT_OK; another status fails the save, which leaves the old file, or the load, with what
///         ckpt_set_last_error() said. Else as of ckpt_fetch_fn.
pub type ckpt_fence_fn =
    Option<unsafe extern "C" fn(at: ckpt_fence_at, user: *mut c_void) -> ckpt_status_arg>;

/// Has a fence stand around every save and load of the model from now on. Of several, those that came first begin first and
/// end last; what one of them refuses is over for all of them.
///
/// In a process that is ending none is called in the background any more.
///
/// @param fence  not NULL
/// @param user   what the function gets; as in ckpt_model_add_source()
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_add_fence(
    model: Option<&mut ckpt_model>,
    fence: ckpt_fence_fn,
    user: *mut c_void,
) -> ckpt_status {
    guard("ckpt_model_add_fence", || {
        let model = &mut some(model, "model")?.model;
        let function = some(fence, "fence")?;
        model.add_fence(Arc::new(Function { function, user }))
    })
}

/// A fence of the caller's.
struct Function {
    function: unsafe extern "C" fn(ckpt_fence_at, *mut c_void) -> ckpt_status_arg,
    user: *mut c_void,
}

// SAFETY: `user` goes to the caller's function alone, which may be called from any thread, by the header's contract.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    fn call(&self, at: ckpt_fence_at, when: &str) -> Result<()> {
        if is_out_of_reach() {
            return Ok(());
        }
        status::answered(
            // SAFETY: the function and its pointer are those that the caller gave to be called with each other, and alive,
            // by the header's contract.
            || unsafe { (self.function)(at, self.user) },
            || format!("a fence function, called at the {when},"),
        )
    }
}

impl Fence for Function {
    fn begin(&self, purpose: Purpose) -> Result<()> {
        match purpose {
            Purpose::Save => self.call(ckpt_fence_at::CKPT_FENCE_SAVE_BEGIN, "beginning of the save"),
            Purpose::Load => self.call(ckpt_fence_at::CKPT_FENCE_LOAD_BEGIN, "beginning of the load"),
        }
    }

    fn end(&self, purpose: Purpose) -> Result<()> {
        match purpose {
            Purpose::Save => self.call(ckpt_fence_at::CKPT_FENCE_SAVE_END, "end of the save"),
            Purpose::Load => self.call(ckpt_fence_at::CKPT_FENCE_LOAD_END, "end of the load"),
        }
    }
}

/// Ends what was handed over: from any thread, without a lock of the library's; it must not throw, longjmp, or call the
/// library.
pub type ckpt_release_fn = Option<unsafe extern "C" fn(user: *mut c_void)>;

/// Hands something over to a model: what the `user` of its sources and fences points to, for example. It is released, once,
/// when the model has been freed and no save of it is under way in the background any more; on whatever thread that is,
/// and before ckpt_wait_buffers() returns. Not called in the background of a process that is ending. Nothing has changed
/// after a failure, and nothing is released.
///
/// @param key_or_null  UTF-8, copied: a name by which ckpt_model_owned() finds it, unique in the model
///                     (CKPT_E_INVALID_ARGUMENT); NULL: nobody has to
/// @param release      not NULL
/// @param user         what the function gets
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_own(
    model: Option<&mut ckpt_model>,
    key_or_null: *const c_char,
    release: ckpt_release_fn,
    user: *mut c_void,
) -> ckpt_status {
    guard("ckpt_model_own", || {
        let model = &mut some(model, "model")?.model;
        // SAFETY: NULL or a string, by the header's contract.
        let key = (!key_or_null.is_null()).then(|| unsafe { string(key_or_null, "key_or_null") });
        let (key, release) = (key.transpose()?, some(release, "release")?);
        model.own(key, || Arc::new(Owned { release, user }))
    })
}

/// Finds what was handed over to a model under a key; CKPT_E_NOT_FOUND where nothing was.
///
/// @param key  UTF-8
/// @param out  not NULL; receives the `user` of ckpt_model_own(); untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_model_owned(
    model: Option<&ckpt_model>,
    key: *const c_char,
    out: Option<&mut MaybeUninit<*mut c_void>>,
) -> ckpt_status {
    guard("ckpt_model_owned", || {
        let model = &some(model, "model")?.model;
        // SAFETY: NULL or a string, by the header's contract.
        let key = unsafe { string(key, "key") }?;
        let out = some(out, "out")?;
        let owned = model.owned(key).and_then(|owned| owned.downcast_ref::<Owned>()).ok_or_else(|| {
            Error::new(
                Status::NotFound,
                format!("the model owns nothing as '{key}': ckpt_model_own() it first"),
            )
        })?;
        out.write(owned.user);
        Ok(())
    })
}

/// Something of the caller's that a model has.
struct Owned {
    release: unsafe extern "C" fn(*mut c_void),
    user: *mut c_void,
}

// SAFETY: `user` goes to the caller's functions alone, which may be called from any thread, by the header's contract.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        if !is_out_of_reach() {
            // SAFETY: the caller gave both to be called with each other, once, by the header's contract.
            unsafe { (self.release)(self.user) }
        }
    }
}
