//! LZF, h5py's fast compression: runs of literals, and references to what came before.

use crate::error::{Error, Result};
use crate::reader::source::damaged;

/// Three bytes can stand for 264.
pub(super) const RATIO: u64 = 88;

/// Unpacks `src` into `dst`, which it must not exceed; returns how many bytes there are.
pub(super) fn undo(mut src: &[u8], dst: &mut [u8]) -> Result<usize> {
    let mut at = 0;
    while let [control, rest @ ..] = src {
        src = rest;
        let control = usize::from(*control);
        if control < 32 {
            let literals = src.split_at_checked(control + 1).ok_or_else(cut_off)?;
            let room = dst.get_mut(at..at + control + 1).ok_or_else(too_long)?;
            room.copy_from_slice(literals.0);
            (src, at) = (literals.1, at + control + 1);
            continue;
        }
        let mut len = (control >> 5) + 2;
        if len == 9 {
            let [more, rest @ ..] = src else { return Err(cut_off()) };
            (src, len) = (rest, len + usize::from(*more));
        }
        let [low, rest @ ..] = src else { return Err(cut_off()) };
        src = rest;
        let back = ((control & 31) << 8 | usize::from(*low)) + 1;
        let from =
            at.checked_sub(back).ok_or_else(|| damaged("a chunk of it refers to what is before it"))?;
        if at + len > dst.len() {
            return Err(too_long());
        }
        // Where the two overlap, what is copied repeats.
        if back >= len {
            dst.copy_within(from..from + len, at);
        } else {
            for i in 0..len {
                dst[at + i] = dst[from + i];
            }
        }
        at += len;
    }
    Ok(at)
}

fn cut_off() -> Error {
    damaged("a chunk of it is cut off")
}

fn too_long() -> Error {
    damaged("a chunk of it unpacks to more bytes than a chunk has")
}
