//! A disk that is full: what goes anyway goes before the save, if that makes enough room; else nothing is touched.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod async_support;
mod engine_support;
mod scratch;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use async_support::{Lines, Tap, Valve, byte, epoch, has_line, listen, options};
use ckpt::engine::{Loan, Recycle, Save, Storage, Tensors, Unwatched, Watch};
use ckpt::error::{Error, Result, Status};
use ckpt::layout::Stamp;
use ckpt::session::{Async, Level, Options, Session};
use engine_support::mem::{Fault, Mem, Node};
use engine_support::{model, rounds};
use parking_lot::Mutex;
use scratch::Scratch;

/// A session on a disk in memory.
struct Run {
    mem: Mem,
    session: Session,
    lines: Lines,
    epoch: u64,
}

/// Bytes of the tensor in a checkpoint, if no other number is said.
const TENSOR: u64 = 100_000;

impl Run {
    fn new(mode: Async, change: impl FnOnce(&mut Options)) -> Run {
        let mem = Mem::new(Fault::None, 0);
        let mut options = options(mode);
        options.storage = Arc::new(mem.clone());
        (options.durable, options.recycle) = (true, Recycle::Off);
        change(&mut options);
        let lines = listen(&mut options);
        Run { mem, session: Session::new("/d/{epoch}.weights.h5", options).unwrap(), lines, epoch: 0 }
    }

    fn keep_last(n: u64) -> Run {
        Run::new(Async::Off, |options| options.policy.keep_last = n)
    }

    /// A save of a tensor with so many bytes.
    fn save(&mut self, loss: f64, bytes: u64) -> Result<()> {
        epoch(&self.session, self.epoch, loss);
        self.epoch += 1;
        self.session.save(&Valve::new(Tap::Open(self.epoch as u8)).model(bytes))?;
        self.session.wait()
    }

    fn step(&mut self, loss: f64) {
        self.save(loss, TENSOR).unwrap();
    }

    /// Gives the disk as much room as the files have, and so much of a tensor more.
    fn limit(&self, tensors: f64) {
        let used: u64 = self.mem.files().values().map(|file| file.len() as u64).sum();
        self.mem.0.lock().unwrap().capacity = Some(used + (TENSOR as f64 * tensors) as u64);
    }

    /// The numbers in the names of the files.
    fn stand(&self) -> Vec<u64> {
        let number = |path: &String| path.strip_prefix("/d/")?.strip_suffix(".weights.h5")?.parse().ok();
        self.mem.files().keys().filter_map(number).collect()
    }

    /// A save that finds no room, and touches nothing.
    fn refused(&mut self, loss: f64, bytes: u64, says: &str) -> Error {
        let before = self.mem.files();
        let error = self.save(loss, bytes).unwrap_err();
        assert_eq!((error.status(), error.os()), (Status::NoSpace, libc::ENOSPC), "{error}");
        assert!(error.message().contains(says), "{error}");
        assert!(self.mem.files() == before, "{:?}", self.mem.names());
        assert!(!self.lines.lock().iter().any(|(_, line)| line.contains("no room")), "{:?}", self.lines);
        error
    }
}

#[test]
fn what_goes_anyway_goes_before_the_save() {
    for mode in [Async::Off, Async::Copy, Async::Borrow] {
        for reserve in [0, 1 << 40] {
            let mut run = Run::new(mode, |options| options.policy.keep_last = 2);
            run.step(0.5);
            run.step(0.4);
            run.limit(0.5);
            run.mem.0.lock().unwrap().reserve = reserve;
            for n in 3..7 {
                run.step(1.0 / n as f64);
                assert_eq!(run.stand(), [n - 1, n]);
                assert!(has_line(
                    &run.lines,
                    Level::Debug,
                    &format!("removed '/d/{}.weights.h5' (epoch {}, val_loss ", n - 2, n - 2)
                ));
                let when = format!(
                    "not among the last 2; before the save to '/d/{n}.weights.h5', for which there was no room"
                );
                assert!(has_line(&run.lines, Level::Debug, &when), "{:?}", run.lines);
            }
            assert_eq!(run.mem.names().len(), 4);
        }
    }
}

