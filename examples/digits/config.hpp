// The config.json of the .keras file: what Keras' model.save() writes of
//
//   model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, "relu", name="dense"),
//                             keras.layers.Dense(10, "softmax", name="dense_1")], name="digits")
//   model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", ["accuracy"])
#pragma once

constexpr const char* config_json = R"json({
  "module": "keras", "class_name": "Sequential",
  "config": {
    "name": "digits", "trainable": true,
    "dtype": {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": null},
    "layers": [
      {
        "module": "keras.layers", "class_name": "InputLayer",
        "config": {
          "batch_shape": [null, 64], "dtype": "float32", "sparse": false, "ragged": false, "name": "input_layer",
          "optional": false
        },
        "registered_name": null
      },
      {
        "module": "keras.layers", "class_name": "Dense",
        "config": {
          "name": "dense", "trainable": true,
          "dtype": {
            "module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"},
            "registered_name": null
          },
          "units": 32, "activation": "relu", "use_bias": true,
          "kernel_initializer": {
            "module": "keras.initializers", "class_name": "GlorotUniform",
            "config": {"seed": null, "input_axes": null, "output_axes": null}, "registered_name": null
          },
          "bias_initializer": {"module": "keras.initializers", "class_name": "Zeros", "config": {}, "registered_name": null},
          "kernel_regularizer": null, "bias_regularizer": null, "kernel_constraint": null,
          "bias_constraint": null, "quantization_config": null
        },
        "registered_name": null, "build_config": {"input_shape": [null, 64]}
      },
      {
        "module": "keras.layers", "class_name": "Dense",
        "config": {
          "name": "dense_1", "trainable": true,
          "dtype": {
            "module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"},
            "registered_name": null
          },
          "units": 10, "activation": "softmax", "use_bias": true,
          "kernel_initializer": {
            "module": "keras.initializers", "class_name": "GlorotUniform",
            "config": {"seed": null, "input_axes": null, "output_axes": null}, "registered_name": null
          },
          "bias_initializer": {"module": "keras.initializers", "class_name": "Zeros", "config": {}, "registered_name": null},
          "kernel_regularizer": null, "bias_regularizer": null, "kernel_constraint": null,
          "bias_constraint": null, "quantization_config": null
        },
        "registered_name": null, "build_config": {"input_shape": [null, 32]}
      }
    ],
    "build_input_shape": [null, 64]
  },
  "registered_name": null, "build_config": {"input_shape": [null, 64]},
  "compile_config": {
    "optimizer": {
      "module": "keras.optimizers", "class_name": "Adam",
      "config": {
        "name": "adam", "learning_rate": 0.003, "weight_decay": null, "clipnorm": null, "global_clipnorm": null,
        "clipvalue": null, "use_ema": false, "ema_momentum": 0.99, "ema_overwrite_frequency": null,
        "loss_scale_factor": null, "gradient_accumulation_steps": null, "beta_1": 0.9, "beta_2": 0.999,
        "epsilon": 1e-07, "amsgrad": false
      },
      "registered_name": null
    },
    "loss": "sparse_categorical_crossentropy", "loss_weights": null, "metrics": ["accuracy"],
    "weighted_metrics": null, "run_eagerly": false, "steps_per_execution": 1, "jit_compile": "auto"
  }
})json";
