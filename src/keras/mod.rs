//! A Keras model by its layers: the configuration that Keras makes a model of, and the variables that it looks for.
//!
//! - `layers`, `optimizers` and `objects`, as initializers: one row each, data; `table`: what a row says.
//! - `arguments`: what was given, checked, and the defaults; `shapes`: what comes of them.
//!
//! Nothing here knows of memory or files: where the variables are is the caller's to know.
#![forbid(unsafe_code)]

mod arguments;
mod layers;
mod objects;
mod optimizers;
mod shapes;
mod table;

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result, Status};
use crate::layout::MAX_NAME;
use crate::tensor::{Dtype, TensorSpec};

use arguments::{complete, invalid, is_name, shown};
use layers::ROWS;
use optimizers::Optimizer;
use shapes::{Built, Shape};
use table::{Argument, Kind, Row};

/// A Sequential model in the making.
#[derive(Default)]
pub struct Builder {
    input: Option<Input>,
    layers: Vec<Layer>,
    names: HashSet<String>,
    /// How many layers of a class there are.
    counts: HashMap<&'static str, usize>,
    optimizer: Option<Compiled>,
}

struct Input {
    config: Map<String, Value>,
    shape: Shape,
    batch: Option<u64>,
}

struct Layer {
    row: &'static Row,
    config: Map<String, Value>,
    input: Shape,
    output: Shape,
    path: String,
    /// Whether an optimizer changes it, too.
    variables: Vec<(bool, Variable)>,
}

struct Compiled {
    optimizer: Optimizer,
    /// The arguments of `compile`, without the optimizer.
    config: Map<String, Value>,
}

/// A variable of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Keras' name for it.
    pub name: &'static str,
    /// What it is in the file.
    pub spec: TensorSpec,
}

/// The layer that says what a model takes.
const INPUT: &str = "InputLayer";

const COMPILE: &[Argument] = &[
    table::with("loss", Kind::Free, "null"),
    table::with("loss_weights", Kind::Free, "null"),
    table::with("metrics", Kind::Free, "null"),
    table::with("weighted_metrics", Kind::Free, "null"),
    table::flag("run_eagerly", "false"),
    table::with("steps_per_execution", table::COUNT, "1"),
    table::with("jit_compile", Kind::FlagOr("auto"), "\"auto\""),
];

impl Builder {
    /// A model without layers.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Adds a layer of Keras' class with these arguments, a JSON object; gives its number. The first one is the input,
    /// number 0.
    ///
    /// # Errors
    /// Unsupported: there is no such layer here. InvalidArgument: an argument is missing, unknown or wrong, or the layer
    /// does not fit behind the one before it. Nothing has changed then.
    pub fn add(&mut self, class: &str, config: &str) -> Result<usize> {
        let config = object(class, config)?;
        if matches!(class, INPUT | "Input") {
            return self.add_input(config);
        }
        let row = ROWS.iter().find(|row| row.class == class).ok_or_else(|| {
            let classes: Vec<&str> = ROWS.iter().map(|row| row.class).collect();
            let message = format!(
                "there is no layer '{}' here; there are {INPUT}, {}",
                shown(&class),
                classes.join(", ")
            );
            Error::new(Status::Unsupported, message)
        })?;
        let Some(input) = self.output() else {
            let message =
                format!("the first layer says what the model takes: add an {INPUT} before '{class}'");
            return Err(Error::new(Status::State, message));
        };
        let input = input.clone();
        let (name, rest) = self.name(row.stem, config)?;
        let who = format!("{class} '{name}'");
        let sets: Vec<&[Argument]> = row.arguments.iter().copied().chain([layers::EVERY]).collect();
        let mut arguments = complete(&who, &sets, rest)?;
        let (policy, dtype) = policy(&arguments["dtype"]).map_err(|e| e.context(&who))?;
        let trainable = arguments["trainable"].as_bool().unwrap_or(true);
        let built = Built { row, arguments: &arguments, input: &input };
        let output = built.output().map_err(|e| e.context(&who))?;
        objects::fit(&arguments, "activity", output.len() + 1).map_err(|e| e.context(&who))?;
        let count = self.counts.get(class).copied().unwrap_or(0);
        let path = format!("layers/{}", numbered(row.stem, count));
        let group = row.part.map_or(path.clone(), |part| format!("{path}/{part}"));
        let mut variables = Vec::new();
        for spec in row.variables.iter().filter(|spec| spec.when.is_none_or(|flag| built.flag(flag))) {
            let shape = built.variable(spec.shape).map_err(|e| e.context(&who))?;
            objects::fit(&arguments, spec.of, shape.len()).map_err(|e| e.context(&who))?;
            let path = format!("{group}/vars/{}", variables.len());
            let variable = Variable { name: spec.name, spec: TensorSpec { path, dtype, shape } };
            variables.push((spec.trainable && trainable, variable));
        }
        arguments.insert("dtype".into(), policy);
        arguments.insert("name".into(), name.clone().into());
        self.names.insert(name);
        *self.counts.entry(row.class).or_default() += 1;
        self.layers.push(Layer { row, config: arguments, input, output, path, variables });
        Ok(self.layers.len())
    }

