//! `ckpt`: a checkpointing session.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result, Status};
use crate::policy::Logs;
use crate::session::{Options, Session};

use super::args::{self, free_handle, into_handle, invalid, some, string};
use super::model::ckpt_model;
use super::options::ckpt_options;
use super::status::{answer, ckpt_status, guard};

/// A checkpointing session: the policy, the writer, the state of one training. Any thread may use it; it locks
/// itself, and not while bytes move.
///
/// A fork leaves the thread of a session whose saves run in the background (ckpt_options_set_async()) in the parent,
/// where it goes on. In the child all functions of a session that has begun such a save are CKPT_E_STATE (those that
/// return no status: false, NULL), and ckpt_free() there neither waits nor touches the parent's files. A new session of
/// the child's own works.
pub struct ckpt {
    pub(super) session: Session,
    /// The last answers of ckpt_path(), ckpt_best_path(), ckpt_resume() and, by their keys, ckpt_get_state(), kept for the
    /// caller.
    path: Mutex<Option<CString>>,
    best_path: Mutex<Option<CString>>,
    pub(super) resumed: Mutex<Option<CString>>,
    pub(super) states: Mutex<HashMap<String, Arc<Vec<u8>>>>,
}

/// A metric of the logs.
#[repr(C)]
pub struct ckpt_metric {
    /// Its name, UTF-8, such as "val_loss".
    pub name: *const c_char,
    /// Its value.
    pub value: f64,
}

/// What a save took.
#[repr(C)]
pub struct ckpt_stats {
    /// Bytes of the file.
    pub bytes: u64,
    /// Seconds that ckpt_save() kept its caller.
    pub stall_secs: f64,
    /// Seconds of copying buffers for a save in the background; 0 where they are not copied.
    pub copy_secs: f64,
    /// Seconds of writing.
    pub write_secs: f64,
    /// Seconds of flushing to the disk.
    pub sync_secs: f64,
}

/// The caller's logs, each name checked. Of two metrics of one name the later counts, as in a Python dict.
struct CallerLogs<'a>(&'a [ckpt_metric]);

impl<'a> CallerLogs<'a> {
    /// # Safety
    /// `logs` is NULL or points to `n` metrics whose names are NULL or strings, unchanged during the call.
    unsafe fn new(logs: *const ckpt_metric, n: usize) -> Result<CallerLogs<'a>> {
        // SAFETY: NULL or `n` metrics by this function's contract.
        let logs = unsafe { args::slice(logs, n, "logs") }?;
        for (i, metric) in logs.iter().enumerate() {
            if metric.name.is_null() {
                return Err(invalid(format!("logs[{i}].name is NULL")));
            }
            // SAFETY: not NULL, so a string by this function's contract.
            let name = unsafe { CStr::from_ptr(metric.name) };
            if name.to_str().is_err() {
                return Err(invalid(format!("logs[{i}].name is not UTF-8: {:?}", name.to_string_lossy())));
            }
        }
        Ok(CallerLogs(logs))
    }

    fn name(metric: &ckpt_metric) -> &str {
        // SAFETY: `new` saw that it is a string of UTF-8, and the caller changes nothing during the call.
        unsafe { std::str::from_utf8_unchecked(CStr::from_ptr(metric.name).to_bytes()) }
    }
}

impl Logs for CallerLogs<'_> {
    fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().rev().find(|m| CallerLogs::name(m) == name).map(|m| m.value)
    }

    fn for_each(&self, f: &mut dyn FnMut(&str, f64)) {
        for metric in self.0 {
            f(CallerLogs::name(metric), metric.value);
        }
    }
}

/// The session behind a pointer that C has as `ckpt *`, since the call changes its state; it locks itself.
///
/// # Safety
/// `session` is NULL or came from ckpt_new() and was not freed.
pub(super) unsafe fn open<'a>(session: *mut ckpt) -> Result<&'a ckpt> {
    // SAFETY: by this function's contract NULL or valid, and only ever shared.
    some(unsafe { session.as_ref() }, "session")
}

