//! Memory of which a model or a file says how much: where it is not there, that is an error, not the end of the process.
//!
//! For what has a bound of its own (a name, a message, a node of a B-tree) the standard library's ways are good enough.
//! (But not to collect into a B-tree, or to sort stably: both take a list of all elements on the way.)
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};

/// There is no room for so many elements.
fn none<T>(count: usize) -> Error {
    Error::no_memory("what a checkpoint consists of", (count as u64).saturating_mul(size_of::<T>() as u64))
}

/// As an error of the system, where others are such.
pub(crate) fn io(_: Error) -> io::Error {
    io::Error::from_raw_os_error(libc::ENOMEM)
}

/// Makes room for `more` elements; as with `Vec::reserve`, for some beyond them, too.
pub(crate) fn reserve<T>(list: &mut Vec<T>, more: usize) -> Result<()> {
    list.try_reserve(more).map_err(|_| none::<T>(more))
}

/// Adds an element.
pub(crate) fn push<T>(list: &mut Vec<T>, value: T) -> Result<()> {
    reserve(list, 1)?;
    list.push(value);
    Ok(())
}

/// Adds bytes.
pub(crate) fn append<T: Copy>(list: &mut Vec<T>, values: &[T]) -> Result<()> {
    reserve(list, values.len())?;
    list.extend_from_slice(values);
    Ok(())
}

/// All elements.
pub(crate) fn collect<T>(items: impl IntoIterator<Item = T>) -> Result<Vec<T>> {
    try_collect(items.into_iter().map(Ok))
}

/// All elements, or the first error.
pub(crate) fn try_collect<T>(items: impl IntoIterator<Item = Result<T>>) -> Result<Vec<T>> {
    let items = items.into_iter();
    let mut list = Vec::new();
    let least = items.size_hint().0;
    list.try_reserve_exact(least).map_err(|_| none::<T>(least))?;
    items.into_iter().try_for_each(|item| push(&mut list, item?))?;
    Ok(list)
}

/// So many times the same.
pub(crate) fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| none::<T>(count))?;
    list.resize(count, value);
    Ok(list)
}

/// Makes a list at least so long.
pub(crate) fn lengthen(list: &mut Vec<u8>, len: usize) -> Result<()> {
    let more = len.saturating_sub(list.len());
    reserve(list, more)?;
    list.resize(list.len() + more, 0);
    Ok(())
}

/// A text of its own.
pub(crate) fn text(text: &str) -> Result<String> {
    let mut copy = String::new();
    copy.try_reserve_exact(text.len()).map_err(|_| none::<u8>(text.len()))?;
    copy.push_str(text);
    Ok(copy)
}

/// As [`text`], where it is not its own yet.
pub(crate) fn owned(text: Cow<'_, str>) -> Result<String> {
    match text {
        Cow::Owned(text) => Ok(text),
        Cow::Borrowed(text) => self::text(text),
    }
}

/// Adds an entry; gives the value that had the key.
pub(crate) fn insert<K: Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: V) -> Result<Option<V>> {
    map.try_reserve(1).map_err(|_| none::<(K, V)>(map.len() + 1))?;
    Ok(map.insert(key, value))
}

/// All entries.
pub(crate) fn map<K: Hash + Eq, V>(entries: impl IntoIterator<Item = (K, V)>) -> Result<HashMap<K, V>> {
    let mut map = HashMap::new();
    entries.into_iter().try_for_each(|(key, value)| insert(&mut map, key, value).map(|_| ()))?;
    Ok(map)
}

/// All elements, each once.
pub(crate) fn set<T: Hash + Eq>(items: impl IntoIterator<Item = T>) -> Result<HashSet<T>> {
    let mut set = HashSet::new();
    for item in items {
        reserve_set(&mut set, 1)?;
        set.insert(item);
    }
    Ok(set)
}

/// Makes room for more elements of a set.
pub(crate) fn reserve_set<T: Hash + Eq>(set: &mut HashSet<T>, more: usize) -> Result<()> {
    set.try_reserve(more).map_err(|_| none::<T>(set.len() + more))
}

/// What is behind an Arc, to be changed: a copy where others have it, too.
pub(crate) fn make_mut<T: Clone>(shared: &mut Arc<Vec<T>>) -> Result<&mut Vec<T>> {
    if Arc::get_mut(shared).is_none() {
        *shared = Arc::new(collect(shared.iter().cloned())?);
    }
    // It is nobody else's now: there are no weak references.
    Ok(Arc::make_mut(shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        for len in [isize::MAX as usize, usize::MAX] {
            assert_eq!(filled(0u8, len).unwrap_err().os(), libc::ENOMEM);
            assert_eq!(reserve(&mut Vec::<u64>::new(), len).unwrap_err().os(), libc::ENOMEM);
        }
    }

    #[test]
    fn what_others_have_too_is_copied() {
        let mut one = Arc::new(vec![1, 2]);
        let other = one.clone();
        make_mut(&mut one).unwrap().push(3);
        assert_eq!((&*one, &*other), (&vec![1, 2, 3], &vec![1, 2]));
    }
}
