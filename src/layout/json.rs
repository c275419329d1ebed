//! JSON that is looked at where it stands: nothing is parsed deeper than it is asked for, and what is copied from
//! one text into another stays as it was, Python's `NaN` and `Infinity` included.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::bytes::Put;
use super::config::strict;
use crate::error::{Error, Result, Status};
use crate::memory;

/// A text whose values can be looked at.
pub(super) struct Document<'a> {
    text: &'a str,
    /// The same text, each of Python's words replaced by a number of its length.
    strict: Cow<'a, str>,
}

/// The members of an object.
pub(super) type Object<'a> = BTreeMap<String, &'a RawValue>;

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str) -> Result<Document<'a>> {
        Ok(Document { text, strict: strict(text)? })
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
pub(super) fn array(value: &RawValue) -> Option<Elements<'_>> {
    value.get().strip_prefix('[').map(|rest| Elements { rest })
}

/// The elements of an array, one after the other.
#[derive(Clone)]
pub(super) struct Elements<'a> {
    /// What is behind the bracket, or the comma: valid JSON.
    rest: &'a str,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a RawValue;

    fn next(&mut self) -> Option<&'a RawValue> {
        let (mut depth, mut in_string, mut escaped) = (0u64, false, false);
        let end = self.rest.bytes().position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b'{' | b'[' => depth += 1,
                b',' | b']' if depth == 0 => return true,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            false
        })?;
        let (element, tail) = self.rest.split_at_checked(end)?;
        self.rest = tail.strip_prefix(',').unwrap_or_default();
        // In an array without any there is nothing.
        serde_json::from_str(element).ok()
    }
}

/// A value that is a string: a name, of whatever it is.
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

/// Appends a string of JSON.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) -> Result<()> {
    put_quoted(out, text.as_bytes())
}

/// As [`put_string`], of bytes that are UTF-8.
pub(super) fn put_quoted(out: &mut Vec<u8>, text: &[u8]) -> Result<()> {
    let more = text.iter().map(|byte| match byte {
        b'"' | b'\\' | 0x08 | 0x09 | 0x0a | 0x0c | 0x0d => 1,
        0..0x20 => 5,
        _ => 0,
    });
    out.make_room(text.len() + more.sum::<usize>() + 2)?;
    out.put_u8(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.put(&[b'\\', byte]),
            0x08 => out.put(b"\\b"),
            0x09 => out.put(b"\\t"),
            0x0a => out.put(b"\\n"),
            0x0c => out.put(b"\\f"),
            0x0d => out.put(b"\\r"),
            0..0x20 => out.put(format!("\\u{byte:04x}").as_bytes()),
            _ => out.put_u8(byte),
        }
    }
    out.put_u8(b'"');
    Ok(())
}

/// A text of JSON that grows. Where there is no memory for more of it, its end says so.
#[derive(Default)]
pub(super) struct Text {
    bytes: Vec<u8>,
    failure: Option<Error>,
}

impl Text {
    /// Appends what is JSON already.
    pub(super) fn push(&mut self, text: &str) {
        let pushed = memory::append(&mut self.bytes, text.as_bytes());
        self.note(pushed);
    }

    /// Appends a string.
    pub(super) fn quote(&mut self, text: &str) {
        let quoted = put_string(&mut self.bytes, text);
        self.note(quoted);
    }

    /// Appends an object of members whose values `put` appends.
    pub(super) fn object<K: AsRef<str>, V>(
        &mut self,
        members: impl IntoIterator<Item = (K, V)>,
        mut put: impl FnMut(&mut Text, &str, V),
    ) {
        self.push("{");
        for (i, (key, value)) in members.into_iter().enumerate() {
            self.push(if i > 0 { ", " } else { "" });
            self.quote(key.as_ref());
            self.push(": ");
            put(self, key.as_ref(), value);
        }
        self.push("}");
    }

    /// Appends an array of values that `put` appends.
    pub(super) fn array<V>(&mut self, values: impl Iterator<Item = V>, mut put: impl FnMut(&mut Text, V)) {
        self.push("[");
        for (i, value) in values.enumerate() {
            self.push(if i > 0 { ", " } else { "" });
            put(self, value);
        }
        self.push("]");
    }

    fn note(&mut self, done: Result<()>) {
        self.failure = self.failure.take().or(done.err());
    }

    /// The text.
    pub(super) fn finish(self) -> Result<String> {
        match self.failure {
            Some(failure) => Err(failure),
            None => String::from_utf8(self.bytes)
                .map_err(|e| Error::new(Status::Internal, format!("a text of JSON is not UTF-8: {e}"))),
        }
    }
}
