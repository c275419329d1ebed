//! HDF5 files that are put together structure by structure, and what an attack with one comes to.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::Path;
use std::time::Duration;

use ckpt::error::Status;
use ckpt::reader::Reader;

use crate::layout_support::Scratch;
use crate::meter::{Memory, thread_time};

/// The kinds of messages in object headers.
pub mod kind {
    pub const DATASPACE: u16 = 0x01;
    pub const LINK_INFO: u16 = 0x02;
    pub const DATATYPE: u16 = 0x03;
    pub const LINK: u16 = 0x06;
    pub const LAYOUT: u16 = 0x08;
    pub const ATTRIBUTE: u16 = 0x0c;
    pub const CONTINUATION: u16 = 0x10;
    pub const SYMBOL_TABLE: u16 = 0x11;
    pub const DRIVER_INFO: u16 = 0x14;
    pub const CACHE_IMAGE: u16 = 0x18;
}

/// No address.
pub const UNDEFINED: u64 = u64::MAX;

/// A file whose superblock has version 0. Structures are put behind each other; an address is where one begins.
pub struct Image(pub Vec<u8>);

/// Where the root group's header is.
pub const ROOT: u64 = 96;

pub fn words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// A message of an old object header, padded.
pub fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let len = body.len().next_multiple_of(8);
    let mut out = [&kind.to_le_bytes()[..], &(len as u16).to_le_bytes(), &[0; 4], body].concat();
    out.resize(8 + len, 0);
    out
}

/// An old object header.
pub fn header(messages: &[Vec<u8>]) -> Vec<u8> {
    let body = messages.concat();
    let mut out = vec![1, 0];
    out.extend((messages.len() as u16).to_le_bytes());
    out.extend([1, 0, 0, 0]);
    out.extend((body.len() as u32).to_le_bytes());
    out.extend([0; 4]);
    out.extend(body);
    out
}

/// The mark of a group whose links are messages.
pub fn group_mark() -> Vec<u8> {
    message(kind::LINK_INFO, &[&[0, 0][..], &words(&[UNDEFINED, UNDEFINED])].concat())
}

/// A link message to a header.
pub fn link(name: &str, header: u64) -> Vec<u8> {
    let body = [&[1, 1][..], &(name.len() as u16).to_le_bytes(), name.as_bytes(), &words(&[header])].concat();
    message(kind::LINK, &body)
}

pub const INT8: [u8; 12] = [0x10, 8, 0, 0, 1, 0, 0, 0, 0, 0, 8, 0];

/// The layout of a contiguous dataset.
pub fn contiguous(at: u64, size: u64) -> Vec<u8> {
    [&[3, 1][..], &words(&[at, size])].concat()
}

/// A dataset of bytes.
pub fn dataset(shape: &[u64], layout: &[u8]) -> Vec<u8> {
    let space = [&[1, shape.len() as u8, 0, 0, 0, 0, 0, 0][..], &words(shape)].concat();
    header(&[message(kind::DATASPACE, &space), message(kind::DATATYPE, &INT8), message(kind::LAYOUT, layout)])
}

