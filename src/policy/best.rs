//! The best value: that of the saves that stand, and those of the saves that are on their way.

/// The best value so far. A save takes it over when it is accepted and gives it back if it fails.
#[derive(Clone, Debug, Default)]
pub(super) struct Best {
    /// Of the saves that succeeded, or what was given at the start.
    settled: Option<f64>,
    /// Of the saves that were accepted and may still fail, in their order: each better than all before it.
    pending: Vec<(u64, f64)>,
}

impl Best {
    pub fn new(threshold: Option<f64>) -> Best {
        Best { settled: threshold, pending: Vec::new() }
    }

    /// The value that the next save has to beat.
    pub fn value(&self) -> Option<f64> {
        self.pending.last().map(|&(_, value)| value).or(self.settled)
    }

    /// The value that the save `id` had to beat, as far as it is known by now: not that of a save that has failed since.
    pub fn before(&self, id: u64) -> Option<f64> {
        let earlier = self.pending.iter().rfind(|&&(pending, _)| pending < id);
        earlier.map(|&(_, value)| value).or(self.settled)
    }

    /// The save `id` was accepted.
    pub fn accept(&mut self, id: u64, value: f64) {
        self.pending.push((id, value));
    }

    /// The save `id` succeeded: it, and whatever was accepted before it, is not given back any more.
    pub fn settle(&mut self, id: u64) {
        if let Some(at) = self.pending.iter().position(|&(pending, _)| pending == id) {
            self.settled = self.pending.drain(..=at).next_back().map(|(_, value)| value);
        }
    }

    /// The save `id` failed.
    pub fn give_back(&mut self, id: u64) {
        self.pending.retain(|&(pending, _)| pending != id);
    }
}
