//! Saves that write files anew which are no longer kept: every call fails, is the last before the power goes, or meets
//! somebody else. No checkpoint is torn, none is lost, nobody's file is written to.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod engine_support;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use ckpt::engine::storage::Handle;
use ckpt::engine::{Recycle, Spares, Storage, WriteOptions, WriteStats, Written, sweep};
use ckpt::error::{Error, Result, Status};
use ckpt::layout::Layout;
use engine_support::mem::{Fault, Files, Mem, Node};
use engine_support::shards::{Sharded, sharded, shards_of};
use engine_support::{Model, model};

const DURABLE: [bool; 2] = [true, false];

fn options(durable: bool) -> WriteOptions {
    WriteOptions { threads: 1, durable, ..WriteOptions::default() }
}

fn spares(mem: &Mem) -> Spares {
    Spares::new(Arc::new(mem.clone()), Recycle::On)
}

/// The checkpoint of a round, larger and smaller in turn.
fn plain(round: usize) -> Model {
    model(round as u8 + 1, if round.is_multiple_of(2) { &[5, 3000, 999, 7_000] } else { &[7_000, 4200] })
}

fn shards(round: usize) -> Sharded {
    sharded(round as u8 + 1, if round.is_multiple_of(2) { &[500, 400, 5] } else { &[450, 600] }, 500)
}

/// A template, and how its checkpoints are made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Template {
    /// One file that is saved over.
    OneFile,
    /// A file a round, the last of which is kept.
    Last,
    /// As above, in several files.
    OneIndex,
    LastIndex,
}

impl Template {
    const ALL: [Template; 4] = [Template::OneFile, Template::Last, Template::OneIndex, Template::LastIndex];

    fn path(self, round: usize) -> String {
        match self {
            Template::OneFile => "/d/x.keras".to_owned(),
            Template::Last => format!("/d/x-{round}.keras"),
            Template::OneIndex => "/d/x.weights.json".to_owned(),
            Template::LastIndex => format!("/d/x{round}.weights.json"),
        }
    }

    fn replaces(self) -> bool {
        matches!(self, Template::OneFile | Template::OneIndex)
    }

    fn save(self, mem: &Mem, spares: &Spares, round: usize, durable: bool) -> Result<WriteStats> {
        let (path, options) = (self.path(round), options(durable));
        match self {
            Template::OneFile | Template::Last => {
                plain(round).save_with(mem, Path::new(&path), options, spares)
            }
            _ => shards(round).save_with(mem, Path::new(&path), options, spares),
        }
    }

    /// Whether the checkpoint of a round is among the files, whole.
    fn is_in(self, round: usize, files: &Files) -> bool {
        let path = self.path(round);
        match self {
            Template::OneFile | Template::Last => files.get(&path) == Some(&plain(round).file),
            _ => shards(round).is_in(files, &path),
        }
    }

    /// Whether what has the name of a checkpoint is the checkpoint of one of these rounds, whole.
    fn is_whole(self, rounds: &[usize], files: &Files) -> bool {
        rounds.iter().all(|&round| {
            let one_of = |&r: &usize| self.path(r) == self.path(round) && self.is_in(r, files);
            !files.contains_key(&self.path(round)) || rounds.iter().any(one_of)
        })
    }
}

/// A session's saves with their retention.
struct Run {
    template: Template,
    mem: Mem,
    spares: Spares,
    durable: bool,
    kept: Option<Written>,
    round: usize,
}

impl Run {
    fn new(template: Template, durable: bool) -> Run {
        let mem = Mem::new(Fault::None, 0);
        Run { template, spares: spares(&mem), mem, durable, kept: None, round: 0 }
    }

    /// After this many rounds.
    fn after(template: Template, durable: bool, rounds: usize) -> Run {
        let mut run = Run::new(template, durable);
        (0..rounds).for_each(|_| drop(run.step().unwrap()));
        run
    }

