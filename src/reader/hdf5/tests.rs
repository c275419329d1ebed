//! Files made by hand to do harm: each must be refused, quickly, with the reason.

mod chunks;
mod dense;
mod storage;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::reader::hdf5;

/// An HDF5 file that is put together structure by structure.
struct Image(Vec<u8>);

const ROOT: u64 = 96;

fn words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(body.len() as u16).to_le_bytes(), &[0; 4], body].concat()
}

fn header(messages: &[Vec<u8>]) -> Vec<u8> {
    let body = messages.concat();
    let mut out = vec![1, 0, messages.len() as u8, 0, 1, 0, 0, 0];
    out.extend((body.len() as u32).to_le_bytes());
    out.extend([0; 4]);
    out.extend(body);
    out
}

impl Image {
    /// A superblock whose root group has these messages.
    fn new(messages: &[Vec<u8>]) -> Image {
        let mut out = b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0\x04\0\x10\0\0\0\0\0".to_vec();
        out.extend(words(&[0, u64::MAX, 0, u64::MAX, 0, ROOT, 0, 0, 0]));
        let mut image = Image(out);
        assert_eq!(image.put(&header(messages)), ROOT);
        image
    }

    fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.0.len() as u64;
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        at
    }

    fn read(mut self) -> Result<Tree> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let end = (self.0.len() as u64).to_le_bytes();
        self.0[40..48].copy_from_slice(&end);
        let name = format!("ckpt-hdf5-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path: PathBuf = std::env::temp_dir().join(name);
        std::fs::write(&path, &self.0).unwrap();
        let source = Source::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let start = Instant::now();
        let tree = hdf5::read(&source, 0, None);
        assert!(start.elapsed() < Duration::from_secs(2));
        tree
    }
}

/// A link message to a header.
fn link(name: &str, header: u64) -> Vec<u8> {
    let mut body = vec![1, 0, name.len() as u8];
    body.extend(name.as_bytes());
    body.extend(words(&[header]));
    message(kind::LINK, &body)
}

/// A group's mark, without a fractal heap.
fn compact() -> Vec<u8> {
    message(kind::LINK_INFO, &[&[0, 0][..], &words(&[u64::MAX, u64::MAX])].concat())
}

fn dataset(dims: &[u64], datatype: &[u8], layout: &[u8]) -> Vec<u8> {
    dataset_with(dims, None, datatype, layout, &[])
}

/// A dataset that can grow, or that has more messages.
fn dataset_with(
    dims: &[u64],
    max: Option<&[u64]>,
    datatype: &[u8],
    layout: &[u8],
    more: &[Vec<u8>],
) -> Vec<u8> {
    let mut space = vec![1, dims.len() as u8, u8::from(max.is_some()), 0, 0, 0, 0, 0];
    space.extend(words(dims));
    space.extend(words(max.unwrap_or_default()));
    let messages =
        [message(kind::DATASPACE, &space), message(kind::DATATYPE, datatype), message(kind::LAYOUT, layout)];
    header(&[&messages, more].concat())
}

const INT8: [u8; 12] = [0x10, 8, 0, 0, 1, 0, 0, 0, 0, 0, 8, 0];

fn contiguous(offset: u64, size: u64) -> Vec<u8> {
    [&[3, 1][..], &words(&[offset, size])].concat()
}

fn with_datasets(datasets: &[Vec<u8>]) -> Image {
    let names: Vec<_> = (0..datasets.len()).map(|i| format!("d{i}")).collect();
    let links = |at: &[u64]| -> Vec<Vec<u8>> {
        let links = names.iter().zip(at).map(|(name, at)| link(name, *at));
        std::iter::once(compact()).chain(links).collect()
    };
    let mut at = ROOT + header(&links(&vec![0; datasets.len()])).len().next_multiple_of(8) as u64;
    let mut places = Vec::new();
    for dataset in datasets {
        places.push(at);
        at += dataset.len().next_multiple_of(8) as u64;
    }
    let mut image = Image::new(&links(&places));
    for (dataset, place) in datasets.iter().zip(places) {
        assert_eq!(image.put(dataset), place);
    }
    image
}

