//! A directory for a test's files.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// An empty directory that no other test has, removed with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        Scratch::at(&std::env::temp_dir(), name)
    }

    /// One in `dir`.
    pub fn at(dir: &Path, name: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ckpt-{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let dir = dir.join(name);
        fs::create_dir(&dir).unwrap();
        Scratch(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// What is in it, sorted, but for the lock files of sessions that live.
    pub fn names(&self) -> Vec<String> {
        let (_, names) = self.locks_and_names();
        names
    }

    /// The lock files in it.
    pub fn locks(&self) -> Vec<String> {
        let (locks, _) = self.locks_and_names();
        locks
    }

    fn locks_and_names(&self) -> (Vec<String>, Vec<String>) {
        let names = fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.into_iter().partition(|name| name.starts_with(".ckpt-lock"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
