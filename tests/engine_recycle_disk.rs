//! Files that are written anew on a real file system: what others have open, mapped or linked keeps its bytes, what a
//! killed process leaves is whole, and a forked child touches nothing.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]
#![allow(clippy::print_stdout, reason = "a test that cannot be made here says so")]

mod engine_support;
mod scratch;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ckpt::engine::{Backend, Buffer, Disk, Recycle, Spares, WriteOptions, Written, sweep};
use ckpt::policy;
use ckpt::reader::Reader;
use ckpt::session::{self, Session};
use ckpt::tensor::Dtype;
use engine_support::{Model, model};
use scratch::Scratch;

const DURABLE: WriteOptions = WriteOptions { threads: 0, durable: true, backend: Backend::Auto };

fn checkpoint(fill: u8) -> Model {
    model(fill, &[100, 5000, 77, 300_000])
}

/// Saves of a session that keeps the last one: to one file, or to a file a round.
struct Run {
    place: Scratch,
    spares: Spares,
    one_file: bool,
    round: u8,
    kept: Option<Written>,
}

impl Run {
    fn new(one_file: bool) -> Run {
        let spares = Spares::new(Arc::new(Disk), Recycle::On);
        Run { place: Scratch::new("recycle"), spares, one_file, round: 0, kept: None }
    }

    fn path(&self, round: u8) -> PathBuf {
        self.place.join(if self.one_file { "x.keras".to_owned() } else { format!("{round}.keras") })
    }

    fn step(&mut self) {
        let path = self.path(self.round);
        let file = checkpoint(self.round).save_with(&Disk, &path, DURABLE, &self.spares).unwrap().file;
        assert!(fs::read(&path).unwrap() == checkpoint(self.round).file);
        self.round += 1;
        if let Some(earlier) = self.kept.replace(file).filter(|_| !self.one_file) {
            self.spares.retire(&earlier).unwrap();
        }
    }

    fn steps(&mut self, n: usize) {
        (0..n).for_each(|_| self.step());
    }

    fn newest(&self) -> PathBuf {
        self.path(self.round - 1)
    }

    fn temps(&self) -> Vec<String> {
        self.place.names().into_iter().filter(|name| name.starts_with(".ckpt-tmp")).collect()
    }
}

/// Which file it is: the number of one that has gone is given to the next that is made.
fn identity(path: &Path) -> (u64, Option<SystemTime>) {
    let meta = fs::metadata(path).unwrap();
    (meta.ino(), meta.created().ok())
}

/// Keeps the other tests waiting: a child of theirs has, until it is another program, all our files open.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a test with both ways to become superfluous, where files are recycled: not on every file system.
fn on_a_disk_that_recycles(test: impl Fn(Run)) {
    let _alone = alone();
    for one_file in [true, false] {
        let mut trial = Run::new(one_file);
        trial.steps(1);
        let first = identity(&trial.newest());
        trial.steps(2);
        match identity(&trial.newest()) == first {
            true => test(Run::new(one_file)),
            false => println!("not run: no file is recycled in {}", trial.place.path().display()),
        }
    }
}

#[test]
fn the_next_save_writes_the_file_anew() {
    on_a_disk_that_recycles(|mut run| {
        run.steps(2);
        assert_eq!((run.place.names().len(), run.temps().len()), (2, 1));
        let before = [identity(&run.place.join(&run.temps()[0])), identity(&run.newest())];
        for round in 0..4 {
            run.step();
            assert_eq!(identity(&run.newest()), before[round % 2]);
        }
        let place = run.place;
        drop(run.spares);
        assert_eq!(place.names().len(), 1, "{:?}", place.names());
    });
}

#[test]
fn sizes_go_up_and_down() {
    on_a_disk_that_recycles(|run| {
        for (round, size) in [900_000, 1_000_000, 600_000, 1_100_000, 800_000, 3, 1].into_iter().enumerate() {
            let path = run.path(round as u8);
            let model = model(round as u8, &[size, 10]);
            let file = model.save_with(&Disk, &path, DURABLE, &run.spares).unwrap().file;
            assert!(fs::read(&path).unwrap() == model.file);
            if !run.one_file {
                run.spares.retire(&file).unwrap();
            }
        }
    });
}

