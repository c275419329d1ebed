//! Moves bytes between strided memory and row-major bytes, a range at a time.
//!
//! A range of the row-major bytes is cut into boxes: the rest of a first row, whole rows, the beginning of a
//! last one, and the same again along each axis. A box is copied two axes at a time: the one along which the
//! destination is dense and the one along which the source is, in tiles, so that a transpose reads and writes
//! whole cache lines.

use crate::tensor::MAX_RANK;

/// An axis in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Axis {
    /// Elements along it.
    pub len: usize,
    /// Bytes from one to the next.
    pub stride: isize,
}

/// Elements in memory that are not as they are in row-major order.
#[derive(Clone, Debug)]
pub(super) struct Strided {
    itemsize: usize,
    /// Outermost first; at least one, none of them empty.
    axes: Box<[Axis]>,
}

/// Which way bytes move.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Pack,
    Unpack,
}

/// An axis of a copy: elements, and the bytes from one to the next on both sides.
#[derive(Clone, Copy, Default)]
struct Step {
    len: usize,
    src: isize,
    dst: isize,
}

impl Strided {
    /// `axes` are those of a tensor with elements, whose total reach fits an `isize`; at most [`MAX_RANK`].
    pub fn new(itemsize: usize, axes: Vec<Axis>) -> Strided {
        debug_assert!(!axes.is_empty() && axes.len() <= MAX_RANK);
        Strided { itemsize, axes: axes.into() }
    }

    /// The lowest and the highest byte (exclusive) from the address of the first element.
    pub fn reach(&self) -> (isize, isize) {
        let (mut low, mut high) = (0, self.itemsize as isize);
        for axis in &self.axes {
            let last = axis.stride * (axis.len as isize - 1);
            if last < 0 { low += last } else { high += last }
        }
        (low, high)
    }

    /// Whether elements share memory, as far as the strides tell: it is certain that they do not where each stride
    /// leads beyond all that the smaller ones reach.
    pub fn overlaps_itself(&self) -> bool {
        let mut axes = self.axes.to_vec();
        axes.sort_unstable_by_key(|a| a.stride.unsigned_abs());
        let mut reach = self.itemsize;
        axes.iter().any(|axis| {
            let stride = axis.stride.unsigned_abs();
            let overlaps = stride < reach;
            reach += stride * (axis.len - 1);
            overlaps
        })
    }

    /// Gathers the row-major bytes from `offset` on into `dst`.
    ///
    /// # Safety
    ///
    /// The range is the tensor's, and its elements at `data` can be read.
    pub unsafe fn pack(&self, data: *const u8, offset: usize, dst: &mut [u8]) {
        // SAFETY: the caller's promise; `dst` is ours to write.
        unsafe { self.copy(Way::Pack, data.cast_mut(), offset, dst.as_mut_ptr(), dst.len()) }
    }

    /// Scatters `src` to the elements from byte `offset` of the row-major order on.
    ///
    /// # Safety
    ///
    /// The range is the tensor's, and its elements at `data` can be written.
    pub unsafe fn unpack(&self, data: *mut u8, offset: usize, src: &[u8]) {
        // SAFETY: the caller's promise; `src` is only read on this way.
        unsafe { self.copy(Way::Unpack, data, offset, src.as_ptr().cast_mut(), src.len()) }
    }

    /// Cuts off the parts of elements at both ends of the range, so that the rest is whole elements.
    ///
    /// # Safety
    ///
    /// As for `pack` and `unpack`; `dense` holds `len` bytes.
    unsafe fn copy(&self, way: Way, data: *mut u8, offset: usize, dense: *mut u8, len: usize) {
        let size = self.itemsize;
        let head = (offset.next_multiple_of(size) - offset).min(len);
        let items = (len - head) / size;
        let tail = len - head - items * size;
        // SAFETY: the three parts follow each other in the range, so each of them lies in it, and in `dense`.
        unsafe {
            if head > 0 {
                self.copy_part(way, data, offset, dense, head);
            }
            if items > 0 {
                let first = (offset + head) / size;
                self.copy_range(way, data, 0, first..first + items, dense.add(head));
            }
            if tail > 0 {
                self.copy_part(way, data, offset + len - tail, dense.add(len - tail), tail);
            }
        }
    }

    /// Copies a part of one element.
    ///
    /// # Safety
    ///
    /// As for `copy`; the range lies within one element.
    unsafe fn copy_part(&self, way: Way, data: *mut u8, offset: usize, dense: *mut u8, len: usize) {
        let (mut index, mut at) = (offset / self.itemsize, (offset % self.itemsize) as isize);
        for axis in self.axes.iter().rev() {
            at += (index % axis.len) as isize * axis.stride;
            index /= axis.len;
        }
        // SAFETY: `data + at` is in the element, by the caller's promise.
        unsafe {
            match way {
                Way::Pack => dense.copy_from_nonoverlapping(data.offset(at), len),
                Way::Unpack => data.offset(at).copy_from_nonoverlapping(dense, len),
            }
        }
    }

