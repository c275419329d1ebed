//! The members of a `.keras` archive: where each stored member's bytes are. Reads the central directory alone,
//! within bounds; nothing is decompressed.
#![forbid(unsafe_code)]

use crate::error::{Error, Result, Status};
use crate::layout::MAX_DIRECTORY;
use crate::reader::source::{Source, damaged};

/// The first bytes of an archive that is not empty.
pub(super) const MAGIC: [u8; 4] = *b"PK\x03\x04";

const END: usize = 22;
const END64: u64 = 56;
const LOCATOR64: u64 = 20;
const ENTRY: usize = 46;
const LOCAL: u64 = 30;

/// A member, as the central directory describes it.
#[derive(Clone, Debug)]
struct Member {
    name: Vec<u8>,
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    header: u64,
}

/// The directory of an archive.
#[derive(Debug)]
pub(super) struct Archive {
    source: Source,
    members: Vec<Member>,
    /// Where the central directory begins and the members end.
    directory: u64,
}

impl Archive {
    /// Reads the central directory. A name that stands in it twice is refused: programs would disagree on it.
    pub fn open(source: &Source) -> Result<Archive> {
        let (directory, len, count) = find_directory(source)?;
        if len > MAX_DIRECTORY {
            return Err(damaged(format!("its zip directory has {len} bytes, which no checkpoint needs")));
        }
        let bytes = source.read_vec(directory, len)?;
        let mut members = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (member, tail) = entry(rest).ok_or_else(cut)?;
            members.push(member);
            rest = tail;
        }
        if members.len() as u64 != count {
            return Err(damaged(format!(
                "its zip directory promises {count} members, it has {}",
                members.len()
            )));
        }
        members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = members.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let name = String::from_utf8_lossy(&pair[0].name);
            return Err(damaged(format!("'{name}' stands in its zip directory twice")));
        }
        Ok(Archive { source: source.clone(), members, directory })
    }

    /// The bytes of the member with this name, if there is one. It must be stored, not compressed.
    pub fn member(&self, name: &str) -> Result<Option<Source>> {
        match self.find(name) {
            Some(member) => {
                self.locate(member).map_err(|e| e.context(format_args!("member '{name}'"))).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Checks the bytes of every member against its CRC-32.
    pub fn verify(&self) -> Result<()> {
        let mut buf = vec![0; 256 << 10];
        for member in &self.members {
            let part = self.locate(member)?;
            let mut hasher = crc32fast::Hasher::new();
            let mut at = 0;
            while at < part.len() {
                let n = (part.len() - at).min(buf.len() as u64) as usize;
                let chunk = &mut buf[..n];
                part.read_at(at, chunk)?;
                hasher.update(chunk);
                at += n as u64;
            }
            let found = hasher.finalize();
            if found != member.crc {
                return Err(damaged(format!(
                    "member '{}' does not match its checksum: expected {:08x}, found {found:08x}",
                    String::from_utf8_lossy(&member.name),
                    member.crc
                )));
            }
        }
        Ok(())
    }

    /// The names of the members that are text themselves, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().filter_map(|member| std::str::from_utf8(&member.name).ok())
    }

    /// The bytes of a member, checked against its CRC-32.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let (Some(member), Some(part)) = (self.find(name), self.member(name)?) else { return Ok(None) };
        let bytes = part.read_vec(0, part.len())?;
        if crc32fast::hash(&bytes) != member.crc {
            return Err(damaged(format!("member '{name}' does not match its checksum")));
        }
        Ok(Some(bytes))
    }

    /// The text of a member, checked against its CRC-32.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(damaged(format!("member '{name}' is not UTF-8"))),
        }
    }

    fn find(&self, name: &str) -> Option<&Member> {
        let place = self.members.binary_search_by(|m| m.name.as_slice().cmp(name.as_bytes()));
        place.ok().and_then(|i| self.members.get(i))
    }

    fn locate(&self, member: &Member) -> Result<Source> {
        if member.flags & 1 != 0 {
            return Err(Error::new(Status::Unsupported, "it is encrypted"));
        }
        if member.method != 0 {
            let what =
                format!("it is compressed (method {}): Keras stores its members plainly", member.method);
            return Err(Error::new(Status::Unsupported, what));
        }
        if member.packed != member.size {
            return Err(damaged("it is stored, but its two sizes differ"));
        }
        let mut local = [0; LOCAL as usize];
        self.source.read_at(member.header, &mut local)?;
        if !local.starts_with(&MAGIC) {
            return Err(damaged("the zip directory points to no member"));
        }
        let (name, extra) = (u16_at(&local, 26).unwrap_or(0), u16_at(&local, 28).unwrap_or(0));
        let start = member.header + LOCAL + u64::from(name) + u64::from(extra);
        let end = start.checked_add(member.size);
        if end.is_none_or(|end| end > self.directory) {
            return Err(damaged("it reaches beyond the members of its archive"));
        }
        self.source.part(start, member.size).ok_or_else(cut)
    }
}

