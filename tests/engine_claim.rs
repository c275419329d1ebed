//! The lock file of a template on a file system that fails, or that others use meanwhile. tests/c/company.c has the
//! processes.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod engine_support;
mod scratch;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use ckpt::engine::claim::Taken;
use ckpt::engine::{Claim, Disk, Refusal, Storage};
use ckpt::error::Status;
use engine_support::mem::{Fault, Mem, Node};
use scratch::Scratch;

const BELOW: &str = "m-{epoch}.weights.h5";

fn claim(mem: &Mem, dir: &str) -> Claim {
    Claim::new(Arc::new(mem.clone()), Path::new(dir), BELOW)
}

fn on_disk(dir: &Path, below: &str) -> Claim {
    Claim::new(Arc::new(Disk), dir, below)
}

/// Its lock file.
fn file_of(mem: &Mem) -> String {
    let names = mem.names();
    let mut files = names.iter().filter(|name| name.contains("/.ckpt-lock"));
    let file = files.next().unwrap().clone();
    assert_eq!(files.next(), None);
    file
}

fn is_held(taken: &Result<Taken<'_>, Refusal>) -> bool {
    matches!(taken, Err(Refusal::Held { .. }))
}

/// What `record` has in place of this process' `key`.
fn with(record: &[u8], key: &str, value: &str) -> Vec<u8> {
    let text = String::from_utf8(record.to_vec()).unwrap();
    let line = |line: &str| match line.starts_with(&format!("{key} ")) {
        true => format!("{key} {value}\n"),
        false => format!("{line}\n"),
    };
    text.lines().map(line).collect::<String>().into_bytes()
}

#[test]
fn nothing_is_left_of_a_claim_whatever_fails() {
    let mem = Mem::new(Fault::None, 0);
    drop(claim(&mem, "/d/a/b").take(Some(true)).unwrap().keep());
    let calls = mem.0.lock().unwrap().calls.len();
    assert!(calls > 10);
    for at in 0..calls {
        for os in
            [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EINTR, libc::EMFILE, libc::EROFS, libc::EACCES]
        {
            let mem = Mem::new(Fault::Errno(os), at);
            let claim = claim(&mem, "/d/a/b");
            let failed = match claim.take(Some(true)) {
                Ok(taken) => {
                    assert!(mem.names().iter().any(|name| name.contains(".ckpt-lock")));
                    drop(taken);
                    false
                }
                Err(Refusal::Failed(e)) => {
                    assert_eq!(e.os(), os);
                    true
                }
                Err(refusal) => panic!("{at} {os}: {refusal:?}"),
            };
            assert!(!failed || os != libc::EINTR, "{at}");
            let left = mem.names();
            let what = mem.0.lock().unwrap().calls.get(at).copied();
            // What could not be removed is left; the next one clears it away.
            if what != Some("remove") && what != Some("remove_dir") {
                assert_eq!(left, ["/", "/d"], "{at} {os} {what:?}");
            }
            drop(claim.take(Some(true)).unwrap().keep());
            drop(claim);
            assert_eq!(mem.names(), ["/", "/d", "/d/a", "/d/a/b"], "{at} {os} {what:?}");
        }
    }
}

#[test]
fn a_directory_that_is_not_there_is_made_when_asked_for() {
    let mem = Mem::new(Fault::None, 0);
    let claim = claim(&mem, "/d/a");
    let Err(Refusal::Failed(e)) = claim.take(None) else { panic!() };
    assert_eq!(e.os(), libc::ENOENT);
    assert_eq!(mem.names(), ["/", "/d"]);
    let dirs = claim.take(Some(false)).unwrap().keep();
    assert_eq!(dirs, [Path::new("/d/a")]);
    // It has it, and keeps it.
    assert!(claim.take(Some(false)).unwrap().keep().is_empty());
    drop(claim.take(Some(false)).unwrap());
    file_of(&mem);
}

