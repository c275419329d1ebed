//! `.safetensors`: eight bytes with the length of the header, the header (JSON), the tensors' data.
//!
//! The data stands in the order in which the reference implementation writes it, without holes. What is ours is in
//! the header's `__metadata__`, a map of strings, under keys that begin with [`OWN_PREFIX`]; see docs/formats.md.

use super::bytes::{Put, set_u64};
use super::guard;
use super::json::{put_quoted, put_string};
use super::own::{self, STATE_PATH, Slot};
use super::schema::Schema;
use super::{Extent, Layout, METADATA, Options, Source, hdf5};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result, Status};
use crate::memory;
use crate::tensor::{Dtype, TensorSpec};

/// The key of the map of strings, among those of the tensors.
pub const METADATA_KEY: &str = "__metadata__";

/// What the keys of our own in that map begin with.
pub const OWN_PREFIX: &str = "libckpt.";

/// The training state, JSON, padded with spaces.
pub const STATE: &str = "libckpt.state";

/// The checksums: rows of [`ROW`] hexadecimal digits, sorted by key.
pub const CHECKSUMS: &str = "libckpt.checksums";

/// Keras' names of the groups: a JSON object.
pub const NAMES: &str = "libckpt.names";

/// The model's configuration, JSON.
pub const CONFIG: &str = "libckpt.config";

/// Digits of a row of checksums: 16 of the path's key, 8 of the checksum.
pub const ROW: usize = KEY_DIGITS + CHECKSUM_DIGITS;
const KEY_DIGITS: usize = 16;
const CHECKSUM_DIGITS: usize = 8;

/// The most bytes of a header: the reference implementation reads no more.
pub const MAX_HEADER: u64 = 100_000_000;

/// The dtypes by the names that the format has for them, in the order of the data.
pub const DTYPES: [(Dtype, &str); 13] = [
    (Dtype::U64, "U64"),
    (Dtype::I64, "I64"),
    (Dtype::F64, "F64"),
    (Dtype::F32, "F32"),
    (Dtype::U32, "U32"),
    (Dtype::I32, "I32"),
    (Dtype::Bf16, "BF16"),
    (Dtype::F16, "F16"),
    (Dtype::U16, "U16"),
    (Dtype::I16, "I16"),
    (Dtype::I8, "I8"),
    (Dtype::U8, "U8"),
    (Dtype::Bool, "BOOL"),
];

/// Refuses a key of the metadata that is not the caller's.
pub fn check_key(key: &str) -> Result<()> {
    match key.starts_with(OWN_PREFIX) {
        false => Ok(()),
        true => {
            let what = format!("metadata '{key}': keys that begin with '{OWN_PREFIX}' are the library's own");
            Err(Error::new(Status::InvalidArgument, what))
        }
    }
}

/// Lays out the file of a schema.
pub(super) fn plan(schema: &Schema, options: &Options) -> Result<Layout> {
    let tensors = schema.tensors();
    if schema.find(METADATA_KEY).is_some() {
        let what = format!("tensor '{METADATA_KEY}': a .safetensors file has its metadata under this name");
        return Err(Error::new(Status::InvalidArgument, what));
    }
    let data = data(tensors)?;
    let data_len = data.last().map_or(0, |run| run.end);
    let mut out = Vec::new();
    out.make_room(9)?;
    out.put_u64(0);
    out.put(b"{");
    let slots = put_metadata(&mut out, schema, options)?;
    for run in &data {
        put_tensor(&mut out, &tensors[run.tensor], run)?;
    }
    // What the data is aligned to, too.
    out.make_room(1 + hdf5::LARGE_ALIGNMENT as usize)?;
    out.put(b"}");

    let unit = if data_len >= hdf5::LARGE { hdf5::LARGE_ALIGNMENT } else { hdf5::ALIGNMENT };
    out.resize(out.len().next_multiple_of(unit as usize), b' ');
    let header = out.here() - 8;
    if header > MAX_HEADER {
        return Err(Error::new(
            Status::InvalidArgument,
            format!(
                "the header of a .safetensors file with {} tensors has {header} bytes, the format allows {MAX_HEADER}: \
                 shorten the names, the metadata or the configuration, or use another format",
                tensors.len()
            ),
        ));
    }
    set_u64(&mut out, 0, header);

    let begin = out.here();
    let size =
        begin.checked_add(data_len).filter(|&size| size <= hdf5::MAX_FILE).ok_or_else(hdf5::too_large)?;
    let mut extents = Vec::new();
    memory::reserve(&mut extents, 1 + data.len())?;
    extents.push(Extent { offset: 0, len: begin, source: Source::Literal(METADATA) });
    extents.extend(data.iter().filter(|run| run.begin < run.end).map(|run| Extent {
        offset: begin + run.begin,
        len: run.end - run.begin,
        source: Source::Tensor(run.tensor),
    }));
    Ok(Layout {
        size,
        extents: Arc::new(extents),
        literals: vec![out.into()],
        slots: Some(super::Slots::Header(slots)),
        archive: None,
        shards: None,
    })
}

