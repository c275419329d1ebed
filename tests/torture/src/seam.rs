//! The seam: each call of a training's saves fails in turn, once or from then on.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ckpt::engine::Disk;
use ckpt::error::{Error, Status};
use ckpt::session::Async;

use crate::account::{Account, Record};
use crate::random::Random;
use crate::scratch::{Place, Scratch, files};
use crate::setup::Setup;
use crate::tally::Tally;
use crate::watchdog;
use crate::weights::Weights;
use crate::wrapped::{Hook, Turn, Wrapped};

/// With what calls fail; 0: they take a part of the bytes.
const CODES: [i32; 8] =
    [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EINTR, libc::EAGAIN, libc::EMFILE, libc::EROFS, 0];

/// A fault: at which call, with what, and whether those after it fail, too.
#[derive(Clone, Copy, Debug)]
struct Fault {
    at: usize,
    code: i32,
    lasting: bool,
}

/// Lets calls fail.
struct Faults(Mutex<State>);

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    calls: usize,
    /// The calls that failed.
    failed: Vec<&'static str>,
}

impl Hook for Faults {
    fn before(&self, call: &'static str) -> Turn {
        let Ok(mut state) = self.0.lock() else { return Turn::Go };
        let call_number = state.calls;
        state.calls += 1;
        let Some(fault) = state.fault else { return Turn::Go };
        if call_number == fault.at || fault.lasting && call_number > fault.at {
            state.failed.push(call);
            return if fault.code == 0 { Turn::Short } else { Turn::Fail(fault.code) };
        }
        Turn::Go
    }
    fn after(&self, _: &'static str) {}
}

impl Faults {
    /// The calls that have failed; none does any more, if one has.
    fn end(&self) -> Vec<&'static str> {
        let Ok(mut state) = self.0.lock() else { return Vec::new() };
        if !state.failed.is_empty() {
            state.fault = None;
        }
        state.failed.clone()
    }
}

/// All calls of one way of saving, each with two faults.
pub fn case(case: u64, tally: &mut Tally) -> bool {
    let mut random = Random::new(case);
    let setup = Setup::of(&mut random);
    let mut weights = Weights::new(setup.bytes());
    let mut found = 0;
    for at in 0.. {
        let mut fired = false;
        for _ in 0..2 {
            let fault = Fault { at, code: random.one_of(&CODES), lasting: random.one_in(2) };
            watchdog::step(|| format!("seam {case}: {fault:?} in {setup:?}"));
            match run(&setup, &mut weights, fault) {
                Ok(seen) => {
                    fired |= seen.call.is_some();
                    tally.count("faults", u64::from(seen.call.is_some()));
                    tally.count("saves that failed", seen.failed);
                    if let Some(call) = seen.call {
                        tally.count(&format!("at {call}"), 1);
                    }
                }
                Err((call, e)) => {
                    fired |= call.is_some();
                    found += 1;
                    tally.finding(case, format!("{call:?} {fault:?}: {e} in {setup:?}"));
                }
            }
        }
        // One bug makes many findings.
        if !fired || found >= 5 {
            break;
        }
    }
    watchdog::rest();
    tally.count("ways of saving", 1);
    true
}

/// What a run came to: the call that failed first, and how many saves.
struct Seen {
    call: Option<&'static str>,
    failed: u64,
}

type Failure = (Option<&'static str>, String);

/// A training with a fault.
fn run(setup: &Setup, weights: &mut Weights, fault: Fault) -> Result<Seen, Failure> {
    let scratch = Scratch::new(Place::Memory).map_err(|e| (None, e.to_string()))?;
    let faults = Arc::new(Faults(Mutex::new(State { fault: Some(fault), ..State::default() })));
    let mut run = Run { setup, weights, fault, faults, scratch, account: Account::default(), failed: 0 };
    let result = run.train();
    let call = run.faults.end().first().copied();
    result.map(|()| Seen { call, failed: run.failed }).map_err(|e| (call, e))
}

struct Run<'a> {
    setup: &'a Setup,
    weights: &'a mut Weights,
    fault: Fault,
    faults: Arc<Faults>,
    scratch: Scratch,
    account: Account,
    failed: u64,
}