#[test]
fn a_lock_file_that_somebody_holds_is_looked_into() {
    let mem = Mem::new(Fault::None, 0);
    let first = claim(&mem, "/d");
    drop(first.take(None).unwrap().keep());
    let file = file_of(&mem);
    let record = mem.file(&file).unwrap();
    // Those of a file system in memory are not shared within a process: who has it is this one.
    let second = claim(&mem, "/d");
    match second.take(None) {
        Err(Refusal::Held { by, file: held }) => {
            assert_eq!(held, Path::new(&file));
            assert!(by.to_string().contains(&std::process::id().to_string()), "{by}");
        }
        other => panic!("{:?}", other.map(drop)),
    }
    assert!(!second.seems_free());
    drop(first);
    assert!(second.seems_free());

    // A child of a dead process, a process of another boot or container, and one that has said nothing hold it.
    let dead = with(&record, "pid", "4194303");
    let cases = [
        (dead.clone(), false),
        (with(&record, "start", "1"), false),
        (with(&dead, "place", "another"), true),
        (with(&dead, "place", ""), true),
        (b"libckpt lo".to_vec(), true),
        (Vec::new(), true),
        (record.clone(), true),
    ];
    for (n, (bytes, is_busy)) in cases.iter().enumerate() {
        let mem = Mem::new(Fault::None, 0);
        mem.put_file(&file, bytes);
        let handle = mem.open(Path::new(&file)).unwrap();
        assert!(handle.try_lock().unwrap());
        let claim = claim(&mem, "/d");
        assert_eq!(claim.seems_free(), !is_busy, "{n}");
        assert_eq!(is_held(&claim.take(None)), *is_busy, "{n}");
        let left = if *is_busy { bytes } else { &record };
        assert_eq!(mem.file(&file).as_ref(), Some(left), "{n}");
        drop(handle);
        // What nobody holds is taken, whatever it says.
        drop(claim.take(None).unwrap().keep());
        assert_eq!(mem.file(&file).as_ref(), Some(&record), "{n}");
        drop(claim);
        assert_eq!(mem.names(), ["/", "/d"], "{n}");
    }
}

#[test]
fn one_process_at_a_time_whoever_comes_between() {
    for at in 0.. {
        let mem = Mem::new(Fault::Meanwhile, at);
        mem.0.lock().unwrap().meanwhile = |mem| {
            // Another one that takes it, and keeps it; where it would have to wait for its turn, it does not come.
            let s = mem.0.lock().unwrap();
            let turn = s.names.iter().find(|(name, _)| name.to_str().unwrap().ends_with("-turn"));
            if matches!(turn, Some((_, Node::File(i))) if s.inodes[*i].locked) {
                return;
            }
            drop(s);
            let other = claim(mem, "/d");
            if other.take(None).map(|taken| drop(taken.keep())).is_ok() {
                std::mem::forget(other);
            }
        };
        mem.put_file("/d/x", b"");
        let claim = claim(&mem, "/d");
        let taken = claim.take(None).map(|taken| drop(taken.keep()));
        if std::mem::replace(&mut mem.0.lock().unwrap().fault, Fault::None) != Fault::None {
            assert!(at > 10);
            break;
        }
        // The other one has it, unless it came while this one had its turn, and gave up.
        let others = mem.0.lock().unwrap().inodes.iter().filter(|inode| inode.locked).count();
        assert_eq!(others, 1, "{at}: {taken:?}");
    }
}

#[test]
fn a_file_system_without_locks_is_asked_once() {
    let mem = Mem::new(Fault::None, 0);
    mem.0.lock().unwrap().locks = false;
    let claim = claim(&mem, "/d");
    let Err(Refusal::Failed(e)) = claim.take(None) else { panic!() };
    assert_eq!(e.status(), Status::Unsupported);
    assert_eq!(mem.names(), ["/", "/d"]);
    let calls = mem.0.lock().unwrap().calls.len();
    drop(claim.take(Some(true)).unwrap().keep());
    assert_eq!(mem.0.lock().unwrap().calls.len(), calls);
}

#[test]
fn sessions_of_a_process_share_it() {
    let dir = Scratch::new("claim-share");
    let link = Scratch::new("claim-link");
    symlink(dir.path(), link.join("d")).unwrap();
    let claims = [dir.path(), &link.join("d"), &dir.join("./../").join(dir.path().file_name().unwrap())]
        .map(|dir| on_disk(dir, BELOW));
    claims.iter().for_each(|claim| drop(claim.take(None).unwrap().keep()));
    assert_eq!(dir.locks().len(), 1);
    let other = on_disk(dir.path(), "other-{epoch}.weights.h5");
    drop(other.take(None).unwrap().keep());
    assert_eq!(dir.locks().len(), 2);
    drop(other);
    let [first, second, third] = claims;
    drop((first, third));
    assert_eq!(dir.locks().len(), 1);
    drop(second);
    assert!(dir.locks().is_empty());
}

#[test]
fn a_lock_file_that_was_removed_is_made_again() {
    let dir = Scratch::new("claim-removed");
    let claim = on_disk(&dir.join("d"), BELOW);
    drop(claim.take(Some(false)).unwrap().keep());
    fs::remove_dir_all(dir.join("d")).unwrap();
    drop(claim.take(Some(false)).unwrap().keep());
    assert_eq!(fs::read_dir(dir.join("d")).unwrap().count(), 1);
    // Another one's in its place is not touched.
    let file = fs::read_dir(dir.join("d")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&file).unwrap();
    fs::write(&file, b"another's").unwrap();
    drop(claim);
    assert_eq!(fs::read(&file).unwrap(), b"another's");
}
