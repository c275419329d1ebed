//! The file system: a training on a real ext4 or XFS that crashes, at random times or at a call; then others look.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use ckpt::engine::{Disk, Storage};

use crate::account::Account;
use crate::image::{Crash, Image, Kind, crash};
use crate::mutant::{Mutant, Mutation};
use crate::random::Random;
use crate::setup::Setup;
use crate::tally::Tally;
use crate::trainer::{Blow, Ended, Trainer, judge, kill_self};
use crate::watchdog;
use crate::weights::Weights;
use crate::wrapped::Wrapped;

/// Crashes of a file system, one after the other: each session meets what the crash before it has left.
const CRASHES: u64 = 4;

/// Epochs that no training comes to the end of; those of one that saves only what is better.
const MANY: u64 = 1000;
const FEW: u64 = 12;

/// The longest that a training lives, in microseconds, of a small model and of one of some MiB; the most of its calls.
const LIFE: u64 = 60_000;
const LARGE_LIFE: u64 = 150_000;
const CALLS: u64 = 250;

/// The calls of a mutant, and the crashes there can be: before and after each, with the journal lost or flushed.
const FEW_CALLS: u64 = 150;
pub const ALL_CRASHES: u64 = FEW_CALLS * 4;

/// Has no divisor in common with that: the crashes come in another order, but each of them comes.
const STRIDE: u64 = 247;

/// When a file system crashes.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Before a call, or after it.
    Call { at: u64, after: bool },
    /// After so many microseconds.
    Time(u64),
}

/// Why there can be no such crashes here.
pub fn missing() -> Option<String> {
    let tried = |kind| Image::new(kind).err();
    let why = tried(Kind::Ext4).or_else(|| tried(Kind::Xfs))?;
    Some(format!("it needs root, loop devices, mkfs.ext4 and mkfs.xfs: {why}"))
}

/// A new file system, and some crashes of it; XFS and ext4 in turn.
pub fn case(case: u64, tally: &mut Tally) -> bool {
    let kind = if case.is_multiple_of(2) { Kind::Xfs } else { Kind::Ext4 };
    let mut random = Random::new(case ^ 0x0f5_f5f5);
    let setup = setup(&mut random);
    let training = Training {
        setup: &setup,
        together: 1 + random.below(2),
        resumes: random.one_in(2),
        epochs: if setup.best_only { FEW } else { MANY },
        mutation: None,
    };
    match training.crashes(case, kind, &mut random, tally) {
        Ok(()) => tally.count("file systems", 1),
        Err(e) => tally.finding(case, format!("{}: {e} in {training:?}", kind.name())),
    }
    watchdog::rest();
    true
}

/// A way of saving whose saves are durable, and that fits into an image.
pub fn setup(random: &mut Random) -> Setup {
    let setup = Setup::of(random);
    let direct = random.one_in(4);
    let keep_last = setup.keep_last.max(u64::from(direct || setup.keep_best > 0));
    let best_only = random.one_in(8);
    Setup { direct, keep_last, best_only, durable: true, ..setup }
}

/// A training whose file systems crash.
#[derive(Debug)]
pub struct Training<'a> {
    pub setup: &'a Setup,
    pub together: u64,
    /// Whether each session goes on where the one before it was.
    pub resumes: bool,
    pub epochs: u64,
    /// What is wrong with it.
    pub mutation: Option<Mutation>,
}

/// When a file system crashes, and what becomes of its journal.
#[derive(Debug)]
struct Fate(End, Crash);

impl Fate {
    fn of(random: &mut Random, life: u64) -> Fate {
        let end = match random.one_in(2) {
            true => End::Call { at: random.below(CALLS), after: random.one_in(2) },
            false => End::Time(random.below(life)),
        };
        let how = match random.below(8) {
            0 => Crash::Flush,
            1 | 2 => Crash::Journal,
            _ => Crash::Nothing,
        };
        Fate(end, how)
    }

