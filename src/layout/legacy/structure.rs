//! The layers of a model by its configuration: what Keras 3 calls them in a file, and which parts of them have
//! variables, in the order in which the legacy format lists these.

use super::super::json::{self, Document, Object};
use super::config::class_and_config;
use super::naming::Counters;
use crate::error::Result;
use crate::memory;

/// Models within models within ...: more than anyone builds, and few enough for recursion.
const MAX_DEPTH: usize = 64;

/// Bytes of a configuration that is looked into: far more than the largest of Keras' have.
const MAX_CONFIG: usize = 64 << 20;

/// Bytes that the parts of all layers may take, beside those of the configuration: many can have the names of one
/// model before theirs.
const ROOM: usize = 16 << 20;

/// The layers in an attention layer, and the attributes that they are in.
const ATTENTION: [(&str, &str); 5] = [
    ("query", "_query_dense"),
    ("key", "_key_dense"),
    ("gate", "_gate_dense"),
    ("value", "_value_dense"),
    ("attention_output", "_output_dense"),
];

/// A layer of the model.
#[derive(Debug)]
pub struct Layer {
    /// The group of Keras 3: `layers/dense_1`.
    pub group: String,
    /// The layer's name.
    pub name: String,
    /// Whether nothing in it is trained: its variables are then listed without that distinction.
    pub frozen: bool,
    /// What in it has variables of its own, or might have; in Keras' order.
    pub(super) parts: Vec<Part>,
}

/// What has variables of its own: a layer without others in it, a cell, ...
#[derive(Debug)]
pub(super) struct Part {
    /// Where it is in the layer: "" for the layer itself, `cell`, `layers/dense/layer`, ...
    pub path: String,
    /// The names of the layers that it is in and its own, as far as they are known, without the model's layer: they
    /// are in the names of its weights.
    pub names: Vec<String>,
    /// Whether it is trained.
    pub trained: bool,
    /// Which of its variables are never trained.
    pub state: State,
    /// Whether it has variables.
    pub weights: Presence,
    /// Its first variables, which Keras 3 has in a part of the layer too: `vars/0` of a SpectralNormalization is
    /// `layer/vars/0` once more.
    pub shared: usize,
}

/// Variables that are not trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The last ones, so many.
    Last(usize),
    All,
    /// All but the one of this number: the bias of a quantized layer.
    AllBut(usize),
    /// None, but the first ones, so many, are behind the others when Keras builds the layer from its configuration.
    First(usize),
}

impl State {
    /// Whether the variable of this number is trained, of so many.
    pub fn is_trained(self, number: usize, count: usize) -> bool {
        match self {
            State::Last(n) => number < count.saturating_sub(n),
            State::All => false,
            State::First(_) => true,
            State::AllBut(trained) => number == trained,
        }
    }

    /// The numbers of so many variables in the order of the legacy format: those that are trained, then the others.
    pub fn order(self, count: usize) -> impl Iterator<Item = usize> {
        let late = move |number| match self {
            State::First(n) => number < n,
            _ => !self.is_trained(number, count),
        };
        let of = move |is_late| (0..count).filter(move |&number| late(number) == is_late);
        of(false).chain(of(true))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Yes,
    No,
    Unknown,
}

/// The layers of a model, by its configuration as it is in a `.keras` or a legacy file. None where it is none.
pub fn layers(config: &str) -> Result<Option<Vec<Layer>>> {
    if config.len() > MAX_CONFIG {
        return Ok(None);
    }
    let document = Document::new(config)?;
    let mut walk = Walk { parts: Vec::new(), room: ROOM + config.len(), memory: Ok(()) };
    let layers = document.object().and_then(|object| walk.layers(&object));
    walk.memory.map(|()| layers)
}

/// A layer of a model.
struct Child<'a> {
    /// What Keras 3 calls it among its siblings.
    key: String,
    class: String,
    config: Object<'a>,
}

/// Where the walk is.
#[derive(Clone, Default)]
struct Place {
    path: String,
    names: Vec<String>,
    trained: bool,
    depth: usize,
}

impl Place {
    /// A place in this one; the name is not always known.
    fn below(&self, path: &str, name: Option<String>) -> Place {
        let joined = if self.path.is_empty() { path.to_owned() } else { format!("{}/{path}", self.path) };
        let names = self.names.iter().cloned().chain(name).collect();
        Place { path: joined, names, trained: self.trained, depth: self.depth + 1 }
    }
}

struct Walk {
    parts: Vec<Part>,
    /// Bytes that further parts may take.
    room: usize,
    /// An error where there was no memory: then nothing is found.
    memory: Result<()>,
}

