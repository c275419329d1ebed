//! What to keep: which checkpoints go once a new one is durable.

use std::cmp::Ordering;
use std::collections::HashSet;

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
/// A checkpoint stays if it is among the last `keep_last`, among the `keep_best` best, if the number of its epoch
/// (from 1) is a multiple of `keep_every`, or by `keep_every_secs`: the first does, and each that was saved at least
/// so many seconds after the last one that this rule keeps. The newest and the best always stay. With every rule off
/// all do.
#[derive(Clone, Debug)]
pub struct Retention {
    keep_last: u64,
    keep_best: u64,
    keep_every: u64,
    keep_every_secs: f64,
    monitor: String,
    direction: Direction,
    /// By counter, the oldest first.
    records: Vec<Record>,
}

impl Retention {
    /// No checkpoints yet.
    pub fn new(options: &Options, direction: Direction) -> Retention {
        let &Options { keep_last, keep_best, keep_every, keep_every_secs, .. } = options;
        let monitor = options.monitor.clone();
        Retention {
            keep_last,
            keep_best,
            keep_every,
            keep_every_secs,
            monitor,
            direction,
            records: Vec::new(),
        }
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
        let Some(staying) = self.staying() else { return Vec::new() };
        self.records.extract_if(.., |r| !staying.contains(&r.counter)).collect()
    }

    /// What [`Retention::saved`] would let go of, the first to go first, without the newest and the best of those that
    /// stand now: where there is no room for the new one, they can go before it.
    ///
    /// The worst goes first where the best are kept, else the oldest.
    pub fn would_drop(&self, new: &Record) -> Vec<Record> {
        let mut then = self.clone();
        then.adopt(new.clone());
        let Some(staying) = then.staying() else { return Vec::new() };
        let needed = [self.newest(), self.best()].map(|r| r.map(|r| r.counter));
        let goes = |r: &&Record| !staying.contains(&r.counter) && !needed.contains(&Some(r.counter));
        let mut going: Vec<Record> = then.records.iter().filter(goes).cloned().collect();
        if self.keep_best > 0 {
            let ranked: Vec<u64> = self.ranked(&self.records).iter().rev().map(|r| r.counter).collect();
            // What has no value is in no order of values: before all that have one.
            going.sort_by_key(|r| ranked.iter().position(|counter| *counter == r.counter));
        }
        going
    }

    /// A checkpoint in a few words, and why no rule keeps it where none does.
    pub fn why(&self, record: &Record) -> String {
        let epoch = u128::from(record.epoch) + 1;
        let mut rules = Vec::new();
        if self.keep_last > 0 {
            rules.push(format!("not among the last {}", self.keep_last));
        }
        if self.keep_best > 0 {
            rules.push(format!("not among the best {}", self.keep_best));
        }
        if self.keep_every > 0 {
            rules.push(format!("epoch {epoch} is no multiple of {}", self.keep_every));
        }
        if self.keep_every_secs > 0.0 {
            rules.push(format!("saved less than {} s after one that stays", self.keep_every_secs));
        }
        let value = record.value.map(|value| format!(", {} {value}", self.monitor)).unwrap_or_default();
        format!("(epoch {epoch}{value}): {}", rules.join(", "))
    }

