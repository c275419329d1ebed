//! The elements of a dataset that is not in the file as it is in memory: chunked, filtered, of another byte order,
//! or not yet written.

use super::attribute::Heaps;
use super::chunks::{Chunk, Chunks, Grid};
use super::cursor::Cursor;
use super::dataset::{self, Dataset};
use super::filters::{Buffers, Pipeline};
use super::header::{Header, kind};
use super::layout::Layout;
use super::metadata::Metadata;
use super::shared;
use crate::error::Result;
use crate::memory;
use crate::reader::source::{Source, damaged};
use crate::tensor::TensorSpec;

/// Bytes that are converted at a time; a multiple of every element's size.
const PIECE: usize = 256 << 10;

/// Fills `dst` with the elements of the dataset whose header is at `address`, and which was listed as `spec`.
pub(in crate::reader) fn read(
    source: &Source,
    address: u64,
    spec: &TensorSpec,
    dst: &mut [u8],
) -> Result<()> {
    let mut meta = Metadata::for_one(source);
    let mut header = Header::default();
    header.read(&mut meta, address)?;
    let dataset = dataset::read(&mut meta, &mut Heaps::default(), &header)?;
    let same = |d: &Dataset| d.dtype == spec.dtype && d.extent.shape == spec.shape;
    let Some(dataset) = dataset.filter(|d| same(d) && dst.len() as u64 == spec.nbytes()) else {
        return Err(damaged("it is not what it was when the file was opened"));
    };
    if dst.is_empty() {
        return Ok(());
    }
    match &dataset.layout {
        Layout::Whole { offset, .. } => whole(source, &dataset, *offset, dst),
        Layout::Unwritten => fill(&dataset, &fill_value(&mut meta, &header, &dataset)?, dst),
        Layout::Chunked(chunks) => {
            fill(&dataset, &fill_value(&mut meta, &header, &dataset)?, dst)?;
            let pipeline = match header.find(kind::FILTERS) {
                Some(message) => Pipeline::read(&shared::body(&mut meta, &message)?)?,
                None => Pipeline::default(),
            };
            let grid = dataset.grid(&chunks.axes);
            let mut assembly = Assembly {
                source,
                dataset: &dataset,
                chunks,
                grid: &grid,
                pipeline: &pipeline,
                buffers: Buffers::default(),
                left: (source.len(), grid.count()),
                dst,
            };
            chunks.each(&mut meta, &grid, !pipeline.is_empty(), &mut |chunk| assembly.put(chunk))
        }
    }
}

/// Elements in one piece, but not as they are in memory.
fn whole(source: &Source, dataset: &Dataset, offset: u64, dst: &mut [u8]) -> Result<()> {
    let (element, size) = (dataset.encoding.size, dataset.dtype.size());
    let mut scratch = memory::filled(0, (dst.len() / size * element).min(PIECE))?;
    let mut at = offset;
    for piece in dst.chunks_mut(PIECE / element * size) {
        let bytes = scratch.get_mut(..piece.len() / size * element).unwrap_or_default();
        source.read_at(at, bytes)?;
        dataset.encoding.convert(dataset.dtype, bytes, piece)?;
        at += bytes.len() as u64;
    }
    Ok(())
}

/// The element that stands where nothing was written, as it is in the file; empty for zero.
fn fill_value(meta: &mut Metadata, header: &Header, dataset: &Dataset) -> Result<Vec<u8>> {
    let size = dataset.encoding.size;
    let Some(message) = header.find(kind::FILL).or_else(|| header.find(kind::OLD_FILL)) else {
        return Ok(Vec::new());
    };
    let body = shared::body(meta, &message)?;
    let mut c = Cursor::new(&body);
    let defined = match message.kind {
        kind::OLD_FILL => true,
        _ => match c.u8()? {
            1 | 2 => {
                c.take(2)?;
                c.u8()? != 0
            }
            3 => c.u8()? & 0x20 != 0,
            version => return Err(damaged(format!("its fill value has the unknown version {version}"))),
        },
    };
    match if defined { c.u32()? } else { 0 } {
        0 => Ok(Vec::new()),
        len if len as usize == size => Ok(c.take(size)?.to_vec()),
        // Old messages say so where none is defined.
        u32::MAX => Ok(Vec::new()),
        len => Err(damaged(format!("its fill value has {len} bytes, and its elements {size}"))),
    }
}

fn fill(dataset: &Dataset, value: &[u8], dst: &mut [u8]) -> Result<()> {
    let mut element = [0; 8];
    let element = element.get_mut(..dataset.dtype.size()).unwrap_or_default();
    if !value.is_empty() {
        dataset.encoding.convert(dataset.dtype, value, element)?;
    }
    match element {
        [first, rest @ ..] if rest.iter().all(|b| b == first) => dst.fill(*first),
        _ => dst.chunks_exact_mut(element.len()).for_each(|to| to.copy_from_slice(element)),
    }
    Ok(())
}

/// A tensor that is put together chunk by chunk.
struct Assembly<'a> {
    source: &'a Source,
    dataset: &'a Dataset,
    chunks: &'a Chunks,
    grid: &'a Grid,
    pipeline: &'a Pipeline,
    buffers: Buffers,
    /// Bytes of the file that no chunk has taken, and chunks of the grid: none shares them with another.
    left: (u64, u64),
    dst: &'a mut [u8],
}

impl Assembly<'_> {
    fn put(&mut self, chunk: &Chunk) -> Result<()> {
        let named = |e: crate::error::Error| e.context(format_args!("chunk {:?}", chunk.place));
        self.load(chunk).map_err(named)?;
        let Assembly { dataset, grid, buffers, dst, .. } = self;
        let (element, size) = (dataset.encoding.size as u64, dataset.dtype.size() as u64);
        grid.runs(chunk.place, |run| {
            let from = part(run.chunk * element, run.len * element);
            let to = part(run.tensor * size, run.len * size);
            match (buffers.bytes.get(from), dst.get_mut(to)) {
                (Some(from), Some(to)) => dataset.encoding.convert(dataset.dtype, from, to),
                _ => Err(damaged("a chunk of it does not fit its shape")),
            }
        })
    }

    /// Reads a chunk, and undoes its filters.
    fn load(&mut self, chunk: &Chunk) -> Result<()> {
        let left = (self.left.0.checked_sub(chunk.stored), self.left.1.checked_sub(1));
        let (Some(bytes), Some(count)) = left else {
            return Err(damaged("there are more chunks than fit the shape and the file: they share bytes"));
        };
        self.left = (bytes, count);
        if chunk.address.checked_add(chunk.stored).is_none_or(|end| end > self.source.len()) {
            return Err(damaged(format!(
                "its {} bytes at address {} reach beyond the end of the file",
                chunk.stored, chunk.address
            )));
        }
        self.source.read_at(chunk.address, self.buffers.fill(chunk.stored)?)?;
        self.pipeline.undo(chunk.skipped, self.chunks.bytes, &mut self.buffers)
    }
}

fn part(start: u64, len: u64) -> std::ops::Range<usize> {
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    start..start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX))
}
