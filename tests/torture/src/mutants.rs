//! The mutants: commits that are done wrongly, each of which the layers must catch.

use std::sync::Arc;

use ckpt::engine::Storage;
use ckpt::session::Async;

use crate::blocklog;
use crate::fs::{self, ALL_CRASHES, Training};
use crate::image::Kind;
use crate::mutant::{Mutant, Mutation};
use crate::power;
use crate::setup::Setup;
use crate::tally::Tally;
use crate::watchdog;

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eye {
    /// A loss of power in memory.
    Memory,
    Disk(Kind),
    /// A loss of power of a disk whose writes are known.
    Log(Kind),
}

const MEMORY: Eye = Eye::Memory;
const XFS: Eye = Eye::Disk(Kind::Xfs);
const EXT4: Eye = Eye::Disk(Kind::Ext4);
const XFS_LOG: Eye = Eye::Log(Kind::Xfs);
const EXT4_LOG: Eye = Eye::Log(Kind::Ext4);
const ALL: &[Eye] = &[MEMORY, XFS, EXT4, XFS_LOG, EXT4_LOG];

/// The mutants, in words, and who must catch them. Of changes of names a journal keeps the order, and where it is lost all
/// of them are.
const MUTANTS: [(Mutation, &str, &[Eye]); 5] = [
    (Mutation::NoSync, "fsync left out", ALL),
    (Mutation::NoDirSync, "directory sync left out", ALL),
    (Mutation::RenameFirst, "rename before the sync", ALL),
    (Mutation::RemoveFirst, "removal before its successor is durable", &[MEMORY, XFS_LOG, EXT4_LOG]),
    (Mutation::IndexFirst, "index before the shards", ALL),
];

/// Looks that an eye has, at most, but for all crashes there can be; the crashes of one that need not see anything.
const LOSSES: u64 = 5000;
const FEW_CRASHES: u64 = 60;
const TRAININGS: u64 = 4;

/// Epochs of a mutant: its losses fall, so that the newest is the best, and all before it may go.
const EPOCHS: u64 = 5;

/// The mutant of this number; 0 is none, which nobody must catch.
pub fn case(case: u64, tally: &mut Tally) -> bool {
    let number = (case as usize).checked_sub(1);
    let setup = |sharded: bool| Setup {
        ending: if sharded { ".weights.json" } else { ".weights.h5" },
        name: "m-{epoch:02d}",
        mode: Async::Off,
        keep_last: 1,
        keep_best: 0,
        best_only: false,
        recycle: true,
        direct: false,
        durable: true,
        prepare: false,
        losses: [0.6, 0.5, 0.4, 0.3, 0.2],
    };
    let Some(number) = number else {
        for sharded in [false, true] {
            match power::losses(&setup(sharded), EPOCHS, u64::MAX, |storage| storage) {
                Ok((seen, None)) => tally.count("losses of power without a mutant", seen),
                Ok((_, Some(lost))) => tally.finding(case, format!("without a mutant: {lost}")),
                Err(e) => tally.finding(case, e),
            }
        }
        watchdog::rest();
        return true;
    };
    let Some(&(mutation, what, needed)) = MUTANTS.get(number) else { return false };
    let (disks, logs) = (fs::missing().is_none(), blocklog::missing().is_none());
    let there = |eye: &Eye| match eye {
        Eye::Memory => true,
        Eye::Disk(_) => disks,
        Eye::Log(_) => logs,
    };
    let setup = setup(mutation == Mutation::IndexFirst);
    let mut seen = Vec::new();
    for eye in ALL.iter().copied().filter(there) {
        let must = needed.contains(&eye);
        match look(eye, mutation, &setup, if must { ALL_CRASHES } else { FEW_CRASHES }) {
            Ok((looks, Some(_))) => seen.push(format!("caught by {} after {looks}", eye.name())),
            Ok((looks, None)) => {
                seen.push(format!("not by {} in {looks}", eye.name()));
                if must {
                    tally.finding(case, format!("{what}: {} does not catch it", eye.name()));
                }
            }
            Err(e) => tally.finding(case, format!("{what}, {}: {e}", eye.name())),
        }
    }
    if !disks {
        seen.push("no file systems to crash here".into());
    }
    println!("mutants: {what}: {}", seen.join(", "));
    watchdog::rest();
    tally.count("mutants", 1);
    true
}

impl Eye {
    fn name(self) -> &'static str {
        match self {
            Eye::Memory => "a loss of power in memory",
            Eye::Disk(Kind::Ext4) => "ext4",
            Eye::Disk(Kind::Xfs) => "xfs",
            Eye::Log(Kind::Ext4) => "the block log of ext4",
            Eye::Log(Kind::Xfs) => "the block log of xfs",
        }
    }
}

/// How often an eye has looked until it saw what is wrong, and what that was.
fn look(eye: Eye, mutation: Mutation, setup: &Setup, crashes: u64) -> Result<(u64, Option<String>), String> {
    let mutant = |storage| -> Arc<dyn Storage> { Arc::new(Mutant::new(mutation, storage)) };
    let kind = match eye {
        Eye::Memory => return power::losses(setup, EPOCHS, LOSSES, mutant),
        Eye::Disk(kind) => kind,
        Eye::Log(kind) => {
            let training = blocklog::Training { setup, together: 1, is_hasty: true, part: None };
            let mut losses = 0;
            for seed in 0..TRAININGS {
                let seen = training.losses(kind, seed, mutant)?;
                losses += seen.losses;
                if seen.lost.is_some() {
                    return Ok((losses, seen.lost));
                }
            }
            return Ok((losses, None));
        }
    };
    let training = Training { setup, together: 1, resumes: false, epochs: EPOCHS, mutation: Some(mutation) };
    for crash in 1..=crashes {
        if let Err(lost) = training.crash_anew(kind, crash)? {
            return Ok((crash, Some(lost)));
        }
    }
    Ok((crashes, None))
}
