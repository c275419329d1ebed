//! Places where a save cannot go, as they are in the world: a full disk, one that turns read-only, a limit on the size of
//! files, a directory that goes away; and a file that somebody is reading.
//!
//! The disks are mounted in a namespace of a child's own, which needs no privileges on most systems. Where that cannot
//! be had, the test says so, and fails if `CI` is set.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::print_stdout, reason = "a test that is not run says so")]

mod scratch;

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::Arc;

use ckpt::engine::{Buffer, Recycle, Source};
use ckpt::error::{Error, Result, Status};
use ckpt::policy;
use ckpt::reader::Reader;
use ckpt::session::{Async, Lock, Model, Options, Session};
use ckpt::tensor::Dtype;
use scratch::Scratch;

const MODES: [Async; 3] = [Async::Off, Async::Copy, Async::Borrow];

/// What happens when a tensor is read.
type Deed = Arc<dyn Fn() + Send + Sync>;

/// A tensor of one byte again and again.
struct Filled(u8, Deed);

impl Source for Filled {
    fn fetch(&self, _: u64, dst: &mut [u8]) -> Result<()> {
        (self.1)();
        dst.fill(self.0);
        Ok(())
    }
    fn put(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::new(Status::Unsupported, "it is written only"))
    }
    fn can_put(&self) -> bool {
        false
    }
}

fn model_with(byte: u8, bytes: u64, deed: Deed) -> Model {
    let mut model = Model::new();
    let buffer = Buffer::source(bytes, 1, Arc::new(Filled(byte, deed))).unwrap();
    model.add("layers/dense/vars/0", Dtype::U8, &[bytes], buffer).unwrap();
    model
}

fn model(byte: u8, bytes: u64) -> Model {
    model_with(byte, bytes, Arc::new(|| ()))
}

/// The byte of a checkpoint that is whole.
fn byte_in(reader: &Reader) -> u8 {
    reader.verify().unwrap();
    let mut bytes = vec![0; reader.tensors()[0].nbytes() as usize];
    reader.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a checkpoint of two times");
    bytes[0]
}

fn byte_of(path: &Path) -> u8 {
    byte_in(&Reader::open(path).unwrap())
}

fn session(path: &Path, mode: Async) -> Session {
    session_with(path, mode, Recycle::On)
}

fn session_with(path: &Path, mode: Async, recycle: Recycle) -> Session {
    let policy = policy::Options { save_weights_only: true, ..policy::Options::default() };
    let lock = Lock::Off;
    let options = Options { policy, mode, recycle, lock, max_shard_bytes: 100_000, ..Options::default() };
    Session::new(path.to_str().unwrap(), options).unwrap()
}

/// Ends an epoch and saves; what became of the save.
fn save(session: &Session, epoch: u64, model: &Model) -> Result<()> {
    session.on_epoch_end(epoch, &[("val_loss", 1.0)]).unwrap();
    session.save(model).and_then(|()| session.wait())
}