    /// One of [`ALL_CRASHES`].
    fn numbered(number: u64) -> Fate {
        let number = number * STRIDE % ALL_CRASHES;
        let how = if number & 2 == 0 { Crash::Nothing } else { Crash::Journal };
        Fate(End::Call { at: number / 4, after: number & 1 == 1 }, how)
    }
}

impl Training<'_> {
    fn crashes(&self, case: u64, kind: Kind, random: &mut Random, tally: &mut Tally) -> Result<(), String> {
        let mut image = Image::new(kind)?;
        let mut weights = Weights::new(self.setup.bytes());
        let mut account = Account::default();
        let life = if self.setup.direct { LARGE_LIFE } else { LIFE };
        for number in 0..CRASHES {
            let fate = Fate::of(random, life);
            watchdog::step(|| format!("fs {case}: {fate:?} in {self:?}"));
            if !self.resumes {
                account.begin();
            }
            let durable = self
                .crash(&mut image, number * MANY, &fate, &mut weights, &mut account)?
                .map_err(|e| format!("crash {number}, {fate:?}: {e}"))?;
            tally.count("crashes", 1);
            tally.count("durable saves before them", durable);
            tally.count(&format!("on {}", kind.name()), 1);
        }
        Ok(())
    }

    /// One life of it on a new file system, with one of [`ALL_CRASHES`]; an error within is what is wrong after the crash.
    pub fn crash_anew(&self, kind: Kind, number: u64) -> Result<Result<u64, String>, String> {
        let mut image = Image::new(kind)?;
        let fate = Fate::numbered(number);
        watchdog::step(|| format!("{} of a mutant: {fate:?} in {self:?}", kind.name()));
        self.crash(&mut image, 0, &fate, &mut Weights::new(self.setup.bytes()), &mut Account::default())
    }

    /// One life of it, and what is left; the saves that it has reported durable.
    fn crash(
        &self,
        image: &mut Image,
        first: u64,
        &Fate(end, how): &Fate,
        weights: &mut Weights,
        account: &mut Account,
    ) -> Result<Result<u64, String>, String> {
        let dir = image.dir();
        let root = Arc::new(image.root()?);
        let storage: Arc<dyn Storage> = match end {
            End::Call { at, after } => Arc::new(Wrapped(blow(at, after, root.clone(), how), Arc::new(Disk))),
            // With all that the real one can.
            End::Time(_) => Arc::new(Disk),
        };
        let storage = match self.mutation {
            Some(mutation) => Arc::new(Mutant::new(mutation, storage)),
            None => storage,
        };
        let Training { setup, together, resumes, epochs, .. } = *self;
        let trainer = Trainer { setup, dir: &dir, epochs: first..first + epochs, together, resumes, storage };
        let mut crashed = Ok(());
        let (killed, lines) = trainer.run_in_child(weights, |child| {
            if let End::Time(time) = end {
                child.live(Duration::from_micros(time));
                child.crash(|| crashed = crash(&root, how));
            }
        })?;
        if !killed && matches!(end, End::Call { .. }) {
            // It has come to its end before.
            crashed = crash(&root, how);
        }
        crashed.map_err(|e| format!("it does not crash: {e}"))?;
        drop(root);
        drop(trainer);
        image.mount_again()?;
        let verdict = judge(setup, weights, &dir, account, &lines, Ended::Crashed);
        let durable = lines.lines().filter(|line| *line == "done").count() as u64 * together;
        Ok(verdict.map(|()| durable).map_err(|e| format!("{e}; it said {:?}", lines.lines().last())))
    }
}

/// Crashes the file system at a call, and the training with it.
fn blow(at: u64, after: bool, root: Arc<File>, how: Crash) -> Arc<Blow<impl Fn() + Send + Sync + 'static>> {
    Blow::new(Some((at, after)), move || {
        let _ = crash(&root, how);
        kill_self();
    })
}
