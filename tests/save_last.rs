//! The stable name of the newest save: a link or a copy that is whole at every instant, on real file systems and on one
//! that fails, dies or loses its power at any call.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod async_support;
mod engine_support;
mod scratch;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;

use async_support::{Lines, Tap, Valve, byte, epoch, has_line, listen, options};
use ckpt::engine::{Recycle, sweep};
use ckpt::error::{Result, Status};
use ckpt::reader::Reader;
use ckpt::session::{Async, Level, Model, Options, Session};
use engine_support::mem::{Fault, Mem, Node};
use scratch::Scratch;

fn with_last(mode: Async, last: impl AsRef<Path>) -> Options {
    let mut options = options(mode);
    options.policy.save_last = Some(last.as_ref().to_str().unwrap().to_owned());
    options
}

fn session(template: impl AsRef<Path>, options: Options) -> Session {
    Session::new(template.as_ref().to_str().unwrap(), options).unwrap()
}

/// A model whose bytes are all this one.
fn filled(byte: u8) -> Model {
    Valve::new(Tap::Open(byte)).model(5000)
}

#[test]
fn it_is_the_newest_after_every_save() {
    for mode in [Async::Off, Async::Copy, Async::Borrow] {
        for keep_last in [0, 1] {
            let dir = Scratch::new("last");
            let last = dir.join("made/for it/last.weights.h5");
            let mut options = with_last(mode, &last);
            options.policy.keep_last = keep_last;
            options.durable = true;
            let session = session(dir.join("{epoch}.weights.h5"), options);
            for n in 0..4u8 {
                // The best is the newest.
                epoch(&session, n.into(), 1.0 / f64::from(n + 1));
                session.save(&filled(n)).unwrap();
                session.wait().unwrap();
                let file = dir.join(format!("{}.weights.h5", n + 1));
                assert_eq!(byte(&last), n);
                assert_eq!(fs::metadata(&last).unwrap().ino(), fs::metadata(&file).unwrap().ino());
                let stand = if keep_last == 1 { 1 } else { usize::from(n) + 1 };
                assert_eq!(dir.names().len(), stand + 1, "{:?}", dir.names());
            }
            assert_eq!(fs::read_dir(last.parent().unwrap()).unwrap().count(), 1);
        }
    }
}

#[test]
fn what_has_the_name_is_replaced_and_not_written_to() {
    let dir = Scratch::new("last");
    fs::write(dir.join("other"), b"somebody's").unwrap();
    let last = dir.join("last.weights.h5");
    for link in [symlink::<_, &Path>, fs::hard_link::<_, &Path>] {
        link(dir.join("other"), &last).unwrap();
        let session = session(dir.join("{epoch}.weights.h5"), with_last(Async::Off, &last));
        epoch(&session, 0, 1.0);
        session.save(&filled(3)).unwrap();
        assert_eq!(byte(&last), 3);
        assert!(!fs::symlink_metadata(&last).unwrap().is_symlink());
        assert_eq!(fs::read(dir.join("other")).unwrap(), b"somebody's");
        fs::remove_file(&last).unwrap();
    }
}

#[test]
fn a_failure_is_a_warning_and_the_next_save_tries_again() {
    let dir = Scratch::new("last");
    let last = dir.join("last.weights.h5");
    let mut options = with_last(Async::Off, &last);
    let lines = listen(&mut options);
    let session = session(dir.join("{epoch}.weights.h5"), options);
    fs::create_dir(&last).unwrap();
    epoch(&session, 0, 1.0);
    session.save(&filled(1)).unwrap();
    assert!(has_line(&lines, Level::Warn, "last.weights.h5' is not yet"), "{lines:?}");
    assert_eq!(dir.names(), ["1.weights.h5", "last.weights.h5"]);
    assert_eq!(session.prepare(&filled(1)).unwrap_err().os(), libc::EISDIR);
    fs::remove_dir(&last).unwrap();
    epoch(&session, 1, 1.0);
    session.save(&filled(2)).unwrap();
    assert_eq!(byte(&last), 2);
}

