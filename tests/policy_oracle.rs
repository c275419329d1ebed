//! The policy against Keras' own ModelCheckpoint: tests/python/policy_oracle.py prints runs of it, with what it
//! did after each event.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod python;

use ckpt::policy::{Mode, Options, Policy};
use serde_json::Value as Json;

const COUNT: usize = 2_000;

fn options(json: &Json) -> Options {
    Options {
        monitor: json["monitor"].as_str().unwrap().to_owned(),
        mode: match json["mode"].as_str().unwrap() {
            "auto" => Mode::Auto,
            "min" => Mode::Min,
            "max" => Mode::Max,
            other => panic!("mode {other}"),
        },
        save_best_only: json["save_best_only"].as_bool().unwrap(),
        save_weights_only: json["save_weights_only"].as_bool().unwrap(),
        save_freq: json["save_freq"].as_u64().unwrap_or(0),
        initial_value_threshold: json["initial_value_threshold"].as_f64(),
        ..Options::default()
    }
}

fn logs(event: &Json) -> Vec<(String, f64)> {
    let logs = event["logs"].as_object().into_iter().flatten();
    logs.map(|(name, value)| (name.clone(), value.as_f64().unwrap())).collect()
}

/// What the policy does on an event, as the oracle writes it: null, the path, or an error. Every save succeeds.
fn send(policy: &mut Policy, event: &Json) -> Json {
    let logs = logs(event);
    let sent = match event["on"].as_str().unwrap() {
        "epoch_begin" => {
            policy.on_epoch_begin(event["epoch"].as_u64().unwrap());
            Ok(())
        }
        "batch_end" => policy.on_train_batch_end(event["batch"].as_u64().unwrap(), &logs.as_slice()),
        "epoch_end" => policy.on_epoch_end(event["epoch"].as_u64().unwrap(), &logs.as_slice()),
        other => panic!("event {other}"),
    };
    if let Err(error) = sent {
        return serde_json::json!({ "error": error.message() });
    }
    match policy.due().map(|due| due.path.clone()) {
        None => Json::Null,
        Some(path) => {
            let ticket = policy.accept().unwrap();
            policy.confirm(ticket);
            path.into()
        }
    }
}

/// Differences between a run of Keras' and ours.
fn replay(run: &Json) -> Vec<String> {
    let events = run["events"].as_array().unwrap();
    let expected = run["expected"].as_array().unwrap();
    assert_eq!(events.len(), expected.len());
    let mut policy = match Policy::new(run["options"]["filepath"].as_str().unwrap(), options(&run["options"]))
    {
        Ok(policy) => policy,
        // A template that never works is refused at the start; Keras fails at the first save.
        Err(_) if expected.iter().all(|e| e.is_null() || e.is_object()) => return Vec::new(),
        Err(error) => return vec![format!("refused: {error}")],
    };
    let mut different = Vec::new();
    for (event, expected) in events.iter().zip(expected) {
        let ours = send(&mut policy, event);
        let same = if expected.is_object() { ours.is_object() } else { ours == *expected };
        if !same {
            different.push(format!("after {event}: Keras {expected}, ours {ours}"));
        }
    }
    if policy.best() != run["best"].as_f64() {
        different.push(format!("the best: Keras {}, ours {:?}", run["best"], policy.best()));
    }
    different
}

#[test]
fn decisions_agree_with_keras() {
    let seed = python::seed();
    let lines = python::lines("policy_oracle.py", &[&seed, &COUNT.to_string()]);
    let (mut runs, mut events, mut saves, mut refused, mut different) = (0, 0, 0, 0, 0);
    for line in &lines {
        let run: Json = serde_json::from_str(line).unwrap();
        let expected = run["expected"].as_array().unwrap();
        runs += 1;
        events += expected.len();
        saves += expected.iter().filter(|e| e.is_string()).count();
        refused += expected.iter().filter(|e| e.is_object()).count();
        let differences = replay(&run);
        if !differences.is_empty() {
            different += 1;
            eprintln!("{}\n  {}", run["options"], differences.join("\n  "));
        }
    }
    println!(
        "{runs} runs, {events} events, {saves} saves, {refused} errors, seed {seed}: {different} differences"
    );
    assert_eq!((runs, different), (COUNT, 0));
}
