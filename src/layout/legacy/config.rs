//! The configurations of the legacy format, made of the `config.json` of a `.keras` file, and the way back.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::super::json::{self, Document, Object};

/// The root attributes that a configuration becomes.
pub(super) struct Attributes {
    /// `model_config`: the configuration whole, which Keras takes also with the members of the newer form.
    pub model: String,
    /// `training_config`, if the configuration says how the model was compiled.
    pub training: Option<String>,
}

/// The attributes for a configuration that has passed `check_config`.
pub(super) fn attributes(config: &str) -> Attributes {
    let document = Document::new(config);
    let Some(members) = document.object() else {
        return Attributes { model: config.to_owned(), training: None };
    };
    // The legacy loader knows custom classes by the name they are registered under alone.
    let registered = json::text(&members, "registered_name").filter(|name| name.contains('>'));
    let model = match registered {
        None => config.to_owned(),
        Some(name) => json::assembled(members.iter().map(|(key, value)| match key.as_str() {
            "class_name" => (key.as_str(), Cow::Owned(json::quoted(&name))),
            _ => (key.as_str(), Cow::Borrowed(document.written(value))),
        })),
    };
    let training = members.get("compile_config").and_then(|compile| training(&document, compile));
    Attributes { model, training }
}

/// What `compile()` was called with: the optimizer has another name, the rest is what it was.
fn training(document: &Document, compile: &RawValue) -> Option<String> {
    let members = json::object(compile)?;
    let optimizer = members.get("optimizer").filter(|value| value.get() != "null")?;
    let optimizer = match json::string(optimizer) {
        Some(name) => Cow::Owned(format!("{{\"class_name\": {}, \"config\": {{}}}}", json::quoted(&name))),
        None => Cow::Borrowed(document.written(optimizer)),
    };
    let weights = (!members.contains_key("loss_weights")).then_some(("loss_weights", Cow::Borrowed("null")));
    let rest = members.iter().filter(|(key, _)| *key != "optimizer").map(|(key, value)| match key.as_str() {
        "loss" => ("loss", Cow::Owned(rewritten(document, value, &spelled_out))),
        key => (key, Cow::Borrowed(document.written(value))),
    });
    Some(json::assembled([("optimizer_config", optimizer)].into_iter().chain(weights).chain(rest)))
}

/// The `config.json` of a `.keras` file for what a legacy file says of its model. What this library put into the
/// file comes back as it was. Of a file of Keras 2, how the model was compiled is left out: its optimizers and
/// losses have arguments that Keras 3 refuses. None where the file's own configuration is none.
pub fn keras_config(model: &str, training: Option<&str>, keras_version: Option<&str>) -> Option<String> {
    let document = Document::new(model);
    let members = document.object()?;
    let class = json::text(&members, "class_name")?;
    if members.contains_key("module") {
        let Some((_, own)) = class.rsplit_once('>') else { return Some(model.to_owned()) };
        return Some(json::assembled(members.iter().map(|(key, value)| match key.as_str() {
            "class_name" => (key.as_str(), Cow::Owned(json::quoted(own))),
            _ => (key.as_str(), Cow::Borrowed(document.written(value))),
        })));
    }
    let newer = keras_version.is_some_and(|version| version.starts_with("3."));
    let config = members.get("config")?;
    let config = match newer {
        true => model_with_modules(&document, &class, config, MAX_MODELS),
        false => document.written(config).to_owned(),
    };
    let training = training.filter(|_| newer).map(Document::new);
    let compile = training.as_ref().and_then(compile);
    let compile = compile.map(|compile| format!(", \"compile_config\": {compile}")).unwrap_or_default();
    Some(format!("{{{}, \"config\": {config}{compile}}}", identity(&class, "keras")))
}

/// Models within models within ...: more than anyone builds, and few enough for recursion.
const MAX_MODELS: usize = 64;

/// The configuration of a model whose layers Keras 3 will not take for those of Keras 2.
fn model_with_modules(document: &Document, class: &str, config: &RawValue, levels: usize) -> String {
    let is_model = matches!(class, "Functional" | "Sequential" | "Model");
    let members = levels.checked_sub(1).filter(|_| is_model).zip(json::object(config));
    let layers = members.as_ref().and_then(|(_, members)| json::array(members.get("layers")?));
    let (Some((below, members)), Some(layers)) = (members, layers) else {
        return document.written(config).to_owned();
    };
    let layers = layers.into_iter().map(|layer| {
        layer_with_module(document, layer, below).unwrap_or_else(|| document.written(layer).to_owned())
    });
    let layers = format!("[{}]", layers.collect::<Vec<_>>().join(", "));
    json::assembled(members.iter().map(|(key, value)| match key.as_str() {
        "layers" => (key.as_str(), Cow::Borrowed(&*layers)),
        key => (key, Cow::Borrowed(document.written(value))),
    }))
}

