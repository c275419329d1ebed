//! Archives made by hand: sound ones, and ones that were made to be read in two ways, or to do harm.

use std::io::Write;

use super::records::MAGIC;
use super::*;

const NAME: &str = "model.weights.h5";
const DATA: &[u8] = b"these are the weights";
const TEXT: &str = "{\"keras_version\": \"3.15.1\"}";

/// What the directory, or a local header, says of a member.
#[derive(Clone)]
struct Entry {
    name: Vec<u8>,
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    disk: u16,
    extra: Vec<u8>,
}

/// A member: its bytes, what is before them, and what the directory says.
#[derive(Clone)]
struct Part {
    bytes: Vec<u8>,
    local: Entry,
    central: Entry,
    /// Where the directory says that it is, if that is not true.
    header: Option<u64>,
}

impl Part {
    fn stored(name: &str, bytes: &[u8]) -> Part {
        let len = bytes.len() as u64;
        let crc = crc32fast::hash(bytes);
        let entry = Entry {
            name: name.into(),
            flags: 0,
            method: 0,
            crc,
            packed: len,
            size: len,
            disk: 0,
            extra: vec![],
        };
        Part { bytes: bytes.to_vec(), local: entry.clone(), central: entry, header: None }
    }

    fn deflated(name: &str, bytes: &[u8]) -> Part {
        let mut encoder = flate2::write::DeflateEncoder::new(vec![], flate2::Compression::new(6));
        encoder.write_all(bytes).unwrap();
        let mut part = Part { bytes: encoder.finish().unwrap(), ..Part::stored(name, bytes) };
        let packed = part.bytes.len() as u64;
        part.both(|entry| (entry.method, entry.packed) = (8, packed));
        part
    }

    fn both(&mut self, change: impl Fn(&mut Entry)) {
        change(&mut self.local);
        change(&mut self.central);
    }
}

/// The records at the end.
struct Zip {
    parts: Vec<Part>,
    /// With Zip64's records and fields.
    wide: bool,
    /// Between the members and the directory, and between that and its end.
    gaps: [Vec<u8>; 2],
    comment: Vec<u8>,
    /// Changes the records at the end: their bytes.
    end: fn(&mut [u8]),
}

fn zip(parts: &[Part]) -> Zip {
    Zip { parts: parts.to_vec(), wide: false, gaps: Default::default(), comment: vec![], end: |_| () }
}

fn sound() -> [Part; 2] {
    [Part::stored(NAME, DATA), Part::stored("metadata.json", TEXT.as_bytes())]
}

impl Zip {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut directory = Vec::new();
        for part in &self.parts {
            let at = out.len() as u64;
            out.extend(MAGIC);
            part.local.put(self.wide, None, &mut out);
            out.extend(&part.bytes);
            directory.extend(b"PK\x01\x02\0\0");
            part.central.put(self.wide, Some(part.header.unwrap_or(at)), &mut directory);
        }
        let [before, behind] = &self.gaps;
        out.extend(before);
        let (at, len, count) = (out.len() as u64, directory.len() as u64, self.parts.len() as u64);
        out.extend(directory);
        out.extend(behind);
        let mut end = Vec::new();
        if self.wide {
            end.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
            end.extend([count, count, len, at].map(u64::to_le_bytes).concat());
            end.extend(b"PK\x06\x07\0\0\0\0");
            end.extend((out.len() as u64).to_le_bytes());
            end.extend([1, 0, 0, 0]);
        }
        end.extend(b"PK\x05\x06\0\0\0\0");
        let narrow = |n: u64| if self.wide { u32::MAX } else { n as u32 };
        end.extend([if self.wide { u16::MAX } else { count as u16 }; 2].map(u16::to_le_bytes).concat());
        end.extend([narrow(len), narrow(at)].map(u32::to_le_bytes).concat());
        end.extend((self.comment.len() as u16).to_le_bytes());
        (self.end)(&mut end);
        out.extend(end);
        out.extend(&self.comment);
        out
    }

    fn open(&self) -> Result<Archive> {
        open(&self.bytes())
    }

    /// Why it is refused, at the latest when its members are read.
    fn refusal(&self) -> String {
        let read = self.open().and_then(|archive| {
            archive.member(NAME)?;
            archive.text("metadata.json")?;
            archive.verify()
        });
        read.expect_err("it was read").to_string()
    }
}