    /// One save, and the end of what it makes superfluous: an error there is not the save's.
    fn step(&mut self) -> Result<WriteStats> {
        let stats = self.template.save(&self.mem, &self.spares, self.round, self.durable)?;
        self.round += 1;
        let earlier = self.kept.replace(stats.file.clone());
        if let Some(earlier) = earlier.filter(|_| !self.template.replaces()) {
            let _ = self.spares.retire(&earlier);
        }
        Ok(stats)
    }

    fn set(&self, fault: Fault, at: usize) -> usize {
        let mut s = self.mem.0.lock().unwrap();
        (s.fault, s.at) = (fault, s.calls.len() + at);
        s.at
    }

    /// The call at which the fault was, if there was one.
    fn unset(&self, at: usize) -> Option<&'static str> {
        let mut s = self.mem.0.lock().unwrap();
        s.fault = Fault::None;
        s.calls.get(at).copied()
    }

    fn temps(&self) -> usize {
        self.mem.names().iter().filter(|name| name.contains(".ckpt-tmp")).count()
    }

    fn inode(&self, path: &str) -> usize {
        match self.mem.0.lock().unwrap().names.get(Path::new(path)) {
            Some(&Node::File(inode)) => inode,
            other => panic!("{path} is {other:?}"),
        }
    }
}

/// A fault at each call of a round in turn, whose predecessors have left a spare.
fn at_every_call(fault: Fault, durable: bool, mut judge: impl FnMut(&mut Run, &str, Result<WriteStats>)) {
    for template in Template::ALL {
        // Where nothing is superfluous yet, where there is a spare, and where that has been one before.
        for rounds in [1, 2, 4] {
            for at in 0.. {
                let mut run = Run::after(template, durable, rounds);
                let at = run.set(fault, at);
                let result = run.step();
                let Some(call) = run.unset(at) else { break };
                let case = format!(
                    "{template:?}, {rounds} before, {fault:?} at call {at}, {call}, durable {durable}"
                );
                judge(&mut run, &case, result);
            }
        }
    }
}

/// Nothing is left of the spares once they have gone, but for what a sweep takes.
fn assert_ends(run: Run, case: &str, swept: usize) {
    let mem = run.mem.clone();
    let spares: Option<u64> = Some(run.temps() as u64);
    drop(run);
    let left = sweep(&mem, Path::new("/d")).unwrap();
    assert!(left.len() <= swept, "{case}: {spares:?} spares, left {left:?}");
    assert!(mem.names().iter().all(|name| !name.contains(".ckpt")), "{case}: {:?}", mem.names());
}

#[test]
fn a_file_that_is_not_kept_is_written_anew() {
    for durable in DURABLE {
        for template in [Template::OneFile, Template::Last] {
            let mut run = Run::new(template, durable);
            let mut inodes = Vec::new();
            for round in 0..8 {
                run.step().unwrap();
                assert!(template.is_in(round, &run.mem.files()), "{template:?} {round}");
                inodes.push(run.inode(&template.path(round)));
                assert_eq!(run.temps(), usize::from(round > 0), "{:?}", run.mem.names());
                let checkpoints = run.mem.files().len() - run.temps();
                assert_eq!(checkpoints, 1, "{:?}", run.mem.names());
            }
            assert!((2..8).all(|n| inodes[n] == inodes[n - 2]), "{template:?}: {inodes:?}");
            assert_ne!(inodes[0], inodes[1]);
            assert_ends(run, "at the end", 0);
        }
    }
}

