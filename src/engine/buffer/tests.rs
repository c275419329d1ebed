use parking_lot::Mutex;

use super::*;

/// A small generator of numbers (SplitMix64), so that a failure can be run again.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 7
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The byte offsets of all elements from the first one, in row-major order, by a plain index loop.
fn offsets(itemsize: usize, shape: &[u64], strides: &[i64]) -> Vec<isize> {
    let count: u64 = shape.iter().product();
    let offset = |mut i: u64| {
        let mut at = 0;
        for (&len, &stride) in shape.iter().zip(strides).rev() {
            at += (i % len) as i64 * stride;
            i /= len;
        }
        at as isize * itemsize as isize
    };
    (0..count).map(offset).collect()
}

/// Memory that holds a tensor of this shape, and where in it the first element is.
fn memory(itemsize: usize, shape: &[u64], strides: &[i64]) -> (Vec<u8>, usize) {
    let all = offsets(itemsize, shape, strides);
    let low = all.iter().copied().min().unwrap_or(0);
    let high = all.iter().copied().max().unwrap_or(0) + itemsize as isize;
    let bytes = (0..(high - low) as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    (bytes, low.unsigned_abs())
}

/// Packs and unpacks `ranges` of a tensor, against the plain loop.
fn check(itemsize: usize, shape: &[u64], strides: &[i64], ranges: &[(usize, usize)]) {
    let (mut memory, first) = memory(itemsize, shape, strides);
    let at = offsets(itemsize, shape, strides);
    let place = |byte: usize| (first as isize + at[byte / itemsize]) as usize + byte % itemsize;
    // SAFETY: `memory` holds every element, lives on, and is ours alone.
    let buffer =
        unsafe { Buffer::new(memory.as_mut_ptr().add(first), itemsize, shape, Some(strides)).unwrap() };
    let nbytes = at.len() * itemsize;
    assert_eq!(buffer.nbytes(), nbytes as u64);
    let expected: Vec<u8> = (0..nbytes).map(|i| memory[place(i)]).collect();
    if let Some(bytes) = buffer.bytes() {
        assert_eq!(bytes, expected, "{shape:?} {strides:?} is not contiguous");
    }
    for &(from, to) in ranges {
        let mut packed = vec![0xee; to - from];
        buffer.pack(from as u64, &mut packed).unwrap();
        assert_eq!(packed, expected[from..to], "pack {from}..{to} of {shape:?} {strides:?} x{itemsize}");
        if buffer.overlaps_itself() {
            continue;
        }
        let mut after = memory.clone();
        let new: Vec<u8> = packed.iter().map(|b| b ^ 0x5a).collect();
        for (i, byte) in new.iter().enumerate() {
            after[place(from + i)] = *byte;
        }
        // SAFETY: as above.
        unsafe { buffer.unpack(from as u64, &new) };
        assert_eq!(memory, after, "unpack {from}..{to} of {shape:?} {strides:?} x{itemsize}");
        // SAFETY: as above.
        unsafe { buffer.unpack(from as u64, &packed) };
    }
}

/// Row-major strides of `shape`, its axes permuted, some of them reversed, stretched or repeated.
fn random_strides(rng: &mut Rng, shape: &[u64]) -> Vec<i64> {
    let mut order: Vec<usize> = (0..shape.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i as u64 + 1) as usize);
    }
    let mut strides = vec![0; shape.len()];
    let mut step = if rng.below(3) == 0 { 1 + rng.below(3) as i64 } else { 1 };
    for &axis in order.iter().rev() {
        strides[axis] = if rng.below(4) == 0 { -step } else { step };
        if rng.below(9) == 0 {
            strides[axis] = 0;
        }
        step *= shape[axis] as i64;
        if rng.below(5) == 0 {
            step += rng.below(4) as i64;
        }
    }
    strides
}

