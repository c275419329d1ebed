//! The layers of a model by its configuration: what Keras 3 calls them in a file, and which parts of them have
//! variables, in the order in which the legacy format lists these.

use super::super::json::{self, Document, Object};
use super::config::class_and_config;
use super::naming::Counters;

/// Models within models within ...: more than anyone builds, and few enough for recursion.
const MAX_DEPTH: usize = 64;

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Yes,
    No,
    Unknown,
}

/// The layers of a model, by its configuration as it is in a `.keras` or a legacy file. None where it is none.
pub fn layers(config: &str) -> Option<Vec<Layer>> {
    let document = Document::new(config);
    let (_, config) = class_and_config(&document.object()?)?;
    let layers = children(&config)?.into_iter().map(|child| {
        let name = json::text(&child.config, "name").unwrap_or_default();
        let frozen = json::flag(&child.config, "trainable") == Some(false);
        let mut walk = Walk::default();
        walk.visit(&child.class, &child.config, &Place { trained: !frozen, ..Place::default() });
        Layer { group: format!("layers/{}", child.key), name, frozen, parts: walk.parts }
    });
    Some(layers.collect())
}

/// A layer of a model.
struct Child<'a> {
    /// What Keras 3 calls it among its siblings.
    key: String,
    class: String,
    config: Object<'a>,
}

/// The layers of a model that has this configuration; None if it is no model's.
fn children<'a>(config: &Object<'a>) -> Option<Vec<Child<'a>>> {
    let functional = config.contains_key("input_layers");
    let mut counters = Counters::default();
    let mut found = Vec::new();
    for layer in json::array(config.get("layers")?)? {
        let (class, config) = class_and_config(&json::object(layer)?)?;
        // A Sequential does not count its input among its layers.
        if functional || class != "InputLayer" {
            found.push(Child { key: counters.next(&class), class, config });
        }
    }
    Some(found)
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

#[derive(Default)]
struct Walk {
    parts: Vec<Part>,
}

impl Walk {
    fn visit(&mut self, class: &str, config: &Object, place: &Place) {
        if place.depth > MAX_DEPTH {
            return;
        }
        let trained = json::flag(config, "trainable").unwrap_or(place.trained);
        let place = &Place { trained, ..place.clone() };
        if let Some(children) = children(config) {
            for child in children {
                let name = json::text(&child.config, "name");
                let below = place.below(&format!("layers/{}", child.key), name);
                self.visit(&child.class, &child.config, &below);
            }
            return;
        }
        match class {
            "LSTM" | "GRU" | "SimpleRNN" | "ConvLSTM1D" | "ConvLSTM2D" | "ConvLSTM3D" => {
                self.part(&place.below("cell", None), State::Last(0), Presence::Yes);
            }
            "RNN" => self.inner(config, "cell", place, "cell", ""),
            "StackedRNNCells" => self.cells(config, place),
            "Bidirectional" => {
                self.inner(config, "layer", place, "forward_layer", "forward_");
                let own = if json::given(config, "backward_layer") { "backward_layer" } else { "layer" };
                self.inner(config, own, place, "backward_layer", "backward_");
            }
            "MultiHeadAttention" | "GroupQueryAttention" | "GroupedQueryAttention" => {
                let private = if class == "MultiHeadAttention" { "" } else { "_" };
                let gated = json::flag(config, "use_gate") == Some(true);
                let all = [("query", "query"), ("key", "key"), ("gate", "gate"), ("value", "value")];
                let all = all.into_iter().chain([("attention_output", "output")]);
                for (name, attribute) in all.filter(|(name, _)| gated || *name != "gate") {
                    let below = place.below(&format!("{private}{attribute}_dense"), Some(name.to_owned()));
                    self.part(&below, State::Last(0), Presence::Yes);
                }
            }
            "SpectralNormalization" => {
                self.inner(config, "layer", place, "layer", "");
                self.part(place, State::All, Presence::Yes);
                if let Some(own) = self.parts.last_mut() {
                    own.shared = 1;
                }
            }
            "TimeDistributed" => self.inner(config, "layer", place, "layer", ""),
            _ => {
                let (state, weights) = variables(class, config);
                self.part(place, state, weights);
                if is_layer(config, "layer") {
                    self.inner(config, "layer", place, "layer", "");
                }
            }
        }
    }

    /// The layer that is an argument of another, kept in its `attribute`.
    fn inner(&mut self, config: &Object, argument: &str, place: &Place, attribute: &str, prefix: &str) {
        let layer = config.get(argument).and_then(|value| json::object(value));
        let Some((class, config)) = layer.as_ref().and_then(class_and_config) else {
            return self.part(&place.below(attribute, None), State::Last(0), Presence::Unknown);
        };
        let name = json::text(&config, "name").map(|name| match name.strip_prefix(prefix) {
            Some(_) => name,
            None => format!("{prefix}{name}"),
        });
        self.visit(&class, &config, &place.below(attribute, name));
    }

    fn cells(&mut self, config: &Object, place: &Place) {
        let cells = config.get("cells").and_then(|value| json::array(value)).unwrap_or_default();
        let mut counters = Counters::default();
        for cell in cells {
            let Some((class, config)) = json::object(cell).as_ref().and_then(class_and_config) else {
                continue;
            };
            let below = place.below(&format!("cells/{}", counters.next(&class)), json::text(&config, "name"));
            self.visit(&class, &config, &below);
        }
    }

    fn part(&mut self, place: &Place, state: State, weights: Presence) {
        let Place { path, names, trained, .. } = place.clone();
        self.parts.push(Part { path, names, trained, state, weights, shared: 0 });
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
        "Dense"
        | "EinsumDense"
        | "Embedding"
        | "ReversibleEmbedding"
        | "PReLU"
        | "RMSNormalization"
        | "LSTMCell"
        | "GRUCell"
        | "SimpleRNNCell" => (State::Last(0), Presence::Yes),
        _ if class.contains("Conv1D") || class.contains("Conv2D") || class.contains("Conv3D") => {
            (State::Last(0), Presence::Yes)
        }
        "InputLayer" | "Activation" | "Dropout" | "Flatten" | "ReLU" | "Add" | "Concatenate" | "Reshape" => {
            (State::Last(0), Presence::No)
        }
        _ => (State::Last(0), Presence::Unknown),
    }
}

fn is_layer(config: &Object, key: &str) -> bool {
    let layer = config.get(key).and_then(|value| json::object(value));
    layer.as_ref().and_then(class_and_config).is_some()
}
