//! What runs the fuzz targets on seeded cases: each is made of the run's seed and its number alone.
//!
//! `CKPT_FUZZ_COUNT` is the number of cases of each target, `CKPT_FUZZ_SECONDS` makes it the time instead,
//! `CKPT_FUZZ_SEED` makes other cases, and `CKPT_FUZZ_CASE` runs one case alone.

mod ours;

use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub use ours::{CONFIG, Ours, STATE, Truth};

use crate::layout_support::{Random, Scratch};
use crate::meter::thread_time;

/// The cases of a target: about a minute for all of them, on two cores.
const COUNT: u64 = 40_000;

/// What one case may compute. It takes a few milliseconds at most.
const MOST: Duration = Duration::from_secs(1);

/// After this a case is taken to have no end. It is by the clock, since nothing else would stop it.
const HANGS: Duration = Duration::from_secs(100);

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is '{value}': expected a number")))
}

/// A run of cases of a target.
pub struct Run {
    pub target: &'static str,
    pub seed: u64,
    pub cases: Range<u64>,
    end: Option<Instant>,
    scratch: Scratch,
}

impl Run {
    /// The cases that the environment asks for.
    pub fn of(target: &'static str) -> Run {
        let cases = match (setting("CKPT_FUZZ_CASE"), setting("CKPT_FUZZ_SECONDS")) {
            (Some(case), _) => case..case + 1,
            (None, Some(_)) => 0..u64::MAX,
            (None, None) => 0..setting("CKPT_FUZZ_COUNT").unwrap_or(COUNT),
        };
        let end = setting("CKPT_FUZZ_SECONDS").map(|n| Instant::now() + Duration::from_secs(n));
        let seed = setting("CKPT_FUZZ_SEED").unwrap_or(1);
        Run { target, seed, cases, end, scratch: Scratch::new(&format!("fuzz-{target}")) }
    }

    /// The numbers of a case.
    pub fn random(&self, case: u64) -> Random {
        let name =
            self.target.bytes().fold(self.seed, |n, byte| n.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
        let mut r = Random(name ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        r.next();
        r
    }

    /// Where the file of a case stands.
    pub fn file(&self) -> PathBuf {
        self.scratch.join(self.target)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Writes the file of a case.
    pub fn place(&self, bytes: &[u8]) -> PathBuf {
        self.put(self.target, bytes)
    }

    /// Writes a file over what was there: some file systems flush one that is emptied first.
    pub fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.join(name);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        path
    }

    /// Runs all cases. One that fails, or that computes for too long, is named and its file is kept.
    pub fn each(&self, mut test: impl FnMut(u64, &mut Random)) {
        let watchdog = Watchdog::new(self);
        let mut slowest = (Duration::ZERO, 0);
        let mut count = 0;
        for case in self.cases.clone() {
            if self.end.is_some_and(|end| Instant::now() > end) {
                break;
            }
            watchdog.case.store(case, Relaxed);
            watchdog.started.store(watchdog.begin.elapsed().as_secs(), Relaxed);
            let start = thread_time();
            let done = catch_unwind(AssertUnwindSafe(|| test(case, &mut self.random(case))));
            let took = thread_time() - start;
            slowest = slowest.max((took, case));
            if done.is_err() {
                panic!("{}", self.failed(case, "failed"));
            }
            assert!(took < MOST, "{}", self.failed(case, &format!("computed for {took:?}")));
            count += 1;
        }
        println!("{}: {count} cases, the slowest in {:?} ({})", self.target, slowest.0, slowest.1);
    }

    /// What to say of a case.
    pub fn failed(&self, case: u64, what: &str) -> String {
        failed(self.target, self.seed, case, what, Some(&self.file()))
    }
}

fn failed(target: &str, seed: u64, case: u64, what: &str, file: Option<&Path>) -> String {
    let mut kept = String::new();
    if let Some(file) = file.filter(|file| file.is_file()) {
        let copy = std::env::temp_dir().join(format!("ckpt-fuzz-{target}-{seed}-{case}"));
        fs::copy(file, &copy).unwrap();
        kept = format!(", kept as {}", copy.display());
    }
    format!(
        "{target}: case {case} {what}{kept}; run it again with CKPT_FUZZ_SEED={seed} CKPT_FUZZ_CASE={case} \
         cargo test --release --test fuzz {target}"
    )
}

/// Ends the process, with the case's number, where a case has no end.
struct Watchdog {
    begin: Instant,
    case: Arc<AtomicU64>,
    /// Seconds after `begin`.
    started: Arc<AtomicU64>,
}

impl Watchdog {
    fn new(run: &Run) -> Watchdog {
        let dog = Watchdog { begin: Instant::now(), case: Arc::default(), started: Arc::default() };
        let (begin, target, seed, file) = (dog.begin, run.target, run.seed, run.file());
        let (case, started) = (Arc::downgrade(&dog.case), Arc::clone(&dog.started));
        std::thread::spawn(move || {
            while let Some(case) = case.upgrade() {
                let now = begin.elapsed().as_secs();
                if now.saturating_sub(started.load(Relaxed)) > HANGS.as_secs() {
                    eprintln!("{}", failed(target, seed, case.load(Relaxed), "does not end", Some(&file)));
                    std::process::abort();
                }
                drop(case);
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        dog
    }
}
