//! Integers: `b c d n o x X`, and the presentation types of floats.

use std::fmt::Write;

use super::float;
use super::number::Number;
use super::spec::Spec;

/// Appends the integer, for a spec that [`Spec::check`] has accepted.
pub(super) fn write(value: u128, spec: &Spec, scratch: &mut String, out: &mut String) -> Result<(), String> {
    let presentation = spec.presentation.unwrap_or('d');
    if presentation == 'c' {
        let c = u32::try_from(value).ok().and_then(char::from_u32);
        let c = c.ok_or_else(|| format!("{value} is not the number of a character: '%c' is not possible"))?;
        let mut utf8 = [0; 4];
        let rest: &str = c.encode_utf8(&mut utf8);
        Number { negative: false, prefix: "", digits: "", rest }.write(spec, out);
        return Ok(());
    }
    scratch.clear();
    // Writing to a string cannot fail.
    let (prefix, _) = match presentation {
        'b' => ("0b", write!(scratch, "{value:b}")),
        'o' => ("0o", write!(scratch, "{value:o}")),
        'x' => ("0x", write!(scratch, "{value:x}")),
        'X' => ("0X", write!(scratch, "{value:X}")),
        'd' | 'n' => ("", write!(scratch, "{value}")),
        _ => {
            float::write(value as f64, spec, scratch, out);
            return Ok(());
        }
    };
    let prefix = if spec.alternate { prefix } else { "" };
    Number { negative: false, prefix, digits: scratch, rest: "" }.write(spec, out);
    Ok(())
}
