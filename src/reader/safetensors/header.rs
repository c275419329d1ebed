//! The tensors of a header. Every tensor begins where the one before ends: bytes that are in none of them, or in
//! two, are refused, as the reference implementation refuses them.
#![forbid(unsafe_code)]

use std::cmp::Ordering;

use crate::error::Result;
use crate::layout::safetensors::{DTYPES, METADATA_KEY};
use crate::memory;
use crate::reader::json::{self, Object, quoted};
use crate::reader::source::damaged;
use crate::tensor::{MAX_PATH, MAX_RANK, TensorSpec, shape_text};

/// What stands in a header.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    /// The tensors, and where in the data each begins; in no certain order.
    pub listed: Vec<(TensorSpec, u64)>,
    /// The names of those of a dtype that is none of ours.
    pub others: Vec<String>,
}

/// Lists the tensors of a header before `data_len` bytes of data.
pub(super) fn tensors(header: Object, data_len: u64) -> Result<Tensors> {
    let mut tensors = Tensors::default();
    let mut runs = Vec::new();
    memory::reserve(&mut runs, header.len())?;
    for (name, entry) in header.into_entries().filter(|(name, _)| name != METADATA_KEY) {
        let parsed = Entry::parse(&name, entry);
        let entry = parsed.map_err(|e| e.context(format_args!("tensor {}", quoted(&name))))?;
        runs.push((entry.begin, entry.end));
        match entry.spec {
            Some(spec) => memory::push(&mut tensors.listed, (spec, entry.begin))?,
            None => memory::push(&mut tensors.others, name.into_owned())?,
        }
    }
    check_runs(runs, data_len)?;
    Ok(tensors)
}

/// What the header says of a tensor.
struct Entry {
    /// None if its dtype is none of ours.
    spec: Option<TensorSpec>,
    begin: u64,
    end: u64,
}

impl Entry {
    fn parse(name: &str, entry: &str) -> Result<Entry> {
        check_name(name)?;
        let fields = Object::parse(entry)?;
        let field = |key: &str| fields.get(key).ok_or_else(|| damaged(format!("it has no \"{key}\"")));
        let dtype = json::text(field("dtype")?, "a dtype")?;
        let shape = field("shape")?;
        if shape.matches(',').count() >= MAX_RANK {
            return Err(damaged(format!("it has more than {MAX_RANK} dimensions")));
        }
        let shape = json::value(shape, "a shape: a list of sizes")?;
        let [begin, end]: [u64; 2] = json::value(field("data_offsets")?, "a begin and an end")?;
        let Some(len) = end.checked_sub(begin) else {
            return Err(damaged(format!("its data_offsets [{begin}, {end}] run backwards")));
        };
        // How many bytes one of an unknown dtype has, nobody here knows.
        let dtype = DTYPES.iter().find(|(_, known)| *known == dtype).map(|(dtype, _)| *dtype);
        let spec = dtype.map(|dtype| TensorSpec { path: name.to_owned(), dtype, shape });
        if let Some(spec) = &spec {
            check_bytes(spec, len)?;
        }
        Ok(Entry { spec, begin, end })
    }
}

/// Refuses a tensor whose elements do not have `len` bytes.
fn check_bytes(spec: &TensorSpec, len: u64) -> Result<()> {
    let what = || format!("as {} of shape {}", spec.dtype.name(), shape_text(&spec.shape));
    match spec.checked_nbytes() {
        Some(nbytes) if nbytes == len => Ok(()),
        Some(nbytes) => Err(damaged(format!("{} it needs {nbytes} bytes, its data has {len}", what()))),
        None => Err(damaged(format!("{} it is larger than any file", what()))),
    }
}

fn check_name(name: &str) -> Result<()> {
    match name {
        "" => Err(damaged("its name is empty")),
        _ if name.contains('\0') => Err(damaged("its name contains a NUL")),
        _ if name.len() > MAX_PATH => {
            Err(damaged(format!("its name has {} bytes, at most {MAX_PATH} are possible", name.len())))
        }
        _ => Ok(()),
    }
}

/// Checks that the runs of bytes make up the data.
fn check_runs(mut runs: Vec<(u64, u64)>, data_len: u64) -> Result<()> {
    runs.sort_unstable();
    let mut at = 0;
    for (begin, end) in runs {
        let what = match begin.cmp(&at) {
            _ if end > data_len => format!("reach beyond the end of the data, {data_len}"),
            Ordering::Less => "overlap those of another tensor".to_owned(),
            Ordering::Greater => format!("leave a hole behind offset {at}"),
            Ordering::Equal => {
                at = end;
                continue;
            }
        };
        return Err(damaged(format!("the data_offsets [{begin}, {end}] {what}")));
    }
    match at == data_len {
        true => Ok(()),
        false => Err(damaged(format!("the last {} bytes of its data are in no tensor", data_len - at))),
    }
}