/// Offset, length and number of entries of the central directory.
fn find_directory(source: &Source) -> Result<(u64, u64, u64)> {
    // The end record is followed by a comment of at most 65,535 bytes.
    let window = source.len().min(END as u64 + 65_535);
    let tail = source.read_vec(source.len() - window, window)?;
    let at = (0..tail.len().saturating_sub(END - 1)).rev().find(|&at| is_end(&tail, at));
    let Some(at) = at else { return Err(damaged("it is an archive without an end: cut off, or not closed")) };
    let end = tail.get(at..).ok_or_else(cut)?;
    let end_offset = source.len() - window + at as u64;
    let short = (|| {
        let disks = u16_at(end, 4)? | u16_at(end, 6)?;
        Some((disks, u16_at(end, 10)?, u32_at(end, 12)?, u32_at(end, 16)?))
    })();
    let (disks, count, len, offset) = short.ok_or_else(cut)?;
    let place = if count == u16::MAX || len == u32::MAX || offset == u32::MAX {
        find_directory64(source, end_offset)?
    } else {
        if disks != 0 {
            return Err(Error::new(Status::Unsupported, "it is one part of an archive in several"));
        }
        (u64::from(offset), u64::from(len), u64::from(count))
    };
    if place.0.checked_add(place.1).is_none_or(|end| end > end_offset) {
        return Err(damaged("its zip directory reaches beyond its end"));
    }
    Ok(place)
}

/// An end record whose comment ends with the file.
fn is_end(tail: &[u8], at: usize) -> bool {
    let Some(end) = tail.get(at..) else { return false };
    let comment = u16_at(end, 20).map_or(0, usize::from);
    end.starts_with(b"PK\x05\x06") && end.len() == END + comment
}

fn find_directory64(source: &Source, end: u64) -> Result<(u64, u64, u64)> {
    let locator = source.read_vec(end.checked_sub(LOCATOR64).ok_or_else(cut)?, LOCATOR64)?;
    let (true, Some(at)) = (locator.starts_with(b"PK\x06\x07"), u64_at(&locator, 8)) else {
        return Err(damaged("its Zip64 directory is missing"));
    };
    let record = source.read_vec(at, END64)?;
    let place = (|| Some((u64_at(&record, 48)?, u64_at(&record, 40)?, u64_at(&record, 32)?)))();
    match place {
        Some(place) if record.starts_with(b"PK\x06\x06") => Ok(place),
        _ => Err(damaged("its Zip64 directory is missing")),
    }
}

/// Decodes the first entry of the directory; returns what follows it too.
fn entry(bytes: &[u8]) -> Option<(Member, &[u8])> {
    if !bytes.starts_with(b"PK\x01\x02") {
        return None;
    }
    let [name, extra, comment] =
        [u16_at(bytes, 28)?, u16_at(bytes, 30)?, u16_at(bytes, 32)?].map(usize::from);
    let (name, tail) = bytes.get(ENTRY..)?.split_at_checked(name)?;
    let (extra, tail) = tail.split_at_checked(extra)?;
    let (_, tail) = tail.split_at_checked(comment)?;
    let mut member = Member {
        name: name.to_vec(),
        flags: u16_at(bytes, 8)?,
        method: u16_at(bytes, 10)?,
        crc: u32_at(bytes, 16)?,
        packed: u64::from(u32_at(bytes, 20)?),
        size: u64::from(u32_at(bytes, 24)?),
        header: u64::from(u32_at(bytes, 42)?),
    };
    let mut wide = zip64_extra(extra);
    // The 64-bit field holds those of the three numbers, in this order, that do not fit the entry.
    for number in [&mut member.size, &mut member.packed, &mut member.header] {
        if *number == u64::from(u32::MAX) {
            let (head, tail) = wide.split_at_checked(8)?;
            *number = u64_at(head, 0)?;
            wide = tail;
        }
    }
    Some((member, tail))
}

fn zip64_extra(mut extra: &[u8]) -> &[u8] {
    while let (Some(id), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some((body, tail)) = extra.get(4..).and_then(|rest| rest.split_at_checked(len.into())) else {
            break;
        };
        if id == 1 {
            return body;
        }
        extra = tail;
    }
    &[]
}

fn cut() -> Error {
    damaged("its zip directory is cut off")
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests;
