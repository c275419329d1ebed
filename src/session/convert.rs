//! One file to another format: whatever can be read is a model that can be written.

use std::path::Path;

use serde_json::{Map, Value};

use crate::engine::{Buffer, WriteOptions};
use crate::error::{Error, Result, Status};
use crate::layout::{self, Format};
use crate::reader::Reader;
use crate::tensor::TensorSpec;

use super::model::{Kind, Model};
use super::state::TrainingState;

/// Writes the checkpoint `src` anew as `dst`, whose ending says as what: the tensors with their bytes, Keras'
/// names, the configuration, the assets, and the training state, as far as the new format has room for them. Needs
/// memory for all tensors. `dst` may be `src`; it is replaced as a whole or not at all.
///
/// # Errors
/// Those of [`Reader::open`] and [`Reader::load`] (a damaged tensor is refused), and of [`Model::save`]: `State`
/// where the new format needs a configuration and `src` has none; `Unsupported` where `src` holds what is no tensor here; `InvalidArgument` where a tensor's name is no path;
/// `Unsupported` where the legacy format needs an order of weights that is not known.
pub fn convert(src: &Path, dst: &Path) -> Result<()> {
    let format = Format::of(&dst.to_string_lossy())?;
    let reader = Reader::open(src)?;
    copy(&reader, format, dst).map_err(|e| e.context(format_args!("cannot convert '{}'", src.display())))
}

fn copy(reader: &Reader, format: Format, dst: &Path) -> Result<()> {
    if let Some(name) = reader.unlisted() {
        let message = format!("'{name}' is no tensor of a dtype that is known here, and would be lost");
        return Err(Error::new(Status::Unsupported, message));
    }
    let config = reader.config()?;
    let mut memory = reader.tensors().iter().map(zeros).collect::<Result<Vec<_>>>()?;
    let mut model = Model::new();
    for index in order(reader, format, config.as_deref())? {
        let (spec, bytes) = (&reader.tensors()[index], &mut memory[index]);
        // SAFETY: `memory` outlives the model, and nobody else touches it before the model has gone.
        let buffer = unsafe { Buffer::new(bytes.as_mut_ptr(), spec.dtype.size(), &spec.shape, None) }?;
        model.add(&spec.path, spec.dtype, &spec.shape, buffer)?;
    }
    for (group, name) in reader.names() {
        model.set_name(group, name)?;
    }
    if let Some(config) = &config {
        model.set_config(config)?;
    }
    for (name, bytes) in reader.assets()? {
        model.set_asset(&name, &bytes)?;
    }
    for (key, value) in metadata(reader)? {
        model.set_metadata(&key, &value)?;
    }
    model.load(reader, 0)?;
    let state = match reader.state()? {
        Some(state) => state.to_vec(),
        None => TrainingState::default().to_json(),
    };
    let kind = Kind { format, max_shard_bytes: layout::MAX_SHARD_BYTES };
    model.write(dst, kind, state, &WriteOptions::default()).map(|_| ())
}

/// The order in which the tensors are added: it is that of the file, and means something only where Keras goes by it.
fn order(reader: &Reader, format: Format, config: Option<&str>) -> Result<Vec<usize>> {
    match (format, config) {
        (Format::LegacyH5, Some(config)) => {
            let names = reader.names().map(|(group, name)| (group.to_owned(), name.to_owned())).collect();
            layout::legacy::order(config, reader.tensors(), &names)
        }
        _ => Ok((0..reader.tensors().len()).collect()),
    }
}

/// The strings of the metadata.
fn metadata(reader: &Reader) -> Result<Vec<(String, String)>> {
    let json = reader.metadata()?.and_then(|json| serde_json::from_str::<Map<String, Value>>(&json).ok());
    let strings = json.into_iter().flatten().filter_map(|(key, value)| match value {
        Value::String(value) => Some((key, value)),
        _ => None,
    });
    Ok(strings.collect())
}

/// Memory for a tensor; an error where it is not there.
fn zeros(spec: &TensorSpec) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let room = usize::try_from(spec.nbytes()).ok().and_then(|n| bytes.try_reserve_exact(n).ok().map(|()| n));
    match room {
        Some(n) => bytes.resize(n, 0),
        None => {
            let message = format!("no memory for the {} bytes of tensor '{}'", spec.nbytes(), spec.path);
            return Err(Error::new(Status::Unsupported, message));
        }
    }
    Ok(bytes)
}
