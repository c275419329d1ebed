//! Archives made by hand: with 64-bit numbers where they are not needed, and with numbers that are wrong.

use super::*;

const NAME: &[u8] = b"model.weights.h5";
const DATA: &[u8] = b"these are the weights";

/// Fields of an archive of one member; each test breaks one.
struct Parts {
    wide: bool,
    flags: u16,
    method: u16,
    size: u64,
    header: u64,
    directory: Option<u64>,
    count: u64,
    disk: u16,
    comment: Vec<u8>,
}

impl Default for Parts {
    fn default() -> Parts {
        let size = DATA.len() as u64;
        Parts {
            wide: false,
            flags: 0,
            method: 0,
            size,
            header: 0,
            directory: None,
            count: 1,
            disk: 0,
            comment: Vec::new(),
        }
    }
}

impl Parts {
    fn bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([0; 22]);
        out.extend((NAME.len() as u16).to_le_bytes());
        out.extend([3, 0]);
        out.extend([NAME, b"pad", DATA].concat());
        let directory = self.directory.unwrap_or(out.len() as u64);
        let narrow = |n: u64| if self.wide { u32::MAX } else { n as u32 };

        let begin = out.len();
        let extra = if self.wide { 28_u16 } else { 0 };
        out.extend(b"PK\x01\x02\0\0\0\0");
        out.extend([self.flags, self.method].map(u16::to_le_bytes).concat());
        out.extend([0; 4]);
        let crc = crc32fast::hash(DATA);
        out.extend([crc, narrow(self.size), narrow(self.size)].map(u32::to_le_bytes).concat());
        out.extend([NAME.len() as u16, extra, 0, 0, 0].map(u16::to_le_bytes).concat());
        out.extend([0, narrow(self.header)].map(u32::to_le_bytes).concat());
        out.extend(NAME);
        if self.wide {
            out.extend([1_u16, 24].map(u16::to_le_bytes).concat());
            out.extend([self.size, self.size, self.header].map(u64::to_le_bytes).concat());
        }
        let len = (out.len() - begin) as u64;
        if self.wide {
            let record = out.len() as u64;
            out.extend(b"PK\x06\x06");
            out.extend([0; 20]);
            out.extend([self.count, self.count, len, directory].map(u64::to_le_bytes).concat());
            out.extend(b"PK\x06\x07\0\0\0\0");
            out.extend(record.to_le_bytes());
            out.extend([1, 0, 0, 0]);
        }
        out.extend(b"PK\x05\x06");
        let count = if self.wide { u16::MAX } else { self.count as u16 };
        out.extend([self.disk, self.disk, count, count].map(u16::to_le_bytes).concat());
        out.extend([narrow(len), narrow(directory)].map(u32::to_le_bytes).concat());
        out.extend((self.comment.len() as u16).to_le_bytes());
        out.extend(&self.comment);
        out
    }

    fn open(&self) -> Result<Archive> {
        open(&self.bytes())
    }

    fn refusal(&self) -> String {
        let member = self.open().and_then(|archive| archive.member("model.weights.h5"));
        member.expect_err("it was read").to_string()
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

#[test]
fn reads_narrow_and_wide_archives() {
    // A comment that looks like an end record is none, unless it ends with the file.
    for comment in [vec![], b"PK\x05\x06 is how an archive ends, more or less".to_vec()] {
        for wide in [false, true] {
            let archive = Parts { wide, comment: comment.clone(), ..Parts::default() }.open().unwrap();
            let text = archive.text("model.weights.h5").unwrap();
            assert_eq!(text.as_deref().map(str::as_bytes), Some(DATA));
            archive.verify().unwrap();
            assert!(archive.member("model.weights").unwrap().is_none());
        }
    }
}

#[test]
fn refuses_numbers_that_are_wrong() {
    for wide in [false, true] {
        let parts = || Parts { wide, ..Parts::default() };
        assert!(Parts { size: DATA.len() as u64 + 1, ..parts() }.refusal().contains("beyond the members"));
        assert!(Parts { header: 5, ..parts() }.refusal().contains("points to no member"));
        assert!(Parts { header: 1 << 30, ..parts() }.refusal().contains("beyond the end"));
        assert!(Parts { directory: Some(1 << 30), ..parts() }.refusal().contains("beyond its end"));
        assert!(Parts { directory: Some(3), ..parts() }.refusal().contains("cut off"));
        assert!(Parts { count: 2, ..parts() }.refusal().contains("promises 2 members"));
        assert!(Parts { flags: 1, ..parts() }.refusal().contains("encrypted"));
        assert!(Parts { method: 8, ..parts() }.refusal().contains("compressed"));
    }
    assert!(Parts { disk: 1, ..Parts::default() }.refusal().contains("in several"));
    for size in [u64::MAX, u64::MAX - 40, 1 << 63] {
        assert!(Parts { wide: true, size, ..Parts::default() }.refusal().contains("beyond the members"));
        assert!(Parts { wide: true, header: size, ..Parts::default() }.refusal().contains("beyond the end"));
        assert!(
            Parts { wide: true, directory: Some(size), ..Parts::default() }
                .refusal()
                .contains("beyond its end")
        );
    }
}

#[test]
fn refuses_archives_cut_anywhere() {
    for wide in [false, true] {
        let bytes = Parts { wide, ..Parts::default() }.bytes();
        for len in 0..bytes.len() {
            assert!(open(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn finds_a_changed_byte() {
    let mut bytes = Parts::default().bytes();
    bytes[30 + NAME.len() + 5] ^= 1;
    let archive = open(&bytes).unwrap();
    assert!(archive.verify().unwrap_err().message().contains("'model.weights.h5'"));
    assert!(archive.text("model.weights.h5").is_err());
}
