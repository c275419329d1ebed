//! The records of an archive: the end, the central directory, and the header before each member.

use crate::error::{Error, Result, Status};
use crate::layout::MAX_DIRECTORY;
use crate::memory;
use crate::reader::source::{Source, damaged};

/// The first bytes of an archive that is not empty.
pub(in crate::reader) const MAGIC: [u8; 4] = *b"PK\x03\x04";

const END: usize = 22;
const END64: u64 = 56;
const LOCATOR64: u64 = 20;
const ENTRY: usize = 46;
const LOCAL: usize = 30;

/// The header id of Zip64's extra field, and of the one that gives a member another name, in UTF-8.
const ZIP64: u16 = 1;
const UNICODE_NAME: u16 = 0x7075;

/// A flag of a member whose checksum and sizes stand behind it.
const STREAMED: u16 = 1 << 3;
/// Flags of a member that is encrypted: simply, strongly, with a masked header.
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;

/// A member, as the central directory describes it.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// The place of its name in the directory.
    name_at: u32,
    name_len: u16,
    flags: u16,
    pub method: u16,
    pub crc: u32,
    /// Bytes in the archive.
    pub packed: u64,
    /// Bytes when it is unpacked.
    pub size: u64,
    /// Where its local header is.
    pub header: u64,
    /// Where the next member's header is, or the directory.
    pub limit: u64,
}

impl Member {
    pub fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED != 0
    }
}

/// The central directory.
#[derive(Debug)]
pub(super) struct Directory {
    bytes: Vec<u8>,
    /// By name, once they are checked.
    members: Vec<Member>,
    at: u64,
}

impl Directory {
    /// Finds it and reads its entries.
    pub fn read(source: &Source) -> Result<Directory> {
        let place = find(source)?;
        if place.len > MAX_DIRECTORY {
            return Err(damaged(format!(
                "its zip directory has {} bytes, which no checkpoint needs",
                place.len
            )));
        }
        let bytes = source.read_vec(place.offset, place.len)?;
        let room = bytes.len() / ENTRY;
        let count = usize::try_from(place.count).unwrap_or(usize::MAX);
        if count > room {
            return Err(damaged(format!(
                "its zip directory promises {count} members, it has room for {room}"
            )));
        }
        let mut members = Vec::new();
        memory::reserve(&mut members, count)?;
        let mut at = 0;
        while at < bytes.len() && members.len() < count {
            let (member, next) = entry(&bytes, at)?;
            members.push(member);
            at = next;
        }
        if members.len() != count || at != bytes.len() {
            let more = if at < bytes.len() { " and something else" } else { "" };
            let found = members.len();
            return Err(damaged(format!("its zip directory promises {count} members, it has {found}{more}")));
        }
        Ok(Directory { bytes, members, at: place.offset })
    }

    pub fn name(&self, member: &Member) -> &[u8] {
        let start = member.name_at as usize;
        self.bytes.get(start..).and_then(|rest| rest.get(..member.name_len.into())).unwrap_or_default()
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn find(&self, name: &str) -> Option<&Member> {
        let place = self.members.binary_search_by(|m| self.name(m).cmp(name.as_bytes()));
        place.ok().and_then(|i| self.members.get(i))
    }

    /// Refuses members that share bytes, or lie outside the archive, and notes where each must end at the latest.
    pub fn check_extents(&mut self) -> Result<()> {
        self.members.sort_unstable_by_key(|member| std::cmp::Reverse(member.header));
        let mut limit = self.at;
        for i in 0..self.members.len() {
            let Some(member) = self.members.get_mut(i) else { break };
            let least = (LOCAL as u64 + u64::from(member.name_len)).checked_add(member.packed);
            member.limit = limit;
            limit = member.header;
            let end = least.and_then(|least| member.header.checked_add(least));
            if end.is_none_or(|end| end > member.limit) {
                let (beyond, member) = (member.limit == self.at, member.clone());
                let what = if beyond { "reaches beyond the members of" } else { "overlaps another one in" };
                return Err(damaged(format!("member '{}' {what} its archive", self.shown(&member))));
            }
        }
        Ok(())
    }

    /// Sorts the members by their names, and refuses names that stand twice, lead out of a directory that the
    /// archive is unpacked in, or end early for some programs.
    pub fn check_names(&mut self) -> Result<()> {
        let Directory { bytes, members, .. } = self;
        let name = |m: &Member| {
            let start = m.name_at as usize;
            bytes.get(start..).and_then(|rest| rest.get(..m.name_len.into())).unwrap_or_default()
        };
        members.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        for member in &self.members {
            let name = self.name(member);
            let mut parts = name.split(|b| matches!(b, b'/' | b'\\'));
            let rooted = matches!(name, [b'/' | b'\\', ..] | [_, b':', ..]);
            if rooted || name.contains(&0) || parts.any(|part| part == b"..") {
                return Err(damaged(format!(
                    "its member '{}' has a name that leads out of the archive",
                    self.shown(member)
                )));
            }
        }
        let pairs = self.members.iter().zip(self.members.iter().skip(1));
        match pairs.into_iter().find(|(a, b)| self.name(a) == self.name(b)) {
            Some((member, _)) => {
                Err(damaged(format!("'{}' stands in its zip directory twice", self.shown(member))))
            }
            None => Ok(()),
        }
    }

    fn shown(&self, member: &Member) -> String {
        String::from_utf8_lossy(self.name(member)).replace('\0', "\\0")
    }
}

/// Where the central directory is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    offset: u64,
    len: u64,
    count: u64,
}

