//! The optimizers that a model can be compiled with, as data: one row an optimizer, as Keras 3.15 has it.

use serde_json::{Map, Value};

use crate::error::{Error, Result, Status};

use super::arguments::{complete, invalid};
use super::table::{Argument, Kind, NUMBER, RATE, flag, with};

/// An optimizer.
struct Row {
    class: &'static str,
    stem: &'static str,
    arguments: &'static [&'static [Argument]],
    /// What it knows of each trainable variable, in the order of the file.
    slots: &'static [Slots],
}

/// Slots that the file has for one variable after the other.
struct Slots {
    names: &'static [&'static str],
    when: When,
}

/// Whether they are there.
enum When {
    Always,
    /// If this flag is set, or this number is there and is not 0.
    Set(&'static str),
}

const NUMBER_OR_NULL: Kind = Kind::OrNull(&NUMBER);
const NO_DECAY: Argument = with("weight_decay", NUMBER_OR_NULL, "null");

/// Keras counts steps in 32 bits.
const STEPS: i64 = i32::MAX as i64;

/// Keras takes one of them.
const CLIPS: [&str; 3] = ["clipnorm", "clipvalue", "global_clipnorm"];

const COMMON: &[Argument] = &[
    with("name", Kind::OrNull(&Kind::Name), "null"),
    with("clipnorm", NUMBER_OR_NULL, "null"),
    with("global_clipnorm", NUMBER_OR_NULL, "null"),
    with("clipvalue", NUMBER_OR_NULL, "null"),
    flag("use_ema", "false"),
    with("ema_momentum", RATE, "0.99"),
    with("ema_overwrite_frequency", Kind::OrNull(&Kind::Integer(1, STEPS)), "null"),
    with("loss_scale_factor", NUMBER_OR_NULL, "null"),
    with("gradient_accumulation_steps", Kind::OrNull(&Kind::Integer(2, STEPS)), "null"),
];

const ADAM: &[Argument] = &[
    with("learning_rate", NUMBER, "0.001"),
    with("beta_1", NUMBER, "0.9"),
    with("beta_2", NUMBER, "0.999"),
    with("epsilon", NUMBER, "1e-7"),
    flag("amsgrad", "false"),
];
const ADAM_SLOTS: &[Slots] = &[
    Slots { names: &["momentum", "velocity"], when: When::Always },
    Slots { names: &["velocity_hat"], when: When::Set("amsgrad") },
];

/// What every optimizer can have before its own.
const COMMON_SLOTS: &[Slots] = &[
    Slots { names: &["average"], when: When::Set("use_ema") },
    Slots { names: &["gradient_accumulator"], when: When::Set("gradient_accumulation_steps") },
];

const ROWS: &[Row] = &[
    Row {
        class: "SGD",
        stem: "sgd",
        arguments: &[
            COMMON,
            &[
                with("learning_rate", NUMBER, "0.01"),
                with("momentum", RATE, "0.0"),
                flag("nesterov", "false"),
                NO_DECAY,
            ],
        ],
        slots: &[Slots { names: &["momentum"], when: When::Set("momentum") }],
    },
    Row {
        class: "RMSprop",
        stem: "rm_sprop",
        arguments: &[
            COMMON,
            &[
                with("learning_rate", NUMBER, "0.001"),
                with("rho", NUMBER, "0.9"),
                with("momentum", NUMBER, "0.0"),
                with("epsilon", NUMBER, "1e-7"),
                flag("centered", "false"),
                NO_DECAY,
            ],
        ],
        slots: &[
            Slots { names: &["velocity"], when: When::Always },
            Slots { names: &["momentum"], when: When::Set("momentum") },
            Slots { names: &["average_gradient"], when: When::Set("centered") },
        ],
    },
    Row { class: "Adam", stem: "adam", arguments: &[COMMON, ADAM, &[NO_DECAY]], slots: ADAM_SLOTS },
    Row {
        class: "AdamW",
        stem: "adam_w",
        arguments: &[COMMON, ADAM, &[with("weight_decay", NUMBER, "0.004")]],
        slots: ADAM_SLOTS,
    },
];

/// An optimizer with its arguments.
pub(super) struct Optimizer {
    row: &'static Row,
    pub arguments: Map<String, Value>,
}

impl Optimizer {
    pub fn new(class: &str, given: Map<String, Value>) -> Result<Optimizer> {
        let row = ROWS.iter().find(|row| row.class == class).ok_or_else(|| {
            let classes: Vec<&str> = ROWS.iter().map(|row| row.class).collect();
            let message = format!("there is no optimizer '{class}' here; there are {}", classes.join(", "));
            Error::new(Status::Unsupported, message)
        })?;
        let mut arguments = complete(class, row.arguments, given)?;
        let clips: Vec<&str> = CLIPS.into_iter().filter(|clip| !arguments[*clip].is_null()).collect();
        if clips.len() > 1 {
            let clips = clips.join("' and '");
            return Err(invalid(format!("{class} has '{clips}': it can have one of {}", CLIPS.join(", "))));
        }
        if !arguments["name"].is_string() {
            arguments.insert("name".into(), row.stem.into());
        }
        Ok(Optimizer { row, arguments })
    }

    pub fn class(&self) -> &'static str {
        self.row.class
    }

    pub fn name(&self) -> &str {
        self.arguments["name"].as_str().unwrap_or(self.row.stem)
    }

    pub fn learning_rate(&self) -> f64 {
        self.arguments["learning_rate"].as_f64().unwrap_or(0.0)
    }

    /// Groups of slots: the file has those of a group for one variable after the other, before the next group.
    pub fn slots(&self) -> impl Iterator<Item = &'static [&'static str]> {
        let is_there = |slots: &&Slots| match slots.when {
            When::Always => true,
            When::Set(name) => match &self.arguments[name] {
                Value::Bool(is_set) => *is_set,
                number => number.as_f64().is_some_and(|n| n != 0.0),
            },
        };
        COMMON_SLOTS.iter().chain(self.row.slots).filter(is_there).map(|slots| slots.names)
    }
}