fn refusal(image: Image) -> String {
    image.read().expect_err("it was read").to_string()
}

/// The first tensor of a file, decoded.
fn decoded(image: Image) -> Result<Vec<u8>> {
    let tree = image.read()?;
    let (spec, place) = &tree.tensors[0];
    let mut bytes = vec![0xee; spec.nbytes() as usize];
    let start = Instant::now();
    match place {
        Place::Here(offset) => tree.source.read_at(*offset, &mut bytes)?,
        Place::Decoded(header) => decode(&tree.source, *header, spec, &mut bytes)?,
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    Ok(bytes)
}

fn undecoded(image: Image) -> String {
    decoded(image).expect_err("it was read").to_string()
}

/// A structure with its checksum.
fn sealed(body: &[u8]) -> Vec<u8> {
    [body, &checksum::lookup3(body).to_le_bytes()].concat()
}

#[test]
fn reads_what_is_sound() {
    let tree = with_datasets(&[
        dataset(&[8], &INT8, &contiguous(0, 8)),
        dataset(&[4, 2], &INT8, &contiguous(8, 8)),
        dataset(&[], &INT8, &[3, 0, 1, 0, 42]),
        dataset(&[3, 0], &INT8, &contiguous(u64::MAX, 0)),
    ])
    .read()
    .unwrap();
    let shapes: Vec<_> = tree.tensors.iter().map(|(spec, _)| spec.shape.clone()).collect();
    assert_eq!(shapes, [vec![8], vec![4, 2], vec![], vec![3, 0]]);
    assert_eq!(tree.tensors[1].1, Place::Here(8));
    let Place::Here(compact) = tree.tensors[2].1 else { panic!("not here") };
    let mut byte = [0];
    tree.source.read_at(compact, &mut byte).unwrap();
    assert_eq!(byte, [42]);
}

#[test]
fn refuses_extents_that_lie_outside_or_overlap() {
    let far = dataset(&[8], &INT8, &contiguous(1 << 40, 8));
    assert!(refusal(with_datasets(&[far])).contains("beyond the end"));
    let wraps = dataset(&[8], &INT8, &contiguous(u64::MAX - 3, 8));
    assert!(refusal(with_datasets(&[wraps])).contains("beyond the end"));
    let short = dataset(&[9], &INT8, &contiguous(0, 8));
    assert!(refusal(with_datasets(&[short])).contains("needs 9 bytes"));
    let bomb = dataset(&[1 << 40, 1 << 40], &INT8, &contiguous(0, 8));
    assert!(refusal(with_datasets(&[bomb])).contains("2^63"));
    let two = [dataset(&[8], &INT8, &contiguous(0, 8)), dataset(&[8], &INT8, &contiguous(7, 8))];
    assert!(refusal(with_datasets(&two)).contains("overlap"));
}

#[test]
fn refuses_headers_that_never_end() {
    let next = message(kind::CONTINUATION, &words(&[ROOT + 16, 24]));
    assert!(refusal(Image::new(&[next])).contains("without end"));
    let far = message(kind::CONTINUATION, &words(&[1 << 50, 24]));
    assert!(refusal(Image::new(&[far])).contains("beyond its end"));
    let mut huge = Image::new(&[compact()]);
    huge.0[ROOT as usize + 8..][..4].fill(0xff);
    assert!(refusal(huge).contains("beyond its end"));
}

#[test]
fn refuses_groups_in_circles() {
    let image = Image::new(&[compact(), link("self", ROOT)]);
    assert!(refusal(image).contains("linked to from another place"));
    let twice = Image::new(&[compact(), link("a", ROOT), link("a", ROOT)]);
    assert!(refusal(twice).contains("twice"));
    for name in ["", "a/b", "a\0b"] {
        assert!(
            refusal(Image::new(&[compact(), link(name, ROOT)])).contains("cannot be the name"),
            "{name:?}"
        );
    }
}

/// Trees of nodes that have the same child many times: 30 to the power of 8 leaves.
#[test]
fn refuses_trees_that_multiply() {
    let mut image = Image::new(&[message(kind::SYMBOL_TABLE, &words(&[0, 0]))]);
    let names = image.put(b"\0\0\0\0\0\0\0\0a\0\0\0\0\0\0\0");
    let heap = image.put(&[&b"HEAP\0\0\0\0"[..], &words(&[16, 1, names])].concat());
    let mut child = image.put(b"SNOD\x01\0\0\0");
    for level in 0..8 {
        let mut node = [&b"TREE\0"[..], &[level, 30, 0], &words(&[u64::MAX, u64::MAX])].concat();
        for _ in 0..30 {
            node.extend(words(&[8, child]));
        }
        node.extend(words(&[8]));
        child = image.put(&node);
    }
    let at = ROOT as usize + 24;
    image.0[at..at + 16].copy_from_slice(&words(&[child, heap]));
    assert!(refusal(image).contains("over and over"));
}

/// A file whose root is a symbol table: a B-tree with these children over a heap of these bytes. `nodes` puts the
/// children; it gets the address of the first.
fn with_table(heap: &[u8], nodes: &[u8], children: impl Fn(u64) -> Vec<u64>) -> Image {
    let mut image = Image::new(&[message(kind::SYMBOL_TABLE, &words(&[0, 0]))]);
    let names = image.put(heap);
    let heap = image.put(&[&b"HEAP\0\0\0\0"[..], &words(&[heap.len() as u64, 1, names])].concat());
    let children = children(image.put(nodes));
    let mut node = b"TREE\0\0".to_vec();
    node.extend((children.len() as u16).to_le_bytes());
    node.extend(words(&[u64::MAX, u64::MAX]));
    node.extend(children.iter().flat_map(|&child| words(&[8, child])));
    let tree = image.put(&node);
    let at = ROOT as usize + 24;
    image.0[at..at + 16].copy_from_slice(&words(&[tree, heap]));
    image
}

/// A node of links by the places of their names; `pad` is at the end of each.
fn symbols(names: &[u64], pad: [u64; 2]) -> Vec<u8> {
    let mut node = b"SNOD\x01\0".to_vec();
    node.extend((names.len() as u16).to_le_bytes());
    node.extend(names.iter().flat_map(|&name| words(&[name, ROOT, 0, pad[0], pad[1]])));
    node
}

#[test]
fn refuses_links_that_a_file_has_no_room_for() {
    let heap: Vec<u8> = (0..200).flat_map(|i| format!("{i:07}\0").into_bytes()).collect();
    let many: Vec<u64> = (0..200).map(|i| i * 8).collect();
    let same = with_table(&heap, &symbols(&many, [0; 2]), |node| vec![node; 50_000]);
    assert!(refusal(same).contains("over and over"));
    // In the end of each link, another node begins.
    let node = u64::from_le_bytes(*b"SNOD\x01\0\x64\0");
    let shifted = with_table(&heap, &symbols(&many, [node, 0]), |at| vec![at, at + 8 + 24, at + 8 + 64]);
    assert!(refusal(shifted).contains("more links than a file of this size"));
    let tails = with_table(&[b'a'; 1600], &symbols(&many[..100], [0; 2]), |node| vec![node]);
    assert!(refusal(tails).contains("longer than their heap"));
    // A hole in a file: every link has the first name.
    let hole = with_table(b"a\0", &symbols(&[0; 60_000], [0; 2]), |node| vec![node]);
    assert!(refusal(hole).contains("twice"));
}

#[test]
fn refuses_heaps_that_claim_too_much() {
    let mut image = Image::new(&[message(kind::SYMBOL_TABLE, &words(&[0, 0]))]);
    let heap = image.put(&[&b"HEAP\0\0\0\0"[..], &words(&[1 << 62, 1, 0])].concat());
    let at = ROOT as usize + 32;
    image.0[at..at + 8].copy_from_slice(&words(&[heap]));
    assert!(refusal(image).contains("beyond its end"));
}

#[test]
fn orders_paths_as_trees() {
    let mut paths = ["a/b", "a.b", "a", "a/b/c", "ab", "a b/x", "b"];
    paths.sort_by(|a, b| path_order(a, b));
    assert_eq!(paths, ["a", "a/b", "a/b/c", "a b/x", "a.b", "ab", "b"]);
}