/// Finds the directory by the last end record, which is where every program looks.
fn find(source: &Source) -> Result<Place> {
    // The end record is followed by a comment of at most 65,535 bytes.
    let window = source.len().min(END as u64 + 65_535);
    let tail = source.read_vec(source.len() - window, window)?;
    let mut starts = (0..(tail.len() + 1).saturating_sub(END)).rev();
    let record = starts.find_map(|at| tail.get(at..).filter(|tail| tail.starts_with(b"PK\x05\x06")));
    let Some(record) = record else {
        return Err(damaged("it is an archive without an end: cut off, or not closed"));
    };
    let end = source.len() - record.len() as u64;
    if u16_at(record, 20).map(usize::from) != record.len().checked_sub(END) {
        return Err(damaged("the comment at the end of its archive is cut off, or holds another end of it"));
    }
    let numbers =
        (|| Some([u16_at(record, 4)?, u16_at(record, 6)?, u16_at(record, 8)?, u16_at(record, 10)?]))();
    let (Some([disk, first, here, count]), Some(len), Some(offset)) =
        (numbers, u32_at(record, 12), u32_at(record, 16))
    else {
        return Err(cut());
    };
    let wide = find64(source, end)?;
    if wide.is_none() && (count == u16::MAX || len == u32::MAX || offset == u32::MAX) {
        return Err(damaged("its Zip64 directory is missing"));
    }
    let short = Place { offset: offset.into(), len: len.into(), count: count.into() };
    let (place, end) = wide.unwrap_or((short, end));
    let agrees = |narrow: u64, limit: u64, number: u64| narrow == limit || narrow == number;
    if !agrees(short.count, u16::MAX.into(), place.count)
        || !agrees(short.len, u32::MAX.into(), place.len)
        || !agrees(short.offset, u32::MAX.into(), place.offset)
    {
        return Err(damaged("its two zip directories, the old one and that of Zip64, are not the same"));
    }
    if here != count || (disk, first) != (0, 0) && (disk, first) != (u16::MAX, u16::MAX) {
        return Err(Error::new(Status::Unsupported, "it is one part of an archive in several"));
    }
    // A gap is where programs begin to count from somewhere else.
    if place.offset.checked_add(place.len) != Some(end) {
        let what = format!(
            "its zip directory of {} bytes at offset {} does not reach to its end at {end}",
            place.len, place.offset
        );
        return Err(damaged(what));
    }
    Ok(place)
}

/// The directory as Zip64's record before the end record at `end` has it, if there is one, and where that is.
fn find64(source: &Source, end: u64) -> Result<Option<(Place, u64)>> {
    let Some(at) = end.checked_sub(LOCATOR64) else { return Ok(None) };
    let locator = source.read_vec(at, LOCATOR64)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    let missing = || damaged("its Zip64 directory is missing");
    let at = u64_at(&locator, 8).filter(|at| at.checked_add(END64 + LOCATOR64) == Some(end));
    let at = at.ok_or_else(missing)?;
    let record = source.read_vec(at, END64)?;
    let place = (|| {
        Some(Place { offset: u64_at(&record, 48)?, len: u64_at(&record, 40)?, count: u64_at(&record, 32)? })
    })();
    let numbers = (u64_at(&record, 4), u64_at(&record, 16), u64_at(&record, 24));
    match (place, numbers) {
        (Some(place), (Some(44), Some(disks), Some(here))) if record.starts_with(b"PK\x06\x06") => {
            if disks != 0 || here != place.count || u32_at(&locator, 4) != Some(0) {
                return Err(Error::new(Status::Unsupported, "it is one part of an archive in several"));
            }
            Ok(Some((place, at)))
        }
        _ => Err(missing()),
    }
}

