//! JSON from strangers: how deep it may be nested is bounded, a key that stands twice is refused, and the values of
//! an object are passed over until someone asks for one.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

use serde_core::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::source::damaged;
use crate::error::Result;
use crate::layout::put_json_string;
use crate::memory;

/// The most levels of nesting: formats have three, and their metadata may have a few.
const MAX_DEPTH: usize = 64;

/// An object: its keys, sorted as bytes, and their values as they stand in the text.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    entries: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// The object that is all of `json`.
    ///
    /// # Errors
    /// `Format` if it is not JSON, not an object, nested too deep, or has a key twice.
    pub fn parse(json: &'a str) -> Result<Object<'a>> {
        Object::parse_within(json, MAX_DEPTH)
    }

    /// As [`Object::parse`], of another depth at most.
    pub fn parse_within(json: &'a str, depth: usize) -> Result<Object<'a>> {
        check_depth(json, depth)?;
        let Entries(entries) = serde_json::from_str(json).map_err(|e| {
            damaged(match e.is_data() {
                true => format!("{} is not an object", quoted(json)),
                false => format!("it is not JSON: {e}"),
            })
        })?;
        let mut entries = entries?;
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
pub(crate) fn value<'a, T: Deserialize<'a>>(json: &'a str, expected: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|_| damaged(format!("{} is not {expected}", quoted(json))))
}

/// The text of a string; borrowed where it has no escapes.
///
/// # Errors
/// As [`value`].
pub(crate) fn text<'a>(json: &'a str, expected: &str) -> Result<Cow<'a, str>> {
    let bad = || damaged(format!("{} is not {expected}", quoted(json)));
    let inside =
        json.trim_ascii().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(bad)?;
    let Some(first) = inside.find('\\') else { return Ok(Cow::Borrowed(inside)) };
    // Not by the parser, which asks for memory in its own way.
    let (plain, mut rest) = inside.split_at(first);
    let mut text = memory::text(inside)?;
    text.clear();
    text.push_str(plain);
    while let Some(escape) = rest.strip_prefix('\\') {
        let (c, tail) = unescaped(escape).ok_or_else(bad)?;
        text.push(c);
        let (plain, tail) = tail.split_at(tail.find('\\').unwrap_or(tail.len()));
        text.push_str(plain);
        rest = tail;
    }
    Ok(Cow::Owned(text))
}

/// The character that is written so behind a backslash, and what follows it.
fn unescaped(escape: &str) -> Option<(char, &str)> {
    let (kind, rest) = escape.split_at_checked(1)?;
    let c = match kind {
        "\"" | "\\" | "/" => kind.chars().next()?,
        "b" => '\u{8}',
        "f" => '\u{c}',
        "n" => '\n',
        "r" => '\r',
        "t" => '\t',
        "u" => return code(rest),
        _ => return None,
    };
    Some((c, rest))
}

/// The character of four hexadecimal digits, or of two such codes.
fn code(text: &str) -> Option<(char, &str)> {
    let digits = |text: &'_ str| -> Option<u32> {
        let digits = text.get(..4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok()
    };
    let (first, rest) = (digits(text)?, text.get(4..)?);
    if !(0xd800..0xdc00).contains(&first) {
        return Some((char::from_u32(first)?, rest));
    }
    let second = rest.strip_prefix("\\u")?;
    let low = digits(second).filter(|low| (0xdc00..0xe000).contains(low))?;
    let c = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00))?;
    Some((c, second.get(4..)?))
}

/// A list of names.
///
/// # Errors
/// As [`value`].
pub(super) fn list<'a>(json: &'a str, expected: &str) -> Result<Vec<Cow<'a, str>>> {
    let List(names) = value(json, expected)?;
    names
}

/// A key or a value, for a message: shortened, and without what would garble a terminal.
pub(super) fn quoted(text: &str) -> String {
    let mut start: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        start.push_str("...");
    }
    format!("'{start}'")
}

/// Appends an entry to an object of entries alone.
pub(super) fn put_entry(object: &mut Vec<u8>, key: &str, value: &str) -> Result<()> {
    let before = if object.is_empty() { b'{' } else { b',' };
    memory::push(object, before)?;
    put_json_string(object, key)?;
    memory::push(object, b':')?;
    memory::append(object, value.as_bytes())
}

/// The object of all entries; none where there are none.
pub(super) fn end_of_entries(mut object: Vec<u8>) -> Result<Option<String>> {
    if object.is_empty() {
        return Ok(None);
    }
    memory::push(&mut object, b'}')?;
    String::from_utf8(object).map(Some).map_err(|e| damaged(format!("it is not UTF-8: {e}")))
}

/// Refuses text that is nested deeper than that.
fn check_depth(json: &str, most: usize) -> Result<()> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > most {
                    return Err(damaged(format!("its JSON is nested more than {most} levels deep")));
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The entries of an object in the order of the text.
struct Entries<'a>(Result<Vec<(Cow<'a, str>, &'a RawValue)>>);

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
                let mut kept = Ok(());
                while let Some((Text(key), value)) = map.next_entry()? {
                    kept = kept.and_then(|()| memory::push(&mut entries, (key, value)));
                }
                Ok(Entries(kept.map(|()| entries)))
            }
        }
        from.deserialize_map(Walk)
    }
}

/// The names in an array, in its order.
struct List<'a>(Result<Vec<Cow<'a, str>>>);

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = List<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an array of strings")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> std::result::Result<Self::Value, S::Error> {
                let mut names = Vec::new();
                let mut kept = Ok(());
                while let Some(Text(name)) = seq.next_element()? {
                    kept = kept.and_then(|()| memory::push(&mut names, name));
                }
                Ok(List(kept.map(|()| names)))
            }
        }
        from.deserialize_seq(Walk)
    }
}

/// A key or a name, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

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
        for (json, expected) in [
            (r#""a\"b""#, "a\"b"),
            (r#" "\\\/\b\f\n\r\t\u00e9\ud83d\ude00é" "#, "\\/\u{8}\u{c}\n\r\té\u{1f600}é"),
            (r#""""#, ""),
        ] {
            assert_eq!(text(json, "a string").unwrap(), expected);
            assert_eq!(value::<Text>(json, "a string").unwrap().0, expected);
        }
        for json in
            [r#""\ud83d""#, r#""\ud83dx""#, r#""\ude00""#, r#""\ud83d\ud83d""#, "1", "[]", "null", "\""]
        {
            assert!(text(json, "a string").is_err() && value::<Text>(json, "a string").is_err(), "{json}");
        }
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
