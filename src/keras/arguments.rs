//! The arguments of a layer or an optimizer: those that were given, checked and in Keras' form, and the defaults.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result, Status};

use super::table::{ACTIVATIONS, Argument, INITIALIZERS, Kind};

/// All arguments, in the form in which Keras has them in a configuration.
///
/// # Errors
/// InvalidArgument or Unsupported, with the name of the argument: one is missing, unknown, or not what it can be.
pub(super) fn complete(
    who: &str,
    arguments: &[&[Argument]],
    mut given: Map<String, Value>,
) -> Result<Map<String, Value>> {
    let all = || arguments.iter().copied().flatten();
    let mut complete = Map::new();
    for argument in all() {
        let value = match given.remove(argument.name) {
            Some(value) => checked(argument, value).map_err(|e| e.context(who))?,
            None => default(who, argument)?,
        };
        complete.insert(argument.name.to_owned(), value);
    }
    if let Some(unknown) = given.keys().next() {
        let mut names: Vec<&str> = all().map(|argument| argument.name).collect();
        names.sort_unstable();
        let names = names.join(", ");
        return Err(invalid(format!("{who} has no argument '{unknown}'; those that it has are: {names}")));
    }
    // What is as another one.
    for argument in all() {
        if let Kind::CountsOr(_, other) = argument.kind
            && complete[argument.name].is_null()
        {
            complete.insert(argument.name.to_owned(), complete[other].clone());
        }
    }
    Ok(complete)
}

fn default(who: &str, argument: &Argument) -> Result<Value> {
    let Some(text) = argument.default else {
        return Err(invalid(format!("{who} needs '{}': {}", argument.name, expected(argument.kind))));
    };
    if matches!(argument.kind, Kind::Initializer) {
        return Ok(initializer(text));
    }
    let value =
        serde_json::from_str(text).map_err(|e| Error::new(Status::Internal, format!("{text}: {e}")))?;
    checked(argument, value)
}

fn initializer(class: &str) -> Value {
    let config = INITIALIZERS.iter().find(|(name, _)| *name == class).map_or("{}", |(_, config)| *config);
    let config: Value = serde_json::from_str(config).unwrap_or_default();
    json!({"module": "keras.initializers", "class_name": class, "config": config, "registered_name": null})
}

/// A value that was given, in Keras' form.
fn checked(argument: &Argument, value: Value) -> Result<Value> {
    let name = argument.name;
    let wrong = || invalid(format!("'{name}' is {value}: it is to be {}", expected(argument.kind)));
    let fine = match argument.kind {
        Kind::Count => value.as_u64().is_some_and(is_count),
        Kind::Counts(n) | Kind::CountsOr(n, _) => {
            if value.is_null() && matches!(argument.kind, Kind::CountsOr(..)) {
                return Ok(value);
            }
            return counts(&value, n).map(Value::from).ok_or_else(wrong);
        }
        Kind::Pad => return pair(&value).map(|pair| json!(pair)).ok_or_else(wrong),
        Kind::Pads => {
            let axes = match &value {
                // One number an axis is both of its ends.
                Value::Array(axes) if axes.len() == 2 => [pair(&axes[0]), pair(&axes[1])],
                Value::Array(_) => [None, None],
                all => [pair(all), pair(all)],
            };
            let [Some(first), Some(second)] = axes else { return Err(wrong()) };
            return Ok(json!([first, second]));
        }
        Kind::Choice(choices) => value.as_str().is_some_and(|text| choices.contains(&text)),
        Kind::Flag(None) => value.is_boolean(),
        Kind::Flag(Some(why)) => match value.as_bool() {
            Some(true) => {
                return Err(Error::new(Status::Unsupported, format!("'{name}' can only be false: {why}")));
            }
            is_false => is_false.is_some(),
        },
        Kind::Number => value.is_number(),
        Kind::NumberOrNull => value.is_number() || value.is_null(),
        Kind::Rate => value.as_f64().is_some_and(|rate| (0.0..=1.0).contains(&rate)),
        Kind::Activation => match &value {
            Value::Null => return Ok("linear".into()),
            Value::String(text) => ACTIVATIONS.contains(&&text[..]),
            other => is_object(other),
        },
        Kind::Initializer => value.is_string() || is_object(&value),
        Kind::Optional => value.is_null() || value.is_string() || value.is_array() || value.is_object(),
        Kind::Null => value.is_null(),
        Kind::Axis => value.as_i64().is_some_and(|axis| axis != 0),
        Kind::Axes(as_list) => match axes(&value) {
            Some(axes) if axes.is_empty() || axes.contains(&0) => false,
            Some(mut axes) if as_list => {
                // As they stand, from the end or not.
                axes.sort_unstable();
                if axes.windows(2).any(|pair| pair[0] == pair[1]) {
                    return Err(wrong());
                }
                return Ok(json!(axes));
            }
            axes => axes.is_some(),
        },
        Kind::Shape => axes(&value).is_some_and(|axes| {
            let unknown = axes.iter().filter(|axis| **axis == -1).count();
            value.is_array() && unknown <= 1 && axes.iter().all(|axis| *axis >= -1)
        }),
        Kind::Order => axes(&value)
            .is_some_and(|axes| value.is_array() && (1..=axes.len() as i64).all(|axis| axes.contains(&axis))),
        Kind::IntegerOrNull => value.is_null() || value.is_i64(),
    };
    if fine { Ok(value) } else { Err(wrong()) }
}

