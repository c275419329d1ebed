//! The training state that travels in `/libckpt/state` of every checkpoint, as JSON.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use serde_core::Deserialize;
use serde_json::{Map, Number, Value, json};

use crate::error::Result;
use crate::memory;
use crate::policy::{Due, Place, State};
use crate::reader::json::{self, Object};

/// Where the training stood when a checkpoint was saved.
#[derive(Clone, Debug, Default)]
pub struct TrainingState<'a> {
    /// The number of this save among all saves of the template, from 1; 0 for a save without a session.
    save: u64,
    /// What the session knew; `None` for a save without one.
    session: Option<Known<'a>>,
}

/// What a session knows of a save.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The training that it belongs to: see [`new_run`].
    pub run: &'a str,
    /// When the save was begun, in seconds since 1970.
    pub saved_at: f64,
    /// The metric that decides.
    pub monitor: &'a str,
    /// The event.
    pub due: &'a Due,
    /// The policy's counters.
    pub state: &'a State,
    /// The template, from where the stable name is; none where there is no such name.
    pub last_of: Option<&'a str>,
}

impl<'a> TrainingState<'a> {
    /// The state in a save of a session, by its number.
    pub fn of(save: u64, known: Known<'a>) -> TrainingState<'a> {
        TrainingState { save, session: Some(known) }
    }

    /// As `/libckpt/state` has it: `epoch` and `batch` are those of the event (from 0), the counters are as they
    /// are after the save.
    pub fn to_json(&self) -> Vec<u8> {
        let mut object = Map::new();
        object.insert("libckpt".into(), json!(env!("CARGO_PKG_VERSION")));
        object.insert("save".into(), json!(self.save));
        if let Some(Known { run, saved_at, monitor, due, state, last_of }) = self.session {
            object.insert("run".into(), json!(run));
            object.insert("saved_at".into(), number(saved_at));
            object.insert("epoch".into(), json!(due.epoch));
            object.insert("batch".into(), json!(due.batch));
            let metrics = due.metrics.iter().map(|(name, value)| (name.clone(), number(*value)));
            object.insert("metrics".into(), Value::Object(metrics.collect()));
            object.insert("monitor".into(), json!(monitor));
            object.insert("best".into(), state.best.map_or(Value::Null, number));
            object.insert("batches_since_save".into(), json!(state.batches_since_save));
            object.insert("last_batch".into(), json!(state.last_batch));
            if due.place == Place::Aside {
                object.insert("aside".into(), json!(true));
            }
            if let Some(template) = last_of {
                object.insert("last_of".into(), json!(template));
            }
            if let Some(cost) = state.cost {
                object.insert("save_cost_secs".into(), number(cost));
            }
        }
        Value::Object(object).to_string().into_bytes()
    }
}

/// Where the training stood, as a checkpoint has it. A file of our own always has all of it; of what is missing or is
/// nothing that a training can have come to, as little is believed as can be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Training {
    /// The number of the save; 0 where there is none.
    pub save: u64,
    /// The training that it belongs to.
    pub run: Option<String>,
    /// When the save was begun, in seconds since 1970.
    pub saved_at: f64,
    /// The metric that decided.
    pub monitor: Option<String>,
    /// The epoch and the batch of the event, from 0; `None` for a save without a session.
    pub event: Option<(u64, Option<u64>)>,
    /// The metrics of the event.
    pub metrics: Vec<(String, f64)>,
    /// The best value once the save was made.
    pub best: Option<f64>,
    /// The counters once the save was made.
    pub batches_since_save: u64,
    pub last_batch: Option<u64>,
    /// Whether the save is no checkpoint to go on from: see [`Place::Aside`].
    pub aside: bool,
    /// What a save had cost until then, in seconds.
    pub cost: Option<f64>,
    /// The template, from where the stable name of the newest is.
    pub last_of: Option<String>,
}

impl Training {
    /// What the JSON of a training state says; `None` if it is no such thing.
    pub fn parse(json: &[u8]) -> Result<Option<Training>> {
        let Some(object) = members(json)? else { return Ok(None) };
        let text = |key: &str| object.get(key).map(text).transpose().map(Option::flatten);
        let count = |key: &str| object.get(key).and_then(count);
        let mut metrics = Vec::new();
        if let Some(of) = object.get("metrics").map(str::as_bytes).map(members).transpose()?.flatten() {
            for (name, value) in of.into_entries() {
                if let Some(value) = self::value(value) {
                    memory::push(&mut metrics, (name.into_owned(), value))?;
                }
            }
        }
        Ok(Some(Training {
            save: count("save").unwrap_or(0),
            run: text("run")?,
            saved_at: object.get("saved_at").and_then(value).unwrap_or(0.0),
            monitor: text("monitor")?,
            event: count("epoch").map(|epoch| (epoch, count("batch"))),
            metrics,
            best: object.get("best").and_then(value),
            batches_since_save: count("batches_since_save").unwrap_or(0),
            last_batch: count("last_batch"),
            last_of: text("last_of")?,
            aside: object.get("aside") == Some("true"),
            cost: object
                .get("save_cost_secs")
                .and_then(value)
                .filter(|cost| cost.is_finite() && *cost >= 0.0),
        }))
    }