/// Where a tensor's bytes are in the data.
struct Run {
    tensor: usize,
    begin: u64,
    end: u64,
}

/// The runs of all tensors in the order of the data: by dtype, wide ones first, so that all of them are aligned
/// to their elements; then by name.
fn data(tensors: &[TensorSpec]) -> Result<Vec<Run>> {
    let rank = |dtype: Dtype| DTYPES.iter().position(|(d, _)| *d == dtype);
    let keys = tensors.iter().enumerate().map(|(i, spec)| (rank(spec.dtype), spec.path.as_str(), i));
    let mut order = memory::collect(keys)?;
    order.sort_unstable();
    let mut end = 0u64;
    let runs = order.into_iter().map(|(.., tensor)| {
        let begin = end;
        end = begin.checked_add(tensors[tensor].nbytes()).ok_or_else(hdf5::too_large)?;
        Ok(Run { tensor, begin, end })
    });
    memory::try_collect(runs)
}

/// Appends the entry [`METADATA_KEY`].
fn put_metadata(out: &mut Vec<u8>, schema: &Schema, options: &Options) -> Result<Slots> {
    put_string(out, METADATA_KEY)?;
    out.make_room(PUNCTUATION + guard::MARK.len())?;
    out.put(b":{");
    let guard_at = out.len() + guard::MARK.len();
    out.put(guard::blank().as_bytes());
    out.put(b",");
    for (key, value) in options.metadata {
        check_key(key)?;
        put_entry(out, key, value.as_bytes())?;
    }
    if let Some(config) = options.config {
        put_entry(out, CONFIG, config.as_bytes())?;
    }
    let names = schema.names()?;
    if !names.is_empty() {
        put_entry(out, NAMES, &names_json(&names)?)?;
    }
    let slots = Slots::put(out, schema.tensors(), options.state_capacity, guard_at)?;
    out.put(b"}");
    Ok(slots)
}

/// A JSON object of Keras' names.
fn names_json(names: &BTreeMap<String, &str>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (group, name) in names {
        let before = if out.is_empty() { b"{" } else { b"," };
        memory::append(&mut out, before)?;
        put_string(&mut out, group)?;
        memory::append(&mut out, b":")?;
        put_string(&mut out, name)?;
    }
    memory::append(&mut out, b"}")?;
    Ok(out)
}

/// Appends the entry of a tensor.
fn put_tensor(out: &mut Vec<u8>, spec: &TensorSpec, run: &Run) -> Result<()> {
    let dtype = DTYPES.iter().find(|(dtype, _)| *dtype == spec.dtype).map_or("", |(_, name)| name);
    let Run { begin, end, .. } = run;
    // A list of numbers without spaces is what Rust has with them.
    let mut shape = format!("{:?}", spec.shape);
    shape.retain(|c| c != ' ');
    memory::append(out, b",")?;
    put_string(out, &spec.path)?;
    let rest = format!(r#":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#);
    memory::append(out, rest.as_bytes())
}

/// Appends a string of the map, which is UTF-8.
fn put_entry(out: &mut Vec<u8>, key: &str, value: &[u8]) -> Result<()> {
    put_string(out, key)?;
    memory::append(out, b":")?;
    put_quoted(out, value)?;
    memory::append(out, b",")
}

/// Room for what is between two entries, and begins and ends their values.
const PUNCTUATION: usize = 32;

/// Where the slots are in the header.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    state_at: usize,
    state_capacity: usize,
    /// For each tensor.
    checksums: Arc<Vec<Slot>>,
    /// Where the checksum of the state is.
    state_checksum_at: usize,
    /// Where the digits of the guard are.
    guard_at: usize,
}

