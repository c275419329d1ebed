//! The tensors of a header. Every tensor begins where the one before ends: bytes that are in none of them, or in
//! two, are refused, as the reference implementation refuses them.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::layout::safetensors::{DTYPES, METADATA_KEY};
use crate::reader::json::{self, Object, Text, quoted};
use crate::reader::source::damaged;
use crate::tensor::{Dtype, MAX_PATH, MAX_RANK, TensorSpec, shape_text};

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
    let mut runs = Vec::with_capacity(header.len());
    for (name, entry) in header.into_entries().filter(|(name, _)| name != METADATA_KEY) {
        let entry =
            Entry::parse(&name, entry).map_err(|e| e.context(format_args!("tensor {}", quoted(&name))))?;
        runs.push((entry.begin, entry.end));
        match entry.dtype {
            Some(dtype) => {
                let spec = TensorSpec { path: name.into_owned(), dtype, shape: entry.shape };
                tensors.listed.push((spec, entry.begin));
            }
            None => tensors.others.push(name.into_owned()),
        }
    }
    check_runs(runs, data_len)?;
    Ok(tensors)
}

/// What the header says of a tensor.
struct Entry {
    /// None if it is none of ours.
    dtype: Option<Dtype>,
    shape: Vec<u64>,
    begin: u64,
    end: u64,
}

impl Entry {
    fn parse(name: &str, entry: &str) -> Result<Entry> {
        check_name(name)?;
        let fields = Object::parse(entry)?;
        let field = |key: &str| fields.get(key).ok_or_else(|| damaged(format!("it has no \"{key}\"")));
        let Text(dtype) = json::value(field("dtype")?, "a dtype")?;
        let dtype = DTYPES.iter().find(|(_, known)| *known == dtype).map(|(dtype, _)| *dtype);
        let shape = field("shape")?;
        if shape.matches(',').count() >= MAX_RANK {
            return Err(damaged(format!("it has more than {MAX_RANK} dimensions")));
        }
        let shape = json::value(shape, "a shape: a list of sizes")?;
        let [begin, end] = json::value(field("data_offsets")?, "a begin and an end")?;
        let entry = Entry { dtype, shape, begin, end };
        entry.check()?;
        Ok(entry)
    }

    /// Refuses a tensor that does not fit its bytes. How many one of an unknown dtype has, nobody here knows.
    fn check(&self) -> Result<()> {
        let Some(len) = self.end.checked_sub(self.begin) else {
            return Err(damaged(format!("its data_offsets [{}, {}] run backwards", self.begin, self.end)));
        };
        let Some(dtype) = self.dtype else { return Ok(()) };
        let spec = TensorSpec { path: String::new(), dtype, shape: self.shape.clone() };
        let what = || format!("as {} of shape {}", dtype.name(), shape_text(&self.shape));
        match spec.checked_nbytes() {
            Some(nbytes) if nbytes == len => Ok(()),
            Some(nbytes) => Err(damaged(format!("{} it needs {nbytes} bytes, its data has {len}", what()))),
            None => Err(damaged(format!("{} it is larger than any file", what()))),
        }
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
            std::cmp::Ordering::Less => "overlap those of another tensor".to_owned(),
            std::cmp::Ordering::Greater => format!("leave a hole behind offset {at}"),
            std::cmp::Ordering::Equal => {
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
