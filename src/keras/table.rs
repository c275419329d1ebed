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

/// An argument of a layer, an optimizer, or an object that one of them is given.
pub(super) struct Argument {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
}

/// What an argument is where it is not given.
#[derive(Clone, Copy)]
pub(super) enum Default {
    /// It must be given.
    Needed,
    /// In JSON, as it could be given.
    Json(&'static str),
    /// Not in the configuration: neither if it is given as null.
    LeftOut,
}

/// What an argument can be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A number from and up to these. Written as a float: Keras takes no integer for a learning rate.
    Number(f64, f64),
    /// An integer from and up to these.
    Integer(i64, i64),
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
    Flag,
    /// A flag, or this word.
    FlagOr(&'static str),
    /// It can only be false, for this reason.
    Never(&'static str),
    /// It can only be null, for this reason.
    Nothing(&'static str),
    /// Text that a file can have as a group's name.
    Name,
    /// Also null.
    OrNull(&'static Kind),
    /// Also null: the default.
    OrDefault(&'static Kind),
    List(&'static Kind),
    /// The name of an activation, or an object; null is `linear`.
    Activation,
    /// The name of one of these, or an object.
    Object(&'static Family),
    /// A name, an object, a list, or null: Keras finds out what it is.
    Free,
    /// An axis, from 1 or from the end, -1.
    Axis,
    /// One or more of them; whether Keras makes a list of one.
    Axes(bool),
    /// One or more axes of a variable, from 0 or from the end.
    Places,
    /// Axes of a shape, without that of the batch; one of them may be -1, or null.
    Shape,
    /// Each axis, from 1, in another order.
    Order,
    /// The bounds of a renormalization.
    Clipping,
}

/// Objects of one sort that Keras has itself.
pub(super) struct Family {
    pub what: &'static str,
    pub module: &'static str,
    pub members: &'static [Member],
}

pub(super) struct Member {
    pub class: &'static str,
    /// Other names that Keras knows it by.
    pub names: &'static [&'static str],
    pub arguments: &'static [Argument],
    /// The axes of the tensors that it is for, at least and at most.
    pub ranks: (usize, usize),
}

pub(super) const NUMBER: Kind = Kind::Number(f64::NEG_INFINITY, f64::INFINITY);
pub(super) const NOT_NEGATIVE: Kind = Kind::Number(0.0, f64::INFINITY);
/// From 0 up to 1.
pub(super) const RATE: Kind = Kind::Number(0.0, 1.0);
pub(super) const COUNT: Kind = Kind::Integer(1, i64::MAX);
/// Where the seeds of Keras' backends are unsigned, they have 32 bits.
pub(super) const SEED: Argument = with("seed", Kind::OrNull(&Kind::Integer(0, u32::MAX as i64)), "null");

/// A variable of a layer.
pub(super) struct Variable {
    pub name: &'static str,
    /// What the names of its initializer, its regularizer and its constraint begin with.
    pub of: &'static str,
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
    Argument { name, kind, default: Default::Needed }
}

pub(super) const fn with(name: &'static str, kind: Kind, default: &'static str) -> Argument {
    Argument { name, kind, default: Default::Json(default) }
}

pub(super) const fn left_out(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, default: Default::LeftOut }
}

pub(super) const fn flag(name: &'static str, default: &'static str) -> Argument {
    with(name, Kind::Flag, default)
}

/// It can only be false, for this reason.
pub(super) const fn never(name: &'static str, why: &'static str) -> Argument {
    with(name, Kind::Never(why), "false")
}

/// A variable whose arguments begin with `of`.
pub(super) const fn weight(name: &'static str, of: &'static str, shape: &'static [Dim]) -> Variable {
    Variable { name, of, shape, when: None, trainable: true }
}

pub(super) const fn weight_if(flag: &'static str, name: &'static str, shape: &'static [Dim]) -> Variable {
    Variable { when: Some(flag), ..weight(name, name, shape) }
}

pub(super) const fn state(name: &'static str, of: &'static str, when: Option<&'static str>) -> Variable {
    Variable { name, of, shape: &[Dim::Along("axis")], when, trainable: false }
}

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