#[test]
fn what_is_open_mapped_or_linked_keeps_its_bytes() {
    type Hold = Box<dyn Fn() -> Vec<u8>>;
    let ways: [fn(&Path) -> Hold; 5] = [
        |path| {
            let file = File::open(path).unwrap();
            Box::new(move || {
                let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            })
        },
        |path| {
            let file = File::options().read(true).write(true).open(path).unwrap();
            Box::new(move || {
                let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            })
        },
        |path| {
            let file = File::open(path).unwrap();
            let len = file.metadata().unwrap().len() as usize;
            let fd = file.as_raw_fd();
            // SAFETY: a new mapping of an open file; it is never unmapped.
            let map =
                unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
            assert_ne!(map, libc::MAP_FAILED);
            let at = map as usize;
            // SAFETY: the mapping has `len` bytes and stays; who writes to the file fails the test.
            Box::new(move || unsafe { std::slice::from_raw_parts(at as *const u8, len) }.to_vec())
        },
        |path| {
            let link = path.with_extension("link");
            fs::hard_link(path, &link).unwrap();
            Box::new(move || fs::read(&link).unwrap())
        },
        |path| {
            // Another process, which reads when it is told to.
            let mut child = Command::new("sh")
                .args(["-c", "exec 3< \"$0\"; echo; read go; cat <&3"])
                .arg(path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            let child = std::cell::Cell::new(Some(child));
            Box::new(move || {
                let mut child = child.take().unwrap();
                child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
                child.wait_with_output().unwrap().stdout
            })
        },
    ];
    on_a_disk_that_recycles(|mut run| {
        run.steps(2);
        for (i, way) in ways.iter().enumerate() {
            let held = way(&run.newest());
            let expected = checkpoint(run.round - 1).file;
            let id = identity(&run.newest());
            run.step();
            run.step();
            assert_ne!(identity(&run.newest()), id, "way {i}: it was taken all the same");
            run.step();
            assert!(held() == expected, "way {i}: the bytes have changed");
            let _ = fs::remove_file(run.newest().with_extension("link"));
        }
    });
}

#[test]
fn an_open_reader_keeps_its_checkpoint() {
    let _alone = alone();
    let place = Scratch::new("recycle");
    let mut values = vec![0.0f32; 1 << 20];
    let (session, model) = session(&place.join("m.weights.h5"), &mut values, Recycle::On);
    save(&session, &model, &mut values, 0);
    let readers: Vec<Reader> = (1..6)
        .map(|epoch| {
            let reader = Reader::open(&place.join("m.weights.h5")).unwrap();
            save(&session, &model, &mut values, epoch);
            reader
        })
        .collect();
    for (epoch, reader) in readers.iter().enumerate() {
        reader.verify().unwrap();
        assert_eq!(value_in(reader), epoch as f32);
    }
}

#[test]
fn only_what_a_new_file_would_be_is_written_anew() {
    let set_label = |path: &Path| {
        let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: strings and memory that outlive the call.
        let set = unsafe { libc::setxattr(path.as_ptr(), c"user.note".as_ptr(), c"x".as_ptr().cast(), 1, 0) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    };
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    on_a_disk_that_recycles(|mut run| {
        let mut goes_on = |change: &dyn Fn(&Path)| {
            run.step();
            let path = run.newest();
            let id = identity(&path);
            change(&path);
            run.steps(2);
            let anew = identity(&run.newest()) == id;
            let found = fs::metadata(run.newest()).unwrap().mode() & 0o7777;
            run.spares.retire(&run.kept.take().unwrap()).unwrap();
            anew.then_some(found)
        };
        assert!(goes_on(&|_| {}).is_some());
        assert_eq!(goes_on(&set_label), None);
        let new = goes_on(&|_| {}).unwrap();
        let narrowed = goes_on(&|path| mode(path, 0o777)).unwrap();
        assert!(narrowed == new || narrowed == 0o777, "{narrowed:o}");
        assert_eq!(goes_on(&|path| fs::write(path, b"another's").unwrap()), None);
    });
}

#[test]
fn links_to_a_file_and_to_a_directory_are_followed() {
    on_a_disk_that_recycles(|run| {
        fs::create_dir(run.place.join("real")).unwrap();
        symlink("real", run.place.join("dir")).unwrap();
        symlink("dir/x.keras", run.place.join("link.keras")).unwrap();
        let mut files = Vec::new();
        for round in 0..5 {
            let path = run.place.join(if run.one_file { "dir/x.keras" } else { "link.keras" });
            checkpoint(round).save_with(&Disk, &path, DURABLE, &run.spares).unwrap();
            let real = run.place.join("real/x.keras");
            assert!(fs::read(&real).unwrap() == checkpoint(round).file);
            files.push(identity(&real));
        }
        assert_eq!((files[2], files[3]), (files[0], files[1]));
        assert!(fs::symlink_metadata(run.place.join("link.keras")).unwrap().is_symlink());
    });
}

#[test]
fn a_forked_child_touches_no_spare() {
    on_a_disk_that_recycles(|mut run| {
        run.steps(3);
        let spares = std::mem::replace(&mut run.spares, Spares::new(Arc::new(Disk), Recycle::Off));
        let names = run.place.names();
        // SAFETY: the child drops a value, which takes no lock and no memory, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(spares);
            // SAFETY: ends the process without more.
            unsafe { libc::_exit(0) };
        }
        let mut status = -1;
        // SAFETY: a child of this process, and a live value.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!((status, run.place.names()), (0, names));
        run.spares = spares;
        run.steps(2);
        assert_eq!(run.temps().len(), 1);
    });
}

#[test]
fn sweeps_and_openers_at_once_do_no_harm() {
    on_a_disk_that_recycles(|mut run| {
        let stop = AtomicBool::new(false);
        let place = run.place.path().to_owned();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    sweep(&Disk, &place).unwrap();
                }
            });
            // Whoever opens a file while we look at who has it open is waited for, and we are signalled.
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    for entry in fs::read_dir(&place).unwrap() {
                        drop(File::open(entry.unwrap().path()));
                    }
                }
            });
            // Also where a step fails: the threads would keep the test from ending.
            let steps = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.steps(150)));
            stop.store(true, Relaxed);
            steps.unwrap();
        });
        let place = run.place;
        drop(run.spares);
        assert_eq!(place.names().len(), 1, "{:?}", place.names());
    });
}

