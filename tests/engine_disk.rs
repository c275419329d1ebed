//! Saves to real file systems: what is refused, who may read the result, a full disk, and a process that dies.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod engine_support;
mod scratch;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ckpt::engine::{Backend, Disk, WriteOptions, sweep};
use ckpt::error::{Error, Status};
use engine_support::{Model, model};
use scratch::Scratch;

const DURABLE: WriteOptions = WriteOptions { threads: 0, durable: true, backend: Backend::Auto };
const FAST: WriteOptions = WriteOptions { threads: 0, durable: false, backend: Backend::Auto };

fn small(fill: u8) -> Model {
    model(fill, &[100, 5000, 77, 300_000])
}

fn refused(path: &Path, status: Status, os: i32, expected: &str) -> Error {
    let error = small(1).save(&Disk, path, DURABLE).unwrap_err();
    assert_eq!((error.status(), error.os()), (status, os), "{error}");
    assert!(error.message().contains(expected), "'{expected}' is not in '{error}'");
    error
}

#[test]
fn writes_a_file_and_replaces_it() {
    let place = Scratch::new("disk");
    let path = place.join("a/b/x.keras");
    for (fill, options) in [(1, DURABLE), (2, FAST), (3, WriteOptions { threads: 3, ..DURABLE })] {
        let model = model(fill, &[100, 9 << 20, 0x1234, 6 << 20, 1, 1 << 20]);
        let stats = model.save(&Disk, &path, options).unwrap();
        assert!(fs::read(&path).unwrap() == model.file);
        assert_eq!(stats.bytes, model.file.len() as u64);
        assert!(stats.write_secs > 0.0 && stats.sync_secs > 0.0);
    }
    assert_eq!(fs::read_dir(place.join("a/b")).unwrap().count(), 1);
}

#[test]
fn both_ways_to_the_disk_give_the_file() {
    // A file system of disks and, where there is one, of memory, which knows no O_DIRECT in older kernels.
    let places =
        ["/dev/shm"].iter().map(Path::new).filter(|dir| dir.is_dir()).map(|dir| Scratch::at(dir, "ways"));
    for place in std::iter::once(Scratch::new("ways")).chain(places) {
        let path = place.join("x.keras");
        // The last one is large enough for a trial.
        for (fill, backend, last) in [
            (1, Backend::Direct, 5),
            (2, Backend::Buffered, 7),
            (3, Backend::Direct, 3 << 20),
            (4, Backend::Auto, 80 << 20),
        ] {
            for durable in [true, false] {
                let model = model(fill, &[100, 9 << 20, 0x1234, 6 << 20, 1, last]);
                let stats = model.save(&Disk, &path, WriteOptions { threads: 0, durable, backend }).unwrap();
                assert_eq!(stats.bytes, model.file.len() as u64);
                assert!(fs::read(&path).unwrap() == model.file, "{backend:?} in {}", place.path().display());
            }
        }
        assert_eq!(place.names(), ["x.keras"]);
    }
}

#[test]
fn writes_to_a_name_in_the_current_directory() {
    let name = format!("ckpt-test-{}.keras", std::process::id());
    small(1).save(&Disk, Path::new(&name), DURABLE).unwrap();
    assert!(fs::read(&name).unwrap() == small(1).file);
    fs::remove_file(&name).unwrap();
}

#[test]
fn refuses_what_cannot_be_a_file() {
    let place = Scratch::new("disk");
    fs::create_dir(place.join("dir")).unwrap();
    fs::write(place.join("file"), b"x").unwrap();
    refused(&place.join("dir"), Status::Io, libc::EISDIR, "expected the path of a file");
    refused(&place.join("file/x.keras"), Status::Io, libc::ENOTDIR, "is a file");
    refused(&place.join("file/a/x.keras"), Status::Io, libc::ENOTDIR, "is a file");
    refused(Path::new("/dev/null"), Status::Io, libc::EINVAL, "no regular file");
    refused(&place.join("x".repeat(300)), Status::Io, libc::ENAMETOOLONG, "cannot save to");
    refused(&place.join(format!("{}/x", "d".repeat(300))), Status::Io, libc::ENAMETOOLONG, "cannot save to");
    for path in ["", "x/", "x/.", "..", "/"] {
        refused(Path::new(path), Status::InvalidArgument, 0, "expected the path of a file");
    }
    assert_eq!(place.names(), ["dir", "file"]);
    assert_eq!(fs::read(place.join("file")).unwrap(), b"x");
}

