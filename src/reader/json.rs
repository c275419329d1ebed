//! JSON from strangers: how deep it may be nested is bounded, a key that stands twice is refused, and the values of
//! an object are passed over until someone asks for one.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

use serde_core::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::source::damaged;
use crate::error::Result;

/// The most levels of nesting: formats have three, and their metadata may have a few.
const MAX_DEPTH: usize = 64;

/// An object: its keys, sorted as bytes, and their values as they stand in the text.
#[derive(Debug)]
pub(super) struct Object<'a> {
    entries: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// The object that is all of `json`.
    ///
    /// # Errors
    /// `Format` if it is not JSON, not an object, nested too deep, or has a key twice.
    pub fn parse(json: &'a str) -> Result<Object<'a>> {
        check_depth(json)?;
        let Entries(mut entries) = serde_json::from_str(json).map_err(|e| {
            damaged(match e.is_data() {
                true => format!("{} is not an object", quoted(json)),
                false => format!("it is not JSON: {e}"),
            })
        })?;
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let twice = entries.windows(2).find_map(|pair| match pair {
            [a, b] if a.0 == b.0 => Some(&a.0),
            _ => None,
        });
        match twice {
            Some(key) => Err(damaged(format!("{} stands in it twice", quoted(key)))),
            None => Ok(Object { entries }),
        }
    }

    /// The value of a key, as JSON.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let place = self.entries.binary_search_by(|(k, _)| (**k).cmp(key));
        place.ok().and_then(|i| self.entries.get(i)).map(|(_, value)| value.get())
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The keys, sorted as bytes, and their values as JSON.
    pub fn into_entries(self) -> impl Iterator<Item = (Cow<'a, str>, &'a str)> {
        self.entries.into_iter().map(|(key, value)| (key, value.get()))
    }
}

/// The value that `json` is. `expected` says what that is, for the message.
///
/// # Errors
/// `Format` if it is something else.
pub(super) fn value<'a, T: Deserialize<'a>>(json: &'a str, expected: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|_| damaged(format!("{} is not {expected}", quoted(json))))
}

/// A string, as JSON.
pub(super) fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A key or a value, for a message: shortened, and without what would garble a terminal.
pub(super) fn quoted(text: &str) -> String {
    let mut start: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        start.push_str("...");
    }
    format!("'{start}'")
}

/// Refuses text that is nested deeper than [`MAX_DEPTH`].
fn check_depth(json: &str) -> Result<()> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(damaged(format!("its JSON is nested more than {MAX_DEPTH} levels deep")));
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The entries of an object in the order of the text.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Self::Value, M::Error> {
                let mut entries = Vec::new();
                while let Some((Text(key), value)) = map.next_entry()? {
                    entries.try_reserve(1).map_err(M::Error::custom)?;
                    entries.push((key, value));
                }
                Ok(Entries(entries))
            }
        }
        from.deserialize_map(Walk)
    }
}

/// A string, borrowed where it has no escapes.
pub(super) struct Text<'a>(pub Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Walk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        Object::parse(json).unwrap_err().message().to_owned()
    }

    #[test]
    fn an_object_gives_its_values_as_they_stand() {
        let json = r#" {"b": {"x": [1, "}"]}, "a\u0062": "\"", "": null} "#;
        let object = Object::parse(json).unwrap();
        assert_eq!((object.len(), object.get("b"), object.get("c")), (3, Some(r#"{"x": [1, "}"]}"#), None));
        let keys: Vec<_> = object.into_entries().map(|(key, _)| key).collect();
        assert_eq!(keys, ["", "ab", "b"]);
        assert_eq!(value::<Text>(r#""a\"b""#, "a string").unwrap().0, "a\"b");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in
            ["", "{", "{}}", "{'a': 1}", r#"{"a": 1,}"#, r#"{"a": nan}"#, r#"{"\ud800": 1}"#, "{\"\0\": 1}"]
        {
            assert!(error(json).contains("it is not JSON"), "{json}: {}", error(json));
        }
        for json in ["[]", "null", "\"x\"", "17"] {
            assert!(error(json).contains("is not an object"), "{json}: {}", error(json));
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_however_it_is_spelt() {
        assert_eq!(error(r#"{"ab": 1, "c": 2, "a\u0062": 3}"#), "'ab' stands in it twice");
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| format!(r#"{{"a": {}1{}}}"#, "[".repeat(n), "]".repeat(n));
        Object::parse(&nested(MAX_DEPTH - 1)).unwrap();
        assert!(error(&nested(MAX_DEPTH)).contains("levels deep"));
        assert!(error(&nested(1_000_000)).contains("levels deep"));
        Object::parse(&format!(r#"{{"{}": "\"{}"}}"#, "[".repeat(99), "{".repeat(99))).unwrap();
    }

    #[test]
    fn a_message_shows_the_beginning_of_what_is_long_or_odd() {
        assert_eq!(quoted("a\x1b[2J\n'"), r"'a\u{1b}[2J\n\''");
        assert_eq!(quoted(&"x".repeat(1000)).len(), 85);
    }
}
