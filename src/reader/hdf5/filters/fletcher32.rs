//! fletcher32: a checksum at the end.

use crate::error::Result;
use crate::reader::source::damaged;

/// Takes the checksum off the end of `bytes`, if it is theirs.
pub(super) fn check(bytes: &mut Vec<u8>) -> Result<()> {
    let Some((body, stored)) = bytes.split_last_chunk::<4>() else {
        return Err(damaged("a chunk of it is too short for its checksum"));
    };
    let sum = sum(body);
    // Until 1.6.2 HDF5 wrote it with the bytes of each half swapped.
    let swapped = (sum & 0x00ff_00ff) << 8 | (sum >> 8) & 0x00ff_00ff;
    if ![sum, swapped].contains(&u32::from_le_bytes(*stored)) {
        return Err(damaged("the checksum (fletcher32) of a chunk of it is wrong"));
    }
    bytes.truncate(bytes.len() - 4);
    Ok(())
}

/// Two sums, modulo 65535, of words whose first byte is the high one.
fn sum(bytes: &[u8]) -> u32 {
    let fold = |n: u32| (n & 0xffff) + (n >> 16);
    let (mut a, mut b) = (0_u32, 0_u32);
    // The sums of so many words do not overflow.
    for block in bytes.chunks(720) {
        let (words, odd) = block.as_chunks::<2>();
        for word in words {
            a += u32::from(u16::from_be_bytes(*word));
            b += a;
        }
        if let [high] = odd {
            a += u32::from(*high) << 8;
            b += a;
        }
        (a, b) = (fold(a), fold(b));
    }
    (a, b) = (fold(a), fold(b));
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_words() {
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[1, 2]), 0x0102_0102);
        assert_eq!(sum(&[0xff, 0xff, 0, 1]), 1 << 16 | 1);
        assert_eq!(sum(&[1]), 0x0100_0100);
    }
}
