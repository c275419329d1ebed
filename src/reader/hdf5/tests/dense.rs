//! Fractal heaps that are damaged or made to do harm.

use super::*;

const NONE: u64 = u64::MAX;

/// A heap with blocks of 512 bytes, 4 a row, and offsets of 4 bytes.
fn heap_header(root: u64, rows: u16, huge: u64) -> Vec<u8> {
    let mut out = b"FRHP\0\x07\0\0\0\x02".to_vec();
    out.extend(4096_u32.to_le_bytes());
    out.extend(words(&[0, huge]));
    out.extend([0; 80]);
    out.extend(4_u16.to_le_bytes());
    out.extend(words(&[512, 65536]));
    out.extend([32, 0, 1, 0]);
    out.extend(words(&[root]));
    out.extend(rows.to_le_bytes());
    sealed(&out)
}

/// A block of objects with its checksum.
fn block(heap: u64, offset: u32, objects: &[u8]) -> Vec<u8> {
    let mut out = b"FHDB\0".to_vec();
    out.extend(words(&[heap]));
    out.extend(offset.to_le_bytes());
    out.extend([0; 4]);
    out.extend(objects);
    out.resize(512, 0);
    let sum = checksum::lookup3(&out);
    out[17..21].copy_from_slice(&sum.to_le_bytes());
    out
}

/// An index of names of kind 5, in one leaf.
fn index(at: u64, ids: &[[u8; 7]]) -> Vec<u8> {
    let mut head = b"BTHD\0\x05".to_vec();
    head.extend(512_u32.to_le_bytes());
    head.extend(11_u16.to_le_bytes());
    head.extend([0, 0, 100, 40]);
    head.extend(words(&[at + 38]));
    head.extend((ids.len() as u16).to_le_bytes());
    head.extend(words(&[ids.len() as u64]));
    let records = ids.iter().flat_map(|id| [&[0; 4], &id[..]].concat());
    let leaf = b"BTLF\0\x05".iter().copied().chain(records).collect::<Vec<_>>();
    [sealed(&head), sealed(&leaf)].concat()
}

/// The identifier of an object in a block.
fn id(offset: u32, len: u16) -> [u8; 7] {
    let mut out = [0; 7];
    out[1..5].copy_from_slice(&offset.to_le_bytes());
    out[5..].copy_from_slice(&len.to_le_bytes());
    out
}

/// A link message of 14 bytes.
fn body(name: &str, header: u64) -> Vec<u8> {
    [&[1, 0, name.len() as u8][..], name.as_bytes(), &words(&[header])].concat()
}

/// A file whose root is a large group. `heap` gets the address of the heap and makes it; then come the index and a
/// dataset, whose address is that of the heap and `DATASET`.
fn group(ids: &[[u8; 7]], heap: impl Fn(u64) -> Vec<u8>) -> Image {
    let info =
        |heap: u64, index: u64| message(kind::LINK_INFO, &[&[0, 0][..], &words(&[heap, index])].concat());
    let at = ROOT + header(&[info(0, 0)]).len().next_multiple_of(8) as u64;
    let mut image = Image::new(&[info(at, at + INDEX)]);
    let mut bytes = heap(at);
    assert!(bytes.len() as u64 <= DATASET);
    bytes.resize(DATASET as usize, 0);
    bytes.extend(dataset(&[8], &INT8, &contiguous(0, 8)));
    bytes.resize(INDEX as usize, 0);
    bytes.extend(index(at + INDEX, ids));
    assert_eq!(image.put(&bytes), at);
    image
}

const DATASET: u64 = 4096;
const INDEX: u64 = 4608;

/// The heap of a root block: its header, and a block of two links.
fn simple(at: u64) -> Vec<u8> {
    let links = [body("abc", at + DATASET), body("xyz", at + DATASET)].concat();
    [heap_header(at + 146, 0, NONE), block(at, 0, &links)].concat()
}

fn names(image: Image) -> Vec<String> {
    image.read().unwrap().tensors.into_iter().map(|(spec, _)| spec.path).collect()
}

