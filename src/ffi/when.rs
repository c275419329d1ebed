//! `ckpt_options`: when to save, beyond what Keras knows; and the end of the training.

use std::ffi::c_int;

use crate::error::Result;
use crate::policy::OnNan;
use crate::session;

use super::args::{self, invalid};
use super::model::ckpt_model;
use super::options::{ckpt_options, set};
use super::session::{ckpt, open};
use super::status::{answer, ckpt_status, guard};

/// What becomes of a save that comes up where the monitored value is NaN.
#[repr(C)]
pub enum ckpt_on_nan {
    /// It is not made.
    CKPT_ON_NAN_SKIP = 0,
    /// It is made under another name.
    CKPT_ON_NAN_ASIDE = 1,
    /// It is made as Keras makes it.
    CKPT_ON_NAN_KERAS = 2,
}

/// What becomes of NaN as a caller hands it in: any number.
pub type ckpt_on_nan_arg = c_int;

/// Value of save_freq: neither by batches nor at the end of epochs. What makes a save due then is
/// ckpt_options_set_save_every_secs(), _save_on_signal(), _overhead_budget() or _mtbf().
pub const CKPT_SAVE_FREQ_NEVER: u64 = u64::MAX;

/// Makes a save due by the clock, besides those by save_freq: at the first batch end or epoch end at which `secs` seconds
/// have passed since the last save was due by any rule, or since ckpt_new() or ckpt_resume(). By default none is.
///
/// What holds for this and for ckpt_options_set_save_on_signal(), _overhead_budget() and _mtbf():
///
/// - "batch" becomes a key of the file path. At the end of an epoch it is the last batch that ckpt_on_train_batch_end() was
///   called with.
/// - With save_best_only, such a save is made as every other where the logs of the event have the monitored metric (at the
///   end of a batch they mostly have no val_loss) and it is better than ever. Else it must not take the best one's
///   place: it goes to the stable name of ckpt_options_set_save_last(), and is no candidate for the best. So does one whose
///   path needs a metric that the logs do not have.
/// - Without save_last these are not made, which is logged once (CKPT_LOG_WARN): they stay due, event after event, until
///   the event's metrics make them possible.
/// - ckpt_resume() goes on with all that, but for the clock, which begins anew.
///
/// @param secs  above 0, by a clock that nobody can set
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_save_every_secs(
    options: Option<&mut ckpt_options>,
    secs: f64,
) -> ckpt_status {
    set("ckpt_options_set_save_every_secs", options, |o| {
        o.policy.save_every_secs = Some(span(secs, "secs")?);
        Ok(())
    })
}

/// Makes a save due when a signal comes (SIGTERM of a scheduler that takes the machine away, SIGUSR1 of a user): at the
/// next end of a batch or an epoch, once. May be called again for other signals. See ckpt_options_set_save_every_secs()
/// for where the save goes, and ckpt_preempted().
///
/// ckpt_new() sets a handler (SA_RESTART, SA_ONSTACK) that only counts, and then calls the handler that it found, with
/// the mask and the flags of that, but for SA_RESETHAND and SA_NODEFER. What had been ignored or left to the system
/// (SIGTERM ends a program) is neither now: ending it, after the save, is the trainer's. Several sessions may listen to
/// one signal. ckpt_free() of the last one puts back what was there before, unless another handler has been set since;
/// such a one has to call the one that it finds if the session, and those that come after it, are to go on listening. In
/// a child that is forked and has no session of its own for the signal, the handler does what had been done before.
///
/// @param signum  a signal that a program can catch and go on from: others (SIGKILL, SIGSTOP, SIGSEGV, SIGABRT, ...) are
///                CKPT_E_INVALID_ARGUMENT
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_save_on_signal(
    options: Option<&mut ckpt_options>,
    signum: c_int,
) -> ckpt_status {
    set("ckpt_options_set_save_on_signal", options, |o| {
        session::check_signal(signum)?;
        if !o.policy.signals.contains(&signum) {
            o.policy.signals.push(signum);
        }
        Ok(())
    })
}

/// Whether one of the session's signals has come since ckpt_new(): true from its arrival on, also after the save. false
/// for NULL. Takes no lock and may be called in a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_preempted(session: Option<&ckpt>) -> bool {
    answer(false, || session.is_some_and(|s| s.session.is_preempted()))
}

