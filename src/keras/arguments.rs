//! The arguments of a layer or an optimizer: those that were given, checked and in Keras' form, and the defaults.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result, Status};
use crate::layout::MAX_NAME;

use super::table::{ACTIVATIONS, Argument, Default, Family, Kind};

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
        // What every layer has, some have in their own way.
        if complete.contains_key(argument.name) {
            continue;
        }
        let value = match given.remove(argument.name) {
            Some(value) => checked(argument, value).map_err(|e| e.context(who))?,
            None => default(who, argument)?,
        };
        if !(value.is_null() && matches!(argument.default, Default::LeftOut)) {
            complete.insert(argument.name.to_owned(), value);
        }
    }
    if let Some(unknown) = given.keys().next() {
        let mut names: Vec<&str> = all().map(|argument| argument.name).collect();
        names.sort_unstable();
        names.dedup();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
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
    match argument.default {
        Default::Needed => {
            Err(invalid(format!("{who} needs '{}': {}", argument.name, expected(argument.kind))))
        }
        Default::LeftOut => Ok(Value::Null),
        Default::Json(text) => {
            let value = serde_json::from_str(text)
                .map_err(|e| Error::new(Status::Internal, format!("{text}: {e}")))?;
            checked(argument, value)
        }
    }
}

/// A value that was given, in Keras' form.
fn checked(argument: &Argument, value: Value) -> Result<Value> {
    let name = argument.name;
    if value.is_null()
        && let (Kind::OrDefault(_), Default::Json(_)) = (argument.kind, argument.default)
    {
        return default("", argument);
    }
    in_form(argument.kind, &value).map_err(|wrong| match wrong {
        Wrong::Value => {
            invalid(format!("'{name}' is {}: it is to be {}", shown(&value), expected(argument.kind)))
        }
        Wrong::Never(why) => {
            Error::new(Status::Unsupported, format!("'{name}' is {}, not taken: {why}", shown(&value)))
        }
        Wrong::Within(e) => e.context(format_args!("'{name}'")),
    })
}

