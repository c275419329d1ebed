//! The block log: a training on a real ext4 or XFS whose device writes down each write and each flush; then others look at
//! what the disk can be after a loss of power at any of them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ckpt::engine::{self, Storage};

use crate::account::Account;
use crate::disk::{Disk, Event, parts};
use crate::fs as crashes;
use crate::image::{Kind, format, mount, unmount};
use crate::random::Random;
use crate::setup::Setup;
use crate::tally::Tally;
use crate::trainer::{Ended, Trainer, judge};
use crate::watchdog;
use crate::weights::Weights;
use crate::wrapped::{Hook, Turn, Wrapped};

/// Epochs of each of two trainings: the second one goes on where the first was.
const EPOCHS: u64 = 4;

/// What else the disk can be, of each span of time between two flushes.
const SHUFFLES: u64 = 3;

/// Cases that have all losses of power of a training between them.
const CASES: u64 = 8;

/// How often a training goes on from what it was left, and saves.
const GOES_ON: u64 = 8;

/// Why there can be no such disks here.
pub fn missing() -> Option<String> {
    crashes::missing().or_else(|| {
        let disk = format(Kind::Ext4).and_then(Disk::new);
        disk.err().map(|e| format!("it needs FUSE: {e}"))
    })
}

/// A new disk, and some of the losses of power of a training on it; the next cases have the others. XFS and ext4 in turn.
pub fn case(case: u64, tally: &mut Tally) -> bool {
    let number = case / CASES;
    let kind = if number.is_multiple_of(2) { Kind::Xfs } else { Kind::Ext4 };
    let mut random = Random::new(number ^ 0x00b1_0c10);
    let setup = crashes::setup(&mut random);
    let (together, is_hasty) = (1 + random.below(2), random.one_in(2));
    let training = Training { setup: &setup, together, is_hasty, part: Some(case % CASES) };
    let seen = training.losses(kind, case, |storage| storage);
    watchdog::rest();
    match seen {
        Ok(Seen { losses, shuffled, durable, lost }) => {
            tally.count("losses of power", losses);
            tally.count("of them out of order", shuffled);
            tally.count("durable saves in them", durable);
            tally.count(&format!("on {}", kind.name()), losses);
            tally.count("trainings", u64::from(case.is_multiple_of(CASES)));
            if let Some(lost) = lost {
                tally.finding(case, format!("{}: {lost} in {training:?}", kind.name()));
            }
        }
        Err(e) => tally.finding(case, format!("{}: {e} in {training:?}", kind.name())),
    }
    true
}

/// A training that is written down.
#[derive(Debug)]
pub struct Training<'a> {
    pub setup: &'a Setup,
    pub together: u64,
    /// Whether the kernel writes what it has without being asked to.
    pub is_hasty: bool,
    /// Which of the spans between two flushes are looked at: every one in so many [`CASES`], from this one on; or all.
    pub part: Option<u64>,
}

/// What was seen.
pub struct Seen {
    pub losses: u64,
    /// Those in which writes overtook each other, or a part of one was lost.
    shuffled: u64,
    durable: u64,
    /// What was not there after the last of them.
    pub lost: Option<String>,
}

