//! The configurations of the legacy format, made of the `config.json` of a `.keras` file, and the way back.

use serde_json::value::RawValue;

use super::super::json::{self, Document, Object, Text};
use crate::error::Result;
use crate::memory;

/// The root attributes that a configuration becomes.
pub(super) struct Attributes {
    /// `model_config`: the configuration whole, which Keras takes also with the members of the newer form.
    pub model: String,
    /// `training_config`, if the configuration says how the model was compiled.
    pub training: Option<String>,
}

/// The attributes for a configuration that has passed `check_config`.
pub(super) fn attributes(config: &str) -> Result<Attributes> {
    let document = Document::new(config)?;
    let Some(members) = document.object() else {
        return Ok(Attributes { model: memory::text(config)?, training: None });
    };
    // The legacy loader knows custom classes by the name they are registered under alone.
    let registered = json::text(&members, "registered_name").filter(|name| name.contains('>'));
    let model = match registered {
        None => memory::text(config)?,
        Some(name) => called(&document, &members, &name)?,
    };
    let training = members.get("compile_config").map(|compile| training(&document, compile));
    Ok(Attributes { model, training: training.transpose()?.flatten() })
}

/// An object with another `class_name`.
fn called(document: &Document, members: &Object, class: &str) -> Result<String> {
    let mut out = Text::default();
    out.object(members, |out, key, value| match key {
        "class_name" => out.quote(class),
        _ => out.push(document.written(value)),
    });
    out.finish()
}

/// What `compile()` was called with: the optimizer has another name, the rest is what it was.
fn training(document: &Document, compile: &RawValue) -> Result<Option<String>> {
    let Some(members) = json::object(compile) else { return Ok(None) };
    let Some(optimizer) = members.get("optimizer").filter(|value| value.get() != "null") else {
        return Ok(None);
    };
    let first = [("optimizer_config", Some(*optimizer))];
    let weights = (!members.contains_key("loss_weights")).then_some(("loss_weights", None));
    let rest = members.iter().filter(|(key, _)| *key != "optimizer");
    let rest = rest.map(|(key, value)| (key.as_str(), Some(*value)));
    let mut out = Text::default();
    out.object(first.into_iter().chain(weights).chain(rest), |out, key, value| match (key, value) {
        ("optimizer_config", Some(value)) => match json::string(value) {
            Some(name) => {
                out.push("{\"class_name\": ");
                out.quote(&name);
                out.push(", \"config\": {}}");
            }
            None => out.push(document.written(value)),
        },
        ("loss", Some(value)) => put_rewritten(out, document, value, &spell_out, MAX_DEPTH),
        (_, Some(value)) => out.push(document.written(value)),
        (_, None) => out.push("null"),
    });
    out.finish().map(Some)
}

/// The `config.json` of a `.keras` file for what a legacy file says of its model. What this library put into the
/// file comes back as it was. Of a file of Keras 2, how the model was compiled is left out: its optimizers and
/// losses have arguments that Keras 3 refuses. None where the file's own configuration is none.
pub fn keras_config(
    model: &str,
    training: Option<&str>,
    keras_version: Option<&str>,
) -> Result<Option<String>> {
    let document = Document::new(model)?;
    let Some(members) = document.object() else { return Ok(None) };
    let Some(class) = json::text(&members, "class_name") else { return Ok(None) };
    if members.contains_key("module") {
        return match class.rsplit_once('>') {
            None => memory::text(model).map(Some),
            Some((_, own)) => called(&document, &members, own).map(Some),
        };
    }
    let newer = keras_version.is_some_and(|version| version.starts_with("3."));
    let Some(config) = members.get("config") else { return Ok(None) };
    let mut out = Text::default();
    out.push("{");
    put_identity(&mut out, &class, "keras");
    out.push(", \"config\": ");
    match newer {
        true => put_model(&mut out, &document, &class, config, MAX_MODELS),
        false => out.push(document.written(config)),
    }
    let training = training.filter(|_| newer).map(Document::new).transpose()?;
    if let Some((training, members)) = training.as_ref().and_then(|t| Some((t, t.object()?))) {
        out.push(", \"compile_config\": ");
        put_compile(&mut out, training, &members);
    }
    out.push("}");
    out.finish().map(Some)
}

/// Models within models within ...: more than anyone builds, and few enough for recursion.
const MAX_MODELS: usize = 64;

/// The configuration of a model whose layers Keras 3 will not take for those of Keras 2.
fn put_model(out: &mut Text, document: &Document, class: &str, config: &RawValue, levels: usize) {
    let is_model = matches!(class, "Functional" | "Sequential" | "Model");
    let members = levels.checked_sub(1).filter(|_| is_model).zip(json::object(config));
    let layers = members.as_ref().and_then(|(_, members)| json::array(members.get("layers")?));
    let (Some((below, members)), Some(layers)) = (members, layers) else {
        return out.push(document.written(config));
    };
    out.object(&members, |out, key, value| match key {
        "layers" => out.array(layers.clone(), |out, layer| put_layer(out, document, layer, below)),
        _ => out.push(document.written(value)),
    });
}