    /// Copies a range of elements, counted in row-major order over the axes from `k` on; `data` is the first of
    /// them all, `dense` the place of the range's first.
    ///
    /// # Safety
    ///
    /// As for `copy`; the range is not empty.
    unsafe fn copy_range(
        &self,
        way: Way,
        data: *mut u8,
        k: usize,
        range: std::ops::Range<usize>,
        dense: *mut u8,
    ) {
        let inner: usize = self.axes[k + 1..].iter().map(|a| a.len).product();
        let stride = self.axes[k].stride;
        let (first, last) = (range.start / inner, (range.end - 1) / inner);
        // SAFETY: index i of axis k is in the tensor for first <= i <= last, since the range is; each step below
        // takes elements of the range alone, and moves `dense` on by as many.
        unsafe {
            if first == last && !(range.start.is_multiple_of(inner) && range.end.is_multiple_of(inner)) {
                let base = first * inner;
                let row = data.offset(first as isize * stride);
                return self.copy_range(way, row, k + 1, range.start - base..range.end - base, dense);
            }
            let (mut at, mut dense, mut from) = (range.start, dense, first);
            if at % inner != 0 {
                let n = inner - at % inner;
                self.copy_range(way, data.offset(from as isize * stride), k + 1, inner - n..inner, dense);
                (at, dense, from) = (at + n, dense.add(n * self.itemsize), from + 1);
            }
            let rows = (range.end - at) / inner;
            if rows > 0 {
                self.copy_rows(way, data.offset(from as isize * stride), k, rows, dense);
                let n = rows * inner;
                (at, dense, from) = (at + n, dense.add(n * self.itemsize), from + rows);
            }
            if at < range.end {
                self.copy_range(way, data.offset(from as isize * stride), k + 1, 0..range.end - at, dense);
            }
        }
    }

    /// Copies `rows` whole rows of axis `k`, whose first element is at `data`.
    ///
    /// # Safety
    ///
    /// As for `copy`.
    unsafe fn copy_rows(&self, way: Way, data: *mut u8, k: usize, rows: usize, dense: *mut u8) {
        let mut steps = [Step::default(); MAX_RANK];
        let axes = &self.axes[k..];
        let mut pitch = self.itemsize as isize;
        for (i, axis) in axes.iter().enumerate().rev() {
            let len = if i == 0 { rows } else { axis.len };
            steps[i] = match way {
                Way::Pack => Step { len, src: axis.stride, dst: pitch },
                Way::Unpack => Step { len, src: pitch, dst: axis.stride },
            };
            pitch *= axis.len as isize;
        }
        let steps = &mut steps[..axes.len()];
        let (src, dst) = match way {
            Way::Pack => (data.cast_const(), dense),
            Way::Unpack => (dense.cast_const(), data),
        };
        // SAFETY: the steps lead to the elements of the rows on one side and to their places in `dense` on the
        // other, all of them in bounds by the caller's promise.
        unsafe {
            match self.itemsize {
                1 => copy_box::<u8>(steps, src, dst),
                2 => copy_box::<u16>(steps, src, dst),
                4 => copy_box::<u32>(steps, src, dst),
                _ => copy_box::<u64>(steps, src, dst),
            }
        }
    }
}

/// Copies a box of elements.
///
/// # Safety
///
/// `src` can be read and `dst` written at every place that the steps lead to.
unsafe fn copy_box<T: Copy>(steps: &mut [Step], mut src: *const u8, mut dst: *mut u8) {
    // The two inner axes, moved to the end: `cols`, dense in the destination, and `rows`, dense in the source.
    let n = steps.len();
    let cols = densest(steps, |s| s.dst);
    steps.swap(cols, n - 1);
    let cols = steps[n - 1];
    let rows = if n < 2 {
        Step { len: 1, src: 0, dst: 0 }
    } else {
        let rows = densest(&steps[..n - 1], |s| s.src);
        steps.swap(rows, n - 2);
        steps[n - 2]
    };
    let outer = &steps[..n.saturating_sub(2)];
    let mut index = [0usize; MAX_RANK];
    loop {
        // SAFETY: `src` and `dst` are at an element of the box, and the two steps stay in it.
        unsafe { copy_plane::<T>(rows, cols, src, dst) };
        // On to the next plane, as an odometer counts.
        let mut k = outer.len();
        loop {
            if k == 0 {
                return;
            }
            k -= 1;
            let step = outer[k];
            index[k] += 1;
            let back = if index[k] < step.len { 0 } else { step.len as isize };
            src = src.wrapping_offset(step.src * (1 - back));
            dst = dst.wrapping_offset(step.dst * (1 - back));
            if back == 0 {
                break;
            }
            index[k] = 0;
        }
    }
}