/// Opens a session; *out is to be freed with ckpt_free().
///
/// What a save that was cut off has left beside the template's files (".ckpt-tmp*" that no living process holds) is
/// removed.
///
/// One process at a time uses a template: CKPT_E_STATE where another one does, with a message that says which, unless
/// ckpt_options_set_lock() asks to wait, or not to care.
///
/// @param filepath         a Python format string, UTF-8, with the keys "epoch" and "batch" (both counted from 1 in
///                         names; "batch" where batches can make saves due) and every metric of the logs:
///                         "ckpt/{epoch:02d}-{val_loss:.3f}.keras". The whole format language of int, float and str
///                         works, digit for digit as CPython prints it; attributes and indices do not. A template that
///                         can never work is CKPT_E_TEMPLATE, and the message shows where. It ends in ".weights.h5",
///                         ".weights.json" or ".safetensors" with save_weights_only, else in ".keras" or ".h5": the one
///                         kind in place of the other is CKPT_E_INVALID_ARGUMENT, another ending CKPT_E_UNSUPPORTED.
/// @param options_or_null  copied; NULL for Keras' defaults
/// @param out              not NULL; untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_new(
    filepath: *const c_char,
    options_or_null: Option<&ckpt_options>,
    out: Option<&mut MaybeUninit<*mut ckpt>>,
) -> ckpt_status {
    guard("ckpt_new", || {
        // SAFETY: NULL or a string, by the header's contract.
        let filepath = unsafe { string(filepath, "filepath") }?;
        let out = some(out, "out")?;
        let options = options_or_null.map_or_else(Options::default, |o| o.options.clone());
        let session = Session::new(filepath, options)?;
        out.write(into_handle(ckpt {
            session,
            path: Mutex::default(),
            best_path: Mutex::default(),
            resumed: Mutex::default(),
            states: Mutex::default(),
        }));
        Ok(())
    })
}

/// Ends a session; NULL is fine. A save that was due and not made is forgotten.
///
/// Waits for the saves that are being made; with ckpt_cancel() before, not for long. A failure that no call has
/// reported is logged (CKPT_LOG_ERROR). With the last session of the process under this template its lock file goes. Not
/// to be called from a log, progress or fetch function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_free(session: *mut ckpt) {
    // SAFETY: NULL or from ckpt_new, freed once, by the header's contract.
    unsafe { free_handle(session) }
}

/// An epoch begins. Without this call the epoch is that of the last ckpt_on_epoch_end() plus one, 0 at first.
///
/// Like every event, it forgets a save that was due and not made.
///
/// @param epoch  counted from 0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_on_epoch_begin(session: *mut ckpt, epoch: u64) -> ckpt_status {
    guard("ckpt_on_epoch_begin", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        unsafe { open(session) }?.session.on_epoch_begin(epoch)
    })
}

/// A batch has ended: decides whether a save is due, where options.save_freq counts batches or there is one of the options
/// beside it (ckpt_options_set_save_every_secs() and those that it names). Without one due it takes well under a microsecond
/// and allocates nothing.
///
/// @param batch  its index in the epoch, counted from 0. It may step by more than 1; one that does not grow means a
///               new epoch.
/// @param logs   the metrics so far, n of them; NULL is fine where n is 0
///
/// CKPT_E_TEMPLATE where a save by save_freq came up and the file path needs a metric that the logs do not have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_on_train_batch_end(
    session: *mut ckpt,
    batch: u64,
    logs: *const ckpt_metric,
    n: usize,
) -> ckpt_status {
    guard("ckpt_on_train_batch_end", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        let session = &unsafe { open(session) }?.session;
        // SAFETY: NULL or `n` metrics with NULL or strings for names, by the header's contract.
        let logs = unsafe { CallerLogs::new(logs, n) }?;
        session.on_train_batch_end(batch, &logs)
    })
}

