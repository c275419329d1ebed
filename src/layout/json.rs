//! JSON that is looked at where it stands: nothing is parsed deeper than it is asked for, and what is copied from
//! one text into another stays as it was, Python's `NaN` and `Infinity` included.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::config::strict;

/// A text whose values can be looked at.
pub(super) struct Document<'a> {
    text: &'a str,
    /// The same text, each of Python's words replaced by a number of its length.
    strict: Cow<'a, str>,
}

/// The members of an object.
pub(super) type Object<'a> = BTreeMap<String, &'a RawValue>;

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str) -> Document<'a> {
        Document { text, strict: strict(text) }
    }

    /// The object that the text is, if it is one.
    pub(super) fn object(&self) -> Option<Object<'_>> {
        serde_json::from_str(&self.strict).ok()
    }

    /// A value of this document as it was written.
    pub(super) fn written(&self, value: &RawValue) -> &'a str {
        let at = (value.get().as_ptr() as usize).wrapping_sub(self.strict.as_ptr() as usize);
        at.checked_add(value.get().len()).and_then(|end| self.text.get(at..end)).unwrap_or("null")
    }
}

/// The members of a value that is an object.
pub(super) fn object(value: &RawValue) -> Option<Object<'_>> {
    serde_json::from_str(value.get()).ok()
}

/// The elements of a value that is an array.
pub(super) fn array(value: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(value.get()).ok()
}

/// A value that is a string.
pub(super) fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// A member that is a string.
pub(super) fn text(object: &Object, key: &str) -> Option<String> {
    object.get(key).and_then(|value| string(value))
}

/// Whether a member is given and not null.
pub(super) fn given(object: &Object, key: &str) -> bool {
    object.get(key).is_some_and(|value| value.get() != "null")
}

/// A member that is true or false.
pub(super) fn flag(object: &Object, key: &str) -> Option<bool> {
    match object.get(key)?.get() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A string as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An object of members that are JSON already.
pub(super) fn assembled<'a>(members: impl Iterator<Item = (&'a str, Cow<'a, str>)>) -> String {
    let members: Vec<_> = members.map(|(key, value)| format!("{}: {value}", quoted(key))).collect();
    format!("{{{}}}", members.join(", "))
}
