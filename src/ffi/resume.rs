//! `ckpt_resume`: the way back into a training, and the trainer's own state.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use super::args::{self, some, string};
use super::model::ckpt_model;
use super::session::{ckpt, keep, open};
use super::status::{ckpt_status, guard};

/// Where a training goes on.
#[repr(C)]
pub struct ckpt_resume_info {
    /// The epoch to be run next, from 0.
    pub epoch: u64,
    /// The batch to be run next in it, from 0: not 0 only after a save that was made within an epoch.
    pub batch: u64,
    /// Whether there is a value to beat.
    pub has_best: bool,
    /// The value to beat, as ckpt_best() has it; 0 where there is none.
    pub best: f64,
    /// The checkpoint, as ckpt_path() had it, or the stable name; valid until the session's next ckpt_resume() or ckpt_free().
    pub path: *const c_char,
}

/// Resumes a training: loads the newest whole checkpoint that the template could have written into the model, and goes
/// on as the session that saved it. To be called before the first epoch; waits for saves that are being made, and tells
/// of a failure as ckpt_wait() does.
///
/// The newest is the one with the largest save counter inside; names, epochs and times do not count. What has the stable
/// name of ckpt_options_set_save_last() is one of them, where it is of the same training or template. One that is damaged
/// is passed over with a warning in the log, and the next is taken; the tensors that are loaded are compared with
/// their checksums. Then:
///
/// - the policy is what it was after that save: the best value, the batches since the last save, the epoch. The decisions
///   that follow are those of a training that was not interrupted;
/// - the checkpoints of the same training that stand are the session's own: the keep_* rules count them, and what they
///   would have removed by then goes; ckpt_best_path() knows them. Files of other trainings stay;
/// - what ckpt_set_state() had set at that save is back.
///
/// A file of Keras' has nothing of that: its values are loaded, and the policy is that of a new session.
///
/// CKPT_E_NOT_FOUND where there is no checkpoint, and nothing has changed: so a first run begins. CKPT_E_FORMAT where none
/// is whole; CKPT_E_MISMATCH where the newest does not fit the model (then its tensors are untouched). After other errors
/// the model may hold anything, and the session is as it was. CKPT_E_STATE as ckpt_wait() has it.
///
/// @param session  any thread may call; one that saves at the same time gets what it gets
/// @param model    its tensors are written; as for ckpt_reader_load()
/// @param out      not NULL; untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_resume(
    session: *mut ckpt,
    model: Option<&mut ckpt_model>,
    out: Option<&mut MaybeUninit<ckpt_resume_info>>,
) -> ckpt_status {
    guard("ckpt_resume", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        let session = unsafe { open(session) }?;
        let model = &mut some(model, "model")?.model;
        let out = some(out, "out")?;
        let resumed = session.session.resume(model)?;
        session.states.lock().clear();
        out.write(ckpt_resume_info {
            epoch: resumed.epoch,
            batch: resumed.batch,
            has_best: resumed.best.is_some(),
            best: resumed.best.unwrap_or_default(),
            path: keep(&session.resumed, resumed.path)?,
        });
        Ok(())
    })
}

/// Sets bytes of the trainer's own, any number of them: the state of its random numbers, the data's position, a
/// learning-rate schedule. Every save that is begun from now on has them, committed with the tensors; ckpt_resume() brings
/// them back. In a .safetensors file they are tensors of uint8 called "libckpt/data/KEY", which other programs see.
///
/// A new size has the next save compute the model's layout anew; new bytes of the same size cost their copy.
///
/// @param key    UTF-8, 1 to 1024 bytes; what was set under it is replaced
/// @param bytes  copied before the call returns; may be NULL if n is 0
/// @param n      bytes; none are a state, too
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_set_state(
    session: *mut ckpt,
    key: *const c_char,
    bytes: *const c_void,
    n: usize,
) -> ckpt_status {
    guard("ckpt_set_state", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        let session = unsafe { open(session) }?;
        // SAFETY: NULL or a string, by the header's contract.
        let key = unsafe { string(key, "key") }?;
        // SAFETY: NULL or `n` bytes, by the header's contract.
        let bytes = unsafe { args::slice(bytes.cast::<u8>(), n, "bytes") }?;
        session.session.set_state(key, bytes)
    })
}

/// The bytes that ckpt_set_state() set under a key, or, after ckpt_resume(), those in the checkpoint. CKPT_E_NOT_FOUND
/// where there are none: the message lists the keys.
///
/// @param key    UTF-8
/// @param bytes  not NULL; *bytes is not NULL, valid until ckpt_resume(), ckpt_free() or, of the same key,
///               ckpt_set_state(); untouched on failure
/// @param n      not NULL; how many; untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_get_state(
    session: Option<&ckpt>,
    key: *const c_char,
    bytes: Option<&mut MaybeUninit<*const c_void>>,
    n: Option<&mut MaybeUninit<usize>>,
) -> ckpt_status {
    guard("ckpt_get_state", || {
        let session = some(session, "session")?;
        // SAFETY: NULL or a string, by the header's contract.
        let key = unsafe { string(key, "key") }?;
        let (bytes, n) = (some(bytes, "bytes")?, some(n, "n")?);
        let found = session.session.state(key)?;
        bytes.write(ptr::from_ref(found.as_slice()).cast());
        n.write(found.len());
        // The caller's pointer is into it.
        session.states.lock().insert(key.to_owned(), found);
        Ok(())
    })
}
