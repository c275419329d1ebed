//! The metrics that a trainer hands over with an event.

/// The metrics of an event, wherever they lie. Of a name that comes twice the last value counts, as in a dict.
pub trait Logs {
    /// Calls `f` with every metric, in order.
    fn for_each(&self, f: &mut dyn FnMut(&str, f64));

    /// The value of a metric.
    fn get(&self, name: &str) -> Option<f64> {
        let mut found = None;
        self.for_each(&mut |n, value| {
            if n == name {
                found = Some(value);
            }
        });
        found
    }
}

impl<S: AsRef<str>> Logs for &[(S, f64)] {
    fn for_each(&self, f: &mut dyn FnMut(&str, f64)) {
        for (name, value) in *self {
            f(name.as_ref(), *value);
        }
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.iter().rev().find(|(n, _)| n.as_ref() == name).map(|&(_, value)| value)
    }
}

impl<S: AsRef<str>, const N: usize> Logs for [(S, f64); N] {
    fn for_each(&self, f: &mut dyn FnMut(&str, f64)) {
        self.as_slice().for_each(f);
    }
}
