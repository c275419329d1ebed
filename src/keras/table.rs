//! The layers that a model can be built of, as data: one row a layer, as Keras 3.15 has it.

use crate::tensor::MAX_RANK;

/// A layer.
pub(super) struct Row {
    pub class: &'static str,
    /// Its class in snake case: what its names and its path begin with.
    pub stem: &'static str,
    /// The axes of what it takes, without that of the batch, at least and at most.
    pub ranks: (usize, usize),
    /// `name`, `trainable` and `dtype` are every layer's.
    pub arguments: &'static [&'static [Argument]],
    /// In the order of their numbers in the file.
    pub variables: &'static [Variable],
    /// They are those of a part of the layer, which Keras calls so.
    pub part: Option<&'static str>,
    pub output: Output,
    /// Whether its configuration says what it was built for.
    pub is_built: bool,
}

/// An argument of a layer.
pub(super) struct Argument {
    pub name: &'static str,
    pub kind: Kind,
    /// In JSON, or the class of an initializer; `None` where there is none, so that it must be given.
    pub default: Option<&'static str>,
}

/// What an argument can be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// An integer from 1.
    Count,
    /// So many integers from 1, or one for all of them.
    Counts(usize),
    /// As above, or null: as the other argument.
    CountsOr(usize, &'static str),
    /// Zeros at the beginning and at the end of one axis: two integers from 0, or one for both.
    Pad,
    /// Of two axes: two of those, or one for both.
    Pads,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A flag; where something is said, it can only be false, since of that.
    Flag(Option<&'static str>),
    Number,
    NumberOrNull,
    /// From 0 up to 1.
    Rate,
    /// The name of an activation, or an object; null is `linear`.
    Activation,
    /// A name, or an object.
    Initializer,
    /// A name, an object, a list, or null.
    Optional,
    /// Null alone.
    Null,
    /// An axis, from 1 or from the end, -1.
    Axis,
    /// One or more of them; whether Keras makes a list of one.
    Axes(bool),
    /// Axes of a shape, without that of the batch; one of them may be -1.
    Shape,
    /// Each axis, from 1, in another order.
    Order,
    IntegerOrNull,
}

/// A variable of a layer.
pub(super) struct Variable {
    pub name: &'static str,
    pub shape: &'static [Dim],
    /// It is there only if this flag is set.
    pub when: Option<&'static str>,
    pub trainable: bool,
}

/// An axis of a variable, or some.
#[derive(Clone, Copy)]
pub(super) enum Dim {
    /// As the last axis of what the layer takes, or its channels where it knows of them.
    Channels,
    /// The channels of one group.
    GroupChannels,
    /// As many as channels, times an argument.
    ChannelsTimes(&'static str),
    /// An argument, so many times.
    Times(u64, &'static str),
    /// Each number of an argument.
    Each(&'static str),
    /// As the axes of what the layer takes that an argument names.
    Along(&'static str),
    /// Two, where this flag is set; else no axis.
    TwoIf(&'static str),
}

/// The shape of what a layer gives.
#[derive(Clone, Copy)]
pub(super) enum Output {
    Same,
    /// With another last axis.
    Last(&'static str),
    /// Of a convolution to so many channels, or to so many of each.
    Filters(&'static str),
    Multiplied(&'static str),
    Pool,
    GlobalPool,
    Pad,
    Flat,
    Shape,
    Order,
    /// With one more axis.
    More(&'static str),
    Recurrent,
}

const fn needed(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, default: None }
}

pub(super) const fn with(name: &'static str, kind: Kind, default: &'static str) -> Argument {
    Argument { name, kind, default: Some(default) }
}

pub(super) const fn flag(name: &'static str, default: &'static str) -> Argument {
    with(name, Kind::Flag(None), default)
}

/// It can only be false, for this reason.
pub(super) const fn never(name: &'static str, why: &'static str) -> Argument {
    with(name, Kind::Flag(Some(why)), "false")
}

const fn initializer(name: &'static str, class: &'static str) -> Argument {
    with(name, Kind::Initializer, class)
}

const fn optional(name: &'static str) -> Argument {
    with(name, Kind::Optional, "null")
}

const fn weight(name: &'static str, shape: &'static [Dim]) -> Variable {
    Variable { name, shape, when: None, trainable: true }
}

const fn weight_if(flag: &'static str, name: &'static str, shape: &'static [Dim]) -> Variable {
    Variable { name, shape, when: Some(flag), trainable: true }
}

const fn state(name: &'static str, when: Option<&'static str>) -> Variable {
    Variable { name, shape: &[Dim::Along("axis")], when, trainable: false }
}

/// The configurations of the initializers that are defaults.
pub(super) const INITIALIZERS: [(&str, &str); 5] = [
    ("GlorotUniform", r#"{"seed": null, "input_axes": null, "output_axes": null}"#),
    ("Orthogonal", r#"{"seed": null, "gain": 1.0}"#),
    ("RandomUniform", r#"{"seed": null, "minval": -0.05, "maxval": 0.05}"#),
    ("Zeros", "{}"),
    ("Ones", "{}"),
];

/// Keras' activations, by their names.
pub(super) const ACTIVATIONS: &[&str] = &[
    "celu",
    "elu",
    "exponential",
    "gelu",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "swish",
    "tanh",
    "tanh_shrink",
    "threshold",
];

const FORMAT: Argument =
    with("data_format", Kind::Choice(&["channels_last", "channels_first"]), "\"channels_last\"");
const PADDING: Argument = with("padding", Kind::Choice(&["valid", "same"]), "\"valid\"");
const CAUSAL: Argument = with("padding", Kind::Choice(&["valid", "same", "causal"]), "\"valid\"");
const LINEAR: Argument = with("activation", Kind::Activation, "\"linear\"");
const BIAS: Argument = flag("use_bias", "true");
const UNQUANTIZED: Argument = with("quantization_config", Kind::Null, "null");
const ACTIVITY: &[Argument] = &[optional("activity_regularizer")];

const OF_KERNEL: &[Argument] = &[
    initializer("kernel_initializer", "GlorotUniform"),
    optional("kernel_regularizer"),
    optional("kernel_constraint"),
];
const OF_BIAS: &[Argument] =
    &[initializer("bias_initializer", "Zeros"), optional("bias_regularizer"), optional("bias_constraint")];
const OF_GAMMA_AND_BETA: &[Argument] = &[
    flag("center", "true"),
    flag("scale", "true"),
    initializer("beta_initializer", "Zeros"),
    initializer("gamma_initializer", "Ones"),
    optional("beta_regularizer"),
    optional("gamma_regularizer"),
    optional("beta_constraint"),
    optional("gamma_constraint"),
];

const fn convolution<const N: usize>(padding: Argument) -> [Argument; 9] {
    [
        needed("filters", Kind::Count),
        needed("kernel_size", Kind::Counts(N)),
        with("strides", Kind::Counts(N), "1"),
        padding,
        FORMAT,
        with("dilation_rate", Kind::Counts(N), "1"),
        with("groups", Kind::Count, "1"),
        LINEAR,
        BIAS,
    ]
}

const KERNEL_AND_BIAS: &[Variable] = &[
    weight("kernel", &[Dim::Each("kernel_size"), Dim::GroupChannels, Dim::Times(1, "filters")]),
    weight_if("use_bias", "bias", &[Dim::Times(1, "filters")]),
];

const fn pooling<const N: usize>(size: Option<&'static str>) -> [Argument; 4] {
    [
        Argument { name: "pool_size", kind: Kind::Counts(N), default: size },
        PADDING,
        with("strides", Kind::CountsOr(N, "pool_size"), "null"),
        FORMAT,
    ]
}

const GLOBAL: &[Argument] = &[FORMAT, flag("keepdims", "false")];

const ONE_TENSOR: &str = "a Sequential model hands on one tensor";
const NO_STATE: &str = "the state between batches is not among the variables that are saved";
const RECURRENT: &[Argument] = &[
    flag("return_sequences", "false"),
    never("return_state", ONE_TENSOR),
    flag("go_backwards", "false"),
    never("stateful", NO_STATE),
    flag("unroll", "false"),
    flag("zero_output_for_mask", "false"),
    needed("units", Kind::Count),
    with("activation", Kind::Activation, "\"tanh\""),
    with("recurrent_activation", Kind::Activation, "\"sigmoid\""),
    BIAS,
    initializer("recurrent_initializer", "Orthogonal"),
    optional("recurrent_regularizer"),
    optional("recurrent_constraint"),
    with("dropout", Kind::Rate, "0.0"),
    with("recurrent_dropout", Kind::Rate, "0.0"),
    with("seed", Kind::IntegerOrNull, "null"),
];

/// A layer without variables, which says nothing of what it was built for.
const PLAIN: Row = Row {
    class: "",
    stem: "",
    ranks: (0, MAX_RANK - 1),
    arguments: &[],
    variables: &[],
    part: None,
    output: Output::Same,
    is_built: false,
};

pub(super) const ROWS: &[Row] = &[
    Row {
        class: "Dense",
        stem: "dense",
        ranks: (1, MAX_RANK - 1),
        arguments: &[&[needed("units", Kind::Count), LINEAR, BIAS, UNQUANTIZED], OF_KERNEL, OF_BIAS],
        variables: &[
            weight("kernel", &[Dim::Channels, Dim::Times(1, "units")]),
            weight_if("use_bias", "bias", &[Dim::Times(1, "units")]),
        ],
        output: Output::Last("units"),
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "Conv1D",
        stem: "conv1d",
        ranks: (2, 2),
        arguments: &[&convolution::<1>(CAUSAL), OF_KERNEL, OF_BIAS, ACTIVITY],
        variables: KERNEL_AND_BIAS,
        output: Output::Filters("filters"),
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "Conv2D",
        stem: "conv2d",
        ranks: (3, 3),
        arguments: &[&convolution::<2>(PADDING), OF_KERNEL, OF_BIAS, ACTIVITY],
        variables: KERNEL_AND_BIAS,
        output: Output::Filters("filters"),
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "DepthwiseConv2D",
        stem: "depthwise_conv2d",
        ranks: (3, 3),
        arguments: &[
            &[
                needed("kernel_size", Kind::Counts(2)),
                with("strides", Kind::Counts(2), "1"),
                PADDING,
                with("depth_multiplier", Kind::Count, "1"),
                FORMAT,
                with("dilation_rate", Kind::Counts(2), "1"),
                LINEAR,
                BIAS,
                initializer("depthwise_initializer", "GlorotUniform"),
                optional("depthwise_regularizer"),
                optional("depthwise_constraint"),
            ],
            OF_BIAS,
            ACTIVITY,
        ],
        variables: &[
            weight("kernel", &[Dim::Each("kernel_size"), Dim::Channels, Dim::Times(1, "depth_multiplier")]),
            weight_if("use_bias", "bias", &[Dim::ChannelsTimes("depth_multiplier")]),
        ],
        output: Output::Multiplied("depth_multiplier"),
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "MaxPooling1D",
        stem: "max_pooling1d",
        ranks: (2, 2),
        arguments: &[&pooling::<1>(Some("2"))],
        output: Output::Pool,
        ..PLAIN
    },
    Row {
        class: "MaxPooling2D",
        stem: "max_pooling2d",
        ranks: (3, 3),
        arguments: &[&pooling::<2>(Some("2"))],
        output: Output::Pool,
        ..PLAIN
    },
    Row {
        class: "AveragePooling1D",
        stem: "average_pooling1d",
        ranks: (2, 2),
        arguments: &[&pooling::<1>(None)],
        output: Output::Pool,
        ..PLAIN
    },
    Row {
        class: "AveragePooling2D",
        stem: "average_pooling2d",
        ranks: (3, 3),
        arguments: &[&pooling::<2>(None)],
        output: Output::Pool,
        ..PLAIN
    },
    Row {
        class: "GlobalAveragePooling1D",
        stem: "global_average_pooling1d",
        ranks: (2, 2),
        arguments: &[GLOBAL],
        output: Output::GlobalPool,
        ..PLAIN
    },
    Row {
        class: "GlobalAveragePooling2D",
        stem: "global_average_pooling2d",
        ranks: (3, 3),
        arguments: &[GLOBAL],
        output: Output::GlobalPool,
        ..PLAIN
    },
    Row {
        class: "ZeroPadding1D",
        stem: "zero_padding1d",
        ranks: (2, 2),
        arguments: &[&[with("padding", Kind::Pad, "1"), FORMAT]],
        output: Output::Pad,
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "ZeroPadding2D",
        stem: "zero_padding2d",
        ranks: (3, 3),
        arguments: &[&[with("padding", Kind::Pads, "1"), FORMAT]],
        output: Output::Pad,
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "Flatten",
        stem: "flatten",
        arguments: &[&[FORMAT]],
        output: Output::Flat,
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "Reshape",
        stem: "reshape",
        arguments: &[&[needed("target_shape", Kind::Shape)]],
        output: Output::Shape,
        ..PLAIN
    },
    Row {
        class: "Permute",
        stem: "permute",
        ranks: (1, MAX_RANK - 1),
        arguments: &[&[needed("dims", Kind::Order)]],
        output: Output::Order,
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "Dropout",
        stem: "dropout",
        arguments: &[&[
            needed("rate", Kind::Rate),
            with("seed", Kind::IntegerOrNull, "null"),
            optional("noise_shape"),
        ]],
        ..PLAIN
    },
    Row {
        class: "BatchNormalization",
        stem: "batch_normalization",
        ranks: (1, MAX_RANK - 1),
        arguments: &[
            &[
                with("axis", Kind::Axis, "-1"),
                with("momentum", Kind::Number, "0.99"),
                with("epsilon", Kind::Number, "0.001"),
                initializer("moving_mean_initializer", "Zeros"),
                initializer("moving_variance_initializer", "Ones"),
                flag("synchronized", "false"),
                flag("renorm", "false"),
                optional("renorm_clipping"),
                with("renorm_momentum", Kind::Number, "0.99"),
            ],
            OF_GAMMA_AND_BETA,
        ],
        variables: &[
            weight_if("scale", "gamma", &[Dim::Along("axis")]),
            weight_if("center", "beta", &[Dim::Along("axis")]),
            state("moving_mean", None),
            state("moving_variance", None),
            state("moving_stddev", Some("renorm")),
            state("renorm_mean", Some("renorm")),
            state("renorm_stddev", Some("renorm")),
        ],
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "LayerNormalization",
        stem: "layer_normalization",
        ranks: (1, MAX_RANK - 1),
        arguments: &[
            &[
                with("axis", Kind::Axes(true), "-1"),
                with("epsilon", Kind::Number, "0.001"),
                never("rms_scaling", "Keras 3.15 has RMSNormalization for it"),
            ],
            OF_GAMMA_AND_BETA,
        ],
        variables: &[
            weight_if("scale", "gamma", &[Dim::Along("axis")]),
            weight_if("center", "beta", &[Dim::Along("axis")]),
        ],
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "Embedding",
        stem: "embedding",
        arguments: &[
            &[
                needed("input_dim", Kind::Count),
                needed("output_dim", Kind::Count),
                initializer("embeddings_initializer", "RandomUniform"),
                optional("embeddings_regularizer"),
                optional("embeddings_constraint"),
                flag("mask_zero", "false"),
                UNQUANTIZED,
            ],
            ACTIVITY,
        ],
        variables: &[weight("embeddings", &[Dim::Times(1, "input_dim"), Dim::Times(1, "output_dim")])],
        output: Output::More("output_dim"),
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "LSTM",
        stem: "lstm",
        ranks: (2, 2),
        arguments: &[RECURRENT, &[flag("unit_forget_bias", "true")], OF_KERNEL, OF_BIAS, ACTIVITY],
        variables: &[
            weight("kernel", &[Dim::Channels, Dim::Times(4, "units")]),
            weight("recurrent_kernel", &[Dim::Times(1, "units"), Dim::Times(4, "units")]),
            weight_if("use_bias", "bias", &[Dim::Times(4, "units")]),
        ],
        part: Some("cell"),
        output: Output::Recurrent,
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "GRU",
        stem: "gru",
        ranks: (2, 2),
        arguments: &[RECURRENT, &[flag("reset_after", "true")], OF_KERNEL, OF_BIAS, ACTIVITY],
        variables: &[
            weight("kernel", &[Dim::Channels, Dim::Times(3, "units")]),
            weight("recurrent_kernel", &[Dim::Times(1, "units"), Dim::Times(3, "units")]),
            weight_if("use_bias", "bias", &[Dim::TwoIf("reset_after"), Dim::Times(3, "units")]),
        ],
        part: Some("cell"),
        output: Output::Recurrent,
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "Activation",
        stem: "activation",
        arguments: &[&[needed("activation", Kind::Activation)]],
        ..PLAIN
    },
    Row {
        class: "ReLU",
        stem: "re_lu",
        arguments: &[&[
            with("max_value", Kind::NumberOrNull, "null"),
            with("negative_slope", Kind::Number, "0.0"),
            with("threshold", Kind::Number, "0.0"),
        ]],
        ..PLAIN
    },
    Row {
        class: "Softmax",
        stem: "softmax",
        arguments: &[&[with("axis", Kind::Axes(false), "-1")]],
        ..PLAIN
    },
];
