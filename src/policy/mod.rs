//! *When* to save, what is best, what to keep, what a file is called. No I/O, no clock, no unsafe.
//!
//! Keras' `ModelCheckpoint` is the reference. A trainer sends events; after each, [`Policy::due`] says whether a
//! save is due and where it goes. Whoever makes the save says so:
//!
//! ```
//! # use ckpt::policy::{Options, Policy};
//! # fn save(path: &str) -> bool { true }
//! # fn main() -> ckpt::error::Result<()> {
//! let options = Options { save_best_only: true, ..Options::default() };
//! let mut policy = Policy::new("{epoch:02d}-{val_loss:.2f}.keras", options)?;
//! policy.on_epoch_end(0, &[("val_loss", 0.25)])?;
//! if policy.due().is_some() {
//!     let ticket = policy.accept()?; // 0.25 is the best now
//!     match save(&ticket.due().path) {
//!         true => policy.confirm(ticket),
//!         false => policy.give_back(ticket), // and now it is not any more
//!     }
//! }
//! assert_eq!(policy.best(), Some(0.25));
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod best;
mod direction;
mod due;
mod logs;
mod note;
mod options;
mod retention;
pub mod template;
#[cfg(test)]
mod tests;

pub use direction::{Direction, Mode};
pub use due::{Due, State, Ticket};
pub use logs::Logs;
pub use note::{Level, Note};
pub use options::Options;
pub use retention::{Record, Retention};
pub use template::Template;

use self::best::Best;
use self::template::{Buffer, Failure, Value};
use crate::error::{Error, Result, Status};

/// When to save and where: the options, and what the events so far have made of them.
#[derive(Debug)]
pub struct Policy {
    template: Template,
    options: Options,
    direction: Direction,
    best: Best,
    /// The epoch that batches belong to.
    epoch: u64,
    batches_since_save: u64,
    last_batch: Option<u64>,
    due: Option<Due>,
    /// Counts events, so that a ticket knows whether it is still the last word.
    events: u64,
    buffer: Buffer,
    notes: Vec<Note>,
}

impl Policy {
    /// Refuses a template that can never work, an ending that does not go with `save_weights_only`, and options
    /// that make no sense.
    pub fn new(filepath: &str, options: Options) -> Result<Policy> {
        options.check()?;
        let by_batch = options.save_freq > 0;
        let integers: &[&str] = if by_batch { &["epoch", "batch"] } else { &["epoch"] };
        let template = Template::parse(filepath, integers)?;
        options.check_ending(filepath)?;
        options.check_save_last(filepath)?;
        let named = match options.mode {
            Mode::Min => Some(Direction::Down),
            Mode::Max => Some(Direction::Up),
            Mode::Auto => Direction::of(&options.monitor),
        };
        let mut policy = Policy {
            direction: named.unwrap_or(Direction::Down),
            best: Best::new(options.initial_value_threshold),
            template,
            options,
            epoch: 0,
            batches_since_save: 0,
            last_batch: None,
            due: None,
            events: 0,
            buffer: Buffer::default(),
            notes: Vec::new(),
        };
        if named.is_none() {
            let monitor = &policy.options.monitor;
            let text =
                format!("mode auto: less of '{monitor}' is taken to be better; set mode max if more is");
            policy.note(Level::Warn, text);
        }
        for text in policy.template.doubts() {
            policy.note(Level::Warn, text);
        }
        if !by_batch && policy.template.names().contains(&"batch") {
            let text = format!(
                "filepath template '{filepath}' names 'batch', which is known in saves by batches (save_freq), or \
                 where the logs hold it"
            );
            policy.note(Level::Warn, text);
        }
        Ok(policy)
    }

    /// An epoch begins, counted from 0. Without this call it is the one after the last epoch's end.
    pub fn on_epoch_begin(&mut self, epoch: u64) {
        self.forget();
        self.epoch = epoch;
    }

    /// A batch has ended, counted from 0 in its epoch; some may have been skipped.
    pub fn on_train_batch_end(&mut self, batch: u64, logs: &dyn Logs) -> Result<()> {
        self.forget();
        if self.options.save_freq == 0 {
            return Ok(());
        }
        let step = match self.last_batch {
            Some(last) if batch > last => batch - last,
            // A new epoch.
            _ => batch.saturating_add(1),
        };
        self.batches_since_save = self.batches_since_save.saturating_add(step);
        self.last_batch = Some(batch);
        if self.batches_since_save < self.options.save_freq {
            return Ok(());
        }
        self.batches_since_save = 0;
        self.judge(self.epoch, Some(batch), logs)
    }

    /// An epoch has ended, counted from 0.
    pub fn on_epoch_end(&mut self, epoch: u64, logs: &dyn Logs) -> Result<()> {
        self.forget();
        self.epoch = epoch.saturating_add(1);
        if self.options.save_freq > 0 {
            return Ok(());
        }
        self.judge(epoch, None, logs)
    }

    /// The save that the last event made due.
    pub fn due(&self) -> Option<&Due> {
        self.due.as_ref()
    }

    /// The due save is made, or begun: the best is taken over. The ticket goes back by [`Policy::confirm`] or
    /// [`Policy::give_back`], in any order and after any other events.
    pub fn accept(&mut self) -> Result<Ticket> {
        let Some(due) = self.due.take() else {
            return Err(Error::new(
                Status::State,
                "no save is due: the last event made none so, or it has been saved already",
            ));
        };
        if due.improves
            && let Some(value) = due.value
        {
            self.best.accept(self.events, value);
        }
        let counters = State { best: None, ..self.state() };
        Ok(Ticket { due, event: self.events, counters })
    }