/// Makes saves due as often as a part of the training's time pays for, 0.02 for one fiftieth. By default none is.
///
/// What a save costs is measured: the seconds that ckpt_save() keeps its caller, and those by which the batches beside the
/// save are slower than the others, on average. The next one is due when it costs no more than that part of the time that
/// was spent since the last one was due, stalls left out; not while a save of the session is being made. The first is due
/// at the first end of a batch, to be measured; after ckpt_resume() the cost is known. See
/// ckpt_options_set_save_every_secs() for where the saves go.
///
/// @param fraction  above 0, at most 1
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_overhead_budget(
    options: Option<&mut ckpt_options>,
    fraction: f64,
) -> ckpt_status {
    set("ckpt_options_set_overhead_budget", options, |o| {
        if !(fraction > 0.0 && fraction <= 1.0) {
            return Err(invalid(format!("fraction is {fraction}: expected a number above 0, at most 1")));
        }
        o.policy.overhead_budget = Some(fraction);
        Ok(())
    })
}

/// Makes saves due as often as loses the least time, to saves and to what has to be done again after a failure: by Young's
/// and Daly's optimum, from the mean time between failures and the cost of a save, which is measured as
/// ckpt_options_set_overhead_budget() says. With both, the longer of the two intervals counts. By default none is.
///
/// @param secs  the mean time between failures in seconds, above 0
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_mtbf(options: Option<&mut ckpt_options>, secs: f64) -> ckpt_status {
    set("ckpt_options_set_mtbf", options, |o| {
        o.policy.mtbf = Some(span(secs, "secs")?);
        Ok(())
    })
}

/// Sets what becomes of a save where the monitored value is NaN; CKPT_ON_NAN_SKIP by default.
///
/// - CKPT_ON_NAN_SKIP: it is not made, and NaN is never the best. Without save_best_only a line says so (CKPT_LOG_WARN).
/// - CKPT_ON_NAN_ASIDE: it is made with ".nan" before the ending of its path ("m.nan.weights.h5"), also under
///   save_best_only. It is never the best, no keep_* rule counts or removes it, and ckpt_resume() does not take it.
/// - CKPT_ON_NAN_KERAS: it is made as any other. Under save_best_only a first NaN becomes the best, and no value is better.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_on_nan(
    options: Option<&mut ckpt_options>,
    on_nan: ckpt_on_nan_arg,
) -> ckpt_status {
    set("ckpt_options_set_on_nan", options, |o| {
        o.policy.on_nan = args::choice(on_nan, &[OnNan::Skip, OnNan::Aside, OnNan::Keras], "on_nan")?;
        Ok(())
    })
}

/// Sets whether ckpt_on_train_end() loads the best checkpoint into the model, as restore_best_weights of Keras'
/// EarlyStopping does; false by default.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_restore_best(
    options: Option<&mut ckpt_options>,
    restore_best: bool,
) -> ckpt_status {
    set("ckpt_options_set_restore_best", options, |o| {
        o.restore_best = restore_best;
        Ok(())
    })
}

/// The training has ended: waits for all saves, and tells of a failure as ckpt_wait() does. Then, with restore_best, loads
/// the file of ckpt_best_path() into the model, as ckpt_load_best() does; where there is none, a line says so
/// (CKPT_LOG_WARN), and the model stays as it is. After a failure of a save nothing has been loaded: call it again.
///
/// Like every event, it forgets a save that was due and not made. CKPT_E_STATE as ckpt_wait() has it.
///
/// @param model_or_null  its tensors are written with restore_best, where NULL is CKPT_E_INVALID_ARGUMENT; else unused
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_on_train_end(
    session: *mut ckpt,
    model_or_null: Option<&mut ckpt_model>,
) -> ckpt_status {
    guard("ckpt_on_train_end", || {
        // SAFETY: NULL or from ckpt_new and not freed, by the header's contract.
        let session = &unsafe { open(session) }?.session;
        session.on_train_end(model_or_null.map(|model| &mut model.model))
    })
}

/// A number of seconds.
fn span(secs: f64, argument: &str) -> Result<f64> {
    match secs > 0.0 && secs.is_finite() {
        true => Ok(secs),
        false => Err(invalid(format!("{argument} is {secs}: expected a number of seconds above 0"))),
    }
}
