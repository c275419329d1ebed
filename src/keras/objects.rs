//! The initializers, regularizers and constraints that Keras has itself, as data, and what tensors they are for.

use serde_json::{Map, Value};

use crate::error::Result;
use crate::tensor::MAX_RANK;

use super::arguments::{axes, invalid};
use super::table::{Argument, Family, Kind, Member, NOT_NEGATIVE, NUMBER, SEED, left_out, with};

const fn member(
    class: &'static str,
    names: &'static [&'static str],
    arguments: &'static [Argument],
) -> Member {
    Member { class, names, arguments, ranks: (0, MAX_RANK) }
}

const AXES: Kind = Kind::OrNull(&Kind::List(&Kind::Integer(i64::MIN, i64::MAX)));
const INPUT_AXES: Argument = with("input_axes", AXES, "null");
const OUTPUT_AXES: Argument = with("output_axes", AXES, "null");
const SEEDED: &[Argument] = &[SEED, INPUT_AXES, OUTPUT_AXES];
const NORMAL: &[Argument] = &[SEED, with("mean", NUMBER, "0.0"), with("stddev", NOT_NEGATIVE, "0.05")];
const GAIN: Argument = with("gain", NUMBER, "1.0");

pub(super) const GIVEN_INITIALIZER: Kind = Kind::Object(&INITIALIZERS);
pub(super) const INITIALIZER: Kind = Kind::OrNull(&Kind::Object(&INITIALIZERS));
pub(super) const REGULARIZER: Kind = Kind::OrNull(&Kind::Object(&REGULARIZERS));
pub(super) const CONSTRAINT: Kind = Kind::OrNull(&Kind::Object(&CONSTRAINTS));

/// Keras also has STFT, for a kernel that is no layer's here.
static INITIALIZERS: Family = Family {
    what: "initializer",
    module: "keras.initializers",
    members: &[
        member("Constant", &["constant"], &[with("value", NUMBER, "0.0")]),
        Member {
            ranks: (2, 2),
            ..member("Identity", &["identity", "IdentityInitializer"], &[left_out("gain", NUMBER)])
        },
        member("Ones", &["ones", "one"], &[]),
        member("Zeros", &["zeros", "zero"], &[]),
        member("GlorotNormal", &["glorot_normal"], SEEDED),
        member("GlorotUniform", &["glorot_uniform"], SEEDED),
        member("HeNormal", &["he_normal"], SEEDED),
        member("HeUniform", &["he_uniform"], SEEDED),
        member("LecunNormal", &["lecun_normal"], SEEDED),
        member("LecunUniform", &["lecun_uniform"], SEEDED),
        Member {
            ranks: (2, MAX_RANK),
            ..member("Orthogonal", &["orthogonal", "OrthogonalInitializer"], &[SEED, GAIN])
        },
        member("RandomNormal", &["random_normal", "normal"], NORMAL),
        member(
            "RandomUniform",
            &["random_uniform", "uniform"],
            &[SEED, with("minval", NUMBER, "-0.05"), with("maxval", NUMBER, "0.05")],
        ),
        member("TruncatedNormal", &["truncated_normal"], NORMAL),
        member(
            "VarianceScaling",
            &["variance_scaling"],
            &[
                SEED,
                INPUT_AXES,
                OUTPUT_AXES,
                with("scale", Kind::Number(f64::MIN_POSITIVE, f64::INFINITY), "1.0"),
                with("mode", Kind::Choice(&["fan_in", "fan_out", "fan_avg"]), "\"fan_in\""),
                with(
                    "distribution",
                    Kind::Choice(&["truncated_normal", "normal", "untruncated_normal", "uniform"]),
                    "\"truncated_normal\"",
                ),
            ],
        ),
    ],
};

const fn factor(name: &'static str, default: &'static str) -> Argument {
    with(name, Kind::OrDefault(&NOT_NEGATIVE), default)
}

static REGULARIZERS: Family = Family {
    what: "regularizer",
    module: "keras.regularizers",
    members: &[
        member("L1", &["l1"], &[factor("l1", "0.01")]),
        member("L2", &["l2"], &[factor("l2", "0.01")]),
        member("L1L2", &["l1l2"], &[factor("l1", "0.0"), factor("l2", "0.0")]),
        Member {
            ranks: (2, 2),
            ..member(
                "OrthogonalRegularizer",
                &["orthogonal_regularizer"],
                &[
                    with("factor", NOT_NEGATIVE, "0.01"),
                    with("mode", Kind::Choice(&["rows", "columns"]), "\"rows\""),
                ],
            )
        },
    ],
};

const AXIS: Argument = with("axis", Kind::Places, "0");

static CONSTRAINTS: Family = Family {
    what: "constraint",
    module: "keras.constraints",
    members: &[
        member("MaxNorm", &["max_norm"], &[with("max_value", NUMBER, "2"), AXIS]),
        member(
            "MinMaxNorm",
            &["min_max_norm"],
            &[
                with("min_value", NUMBER, "0.0"),
                with("max_value", NUMBER, "1.0"),
                with("rate", NUMBER, "1.0"),
                AXIS,
            ],
        ),
        member("NonNeg", &["non_neg"], &[]),
        member("UnitNorm", &["unit_norm"], &[AXIS]),
    ],
};

/// Whether the objects among the arguments whose names begin so are for a tensor of so many axes: Keras finds out when
/// the layer is built, or when it is trained.
pub(super) fn fit(arguments: &Map<String, Value>, of: &str, rank: usize) -> Result<()> {
    for family in [&INITIALIZERS, &REGULARIZERS, &CONSTRAINTS] {
        let name = format!("{of}_{}", family.what);
        let Some(object) = arguments.get(&name).filter(|object| object["module"] == family.module) else {
            continue;
        };
        let Some(member) = family.members.iter().find(|member| object["class_name"] == member.class) else {
            continue;
        };
        let (fewest, most) = member.ranks;
        if !(fewest..=most).contains(&rank) {
            let class = member.class;
            return Err(invalid(format!("'{name}' is {class}, which is not for a tensor of {rank} axes")));
        }
        for argument in ["axis", "input_axes", "output_axes"] {
            let places = object["config"].get(argument).and_then(axes).unwrap_or_default();
            if let Some(wrong) = places.iter().find(|place| !(-(rank as i64)..rank as i64).contains(place)) {
                return Err(invalid(format!(
                    "'{argument}' of '{name}' has {wrong}: the tensor has {rank} axes, from 0"
                )));
            }
        }
    }
    Ok(())
}