#[test]
fn with_room_nothing_goes_before_the_save() {
    let mut run = Run::keep_last(2);
    run.step(0.5);
    run.step(0.4);
    run.limit(1.5);
    let begin = run.mem.0.lock().unwrap().calls.len();
    run.step(0.3);
    let s = run.mem.0.lock().unwrap();
    let at = |what| s.calls[begin..].iter().position(|call| *call == what).unwrap();
    assert!(at("sync_dir") < at("remove"));
    assert_eq!(s.calls[begin..].iter().filter(|call| **call == "free_space").count(), 1);
}

#[test]
fn the_newest_and_the_best_stay() {
    let mut run = Run::keep_last(1);
    run.step(0.1);
    run.step(0.5);
    run.limit(0.5);
    let free = run.mem.free_space(Path::new("/d")).unwrap().unwrap();
    let error = run.refused(0.4, TENSOR, &format!(" bytes: {free} are free"));
    assert!(error.message().starts_with("no room for 10"), "{error}");
    assert_eq!(run.stand(), [1, 2]);
    // Nor does a better one take the best's place before it is there.
    run.refused(0.05, TENSOR, "no room for");
    assert!(run.session.should_save(), "it is still due");
    run.limit(2.0);
    run.session.save(&Valve::new(Tap::Open(4)).model(TENSOR)).unwrap();
    assert_eq!(run.stand(), [4]);
}

#[test]
fn nothing_goes_in_vain() {
    for reserve in [0, 1 << 40] {
        let mut run = Run::keep_last(2);
        run.step(0.5);
        run.step(0.4);
        run.limit(0.5);
        run.mem.0.lock().unwrap().reserve = reserve;
        run.refused(0.3, 2 * TENSOR, "no room for 20");
        assert_eq!(run.stand(), [1, 2]);
        // One more byte of room than that takes.
        run.limit(1.1);
        run.save(0.3, 2 * TENSOR).unwrap();
        assert_eq!(run.stand(), [2, 4]);
    }
}

#[test]
fn what_frees_nothing_does_not_go() {
    let mut run = Run::keep_last(2);
    run.step(0.5);
    run.step(0.4);
    let node = run.mem.0.lock().unwrap().names[Path::new("/d/1.weights.h5")].clone();
    run.mem.put("/d/mine", node);
    // Its file has another name, so its bytes would stay.
    let used = 2 * run.mem.files()["/d/1.weights.h5"].len() as u64;
    run.mem.0.lock().unwrap().capacity = Some(used + TENSOR / 2);
    run.refused(0.3, TENSOR, "no room for");
    run.mem.0.lock().unwrap().names.remove(Path::new("/d/mine"));
    run.step(0.3);
    assert_eq!(run.stand(), [2, 4]);
}

#[test]
fn nothing_goes_on_the_strength_of_what_others_have_removed() {
    for gone in [2, 3] {
        let mut run = Run::keep_last(3);
        run.step(0.5);
        run.step(0.1);
        run.step(0.4);
        // The best, or the newest.
        run.mem.0.lock().unwrap().names.remove(Path::new(&format!("/d/{gone}.weights.h5")));
        run.limit(0.5);
        run.refused(0.3, TENSOR, "no room for");
    }
}

#[test]
fn the_stable_name_moves_on_before_its_file_goes() {
    let mut run = Run::new(Async::Off, |options| {
        options.policy.keep_last = 2;
        options.policy.save_last = Some("/d/last.weights.h5".to_owned());
    });
    run.step(0.5);
    run.step(0.4);
    let used = 2 * run.mem.files()["/d/1.weights.h5"].len() as u64;
    run.mem.0.lock().unwrap().capacity = Some(used + TENSOR / 2);
    for n in 3..6 {
        run.step(1.0 / n as f64);
        assert_eq!(run.stand(), [n - 1, n]);
        assert!(run.mem.file("/d/last.weights.h5") == run.mem.file(&format!("/d/{n}.weights.h5")));
    }
}