#[test]
fn refuses_a_place_that_cannot_be_written() {
    // Root may write everywhere but in /sys; others are shut out as usual.
    let place = Scratch::new("disk");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let shut = fs::write(place.join("probe"), b"").is_err();
    let dir = if shut { place.path() } else { Path::new("/sys/kernel") };
    let error = small(1).save(&Disk, &dir.join("x.keras"), DURABLE).unwrap_err();
    assert_eq!(error.status(), Status::Io);
    assert!(matches!(error.os(), libc::EACCES | libc::EPERM | libc::EROFS), "{error}");
    assert!(error.message().contains(&format!("create a file in '{}'", dir.display())), "{error}");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn follows_links_and_leaves_them() {
    let place = Scratch::new("disk");
    fs::create_dir_all(place.join("disk/deep")).unwrap();
    symlink("disk/deep/../real.keras", place.join("link.keras")).unwrap();
    symlink(place.join("link.keras"), place.join("second.keras")).unwrap();
    for fill in [1, 2] {
        small(fill).save(&Disk, &place.join("second.keras"), DURABLE).unwrap();
        assert!(fs::read(place.join("disk/real.keras")).unwrap() == small(fill).file);
    }
    assert!(fs::symlink_metadata(place.join("link.keras")).unwrap().is_symlink());
    assert_eq!(place.names(), ["disk", "link.keras", "second.keras"]);
    symlink("circle.keras", place.join("circle.keras")).unwrap();
    refused(&place.join("circle.keras"), Status::Io, libc::ELOOP, "circle");
}

#[test]
fn a_hard_link_keeps_the_old_file() {
    let place = Scratch::new("disk");
    small(1).save(&Disk, &place.join("x.keras"), DURABLE).unwrap();
    fs::hard_link(place.join("x.keras"), place.join("kept.keras")).unwrap();
    small(2).save(&Disk, &place.join("x.keras"), DURABLE).unwrap();
    assert!(fs::read(place.join("kept.keras")).unwrap() == small(1).file);
    assert!(fs::read(place.join("x.keras")).unwrap() == small(2).file);
}

#[test]
fn permissions_are_those_of_open_or_of_the_old_file() {
    let place = Scratch::new("disk");
    let mode = |name: &str| fs::metadata(place.join(name)).unwrap().mode() & 0o7777;
    fs::write(place.join("open"), b"").unwrap();
    small(1).save(&Disk, &place.join("new.keras"), FAST).unwrap();
    assert_eq!(mode("new.keras"), mode("open"));
    for bits in [0o600, 0o664, 0o444] {
        fs::set_permissions(place.join("new.keras"), fs::Permissions::from_mode(bits)).unwrap();
        small(2).save(&Disk, &place.join("new.keras"), FAST).unwrap();
        assert_eq!(mode("new.keras"), bits);
    }
}

#[test]
fn a_full_disk_keeps_the_old_file() {
    let place = Scratch::new("disk");
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(place.path()).output();
    if !mounted.is_ok_and(|m| m.status.success()) {
        println!("not run: only root can mount a small disk");
        return;
    }
    let path = place.join("x.keras");
    small(1).save(&Disk, &path, DURABLE).unwrap();
    let error = model(2, &[2 << 20]).save(&Disk, &path, DURABLE);
    let old = fs::read(&path).unwrap();
    let names = place.names();
    assert!(Command::new("umount").arg(place.path()).status().unwrap().success());
    let error = error.unwrap_err();
    assert_eq!((error.status(), error.os()), (Status::NoSpace, libc::ENOSPC), "{error}");
    assert!(error.message().contains("no room for") && error.message().contains("x.keras"), "{error}");
    assert!(old == small(1).file);
    assert_eq!(names, ["x.keras"]);
}

#[test]
fn saves_and_sweeps_at_once_do_no_harm() {
    let place = Scratch::new("disk");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                sweep(&Disk, place.path()).unwrap();
            }
        });
        let savers: Vec<_> = (0..3)
            .map(|fill| {
                let place = &place;
                scope.spawn(move || {
                    let model = small(fill);
                    let results: Vec<_> =
                        (0..300).map(|_| model.save(&Disk, &place.join("x.keras"), FAST)).collect();
                    results.into_iter().find_map(Result::err)
                })
            })
            .collect();
        let failures: Vec<_> = savers.into_iter().filter_map(|s| s.join().unwrap()).collect();
        stop.store(true, Relaxed);
        assert!(failures.is_empty(), "{failures:?}");
    });
    let found = fs::read(place.join("x.keras")).unwrap();
    assert!((0..3).any(|fill| found == small(fill).file));
    assert_eq!(place.names(), ["x.keras"]);
}

