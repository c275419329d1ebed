//! What former versions of Keras called the variables: they get their paths of today.
//!
//! - Keras 2.12 and 2.13 have `_layer_checkpoint_dependencies` for the `layers` of a model. They count a layer with
//!   weights twice there, one without once: the second Dense is `dense_2`.
//! - Keras 2 has `_query_dense`, `_key_dense`, ... for the parts of a MultiHeadAttention.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::content::Content;
use super::hdf5;
use crate::error::Result;
use crate::memory;

/// The container of a model's layers in Keras 2.12 and 2.13.
const LAYERS: &str = "_layer_checkpoint_dependencies";

/// The parts of a MultiHeadAttention in Keras 2.
const ATTENTION: [&str; 4] = ["_query_dense", "_key_dense", "_value_dense", "_output_dense"];

/// Gives the tensors and the groups their paths of today; those in the file become aliases. A tensor whose path of
/// today is another's stays where it is. In a file of this library nothing moves, since the checksums there are
/// over the paths: the paths of today are the aliases.
pub(super) fn adopt(content: &mut Content) -> Result<()> {
    // Every component that is called otherwise today, and the container of every such layer, begins so.
    let has_former = |path: &str| path.starts_with('_') || path.contains("/_");
    if !content.tensors.iter().any(|spec| has_former(&spec.path)) {
        return Ok(());
    }
    let counts = Counts::new(content.tensors.iter().map(|spec| &*spec.path))?;
    let moves = memory::collect(content.tensors.iter().map(|spec| counts.today(&spec.path)))?;
    if moves.iter().all(Option::is_none) {
        return Ok(());
    }
    if content.covered().next().is_some() {
        for (index, path) in moves.into_iter().enumerate() {
            if let Some(path) = path.filter(|path| content.find(path).is_none()) {
                content.aliases.insert(path, index);
            }
        }
        return Ok(());
    }
    let mut names = BTreeMap::new();
    for (group, name) in &content.names {
        names.entry(counts.today(group).unwrap_or_else(|| group.clone())).or_insert_with(|| name.clone());
    }
    content.names = names;
    rename(content, moves)
}

/// Gives the tensors these paths.
fn rename(content: &mut Content, moves: Vec<Option<String>>) -> Result<()> {
    let mut taken = memory::set(content.tensors.iter().map(|spec| spec.path.clone()))?;
    // At most one path more for each.
    memory::reserve_set(&mut taken, moves.len())?;
    let mut places = memory::filled(0, moves.len())?;
    let tensors = std::mem::take(&mut content.tensors).into_iter().zip(content.spots.drain(..));
    let mut all = Vec::new();
    memory::reserve(&mut all, moves.len())?;
    for (was, ((mut spec, spot), path)) in tensors.zip(moves).enumerate() {
        let path = path.filter(|path| taken.insert(path.clone()));
        let former = path.map(|path| std::mem::replace(&mut spec.path, path));
        all.push((spec, spot, was, former));
    }
    all.sort_unstable_by(|a, b| hdf5::path_order(&a.0.path, &b.0.path));
    let mut aliases = Vec::new();
    for (index, (spec, spot, was, former)) in all.into_iter().enumerate() {
        memory::push(&mut content.tensors, spec)?;
        memory::push(&mut content.spots, spot)?;
        if let Some(place) = places.get_mut(was) {
            *place = index;
        }
        if let Some(former) = former {
            memory::push(&mut aliases, (former, index))?;
        }
    }
    for index in content.aliases.values_mut() {
        *index = places.get(*index).copied().unwrap_or(*index);
    }
    content.aliases.extend(aliases);
    Ok(())
}

/// The numbers of the layers with weights, sorted, by container and class; none where Keras does not count so.
struct Counts<'a>(BTreeMap<(&'a str, &'a str), Option<Vec<u64>>>);

