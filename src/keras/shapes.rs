//! The shapes of what layers give, and of their variables.

use serde_json::{Map, Value};

use crate::error::Result;

use super::arguments::{axes, invalid};
use super::table::{Dim, Output, Row};

/// The axes of a tensor without that of the batch; those that are known only when the model runs are `None`.
pub(super) type Shape = Vec<Option<u64>>;

/// A layer, and what it takes.
pub(super) struct Built<'a> {
    pub row: &'a Row,
    pub arguments: &'a Map<String, Value>,
    pub input: &'a Shape,
}

impl Built<'_> {
    /// What the layer gives.
    pub fn output(&self) -> Result<Shape> {
        let (fewest, most) = self.row.ranks;
        if !(fewest..=most).contains(&self.input.len()) {
            let axes = if fewest == most { fewest.to_string() } else { format!("{fewest} to {most}") };
            return Err(invalid(format!(
                "it takes {axes} axes beside that of the batch, not {}",
                text(self.input)
            )));
        }
        let mut places = Vec::new();
        for axis in self.arguments.get("axis").and_then(axes).unwrap_or_default() {
            let place = self.axis(axis)?;
            if places.contains(&place) {
                return Err(invalid(format!("'axis' has axis {axis} of {} twice", text(self.input))));
            }
            places.push(place);
        }
        self.check_noise()?;
        let mut shape = self.input.clone();
        match self.row.output {
            Output::Same => {}
            Output::Last(argument) => {
                if let Some(last) = shape.last_mut() {
                    *last = Some(self.count(argument));
                }
            }
            Output::Filters(argument) => {
                let (filters, groups) = (self.count(argument), self.count("groups"));
                let channels = self.channels()?;
                if channels % groups != 0 || filters % groups != 0 {
                    return Err(invalid(format!(
                        "{channels} channels and {filters} filters cannot be divided into {groups} groups"
                    )));
                }
                self.slide("kernel_size", &mut shape)?;
                shape[self.channel_axis()] = Some(filters);
            }
            Output::Multiplied(argument) => {
                self.slide("kernel_size", &mut shape)?;
                shape[self.channel_axis()] = Some(product(&[self.channels()?, self.count(argument)])?);
            }
            Output::Pool => self.slide("pool_size", &mut shape)?,
            Output::GlobalPool => {
                let channels = shape[self.channel_axis()];
                if self.flag("keepdims") {
                    self.spatial().for_each(|axis| shape[axis] = Some(1));
                } else {
                    shape = vec![channels];
                }
            }
            Output::Pad => {
                // Of one axis a pair, of two axes a pair of each.
                let pads: Vec<u64> = flat(&self.arguments["padding"]);
                for (axis, pad) in self.spatial().zip(pads.chunks(2)) {
                    let padded = |n: u64| pad.iter().try_fold(n, |sum, more| sum.checked_add(*more));
                    shape[axis] = shape[axis].map(|n| padded(n).ok_or_else(too_large)).transpose()?;
                }
            }
            Output::Flat => shape = vec![all(self.input)?],
            Output::Shape => shape = self.reshaped()?,
            Output::Order => {
                let order = axes(&self.arguments["dims"]).unwrap_or_default();
                if order.len() != shape.len() {
                    return Err(invalid(format!(
                        "'dims' has {} axes, not {}",
                        order.len(),
                        text(self.input)
                    )));
                }
                shape = order.iter().map(|axis| self.input[*axis as usize - 1]).collect();
            }
            Output::More(argument) => shape.push(Some(self.count(argument))),
            Output::Recurrent => {
                let units = Some(self.count("units"));
                shape = if self.flag("return_sequences") { vec![shape[0], units] } else { vec![units] };
            }
        }
        Ok(shape)
    }

    /// The shape of a variable.
    pub fn variable(&self, dims: &[Dim]) -> Result<Vec<u64>> {
        let mut shape = Vec::new();
        for dim in dims {
            match *dim {
                Dim::Channels => shape.push(self.channels()?),
                Dim::GroupChannels => shape.push(self.channels()? / self.count("groups")),
                Dim::ChannelsTimes(argument) => {
                    shape.push(product(&[self.channels()?, self.count(argument)])?)
                }
                Dim::Times(n, argument) => shape.push(product(&[n, self.count(argument)])?),
                Dim::Each(argument) => shape.extend(flat(&self.arguments[argument])),
                Dim::Along(argument) => {
                    for axis in axes(&self.arguments[argument]).unwrap_or_default() {
                        shape.push(self.known(self.axis(axis)?)?);
                    }
                }
                Dim::TwoIf(flag) => shape.extend(self.flag(flag).then_some(2)),
            }
        }
        product(&shape)?;
        Ok(shape)
    }

    /// The place of an axis, counted from 1 or from the end, in shapes without that of the batch.
    fn axis(&self, axis: i64) -> Result<usize> {
        let rank = self.input.len() as i64;
        let at = if axis < 0 { rank + axis } else { axis - 1 };
        usize::try_from(at)
            .ok()
            .filter(|at| *at < self.input.len())
            .ok_or_else(|| invalid(format!("there is no axis {axis} in {}", text(self.input))))
    }

    pub fn flag(&self, name: &str) -> bool {
        self.arguments.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn count(&self, name: &str) -> u64 {
        self.arguments.get(name).and_then(Value::as_u64).unwrap_or(1)
    }

    fn is_channels_first(&self) -> bool {
        self.arguments.get("data_format").is_some_and(|format| format == "channels_first")
    }

    fn channel_axis(&self) -> usize {
        if self.is_channels_first() { 0 } else { self.input.len().saturating_sub(1) }
    }

    fn channels(&self) -> Result<u64> {
        self.known(self.channel_axis())
    }

    /// An axis on which a variable depends.
    fn known(&self, axis: usize) -> Result<u64> {
        let what = || invalid(format!("a variable depends on axis {} of {}", axis + 1, text(self.input)));
        self.input.get(axis).copied().flatten().ok_or_else(what)
    }

    /// The axes that are not the channels.
    fn spatial(&self) -> impl Iterator<Item = usize> + use<> {
        let first = usize::from(self.is_channels_first());
        first..first + self.input.len().saturating_sub(1)
    }

    /// The axes along which a window moves.
    fn slide(&self, window: &str, shape: &mut Shape) -> Result<()> {
        let windows = flat(&self.arguments[window]);
        let strides = flat(&self.arguments["strides"]);
        let dilations = self.arguments.get("dilation_rate").map(flat);
        let padding = self.arguments["padding"].as_str();
        let dilated = dilations.iter().flatten().any(|n| *n > 1);
        if dilated && strides.iter().any(|n| *n > 1) {
            return Err(invalid("'strides' and 'dilation_rate' cannot both be more than 1".into()));
        }
        for (i, axis) in self.spatial().enumerate() {
            let Some(n) = shape[axis] else { continue };
            let dilation = dilations.as_ref().map_or(1, |dilations| dilations[i]);
            let reach = product(&[windows[i] - 1, dilation])?;
            let n = if padding == Some("valid") {
                n.checked_sub(reach).filter(|n| *n > 0).ok_or_else(|| {
                    let window = &self.arguments[window];
                    invalid(format!("a window of {window} does not fit into {}", text(self.input)))
                })?
            } else {
                n
            };
            shape[axis] = Some(n.div_ceil(strides[i]));
        }
        Ok(())
    }

    fn reshaped(&self) -> Result<Shape> {
        let target = self.arguments["target_shape"].as_array().map_or(&[][..], Vec::as_slice);
        let known: Vec<u64> = target.iter().filter_map(Value::as_u64).collect();
        let (have, want) = (all(self.input)?, product(&known)?);
        let rest = match have {
            Some(have) if target.len() == known.len() => (have == want).then_some(None),
            Some(have) => (want > 0 && have.is_multiple_of(want)).then(|| Some(have / want)),
            None => Some(None),
        };
        let rest = rest.ok_or_else(|| {
            let target = &self.arguments["target_shape"];
            invalid(format!("{} cannot have the shape {target}", text(self.input)))
        })?;
        // Keras works -1 out, and leaves null open.
        Ok(target.iter().map(|n| if n.is_null() { None } else { n.as_u64().or(rest) }).collect())
    }

    /// Whether noise of a shape, the batch's axis before the others, is for what the layer takes.
    fn check_noise(&self) -> Result<()> {
        let Some(noise) = self.arguments.get("noise_shape").and_then(Value::as_array) else { return Ok(()) };
        let taken: Shape = [None].into_iter().chain(self.input.iter().copied()).collect();
        let first = taken.len().saturating_sub(noise.len());
        // Where it has null it is as what is taken, from the first axis on; then it is broadcast, from the last one on.
        let fits = |(i, n): (usize, &Value)| match (n.as_u64().or(taken[i]), taken[first + i]) {
            (Some(n), Some(taken)) => n == 1 || n == taken,
            (None, _) => first == 0,
            (_, None) => true,
        };
        if noise.len() <= taken.len() && noise.iter().enumerate().all(fits) {
            return Ok(());
        }
        let (noise, taken) = (&self.arguments["noise_shape"], text(self.input));
        Err(invalid(format!("'noise_shape' is {noise}: it is to be 1 or null, or as {taken}, in each axis")))
    }
}

/// All numbers in a list, and in lists in it.
fn flat(value: &Value) -> Vec<u64> {
    match value {
        Value::Array(list) => list.iter().flat_map(flat).collect(),
        one => one.as_u64().into_iter().collect(),
    }
}

/// The elements of a tensor.
fn all(shape: &Shape) -> Result<Option<u64>> {
    let known: Option<Vec<u64>> = shape.iter().copied().collect();
    known.map(|known| product(&known)).transpose()
}

fn product(factors: &[u64]) -> Result<u64> {
    let product = factors.iter().try_fold(1u64, |product, n| product.checked_mul(*n));
    product.filter(|n| i64::try_from(*n).is_ok()).ok_or_else(too_large)
}

fn too_large() -> crate::error::Error {
    invalid("a shape has more elements than can be counted".into())
}

/// As Keras shows it, with the batch.
pub(super) fn text(shape: &Shape) -> String {
    let axes = shape.iter().map(|n| n.map_or("None".into(), |n| n.to_string()));
    format!("({})", ["None".to_owned()].into_iter().chain(axes).collect::<Vec<_>>().join(", "))
}