/// An epoch has ended: decides whether a save is due, where options.save_freq is CKPT_SAVE_FREQ_EPOCH or there is one of
/// the options beside it.
///
/// @param epoch  counted from 0
/// @param logs   the epoch's metrics, n of them; NULL is fine where n is 0
///
/// CKPT_E_TEMPLATE where the file path needs a metric that the logs do not have, even when nothing would be saved,
/// as in Keras; not where save_freq is another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_on_epoch_end(
    session: *mut ckpt,
    epoch: u64,
    logs: *const ckpt_metric,
    n: usize,
) -> ckpt_status {
    guard("ckpt_on_epoch_end", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        let session = &unsafe { open(session) }?.session;
        // SAFETY: NULL or `n` metrics with NULL or strings for names, by the header's contract.
        let logs = unsafe { CallerLogs::new(logs, n) }?;
        session.on_epoch_end(epoch, &logs)
    })
}

/// Did the last event make a save due that has not been made? false for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_should_save(session: Option<&ckpt>) -> bool {
    answer(false, || session.is_some_and(|s| s.session.should_save()))
}

/// Where the save that is due goes; NULL if none is due, and for NULL. Valid until the session's next event, save or
/// free.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_path(session: Option<&ckpt>) -> *const c_char {
    answer(ptr::null(), || {
        let Some(handle) = session else { return ptr::null() };
        match handle.session.due_path() {
            Some(path) => keep(&handle.path, path).unwrap_or(ptr::null()),
            None => ptr::null(),
        }
    })
}

/// Keeps an answer as a C string; one that has not changed keeps its address.
pub(super) fn keep(slot: &Mutex<Option<CString>>, text: String) -> Result<*const c_char> {
    let mut slot = slot.lock();
    if slot.as_ref().is_none_or(|old| old.as_bytes() != text.as_bytes()) {
        let text = CString::new(text).map_err(|e| {
            Error::new(Status::Internal, format!("a path has a NUL at byte {}", e.nul_position()))
        })?;
        *slot = Some(text);
    }
    Ok(slot.as_ref().map_or(ptr::null(), |text| text.as_ptr()))
}

/// Makes the save that is due: CKPT_E_STATE if none is. Whether it is made when this returns is up to
/// ckpt_options_set_async().
///
/// The file is written under a temporary name in the destination's directory, flushed, and renamed (then the
/// directory is flushed): at every instant, also after a crash, the destination is the whole old file or the whole
/// new one. Missing directories are made. After a failure the old file stands, what was best is still best, and the
/// save is still due until the next event: it may be tried again. No lock is held while bytes move; a second save
/// meanwhile, from another thread, is CKPT_E_STATE where saves are not made in the background.
///
/// Where they are:
///
/// - Each is handed to a thread of the session, which the first one begins. One is being made and one waits at most;
///   what becomes of a third is up to ckpt_options_set_backpressure(). Saves are made in the order of their events.
/// - A failure that comes later is told once, by the next ckpt_save(), ckpt_wait_buffers() or ckpt_wait(): status,
///   message, and ckpt_last_os_error() are those of the first failure that no call has told; others are logged
///   (CKPT_LOG_ERROR). A ckpt_save() that tells of it has not made its own save, which is still due. Events never tell
///   of it.
/// - The best is taken over now, and given back if the save fails.
/// - A relative path leads from the directory that the process is in now.
/// - The model may be changed or freed when this returns, with ckpt_model_set_data() too. Its buffers may change, move or
///   be freed with CKPT_ASYNC_COPY, not with CKPT_ASYNC_BORROW: see ckpt_wait_buffers().
/// - CKPT_E_STATE from a log, progress or fetch function, since a save may have to wait for that to return.
///
/// @param model  unchanged during the call, as are its buffers
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_save(session: *mut ckpt, model: Option<&ckpt_model>) -> ckpt_status {
    guard("ckpt_save", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        let session = &unsafe { open(session) }?.session;
        session.save(&some(model, "model")?.model)
    })
}

/// Returns when the buffers of all saves so far may change again, and be freed: with CKPT_ASYNC_BORROW, when they have
/// been written or need not be; else at once, but for saves that other threads are in.
///
/// Tells of the failure of an earlier save in the background, as ckpt_save() says; the buffers may change all the same.
/// CKPT_E_STATE, at once, from a log or progress function of a session whose saves are made in the background or that
/// has a progress function, and from a fetch function of one of its saves.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_wait_buffers(session: *mut ckpt) -> ckpt_status {
    guard("ckpt_wait_buffers", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        unsafe { open(session) }?.session.wait_buffers()
    })
}