/// What is wrong with a value.
enum Wrong {
    /// It is not what is expected.
    Value,
    /// Keras takes it; it is not for here, since of this.
    Never(&'static str),
    /// Something in it.
    Within(Error),
}

fn in_form(kind: Kind, value: &Value) -> std::result::Result<Value, Wrong> {
    let form = |form: Option<Value>| form.ok_or(Wrong::Value);
    let fine = match kind {
        Kind::OrNull(_) | Kind::OrDefault(_) if value.is_null() => true,
        Kind::OrNull(kind) | Kind::OrDefault(kind) => return in_form(*kind, value),
        Kind::CountsOr(..) if value.is_null() => true,
        Kind::Number(from, to) => {
            return form(value.as_f64().filter(|n| (from..=to).contains(n)).map(Value::from));
        }
        Kind::Integer(from, to) => value.as_i64().is_some_and(|n| (from..=to).contains(&n)),
        Kind::Counts(n) | Kind::CountsOr(n, _) => return form(counts(value, n).map(Value::from)),
        Kind::Pad => return form(pair(value).map(|pair| json!(pair))),
        Kind::Pads => {
            let axes = match value {
                // One number an axis is both of its ends.
                Value::Array(axes) if axes.len() == 2 => [pair(&axes[0]), pair(&axes[1])],
                Value::Array(_) => [None, None],
                all => [pair(all), pair(all)],
            };
            let [Some(first), Some(second)] = axes else { return Err(Wrong::Value) };
            return Ok(json!([first, second]));
        }
        Kind::Choice(choices) => value.as_str().is_some_and(|text| choices.contains(&text)),
        Kind::Flag => value.is_boolean(),
        Kind::FlagOr(word) => value.is_boolean() || value == word,
        Kind::Never(why) if *value != Value::Bool(false) => return Err(Wrong::Never(why)),
        Kind::Nothing(why) if !value.is_null() => return Err(Wrong::Never(why)),
        Kind::Never(_) | Kind::Nothing(_) => true,
        Kind::Name => value.as_str().is_some_and(is_name),
        Kind::List(kind) => {
            let list = value.as_array().ok_or(Wrong::Value)?;
            return list
                .iter()
                .map(|one| in_form(*kind, one))
                .collect::<std::result::Result<_, _>>()
                .map(Value::Array);
        }
        Kind::Activation => match value {
            Value::Null => return Ok("linear".into()),
            Value::String(text) => ACTIVATIONS.contains(&&text[..]),
            other => is_object(other),
        },
        Kind::Object(family) => return object(family, value),
        Kind::Free => value.is_null() || value.is_string() || value.is_array() || value.is_object(),
        Kind::Axis => value.as_i64().is_some_and(|axis| axis != 0),
        Kind::Axes(as_list) => match axes(value) {
            Some(axes) if axes.is_empty() || axes.contains(&0) => false,
            Some(mut axes) if as_list => {
                // As they stand, from the end or not.
                axes.sort_unstable();
                return Ok(json!(axes));
            }
            axes => axes.is_some(),
        },
        Kind::Places => axes(value).is_some_and(|axes| !axes.is_empty()),
        Kind::Shape => value.as_array().is_some_and(|axes| {
            let is_open = |axis: &&Value| axis.is_null() || axis.as_i64() == Some(-1);
            axes.iter().filter(is_open).count() <= 1
                && axes.iter().all(|axis| axis.is_null() || axis.as_i64().is_some_and(|n| n >= -1))
        }),
        Kind::Order => axes(value)
            .is_some_and(|axes| value.is_array() && (1..=axes.len() as i64).all(|axis| axes.contains(&axis))),
        Kind::Clipping => value.as_object().is_some_and(|bounds| {
            let bound = |name| bounds.get(name).and_then(Value::as_f64);
            bounds.iter().all(|(name, n)| CLIPPING.contains(&&name[..]) && (n.is_number() || n.is_null()))
                && bound("rmin").zip(bound("rmax")).is_none_or(|(from, to)| from <= to)
                && bound("dmax").is_none_or(|n| n >= 0.0)
        }),
    };
    if fine { Ok(value.clone()) } else { Err(Wrong::Value) }
}

const CLIPPING: [&str; 3] = ["rmax", "rmin", "dmax"];

/// An object by its name or by its parts, as Keras writes it; one that is not Keras' own as it is.
fn object(family: &'static Family, value: &Value) -> std::result::Result<Value, Wrong> {
    let (class, config) = match value {
        Value::String(name) => (&name[..], Map::new()),
        Value::Object(parts) => {
            let is_keras = |module: &str| module == "keras" || module.starts_with("keras.");
            let class = parts.get("class_name").and_then(Value::as_str).ok_or(Wrong::Value)?;
            let is_kerass = parts.get("registered_name").is_none_or(Value::is_null)
                && parts.get("module").and_then(Value::as_str).is_none_or(is_keras);
            if !is_kerass {
                return Ok(value.clone());
            }
            let config = match parts.get("config") {
                None | Some(Value::Null) => Map::new(),
                Some(config) => config.as_object().cloned().ok_or(Wrong::Value)?,
            };
            (class, config)
        }
        _ => return Err(Wrong::Value),
    };
    let is_it = |member: &&super::table::Member| member.class == class || member.names.contains(&class);
    let member = family.members.iter().find(is_it).ok_or(Wrong::Value)?;
    let config = complete(member.class, &[member.arguments], config).map_err(Wrong::Within)?;
    Ok(super::keras_object(family.module, member.class, config))
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
        Kind::Number(from, to) => match (from > 0.0, from.is_finite(), to.is_finite()) {
            (true, ..) => "a number above 0".into(),
            (_, true, true) => format!("a number from {from} to {to}"),
            (_, true, false) => format!("a number from {from}"),
            _ => "a number".into(),
        },
        Kind::Integer(i64::MIN, _) => "an integer".into(),
        Kind::Integer(from, i64::MAX) => format!("an integer from {from}"),
        Kind::Integer(from, to) => format!("an integer from {from} to {to}"),
        Kind::Counts(1) => "an integer from 1, or a list of one".into(),
        Kind::Counts(n) => format!("an integer from 1, or a list of {n}"),
        Kind::CountsOr(n, other) => format!("null (as '{other}'), an integer from 1, or a list of {n}"),
        Kind::Pad => "an integer from 0, or a list of two: before and after".into(),
        Kind::Pads => "an integer from 0, or a list of two of them, or of two lists of two".into(),
        Kind::Choice(choices) => format!("one of \"{}\"", choices.join("\", \"")),
        Kind::Flag => "true or false".into(),
        Kind::FlagOr(word) => format!("true, false or \"{word}\""),
        Kind::Never(_) => "false".into(),
        Kind::Nothing(_) => "null".into(),
        Kind::Name => format!("text without NUL, of at most {MAX_NAME} bytes"),
        Kind::OrNull(kind) | Kind::OrDefault(kind) => format!("{}, or null", expected(*kind)),
        Kind::List(kind) => format!("a list, each {}", expected(*kind)),
        Kind::Activation => format!("an object, null, or one of {}", ACTIVATIONS.join(", ")),
        Kind::Object(family) => {
            let names: Vec<&str> = family.members.iter().map(|member| member.names[0]).collect();
            let (what, names) = (family.what, names.join(", "));
            format!("Keras' {what}: an object with its \"class_name\" and \"config\" or one of {names}")
        }
        Kind::Free => "null, a name, a list, or an object".into(),
        Kind::Axis => "an axis: an integer from 1, or from the end, -1".into(),
        Kind::Axes(_) => "an axis or a list of them: integers from 1, or from the end, -1".into(),
        Kind::Places => "an axis or a list of them: integers from 0, or from the end, -1".into(),
        Kind::Shape => "a list of integers, of which one may be -1 or null".into(),
        Kind::Order => "a list of all axes, from 1, in another order".into(),
        Kind::Clipping => {
            "an object with some of \"rmax\", \"rmin\", \"dmax\": numbers, rmin up to rmax, dmax from 0"
                .into()
        }
    }
}

/// A value in a message, which is to be read: the beginning of a long one.
pub(super) fn shown(value: &impl ToString) -> String {
    const MOST: usize = 200;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

/// Whether a file can have it as a group's name.
pub(super) fn is_name(text: &str) -> bool {
    !text.contains('\0') && text.len() <= MAX_NAME
}

pub(super) fn invalid(message: String) -> Error {
    Error::new(Status::InvalidArgument, message)
}