#[test]
fn shards_that_are_not_kept_are_written_anew() {
    for template in [Template::OneIndex, Template::LastIndex] {
        let mut run = Run::after(template, true, 4);
        let before: Vec<usize> = run.mem.files().keys().map(|path| run.inode(path)).collect();
        for round in 4..8 {
            run.step().unwrap();
            assert!(template.is_in(round, &run.mem.files()));
            let shards = shards_of(&run.mem.file(&template.path(round)).unwrap());
            let anew = shards.iter().filter(|name| before.contains(&run.inode(&format!("/d/{name}"))));
            assert!(anew.count() >= 1, "{template:?} {round}: {:?}", run.mem.names());
            // As much as one checkpoint at most.
            let (spare, bytes) = run.mem.files().iter().fold((0, 0), |(spare, all), (name, bytes)| {
                let is_spare = name.contains(".ckpt-tmp");
                (spare + if is_spare { bytes.len() } else { 0 }, all + bytes.len())
            });
            assert!(
                spare > 0 && 2 * spare <= bytes + bytes / 8,
                "{template:?} {round}: {spare} of {bytes} bytes"
            );
        }
        assert_ends(run, "at the end", 0);
    }
}

#[test]
fn an_error_leaves_the_old_checkpoint_or_the_new_one() {
    for (code, all) in [(libc::EIO, &DURABLE[..]), (libc::ENOSPC, &[true])] {
        for &durable in all {
            at_every_call(Fault::Errno(code), durable, |run, case, result| {
                let (template, files) = (run.template, run.mem.files());
                let stands = match &result {
                    Ok(_) => run.round - 1,
                    Err(e) if e.message().contains("stands") => run.round,
                    Err(_) => run.round - 1,
                };
                assert!(template.is_in(stands, &files), "{case}: {:?} {:?}", result.err(), files.keys());
                let rounds: Vec<usize> = (0..=run.round).collect();
                assert!(template.is_whole(&rounds, &files), "{case}: {:?}", files.keys());
                if let Err(e) = result {
                    assert_eq!(e.os(), code, "{case}: {e}");
                }
                // Nothing is in the way of those after it.
                for _ in 0..3 {
                    run.step().unwrap_or_else(|e| panic!("{case}: {e}"));
                    assert!(template.is_in(run.round - 1, &run.mem.files()), "{case}");
                }
                let mem = run.mem.clone();
                let ended = std::mem::replace(run, Run::new(template, durable));
                assert_ends(ended, case, 1);
                if template == Template::OneFile {
                    assert_eq!(mem.files().len(), 1, "{case}: {:?}", mem.names());
                }
            });
        }
    }
}

#[test]
fn an_interruption_changes_nothing() {
    at_every_call(Fault::Errno(libc::EINTR), true, |run, case, result| {
        result.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(run.template.is_in(run.round - 1, &run.mem.files()), "{case}");
        assert!(run.temps() >= 1, "{case}: no spare");
        assert_ends(std::mem::replace(run, Run::new(run.template, true)), case, 0);
    });
}

#[test]
fn a_loss_of_power_tears_no_checkpoint_and_loses_none() {
    at_every_call(Fault::Death, true, |run, case, result| {
        // Of a save that failed, either may be there; what was done after one that has not, may be undone.
        let rounds: Vec<usize> = (0..=run.round).collect();
        let end = if result.is_ok() { run.round } else { run.round + 1 };
        for files in run.mem.all_after_power_loss() {
            let newest = (run.round - 1..end).any(|round| run.template.is_in(round, &files));
            assert!(newest, "{case}: {:?}", files.keys());
            assert!(run.template.is_whole(&rounds, &files), "{case}: torn: {:?}", files.keys());
        }
    });
}

#[test]
fn a_process_that_dies_tears_no_checkpoint_and_loses_none() {
    for durable in DURABLE {
        at_every_call(Fault::Death, durable, |run, case, _| {
            let (files, rounds) = (run.mem.files(), (0..=run.round).collect::<Vec<_>>());
            let newest = [run.round - 1, run.round].iter().any(|&round| run.template.is_in(round, &files));
            assert!(newest && run.template.is_whole(&rounds, &files), "{case}: {:?}", files.keys());
        });
    }
}

#[test]
fn a_durable_save_is_on_the_disk_when_it_returns() {
    for template in Template::ALL {
        let mut run = Run::new(template, true);
        for round in 0..6 {
            run.step().unwrap();
            for files in run.mem.all_after_power_loss() {
                assert!(template.is_in(round, &files), "{template:?} {round}: {:?}", files.keys());
            }
        }
    }
}

