//! What a save costs the training: the stall of its caller, and the slower batches beside it.

/// Measures what the saves of a session cost, from when its batches end.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Of the saves before the last one: each counts as much as all before it.
    mean: Option<f64>,
    /// The last save that was made.
    last: Option<Episode>,
    /// The batches that no save was beside.
    alone: Batches,
    /// When the last batch ended; none where something else than a batch has come since.
    batch_end: Option<f64>,
    /// Stalls since then.
    stalls: f64,
    /// Whether there has been a save since the last event.
    beside: bool,
}

/// A save, and the batches beside it.
#[derive(Debug)]
struct Episode {
    stall: f64,
    batches: Batches,
}

#[derive(Debug, Default)]
struct Batches {
    secs: f64,
    count: f64,
}

/// What is known of the cost of a save.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cost {
    /// No save has been made.
    Unknown,
    /// There has been no batch yet to compare those beside the save with.
    Pending,
    /// In seconds.
    Secs(f64),
}

/// Of batches without a save the last so many count most: their time may change in the course of a training.
const MEMORY: f64 = 100.0;

impl Batches {
    fn add(&mut self, secs: f64) {
        self.secs += secs;
        self.count += 1.0;
    }

    fn mean(&self) -> f64 {
        self.secs / self.count
    }
}

impl Meter {
    /// As a checkpoint has it.
    pub fn restored(cost: Option<f64>) -> Meter {
        Meter { mean: cost, ..Meter::default() }
    }

    /// A batch has ended, by the session's clock; `saving`: a save is being made.
    pub fn batch_ended(&mut self, now: f64, saving: bool) {
        let stalls = std::mem::take(&mut self.stalls);
        let beside = std::mem::replace(&mut self.beside, saving) || saving;
        let Some(before) = self.batch_end.replace(now) else { return };
        let secs = (now - before - stalls).max(0.0);
        if !beside {
            if self.alone.count >= MEMORY {
                self.alone = Batches { secs: self.alone.mean() * (MEMORY - 1.0), count: MEMORY - 1.0 };
            }
            self.alone.add(secs);
        } else if let Some(last) = &mut self.last {
            last.batches.add(secs);
        }
    }

    /// Something else has happened, which took its time: the next batch's is not known.
    pub fn interrupted(&mut self, saving: bool) {
        self.batch_end = None;
        self.stalls = 0.0;
        self.beside |= saving;
    }

    /// A call of save has kept its caller; one that failed is no measure.
    pub fn stalled(&mut self, secs: f64, made: bool) {
        self.stalls += secs;
        self.beside = true;
        if made {
            self.mean = match (self.cost(), &self.last) {
                (Cost::Secs(secs), _) => Some(secs),
                (_, Some(last)) => Some(self.mean.map_or(last.stall, |mean| (mean + last.stall) / 2.0)),
                _ => None,
            };
            self.last = Some(Episode { stall: secs, batches: Batches::default() });
        }
    }

    /// What a save costs, as far as is known.
    pub fn cost(&self) -> Cost {
        let Some(Episode { stall, batches }) = &self.last else {
            return self.mean.map_or(Cost::Unknown, Cost::Secs);
        };
        let slowdown = match (batches.count > 0.0, self.alone.count > 0.0) {
            (false, _) => 0.0,
            (true, false) => return Cost::Pending,
            (true, true) => (batches.secs - batches.count * self.alone.mean()).max(0.0),
        };
        let last = stall + slowdown;
        Cost::Secs(self.mean.map_or(last, |mean| (mean + last) / 2.0))
    }
}
