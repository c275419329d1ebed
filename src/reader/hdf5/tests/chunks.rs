//! Indexes of chunks that are damaged or made to do harm.

use super::*;

/// 16 signed bytes in chunks of 4, behind the layout message `layout`, with more messages.
fn chunked(max: u64, layout: &[u8], more: &[Vec<u8>]) -> Image {
    with_datasets(&[dataset_with(&[16], Some(&[max]), &INT8, layout, more)])
}

/// A layout of version 3: a B-tree, and chunks of this size.
fn tree_layout(address: u64, chunk: u32) -> Vec<u8> {
    let mut out = vec![3, 2, 2];
    out.extend(words(&[address]));
    out.extend([chunk, 1].iter().flat_map(|n| n.to_le_bytes()));
    out
}

/// A layout of version 4: an index of this kind with its parameters, and chunks of 4.
fn indexed_layout(flags: u8, kind: u8, parameters: &[u8], address: u64) -> Vec<u8> {
    let mut out = vec![4, 2, flags, 2, 1, 4, 1, kind];
    out.extend(parameters);
    out.extend(words(&[address]));
    out
}

/// Puts what stands at the end of the file: `build` gets its address, and makes the layout and the bytes.
fn with_index(
    max: u64,
    more: &[Vec<u8>],
    layout: impl Fn(u64) -> Vec<u8>,
    bytes: impl Fn(u64) -> Vec<u8>,
) -> Image {
    let end = chunked(max, &layout(0), more).0.len() as u64;
    let mut image = chunked(max, &layout(end), more);
    assert_eq!(image.put(&bytes(end)), end);
    image
}

/// A node of a B-tree of version 1: size, start and child of each entry.
fn node(level: u8, entries: &[(u32, u64, u64)]) -> Vec<u8> {
    let mut out = vec![b'T', b'R', b'E', b'E', 1, level];
    out.extend((entries.len() as u16).to_le_bytes());
    out.extend(words(&[u64::MAX, u64::MAX]));
    for (size, start, child) in entries {
        out.extend(size.to_le_bytes());
        out.extend([0; 4]);
        out.extend(words(&[*start, 0, *child]));
    }
    out
}

fn tree(entries: &[(u32, u64, u64)]) -> Image {
    with_index(16, &[], |at| tree_layout(at, 4), |_| node(0, entries))
}

const FLETCHER: [u8; 8] = [2, 1, 3, 0, 0, 0, 0, 0];

#[test]
fn reads_a_sound_tree() {
    let bytes = decoded(tree(&[(4, 0, 0), (4, 8, 4)])).unwrap();
    assert_eq!(bytes, *b"\x89HDF\0\0\0\0\r\n\x1a\n\0\0\0\0");
}

#[test]
fn refuses_chunks_that_make_no_sense() {
    assert!(undecoded(tree(&[(4, 0, 1 << 40)])).contains("beyond the end"));
    assert!(undecoded(tree(&[(4, 0, u64::MAX - 2)])).contains("beyond the end"));
    assert!(undecoded(tree(&[(3, 0, 0)])).contains("3 bytes and not 4"));
    assert!(undecoded(tree(&[(u32::MAX, 0, 0)])).contains("more chunks than fit"));
    assert!(undecoded(tree(&[(4, 2, 0)])).contains("begins where none can"));
    assert!(undecoded(tree(&[(4, 16, 0)])).contains("outside its shape"));
    assert!(undecoded(tree(&[(4, u64::MAX - 3, 0)])).contains("outside its shape"));
    assert!(undecoded(tree(&[(4, 0, 0); 5])).contains("more chunks than fit"));
    for size in [0, 0x8000_0000] {
        let layout =
            [&[3, 2, 3][..], &words(&[0]), &[size, size, size].map(u32::to_le_bytes).concat()].concat();
        assert!(refusal(with_datasets(&[dataset(&[2, 2], &INT8, &layout)])).contains("chunks of the size"));
    }
    let other = dataset(&[16], &INT8, &[&[3, 2, 2][..], &words(&[0]), &[4, 0, 0, 0, 2, 0, 0, 0]].concat());
    assert!(refusal(with_datasets(&[other])).contains("that of its chunks"));
    let scalar = dataset(&[], &INT8, &tree_layout(u64::MAX, 4));
    assert!(refusal(with_datasets(&[scalar])).contains("that of its chunks"));
    // Much room in little file, in the chunk or in the shape.
    let bomb = dataset(&[1], &INT8, &tree_layout(u64::MAX, 0x7fff_ffff));
    assert!(refusal(with_datasets(&[bomb])).contains("claims more"));
    let bomb = dataset(&[1 << 60], &INT8, &tree_layout(u64::MAX, 1));
    assert!(refusal(with_datasets(&[bomb])).contains("claims more"));
    let shape = dataset_with(&[16], Some(&[15]), &INT8, &tree_layout(u64::MAX, 4), &[]);
    assert!(refusal(with_datasets(&[shape])).contains("larger than it can be"));
}

