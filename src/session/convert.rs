//! One file to another format: whatever can be read is a model that can be written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::engine::{Buffer, Source, WriteOptions};
use crate::error::{Error, Result, Status};
use crate::layout::{self, Format};
use crate::memory;
use crate::reader::{Reader, Stream};

use super::data::Data;
use super::model::{Kind, Model};
use super::state::TrainingState;

/// Writes the checkpoint `src` anew as `dst`, whose ending says as what: the tensors with their bytes, Keras'
/// names, the configuration, the assets, and the state of the training, as far as the new format has room for them. The
/// tensors pass through a few MiB of memory, those that are chunked or filtered one at a time. `dst` may be `src`; it
/// is replaced as a whole or not at all.
///
/// # Errors
/// Those of [`Reader::open`] and [`Reader::load`] (a damaged tensor is refused), and of [`Model::save`]: `State`
/// where the new format needs a configuration and `src` has none; `Unsupported` where `src` holds what is no tensor
/// here; `InvalidArgument` where a tensor's name is no path; `Unsupported` where the legacy format needs an order of
/// weights that is not known.
pub fn convert(src: &Path, dst: &Path) -> Result<()> {
    let format = Format::of(&dst.to_string_lossy())?;
    let reader = Reader::open(src)?;
    copy(&Arc::new(reader), format, dst)
        .map_err(|e| e.context(format_args!("cannot convert '{}'", src.display())))
}

fn copy(reader: &Arc<Reader>, format: Format, dst: &Path) -> Result<()> {
    if let Some(name) = reader.unlisted() {
        let message = format!("'{name}' is no tensor of a dtype that is known here, and would be lost");
        return Err(Error::new(Status::Unsupported, message));
    }
    let config = reader.config()?;
    let mut model = Model::new();
    for index in order(reader, format, config.as_deref())? {
        let spec = &reader.tensors()[index];
        if spec.nbytes() == 0 {
            // It is not asked for any: its checksum is compared here.
            Stream::new(&**reader, index, true)?;
        }
        let source = Arc::new(Original { reader: reader.clone(), index, stream: Mutex::default() });
        let buffer = Buffer::source(spec.nbytes(), spec.dtype.size(), source)?;
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
    for (key, value) in reader.metadata_texts()? {
        model.set_metadata(&key, &value)?;
    }
    let state = match reader.state()? {
        Some(state) => memory::collect(state.iter().copied())?,
        None => TrainingState::default().to_json(),
    };
    let kind = Kind::new(format, layout::MAX_SHARD_BYTES);
    let data = Data::of(reader.data()?)?;
    model.write(dst, &data, kind, state, &WriteOptions::default()).map(|_| ())
}

/// The order in which the tensors are added: it is that of the file, and means something only where Keras goes by it.
fn order(reader: &Reader, format: Format, config: Option<&str>) -> Result<Vec<usize>> {
    match (format, config) {
        (Format::LegacyH5, Some(config)) => {
            // One after the other: collecting takes a list of all.
            let mut names = BTreeMap::new();
            names.extend(reader.names().map(|(group, name)| (group.to_owned(), name.to_owned())));
            layout::legacy::order(config, reader.tensors(), &names)
        }
        _ => memory::collect(0..reader.tensors().len()),
    }
}

/// A tensor of the checkpoint that is converted, read when the save asks for it.
struct Original {
    reader: Arc<Reader>,
    index: usize,
    /// Where the last call has ended, unless that was at its end.
    stream: Mutex<Option<Stream<Arc<Reader>>>>,
}

impl Source for Original {
    fn fetch(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let mut slot = self.stream.lock();
        let mut stream = match slot.take() {
            Some(stream) if stream.position() == offset => stream,
            _ if offset == 0 => Stream::new(self.reader.clone(), self.index, true)?,
            _ => return Err(Error::new(Status::Internal, "a tensor is read in another order than its own")),
        };
        stream.read(dst)?;
        *slot = (stream.left() > 0).then_some(stream);
        Ok(())
    }

    fn put(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::new(Status::Internal, "a checkpoint that is converted is not written to"))
    }

    fn can_put(&self) -> bool {
        false
    }
}
