//! Notices that nothing moves any more: a thread of the library that hangs is a finding.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// No step of a case takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

static NOW: Mutex<Option<(Instant, String)>> = Mutex::new(None);

/// A step begins.
pub fn step(what: impl FnOnce() -> String) {
    if let Ok(mut now) = NOW.lock() {
        if now.is_none() {
            thread::spawn(watch);
        }
        *now = Some((Instant::now(), what()));
    }
}

/// Nothing is under way.
pub fn rest() {
    if let Ok(mut now) = NOW.lock()
        && let Some((since, what)) = &mut *now
    {
        *since = Instant::now() + Duration::from_secs(1 << 20);
        what.clear();
    }
}

fn watch() {
    loop {
        thread::sleep(Duration::from_secs(1));
        let late = NOW.lock().ok().and_then(|now| now.clone());
        if let Some((since, what)) = late.filter(|(since, _)| since.elapsed() > PATIENCE) {
            println!("FOUND: nothing moves since {} s: {what}", since.elapsed().as_secs());
            std::process::exit(1);
        }
    }
}
