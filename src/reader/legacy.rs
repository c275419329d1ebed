//! Keras' legacy `.h5`: the weights under the paths that Keras 3 gives them.
//!
//! A file of this library has these paths in it. In a file of Keras the names of the weights are of no use: their
//! order and the model's configuration say what they are.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use super::content::Content;
use super::hdf5::{self, Labels};
use super::source::damaged;
use crate::error::Result;
use crate::layout::legacy::{
    self, LAYER_NAMES, Layer, MODEL, MODEL_CONFIG, OPTIMIZER, TOP_LEVEL, TRAINING_CONFIG, VERSION, Variable,
    WEIGHT_NAMES,
};
use crate::memory;
use crate::tensor::{MAX_PATH, TensorSpec, max_path_bytes};

/// Gives the tensors of a legacy file their paths in Keras 3; the paths in the file become aliases. A file of
/// weights alone, which has no group of the model, is left as it is.
pub(super) fn adopt(content: &mut Content, labels: &Labels) -> Result<()> {
    let Some(listed) = labels.layers.get(MODEL) else { return Ok(()) };
    let text = |name| labels.texts.get(name).map(String::as_str);
    let model = text(MODEL_CONFIG);
    let layers = model.map(legacy::layers).transpose()?.flatten().unwrap_or_default();
    let size = content.files.iter().map(|file| file.source.len()).fold(0, u64::saturating_add);
    let mut paths = Paths { moves: HashMap::new(), room: max_path_bytes(size) };
    paths.add_layers(content, labels, listed, &layers)?;
    paths.add_list(labels, &format!("{MODEL}/{TOP_LEVEL}"), "vars")?;
    paths.add_list(labels, OPTIMIZER, "optimizer/vars")?;
    paths.apply(content)?;

    let config = model.map(|model| legacy::keras_config(model, text(TRAINING_CONFIG), text(VERSION)));
    content.config = config.transpose()?.flatten();
    content.metadata = text(VERSION).map(|version| serde_json::json!({ VERSION: version }).to_string());
    Ok(())
}

/// Where the tensors of the file go.
struct Paths {
    /// By the path in the file.
    moves: HashMap<String, Variable>,
    /// Bytes that the new paths may yet take.
    room: u64,
}

impl Paths {
    fn add_layers(
        &mut self,
        content: &mut Content,
        labels: &Labels,
        listed: &[String],
        layers: &[Layer],
    ) -> Result<()> {
        let known: HashMap<&str, &Layer> = memory::map(layers.iter().map(|layer| (&*layer.name, layer)))?;
        let mut names = BTreeMap::new();
        for (group, name) in std::mem::take(&mut content.names) {
            names.insert(own_group(&group, listed).unwrap_or(group), name);
        }
        for name in listed {
            let group = format!("{MODEL}/{name}");
            let Some(weights) = labels.weights.get(&group) else {
                return Err(damaged(format!(
                    "its '{LAYER_NAMES}' name the layer '{name}', but there is no group '{group}' with '{WEIGHT_NAMES}'"
                )));
            };
            let own = weights.iter().all(|weight| is_own(content, weight));
            let variables = if own && !weights.is_empty() {
                let variables = weights.iter().map(|path| Variable { path: path.clone(), copy: None });
                Some(memory::collect(variables)?)
            } else if let Some(layer) = known.get(&**name) {
                names.entry(layer.group.clone()).or_insert_with(|| name.clone());
                self.take(weights.len() as u64 * layer.group.len() as u64)?;
                legacy::variables(layer, weights)?
            } else {
                names.entry(format!("layers/{name}")).or_insert_with(|| name.clone());
                let path = |i: usize| Variable { path: format!("layers/{name}/vars/{i}"), copy: None };
                self.take(weights.len() as u64 * name.len() as u64)?;
                Some(memory::collect((0..weights.len()).map(path))?)
            };
            if own && let Some(key) = weights.first().and_then(|path| path.split('/').nth(1)) {
                names.entry(format!("layers/{key}")).or_insert_with(|| name.clone());
            }
            for (weight, variable) in weights.iter().zip(variables.into_iter().flatten()) {
                self.add(format!("{group}/{weight}"), variable)?;
            }
        }
        content.names = names;
        Ok(())
    }