#[test]
fn on_another_file_system_it_is_a_copy() {
    let (here, there) = (Scratch::at(Path::new("/dev/shm"), "last"), Scratch::new("last"));
    let last = there.join("last.weights.h5");
    let device = |dir: &Scratch| fs::metadata(dir.path()).unwrap().dev();
    assert_ne!(device(&here), device(&there), "both are one file system: nothing is tested");
    let mut options = with_last(Async::Off, &last);
    options.durable = true;
    let session = session(here.join("{epoch}.weights.h5"), options);
    for n in 0..3 {
        epoch(&session, n, 1.0);
        session.save(&filled(n as u8)).unwrap();
        assert_eq!(byte(&last), n as u8);
        assert_eq!(there.names(), ["last.weights.h5"]);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode();
        assert_eq!(mode(&last), mode(&here.join("1.weights.h5")));
    }
}

#[test]
fn a_name_that_cannot_be_right_is_refused() {
    let dir = Scratch::new("last");
    fs::create_dir(dir.join("real")).unwrap();
    symlink("real", dir.join("link")).unwrap();
    let refused = |template: &str, last: &str, status: Status, says: &str| {
        let template = dir.join(template);
        let made = Session::new(template.to_str().unwrap(), with_last(Async::Off, dir.join(last)));
        let error = made.err().unwrap_or_else(|| panic!("{last}"));
        assert_eq!(error.status(), status, "{error}");
        assert!(error.message().contains(says), "{error}");
    };
    for last in ["last.keras", "last.h5", "last", "last.weights.json"] {
        refused("{epoch}.weights.h5", last, Status::InvalidArgument, "end it in '.weights.h5'");
    }
    for (template, last) in [
        ("{epoch}.weights.h5", "7.weights.h5"),
        ("{epoch}.weights.h5", "./7.weights.h5"),
        ("{epoch}.weights.h5", "link/../7.weights.h5"),
        ("real/{epoch}.weights.h5", "link/7.weights.h5"),
        ("link/{epoch}.weights.h5", "real/7.weights.h5"),
        ("new/{epoch}.weights.h5", "new/./7.weights.h5"),
        ("new/{epoch}.weights.h5", "new/../new/7.weights.h5"),
        ("new/../new/{epoch}.weights.h5", "link/below/../../new/7.weights.h5"),
        ("real/m.weights.h5", "link/m.weights.h5"),
        ("real/{epoch}/m.weights.h5", "link/3/m.weights.h5"),
    ] {
        refused(template, last, Status::InvalidArgument, "call it otherwise");
    }
    for (template, last) in [
        ("real/{epoch}.weights.json", "last.weights.json"),
        ("{epoch}/m.weights.json", "last.weights.json"),
        ("{epoch}/m.weights.json", "1/last.weights.json"),
    ] {
        refused(template, last, Status::Unsupported, "has to be in that of");
    }
    for (template, last) in [
        ("{epoch}.weights.h5", "last.weights.h5"),
        ("{epoch}.weights.h5", "real/7.weights.h5"),
        ("real/{epoch}.weights.json", "link/last.weights.json"),
    ] {
        session(dir.join(template), with_last(Async::Off, dir.join(last)));
    }
}

#[test]
fn shards_stay_while_the_name_needs_them() {
    for template in ["m-{epoch}.weights.json", "m.weights.json"] {
        let dir = Scratch::new("last");
        let last = dir.join("last.weights.json");
        let mut options = with_last(Async::Off, &last);
        (options.policy.keep_last, options.max_shard_bytes) = (1, 2000);
        let session = session(dir.join(template), options);
        let model = |n: u8| {
            let mut model = Valve::new(Tap::Open(n)).model(1500);
            Valve::new(Tap::Open(n)).add(&mut model, "layers/dense/vars/1", 1500);
            model
        };
        for n in 0..4u8 {
            if n == 2 {
                // As a save by another way to that very name, whose shards are called after it.
                model(9).save(&last).unwrap();
                assert_eq!(byte(&last), 9);
                Reader::open(&dir.join(if template.contains('{') {
                    "m-2.weights.json"
                } else {
                    "m.weights.json"
                }))
                .unwrap()
                .verify()
                .unwrap();
            }
            epoch(&session, n.into(), 1.0 / f64::from(n + 1));
            session.save(&model(n)).unwrap();
            assert_eq!(byte(&last), n);
            // Two indices, what Keras opens beside each, and two shards.
            assert_eq!(dir.names().len(), 6, "{template} {n}: {:?}", dir.names());
            assert!(dir.join("last_00000.weights.h5").exists());
        }
    }
}