/// What a child process does: this test binary runs again with one of the jobs below.
const JOB: &str = "CKPT_TEST_JOB";
const DIR: &str = "CKPT_TEST_DIR";

fn large(fill: u8) -> Model {
    model(fill, &[4 << 20, 4 << 20, 4 << 20, 1000, 1000, 20 << 20])
}

/// This test binary again, as `job` in `dir`, after these commands of a shell.
fn child(job: &str, dir: &Path, shell: &str) -> Child {
    let exe = std::env::current_exe().unwrap();
    Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" --exact as_a_child --nocapture")])
        .arg(exe)
        .env(JOB, job)
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Not a test of its own: what [`child`] runs.
#[test]
fn as_a_child() {
    let (Ok(job), Some(dir)) = (std::env::var(JOB), std::env::var_os(DIR)) else { return };
    let path = Path::new(&dir).join("x.keras");
    match job.as_str() {
        "save forever" => {
            let models = [large(1), large(2)];
            for model in models.iter().cycle() {
                model.save(&Disk, &path, DURABLE).unwrap();
            }
        }
        "save within a limit" => {
            let error = large(2).save(&Disk, &path, DURABLE).unwrap_err();
            assert_eq!((error.status(), error.os()), (Status::Io, libc::EFBIG), "{error}");
        }
        "save in little memory" => {
            let model = model(1, &[100 << 20, 100 << 20, 60 << 20, 1 << 20, 1 << 20, 1 << 20]);
            let before = peak_memory();
            model.save(&Disk, &path, FAST).unwrap();
            let more = peak_memory() - before;
            assert!(more < 16 << 10, "{more} KiB more than the model");
        }
        other => panic!("no such job: {other}"),
    }
    println!("the child is done");
}

/// The most memory that this process has had, in KiB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("the child is done"), "{text}");
}

#[test]
fn a_killed_save_leaves_a_whole_file_and_what_a_sweep_takes() {
    let place = Scratch::new("disk");
    let (first, second) = (large(1).file, large(2).file);
    let mut swept = 0;
    for round in 0..12 {
        let mut child = child("save forever", place.path(), "");
        let start = Instant::now();
        let is_temp = |name: &String| name.starts_with(".ckpt-tmp");
        while !place.names().iter().any(is_temp) {
            assert!(start.elapsed() < Duration::from_secs(30), "the child saves nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(round * 7));
        // A sweep while it writes must not disturb it.
        sweep(&Disk, place.path()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(child.try_wait().unwrap().is_none(), "a sweep made the save fail");
        child.kill().unwrap();
        child.wait().unwrap();
        swept += sweep(&Disk, place.path()).unwrap().len();
        assert!(!place.names().iter().any(is_temp), "{:?}", place.names());
        if let Ok(found) = fs::read(place.join("x.keras")) {
            assert!(found == first || found == second, "torn after {} ms", round * 7);
        }
    }
    assert!(swept > 2, "only {swept} of 12 children died while they wrote");
}

#[test]
fn a_limit_on_file_sizes_is_an_error() {
    let place = Scratch::new("disk");
    small(1).save(&Disk, &place.join("x.keras"), DURABLE).unwrap();
    finish(child("save within a limit", place.path(), "trap '' XFSZ; ulimit -f 1000;"));
    assert!(fs::read(place.join("x.keras")).unwrap() == small(1).file);
    assert_eq!(place.names(), ["x.keras"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_save_takes_little_memory() {
    let place = Scratch::new("disk");
    finish(child("save in little memory", place.path(), ""));
}
