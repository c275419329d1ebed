//! The map of strings in a header: what this library has put there, and the rest.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::error::Result;
use crate::layout::put_json_string;
use crate::layout::safetensors::{CHECKSUMS, CONFIG, NAMES, OWN_PREFIX, ROW, STATE, state_spec};
use crate::memory;
use crate::reader::checksums::Checksums;
use crate::reader::json::{self, Object, quoted};
use crate::reader::source::damaged;

/// What the map says.
pub(super) struct Own {
    pub checksums: Checksums,
    /// Keras' names of the groups.
    pub names: BTreeMap<String, String>,
    pub config: Option<String>,
    /// What is not ours, as a JSON object; none if it is empty.
    pub metadata: Option<String>,
    /// The training state; an error if it is damaged, which keeps nobody from the tensors.
    pub state: Result<Option<Vec<u8>>>,
}

impl Own {
    /// From the map, JSON, if there is one.
    pub fn parse(map: Option<&str>) -> Result<Own> {
        let mut own = Own {
            checksums: Checksums::default(),
            names: BTreeMap::new(),
            config: None,
            metadata: None,
            state: Ok(None),
        };
        // The reference implementation takes a null for none.
        let Some(map) = map.filter(|map| *map != "null") else { return Ok(own) };
        let mut state = None;
        let mut metadata = Vec::new();
        for (key, value) in Object::parse(map)?.into_entries() {
            let context = |e: crate::error::Error| e.context(quoted(&key));
            let json = value;
            let value = json::text(json, "a string").map_err(context)?;
            match &*key {
                CHECKSUMS => own.checksums = checksums(&value).map_err(context)?,
                NAMES => own.names = names(&value).map_err(context)?,
                CONFIG => own.config = Some(memory::owned(value)?),
                STATE => state = Some(value),
                // Of a later version.
                key if key.starts_with(OWN_PREFIX) => (),
                key => {
                    let mut text = Vec::new();
                    put_json_string(&mut text, &value)?;
                    json::put_entry(&mut metadata, key, std::str::from_utf8(&text).unwrap_or_default())?;
                }
            }
        }
        own.metadata = json::end_of_entries(metadata)?;
        if let Some(state) = state {
            let state = state.trim_ascii_end().as_bytes();
            let checked = own.checksums.check(&state_spec(state.len()), crc32fast::hash(state));
            let copy = memory::collect(state.iter().copied())?;
            own.state = checked.map(|()| (!state.is_empty()).then_some(copy));
        }
        Ok(own)
    }
}

/// The table from its rows of hexadecimal digits.
fn checksums(text: &str) -> Result<Checksums> {
    let (rows, rest) = text.as_bytes().as_chunks::<ROW>();
    let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
    if !digits || !rest.is_empty() {
        return Err(damaged(format!("it is not a list of rows of {ROW} hexadecimal digits")));
    }
    let number = |digits: &[u8]| {
        digits.iter().fold(0, |n, &digit| n << 4 | u64::from((digit as char).to_digit(16).unwrap_or(0)))
    };
    Checksums::new(rows.iter().map(|row| {
        let (key, checksum) = row.split_at(16);
        (number(key), number(checksum))
    }))
}

/// The names from a JSON object.
fn names(text: &str) -> Result<BTreeMap<String, String>> {
    let entries = Object::parse(text)?.into_entries();
    // One after the other: collecting takes a list of all.
    let mut names = BTreeMap::new();
    for (group, name) in entries {
        names.insert(group.into_owned(), memory::owned(json::text(name, "a string")?)?);
    }
    Ok(names)
}
