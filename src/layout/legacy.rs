//! Keras' legacy `.h5`: an HDF5 file of a whole model.
//!
//! - `/model_weights/<layer>/<weight>` are the layers' weights. The attributes `layer_names` and `weight_names` list
//!   them in their order, which is all that Keras goes by: the layers as the model lists them, in each the weights
//!   that are trained, then the others.
//! - `/optimizer_weights/<weight>` are the optimizer's variables, listed likewise.
//! - The configuration stands in attributes of the root: `model_config`, `training_config`.
//!
//! A weight is called by its path in the schema, so that the file can be read without a table. What the format has
//! no room for stands at its own path at the root, where Keras does not look.

mod config;
mod naming;
mod order;
mod structure;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use self::config::keras_config;
use self::order::variable;
pub use self::order::{Variable, order, variables};
pub use self::structure::{Layer, layers};
use super::hdf5::{self, Attributes};
use super::keras::KERAS_VERSION;
use super::schema::{Schema, is_own};
use super::{Layout, Options};
use crate::error::{Error, Result, Status};
use crate::memory;

/// The group of the layers' weights.
pub const MODEL: &str = "model_weights";
/// The group of the optimizer's.
pub const OPTIMIZER: &str = "optimizer_weights";
/// The list of the layers in [`MODEL`].
pub const LAYER_NAMES: &str = "layer_names";
/// The list of the weights of a layer, or of the optimizer.
pub const WEIGHT_NAMES: &str = "weight_names";
/// The model's configuration, at the root.
pub const MODEL_CONFIG: &str = "model_config";
/// How it was compiled, at the root.
pub const TRAINING_CONFIG: &str = "training_config";
/// The Keras that the file is of, at the root.
pub const VERSION: &str = "keras_version";
/// The group in [`MODEL`] of the weights that are the model's own.
pub const TOP_LEVEL: &str = "top_level_model_weights";

/// The backend that the files say they are of: Keras does not use it, but for files of Keras 1.
const BACKEND: &str = "jax";

/// Lays out the file of a schema.
pub(super) fn plan(schema: &Schema, options: &Options) -> Result<Layout> {
    let config = options.config.ok_or_else(|| {
        Error::new(
            Status::State,
            "a legacy .h5 file holds the model's configuration, and the model has none: call ckpt_model_set_config \
             first (or save the weights alone, to a path that ends in .weights.h5)",
        )
    })?;
    let plan = Plan::new(schema, config)?;
    plan.check_weights(schema)?;
    let places = memory::collect(schema.tensors().iter().map(|spec| plan.place(&spec.path)))?;
    let mut tree = schema.relocated(&places)?;
    for (group, name) in schema.names()? {
        tree.set_name(&plan.place_of_group(&group), name)?;
    }

    let mut attributes = Attributes::default();
    let model = tree.group(MODEL)?;
    let config = config::attributes(config)?;
    for group in [Schema::ROOT, model] {
        attributes.text(group, VERSION, KERAS_VERSION)?;
        attributes.text(group, "backend", BACKEND)?;
    }
    attributes.text(Schema::ROOT, MODEL_CONFIG, &config.model)?;
    if let Some(training) = config.training {
        attributes.text(Schema::ROOT, TRAINING_CONFIG, &training)?;
    }
    let layer_names = memory::collect(plan.layers.iter().map(|layer| layer.name.clone()))?;
    attributes.list(model, LAYER_NAMES, layer_names)?;
    let names =
        |weights: &[usize]| memory::collect(weights.iter().map(|&i| schema.tensors()[i].path.clone()));
    for layer in &plan.layers {
        let group = tree.group(&format!("{MODEL}/{}", layer.name))?;
        attributes.list(group, WEIGHT_NAMES, names(&layer.weights)?)?;
    }
    let group = tree.group(&format!("{MODEL}/{TOP_LEVEL}"))?;
    attributes.list(group, WEIGHT_NAMES, names(&plan.top_level)?)?;
    if !plan.optimizer.is_empty() {
        let group = tree.group(OPTIMIZER)?;
        attributes.list(group, WEIGHT_NAMES, names(&plan.optimizer)?)?;
    }
    Layout::new(hdf5::lay_out_with(&tree, &attributes, options.state_capacity)?, 0)
}