    fn add_input(&mut self, mut config: Map<String, Value>) -> Result<usize> {
        if self.input.is_some() {
            return Err(Error::new(
                Status::State,
                format!("a Sequential model has one {INPUT}, its first layer"),
            ));
        }
        let wrong =
            |what: &str| invalid(format!("{INPUT} needs 'shape', a list of integers from 1 and nulls{what}"));
        let axes = |value: Value| -> Option<Shape> {
            let axis = |n: &Value| match n {
                Value::Null => Some(None),
                n => n.as_u64().filter(|n| (1..=i64::MAX as u64).contains(n)).map(Some),
            };
            value.as_array()?.iter().map(axis).collect()
        };
        let (batch, shape) = match (config.remove("shape"), config.remove("batch_shape")) {
            (Some(shape), None) => {
                let batch = axes(json!([config.remove("batch_size").unwrap_or_default()]));
                (batch.and_then(|batch| batch[0]), axes(shape).ok_or_else(|| wrong(""))?)
            }
            (None, Some(all)) => match axes(all).as_deref() {
                Some([batch, shape @ ..]) => (*batch, shape.to_vec()),
                _ => return Err(wrong(", or 'batch_shape', with the batch before them")),
            },
            _ => return Err(wrong(", or 'batch_shape', with the batch before them, not both")),
        };
        if shape.len() >= crate::tensor::MAX_RANK {
            return Err(wrong(&format!(": at most {} of them", crate::tensor::MAX_RANK - 1)));
        }
        let (name, rest) = self.name("input_layer", config)?;
        let arguments = &[
            table::with("dtype", Kind::OrDefault(&Kind::Choice(DTYPES)), "\"float32\""),
            table::never("sparse", "tensors are dense here"),
            table::never("ragged", "tensors are dense here"),
            table::flag("optional", "false"),
        ];
        let mut config = complete(INPUT, &[arguments], rest)?;
        config.insert("batch_shape".into(), with_batch(batch, &shape));
        config.insert("name".into(), name.clone().into());
        self.names.insert(name);
        self.input = Some(Input { config, shape, batch });
        Ok(0)
    }

    /// The name of a layer: the one that was given, or the next that Keras would take; and the other arguments.
    fn name(&self, stem: &str, mut config: Map<String, Value>) -> Result<(String, Map<String, Value>)> {
        let name = match config.remove("name") {
            None | Some(Value::Null) => {
                let mut names = (0..).map(|n| numbered(stem, n));
                names.find(|name| !self.names.contains(name)).unwrap_or_default()
            }
            Some(Value::String(name)) if !name.is_empty() && !name.contains('/') && is_name(&name) => name,
            Some(other) => {
                return Err(invalid(format!(
                    "'name' is {}: it is to be text without '/' and NUL, of 1 to {MAX_NAME} bytes",
                    shown(&other)
                )));
            }
        };
        if self.names.contains(&name) {
            return Err(invalid(format!("there is a layer '{name}' already: names of layers are unique")));
        }
        Ok((name, config))
    }

    fn output(&self) -> Option<&Shape> {
        self.layers.last().map(|layer| &layer.output).or(self.input.as_ref().map(|input| &input.shape))
    }

    /// Compiles the model: an optimizer of Keras' class, and a JSON object with its arguments and with those of `compile`,
    /// as `loss` and `metrics`.
    pub fn compile(&mut self, class: &str, config: &str) -> Result<()> {
        let mut rest = object(class, config)?;
        let mut of_compile = Map::new();
        for argument in COMPILE {
            of_compile.extend(rest.remove_entry(argument.name));
        }
        let config = complete("compile", &[COMPILE], of_compile)?;
        self.optimizer = Some(Compiled { optimizer: Optimizer::new(class, rest)?, config });
        Ok(())
    }

