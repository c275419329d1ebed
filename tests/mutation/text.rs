//! Texts: JSON, and the templates of paths.

use std::ops::Range;

use super::{Random, interesting, number};

const JSON: [&str; 34] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    " ",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\\"",
    "null",
    "true",
    "false",
    "NaN",
    "-Infinity",
    "Infinity",
    "-0",
    "0",
    "1e999",
    "-1e-999",
    "1.",
    ".5",
    "18446744073709551616",
    "-9223372036854775809",
    "\u{feff}",
    "\0",
    "é",
    "🧪",
    "{}",
    "[]",
    "\"\"",
    "/*",
];

const TEMPLATE: [&str; 40] = [
    "{",
    "}",
    "{{",
    "}}",
    "{epoch}",
    "{epoch:02d}",
    "{batch}",
    "{loss:.3f}",
    "{val/acc:.2%}",
    "{none}",
    ":",
    "!r",
    "!s",
    "!a",
    "!",
    "[0]",
    ".real",
    "{epoch:{batch}d}",
    "{loss:{epoch}.{epoch}g}",
    "99999",
    "999999999999999999999",
    "65535",
    "0",
    "+",
    "-",
    "=",
    "<",
    "^",
    "#",
    "_",
    ",",
    "z",
    "e",
    "%",
    "n",
    "b",
    "x",
    "é",
    "/",
    "..",
];

/// Bytes before the header of a `.safetensors` file: its length.
const PREFIX: usize = 8;

/// Where the JSON of a file is: all of it, or the header of a `.safetensors` file.
pub fn json(bytes: &[u8]) -> Option<Range<usize>> {
    if bytes.starts_with(b"{") {
        return Some(0..bytes.len());
    }
    let end = PREFIX.checked_add(number(bytes, 0, PREFIX) as usize).filter(|end| *end <= bytes.len())?;
    bytes[PREFIX..end].starts_with(b"{").then_some(PREFIX..end)
}

/// Changes the JSON of a file, and mostly the length before it too.
pub fn mutate_part(bytes: &mut Vec<u8>, part: Range<usize>, r: &mut Random) {
    let mut json = bytes[part.clone()].to_vec();
    mutate_json(&mut json, r);
    let len = json.len() as u64;
    bytes.splice(part.clone(), json);
    if part.start == PREFIX && r.below(8) > 0 {
        bytes[..PREFIX].copy_from_slice(&len.to_le_bytes());
    }
}

/// Changes a JSON text in its pieces.
pub fn mutate_json(text: &mut Vec<u8>, r: &mut Random) {
    mutate(text, &JSON, r);
    if r.below(40) == 0 {
        let deep = r.pick(&[100, 10_000, 200_000]);
        let (open, close) = r.pick(&[("[", "]"), ("{\"a\":", "}")]);
        let nested =
            [open.repeat(deep), if r.below(2) == 0 { close.repeat(deep) } else { String::new() }].concat();
        let at = r.below(text.len() + 1);
        text.splice(at..at, nested.into_bytes());
    }
}

/// Changes the template of a path in its pieces.
pub fn mutate_template(text: &mut Vec<u8>, r: &mut Random) {
    mutate(text, &TEMPLATE, r);
}

fn mutate(text: &mut Vec<u8>, tokens: &[&str], r: &mut Random) {
    for _ in 0..1 + r.below(4) {
        let at = r.below(text.len() + 1);
        let end = (at + r.pick(&[0, 1, 1, 5, 40])).min(text.len());
        match r.below(6) {
            0 => {
                text.drain(at..end);
            }
            1 => {
                let copy = text[at..end].to_vec();
                let to = r.below(text.len() + 1);
                text.splice(to..to, copy);
            }
            2 if at < text.len() => text[at] ^= 1 << r.below(8),
            3 => {
                if let Some((range, number)) = number_near(text, at) {
                    let new = interesting(r, number, number, text.len() as u64).to_string();
                    text.splice(range, new.into_bytes());
                }
            }
            _ => {
                text.splice(at..end, r.pick(tokens).bytes());
            }
        }
    }
}

/// The next number from `at` on.
fn number_near(text: &[u8], at: usize) -> Option<(Range<usize>, u64)> {
    let start = at + text[at..].iter().position(u8::is_ascii_digit)?;
    let len = text[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let number = std::str::from_utf8(&text[start..start + len]).ok()?.parse().ok()?;
    Some((start..start + len, number))
}
