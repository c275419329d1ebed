//! The checksums that guard the newer structures of an HDF5 file, set right after a change.

use std::ops::Range;

/// What such structures begin with.
const SIGNATURES: [&[u8]; 12] = [
    b"OHDR", b"OCHK", b"FRHP", b"FHDB", b"FHIB", b"BTHD", b"BTLF", b"BTIN", b"FAHD", b"FADB", b"EAHD",
    b"EAIB",
];

/// The longest structure that is looked for.
const LONGEST: usize = 4096;

/// The structures that a checksum follows.
pub fn sums(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let newer = |b: &[u8]| b.starts_with(b"\x89HDF\r\n\x1a\n\x02") || b.starts_with(b"\x89HDF\r\n\x1a\n\x03");
    for start in 0..bytes.len() {
        let rest = &bytes[start..];
        if newer(rest) && rest.len() >= 48 {
            found.push(start..start + 44);
        } else if SIGNATURES.iter().any(|signature| rest.starts_with(signature)) {
            let ends = 5..rest.len().saturating_sub(3).min(LONGEST);
            let end =
                ends.into_iter().find(|&end| rest[end..].starts_with(&lookup3(&rest[..end]).to_le_bytes()));
            found.extend(end.map(|end| start..start + end));
        }
    }
    found
}

/// Sets the checksums right; says whether one was wrong.
pub fn repair(bytes: &mut [u8], sums: &[Range<usize>]) -> bool {
    let mut repaired = false;
    for range in sums {
        if let Some(body) = bytes.get(range.clone()) {
            let sum = lookup3(body).to_le_bytes();
            if let Some(place) = bytes.get_mut(range.end..range.end + 4) {
                repaired |= place != sum;
                place.copy_from_slice(&sum);
            }
        }
    }
    repaired
}

/// Bob Jenkins' hash.
fn lookup3(bytes: &[u8]) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32);
    let mut s = [start; 3];
    let blocks = bytes.len().div_ceil(12);
    for (i, block) in bytes.chunks(12).enumerate() {
        for (word, part) in s.iter_mut().zip(block.chunks(4)) {
            let mut four = [0; 4];
            four[..part.len()].copy_from_slice(part);
            *word = word.wrapping_add(u32::from_le_bytes(four));
        }
        // Which words a step changes, and by how much it rotates.
        if i + 1 < blocks {
            for (step, rotation) in [4, 6, 8, 16, 19, 4].into_iter().enumerate() {
                let (x, y, z) = (step % 3, (step + 2) % 3, (step + 1) % 3);
                s[x] = s[x].wrapping_sub(s[y]) ^ s[y].rotate_left(rotation);
                s[y] = s[y].wrapping_add(s[z]);
            }
        } else {
            for (step, rotation) in [14, 11, 25, 16, 4, 14, 24].into_iter().enumerate() {
                let (x, y) = ((step + 2) % 3, (step + 1) % 3);
                s[x] = (s[x] ^ s[y]).wrapping_sub(s[y].rotate_left(rotation));
            }
        }
    }
    s[2]
}

#[test]
fn knows_the_hash() {
    assert_eq!(lookup3(b""), 0xdead_beef);
    assert_eq!(lookup3(b"Four score and seven years ago"), 0x1777_0551);
}