impl Training<'_> {
    /// Trains, and looks at what is left after each loss of power until something is missing.
    pub fn losses(
        &self,
        kind: Kind,
        seed: u64,
        wrap: impl Fn(Arc<dyn Storage>) -> Arc<dyn Storage>,
    ) -> Result<Seen, String> {
        watchdog::step(|| format!("blocklog {seed}: {self:?}"));
        let mut disk = Disk::new(format(kind)?)?;
        let mut weights = Weights::new(self.setup.bytes());
        let log = self.record(&mut disk, kind, seed, &mut weights, wrap)?;
        let mut random = Random::new(seed ^ 0x0005_4eed);
        let mut seen = Seen { losses: 0, shuffled: 0, durable: 0, lost: None };
        let said = |line: &Event| matches!(line, Event::Said(line) if line == "done\n");
        seen.durable = log.iter().filter(|line| said(line)).count() as u64 * self.together;
        for (number, span) in (0..).zip(spans(&log)) {
            let is_ours = self.part.is_none_or(|part| number % CASES == part);
            let mut losses: Vec<Loss> = (span.start..=span.end).map(Loss::in_order).collect();
            losses.dedup_by_key(|loss| written(&log[span.start..loss.at]));
            losses.extend((0..SHUFFLES).map(|_| Loss::out_of_order(&span, &mut random)));
            for loss in losses.into_iter().filter(|_| is_ours) {
                watchdog::step(|| format!("blocklog {seed}: {loss:?} in {self:?}"));
                loss.happen(&disk, &log, &span)?;
                let lines = lines(&log[..loss.at]);
                let goes_on = random.one_in(GOES_ON);
                let verdict = self.look(&mut disk, kind, &mut weights, &lines, goes_on);
                disk.forget();
                seen.losses += 1;
                seen.shuffled += u64::from(loss.shuffle.is_some());
                if let Err(lost) = verdict {
                    seen.lost = Some(format!(
                        "{loss:?} of {}: {lost}; it said {:?}",
                        log.len(),
                        lines.lines().last()
                    ));
                    return Ok(seen);
                }
            }
            for (offset, bytes) in writes(&log[span]) {
                disk.put_below(offset, bytes)?;
            }
        }
        Ok(seen)
    }

    /// All that happens to the disk while it trains, and what it says.
    fn record(
        &self,
        disk: &mut Disk,
        kind: Kind,
        seed: u64,
        weights: &mut Weights,
        wrap: impl Fn(Arc<dyn Storage>) -> Arc<dyn Storage>,
    ) -> Result<Vec<Event>, String> {
        let at = disk.at();
        let dir = at.join("run");
        mount(kind, &disk.open()?, &at)?;
        let made = fs::create_dir(&dir).map_err(|e| e.to_string());
        unmount(kind, &at)?;
        made?;
        disk.settle()?;
        disk.record();
        mount(kind, &disk.open()?, &at)?;
        let hasty = self.is_hasty.then(|| Hasty::new(&at, seed)).transpose().map_err(|e| e.to_string())?;
        let hasty = hasty.map(Arc::new);
        let Training { setup, together, .. } = *self;
        for _ in 0..2 {
            let storage: Arc<dyn Storage> = match &hasty {
                Some(hasty) => Arc::new(Wrapped(hasty.clone(), Arc::new(engine::Disk))),
                // With all that the real one can.
                None => Arc::new(engine::Disk),
            };
            let (storage, epochs) = (wrap(storage), 0..EPOCHS);
            let trainer = Trainer { setup, dir: &dir, epochs, together, resumes: true, storage };
            trainer.run(weights, &mut Says(disk));
        }
        drop(hasty);
        let log = disk.end_record();
        unmount(kind, &at)?;
        disk.forget();
        Ok(log)
    }

    /// Looks at the disk as it is.
    fn look(
        &self,
        disk: &mut Disk,
        kind: Kind,
        weights: &mut Weights,
        lines: &str,
        goes_on: bool,
    ) -> Result<(), String> {
        let at = disk.at();
        mount(kind, &disk.open()?, &at)?;
        let verdict = self.judge(&at.join("run"), weights, lines, goes_on);
        unmount(kind, &at)?;
        verdict
    }

    fn judge(&self, dir: &Path, weights: &mut Weights, lines: &str, goes_on: bool) -> Result<(), String> {
        let Training { setup, together, .. } = *self;
        let mut account = Account::default();
        judge(setup, weights, dir, &mut account, lines, Ended::Crashed)?;
        let (epochs, storage) = (0..u64::from(goes_on), Arc::new(engine::Disk));
        let mut said = Vec::new();
        Trainer { setup, dir, epochs, together, resumes: true, storage }.run(weights, &mut said);
        let said = String::from_utf8_lossy(&said);
        judge(setup, weights, dir, &mut account, &said, Ended::ByItself).map_err(|e| format!("going on: {e}"))
    }
}