#[test]
fn the_next_session_goes_on_from_it_and_sweeps_beside_it() {
    let dir = Scratch::new("last");
    let last = dir.join("below/last.weights.h5");
    let options = with_last(Async::Off, &last);
    let first = session(dir.join("{epoch}.weights.h5"), options.clone());
    for n in 0..3 {
        epoch(&first, n, 1.0);
        first.save(&filled(1)).unwrap();
    }
    drop(first);
    (1..=3).for_each(|n| fs::remove_file(dir.join(format!("{n}.weights.h5"))).unwrap());
    fs::write(dir.join("below/.ckpt-tmp-1"), b"").unwrap();
    let second = session(dir.join("{epoch}.weights.h5"), options);
    epoch(&second, 0, 1.0);
    second.save(&filled(1)).unwrap();
    let state = ckpt::reader::training_state(&dir.join("1.weights.h5")).unwrap();
    assert_eq!(ckpt::session::save_counter(&state.unwrap()), Some(4));
    assert_eq!(fs::read_dir(dir.join("below")).unwrap().count(), 1);
}

#[test]
fn a_training_goes_on_from_its_own_name_alone() {
    let dir = Scratch::new("last");
    let (top, moved) = (dir.join("runs"), dir.join("moved"));
    let open = |top: &Path, run: &str| {
        let mut options = with_last(Async::Off, top.join("latest.weights.h5"));
        (options.policy.save_best_only, options.policy.save_every_secs) = (true, Some(1e-9));
        let lines = listen(&mut options);
        (session(top.join(run).join("{epoch}.weights.h5"), options), lines)
    };
    let resume = |session: &Session| session.resume(&mut filled(0)).map(|resumed| resumed.epoch);
    let (first, _) = open(&top, "a");
    first.on_train_batch_end(0, &[("loss", 1.0)].as_slice()).unwrap();
    first.save(&filled(1)).unwrap();
    epoch(&first, 0, 1.0);
    first.save(&filled(2)).unwrap();
    drop(first);
    // Another training, whether its directory is there or not.
    for _ in 0..2 {
        let (second, lines) = open(&top, "b");
        assert_eq!(resume(&second).unwrap_err().status(), Status::NotFound);
        assert!(has_line(&lines, Level::Warn, "which is the newest of another training"), "{lines:?}");
        let _ = fs::create_dir(top.join("b"));
    }
    // The same one where it has no file but that, and where all has been moved.
    fs::remove_file(top.join("a/1.weights.h5")).unwrap();
    assert_eq!(resume(&open(&top, "a").0).unwrap(), 1);
    fs::rename(&top, &moved).unwrap();
    assert_eq!(resume(&open(&moved, "a").0).unwrap(), 1);
    assert_eq!(resume(&open(&moved, "b").0).unwrap_err().status(), Status::NotFound);
    // By its own files a training is known wherever they are.
    let (renamed, _) = open(&moved, "b");
    epoch(&renamed, 0, 1.0);
    renamed.save(&filled(3)).unwrap();
    drop(renamed);
    fs::rename(moved.join("b"), moved.join("c")).unwrap();
    let (renamed, _) = open(&moved, "c");
    assert_eq!(resume(&renamed).unwrap(), 1);
    drop(renamed);
    assert_eq!(byte(&moved.join("latest.weights.h5")), 3);
}

/// A session on a file system in memory, and the bytes of its saves.
struct Run {
    mem: Mem,
    session: Session,
    template: &'static str,
    last: &'static str,
    lines: Lines,
    saved: BTreeMap<u8, Vec<u8>>,
    round: u8,
}

