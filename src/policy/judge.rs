//! An event is judged: is a save due, where does it go, and what is there to say.

use super::due::{self, Due, Place};
use super::logs::Logs;
use super::note::Level;
use super::options::{OnNan, Options};
use super::template::{Failure, Value};
use super::{Pace, Policy};
use crate::error::{Error, Result, Status};

/// An event at which a save can be due.
#[derive(Clone, Copy)]
pub(super) struct Event {
    /// From 0.
    pub epoch: u64,
    /// From 0; none at an epoch's end.
    pub batch: Option<u64>,
    /// Whether it brings a save up in Keras, by its number of batches or as an epoch's end.
    pub by_keras: bool,
}

/// What becomes of a save that has come up.
enum Verdict {
    /// It is due.
    Due { place: Place, improves: bool },
    /// As in Keras: the value is no better.
    NoBetter,
    /// The value is NaN.
    Nan,
    /// At its path is the best, and it has no other.
    NoPlace,
    /// Its path needs this, which the event does not have, and it has no other.
    NoPath(String),
}

impl Policy {
    /// Is a save due now? As in Keras a key that the path lacks is an error even where none is; not where Keras would not
    /// have saved: whoever waits for a signal is not to end by it.
    pub(super) fn judge(&mut self, event: Event, logs: &dyn Logs) -> Result<()> {
        let paced = self.pace.as_ref().is_some_and(Pace::is_due);
        if !event.by_keras && !paced {
            return Ok(());
        }
        let current = logs.get(&self.options.monitor);
        let mut verdict = self.verdict(event, paced, current);
        let path = self.path(event, &mut verdict, logs)?;
        self.say(event, &verdict, current, path.as_deref());
        if path.is_some() || matches!(verdict, Verdict::Nan) {
            self.pace.iter_mut().for_each(Pace::due);
        }
        if let (Verdict::Due { place, improves }, Some(path)) = (verdict, path) {
            let Event { epoch, batch, .. } = event;
            let metrics = due::collect(logs);
            self.due = Some(Due { path, epoch, batch, value: current, improves, place, metrics });
        }
        Ok(())
    }

    fn verdict(&self, event: Event, paced: bool, current: Option<f64>) -> Verdict {
        let Options { save_best_only, on_nan, .. } = self.options;
        match on_nan {
            OnNan::Aside | OnNan::Skip if !current.is_some_and(f64::is_nan) => {}
            OnNan::Aside => return Verdict::Due { place: Place::Aside, improves: false },
            OnNan::Skip if save_best_only && !paced => return Verdict::NoBetter,
            OnNan::Skip => return Verdict::Nan,
            OnNan::Keras => {}
        }
        let improves = save_best_only && current.is_some_and(|value| self.improves(value));
        if improves || !save_best_only || current.is_none() && event.by_keras {
            Verdict::Due { place: Place::Own, improves }
        } else if !paced {
            Verdict::NoBetter
        } else if self.options.save_last.is_some() {
            Verdict::Due { place: Place::Last, improves }
        } else {
            Verdict::NoPlace
        }
    }

    /// The path of the save, if one is due; where that cannot be made, the verdict is another.
    fn path(&mut self, event: Event, verdict: &mut Verdict, logs: &dyn Logs) -> Result<Option<String>> {
        let place = match verdict {
            Verdict::Due { place, .. } => Some(*place),
            _ => None,
        };
        // At the end of an epoch it is the last batch, where batches can make saves due.
        let batch = event.batch.or(self.last_batch.filter(|_| self.pace.is_some()));
        let value = |name: &str| match (logs.get(name), name, batch) {
            (Some(value), _, _) => Some(Value::Float(value)),
            (None, "epoch", _) => Some(Value::Int(number(event.epoch))),
            (None, "batch", Some(batch)) => Some(Value::Int(number(batch))),
            (None, _, _) => None,
        };
        let path = match place {
            Some(Place::Own | Place::Aside) => {
                self.template.render(&value, &mut self.buffer).map(|path| Some(path.to_owned()))
            }
            _ if event.by_keras => self.template.check(&value, &mut self.buffer).map(|()| None),
            _ => Ok(None),
        };
        if let Err(Failure::Missing(name)) = &path
            && !event.by_keras
        {
            let last = self.options.save_last.clone().filter(|_| place == Some(Place::Own));
            *verdict = match last {
                Some(_) => Verdict::Due { place: Place::Last, improves: false },
                None => Verdict::NoPath(name.clone()),
            };
            return Ok(last);
        }
        let path = path.map_err(|failure| match failure {
            Failure::Value(error) => error,
            Failure::Missing(name) => self.missing(&name, batch.is_some(), logs),
        })?;
        Ok(match place {
            Some(Place::Aside) => path.map(|path| Options::aside(&path)),
            Some(Place::Last) => self.options.save_last.clone(),
            _ => path,
        })
    }

