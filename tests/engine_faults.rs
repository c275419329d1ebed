//! Every call of a save fails, is interrupted, is the last before the power goes, or meets a sweep: the
//! destination is the whole old file or the whole new one, and nothing else of ours is left.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod engine_support;

use std::path::Path;

use ckpt::engine::{Backend, Storage, WriteOptions, sweep};
use ckpt::error::Status;
use engine_support::mem::{Fault, Mem, Node};
use engine_support::{Model, model};

/// A destination, what makes it so, and the file that a save to it writes.
struct Place {
    path: &'static str,
    file: &'static str,
    set: fn(&Mem, &[u8]),
}

const PLACES: [Place; 4] = [
    Place { path: "/d/new.keras", file: "/d/new.keras", set: |_, _| {} },
    Place { path: "/d/old.keras", file: "/d/old.keras", set: |mem, old| mem.put_file("/d/old.keras", old) },
    Place { path: "/d/a/b/new.keras", file: "/d/a/b/new.keras", set: |_, _| {} },
    Place {
        path: "/d/link.keras",
        file: "/d/real.keras",
        set: |mem, old| {
            mem.put("/d/link.keras", Node::Link("real.keras".into()));
            mem.put_file("/d/real.keras", old);
        },
    },
];

const DURABLE: [bool; 2] = [true, false];

fn models() -> (Model, Model) {
    (model(1, &[3000]), model(2, &[5, 3000, 999, 70_000]))
}

fn options(durable: bool) -> WriteOptions {
    WriteOptions { threads: 1, durable, backend: Backend::Auto }
}

/// Saves with a fault at each call in turn, until a save has no such call; `judge` looks at each.
fn at_every_call(
    fault: Fault,
    mut judge: impl FnMut(&Place, &Mem, ckpt::error::Result<()>, &[u8], &[u8], bool),
) {
    let (old, new) = models();
    for place in &PLACES {
        for durable in DURABLE {
            for at in 0.. {
                let mem = Mem::new(fault, at);
                (place.set)(&mem, &old.file);
                let result = new.save(&mem, Path::new(place.path), options(durable)).map(|_| ());
                let calls = mem.0.lock().unwrap().calls.len();
                if at >= calls {
                    assert!(at > 6, "a save of {at} calls");
                    break;
                }
                judge(place, &mem, result, &old.file, &new.file, durable);
            }
        }
    }
}

#[test]
fn an_error_leaves_the_old_file_and_nothing_else() {
    for code in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EACCES, libc::EROFS] {
        at_every_call(Fault::Errno(code), |place, mem, result, old, new, _| {
            let (at, call, renamed) = {
                let mut s = mem.0.lock().unwrap();
                s.fault = Fault::None;
                (s.at, s.calls[s.at], s.calls[..s.at].contains(&"rename"))
            };
            let case = format!("{} fails with {code} at call {at}, {call}", place.path);
            let before = Mem::new(Fault::None, 0);
            (place.set)(&before, old);
            match result {
                Ok(()) => {
                    assert!(matches!(call, "set_mode" | "real_path"), "{case}: not reported");
                    assert!(mem.file(place.file).as_deref() == Some(new), "{case}");
                }
                Err(e) => {
                    let full = code == libc::ENOSPC || code == libc::EDQUOT;
                    assert_eq!(e.status(), if full { Status::NoSpace } else { Status::Io }, "{case}: {e}");
                    assert_eq!(e.os(), code, "{case}: {e}");
                    assert!(e.message().contains("/d"), "{case}: the path is not in '{e}'");
                    if call == "sync_dir" && renamed {
                        assert!(mem.file(place.file).as_deref() == Some(new), "{case}: the new file stands");
                        assert!(e.message().contains("stands"), "{case}: '{e}'");
                    } else {
                        assert_eq!(mem.names(), before.names(), "{case}: '{e}'");
                        assert!(mem.file(place.file) == before.file(place.file), "{case}: the old file");
                    }
                }
            }
            assert!(mem.names().iter().all(|n| !n.contains(".ckpt")), "{case}: {:?}", mem.names());
            let syncs = mem.0.lock().unwrap().calls.iter().filter(|c| **c == "sync").count();
            assert!(syncs <= 1, "{case}: a failed sync was made again");
        });
    }
}

#[test]
fn an_interruption_changes_nothing() {
    at_every_call(Fault::Errno(libc::EINTR), |place, mem, result, _, new, _| {
        let s = mem.0.lock().unwrap();
        let case = format!("{} interrupted at {}, {}", place.path, s.at, s.calls[s.at]);
        drop(s);
        result.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(mem.file(place.file).as_deref() == Some(new), "{case}");
        assert!(mem.names().iter().all(|n| !n.contains(".ckpt")), "{case}");
    });
}

#[test]
fn interruptions_without_end_end() {
    let (old, new) = models();
    for broken in
        ["info", "create", "try_lock", "preallocate", "write_at", "sync", "rename", "sync_dir", "remove"]
    {
        for place in &PLACES {
            let mem = Mem::new(Fault::None, 0);
            (place.set)(&mem, &old.file);
            mem.0.lock().unwrap().broken = Some((broken, libc::EINTR));
            match new.save(&mem, Path::new(place.path), options(true)) {
                Ok(_) => assert_eq!(broken, "remove", "{}: not reported", place.path),
                Err(error) => assert_eq!(error.os(), libc::EINTR, "{}, {broken}: {error}", place.path),
            }
        }
    }
}