#[test]
fn a_sweep_between_any_two_calls_does_no_harm() {
    at_every_call(Fault::Meanwhile, true, |run, case, result| {
        result.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(run.template.is_in(run.round - 1, &run.mem.files()), "{case}");
        for _ in 0..2 {
            run.step().unwrap();
            assert!(run.template.is_in(run.round - 1, &run.mem.files()), "{case}");
        }
    });
}

thread_local! {
    /// What somebody else has got hold of: the file, what he read in it, and what he keeps it by.
    static HELD: RefCell<Vec<(usize, Vec<u8>, Option<Box<dyn Handle>>)>> = const { RefCell::new(Vec::new()) };
}

/// All files that have the name of a checkpoint, or a part of one.
fn checkpoints(mem: &Mem) -> Vec<(String, usize)> {
    let s = mem.0.lock().unwrap();
    let files = s.names.iter().filter_map(|(path, node)| match node {
        Node::File(inode) => Some((path.display().to_string(), *inode)),
        _ => None,
    });
    files.filter(|(path, _)| !path.contains(".ckpt-tmp")).collect()
}

/// Opens all checkpoints, and keeps them open.
fn open_all(mem: &Mem) {
    for (path, inode) in checkpoints(mem) {
        let handle = mem.open(Path::new(&path)).unwrap();
        HELD.with_borrow_mut(|held| held.push((inode, mem.file(&path).unwrap(), Some(handle))));
    }
}

/// Gives all checkpoints another name.
fn link_all(mem: &Mem) {
    for (path, inode) in checkpoints(mem) {
        mem.put(&format!("{path}.link"), Node::File(inode));
        HELD.with_borrow_mut(|held| held.push((inode, mem.file(&path).unwrap(), None)));
    }
}

fn assert_untouched(mem: &Mem, case: &str) {
    HELD.with_borrow_mut(|held| {
        for (inode, bytes, _) in held.drain(..) {
            assert!(mem.0.lock().unwrap().inodes[inode].bytes == bytes, "{case}: somebody's file {inode}");
        }
    });
}

#[test]
fn what_somebody_opens_or_links_between_any_two_calls_keeps_its_bytes() {
    for meanwhile in [open_all as fn(&Mem), link_all] {
        for template in Template::ALL {
            for rounds in [1, 2, 4] {
                for at in 0.. {
                    let mut run = Run::after(template, true, rounds);
                    run.mem.0.lock().unwrap().meanwhile = meanwhile;
                    let at = run.set(Fault::Meanwhile, at);
                    let mut result = run.step().map(drop);
                    let Some(call) = run.unset(at) else { break };
                    let case = format!("{template:?}, {rounds} before, at call {at}, {call}");
                    for _ in 0..2 {
                        result = result.and_then(|()| run.step().map(drop));
                    }
                    result.unwrap_or_else(|e: Error| panic!("{case}: {e}"));
                    assert_untouched(&run.mem, &case);
                    assert!(template.is_in(run.round - 1, &run.mem.files()), "{case}");
                }
            }
        }
    }
}