impl<'a> Counts<'a> {
    fn new(paths: impl Iterator<Item = &'a str>) -> Result<Counts<'a>> {
        let mut all: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for (container, key) in paths.flat_map(layers) {
            let (class, number) = numbered(key);
            let numbers = all.entry((container, class)).or_default();
            if numbers.last() != Some(&number) {
                memory::push(numbers, number)?;
            }
        }
        let mut counts = BTreeMap::new();
        counts.extend(all.into_iter().map(|(class, mut numbers)| {
            numbers.sort_unstable();
            numbers.dedup();
            let fit = numbers.windows(2).all(|pair| matches!(pair, [a, b] if b - a > 1));
            (class, fit.then_some(numbers))
        }));
        Ok(Counts(counts))
    }

    /// The path of today, where it is another and can be told.
    fn today(&self, path: &str) -> Option<String> {
        let mut today: Vec<String> = Vec::new();
        let mut keys = layers(path);
        let mut above = "";
        for part in path.split('/') {
            today.push(match part {
                _ if above == LAYERS => self.key(keys.next()?)?,
                LAYERS => "layers".to_owned(),
                part if ATTENTION.contains(&part) && above.starts_with("multi_head_attention") => {
                    part.trim_start_matches('_').to_owned()
                }
                part => part.to_owned(),
            });
            above = part;
        }
        Some(today.join("/")).filter(|today| today != path)
    }

    /// What a layer is called today: each with weights before it is counted once less.
    fn key(&self, (container, key): (&str, &str)) -> Option<String> {
        let (class, number) = numbered(key);
        let before = match self.0.get(&(container, class)) {
            Some(numbers) => numbers.as_ref()?.partition_point(|&other| other < number) as u64,
            None => 0,
        };
        let number = number.checked_sub(before)?;
        Some(if number == 0 { class.to_owned() } else { format!("{class}_{number}") })
    }
}

/// The layers on the way to a tensor that are in a container of [`LAYERS`]: the container's path, the layer's key.
fn layers(path: &str) -> impl Iterator<Item = (&str, &str)> {
    path.match_indices('/').filter_map(move |(at, _)| {
        let (container, rest) = path.split_at_checked(at)?;
        let is_layers = container.rsplit('/').next() == Some(LAYERS);
        is_layers.then(|| (container, rest.split('/').nth(1).unwrap_or_default()))
    })
}

/// The class and the number in a layer's key: `dense` and 2 of `dense_2`.
fn numbered(key: &str) -> (&str, u64) {
    let parts = key.rsplit_once('_').filter(|(_, number)| !number.starts_with(['0', '+']));
    parts.and_then(|(class, number)| Some((class, number.parse().ok()?))).unwrap_or((key, 0))
}

#[cfg(test)]
mod tests {
    use super::super::content::Spot;
    use super::*;
    use crate::tensor::{Dtype, TensorSpec};

    fn content(paths: &[String], names: &[(&str, &str)]) -> Content {
        let tensor = |path: &String| TensorSpec { path: path.clone(), dtype: Dtype::F32, shape: vec![] };
        let mut tensors: Vec<_> = paths.iter().map(tensor).collect();
        tensors.sort_by(|a, b| hdf5::path_order(&a.path, &b.path));
        Content {
            files: Vec::new(),
            spots: (0..tensors.len()).map(|i| Spot::here(0, i as u64)).collect(),
            data: Vec::new(),
            tensors,
            names: names
                .iter()
                .map(|(group, name)| (group.replace("L/", &format!("{LAYERS}/")), (*name).to_owned()))
                .collect(),
            aliases: BTreeMap::new(),
            unlisted: None,
            state: Ok(None),
            config: None,
            metadata: None,
            archive: None,
        }
    }