#[test]
fn a_loss_of_power_leaves_the_old_file_or_the_new_one() {
    at_every_call(Fault::Death, |place, mem, result, old, new, durable| {
        let at = mem.0.lock().unwrap().at;
        let was_there = place.path != PLACES[0].path && place.path != PLACES[2].path;
        // Without durability only the process' own end is survived.
        let outcomes = if durable { mem.after_power_loss(place.file) } else { vec![mem.file(place.file)] };
        for found in outcomes {
            let whole = match &found {
                None => !was_there,
                Some(bytes) => bytes == old || bytes == new,
            };
            assert!(whole, "{} dies at call {at}: {:?} bytes", place.path, found.map(|f| f.len()));
        }
        assert!(result.is_err() || !durable || at == mem.0.lock().unwrap().calls.len());
    });
}

#[test]
fn a_durable_save_is_on_the_disk_when_it_returns() {
    let (old, new) = models();
    for place in &PLACES {
        let mem = Mem::new(Fault::None, 0);
        (place.set)(&mem, &old.file);
        let stats = new.save(&mem, Path::new(place.path), options(true)).unwrap();
        assert_eq!(stats.bytes, new.file.len() as u64);
        for found in mem.after_power_loss(place.file) {
            assert!(found.as_ref() == Some(&new.file), "{}", place.path);
        }
    }
}

#[test]
fn a_sweep_between_any_two_calls_does_no_harm() {
    at_every_call(Fault::Meanwhile, |place, mem, result, _, new, _| {
        let at = mem.0.lock().unwrap().at;
        result.unwrap_or_else(|e| panic!("{} swept before call {at}: {e}", place.path));
        assert!(mem.file(place.file).as_deref() == Some(new), "{} swept before call {at}", place.path);
    });
}

#[test]
fn short_writes_are_continued() {
    let (_, new) = models();
    for most in [1, 100, 4097] {
        let mem = Mem::new(Fault::None, 0);
        mem.0.lock().unwrap().most = most;
        new.save(&mem, Path::new("/d/x.keras"), options(true)).unwrap();
        assert!(mem.file("/d/x.keras").as_ref() == Some(&new.file));
    }
    let mem = Mem::new(Fault::None, 0);
    mem.0.lock().unwrap().most = 0;
    let error = new.save(&mem, Path::new("/d/x.keras"), options(true)).unwrap_err();
    assert_eq!((error.status(), error.os()), (Status::Io, 0));
    assert!(error.message().contains("takes no more bytes"), "{error}");
    assert_eq!(mem.names(), ["/", "/d"]);
}

#[test]
fn what_could_not_be_removed_is_swept_later() {
    let (old, new) = models();
    let mem = Mem::new(Fault::None, 0);
    (PLACES[1].set)(&mem, &old.file);
    for broken in ["sync", "rename"] {
        mem.0.lock().unwrap().broken = Some((broken, libc::EIO));
        new.save(&mem, Path::new("/d/old.keras"), options(true)).unwrap_err();
        assert_eq!(mem.names().len(), 3, "{:?}", mem.names());
    }
    mem.put_file("/d/.ckpt-tmp-1-left", b"half");
    mem.0.lock().unwrap().broken = Some(("remove", libc::EIO));
    assert!(sweep(&mem, Path::new("/d")).unwrap().is_empty());
    mem.0.lock().unwrap().broken = None;
    assert_eq!(sweep(&mem, Path::new("/d")).unwrap(), [Path::new("/d/.ckpt-tmp-1-left")]);
    assert!(mem.file("/d/old.keras").as_ref() == Some(&old.file));
}

#[test]
fn a_sweep_takes_only_files_of_ours_that_nobody_holds() {
    let mem = Mem::new(Fault::None, 0);
    mem.put_file("/d/.ckpt-tmp-1", b"dead");
    mem.put_file("/d/.ckpt-tmp-2", b"alive");
    mem.put_file("/d/.ckpt-lock", b"");
    mem.put_file("/d/x.ckpt-tmp", b"");
    mem.put("/d/.ckpt-tmp-dir", Node::Dir);
    mem.put("/d/.ckpt-tmp-link", Node::Link("x.ckpt-tmp".into()));
    let living = mem.open(Path::new("/d/.ckpt-tmp-2")).unwrap();
    assert!(living.try_lock().unwrap());
    let before = mem.names();
    mem.0.lock().unwrap().locks = false;
    assert_eq!(sweep(&mem, Path::new("/d")).unwrap_err().status(), Status::Unsupported);
    assert_eq!(mem.names(), before, "without locks nothing can be told to be abandoned");
    mem.0.lock().unwrap().locks = true;
    assert_eq!(sweep(&mem, Path::new("/d")).unwrap(), [Path::new("/d/.ckpt-tmp-1")]);
    assert_eq!(mem.names().len(), before.len() - 1);
    assert!(sweep(&mem, Path::new("/nowhere")).unwrap().is_empty());
    drop(living);
    assert_eq!(sweep(&mem, Path::new("/d")).unwrap(), [Path::new("/d/.ckpt-tmp-2")]);
}

#[test]
fn a_save_goes_on_where_there_are_no_locks() {
    let (_, new) = models();
    let mem = Mem::new(Fault::None, 0);
    mem.0.lock().unwrap().locks = false;
    new.save(&mem, Path::new("/d/x.keras"), options(true)).unwrap();
    assert!(mem.file("/d/x.keras").as_ref() == Some(&new.file));
}

#[test]
fn a_file_keeps_its_permissions_when_it_is_replaced() {
    let (old, new) = models();
    for (was, is) in [(0o640, 0o640), (0o600, 0o600), (0o444, 0o444), (0o666, 0o666)] {
        let mem = Mem::new(Fault::None, 0);
        mem.put_file("/d/x.keras", &old.file);
        mem.0.lock().unwrap().inodes[0].mode = was;
        new.save(&mem, Path::new("/d/x.keras"), options(true)).unwrap();
        assert_eq!(mem.info(Path::new("/d/x.keras")).unwrap().mode, is);
    }
}
