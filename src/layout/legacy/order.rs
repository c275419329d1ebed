//! The order of the legacy format: which variable of Keras 3 is which weight of a layer, and the way back.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::structure::{Layer, Part, Presence, State, layers};
use crate::error::{Error, Result, Status};
use crate::memory;
use crate::tensor::TensorSpec;

/// The order in which the tensors of a Keras 3 file go into a schema for the legacy format: the layers as the
/// configuration has them, in each the weights that are trained, then the others; behind the layers all the rest,
/// as it was. `names` are Keras' names of the groups, and win over the naming by class.
///
/// # Errors
/// `Unsupported` where a layer has several groups of variables, and one is not of a class of Keras: neither the order
/// of the groups nor what in them is trained is known then.
pub fn order(config: &str, tensors: &[TensorSpec], names: &BTreeMap<String, String>) -> Result<Vec<usize>> {
    let groups = Groups::new(tensors)?;
    let mut order = Vec::new();
    memory::reserve(&mut order, tensors.len())?;
    let mut taken = memory::filled(false, tensors.len())?;
    let by_name: HashMap<&str, &str> = memory::map(
        names.iter().filter(|(group, _)| is_layer(group)).map(|(group, name)| (&**name, &**group)),
    )?;
    for layer in layers(config)?.unwrap_or_default() {
        let group = by_name.get(&*layer.name).copied().unwrap_or(&layer.group);
        for i in weights(&layer, group, &groups)? {
            if let Some(taken @ false) = taken.get_mut(i) {
                *taken = true;
                order.push(i);
            }
        }
    }
    order.extend((0..tensors.len()).filter(|&i| taken.get(i) == Some(&false)));
    Ok(order)
}

/// Whether it is the group of a layer of the model: `layers/x`.
fn is_layer(group: &str) -> bool {
    group.strip_prefix("layers/").is_some_and(|x| !x.contains('/'))
}

/// The variables of each group: those in `group`/vars, by number.
struct Groups<'a>(BTreeMap<&'a str, Vec<(u64, usize)>>);