/// A session that keeps the last save of these values.
fn session(template: &Path, values: &mut [f32], recycle: Recycle) -> (Session, session::Model) {
    let mut model = session::Model::new();
    let shape = [values.len() as u64];
    // SAFETY: the values outlive the model in every test, which changes them between saves alone.
    let buffer = unsafe { Buffer::new(values.as_mut_ptr().cast(), 4, &shape, None) }.unwrap();
    model.add("layers/dense/vars/0", Dtype::F32, &shape, buffer).unwrap();
    let policy = policy::Options { save_weights_only: true, keep_last: 1, ..policy::Options::default() };
    let options = session::Options { policy, recycle, max_shard_bytes: 1 << 20, ..Default::default() };
    (Session::new(template.to_str().unwrap(), options).unwrap(), model)
}

/// Saves the number of the epoch in all values.
fn save(session: &Session, model: &session::Model, values: &mut [f32], epoch: u64) {
    values.fill(epoch as f32);
    session.on_epoch_end(epoch, &[("val_loss", 1.0 / (epoch + 1) as f64)]).unwrap();
    session.save(model).unwrap();
}

/// The one value that all elements of a checkpoint have.
fn value_in(reader: &Reader) -> f32 {
    let mut bytes = vec![0; reader.tensors()[0].nbytes() as usize];
    reader.read(0, &mut bytes).unwrap();
    let first = f32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert!(bytes.chunks_exact(4).all(|b| b == first.to_le_bytes()));
    first
}

/// What a child process does: this test binary runs again, and saves until it is killed.
const TEMPLATE: &str = "CKPT_TEST_TEMPLATE";

fn child(template: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_a_child", "--nocapture"])
        .env(TEMPLATE, template)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test of its own: what [`child`] runs.
#[test]
fn as_a_child() {
    let Ok(template) = std::env::var(TEMPLATE) else { return };
    let mut values = vec![0.0f32; 2 << 20];
    let (session, model) = session(Path::new(&template), &mut values, Recycle::On);
    for epoch in 0.. {
        save(&session, &model, &mut values, epoch);
    }
}

#[test]
fn a_killed_run_leaves_whole_checkpoints_and_what_a_session_sweeps() {
    let _alone = alone();
    for below in ["m.weights.h5", "m-{epoch}.weights.h5"] {
        let place = Scratch::new("recycle");
        let template = place.join(below);
        let mut seen = 0;
        for round in 0..10 {
            let mut child = child(&template);
            let start = Instant::now();
            let is_temp = |name: &String| name.starts_with(".ckpt-tmp");
            // Until there is a spare and a checkpoint, and then some more.
            while place.names().iter().filter(|name| is_temp(name)).count() < 1 || place.names().len() < 2 {
                assert!(start.elapsed() < Duration::from_secs(60), "the child saves nothing");
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(60 + 13 * round));
            child.kill().unwrap();
            child.wait().unwrap();
            seen += place.names().iter().filter(|name| is_temp(name)).count();
            let (session, _) = self::session(&template, &mut [0.0], Recycle::On);
            drop(session);
            let names = place.names();
            assert!(!names.iter().any(is_temp) && !names.is_empty(), "{names:?}");
            for name in names {
                let reader = Reader::open(&place.join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
                reader.verify().unwrap_or_else(|e| panic!("{name}: {e}"));
                value_in(&reader);
            }
        }
        assert!(seen >= 4, "{below}: only {seen} spare and temporary files were left");
    }
}