    /// A variable of a layer.
    pub fn variable(&self, layer: usize, name: &str) -> Result<&Variable> {
        let found = self.layer(layer)?;
        let variables = || found.variables.iter().map(|(_, variable)| variable);
        variables().find(|variable| variable.name == name).ok_or_else(|| {
            let names: Vec<&str> = variables().map(|variable| variable.name).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let (class, layer) = (found.row.class, found.name());
            let message = format!("{class} '{layer}' has no variable '{name}'; it has {names}");
            Error::new(Status::NotFound, message)
        })
    }

    fn layer(&self, layer: usize) -> Result<&Layer> {
        layer.checked_sub(1).and_then(|i| self.layers.get(i)).ok_or_else(|| {
            let message = match layer {
                0 => format!("layer 0 is the {INPUT}, which has no variables"),
                _ => format!("there is no layer {layer}: there are {}", self.layers.len() + 1),
            };
            Error::new(Status::NotFound, message)
        })
    }

    /// What the optimizer knows of a variable, or without one: `iteration`, `learning_rate`; and the path of what it is of.
    pub fn slot(&self, slot: &str, of: Option<(usize, &str)>) -> Result<(Variable, Option<String>)> {
        let slots = self.slots()?;
        let wanted = of.map(|(layer, name)| self.variable(layer, name)).transpose()?;
        let is_it =
            |found: &Slot| found.variable.name == slot && found.of == wanted.map(|v| &v.spec.path[..]);
        slots.iter().find(|found| is_it(found)).map(Slot::to_owned).ok_or_else(|| {
            let mut names: Vec<&str> = slots.iter().map(|slot| slot.variable.name).collect();
            names.sort_unstable();
            names.dedup();
            let whose = wanted.map_or(String::new(), |v| format!(" of '{}', {}", v.spec.path, v.name));
            let class = self.optimizer.as_ref().map_or("", |compiled| compiled.optimizer.class());
            let message = format!(
                "{class} has no '{slot}'{whose}: it has {}, of trainable variables but for the first two",
                names.join(", ")
            );
            Error::new(Status::NotFound, message)
        })
    }

    /// The optimizer's variables, in the order of the file.
    fn slots(&self) -> Result<Vec<Slot<'_>>> {
        let Some(compiled) = &self.optimizer else {
            return Err(Error::new(Status::State, "the model is not compiled: it has no optimizer"));
        };
        let variable = |name, at: usize, dtype, shape| {
            let path = format!("optimizer/vars/{at}");
            Variable { name, spec: TensorSpec { path, dtype, shape } }
        };
        let mut slots = vec![
            Slot { variable: variable("iteration", 0, Dtype::I32, vec![]), of: None },
            Slot { variable: variable("learning_rate", 1, Dtype::F32, vec![]), of: None },
        ];
        for names in compiled.optimizer.slots() {
            for of in self.trainable() {
                for name in names {
                    let variable = variable(name, slots.len(), of.spec.dtype, of.spec.shape.clone());
                    slots.push(Slot { variable, of: Some(&of.spec.path) });
                }
            }
        }
        Ok(slots)
    }

    fn trainable(&self) -> impl Iterator<Item = &Variable> {
        let variables = self.layers.iter().flat_map(|layer| &layer.variables);
        variables.filter(|(trainable, _)| *trainable).map(|(_, variable)| variable)
    }

    /// Groups and their names, in the order of the file.
    pub fn groups(&self) -> Vec<(String, String)> {
        let mut groups = Vec::new();
        for layer in &self.layers {
            groups.push((layer.path.clone(), layer.name().to_owned()));
            let part = layer
                .row
                .part
                .map(|part| (format!("{}/{part}", layer.path), format!("{}_{part}", layer.row.stem)));
            groups.extend(part);
        }
        if let Some(compiled) = &self.optimizer {
            groups.push(("optimizer".into(), compiled.optimizer.name().into()));
        }
        groups.push((String::new(), "sequential".into()));
        groups
    }

    /// All variables of the layers, with the names of these, in the order of the file.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &Variable)> {
        self.layers
            .iter()
            .flat_map(|layer| layer.variables.iter().map(|(_, variable)| (layer.name(), variable)))
    }

    /// The optimizer's variables, in the order of the file, with the paths of what they are of; none where the model is
    /// not compiled.
    pub fn optimizer(&self) -> Vec<(Variable, Option<String>)> {
        let slots = self.slots().unwrap_or_default();
        slots.iter().map(Slot::to_owned).collect()
    }

    /// The learning rate that the model was compiled with.
    pub fn learning_rate(&self) -> Option<f64> {
        self.optimizer.as_ref().map(|compiled| compiled.optimizer.learning_rate())
    }

    /// What Keras makes the model of: `config.json` of a `.keras` file.
    pub fn config(&self) -> Result<String> {
        let Some(input) = &self.input else {
            return Err(Error::new(Status::State, format!("the model has no layers: add an {INPUT} first")));
        };
        let whole = with_batch(input.batch, &input.shape);
        let mut layers = vec![keras_object("keras.layers", INPUT, input.config.clone())];
        for layer in &self.layers {
            let mut object = keras_object("keras.layers", layer.row.class, layer.config.clone());
            if layer.row.is_built {
                object["build_config"] = json!({"input_shape": with_batch(input.batch, &layer.input)});
            }
            layers.push(object);
        }
        let config = json!({
            "name": "sequential",
            "trainable": true,
            "dtype": policy(&"float32".into())?.0,
            "layers": layers,
            "build_input_shape": whole,
        });
        let mut model = keras_object("keras", "Sequential", config.as_object().cloned().unwrap_or_default());
        model["build_config"] = json!({"input_shape": whole});
        if let Some(Compiled { optimizer, config }) = &self.optimizer {
            let mut config = config.clone();
            let optimizer = keras_object("keras.optimizers", optimizer.class(), optimizer.arguments.clone());
            config.insert("optimizer".into(), optimizer);
            model["compile_config"] = Value::Object(config);
        }
        Ok(model.to_string())
    }
}