    /// `L/` stands for the container.
    fn adopted(paths: &[&str], names: &[(&str, &str)]) -> Content {
        let paths: Vec<_> = paths.iter().map(|path| path.replace("L/", &format!("{LAYERS}/"))).collect();
        let mut content = content(&paths, names);
        let spots = |content: &Content| -> Vec<_> {
            paths.iter().map(|path| format!("{:?}", content.spots[content.find(path).unwrap()])).collect()
        };
        let before = spots(&content);
        adopt(&mut content).unwrap();
        assert_eq!(before, spots(&content), "a former path leads to another tensor");
        let sorted = content.tensors.is_sorted_by(|a, b| hdf5::path_order(&a.path, &b.path).is_lt());
        assert!(sorted, "{:?}", content.tensors);
        content
    }

    fn listed(paths: &[&str]) -> Vec<String> {
        adopted(paths, &[]).tensors.into_iter().map(|spec| spec.path).collect()
    }

    #[test]
    fn layers_without_weights_are_counted_once() {
        // What Keras 2.13 writes of a model with four Sequential layers, the first and the third without weights.
        let content = adopted(
            &[
                "L/sequential_1/L/dense/vars/0",
                "L/sequential_1/L/dense_2/vars/0",
                "L/sequential_4/L/dense/vars/0",
                "L/sequential_12/L/dense_3/vars/0",
            ],
            &[("L/sequential_3", "empty"), ("L/sequential_4/L/dense", "last"), ("", "root")],
        );
        let listed: Vec<_> = content.tensors.iter().map(|spec| &*spec.path).collect();
        assert_eq!(
            listed,
            [
                "layers/sequential_1/layers/dense/vars/0",
                "layers/sequential_1/layers/dense_1/vars/0",
                "layers/sequential_10/layers/dense_3/vars/0",
                "layers/sequential_3/layers/dense/vars/0",
            ]
        );
        let names: Vec<_> = content.names.iter().map(|(group, name)| (&**group, &**name)).collect();
        let expected =
            [("", "root"), ("layers/sequential_2", "empty"), ("layers/sequential_3/layers/dense", "last")];
        assert_eq!(names, expected);
    }

    #[test]
    fn numbers_that_keras_does_not_give_stay() {
        let paths = ["L/dense/vars/0", "L/dense_1/vars/0", "L/conv_01/vars/0", "L/conv_+1/vars/0"];
        let container = LAYERS;
        assert_eq!(
            listed(&paths),
            [
                format!("{container}/dense/vars/0"),
                format!("{container}/dense_1/vars/0"),
                "layers/conv_+1/vars/0".to_owned(),
                "layers/conv_01/vars/0".to_owned(),
            ]
        );
    }

    #[test]
    fn a_path_that_is_taken_is_not_given_again() {
        let paths = ["L/dense/vars/0", "layers/dense/vars/0", "x/L/a/vars/0"];
        assert_eq!(
            listed(&paths),
            [
                format!("{LAYERS}/dense/vars/0"),
                "layers/dense/vars/0".to_owned(),
                "x/layers/a/vars/0".to_owned()
            ]
        );
    }

    #[test]
    fn the_parts_of_an_attention_layer_lose_their_underscore() {
        let paths = ["layers/multi_head_attention_1/_key_dense/vars/0", "layers/mine/_key_dense/vars/0"];
        assert_eq!(
            listed(&paths),
            ["layers/mine/_key_dense/vars/0", "layers/multi_head_attention_1/key_dense/vars/0"]
        );
    }

    #[test]
    fn aliases_of_other_tensors_go_along() {
        let mut content = content(&[format!("{LAYERS}/a/vars/0"), "b/vars/0".to_owned()], &[]);
        content.aliases.insert("raw".to_owned(), 0);
        content.aliases.insert("other".to_owned(), 1);
        adopt(&mut content).unwrap();
        let found = |path| content.find(path).map(|i| &*content.tensors[i].path);
        assert_eq!((found("raw"), found("other")), (Some("layers/a/vars/0"), Some("b/vars/0")));
    }
}