const LAST: &str = "/d/last.weights.h5";
const ELSEWHERE: &str = "/d/there/last.weights.h5";
const TEMPLATES: [&str; 2] = ["/d/{epoch}.weights.h5", "/d/m.weights.h5"];

impl Run {
    fn new(template: &'static str, last: &'static str, recycle: Recycle) -> Run {
        let mem = Mem::new(Fault::None, 0);
        mem.put("/d/there", Node::Dir);
        mem.0.lock().unwrap().meanwhile = |mem| {
            sweep(mem, Path::new("/d")).unwrap();
            sweep(mem, Path::new("/d/there")).unwrap();
        };
        let mut options = with_last(Async::Off, last);
        options.policy.keep_last = 1;
        (options.durable, options.recycle) = (true, recycle);
        options.storage = Arc::new(mem.clone());
        let lines = listen(&mut options);
        let session = session(template, options);
        Run { mem, session, template, last, lines, saved: BTreeMap::new(), round: 0 }
    }

    fn path(&self, round: u8) -> String {
        self.template.replace("{epoch}", &(round + 1).to_string())
    }

    fn step(&mut self) -> Result<()> {
        let round = self.round;
        self.round += 1;
        epoch(&self.session, round.into(), 1.0 / f64::from(round + 1));
        self.session.save(&filled(round))?;
        self.saved.insert(round, self.mem.file(&self.path(round)).unwrap());
        Ok(())
    }

    fn last(&self) -> Option<u8> {
        self.round_of(self.mem.file(self.last))
    }

    /// Which save these bytes are.
    fn round_of(&self, bytes: Option<Vec<u8>>) -> Option<u8> {
        self.saved.iter().find(|(_, saved)| Some(*saved) == bytes.as_ref()).map(|(round, _)| *round)
    }
}

#[test]
fn where_files_cannot_be_linked_it_is_a_copy() {
    for code in [libc::EXDEV, libc::EPERM, libc::EMLINK, libc::EOPNOTSUPP, libc::ENOSYS] {
        let mut run = Run::new(TEMPLATES[0], LAST, Recycle::Off);
        run.mem.0.lock().unwrap().broken = Some(("link", code));
        for n in 0..3 {
            run.step().unwrap();
            assert_eq!(run.last(), Some(n));
            let names = run.mem.0.lock().unwrap().names.clone();
            assert_ne!(names[Path::new(LAST)], names[Path::new(&run.path(n))]);
            assert!(run.mem.after_power_loss(LAST).iter().all(|file| run.round_of(file.clone()) == Some(n)));
        }
        assert_eq!(run.mem.files().len(), 2, "{:?}", run.mem.names());
        assert!(run.lines.lock().iter().all(|(level, _)| *level == Level::Debug), "{:?}", run.lines);
    }
}

#[test]
fn what_is_linked_is_written_anew_only_once_it_is_not() {
    for template in TEMPLATES {
        let mut run = Run::new(template, LAST, Recycle::On);
        let mut inodes = Vec::new();
        for n in 0..8 {
            run.step().unwrap();
            assert_eq!(run.last(), Some(n));
            inodes.push(run.mem.0.lock().unwrap().names[Path::new(LAST)].clone());
        }
        assert!((2..8).all(|n| inodes[n] == inodes[n - 2]), "{template}: {inodes:?}");
        // Another name of somebody's keeps the file.
        let kept = run.mem.0.lock().unwrap().names[Path::new(LAST)].clone();
        run.mem.put("/d/mine", kept.clone());
        (0..4).for_each(|_| run.step().unwrap());
        assert_eq!(run.round_of(run.mem.file("/d/mine")), Some(7));
        assert_ne!(run.mem.0.lock().unwrap().names[Path::new(LAST)], kept);
    }
}

