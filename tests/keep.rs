//! What retention never deletes: the newest good, the best, what is not this run's, and what has no successor on the disk.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod async_support;
mod engine_support;
mod scratch;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use async_support::{Lines, Tap, Valve, has_line, listen, options};
use ckpt::engine::{Recycle, Storage};
use ckpt::error::{Result, Status};
use ckpt::session::{Async, Level, Options, Session};
use engine_support::mem::{Fault, Mem};
use scratch::Scratch;

/// A session on a file system in memory, and what it has saved.
struct Run {
    mem: Mem,
    session: Session,
    lines: Lines,
    /// Of each save that was made: where, its loss, its bytes.
    saved: Vec<(String, f64, Vec<u8>)>,
    epoch: u64,
}

impl Run {
    fn new(mode: Async, change: impl FnOnce(&mut Options)) -> Run {
        let mem = Mem::new(Fault::None, 0);
        let mut options = options(mode);
        (options.durable, options.recycle, options.storage) = (true, Recycle::On, Arc::new(mem.clone()));
        change(&mut options);
        let lines = listen(&mut options);
        let session = Session::new("/d/{file:.0f}.weights.h5", options).unwrap();
        Run { mem, session, lines, saved: Vec::new(), epoch: 0 }
    }

    fn save(&mut self, file: u64, loss: f64) -> Result<()> {
        let logs: &[(&str, f64)] = &[("file", file as f64), ("val_loss", loss)];
        self.session.on_epoch_end(self.epoch, &logs).unwrap();
        self.epoch += 1;
        self.session.save(&Valve::new(Tap::Open(self.epoch as u8)).model(5000))?;
        self.session.wait()?;
        let path = format!("/d/{file}.weights.h5");
        self.saved.push((path.clone(), loss, self.mem.file(&path).unwrap()));
        Ok(())
    }

    /// The newest that was saved, and the best: of equal ones the older.
    fn needed(&self) -> [&(String, f64, Vec<u8>); 2] {
        let newest = self.saved.last().unwrap();
        [newest, self.saved.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap()]
    }

    fn stand(&self) -> Vec<String> {
        let files = self.mem.files().into_keys();
        files.filter(|path| !path.contains("/.ckpt-")).map(|path| path.replace("/d/", "")).collect()
    }
}

