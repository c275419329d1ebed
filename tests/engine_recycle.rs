//! Saves that write files anew which are no longer kept: every call fails, is the last before the power goes, or meets
//! somebody else. No checkpoint is torn, none is lost, nobody's file is written to.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod engine_support;

use std::cell::RefCell;
use std::path::Path;

use ckpt::engine::storage::Handle;
use ckpt::engine::{Storage, WriteStats};
use ckpt::error::{Error, Result};
use engine_support::mem::{Fault, Mem, Node};
use engine_support::rounds::{Run, Template, assert_ends, options, plain};
use engine_support::{Model, model};

const DURABLE: [bool; 2] = [true, false];

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

/// What somebody else has got hold of: the file, what he read in it, and what he keeps it by.
type Hold = (usize, Vec<u8>, Option<Box<dyn Handle>>);

thread_local! {
    static HELD: RefCell<Vec<Hold>> = const { RefCell::new(Vec::new()) };
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