/// The axis with the smallest steps; of equals the last, which is the innermost.
fn densest(steps: &[Step], stride: impl Fn(&Step) -> isize) -> usize {
    let mut best = 0;
    for (i, step) in steps.iter().enumerate() {
        if stride(step).unsigned_abs() <= stride(&steps[best]).unsigned_abs() {
            best = i;
        }
    }
    best
}

/// Copies two axes.
///
/// # Safety
///
/// As for `copy_box`.
unsafe fn copy_plane<T: Copy>(rows: Step, cols: Step, src: *const u8, dst: *mut u8) {
    let item = size_of::<T>() as isize;
    // SAFETY: r < rows.len and c < cols.len throughout, so every place is one that the steps lead to.
    unsafe {
        if cols.src == item && cols.dst == item {
            for r in 0..rows.len as isize {
                let (s, d) = (src.offset(r * rows.src), dst.offset(r * rows.dst));
                d.copy_from_nonoverlapping(s, cols.len * size_of::<T>());
            }
        } else if rows.src == item && cols.dst == item {
            transpose::<T>(rows, cols, src, dst);
        } else {
            for r in 0..rows.len as isize {
                let (s, d) = (src.offset(r * rows.src), dst.offset(r * rows.dst));
                copy_row::<T>(cols, s, d);
            }
        }
    }
}

/// Copies one axis.
///
/// # Safety
///
/// As for `copy_box`.
#[inline]
unsafe fn copy_row<T: Copy>(cols: Step, src: *const u8, dst: *mut u8) {
    for c in 0..cols.len as isize {
        // SAFETY: the caller's promise; an element of the caller's memory may stand at any address.
        unsafe {
            let value = src.offset(c * cols.src).cast::<T>().read_unaligned();
            dst.offset(c * cols.dst).cast::<T>().write_unaligned(value);
        }
    }
}

/// Elements along a side of a tile that is turned in registers.
const TILE: usize = 8;

/// Rows that are turned together: a few cache lines of the source, so that they are read while they are near.
const BAND: usize = 64;

/// Copies two axes of which the source is dense along `rows` and the destination along `cols`.
///
/// # Safety
///
/// As for `copy_box`, and both are dense as said.
unsafe fn transpose<T: Copy>(rows: Step, cols: Step, src: *const u8, dst: *mut u8) {
    // SAFETY: every r below is less than rows.len and every c less than cols.len; a tile that begins TILE before
    // its end or more is whole.
    unsafe {
        let at = |r: usize, c: usize| {
            let (r, c) = (r as isize, c as isize);
            (src.offset(r * rows.src + c * cols.src), dst.offset(r * rows.dst + c * cols.dst))
        };
        for r0 in (0..rows.len).step_by(BAND) {
            let end = (r0 + BAND).min(rows.len);
            for c0 in (0..cols.len).step_by(TILE) {
                let right = (c0 + TILE).min(cols.len);
                let mut r = r0;
                while r + TILE <= end && c0 + TILE == right {
                    let (s, d) = at(r, c0);
                    turn::<T>(s, cols.src, d, rows.dst);
                    r += TILE;
                }
                // What is no whole tile.
                for r in r..end {
                    let (s, d) = at(r, c0);
                    copy_row::<T>(Step { len: right - c0, ..cols }, s, d);
                }
            }
        }
    }
}

/// Turns one tile: element r of the source's line c becomes element c of the destination's line r.
///
/// # Safety
///
/// `TILE` lines of `TILE` elements can be read at `src`, `src_pitch` bytes apart, and written at `dst`.
#[inline(always)]
unsafe fn turn<T: Copy>(src: *const u8, src_pitch: isize, dst: *mut u8, dst_pitch: isize) {
    // SAFETY: the caller's promise.
    unsafe {
        let lines: [[T; TILE]; TILE] =
            std::array::from_fn(|c| src.offset(c as isize * src_pitch).cast::<[T; TILE]>().read_unaligned());
        let turned: [[T; TILE]; TILE] = std::array::from_fn(|r| std::array::from_fn(|c| lines[c][r]));
        for (r, line) in turned.into_iter().enumerate() {
            dst.offset(r as isize * dst_pitch).cast::<[T; TILE]>().write_unaligned(line);
        }
    }
}
