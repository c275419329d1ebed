//! The records of a zip archive: fields are changed in one of them or in all, and checksums set right.

use std::ops::Range;

use super::{interesting, number};
use crate::layout_support::Random;

const LOCAL: &[u8] = b"PK\x03\x04";
const ENTRY: &[u8] = b"PK\x01\x02";

/// The offset of a field in its record, and its width.
type Field = (usize, usize);

const RECORDS: [(&[u8], &[Field]); 5] = [
    (LOCAL, &[(6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 1), (34, 8)]),
    (
        ENTRY,
        &[(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (42, 4), (46, 1)],
    ),
    (b"PK\x05\x06", &[(4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)]),
    (b"PK\x06\x06", &[(4, 8), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)]),
    (b"PK\x06\x07", &[(4, 4), (8, 8), (16, 4)]),
];

/// From a field of a local header to the same of the directory's entry: method, checksum and sizes are 2 bytes on.
const SHIFT: usize = 2;

/// Where records begin.
pub fn records(bytes: &[u8]) -> Vec<usize> {
    let begins = |at: &usize| RECORDS.iter().any(|(signature, _)| bytes[*at..].starts_with(signature));
    (0..bytes.len()).filter(begins).collect()
}

/// Changes a field of a record, and mostly that of the member's other record too.
pub fn change_field(bytes: &mut [u8], records: &[usize], r: &mut Random) -> Vec<Range<usize>> {
    let at = r.pick(records);
    let Some((signature, fields)) = RECORDS.iter().find(|(signature, _)| bytes[at..].starts_with(signature))
    else {
        return vec![];
    };
    let (field, width) = r.pick(fields);
    let (here, len) = (number(bytes, at + field, width), bytes.len() as u64);
    let there = r.pick(records) as u64;
    let value = interesting(r, here, there, len).to_le_bytes();
    let mut places = vec![at + field];
    if *signature == ENTRY && (8..28).contains(&field) && r.below(4) > 0 {
        places.push(number(bytes, at + 42, 4) as usize + field - SHIFT);
    }
    let runs = places.into_iter().filter_map(|place| {
        let run = place..place.checked_add(width)?;
        bytes.get_mut(run.clone())?.copy_from_slice(&value[..width]);
        Some(run)
    });
    runs.collect()
}

/// Sets the checksums of all members right, in both records; says whether one was wrong.
pub fn repair(bytes: &mut [u8], records: &[usize]) -> bool {
    let mut repaired = false;
    for &at in records {
        if !bytes.get(at..).is_some_and(|rest| rest.starts_with(ENTRY)) {
            continue;
        }
        let header = number(bytes, at + 42, 4) as usize;
        let (name, extra) = (number(bytes, header + 26, 2) as usize, number(bytes, header + 28, 2) as usize);
        let start = header + 30 + name + extra;
        let Some(end) = start.checked_add(number(bytes, at + 20, 4) as usize) else { continue };
        if number(bytes, at + 10, 2) != 0 {
            continue; // of the unpacked bytes, which are not at hand
        }
        let Some(sum) = bytes.get(start..end).map(|body| crc32fast::hash(body).to_le_bytes()) else {
            continue;
        };
        for place in [header + 14, at + 16] {
            if let Some(place) = bytes.get_mut(place..place + 4) {
                repaired |= place != sum;
                place.copy_from_slice(&sum);
            }
        }
    }
    repaired
}