/// A variable of an optimizer, and the path of what it is of.
struct Slot<'a> {
    variable: Variable,
    of: Option<&'a str>,
}

impl Slot<'_> {
    fn to_owned(&self) -> (Variable, Option<String>) {
        (self.variable.clone(), self.of.map(str::to_owned))
    }
}

impl Layer {
    fn name(&self) -> &str {
        self.config["name"].as_str().unwrap_or_default()
    }
}

/// The name of the n-th of its kind, from 0: the first has no number.
fn numbered(stem: &str, n: usize) -> String {
    if n == 0 { stem.to_owned() } else { format!("{stem}_{n}") }
}

fn object(class: &str, config: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(config) {
        Ok(Value::Object(config)) => Ok(config),
        Ok(other) => {
            Err(invalid(format!("the arguments of {class} are {other}: they are to be a JSON object")))
        }
        Err(e) => Err(invalid(format!("the arguments of {class} are not JSON: {e}"))),
    }
}

fn keras_object(module: &str, class: &str, config: Map<String, Value>) -> Value {
    json!({"module": module, "class_name": class, "config": config, "registered_name": null})
}

/// A shape as Keras has it, with the batch.
fn with_batch(batch: Option<u64>, shape: &Shape) -> Value {
    json!([batch].into_iter().chain(shape.iter().copied()).collect::<Vec<_>>())
}

/// What an input can be of.
const DTYPES: &[&str] = &[
    "float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32",
    "int64", "uint64", "bool",
];

/// A policy of dtypes by its name or its object, as Keras has it, and the type of the variables under it.
fn policy(given: &Value) -> Result<(Value, Dtype)> {
    let name = match given["class_name"].as_str() {
        Some("DTypePolicy") => &given["config"]["name"],
        _ => given,
    };
    let dtype = match name.as_str() {
        Some("float32" | "mixed_float16" | "mixed_bfloat16") => Dtype::F32,
        Some("float64") => Dtype::F64,
        Some("float16") => Dtype::F16,
        Some("bfloat16") => Dtype::Bf16,
        _ => {
            let known = "float32, float64, float16, bfloat16, mixed_float16, mixed_bfloat16";
            return Err(Error::new(
                Status::Unsupported,
                format!("'dtype' is {given}: it can be one of {known}, or a DTypePolicy of one"),
            ));
        }
    };
    let mut config = Map::new();
    config.insert("name".into(), name.clone());
    Ok((keras_object("keras", "DTypePolicy", config), dtype))
}
