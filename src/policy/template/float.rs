//! Floats: `e E f F g G n %` and none, digit for digit as CPython prints them.

use std::fmt::{self, Write};

use super::number::Number;
use super::spec::Spec;

/// Appends the float, for a spec that [`Spec::check`] has accepted.
pub(super) fn write(value: f64, spec: &Spec, scratch: &mut String, out: &mut String) {
    let percent = spec.presentation == Some('%');
    let value = if percent { value * 100.0 } else { value };
    scratch.clear();
    body(value.abs(), spec, scratch);
    if matches!(spec.presentation, Some('E' | 'F' | 'G')) {
        scratch.make_ascii_uppercase();
    }
    if percent {
        scratch.push('%');
    }
    let vanishes = spec.no_negative_zero && value.is_finite() && is_zero(scratch);
    let negative = value.is_sign_negative() && !value.is_nan() && !vanishes;
    let point = scratch.find(|c: char| !c.is_ascii_digit()).unwrap_or(scratch.len());
    let (digits, rest) = scratch.split_at(point);
    Number { negative, prefix: "", digits, rest }.write(spec, out);
}

/// Has rounding left nothing but zeros?
fn is_zero(text: &str) -> bool {
    text.bytes().take_while(|b| !matches!(b, b'e' | b'E')).all(|b| !matches!(b, b'1'..=b'9'))
}

/// The number without its sign and without layout.
fn body(value: f64, spec: &Spec, out: &mut String) {
    if value.is_nan() {
        return out.push_str("nan");
    }
    if value.is_infinite() {
        return out.push_str("inf");
    }
    let precision = spec.precision.unwrap_or(6);
    match spec.presentation {
        Some('f' | 'F' | '%') => fixed(value, precision, spec.alternate, out),
        Some('e' | 'E') => {
            let digits = Digits::significant(value, precision.saturating_add(1));
            digits.write_exponent(precision.saturating_add(1), spec.alternate, out);
        }
        Some(_) => general(value, precision, false, spec.alternate, out),
        None if spec.precision.is_some() => general(value, precision, true, spec.alternate, out),
        None => repr(value, spec.alternate, out),
    }
}

/// `f`: so many digits after the point. The standard library rounds the exact value, ties to even.
fn fixed(value: f64, precision: usize, alternate: bool, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{value:.precision$}");
    if precision == 0 && alternate {
        out.push('.');
    }
}

/// `g`: so many significant digits, without zeros at the end; `float` keeps it looking like a float.
fn general(value: f64, precision: usize, float: bool, alternate: bool, out: &mut String) {
    let precision = precision.max(1);
    let digits = Digits::significant(value, precision);
    let most = i64::try_from(precision).unwrap_or(i64::MAX) - i64::from(float);
    let shown = if alternate { precision } else { 0 };
    if digits.point <= -4 || digits.point > most {
        digits.write_exponent(shown, alternate, out);
    } else {
        digits.write_plain(shown, float, alternate, out);
    }
}

/// `repr`: the shortest digits that read back as the same float.
fn repr(value: f64, alternate: bool, out: &mut String) {
    let digits = Digits::shortest(value);
    if digits.point <= -4 || digits.point > 16 {
        digits.write_exponent(0, alternate, out);
    } else {
        digits.write_plain(0, true, alternate, out);
    }
}

/// More significant digits than any float has: 767.
const MOST_DIGITS: usize = 768;

/// Significant digits without zeros at the end, and where the decimal point stands among them.
struct Digits {
    text: [u8; MOST_DIGITS],
    len: usize,
    /// Digits before the point: 0.0123 has -1, 0 has 1.
    point: i64,
}

impl Digits {
    /// The value, rounded to so many digits (at least 1).
    fn significant(value: f64, digits: usize) -> Digits {
        let decimals = digits.clamp(1, MOST_DIGITS) - 1;
        Digits::read(format_args!("{value:.decimals$e}"))
    }

    /// The fewest digits that read back as the value, and of these the nearest to it, ties to even. The standard
    /// library rounds such ties up: the correctly rounded digits are taken instead where they read back too.
    fn shortest(value: f64) -> Digits {
        let shortest = Digits::read(format_args!("{value:e}"));
        let rounded = Digits::significant(value, shortest.len);
        let (known, point) = (rounded.known(), rounded.point);
        if (known, point) == (shortest.known(), shortest.point) {
            return shortest;
        }
        let text = format!("0.{}e{point}", String::from_utf8_lossy(known));
        if text.parse() == Ok(value) { rounded } else { shortest }
    }

    /// Reads `d.ddde-dd`, as the standard library prints it.
    fn read(scientific: fmt::Arguments) -> Digits {
        let mut reader = Reader {
            digits: Digits { text: [b'0'; MOST_DIGITS], len: 0, point: 1 },
            exponent: None,
            negative: false,
        };
        // Every write is taken.
        let _ = reader.write_fmt(scientific);
        let mut digits = reader.digits;
        let exponent = reader.exponent.unwrap_or(0);
        digits.point = 1 + if reader.negative { -exponent } else { exponent };
        while digits.len > 1 && digits.text.get(digits.len - 1) == Some(&b'0') {
            digits.len -= 1;
        }
        digits
    }

    fn known(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }

    /// The digits from `from` on, up to `to`; zeros where there are none.
    fn write_range(&self, from: usize, to: usize, out: &mut String) {
        let known = self.known().get(from.min(self.len)..to.min(self.len)).unwrap_or_default();
        out.extend(known.iter().map(|&b| char::from(b)));
        out.extend(std::iter::repeat_n('0', to.saturating_sub(from.max(self.len))));
    }

    /// `d.ddde+dd` with at least `shown` digits.
    fn write_exponent(&self, shown: usize, alternate: bool, out: &mut String) {
        self.write_range(0, 1, out);
        let end = shown.max(self.len);
        if end > 1 || alternate {
            out.push('.');
        }
        self.write_range(1, end, out);
        let exponent = self.point - 1;
        // Writing to a string cannot fail.
        let _ = write!(out, "e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs());
    }

    /// `ddd.ddd` with at least `shown` significant digits, and with `float` at least one after the point.
    fn write_plain(&self, shown: usize, float: bool, alternate: bool, out: &mut String) {
        let whole = usize::try_from(self.point).unwrap_or(0);
        let leading = usize::try_from(-self.point).unwrap_or(0);
        if whole == 0 {
            out.push('0');
        }
        self.write_range(0, whole, out);
        let end = shown.max(self.len).max(if float { whole + 1 } else { whole });
        if end > whole || alternate {
            out.push('.');
        }
        out.extend(std::iter::repeat_n('0', leading));
        self.write_range(whole, end, out);
    }
}

/// Takes a number in scientific notation apart while it is written.
struct Reader {
    digits: Digits,
    exponent: Option<i64>,
    negative: bool,
}

impl Write for Reader {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for b in text.bytes() {
            match (b, &mut self.exponent) {
                (b'e', _) => self.exponent = Some(0),
                (b'-', _) => self.negative = true,
                (b'0'..=b'9', Some(exponent)) => *exponent = *exponent * 10 + i64::from(b - b'0'),
                (b'0'..=b'9', None) => {
                    if let Some(slot) = self.digits.text.get_mut(self.digits.len) {
                        *slot = b;
                        self.digits.len += 1;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
