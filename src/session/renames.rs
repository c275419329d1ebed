//! Names that differ between a checkpoint and a model: prefixes of their paths.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::HashMap;

use crate::error::{Error, Result, Status};

/// What begins with `model_prefix` in the model begins with `file_prefix` in the checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Rename<'a> {
    /// Whole components of a path, or nothing.
    pub file_prefix: &'a str,
    /// Whole components of a path, or nothing: every path begins with that.
    pub model_prefix: &'a str,
}

/// A map of prefixes; of those that fit a path, the longest counts.
#[derive(Clone, Debug, Default)]
pub struct Renames<'a> {
    by_model: HashMap<&'a str, &'a str>,
}

impl<'a> Renames<'a> {
    /// A map of these.
    ///
    /// # Errors
    /// `InvalidArgument` where a prefix is none, or stands in the list twice for the model.
    pub fn new(list: impl IntoIterator<Item = Rename<'a>>) -> Result<Renames<'a>> {
        let mut by_model = HashMap::new();
        for (i, Rename { file_prefix, model_prefix }) in list.into_iter().enumerate() {
            for (field, prefix) in [("file_prefix", file_prefix), ("model_prefix", model_prefix)] {
                if !prefix.is_empty() && prefix.split('/').any(str::is_empty) {
                    return Err(invalid(format!(
                        "renames[{i}].{field} '{prefix}' has an empty component: expected whole components, as in \
                         'layers/dense', or nothing at all"
                    )));
                }
            }
            if by_model.insert(model_prefix, file_prefix).is_some() {
                return Err(invalid(format!(
                    "renames[{i}].model_prefix '{model_prefix}' stands in an earlier entry too: one each"
                )));
            }
        }
        Ok(Renames { by_model })
    }

    /// What a path of the model is in the checkpoint.
    pub(super) fn in_file<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if self.by_model.is_empty() {
            return path.into();
        }
        let ends = std::iter::once(path.len()).chain(path.rmatch_indices('/').map(|(end, _)| end)).chain([0]);
        for (prefix, rest) in ends.filter_map(|end| path.split_at_checked(end)) {
            if let Some(file) = self.by_model.get(prefix) {
                let rest = rest.trim_start_matches('/');
                let between = if file.is_empty() || rest.is_empty() { "" } else { "/" };
                return [file, between, rest].concat().into();
            }
        }
        path.into()
    }
}

fn invalid(message: String) -> Error {
    Error::new(Status::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renames<'a>(list: &[(&'a str, &'a str)]) -> Result<Renames<'a>> {
        Renames::new(list.iter().map(|&(model_prefix, file_prefix)| Rename { file_prefix, model_prefix }))
    }

    #[test]
    fn the_longest_prefix_of_whole_components_counts() {
        let map = renames(&[("a", "x"), ("a/b", "y/z"), ("a/b/c", ""), ("d/e", "f")]).unwrap();
        for (model, file) in [
            ("a", "x"),
            ("a/d", "x/d"),
            ("a/b", "y/z"),
            ("a/b/d/e", "y/z/d/e"),
            ("a/b/c/d", "d"),
            ("a/b/c", ""),
            ("ab", "ab"),
            ("a/bc", "x/bc"),
            ("d", "d"),
            ("d/e/0", "f/0"),
            ("z/a", "z/a"),
        ] {
            assert_eq!(map.in_file(model), file, "{model}");
        }
        let map = renames(&[("", "root"), ("a", "b")]).unwrap();
        assert_eq!((&*map.in_file("a/c"), &*map.in_file("c/a")), ("b/c", "root/c/a"));
        let map = renames(&[]).unwrap();
        assert!(matches!(map.in_file("a"), Cow::Borrowed("a")));
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for (list, says) in [
            (&[("a", "b"), ("c/", "d")][..], "renames[1].model_prefix 'c/' has an empty component"),
            (&[("a", "/b")], "renames[0].file_prefix '/b' has an empty component"),
            (&[("a", "b"), ("b", "c"), ("a", "b")], "renames[2].model_prefix 'a' stands in an earlier entry"),
            (&[("", "b"), ("", "c")], "renames[1].model_prefix '' stands in an earlier entry"),
        ] {
            let error = renames(list).unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument);
            assert!(error.message().contains(says), "{error}");
        }
    }
}
