//! What a row says of a layer or an optimizer: its arguments, its variables, and what comes out.

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

pub(super) const fn needed(name: &'static str, kind: Kind) -> Argument {
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

pub(super) const fn initializer(name: &'static str, class: &'static str) -> Argument {
    with(name, Kind::Initializer, class)
}

pub(super) const fn optional(name: &'static str) -> Argument {
    with(name, Kind::Optional, "null")
}

pub(super) const fn weight(name: &'static str, shape: &'static [Dim]) -> Variable {
    Variable { name, shape, when: None, trainable: true }
}

pub(super) const fn weight_if(flag: &'static str, name: &'static str, shape: &'static [Dim]) -> Variable {
    Variable { name, shape, when: Some(flag), trainable: true }
}

pub(super) const fn state(name: &'static str, when: Option<&'static str>) -> Variable {
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

/// Keras' activations, by their names, but for `glu`, which halves an axis, and `threshold`, which needs arguments.
pub(super) const ACTIVATIONS: &[&str] = &[
    "celu",
    "elu",
    "exponential",
    "gelu",
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
];
