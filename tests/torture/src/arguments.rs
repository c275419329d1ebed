//! The command line.

use std::path::PathBuf;

use crate::layers::LAYERS;

pub const USAGE: &str = "\
usage: torture LAYER... [--seed S] [--count N] [--seconds N] [--state FILE]
  LAYER      seam, flips, process, fs, blocklog, mutants; or all
  --seed S   the first case (0); a finding names its own
  --count N  how much of what the layer counts (its full number)
  --seconds  at most so long, shared by the layers
  --state    go on from here, and keep it up to date";

#[derive(Debug, Default)]
pub struct Arguments {
    layers: Vec<String>,
    pub seed: u64,
    pub count: Option<u64>,
    pub seconds: Option<u64>,
    pub state: Option<PathBuf>,
}

impl Arguments {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut arguments = Arguments::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            match word.as_str() {
                "--seed" => arguments.seed = number(&value()?)?,
                "--count" => arguments.count = Some(number(&value()?)?),
                "--seconds" => arguments.seconds = Some(number(&value()?)?),
                "--state" => arguments.state = Some(value()?.into()),
                name if name == "all" || LAYERS.iter().any(|layer| layer.name == name) => {
                    arguments.layers.push(word);
                }
                _ => return Err(format!("there is no layer or option '{word}'")),
            }
        }
        if arguments.layers.is_empty() { Err("which layer?".into()) } else { Ok(arguments) }
    }

    pub fn wants(&self, layer: &str) -> bool {
        self.layers.iter().any(|name| name == "all" || name == layer)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("'{text}' is no number"))
}
