//! The layers that a model can be built of, as data: one row a layer, as Keras 3.15 has it.

use crate::tensor::MAX_RANK;

use super::objects::{CONSTRAINT, GIVEN_INITIALIZER, INITIALIZER, REGULARIZER};
use super::table::{
    Argument, COUNT, Default, Dim, Kind, NOT_NEGATIVE, NUMBER, Output, RATE, Row, SEED, Variable, flag,
    left_out, needed, never, state, weight, weight_if, with,
};

const FORMAT: Argument = with(
    "data_format",
    Kind::OrDefault(&Kind::Choice(&["channels_last", "channels_first"])),
    "\"channels_last\"",
);
const PADDING: Argument = with("padding", Kind::Choice(&["valid", "same"]), "\"valid\"");
const CAUSAL: Argument = with("padding", Kind::Choice(&["valid", "same", "causal"]), "\"valid\"");
const LINEAR: Argument = with("activation", Kind::Activation, "\"linear\"");
const BIAS: Argument = flag("use_bias", "true");
const UNQUANTIZED: Argument =
    with("quantization_config", Kind::Nothing("variables are not quantized here"), "null");
const ACTIVITY: &[Argument] = &[regularizer("activity_regularizer")];

const NO_LORA: &str =
    "the variables of a low-rank adaptation are not in the file: Keras merges them when it saves";
const LORA: &[Argument] =
    &[left_out("lora_rank", Kind::Nothing(NO_LORA)), left_out("lora_alpha", Kind::Nothing(NO_LORA))];

/// What every layer takes, beside its name.
pub(super) const EVERY: &[Argument] = &[
    flag("trainable", "true"),
    with("dtype", Kind::OrDefault(&Kind::Free), "\"float32\""),
    left_out("activity_regularizer", REGULARIZER),
];

const fn initializer(name: &'static str, default: &'static str) -> Argument {
    with(name, INITIALIZER, default)
}

const fn regularizer(name: &'static str) -> Argument {
    with(name, REGULARIZER, "null")
}

const fn constraint(name: &'static str) -> Argument {
    with(name, CONSTRAINT, "null")
}

const GLOROT: &str = "\"GlorotUniform\"";
const ZEROS: &str = "\"Zeros\"";
const ONES: &str = "\"Ones\"";

const OF_KERNEL: &[Argument] = &[
    initializer("kernel_initializer", GLOROT),
    regularizer("kernel_regularizer"),
    constraint("kernel_constraint"),
];
const OF_BIAS: &[Argument] =
    &[initializer("bias_initializer", ZEROS), regularizer("bias_regularizer"), constraint("bias_constraint")];
const OF_GAMMA_AND_BETA: &[Argument] = &[
    flag("center", "true"),
    flag("scale", "true"),
    initializer("beta_initializer", ZEROS),
    initializer("gamma_initializer", ONES),
    regularizer("beta_regularizer"),
    regularizer("gamma_regularizer"),
    constraint("beta_constraint"),
    constraint("gamma_constraint"),
];

const fn convolution<const N: usize>(padding: Argument) -> [Argument; 9] {
    [
        needed("filters", COUNT),
        needed("kernel_size", Kind::Counts(N)),
        with("strides", Kind::Counts(N), "1"),
        padding,
        FORMAT,
        with("dilation_rate", Kind::Counts(N), "1"),
        with("groups", COUNT, "1"),
        LINEAR,
        BIAS,
    ]
}

const KERNEL_AND_BIAS: &[Variable] = &[
    weight("kernel", "kernel", &[Dim::Each("kernel_size"), Dim::GroupChannels, Dim::Times(1, "filters")]),
    weight_if("use_bias", "bias", &[Dim::Times(1, "filters")]),
];

