//! The format spec: `[[fill]align][sign][z][#][0][width][grouping][.precision][type]`.

use super::MAX_PATH;
use super::decimal::decimal_digit;

/// What kind of value a spec is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Float,
    Text,
}

impl Kind {
    /// Python's name of the type.
    fn name(self) -> &'static str {
        match self {
            Kind::Int => "int",
            Kind::Float => "float",
            Kind::Text => "str",
        }
    }
}

/// Where the fill goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
    Center,
    /// Between the sign (or the prefix) and the digits.
    AfterSign,
}

impl Align {
    fn of(c: char) -> Option<Align> {
        match c {
            '<' => Some(Align::Left),
            '>' => Some(Align::Right),
            '^' => Some(Align::Center),
            '=' => Some(Align::AfterSign),
            _ => None,
        }
    }
}

/// A format spec, read but not yet held against a kind of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub fill: char,
    align: Option<Align>,
    /// `0` before the width: numbers are padded after their sign.
    zero: bool,
    /// `+`, `-` or a space.
    pub sign: Option<char>,
    /// `z`: a zero has no minus sign.
    pub no_negative_zero: bool,
    /// `#`
    pub alternate: bool,
    pub width: usize,
    /// `,` or `_`
    pub grouping: Option<char>,
    pub precision: Option<usize>,
    pub presentation: Option<char>,
}

impl Spec {
    /// The empty spec.
    pub const PLAIN: Spec = Spec {
        fill: ' ',
        align: None,
        zero: false,
        sign: None,
        no_negative_zero: false,
        alternate: false,
        width: 0,
        grouping: None,
        precision: None,
        presentation: None,
    };

    /// Reads a spec; an error says what is wrong with it in CPython's words.
    pub fn parse(text: &str) -> Result<Spec, String> {
        let mut rest = text;
        let mut fill = None;
        let mut align = None;
        let mut chars = text.chars();
        let (first, second) = (chars.next(), chars.next());
        if let Some(a) = second.and_then(Align::of) {
            (fill, align) = (first, Some(a));
            rest = chars.as_str();
        } else if let Some(a) = first.and_then(Align::of) {
            align = Some(a);
            rest = rest.get(1..).unwrap_or_default();
        }
        let sign = take(&mut rest, &['+', '-', ' ']);
        let no_negative_zero = take(&mut rest, &['z']).is_some();
        let alternate = take(&mut rest, &['#']).is_some();
        let zero = fill.is_none() && take(&mut rest, &['0']).is_some();
        let width = number(&mut rest)?;
        let grouping = take(&mut rest, &[',', '_']);
        if grouping.is_some_and(|g| rest.starts_with(if g == ',' { '_' } else { ',' })) {
            return Err("Cannot specify both ',' and '_'.".to_owned());
        }
        let mut precision = None;
        if take(&mut rest, &['.']).is_some() {
            precision = number(&mut rest)?;
            if precision.is_none() {
                return Err("Format specifier missing precision".to_owned());
            }
        }
        let mut last = rest.chars();
        let presentation = last.next();
        if last.next().is_some() {
            return Err(format!("Invalid format specifier '{text}'"));
        }
        let width = width.unwrap_or(0);
        if width > MAX_PATH {
            return Err(format!("a width of {width} makes a path of more than {MAX_PATH} bytes"));
        }
        let fill = fill.unwrap_or(if zero { '0' } else { ' ' });
        Ok(Spec {
            fill,
            align,
            zero,
            sign,
            no_negative_zero,
            alternate,
            width,
            grouping,
            precision,
            presentation,
        })
    }

    /// The alignment of a number: to the right unless the spec says otherwise.
    pub fn number_align(&self) -> Align {
        self.align.unwrap_or(if self.zero { Align::AfterSign } else { Align::Right })
    }

    /// The alignment of a text: to the left unless the spec says otherwise.
    pub fn text_align(&self) -> Align {
        self.align.unwrap_or(Align::Left)
    }