    /// The save has succeeded.
    pub fn confirm(&mut self, ticket: Ticket) {
        self.best.settle(ticket.event);
        if self.options.verbose {
            let Due { epoch, path, .. } = &ticket.due;
            let text = format!("Epoch {}: finished saving model to {path}", number(*epoch));
            self.note(Level::Info, text);
        }
    }

    /// The save has failed: the best is what it was, unless something better has come since, and the save is due
    /// again unless there has been another event.
    pub fn give_back(&mut self, ticket: Ticket) {
        self.best.give_back(ticket.event);
        if ticket.event == self.events {
            self.due = Some(ticket.due);
        }
    }

    /// The best value so far, or the threshold that was given. Only with `save_best_only` do saves change it.
    pub fn best(&self) -> Option<f64> {
        self.best.value()
    }

    /// Whether more or less of the monitored metric is better.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The template of the file path.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// The options that it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The counters, for the training state in a checkpoint: where a save is due, as they are once it is made.
    pub fn state(&self) -> State {
        let due = self.due.as_ref().filter(|due| due.improves);
        State {
            epoch: self.epoch,
            last_batch: self.last_batch,
            batches_since_save: self.batches_since_save,
            best: due.and_then(|due| due.value).or(self.best.value()),
        }
    }

    /// The counters as they are once this save is made, for the training state in its checkpoint. The best is its own,
    /// or that of the saves before it which have not failed so far.
    pub fn state_of(&self, ticket: &Ticket) -> State {
        let own = ticket.due.value.filter(|_| ticket.due.improves);
        State { best: own.or(self.best.before(ticket.event)), ..ticket.counters.clone() }
    }

    /// Whether a save that waits may give way to a later one: not where it is the best so far by the monitored value,
    /// and the later one is no better. `others` are the values of the saves that stand or are being made.
    pub fn may_give_way(&self, waiting: &Due, later: &Due, others: impl IntoIterator<Item = f64>) -> bool {
        let better = |a: f64, b: f64| self.direction.improves(a, b, 0.0);
        let Some(value) = waiting.value.filter(|value| !value.is_nan()) else { return true };
        let is_best = others.into_iter().filter(|other| !other.is_nan()).all(|other| better(value, other));
        !is_best || later.value.is_some_and(|later| better(later, value))
    }

    /// Goes on from the counters of a checkpoint. A best that it lacks stays as it is.
    pub fn restore(&mut self, state: &State) {
        self.forget();
        self.epoch = state.epoch;
        self.last_batch = state.last_batch;
        self.batches_since_save = state.batches_since_save;
        self.best = Best::new(state.best.filter(|best| !best.is_nan()).or(self.best.value()));
    }

    /// The lines that have come up since the last call, the oldest first.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// A new event: what was due and not made is forgotten.
    fn forget(&mut self) {
        self.due = None;
        self.events += 1;
    }

    /// Is a save due now? As in Keras a key that the path lacks is an error even where none is.
    fn judge(&mut self, epoch: u64, batch: Option<u64>, logs: &dyn Logs) -> Result<()> {
        let value = |name: &str| match (logs.get(name), name, batch) {
            (Some(value), _, _) => Some(Value::Float(value)),
            (None, "epoch", _) => Some(Value::Int(number(epoch))),
            (None, "batch", Some(batch)) => Some(Value::Int(number(batch))),
            (None, _, _) => None,
        };
        let current = logs.get(&self.options.monitor);
        let improves = self.options.save_best_only && current.is_some_and(|value| self.improves(value));
        let is_due = improves || !self.options.save_best_only || current.is_none();
        let path = if is_due {
            self.template.render(&value, &mut self.buffer).map(|path| Some(path.to_owned()))
        } else {
            self.template.check(&value, &mut self.buffer).map(|()| None)
        };
        let path = path.map_err(|failure| match failure {
            Failure::Value(error) => error,
            Failure::Missing(name) => self.missing(&name, batch.is_some(), logs),
        })?;
        self.say(epoch, current, path.as_deref());
        if let Some(path) = path {
            let metrics = due::collect(logs);
            self.due = Some(Due { path, epoch, batch, value: current, improves, metrics });
        }
        Ok(())
    }

    fn improves(&self, value: f64) -> bool {
        match self.best.value() {
            Some(best) => self.direction.improves(value, best, self.options.min_delta.abs()),
            None => !value.is_nan(),
        }
    }

    /// Keras' line on the monitored value, and on the path if a save is due.
    fn say(&mut self, epoch: u64, current: Option<f64>, path: Option<&str>) {
        let Options { monitor, save_best_only, verbose, .. } = &self.options;
        let epoch = number(epoch);
        let (level, text) = match (current, path) {
            (None, _) if *save_best_only => {
                (Level::Warn, format!("Can save best model only with {monitor} available."))
            }
            _ if !verbose => return,
            (Some(value), Some(path)) if *save_best_only => {
                let (best, value) = (fixed5(self.best.value()), fixed5(Some(value)));
                let to = format!("from {best} to {value}, saving model to {path}");
                (Level::Info, format!("Epoch {epoch}: {monitor} improved {to}"))
            }
            (_, Some(path)) => (Level::Info, format!("Epoch {epoch}: saving model to {path}")),
            (_, None) => {
                let best = fixed5(self.best.value());
                (Level::Info, format!("Epoch {epoch}: {monitor} did not improve from {best}"))
            }
        };
        self.note(level, text);
    }

    /// Keras' error for a key that is not there, and the keys that are.
    fn missing(&self, name: &str, by_batch: bool, logs: &dyn Logs) -> Error {
        let mut keys = String::from(if by_batch { "epoch, batch" } else { "epoch" });
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

    fn note(&mut self, level: Level, text: String) {
        self.notes.push(Note { level, text });
    }
}

/// Epochs and batches count from 0, but from 1 in names and lines.
fn number(count: u64) -> u128 {
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