/// What a training says, into the log.
struct Says<'a>(&'a Disk);

impl Write for Says<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.say(&String::from_utf8_lossy(line));
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// After calls of the seam, at random, has the kernel write its journal, or all that it has: it may do so at any time.
struct Hasty {
    other: File,
    random: Mutex<Random>,
}

impl Hasty {
    fn new(at: &Path, seed: u64) -> io::Result<Hasty> {
        Ok(Hasty { other: File::create(at.join("other"))?, random: Mutex::new(Random::new(seed)) })
    }
}

impl Hook for Hasty {
    fn before(&self, _: &'static str) -> Turn {
        Turn::Go
    }

    fn after(&self, _: &'static str) {
        let chance = self.random.lock().map_or(0, |mut random| random.below(8));
        match chance {
            // The journal has what was done to other files, too, and not what was written to them.
            0 | 1 => drop(
                self.other
                    .write_all_at(b"?", 0)
                    .and_then(|()| self.other.set_len(0))
                    .and_then(|()| self.other.sync_all()),
            ),
            // SAFETY: a live descriptor.
            2 => drop(unsafe { libc::syncfs(self.other.as_raw_fd()) }),
            _ => {}
        }
    }
}

/// A loss of power: what was written since the last flush is there in order, or pages of it are at random.
#[derive(Debug)]
struct Loss {
    /// Nothing of the log from there on has happened.
    at: usize,
    shuffle: Option<Shuffle>,
}

/// Of each page that was written, whether it is there.
#[derive(Debug)]
struct Shuffle {
    seed: u64,
    /// Of a hundred pages so many are.
    of_hundred: u64,
}

impl Loss {
    fn in_order(at: usize) -> Loss {
        Loss { at, shuffle: None }
    }

    fn out_of_order(span: &Range<usize>, random: &mut Random) -> Loss {
        let at = span.end - random.below((span.len() as u64).div_ceil(2).max(1)) as usize;
        Loss { at, shuffle: Some(Shuffle { seed: random.next(), of_hundred: random.one_of(&[10, 50, 90]) }) }
    }

    /// Makes the disk to what it leaves, where all before the span is below.
    fn happen(&self, disk: &Disk, log: &[Event], span: &Range<usize>) -> Result<(), String> {
        let mut random = self.shuffle.as_ref().map(|shuffle| Random::new(shuffle.seed));
        for (offset, bytes) in writes(&log[span.start..self.at]) {
            for part in parts(offset, bytes.len()) {
                let is_there = match (&self.shuffle, &mut random) {
                    (Some(shuffle), Some(random)) => random.below(100) < shuffle.of_hundred,
                    _ => true,
                };
                if is_there {
                    disk.put(offset + part.at as u64, &bytes[part.at..][..part.len])?;
                }
            }
        }
        Ok(())
    }
}

/// The spans of a log between two flushes.
fn spans(log: &[Event]) -> Vec<Range<usize>> {
    let flushes = (0..log.len()).filter(|&i| matches!(log[i], Event::Flush)).chain([log.len()]);
    let mut begin = 0;
    let spans = flushes.map(|flush| std::mem::replace(&mut begin, flush)..flush);
    spans.collect()
}

fn writes(log: &[Event]) -> impl Iterator<Item = (u64, &[u8])> {
    log.iter().filter_map(|event| match event {
        Event::Write { offset, bytes } => Some((*offset, &bytes[..])),
        _ => None,
    })
}

/// What makes a difference: how much was written and said.
fn written(log: &[Event]) -> usize {
    log.iter().filter(|event| !matches!(event, Event::Flush)).count()
}

fn lines(log: &[Event]) -> String {
    let said = log.iter().filter_map(|event| match event {
        Event::Said(line) => Some(&line[..]),
        _ => None,
    });
    said.collect()
}
