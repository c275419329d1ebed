//! `ckpt_options`: the arguments of Keras' ModelCheckpoint, and more.

use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;

use crate::engine::Recycle;
use crate::error::Result;
use crate::policy::Mode;
use crate::session::{Level, Lock, Log, Options};

use super::args::{self, free_handle, into_handle, invalid, some, string};
use super::status::{ckpt_status, guard};

/// The options of a session. By one thread at a time; ckpt_new() copies them.
pub struct ckpt_options {
    pub(super) options: Options,
}

/// What counts as better. Enum arguments enter as plain integers; a number that is none of them is refused.
#[repr(C)]
pub enum ckpt_mode {
    /// By the metric's name: max for names that contain "acc", begin with "fmeasure", or that Keras maximizes
    /// (auc, precision, recall, ...), with or without "val_"; min for the rest.
    CKPT_MODE_AUTO = 0,
    /// Smaller is better.
    CKPT_MODE_MIN = 1,
    /// Larger is better.
    CKPT_MODE_MAX = 2,
}

/// How much a log line matters.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum ckpt_log_level {
    /// Something failed that no call reports.
    CKPT_LOG_ERROR = 0,
    /// Something is not as expected, and was dealt with.
    CKPT_LOG_WARN = 1,
    /// What was done: Keras' lines under verbose 1 are of this level.
    CKPT_LOG_INFO = 2,
    /// How it was done.
    CKPT_LOG_DEBUG = 3,
}

/// What becomes of a session whose file path another process uses.
#[repr(C)]
pub enum ckpt_lock {
    /// ckpt_new() fails with CKPT_E_STATE.
    CKPT_LOCK_FAIL = 0,
    /// ckpt_new() waits for the end of the other session.
    CKPT_LOCK_WAIT = 1,
    /// Nobody is looked for: two sessions that save to the same paths undo each other's work.
    CKPT_LOCK_OFF = 2,
}

/// A mode as a caller hands it in: any number.
pub type ckpt_mode_arg = c_int;
/// A lock as a caller hands it in: any number.
pub type ckpt_lock_arg = c_int;
/// Receives log lines: UTF-8 without a newline at either end, valid during the call. May be called from any thread
/// that is in a call on the session, and from the one that makes its saves in the background; one line at a time, and not
/// while a progress function of the same options is called. It may call into the library, but must not throw, longjmp or
/// free its session; what waits for a save in the background (ckpt_save(), ckpt_wait(), ckpt_wait_buffers()) is
/// CKPT_E_STATE in it.
pub type ckpt_log_fn =
    Option<unsafe extern "C" fn(level: ckpt_log_level, message: *const c_char, user: *mut c_void)>;

/// Value of save_freq: at the end of every epoch.
pub const CKPT_SAVE_FREQ_EPOCH: u64 = 0;

/// Makes options with Keras' defaults; *out is to be freed with ckpt_options_free().
///
/// @param out  not NULL; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_new(out: Option<&mut MaybeUninit<*mut ckpt_options>>) -> ckpt_status {
    guard("ckpt_options_new", || {
        some(out, "out")?.write(into_handle(ckpt_options { options: Options::default() }));
        Ok(())
    })
}

/// Frees options; NULL is fine. Sessions made from them go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_options_free(options: *mut ckpt_options) {
    // SAFETY: NULL or from ckpt_options_new, freed once, by the header's contract.
    unsafe { free_handle(options) }
}

/// Runs a setter on the options behind the pointer.
pub(super) fn set(
    function: &str,
    options: Option<&mut ckpt_options>,
    setter: impl FnOnce(&mut Options) -> Result<()>,
) -> ckpt_status {
    guard(function, || setter(&mut some(options, "options")?.options))
}

/// Sets the metric that decides what is best: a name in the logs, such as "val_loss", the default. UTF-8, not
/// empty; copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_options_set_monitor(
    options: Option<&mut ckpt_options>,
    metric: *const c_char,
) -> ckpt_status {
    set("ckpt_options_set_monitor", options, |o| {
        // SAFETY: NULL or a string, by the header's contract.
        let metric = unsafe { string(metric, "metric") }?;
        if metric.is_empty() {
            return Err(invalid("metric is empty: expected a name in the logs, such as \"val_loss\""));
        }
        o.policy.monitor = metric.to_owned();
        Ok(())
    })
}