/// The state is a string of JSON: its quotes, backslashes and line breaks have two bytes there. JSON has no other
/// character that would have more than it has in UTF-8.
const ESCAPED: usize = 2;

impl Slots {
    /// Appends the entries [`CHECKSUMS`], the keys filled in, and [`STATE`].
    fn put(
        out: &mut Vec<u8>,
        tensors: &[TensorSpec],
        state_capacity: usize,
        guard_at: usize,
    ) -> Result<Slots> {
        put_string(out, CHECKSUMS)?;
        out.make_room(PUNCTUATION + ROW * (tensors.len() + 1))?;
        out.put(b":\"");
        let state = state_spec(0);
        let mut checksums = own::put_rows(tensors.iter().chain([&state]), |key| {
            out.put(format!("{key:0KEY_DIGITS$x}").as_bytes());
            let at = out.len();
            out.put(&[b'0'; CHECKSUM_DIGITS]);
            at
        })?;
        let state_checksum_at = checksums.pop().map_or(0, |slot| slot.at);
        out.put(b"\",");
        put_string(out, STATE)?;
        out.make_room(PUNCTUATION + ESCAPED * state_capacity)?;
        out.put(b":\"");
        let state_at = out.len();
        out.resize(state_at + ESCAPED * state_capacity, b' ');
        out.put(b"\"");
        let checksums = Arc::new(checksums);
        Ok(Slots { state_at, state_capacity, checksums, state_checksum_at, guard_at })
    }

    pub(super) fn tensors(&self) -> usize {
        self.checksums.len()
    }

    pub(super) fn state_capacity(&self) -> usize {
        self.state_capacity
    }

    /// Writes the state and all checksums; `crcs` are those of the tensors' bytes.
    pub(super) fn fill(&self, header: &mut [u8], crcs: &[u32], state: &[u8]) -> Result<()> {
        own::check_state(state, self.state_capacity)?;
        let mut quoted = Vec::new();
        if let Ok(text) = std::str::from_utf8(state) {
            put_string(&mut quoted, text)?;
        }
        let escaped = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        let room = &mut header[self.state_at..self.state_at + ESCAPED * self.state_capacity];
        if escaped.len() > room.len() || escaped.is_empty() != state.is_empty() {
            return Err(Error::new(Status::Internal, "the training state is not JSON"));
        }
        let (text, padding) = room.split_at_mut(escaped.len());
        text.copy_from_slice(escaped);
        padding.fill(b' ');
        for (slot, crc) in self.checksums.iter().zip(crcs) {
            set_checksum(header, slot.at, slot.head ^ crc);
        }
        let state = state.trim_ascii_end();
        let checksum = state_spec(state.len()).checksum(crc32fast::hash(state));
        set_checksum(header, self.state_checksum_at, checksum);
        guard::guard_text(header, self.guard_at);
        Ok(())
    }
}

/// The state as a tensor, for its checksum: without its padding, whose length depends on the escapes.
pub fn state_spec(len: usize) -> TensorSpec {
    TensorSpec { path: STATE_PATH.into(), dtype: Dtype::U8, shape: vec![len as u64] }
}

fn set_checksum(header: &mut [u8], at: usize, checksum: u32) {
    let digits = format!("{checksum:0CHECKSUM_DIGITS$x}");
    header[at..at + CHECKSUM_DIGITS].copy_from_slice(digits.as_bytes());
}

#[cfg(test)]
mod tests;
