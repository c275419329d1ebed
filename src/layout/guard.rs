//! A checksum over a file's metadata: a single bit that has changed in it is found, whatever it stands for.
//!
//! Other programs may change the metadata, and nothing is wrong with that: objects that they add or remove are no
//! fault. What they do changes more than one bit; the checksum alone tells whether it was one, and which.
//!
//! - An HDF5 file has it behind the superblock, at [`AT`], where HDF5 has nothing: [`MAGIC`], the bytes of the metadata
//!   from the beginning of the file on, their CRC-32, and the CRC-32 of these 20 bytes; all little-endian.
//! - A text has it behind [`MARK`]: the CRC-32 of the whole text, eight hexadecimal digits.
//!
//! Where it stands itself, it counts as zeros (in a text: as the digit).

use crc32fast::Hasher;

/// Where it is in an HDF5 file.
pub const AT: usize = 96;

/// Its bytes there.
pub const LEN: usize = 24;

/// How it begins.
const MAGIC: [u8; 8] = *b"ckptmeta";

/// What is before it in a text: a key of JSON and its quote.
pub const MARK: &str = "\"libckpt.guard\":\"";

/// The key.
pub const KEY: &str = "libckpt.guard";

/// Its digits in a text.
const DIGITS: usize = 8;

/// The generator of CRC-32, its bits reflected.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Bytes of the metadata.
    pub len: u64,
    /// Their CRC-32.
    pub crc: u32,
}

impl Guard {
    /// From what is at [`AT`]; none if it is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Guard> {
        let (begin, sum) = bytes.get(..LEN)?.split_at_checked(LEN - 4)?;
        let rest = begin.strip_prefix(&MAGIC)?;
        let whole = crc32fast::hash(begin).to_le_bytes() == sum;
        let (len, crc) = rest.split_first_chunk().zip(rest.last_chunk()).map(|((len, _), crc)| (len, crc))?;
        whole.then(|| Guard { len: u64::from_le_bytes(*len), crc: u32::from_le_bytes(*crc) })
    }

    fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.crc.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..20]);
        bytes[20..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The bit that has changed, if it is one alone, where the metadata now have this CRC-32.
    pub fn changed_bit(self, crc: u32) -> Option<u64> {
        let difference = self.crc ^ crc;
        // What the last bit alone contributes, the one before it, and so on.
        let contribution = |sum: &u32| Some((sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 });
        let mut contributions = std::iter::successors(Some(POLYNOMIAL), contribution);
        if difference == 0 {
            return None;
        }
        let bits = self.len.saturating_mul(8);
        let from_end =
            contributions.by_ref().take(usize::try_from(bits).ok()?).position(|sum| sum == difference)?;
        Some(bits - 1 - from_end as u64)
    }
}

/// The CRC of what lies behind a place in the metadata, and does not change from save to save.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tail {
    at: usize,
    crc: u32,
}

impl Tail {
    pub(super) fn new(metadata: &[u8], at: usize) -> Tail {
        Tail { at, crc: crc32fast::hash(metadata.get(at..).unwrap_or_default()) }
    }

    /// Writes the guard of metadata that are final before the tail.
    pub(super) fn guard(self, metadata: &mut [u8]) {
        metadata[AT..AT + LEN].fill(0);
        let mut sum = Hasher::new();
        sum.update(&metadata[..self.at]);
        sum.combine(&Hasher::new_with_initial_len(self.crc, (metadata.len() - self.at) as u64));
        let guard = Guard { len: metadata.len() as u64, crc: sum.finalize() };
        metadata[AT..AT + LEN].copy_from_slice(&guard.to_bytes());
    }
}

/// What stands in a text until it is final: the mark, the digits, and the quote.
pub(super) fn blank() -> String {
    format!("{MARK}{}\"", "0".repeat(DIGITS))
}