const fn pooling<const N: usize>(size: Default) -> [Argument; 4] {
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
    needed("units", COUNT),
    with("activation", Kind::Activation, "\"tanh\""),
    with("recurrent_activation", Kind::Activation, "\"sigmoid\""),
    BIAS,
    initializer("recurrent_initializer", "\"Orthogonal\""),
    regularizer("recurrent_regularizer"),
    constraint("recurrent_constraint"),
    with("dropout", RATE, "0.0"),
    with("recurrent_dropout", RATE, "0.0"),
    SEED,
    left_out("implementation", Kind::Integer(i64::MIN, i64::MAX)),
    left_out("use_cudnn", Kind::FlagOr("auto")),
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
        arguments: &[&[needed("units", COUNT), LINEAR, BIAS, UNQUANTIZED], OF_KERNEL, OF_BIAS, LORA],
        variables: &[
            weight("kernel", "kernel", &[Dim::Channels, Dim::Times(1, "units")]),
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
        arguments: &[&convolution::<1>(CAUSAL), OF_KERNEL, OF_BIAS, ACTIVITY, LORA],
        variables: KERNEL_AND_BIAS,
        output: Output::Filters("filters"),
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "Conv2D",
        stem: "conv2d",
        ranks: (3, 3),
        arguments: &[&convolution::<2>(PADDING), OF_KERNEL, OF_BIAS, ACTIVITY, LORA],
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
                with("depth_multiplier", COUNT, "1"),
                FORMAT,
                with("dilation_rate", Kind::Counts(2), "1"),
                LINEAR,
                BIAS,
                initializer("depthwise_initializer", GLOROT),
                regularizer("depthwise_regularizer"),
                constraint("depthwise_constraint"),
            ],
            OF_BIAS,
            ACTIVITY,
        ],
        variables: &[
            weight(
                "kernel",
                "depthwise",
                &[Dim::Each("kernel_size"), Dim::Channels, Dim::Times(1, "depth_multiplier")],
            ),
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
        arguments: &[&pooling::<1>(Default::Json("2"))],
        output: Output::Pool,
        ..PLAIN
    },
    Row {
        class: "MaxPooling2D",
        stem: "max_pooling2d",
        ranks: (3, 3),
        arguments: &[&pooling::<2>(Default::Json("2"))],
        output: Output::Pool,
        ..PLAIN
    },
    Row {
        class: "AveragePooling1D",
        stem: "average_pooling1d",
        ranks: (2, 2),
        arguments: &[&pooling::<1>(Default::Needed)],
        output: Output::Pool,
        ..PLAIN
    },
    Row {
        class: "AveragePooling2D",
        stem: "average_pooling2d",
        ranks: (3, 3),
        arguments: &[&pooling::<2>(Default::Needed)],
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
            needed("rate", RATE),
            SEED,
            with("noise_shape", Kind::OrNull(&Kind::List(&Kind::OrNull(&COUNT))), "null"),
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
                with("momentum", NUMBER, "0.99"),
                with("epsilon", NUMBER, "0.001"),
                initializer("moving_mean_initializer", ZEROS),
                with("moving_variance_initializer", GIVEN_INITIALIZER, ONES),
                never("synchronized", "Keras takes it with the TensorFlow backend alone"),
                flag("renorm", "false"),
                with("renorm_clipping", Kind::OrNull(&Kind::Clipping), "null"),
                with("renorm_momentum", NUMBER, "0.99"),
            ],
            OF_GAMMA_AND_BETA,
        ],
        variables: &[
            weight_if("scale", "gamma", &[Dim::Along("axis")]),
            weight_if("center", "beta", &[Dim::Along("axis")]),
            state("moving_mean", "moving_mean", None),
            state("moving_variance", "moving_variance", None),
            state("moving_stddev", "moving_variance", Some("renorm")),
            state("renorm_mean", "moving_mean", Some("renorm")),
            state("renorm_stddev", "moving_variance", Some("renorm")),
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
                with("epsilon", NUMBER, "0.001"),
                never("rms_scaling", "Keras has RMSNormalization in its place"),
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
                needed("input_dim", COUNT),
                needed("output_dim", COUNT),
                initializer("embeddings_initializer", "\"RandomUniform\""),
                regularizer("embeddings_regularizer"),
                constraint("embeddings_constraint"),
                flag("mask_zero", "false"),
                UNQUANTIZED,
            ],
            ACTIVITY,
            LORA,
        ],
        variables: &[weight(
            "embeddings",
            "embeddings",
            &[Dim::Times(1, "input_dim"), Dim::Times(1, "output_dim")],
        )],
        output: Output::More("output_dim"),
        is_built: true,
        ..PLAIN
    },
    Row {
        class: "LSTM",
        stem: "lstm",
        ranks: (2, 2),
        // Before the shared ones: the forget gate's ones are put into what an initializer makes.
        arguments: &[
            RECURRENT,
            &[flag("unit_forget_bias", "true"), with("bias_initializer", GIVEN_INITIALIZER, ZEROS)],
            OF_KERNEL,
            OF_BIAS,
            ACTIVITY,
        ],
        variables: &[
            weight("kernel", "kernel", &[Dim::Channels, Dim::Times(4, "units")]),
            weight("recurrent_kernel", "recurrent", &[Dim::Times(1, "units"), Dim::Times(4, "units")]),
            weight_if("use_bias", "bias", &[Dim::Times(4, "units")]),
        ],
        part: Some("cell"),
        output: Output::Recurrent,
        is_built: true,
    },
    Row {
        class: "GRU",
        stem: "gru",
        ranks: (2, 2),
        arguments: &[RECURRENT, &[flag("reset_after", "true")], OF_KERNEL, OF_BIAS, ACTIVITY],
        variables: &[
            weight("kernel", "kernel", &[Dim::Channels, Dim::Times(3, "units")]),
            weight("recurrent_kernel", "recurrent", &[Dim::Times(1, "units"), Dim::Times(3, "units")]),
            weight_if("use_bias", "bias", &[Dim::TwoIf("reset_after"), Dim::Times(3, "units")]),
        ],
        part: Some("cell"),
        output: Output::Recurrent,
        is_built: true,
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
            with("max_value", Kind::OrNull(&NOT_NEGATIVE), "null"),
            with("negative_slope", NOT_NEGATIVE, "0.0"),
            with("threshold", NOT_NEGATIVE, "0.0"),
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
