use super::*;
use crate::layout::{Format, plan};
use crate::tensor::{Dtype, TensorSpec};

/// There is memory for all of these.
fn layers(config: &str) -> Option<Vec<Layer>> {
    super::layers(config).unwrap()
}

/// As above.
fn variables(layer: &Layer, names: &[String]) -> Option<Vec<Variable>> {
    super::variables(layer, names).unwrap()
}

/// As above.
fn keras_config(model: &str, training: Option<&str>, version: Option<&str>) -> Option<String> {
    super::keras_config(model, training, version).unwrap()
}

fn config(layers: &str) -> String {
    format!(
        r#"{{"module": "keras", "class_name": "Sequential", "config": {{"name": "s", "layers": [{layers}]}},
           "registered_name": null}}"#
    )
}

fn layer(class: &str, name: &str, rest: &str) -> String {
    format!(r#"{{"class_name": "{class}", "config": {{"name": "{name}"{rest}}}}}"#)
}

fn specs(paths: &[&str]) -> Vec<TensorSpec> {
    let spec = |path: &&str| TensorSpec { path: (*path).to_owned(), dtype: Dtype::F32, shape: vec![1] };
    paths.iter().map(spec).collect()
}

fn ordered(config: &str, paths: &[&str]) -> Vec<String> {
    let specs = specs(paths);
    order(config, &specs, &BTreeMap::new()).unwrap().into_iter().map(|i| specs[i].path.clone()).collect()
}

fn schema(paths: &[&str], names: &[(&str, &str)]) -> Schema {
    let mut schema = Schema::new();
    for path in paths {
        schema.add(path, Dtype::F32, &[1]).unwrap();
    }
    for (group, name) in names {
        schema.set_name(group, name).unwrap();
    }
    schema
}

/// The layers of a plan, and the weights of each.
fn planned(schema: &Schema, config: &str) -> Vec<(String, Vec<usize>)> {
    let plan = Plan::new(schema, config).unwrap();
    plan.layers.into_iter().map(|layer| (layer.name, layer.weights)).collect()
}

#[test]
fn what_is_not_trained_comes_last() {
    let inner = format!(
        "{}, {}, {}",
        layer("Dense", "a", r#", "trainable": false"#),
        layer("BatchNormalization", "b", ""),
        layer("Dense", "c", "")
    );
    let model = layer("Sequential", "inner", &format!(r#", "layers": [{inner}]"#));
    let paths = [
        "layers/sequential/layers/batch_normalization/vars/0",
        "layers/sequential/layers/batch_normalization/vars/1",
        "layers/sequential/layers/batch_normalization/vars/2",
        "layers/sequential/layers/batch_normalization/vars/3",
        "layers/sequential/layers/dense/vars/0",
        "layers/sequential/layers/dense_1/vars/0",
        "optimizer/vars/0",
    ];
    let found = ordered(&config(&model), &paths);
    assert_eq!(found, [paths[0], paths[1], paths[5], paths[4], paths[2], paths[3], paths[6]]);
}

#[test]
fn layers_come_as_the_configuration_has_them_and_variables_by_number() {
    let layers = [layer("Dense", "z", ""), layer("Custom", "y", ""), layer("Dense", "a", "")].join(", ");
    let mut paths: Vec<String> = (0..11).map(|i| format!("layers/custom/vars/{i}")).collect();
    paths.sort();
    paths.extend(["layers/dense/vars/0", "layers/dense_1/vars/0"].map(str::to_owned));
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let found = ordered(&config(&layers), &paths);
    assert_eq!(found[0], "layers/dense/vars/0");
    assert!((0..11).all(|i| found[1 + i] == format!("layers/custom/vars/{i}")), "{found:?}");
    assert_eq!(found[12], "layers/dense_1/vars/0");
    let names = BTreeMap::from([("layers/dense_1".to_owned(), "z".to_owned())]);
    assert_eq!(order(&config(&layers), &specs(&paths), &names).unwrap()[0], 12);
    assert_eq!(order("no configuration", &specs(&paths), &names).unwrap(), Vec::from_iter(0..13));
}

#[test]
fn of_a_quantized_layer_the_bias_alone_is_trained() {
    let policy = |mode: &str| format!(r#", "dtype": {{"class_name": "P", "config": {{"mode": "{mode}"}}}}"#);
    let paths = ["layers/dense/vars/0", "layers/dense/vars/1", "layers/dense/vars/2"];
    let kernel_first = ["kernel", "bias", "kernel_scale"];
    let bias_first = ["bias", "kernel", "kernel_scale"];
    for (rest, order, names, numbers) in [
        (policy("int8"), [1, 0, 2], bias_first, [1, 0, 2]),
        (policy("int4/128"), [1, 0, 2], bias_first, [1, 0, 2]),
        (policy("gptq/4/-1"), [0, 1, 2], bias_first, [0, 1, 2]),
        (r#", "dtype": "int8_from_float32""#.to_owned(), [1, 0, 2], bias_first, [1, 0, 2]),
        (r#", "dtype": "float8_from_float32""#.to_owned(), [2, 0, 1], kernel_first, [0, 1, 2]),
        (policy("float8"), [2, 0, 1], ["inputs_scale", "kernel", "bias"], [2, 0, 1]),
        (r#", "dtype": "float32""#.to_owned(), [0, 1, 2], kernel_first, [0, 1, 2]),
    ] {
        let model = config(&layer("Dense", "d", &rest));
        assert_eq!(ordered(&model, &paths), order.map(|i| paths[i]), "{rest}");
        let found = variables(&layers(&model).unwrap()[0], &names.map(|name| format!("d/{name}"))).unwrap();
        assert!(found.iter().map(|v| &*v.path).eq(numbers.map(|i| paths[i])), "{rest} {found:?}");
    }
    let without = layer("Dense", "d", r#", "dtype": "int8_from_float32", "use_bias": false"#);
    let model = layer("Sequential", "s", &format!(r#", "layers": [{without}, {}]"#, layer("Dense", "e", "")));
    let paths = ["layers/sequential/layers/dense/vars/0", "layers/sequential/layers/dense_1/vars/0"];
    assert_eq!(ordered(&config(&model), &paths), [paths[1], paths[0]]);
}

#[test]
fn weights_that_the_configuration_does_not_explain_get_no_number() {
    let variables = |class: &str, names: &[&str]| {
        let layers = layers(&config(&layer(class, "d", ""))).unwrap();
        variables(&layers[0], &names.iter().map(|name| format!("d/{name}")).collect::<Vec<_>>())
    };
    assert_eq!(variables("Dense", &["bias", "kernel", "kernel_scale"]), None);
    assert_eq!(variables("Dense", &["bias", "lora_kernel_a", "lora_kernel_b", "kernel"]), None);
    assert_eq!(variables("Embedding", &["lora_embeddings_a", "lora_embeddings_b", "embeddings"]), None);
    assert_eq!(
        variables(
            "MultiHeadAttention",
            &[
                "query/bias",
                "key/bias",
                "value/bias",
                "attention_output/bias",
                "query/kernel",
                "key/kernel",
                "value/kernel",
                "attention_output/kernel"
            ]
        ),
        None
    );
    assert!(variables("Custom", &["bias", "kernel"]).is_some());
}

#[test]
fn an_order_that_is_not_known_is_an_error() {
    let order_of = |model: &str, paths: &[&str]| order(&config(model), &specs(paths), &BTreeMap::new());
    let custom = layer("Custom", "mine", "");
    for rest in [&["vars/0", "dense/vars/0"][..], &["a/vars/0", "b/vars/0"]] {
        let paths: Vec<_> = rest.iter().map(|path| format!("layers/custom/{path}")).collect();
        let error = order_of(&custom, &paths.iter().map(|path| &**path).collect::<Vec<_>>()).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains("layer 'mine'"), "{error}");
    }
    let one_group =
        ["layers/custom/a/vars/0", "layers/custom/a/vars/1", "layers/custom/seed_generator/vars/0"];
    assert!(order_of(&custom, &one_group).is_ok());

    let nested = |rest: &str| {
        let parts = [layer("Dense", "d", ""), custom.clone()].join(", ");
        layer("Sequential", "s", &format!(r#"{rest}, "layers": [{parts}]"#))
    };
    let paths = ["layers/sequential/layers/dense/vars/0", "layers/sequential/layers/custom/vars/0"];
    let error = order_of(&nested(""), &paths).unwrap_err();
    assert!(error.message().contains("'layers/sequential/layers/custom'"), "{error}");
    assert!(order_of(&nested(r#", "trainable": false"#), &paths).is_ok());
    assert!(order_of(&nested(""), &paths[..1]).is_ok());
}

#[test]
fn the_order_is_the_callers_unless_the_names_tell_it() {
    let paths = ["layers/b/vars/0", "layers/a/vars/0", "layers/a/vars/1"];
    let names = [("layers/a", "first"), ("layers/b", "second")];
    let model = config(
        &[layer("Dense", "first", ""), layer("Dropout", "none", ""), layer("Dense", "second", "")].join(", "),
    );
    let layers = planned(&schema(&paths, &names), &model);
    assert_eq!(layers, [("first".into(), vec![1, 2]), ("none".into(), vec![]), ("second".into(), vec![0])]);
    let other = config(&layer("Dense", "first", ""));
    let layers = planned(&schema(&paths, &names), &other);
    assert_eq!(layers, [("second".into(), vec![0]), ("first".into(), vec![1, 2])]);
    let layers = planned(&schema(&paths, &[]), &model);
    assert_eq!(layers, [("b".into(), vec![0]), ("a".into(), vec![1, 2])]);
}

#[test]
fn a_spectral_normalization_has_its_kernel_once() {
    let paths = ["layers/spectral_normalization_1/vars/0", "layers/spectral_normalization_1/layer/vars/0"];
    let layers = planned(&schema(&paths, &[]), &config(""));
    assert_eq!(layers, [("spectral_normalization_1".into(), vec![1])]);
    let layers = planned(&schema(&paths[..1], &[]), &config(""));
    assert_eq!(layers, [("spectral_normalization_1".into(), vec![0])]);
}

#[test]
fn names_of_weights_tell_parts_apart() {
    let parts =
        [layer("MaxPooling1D", "p", ""), layer("Dense", "one", ""), layer("Dense", "two", "")].join(", ");
    let model = layer("Functional", "m", &format!(r#", "input_layers": [], "layers": [{parts}]"#));
    let layers = layers(&config(&model)).unwrap();
    let names = |of: [&str; 3]| of.map(|name| format!("{name}:0"));
    let paths = |names: &[String]| -> Vec<String> {
        variables(&layers[0], names).unwrap().into_iter().map(|v| v.path).collect()
    };
    let (one, two) = ("layers/functional/layers/dense/vars", "layers/functional/layers/dense_1/vars");
    assert_eq!(
        paths(&names(["m/two/kernel", "m/two/bias", "m/one/kernel"])),
        [format!("{two}/0"), format!("{two}/1"), format!("{one}/0")]
    );
    // Nothing in the names says what they are.
    assert_eq!(
        paths(&names(["x/kernel", "x/bias", "y/kernel"])),
        [0, 1, 2].map(|i| format!("layers/functional/vars/{i}"))
    );
}

#[test]
fn the_configuration_comes_back_as_it_was() {
    for text in [
        r#"{"module": "keras", "class_name": "Sequential", "config": {"a": [NaN, -Infinity], "é": "\u00e9"}}"#,
        r#"{ "class_name": "M", "config": {}, "module": null, "registered_name": "M", "x": 1.50}"#,
    ] {
        let attributes = config::attributes(text).unwrap();
        assert_eq!(attributes.training, None);
        assert_eq!(keras_config(&attributes.model, None, Some("3.15.1")).as_deref(), Some(text));
    }
    let custom = r#"{"class_name": "M", "config": {"x": NaN}, "module": null, "registered_name": "pack>M"}"#;
    let attributes = config::attributes(custom).unwrap();
    assert!(
        attributes.model.starts_with(r#"{"class_name": "pack>M", "config": {"x": NaN}"#),
        "{}",
        attributes.model
    );
    assert_eq!(keras_config(&attributes.model, None, None).as_deref(), Some(custom));
}

#[test]
fn how_a_model_was_compiled_is_what_the_legacy_loader_needs() {
    let compiled = |compile: &str| {
        let text =
            format!(r#"{{"module": "k", "class_name": "M", "config": {{}}, "compile_config": {compile}}}"#);
        config::attributes(&text).unwrap().training
    };
    assert_eq!(compiled("null"), None);
    assert_eq!(compiled(r#"{"optimizer": null, "loss": "mse"}"#), None);
    assert_eq!(
        compiled(
            r#"{"optimizer": {"class_name": "SGD"}, "loss": {"a": ["MSE", "hinge", {"class_name": "mse"}]}}"#
        )
        .unwrap(),
        r#"{"optimizer_config": {"class_name": "SGD"}, "loss_weights": null, "loss": {"a": ["mean_squared_error", "hinge", {"class_name": "mse"}]}}"#
    );
    assert_eq!(
        compiled(r#"{"optimizer": "adam", "loss_weights": [1.50], "metrics": [NaN]}"#).unwrap(),
        r#"{"optimizer_config": {"class_name": "adam", "config": {}}, "loss_weights": [1.50], "metrics": [NaN]}"#
    );
}

#[test]
fn legacy_configurations_get_what_keras_3_looks_for() {
    let model = r#"{"class_name": "Functional", "config": {"layers": [1]}}"#;
    let training = r#"{"loss": "mse", "metrics": ["mae", {"class_name": "AUC", "config": {}}],
        "optimizer_config": {"class_name": "p>Mine", "config": {"a": 1}}}"#;
    let functional = r#""module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional""#;
    assert_eq!(
        keras_config(model, Some(training), Some("3.1")).unwrap(),
        format!(
            r#"{{{functional}, "config": {{"layers": [1]}}, "compile_config": {{"loss": "mse", "metrics": ["mae", {{"module": "keras.metrics", "class_name": "AUC", "registered_name": null, "config": {{}}}}], "optimizer": {{"module": null, "class_name": "Mine", "registered_name": "p>Mine", "config": {{"a": 1}}}}}}}}"#
        )
    );
    let parts = r#"{"class_name": "Dense", "config": {"x": NaN}}, {"class_name": "p>Mine", "config": {}},
        {"class_name": "Functional", "config": {"layers": [{"class_name": "Attention", "config": {}}]}}"#;
    let model_of_3 = format!(r#"{{"class_name": "Sequential", "config": {{"layers": [{parts}]}}}}"#);
    assert_eq!(
        keras_config(&model_of_3, None, Some("3.15.1")).unwrap(),
        r#"{"module": "keras", "class_name": "Sequential", "registered_name": null, "config": {"layers": [{"module": "keras.layers", "class_name": "Dense", "config": {"x": NaN}}, {"class_name": "p>Mine", "config": {}}, {"module": "keras.src.models.functional", "class_name": "Functional", "config": {"layers": [{"module": "keras.layers", "class_name": "Attention", "config": {}}]}}]}}"#
    );
    assert!(keras_config(&model_of_3, None, Some("2.15.0")).unwrap().ends_with(&format!("[{parts}]}}}}")));
    let without = format!(r#"{{{functional}, "config": {{"layers": [1]}}}}"#);
    assert_eq!(keras_config(model, Some(training), Some("2.15.0")).unwrap(), without);
    for bad in ["", "[]", "{}", r#"{"class_name": 1, "config": {}}"#, r#"{"class_name": "A"}"#] {
        assert_eq!(keras_config(bad, None, None), None, "{bad}");
    }
}

#[test]
fn configurations_made_to_do_harm_are_not_followed() {
    let mut deep = layer("Dense", "d", "");
    for _ in 0..200 {
        deep = layer("Sequential", "s", &format!(r#", "layers": [{deep}]"#));
    }
    assert!(layers(&config(&deep)).is_none());
    // Each of many parts would have the long name of the model before its own.
    let parts = vec![layer("Dense", "d", ""); 20_000].join(", ");
    let wide = layer("Sequential", &"n".repeat(10_000), &format!(r#", "layers": [{parts}]"#));
    let wide = layer("Sequential", "s", &format!(r#", "layers": [{wide}]"#));
    assert!(layers(&config(&wide)).is_none());
    for text in ["[[[[", "{}", r#"{"class_name": "A", "config": {"layers": [1]}}"#] {
        assert!(layers(text).is_none(), "{text}");
    }
}

#[test]
fn a_legacy_file_needs_a_configuration_and_a_name_for_each_layer() {
    let schema = schema(&["layers/a/vars/0", "layers/b/vars/0"], &[("layers/a", "b")]);
    let error = plan(&schema, Format::LegacyH5, &Options::default()).unwrap_err();
    assert_eq!(error.status(), Status::State);
    let text = config("");
    let options = Options { config: Some(&text), ..Options::default() };
    let error = plan(&schema, Format::LegacyH5, &options).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
    assert!(error.message().contains("'layers/a' and 'layers/b' are both called 'b'"), "{error}");
}