fn assert_no_leftovers(dir: &Path) {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.starts_with(".ckpt-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Runs the ignored test of this name in a child that may mount.
fn in_a_namespace(test: &str) {
    let may_mount = Command::new("unshare").args(["-rm", "true"]).output();
    let why = match may_mount {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(e) => Some(e.to_string()),
    };
    if let Some(why) = why {
        assert!(std::env::var_os("CI").is_none(), "{test} cannot run: no namespace to mount in: {why}");
        println!("{test} is not run: no namespace to mount in: {why}");
        return;
    }
    let mut child = Command::new("unshare");
    child.arg("-rm").arg(std::env::current_exe().unwrap()).args([
        "--exact",
        test,
        "--ignored",
        "--nocapture",
    ]);
    let output = child.output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Mounts 1 MiB of memory at `dir`, or, with `flags`, changes what is mounted there.
fn mount(dir: &Path, flags: libc::c_ulong) {
    let text = |text: &str| CString::new(text).unwrap();
    let (dir, kind, size) = (text(dir.to_str().unwrap()), text("tmpfs"), text("size=1m"));
    // SAFETY: strings that live through the call; `size` is read as one.
    let result =
        unsafe { libc::mount(kind.as_ptr(), dir.as_ptr(), kind.as_ptr(), flags, size.as_ptr().cast()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_full_disk_keeps_what_is_there() {
    in_a_namespace("full_disk");
}

#[test]
#[ignore = "run in a namespace by the test above"]
fn full_disk() {
    for name in ["m.weights.h5", "m.weights.json", "m.safetensors"] {
        for mode in MODES {
            let dir = Scratch::new("full");
            mount(dir.path(), 0);
            let path = dir.join(name);
            let session = session(&path, mode);
            save(&session, 0, &model(1, 200_000)).unwrap();
            let filler = dir.write("filler", &[]);
            let mut room = 900_000;
            while fs::write(&filler, vec![1; room]).is_err() {
                room -= 4096;
            }
            let error = save(&session, 1, &model(2, 200_000)).unwrap_err();
            assert_eq!((error.status(), error.os()), (Status::NoSpace, libc::ENOSPC), "{error}");
            assert!(error.message().contains(dir.path().to_str().unwrap()), "{error}");
            assert_eq!(byte_of(&path), 1);
            assert_eq!(session.best_path().unwrap(), path.to_str().unwrap());
            assert_no_leftovers(dir.path());
            fs::remove_file(&filler).unwrap();
            save(&session, 2, &model(3, 200_000)).unwrap();
            assert_eq!(byte_of(&path), 3);
            drop(session);
            assert_no_leftovers(dir.path());
        }
    }
}

#[test]
fn a_disk_that_turns_read_only_can_turn_back() {
    in_a_namespace("read_only_disk");
}

#[test]
#[ignore = "run in a namespace by the test above"]
fn read_only_disk() {
    for mode in MODES {
        let dir = Scratch::new("read-only");
        mount(dir.path(), 0);
        let path = dir.join("m.weights.h5");
        // A spare would be open for writing, and keep the mount as it is.
        let session = session_with(&path, mode, Recycle::Off);
        save(&session, 0, &model(1, 5000)).unwrap();
        save(&session, 1, &model(2, 5000)).unwrap();
        assert!(mount_read_only(dir.path()), "{}", std::io::Error::last_os_error());
        let error = save(&session, 2, &model(3, 5000)).unwrap_err();
        assert_eq!((error.status(), error.os()), (Status::Io, libc::EROFS), "{error}");
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
        assert_eq!(byte_of(&path), 2);
        mount(dir.path(), libc::MS_REMOUNT);
        save(&session, 3, &model(4, 5000)).unwrap();
        assert_eq!(byte_of(&path), 4);
        drop(session);
        assert_no_leftovers(dir.path());
    }
}

/// Makes a mount read-only for all who come by it, whoever has files open; whether that could be done.
fn mount_read_only(dir: &Path) -> bool {
    let dir = CString::new(dir.to_str().unwrap()).unwrap();
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
    // SAFETY: a string that lives through the call.
    unsafe { libc::mount(ptr::null(), dir.as_ptr(), ptr::null(), flags, ptr::null()) == 0 }
}

/// In a child, which the limit is for.
#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_death() {
    in_a_namespace("small_files_only");
}

#[test]
#[ignore = "run in a process of its own by the test above"]
fn small_files_only() {
    let dir = Scratch::new("limit");
    for mode in MODES {
        let path = dir.join(format!("m-{mode:?}.weights.h5"));
        let session = session(&path, mode);
        save(&session, 0, &model(1, 5000)).unwrap();
        let set = |limit| {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: a live value. SIGXFSZ ends this process if it comes.
            unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }
        };
        assert_eq!(set(50_000), 0);
        let result = save(&session, 1, &model(2, 100_000));
        assert_eq!(set(libc::RLIM_INFINITY), 0);
        let error = result.unwrap_err();
        assert_eq!((error.status(), error.os()), (Status::Io, libc::EFBIG), "{error}");
        assert_eq!(byte_of(&path), 1);
        save(&session, 2, &model(3, 100_000)).unwrap();
        assert_eq!(byte_of(&path), 3);
        drop(session);
        assert_no_leftovers(dir.path());
    }
}

#[test]
fn a_directory_that_is_removed_is_made_again() {
    for mode in MODES {
        let dir = Scratch::new("gone");
        let (inside, path) = (dir.join("a/b"), dir.join("a/b/m.weights.h5"));
        let session = session(&path, mode);
        save(&session, 0, &model(1, 5000)).unwrap();
        save(&session, 1, &model(2, 5000)).unwrap();
        fs::remove_dir_all(dir.join("a")).unwrap();
        save(&session, 2, &model(3, 5000)).unwrap();
        assert_eq!(byte_of(&path), 3);

        // While a save is being made.
        let (gone, top) = (inside.clone(), dir.join("a"));
        let deed: Deed = Arc::new(move || {
            while gone.exists() {
                // Where another thread makes the temporary file meanwhile, once more.
                let _ = fs::remove_dir_all(&top);
            }
        });
        match save(&session, 3, &model_with(4, 5000, deed)) {
            // The copying was ahead of it.
            Ok(()) => assert_eq!((mode, byte_of(&path)), (Async::Copy, 4)),
            Err(error) => {
                assert_eq!((error.status(), error.os()), (Status::Io, libc::ENOENT), "{error}");
                assert!(error.message().contains(path.to_str().unwrap()), "{error}");
            }
        }
        save(&session, 4, &model(5, 5000)).unwrap();
        assert_eq!(byte_of(&path), 5);
        drop(session);
        assert_no_leftovers(&inside);
    }
}

/// A tensor that is read from a checkpoint when it is wanted.
struct Stored(Reader, PathBuf);

impl Source for Stored {
    fn fetch(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let mut bytes = vec![0; self.0.tensors()[0].nbytes() as usize];
        self.0.read(0, &mut bytes)?;
        dst.copy_from_slice(&bytes[offset as usize..offset as usize + dst.len()]);
        assert!(self.1.exists());
        Ok(())
    }
    fn put(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::new(Status::Unsupported, "it is read only"))
    }
    fn can_put(&self) -> bool {
        false
    }
}

#[test]
fn a_file_that_is_being_read_can_be_saved_over() {
    for mode in MODES {
        let dir = Scratch::new("read");
        let path = dir.join("m.weights.h5");
        let session = session(&path, mode);
        let mut readers = Vec::new();
        for epoch in 0..6 {
            save(&session, epoch, &model(epoch as u8, 100_000)).unwrap();
            readers.push(Reader::open(&path).unwrap());
        }
        for (epoch, reader) in readers.iter().enumerate() {
            assert_eq!(byte_in(reader), epoch as u8, "its bytes were written over");
        }
        // From the file onto itself.
        let mut model = Model::new();
        let stored = Arc::new(Stored(Reader::open(&path).unwrap(), path.clone()));
        model
            .add("layers/dense/vars/0", Dtype::U8, &[100_000], Buffer::source(100_000, 1, stored).unwrap())
            .unwrap();
        for epoch in 6..9 {
            save(&session, epoch, &model).unwrap();
            assert_eq!(byte_of(&path), 5);
        }
        drop(session);
        assert_no_leftovers(dir.path());
    }
}
