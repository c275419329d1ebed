//! The grid that chunks form, their numbers in it, and the elements that each of them brings.

use crate::error::Result;
use crate::reader::source::damaged;
use crate::tensor::MAX_RANK;

/// A shape cut into chunks.
pub(in crate::reader::hdf5) struct Grid {
    shape: Vec<u64>,
    /// How far each axis can grow: `u64::MAX` is without limit.
    max: Vec<u64>,
    /// Elements of a chunk along each axis.
    axes: Vec<u64>,
    /// Chunks along each axis.
    counts: Vec<u64>,
}

/// Elements that stand in one piece in a chunk and in the tensor: where, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reader::hdf5) struct Run {
    pub chunk: u64,
    pub tensor: u64,
    pub len: u64,
}

/// How an array numbers the chunks: row-major, after one axis was put first.
pub(super) struct Order {
    first: usize,
    /// Chunks along each axis when it has grown as far as it can.
    most: Vec<u64>,
}

impl Grid {
    /// All lists have an entry for each axis, at least one; `axes` none that is 0.
    pub fn new(shape: &[u64], max: &[u64], axes: &[u64]) -> Grid {
        let counts = shape.iter().zip(axes).map(|(size, chunk)| size.div_ceil(*chunk)).collect();
        Grid { shape: shape.to_vec(), max: max.to_vec(), axes: axes.to_vec(), counts }
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// How many chunks there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(1, |n: u64, count| n.saturating_mul(*count))
    }

    /// The elements of all chunks, those beyond the shape too.
    pub fn elements(&self) -> u64 {
        self.axes.iter().fold(self.count(), |n, axis| n.saturating_mul(*axis))
    }

    pub(super) fn contains(&self, place: &[u64]) -> bool {
        place.len() == self.rank() && place.iter().zip(&self.counts).all(|(at, count)| at < count)
    }

    /// Does the chunk reach beyond the shape?
    pub(super) fn is_edge(&self, place: &[u64]) -> bool {
        let ends = place.iter().zip(&self.axes).map(|(at, axis)| (at + 1).saturating_mul(*axis));
        ends.zip(&self.shape).any(|(end, size)| end > *size)
    }

    /// Visits every place, row-major.
    pub(super) fn places(&self, mut visit: impl FnMut(&[u64]) -> Result<()>) -> Result<()> {
        let mut place = vec![0; self.rank()];
        for _ in 0..self.count() {
            visit(&place)?;
            advance(&mut place, &self.counts);
        }
        Ok(())
    }

    /// The one axis that can grow without limit.
    pub(super) fn growing(&self) -> Result<usize> {
        let mut growing =
            self.max.iter().enumerate().filter(|(_, max)| **max == u64::MAX).map(|(axis, _)| axis);
        match (growing.next(), growing.next()) {
            (Some(axis), None) => Ok(axis),
            _ => Err(damaged("its index of chunks is for a shape in which one axis can grow")),
        }
    }

    /// How an array numbers the chunks, with the axis `first` put first if there is one.
    pub(super) fn order(&self, first: Option<usize>) -> Result<Order> {
        if (0..self.rank()).any(|axis| self.max.get(axis) == Some(&u64::MAX) && Some(axis) != first) {
            return Err(damaged("its index of chunks is for a shape that cannot grow"));
        }
        let most = self.max.iter().zip(&self.axes).map(|(max, axis)| max.div_ceil(*axis).max(1)).collect();
        Ok(Order { first: first.unwrap_or(0), most })
    }

    /// Visits the runs of the chunk at `place`, a place in the grid.
    pub fn runs(&self, place: &[u64], mut visit: impl FnMut(Run) -> Result<()>) -> Result<()> {
        let rank = self.rank();
        // Elements of the chunk that lie in the shape, and where they begin, along each axis.
        let (mut sizes, mut starts) = ([1; MAX_RANK], [0; MAX_RANK]);
        let axes = place.iter().zip(self.axes.iter().zip(&self.shape));
        for ((size, start), (at, (axis, end))) in sizes.iter_mut().zip(&mut starts).zip(axes) {
            *start = at * axis;
            *size = (*axis).min(end - *start);
        }
        // The axes from `inner` on make one run: behind the first of them, chunk and shape are equally long.
        let (mut inner, mut len) = (rank, 1);
        while let Some(axis) = inner.checked_sub(1) {
            len *= sizes[axis];
            inner = axis;
            if self.axes[axis] != self.shape[axis] {
                break;
            }
        }
        let (outer, mut counter) = (sizes.get(..inner).unwrap_or_default(), vec![0; inner]);
        for _ in 0..outer.iter().product() {
            let (mut chunk, mut tensor) = (0, 0);
            let at = counter.iter().chain(std::iter::repeat(&0));
            for (((axis, size), start), at) in self.axes.iter().zip(&self.shape).zip(&starts).zip(at) {
                chunk = chunk * axis + at;
                tensor = tensor * size + start + at;
            }
            visit(Run { chunk, tensor, len })?;
            advance(&mut counter, outer);
        }
        Ok(())
    }
}