impl Walk {
    /// The layers of the model that this is.
    fn layers(&mut self, model: &Object) -> Option<Vec<Layer>> {
        let (_, root) = class_and_config(model)?;
        let mut layers = Vec::new();
        for child in self.children(&root)? {
            let name = json::text(&child.config, "name").unwrap_or_default();
            let frozen = json::flag(&child.config, "trainable") == Some(false);
            self.visit(&child.class, &child.config, &Place { trained: !frozen, ..Place::default() })?;
            let parts = std::mem::take(&mut self.parts);
            let layer = Layer { group: format!("layers/{}", child.key), name, frozen, parts };
            self.keep(|| memory::push(&mut layers, layer))?;
        }
        Some(layers)
    }

    /// The layers of a model that has this configuration; None if it is no model's.
    fn children<'a>(&mut self, config: &Object<'a>) -> Option<Vec<Child<'a>>> {
        let functional = config.contains_key("input_layers");
        let mut counters = Counters::default();
        let mut found = Vec::new();
        for layer in json::array(config.get("layers")?)? {
            let (class, config) = class_and_config(&json::object(layer)?)?;
            // A Sequential does not count its input among its layers.
            if functional || class != "InputLayer" {
                let key = self.keep(|| counters.next(&class))?;
                self.keep(|| memory::push(&mut found, Child { key, class, config }))?;
            }
        }
        Some(found)
    }

    /// What was found, unless there is no memory for it.
    fn keep<T>(&mut self, found: impl FnOnce() -> Result<T>) -> Option<T> {
        match found() {
            Ok(found) => Some(found),
            Err(error) => {
                self.memory = Err(error);
                None
            }
        }
    }

    /// Finds the parts of a layer. None where the configuration is made to do harm.
    fn visit(&mut self, class: &str, config: &Object, place: &Place) -> Option<()> {
        if place.depth > MAX_DEPTH {
            return None;
        }
        let trained = json::flag(config, "trainable").unwrap_or(place.trained);
        let place = &Place { trained, ..place.clone() };
        let children = self.children(config);
        if self.memory.is_err() {
            return None;
        }
        if let Some(children) = children {
            for child in children {
                let name = json::text(&child.config, "name");
                let below = place.below(&format!("layers/{}", child.key), name);
                self.visit(&child.class, &child.config, &below)?;
            }
            return Some(());
        }
        match class {
            "LSTM" | "GRU" | "SimpleRNN" | "ConvLSTM1D" | "ConvLSTM2D" | "ConvLSTM3D" => {
                self.part(&place.below("cell", None), State::Last(0), Presence::Yes)?;
            }
            "RNN" => self.inner(config, "cell", place, "cell", "")?,
            "StackedRNNCells" => self.cells(config, place)?,
            "Bidirectional" => {
                self.inner(config, "layer", place, "forward_layer", "forward_")?;
                let own = if json::given(config, "backward_layer") { "backward_layer" } else { "layer" };
                self.inner(config, own, place, "backward_layer", "backward_")?;
            }
            "MultiHeadAttention" | "GroupQueryAttention" | "GroupedQueryAttention" => {
                let gated = json::flag(config, "use_gate") == Some(true);
                for (name, attribute) in ATTENTION.into_iter().filter(|(name, _)| gated || *name != "gate") {
                    let public = class == "MultiHeadAttention" && name != "gate";
                    let attribute = if public { attribute.trim_start_matches('_') } else { attribute };
                    self.part(&place.below(attribute, Some(name.to_owned())), State::Last(0), Presence::Yes)?;
                }
            }
            "SpectralNormalization" => {
                self.inner(config, "layer", place, "layer", "")?;
                self.part(place, State::All, Presence::Yes)?;
                if let Some(own) = self.parts.last_mut() {
                    own.shared = 1;
                }
            }
            "TimeDistributed" => self.inner(config, "layer", place, "layer", "")?,
            _ => {
                let (state, weights) = variables(class, config);
                self.part(place, state, weights)?;
                if is_layer(config, "layer") {
                    self.inner(config, "layer", place, "layer", "")?;
                }
            }
        }
        Some(())
    }

    /// The layer that is an argument of another, kept in its `attribute`.
    fn inner(
        &mut self,
        config: &Object,
        argument: &str,
        place: &Place,
        attribute: &str,
        prefix: &str,
    ) -> Option<()> {
        let layer = config.get(argument).and_then(|value| json::object(value));
        let Some((class, config)) = layer.as_ref().and_then(class_and_config) else {
            return self.part(&place.below(attribute, None), State::Last(0), Presence::Unknown);
        };
        let name = json::text(&config, "name").map(|name| match name.strip_prefix(prefix) {
            Some(_) => name,
            None => format!("{prefix}{name}"),
        });
        self.visit(&class, &config, &place.below(attribute, name))
    }

    fn cells(&mut self, config: &Object, place: &Place) -> Option<()> {
        let cells = config.get("cells").and_then(|value| json::array(value));
        let mut counters = Counters::default();
        for cell in cells.into_iter().flatten() {
            let Some((class, config)) = json::object(cell).as_ref().and_then(class_and_config) else {
                continue;
            };
            let key = self.keep(|| counters.next(&class))?;
            let below = place.below(&format!("cells/{key}"), json::text(&config, "name"));
            self.visit(&class, &config, &below)?;
        }
        Some(())
    }

    fn part(&mut self, place: &Place, state: State, weights: Presence) -> Option<()> {
        let strings = place.names.iter().map(|name| name.len() + size_of::<String>());
        self.room = self.room.checked_sub(size_of::<Part>() + place.path.len() + strings.sum::<usize>())?;
        let Place { path, names, trained, .. } = place.clone();
        let mut parts = std::mem::take(&mut self.parts);
        self.keep(|| memory::push(&mut parts, Part { path, names, trained, state, weights, shared: 0 }))?;
        self.parts = parts;
        Some(())
    }
}