impl<'a> Groups<'a> {
    fn new(tensors: &'a [TensorSpec]) -> Result<Groups<'a>> {
        let mut groups: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (i, spec) in tensors.iter().enumerate() {
            if let Some((group, number)) = variable(&spec.path) {
                memory::push(groups.entry(group).or_default(), (number, i))?;
            }
        }
        for group in groups.values_mut() {
            group.sort_unstable();
        }
        Ok(Groups(groups))
    }

    fn of(&self, group: &str) -> &[(u64, usize)] {
        self.0.get(group).map_or(&[], Vec::as_slice)
    }

    /// This group and those below it, with their variables.
    fn below<'b>(&'b self, group: &'b str) -> impl Iterator<Item = (&'b str, &'b [(u64, usize)])> {
        let within = move |path: &str| {
            path.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let all = self
            .0
            .range::<str, _>((Bound::Included(group), Bound::Unbounded))
            .take_while(move |(path, _)| path.starts_with(group));
        all.filter(move |(path, _)| within(path)).map(|(path, variables)| (*path, &**variables))
    }
}

/// The group and the number of a variable: `a/b` and 3 for `a/b/vars/3`.
pub(super) fn variable(path: &str) -> Option<(&str, u64)> {
    let (vars, number) = path.rsplit_once('/')?;
    let group = vars.strip_suffix("vars")?;
    let group = if group.is_empty() { "" } else { group.strip_suffix('/')? };
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    Some((group, number.parse().ok().filter(|_| digits)?))
}

/// The variables of a layer in the order of the legacy format. What is none of its weights comes last.
fn weights(layer: &Layer, group: &str, groups: &Groups) -> Result<Vec<usize>> {
    check_known(layer, group, groups)?;
    let (mut trained, mut others) = (Vec::new(), Vec::new());
    for part in &layer.parts {
        let variables = groups.of(&joined(group, &part.path));
        let own = part.state.order(variables.len()).filter(|&at| at >= part.shared);
        for (at, (_, i)) in own.filter_map(|at| Some((at, variables.get(at)?))) {
            let is_trained = layer.frozen || (part.trained && part.state.is_trained(at, variables.len()));
            memory::push(if is_trained { &mut trained } else { &mut others }, *i)?;
        }
    }
    let below = groups.below(group).flat_map(|(_, variables)| variables.iter().map(|(_, i)| *i));
    others.into_iter().chain(below).try_for_each(|i| memory::push(&mut trained, i))?;
    Ok(trained)
}

/// Refuses a layer of which the order of its weights would be a guess. One group alone is in its own order.
fn check_known(layer: &Layer, group: &str, groups: &Groups) -> Result<()> {
    let known = layer.parts.iter().filter(|part| layer.frozen || part.weights != Presence::Unknown);
    let known = memory::set(known.map(|part| joined(group, &part.path)))?;
    let of_weights = |path: &&str| !path.split('/').any(|part| part == "seed_generator");
    let all = memory::collect(groups.below(group).map(|(path, _)| path).filter(of_weights))?;
    match all.iter().find(|path| !known.contains(**path)) {
        Some(unknown) if all.len() > 1 => Err(Error::new(
            Status::Unsupported,
            format!(
                "a legacy .h5 file has the weights of the layer '{}' in the order in which Keras trains them, and of \
                 '{unknown}', which is of no class of Keras, that order is not known: save it as .keras or .weights.h5",
                layer.name
            ),
        )),
        _ => Ok(()),
    }
}

fn joined(group: &str, below: &str) -> String {
    if below.is_empty() { group.to_owned() } else { format!("{group}/{below}") }
}

/// A weight of a layer in Keras 3.
#[derive(Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its path.
    pub path: String,
    /// Another path at which Keras 3 has it once more.
    pub copy: Option<String>,
}

/// The variables of Keras 3 for the weights of a layer, whose names are in the order of the legacy file. Where the
/// parts of the layer cannot be told, they are numbered as they come. None where a number would be another variable's.
pub fn variables(layer: &Layer, names: &[String]) -> Result<Option<Vec<Variable>>> {
    let bundles = bundles(names)?;
    let parts = assign(layer, &bundles)?;
    let mut found: Vec<Option<Variable>> = memory::collect(names.iter().map(|_| None))?;
    for (bundle, part) in bundles.iter().zip(parts.iter().flatten()) {
        let Some(numbers) = numbers(bundle, part, names)? else { return Ok(None) };
        for (at, &weight) in numbers.into_iter().zip(&bundle.weights) {
            let vars = format!("{}/vars", joined(&layer.group, &part.path));
            let copy = layer.parts.iter().find(|wrapper| {
                at < wrapper.shared
                    && part.path.strip_suffix("layer").map(|p| p.trim_end_matches('/')) == Some(&wrapper.path)
            });
            let copy = copy.map(|wrapper| format!("{}/vars/{at}", joined(&layer.group, &wrapper.path)));
            let path = format!("{vars}/{}", at + part.shared);
            if let Some(slot) = found.get_mut(weight) {
                *slot = Some(Variable { path, copy });
            }
        }
    }
    let numbered = |(i, found): (usize, Option<Variable>)| {
        found.unwrap_or_else(|| Variable { path: format!("{}/vars/{i}", layer.group), copy: None })
    };
    memory::collect(found.into_iter().enumerate().map(numbered)).map(Some)
}

