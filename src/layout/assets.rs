//! The assets of a `.keras` file: what a layer keeps beside its weights, such as a vocabulary.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result, Status};
use crate::memory;

/// The directory of the archive that they are in.
pub(super) const DIRECTORY: &str = "assets/";

/// Bytes of a name: Keras unpacks the file below a directory of its own, and a path has at most 4,095.
const MAX_NAME: usize = 3 << 10;

/// Bytes of a component: what file systems have in common.
const MAX_COMPONENT: usize = 255;

/// Files by their names under `assets/`, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Assets(BTreeMap<String, Arc<Vec<u8>>>);

impl Assets {
    /// No assets.
    pub const fn new() -> Assets {
        Assets(BTreeMap::new())
    }

    /// Sets the bytes of an asset; one of that name is replaced. Nothing has changed after an error.
    pub fn set(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        let mut above = name.match_indices('/').filter_map(|(end, _)| name.get(..end));
        let file_above = above.find(|dir| self.0.contains_key(*dir));
        let inside = format!("{name}/");
        let next = self.0.range(inside.clone()..).next().map(|(other, _)| other.as_str());
        if let Some(other) = file_above.or(next.filter(|other| other.starts_with(&inside))) {
            return Err(bad(format!(
                "asset '{name}': the model has an asset '{other}', and a file cannot be a directory too"
            )));
        }
        self.0.insert(name.to_owned(), Arc::new(memory::collect(bytes.iter().copied())?));
        Ok(())
    }

    /// All of them, in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Vec<u8>>)> {
        self.0.iter().map(|(name, bytes)| (name.as_str(), bytes))
    }
}

/// Whether every program that unpacks the archive makes the same file of it, inside `assets/`.
fn check_name(name: &str) -> Result<()> {
    let long = |text: &str, what: &str, most: usize| {
        let start: String = text.chars().take(40).collect();
        bad(format!(
            "asset name{what} '{start}...' has {} bytes: a file system takes at most {most}",
            text.len()
        ))
    };
    if name.len() > MAX_NAME {
        return Err(long(name, "", MAX_NAME));
    }
    for part in name.split('/') {
        if part.len() > MAX_COMPONENT {
            return Err(long(part, ": the component", MAX_COMPONENT));
        }
        let problem = match part {
            "" => "an empty component",
            "." => "the component '.'",
            ".." => "the component '..'",
            p if p.contains('\0') => "a NUL",
            p if p.contains('\\') => "a backslash",
            _ => continue,
        };
        return Err(bad(format!(
            "asset name '{name}' has {problem}: expected components joined by '/', as in \
             'layers/string_lookup/vocabulary.txt'"
        )));
    }
    Ok(())
}

fn bad(message: String) -> Error {
    Error::new(Status::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(assets: &Assets) -> Vec<(&str, &[u8])> {
        assets.iter().map(|(name, bytes)| (name, bytes.as_slice())).collect()
    }

    #[test]
    fn the_last_bytes_of_a_name_count() {
        let mut assets = Assets::new();
        for (name, bytes) in [("b", "1"), ("a/c", ""), ("b", "22"), ("a.txt", "3"), ("größe ✓", "4")] {
            assets.set(name, bytes.as_bytes()).unwrap();
        }
        assert_eq!(all(&assets), [("a.txt", &b"3"[..]), ("a/c", b""), ("b", b"22"), ("größe ✓", b"4")]);
    }

    #[test]
    fn names_that_are_no_paths_are_refused() {
        let mut assets = Assets::new();
        for (name, part) in [
            ("", "an empty component"),
            ("/a", "an empty component"),
            ("a/", "an empty component"),
            ("a//b", "an empty component"),
            ("a/./b", "the component '.'"),
            ("../a", "the component '..'"),
            ("a\0b", "a NUL"),
            ("a/b\\c", "a backslash"),
        ] {
            let e = assets.set(name, b"1").unwrap_err();
            assert_eq!(e.status(), Status::InvalidArgument);
            assert!(e.message().contains(part), "{name}: {e}");
        }
        assert!(all(&assets).is_empty());
        let component = format!("{}n", "é".repeat(MAX_COMPONENT / 2));
        for (name, part) in [
            (format!("a/{component}n"), "has 256 bytes: a file system takes at most 255"),
            (format!("{}ab", "n/".repeat(MAX_NAME / 2)), "has 3074 bytes: a file system takes at most 3072"),
        ] {
            let e = assets.set(&name, b"").unwrap_err();
            assert!(e.message().contains(part), "{e}");
        }
        assets.set(&component, b"").unwrap();
        assets.set(&format!("{}n", "n/".repeat(MAX_NAME / 2 - 1)), b"").unwrap();
    }

    #[test]
    fn a_file_is_no_directory() {
        let mut assets = Assets::new();
        assets.set("a/b", b"1").unwrap();
        for name in ["a", "a/b/c", "a/b/c/d"] {
            let e = assets.set(name, b"2").unwrap_err();
            assert!(e.message().contains("an asset 'a/b'"), "{name}: {e}");
        }
        for name in ["a.", "a/b.c", "a/ba", "a0"] {
            assets.set(name, b"2").unwrap();
        }
        assets.set("a/b", b"3").unwrap();
        assert_eq!(all(&assets).len(), 5);
    }
}