    /// The epoch and the batch that are to be run next, from 0.
    pub fn next(&self) -> (u64, u64) {
        match self.event {
            None => (0, 0),
            Some((epoch, None)) => (epoch + 1, 0),
            Some((epoch, Some(batch))) => (epoch, batch + 1),
        }
    }

    /// The policy's counters, for a session that watches this metric.
    pub fn state(&self, monitor: &str) -> State {
        let best = self.best.filter(|_| self.monitor.as_deref() == Some(monitor));
        let &Training { batches_since_save, last_batch, cost, .. } = self;
        State { epoch: self.next().0, last_batch, batches_since_save, best, cost }
    }

    /// The value of a metric at the event.
    pub fn value(&self, metric: &str) -> Option<f64> {
        self.metrics.iter().find(|(name, _)| name == metric).map(|(_, value)| *value)
    }
}

/// The most that a counter can have come to; what is above it, a file cannot have by right.
const MOST: u64 = u64::MAX / 2;

/// Bytes of a number, at most.
const MAX_NUMBER: usize = 64;

/// Levels of nesting in a state: it has two, and a later one may have some more.
const MAX_DEPTH: usize = 127;

/// The number of a save, from its state; one that no training can have come to is none.
pub fn save_counter(json: &[u8]) -> Option<u64> {
    members(json).ok()??.get("save").and_then(count)
}

/// The members of an object; `None` if it is none.
fn members(json: &[u8]) -> Result<Option<Object<'_>>> {
    let Ok(json) = std::str::from_utf8(json) else { return Ok(None) };
    match Object::parse_within(json, MAX_DEPTH) {
        Err(error) if error.os() == libc::ENOMEM => Err(error),
        object => Ok(object.ok()),
    }
}

/// A value that is a text.
fn text(json: &str) -> Result<Option<String>> {
    match json::text(json, "a text") {
        Err(error) if error.os() == libc::ENOMEM => Err(error),
        text => text.ok().map(memory::owned).transpose(),
    }
}

/// A value that is the number of something.
fn count(json: &str) -> Option<u64> {
    number_in(json).filter(|&n| n <= MOST)
}

/// A number; none that is longer than any that is written here.
fn number_in<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    if json.len() <= MAX_NUMBER { json::value(json, "a number").ok() } else { None }
}

/// A name for a new training, which no other has: 32 hexadecimal digits. Its checkpoints have it in common, those of the
/// sessions that resume it, too.
pub fn new_run() -> String {
    // The keys are random, and new for each.
    let part = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", part(), part())
}

/// JSON has no word for NaN and the infinities: they are strings.
fn number(value: f64) -> Value {
    Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number)
}

/// What [`number`] wrote.
fn value(json: &str) -> Option<f64> {
    match json {
        r#""NaN""# => Some(f64::NAN),
        r#""inf""# => Some(f64::INFINITY),
        r#""-inf""# => Some(f64::NEG_INFINITY),
        json => number_in(json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_keeps_what_json_has_no_number_for() {
        let due = Due {
            path: "x".into(),
            epoch: 3,
            batch: None,
            value: Some(f64::NAN),
            improves: false,
            place: Place::Aside,
            metrics: vec![("loss".into(), f64::NAN), ("val/acc \"x\"".into(), -0.0)],
        };
        let state = State {
            epoch: 4,
            last_batch: Some(u64::MAX),
            batches_since_save: 0,
            best: Some(f64::INFINITY),
            cost: Some(0.25),
        };
        let known = Known {
            run: "r",
            saved_at: 1.795e9 + 0.123_456_7,
            monitor: "loss",
            due: &due,
            state: &state,
            last_of: None,
        };
        let json = TrainingState::of(7, known).to_json();
        assert_eq!(save_counter(&TrainingState::default().to_json()), Some(0));
        let value: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["metrics"]["loss"], "NaN");
        assert_eq!(value["metrics"]["val/acc \"x\""].as_f64().unwrap().to_bits(), (-0.0f64).to_bits());
        assert_eq!(value["best"], "inf");
        assert_eq!(save_counter(&json), Some(7));
        let read = Training::parse(&json).unwrap().unwrap();
        assert_eq!((read.save, read.run.as_deref(), read.saved_at), (7, Some("r"), known.saved_at));
        assert_eq!((read.event, read.next()), (Some((3, None)), (4, 0)));
        assert!(read.aside);
        assert!(read.value("loss").unwrap().is_nan());
        // What no file has by right, as a file may have it, is not believed.
        assert_eq!(read.state("loss"), State { last_batch: None, ..state });
        assert_eq!(read.state("val_loss").best, None, "the best of another metric");
        assert_eq!(save_counter(b"{"), None);
        assert_eq!(save_counter(br#"{"save": 18446744073709551615}"#), None);
    }
}
