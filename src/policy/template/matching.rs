//! Could a template have written this path?

use super::parse::{Field, FieldSpec, Part};
use super::spec::{Kind, Spec};

/// May say yes to a path that the template cannot write, but never no to one that it can: literals are
/// compared, and a field may be any run of the characters that its spec yields.
pub(super) fn matches(parts: &[Part], path: &str) -> bool {
    let path: Vec<char> = path.chars().collect();
    let mut reached = at_start(&path);
    for part in parts {
        reached = after(part, &reached, &path);
    }
    reached.last() == Some(&true)
}

/// May a path of the template begin with `prefix`? Says yes and no as [`matches`] does.
pub(super) fn begins(parts: &[Part], prefix: &str) -> bool {
    let prefix: Vec<char> = prefix.chars().collect();
    let mut reached = at_start(&prefix);
    for part in parts {
        let goes_on = |rest: &[char]| match part {
            Part::Literal(text) => text.chars().zip(rest).filter(|(a, b)| a == *b).count() == rest.len(),
            Part::Field(field) => rest.iter().all(|&c| field.yields(c)),
        };
        let mut starts = reached.iter().enumerate().filter(|(_, reached)| **reached);
        if starts.any(|(start, _)| prefix.get(start..).is_some_and(goes_on)) {
            return true;
        }
        reached = after(part, &reached, &prefix);
    }
    false
}

/// `reached[i]`: the parts so far may have written the first i characters.
fn at_start(path: &[char]) -> Vec<bool> {
    (0..=path.len()).map(|i| i == 0).collect()
}

fn after(part: &Part, reached: &[bool], path: &[char]) -> Vec<bool> {
    match part {
        Part::Literal(text) => after_literal(reached, path, text),
        Part::Field(field) => after_field(reached, path, field),
    }
}

fn after_literal(reached: &[bool], path: &[char], literal: &str) -> Vec<bool> {
    let literal: Vec<char> = literal.chars().collect();
    let mut next = vec![false; reached.len()];
    for (end, slot) in next.iter_mut().enumerate().skip(literal.len()) {
        let start = end - literal.len();
        *slot = reached.get(start) == Some(&true) && path.get(start..end) == Some(&literal);
    }
    next
}

fn after_field(reached: &[bool], path: &[char], field: &Field) -> Vec<bool> {
    let least = field.least();
    let mut next = vec![false; reached.len()];
    // The first place from which the field may reach up to here, if there is one.
    let mut first = None;
    for (end, slot) in next.iter_mut().enumerate() {
        if end > 0 && !path.get(end - 1).is_some_and(|&c| field.yields(c)) {
            first = None;
        }
        if first.is_none() && reached.get(end) == Some(&true) {
            first = Some(end);
        }
        *slot = first.is_some_and(|start| end - start >= least);
    }
    next
}

impl Field {
    /// The fewest characters that it writes.
    fn least(&self) -> usize {
        match &self.spec {
            FieldSpec::Fixed(spec) if self.as_text && spec.precision == Some(0) => spec.width,
            FieldSpec::Fixed(spec) => spec.width.max(1),
            FieldSpec::Nested(_) => 0,
        }
    }

    /// May it write this character?
    fn yields(&self, c: char) -> bool {
        match &self.spec {
            FieldSpec::Fixed(spec) => {
                self.kinds.iter().any(|&kind| spec.check(kind).is_ok() && spec.yields(kind, c))
            }
            // Any spec may come of it, but '/' only as a fill or as the character that an integer stands for.
            FieldSpec::Nested(parts) => {
                let slash = |part: &Part| match part {
                    Part::Literal(text) => text.contains(['/', 'c']),
                    Part::Field(inner) => inner.yields('/') || inner.yields('c'),
                };
                c != '/' || parts.iter().any(slash)
            }
        }
    }
}

impl Spec {
    /// May a value of this kind hold this character?
    fn yields(&self, kind: Kind, c: char) -> bool {
        if (c == self.fill && self.width > 0) || self.grouping == Some(c) || self.sign == Some(c) {
            return true;
        }
        match (kind, self.presentation) {
            (Kind::Int, None | Some('d' | 'n')) => c.is_ascii_digit(),
            (Kind::Int, Some('c')) => true,
            (Kind::Int, Some('b')) => matches!(c, '0' | '1') || (c == 'b' && self.alternate),
            (Kind::Int, Some('o')) => matches!(c, '0'..='7') || (c == 'o' && self.alternate),
            (Kind::Int, Some('x')) => matches!(c, '0'..='9' | 'a'..='f') || (c == 'x' && self.alternate),
            (Kind::Int, Some('X')) => matches!(c, '0'..='9' | 'A'..='F') || (c == 'X' && self.alternate),
            (_, Some('E' | 'F' | 'G')) => c.is_ascii_digit() || ".+-EINFA".contains(c),
            (_, Some('%')) => c.is_ascii_digit() || ".-infa%".contains(c),
            (_, Some('f')) => c.is_ascii_digit() || ".-infa".contains(c),
            _ => c.is_ascii_digit() || ".+-einfa".contains(c),
        }
    }
}