#[test]
fn packs_and_unpacks_as_a_plain_loop_does() {
    let mut rng = Rng(1);
    for round in 0..3000 {
        let rank = rng.below(6) as usize;
        let most = [0, 2000, 60, 20, 9, 6][rank];
        let shape: Vec<u64> = (0..rank).map(|_| 1 + rng.below(most)).collect();
        let strides = random_strides(&mut rng, &shape);
        let itemsize = [1, 2, 4, 8][round % 4];
        let nbytes = shape.iter().product::<u64>() * itemsize as u64;
        let mut ranges = vec![(0, nbytes as usize)];
        for _ in 0..4 {
            let (a, b) = (rng.below(nbytes + 1) as usize, rng.below(nbytes + 1) as usize);
            ranges.push((a.min(b), a.max(b)));
        }
        check(itemsize, &shape, &strides, &ranges);
    }
}

#[test]
fn turns_the_shapes_that_trainers_turn() {
    for itemsize in [1, 2, 4, 8] {
        let whole = |shape: &[u64]| vec![(0, shape.iter().product::<u64>() as usize * itemsize)];
        // linear->weight.t()
        check(itemsize, &[133, 97], &[1, 133], &whole(&[133, 97]));
        // conv->weight.permute({2, 3, 1, 0}) of [out 37, in 19, 3, 5]
        check(itemsize, &[3, 5, 19, 37], &[5, 1, 15, 285], &whole(&[3, 5, 19, 37]));
        // channels first to channels last
        check(itemsize, &[2, 11, 13, 24], &[24 * 143, 13, 1, 143], &whole(&[2, 11, 13, 24]));
    }
}

#[test]
fn takes_rank_32_and_rank_0() {
    let mut shape = [1u64; 32];
    let mut strides = [12345i64; 32];
    (shape[3], strides[3], shape[31], strides[31]) = (4, 3, 3, 1);
    check(4, &shape, &strides, &[(0, 48), (4, 44)]);
    shape[..8].fill(2);
    strides[..8].copy_from_slice(&[1, 2, 4, 8, 16, 32, 64, 128]);
    (shape[31], strides[31]) = (2, 256);
    check(2, &shape, &strides, &[(0, 1024), (3, 777)]);
    check(8, &[], &[], &[(0, 8), (3, 5), (8, 8)]);
}

#[test]
fn sees_what_is_contiguous() {
    let mut data = [0u8; 96];
    let mut is = |shape: &[u64], strides: &[i64]| {
        // SAFETY: `data` holds every element of the shapes below; nothing is read.
        unsafe { Buffer::new(data.as_mut_ptr(), 4, shape, Some(strides)).unwrap().bytes().is_some() }
    };
    assert!(is(&[2, 3, 4], &[12, 4, 1]));
    assert!(is(&[2, 1, 12], &[12, 999, 1]));
    assert!(is(&[24, 1], &[1, -5]));
    assert!(is(&[1, 1], &[7, 0]));
    assert!(is(&[], &[]));
    assert!(!is(&[2, 3, 4], &[1, 2, 6]));
    assert!(!is(&[3], &[2]));
    assert!(!is(&[3], &[0]));
}

#[test]
fn sees_elements_that_share_memory() {
    let mut data = [0u8; 256];
    let mut is = |shape: &[u64], strides: &[i64]| {
        // SAFETY: `data` holds every element of the shapes below, none further than 31 elements from the middle;
        // nothing is read.
        unsafe { Buffer::new(data[128..].as_mut_ptr(), 4, shape, Some(strides)).unwrap().overlaps_itself() }
    };
    assert!(is(&[3], &[0]));
    assert!(is(&[3, 4], &[0, 1]));
    assert!(is(&[3, 4], &[1, 1]));
    assert!(is(&[3, 4], &[-1, 1]));
    assert!(is(&[4, 4], &[3, 1]));
    assert!(is(&[4, 4], &[2, -3]));
    assert!(is(&[2, 3, 4], &[11, 4, 1]));
    assert!(!is(&[3, 4], &[4, 1]));
    assert!(!is(&[3, 4], &[1, 3]));
    assert!(!is(&[3, 4], &[-5, -1]));
    assert!(!is(&[2, 3, 4], &[12, 1, 3]));
    assert!(!is(&[1, 4], &[0, 2]));
    assert!(!is(&[0, 4], &[0, 0]));
    assert!(!is(&[], &[]));
}

