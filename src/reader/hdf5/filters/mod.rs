//! The filters that a chunk went through when it was written, undone in turn. Every size is known before anything
//! is allocated: that of a chunk, and by it that of what each filter gave.

mod deflate;
mod fletcher32;
mod lzf;
mod shuffle;

use super::cursor::{Cursor, until_nul};
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::reader::source::damaged;

/// The filters of a dataset, in the order of writing.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    filters: Vec<Filter>,
}

#[derive(Debug, PartialEq, Eq)]
enum Filter {
    Deflate,
    /// Of elements of this many bytes.
    Shuffle(usize),
    Fletcher32,
    Lzf,
    Unknown {
        id: u16,
        name: String,
    },
}

/// The bytes of a chunk between two filters.
#[derive(Default)]
pub(super) struct Buffers {
    pub bytes: Vec<u8>,
    spare: Vec<u8>,
}

/// As many as HDF5 allows.
const MAX_FILTERS: u8 = 32;

/// What is known of the bytes that a filter gave when it wrote.
#[derive(Clone, Copy)]
enum Size {
    Exactly(u64),
    AtMost(u64),
}

impl Pipeline {
    /// Decodes a filter message.
    pub fn read(body: &[u8]) -> Result<Pipeline> {
        let mut c = Cursor::new(body);
        let (version, count) = (c.u8()?, c.u8()?);
        if !matches!(version, 1 | 2) || count > MAX_FILTERS {
            return Err(damaged(format!("its filters are {count}, in the unknown version {version}")));
        }
        if version == 1 {
            c.take(6)?;
        }
        let filters = (0..count).map(|_| filter(&mut c, version)).collect::<Result<_>>()?;
        Ok(Pipeline { filters })
    }

    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Undoes, in `buffers`, the filters that are not `skipped`; what is left must have `size` bytes.
    pub fn undo(&self, skipped: u32, size: u64, buffers: &mut Buffers) -> Result<()> {
        let used = |n: &usize| skipped.checked_shr(*n as u32).unwrap_or(0) & 1 == 0;
        let used: Vec<&Filter> =
            (0..self.filters.len()).filter(used).filter_map(|n| self.filters.get(n)).collect();
        // What each filter was given.
        let mut sizes = Vec::with_capacity(used.len());
        let mut given = Size::Exactly(size);
        for filter in &used {
            sizes.push(given);
            given = filter.gives(given);
        }
        for (filter, given) in used.iter().zip(&sizes).rev() {
            filter.undo(*given, buffers)?;
        }
        match buffers.bytes.len() as u64 == size {
            true => Ok(()),
            false => Err(damaged(format!("a chunk of it has {} bytes and not {size}", buffers.bytes.len()))),
        }
    }
}

fn filter(c: &mut Cursor, version: u8) -> Result<Filter> {
    let id = c.u16()?;
    // HDF5's own filters have no name from version 2 on.
    let name = if version > 1 && id < 256 { 0 } else { c.u16()? };
    c.u16()?;
    let values = usize::from(c.u16()?);
    let name = until_nul(c.take(name.into())?);
    let name = String::from_utf8_lossy(name.get(..64).unwrap_or(name)).into_owned();
    let mut parameters = Cursor::new(c.take(values * 4)?);
    if version == 1 && values % 2 == 1 {
        c.take(4)?;
    }
    Ok(match id {
        1 => Filter::Deflate,
        2 => match usize::try_from(parameters.u32()?) {
            Ok(size @ 1..) => Filter::Shuffle(size),
            _ => return Err(damaged("its bytes are shuffled in elements of no size")),
        },
        3 => Filter::Fletcher32,
        32000 => Filter::Lzf,
        _ => Filter::Unknown { id, name },
    })
}

impl Filter {
    /// What the filter gives, by what it is given.
    fn gives(&self, given: Size) -> Size {
        let (Size::Exactly(n) | Size::AtMost(n)) = given;
        match self {
            Filter::Shuffle(_) | Filter::Unknown { .. } => given,
            Filter::Fletcher32 => match given {
                Size::Exactly(n) => Size::Exactly(n.saturating_add(4)),
                Size::AtMost(n) => Size::AtMost(n.saturating_add(4)),
            },
            // What does not get smaller is stored as it is, with a little around it.
            Filter::Deflate | Filter::Lzf => Size::AtMost(n.saturating_add(n / 16 + 64)),
        }
    }

    /// How many times smaller than its input the output of a compressor can be.
    fn ratio(&self) -> u64 {
        match self {
            Filter::Deflate => deflate::RATIO,
            _ => lzf::RATIO,
        }
    }

    fn undo(&self, given: Size, buffers: &mut Buffers) -> Result<()> {
        let Buffers { bytes, spare } = buffers;
        match self {
            Filter::Fletcher32 => return fletcher32::check(bytes),
            Filter::Shuffle(element) => {
                fit(spare, bytes.len())?;
                shuffle::undo(*element, bytes, spare);
            }
            Filter::Deflate | Filter::Lzf => {
                let (Size::Exactly(n) | Size::AtMost(n)) = given;
                let most = (bytes.len() as u64).saturating_mul(self.ratio());
                let size = match given {
                    Size::Exactly(n) if n > most => {
                        let what = format!(
                            "a chunk of {n} bytes cannot come from the {} that are stored",
                            bytes.len()
                        );
                        return Err(damaged(what));
                    }
                    _ => n.min(most),
                };
                fit(spare, usize::try_from(size).unwrap_or(usize::MAX))?;
                let len = match self {
                    Filter::Deflate => deflate::undo(bytes, spare)?,
                    _ => lzf::undo(bytes, spare)?,
                };
                spare.truncate(len);
            }
            Filter::Unknown { id, name } => return Err(unknown(*id, name)),
        }
        std::mem::swap(bytes, spare);
        Ok(())
    }
}

/// Gives `buffer` exactly `len` bytes, of any value.
fn fit(buffer: &mut Vec<u8>, len: usize) -> Result<()> {
    if buffer.capacity() < len {
        *buffer = memory::filled(0, len)?;
    }
    buffer.resize(len, 0);
    Ok(())
}

impl Buffers {
    /// Makes room for a chunk of `stored` bytes, which are in the file, and returns it.
    pub fn fill(&mut self, stored: u64) -> Result<&mut [u8]> {
        fit(&mut self.bytes, usize::try_from(stored).unwrap_or(usize::MAX))?;
        Ok(&mut self.bytes)
    }
}

/// The refusal of a filter that is not undone here.
fn unknown(id: u16, name: &str) -> Error {
    let known = match id {
        4 => "szip",
        5 => "nbit",
        6 => "scaleoffset",
        307 => "bzip2",
        32001 => "blosc",
        32004 => "lz4",
        32008 => "bitshuffle",
        32013 => "zfp",
        32015 => "zstd",
        32026 => "blosc2",
        _ => match name {
            "" => "a filter without a name",
            name => name,
        },
    };
    let what = format!(
        "it is packed with {known} (HDF5's filter {id}), which is not read: write it with gzip or without a filter"
    );
    Error::new(Status::Unsupported, what)
}

#[cfg(test)]
mod tests;
