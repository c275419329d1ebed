//! The text of the index, as Keras writes it, with the training state in its metadata.

use std::fmt::Write;

use super::super::guard;
use super::super::schema::is_own;
use super::names::Names;
use crate::error::{Error, Result, Status};
use crate::tensor::{Dtype, TensorSpec};

/// Bytes of the model's tensors as Keras counts them: a boolean is one bit.
pub(super) fn total_size(tensors: &[TensorSpec]) -> f64 {
    let share = |spec: &TensorSpec| if spec.dtype == Dtype::Bool { 1.0 / 8.0 } else { 1.0 };
    // Not `sum`: that of nothing is -0.
    let tensors = tensors.iter().filter(|spec| !is_own(&spec.path));
    tensors.fold(0.0, |sum, spec| sum + spec.nbytes() as f64 * share(spec))
}

/// The index of these groups, each in some of the shards.
pub(super) fn render(
    total_size: f64,
    groups: &[(String, Vec<usize>)],
    names: &Names,
    state: &[u8],
) -> Result<Vec<u8>> {
    let mut out = format!("{{\n    \"metadata\": {{\n        \"total_size\": {total_size:?}");
    let mut guard_at = None;
    if !state.is_empty() {
        let text = std::str::from_utf8(state)
            .map_err(|e| Error::new(Status::Internal, format!("the training state is not UTF-8: {e}")))?;
        out.push_str(",\n        \"libckpt\": {\n            \"state\": ");
        put_string(&mut out, text);
        // Writing to a string cannot fail.
        let _ = write!(out, ",\n            \"crc32\": {}\n        }},\n        ", crc32fast::hash(state));
        guard_at = Some(out.len() + guard::MARK.len());
        out.push_str(&guard::blank());
    }
    out.push_str("\n    },\n    \"weight_map\": {");
    for (i, (group, shards)) in groups.iter().enumerate() {
        out.push_str(if i > 0 { ",\n        " } else { "\n        " });
        put_string(&mut out, &format!("/{group}"));
        out.push_str(": [");
        for (i, &shard) in shards.iter().enumerate() {
            out.push_str(if i > 0 { ",\n            " } else { "\n            " });
            put_string(&mut out, &names.shard(shard));
        }
        out.push_str("\n        ]");
    }
    out.push_str(if groups.is_empty() { "}\n}" } else { "\n    }\n}" });
    let mut out = out.into_bytes();
    if let Some(at) = guard_at {
        guard::guard_text(&mut out, at);
    }
    Ok(out)
}

/// A JSON string, all in ASCII: Keras reads the file in the encoding of the locale.
pub(super) fn put_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}
