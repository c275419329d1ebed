//! A save that is due, and the ticket for one that has been accepted.

use std::collections::HashMap;

use super::logs::Logs;

/// A save that an event has made due.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// Where it goes.
    pub path: String,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The batch, from 0, in a save by batches.
    pub batch: Option<u64>,
    /// The monitored value, where the logs have it.
    pub value: Option<f64>,
    /// Is it a new best? Only judged with `save_best_only`.
    pub improves: bool,
    /// What it is among the checkpoints.
    pub place: Place,
    /// The metrics of the event, each once.
    pub metrics: Vec<(String, f64)>,
}

/// What a save is among the checkpoints of a training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// One of them, at the template's path.
    #[default]
    Own,
    /// The newest alone, at the stable name: at the template's path it would replace the best.
    Last,
    /// None of them: the monitored value is NaN.
    Aside,
}

/// A save that has been accepted, until it is known to have succeeded or failed.
#[derive(Debug)]
#[must_use = "confirm it, or give it back"]
pub struct Ticket {
    pub(super) due: Due,
    /// The number of the event that made it due.
    pub(super) event: u64,
    /// The counters when it was accepted; the best is not among them, since saves before it may still fail.
    pub(super) counters: State,
}

impl Ticket {
    /// What is to be saved, and where.
    pub fn due(&self) -> &Due {
        &self.due
    }
}

/// The counters of a policy, for the training state in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The epoch that batches belong to: after an epoch's end, the next.
    pub epoch: u64,
    /// The last batch seen, where batches can make saves due.
    pub last_batch: Option<u64>,
    /// Batches since the last save was due, in saves by batches.
    pub batches_since_save: u64,
    /// The best value.
    pub best: Option<f64>,
    /// What a save costs in seconds, as far as that has been measured.
    pub cost: Option<f64>,
}

/// The metrics, each name once: at its first place, with its last value, as in a dict.
pub(super) fn collect(logs: &dyn Logs) -> Vec<(String, f64)> {
    let mut metrics: Vec<(String, f64)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    logs.for_each(&mut |name, value| {
        if let Some(slot) = places.get(name).and_then(|&place| metrics.get_mut(place)) {
            slot.1 = value;
        } else {
            places.insert(name.to_owned(), metrics.len());
            metrics.push((name.to_owned(), value));
        }
    });
    metrics
}