/// What goes where.
struct Plan<'a> {
    layers: Vec<Weights>,
    /// The model's own weights, by number.
    top_level: Vec<usize>,
    /// The optimizer's variables, by number.
    optimizer: Vec<usize>,
    /// The layers' names by their groups' in the schema: `dense_1` of `layers/dense_1`.
    names: HashMap<&'a str, String>,
    /// Paths that are no weights although they are in a layer.
    left_out: BTreeSet<&'a str>,
}

/// The weights of a layer, by their places in the schema.
struct Weights {
    name: String,
    weights: Vec<usize>,
}

impl<'a> Plan<'a> {
    fn new(schema: &'a Schema, config: &str) -> Result<Plan<'a>> {
        let given = schema.names()?;
        let mut plan = Plan {
            layers: Vec::new(),
            top_level: Vec::new(),
            optimizer: Vec::new(),
            names: HashMap::new(),
            left_out: BTreeSet::new(),
        };
        let mut places: HashMap<&str, usize> = HashMap::new();
        let (mut top_level, mut optimizer) = (BTreeMap::new(), BTreeMap::new());
        let mut all_named = true;
        for (i, spec) in schema.tensors().iter().enumerate() {
            match variable(&spec.path) {
                Some(("", number)) => top_level.insert(number, i),
                Some(("optimizer", number)) => optimizer.insert(number, i),
                _ => None,
            };
            let Some(key) = layer_of(&spec.path) else { continue };
            if is_no_weight(schema, i) {
                plan.left_out.insert(&spec.path);
                continue;
            }
            let place = match places.get(key) {
                Some(place) => *place,
                None => {
                    let name = given.get(&*format!("layers/{key}")).copied();
                    all_named &= name.is_some();
                    let name = name.unwrap_or(key).to_owned();
                    memory::insert(&mut plan.names, key, name.clone())?;
                    memory::push(&mut plan.layers, Weights { name, weights: Vec::new() })?;
                    memory::insert(&mut places, key, plan.layers.len() - 1)?;
                    plan.layers.len() - 1
                }
            };
            memory::push(&mut plan.layers[place].weights, i)?;
        }
        plan.top_level = memory::collect(top_level.into_values())?;
        plan.optimizer = memory::collect(optimizer.into_values())?;
        plan.check_names()?;
        if all_named {
            plan.take_order_of(&layers(config)?.unwrap_or_default())?;
        }
        Ok(plan)
    }

    fn check_names(&self) -> Result<()> {
        let mut groups: HashMap<&str, &str> = HashMap::new();
        for (group, name) in &self.names {
            if let Some(other) = memory::insert(&mut groups, name, group)? {
                let (one, two) = if other < *group { (other, *group) } else { (*group, other) };
                return Err(Error::new(
                    Status::InvalidArgument,
                    format!(
                        "the layers 'layers/{one}' and 'layers/{two}' are both called '{name}': a legacy .h5 file \
                         needs another name for each, as ckpt_model_set_name gives it"
                    ),
                ));
            }
            if name == TOP_LEVEL || name.contains('/') {
                let message = format!("a legacy .h5 file has no room for a layer that is called '{name}'");
                return Err(Error::new(Status::InvalidArgument, message));
            }
        }
        Ok(())
    }

    /// Refuses a model of which no weight would be where Keras looks: it would load the file without an error, and
    /// leave its weights as they were initialized.
    fn check_weights(&self, schema: &Schema) -> Result<()> {
        if !self.top_level.is_empty() || self.layers.iter().any(|layer| !layer.weights.is_empty()) {
            return Ok(());
        }
        let is_weight = |path: &str| {
            !is_own(path)
                && !path.starts_with("optimizer/")
                && path.split('/').all(|part| part != "seed_generator")
        };
        match schema.tensors().iter().find(|spec| is_weight(&spec.path)) {
            Some(spec) => Err(Error::new(
                Status::Unsupported,
                format!(
                    "a legacy .h5 file would have no weight of this model, and Keras would load it with weights as \
                     they are initialized: '{}' is not in a layer of the model, where the format needs its weights, at \
                     paths 'layers/<layer>/...'; a .keras or a .weights.h5 file has room for any path",
                    spec.path
                ),
            )),
            None => Ok(()),
        }
    }

    /// Lists the layers as the configuration does, those without weights too, if it knows all that have some.
    fn take_order_of(&mut self, model: &[Layer]) -> Result<()> {
        let mut seen = BTreeSet::new();
        let usable =
            model.iter().all(|l| !l.name.is_empty() && !l.name.contains('/') && seen.insert(&l.name));
        if !usable || !self.layers.iter().all(|layer| seen.contains(&layer.name)) {
            return Ok(());
        }
        let layers = std::mem::take(&mut self.layers).into_iter();
        let mut weights = memory::map(layers.map(|layer| (layer.name, layer.weights)))?;
        let ordered = model.iter().map(|layer| Weights {
            name: layer.name.clone(),
            weights: weights.remove(&layer.name).unwrap_or_default(),
        });
        self.layers = memory::collect(ordered)?;
        Ok(())
    }

    /// Where a tensor of the schema stands in the file.
    fn place(&self, path: &str) -> String {
        if self.left_out.contains(path) || is_own(path) {
            return path.to_owned();
        }
        match variable(path) {
            Some(("", _)) => format!("{MODEL}/{TOP_LEVEL}/{path}"),
            Some(("optimizer", _)) => format!("{OPTIMIZER}/{path}"),
            _ => self.place_in_layer(path),
        }
    }

    /// Where a group of the schema stands in the file.
    fn place_of_group(&self, path: &str) -> String {
        match path {
            "" => format!("{MODEL}/{TOP_LEVEL}"),
            "optimizer" => format!("{OPTIMIZER}/{path}"),
            _ => self.place_in_layer(path),
        }
    }

    fn place_in_layer(&self, path: &str) -> String {
        match layer_of(path).and_then(|key| self.names.get(key)) {
            Some(name) => format!("{MODEL}/{name}/{path}"),
            None => path.to_owned(),
        }
    }
}

/// Whether it is the path of a variable of Keras 3: `.../vars/<number>`.
pub fn is_variable(path: &str) -> bool {
    variable(path).is_some()
}

/// The `x` of a path in `layers/x`.
fn layer_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("layers/")?;
    Some(rest.split_once('/').map_or(rest, |(key, _)| key))
}

/// Whether a tensor in a layer is none of its weights: the state of a random generator, or what a
/// SpectralNormalization has a second time, its layer's kernel.
fn is_no_weight(schema: &Schema, index: usize) -> bool {
    let spec = &schema.tensors()[index];
    let mut parts = spec.path.split('/');
    if layer_of(&spec.path).is_none()
        || parts.clone().count() < 3
        || parts.any(|part| part == "seed_generator")
    {
        return true;
    }
    let Some(group) = spec.path.strip_suffix("/vars/0") else { return false };
    let key = group.rsplit('/').next().unwrap_or_default();
    let Some(number) = key.strip_prefix("spectral_normalization") else { return false };
    let numbered = number.strip_prefix('_').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let inner = schema.find(&format!("{group}/layer/vars/0")).map(|i| &schema.tensors()[i]);
    (number.is_empty() || numbered)
        && inner.is_some_and(|inner| inner.dtype == spec.dtype && inner.shape == spec.shape)
}