/// A layer with the module of its class: without one, Keras 3 reads it as one of Keras 2, and looks for classes in
/// strings such as "dot". A custom class of the name is still found first, as there is no `registered_name`.
fn put_layer(out: &mut Text, document: &Document, layer: &RawValue, levels: usize) {
    let members = json::object(layer).unwrap_or_default();
    let class = json::text(&members, "class_name").unwrap_or_default();
    let module = match &*class {
        // A name that the API does not have, what the older form alone allows, and custom classes.
        "" | "GroupedQueryAttention" | "Lambda" | "Model" => None,
        _ if members.contains_key("module") || class.contains('>') => None,
        "Functional" => Some("keras.src.models.functional"),
        "Sequential" => Some("keras"),
        _ => Some("keras.layers"),
    };
    let Some(module) = module.filter(|_| members.contains_key("config")) else {
        return out.push(document.written(layer));
    };
    let all = members.iter().map(|(key, value)| (key.as_str(), Some(*value)));
    out.object([("module", None)].into_iter().chain(all), |out, key, value| match (key, value) {
        (_, None) => out.quote(module),
        ("config", Some(config)) => put_model(out, document, &class, config, levels),
        (_, Some(value)) => out.push(document.written(value)),
    });
}

/// The losses whose short names the legacy loader of Keras 3 does not know.
const LOSSES: [(&str, &str); 6] = [
    ("bce", "binary_crossentropy"),
    ("kld", "kl_divergence"),
    ("mae", "mean_absolute_error"),
    ("mape", "mean_absolute_percentage_error"),
    ("mse", "mean_squared_error"),
    ("msle", "mean_squared_logarithmic_error"),
];

/// The full name of a loss that is given by a short one.
fn spell_out(out: &mut Text, _: &Document, value: &RawValue) -> bool {
    let known = json::string(value)
        .and_then(|name| LOSSES.iter().find(|(short, _)| *short == name || short.to_uppercase() == name));
    known.inspect(|(_, full)| out.quote(full)).is_some()
}

/// `compile_config` for a `training_config` of these members.
fn put_compile(out: &mut Text, training: &Document, members: &Object) {
    let modern = members.iter().map(|(key, value)| match key.as_str() {
        "optimizer_config" => ("optimizer", (Some("keras.optimizers"), *value)),
        "loss" => ("loss", (Some("keras.losses"), *value)),
        "metrics" | "weighted_metrics" => (key.as_str(), (Some("keras.metrics"), *value)),
        _ => (key.as_str(), (None, *value)),
    });
    out.object(modern, |out, _, (module, value)| match module {
        None => out.push(training.written(value)),
        Some(module) => {
            let rewrite: Rewrite = &|out, document, value| put_named(out, document, value, module);
            put_rewritten(out, training, value, rewrite, MAX_DEPTH);
        }
    });
}

/// An object of a class, with the module of that.
fn put_named(out: &mut Text, document: &Document, value: &RawValue, module: &str) -> bool {
    let Some(members) = json::object(value) else { return false };
    let Some(class) = json::text(&members, "class_name") else { return false };
    if members.contains_key("module") {
        return false;
    }
    out.push("{");
    put_identity(out, &class, module);
    out.push(", \"config\": ");
    out.push(members.get("config").map_or("{}", |config| document.written(config)));
    out.push("}");
    true
}

/// Appends another value than this one, and says so.
type Rewrite<'a> = &'a dyn Fn(&mut Text, &Document, &RawValue) -> bool;

/// A value with its leaves rewritten: those of arrays, and of objects that are of no class.
fn put_rewritten(out: &mut Text, document: &Document, value: &RawValue, rewrite: Rewrite, levels: usize) {
    let Some(below) = levels.checked_sub(1) else { return out.push(document.written(value)) };
    if rewrite(out, document, value) {
        return;
    }
    if let Some(elements) = json::array(value) {
        return out.array(elements, |out, value| put_rewritten(out, document, value, rewrite, below));
    }
    match json::object(value) {
        Some(members) if !members.contains_key("class_name") => {
            out.object(members, |out, _, value| put_rewritten(out, document, value, rewrite, below));
        }
        _ => out.push(document.written(value)),
    }
}

/// Lists within lists within ... of losses: more than Keras takes.
const MAX_DEPTH: usize = 8;

/// The members that say which class it is: one of `module`, or one that was registered under a name with a `>`.
fn put_identity(out: &mut Text, class: &str, module: &str) {
    let (module, class, registered) = match class.rsplit_once('>') {
        Some((_, own)) => (None, own, Some(class)),
        None => match class {
            // The classes of models that the API has no public name for.
            "Functional" => (Some("keras.src.models.functional"), class, Some(class)),
            "Model" => (Some("keras.src.models.functional"), "Functional", Some("Functional")),
            _ => (Some(module), class, None),
        },
    };
    let mut put = |name: &str, value: Option<&str>| {
        out.push(name);
        match value {
            Some(value) => out.quote(value),
            None => out.push("null"),
        }
    };
    put("\"module\": ", module);
    put(", \"class_name\": ", Some(class));
    put(", \"registered_name\": ", registered);
}

/// The configuration of the class in an object of `class_name` and `config`, and the class without the package
/// that it was registered in.
pub(super) fn class_and_config<'a>(object: &Object<'a>) -> Option<(String, Object<'a>)> {
    let class = json::text(object, "class_name")?;
    let own = class.rsplit('>').next().unwrap_or_default().to_owned();
    Some((own, json::object(object.get("config")?)?))
}
