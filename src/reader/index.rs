//! An index: a JSON file that says in which files beside it the parts of a checkpoint are.
//!
//! `{"metadata": {...}, "weight_map": {KEY: FILE or [FILE, ...]}}`, as Keras' `.weights.json` (the key is a group)
//! and `model.safetensors.index.json` (the key is a tensor) have it.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use super::json::{self, Object, quoted};
use super::source::{Source, damaged};
use crate::error::{Error, Result, Status};
use crate::layout::{MAX_INDEX, MAX_SHARDS};
use crate::memory;

/// What some programs put before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Whether a file that begins with `head` can be an index: an object, with nothing but white space before it.
pub(super) fn likely(head: &[u8]) -> bool {
    let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    text.trim_ascii_start().first() == Some(&b'{')
}

/// The most bytes of an index, and of a header of JSON: what the reference implementation of safetensors takes.
pub(super) const MAX_JSON: u64 = MAX_INDEX;

/// The most files of a checkpoint: each is held open.
const MAX_FILES: usize = MAX_SHARDS;

/// What an index says.
#[derive(Debug)]
pub(super) struct Index {
    /// The object `metadata`, JSON.
    pub metadata: Option<String>,
    /// The names of the files, each once and sorted. All are plain names: nothing leads out of the directory.
    pub files: Vec<String>,
    /// The keys, each once and sorted, and the places in `files` of the files that hold their parts; no list is empty.
    pub map: Vec<(String, Vec<usize>)>,
}

impl Index {
    /// Reads the index that is all of `source`.
    ///
    /// # Errors
    /// `Format` if it is none, has a key twice, or names a file that is not beside it.
    pub fn read(source: &Source) -> Result<Index> {
        if source.len() > MAX_JSON {
            return Err(damaged(format!(
                "as an index of files it has {} bytes, which no checkpoint needs: at most {MAX_JSON} are read",
                source.len()
            )));
        }
        let bytes = source.read_vec(0, source.len())?;
        Index::parse(&bytes).map_err(|e| e.context("as an index of files"))
    }

    fn parse(bytes: &[u8]) -> Result<Index> {
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).map_err(|e| damaged(format!("it is not UTF-8: {e}")))?;
        let whole = Object::parse(text)?;
        let Some(map) = whole.get("weight_map") else {
            return Err(damaged("it has no \"weight_map\""));
        };
        let map = Object::parse(map).map_err(|e| e.context("\"weight_map\""))?;
        let mut names = HashMap::new();
        let mut found = Vec::new();
        for (key, files) in map.into_entries() {
            let places = file_names(files)
                .and_then(|files| memory::try_collect(files.into_iter().map(|file| place(file, &mut names))))
                .map_err(|e| e.context(format_args!("\"weight_map\", {}", quoted(&key))))?;
            memory::push(&mut found, (key.into_owned(), places))?;
        }
        // The places are in the order in which the names were met: number them as they are sorted.
        let mut names: Vec<(Cow<str>, usize)> = memory::collect(names)?;
        names.sort_unstable();
        let mut rank = memory::filled(0, names.len())?;
        for (sorted, (_, met)) in names.iter().enumerate() {
            if let Some(rank) = rank.get_mut(*met) {
                *rank = sorted;
            }
        }
        for place in found.iter_mut().flat_map(|(_, places): &mut (_, Vec<usize>)| places) {
            *place = rank.get(*place).copied().unwrap_or_default();
        }
        let files = memory::collect(names.into_iter().map(|(name, _)| name.into_owned()))?;
        let metadata = whole.get("metadata").map(memory::text).transpose()?;
        Ok(Index { metadata, files, map: found })
    }

    /// Whether it names files, and all of them end in this.
    pub fn is_of(&self, ending: &str) -> bool {
        !self.files.is_empty() && self.files.iter().all(|file| file.ends_with(ending))
    }

    /// Opens one of the files, which lies beside the index: beside the name that it was opened by, or, where that is
    /// a link, beside the index itself.
    ///
    /// # Errors
    /// `Format` if there is no such file; `Io` if it cannot be opened.
    pub fn open(index: &Source, file: &str) -> Result<Source> {
        let beside = |path: &Path| Source::open(&path.with_file_name(file));
        let missing = |e: &Error| e.status() == Status::NotFound;
        let found = beside(index.path()).or_else(|e| match index.path().canonicalize() {
            Ok(real) if missing(&e) => beside(&real),
            _ => Err(e),
        });
        found.map_err(|e| match e.status() {
            Status::NotFound => {
                damaged(format!("it names '{file}', which is not beside it: copy all files of a checkpoint"))
            }
            _ => e,
        })
    }
}

/// One name, or a list of some.
fn file_names(value: &str) -> Result<Vec<Cow<'_, str>>> {
    const EXPECTED: &str = "the name of a file, or a list of some";
    if value.starts_with('[') {
        if value.bytes().filter(|b| *b == b',').count() >= MAX_FILES {
            return Err(too_many());
        }
        let names = json::list(value, EXPECTED)?;
        return if names.is_empty() { Err(damaged("it is in no file")) } else { Ok(names) };
    }
    json::text(value, EXPECTED).map(|name| vec![name])
}

