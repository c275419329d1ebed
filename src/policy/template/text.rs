//! Texts, which numbers become by `!r`, `!s` and `!a`.

use super::number::fill;
use super::spec::{Align, Spec};

/// Appends the text, for a spec that [`Spec::check`] has accepted.
pub(super) fn write(text: &str, spec: &Spec, out: &mut String) {
    let shown =
        spec.precision.and_then(|most| text.char_indices().nth(most)).map_or(text.len(), |(end, _)| end);
    let text = text.get(..shown).unwrap_or(text);
    let padding = spec.width.saturating_sub(text.chars().count());
    let left = match spec.text_align() {
        Align::Right => padding,
        Align::Center => padding / 2,
        Align::Left | Align::AfterSign => 0,
    };
    fill(out, spec.fill, left);
    out.push_str(text);
    fill(out, spec.fill, padding - left);
}
