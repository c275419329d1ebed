//! Each filter undone, and what is damaged or made to do harm refused.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::*;

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = ZlibEncoder::new(Vec::new(), Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A filter message of version 2: the numbers of the filters, each with its parameters.
fn message(filters: &[(u16, &[u32])]) -> Vec<u8> {
    let mut out = vec![2, filters.len() as u8];
    for (id, values) in filters {
        out.extend(id.to_le_bytes());
        if *id >= 256 {
            out.extend([0, 0]);
        }
        out.extend([0, 0]);
        out.extend((values.len() as u16).to_le_bytes());
        out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    out
}

fn undo(filters: &[(u16, &[u32])], skipped: u32, size: u64, stored: &[u8]) -> Result<Vec<u8>> {
    let pipeline = Pipeline::read(&message(filters))?;
    let mut buffers = Buffers::default();
    buffers.fill(stored.len() as u64)?.copy_from_slice(stored);
    pipeline.undo(skipped, size, &mut buffers)?;
    Ok(buffers.bytes)
}

fn refusal(filters: &[(u16, &[u32])], size: u64, stored: &[u8]) -> String {
    undo(filters, 0, size, stored).expect_err("it was read").to_string()
}

const DEFLATE: (u16, &[u32]) = (1, &[6]);
const LZF: (u16, &[u32]) = (32000, &[]);
const FLETCHER: (u16, &[u32]) = (3, &[]);

#[test]
fn undoes_in_the_order_of_reading() {
    let plain: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let packed = deflated(&plain);
    assert_eq!(undo(&[DEFLATE], 0, 5000, &packed).unwrap(), plain);
    assert_eq!(undo(&[DEFLATE], 1, 5000, &plain).unwrap(), plain);
    assert_eq!(undo(&[DEFLATE, DEFLATE], 0, 5000, &deflated(&packed)).unwrap(), plain);
    assert_eq!(undo(&[DEFLATE, (77, &[])], 2, 5000, &packed).unwrap(), plain);
}

#[test]
fn undoes_a_shuffle_of_any_element() {
    for element in [1, 2, 3, 4, 5, 8, 16, 300] {
        for len in [0, 1, 7, 8, 64, 299, 300, 1000] {
            let plain: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            let count = len / element;
            let mut shuffled = Vec::new();
            for i in 0..element.min(len) {
                shuffled.extend((0..count).map(|k| plain[k * element + i]));
            }
            shuffled.extend(&plain[shuffled.len()..]);
            let back = undo(&[(2, &[element as u32])], 0, len as u64, &shuffled).unwrap();
            assert_eq!(back, plain, "{element} {len}");
        }
    }
    assert!(refusal(&[(2, &[0])], 4, &[0; 4]).contains("no size"));
    assert!(undo(&[(2, &[u32::MAX])], 0, 3, b"abc").unwrap() == b"abc");
}

#[test]
fn undoes_lzf() {
    // Literals, a reference that repeats itself, a long one.
    let packed = b"\x02abc\x80\x02\xe0\x10\x00";
    assert_eq!(undo(&[LZF], 0, 34, packed).unwrap(), b"abcabcabcccccccccccccccccccccccccc");
    assert!(refusal(&[LZF], 33, packed).contains("more bytes"));
    assert!(refusal(&[LZF], 35, packed).contains("34 bytes and not 35"));
    for len in 1..packed.len() {
        assert!(undo(&[LZF], 0, 34, &packed[..len]).is_err(), "{len}");
    }
    assert!(refusal(&[LZF], 34, b"\x02abc\x80\x03").contains("before it"));
}

#[test]
fn refuses_what_unpacks_to_another_size() {
    let packed = deflated(&[7; 100_000]);
    assert!(refusal(&[DEFLATE], 99_999, &packed).contains("more than 99999"));
    assert!(refusal(&[DEFLATE], 100_001, &packed).contains("100000 bytes and not 100001"));
    assert!(refusal(&[DEFLATE], 100_000, &packed[..packed.len() - 1]).contains("cut off"));
    assert!(refusal(&[DEFLATE], 100_000, b"").contains("cannot come from"));
    assert!(refusal(&[DEFLATE], 1 << 50, &packed).contains("cannot come from"));
    assert!(refusal(&[LZF], 1 << 50, &packed).contains("cannot come from"));
    assert!(refusal(&[], 4, b"abc").contains("3 bytes and not 4"));
    // A bomb in a bomb: what is between them is bounded by the chunk.
    let bomb = deflated(&deflated(&vec![0; 10 << 20]));
    assert!(refusal(&[DEFLATE, DEFLATE], 100, &bomb).contains("more than"));
    let mut wrong = packed.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert!(undo(&[DEFLATE], 0, 100_000, &wrong).is_err());
}

#[test]
fn checks_fletcher32() {
    let mut bytes = b"\x01\x02".to_vec();
    bytes.extend(0x0102_0102_u32.to_le_bytes());
    assert_eq!(undo(&[FLETCHER], 0, 2, &bytes).unwrap(), [1, 2]);
    bytes[0] ^= 1;
    assert!(refusal(&[FLETCHER], 2, &bytes).contains("fletcher32"));
    assert!(refusal(&[FLETCHER], 2, b"abc").contains("too short"));
}

#[test]
fn names_what_it_does_not_undo() {
    let error = undo(&[(32015, &[3])], 0, 4, b"abcd").unwrap_err();
    assert_eq!(error.status(), Status::Unsupported);
    assert!(error.message().contains("zstd (HDF5's filter 32015)"), "{error}");
    assert!(refusal(&[(4, &[])], 4, b"abcd").contains("szip"));
    let mut many = message(&[DEFLATE]);
    many[1] = 33;
    assert!(Pipeline::read(&many).is_err());
    many[1] = 2;
    assert!(Pipeline::read(&many).unwrap_err().to_string().contains("cut off"));
}