    fn improves(&self, value: f64) -> bool {
        match self.best.value() {
            Some(best) => self.direction.improves(value, best, self.options.min_delta.abs()),
            None => !value.is_nan() || self.options.on_nan == OnNan::Keras,
        }
    }

    /// Keras' line on the monitored value, and on the path if a save is due; our own where Keras has none.
    fn say(&mut self, event: Event, verdict: &Verdict, current: Option<f64>, path: Option<&str>) {
        let Options { monitor, save_best_only, verbose, .. } = &self.options;
        let epoch = number(event.epoch);
        if matches!(verdict, Verdict::NoPlace) && !self.said_no_place {
            let text = format!(
                "Epoch {epoch}: a save is due by time, cost or a signal, but {monitor} is not known to be better than \
                 that of the best, which it would replace (save_best_only): it is not made. save_last would give it a \
                 place. This is said once."
            );
            self.said_no_place = true;
            return self.note(Level::Warn, text);
        }
        if let Verdict::NoPath(name) = verdict {
            let text = format!(
                "Epoch {epoch}: a save is due by time, cost or a signal, but its path needs '{name}', which this event \
                 does not have: it is made at the first that has it. save_last would give it a place. This is said once."
            );
            if !std::mem::replace(&mut self.said_no_path, true) {
                self.note(Level::Warn, text);
            }
            return;
        }
        let (level, text) = match (verdict, current, path) {
            (Verdict::Due { place: Place::Own, .. }, None, _) if *save_best_only => {
                (Level::Warn, format!("Can save best model only with {monitor} available."))
            }
            (Verdict::Nan, _, _) => {
                let text = format!("Epoch {epoch}: {monitor} is NaN: no save is made (see on_nan)");
                (Level::Warn, text)
            }
            (Verdict::NoPlace, _, _) if !event.by_keras => return,
            _ if !verbose => return,
            (Verdict::Due { improves: true, .. }, Some(value), Some(path)) => {
                let (best, value) = (fixed5(self.best.value()), fixed5(Some(value)));
                let to = format!("from {best} to {value}, saving model to {path}");
                (Level::Info, format!("Epoch {epoch}: {monitor} improved {to}"))
            }
            (_, _, Some(path)) => (Level::Info, format!("Epoch {epoch}: saving model to {path}")),
            (_, _, None) => {
                let best = fixed5(self.best.value());
                (Level::Info, format!("Epoch {epoch}: {monitor} did not improve from {best}"))
            }
        };
        self.note(level, text);
    }

    /// Keras' error for a key that is not there, and the keys that are.
    fn missing(&self, name: &str, has_batch: bool, logs: &dyn Logs) -> Error {
        let mut keys = String::from(if has_batch { "epoch, batch" } else { "epoch" });
        logs.for_each(&mut |key, _| {
            keys.push_str(", ");
            keys.push_str(key);
        });
        let source = self.template.source();
        let text = format!(
            "Failed to format this callback filepath: \"{source}\". Reason: '{name}'. The keys of this event: {keys}"
        );
        Error::new(Status::Template, text)
    }
}

/// Epochs and batches count from 0, but from 1 in names and lines.
pub(super) fn number(count: u64) -> u128 {
    u128::from(count) + 1
}

/// As Python's `{:.5f}`.
fn fixed5(value: Option<f64>) -> String {
    match value {
        None => "None".to_owned(),
        Some(value) if value.is_nan() => "nan".to_owned(),
        Some(value) => format!("{value:.5}"),
    }
}