impl Run<'_> {
    fn train(&mut self) -> Result<(), String> {
        let dir = self.scratch.path().to_owned();
        if !self.setup.name.contains('/') {
            std::fs::write(dir.join(".ckpt-tmp-left"), b"half").map_err(|e| e.to_string())?;
        }
        let storage = Arc::new(Wrapped(self.faults.clone(), Arc::new(Disk)));
        let (session, _errors) = match self.setup.session(&dir, storage.clone()) {
            Ok(session) => session,
            Err(e) => {
                self.excuse(&e)?;
                self.setup.session(&dir, storage).map_err(|e| format!("after a fault at the start: {e}"))?
            }
        };
        if self.setup.prepare
            && let Err(e) = session.prepare(&self.weights.model)
        {
            self.excuse(&e)?;
            session.prepare(&self.weights.model).map_err(|e| format!("prepare after a fault: {e}"))?;
        }
        for (epoch, loss) in self.setup.losses.into_iter().enumerate() {
            let time = epoch as u64 + 1;
            let before = self.faults.end().len();
            session.on_epoch_end(epoch as u64, &[("val_loss", loss)]).map_err(|e| e.to_string())?;
            let Some(path) = session.due_path() else { continue };
            let path = PathBuf::from(path);
            self.weights.fill(time);
            let mut result = session.save(&self.weights.model);
            if self.setup.mode == Async::Copy {
                self.weights.fill(time + 1000);
            }
            if self.setup.mode == Async::Borrow && result.is_ok() {
                result = session.wait_buffers();
                self.weights.fill(time + 1000);
            }
            let result = result.and_then(|()| session.wait());
            let record = Record { path: path.clone(), time, loss };
            match result {
                Ok(()) => {
                    let failed = self.faults.end();
                    let new = failed.get(before..).unwrap_or_default();
                    if new.contains(&"sync") && !matches!(self.fault.code, libc::EINTR | 0) {
                        return Err("a file that could not be synced counts as saved".into());
                    }
                    self.account.saved(self.setup, record);
                }
                Err(e) => {
                    self.failed += 1;
                    self.excuse(&e)?;
                    self.account.failed(&path, time, e.message(), self.weights)?;
                    self.look(&session)?;
                    self.weights.fill(time);
                    // The same save again, where it still is due.
                    if session.should_save() {
                        session
                            .save(&self.weights.model)
                            .and_then(|()| session.wait())
                            .map_err(|e| format!("a save after a fault: {e}"))?;
                        self.account.saved(self.setup, record);
                    }
                }
            }
            if self.faults.end().len() > before || epoch + 1 == self.setup.losses.len() {
                self.look(&session)?;
            }
        }
        drop(session);
        self.faults.end();
        let (session, _errors) = self.setup.session(&dir, Arc::new(Disk)).map_err(|e| e.to_string())?;
        self.account.check(&dir, self.setup, self.weights)?;
        let is_ours = |path: &PathBuf| path.to_string_lossy().contains("/.ckpt-");
        if let Some(left) = files(&dir).into_iter().find(is_ours) {
            return Err(format!("{} is left", left.display()));
        }
        // A save to the path of the last one takes what is left of that with it.
        let (epoch, loss) =
            (self.setup.losses.len() as u64 - 1, self.setup.losses[self.setup.losses.len() - 1]);
        session.on_epoch_end(epoch, &[("val_loss", loss)]).map_err(|e| e.to_string())?;
        let path = session.due_path().ok_or("no save is due in a new session")?;
        let result = session.save(&self.weights.model).and_then(|()| session.wait());
        result.map_err(|e| format!("a save in a new session: {e}"))?;
        drop(session);
        let base = path.trim_end_matches(self.setup.ending);
        let orphans = self.account.orphans(&dir, self.setup);
        match orphans.iter().find(|orphan| orphan.to_string_lossy().starts_with(&format!("{base}_"))) {
            Some(orphan) => Err(format!("{} is left, and no index needs it", orphan.display())),
            None => Ok(()),
        }
    }

    /// A call has failed: is it the fault's doing, and does it say so?
    fn excuse(&self, e: &Error) -> Result<(), String> {
        let failed = self.faults.end();
        if failed.is_empty() {
            return Err(format!("failed without a fault: {e}"));
        }
        if e.status() == Status::Internal {
            return Err(format!("a bug: {e}"));
        }
        if !self.fault.lasting && matches!(self.fault.code, libc::EINTR | 0) {
            return Err(format!("did not go on: {e}"));
        }
        let is_full = matches!(self.fault.code, libc::ENOSPC | libc::EDQUOT);
        if is_full && e.os() == self.fault.code && e.status() != Status::NoSpace {
            return Err(format!("{:?} where the disk is full: {e}", e.status()));
        }
        let shown = self.scratch.path().to_string_lossy();
        if !e.message().contains(&*shown) { Err(format!("names no file: {e}")) } else { Ok(()) }
    }

    fn look(&self, session: &ckpt::session::Session) -> Result<(), String> {
        self.account.check(self.scratch.path(), self.setup, self.weights)?;
        self.account.check_best(session, self.setup, self.weights)
    }
}
