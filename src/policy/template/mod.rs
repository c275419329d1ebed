//! Python's `str.format` for file names: `{epoch:02d}-{val_loss:.3f}.keras`, digit for digit as CPython.
//!
//! - `parse`: literal text and fields, and what can never work.
//! - `spec`: the format spec of a field.
//! - `render`: the values into their places.
//! - `number`: sign, grouping and padding, for `int` and `float`.
//! - `text`: what `!r`, `!s` and `!a` make.
//! - `matching`: the way back: could this template have written that path?

mod decimal;
mod float;
mod int;
mod matching;
mod number;
mod parse;
mod render;
mod spec;
#[cfg(test)]
mod tests;
mod text;

use std::ops::Range;

use self::parse::{Fault, FieldSpec, Part};
pub use self::render::{Buffer, Failure, Value};
use self::spec::Kind;
use crate::error::{Error, Result, Status};

/// The longest template, and the longest path that one may make, in bytes.
pub const MAX_PATH: usize = 65_535;

/// A file path with fields.
#[derive(Clone, Debug)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
    /// Only a missing key, or a value of the wrong kind, can keep the path from being made.
    is_plain: bool,
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
            let why = format!("the filepath template holds a NUL at byte {at}: no path can");
            return Err(Error::new(Status::Template, why));
        }
        let parts = parse::parse(source, integers).map_err(|fault| locate(source, fault))?;
        let is_plain = render::longest(&parts).is_some_and(|n| n <= MAX_PATH);
        Ok(Template { source: source.to_owned(), parts, is_plain })
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

    /// What every path of this template begins with: all up to the last `/` before the first field, with it; "" is
    /// the current directory.
    pub fn fixed_dir(&self) -> &str {
        let Some(Part::Literal(text)) = self.parts.first() else { return "" };
        text.rfind('/').and_then(|end| text.get(..=end)).unwrap_or_default()
    }

    /// What follows that directory, as it was given.
    pub fn below_fixed_dir(&self) -> &str {
        // No other `/` comes before the first field, and escapes hold none.
        let slashes = self.fixed_dir().matches('/').count();
        let last = slashes.checked_sub(1).and_then(|n| self.source.match_indices('/').nth(n));
        last.and_then(|(at, _)| self.source.get(at + 1..)).unwrap_or(&self.source)
    }

    /// Could this template have written this path? Never a wrong no; a yes where the characters fit.
    pub fn matches(&self, path: &str) -> bool {
        matching::matches(&self.parts, path)
    }

    /// Could a path of this template begin with these characters? As cautious as [`Template::matches`].
    pub fn begins(&self, prefix: &str) -> bool {
        matching::begins(&self.parts, prefix)
    }

    /// The only path of a template without fields.
    pub fn constant(&self) -> Option<String> {
        let literal = |part: &Part| match part {
            Part::Literal(text) => Some(text.clone()),
            Part::Field(_) => None,
        };
        self.parts.iter().map(literal).collect()
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

    /// Could the path be made? Fails as [`Template::render`] does, but mostly has no need to write the numbers.
    pub fn check(
        &self,
        value: &dyn Fn(&str) -> Option<Value>,
        buffer: &mut Buffer,
    ) -> std::result::Result<(), Failure> {
        if self.is_plain { self.check_values(value) } else { self.render(value, buffer).map(|_| ()) }
    }

    fn fault(&self, at: Range<usize>, why: String) -> Error {
        locate(&self.source, Fault { at, why })
    }
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
