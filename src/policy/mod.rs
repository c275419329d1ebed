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
mod cost;
mod direction;
mod due;
mod judge;
mod logs;
mod note;
mod options;
mod pace;
mod retention;
pub mod template;
#[cfg(test)]
mod tests;

pub use direction::{Direction, Mode};
pub use due::{Due, Place, State, Ticket};
pub use logs::Logs;
pub use note::{Level, Note};
pub use options::{NEVER, OnNan, Options};
pub use pace::Now;
pub use retention::{Record, Retention};
pub use template::Template;

use self::best::Best;
use self::judge::{Event, number};
use self::pace::Pace;
use self::template::Buffer;
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
    /// Where there are saves beside those by batches and epochs.
    pace: Option<Pace>,
    /// Whether it has been said that they have no place.
    said_no_place: bool,
    /// Whether it has been said that their path needs what events do not have.
    said_no_path: bool,
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
        let has_batch = options.by_batches() || options.is_paced();
        let integers: &[&str] = if has_batch { &["epoch", "batch"] } else { &["epoch"] };
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
            pace: options.is_paced().then(|| Pace::new(&options)),
            options,
            epoch: 0,
            batches_since_save: 0,
            last_batch: None,
            said_no_place: false,
            said_no_path: false,
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
        if !has_batch && policy.template.names().contains(&"batch") {
            let text = format!(
                "filepath template '{filepath}' names 'batch', which is known in saves by batches (save_freq), or \
                 where the logs hold it"
            );
            policy.note(Level::Warn, text);
        }
        if policy.options.save_freq == NEVER && policy.pace.is_none() {
            let text = "nothing makes a save due: save_freq is NEVER, and there is neither save_every_secs, \
                        save_on_signal, overhead_budget nor mtbf";
            policy.note(Level::Warn, text.to_owned());
        }
        Ok(policy)
    }

    /// Whether [`Policy::look`] is to be called before each event.
    pub fn is_paced(&self) -> bool {
        self.pace.is_some()
    }

    /// What the session sees around it at the event that follows.
    pub fn look(&mut self, now: Now) {
        if let Some(pace) = &mut self.pace {
            pace.look(now);
        }
    }

    /// A call of save has kept its caller for so many seconds, and made its save or not.
    pub fn stalled(&mut self, secs: f64, made: bool) {
        if let Some(pace) = &mut self.pace {
            pace.stalled(secs, made);
        }
    }

    /// An epoch begins, counted from 0. Without this call it is the one after the last epoch's end.
    pub fn on_epoch_begin(&mut self, epoch: u64) {
        self.forget();
        self.epoch = epoch;
        self.interrupted();
    }

    /// A batch has ended, counted from 0 in its epoch; some may have been skipped.
    pub fn on_train_batch_end(&mut self, batch: u64, logs: &dyn Logs) -> Result<()> {
        self.forget();
        let by_batches = self.options.by_batches();
        if !by_batches && self.pace.is_none() {
            return Ok(());
        }
        let grows = self.last_batch.is_some_and(|last| batch > last);
        let step = match self.last_batch {
            Some(last) if grows => batch - last,
            // A new epoch.
            _ => batch.saturating_add(1),
        };
        self.last_batch = Some(batch);
        if let Some(pace) = &mut self.pace {
            if !grows {
                pace.interrupted();
            }
            pace.batch_ended();
        }
        let mut by_keras = false;
        if by_batches {
            self.batches_since_save = self.batches_since_save.saturating_add(step);
            by_keras = self.batches_since_save >= self.options.save_freq;
            if by_keras {
                self.batches_since_save = 0;
            }
        }
        if !by_keras && self.pace.is_none() {
            return Ok(());
        }
        self.judge(Event { epoch: self.epoch, batch: Some(batch), by_keras }, logs)
    }

    /// An epoch has ended, counted from 0.
    pub fn on_epoch_end(&mut self, epoch: u64, logs: &dyn Logs) -> Result<()> {
        self.forget();
        self.epoch = epoch.saturating_add(1);
        self.interrupted();
        self.judge(Event { epoch, batch: None, by_keras: self.options.by_epochs() }, logs)
    }

    /// The training has ended.
    pub fn on_train_end(&mut self) {
        self.forget();
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
            cost: self.pace.as_ref().and_then(Pace::cost),
        }
    }

    /// The counters as they are once this save is made, for the training state in its checkpoint. The best is its own,
    /// or that of the saves before it which have not failed so far.
    pub fn state_of(&self, ticket: &Ticket) -> State {
        let own = ticket.due.value.filter(|_| ticket.due.improves);
        State { best: own.or(self.best.before(ticket.event)), ..ticket.counters.clone() }
    }

    /// Whether a save that waits may give way to a later one: not where it is the best so far by the monitored value,
    /// and the later one is no better; nor to one that is no checkpoint to go on from. `others` are the values of the saves that stand or are being made.
    pub fn may_give_way(&self, waiting: &Due, later: &Due, others: impl IntoIterator<Item = f64>) -> bool {
        if later.place == Place::Aside && waiting.place != Place::Aside {
            return false;
        }
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
        let best = state.best.filter(|best| !best.is_nan() || self.options.on_nan == OnNan::Keras);
        self.best = Best::new(best.or(self.best.value()));
        if let Some(pace) = &mut self.pace {
            pace.restore(state.cost);
        }
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

    /// What comes between batches is not their time.
    fn interrupted(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.interrupted();
        }
    }

    fn note(&mut self, level: Level, text: String) {
        self.notes.push(Note { level, text });
    }
}