/// Which variables a layer of this class has itself.
fn variables(class: &str, config: &Object) -> (State, Presence) {
    let flag = |key| json::flag(config, key);
    let whether = |present| if present { Presence::Yes } else { Presence::No };
    match class {
        "BatchNormalization" | "SyncBatchNormalization" => {
            let trains = flag("center") != Some(false) || flag("scale") != Some(false);
            (if trains { State::Last(2) } else { State::All }, Presence::Yes)
        }
        "Normalization" => (State::All, whether(!json::given(config, "mean"))),
        "LayerNormalization" | "GroupNormalization" => {
            (State::Last(0), whether(flag("center") != Some(false) || flag("scale") != Some(false)))
        }
        "AdditiveAttention" => (State::Last(0), whether(flag("use_scale") != Some(false))),
        "Attention" => {
            let concat = json::text(config, "score_mode").is_some_and(|mode| mode == "concat");
            (State::Last(0), whether(concat || flag("use_scale") == Some(true)))
        }
        "Dense" => (with_bias(config, flag("use_bias") != Some(false)), Presence::Yes),
        "EinsumDense" => (with_bias(config, json::given(config, "bias_axes")), Presence::Yes),
        "Embedding" | "ReversibleEmbedding" => match with_bias(config, false) {
            State::First(_) => (State::Last(0), Presence::Yes),
            state => (state, Presence::Yes),
        },
        "PReLU" | "RMSNormalization" | "LSTMCell" | "GRUCell" | "SimpleRNNCell" => {
            (State::Last(0), Presence::Yes)
        }
        _ if class.contains("Conv1D") || class.contains("Conv2D") || class.contains("Conv3D") => {
            (State::Last(0), Presence::Yes)
        }
        "InputLayer" | "Activation" | "Dropout" | "Flatten" | "ReLU" | "Add" | "Concatenate" | "Reshape" => {
            (State::Last(0), Presence::No)
        }
        _ => (State::Last(0), Presence::Unknown),
    }
}

/// What is not trained in a layer that can be quantized: if it is, to integers, then all but the bias.
fn with_bias(config: &Object, biased: bool) -> State {
    match (quantization(config).as_deref(), biased) {
        (Some("int8" | "int4"), true) => State::AllBut(1),
        (Some("gptq" | "awq"), true) => State::AllBut(0),
        (Some("int8" | "int4" | "gptq" | "awq"), false) => State::All,
        (Some("float8"), biased) => State::First(1 + usize::from(biased)),
        _ => State::Last(0),
    }
}

/// How a layer's dtype policy has it quantized, without the parameters: `int4` of `int4/128_from_float32`.
fn quantization(config: &Object) -> Option<String> {
    let dtype = config.get("dtype")?;
    let mode = match json::string(dtype) {
        Some(name) => name.split_once("_from_")?.0.to_owned(),
        None => json::text(&class_and_config(&json::object(dtype)?)?.1, "mode")?,
    };
    Some(mode.split('/').next().unwrap_or_default().to_owned())
}

fn is_layer(config: &Object, key: &str) -> bool {
    let layer = config.get(key).and_then(|value| json::object(value));
    layer.as_ref().and_then(class_and_config).is_some()
}