fn is_count(n: u64) -> bool {
    (1..=i64::MAX as u64).contains(&n)
}

fn is_object(value: &Value) -> bool {
    value.get("class_name").is_some_and(Value::is_string)
}

/// So many integers from 1, or one for all.
fn counts(value: &Value, n: usize) -> Option<Vec<u64>> {
    let counts: Vec<u64> = match value {
        Value::Array(list) if list.len() == n => list.iter().map(Value::as_u64).collect::<Option<_>>()?,
        one => vec![one.as_u64()?; n],
    };
    counts.iter().copied().all(is_count).then_some(counts)
}

/// Two integers from 0, or one for both.
fn pair(value: &Value) -> Option<[u64; 2]> {
    let both = match value {
        Value::Array(list) if list.len() == 2 => [list[0].as_u64()?, list[1].as_u64()?],
        one => [one.as_u64()?; 2],
    };
    both.iter().all(|n| *n <= i64::MAX as u64).then_some(both)
}

/// An axis, or a list of some.
pub(super) fn axes(value: &Value) -> Option<Vec<i64>> {
    match value {
        Value::Array(list) => list.iter().map(Value::as_i64).collect(),
        one => Some(vec![one.as_i64()?]),
    }
}

fn expected(kind: Kind) -> String {
    match kind {
        Kind::Count => "an integer from 1".into(),
        Kind::Counts(1) => "an integer from 1, or a list of one".into(),
        Kind::Counts(n) => format!("an integer from 1, or a list of {n}"),
        Kind::CountsOr(n, other) => format!("null (as '{other}'), an integer from 1, or a list of {n}"),
        Kind::Pad => "an integer from 0, or a list of two: before and after".into(),
        Kind::Pads => "an integer from 0, or a list of two of them, or of two lists of two".into(),
        Kind::Choice(choices) => format!("one of \"{}\"", choices.join("\", \"")),
        Kind::Flag(_) => "true or false".into(),
        Kind::Number => "a number".into(),
        Kind::NumberOrNull => "a number or null".into(),
        Kind::Rate => "a number from 0 to 1".into(),
        Kind::Activation => format!("an object, null, or one of {}", ACTIVATIONS.join(", ")),
        Kind::Initializer => "a name, or an object with a \"class_name\"".into(),
        Kind::Optional => "null, a name, a list, or an object".into(),
        Kind::Null => "null".into(),
        Kind::Axis => "an axis: an integer from 1, or from the end, -1".into(),
        Kind::Axes(_) => "an axis or a list of them: integers from 1, or from the end, -1".into(),
        Kind::Shape => "a list of integers, of which one may be -1".into(),
        Kind::Order => "a list of all axes, from 1, in another order".into(),
        Kind::IntegerOrNull => "an integer or null".into(),
    }
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(Status::InvalidArgument, message)
}
