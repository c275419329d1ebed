//! The training state that travels in `/libckpt/state` of every checkpoint, as JSON.

use serde_json::{Map, Number, Value, json};

use crate::policy::{Due, State};

/// Where the training stood when a checkpoint was saved.
#[derive(Clone, Debug, Default)]
pub struct TrainingState<'a> {
    /// The number of this save among all saves of the template, from 1; 0 for a save without a session.
    save: u64,
    /// What the policy knew; `None` for a save without a session.
    policy: Option<(&'a str, &'a Due, &'a State)>,
}

impl<'a> TrainingState<'a> {
    /// The state in a save of a session: its number, the metric that decides, the event, the policy's counters.
    pub fn of(save: u64, monitor: &'a str, due: &'a Due, state: &'a State) -> TrainingState<'a> {
        TrainingState { save, policy: Some((monitor, due, state)) }
    }

    /// As `/libckpt/state` has it: `epoch` and `batch` are those of the event (from 0), the counters are as they
    /// are after the save.
    pub fn to_json(&self) -> Vec<u8> {
        let mut object = Map::new();
        object.insert("libckpt".into(), json!(env!("CARGO_PKG_VERSION")));
        object.insert("save".into(), json!(self.save));
        if let Some((monitor, due, state)) = self.policy {
            object.insert("epoch".into(), json!(due.epoch));
            object.insert("batch".into(), json!(due.batch));
            let metrics = due.metrics.iter().map(|(name, value)| (name.clone(), number(*value)));
            object.insert("metrics".into(), Value::Object(metrics.collect()));
            object.insert("monitor".into(), json!(monitor));
            object.insert("best".into(), state.best.map_or(Value::Null, number));
            object.insert("batches_since_save".into(), json!(state.batches_since_save));
            object.insert("last_batch".into(), json!(state.last_batch));
        }
        Value::Object(object).to_string().into_bytes()
    }
}

/// The number of a save, from its state; one that no training can have come to is none.
pub fn save_counter(json: &[u8]) -> Option<u64> {
    let save = serde_json::from_slice::<Value>(json).ok()?.get("save")?.as_u64();
    save.filter(|&n| n <= u64::MAX / 2)
}

/// JSON has no word for NaN and the infinities: they are strings.
fn number(value: f64) -> Value {
    Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number)
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
            metrics: vec![("loss".into(), f64::NAN), ("val/acc \"x\"".into(), -0.0)],
        };
        let state =
            State { epoch: 4, last_batch: Some(u64::MAX), batches_since_save: 0, best: Some(f64::INFINITY) };
        let json = TrainingState::of(7, "loss", &due, &state).to_json();
        assert_eq!(save_counter(&TrainingState::default().to_json()), Some(0));
        let value: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["metrics"]["loss"], "NaN");
        assert_eq!(value["metrics"]["val/acc \"x\""].as_f64().unwrap().to_bits(), (-0.0f64).to_bits());
        assert_eq!(value["best"], "inf");
        assert_eq!(save_counter(&json), Some(7));
        assert_eq!(save_counter(b"{"), None);
        assert_eq!(save_counter(br#"{"save": 18446744073709551615}"#), None);
    }
}