#[test]
fn refuses_trees_of_chunks_in_circles() {
    let two_levels = |below: u8| {
        with_index(
            16,
            &[],
            |at| tree_layout(at, 4),
            |at| [node(1, &[(4, 0, at + 88), (4, 0, at + 88)]), node(below, &[(4, 0, at)])].concat(),
        )
    };
    assert!(undecoded(two_levels(1)).contains("level"));
    assert!(undecoded(two_levels(0)).contains("over and over"));
    let itself = with_index(16, &[], |at| tree_layout(at, 4), |at| node(9, &[(4, 0, at)]));
    assert!(undecoded(itself).contains("over and over"));
    // 60 children a node that are all the same.
    let wide = with_index(
        16,
        &[],
        |at| tree_layout(at + 2000, 4),
        |at| {
            let mut out = node(0, &[(4, 0, 0)]);
            out.resize(2000, 0);
            out.extend(node(1, &[(4, 0, at); 60]));
            out
        },
    );
    assert!(undecoded(wide).contains("over and over"));
    let none = with_index(16, &[], |_| tree_layout(8, 4), |_| vec![]);
    assert!(undecoded(none).contains("no B-tree of chunks"));
}

#[test]
fn refuses_single_and_implicit_chunks_that_do_not_fit() {
    let filters = [message(kind::FILTERS, &FLETCHER)];
    let two = chunked(16, &indexed_layout(0, 1, &[], 0), &[]);
    assert!(undecoded(two).contains("single chunk"));
    let implicit = chunked(16, &indexed_layout(0, 2, &[], 0), &[]);
    assert_eq!(decoded(implicit).unwrap()[..4], *b"\x89HDF");
    let far = chunked(16, &indexed_layout(0, 2, &[], u64::MAX - 5), &[]);
    assert!(undecoded(far).contains("beyond the end"));
    let filtered = chunked(16, &indexed_layout(0, 2, &[], 0), &filters);
    assert!(undecoded(filtered).contains("without an index"));
    let growing = chunked(u64::MAX, &indexed_layout(0, 2, &[], 0), &[]);
    assert!(undecoded(growing).contains("cannot grow"));
    let unknown = chunked(16, &indexed_layout(0, 9, &[], 0), &[]);
    assert!(refusal(unknown).contains("unknown kind"));
    let wide = [4, 2, 0, 2, 9, 4, 1].iter().chain(&[0; 40]).copied().collect::<Vec<u8>>();
    assert!(refusal(chunked(16, &wide, &[])).contains("a number"));
}

/// A fixed array of addresses; `pages` is the logarithm of a page's elements.
fn fixed(pages: u8, count: u64, block: impl Fn(u64) -> Vec<u8>) -> Image {
    with_index(
        16,
        &[],
        |at| indexed_layout(0, 3, &[pages], at),
        |at| {
            let head = [&b"FAHD\0\0\x08"[..], &[pages], &words(&[count, at + 32])].concat();
            [sealed(&head), vec![0; 4], block(at)].concat()
        },
    )
}

fn fixed_block(owner: u64, rest: &[u8]) -> Vec<u8> {
    sealed(&[&b"FADB\0\0"[..], &words(&[owner]), rest].concat())
}