/// The plain loop knows: what is said not to overlap does not.
#[test]
fn misses_no_overlap() {
    let mut rng = Rng(2);
    let mut found = [0; 2];
    for _ in 0..5000 {
        let rank = 1 + rng.below(4) as usize;
        let shape: Vec<u64> = (0..rank).map(|_| 1 + rng.below(4)).collect();
        let strides: Vec<i64> = (0..rank).map(|_| rng.below(81) as i64 - 40).collect();
        let (mut memory, first) = memory(2, &shape, &strides);
        // SAFETY: `memory` holds every element.
        let buffer =
            unsafe { Buffer::new(memory.as_mut_ptr().add(first), 2, &shape, Some(&strides)).unwrap() };
        let mut at = offsets(2, &shape, &strides);
        at.sort_unstable();
        let overlaps = at.windows(2).any(|pair| pair[0] == pair[1]);
        assert!(!overlaps || buffer.overlaps_itself(), "{shape:?} {strides:?}");
        found[usize::from(buffer.overlaps_itself())] += 1;
    }
    assert!(found.iter().all(|&n| n > 500), "{found:?}");
}

#[test]
fn takes_no_elements_at_null() {
    for strides in [None, Some([i64::MAX, i64::MIN].as_slice())] {
        // SAFETY: there are no elements.
        let buffer = unsafe { Buffer::new(std::ptr::null_mut(), 4, &[0, u64::MAX], strides).unwrap() };
        assert_eq!((buffer.nbytes(), buffer.bytes()), (0, Some([].as_slice())));
        buffer.pack(0, &mut []).unwrap();
        // SAFETY: there are no elements.
        unsafe { buffer.unpack(0, &[]) };
    }
}

#[test]
fn refuses_what_memory_cannot_hold() {
    let mut data = [0u8; 64];
    let mut refuses = |shape: &[u64], strides: Option<&[i64]>, expected: &str| {
        // SAFETY: nothing is read; each of these is refused.
        let error = unsafe { Buffer::new(data.as_mut_ptr(), 8, shape, strides).unwrap_err() };
        assert_eq!(error.status(), Status::InvalidArgument);
        assert!(error.message().contains(expected), "{error}");
    };
    refuses(&[1 << 60], None, "too large for memory");
    refuses(&[1 << 32, 1 << 32], None, "too large for memory");
    refuses(&[2], Some(&[i64::MAX]), "reach further than memory");
    refuses(&[2], Some(&[i64::MIN]), "reach further than memory");
    refuses(&[1 << 30, 2], Some(&[1 << 31, 1]), "reach further than memory");
    refuses(&[2, 2, 2], Some(&[1 << 58, -(1 << 58), 1 << 57]), "reach further than memory");
    refuses(&[2], Some(&[-(1 << 58)]), "past memory's end");
    refuses(&[2, 2], Some(&[1]), "1 strides for 2 dimensions");
    // SAFETY: refused.
    let error = unsafe { Buffer::new(std::ptr::null_mut(), 4, &[3], None).unwrap_err() };
    assert!(error.message().contains("NULL") && error.message().contains("12 bytes"), "{error}");
    // SAFETY: refused.
    assert!(unsafe { Buffer::new(data.as_mut_ptr(), 3, &[3], None) }.is_err());
}

#[test]
fn moves_to_other_memory() {
    let mut a = [1u8, 2, 3, 4];
    let mut b = [5u8, 6, 7, 8];
    // SAFETY: both arrays hold the tensor.
    let first = unsafe { Buffer::new(a.as_mut_ptr(), 1, &[2, 2], Some(&[1, 2])).unwrap() };
    // SAFETY: as above.
    let second = unsafe { first.moved_to(b.as_mut_ptr()).unwrap() };
    let mut packed = [0; 4];
    second.pack(0, &mut packed).unwrap();
    assert_eq!(packed, [5, 7, 6, 8]);
    // SAFETY: refused.
    assert!(unsafe { first.moved_to(std::ptr::null_mut()) }.is_err());
}

/// A device: memory that is seen through its calls alone, which it counts.
#[derive(Default)]
struct Device {
    memory: Mutex<Vec<u8>>,
    /// Offset and length of each call.
    calls: Mutex<Vec<(u64, usize)>>,
    /// The call at this offset fails.
    broken: Option<u64>,
    read_only: bool,
}

impl Device {
    fn called(&self, offset: u64, len: usize) -> Result<std::ops::Range<usize>> {
        self.calls.lock().push((offset, len));
        if self.broken == Some(offset) {
            return Err(Error::new(Status::Io, format!("broken at {offset}")));
        }
        Ok(offset as usize..offset as usize + len)
    }
}

