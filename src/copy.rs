//! Copies past the caches, summed on the way: for bytes that are moved once and not looked at again soon. The lines of
//! the destination need not be read before they are written, and what the caches hold stays there.

/// Bytes from which on a copy goes past the caches: what is shorter is not worth the fence.
const LEAST: usize = 4 << 10;

/// Whether this machine has such copies; if not, these functions copy as any other would.
pub(crate) const STREAMS: bool = cfg!(target_arch = "x86_64");

/// Copies `src` to `dst`, which is as long.
pub(crate) fn streamed(src: &[u8], dst: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if src.len() >= LEAST {
        return x86::streamed(src, dst);
    }
    dst.copy_from_slice(src);
}

/// Copies `src` to `dst`, which is as long. Returns the CRC-32 of the bytes whose CRC-32 is `crc`, followed by `src`.
pub(crate) fn summed(src: &[u8], dst: &mut [u8], crc: u32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if src.len() >= LEAST {
        return x86::summed(src, dst, crc);
    }
    dst.copy_from_slice(src);
    crc32(src, crc)
}

/// The CRC-32 of the bytes whose CRC-32 is `crc`, followed by `bytes`.
pub(crate) fn crc32(bytes: &[u8], crc: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_cvtsi32_si128, _mm_loadu_si128, _mm_sfence, _mm_stream_si128,
        _mm256_clmulepi64_epi128, _mm256_loadu_si256, _mm256_set_epi64x, _mm256_setzero_si256,
        _mm256_storeu_si256, _mm256_stream_si256, _mm256_xor_si256, _mm256_zextsi128_si256,
    };

    use super::crc32;

    /// Bytes that are copied at a time; the destination is at a multiple of a cache's line.
    const BLOCK: usize = 256;
    const LINE: usize = 64;
    /// Bytes that are summed and then copied, where that is not one pass: what stays in a core's nearest cache.
    const CHUNK: usize = 16 << 10;

    pub fn streamed(src: &[u8], dst: &mut [u8]) {
        in_blocks(src, dst, 0, |src, dst, crc| {
            stream(src, dst);
            crc
        });
    }

    pub fn summed(src: &[u8], dst: &mut [u8], crc: u32) -> u32 {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("vpclmulqdq") {
            // SAFETY: the processor has what the function needs.
            copy_ends_summed(src, dst, crc, |src, dst, crc| unsafe { fold(src, dst, crc) })
        } else {
            copy_ends_summed(src, dst, crc, in_two_passes)
        }
    }

    fn copy_ends_summed(
        src: &[u8],
        dst: &mut [u8],
        crc: u32,
        middle: impl FnOnce(&[[u8; BLOCK]], &mut [[u8; BLOCK]], u32) -> u32,
    ) -> u32 {
        let (ahead, rest) = ends(src, dst);
        let crc = crc32(&src[..ahead], crc);
        let crc = in_blocks(src, dst, crc, middle);
        crc32(&src[rest..], crc)
    }

    /// Copies both ends, and has `middle` copy the blocks between them, which begin on a line of the destination.
    fn in_blocks(
        src: &[u8],
        dst: &mut [u8],
        crc: u32,
        middle: impl FnOnce(&[[u8; BLOCK]], &mut [[u8; BLOCK]], u32) -> u32,
    ) -> u32 {
        let (ahead, rest) = ends(src, dst);
        dst[..ahead].copy_from_slice(&src[..ahead]);
        dst[rest..].copy_from_slice(&src[rest..]);
        let crc = middle(src[ahead..rest].as_chunks().0, dst[ahead..rest].as_chunks_mut().0, crc);
        // SAFETY: SSE is in every x86-64. It orders the stores before those that tell others of them.
        unsafe { _mm_sfence() };
        crc
    }

    /// Where the blocks begin and end.
    fn ends(src: &[u8], dst: &[u8]) -> (usize, usize) {
        let ahead = dst.as_ptr().align_offset(LINE).min(src.len());
        (ahead, src.len() - (src.len() - ahead) % BLOCK)
    }

    fn stream(src: &[[u8; BLOCK]], dst: &mut [[u8; BLOCK]]) {
        for (src, dst) in src.iter().zip(dst) {
            let (from, to) = (src.as_ptr().cast::<__m128i>(), dst.as_mut_ptr().cast::<__m128i>());
            for i in 0..BLOCK / size_of::<__m128i>() {
                // SAFETY: both blocks have this part, and `to` is on a line; SSE2 is in every x86-64.
                unsafe { _mm_stream_si128(to.add(i), _mm_loadu_si128(from.add(i))) };
            }
        }
    }

    fn in_two_passes(src: &[[u8; BLOCK]], dst: &mut [[u8; BLOCK]], mut crc: u32) -> u32 {
        for (src, dst) in src.chunks(CHUNK / BLOCK).zip(dst.chunks_mut(CHUNK / BLOCK)) {
            crc = crc32(src.as_flattened(), crc);
            stream(src, dst);
        }
        crc
    }

    /// Copies and sums in one pass. The sum of a message is its remainder modulo a polynomial. What stands `n` bits
    /// before the end counts `x^n` times, so a block can be folded into the next: times `x^(8 * BLOCK)`, which is done
    /// for halves of 16 bytes, each with its own factor modulo the polynomial. The last block stands for all then.
    #[target_feature(enable = "avx2,vpclmulqdq")]
    fn fold(src: &[[u8; BLOCK]], dst: &mut [[u8; BLOCK]], crc: u32) -> u32 {
        const PARTS: usize = BLOCK / size_of::<__m256i>();
        const LOW: i64 = power_of_x(8 * BLOCK as u32 + 32);
        const HIGH: i64 = power_of_x(8 * BLOCK as u32 - 32);

        let mut pairs = src.iter().zip(dst);
        let Some((first, to)) = pairs.next() else { return crc };
        let mut folded = [_mm256_setzero_si256(); PARTS];
        for (i, folded) in folded.iter_mut().enumerate() {
            // SAFETY: both blocks have this part, and `to` is on a line.
            *folded = unsafe { copy_part(first, to, i) };
        }
        // The sum so far counts as if it stood over the first bytes.
        let so_far = _mm256_zextsi128_si256(_mm_cvtsi32_si128(!crc as i32));
        folded[0] = _mm256_xor_si256(folded[0], so_far);
        let factors = _mm256_set_epi64x(HIGH, LOW, HIGH, LOW);
        for (from, to) in pairs {
            for (i, folded) in folded.iter_mut().enumerate() {
                // SAFETY: as above.
                let part = unsafe { copy_part(from, to, i) };
                let low = _mm256_clmulepi64_epi128::<0x00>(*folded, factors);
                let high = _mm256_clmulepi64_epi128::<0x11>(*folded, factors);
                *folded = _mm256_xor_si256(_mm256_xor_si256(low, high), part);
            }
        }
        let mut last = [0; BLOCK];
        for (to, part) in last.as_chunks_mut::<{ size_of::<__m256i>() }>().0.iter_mut().zip(folded) {
            // SAFETY: the part fits.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), part) };
        }
        crc32(&last, !0)
    }

    /// Copies a part of a block past the caches, and returns it.
    ///
    /// # Safety
    /// The blocks have such a part, and `to` is on a line.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn copy_part(from: &[u8; BLOCK], to: &mut [u8; BLOCK], i: usize) -> __m256i {
        // SAFETY: this function's contract.
        unsafe {
            let part = _mm256_loadu_si256(from.as_ptr().cast::<__m256i>().add(i));
            _mm256_stream_si256(to.as_mut_ptr().cast::<__m256i>().add(i), part);
            part
        }
    }

    /// `x^n` modulo the polynomial of CRC-32, as a factor of a product without carry: its bits turned around, which
    /// moves the product by one.
    const fn power_of_x(n: u32) -> i64 {
        let mut power = 1_u32 << 31;
        let mut i = 0;
        while i < n {
            power = power >> 1 ^ if power & 1 == 1 { 0xedb8_8320 } else { 0 };
            i += 1;
        }
        (power as i64) << 1
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn two_passes_give_what_one_does() {
            let src: Vec<u8> = (0..100_000_u64).map(|i| ((i * i) >> 7) as u8).collect();
            for (from, len) in [(0, 5000), (1, 99_999), (64, 65_536), (3, 4096)] {
                let src = &src[from..from + len];
                let mut dst = vec![0; len];
                let crc = copy_ends_summed(src, &mut dst, 7, in_two_passes);
                assert!(dst == src && crc == crc32(src, 7), "{len} bytes from {from} on");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_sums_wherever_memory_begins() {
        let src: Vec<u8> = (0..40_000_u32).map(|i| (i.wrapping_mul(i) >> 9) as u8).collect();
        let lens = [0, 1, 31, 255, 256, 4095, 4096, 4097, 4351, 4352, 8191, 12_345, 39_000];
        for len in lens {
            for (from, to) in [(0, 0), (1, 0), (0, 1), (16, 16), (33, 63), (5, 128)] {
                let src = &src[from..from + len];
                let mut memory = vec![0xee; to + len + 64];
                for crc in [0, 1, 0xdead_beef] {
                    memory.fill(0xee);
                    let found = summed(src, &mut memory[to..to + len], crc);
                    assert_eq!(found, crc32(src, crc), "{len} bytes from {from} to {to}, after {crc:x}");
                    assert!(memory[to..to + len] == *src);
                    assert!([&memory[..to], &memory[to + len..]].concat().iter().all(|b| *b == 0xee));
                }
                memory.fill(0xee);
                streamed(src, &mut memory[to..to + len]);
                assert!(memory[to..to + len] == *src);
                assert!([&memory[..to], &memory[to + len..]].concat().iter().all(|b| *b == 0xee));
            }
        }
    }

    #[test]
    fn a_sum_goes_on_over_pieces() {
        let src: Vec<u8> = (0..70_001_u32).map(|i| ((i * 7) >> 3) as u8).collect();
        let mut dst = vec![0; src.len()];
        let mut crc = 0;
        for (src, dst) in src.chunks(9001).zip(dst.chunks_mut(9001)) {
            crc = summed(src, dst, crc);
        }
        assert!(dst == src);
        assert_eq!(crc, crc32fast::hash(&src));
    }
}