impl Entry {
    /// Appends what follows the signature; `header` is where the member begins, in the directory.
    fn put(&self, wide: bool, header: Option<u64>, out: &mut Vec<u8>) {
        let narrow = |n: u64| if wide { u32::MAX } else { n as u32 };
        let mut extra = Vec::new();
        if wide {
            let numbers: Vec<u64> = [self.size, self.packed].into_iter().chain(header).collect();
            extra.extend([1, numbers.len() as u16 * 8].map(u16::to_le_bytes).concat());
            extra.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        }
        extra.extend(&self.extra);
        out.extend([20, self.flags, self.method, 0, 0].map(u16::to_le_bytes).concat());
        out.extend([self.crc, narrow(self.packed), narrow(self.size)].map(u32::to_le_bytes).concat());
        out.extend([self.name.len() as u16, extra.len() as u16].map(u16::to_le_bytes).concat());
        if let Some(header) = header {
            out.extend([0, self.disk, 0, 0, 0].map(u16::to_le_bytes).concat());
            out.extend(narrow(header).to_le_bytes());
        }
        out.extend(&self.name);
        out.extend(extra);
    }
}

fn open(bytes: &[u8]) -> Result<Archive> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("ckpt-zip-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).unwrap();
    let source = Source::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    Archive::open(&source)
}

/// The sound archive, its first member changed, refused for `why`.
#[track_caller]
fn refused(change: impl Fn(&mut Part), why: &str) {
    for wide in [false, true] {
        let mut parts = sound();
        change(&mut parts[0]);
        let found = Zip { wide, ..zip(&parts) }.refusal();
        assert!(found.contains(why), "{found}");
    }
}

#[test]
fn reads_narrow_and_wide_archives() {
    for comment in [vec![], b"written by hand".to_vec()] {
        for wide in [false, true] {
            for gap in [vec![], vec![7; 100]] {
                let gaps = [gap, vec![]];
                let archive = Zip { wide, gaps, comment: comment.clone(), ..zip(&sound()) }.open().unwrap();
                let weights = archive.member(NAME).unwrap().unwrap();
                assert_eq!(weights.read_vec(0, weights.len()).unwrap(), DATA);
                assert_eq!(archive.text("metadata.json").unwrap().as_deref(), Some(TEXT));
                archive.verify().unwrap();
                assert!(archive.member("model.weights").unwrap().is_none());
            }
        }
    }
    assert!(zip(&[]).open().unwrap().member(NAME).unwrap().is_none());
}

#[test]
fn reads_texts_that_are_deflated() {
    let long = TEXT.repeat(30_000);
    for text in ["", TEXT, &long] {
        for wide in [false, true] {
            let parts = [Part::stored(NAME, DATA), Part::deflated("config.json", text.as_bytes())];
            let archive = Zip { wide, ..zip(&parts) }.open().unwrap();
            assert_eq!(archive.text("config.json").unwrap().as_deref(), Some(text));
            archive.verify().unwrap();
        }
    }
    let archive = zip(&[Part::deflated(NAME, DATA)]).open().unwrap();
    let error = archive.member(NAME).unwrap_err();
    assert_eq!(error.status(), Status::Unsupported);
    assert!(error.message().contains("without compression"), "{error}");
}

/// Sizes and checksums that a program without a way back has put behind the member.
#[test]
fn reads_members_that_were_streamed() {
    let mut parts = sound();
    for part in &mut parts {
        part.both(|entry| entry.flags = STREAMED);
        (part.local.crc, part.local.size, part.local.packed) = (0, 0, 0);
        part.bytes.extend(b"PK\x07\x08twelve bytes");
    }
    for wide in [false, true] {
        Zip { wide, ..zip(&parts) }.open().unwrap().verify().unwrap();
    }
    parts[0].local.size = 5;
    assert!(zip(&parts).refusal().contains("another size"));
}

const STREAMED: u16 = 1 << 3;

