//! Python's `str.format` for file names: `{epoch:02d}-{val_loss:.3f}.keras`, digit for digit as CPython.
//!
//! - `parse`: literal text and fields, and what can never work.
//! - `spec`: the format spec of a field.
//! - `number`: sign, grouping and padding, for `int` and `float`.
//! - `text`: what `!r`, `!s` and `!a` make.
//! - `matching`: the way back: could this template have written that path?

mod decimal;
mod float;
mod int;
mod matching;
mod number;
mod parse;
mod spec;
#[cfg(test)]
mod tests;
mod text;

use std::fmt::Write;
use std::ops::Range;

use self::parse::{Fault, FieldSpec, Part};
use self::spec::{Kind, Spec};
use crate::error::{Error, Result, Status};

/// The longest template, and the longest path that one may make, in bytes.
pub const MAX_PATH: usize = 65_535;

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// An epoch or a batch; wide enough for one more than the largest.
    Int(u128),
    /// A metric.
    Float(f64),
}

/// Why a path could not be made.
#[derive(Clone, Debug)]
pub enum Failure {
    /// There is no value of this name.
    Missing(String),
    /// A value does not go with its spec, or the path grows too long.
    Value(Error),
}

/// Memory that [`Template::render`] uses again and again.
#[derive(Clone, Debug, Default)]
pub struct Buffer {
    path: String,
    number: String,
    text: String,
}

/// A file path with fields.
#[derive(Clone, Debug)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

impl Template {
    /// Reads a template. `integers` are the names whose values are integers unless the logs hold them; every
    /// other value is a float. What can never work, whatever the values are, is refused here.
    pub fn parse(source: &str, integers: &[&str]) -> Result<Template> {
        if source.len() > MAX_PATH {
            let n = source.len();
            return Err(Error::new(
                Status::Template,
                format!("the filepath template has {n} bytes: at most {MAX_PATH}"),
            ));
        }
        if let Some(at) = source.find('\0') {
            return Err(locate(source, Fault { at: at..at + 1, why: "a path cannot hold a NUL".to_owned() }));
        }
        let parts = parse::parse(source, integers).map_err(|fault| locate(source, fault))?;
        Ok(Template { source: source.to_owned(), parts })
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names that it needs, in the order of its fields; those in a nested spec too.
    pub fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        collect_names(&self.parts, &mut names);
        names
    }

    /// The directory that every path of this template is in: up to the last `/` before the first field, without
    /// it; "" is the current directory.
    pub fn fixed_dir(&self) -> &str {
        let Some(Part::Literal(text)) = self.parts.first() else { return "" };
        match text.rfind('/') {
            Some(0) => "/",
            Some(end) => text.get(..end).unwrap_or_default(),
            None => "",
        }
    }

    /// Could this template have written this path? Never a wrong no; a yes where the characters fit.
    pub fn matches(&self, path: &str) -> bool {
        matching::matches(&self.parts, path)
    }

    /// What works only where the logs hold a name that is otherwise ours: a float's spec on an integer.
    pub(super) fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        for part in &self.parts {
            if let Part::Field(field) = part
                && let FieldSpec::Fixed(spec) = &field.spec
                && field.kinds.contains(&Kind::Int)
                && let Err(why) = spec.check(Kind::Int)
            {
                let why = format!("{why}; this works only where the logs hold '{}'", field.name);
                doubts.push(self.fault(field.at.clone(), why).message().to_owned());
            }
        }
        doubts
    }

    /// Makes the path. `value` finds the value of a name. Nothing is allocated once the buffer has grown.
    pub fn render<'b>(
        &self,
        value: &dyn Fn(&str) -> Option<Value>,
        buffer: &'b mut Buffer,
    ) -> std::result::Result<&'b str, Failure> {
        buffer.path.clear();
        self.render_parts(&self.parts, value, buffer)?;
        Ok(&buffer.path)
    }

    fn render_parts(
        &self,
        parts: &[Part],
        value: &dyn Fn(&str) -> Option<Value>,
        buffer: &mut Buffer,
    ) -> std::result::Result<(), Failure> {
        for part in parts {
            match part {
                Part::Literal(text) => buffer.path.push_str(text),
                Part::Field(field) => {
                    let found = value(&field.name).ok_or_else(|| Failure::Missing(field.name.clone()))?;
                    let spec = match &field.spec {
                        FieldSpec::Fixed(spec) => *spec,
                        FieldSpec::Nested(parts) => {
                            // The spec's own text stands at the end of the path until it has been read.
                            let end = buffer.path.len();
                            self.render_parts(parts, value, buffer)?;
                            let spec = Spec::parse(buffer.path.get(end..).unwrap_or_default());
                            buffer.path.truncate(end);
                            spec.map_err(|why| Failure::Value(self.fault(field.at.clone(), why)))?
                        }
                    };
                    write_value(found, field.as_text, &spec, buffer)
                        .map_err(|why| Failure::Value(self.fault(field.at.clone(), why)))?;
                }
            }
            if buffer.path.len() > MAX_PATH {
                let why =
                    format!("filepath template '{}' makes a path of more than {MAX_PATH} bytes", self.source);
                return Err(Failure::Value(Error::new(Status::Template, why)));
            }
        }
        Ok(())
    }

    fn fault(&self, at: Range<usize>, why: String) -> Error {
        locate(&self.source, Fault { at, why })
    }
}

/// Appends a float as `{:.5f}` does.
pub(super) fn write_fixed5(value: f64, out: &mut String) {
    // Python writes nan without a sign and in small letters.
    let _ = if value.is_nan() { out.write_str("nan") } else { write!(out, "{value:.5}") };
}

fn write_value(
    value: Value,
    as_text: bool,
    spec: &Spec,
    buffer: &mut Buffer,
) -> std::result::Result<(), String> {
    let Buffer { path, number, text } = buffer;
    match value {
        _ if as_text => {
            spec.check(Kind::Text)?;
            text.clear();
            match value {
                Value::Int(v) => int::write(v, &Spec::PLAIN, number, text)?,
                Value::Float(v) => float::write(v, &Spec::PLAIN, number, text),
            }
            text::write(text, spec, path);
        }
        Value::Int(v) => {
            spec.check(Kind::Int)?;
            int::write(v, spec, number, path)?;
        }
        Value::Float(v) => {
            spec.check(Kind::Float)?;
            float::write(v, spec, number, path);
        }
    }
    Ok(())
}

fn collect_names<'a>(parts: &'a [Part], names: &mut Vec<&'a str>) {
    for part in parts {
        if let Part::Field(field) = part {
            names.push(&field.name);
            if let FieldSpec::Nested(parts) = &field.spec {
                collect_names(parts, names);
            }
        }
    }
}

/// The message of a fault: the template, the place in it, and what is wrong there.
fn locate(source: &str, fault: Fault) -> Error {
    let place = source.get(..fault.at.start).unwrap_or_default().chars().count() + 1;
    let excerpt = source.get(fault.at).unwrap_or_default();
    let excerpt = if excerpt.is_empty() { String::new() } else { format!(" ('{excerpt}')") };
    Error::new(
        Status::Template,
        format!("filepath template '{source}', at character {place}{excerpt}: {}", fault.why),
    )
}