/// Decodes the entry of the directory at `at`; returns where the next one begins, too.
fn entry(bytes: &[u8], at: usize) -> Result<(Member, usize)> {
    let rest = bytes.get(at..).filter(|rest| rest.starts_with(b"PK\x01\x02")).ok_or_else(cut)?;
    let fields = || {
        let [name, extra, comment] =
            [u16_at(rest, 28)?, u16_at(rest, 30)?, u16_at(rest, 32)?].map(usize::from);
        let extra = rest.get(ENTRY + name..)?.get(..extra)?;
        let end = ENTRY + name + extra.len() + comment;
        let member = Member {
            name_at: u32::try_from(at + ENTRY).ok()?,
            name_len: u16::try_from(name).ok()?,
            flags: u16_at(rest, 8)?,
            method: u16_at(rest, 10)?,
            crc: u32_at(rest, 16)?,
            packed: u32_at(rest, 20)?.into(),
            size: u32_at(rest, 24)?.into(),
            header: u32_at(rest, 42)?.into(),
            limit: 0,
        };
        (end <= rest.len()).then_some((member, extra, u16_at(rest, 34)?, at + end))
    };
    let (mut member, extra, disk, next) = fields().ok_or_else(cut)?;
    if disk != 0 {
        return Err(Error::new(Status::Unsupported, "it is one part of an archive in several"));
    }
    widen(extra, [&mut member.size, &mut member.packed, &mut member.header])?;
    if second_name(extra).is_some_and(<[u8]>::is_ascii) {
        return Err(damaged("a member of its archive has two names"));
    }
    Ok((member, next))
}

/// The header before a member.
pub(super) struct Local {
    bytes: Vec<u8>,
    /// Bytes of it.
    pub len: u64,
}

impl Local {
    pub fn read(source: &Source, member: &Member) -> Result<Local> {
        let head = source.read_vec(member.header, LOCAL as u64)?;
        let (true, Some(name), Some(extra)) =
            (head.starts_with(&MAGIC), u16_at(&head, 26), u16_at(&head, 28))
        else {
            return Err(damaged("the zip directory points to no member"));
        };
        let len = LOCAL as u64 + u64::from(name) + u64::from(extra);
        Ok(Local { bytes: source.read_vec(member.header, len)?, len })
    }

    /// Refuses a header that says something else than the directory.
    pub fn check(&self, member: &Member, name: &[u8]) -> Result<()> {
        let head = self.bytes.as_slice();
        let (Some(flags), Some(method), Some(crc), Some(packed), Some(size)) =
            (u16_at(head, 6), u16_at(head, 8), u32_at(head, 14), u32_at(head, 18), u32_at(head, 22))
        else {
            return Err(cut());
        };
        let own_name_len = u16_at(head, 26).map_or(0, usize::from);
        let (own_name, extra) =
            head.get(LOCAL..).and_then(|rest| rest.split_at_checked(own_name_len)).ok_or_else(cut)?;
        let (mut packed, mut size) = (packed.into(), size.into());
        widen(extra, [&mut size, &mut packed])?;
        // Where the numbers stand behind the member, they may be zero here.
        let agrees = |here: u64, there: u64| here == there || (here == 0 && flags & STREAMED != 0);
        let what = if own_name != name {
            "name"
        } else if method != member.method {
            "method"
        } else if flags & ENCRYPTED != 0 {
            "encryption"
        } else if !agrees(packed, member.packed) || !agrees(size, member.size) {
            "size"
        } else if !agrees(crc.into(), member.crc.into()) {
            "checksum"
        } else {
            return Ok(());
        };
        Err(damaged(format!("the header before it has another {what} than the zip directory")))
    }
}

/// Replaces the numbers that did not fit 32 bits by those of Zip64's extra field, which has them in this order.
fn widen<const N: usize>(extra: &[u8], numbers: [&mut u64; N]) -> Result<()> {
    let mut wide = extra_field(extra, ZIP64).unwrap_or_default();
    for number in numbers {
        if *number == u64::from(u32::MAX) {
            let (head, tail) = wide.split_at_checked(8).ok_or_else(cut)?;
            *number = u64_at(head, 0).unwrap_or_default();
            wide = tail;
        }
    }
    Ok(())
}

/// The name that some programs take instead of the first: behind a version and a checksum.
fn second_name(extra: &[u8]) -> Option<&[u8]> {
    extra_field(extra, UNICODE_NAME)?.get(5..)
}

fn extra_field(mut extra: &[u8], wanted: u16) -> Option<&[u8]> {
    while let (Some(id), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let (body, tail) = extra.get(4..)?.split_at_checked(len.into())?;
        if id == wanted {
            return Some(body);
        }
        extra = tail;
    }
    None
}

pub(super) fn cut() -> Error {
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
