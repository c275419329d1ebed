//! A training in a child process that ends before its time, and what it must have left.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ckpt::engine::{Disk, Storage};
use ckpt::error::{Error, Status};

use crate::account::{Account, Record};
use crate::scratch::files;
use crate::setup::Setup;
use crate::weights::Weights;
use crate::wrapped::{Hook, Turn};

/// What a trainer does.
pub struct Trainer<'a> {
    pub setup: &'a Setup,
    pub dir: &'a Path,
    pub epochs: Range<u64>,
    /// Saves that are under way at once, at most.
    pub together: u64,
    /// Whether it goes on from the newest checkpoint, and with its best.
    pub resumes: bool,
    pub storage: Arc<dyn Storage>,
}

/// How a trainer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    ByItself,
    Killed,
    /// Its file system has failed before.
    Crashed,
}

/// Strikes at a call, before or after it.
pub struct Blow<F> {
    calls: AtomicU64,
    at: Option<(u64, bool)>,
    strike: F,
}

impl<F: Fn() + Send + Sync + 'static> Blow<F> {
    pub fn new(at: Option<(u64, bool)>, strike: F) -> Arc<Blow<F>> {
        Arc::new(Blow { calls: AtomicU64::new(0), at, strike })
    }

    fn call(&self, call: u64, is_after: bool) {
        if self.at == Some((call, is_after)) {
            (self.strike)();
        }
    }
}

impl<F: Fn() + Send + Sync + 'static> Hook for Blow<F> {
    fn before(&self, _: &'static str) -> Turn {
        self.call(self.calls.fetch_add(1, Relaxed), false);
        Turn::Go
    }
    fn after(&self, _: &'static str) {
        self.call(self.calls.load(Relaxed).wrapping_sub(1), true);
    }
}

/// Ends the process that calls it, as from outside.
pub fn kill_self() {
    // SAFETY: no pointers; it does not return.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

impl Trainer<'_> {
    /// Trains in a child, and does something to it `meanwhile`; whether it was killed, and what it has said.
    pub fn run_in_child(
        &self,
        weights: &mut Weights,
        meanwhile: impl FnOnce(&mut Child),
    ) -> Result<(bool, String), String> {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(std::io::Error::last_os_error().to_string());
        }
        // SAFETY: both are new, and nobody else's.
        let (reads, writes) = unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
        // SAFETY: the other thread of this process, the watchdog, holds nothing that the child uses.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: no pointers. It goes with this process, and at a signal leaves the tidying to it.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::signal(libc::SIGINT, libc::SIG_DFL);
                    libc::signal(libc::SIGTERM, libc::SIG_DFL);
                }
                let mut writes = writes;
                self.run(weights, &mut writes);
                // SAFETY: no pointers; it does not return.
                unsafe { libc::_exit(0) }
            }
            -1 => Err(std::io::Error::last_os_error().to_string()),
            pid => {
                drop(writes);
                RUNNING.store(pid, Relaxed);
                let mut child = Child { pid, reads, said: Vec::new() };
                meanwhile(&mut child);
                child.end()
            }
        }
    }

    /// Trains, and says what it saves, and at last how it ended.
    pub fn run(&self, weights: &mut Weights, out: &mut dyn Write) {
        let said = self.train(weights, out);
        let last = said.map_or_else(|e| e.replace(['\n', '\t'], " "), |()| "end".into());
        let _ = say(out, last + "\n");
    }

    fn train(&self, weights: &mut Weights, out: &mut dyn Write) -> Result<(), String> {
        let text = |e: Error| e.message().to_owned();
        let (session, _errors) = self.setup.session(self.dir, self.storage.clone()).map_err(text)?;
        let mut epochs = self.epochs.clone();
        if self.resumes {
            match session.resume(&mut weights.model) {
                Ok(resumed) => {
                    let best = session.best_path().map_err(text)?;
                    say(out, format!("resumed\t{}\t{best}\n", resumed.path))?;
                    epochs = resumed.epoch..resumed.epoch + (epochs.end - epochs.start);
                }
                Err(e) if e.status() == Status::NotFound => say(out, "resumed\t\t\n".into())?,
                Err(e) => return Err(text(e)),
            }
        }
        let mut begun = 0;
        for epoch in epochs {
            let loss = self.setup.losses[epoch as usize % self.setup.losses.len()];
            session.on_epoch_end(epoch, &[("val_loss", loss)]).map_err(text)?;
            let Some(path) = session.due_path() else { continue };
            session.wait_buffers().map_err(text)?;
            weights.fill(epoch + 1);
            say(out, format!("begin\t{path}\t{}\t{loss}\n", epoch + 1))?;
            session.save(&weights.model).map_err(text)?;
            begun += 1;
            if begun % self.together == 0 {
                session.wait().map_err(text)?;
                say(out, "done\n".into())?;
            }
        }
        session.wait().map_err(text)?;
        drop(session);
        say(out, "done\n".into())
    }
}