    /// The counters of the checkpoints that a rule keeps; `None`: no rule is on.
    fn staying(&self) -> Option<HashSet<u64>> {
        let Retention { keep_last, keep_best, keep_every, keep_every_secs, records, .. } = self;
        if (*keep_last, *keep_best, *keep_every) == (0, 0, 0) && *keep_every_secs <= 0.0 {
            return None;
        }
        let last = records.iter().rev().take(clamp((*keep_last).max(1)));
        let best = self.ranked(records).into_iter().take(clamp((*keep_best).max(1)));
        let is_nth = |r: &&Record| (u128::from(r.epoch) + 1).is_multiple_of(u128::from(*keep_every));
        let nth = records.iter().filter(|_| *keep_every > 0).filter(is_nth);
        let mut staying: HashSet<u64> = last.chain(best).chain(nth).map(|r| r.counter).collect();
        if *keep_every_secs > 0.0 {
            let mut kept: Option<f64> = None;
            for r in records {
                // A clock that was set back begins anew: else nothing would stay until it has caught up.
                let is_near = kept.is_some_and(|kept| (0.0..*keep_every_secs).contains(&(r.saved_at - kept)));
                if !is_near {
                    kept = Some(r.saved_at);
                    staying.insert(r.counter);
                }
            }
        }
        Some(staying)
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

    /// The counters that stand after saves at these times.
    fn kept_by_time(secs: f64, times: &[f64]) -> Vec<u64> {
        let options = Options { keep_every_secs: secs, ..Options::default() };
        let mut r = Retention::new(&options, Direction::Down);
        for (i, &saved_at) in times.iter().enumerate() {
            r.saved(Record { saved_at, ..record(i as u64, -1.0) });
            // What has gone does not change what stays.
            assert!(r.clone().prune().is_empty());
        }
        r.records().iter().map(|r| r.counter).collect()
    }

    #[test]
    fn some_stay_by_their_time() {
        assert_eq!(kept_by_time(10.0, &[100.0, 105.0, 109.9, 110.0, 119.0, 121.0, 122.0]), [0, 3, 5, 6]);
        assert_eq!(kept_by_time(10.0, &[100.0, 200.0, 205.0, 209.0, 300.0]), [0, 1, 4]);
        assert_eq!(
            kept_by_time(10.0, &[100.0, 90.0, 95.0, 101.0, 102.0]),
            [0, 1, 3, 4],
            "the clock went back"
        );
        assert_eq!(kept_by_time(10.0, &[0.0, f64::NAN, 0.0, 5.0]), [0, 1, 2, 3], "what is not known stays");
        assert_eq!(kept_by_time(0.0, &[1.0, 1.0, 1.0]), [0, 1, 2], "off");
        assert_eq!(kept_by_time(f64::MAX, &[1.0, 2.0, 3.0]), [0, 2]);
    }

    #[test]
    fn rules_are_united() {
        let options = Options {
            keep_last: 1,
            keep_best: 1,
            keep_every: 4,
            keep_every_secs: 10.0,
            ..Options::default()
        };
        let mut r = Retention::new(&options, Direction::Down);
        let gone: Vec<u64> = (0..10)
            .flat_map(|i| {
                let value = if i == 5 { 0.0 } else { 1.0 };
                let saved_at = 4.0 * i as f64;
                r.saved(Record { saved_at, ..record(i, value) })
            })
            .map(|gone| gone.counter)
            .collect();
        let stay: Vec<u64> = r.records().iter().map(|r| r.counter).collect();
        assert_eq!(stay, [0, 3, 5, 6, 7, 9], "0, 3, 6, 9 by time, 3 and 7 by epoch, 5 is the best");
        assert_eq!(gone, [1, 2, 4, 8]);
    }

    #[test]
    fn what_would_go_can_go_before_but_for_the_newest_and_the_best() {
        let counters = |r: &Retention, new: Record| -> Vec<u64> {
            let before = r.clone();
            let would: Vec<u64> = r.would_drop(&new).iter().map(|r| r.counter).collect();
            let mut after = before.clone();
            let goes: Vec<u64> = after.saved(new).iter().map(|r| r.counter).collect();
            let needed = [before.newest(), before.best()].map(|r| r.map(|r| r.counter));
            let mut expected: Vec<u64> = goes.into_iter().filter(|c| !needed.contains(&Some(*c))).collect();
            let mut sorted = would.clone();
            expected.sort_unstable();
            sorted.sort_unstable();
            assert_eq!(sorted, expected);
            would
        };
        let filled = |mut r: Retention, values: &[f64]| {
            values.iter().enumerate().for_each(|(i, value)| r.adopt(record(i as u64, *value)));
            r
        };
        let values = [3.0, 1.0, 5.0, -1.0, 4.0, 2.0];
        assert_eq!(
            counters(&filled(retention(2, 0, 0), &values), record(9, 9.0)),
            [0, 2, 3, 4],
            "the oldest first"
        );
        assert_eq!(
            counters(&filled(retention(0, 2, 0), &values), record(9, 9.0)),
            [3, 2, 4, 0],
            "the worst first"
        );
        let better = filled(retention(1, 0, 0), &values);
        assert_eq!(
            counters(&better, record(9, 0.5)),
            [0, 2, 3, 4],
            "the best so far stays until it is surpassed"
        );
        assert_eq!(counters(&filled(retention(0, 0, 0), &values), record(9, 9.0)), [0; 0]);
        assert_eq!(counters(&filled(retention(1, 0, 0), &[2.0, 1.0]), record(9, 0.0)), [0]);
        assert_eq!(counters(&filled(retention(1, 0, 0), &[1.0]), record(9, 0.0)), [0; 0]);
        // What the new one replaces is needed until it has.
        let same = Record { path: "0".to_owned(), ..record(9, 9.0) };
        assert_eq!(counters(&filled(retention(1, 0, 0), &values), same), [2, 3, 4]);
        let tie = filled(retention(0, 1, 0), &[1.0, 7.0, 7.0, 2.0]);
        assert_eq!(counters(&tie, record(9, 9.0)), [2, 1], "of equal ones the newer first");
    }

    #[test]
    fn the_reason_names_the_rules() {
        let options = Options { keep_last: 2, keep_best: 1, keep_every: 5, ..Options::default() };
        let r = Retention::new(&options, Direction::Down);
        let why = "(epoch 3, val_loss 0.41): not among the last 2, not among the best 1, epoch 3 is no multiple of 5";
        assert_eq!(r.why(&record(2, 0.41)), why);
        let r = Retention::new(&Options { keep_every_secs: 0.5, ..Options::default() }, Direction::Down);
        assert_eq!(r.why(&record(0, -1.0)), "(epoch 1): saved less than 0.5 s after one that stays");
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
