//! What was heard of each save, and whether that is one end for each.

use std::collections::BTreeMap;
use std::sync::Mutex;

use ckpt::error::{Error, Status};
use ckpt::session::Level;

/// What has become of a save.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// The log says that it is made.
    Made,
    /// Its own call has returned the failure.
    Failed,
    /// A later call has, or the log.
    Told,
    /// The log says that it has given way to another.
    Replaced,
}

/// What calls have returned, and what the log has had. Its lock is held for no step of a schedule.
#[derive(Default)]
pub struct Account(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    accepted: usize,
    /// By the paths of the saves.
    ends: BTreeMap<String, Vec<End>>,
}

impl Heard {
    fn add(&mut self, path: &str, end: End) {
        self.ends.entry(path.to_owned()).or_default().push(end);
    }
}

impl Account {
    /// What a call has returned that may tell of an earlier save; `save`: the path of its own, where it was to make one.
    pub fn hear(&self, result: Result<(), Error>, save: Option<&str>) {
        let mut heard = self.0.lock().unwrap();
        let Err(error) = result else {
            heard.accepted += usize::from(save.is_some());
            return;
        };
        match (failed(error.message()), save) {
            (Some(path), _) => heard.add(path, End::Told),
            (None, Some(path)) if error.status() != Status::State => {
                heard.accepted += 1;
                heard.add(path, End::Failed);
            }
            (None, save) => assert!(save.is_some(), "not of a save: {}", error.message()),
        }
    }

    /// A line of the log.
    pub fn line(&self, level: Level, line: &str) {
        let mut heard = self.0.lock().unwrap();
        if let Some((_, path)) = line.split_once(": finished saving model to ") {
            heard.add(path, End::Made);
        } else if let Some(path) = between(line, "the save to '", "' gives way") {
            heard.add(path, End::Replaced);
        } else if level == Level::Error {
            heard.add(failed(line).expect("a failure of a save"), End::Told);
        }
    }

    /// Saves that have been accepted and have not ended.
    pub fn open(&self) -> usize {
        let heard = self.0.lock().unwrap();
        heard.accepted - heard.ends.values().flatten().count()
    }

    /// The paths of the saves that were made.
    pub fn made(&self) -> Vec<String> {
        let heard = self.0.lock().unwrap();
        let made = heard.ends.iter().filter(|(_, ends)| ends.contains(&End::Made));
        made.map(|(path, _)| path.clone()).collect()
    }

    /// Each save that was accepted has ended once, by giving way only where that may be. `alone`: one thread
    /// saves, so that it is known which path was whose.
    pub fn check(&self, may_give_way: bool, alone: bool) {
        let heard = self.0.lock().unwrap();
        let Heard { accepted, ends } = &*heard;
        assert_eq!(ends.values().flatten().count(), *accepted, "saves have ended so: {ends:?}");
        let gave_way = ends.values().flatten().any(|end| *end == End::Replaced);
        assert!(may_give_way || !gave_way, "a save gave way: {ends:?}");
        assert!(!alone || ends.values().all(|ends| ends.len() == 1), "one has ended twice: {ends:?}");
    }
}

/// The path of the save that this says has failed.
fn failed(text: &str) -> Option<&str> {
    let (before, _) = text.split_once("' failed")?;
    before.rsplit_once("the save to '").map(|(_, path)| path)
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(between, _)| between)
}