/// The child that runs, for who tidies up at a signal.
pub static RUNNING: AtomicI32 = AtomicI32::new(0);

/// A trainer that runs.
pub struct Child {
    pid: libc::pid_t,
    reads: File,
    said: Vec<u8>,
}

/// What stands among the lines of a trainer where its file system crashed: after that it may have read no more, and a
/// sync under way then can succeed on XFS.
const CRASH: &str = "crash";

impl Child {
    /// Hears it for so long.
    pub fn live(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let wait = libc::timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
            let mut poll = libc::pollfd { fd: self.reads.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one descriptor and a time, which live through the call.
            if unsafe { libc::ppoll(&mut poll, 1, &wait, std::ptr::null()) } == 1 {
                let mut some = [0; 4096];
                match self.reads.read(&mut some) {
                    Ok(len @ 1..) => {
                        self.said.extend_from_slice(&some[..len]);
                        continue;
                    }
                    _ => std::thread::sleep(left),
                }
            }
            return;
        }
    }

    /// Its file system crashes now, by `crash`, and it with it.
    pub fn crash(&mut self, crash: impl FnOnce()) {
        self.live(Duration::ZERO);
        self.said.extend_from_slice(CRASH.as_bytes());
        self.said.push(b'\n');
        crash();
        self.kill();
    }

    pub fn kill(&mut self) {
        // SAFETY: our own child, which has not been waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Waits for it.
    fn end(mut self) -> Result<(bool, String), String> {
        self.reads.read_to_end(&mut self.said).map_err(|e| e.to_string())?;
        // It has ended or does so now; once it has been waited for, the number may be another one's.
        RUNNING.store(0, Relaxed);
        let mut status = 0;
        // SAFETY: a live number.
        while unsafe { libc::waitpid(self.pid, &mut status, 0) } == -1 {}
        let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        Ok((killed, String::from_utf8_lossy(&self.said).into_owned()))
    }
}

/// A line, in one call: half of it says nothing.
fn say(out: &mut dyn Write, line: String) -> Result<(), String> {
    out.write_all(line.as_bytes()).map_err(|e| e.to_string())
}

/// Looks at what a trainer has left that has said these lines.
pub fn judge(
    setup: &Setup,
    weights: &Weights,
    dir: &Path,
    account: &mut Account,
    lines: &str,
    ended: Ended,
) -> Result<(), String> {
    let mut begun: Vec<Record> = Vec::new();
    let mut crashed = false;
    for line in lines.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        match words[..] {
            [CRASH] => crashed = true,
            ["done"] | ["resumed", ..] if crashed => {}
            ["resumed", path, best] => {
                let path_of = |record: Option<&Record>| record.map_or("".into(), |r| r.path.clone());
                let expected = (path_of(account.records.last()), path_of(account.best()));
                if (Path::new(path), Path::new(best)) != (&expected.0, &expected.1) {
                    return Err(format!("resumed '{path}', best '{best}' instead of {expected:?}"));
                }
            }
            ["begin", path, time, loss] => begun.push(Record {
                path: path.into(),
                time: time.parse().map_err(|_| format!("'{line}'"))?,
                loss: loss.parse().map_err(|_| format!("'{line}'"))?,
            }),
            ["done"] => begun.drain(..).for_each(|record| account.saved(setup, record)),
            ["end"] => {}
            _ if ended == Ended::Crashed && is_of_a_crash(line) => {}
            _ => return Err(line.to_owned()),
        }
    }
    if ended == Ended::ByItself && !lines.ends_with("end\n") {
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

/// Whether it is the last word of a trainer whose file system has failed.
fn is_of_a_crash(line: &str) -> bool {
    line.contains("Input/output error") || line.contains("Read-only file system")
}
