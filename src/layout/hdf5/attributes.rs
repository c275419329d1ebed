//! Attributes of groups: texts, and lists of names as Keras has them in its legacy format.

use std::collections::BTreeMap;

use super::super::schema::NodeId;
use crate::error::{Error, Result, Status};
use crate::memory;

/// The most bytes of a list in one attribute, as fixed strings: Keras splits what is longer.
const MAX_LIST: usize = 64_512;

/// The value of an attribute.
#[derive(Debug)]
pub(in crate::layout) enum Attribute {
    /// A variable-length UTF-8 string.
    Text(String),
    /// Strings of one fixed length: at most [`MAX_LIST`] bytes.
    List(Vec<String>),
}

/// The attributes of the groups of a schema, beside Keras' `name`.
#[derive(Debug, Default)]
pub(in crate::layout) struct Attributes {
    groups: BTreeMap<NodeId, Vec<(String, Attribute)>>,
    /// See [`Attributes::list_bytes`].
    list_bytes: u64,
}

impl Attributes {
    /// Adds a text to a group.
    pub fn text(&mut self, group: NodeId, name: &str, text: &str) -> Result<()> {
        self.put(group, name.to_owned(), Attribute::Text(memory::text(text)?))
    }

    /// Adds a list of names to a group: `name`, or `name0`, `name1`, ... where it is longer than an attribute can
    /// be. The parts are Keras': the fewest of equal length, the first ones longer by 1, that all fit.
    pub fn list(&mut self, group: NodeId, name: &str, list: Vec<String>) -> Result<()> {
        let width = list.iter().map(String::len).max().unwrap_or(0).max(1);
        if width > MAX_LIST {
            return Err(Error::new(
                Status::Unsupported,
                format!("the legacy format has no room for a name of {width} bytes: at most {MAX_LIST}"),
            ));
        }
        self.list_bytes += list.iter().map(|text| (text.len() + size_of::<String>()) as u64).sum::<u64>();
        let parts = list.len().div_ceil(MAX_LIST / width).max(1);
        if parts == 1 {
            return self.put(group, name.to_owned(), Attribute::List(list));
        }
        let (len, longer) = (list.len() / parts, list.len() % parts);
        // The last part comes first.
        let mut rest = list.into_iter().rev();
        for part in (0..parts).rev() {
            let mut names = memory::collect(rest.by_ref().take(len + usize::from(part < longer)))?;
            names.reverse();
            self.put(group, format!("{name}{part}"), Attribute::List(names))?;
        }
        Ok(())
    }

    fn put(&mut self, group: NodeId, name: String, value: Attribute) -> Result<()> {
        memory::push(self.groups.entry(group).or_default(), (name, value))
    }

    /// Those of a group.
    pub(super) fn of(&self, group: NodeId) -> &[(String, Attribute)] {
        self.groups.get(&group).map_or(&[], Vec::as_slice)
    }

    /// Bytes of all lists together, as a reader has them in memory.
    pub(super) fn list_bytes(&self) -> u64 {
        self.list_bytes
    }

    /// Refuses texts that are longer than HDF5 can say.
    pub(super) fn check(&self) -> Result<()> {
        for (name, value) in self.groups.values().flatten() {
            if let Attribute::Text(text) = value
                && u32::try_from(text.len()).is_err()
            {
                let message = format!("'{name}' has {} bytes: an HDF5 string has less than 2^32", text.len());
                return Err(Error::new(Status::Unsupported, message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a list of `n` names of `width` bytes.
    fn parts(n: usize, width: usize) -> Vec<(String, usize)> {
        let mut attributes = Attributes::default();
        attributes.list(7, "names", vec!["x".repeat(width); n]).unwrap();
        let part = |(name, value): &(String, Attribute)| match value {
            Attribute::List(list) => (name.clone(), list.len()),
            Attribute::Text(_) => panic!("a text"),
        };
        let mut parts: Vec<_> = attributes.of(7).iter().map(part).collect();
        parts.sort();
        parts
    }

    #[test]
    fn lists_are_split_as_numpy_splits_arrays() {
        let named = |lens: &[usize]| -> Vec<(String, usize)> {
            lens.iter().enumerate().map(|(i, len)| (format!("names{i}"), *len)).collect()
        };
        assert_eq!(parts(0, 0), [("names".to_owned(), 0)]);
        assert_eq!(parts(2016, 32), [("names".to_owned(), 2016)]);
        assert_eq!(parts(2017, 32), named(&[1009, 1008]));
        assert_eq!(parts(5, 40_000), named(&[1; 5]));
        assert_eq!(parts(5, 32_256), named(&[2, 2, 1]));
        assert_eq!(parts(2, MAX_LIST), named(&[1, 1]));
        // 3 parts of 4 do not fit, since the first would be of 4.
        assert_eq!(parts(10, 21_504), named(&[3, 3, 2, 2]));
    }

    #[test]
    fn a_name_that_fits_no_attribute_is_refused() {
        let error = Attributes::default().list(0, "names", vec!["x".repeat(MAX_LIST + 1)]).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported);
    }
}