#[test]
fn refuses_numbers_that_are_wrong() {
    refused(|p| p.both(|e| (e.size, e.packed) = (90, 90)), "overlaps another one");
    refused(|p| p.both(|e| (e.size, e.packed) = (400, 400)), "overlaps another one");
    refused(|p| p.both(|e| e.size += 1), "two sizes differ");
    refused(|p| p.header = Some(40), "overlaps another one");
    refused(|p| p.header = Some(1 << 30), "beyond the members");
    refused(|p| p.both(|e| e.flags = 1), "encrypted");
    refused(|p| p.both(|e| e.flags = 1 << 13), "encrypted");
    refused(|p| p.both(|e| e.method = 14), "compressed (method 14)");
    let mut parts = sound();
    parts[1].both(|e| e.method = 14);
    assert!(zip(&parts).refusal().contains("unknown method 14"));
    refused(|p| p.central.disk = 1, "in several");
    for size in [u64::MAX, u64::MAX - 40, 1 << 63] {
        let mut parts = sound();
        parts[1].both(|e| (e.size, e.packed) = (size, size));
        assert!(Zip { wide: true, ..zip(&parts) }.refusal().contains("beyond the members"));
        parts = sound();
        parts[1].header = Some(size);
        assert!(Zip { wide: true, ..zip(&parts) }.refusal().contains("beyond the members"));
    }
    let mut parts = sound();
    parts[0].header = Some(1);
    parts[0].both(|e| (e.size, e.packed) = (20, 20));
    assert!(zip(&parts).refusal().contains("points to no member"));
}

#[test]
fn refuses_members_that_overlap() {
    // The same bytes under two names, and a member in another one's bytes.
    let mut parts = sound();
    parts[1].header = Some(0);
    assert!(zip(&parts).refusal().contains("overlaps another one"));
    let inner = zip(&[Part::stored("metadata.json", b"{}")]).bytes();
    let mut parts = [Part::stored(NAME, &inner), Part::stored("metadata.json", b"{}")];
    parts[1].header = Some(30 + NAME.len() as u64);
    assert!(zip(&parts).refusal().contains("overlaps another one"));
    // A local header whose extra field makes the member reach into the next one.
    let mut bytes = zip(&sound()).bytes();
    bytes[28] = 60;
    let error = open(&bytes).unwrap().member(NAME).unwrap_err();
    assert!(error.message().contains("beyond the room"), "{error}");
}

/// The directory is what we read, the header before a member what a program reads that goes through the file.
#[test]
fn refuses_headers_that_say_something_else() {
    refused(|p| p.local.name = b"model.weights.h6".to_vec(), "another name");
    refused(|p| p.local.name = b"metadata.json.bak".to_vec(), "another name");
    refused(|p| p.local.method = 8, "another method");
    refused(|p| p.local.size ^= 1, "another size");
    refused(|p| p.local.packed -= 1, "another size");
    refused(|p| p.local.crc ^= 1, "another checksum");
    refused(|p| p.local.flags = 1, "another encryption");
    let utf8 =
        |name: &str| [b"\x75\x70", &[5 + name.len() as u8, 0, 1, 0, 0, 0, 0][..], name.as_bytes()].concat();
    refused(|p| p.central.extra = utf8("config.json"), "two names");
    // Not ASCII: what such a field is for.
    let mut parts = sound();
    parts[1].central.extra = utf8("größe");
    zip(&parts).open().unwrap();
}

#[test]
fn refuses_names_that_lead_away_or_stand_twice() {
    for name in [
        "/etc/passwd",
        "../x",
        "assets/../../x",
        "..",
        "a\\..\\..\\x",
        "\\\\host\\x",
        "C:\\x",
        "config.json\0x",
    ] {
        let error = zip(&[Part::stored(NAME, DATA), Part::stored(name, b"")]).refusal();
        assert!(error.contains("leads out of"), "{name}: {error}");
    }
    for name in ["assets/", "assets/..a/b...c", "größe"] {
        zip(&[Part::stored(NAME, DATA), Part::stored(name, b"")]).open().unwrap();
    }
    let [a, b] = sound();
    assert!(zip(&[a.clone(), b, a]).refusal().contains("twice"));
}