    /// Is this spec possible for such a value?
    pub fn check(&self, kind: Kind) -> Result<(), String> {
        self.check_grouping(kind)?;
        match (kind, self.presentation) {
            (Kind::Int, None | Some('b' | 'c' | 'd' | 'n' | 'o' | 'x' | 'X')) => self.check_int(),
            (Kind::Int, Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => self.check_float(),
            (Kind::Float, None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%')) => self.check_float(),
            (Kind::Text, None | Some('s')) => self.check_text(),
            (_, presentation) => Err(format!(
                "Unknown format code '{}' for object of type '{}'",
                presentation.unwrap_or_default(),
                kind.name()
            )),
        }
    }

    fn check_grouping(&self, kind: Kind) -> Result<(), String> {
        let Some(separator) = self.grouping else { return Ok(()) };
        match (self.presentation, kind) {
            (Some('d' | 'e' | 'f' | 'g' | 'E' | 'G' | '%' | 'F'), _) => Ok(()),
            (Some('b' | 'o' | 'x' | 'X'), _) if separator == '_' => Ok(()),
            (None, Kind::Int | Kind::Float) => Ok(()),
            (presentation, _) => {
                Err(format!("Cannot specify '{separator}' with '{}'.", presentation.unwrap_or('s')))
            }
        }
    }

    fn check_int(&self) -> Result<(), String> {
        let problem = if self.precision.is_some() {
            "Precision not allowed in integer format specifier"
        } else if self.no_negative_zero {
            "Negative zero coercion (z) not allowed in format specifier with integer presentation type"
        } else if self.presentation == Some('c') && self.sign.is_some() {
            "Sign not allowed with integer format specifier 'c'"
        } else if self.presentation == Some('c') && self.alternate {
            "Alternate form (#) not allowed with integer format specifier 'c'"
        } else {
            return Ok(());
        };
        Err(problem.to_owned())
    }

    fn check_float(&self) -> Result<(), String> {
        let precision = self.precision.unwrap_or(0);
        if i32::try_from(precision).is_err() {
            return Err("precision too big".to_owned());
        }
        // 'g' drops trailing zeros, so that its length has a bound of its own.
        let padded = self.alternate || !matches!(self.presentation, None | Some('g' | 'G' | 'n'));
        if padded && precision >= MAX_PATH {
            return Err(format!("a precision of {precision} makes a path of more than {MAX_PATH} bytes"));
        }
        Ok(())
    }

    fn check_text(&self) -> Result<(), String> {
        let problem = match self.sign {
            Some(' ') => "Space not allowed in string format specifier",
            Some(_) => "Sign not allowed in string format specifier",
            None if self.no_negative_zero => {
                "Negative zero coercion (z) not allowed in string format specifier"
            }
            None if self.alternate => "Alternate form (#) not allowed in string format specifier",
            None if self.align == Some(Align::AfterSign) => {
                "'=' alignment not allowed in string format specifier"
            }
            None => return Ok(()),
        };
        Err(problem.to_owned())
    }
}

/// Takes the first character if it is one of `wanted`, which are all ASCII.
fn take(rest: &mut &str, wanted: &[char]) -> Option<char> {
    let c = rest.chars().next().filter(|c| wanted.contains(c))?;
    *rest = rest.get(1..)?;
    Some(c)
}

/// Takes a number, in the decimal digits of any script, as CPython does.
fn number(rest: &mut &str) -> Result<Option<usize>, String> {
    let mut found = None;
    while let Some(c) = rest.chars().next()
        && let Some(digit) = decimal_digit(c)
    {
        // CPython's bound is that of its sizes, which are signed.
        let next = found.unwrap_or(0_i64).checked_mul(10).and_then(|n| n.checked_add(i64::from(digit)));
        found = Some(next.ok_or("Too many decimal digits in format string")?);
        *rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    Ok(found.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
}
