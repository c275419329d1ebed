//! Which files are written anew: what a new file would be, that the session wrote and that nobody else has; and that
//! none of their bytes is left.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod engine_support;

use std::path::Path;
use std::sync::Arc;

use ckpt::engine::storage::Handle;
use ckpt::engine::{Recycle, Spares, Storage, Written};
use ckpt::error::Status;
use ckpt::layout::Layout;
use engine_support::mem::{Fault, Mem, Node};
use engine_support::model;
use engine_support::rounds::{Run, Template, assert_ends, options, plain, spares};
use engine_support::shards::shards_of;

#[test]
fn a_file_that_is_not_kept_is_written_anew() {
    for durable in [true, false] {
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
    type Way = fn(&Mem, &str) -> Option<Box<dyn Handle>>;
    let ways: [Way; 3] = [
        |mem, path| mem.open(Path::new(path)).ok(),
        |mem, path| {
            let node = mem.0.lock().unwrap().names[Path::new(path)].clone();
            mem.put("/d/link", node);
            None
        },
        |mem, path| {
            mem.remove(Path::new(path)).unwrap();
            None
        },
    ];
    for template in [Template::OneFile, Template::Last] {
        for way in ways {
            let mut run = Run::after(template, true, 2);
            let path = spare(&run);
            let (inode, bytes) = (run.inode(&path), run.mem.file(&path).unwrap());
            let held = way(&run.mem, &path);
            run.step().unwrap();
            assert!(run.mem.0.lock().unwrap().inodes[inode].bytes == bytes);
            assert!(template.is_in(2, &run.mem.files()));
            drop(held);
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
        for round in 0..3 {
            plain(round).save_with(&mem, path, options(true), &spares).unwrap();
            let calls = std::mem::take(&mut mem.0.lock().unwrap().calls);
            let exchanged = calls.contains(&"exchange");
            assert_eq!(exchanged, round > 0, "round {round}, foreign {foreign}");
        }
        // Another process has replaced it.
        plain(5).save(&mem, path, options(true)).unwrap();
        mem.0.lock().unwrap().calls.clear();
        plain(6).save_with(&mem, path, options(true), &spares).unwrap();
        assert!(!mem.0.lock().unwrap().calls.contains(&"exchange"));
        assert!(mem.file("/d/x.keras") == Some(plain(6).file));
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
