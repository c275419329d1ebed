use super::*;

use crate::engine::Disk;
use host::Room;

#[test]
fn space_is_ample_where_it_says_so() {
    let room = |free, total, in_memory| Some(Room { free, total, in_memory });
    assert!(is_ample(room(400, 1000, false), 100));
    assert!(!is_ample(room(399, 1000, false), 100));
    assert!(is_ample(room(400, 4000, false), 100));
    assert!(!is_ample(room(400, 4010, false), 100));
    assert!(!is_ample(room(1000, 1000, true), 1), "it is memory");
    assert!(!is_ample(None, 1));
    assert!(!is_ample(room(u64::MAX, u64::MAX, false), u64::MAX));
}

/// A file with bytes in the directory for temporary files, removed with the value.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        let place = Place(std::env::temp_dir().join(format!("{}-test", unique_name())));
        std::fs::write(&place.0, vec![1; 1 << 21]).unwrap();
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn automatic_is_for_large_files() {
    let place = Place::new();
    let id = Disk.info(&place.0).unwrap().id;
    let file = Written { path: place.0.clone(), id, ..Written::default() };
    let wanted = |recycle, size, of| {
        let spares = Spares::new(Arc::new(Disk), recycle);
        let before = spares.wants(&place.0, size);
        assert!(!before, "nothing has been saved yet");
        spares.saved(&file, of);
        spares.wants(&place.0, size)
    };
    // As far as there is room here.
    let ample = is_ample(host::room(parent(&place.0)), WORTH);
    assert_eq!(wanted(Recycle::Auto, WORTH, WORTH), ample);
    assert!(!wanted(Recycle::Auto, WORTH - 1, WORTH));
    assert!(!wanted(Recycle::Auto, 1 << 60, 1 << 60));
    assert!(wanted(Recycle::On, 1, 1 << 60));
    assert!(!wanted(Recycle::On, 1 << 60, WORTH), "more than a checkpoint");
    assert!(!wanted(Recycle::Off, WORTH, WORTH));
}

#[cfg(target_os = "linux")]
#[test]
fn who_has_a_file_open_is_noticed() {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    let place = Place::new();
    let ours = Disk.reopen(&place.0).unwrap();
    let alone = || ours.is_unshared().unwrap();
    if ours.is_unshared().is_err_and(|e| e.kind() == io::ErrorKind::Unsupported) {
        println!("not run: no file is recycled in {}", std::env::temp_dir().display());
        return;
    }
    assert!(alone() && alone());
    for write in [false, true] {
        let other = File::options().read(true).write(write).open(&place.0).unwrap();
        assert!(!alone());
        let copy = other.try_clone().unwrap();
        drop(other);
        assert!(!alone());
        drop(copy);
        assert!(alone());
    }
    let file = File::open(&place.0).unwrap();
    let (kind, fd) = (libc::MAP_PRIVATE, file.as_raw_fd());
    // SAFETY: a new mapping of an open file.
    let map = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, kind, fd, 0) };
    assert_ne!(map, libc::MAP_FAILED);
    drop(file);
    assert!(!alone());
    // SAFETY: the mapping from above, to which nothing refers.
    assert_eq!(unsafe { libc::munmap(map, 4096) }, 0);
    assert!(alone());
}

#[cfg(target_os = "linux")]
#[test]
fn names_are_exchanged_at_once_or_not_at_all() {
    let (one, other) = (Place::new(), Place::new());
    let id = |place: &Place| Disk.info(&place.0).unwrap().id;
    let (first, second) = (id(&one), id(&other));
    match Disk.exchange(&one.0, &other.0) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => return,
        result => result.unwrap(),
    }
    assert_eq!((id(&one), id(&other)), (second, first));
    let nothing = one.0.with_extension("nothing");
    assert_eq!(Disk.exchange(&one.0, &nothing).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(id(&one), second);
}

#[cfg(target_os = "linux")]
#[test]
fn who_opens_a_file_while_it_is_looked_at_ends_nobody() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::{Duration, Instant};

    let place = Place::new();
    let ours = Disk.reopen(&place.0).unwrap();
    let stop = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_millis(300);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                std::fs::File::open(&place.0).unwrap();
            }
        });
        // The kernel tells the holder of a lease by a signal.
        while Instant::now() < end {
            let _ = ours.is_unshared();
        }
        stop.store(true, Relaxed);
    });
}