thread_local! {
    /// The files that another process has saved over.
    static REPLACED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Another process' save to every path.
fn replace_all(mem: &Mem) {
    for (path, _) in checkpoints(mem) {
        rival().save(mem, Path::new(&path), options(true)).unwrap();
        REPLACED.with_borrow_mut(|replaced| replaced.push(path));
    }
}

fn rival() -> Model {
    model(99, &[2_000, 10_000])
}

#[test]
fn another_save_between_any_two_calls_does_no_harm() {
    for durable in DURABLE {
        for rounds in [1, 2, 4] {
            for template in [Template::OneFile, Template::Last] {
                for at in 0.. {
                    let mut run = Run::after(template, durable, rounds);
                    run.mem.0.lock().unwrap().meanwhile = replace_all;
                    let at = run.set(Fault::Meanwhile, at);
                    let result = run.step();
                    let Some(call) = run.unset(at) else { break };
                    let case = format!("{template:?}, {rounds} before, at call {at}, {call}");
                    result.unwrap_or_else(|e| panic!("{case}: {e}"));
                    let files = run.mem.files();
                    for (path, bytes) in files.iter().filter(|(path, _)| !path.contains(".ckpt-tmp")) {
                        let known = (0..run.round).any(|round| *bytes == plain(round).file);
                        assert!(known || *bytes == rival().file, "{case}: {path} is torn");
                    }
                    // But where it comes between the last look at a file and its removal, it is not lost.
                    let replaced = REPLACED.take();
                    let newest = template.path(run.round - 1);
                    for path in replaced.iter().filter(|path| **path != newest && call != "remove") {
                        assert!(files.get(path) == Some(&rival().file), "{case}: {path} is lost");
                    }
                    for _ in 0..2 {
                        run.step().unwrap();
                        assert!(template.is_in(run.round - 1, &run.mem.files()), "{case}");
                    }
                }
            }
        }
    }
}

/// Runs two rounds after something was done to the checkpoint that goes next: is its file written anew?
fn goes_on(template: Template, change: impl FnOnce(&Run, &str)) -> bool {
    let mut run = Run::after(template, true, 1);
    let path = template.path(0);
    let first = run.inode(&path);
    change(&run, &path);
    run.step().unwrap();
    run.step().unwrap();
    assert!(template.is_in(2, &run.mem.files()));
    run.inode(&template.path(2)) == first
}

#[test]
fn only_what_a_new_file_would_be_is_written_anew() {
    let set = |change: fn(&mut engine_support::mem::Inode)| {
        move |run: &Run, path: &str| {
            let inode = run.inode(path);
            change(&mut run.mem.0.lock().unwrap().inodes[inode]);
        }
    };
    for template in [Template::OneFile, Template::Last] {
        assert!(goes_on(template, |_, _| {}), "{template:?}");
        assert!(goes_on(template, set(|file| file.mode = 0o777)), "{template:?}: it loses permissions");
        assert!(!goes_on(template, set(|file| file.labels = vec![(b"system.posix_acl".into(), vec![1])])));
        assert!(!goes_on(template, |run, path| run.mem.put("/d/link", Node::File(run.inode(path)))));
        // Who has written to it since has made it his.
        assert!(!goes_on(template, set(|file| file.writes += 1)));
    }
    assert!(!goes_on(Template::Last, set(|file| file.mode = 0o600)), "its bytes were not for all");
}

#[test]
fn permissions_are_those_of_a_new_file_or_of_the_old_one() {
    for (was, template, is) in [
        (0o600, Template::OneFile, 0o600),
        (0o666, Template::OneFile, 0o666),
        (0o444, Template::OneFile, 0o444),
        (0o600, Template::Last, 0o644),
        (0o777, Template::Last, 0o644),
        (0o444, Template::Last, 0o644),
    ] {
        let mut run = Run::after(template, true, 1);
        for round in 0..4 {
            let inode = run.inode(&template.path(round));
            run.mem.0.lock().unwrap().inodes[inode].mode = was;
            run.step().unwrap();
            let found = run.mem.info(Path::new(&template.path(round + 1))).unwrap().mode;
            assert_eq!(found, is, "{was:o} {template:?}");
        }
    }
}

#[test]
fn a_spare_that_somebody_opens_links_or_removes_is_not_used() {
    let spare = |run: &Run| run.mem.names().into_iter().find(|name| name.contains(".ckpt-tmp")).unwrap();
    let ways: [fn(&Mem, &str); 3] = [
        |mem, path| {
            let handle = mem.open(Path::new(path)).unwrap();
            HELD.with_borrow_mut(|held| held.push((0, Vec::new(), Some(handle))));
        },
        |mem, path| {
            let node = mem.0.lock().unwrap().names[Path::new(path)].clone();
            mem.put("/d/link", node);
        },
        |mem, path| mem.remove(Path::new(path)).unwrap(),
    ];
    for template in [Template::OneFile, Template::Last] {
        for way in ways {
            let mut run = Run::after(template, true, 2);
            let path = spare(&run);
            let (inode, bytes) = (run.inode(&path), run.mem.file(&path).unwrap());
            way(&run.mem, &path);
            run.step().unwrap();
            assert!(run.mem.0.lock().unwrap().inodes[inode].bytes == bytes);
            assert!(template.is_in(2, &run.mem.files()));
            HELD.with_borrow_mut(Vec::clear);
            assert_ends(run, "at the end", 0);
        }
    }
}

#[test]
fn only_what_the_session_wrote_is_written_anew() {
    for foreign in [false, true] {
        let mem = Mem::new(Fault::None, 0);
        let spares = spares(&mem);
        let path = Path::new("/d/x.keras");
        if foreign {
            plain(0).save(&mem, path, options(true)).unwrap();
        }
        let mut calls = Vec::new();
        for round in 0..3 {
            plain(round).save_with(&mem, path, options(true), &spares).unwrap();
            calls = std::mem::take(&mut mem.0.lock().unwrap().calls);
            let exchanged = calls.iter().any(|call| *call == "exchange");
            assert_eq!(exchanged, round > 0, "round {round}, foreign {foreign}");
        }
        // Another process has replaced it.
        plain(5).save(&mem, path, options(true)).unwrap();
        mem.0.lock().unwrap().calls.clear();
        plain(6).save_with(&mem, path, options(true), &spares).unwrap();
        assert!(!mem.0.lock().unwrap().calls.contains(&"exchange"));
        assert!(mem.file("/d/x.keras") == Some(plain(6).file));
        drop(calls);
    }
}

#[test]
fn what_is_not_supported_is_not_asked_for_again() {
    for (call, code) in [("exchange", libc::EPERM), ("is_unshared", libc::EACCES), ("reopen", libc::EPERM)] {
        for template in Template::ALL {
            let mut run = Run::new(template, true);
            run.mem.0.lock().unwrap().broken = Some((call, code));
            for round in 0..4 {
                run.step().unwrap();
                assert!(template.is_in(round, &run.mem.files()));
            }
            let alone = call != "exchange";
            assert!(!alone || run.temps() == 0, "{call} {template:?}: {:?}", run.mem.names());
        }
    }
    let mut run = Run::new(Template::OneFile, true);
    run.mem.0.lock().unwrap().unsupported = Some("exchange");
    (0..5).for_each(|_| drop(run.step().unwrap()));
    let asked = run.mem.0.lock().unwrap().calls.iter().filter(|call| **call == "exchange").count();
    assert_eq!((asked, run.temps()), (1, 0));
    let mut run = Run::new(Template::Last, true);
    run.mem.0.lock().unwrap().locks = false;
    (0..4).for_each(|_| drop(run.step().unwrap()));
    assert_eq!(run.temps(), 0, "without locks, a sweep could not tell it from what is left over");
}

#[test]
fn what_is_full_gets_the_spares() {
    let spare = || {
        let run = Run::after(Template::Last, true, 3);
        run.mem.put("/d/other", Node::Dir);
        assert_eq!(run.temps(), 1);
        run
    };
    // Elsewhere, so that the spare is of no use.
    let path = "/d/other/y.keras";
    let save = |run: &Run| plain(7).save_with(&run.mem, Path::new(path), options(true), &run.spares);
    for (call, code, status) in [
        ("preallocate", libc::ENOSPC, Status::NoSpace),
        ("preallocate", libc::EDQUOT, Status::NoSpace),
        ("create", libc::EMFILE, Status::Io),
    ] {
        let trial = spare();
        let begin = trial.mem.0.lock().unwrap().calls.len();
        save(&trial).unwrap();
        let at = trial.mem.0.lock().unwrap().calls[begin..].iter().position(|c| *c == call).unwrap();

        let run = spare();
        run.set(Fault::Errno(code), at);
        save(&run).unwrap();
        assert!(run.mem.file(path) == Some(plain(7).file));
        assert_eq!(run.temps(), 0);
        // Where there are none, it is full.
        run.mem.0.lock().unwrap().broken = Some((call, code));
        assert_eq!(save(&run).unwrap_err().status(), status);
    }
}

#[test]
fn spares_are_where_the_newest_save_is() {
    let mem = Mem::new(Fault::None, 0);
    let spares = spares(&mem);
    let mut kept: Option<Written> = None;
    for round in 0..5 {
        let path = format!("/d/{round}/x.keras");
        let file = plain(round).save_with(&mem, Path::new(&path), options(true), &spares).unwrap().file;
        if let Some(earlier) = kept.replace(file) {
            assert!(spares.retire(&earlier).unwrap());
            // Nothing keeps the directory from being removed.
            mem.remove_dir(earlier.path.parent().unwrap()).unwrap();
        }
    }
    assert_eq!(mem.files().len(), 1, "{:?}", mem.names());
    // Over to another directory and back.
    for (round, dir) in ["/d/a", "/d/a", "/d/b", "/d/b", "/d/b", "/d/a"].into_iter().enumerate() {
        let path = format!("{dir}/x-{round}.keras");
        let file = plain(round).save_with(&mem, Path::new(&path), options(true), &spares).unwrap().file;
        if let Some(earlier) = kept.replace(file) {
            assert!(spares.retire(&earlier).unwrap());
        }
        let temps = mem.names().into_iter().filter(|name| name.contains(".ckpt-tmp"));
        assert!(temps.clone().all(|name| name.starts_with(dir)), "{:?}", mem.names());
        assert!(temps.count() <= 1);
    }
}

#[test]
fn no_old_byte_is_left_in_a_gap() {
    // A layout with gaps of every size before, between and after its extents, over a file full of other bytes.
    let mem = Mem::new(Fault::None, 0);
    let spares = spares(&mem);
    let path = Path::new("/d/x.keras");
    let full = model(0xEE, &[3 << 20]);
    for _ in 0..2 {
        full.save_with(&mem, path, options(true), &spares).unwrap();
    }
    let mut gaps = model(0x11, &[100, 5000, 70_000, 1 << 20]);
    let mut extents = gaps.layout.extents().to_vec();
    for (extent, gap) in extents.iter_mut().zip([1, 70, 5000, 100_000, 900_000]) {
        extent.offset += gap;
    }
    let size = 3 << 20;
    let mut file = vec![0; size];
    for extent in &extents {
        let from = extent.offset as usize..(extent.offset + extent.len) as usize;
        file[from].fill(if extent.offset == 1 { !0x11 } else { 0x11 });
    }
    gaps.layout = Layout::from_parts(size as u64, extents, vec![vec![!0x11; 777]]);
    let before = mem.0.lock().unwrap().inodes.len();
    gaps.save_with(&mem, path, options(true), &spares).unwrap();
    assert_eq!(mem.0.lock().unwrap().inodes.len(), before + 1, "made to compare with, and removed");
    assert!(mem.file("/d/x.keras").unwrap() == file);
}

#[test]
fn off_is_as_before() {
    let mem = Mem::new(Fault::None, 0);
    for recycle in [Recycle::Off, Recycle::Auto] {
        let spares = Spares::new(Arc::new(mem.clone()), recycle);
        for _ in 0..3 {
            plain(1).save_with(&mem, Path::new("/d/x.keras"), options(true), &spares).unwrap();
        }
        let file = plain(2).save_with(&mem, Path::new("/d/y.keras"), options(true), &spares).unwrap().file;
        assert!(spares.retire(&file).unwrap());
        let calls = mem.0.lock().unwrap().calls.clone();
        assert!(["exchange", "reopen", "is_unshared"].iter().all(|call| !calls.contains(call)));
        assert_eq!(mem.files().len(), 1);
    }
}