/// Writes the guard of a text that is final but for it.
pub(super) fn guard_text(text: &mut [u8], digits_at: usize) {
    let digits = digits_at..digits_at + DIGITS;
    text[digits.clone()].fill(b'0');
    let crc = crc32fast::hash(text);
    text[digits].copy_from_slice(format!("{crc:0DIGITS$x}").as_bytes());
}

/// What a text says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InText {
    /// It has no guard, or one that says nothing.
    None,
    /// The mark has lost a bit.
    Marred,
    /// A guard, and the CRC-32 that the text has.
    Guard(Guard, u32),
}

/// Looks for the guard of a text.
pub fn in_text(text: &[u8]) -> InText {
    let mark = MARK.as_bytes();
    let bits = |window: &[u8]| {
        let mut differing = 0;
        window.iter().zip(mark).all(|(a, b)| {
            differing += (a ^ b).count_ones();
            differing <= 1
        });
        differing
    };
    let Some(at) = text.windows(mark.len()).position(|window| window == mark) else {
        let marred = text.windows(mark.len()).any(|window| bits(window) == 1);
        return if marred { InText::Marred } else { InText::None };
    };
    let from = at + mark.len();
    let digits = text.get(from..from + DIGITS).and_then(|digits| std::str::from_utf8(digits).ok());
    let Some(crc) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
        return InText::None;
    };
    let mut sum = Hasher::new();
    sum.update(text.get(..from).unwrap_or_default());
    sum.update(&[b'0'; DIGITS]);
    sum.update(text.get(from + DIGITS..).unwrap_or_default());
    InText::Guard(Guard { len: text.len() as u64, crc }, sum.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_single_bit_and_no_two() {
        let mut bytes: Vec<u8> = (0..300u32).map(|i| (i * i % 251) as u8).collect();
        Tail::new(&bytes, 200).guard(&mut bytes);
        let guard = Guard::from_bytes(&bytes[AT..]).unwrap();
        let crc = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes[AT..AT + LEN].fill(0);
            crc32fast::hash(&bytes)
        };
        assert_eq!((guard.len, guard.changed_bit(crc(&bytes))), (300, None));
        for bit in (0..300 * 8).filter(|bit| !(AT..AT + LEN).contains(&(bit / 8))) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(guard.changed_bit(crc(&bytes)), Some(bit as u64));
            bytes[(bit / 8 + 1) % AT] ^= 0x10;
            assert_eq!(guard.changed_bit(crc(&bytes)), None, "{bit}");
            bytes[(bit / 8 + 1) % AT] ^= 0x10;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for bit in AT * 8..(AT + LEN) * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Guard::from_bytes(&bytes[AT..]), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn finds_every_single_bit_of_a_text() {
        let mut text = format!("{{\"a\": 1, {}, \"b\": \"{MARK}\"}}", blank()).into_bytes();
        let digits = text.windows(MARK.len()).position(|w| w == MARK.as_bytes()).unwrap() + MARK.len();
        guard_text(&mut text, digits);
        let InText::Guard(guard, crc) = in_text(&text) else { panic!("no guard") };
        assert_eq!(guard.crc, crc);
        let mut alone = text[..digits + DIGITS + 2].to_vec();
        guard_text(&mut alone, digits);
        for bit in 0..alone.len() * 8 {
            alone[bit / 8] ^= 1 << (bit % 8);
            let found = in_text(&alone);
            if (digits..digits + DIGITS).contains(&(bit / 8)) {
                assert!(!matches!(found, InText::Guard(guard, crc) if guard.changed_bit(crc).is_some()));
            } else if (digits - MARK.len()..digits).contains(&(bit / 8)) {
                assert_eq!(found, InText::Marred);
            } else {
                let InText::Guard(guard, crc) = found else { panic!("bit {bit}") };
                assert_eq!(guard.changed_bit(crc), Some(bit as u64));
            }
            alone[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(in_text(b"{}"), InText::None);
    }
}
