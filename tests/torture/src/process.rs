//! The process: a training is killed before and after every call of the seam, and at random times; then others look.

use std::sync::Arc;
use std::time::Duration;

use ckpt::engine::Disk;

use crate::account::Account;
use crate::random::Random;
use crate::scratch::{Place, Scratch};
use crate::setup::Setup;
use crate::tally::Tally;
use crate::trainer::{Blow, Ended, Trainer, judge, kill_self};
use crate::watchdog;
use crate::weights::Weights;
use crate::wrapped::Wrapped;

/// Epochs of a child that nobody kills before.
const EPOCHS: u64 = 12;

/// Calls of a case, and the cases that have all of a way of saving.
const CALLS: u64 = 30;
const CASES: u64 = 8;

/// The longest that a child is let live, in microseconds.
const LIFE: u64 = 10_000;

/// When a child ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Before a call, or after it.
    Call { at: u64, after: bool },
    /// After so many microseconds.
    Time(u64),
}

/// Some calls of one way of saving, and as many random times; the next cases have the others.
pub fn case(case: u64, tally: &mut Tally) -> bool {
    let mut random = Random::new((case / CASES) ^ 0x00c0_ffee);
    let setup = Setup { direct: false, ..Setup::of(&mut random) };
    let together = 1 + random.below(2);
    let place = if random.one_in(8) { Place::Disk } else { Place::Memory };
    let mut weights = Weights::new(setup.bytes());
    let first = case % CASES * CALLS;
    for at in first..first + CALLS {
        let (mut killed, mut found) = (false, false);
        for after in [false, true] {
            let ends = [End::Call { at, after }, End::Time(random.below(LIFE))];
            watchdog::step(|| format!("process {case}: {ends:?} in {setup:?}"));
            match live(&setup, &mut weights, place, together, ends) {
                Ok(kills) => {
                    killed |= kills[0];
                    tally.count("kills", kills.iter().map(|killed| u64::from(*killed)).sum());
                    tally.count("at random times", u64::from(kills[1]));
                }
                Err(e) => {
                    found = true;
                    tally.finding(
                        case,
                        format!("{ends:?}: {e} in {setup:?}, {together} saves at once, {place:?}"),
                    );
                }
            }
        }
        if !killed || found {
            break;
        }
    }
    watchdog::rest();
    tally.count("ways of saving", u64::from(case.is_multiple_of(CASES)));
    true
}

/// One directory, two children after each other; which of them were killed.
fn live(
    setup: &Setup,
    weights: &mut Weights,
    place: Place,
    together: u64,
    ends: [End; 2],
) -> Result<[bool; 2], String> {
    let scratch = Scratch::new(place).map_err(|e| e.to_string())?;
    let dir = scratch.path();
    let mut account = Account::default();
    let mut killed = [false; 2];
    for (stage, end) in ends.into_iter().enumerate() {
        account.begin();
        let first = stage as u64 * EPOCHS;
        let at = match end {
            End::Call { at, after } => Some((at, after)),
            End::Time(_) => None,
        };
        let storage = Arc::new(Wrapped(Blow::new(at, kill_self), Arc::new(Disk)));
        let trainer =
            Trainer { setup, dir, epochs: first..first + EPOCHS, together, resumes: false, storage };
        let (was_killed, lines) = trainer.run_in_child(weights, |child| {
            if let End::Time(time) = end {
                child.live(Duration::from_micros(time));
                child.kill();
            }
        })?;
        killed[stage] = was_killed;
        let ended = if was_killed { Ended::Killed } else { Ended::ByItself };
        judge(setup, weights, dir, &mut account, &lines, ended)
            .map_err(|e| format!("child {stage}: {e}; it said {:?}", lines.lines().last()))?;
    }
    Ok(killed)
}