/// A `name` attribute whose text is in a global heap.
pub fn name_attribute(len: u32, heap: u64, index: u32) -> Vec<u8> {
    let string = [0x19, 1, 1, 0, 16, 0, 0, 0, 0x13, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let mut body = vec![1, 0, 5, 0, 20, 0, 8, 0];
    body.extend(b"name\0\0\0\0");
    body.extend(string);
    body.extend([0; 4]);
    body.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    body.extend(len.to_le_bytes());
    body.extend(words(&[heap]));
    body.extend(index.to_le_bytes());
    message(kind::ATTRIBUTE, &body)
}

impl Image {
    /// A superblock; what the root is comes later.
    pub fn empty() -> Image {
        let mut out = b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0\x04\0\x10\0\0\0\0\0".to_vec();
        out.extend(words(&[0, UNDEFINED, 0, UNDEFINED, 0, 0, 0, 0, 0]));
        Image(out)
    }

    /// A file whose root group's header is this one, at [`ROOT`].
    pub fn new(root: &[u8]) -> Image {
        let mut image = Image::empty();
        image.root(root);
        image
    }

    /// A file whose root group has these objects.
    pub fn with(objects: &[(&str, Vec<u8>)]) -> Image {
        let mut image = Image::empty();
        let mut root = vec![group_mark()];
        for (name, object) in objects {
            root.push(link(name, image.put(object)));
        }
        image.root(&header(&root));
        image
    }

    /// Puts the header of the root group.
    pub fn root(&mut self, header: &[u8]) {
        let at = self.put(header);
        self.set(64, &words(&[at]));
    }

    /// The address that the next structure gets.
    pub fn end(&self) -> u64 {
        self.0.len() as u64
    }

    pub fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.end();
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        at
    }

    pub fn set(&mut self, at: u64, bytes: &[u8]) {
        self.0[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// The file, its end where the superblock says.
    pub fn finish(mut self) -> Vec<u8> {
        let end = self.end();
        self.set(40, &words(&[end]));
        self.0
    }

    /// Why it is refused.
    #[track_caller]
    pub fn refusal(self) -> String {
        refusal(&self.finish())
    }
}

/// Memory that a reader has for itself, whatever the file.
pub const ROOM: u64 = 4 << 20;

/// And that much more for each byte of JSON, all of it entries of a few bytes.
pub const JSON: u64 = 8;

/// Opens a file, reads and verifies all that is in it; says what became of it. That must take less than a second
/// of computing, and no more memory than twice the file and what the tensors have.
#[track_caller]
pub fn attack(bytes: &[u8]) -> Result<Found, String> {
    let scratch = Scratch::new("hostile");
    let is_json = bytes.starts_with(b"{") || bytes.get(8) == Some(&b'{');
    let more = if is_json { JSON * bytes.len() as u64 } else { 0 };
    attack_path(&scratch.write("file", bytes), bytes.len() as u64, more)
}

/// What was read.
#[derive(Debug)]
pub struct Found {
    /// Paths and bytes of the tensors.
    pub tensors: Vec<(String, Vec<u8>)>,
    pub names: Vec<(String, String)>,
}

/// As [`attack`], of a file that has `len` bytes, with `more` memory than otherwise.
#[track_caller]
pub fn attack_path(path: &Path, len: u64, more: u64) -> Result<Found, String> {
    let (memory, start) = (Memory::start(), thread_time());
    let mut tensors = 0;
    let found = read(path, &mut tensors);
    let (peak, took) = (memory.peak(), thread_time() - start);
    let most = 2 * len + 2 * tensors + ROOM + more;
    assert!(peak <= most, "{peak} bytes of memory for a file of {len}: {:?}", found.map(|_| ()));
    assert!(took < Duration::from_secs(1), "it computed for {took:?}: {:?}", found.map(|_| ()));
    found
}

fn read(path: &Path, nbytes: &mut u64) -> Result<Found, String> {
    let refused = |e: ckpt::error::Error| {
        assert!(matches!(e.status(), Status::Format | Status::Unsupported), "{:?}: {e}", e.status());
        e.message().to_owned()
    };
    let reader = Reader::open(path).map_err(refused)?;
    reader.verify().map_err(refused)?;
    reader.config().map_err(refused)?;
    reader.metadata().map_err(refused)?;
    reader.state().map_err(refused)?;
    let mut tensors = Vec::new();
    for (i, spec) in reader.tensors().iter().enumerate() {
        *nbytes += spec.nbytes();
        assert!(*nbytes < 64 << 20, "the file gives more and more");
        let mut bytes = vec![0; spec.nbytes() as usize];
        reader.read(i, &mut bytes).map_err(refused)?;
        tensors.push((spec.path.clone(), bytes));
    }
    let names = reader.names().map(|(group, name)| (group.to_owned(), name.to_owned())).collect();
    Ok(Found { tensors, names })
}

/// Why a file is refused.
#[track_caller]
pub fn refusal(bytes: &[u8]) -> String {
    attack(bytes).expect_err("it was read")
}