#[test]
fn every_instant_has_a_whole_checkpoint_by_that_name() {
    let mut cases = 0;
    for template in TEMPLATES {
        for (recycle, copied, last) in [
            (Recycle::On, false, LAST),
            (Recycle::On, false, ELSEWHERE),
            (Recycle::Off, false, LAST),
            (Recycle::On, true, ELSEWHERE),
        ] {
            for fault in [
                Fault::Errno(libc::EIO),
                Fault::Errno(libc::ENOSPC),
                Fault::Errno(libc::EINTR),
                Fault::Meanwhile,
                Fault::Death,
            ] {
                for at in 0.. {
                    let mut run = Run::new(template, last, recycle);
                    if copied {
                        run.mem.0.lock().unwrap().broken = Some(("link", libc::EXDEV));
                    }
                    (0..3).for_each(|_| run.step().unwrap());
                    let calls = {
                        let mut s = run.mem.0.lock().unwrap();
                        (s.fault, s.at) = (fault, s.calls.len() + at);
                        s.calls.len()
                    };
                    let result = run.step();
                    let now = run.mem.0.lock().unwrap().calls.len();
                    let what = run.mem.0.lock().unwrap().calls.get(calls + at).copied();
                    let case = format!("{template} {last} {recycle:?} {copied} {fault:?} at {at}: {what:?}");
                    if let Err(error) = &result {
                        // A save whose end is not known may be there, but the name is an earlier one's.
                        assert_eq!(run.last(), Some(2), "{case}: {error}");
                    }
                    let whole = |run: &Run, case: &str| {
                        for file in run.mem.after_power_loss(run.last) {
                            let round = run.round_of(file).unwrap_or_else(|| panic!("{case}: torn or gone"));
                            assert!(round + 3 > run.round, "{case}: as old as {round}");
                        }
                    };
                    whole(&run, &case);
                    if result.is_ok() && run.last() != Some(3) {
                        assert!(has_line(&run.lines, Level::Warn, "is not yet"), "{case}: {:?}", run.lines);
                        assert_eq!(run.last(), Some(2), "{case}");
                    }
                    cases += 1;
                    if now <= calls + at {
                        assert!(at > 15, "{case}: a save of {at} calls");
                        break;
                    }
                    if fault == Fault::Death {
                        continue;
                    }
                    // And it goes on.
                    run.mem.0.lock().unwrap().fault = Fault::None;
                    run.round = run.saved.keys().max().unwrap() + 1;
                    for _ in 0..3 {
                        run.step().unwrap();
                        assert_eq!(run.last(), Some(run.round - 1), "{case}");
                        whole(&run, &case);
                    }
                }
            }
        }
    }
    assert!(cases > 500, "only {cases} cases");
}

#[test]
fn what_may_have_the_name_on_the_disk_is_not_written_anew() {
    let mut cases = 0;
    for template in TEMPLATES {
        for last in [LAST, ELSEWHERE] {
            for at in 0.. {
                let mut run = Run::new(template, last, Recycle::On);
                (0..3).for_each(|_| run.step().unwrap());
                let begin = run.mem.0.lock().unwrap().calls.len();
                {
                    let mut s = run.mem.0.lock().unwrap();
                    (s.fault, s.at) = (Fault::Errno(libc::EIO), begin + at);
                }
                let _ = run.step();
                let Some(what) = run.mem.0.lock().unwrap().calls.get(begin + at).copied() else { break };
                if what != "sync_dir" {
                    continue;
                }
                // A directory could not be synced; now the power goes at each call of the next save.
                for death in 0.. {
                    let mut run = Run::new(template, last, Recycle::On);
                    (0..3).for_each(|_| run.step().unwrap());
                    let set = |run: &Run, fault, at| {
                        let mut s = run.mem.0.lock().unwrap();
                        (s.fault, s.at) = (fault, at);
                    };
                    set(&run, Fault::Errno(libc::EIO), begin + at);
                    let _ = run.step();
                    let next = run.mem.0.lock().unwrap().calls.len();
                    set(&run, Fault::Death, next + death);
                    let _ = run.step();
                    for file in run.mem.after_power_loss(last) {
                        assert!(run.round_of(file).is_some(), "{template} {last} {at} {death}: torn or gone");
                    }
                    cases += 1;
                    if run.mem.0.lock().unwrap().calls.len() <= next + death {
                        break;
                    }
                }
            }
        }
    }
    assert!(cases > 100, "only {cases} cases");
}