#[test]
fn refuses_damaged_fixed_arrays() {
    let addresses = words(&[0, u64::MAX, 4, u64::MAX]);
    let good = decoded(fixed(10, 4, |at| fixed_block(at, &addresses))).unwrap();
    assert_eq!(good, *b"\x89HDF\0\0\0\0\r\n\x1a\n\0\0\0\0");
    // In pages of two, the second of which was never written.
    let paged = fixed(1, 4, |at| [fixed_block(at, &[0x80]), sealed(&addresses[..16])].concat());
    assert_eq!(decoded(paged).unwrap(), *b"\x89HDF\0\0\0\0\0\0\0\0\0\0\0\0");
    let cut = fixed(1, 4, |at| [fixed_block(at, &[0xc0]), sealed(&addresses[..16])].concat());
    assert!(undecoded(cut).contains("beyond its end"));
    assert!(undecoded(fixed(10, 1 << 61, |at| fixed_block(at, &addresses))).contains("larger than the file"));
    assert!(
        undecoded(fixed(10, u64::MAX, |at| fixed_block(at, &addresses))).contains("larger than the file")
    );
    assert!(undecoded(fixed(255, 4, |at| fixed_block(at + 1, &addresses))).contains("another index"));
    let mut flipped = fixed(10, 4, |at| fixed_block(at, &addresses));
    let at = flipped.0.len() - 12;
    flipped.0[at] ^= 1;
    assert!(undecoded(flipped).contains("checksum"));
    // More elements than the shape has chunks: those beyond must not be there.
    let more = words(&[0, u64::MAX, 4, u64::MAX, 0]);
    assert!(undecoded(fixed(10, 5, |at| fixed_block(at, &more))).contains("outside its shape"));
}

#[test]
fn leaves_out_what_the_shape_does_not_need() {
    // Four pages of two, of which the shape needs two: the others would not pass.
    let array = |max, pages: u8, count, rest: &[u8]| {
        with_index(
            max,
            &[],
            |at| indexed_layout(0, 3, &[pages], at),
            |at| {
                let head = [&b"FAHD\0\0\x08"[..], &[pages], &words(&[count, at + 32])].concat();
                [sealed(&head), vec![0; 4], fixed_block(at, rest)].concat()
            },
        )
    };
    let none = sealed(&words(&[u64::MAX; 2]));
    let mut grown = array(32, 1, 8, &[0xf0]);
    grown.0.truncate(grown.0.len().next_multiple_of(8) - 5);
    for bytes in [&none, &none, &vec![1; 20], &vec![1; 20]] {
        grown.0.extend(bytes);
    }
    assert_eq!(decoded(grown).unwrap(), [0; 16]);
    // A large index for few chunks.
    let large = array(160_000, 20, 40_000, &words(&vec![u64::MAX; 40_000]));
    assert!(undecoded(large).contains("over and over"));
}

/// An extensible array: parameters, and what follows the header.
fn extensible(parameters: [u8; 5], block: impl Fn(u64) -> Vec<u8>) -> Image {
    let layout = |at| indexed_layout(0, 4, &[0; 5], at);
    with_index(u64::MAX, &[], layout, |at| {
        let head = [&b"EAHD\0\0\x08"[..], &parameters, &[0; 48], &words(&[at + 72])].concat();
        [sealed(&head), block(at)].concat()
    })
}

fn extensible_block(owner: u64, rest: &[u8]) -> Vec<u8> {
    sealed(&[&b"EAIB\0\0"[..], &words(&[owner]), rest].concat())
}

