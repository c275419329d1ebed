//! The process: a training is killed before and after every call of the seam, and at random times; then others look.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use ckpt::engine::Disk;

use crate::account::{Account, Record};
use crate::random::Random;
use crate::scratch::{Place, Scratch, files};
use crate::setup::Setup;
use crate::tally::Tally;
use crate::watchdog;
use crate::weights::Weights;
use crate::wrapped::{Hook, Turn, Wrapped};

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

/// Kills its own process at a call.
struct Kill {
    end: End,
    calls: AtomicU64,
}

impl Kill {
    fn strike(&self, call: u64, is_after: bool) {
        if matches!(self.end, End::Call { at, after } if at == call && after == is_after) {
            // SAFETY: no pointers; it does not return.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
    }
}

impl Hook for Kill {
    fn before(&self, _: &'static str) -> Turn {
        self.strike(self.calls.fetch_add(1, Relaxed), false);
        Turn::Go
    }
    fn after(&self, _: &'static str) {
        self.strike(self.calls.load(Relaxed).wrapping_sub(1), true);
    }
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
    let mut account = Account::default();
    let mut killed = [false; 2];
    for (stage, end) in ends.into_iter().enumerate() {
        account.begin();
        let first = stage as u64 * EPOCHS;
        let (was_killed, lines) =
            child(setup, weights, scratch.path(), first..first + EPOCHS, together, end)?;
        killed[stage] = was_killed;
        judge(setup, weights, scratch.path(), &mut account, &lines, was_killed)
            .map_err(|e| format!("child {stage}: {e}; it said {:?}", lines.lines().last()))?;
    }
    Ok(killed)
}

/// Looks at what a child has left.
fn judge(
    setup: &Setup,
    weights: &Weights,
    dir: &Path,
    account: &mut Account,
    lines: &str,
    killed: bool,
) -> Result<(), String> {
    let mut begun: Vec<Record> = Vec::new();
    for line in lines.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        match words[..] {
            ["begin", path, time, loss] => begun.push(Record {
                path: path.into(),
                time: time.parse().map_err(|_| format!("'{line}'"))?,
                loss: loss.parse().map_err(|_| format!("'{line}'"))?,
            }),
            ["done"] => begun.drain(..).for_each(|record| account.saved(setup, record)),
            ["end"] => {}
            _ => return Err(line.to_owned()),
        }
    }
    if !killed && !lines.ends_with("end\n") {
        return Err("it ended by itself".into());
    }
    // Of the saves under way a first part has been made.
    let mut verdict = account.check(dir, setup, weights);
    for record in begun {
        if verdict.is_ok() {
            break;
        }
        account.saved(setup, record);
        let next = account.check(dir, setup, weights);
        verdict = next.map_err(|e| format!("{}; or {e}", verdict.as_ref().err().map_or("", |e| e)));
    }
    verdict?;
    drop(setup.session(dir, Arc::new(Disk)).map_err(|e| format!("a new session: {e}"))?);
    let is_ours = |path: &PathBuf| path.to_string_lossy().contains("/.ckpt-");
    if let Some(left) = files(dir).into_iter().find(is_ours) {
        return Err(format!("{} is left", left.display()));
    }
    account.check(dir, setup, weights).map_err(|e| format!("after a new session: {e}"))
}

/// Runs a child until its end; whether it was killed, and what it has said.
fn child(
    setup: &Setup,
    weights: &mut Weights,
    dir: &Path,
    epochs: std::ops::Range<u64>,
    together: u64,
    end: End,
) -> Result<(bool, String), String> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    // SAFETY: both are new, and nobody else's.
    let (mut reads, writes) =
        unsafe { (File::from(OwnedFd::from_raw_fd(ends[0])), File::from_raw_fd(ends[1])) };
    // SAFETY: the other thread of this process, the watchdog, holds nothing that the child uses.
    match unsafe { libc::fork() } {
        0 => {
            let mut writes = writes;
            let said = train(setup, weights, dir, epochs, together, end, &mut writes);
            let last = said.map_or_else(|e| e.replace(['\n', '\t'], " "), |()| "end".into());
            let _ = say(&mut writes, last + "\n");
            // SAFETY: no pointers; it does not return.
            unsafe { libc::_exit(0) }
        }
        -1 => Err(std::io::Error::last_os_error().to_string()),
        pid => {
            drop(writes);
            if let End::Time(time) = end {
                thread::sleep(Duration::from_micros(time));
                // SAFETY: our own child, which has not been waited for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            let mut lines = String::new();
            reads.read_to_string(&mut lines).map_err(|e| e.to_string())?;
            let mut status = 0;
            // SAFETY: a live number.
            while unsafe { libc::waitpid(pid, &mut status, 0) } == -1 {}
            let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
            Ok((killed, lines))
        }
    }
}

/// What a child does: it trains, and says what it saves.
fn train(
    setup: &Setup,
    weights: &mut Weights,
    dir: &Path,
    epochs: std::ops::Range<u64>,
    together: u64,
    end: End,
    out: &mut File,
) -> Result<(), String> {
    let storage = Wrapped(Arc::new(Kill { end, calls: AtomicU64::new(0) }));
    let text = |e: ckpt::error::Error| e.message().to_owned();
    let (session, _errors) = setup.session(dir, Arc::new(storage)).map_err(text)?;
    let mut begun = 0;
    for epoch in epochs {
        let loss = setup.losses[epoch as usize % setup.losses.len()];
        session.on_epoch_end(epoch, &[("val_loss", loss)]).map_err(text)?;
        let Some(path) = session.due_path() else { continue };
        session.wait_buffers().map_err(text)?;
        weights.fill(epoch + 1);
        say(out, format!("begin\t{path}\t{}\t{loss}\n", epoch + 1))?;
        session.save(&weights.model).map_err(text)?;
        begun += 1;
        if begun % together == 0 {
            session.wait().map_err(text)?;
            say(out, "done\n".into())?;
        }
    }
    session.wait().map_err(text)?;
    drop(session);
    say(out, "done\n".into())
}

/// A line, in one call: half of it says nothing.
fn say(out: &mut File, line: String) -> Result<(), String> {
    out.write_all(line.as_bytes()).map_err(|e| e.to_string())
}
