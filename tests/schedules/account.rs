//! What was heard of each save, and whether that is one end for each.

use std::collections::BTreeMap;
use std::sync::Mutex;

use ckpt::error::{Error, Status};
use ckpt::session::Level;

/// What calls have returned, and what the log has had. Its locks are held for no step of a schedule.
#[derive(Default)]
pub struct Account(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    accepted: u64,
    /// Failures that the save's own call told of.
    own: u64,
    /// Failures that something else told of, by the path.
    told: BTreeMap<String, u64>,
    /// Saves that gave way, by the path.
    replaced: BTreeMap<String, u64>,
}

impl Account {
    /// What a call has returned that may tell of an earlier save, the call of a save among them.
    pub fn hear(&self, result: Result<(), Error>, is_save: bool) {
        let mut heard = self.0.lock().unwrap();
        let Err(error) = result else {
            heard.accepted += u64::from(is_save);
            return;
        };
        match failed_path(error.message()) {
            Some(path) => *heard.told.entry(path.to_owned()).or_default() += 1,
            None if is_save && error.status() != Status::State => {
                heard.accepted += 1;
                heard.own += 1;
            }
            None => assert!(is_save, "not of a save: {}", error.message()),
        }
    }

    /// A line of the log.
    pub fn line(&self, level: Level, line: &str) {
        let mut heard = self.0.lock().unwrap();
        if let Some(path) = line.strip_prefix("the save to '").and_then(|rest| rest.split_once("' gives way")) {
            *heard.replaced.entry(path.0.to_owned()).or_default() += 1;
        } else if level == Level::Error {
            let path = failed_path(line).expect("a failure of a save");
            *heard.told.entry(path.to_owned()).or_default() += 1;
        }
    }

    /// Saves that have been accepted so far.
    pub fn accepted(&self) -> u64 {
        self.0.lock().unwrap().accepted
    }

    /// Each accepted save has ended once, where these were made. `may_stand`: a save that failed may have left its file;
    /// no path is saved twice then.
    pub fn check(&self, made: &[String], may_stand: bool) {
        let heard = self.0.lock().unwrap();
        let counted = |path: &&String| !may_stand || !heard.told.contains_key(*path);
        let made = made.iter().filter(counted).count() as u64;
        let told: u64 = heard.told.values().sum();
        let replaced: u64 = heard.replaced.values().sum();
        let ends = made + told + replaced + heard.own;
        let Heard { accepted, own, .. } = *heard;
        assert_eq!(
            ends, accepted,
            "{made} made, {own} failed in their calls, told of {:?}, replaced {:?}",
            heard.told, heard.replaced
        );
        if may_stand {
            assert!(heard.told.values().all(|times| *times == 1), "told more than once: {:?}", heard.told);
        }
    }
}

/// The path of the save that this says has failed.
fn failed_path(text: &str) -> Option<&str> {
    let (before, _) = text.split_once("' failed")?;
    before.rsplit_once("the save to '").map(|(_, path)| path)
}