#[test]
fn reads_sound_heaps() {
    assert_eq!(names(group(&[id(21, 14), id(35, 14)], simple)), ["abc", "xyz"]);
    // A block of blocks: the second of its first row, then the third of its second, which begins at 2048.
    let rows = |at: u64| {
        let first = at + 146 + 1000;
        let mut children = [NONE; 8];
        (children[1], children[6]) = (first, first + 512);
        let mut indirect = b"FHIB\0".to_vec();
        indirect.extend(words(&[at]));
        indirect.extend([0; 4]);
        indirect.extend(words(&children));
        let mut out = [heap_header(at + 146, 2, NONE), sealed(&indirect)].concat();
        out.resize(146 + 1000, 0);
        out.extend(block(at, 512, &body("abc", at + DATASET)));
        out.extend(block(at, 2048 + 1024, &body("xyz", at + DATASET)));
        out
    };
    assert_eq!(names(group(&[id(512 + 21, 14), id(3072 + 21, 14)], rows)), ["abc", "xyz"]);
    assert!(refusal(group(&[id(21, 14)], rows)).contains("outside its fractal heap"));
    // An object by itself, and one in its identifier (which is no link: too short).
    let huge = |at: u64| {
        let mut out = [simple(at), body("far", at + DATASET)].concat();
        out.resize(1000, 0);
        let mut head = b"BTHD\0\x01".to_vec();
        head.extend(512_u32.to_le_bytes());
        head.extend(24_u16.to_le_bytes());
        head.extend([0, 0, 100, 40]);
        head.extend(words(&[at + 1038]));
        head.extend([1, 0]);
        head.extend(words(&[1]));
        out.extend(sealed(&head));
        out.extend(sealed(&[&b"BTLF\0\x01"[..], &words(&[at + 146 + 512, 14, 7])].concat()));
        out[..146].copy_from_slice(&heap_header(at + 146, 0, at + 1000));
        out
    };
    assert_eq!(names(group(&[[0x10, 7, 0, 0, 0, 0, 0], id(21, 14)], huge)), ["abc", "far"]);
    assert!(refusal(group(&[[0x10, 8, 0, 0, 0, 0, 0]], huge)).contains("is not in its fractal heap"));
    assert!(refusal(group(&[[0x25, 1, 0, 1, b'a', 0, 0]], simple)).contains("cut off"));
    assert!(refusal(group(&[[0x2f, 1, 0, 1, b'a', 0, 0]], simple)).contains("cut off"));
    assert!(refusal(group(&[[0x30; 7]], simple)).contains("unknown kind"));
}

#[test]
fn refuses_objects_that_lie_elsewhere() {
    for bad in [id(0, 14), id(20, 14), id(500, 14), id(512, 14), id(u32::MAX, u16::MAX)] {
        assert!(refusal(group(&[bad], simple)).contains("outside its fractal heap"), "{bad:?}");
    }
    assert!(refusal(group(&[id(21, 14), id(21, 14)], simple)).contains("twice"));
    assert!(refusal(group(&[id(21, 13)], simple)).contains("cut off"));
    let wrong = |at: u64| [heap_header(at + 146, 0, NONE), block(at + 8, 0, &[])].concat();
    assert!(refusal(group(&[], wrong)).contains("another place"));
    let shifted = |at: u64| [heap_header(at + 146, 0, NONE), block(at, 512, &[])].concat();
    assert!(refusal(group(&[], shifted)).contains("another place"));
    let flipped = |at: u64| {
        let mut bytes = simple(at);
        bytes[146 + 300] ^= 1;
        bytes
    };
    assert!(refusal(group(&[], flipped)).contains("checksum"));
}

#[test]
fn refuses_heaps_in_circles() {
    // A block of blocks that names itself, and one with the same child many times.
    let rows = |at: u64, count: u16, child: u64| {
        let mut indirect = b"FHIB\0".to_vec();
        indirect.extend(words(&[at]));
        indirect.extend([0; 4]);
        indirect.extend(words(&vec![child; 4 * usize::from(count)]));
        [heap_header(at + 146, count, NONE), sealed(&indirect)].concat()
    };
    let deep = |at: u64| {
        let mut bytes = rows(at, 12, NONE);
        // The first child of the row behind the last of objects.
        let place = 146 + 17 + 9 * 4 * 8;
        bytes[place..place + 8].copy_from_slice(&words(&[at + 146]));
        let sum = checksum::lookup3(&bytes[146..bytes.len() - 4]);
        let end = bytes.len() - 4;
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    assert!(refusal(group(&[], deep)).contains("over and over"));
    let same = |at: u64| [rows(at, 1, at + 146 + 53), block(at, 0, &[])].concat();
    assert!(refusal(group(&[], same)).contains("over and over"));
    assert!(refusal(group(&[], |at| rows(at, 24, NONE))).contains("more rows"));
    for (at, value) in [(110, 3), (112, 1), (128, 5)] {
        let odd = move |heap: u64| {
            let mut bytes = simple(heap);
            bytes[at] = value;
            let sum = checksum::lookup3(&bytes[..142]);
            bytes[142..146].copy_from_slice(&sum.to_le_bytes());
            bytes
        };
        assert!(refusal(group(&[], odd)).contains("makes no sense"), "{at}");
    }
    let compressed = |heap: u64| {
        let mut bytes = simple(heap);
        bytes[7] = 1;
        bytes
    };
    let error = group(&[], compressed).read().unwrap_err();
    assert_eq!(error.status(), Status::Unsupported);
}
