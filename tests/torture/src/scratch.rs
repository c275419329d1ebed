//! Directories for cases, in memory or on a disk, removed at the end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where a case's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory, where there is such a file system.
    Memory,
    /// On a disk.
    Disk,
}

/// An empty directory, removed with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(place: Place) -> io::Result<Scratch> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let top =
            if place == Place::Memory && memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let count = COUNT.fetch_add(1, Relaxed);
        let dir = top.join(format!("ckpt-torture-{}-{count}", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(Scratch(dir))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// All files below a directory, but for locks: one whose removal has failed, or whose process was killed, is a file that
/// holds nobody up.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_lock = entry.file_name().to_string_lossy().starts_with(".ckpt-lock");
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => open.push(path),
                false => found.extend((!is_lock).then_some(path)),
            }
        }
    }
    found.sort();
    found
}