#[test]
fn spares_are_as_good_as_free_and_go_first() {
    let mut run = Run::new(Async::Off, |options| {
        (options.policy.keep_last, options.recycle) = (2, Recycle::On);
    });
    (1..=4).for_each(|n| run.step(1.0 / n as f64));
    assert_eq!(run.mem.files().len(), 3, "a spare: {:?}", run.mem.names());
    run.limit(0.1);
    let model = Valve::new(Tap::Open(1)).model(TENSOR);
    run.session.prepare(&model).unwrap();
    // It is written anew.
    run.step(0.2);
    assert_eq!((run.stand(), run.mem.files().len()), (vec![4, 5], 3));
    // Too small: it goes, and with it what goes anyway.
    let too_large = Valve::new(Tap::Open(1)).model(TENSOR * 5 / 2);
    let error = run.session.prepare(&too_large).unwrap_err();
    assert_eq!(error.status(), Status::NoSpace, "{error}");
    assert!(error.message().starts_with("no room for 25"), "{error}");
    assert!(error.message().contains(", and 10"), "{error}");
    run.session.prepare(&Valve::new(Tap::Open(1)).model(TENSOR * 3 / 2)).unwrap();
    run.save(0.19, TENSOR * 3 / 2).unwrap();
    assert_eq!((run.stand(), run.mem.files().len()), (vec![5, 6], 2));
}

#[test]
fn what_goes_anyway_is_as_good_as_free_before_the_first_save_too() {
    let mut run = Run::keep_last(2);
    run.step(0.4);
    run.step(0.5);
    run.step(0.6);
    assert_eq!(run.stand(), [1, 2, 3]);
    run.limit(0.5);
    let before = run.mem.files();
    run.session.prepare(&Valve::new(Tap::Open(1)).model(TENSOR)).unwrap();
    let large = Valve::new(Tap::Open(1)).model(2 * TENSOR);
    assert_eq!(
        run.session.prepare(&large).unwrap_err().status(),
        Status::NoSpace,
        "the newest and the best stay"
    );
    assert!(run.mem.files() == before, "it is the save that removes");
    run.step(0.7);
    assert_eq!(run.stand(), [1, 3, 4]);
    run.session.prepare(&Valve::new(Tap::Open(1)).model(TENSOR)).unwrap();
    run.mem.remove(Path::new("/d/1.weights.h5")).unwrap();
    run.limit(0.5);
    let error = run.session.prepare(&Valve::new(Tap::Open(1)).model(TENSOR)).unwrap_err();
    assert_eq!(error.status(), Status::NoSpace, "the best does not stand: nothing goes before a save");
}

#[test]
fn a_directory_that_is_to_be_made_is_asked_too() {
    let mem = Mem::new(Fault::None, 0);
    mem.0.lock().unwrap().capacity = Some(1000);
    let mut options = options(Async::Off);
    options.storage = Arc::new(mem.clone());
    let session = Session::new("/d/new/below/{epoch}.weights.h5", options).unwrap();
    epoch(&session, 0, 1.0);
    let error = session.save(&Valve::new(Tap::Open(1)).model(TENSOR)).unwrap_err();
    assert!(error.message().contains("bytes: 1000 are free"), "{error}");
    assert!(!mem.0.lock().unwrap().calls.contains(&"make_dir"));
}

/// Gives up one file after the other.
struct Giver<'a> {
    mem: &'a Mem,
    files: Mutex<Vec<(String, u64)>>,
}

impl Watch for Giver<'_> {
    fn dispensable(&self, _: u64) -> u64 {
        self.files.lock().iter().map(|(_, bytes)| bytes).sum()
    }

    fn give_up(&self, _: u64) -> Option<u64> {
        let mut files = self.files.lock();
        let (path, bytes) = (!files.is_empty()).then(|| files.remove(0))?;
        self.mem.remove(Path::new(&path)).unwrap();
        Some(bytes)
    }
}

