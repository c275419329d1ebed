//! What to keep: which checkpoints go once a new one is durable.

use std::cmp::Ordering;

use super::direction::Direction;
use super::options::Options;

/// A checkpoint that is durable.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The file, always by the same path.
    pub path: String,
    /// The save counter: the larger is the newer.
    pub counter: u64,
    /// The epoch that it was saved in, from 0.
    pub epoch: u64,
    /// The monitored value, where the logs had it.
    pub value: Option<f64>,
    /// When it was saved, in seconds since 1970.
    pub saved_at: f64,
}

/// The checkpoints of a session and the rules by which they stay. Deletes nothing itself.
///
/// A checkpoint stays if it is among the last `keep_last`, among the `keep_best` best, or if the number of its
/// epoch (from 1) is a multiple of `keep_every`. The newest and the best always stay. With every rule off all do.
#[derive(Clone, Debug)]
pub struct Retention {
    keep_last: u64,
    keep_best: u64,
    keep_every: u64,
    direction: Direction,
    /// By counter, the oldest first.
    records: Vec<Record>,
}

impl Retention {
    /// No checkpoints yet.
    pub fn new(options: &Options, direction: Direction) -> Retention {
        let &Options { keep_last, keep_best, keep_every, .. } = options;
        Retention { keep_last, keep_best, keep_every, direction, records: Vec::new() }
    }

    /// The checkpoints that stand, the oldest first.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The newest checkpoint.
    pub fn newest(&self) -> Option<&Record> {
        self.records.last()
    }

    /// The checkpoint with the best monitored value; of equal ones the oldest.
    pub fn best(&self) -> Option<&Record> {
        self.best_of(&self.records)
    }

    /// The best of these, likewise.
    pub fn best_of<'a>(&self, records: impl IntoIterator<Item = &'a Record>) -> Option<&'a Record> {
        self.ranked(records).first().copied()
    }

    /// Takes over a checkpoint that stands already, as a resume finds it. One of the same path is replaced: two
    /// saves to one path are one file.
    pub fn adopt(&mut self, record: Record) {
        self.forget(&record.path);
        let at = self.records.partition_point(|r| r.counter <= record.counter);
        self.records.insert(at, record);
    }

    /// What had this path is no more.
    pub fn forget(&mut self, path: &str) {
        self.records.retain(|r| r.path != path);
    }

    /// A save is durable: takes it over, and lets go of the checkpoints that no rule keeps. Their files are to be
    /// deleted.
    pub fn saved(&mut self, record: Record) -> Vec<Record> {
        self.adopt(record);
        self.prune()
    }

    /// Lets go of the checkpoints that no rule keeps.
    pub fn prune(&mut self) -> Vec<Record> {
        if (self.keep_last, self.keep_best, self.keep_every) == (0, 0, 0) {
            return Vec::new();
        }
        let n = self.records.len();
        let last = n.saturating_sub(clamp(self.keep_last.max(1)));
        let best = self.ranked(&self.records).into_iter().take(clamp(self.keep_best.max(1)));
        let best: Vec<u64> = best.map(|r| r.counter).collect();
        let every = self.keep_every;
        let mut gone = Vec::new();
        let mut place = 0;
        self.records.retain(|r| {
            let is_nth_epoch = every > 0 && (u128::from(r.epoch) + 1).is_multiple_of(u128::from(every));
            let stays = place >= last || is_nth_epoch || best.contains(&r.counter);
            place += 1;
            if !stays {
                gone.push(r.clone());
            }
            stays
        });
        gone
    }

    /// The checkpoints that have a value, the best first; of equal ones the older first.
    fn ranked<'a>(&self, records: impl IntoIterator<Item = &'a Record>) -> Vec<&'a Record> {
        let value = |r: &Record| r.value.filter(|v| !v.is_nan());
        let mut ranked: Vec<&Record> = records.into_iter().filter(|r| value(r).is_some()).collect();
        ranked.sort_by(|a, b| {
            let order = value(a).partial_cmp(&value(b)).unwrap_or(Ordering::Equal);
            let order = if self.direction == Direction::Up { order.reverse() } else { order };
            order.then(a.counter.cmp(&b.counter))
        });
        ranked
    }
}

fn clamp(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retention(keep_last: u64, keep_best: u64, keep_every: u64) -> Retention {
        let options = Options { keep_last, keep_best, keep_every, ..Options::default() };
        Retention::new(&options, Direction::Down)
    }

    fn record(counter: u64, value: f64) -> Record {
        let value = (value >= 0.0 || value.is_nan()).then_some(value);
        Record { path: format!("{counter}"), counter, epoch: counter, value, saved_at: 0.0 }
    }

    /// The counters that stand after saves with these values (negative: none), one an epoch.
    fn kept(mut retention: Retention, values: &[f64]) -> Vec<u64> {
        let mut gone = Vec::new();
        for (i, &value) in values.iter().enumerate() {
            gone.extend(retention.saved(record(i as u64, value)));
        }
        let kept: Vec<u64> = retention.records().iter().map(|r| r.counter).collect();
        assert_eq!(kept.len() + gone.len(), values.len(), "each is kept or gone, once");
        assert!(kept.iter().all(|c| gone.iter().all(|g: &Record| g.counter != *c)));
        kept
    }

    #[test]
    fn rules() {
        let values = [5.0, 2.0, 4.0, 2.0, f64::NAN, 3.0, -1.0];
        assert_eq!(kept(retention(0, 0, 0), &values), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(kept(retention(1, 0, 0), &values), [1, 6], "the best stays");
        assert_eq!(kept(retention(3, 0, 0), &values), [1, 4, 5, 6]);
        assert_eq!(kept(retention(0, 1, 0), &values), [1, 6], "a tie: the older; the newest stays");
        assert_eq!(kept(retention(0, 3, 0), &values), [1, 3, 5, 6]);
        assert_eq!(kept(retention(0, 0, 3), &values), [1, 2, 5, 6]);
        assert_eq!(kept(retention(u64::MAX, 0, 0), &values).len(), 7);
        assert_eq!(kept(retention(1, 0, u64::MAX), &[-1.0, -1.0]), [1]);
    }

    #[test]
    fn more_is_better_upwards() {
        let options = Options { keep_best: 2, ..Options::default() };
        let values = [5.0, 2.0, 4.0, 5.0, 1.0];
        assert_eq!(kept(Retention::new(&options, Direction::Up), &values), [0, 3, 4]);
    }

    #[test]
    fn one_path_is_one_file() {
        let mut r = retention(1, 0, 0);
        for (counter, value) in [(0, 1.0), (1, 2.0), (2, 3.0)] {
            let record = Record { path: "m.keras".to_owned(), ..record(counter, value) };
            assert!(r.saved(record).is_empty());
        }
        assert_eq!(r.records().len(), 1);
        assert_eq!(r.best().and_then(|b| b.value), Some(3.0));
    }

    #[test]
    fn newest_is_by_counter() {
        let mut r = retention(2, 0, 0);
        r.adopt(record(7, 1.0));
        r.adopt(record(3, 0.5));
        assert_eq!(r.newest().map(|n| n.counter), Some(7));
        assert_eq!(r.best().map(|b| b.counter), Some(3));
        assert!(r.saved(Record { epoch: 0, ..record(8, 9.0) }).is_empty());
        assert_eq!(r.saved(record(9, 8.0)), [record(7, 1.0)]);
    }
}
