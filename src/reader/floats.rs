//! Floats of one width as floats of another: rounded to nearest, ties to even, what is too large to infinity.
//!
//! Every conversion goes through float64, which holds the values of all widths, and is done in integers alone: a
//! trainer may have told its processor to flush subnormal numbers to zero, and its weights are not to lose theirs.
#![forbid(unsafe_code)]

use crate::tensor::Dtype;

/// Elements that are converted at a time.
const CHUNK: usize = 512;

const SIGN: u64 = 1 << 63;
const INFINITY: u64 = 0x7ff << FRACTION_BITS;
const FRACTION: u64 = (1 << FRACTION_BITS) - 1;
const FRACTION_BITS: u32 = 52;

/// Whether [`convert`] makes elements of `to` from those of `from`.
pub fn converts(from: Dtype, to: Dtype) -> bool {
    let float = |dtype| matches!(dtype, Dtype::F16 | Dtype::Bf16 | Dtype::F32 | Dtype::F64);
    float(from) && float(to)
}

/// Converts the little-endian elements of `src` to those of `dst`, which has room for as many.
pub fn convert(from: Dtype, src: &[u8], to: Dtype, dst: &mut [u8]) {
    debug_assert!(converts(from, to) && src.len() / from.size() == dst.len() / to.size());
    let mut doubles = [0; CHUNK];
    for (src, dst) in src.chunks(CHUNK * from.size()).zip(dst.chunks_mut(CHUNK * to.size())) {
        match from {
            Dtype::F16 => read::<2>(src, &mut doubles, widen::<5, 10>),
            Dtype::Bf16 => read::<2>(src, &mut doubles, widen::<8, 7>),
            Dtype::F32 => read::<4>(src, &mut doubles, widen::<8, 23>),
            _ => read::<8>(src, &mut doubles, |bits| bits),
        }
        match to {
            Dtype::F16 => write::<2>(&doubles, dst, narrow::<5, 10>),
            Dtype::Bf16 => write::<2>(&doubles, dst, narrow::<8, 7>),
            Dtype::F32 => write::<4>(&doubles, dst, narrow::<8, 23>),
            _ => write::<8>(&doubles, dst, |bits| bits),
        }
    }
}

fn read<const SIZE: usize>(src: &[u8], doubles: &mut [u64; CHUNK], widen: impl Fn(u64) -> u64) {
    for (src, double) in src.as_chunks::<SIZE>().0.iter().zip(doubles) {
        let mut bits = [0; 8];
        bits[..SIZE].copy_from_slice(src);
        *double = widen(u64::from_le_bytes(bits));
    }
}

fn write<const SIZE: usize>(doubles: &[u64; CHUNK], dst: &mut [u8], narrow: impl Fn(u64) -> u64) {
    for (double, dst) in doubles.iter().zip(dst.as_chunks_mut::<SIZE>().0) {
        dst.copy_from_slice(&narrow(*double).to_le_bytes()[..SIZE]);
    }
}

/// How much larger a float64's exponent is in its field than that of a float with `exponent` bits for it.
const fn gap(exponent: u32) -> u64 {
    1024 - (1 << (exponent - 1))
}

/// The float64 of a float with E bits of exponent, fewer than it has itself, and F of fraction.
fn widen<const E: u32, const F: u32>(bits: u64) -> u64 {
    let sign = bits >> (E + F) << 63;
    let magnitude = bits & ((1 << (E + F)) - 1);
    let exponent = magnitude >> F;
    let gap = gap(E);
    let aligned = magnitude << (FRACTION_BITS - F);
    sign | if exponent == (1 << E) - 1 {
        aligned | INFINITY
    } else if exponent > 0 {
        aligned + (gap << FRACTION_BITS)
    } else if magnitude == 0 {
        0
    } else {
        // A subnormal number is a normal one here: its first 1 becomes the one that a float64 does not write.
        let shift = magnitude.leading_zeros() - (63 - FRACTION_BITS);
        let exponent = gap + 1 + u64::from(FRACTION_BITS - F) - u64::from(shift);
        magnitude << shift & FRACTION | exponent << FRACTION_BITS
    }
}

