//! The checksum that this library writes over a file's metadata: damage to names, and to what says where things are.
#![forbid(unsafe_code)]

use super::index::MAX_JSON;
use super::safetensors::{self, Likeness};
use super::source::{Source, damaged};
use crate::error::Result;
use crate::layout::guard::{AT, Guard, InText, LEN, in_text};

/// Bytes that are looked at together.
const PIECE: u64 = 1 << 20;

/// Fails if one bit of the metadata has changed since this library wrote the file. Metadata that another program has
/// changed, or written, are let be.
pub(super) fn check(source: &Source) -> Result<()> {
    let mut head = [0; AT + LEN];
    if source.len() < head.len() as u64 {
        return Ok(());
    }
    source.read_at(0, &mut head)?;
    if let Some(guard) = head.get(AT..).and_then(Guard::from_bytes).filter(|guard| guard.len <= source.len())
    {
        return judge(guard, crc(source, guard.len)?);
    }
    let Some((start, _)) = head.split_first_chunk::<{ safetensors::HEAD }>() else { return Ok(()) };
    match safetensors::likeness(*start, source.len()) {
        Likeness::Sure => check_text(&source.read_vec(0, safetensors::header_end(*start))?),
        _ => Ok(()),
    }
}

/// As above, for a file that is text.
pub(super) fn check_index(source: &Source) -> Result<()> {
    check_text(&source.read_vec(0, source.len().min(MAX_JSON))?)
}

fn check_text(text: &[u8]) -> Result<()> {
    match in_text(text) {
        InText::None => Ok(()),
        InText::Marred => Err(damaged("a bit of its metadata is not as it was written: it is damaged")),
        InText::Guard(guard, crc) => judge(guard, crc),
    }
}

fn judge(guard: Guard, crc: u32) -> Result<()> {
    match guard.changed_bit(crc) {
        None => Ok(()),
        Some(bit) => Err(damaged(format!(
            "bit {} of byte {} of its metadata is not as it was written: it is damaged",
            bit % 8,
            bit / 8
        ))),
    }
}

/// The CRC-32 of the first `len` bytes, the guard's own counted as zeros.
fn crc(source: &Source, len: u64) -> Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    let mut at = 0;
    while at < len {
        let mut piece = source.read_vec(at, PIECE.min(len - at))?;
        if at == 0 {
            piece.get_mut(AT..AT + LEN).unwrap_or_default().fill(0);
        }
        sum.update(&piece);
        at += piece.len() as u64;
    }
    Ok(sum.finalize())
}
