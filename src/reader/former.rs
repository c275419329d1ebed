//! What former versions of Keras called the variables: their paths of today become aliases.
//!
//! - Keras 2.12 and 2.13 have `_layer_checkpoint_dependencies` for the `layers` of a model. They count every layer
//!   with weights twice there: the second Dense is `dense_2`.
//! - Keras 2 has `_query_dense`, `_key_dense`, ... for the parts of a MultiHeadAttention.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::content::Content;

/// The container of a model's layers in Keras 2.12 and 2.13.
const LAYERS: &str = "_layer_checkpoint_dependencies";

/// The parts of a MultiHeadAttention in Keras 2.
const ATTENTION: [&str; 4] = ["_query_dense", "_key_dense", "_value_dense", "_output_dense"];

/// Adds the paths of today to the aliases.
pub(super) fn add_aliases(content: &mut Content) {
    let is_former = |part: &str| part == LAYERS || ATTENTION.contains(&part);
    let former = |path: &str| path.split('/').any(is_former);
    let paths = content.tensors.iter().enumerate().filter(|(_, spec)| former(&spec.path));
    let paths: Vec<(usize, &str)> = paths.map(|(i, spec)| (i, &*spec.path)).collect();
    let keys = keys(&paths);
    let modern: Vec<_> = paths.iter().map(|(i, path)| (modern(path, &keys), *i)).collect();
    for (path, index) in modern {
        if content.find(&path).is_none() {
            content.aliases.insert(path, index);
        }
    }
}

/// The names of layers in containers of [`LAYERS`], and what they are today, by their paths.
fn keys<'a>(paths: &[(usize, &'a str)]) -> BTreeMap<&'a str, String> {
    // In each container, the numbers of the layers of a class.
    let mut classes: BTreeMap<(&str, &str), BTreeSet<(u64, &str)>> = BTreeMap::new();
    for (_, path) in paths {
        for (at, _) in path.match_indices(LAYERS) {
            let Some((container, rest)) = path.split_at_checked(at + LAYERS.len()) else { continue };
            let Some(rest) = rest.strip_prefix('/') else { continue };
            let key = rest.split('/').next().unwrap_or_default();
            let whole = path.get(..container.len() + 1 + key.len()).unwrap_or(path);
            let numbered = key.rsplit_once('_').and_then(|(class, n)| Some((class, n.parse().ok()?)));
            let (class, number) = numbered.unwrap_or((key, 0));
            classes.entry((container, class)).or_default().insert((number, whole));
        }
    }
    let mut keys = BTreeMap::new();
    for ((_, class), layers) in classes {
        for (n, (_, whole)) in layers.into_iter().enumerate() {
            keys.insert(whole, if n == 0 { class.to_owned() } else { format!("{class}_{n}") });
        }
    }
    keys
}

fn modern(path: &str, keys: &BTreeMap<&str, String>) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut end = 0;
    let mut above = "";
    for part in path.split('/') {
        end += usize::from(end > 0) + part.len();
        parts.push(match part {
            LAYERS => "layers",
            part if ATTENTION.contains(&part) && above.starts_with("multi_head_attention") => {
                part.trim_start_matches('_')
            }
            part if above == LAYERS => {
                path.get(..end).and_then(|whole| keys.get(whole)).map_or(part, |key| key)
            }
            part => part,
        });
        above = part;
    }
    parts.join("/")
}