/// Sets what counts as better; CKPT_MODE_AUTO by default.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_mode(
    options: Option<&mut ckpt_options>,
    mode: ckpt_mode_arg,
) -> ckpt_status {
    set("ckpt_options_set_mode", options, |o| {
        o.policy.mode = args::choice(mode, &[Mode::Auto, Mode::Min, Mode::Max], "mode")?;
        Ok(())
    })
}

/// Saves only when the monitored metric is better than ever before; false by default. Where the logs lack the
/// metric, a warning is logged and the save is due, as in Keras.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_save_best_only(
    options: Option<&mut ckpt_options>,
    save_best_only: bool,
) -> ckpt_status {
    set("ckpt_options_set_save_best_only", options, |o| {
        o.policy.save_best_only = save_best_only;
        Ok(())
    })
}

/// Saves the weights alone; false by default. The file path then ends in ".weights.h5", ".weights.json" or
/// ".safetensors", else in ".keras" or ".h5".
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_save_weights_only(
    options: Option<&mut ckpt_options>,
    save_weights_only: bool,
) -> ckpt_status {
    set("ckpt_options_set_save_weights_only", options, |o| {
        o.policy.save_weights_only = save_weights_only;
        Ok(())
    })
}

/// Sets when a save comes up: CKPT_SAVE_FREQ_EPOCH (0, the default) for the end of each epoch, n for every n
/// batches, counted across epochs as Keras counts them, CKPT_SAVE_FREQ_NEVER for neither.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_save_freq(
    options: Option<&mut ckpt_options>,
    batches: u64,
) -> ckpt_status {
    set("ckpt_options_set_save_freq", options, |o| {
        o.policy.save_freq = batches;
        Ok(())
    })
}

/// Sets the best value to beat from the start; none by default. NaN is refused.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_initial_value_threshold(
    options: Option<&mut ckpt_options>,
    threshold: f64,
) -> ckpt_status {
    set("ckpt_options_set_initial_value_threshold", options, |o| {
        if threshold.is_nan() {
            return Err(invalid("threshold is NaN, which nothing is better than"));
        }
        o.policy.initial_value_threshold = Some(threshold);
        Ok(())
    })
}

/// Sets by how much a value has to be better than the best to count as an improvement; 0 by default. In the
/// metric's units; its sign does not matter, as in Keras' MonitorCallback. NaN and infinities are refused.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_min_delta(
    options: Option<&mut ckpt_options>,
    min_delta: f64,
) -> ckpt_status {
    set("ckpt_options_set_min_delta", options, |o| {
        if !min_delta.is_finite() {
            return Err(invalid(format!("min_delta is {min_delta}: expected a finite number")));
        }
        o.policy.min_delta = min_delta.abs();
        Ok(())
    })
}

/// 1 logs what Keras prints under verbose=1, in the same words; 0, the default, is silent.
///
/// The lines go to the log function where one is set, else to standard output (warnings to standard error).
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_verbose(
    options: Option<&mut ckpt_options>,
    verbose: c_int,
) -> ckpt_status {
    set("ckpt_options_set_verbose", options, |o| {
        o.policy.verbose = args::choice(verbose, &[false, true], "verbose")?;
        Ok(())
    })
}

/// Sets the function that receives log lines, and what it gets as `user`; NULL takes it away.
///
/// `user` has to live as long as every session made from these options.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_log(
    options: Option<&mut ckpt_options>,
    log: ckpt_log_fn,
    user: *mut c_void,
) -> ckpt_status {
    set("ckpt_options_set_log", options, |o| {
        o.log = match log {
            Some(function) => Log::new(sink(function, user)),
            None => Log::default(),
        };
        Ok(())
    })
}

