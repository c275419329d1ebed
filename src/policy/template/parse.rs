//! The syntax of a template: literal text and fields. Its cases, and their order, are CPython's.

use std::ops::Range;

use super::decimal::decimal_digit;
use super::spec::{Kind, Spec};

/// What is wrong, and where: a range of bytes of the template.
pub(super) struct Fault {
    pub at: Range<usize>,
    pub why: String,
}

fn fault<T>(at: Range<usize>, why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { at, why: why.into() })
}

#[derive(Clone, Debug)]
pub(super) enum Part {
    Literal(String),
    Field(Field),
}

/// `{name!conversion:spec}`
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: String,
    /// `!r`, `!s` or `!a`: of a number they all make the same text.
    pub as_text: bool,
    /// The kinds of value that it may get, the likely one first.
    pub kinds: &'static [Kind],
    pub spec: FieldSpec,
    /// Where it stands in the template, braces included.
    pub at: Range<usize>,
}

#[derive(Clone, Debug)]
pub(super) enum FieldSpec {
    Fixed(Spec),
    /// Holds fields itself: known only when they are.
    Nested(Vec<Part>),
}

/// How deep fields go: a field, and fields in its spec.
const DEPTH: usize = 2;

/// Reads a template. `integers` are the names whose values may be integers (all may be floats).
pub(super) fn parse(source: &str, integers: &[&str]) -> Result<Vec<Part>, Fault> {
    Parser { source, at: 0, end: source.len(), depth: DEPTH, integers }.parts()
}

struct Parser<'a> {
    source: &'a str,
    at: usize,
    end: usize,
    depth: usize,
    integers: &'a [&'a str],
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.source.get(self.at..self.end)?.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn text(&self, range: Range<usize>) -> &str {
        self.source.get(range).unwrap_or_default()
    }

    fn parts(mut self) -> Result<Vec<Part>, Fault> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        loop {
            let start = self.at;
            match self.next() {
                None => break,
                Some(brace @ ('{' | '}')) if self.peek() == Some(brace) => {
                    self.next();
                    literal.push(brace);
                }
                Some('}') => return fault(start..self.at, "Single '}' encountered in format string"),
                Some('{') if self.at == self.end => {
                    return fault(start..self.at, "Single '{' encountered in format string");
                }
                Some('{') => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    let field = self.field(start)?;
                    parts.push(Part::Field(field));
                }
                Some(c) => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(parts)
    }

    /// A field, from behind its brace, which is at `start`.
    fn field(&mut self, start: usize) -> Result<Field, Fault> {
        let name_at = self.at;
        let (name_end, stop) = loop {
            let here = self.at;
            match self.next() {
                Some('{') => return fault(here..self.at, "unexpected '{' in field name"),
                Some('[' | '.') => {
                    return fault(
                        start..self.at,
                        "attribute and index access ('.' and '[' in a field) is not possible: values are numbers",
                    );
                }
                Some(c @ ('}' | ':' | '!')) => break (here, c),
                Some(_) => {}
                None => return fault(start..self.end, "expected '}' before end of string"),
            }
        };
        let name = self.text(name_at..name_end).to_owned();
        if name.chars().all(|c| decimal_digit(c).is_some()) {
            return fault(
                start..self.at,
                "a field needs a name, as in {epoch} or {val_loss}: there are no positional arguments",
            );
        }
        let (as_text, stop) = if stop == '!' { self.conversion()? } else { (false, stop) };
        let spec_at = self.at - 1;
        let spec = if stop == '}' { self.spec("", spec_at)? } else { self.spec_text(start)? };
        let kinds = kinds(&name, as_text, self.integers);
        let field = Field { name, as_text, kinds, spec, at: start..self.at };
        self.check(&field, spec_at)?;
        Ok(field)
    }

    /// The conversion, from behind the `!`, and what ends it: `:` or `}`.
    fn conversion(&mut self) -> Result<(bool, char), Fault> {
        let start = self.at - 1;
        match self.next() {
            Some('r' | 's' | 'a') => {}
            Some(c) => {
                return fault(
                    start..self.at,
                    format!("Unknown conversion specifier '{c}': expected 'r', 's' or 'a'"),
                );
            }
            None => return fault(start..self.end, "end of string while looking for conversion specifier"),
        }
        match self.next() {
            Some(c @ (':' | '}')) => Ok((true, c)),
            Some(_) => fault(start..self.at, "expected ':' after conversion specifier"),
            None => fault(start..self.end, "expected '}' before end of string"),
        }
    }

    /// The spec, from behind its colon, to the end of the field that began at `start`.
    fn spec_text(&mut self, start: usize) -> Result<FieldSpec, Fault> {
        let spec_at = self.at;
        let mut open = 1;
        let mut nested = false;
        while open > 0 {
            match self.next() {
                Some('{') => (open, nested) = (open + 1, true),
                Some('}') => open -= 1,
                Some(_) => {}
                None => return fault(start..self.end, "unmatched '{' in format spec"),
            }
        }
        let spec_end = self.at - 1;
        if !nested {
            return self.spec(self.text(spec_at..spec_end), spec_at - 1);
        }
        if self.depth == 1 {
            return fault(spec_at..spec_end, "Max string recursion exceeded");
        }
        let inner = Parser { at: spec_at, end: spec_end, depth: self.depth - 1, ..*self };
        let parts = inner.parts()?;
        match parts.as_slice() {
            [] => self.spec("", spec_at - 1),
            [Part::Literal(text)] => self.spec(text, spec_at - 1),
            _ => Ok(FieldSpec::Nested(parts)),
        }
    }

    fn spec(&self, text: &str, at: usize) -> Result<FieldSpec, Fault> {
        match Spec::parse(text) {
            Ok(spec) => Ok(FieldSpec::Fixed(spec)),
            Err(why) => fault(at..self.at - 1, why),
        }
    }

    /// Refuses a spec that no value of this name can have.
    fn check(&self, field: &Field, spec_at: usize) -> Result<(), Fault> {
        let problem = match &field.spec {
            FieldSpec::Fixed(spec) => {
                let mut problems = field.kinds.iter().map(|&kind| spec.check(kind).err());
                let first = problems.next().flatten();
                if problems.all(|p| p.is_some()) { first } else { None }
            }
            FieldSpec::Nested(parts) => unknown_ending(parts, field.kinds),
        };
        problem.map_or(Ok(()), |why| fault(spec_at..self.at - 1, why))
    }
}

/// The kinds of value that a field may get, the likely one first.
fn kinds(name: &str, as_text: bool, integers: &[&str]) -> &'static [Kind] {
    if as_text {
        &[Kind::Text]
    } else if integers.contains(&name) {
        &[Kind::Int, Kind::Float]
    } else {
        &[Kind::Float]
    }
}

/// A spec that is not known yet, but ends in a type that no value can have: `{epoch:{batch}q}`.
fn unknown_ending(parts: &[Part], kinds: &[Kind]) -> Option<String> {
    let Some(Part::Literal(text)) = parts.last() else { return None };
    let last = text.chars().last().filter(|c| !"<>^=+- z#,_".contains(*c) && decimal_digit(*c).is_none())?;
    let ending = Spec::parse(last.encode_utf8(&mut [0; 4])).ok()?;
    kinds.iter().map(|&kind| ending.check(kind).err()).reduce(|a, b| if b.is_some() { a } else { None })?
}