impl Source for Device {
    fn fetch(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let range = self.called(offset, dst.len())?;
        dst.copy_from_slice(&self.memory.lock()[range]);
        Ok(())
    }

    fn put(&self, offset: u64, src: &[u8]) -> Result<()> {
        let range = self.called(offset, src.len())?;
        self.memory.lock()[range].copy_from_slice(src);
        Ok(())
    }

    fn can_put(&self) -> bool {
        !self.read_only
    }
}

#[test]
fn moves_what_a_source_holds() {
    let bytes: Vec<u8> = (0..5u32 << 18).flat_map(u32::to_le_bytes).collect();
    let device = Arc::new(Device { memory: Mutex::new(bytes.clone()), ..Device::default() });
    let buffer = Buffer::source(5 << 20, 4, device.clone()).unwrap();
    assert!(buffer.is_source() && buffer.can_put() && !buffer.overlaps_itself());
    assert_eq!((buffer.nbytes(), buffer.bytes()), (5 << 20, None));
    // SAFETY: nothing is written.
    assert!(unsafe { buffer.bytes_mut(0, 4) }.is_none());

    let blocks = [(4, 2 << 20), (4 + (2 << 20), 2 << 20), (4 + (4 << 20), (1 << 20) - 8)];
    let len = (5 << 20) - 8;
    let mut packed = vec![0; len];
    buffer.pack(4, &mut packed).unwrap();
    assert!(packed == bytes[4..4 + len]);
    assert_eq!(*device.calls.lock(), blocks);

    device.calls.lock().clear();
    packed.iter_mut().for_each(|b| *b ^= 0x5a);
    buffer.clone().put(4, &packed).unwrap();
    let memory = device.memory.lock();
    assert!(
        memory[4..4 + len] == packed && memory[..4] == bytes[..4] && memory[4 + len..] == bytes[4 + len..]
    );
    assert_eq!(*device.calls.lock(), blocks);
}

#[test]
fn passes_on_the_error_of_a_source() {
    let device = Device { memory: Mutex::new(vec![0; 6 << 20]), broken: Some(2 << 20), ..Device::default() };
    let device = Arc::new(device);
    let buffer = Buffer::source(6 << 20, 8, device.clone()).unwrap();
    let error = buffer.pack(0, &mut vec![0; 6 << 20]).unwrap_err();
    assert_eq!((error.status(), error.message()), (Status::Io, "broken at 2097152"));
    assert_eq!(buffer.put(0, &vec![0; 6 << 20]).unwrap_err().status(), Status::Io);
    assert_eq!(device.calls.lock().len(), 4, "the third block was asked for after the error");
    // No part of an element.
    for (offset, len) in [(0, 12), (4, 8)] {
        assert_eq!(buffer.pack(offset, &mut vec![0; len]).unwrap_err().status(), Status::Internal);
        assert_eq!(buffer.put(offset, &vec![0; len]).unwrap_err().status(), Status::Internal);
    }
    assert_eq!(device.calls.lock().len(), 4);
}

#[test]
fn refuses_a_source_that_is_none() {
    let device = Arc::new(Device { read_only: true, ..Device::default() });
    assert!(!Buffer::source(4, 4, device.clone()).unwrap().can_put());
    let empty = Buffer::source(0, 8, device.clone()).unwrap();
    empty.pack(0, &mut []).unwrap();
    empty.put(0, &[]).unwrap();
    assert_eq!(empty.bytes(), Some([].as_slice()));
    assert!(device.calls.lock().is_empty(), "called for nothing");
    let refused = |nbytes, itemsize| Buffer::source(nbytes, itemsize, device.clone()).unwrap_err();
    assert!(refused(12, 3).message().contains("1, 2, 4 or 8"));
    assert!(refused(12, 8).message().contains("not whole elements"));
    let mut memory = [0u8; 4];
    // SAFETY: refused.
    let error = unsafe { Buffer::source(4, 4, device).unwrap().moved_to(memory.as_mut_ptr()).unwrap_err() };
    assert!(error.status() == Status::InvalidArgument && error.message().contains("no memory"), "{error}");
}
