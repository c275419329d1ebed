//! From a template and values to a path.

use super::parse::{Field, FieldSpec, Part};
use super::spec::{Kind, Spec};
use super::{MAX_PATH, Template, float, int, text};
use crate::error::{Error, Status};

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
    pub(super) path: String,
    number: String,
    text: String,
}

impl Template {
    pub(super) fn render_parts(
        &self,
        parts: &[Part],
        value: &dyn Fn(&str) -> Option<Value>,
        buffer: &mut Buffer,
    ) -> Result<(), Failure> {
        for part in parts {
            match part {
                Part::Literal(text) => buffer.path.push_str(text),
                Part::Field(field) => self.render_field(field, value, buffer)?,
            }
            if buffer.path.len() > MAX_PATH {
                let source = self.source();
                let why = format!("filepath template '{source}' makes a path of more than {MAX_PATH} bytes");
                return Err(Failure::Value(Error::new(Status::Template, why)));
            }
        }
        Ok(())
    }

    fn render_field(
        &self,
        field: &Field,
        value: &dyn Fn(&str) -> Option<Value>,
        buffer: &mut Buffer,
    ) -> Result<(), Failure> {
        let found = field.find(value)?;
        let spec = match &field.spec {
            FieldSpec::Fixed(spec) => *spec,
            FieldSpec::Nested(parts) => {
                // The spec's own text stands at the end of the path until it has been read.
                let end = buffer.path.len();
                self.render_parts(parts, value, buffer)?;
                let spec = Spec::parse(buffer.path.get(end..).unwrap_or_default());
                buffer.path.truncate(end);
                spec.map_err(|why| self.failure(field, why))?
            }
        };
        field.write(found, &spec, buffer).map_err(|why| self.failure(field, why))
    }

    /// For a plain template: is every key there, with a value of the right kind?
    pub(super) fn check_values(&self, value: &dyn Fn(&str) -> Option<Value>) -> Result<(), Failure> {
        for part in &self.parts {
            if let Part::Field(field) = part {
                let kind = field.kind(field.find(value)?);
                if let FieldSpec::Fixed(spec) = &field.spec {
                    spec.check(kind).map_err(|why| self.failure(field, why))?;
                }
            }
        }
        Ok(())
    }

    fn failure(&self, field: &Field, why: String) -> Failure {
        Failure::Value(self.fault(field.at.clone(), why))
    }
}

impl Field {
    fn find(&self, value: &dyn Fn(&str) -> Option<Value>) -> Result<Value, Failure> {
        value(&self.name).ok_or_else(|| Failure::Missing(self.name.clone()))
    }

    fn kind(&self, value: Value) -> Kind {
        match value {
            _ if self.as_text => Kind::Text,
            Value::Int(_) => Kind::Int,
            Value::Float(_) => Kind::Float,
        }
    }

    fn write(&self, value: Value, spec: &Spec, buffer: &mut Buffer) -> Result<(), String> {
        let Buffer { path, number, text } = buffer;
        spec.check(self.kind(value))?;
        let (number_spec, out) = if self.as_text { (&Spec::PLAIN, &mut *text) } else { (spec, &mut *path) };
        match value {
            Value::Int(v) => int::write(v, number_spec, number, out)?,
            Value::Float(v) => float::write(v, number_spec, number, out),
        }
        if self.as_text {
            text::write(text, spec, path);
            text.clear();
        }
        Ok(())
    }
}

/// At most so many bytes come of these parts; `None` where that is known only with the values, or where a value
/// of the right kind may fail all the same.
pub(super) fn longest(parts: &[Part]) -> Option<usize> {
    parts.iter().try_fold(0_usize, |sum, part| match part {
        Part::Literal(text) => Some(sum.saturating_add(text.len())),
        Part::Field(Field { spec: FieldSpec::Nested(_), .. }) => None,
        Part::Field(Field { spec: FieldSpec::Fixed(spec), .. }) if spec.presentation == Some('c') => None,
        Part::Field(Field { spec: FieldSpec::Fixed(spec), .. }) => {
            // The largest float has 309 digits before its point, which separators make 412 characters.
            let body = spec.precision.unwrap_or(0).saturating_add(500);
            Some(sum.saturating_add(body).saturating_add(spec.width * 4))
        }
    })
}
