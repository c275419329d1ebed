//! The members of a `.keras` archive: where the bytes of each are, and what a text of them says. The weights are
//! read where they stand in the archive, so they must be stored; a text may be deflated, within bounds.
//!
//! Programs that read one archive in two ways are how one is made to show something else to a check than to a
//! loader. So an archive is refused where they would: where a name stands twice, where members overlap, where the
//! header before a member says something else than the directory.
#![forbid(unsafe_code)]

mod inflate;
mod records;

use self::records::{Directory, Local, Member};
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::reader::source::{Source, damaged};

pub(super) use self::records::MAGIC;

/// The method of a member that is stored as it is.
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// Bytes that are read at a time.
const PIECE: u64 = 256 << 10;

/// An archive that any program reads in the same way.
#[derive(Debug)]
pub(super) struct Archive {
    source: Source,
    directory: Directory,
}

impl Archive {
    /// Reads the central directory.
    pub fn open(source: &Source) -> Result<Archive> {
        let mut directory = Directory::read(source)?;
        directory.check_extents()?;
        directory.check_names()?;
        Ok(Archive { source: source.clone(), directory })
    }

    /// The bytes of the member with this name, if there is one. It must be stored, not compressed.
    pub fn member(&self, name: &str) -> Result<Option<Source>> {
        let Some(member) = self.directory.find(name) else { return Ok(None) };
        let named = |e: Error| e.context(format_args!("member '{name}'"));
        if member.method != STORED {
            let what = format!(
                "it is compressed (method {}), and the weights are read where they stand: pack the archive again \
                 without compression, as `zip -0` does and Keras itself",
                member.method
            );
            return Err(named(Error::new(Status::Unsupported, what)));
        }
        self.locate(member).map(Some).map_err(named)
    }

    /// The names of the members that are text themselves, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let members = self.directory.members().iter();
        members.filter_map(|member| std::str::from_utf8(self.directory.name(member)).ok())
    }

    /// The bytes of a member, checked against its CRC-32.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(member) = self.directory.find(name) else { return Ok(None) };
        let mut bytes = Vec::new();
        self.unpack(member, &mut |piece| {
            memory::reserve(&mut bytes, piece.len())?;
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
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

    /// Checks the bytes of every member against its CRC-32.
    pub fn verify(&self) -> Result<()> {
        self.check_expansion(&mut self.directory.members().iter())?;
        self.directory.members().iter().try_for_each(|member| self.unpack(member, &mut |_| Ok(())))
    }

    /// Gives the bytes of a member, unpacked, to `sink`, piece by piece, and then checks them against its CRC-32.
    fn unpack(&self, member: &Member, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let name = || String::from_utf8_lossy(self.directory.name(member));
        let named = |e: Error| e.context(format_args!("member '{}'", name()));
        self.check_expansion(&mut std::iter::once(member)).map_err(named)?;
        let part = self.locate(member).map_err(named)?;
        let mut hasher = crc32fast::Hasher::new();
        let mut sink = |piece: &[u8]| {
            hasher.update(piece);
            sink(piece)
        };
        match member.method {
            STORED => pieces(&part, &mut sink),
            DEFLATED => inflate::inflate(&part, member.size, &mut sink),
            other => Err(Error::new(
                Status::Unsupported,
                format!("it is compressed with the unknown method {other}"),
            )),
        }
        .map_err(named)?;
        let found = hasher.finalize();
        if found != member.crc {
            return Err(damaged(format!(
                "member '{}' does not match its checksum: expected {:08x}, found {found:08x}",
                name(),
                member.crc
            )));
        }
        Ok(())
    }

    /// Refuses members that unpack to far more than the archive has: bombs.
    fn check_expansion(&self, members: &mut dyn Iterator<Item = &Member>) -> Result<()> {
        let sizes = members.filter(|member| member.method != STORED).map(|member| member.size);
        let total = sizes.fold(0, u64::saturating_add);
        let most = self.source.len().saturating_mul(2).saturating_add(16 << 20);
        if total > most {
            return Err(damaged(format!(
                "its compressed bytes unpack to {total}, more than the {most} that are possible in an archive of \
                 {}: store them without compression",
                self.source.len()
            )));
        }
        Ok(())
    }

    /// The bytes of a member as they stand in the archive. What its local header says must be what the directory
    /// says.
    fn locate(&self, member: &Member) -> Result<Source> {
        if member.is_encrypted() {
            return Err(Error::new(Status::Unsupported, "it is encrypted"));
        }
        if member.method == STORED && member.packed != member.size {
            return Err(damaged("it is stored, but its two sizes differ"));
        }
        let local = Local::read(&self.source, member)?;
        local.check(member, self.directory.name(member))?;
        // No overflow: the header and its bytes have been read.
        let start = member.header + local.len;
        if start.checked_add(member.packed).is_none_or(|end| end > member.limit) {
            return Err(damaged("it reaches beyond the room that it has in its archive"));
        }
        self.source.part(start, member.packed).ok_or_else(records::cut)
    }
}

/// Gives all bytes to `sink`, piece by piece.
fn pieces(part: &Source, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buf = memory::filled(0, part.len().min(PIECE) as usize)?;
    let mut at = 0;
    while at < part.len() {
        let n = (part.len() - at).min(PIECE);
        let piece = buf.get_mut(..n as usize).unwrap_or_default();
        part.read_at(at, piece)?;
        sink(piece)?;
        at += n;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
