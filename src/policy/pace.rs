//! Saves by time, by signals, and as often as their cost is paid for. It has no clock: seconds come in with the events.

use super::cost::{Cost, Meter};
use super::options::Options;

/// What a session sees around it at an event.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Now {
    /// Seconds since the session began.
    pub secs: f64,
    /// Whether a save of the session is being made, or waits.
    pub saving: bool,
    /// How often the session's signals have come since it began.
    pub signals: u64,
}

/// When the clock, a signal or what saves cost make one due.
#[derive(Debug, Default)]
pub(super) struct Pace {
    every_secs: Option<f64>,
    overhead_budget: Option<f64>,
    mtbf: Option<f64>,
    now: Now,
    /// When the last save was due, by whatever rule.
    due_at: f64,
    /// How long calls of save have kept the training since.
    stalls: f64,
    /// The signals that have had their save.
    answered: u64,
    meter: Meter,
}

impl Pace {
    pub fn new(options: &Options) -> Pace {
        let &Options { save_every_secs: every_secs, overhead_budget, mtbf, .. } = options;
        Pace { every_secs, overhead_budget, mtbf, ..Pace::default() }
    }

    /// To be told before each event.
    pub fn look(&mut self, now: Now) {
        self.now = now;
    }

    /// A batch has ended.
    pub fn batch_ended(&mut self) {
        self.meter.batch_ended(self.now.secs, self.now.saving);
    }

    /// An epoch has begun or ended.
    pub fn interrupted(&mut self) {
        self.meter.interrupted(self.now.saving);
    }

    /// A call of save has kept its caller.
    pub fn stalled(&mut self, secs: f64, made: bool) {
        self.stalls += secs;
        self.meter.stalled(secs, made);
    }

    /// Whether a save is due now.
    pub fn is_due(&self) -> bool {
        let Now { secs, signals, .. } = self.now;
        let by_time = self.every_secs.is_some_and(|every| secs - self.due_at >= every);
        by_time || signals != self.answered || self.is_paid_for()
    }

    /// A save is due, by whatever rule.
    pub fn due(&mut self) {
        self.due_at = self.now.secs;
        self.stalls = 0.0;
        self.answered = self.now.signals;
    }

    /// What a save costs in seconds, for the training state in a checkpoint; none where nothing depends on it.
    pub fn cost(&self) -> Option<f64> {
        match self.meter.cost() {
            Cost::Secs(secs) if self.counts_cost() => Some(secs),
            _ => None,
        }
    }

    fn counts_cost(&self) -> bool {
        self.overhead_budget.is_some() || self.mtbf.is_some()
    }

    /// Goes on from a checkpoint, whose save was due at this moment.
    pub fn restore(&mut self, cost: Option<f64>) {
        self.due_at = self.now.secs;
        self.stalls = 0.0;
        self.meter = Meter::restored(cost);
    }

    fn is_paid_for(&self) -> bool {
        if self.now.saving || !self.counts_cost() {
            return false;
        }
        match self.meter.cost() {
            Cost::Unknown => true,
            Cost::Pending => false,
            Cost::Secs(cost) => self.now.secs - self.due_at - self.stalls >= self.interval(cost),
        }
    }

    /// Seconds of training from one save to the next.
    fn interval(&self, cost: f64) -> f64 {
        let paid_for = self.overhead_budget.map_or(0.0, |fraction| cost / fraction);
        let optimum = self.mtbf.map_or(0.0, |mtbf| optimum(cost, mtbf));
        paid_for.max(optimum)
    }
}

/// The seconds of training between two saves that lose the least, to saves and to failures: Daly's higher-order estimate
/// ("A higher order estimate of the optimum checkpoint interval for restart dumps", 2006).
fn optimum(cost: f64, mtbf: f64) -> f64 {
    if cost >= 2.0 * mtbf {
        return mtbf;
    }
    let part = cost / (2.0 * mtbf);
    (2.0 * cost * mtbf).sqrt() * (1.0 + part.sqrt() / 3.0 + part / 9.0) - cost
}

#[cfg(test)]
mod tests;