/// Returns when all saves so far are durable, or have failed; several threads may wait.
///
/// Tells of the failure of an earlier save in the background, as ckpt_save() says, to one of the callers. CKPT_E_STATE
/// as ckpt_wait_buffers() has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_wait(session: *mut ckpt) -> ckpt_status {
    guard("ckpt_wait", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        unsafe { open(session) }?.session.wait()
    })
}

/// Ends the saves that are being made or wait, whichever thread is in them, as soon as can be: each has failed with
/// CKPT_E_CANCELLED, which is told as any failure is, with its destination as it was and no temporary file. One whose
/// file has its name already is made.
///
/// Does not wait; CKPT_OK where there is nothing to cancel. May be called from a log or progress function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_cancel(session: *mut ckpt) -> ckpt_status {
    guard("ckpt_cancel", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        unsafe { open(session) }?.session.cancel()
    })
}

/// The value to beat: the best monitored value among the saves so far, or the initial threshold. As Keras'
/// ModelCheckpoint, it is kept under save_best_only; CKPT_E_NOT_FOUND before the first. A save in the background counts
/// until it fails.
///
/// @param out  not NULL; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_best(session: Option<&ckpt>, out: Option<&mut MaybeUninit<f64>>) -> ckpt_status {
    guard("ckpt_best", || {
        let session = &some(session, "session")?.session;
        let out = some(out, "out")?;
        out.write(session.best()?);
        Ok(())
    })
}

/// The file of the best save that this session has made and that still stands, by the monitored metric; one in the
/// background counts from when it is durable. CKPT_E_NOT_FOUND before the first.
///
/// @param out  not NULL; *out is valid until the session's next save or free, or the next call of this; untouched on
///             failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_best_path(
    session: Option<&ckpt>,
    out: Option<&mut MaybeUninit<*const c_char>>,
) -> ckpt_status {
    guard("ckpt_best_path", || {
        let session = some(session, "session")?;
        let out = some(out, "out")?;
        out.write(keep(&session.best_path, session.session.best_path()?)?);
        Ok(())
    })
}

/// Loads the file of ckpt_best_path() into a model, as ckpt_reader_load() does; also while a save is being made in the
/// background. With CKPT_ASYNC_BORROW it waits first until all buffers may change, and is CKPT_E_STATE where
/// ckpt_wait_buffers() is; it tells of no earlier failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_load_best(session: *mut ckpt, model: Option<&mut ckpt_model>) -> ckpt_status {
    guard("ckpt_load_best", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        let session = &unsafe { open(session) }?.session;
        let model = &mut some(model, "model")?.model;
        session.load_best(model)
    })
}

/// Finds out before the first epoch what would otherwise fail after it: that the model can be saved under this
/// template (a .keras or .h5 file has its config), that its directory can be made and written to, and that a checkpoint
/// fits the space there is (CKPT_E_NO_SPACE; files that are kept to be written anew count as free, and those that go before
/// a save that finds no room: see ckpt_options_set_keep_last()). The model's layout is computed, and with CKPT_ASYNC_COPY the staging memory made, so that the first save is as fast as every other. Not
/// needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_prepare(session: *mut ckpt, model: Option<&ckpt_model>) -> ckpt_status {
    guard("ckpt_prepare", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        let session = &unsafe { open(session) }?.session;
        session.prepare(&some(model, "model")?.model)
    })
}

/// What the last save took that has been made; CKPT_E_NOT_FOUND before the first.
///
/// @param out  not NULL; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_last_stats(
    session: Option<&ckpt>,
    out: Option<&mut MaybeUninit<ckpt_stats>>,
) -> ckpt_status {
    guard("ckpt_last_stats", || {
        let session = &some(session, "session")?.session;
        let out = some(out, "out")?;
        let stats = session.last_stats()?;
        out.write(ckpt_stats {
            bytes: stats.bytes,
            stall_secs: stats.stall_secs,
            copy_secs: stats.copy_secs,
            write_secs: stats.write_secs,
            sync_secs: stats.sync_secs,
        });
        Ok(())
    })
}
