//! Which of a checkpoint's files another one needs: an index that somebody has renamed, copied or linked names the same
//! companions as before.
#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use crate::layout::{MAX_INDEX, may_be_index, mention, opened_for};
use crate::memory;

use super::storage::{Kind, Storage, read_full, retry};

/// Bytes of an index that are looked at together.
const PIECE: usize = 1 << 20;

/// Tells of each of `companions`, the names of files in `dir`, whether an index there needs it, other than the one
/// called `except`.
///
/// # Errors
/// Where that cannot be told: a file that may be such an index cannot be read.
pub(super) fn needed(
    storage: &dyn Storage,
    dir: &Path,
    companions: &[&str],
    except: Option<&str>,
) -> io::Result<Vec<bool>> {
    let mentions = memory::collect(companions.iter().map(|name| mention(name))).map_err(memory::io)?;
    // The shards of one save have it in common.
    let mut marks = memory::collect(mentions.iter().map(String::as_str)).map_err(memory::io)?;
    marks.sort_unstable();
    marks.dedup();
    let mut needed = memory::filled(false, companions.len()).map_err(memory::io)?;
    for file in retry(|| storage.list(dir))? {
        let name = file.to_string_lossy();
        if !may_be_index(&name) || except == Some(&*name) {
            continue;
        }
        let opened = opened_for(&name);
        let met = met(storage, &dir.join(&file), &marks)?;
        for ((companion, mention), needed) in companions.iter().zip(&mentions).zip(&mut needed) {
            *needed |= **companion == opened || met.contains(&mention.as_str());
        }
    }
    Ok(needed)
}

/// Those of `marks` that stand in a file.
fn met<'m>(storage: &dyn Storage, path: &Path, marks: &[&'m str]) -> io::Result<Vec<&'m str>> {
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    match retry(|| storage.info(path)) {
        Ok(info) if info.kind == Kind::File && info.id.size <= MAX_INDEX => {}
        Err(e) if !gone(&e) => return Err(e),
        _ => return Ok(Vec::new()),
    }
    let mut left = memory::collect(marks.iter().copied()).map_err(memory::io)?;
    let mut met = Vec::new();
    memory::reserve(&mut met, left.len()).map_err(memory::io)?;
    // A mark may lie across the end of a piece.
    let overlap = marks.iter().map(|mark| mark.len()).max().unwrap_or(0);
    let mut piece = memory::filled(0, PIECE.max(2 * overlap)).map_err(memory::io)?;
    let mut offset = 0;
    while !left.is_empty() && offset <= MAX_INDEX {
        let len = match read_full(storage, path, offset, &mut piece) {
            Err(e) if gone(&e) => break,
            len => len?,
        };
        let text = piece.get(..len).unwrap_or_default();
        left.retain(|mark| {
            let found = text.utf8_chunks().any(|chunk| chunk.valid().contains(mark));
            met.extend(found.then_some(mark));
            !found
        });
        if len < piece.len() {
            break;
        }
        offset += (len - overlap) as u64;
    }
    Ok(met)
}