#[test]
fn every_instant_has_the_newest_and_the_best() {
    // The last one is the best, is not, or is as good as the best; with room, and without.
    for (losses, capacity) in [
        ([0.5, 0.1, 0.4, 0.3], None),
        ([0.5, 0.4, 0.3, 0.1], None),
        ([0.5, 0.1, 0.4, 0.1], None),
        ([0.5, 0.6, 0.7, 0.4], Some(0.5)),
        ([0.5, 0.1, 0.4, 0.3], Some(0.5)),
    ] {
        for mode in [Async::Off, Async::Copy] {
            for fault in [Fault::Errno(libc::EIO), Fault::Errno(libc::ENOSPC), Fault::Death] {
                for at in 0.. {
                    let mut run = Run::new(mode, |options| {
                        options.policy.keep_last = if capacity.is_some() { 2 } else { 1 };
                    });
                    losses[..3].iter().enumerate().for_each(|(n, loss)| run.save(n as u64, *loss).unwrap());
                    let begin = {
                        let used: usize = run.mem.files().values().map(Vec::len).sum();
                        let mut s = run.mem.0.lock().unwrap();
                        s.capacity = capacity.map(|share: f64| used as u64 + (5000.0 * share) as u64);
                        (s.fault, s.at) = (fault, s.calls.len() + at);
                        s.calls.len()
                    };
                    let result = run.save(3, losses[3]);
                    let case = format!("{losses:?} {mode:?} {fault:?} at {at}: {result:?}");
                    for file in run.mem.all_after_power_loss() {
                        for (path, _, bytes) in run.needed() {
                            assert!(file.get(path) == Some(bytes), "{case}: {path} is torn or gone");
                        }
                    }
                    if run.mem.0.lock().unwrap().calls.len() <= begin + at {
                        assert!(at > 10);
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn a_best_that_a_failed_save_has_replaced_counts_no_more() {
    for mode in [Async::Off, Async::Copy] {
        let mut run = Run::new(mode, |options| options.policy.keep_last = 1);
        run.save(1, 0.1).unwrap();
        run.save(2, 0.5).unwrap();
        // The last call of a save that matters: the directory cannot be synced, so that the save has failed and stands.
        run.mem.0.lock().unwrap().broken = Some(("sync_dir", libc::EIO));
        let before = run.mem.file("/d/1.weights.h5");
        let error = run.save(1, 0.9).unwrap_err();
        assert!(error.message().contains("stands"), "{error}");
        assert!(run.mem.file("/d/1.weights.h5") != before);
        run.mem.0.lock().unwrap().broken = None;
        run.save(3, 0.7).unwrap();
        assert_eq!(run.stand(), ["1.weights.h5", "2.weights.h5", "3.weights.h5"], "{mode:?}");
        assert_eq!(run.session.best_path().unwrap(), "/d/2.weights.h5");
    }
}

#[test]
fn what_goes_is_logged_with_the_reason() {
    for mode in [Async::Off, Async::Copy] {
        let mut run = Run::new(mode, |options| {
            let policy = &mut options.policy;
            (policy.keep_last, policy.keep_best, policy.keep_every, policy.keep_every_secs) = (2, 1, 2, 1e9);
        });
        for (n, loss) in [0.5, 0.4, 0.41, 0.1, 0.6].into_iter().enumerate() {
            run.save(n as u64, loss).unwrap();
        }
        assert_eq!(run.stand(), ["0.weights.h5", "1.weights.h5", "3.weights.h5", "4.weights.h5"]);
        let line = "removed '/d/2.weights.h5' (epoch 3, val_loss 0.41): not among the last 2, not among the best 1, \
                    epoch 3 is no multiple of 2, saved less than 1000000000 s after one that stays";
        assert_eq!(*run.lines.lock(), [(Level::Debug, line.to_owned())]);
    }
}

#[test]
fn what_was_there_before_stays_whatever_the_rules() {
    for mode in [Async::Off, Async::Copy] {
        let mut run = Run::new(mode, |options| options.policy.keep_last = 1);
        run.mem.put_file("/d/0.weights.h5", b"an earlier run's");
        for n in 1..5 {
            run.save(n, 1.0 / n as f64).unwrap();
        }
        assert_eq!(run.stand(), ["0.weights.h5", "4.weights.h5"]);
        // And what somebody has put in the place of ours.
        run.mem.remove(Path::new("/d/4.weights.h5")).unwrap();
        run.mem.put_file("/d/4.weights.h5", b"somebody's");
        run.save(5, 0.01).unwrap();
        assert_eq!(run.stand(), ["0.weights.h5", "4.weights.h5", "5.weights.h5"]);
        assert!(has_line(&run.lines, Level::Warn, "'/d/4.weights.h5' is no longer"), "{:?}", run.lines);
    }
}

#[test]
fn times_make_a_rule_of_their_own() {
    let dir = Scratch::new("keep");
    let mut options = options(Async::Off);
    options.policy.keep_every_secs = 1e-9;
    let template = dir.join("{epoch}.weights.h5");
    let template = template.to_str().unwrap();
    let save = |options: &Options, n: u64| {
        let session = Session::new(template, options.clone()).unwrap();
        for epoch in 0..n {
            async_support::epoch(&session, epoch, 1.0 / (epoch + 1) as f64);
            session.save(&Valve::new(Tap::Open(1)).model(10)).unwrap();
        }
    };
    save(&options, 4);
    assert_eq!(dir.names().len(), 4, "each is a nanosecond later");
    dir.names().iter().for_each(|name| fs::remove_file(dir.join(name)).unwrap());
    options.policy.keep_every_secs = 1e9;
    save(&options, 4);
    assert_eq!(dir.names(), ["1.weights.h5", "4.weights.h5"], "the first, and the newest");
    for wrong in [-1.0, f64::NAN, f64::INFINITY] {
        options.policy.keep_every_secs = wrong;
        assert_eq!(Session::new(template, options.clone()).err().unwrap().status(), Status::InvalidArgument);
    }
}
