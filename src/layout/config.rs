//! The check of `config.json`: what Keras must find in it to make a model of it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::error::{Error, Result, Status};
use crate::memory;

/// Whether `json` can be the configuration of a `.keras` file: JSON, an object, with what Keras' deserialization
/// reads first: strings `class_name` and `module`, an object `config`, and a string or null as
/// `registered_name` where that is given. What is inside `config` is only checked to be JSON.
///
/// As Python's JSON, it may hold `NaN`, `Infinity` and `-Infinity`: Keras writes and reads them.
///
/// A `module` of null is how Keras says that the class is not in its modules: then a `registered_name` must be.
pub fn check_config(json: &str) -> Result<()> {
    let json = &*strict(json)?;
    // Raw values are skipped over without recursion and without a copy.
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(json).map_err(|e| {
        let what = if e.is_data() { "is not a JSON object" } else { "is not JSON" };
        bad(format!("{what}: {e}"))
    })?;
    let kind = |key: &str| fields.get(key).map(|value| Kind::of(value));
    let expect = |key: &str, found: Option<Kind>, fine: bool, expected: &str| match found {
        _ if fine => Ok(()),
        None => Err(bad(format!("has no \"{key}\": expected {expected}"))),
        Some(kind) => Err(bad(format!("has {kind} as \"{key}\": expected {expected}", kind = kind.text()))),
    };
    let class = kind("class_name");
    expect("class_name", class, class == Some(Kind::String), "the class of the model, as in \"Functional\"")?;
    let config = kind("config");
    expect("config", config, config == Some(Kind::Object), "an object with the arguments of the class")?;
    let registered = kind("registered_name");
    let optional = matches!(registered, None | Some(Kind::String | Kind::Null));
    expect("registered_name", registered, optional, "a string or null")?;
    let module = kind("module");
    let custom = module == Some(Kind::Null) && registered == Some(Kind::String);
    let named = module == Some(Kind::String) || custom;
    expect(
        "module",
        module,
        named,
        "the module of the class, as in \"keras\" or \"keras.src.models.functional\"",
    )
}

/// The text with a number of the same length for each of Python's words that JSON does not have.
pub(super) fn strict(json: &str) -> Result<Cow<'_, str>> {
    if !json.contains("NaN") && !json.contains("Infinity") {
        return Ok(Cow::Borrowed(json));
    }
    // Between the quotes of strings; an escaped quote ends none.
    let mut out = memory::text(json)?;
    out.clear();
    let mut rest = json;
    while let Some(quote) = rest.find('"') {
        let (outside, string) = rest.split_at(quote);
        let mut escaped = false;
        let end = string.bytes().skip(1).position(|b| {
            let ends = b == b'"' && !escaped;
            escaped = b == b'\\' && !escaped;
            ends
        });
        let (string, tail) = string.split_at(end.map_or(string.len(), |end| end + 2));
        replace_words(outside, &mut out);
        out.push_str(string);
        rest = tail;
    }
    replace_words(rest, &mut out);
    Ok(Cow::Owned(out))
}

/// Appends text without strings, Python's words in it replaced: whole ones, since JSON has none with such a part.
fn replace_words(text: &str, out: &mut String) {
    let in_word = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
    let mut rest = text;
    while let Some(start) = rest.find(in_word) {
        let (gap, tail) = rest.split_at(start);
        let (word, tail) = tail.split_at(tail.find(|c| !in_word(c)).unwrap_or(tail.len()));
        out.push_str(gap);
        out.push_str(match word {
            "NaN" => "111",
            "Infinity" => "11111111",
            "-Infinity" => "-11111111",
            other => other,
        });
        rest = tail;
    }
    out.push_str(rest);
}

/// What a JSON value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

impl Kind {
    fn of(value: &RawValue) -> Kind {
        match value.get().bytes().next() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Kind::Object => "an object",
            Kind::Array => "an array",
            Kind::String => "a string",
            Kind::Number => "a number",
            Kind::Bool => "a boolean",
            Kind::Null => "null",
        }
    }
}

fn bad(problem: String) -> Error {
    let message = format!(
        "config_json {problem}; Keras writes it as json.dumps(keras.saving.serialize_keras_object(model))"
    );
    Error::new(Status::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keras_writes_passes() {
        for json in [
            r#"{"module": "keras", "class_name": "Sequential", "config": {"layers": []}, "registered_name": null}"#,
            r#" {"class_name": "Functional", "config": {}, "module": "keras.src.models.functional"} "#,
            r#"{"module": "NaN \" NaN\\", "class_name": "M", "config": {"a": [NaN, Infinity, -Infinity, "NaN"]}}"#,
            r#"{"module": null, "class_name": "Mine", "config": {}, "registered_name": "pack>Mine"}"#,
        ] {
            check_config(json).unwrap();
        }
    }

    #[test]
    fn what_keras_cannot_read_is_refused_and_named() {
        for (json, part) in [
            ("", "is not JSON"),
            ("{", "is not JSON"),
            ("{}}", "is not JSON"),
            ("[]", "is not a JSON object"),
            ("null", "is not a JSON object"),
            ("{}", "has no \"class_name\""),
            (r#"{"class_name": 1, "config": {}, "module": "keras"}"#, "has a number as \"class_name\""),
            (r#"{"class_name": "M", "module": "keras"}"#, "has no \"config\""),
            (r#"{"class_name": "M", "config": [], "module": "keras"}"#, "has an array as \"config\""),
            (r#"{"class_name": "M", "config": {}}"#, "has no \"module\""),
            (r#"{"class_name": "M", "config": {}, "module": null}"#, "has null as \"module\""),
            (
                r#"{"class_name": "M", "config": {}, "module": "m", "registered_name": {}}"#,
                "has an object as \"registered_name\"",
            ),
            (r#"{"class_name": "M", "config": {"a": nan}, "module": "keras"}"#, "is not JSON"),
            (r#"{"class_name": "M", "config": {"a": --Infinity}, "module": "keras"}"#, "is not JSON"),
            (r#"{"class_name": "M", "config": {"a": -NaN}, "module": "keras"}"#, "is not JSON"),
            (r#"{"class_name": "M", "config": {"a": 1NaN}, "module": "keras"}"#, "is not JSON"),
            (r#"{"class_name": "M", "config": {"a": 1eInfinity}, "module": "keras"}"#, "is not JSON"),
            (r#"{"class_name": NaN, "config": {}, "module": "keras"}"#, "has a number as \"class_name\""),
        ] {
            let e = check_config(json).unwrap_err();
            assert_eq!(e.status(), Status::InvalidArgument);
            assert!(e.message().contains(part), "{json}: {e}");
        }
    }

    #[test]
    fn depth_and_size_do_no_harm() {
        let deep = 1_000_000;
        let open =
            format!(r#"{{"module": "keras", "class_name": "M", "config": {{"a": {}"#, "[".repeat(deep));
        assert!(check_config(&open).is_err());
        check_config(&format!("{open}{}}}}}", "]".repeat(deep))).unwrap();
        check_config(&"[".repeat(deep)).unwrap_err();
    }
}
