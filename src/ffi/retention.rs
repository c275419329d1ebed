//! `ckpt_options`: which checkpoints stay, and the stable name of the newest.

use std::ffi::c_char;

use super::args::{invalid, string};
use super::options::{ckpt_options, set};
use super::status::ckpt_status;

/// Keeps the last n saves; 0, the default, turns this rule off.
///
/// With every keep_* rule off all files are kept. Else, after each save that is durable, a file stays if one of the rules
/// keeps it. The newest and the best (of equals, the older) always stay, and so does every file that this session neither
/// wrote nor took over by resuming, or that somebody has replaced since. Each removal is logged (CKPT_LOG_DEBUG) with the
/// reason. With CKPT_DURABILITY_NONE nothing is ever known to be on the disk: older files go all the same, and after a loss
/// of power the ones that stayed may be damaged; what is promised there holds for a crash of the process alone.
///
/// Where a save finds no room on the disk, the files that go after it anyway go before it instead, one at a time, if that
/// makes enough room; but the newest and the best so far stay until it is durable. If it does not, the save is
/// CKPT_E_NO_SPACE, and nothing has been touched.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_keep_last(options: Option<&mut ckpt_options>, n: u64) -> ckpt_status {
    set("ckpt_options_set_keep_last", options, |o| {
        o.policy.keep_last = n;
        Ok(())
    })
}

/// Keeps the k best saves by the monitored metric (of equals, the older); 0, the default, turns this rule off.
/// See ckpt_options_set_keep_last().
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_keep_best(options: Option<&mut ckpt_options>, k: u64) -> ckpt_status {
    set("ckpt_options_set_keep_best", options, |o| {
        o.policy.keep_best = k;
        Ok(())
    })
}

/// Keeps the saves of every n-th epoch, counted from 1; 0, the default, turns this rule off. See
/// ckpt_options_set_keep_last().
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_keep_every(
    options: Option<&mut ckpt_options>,
    epochs: u64,
) -> ckpt_status {
    set("ckpt_options_set_keep_every", options, |o| {
        o.policy.keep_every = epochs;
        Ok(())
    })
}

/// Keeps the run's first save, and each that was begun at least `secs` seconds after the last one that this rule keeps, by
/// the system's clock (where that is set back, it begins anew); 0, the default, turns this rule off. See
/// ckpt_options_set_keep_last().
///
/// Negative numbers, NaN and infinities are refused.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_options_set_keep_every_secs(
    options: Option<&mut ckpt_options>,
    secs: f64,
) -> ckpt_status {
    set("ckpt_options_set_keep_every_secs", options, |o| {
        if !secs.is_finite() || secs < 0.0 {
            return Err(invalid(format!("secs is {secs}: expected seconds, 0 to turn the rule off")));
        }
        o.policy.keep_every_secs = secs;
        Ok(())
    })
}

/// Sets a stable name for the newest save: after each one that is durable, `path` is a hard link to its file. Where there
/// are no hard links, or none to there (another file system), it is a copy: a save takes up to twice as long then, and the
/// space of one more checkpoint. NULL, the default, takes it away.
///
/// The name changes at once and durably: it always is a whole checkpoint, the newest or, while that is being put there,
/// the one before. What was there before the first save is replaced, be it a symbolic link. No keep_* rule removes it. If it
/// cannot be set, that is no failure of the save: a warning is logged, the name stays with the earlier one, and the next
/// save tries again.
///
/// It is also where saves go that would take the best one's place, or have no path: see
/// ckpt_options_set_save_every_secs(). Saves aside (CKPT_ON_NAN_ASIDE) do not get the name.
///
/// UTF-8, copied. A relative path is taken from the current directory of ckpt_new(); directories that are missing are made.
/// ckpt_new() refuses a path with another ending than the template's or one that the template could write
/// (CKPT_E_INVALID_ARGUMENT), and, for ".weights.json", one in another directory (CKPT_E_UNSUPPORTED): the shards are those
/// of the newest index, and stay as long as the name needs them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_options_set_save_last(
    options: Option<&mut ckpt_options>,
    path: *const c_char,
) -> ckpt_status {
    set("ckpt_options_set_save_last", options, |o| {
        if path.is_null() {
            o.policy.save_last = None;
            return Ok(());
        }
        // SAFETY: not NULL, so a string by the header's contract.
        let path = unsafe { string(path, "path") }?;
        if path.is_empty() {
            return Err(invalid("path is empty: expected the stable name of the newest save, or NULL"));
        }
        o.policy.save_last = Some(path.to_owned());
        Ok(())
    })
}