/// The nearest float with E bits of exponent and F of fraction, fewer than a float64 has.
fn narrow<const E: u32, const F: u32>(double: u64) -> u64 {
    let sign = double >> 63 << (E + F);
    let magnitude = double & !SIGN;
    let infinity = ((1 << E) - 1) << F;
    if magnitude > INFINITY {
        // Quiet, with the first bits of what it carries.
        let quiet = 1 << (F - 1);
        return sign | infinity | quiet | magnitude >> (FRACTION_BITS - F) & ((1 << F) - 1);
    }
    let exponent = magnitude >> FRACTION_BITS;
    let gap = gap(E);
    let (kept, dropped) = if exponent > gap {
        (magnitude - (gap << FRACTION_BITS), FRACTION_BITS - F)
    } else {
        // Subnormal: the leading 1 is written out, and moves down. From 63 places on, nothing is left of it.
        let places = u64::from(FRACTION_BITS - F) + gap + 1 - exponent;
        (magnitude & FRACTION | 1 << FRACTION_BITS, places.min(63) as u32)
    };
    // Just below half of the last place, or half of it where the last place is odd.
    let half = (1 << (dropped - 1)) - 1 + (kept >> dropped & 1);
    // A carry out of the fraction goes to the exponent, and out of the largest exponent to infinity.
    sign | ((kept + half) >> dropped).min(infinity)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: [Dtype; 4] = [Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64];

    fn one<const N: usize, const M: usize>(from: Dtype, x: [u8; N], to: Dtype) -> [u8; M] {
        let mut out = [0xA5; M];
        convert(from, &x, to, &mut out);
        out
    }

    fn double(dtype: Dtype, bits: u16) -> f64 {
        f64::from_le_bytes(one(dtype, bits.to_le_bytes(), Dtype::F64))
    }

    /// What a float of 16 bits is, by the definition.
    fn meaning(bits: u16, exponent_bits: u32) -> f64 {
        let fraction_bits = 15 - exponent_bits;
        let bias = (1 << (exponent_bits - 1)) - 1;
        let exponent = i32::from(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
        let fraction = f64::from(bits & ((1 << fraction_bits) - 1)) / f64::from(1 << fraction_bits);
        let size = match exponent {
            0 => fraction * 2f64.powi(1 - bias),
            e if e == (1 << exponent_bits) - 1 && fraction == 0.0 => f64::INFINITY,
            e if e == (1 << exponent_bits) - 1 => f64::NAN,
            e => (1.0 + fraction) * 2f64.powi(e - bias),
        };
        if bits >> 15 == 1 { -size } else { size }
    }

    /// Hard cases and random bits.
    fn doubles() -> impl Iterator<Item = f64> {
        let mut state = 88172645463325252_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let edges = [
            0.0,
            65504.0,
            65519.999,
            65520.0,
            65536.0,
            5.96e-8,
            2.98e-8,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
        ]
        .into_iter()
        .chain([
            f64::INFINITY,
            f64::NAN,
            f32::MAX.into(),
            f32::MIN_POSITIVE.into(),
            3.4028235677973366e38,
        ]);
        let random = (0..200_000).map(move |i| {
            let bits = random();
            match i % 3 {
                0 => f64::from_bits(bits),
                // In the range of the narrow ones, and where they are subnormal, often in the middle of two.
                1 => f64::from_bits(bits & !(0xfff << 52) | (1023 - bits % 40) << 52 | bits & SIGN),
                _ => f64::from_bits((1023 - bits % 160) << 52 | bits & (FRACTION << 40) & FRACTION),
            }
        });
        edges.into_iter().flat_map(|x| [x, -x]).chain(random)
    }

    #[test]
    fn widens_every_float_of_16_bits() {
        for bits in 0..=u16::MAX {
            for (dtype, exponent_bits) in [(Dtype::F16, 5), (Dtype::Bf16, 8)] {
                let (found, expected) = (double(dtype, bits), meaning(bits, exponent_bits));
                assert_eq!(found.is_nan(), expected.is_nan(), "{dtype:?} {bits:04x}");
                assert!(
                    found.is_nan() || found.to_bits() == expected.to_bits(),
                    "{dtype:?} {bits:04x}: {found}"
                );
                // And back, through float32 too.
                let single: [u8; 4] = one(dtype, bits.to_le_bytes(), Dtype::F32);
                let back = u16::from_le_bytes(one(Dtype::F32, single, dtype));
                let quiet = if found.is_nan() { 1 << (14 - exponent_bits) } else { 0 };
                assert_eq!(back, bits | quiet, "{dtype:?}");
                assert_eq!(u16::from_le_bytes(one(Dtype::F64, found.to_le_bytes(), dtype)), bits | quiet);
            }
        }
    }

    #[test]
    fn narrows_to_the_nearest() {
        for (dtype, exponent_bits) in [(Dtype::F16, 5), (Dtype::Bf16, 8)] {
            let infinity = ((1_u16 << exponent_bits) - 1) << (15 - exponent_bits);
            // The value that infinity's bits would have, had it one: halfway to it is too large.
            let beyond = 2f64.powi(1 << (exponent_bits - 1));
            let value = |bits| if bits == infinity { beyond } else { meaning(bits, exponent_bits) };
            for x in doubles() {
                let found = u16::from_le_bytes(one(Dtype::F64, x.to_le_bytes(), dtype));
                if x.is_nan() {
                    assert!(double(dtype, found).is_nan());
                    continue;
                }
                assert_eq!(found >> 15 == 1, x.is_sign_negative());
                let size = x.abs().min(beyond);
                let (mut low, mut high) = (0, infinity);
                while high - low > 1 {
                    let middle = low + (high - low) / 2;
                    *(if value(middle) <= size { &mut low } else { &mut high }) = middle;
                }
                let (down, up) = (size - value(low), value(high) - size);
                let expected = if down < up || down == up && low % 2 == 0 { low } else { high };
                assert_eq!(found & 0x7fff, expected, "{dtype:?} of {x:e}");
            }
        }
    }

    #[test]
    fn agrees_with_the_processor_on_32_bits() {
        for x in doubles() {
            let single = f32::from_le_bytes(one(Dtype::F64, x.to_le_bytes(), Dtype::F32));
            assert_eq!(single.is_nan(), x.is_nan());
            assert!(x.is_nan() || single.to_bits() == (x as f32).to_bits(), "{x:e}: {single:e}");
            let back = f64::from_le_bytes(one(Dtype::F32, single.to_le_bytes(), Dtype::F64));
            assert!(x.is_nan() && back.is_nan() || back == f64::from(single), "{single:e}");
        }
    }

    #[test]
    fn converts_floats_alone_and_any_number_of_them() {
        for from in Dtype::ALL {
            for to in Dtype::ALL {
                assert_eq!(converts(from, to), FLOATS.contains(&from) && FLOATS.contains(&to));
            }
        }
        let ones: Vec<u8> = (0..3 * CHUNK + 7).flat_map(|_| 1f32.to_le_bytes()).collect();
        for to in FLOATS {
            let mut out = vec![0; ones.len() / 4 * to.size()];
            convert(Dtype::F32, &ones, to, &mut out);
            let mut back = vec![0; ones.len()];
            convert(to, &out, Dtype::F32, &mut back);
            assert!(back == ones, "{to:?}");
        }
    }
}