#[test]
fn refuses_damaged_extensible_arrays() {
    // Of at most 2^4 elements: 2 in the index block, then data blocks of 2 (one), of 4 (one), two super blocks.
    let good = [4, 2, 2, 2, 10];
    let index = |rest: [u64; 6]| words(&rest);
    let none = u64::MAX;
    let bytes =
        decoded(extensible(good, |at| extensible_block(at, &index([0, 4, none, none, none, none])))).unwrap();
    assert_eq!(bytes, *b"\x89HDF\r\n\x1a\n\0\0\0\0\0\0\0\0");
    let block = |at: u64| sealed(&[&b"EADB\0\0"[..], &words(&[at]), &[0], &words(&[4, 0])].concat());
    let with_data = extensible(good, |at| {
        let head = extensible_block(at, &index([none, none, at + 72 + 66, none, none, none]));
        [head, block(at)].concat()
    });
    assert_eq!(decoded(with_data).unwrap(), *b"\0\0\0\0\0\0\0\0\r\n\x1a\n\x89HDF");
    let elsewhere = extensible(good, |at| {
        let head = extensible_block(at, &index([none, none, at + 72 + 66, none, none, none]));
        [head, block(at + 1)].concat()
    });
    assert!(undecoded(elsewhere).contains("another index"));
    let circle = extensible(good, |at| extensible_block(at, &index([none, none, at, none, none, none])));
    assert!(undecoded(circle).contains("checksum"));
    for parameters in [
        [0, 2, 2, 2, 10],
        [65, 2, 2, 2, 10],
        [4, 2, 0, 2, 10],
        [4, 2, 3, 2, 10],
        [4, 2, 2, 0, 10],
        [1, 2, 2, 128, 10],
        [4, 2, 128, 2, 10],
    ] {
        let odd = extensible(parameters, |at| extensible_block(at, &index([0; 6])));
        assert!(undecoded(odd).contains("makes no sense"), "{parameters:?}");
    }
    let huge = extensible([64, 255, 128, 128, 64], |at| extensible_block(at, &[]));
    assert!(undecoded(huge).contains("beyond its end"));
}

/// A version 2 B-tree of unfiltered chunks: address and place of each, in one leaf.
fn leaf(kind: u8, records: &[(u64, u64)]) -> Vec<u8> {
    let mut out = [&b"BTLF\0"[..], &[kind]].concat();
    out.extend(records.iter().flat_map(|r| words(&[r.0, r.1])));
    sealed(&out)
}

fn tree2(depth: u16, used: u16, rest: impl Fn(u64) -> Vec<u8>) -> Image {
    let layout = |at| indexed_layout(0, 5, &[0; 6], at);
    with_index(u64::MAX, &[], layout, |at| {
        let mut head = b"BTHD\0\x0a".to_vec();
        head.extend(256_u32.to_le_bytes());
        head.extend(16_u16.to_le_bytes());
        head.extend(depth.to_le_bytes());
        head.extend([100, 40]);
        head.extend(words(&[at + 38]));
        head.extend(used.to_le_bytes());
        head.extend(words(&[1]));
        [sealed(&head), rest(at)].concat()
    })
}

#[test]
fn refuses_damaged_trees_of_version_2() {
    let bytes = decoded(tree2(0, 2, |_| leaf(10, &[(0, 0), (4, 2)]))).unwrap();
    assert_eq!(bytes, *b"\x89HDF\0\0\0\0\r\n\x1a\n\0\0\0\0");
    assert!(undecoded(tree2(0, 1, |_| leaf(10, &[(0, 4)]))).contains("outside its shape"));
    assert!(undecoded(tree2(0, 1, |_| leaf(11, &[(0, 0)]))).contains("of its kind"));
    assert!(undecoded(tree2(0, 2, |_| leaf(10, &[(0, 0)]))).contains("beyond its end"));
    assert!(undecoded(tree2(0, 1, |_| leaf(10, &[(0, 0), (4, 2)]))).contains("checksum"));
    assert!(undecoded(tree2(0, 16, |_| leaf(10, &[(0, 0)]))).contains("more records"));
    assert!(undecoded(tree2(65, 1, |_| vec![])).contains("makes no sense"));
    // An inner node whose children are itself.
    let inner = |at: u64| {
        let child = [&words(&[at + 38])[..], &[1]].concat();
        sealed(&[&b"BTIN\0\x0a"[..], &words(&[0, 0]), &child, &child].concat())
    };
    let circle = undecoded(tree2(1, 1, inner));
    assert!(circle.contains("over and over"), "{circle}");
}
