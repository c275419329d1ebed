//! The text of the index, as Keras writes it, with the training state in its metadata.

use super::super::guard;
use super::super::schema::is_own;
use super::names::Names;
use crate::error::{Error, Result, Status};
use crate::memory;
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
    let mut out = Vec::new();
    let mut put = |text: &str| memory::append(&mut out, text.as_bytes());
    put(&format!("{{\n    \"metadata\": {{\n        \"total_size\": {total_size:?}"))?;
    let mut guard_at = None;
    if !state.is_empty() {
        let text = std::str::from_utf8(state)
            .map_err(|e| Error::new(Status::Internal, format!("the training state is not UTF-8: {e}")))?;
        put(",\n        \"libckpt\": {\n            \"state\": ")?;
        put_string(&mut out, text)?;
        let crc = crc32fast::hash(state);
        let crc = format!(",\n            \"crc32\": {crc}\n        }},\n        ");
        memory::append(&mut out, crc.as_bytes())?;
        guard_at = Some(out.len() + guard::MARK.len());
        memory::append(&mut out, guard::blank().as_bytes())?;
    }
    memory::append(&mut out, b"\n    },\n    \"weight_map\": {")?;
    for (i, (group, shards)) in groups.iter().enumerate() {
        memory::append(&mut out, if i > 0 { b",\n        " } else { b"\n        " })?;
        put_string(&mut out, &format!("/{group}"))?;
        memory::append(&mut out, b": [")?;
        for (i, &shard) in shards.iter().enumerate() {
            memory::append(&mut out, if i > 0 { b",\n            " } else { b"\n            " })?;
            put_string(&mut out, &names.shard(shard))?;
        }
        memory::append(&mut out, b"\n        ]")?;
    }
    memory::append(&mut out, if groups.is_empty() { b"}\n}" } else { b"\n    }\n}" })?;
    if let Some(at) = guard_at {
        guard::guard_text(&mut out, at);
    }
    Ok(out)
}

/// A JSON string, all in ASCII: Keras reads the file in the encoding of the locale.
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) -> Result<()> {
    memory::reserve(out, text.len() + 2)?;
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' | '\\' => memory::append(out, &[b'\\', c as u8])?,
            ' '..='~' => memory::push(out, c as u8)?,
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    memory::append(out, format!("\\u{unit:04x}").as_bytes())?;
                }
            }
        }
    }
    memory::push(out, b'"')
}