/// A layer with the module of its class: without one, Keras 3 reads it as one of Keras 2, and looks for classes in
/// strings such as "dot". A custom class of the name is still found first, as there is no `registered_name`. None for
/// what is to stay as it is.
fn layer_with_module(document: &Document, layer: &RawValue, levels: usize) -> Option<String> {
    let members = json::object(layer)?;
    let class = json::text(&members, "class_name")?;
    let module = match &*class {
        // A name that the API does not have, what the older form alone allows, and custom classes.
        "GroupedQueryAttention" | "Lambda" | "Model" => return None,
        _ if members.contains_key("module") || class.contains('>') => return None,
        "Functional" => "keras.src.models.functional",
        "Sequential" => "keras",
        _ => "keras.layers",
    };
    let config = model_with_modules(document, &class, members.get("config")?, levels);
    let rest = members.iter().map(|(key, value)| match key.as_str() {
        "config" => (key.as_str(), Cow::Borrowed(&*config)),
        key => (key, Cow::Borrowed(document.written(value))),
    });
    Some(json::assembled([("module", Cow::Owned(json::quoted(module)))].into_iter().chain(rest)))
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
fn spelled_out(_: &Document, value: &RawValue) -> Option<String> {
    let name = json::string(value)?;
    let known = LOSSES.iter().find(|(short, _)| *short == name || short.to_uppercase() == name);
    known.map(|(_, full)| json::quoted(full))
}

/// `compile_config` for a `training_config`.
fn compile(training: &Document) -> Option<String> {
    let members = training.object()?;
    let in_module =
        |value, module| rewritten(training, value, &|document, value| named(document, value, module));
    let modern = members.iter().map(|(key, value)| match key.as_str() {
        "optimizer_config" => ("optimizer", in_module(value, "keras.optimizers")),
        "loss" => ("loss", in_module(value, "keras.losses")),
        "metrics" | "weighted_metrics" => (key.as_str(), in_module(value, "keras.metrics")),
        _ => (key.as_str(), training.written(value).to_owned()),
    });
    Some(json::assembled(modern.map(|(key, value)| (key, Cow::Owned(value)))))
}

/// An object of a class, with the module of that.
fn named(document: &Document, value: &RawValue, module: &str) -> Option<String> {
    let members = json::object(value)?;
    let class = json::text(&members, "class_name")?;
    if members.contains_key("module") {
        return None;
    }
    let config = members.get("config").map_or("{}", |config| document.written(config));
    Some(format!("{{{}, \"config\": {config}}}", identity(&class, module)))
}

/// A value with its leaves rewritten: those of arrays, and of objects that are of no class.
fn rewritten(
    document: &Document,
    value: &RawValue,
    rewrite: &dyn Fn(&Document, &RawValue) -> Option<String>,
) -> String {
    fn visit(
        document: &Document,
        value: &RawValue,
        rewrite: &dyn Fn(&Document, &RawValue) -> Option<String>,
        levels: usize,
    ) -> String {
        let Some(below) = levels.checked_sub(1) else { return document.written(value).to_owned() };
        if let Some(new) = rewrite(document, value) {
            return new;
        }
        if let Some(elements) = json::array(value) {
            let elements: Vec<_> = elements.iter().map(|e| visit(document, e, rewrite, below)).collect();
            return format!("[{}]", elements.join(", "));
        }
        match json::object(value) {
            Some(members) if !members.contains_key("class_name") => json::assembled(
                members.iter().map(|(key, e)| (key.as_str(), Cow::Owned(visit(document, e, rewrite, below)))),
            ),
            _ => document.written(value).to_owned(),
        }
    }
    visit(document, value, rewrite, MAX_DEPTH)
}

/// Lists within lists within ... of losses: more than Keras takes.
const MAX_DEPTH: usize = 8;

/// The members that say which class it is: one of `module`, or one that was registered under a name with a `>`.
fn identity(class: &str, module: &str) -> String {
    let (module, class, registered) = match class.rsplit_once('>') {
        Some((_, own)) => ("null".to_owned(), own, json::quoted(class)),
        None => match class {
            // The classes of models that the API has no public name for.
            "Functional" => (json::quoted("keras.src.models.functional"), class, json::quoted(class)),
            "Model" => {
                (json::quoted("keras.src.models.functional"), "Functional", json::quoted("Functional"))
            }
            _ => (json::quoted(module), class, "null".to_owned()),
        },
    };
    format!(
        "\"module\": {module}, \"class_name\": {}, \"registered_name\": {registered}",
        json::quoted(class)
    )
}

/// The configuration of the class in an object of `class_name` and `config`, and the class without the package
/// that it was registered in.
pub(super) fn class_and_config<'a>(object: &Object<'a>) -> Option<(String, Object<'a>)> {
    let class = json::text(object, "class_name")?;
    let own = class.rsplit('>').next().unwrap_or_default().to_owned();
    Some((own, json::object(object.get("config")?)?))
}
