//! Numbers in a field: sign, prefix, grouping, padding. What integers and floats have in common.

use super::spec::{Align, Spec};

/// A number's text, taken apart.
pub(super) struct Number<'a> {
    pub negative: bool,
    /// `0x` and the like.
    pub prefix: &'a str,
    /// The digits before the point; none for nan and inf.
    pub digits: &'a str,
    /// From the point on: fraction, exponent, percent sign; or `nan`, `inf`.
    pub rest: &'a str,
}

impl Number<'_> {
    /// Appends the number, laid out as the spec says.
    pub fn write(&self, spec: &Spec, out: &mut String) {
        let sign = match (self.negative, spec.sign) {
            (true, _) => Some('-'),
            (false, Some(s @ ('+' | ' '))) => Some(s),
            (false, _) => None,
        };
        let fixed = usize::from(sign.is_some()) + self.prefix.len() + self.rest.chars().count();
        let align = spec.number_align();
        // Zeros after the sign are digits: the separators go on through them.
        let zeros = spec.fill == '0' && align == Align::AfterSign;
        let least = if zeros { spec.width.saturating_sub(fixed) } else { 0 };
        let groups = Groups::new(self.digits.len(), least, spec);
        let padding = spec.width.saturating_sub(fixed + groups.len());
        let (left, inner, right) = match align {
            Align::Left => (0, 0, padding),
            Align::Right => (padding, 0, 0),
            Align::Center => (padding / 2, 0, padding - padding / 2),
            Align::AfterSign => (0, padding, 0),
        };
        fill(out, spec.fill, left);
        out.extend(sign);
        out.push_str(self.prefix);
        fill(out, spec.fill, inner);
        groups.write(self.digits, out);
        out.push_str(self.rest);
        fill(out, spec.fill, right);
    }
}

/// Appends `n` times the character.
pub(super) fn fill(out: &mut String, c: char, n: usize) {
    out.extend(std::iter::repeat_n(c, n));
}

/// Digits with leading zeros and separators: how many of each.
struct Groups {
    /// Digits in all, leading zeros with them.
    total: usize,
    zeros: usize,
    separator: Option<(char, usize)>,
}

impl Groups {
    /// For `digits` digits, in at least `least` characters.
    fn new(digits: usize, least: usize, spec: &Spec) -> Groups {
        let every = if matches!(spec.presentation, Some('b' | 'o' | 'x' | 'X')) { 4 } else { 3 };
        let separator = spec.grouping.map(|c| (c, every));
        if digits == 0 {
            return Groups { total: 0, zeros: 0, separator };
        }
        // A separator never comes first, so that the width may be exceeded by one: `{:08,}` of 1 is 0,000,001.
        let needed = separator.map_or(least, |(_, every)| {
            let (whole, part) = (least / (every + 1), least % (every + 1));
            whole * every + part.max(1)
        });
        let total = digits.max(needed);
        Groups { total, zeros: total - digits, separator }
    }

    /// Characters in all.
    fn len(&self) -> usize {
        let separators = self.separator.map_or(0, |(_, every)| self.total.saturating_sub(1) / every);
        self.total + separators
    }

    fn write(&self, digits: &str, out: &mut String) {
        let Some((separator, every)) = self.separator else {
            fill(out, '0', self.zeros);
            out.push_str(digits);
            return;
        };
        let zeros = std::iter::repeat_n('0', self.zeros);
        for (i, c) in zeros.chain(digits.chars()).enumerate() {
            if i > 0 && (self.total - i).is_multiple_of(every) {
                out.push(separator);
            }
            out.push(c);
        }
    }
}