/// The caller's pointer, which goes back to the caller's function only.
pub(super) struct User(pub *mut c_void);
// SAFETY: the header asks of the caller that the function may be called with it from any thread.
unsafe impl Send for User {}
// SAFETY: as above; calls come one at a time.
unsafe impl Sync for User {}

fn sink(
    function: unsafe extern "C" fn(ckpt_log_level, *const c_char, *mut c_void),
    user: *mut c_void,
) -> impl Fn(Level, &str) + Send + Sync {
    let user = User(user);
    move |level, text| {
        let user = &user;
        let level = match level {
            Level::Error => ckpt_log_level::CKPT_LOG_ERROR,
            Level::Warn => ckpt_log_level::CKPT_LOG_WARN,
            Level::Info => ckpt_log_level::CKPT_LOG_INFO,
            Level::Debug => ckpt_log_level::CKPT_LOG_DEBUG,
        };
        let text = CString::new(text.replace('\0', "\\0")).unwrap_or_default();
        // SAFETY: the caller gave this function and pointer to be called with each other.
        unsafe { function(level, text.as_ptr(), user.0) }
    }
}

/// Sets the most bytes of tensors in one file, where a checkpoint is made of several (".weights.json"); 5 GiB by
/// default. A tensor that is larger has a file of its own. 0 is refused.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_max_shard_bytes(
    options: Option<&mut ckpt_options>,
    bytes: u64,
) -> ckpt_status {
    set("ckpt_options_set_max_shard_bytes", options, |o| {
        if bytes == 0 {
            return Err(invalid("bytes is 0: expected the most bytes of tensors that a file may hold"));
        }
        o.max_shard_bytes = bytes;
        Ok(())
    })
}

/// Sets whether a file that is no longer kept (by the keep_* rules, or because a save replaces it) becomes the next
/// temporary file: its blocks are allocated already, so that a save takes about half the time. It costs the space of
/// one checkpoint while the session lives; the spare files begin with ".ckpt-tmp" and go with ckpt_free().
///
/// Not called: where files have at least 1 MiB, and what is free on the disk is at least 4 checkpoints and 10 % of the
/// file system. Only files that this session wrote are taken, on ext4, XFS, F2FS and tmpfs,
/// in the directory of the newest save, and only those that nobody on this host has open, mapped or linked; others are
/// removed, and what is in them stays as it was. Turn it off where other hosts read the directory through NFS version
/// 3: its readers hold no file open on this host.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_recycle(options: Option<&mut ckpt_options>, on: bool) -> ckpt_status {
    set("ckpt_options_set_recycle", options, |o| {
        o.recycle = if on { Recycle::On } else { Recycle::Off };
        Ok(())
    })
}

/// Sets what becomes of a session whose file path another process uses; CKPT_LOCK_FAIL by default.
///
/// While a session lives its process holds a lock file, ".ckpt-lock-<number>", in the directory that all paths of the
/// template have in common. The template is the same where that directory is, whichever path leads to it, and the text
/// that follows is. Sessions of one process may share a template, but each counts its own saves: which of theirs is the
/// newest, ckpt_resume() cannot tell. Where the directory is not there yet, the first save or ckpt_prepare() takes the
/// lock: what ckpt_new() would have done, they do then, CKPT_E_STATE or the wait, which ckpt_cancel() ends; what another
/// process has saved there by then does not count. (Where two may begin at once, make the directory first.) The lock
/// file goes with the last session of the process; a process that was killed leaves the file, but not the lock, also
/// where a child that it had forked lives on. A child that goes on with its parent's session needs no lock of its own
/// while the parent has it.
///
/// Where the file cannot be made (a directory that is read-only, a file system without flock()) a line is logged
/// (CKPT_LOG_WARN), and the session goes on without.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_lock(
    options: Option<&mut ckpt_options>,
    kind: ckpt_lock_arg,
) -> ckpt_status {
    set("ckpt_options_set_lock", options, |o| {
        o.lock = args::choice(kind, &[Lock::Fail, Lock::Wait, Lock::Off], "kind")?;
        Ok(())
    })
}