#[test]
fn one_at_a_time_goes_until_it_fits() {
    for reserve in [0, 1 << 40] {
        for (free, left) in [(10_000, 5), (9_000, 4), (4_900, 3), (1, 2), (0, 2)] {
            let mem = Mem::new(Fault::None, 0);
            let files: Vec<_> = (0..5).map(|n| (format!("/d/{n}"), 3000)).collect();
            files.iter().for_each(|(path, _)| mem.put_file(path, &[1; 3000]));
            {
                let mut s = mem.0.lock().unwrap();
                (s.capacity, s.reserve) = (Some(15_000 + free), reserve);
            }
            let saved = model(7, &[9_000 - 832]);
            assert_eq!(saved.file.len(), 9_000);
            let giver = Giver { mem: &mem, files: Mutex::new(files) };
            let (mut layout, stamp) = (saved.layout.copied().unwrap(), Stamp::default());
            let save = Save {
                storage: &mem,
                path: Path::new("/d/x.keras"),
                layout: &mut layout,
                stamp: &stamp,
                tensors: Tensors::Lent(Loan::of(&saved.buffers)),
                options: rounds::options(true),
                watch: &giver,
                arena: None,
                spares: None,
            };
            save.run().unwrap();
            let left = if free >= 9_000 { 5 } else { left };
            assert_eq!(giver.files.lock().len(), left, "{free} {reserve}");
            assert!(mem.file("/d/x.keras") == Some(saved.file));
        }
    }
}

#[test]
fn nobody_is_asked_where_nobody_follows() {
    let mem = Mem::new(Fault::None, 0);
    mem.0.lock().unwrap().capacity = Some(100);
    assert_eq!(Unwatched.dispensable(0), 0);
    let error = model(1, &[5000]).save(&mem, Path::new("/d/x.keras"), rounds::options(true)).unwrap_err();
    assert_eq!(error.status(), Status::NoSpace);
    assert!(error.message().contains("100 are free"), "{error}");
    mem.put("/d/other", Node::Dir);
    assert_eq!(mem.files().len(), 0);
}

/// A small file system, unmounted with the value.
struct Mounted(Scratch);

impl Mounted {
    /// `None` where this user may not mount one.
    fn new(kind: &str, mib: u64) -> Option<Mounted> {
        let dir = Scratch::new("space");
        let run = |command: &str| {
            let ran = Command::new("sh").args(["-c", command]).current_dir(dir.path()).output();
            ran.is_ok_and(|ran| ran.status.success())
        };
        fs::create_dir(dir.join("m")).unwrap();
        let mounted = match kind {
            "tmpfs" => run(&format!("mount -t tmpfs -o size={mib}m tmpfs m")),
            _ => run(&format!("truncate -s {mib}M image && mkfs.ext4 -q image && mount -o loop image m")),
        };
        mounted.then(|| Mounted(dir))
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.join("m")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| name != "lost+found");
        names.sort();
        names
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.join("m")).status();
    }
}

#[test]
fn a_real_disk_that_is_full() {
    for (kind, mib) in [("tmpfs", 20), ("ext4", 24)] {
        let Some(disk) = Mounted::new(kind, mib) else {
            println!("not run: only root can mount a small {kind}");
            assert!(std::env::var_os("CI").is_none(), "under CI it has to run");
            continue;
        };
        for mode in [Async::Off, Async::Copy] {
            let mut options = options(mode);
            (options.durable, options.policy.keep_last) = (true, 2);
            let lines = listen(&mut options);
            let template = disk.0.join("m/{epoch}.weights.h5");
            let session = Session::new(template.to_str().unwrap(), options).unwrap();
            let save = |n: u64, bytes: u64| {
                epoch(&session, n, 1.0 / (n + 1) as f64);
                session.save(&Valve::new(Tap::Open(n as u8)).model(bytes))?;
                session.wait()
            };
            for n in 0..8 {
                save(n, 7 << 20).unwrap_or_else(|e| panic!("{kind} {mode:?} {n}: {e}"));
                assert_eq!(byte(&disk.0.join(format!("m/{}.weights.h5", n + 1))), n as u8);
            }
            assert_eq!(disk.names(), ["7.weights.h5", "8.weights.h5"], "{kind}");
            let early = lines.lock().iter().filter(|(_, line)| line.contains("there was no room")).count();
            assert_eq!(early, 6, "{kind}: {lines:?}");
            let error = save(8, 40 << 20).unwrap_err();
            assert_eq!((error.status(), error.os()), (Status::NoSpace, libc::ENOSPC), "{error}");
            assert!(error.message().contains("in checkpoints that no keep_* rule keeps"), "{error}");
            assert_eq!(disk.names(), ["7.weights.h5", "8.weights.h5"], "{kind}");
            for name in disk.names() {
                fs::remove_file(disk.0.join("m").join(name)).unwrap();
            }
        }
    }
}