    /// The weights that a group lists, which are the variables of one group of Keras 3.
    fn add_list(&mut self, labels: &Labels, group: &str, vars: &str) -> Result<()> {
        for (i, weight) in labels.weights.get(group).into_iter().flatten().enumerate() {
            let number = weight.strip_prefix(vars).and_then(|rest| rest.strip_prefix('/'));
            let own = number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            let path = if own { weight.clone() } else { format!("{vars}/{i}") };
            self.add(format!("{group}/{weight}"), Variable { path, copy: None })?;
        }
        Ok(())
    }

    fn add(&mut self, from: String, to: Variable) -> Result<()> {
        let longest = to.path.len().max(to.copy.as_ref().map_or(0, String::len));
        if longest > MAX_PATH {
            return Err(damaged(format!("the path of its weight '{from}' in Keras 3 has {longest} bytes")));
        }
        self.take((from.len() + to.path.len()) as u64)?;
        memory::insert(&mut self.moves, from, to)?;
        Ok(())
    }

    fn take(&mut self, bytes: u64) -> Result<()> {
        let left = self.room.checked_sub(bytes);
        self.room =
            left.ok_or_else(|| damaged("the names of its layers and weights are too long for its size"))?;
        Ok(())
    }

    /// Moves the tensors; one whose new path is taken stays where it is.
    fn apply(mut self, content: &mut Content) -> Result<()> {
        let still = content.tensors.iter().filter(|spec| !self.moves.contains_key(&spec.path));
        let mut taken = memory::set(still.map(|spec| spec.path.clone()))?;
        // Each may be there twice, and under two more paths.
        let most = 2 * content.tensors.len();
        memory::reserve_set(&mut taken, most)?;
        let mut all = Vec::new();
        memory::reserve(&mut all, most)?;
        for (spec, spot) in std::mem::take(&mut content.tensors).into_iter().zip(content.spots.drain(..)) {
            let Some(Variable { path, copy }) = self.moves.remove(&spec.path) else {
                all.push((spec, spot, None));
                continue;
            };
            if let Some(copy) = copy.filter(|copy| taken.insert(copy.clone())) {
                all.push((TensorSpec { path: copy, ..spec.clone() }, spot, None));
            }
            match taken.insert(path.clone()) {
                true => {
                    let old = spec.path;
                    all.push((TensorSpec { path, ..spec }, spot, Some(old)));
                }
                false => all.push((spec, spot, None)),
            }
        }
        all.sort_unstable_by(|a, b| hdf5::path_order(&a.0.path, &b.0.path));
        for (index, (spec, spot, old)) in all.into_iter().enumerate() {
            memory::push(&mut content.tensors, spec)?;
            memory::push(&mut content.spots, spot)?;
            content.aliases.extend(old.map(|old| (old, index)));
        }
        Ok(())
    }
}

/// Whether the name of a weight is a path in Keras 3, as this library writes them.
fn is_own(content: &Content, weight: &str) -> bool {
    weight.starts_with("layers/")
        && (legacy::is_variable(weight) || content.files.iter().any(|file| file.checksums.covers(weight)))
}

/// The group of Keras 3 that a group in a file of this library is.
fn own_group(group: &str, listed: &[String]) -> Option<String> {
    if let Some(own) = group.strip_prefix(OPTIMIZER) {
        return own.strip_prefix('/').map(str::to_owned);
    }
    let inside = group.strip_prefix(MODEL)?.strip_prefix('/')?;
    if inside == TOP_LEVEL {
        return Some(String::new());
    }
    let (layer, own) = inside.split_once('/')?;
    (listed.iter().any(|name| name == layer) && own.starts_with("layers/")).then(|| own.to_owned())
}