#[test]
fn refuses_ends_that_programs_would_disagree_on() {
    let with = |change: fn(&mut [u8]), wide| Zip { end: change, wide, ..zip(&sound()) }.refusal();
    assert!(with(|end| end[8] = 1, false).contains("in several"));
    assert!(with(|end| end[4] = 1, false).contains("in several"));
    assert!(with(|end| end[8..12].fill(3), false).contains("room for"));
    assert!(with(|end| (end[8], end[10]) = (1, 1), false).contains("and something else"));
    assert!(with(|end| end[12] += 1, false).contains("does not reach"));
    assert!(with(|end| end[16] -= 1, false).contains("does not reach"));
    assert!(with(|end| end[19] = 0x7f, false).contains("does not reach"));
    assert!(with(|end| end[16..20].fill(0xff), false).contains("Zip64 directory is missing"));
    // Zip64's: size of the record, disks, counts, length, offset, locator; and the old record beside them.
    assert!(with(|end| end[4] += 1, true).contains("Zip64 directory is missing"));
    assert!(with(|end| end[16] = 1, true).contains("in several"));
    assert!(with(|end| end[24] = 1, true).contains("in several"));
    assert!(with(|end| (end[24], end[32]) = (1, 1), true).contains("and something else"));
    assert!(with(|end| end[39] = 0xff, true).contains("in several"));
    assert!(with(|end| end[40] += 1, true).contains("does not reach"));
    assert!(with(|end| end[48..56].fill(0xff), true).contains("does not reach"));
    assert!(with(|end| end[64] += 1, true).contains("Zip64 directory is missing"));
    assert!(with(|end| end[64..72].fill(0xff), true).contains("Zip64 directory is missing"));
    assert!(with(|end| end[56..60].fill(0), true).contains("Zip64 directory is missing"));
    assert!(with(|end| end[92..96].fill(1), true).contains("not the same"));
    assert!(with(|end| end[86..88].fill(1), true).contains("not the same"));
    // Bytes behind the directory; behind the end; an end in the comment, which programs that search find first.
    let gap = Zip { gaps: [vec![], vec![0; 8]], ..zip(&sound()) };
    assert!(gap.refusal().contains("does not reach"));
    let tail = [zip(&sound()).bytes(), vec![0; 5]].concat();
    assert!(open(&tail).unwrap_err().message().contains("cut off"));
    let other = zip(&[Part::stored("metadata.json", b"{}")]).bytes();
    let nested = Zip { comment: other.clone(), ..zip(&sound()) };
    assert!(nested.refusal().contains("does not reach"));
    let nested = Zip { comment: [other, vec![0; 3]].concat(), ..zip(&sound()) };
    assert!(nested.refusal().contains("holds another end"));
}

#[test]
fn refuses_bombs() {
    // As large as it says, and too large for the archive.
    let bomb = |len: usize| [Part::stored(NAME, DATA), Part::deflated("metadata.json", &vec![b' '; len])];
    let mut parts = bomb(20 << 20);
    assert!(zip(&parts).refusal().contains("more than"));
    let archive = zip(&parts).open().unwrap();
    assert!(archive.text("metadata.json").unwrap_err().message().contains("more than"));
    assert!(archive.member(NAME).unwrap().is_some());
    // Larger, smaller than it says.
    parts[1].both(|e| e.size = 100);
    assert!(zip(&parts).refusal().contains("more than the 100 bytes"));
    parts[1].both(|e| e.size = 0);
    assert!(zip(&parts).refusal().contains("more than the 0 bytes"));
    parts = bomb(1000);
    parts[1].both(|e| e.size += 1);
    assert!(zip(&parts).refusal().contains("said to have 1001"));
    // Cut off, going on, not deflated.
    parts = bomb(1000);
    let packed = parts[1].bytes.len() as u64;
    parts[1].both(|e| e.packed = packed - 1);
    assert!(zip(&parts).refusal().contains("cut off"));
    parts = bomb(1000);
    parts[1].both(|e| e.packed += 1);
    parts[1].bytes.push(0);
    assert!(zip(&parts).refusal().contains("go on behind"));
    parts[1].bytes.fill(0xff);
    assert!(zip(&parts).refusal().contains("cannot be unpacked"));
    // Many small ones.
    let many: Vec<_> =
        (0..30).map(|i| Part::deflated(&format!("assets/{i}"), &vec![b' '; 1 << 20])).collect();
    assert!(zip(&many).open().unwrap().verify().unwrap_err().message().contains("more than"));
}

#[test]
fn refuses_archives_cut_anywhere() {
    for wide in [false, true] {
        let bytes = Zip { wide, ..zip(&sound()) }.bytes();
        for len in 0..bytes.len() {
            assert!(open(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn finds_a_changed_byte() {
    for part in [Part::stored, Part::deflated] {
        let mut bytes = zip(&[part("config.json", TEXT.as_bytes())]).bytes();
        bytes[30 + "config.json".len() + 5] ^= 1;
        let archive = open(&bytes).unwrap();
        assert!(archive.verify().unwrap_err().message().contains("'config.json'"));
        assert!(archive.text("config.json").is_err());
    }
}
