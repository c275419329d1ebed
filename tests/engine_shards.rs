//! Saves of several files: at each call there is a fault, a loss of power, or another save to the same path, and what
//! stands is the whole old checkpoint or the whole new one; what no checkpoint needs goes, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod engine_support;

use std::fmt;
use std::path::Path;

use ckpt::engine::storage::Handle;
use ckpt::engine::{Backend, Storage, WriteOptions, WriteStats, remove};
use ckpt::error::{Result, Status};
use engine_support::mem::{Fault, Files, Mem, Node};
use engine_support::shards::{Sharded, sharded, shards_of};

const PATH: &str = "/d/m.weights.json";
const COPY: &str = "/d/copy.weights.json";
/// Keras' first shard, as far as is looked at.
const SHARD: &[u8] = b"\x89HDF\r\n\x1a\nand so on";
const FIRST: &str = "/d/m_00000.weights.h5";

fn old() -> Sharded {
    sharded(1, &[300, 200, 10], 300)
}

fn new() -> Sharded {
    sharded(2, &[500, 400, 5, 0], 500)
}

fn options(durable: bool) -> WriteOptions {
    WriteOptions { threads: 1, durable, backend: Backend::Auto }
}

/// What is there before the save.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Nothing,
    /// Nothing, and not even the directory.
    NoDirectory,
    Ours,
    /// A checkpoint of Keras': its shards have plain names.
    Keras,
    /// Ours, and the shards of a save that was cut off.
    Orphans,
    /// Ours, and a copy of its index.
    Copied,
}

impl Before {
    const ALL: [Before; 6] =
        [Before::Nothing, Before::NoDirectory, Before::Ours, Before::Keras, Before::Orphans, Before::Copied];

    fn path(self) -> &'static str {
        if self == Before::NoDirectory { "/d/a/b/m.weights.json" } else { PATH }
    }

    fn put(self) -> Mem {
        let mem = Mem::new(Fault::None, 0);
        match self {
            Before::Nothing | Before::NoDirectory => {}
            Before::Ours => drop(old().save(&mem, Path::new(PATH), options(true)).unwrap()),
            Before::Keras => {
                mem.put_file(FIRST, SHARD);
                mem.put_file("/d/m_00001.weights.h5", b"another");
                let index = br#"{"weight_map": {"/a/vars": ["m_00000.weights.h5", "m_00001.weights.h5"]}}"#;
                mem.put_file(PATH, index);
            }
            Before::Orphans => {
                old().save(&mem, Path::new(PATH), options(true)).unwrap();
                mem.put_file("/d/m_0123456789abcdef_00000.weights.h5", b"whole");
                mem.put_file("/d/m_0123456789abcdef_00001.weights.h5", b"");
                mem.put_file("/d/.ckpt-tmp-1-1-1", b"half");
            }
            Before::Copied => {
                old().save(&mem, Path::new(PATH), options(true)).unwrap();
                mem.put_file(COPY, &mem.file(PATH).unwrap());
            }
        }
        mem
    }

    /// Whether `files` are the whole checkpoint that was there.
    fn stands(self, files: &Files) -> bool {
        match self {
            Before::Nothing | Before::NoDirectory => !files.contains_key(self.path()),
            Before::Ours | Before::Orphans | Before::Copied => old().is_in(files, PATH),
            Before::Keras => {
                let names = files.get(PATH).map(|index| shards_of(index));
                names.is_some_and(|names| names.iter().all(|name| files.contains_key(&format!("/d/{name}"))))
                    && files.get(FIRST).is_some_and(|first| first == SHARD)
            }
        }
    }
}

/// Whether the shards that the index at `path` names are there.
fn has_shards(files: &Files, path: &str) -> bool {
    files
        .get(path)
        .is_some_and(|index| shards_of(index).iter().all(|name| files.contains_key(&format!("/d/{name}"))))
}

