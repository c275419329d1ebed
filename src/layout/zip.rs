//! Zip archives of stored members: the records around the members' bytes.

use super::bytes::Put;
use crate::error::Result;

/// A 32-bit field cannot hold this or more: it holds this, and Zip64's extra field the true number.
const LIMIT: u64 = 0xffff_ffff;

/// The same of the number of members.
const MEMBERS_LIMIT: u64 = 0xffff;

/// A central directory of more bytes is refused by the reader, as made to do harm; so none is written. It has room
/// for a million members.
pub const MAX_DIRECTORY: u64 = 64 << 20;

/// The header id of Zip64's extra field.
const ZIP64_ID: u16 = 0x0001;

/// The header id of an extra field that only pads: no one else's.
const PADDING_ID: u16 = u16::from_le_bytes(*b"ck");

/// Bytes of an extra field before its data: id, length.
const EXTRA_HEAD: usize = 4;

/// The flag of a name that is UTF-8: of ASCII that goes without saying.
const UTF8: u16 = 1 << 11;

const VERSION: u16 = 20;
const VERSION_ZIP64: u16 = 45;

/// Who wrote a member, in the high byte of the version: Unix, which is how its attributes are to be read.
const UNIX: u16 = 3 << 8;

/// A regular file that its owner reads and writes: `st_mode` in the high half.
const ATTRIBUTES: u32 = 0o100_600 << 16;

/// The most bytes of an entry of the directory beside its name, and of the records behind all of them.
const ENTRY_LEN: usize = 46 + EXTRA_HEAD + 24;
const END_LEN: usize = 56 + 20 + 22;

/// Room that is asked for beyond what the records take in the end, at most.
pub(super) const MORE: usize = ENTRY_LEN + END_LEN;

/// A stored member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// At most 65,535 bytes.
    pub(super) name: String,
    /// Where its local header begins.
    pub(super) at: u64,
    /// Bytes.
    pub(super) len: u64,
    pub(super) crc: u32,
}

/// A date and a time as DOS packs them, to two seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct DosTime {
    date: u16,
    time: u16,
}

impl DosTime {
    /// Year (1980 to 2107), month, day, hour, minute, second, each in its range.
    pub(super) fn new([year, month, day, hour, minute, second]: [u16; 6]) -> DosTime {
        let second = second.min(59); // it knows no leap seconds
        let (date, time) = ([(year - 1980) << 9, month << 5, day], [hour << 11, minute << 5, second / 2]);
        DosTime { date: date.iter().sum(), time: time.iter().sum() }
    }
}

impl Member {
    /// Bytes of its local header without padding.
    pub(super) fn header_len(&self) -> usize {
        30 + self.name.len() + if self.len >= LIMIT { EXTRA_HEAD + 16 } else { 0 }
    }

    /// Appends its local header, padded to `len` bytes, which is [`Member::header_len`] or at least 4 more.
    pub(super) fn put_header(&self, out: &mut Vec<u8>, time: DosTime, len: usize) -> Result<()> {
        out.make_room(len)?;
        let padding = len - self.header_len();
        let large = self.len >= LIMIT;
        out.put(b"PK\x03\x04");
        self.put_common(out, time, large);
        out.put_u16((len - 30 - self.name.len()) as u16);
        out.put(self.name.as_bytes());
        if large {
            put_zip64(out, &[self.len, self.len]);
        }
        if let Some(zeros) = padding.checked_sub(EXTRA_HEAD) {
            out.put_u16(PADDING_ID);
            out.put_u16(zeros as u16);
            out.put_zeros(zeros);
        }
        Ok(())
    }

    /// What the local header and the directory have in common, from the version to the name's length.
    fn put_common(&self, out: &mut Vec<u8>, time: DosTime, zip64: bool) {
        out.put_u16(if zip64 { VERSION_ZIP64 } else { VERSION });
        out.put_u16(if self.name.is_ascii() { 0 } else { UTF8 });
        out.put_u16(0); // stored
        out.put_u16(time.time);
        out.put_u16(time.date);
        out.put_u32(self.crc);
        out.put_u32(field(self.len));
        out.put_u32(field(self.len));
        out.put_u16(self.name.len() as u16);
    }

    fn put_directory_entry(&self, out: &mut Vec<u8>, time: DosTime) -> Result<()> {
        out.make_room(ENTRY_LEN + self.name.len())?;
        let mut numbers = Vec::new();
        if self.len >= LIMIT {
            numbers.extend([self.len, self.len]);
        }
        if self.at >= LIMIT {
            numbers.push(self.at);
        }
        let zip64 = !numbers.is_empty();
        out.put(b"PK\x01\x02");
        out.put_u16(UNIX | if zip64 { VERSION_ZIP64 } else { VERSION });
        self.put_common(out, time, zip64);
        out.put_u16(if zip64 { EXTRA_HEAD + 8 * numbers.len() } else { 0 } as u16);
        out.put_zeros(6); // comment, disk, internal attributes
        out.put_u32(ATTRIBUTES);
        out.put_u32(field(self.at));
        out.put(self.name.as_bytes());
        if zip64 {
            put_zip64(out, &numbers);
        }
        Ok(())
    }
}

/// Appends the central directory, which begins at `at`, and the records that end the archive.
pub(super) fn put_directory<'a>(
    out: &mut Vec<u8>,
    members: impl Iterator<Item = &'a Member>,
    time: DosTime,
    at: u64,
) -> Result<()> {
    let start = out.len();
    let mut count = 0;
    for member in members {
        member.put_directory_entry(out, time)?;
        count += 1;
    }
    let len = (out.len() - start) as u64;
    out.make_room(END_LEN)?;
    if at >= LIMIT || count >= MEMBERS_LIMIT {
        out.put(b"PK\x06\x06");
        out.put_u64(44); // bytes of this record that follow
        out.put_u16(UNIX | VERSION_ZIP64);
        out.put_u16(VERSION_ZIP64);
        out.put_zeros(8); // disks
        out.put_u64(count);
        out.put_u64(count);
        out.put_u64(len);
        out.put_u64(at);
        out.put(b"PK\x06\x07");
        out.put_u32(0); // disk
        out.put_u64(at + len);
        out.put_u32(1); // disks
    }
    out.put(b"PK\x05\x06");
    out.put_u32(0); // disks
    out.put_u16(count.min(MEMBERS_LIMIT) as u16);
    out.put_u16(count.min(MEMBERS_LIMIT) as u16);
    out.put_u32(field(len));
    out.put_u32(field(at));
    out.put_u16(0); // comment
    Ok(())
}

fn put_zip64(out: &mut Vec<u8>, numbers: &[u64]) {
    out.put_u16(ZIP64_ID);
    out.put_u16(8 * numbers.len() as u16);
    for &n in numbers {
        out.put_u64(n);
    }
}

/// A number as a 32-bit field has it.
fn field(n: u64) -> u32 {
    n.min(LIMIT) as u32
}