/// The place of a file among those met so far.
fn place<'a>(file: Cow<'a, str>, names: &mut HashMap<Cow<'a, str>, usize>) -> Result<usize> {
    if let Some(place) = names.get(&file) {
        return Ok(*place);
    }
    check_plain(&file)?;
    let next = names.len();
    if next == MAX_FILES {
        return Err(too_many());
    }
    memory::insert(names, file, next)?;
    Ok(next)
}

fn too_many() -> Error {
    damaged(format!("it names more than {MAX_FILES} files, which no checkpoint needs"))
}

/// Refuses a name that could be of a file elsewhere.
fn check_plain(file: &str) -> Result<()> {
    let plain = !matches!(file, "" | "." | "..") && !file.contains(['/', '\0']) && file.len() <= 255;
    match plain {
        true => Ok(()),
        false => Err(Error::new(
            Status::Format,
            format!("{} is not the plain name of a file beside the index", quoted(file)),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Index> {
        Index::parse(json.as_bytes())
    }

    #[test]
    fn a_file_or_a_list_of_files_holds_a_key() {
        let index = parse(
            r#"{"metadata": {"total_size": 12}, "weight_map":
                {"/z/vars": "b.h5", "/a/vars": ["b.h5", "a.h5"], "/m/vars": ["c.h5"]}, "more": []}"#,
        )
        .unwrap();
        assert_eq!(index.metadata.as_deref(), Some(r#"{"total_size": 12}"#));
        assert_eq!(index.files, ["a.h5", "b.h5", "c.h5"]);
        let expected: [(&str, &[usize]); 3] = [("/a/vars", &[1, 0]), ("/m/vars", &[2]), ("/z/vars", &[1])];
        let expected = expected.map(|(key, places)| (key.to_owned(), places.to_vec()));
        assert_eq!(index.map, expected);
        let empty = parse(r#"{"weight_map": {}}"#).unwrap();
        assert!(empty.metadata.is_none() && empty.files.is_empty() && empty.map.is_empty());
    }

    #[test]
    fn white_space_and_a_byte_order_mark_may_come_first() {
        for before in ["", " ", "\n", "\r\n\t ", "\u{feff}", "\u{feff} \n"] {
            let json = format!(r#"{before}{{"weight_map": {{"k": "a"}}}}"#);
            assert!(likely(json.as_bytes()), "{before:?}");
            assert_eq!(parse(&json).unwrap().files, ["a"], "{before:?}");
        }
        for other in ["", " ", "\u{feff}", "[{", " \u{feff}{", "\0{"] {
            assert!(!likely(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn a_file_elsewhere_is_refused() {
        for name in ["", ".", "..", "/etc/passwd", "../x", "a/b", "a/", "nul\\u0000", &"n".repeat(256)] {
            let e = parse(&format!(r#"{{"weight_map": {{"k": "{name}"}}}}"#)).unwrap_err();
            assert_eq!(e.status(), Status::Format);
            assert!(e.message().contains("not the plain name of a file"), "{name}: {e}");
        }
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for (json, part) in [
            ("{}", "it has no \"weight_map\""),
            (r#"{"weight_map": []}"#, "\"weight_map\": '[]' is not an object"),
            (r#"{"weight_map": {"k": 1}}"#, "\"weight_map\", 'k': '1' is not the name of a file"),
            (r#"{"weight_map": {"k": null}}"#, "is not the name of a file"),
            (r#"{"weight_map": {"k": []}}"#, "it is in no file"),
            (r#"{"weight_map": {"k": ["a", 2]}}"#, "is not the name of a file"),
            (r#"{"weight_map": {"k": "a", "k": "b"}}"#, "'k' stands in it twice"),
            (r#"{"weight_map": {}, "weight_map": {}}"#, "'weight_map' stands in it twice"),
            (r#"{"weight_map": {"#, "it is not JSON"),
        ] {
            let e = parse(json).unwrap_err();
            assert!(e.message().contains(part), "{json}: {e}");
        }
        assert!(
            Index::parse(b"{\"weight_map\": {\"\xff\": \"a\"}}").unwrap_err().message().contains("UTF-8")
        );
        let deep = format!(r#"{{"weight_map": {{}}, "metadata": {}}}"#, "[".repeat(10_000));
        assert!(parse(&deep).unwrap_err().message().contains("levels deep"));
    }

    #[test]
    fn more_files_than_can_be_open_are_refused() {
        let map = |n: usize| {
            let entries: Vec<_> = (0..n).map(|i| format!("\"{i}\": \"{i}.h5\"")).collect();
            parse(&format!("{{\"weight_map\": {{{}}}}}", entries.join(", ")))
        };
        assert_eq!(map(MAX_FILES).unwrap().files.len(), MAX_FILES);
        assert!(map(MAX_FILES + 1).unwrap_err().message().contains("more than 10000 files"));
        let many = format!(r#"{{"weight_map": {{"k": ["a"{}]}}}}"#, r#", "a""#.repeat(MAX_FILES));
        assert!(parse(&many).unwrap_err().message().contains("more than 10000 files"));
    }
}