/// A fault at a call of a save.
struct Case {
    /// For a message.
    text: String,
    /// The names that were there before.
    names: Vec<String>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Saves with a fault at each call in turn, until a save has no such call; `judge` looks at each.
fn at_every_call(
    fault: Fault,
    durable: bool,
    meanwhile: Option<fn(&Mem)>,
    mut judge: impl FnMut(Before, &Mem, &Case, Result<WriteStats>),
) {
    for before in Before::ALL {
        for at in 0.. {
            let mem = before.put();
            let names = mem.names();
            let start = {
                let mut s = mem.0.lock().unwrap();
                s.meanwhile = meanwhile.unwrap_or(s.meanwhile);
                (s.fault, s.at) = (fault, s.calls.len() + at);
                s.at
            };
            let result = new().save(&mem, Path::new(before.path()), options(durable));
            let (call, done) = {
                let mut s = mem.0.lock().unwrap();
                s.fault = Fault::None;
                (s.calls.get(start).copied(), start >= s.calls.len())
            };
            if done {
                assert!(at > 30, "a save of {at} calls");
                break;
            }
            let text = format!("{before:?}, {fault:?} at call {at}, {}, durable {durable}", call.unwrap());
            judge(before, &mem, &Case { text, names }, result);
        }
    }
}

/// What is left of a save that succeeds, and of all that was there before.
fn assert_tidy(mem: &Mem, before: Before, case: &dyn fmt::Display) {
    let files = mem.files();
    let names = files.keys().filter(|name| !name.contains(".ckpt-tmp"));
    let more = match before {
        Before::Keras => 1,
        Before::Copied => old().shards.len() + 1,
        _ => 0,
    };
    assert!(before != Before::Copied || has_shards(&files, COPY), "{case}: {:?}", files.keys());
    assert_eq!(names.count(), new().shards.len() + 2 + more, "{case}: {:?}", files.keys());
}

#[test]
fn a_checkpoint_replaces_what_is_there() {
    for before in Before::ALL {
        for durable in [true, false] {
            let mem = before.put();
            let stats = new().save(&mem, Path::new(before.path()), options(durable)).unwrap();
            let files = mem.files();
            assert!(new().is_in(&files, before.path()), "{before:?}");
            assert_tidy(&mem, before, &format_args!("{before:?}"));
            if before == Before::Keras {
                assert_eq!(files[FIRST], SHARD);
                assert_eq!(files["/d/m_00001.weights.h5"], b"another");
            }
            let there = !matches!(before, Before::Nothing | Before::NoDirectory);
            let written = new().shards.iter().map(Vec::len).sum::<usize>() + files[before.path()].len();
            assert_eq!(stats.bytes, (written + if there { 0 } else { new().first.len() }) as u64);
            let first_is_ours = before != Before::Keras;
            assert_eq!(stats.file.companions.len(), new().shards.len() + usize::from(first_is_ours));
        }
    }
}

#[test]
fn an_error_leaves_the_old_checkpoint_and_nothing_else() {
    for code in [libc::EIO, libc::ENOSPC, libc::EMFILE] {
        at_every_call(Fault::Errno(code), true, None, |before, mem, case, result| {
            let files = mem.files();
            match result {
                Ok(_) => assert!(new().is_in(&files, before.path()), "{case}"),
                Err(e) if e.message().contains("stands") => {
                    assert!(new().is_in(&files, before.path()), "{case}: {e}");
                }
                Err(e) => {
                    assert_eq!(e.status(), if code == libc::ENOSPC { Status::NoSpace } else { Status::Io });
                    assert_eq!(e.os(), code, "{case}: {e}");
                    assert_eq!(mem.names(), case.names, "{case}: {e}");
                    assert!(before.stands(&files), "{case}: {e}");
                    if code == libc::EMFILE && case.text.contains("create") {
                        assert!(e.message().contains("all 4 files") && e.message().contains("ulimit"), "{e}");
                    }
                }
            }
            // Whatever was left, the next save to the path takes it.
            new().save(mem, Path::new(before.path()), options(true)).unwrap();
            assert_tidy(mem, before, case);
        });
    }
}

#[test]
fn an_interruption_changes_nothing() {
    at_every_call(Fault::Errno(libc::EINTR), true, None, |before, mem, case, result| {
        result.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(new().is_in(&mem.files(), before.path()), "{case}");
        assert_tidy(mem, before, case);
    });
}

#[test]
fn a_loss_of_power_leaves_the_old_checkpoint_or_the_new_one() {
    at_every_call(Fault::Death, true, None, |before, mem, case, _| {
        for files in mem.all_after_power_loss() {
            let whole = new().is_in(&files, before.path()) || before.stands(&files);
            assert!(whole, "{case}: {:?}", files.keys());
            assert!(before != Before::Copied || has_shards(&files, COPY), "{case}: {:?}", files.keys());
        }
    });
}

#[test]
fn a_process_that_dies_leaves_the_old_checkpoint_or_the_new_one() {
    at_every_call(Fault::Death, false, None, |before, mem, case, _| {
        let files = mem.files();
        assert!(new().is_in(&files, before.path()) || before.stands(&files), "{case}: {:?}", files.keys());
        new().save(mem, Path::new(before.path()), options(false)).unwrap();
        assert_tidy(mem, before, case);
    });
}

#[test]
fn a_durable_save_is_on_the_disk_when_it_returns() {
    for before in Before::ALL {
        let mem = before.put();
        new().save(&mem, Path::new(before.path()), options(true)).unwrap();
        for files in mem.all_after_power_loss() {
            assert!(new().is_in(&files, before.path()), "{before:?}: {:?}", files.keys());
        }
    }
}

#[test]
fn another_save_between_any_two_calls_does_no_harm() {
    let rival: fn(&Mem) = |mem| {
        // Where its directory is not there yet, neither of them can be disturbed.
        let path = if mem.names().contains(&"/d/a/b".to_owned()) { Before::NoDirectory.path() } else { PATH };
        sharded(3, &[700, 70], 700).save(mem, Path::new(path), options(true)).unwrap();
    };
    at_every_call(Fault::Meanwhile, true, Some(rival), |before, mem, case, result| {
        result.unwrap_or_else(|e| panic!("{case}: {e}"));
        let files = mem.files();
        let stands = [new(), sharded(3, &[700, 70], 700)].iter().any(|m| m.is_in(&files, before.path()));
        assert!(stands, "{case}: {:?}", files.keys());
        new().save(mem, Path::new(before.path()), options(true)).unwrap();
        assert!(new().is_in(&mem.files(), before.path()), "{case}");
        if before != Before::NoDirectory {
            assert_tidy(mem, before, case);
        }
    });
}

#[test]
fn a_sweep_between_any_two_calls_does_no_harm() {
    at_every_call(Fault::Meanwhile, true, None, |before, mem, case, result| {
        result.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(new().is_in(&mem.files(), before.path()), "{case}");
    });
}

#[test]
fn shards_that_a_living_save_holds_stay() {
    let mem = Before::Orphans.put();
    let orphan = "/d/m_0123456789abcdef_00000.weights.h5";
    let held: Box<dyn Handle> = mem.open(Path::new(orphan)).unwrap();
    assert!(held.try_lock().unwrap());
    new().save(&mem, Path::new(PATH), options(true)).unwrap();
    assert!(mem.file(orphan).is_some());
    drop(held);
    new().save(&mem, Path::new(PATH), options(true)).unwrap();
    assert!(mem.file(orphan).is_none());
}

#[test]
fn without_locks_the_old_shards_go_too() {
    let mem = Before::Ours.put();
    mem.0.lock().unwrap().locks = false;
    new().save(&mem, Path::new(PATH), options(true)).unwrap();
    assert!(new().is_in(&mem.files(), PATH));
    assert_tidy(&mem, Before::Ours, &"without locks");
}

#[test]
fn only_files_are_taken_for_old_shards() {
    let mem = Before::Nothing.put();
    mem.put("/d/m_0123456789abcdef_00000.weights.h5", Node::Dir);
    mem.put("/d/m_0123456789abcdef_00001.weights.h5", Node::Link("elsewhere".into()));
    mem.put_file("/d/n_0123456789abcdef_00000.weights.h5", b"another's");
    let before = mem.names();
    new().save(&mem, Path::new(PATH), options(true)).unwrap();
    assert!(before.iter().all(|name| mem.names().contains(name)));
}

#[test]
fn a_link_is_followed_and_its_files_are_beside_the_index() {
    let mem = Before::Ours.put();
    mem.put("/d/elsewhere", Node::Dir);
    mem.put("/d/elsewhere/link.weights.json", Node::Link("/d/m.weights.json".into()));
    new().save(&mem, Path::new("/d/elsewhere/link.weights.json"), options(true)).unwrap();
    assert!(new().is_in(&mem.files(), PATH));
}

#[test]
fn removing_takes_the_index_first() {
    for before in [Before::Nothing, Before::Keras] {
        let mem = before.put();
        let file = new().save(&mem, Path::new(PATH), options(true)).unwrap().file;
        let calls = mem.0.lock().unwrap().calls.len();
        assert!(remove(&mem, &file).unwrap());
        let removed = mem.0.lock().unwrap().calls[calls..].iter().filter(|c| **c == "remove").count();
        assert_eq!(removed, file.companions.len() + 1);
        let left: Vec<_> = mem.files().into_keys().collect();
        match before {
            Before::Keras => assert_eq!(left, [FIRST, "/d/m_00001.weights.h5"]),
            _ => assert!(left.is_empty(), "{left:?}"),
        }
        assert!(!remove(&mem, &file).unwrap(), "it is gone");
    }
}

#[test]
fn a_removal_that_fails_leaves_no_torn_checkpoint() {
    for at in 0.. {
        let mem = Before::Nothing.put();
        let file = new().save(&mem, Path::new(PATH), options(true)).unwrap().file;
        let end = {
            let mut s = mem.0.lock().unwrap();
            (s.fault, s.at) = (Fault::Death, s.calls.len() + at);
            s.at
        };
        let result = remove(&mem, &file);
        for files in mem.all_after_power_loss() {
            assert!(!files.contains_key(PATH) || new().is_in(&files, PATH), "call {at}: {:?}", files.keys());
        }
        if end >= mem.0.lock().unwrap().calls.len() {
            result.unwrap();
            break;
        }
        assert!(result.is_err() || mem.file(PATH).is_none());
    }
}

#[test]
fn what_another_has_replaced_is_not_removed() {
    let mem = Before::Nothing.put();
    let first = new().save(&mem, Path::new(PATH), options(true)).unwrap().file;
    old().save(&mem, Path::new(PATH), options(true)).unwrap();
    assert!(!remove(&mem, &first).unwrap());
    assert!(old().is_in(&mem.files(), PATH));
}

#[test]
fn shards_that_an_index_under_another_name_needs_stay() {
    for name in ["keep.weights.json", "m.weights.json.bak", "m.json", "m.json.1", "KEEP.JSON"] {
        let mem = Before::Ours.put();
        let kept = format!("/d/{name}");
        mem.rename(Path::new(PATH), Path::new(&kept)).unwrap();
        for _ in 0..2 {
            new().save(&mem, Path::new(PATH), options(true)).unwrap();
            assert!(has_shards(&mem.files(), &kept), "{name}: {:?}", mem.names());
            assert!(new().is_in(&mem.files(), PATH), "{name}");
        }
        mem.remove(Path::new(&kept)).unwrap();
        new().save(&mem, Path::new(PATH), options(true)).unwrap();
        assert_tidy(&mem, Before::Ours, &name);
    }
}

#[test]
fn another_index_is_found_out_wherever_it_names_a_shard() {
    let piece = 1 << 20;
    for at in [0, 1, piece - 17, piece - 16, piece - 15, piece - 1, piece, 3 * piece + 5] {
        let mem = Before::Orphans.put();
        mem.put_file("/d/x.json", &[&vec![b' '; at][..], b"0123456789abcdef", &vec![b' '; piece]].concat());
        mem.0.lock().unwrap().most = if at == 1 { 1000 } else { usize::MAX };
        new().save(&mem, Path::new(PATH), options(true)).unwrap();
        assert!(mem.file("/d/m_0123456789abcdef_00000.weights.h5").is_some(), "at {at}");
    }
}

#[test]
fn old_shards_stay_where_an_index_cannot_be_read() {
    for call in ["read", "list"] {
        let mem = Before::Copied.put();
        mem.0.lock().unwrap().broken = Some((call, libc::EACCES));
        let result = new().save(&mem, Path::new(PATH), options(true));
        if call == "list" {
            result.unwrap();
            assert!(new().is_in(&mem.files(), PATH));
        }
        assert!(has_shards(&mem.files(), COPY));
    }
}

#[test]
fn removing_leaves_what_another_index_needs() {
    for (name, first_stays) in [("copy.weights.json", false), ("m.json", true), ("m.json.bak", false)] {
        let mem = Before::Nothing.put();
        let file = new().save(&mem, Path::new(PATH), options(true)).unwrap().file;
        let copy = format!("/d/{name}");
        mem.put_file(&copy, &mem.file(PATH).unwrap());
        assert!(remove(&mem, &file).unwrap());
        assert!(mem.file(PATH).is_none());
        assert!(has_shards(&mem.files(), &copy), "{name}: {:?}", mem.names());
        assert_eq!(mem.file(FIRST).is_some(), first_stays, "{name}");
    }
}

#[test]
fn what_keras_cannot_open_is_replaced() {
    for broken in [&b""[..], b"\x89HDF\r\n\x1a", b"something else"] {
        for link in [false, true] {
            let mem = Before::Nothing.put();
            let target = if link { "/d/target" } else { FIRST };
            mem.put_file(target, broken);
            if link {
                mem.put(FIRST, Node::Link(target.into()));
            }
            new().save(&mem, Path::new(PATH), options(true)).unwrap();
            assert_eq!(mem.file(FIRST).unwrap(), new().first);
            // Never through a link.
            assert!(!link || mem.file(target).unwrap() == broken);
        }
    }
    let mem = Before::Nothing.put();
    mem.put(FIRST, Node::Link("nowhere".into()));
    new().save(&mem, Path::new(PATH), options(true)).unwrap();
    assert_eq!(mem.file(FIRST).unwrap(), new().first);
}

#[test]
fn what_keras_can_open_stays() {
    let mem = Before::Nothing.put();
    mem.put_file("/d/target", SHARD);
    mem.put(FIRST, Node::Link("target".into()));
    let stats = new().save(&mem, Path::new(PATH), options(true)).unwrap();
    assert_eq!(mem.file("/d/target").unwrap(), SHARD);
    assert!(mem.file(FIRST).is_none(), "it is a link still");
    assert_eq!(stats.file.companions.len(), new().shards.len());
}

#[test]
fn a_directory_in_the_way_is_an_error_before_anything_is_written() {
    let mem = Before::Nothing.put();
    mem.put(FIRST, Node::Dir);
    let names = mem.names();
    let e = new().save(&mem, Path::new(PATH), options(true)).unwrap_err();
    assert_eq!((e.status(), e.os()), (Status::Io, libc::EISDIR));
    assert!(e.message().contains(FIRST), "{e}");
    assert_eq!(mem.names(), names);
    assert!(!mem.0.lock().unwrap().calls.contains(&"create"));
}