/// The next place, row-major; after the last comes the first.
fn advance(place: &mut [u64], counts: &[u64]) {
    for (at, count) in place.iter_mut().zip(counts).rev() {
        *at += 1;
        if *at < *count {
            return;
        }
        *at = 0;
    }
}

impl Order {
    /// The axes, that which changes slowest first.
    fn axes(&self) -> impl DoubleEndedIterator<Item = usize> {
        let others = (0..self.most.len()).filter(|axis| *axis != self.first);
        std::iter::once(self.first).chain(others)
    }

    /// The number of the chunk at `place`.
    pub fn number(&self, place: &[u64]) -> Option<u64> {
        self.axes()
            .try_fold(0, |n: u64, axis| n.checked_mul(*self.most.get(axis)?)?.checked_add(*place.get(axis)?))
    }

    /// The number behind that of the last chunk in the shape.
    pub fn end(&self, grid: &Grid) -> u64 {
        let last: Vec<u64> = grid.counts.iter().map(|count| count.saturating_sub(1)).collect();
        self.number(&last).and_then(|n| n.checked_add(1)).unwrap_or(u64::MAX)
    }

    /// The place of the chunk with the number `n`.
    pub fn place(&self, mut n: u64, place: &mut [u64]) {
        for axis in self.axes().rev() {
            if let (Some(at), Some(most)) = (place.get_mut(axis), self.most.get(axis)) {
                // The slowest axis takes what is left.
                (*at, n) = if axis == self.first { (n, 0) } else { (n % most, n / most) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_the_shape_once() {
        for (shape, axes) in [
            (vec![10], vec![3]),
            (vec![10], vec![10]),
            (vec![4, 6], vec![2, 6]),
            (vec![5, 7], vec![2, 3]),
            (vec![3, 4, 5], vec![2, 4, 5]),
            (vec![3, 4, 5, 6], vec![2, 4, 2, 6]),
            (vec![2, 1, 3], vec![8, 8, 8]),
        ] {
            let grid = Grid::new(&shape, &shape, &axes);
            let chunk: u64 = axes.iter().product();
            let mut seen = vec![0; shape.iter().product::<u64>() as usize];
            grid.places(|place| {
                grid.runs(place, |run| {
                    assert!(run.chunk + run.len <= chunk);
                    seen[run.tensor as usize..][..run.len as usize].iter_mut().for_each(|n| *n += 1);
                    Ok(())
                })
            })
            .unwrap();
            assert!(seen.iter().all(|n| *n == 1), "{shape:?} {axes:?} {seen:?}");
        }
    }

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        let runs = |shape: &[u64], axes: &[u64]| {
            let mut found = Vec::new();
            Grid::new(shape, shape, axes)
                .runs(&vec![0; shape.len()], |run| {
                    found.push(run);
                    Ok(())
                })
                .unwrap();
            found
        };
        assert_eq!(runs(&[100, 8, 8], &[10, 8, 8]), [Run { chunk: 0, tensor: 0, len: 640 }]);
        let two = [Run { chunk: 0, tensor: 0, len: 24 }, Run { chunk: 24, tensor: 64, len: 24 }];
        assert_eq!(runs(&[2, 8, 8], &[2, 3, 8]), two);
    }

    #[test]
    fn orders_put_one_axis_first() {
        let grid = Grid::new(&[4, 6, 10], &[8, u64::MAX, 10], &[2, 3, 4]);
        let order = grid.order(Some(grid.growing().unwrap())).unwrap();
        assert_eq!(order.number(&[1, 5, 2]), Some(5 * 12 + 3 + 2));
        let mut place = [0; 3];
        order.place(5 * 12 + 3 + 2, &mut place);
        assert_eq!(place, [1, 5, 2]);
        assert!(grid.order(None).is_err());
    }
}