/// The numbers of the weights of a part. None where a layer of Keras has others than its configuration says: those of
/// LoRA, which Keras 3 merges into the kernel, or those of a layer that was quantized as a part of another.
fn numbers(bundle: &Bundle, part: &Part, names: &[String]) -> Result<Option<Vec<usize>>> {
    let own =
        |weight: &usize| names.get(*weight).and_then(|name| name.rsplit('/').next()).unwrap_or_default();
    let own: Vec<&str> = memory::collect(bundle.weights.iter().map(own))?;
    let place = |name| own.iter().position(|own| *own == name);
    let (kernel, bias) = (place("kernel"), place("bias"));
    let state = match part.state {
        // As it is before the model was saved and loaded.
        State::First(_) if kernel == Some(0) => State::Last(0),
        state => state,
    };
    let moved = kernel.zip(bias).is_some_and(|(kernel, bias)| bias < kernel);
    let explained = !moved || matches!(state, State::AllBut(_));
    let lora = own.iter().any(|name| name.starts_with("lora_"));
    let known = part.weights != Presence::Yes || (explained && !lora);
    known.then(|| memory::collect(state.order(own.len()))).transpose()
}

/// The weights of a layer that are in one scope of names, in the order of the file.
struct Bundle<'a> {
    scope: Vec<&'a str>,
    weights: Vec<usize>,
}

fn bundles(names: &[String]) -> Result<Vec<Bundle<'_>>> {
    let mut bundles: Vec<Bundle> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (weight, name) in names.iter().enumerate() {
        let scope = name.rsplit_once('/').map_or("", |(scope, _)| scope);
        let place = *places.entry(scope).or_insert(bundles.len());
        if place == bundles.len() {
            let parts = memory::collect(scope.split('/'))?;
            memory::push(&mut bundles, Bundle { scope: parts, weights: Vec::new() })?;
        }
        if let Some(bundle) = bundles.get_mut(place) {
            memory::push(&mut bundle.weights, weight)?;
        }
    }
    Ok(bundles)
}

/// The part that each bundle is of; empty where that cannot be told.
fn assign<'a>(layer: &'a Layer, bundles: &[Bundle]) -> Result<Vec<Option<&'a Part>>> {
    let some = memory::collect(layer.parts.iter().filter(|part| part.weights != Presence::No))?;
    let certain = some.len() == 1 || some.iter().all(|part| part.weights == Presence::Yes);
    if certain && some.len() == bundles.len() {
        let late = |part: &&Part| !layer.frozen && (!part.trained || part.state == State::All);
        let of = |is_late| some.iter().copied().filter(move |part| late(part) == is_late);
        // A part that was frozen by itself stands elsewhere, which the configuration does not say; its name does.
        return match by_name(&some, bundles)? {
            Some(parts) => Ok(parts),
            None => memory::collect(of(false).chain(of(true)).map(Some)),
        };
    }
    Ok(by_name(&some, bundles)?.unwrap_or_default())
}

/// Assigns by the names of the layers, which are in the scopes: the part whose names agree best.
fn by_name<'a>(parts: &[&'a Part], bundles: &[Bundle]) -> Result<Option<Vec<Option<&'a Part>>>> {
    let mut taken = memory::filled(false, parts.len())?;
    let mut found = Vec::new();
    memory::reserve(&mut found, bundles.len())?;
    for bundle in bundles {
        let scores = parts.iter().enumerate().map(|(i, part)| (agreement(&part.names, &bundle.scope), i));
        let best = scores.clone().max_by_key(|(score, i)| (*score, usize::MAX - i));
        let Some((best, i)) = best else { return Ok(None) };
        let ambiguous = scores.filter(|(score, _)| *score == best).count() > 1;
        let Some(taken @ false) = taken.get_mut(i).filter(|_| best > 0 && !ambiguous) else {
            return Ok(None);
        };
        *taken = true;
        found.push(parts.get(i).copied());
    }
    Ok(Some(found))
}

/// How many of the names are in the scope, in its order.
fn agreement(names: &[String], scope: &[&str]) -> usize {
    let mut end = scope.len();
    let mut count = 0;
    for name in names.iter().rev() {
        if let Some(at) = scope.iter().take(end).rposition(|part| part == name) {
            end = at;
            count += 1;
        }
    }
    count
}
