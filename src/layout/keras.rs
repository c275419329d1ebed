//! Keras' `.keras`: a zip archive of the weights, the metadata and the configuration, that is an HDF5 file too.
//!
//! The weights come first, and their local header is padded so that they begin at byte 4096: one of the places
//! where HDF5 looks for a superblock, and one that keeps the data's alignment. (Behind a large configuration
//! they could not: an extra field pads by at most 65,535 bytes.)

use std::sync::Arc;

use super::assets::{self, Assets};
use super::crc::Parts;
use super::zip::{self, DosTime, Member};
use super::{Extent, Layout, METADATA, Options, Schema, Source, hdf5};
use crate::error::{Error, Result, Status};
use crate::memory;

/// The Keras that these files say they are of.
pub const KERAS_VERSION: &str = "3.15.1";

/// Where the weights begin.
const WEIGHTS_AT: usize = 4096;

/// The literals, behind [`METADATA`]: the local header of the weights.
const WEIGHTS_HEADER: usize = 1;
/// `metadata.json` with its local header, and the local header of `config.json`.
const MIDDLE: usize = 2;
/// `config.json`.
const CONFIG: usize = 3;
/// The central directory.
const DIRECTORY: usize = 4;
/// The first asset: its local header, then its bytes. So do all that follow.
const ASSETS: usize = 5;

/// The date of a save whose clock was never set, and the first that zip can express.
const NO_DATE: [u16; 6] = [1980, 1, 1, 0, 0, 0];

/// The places in [`Archive::members`].
const WEIGHTS: usize = 0;
const JSON: usize = 1;

/// The archive around the HDF5 file of the weights.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    /// Weights, metadata, configuration.
    members: [Member; 3],
    /// In the order of their names.
    assets: Arc<Vec<Member>>,
    /// Where the central directory begins.
    directory_at: u64,
    /// The weights as the extents that they are made of.
    weights: Parts,
}

/// Lays out a `.keras` file.
pub(super) fn plan(schema: &Schema, options: &Options) -> Result<Layout> {
    let config = options.config.ok_or_else(|| {
        Error::new(
            Status::State,
            "a .keras file holds the model's configuration, and the model has none: call ckpt_model_set_config \
             first (or save the weights alone, to a path that ends in .weights.h5)",
        )
    })?;
    let base = WEIGHTS_AT as u64;
    let mut layout = Layout::new(hdf5::lay_out(schema, options.state_capacity)?, base)?;
    let weights_end = layout.size;

    let archive = Archive::new(&layout.extents, weights_end - base, config, options.assets)?;
    memory::reserve(&mut layout.literals, ASSETS + 2 * archive.assets.len())?;
    layout.literals.resize_with(ASSETS, Arc::default);
    layout.literals[CONFIG] = Arc::new(memory::text(config)?.into_bytes());
    for (_, bytes) in options.assets.iter() {
        layout.literals.extend([Arc::default(), Arc::clone(bytes)]);
    }
    archive.render(&mut layout.literals, NO_DATE)?;
    let directory = layout.literals[DIRECTORY].len() as u64;
    if directory > zip::MAX_DIRECTORY {
        return Err(Error::new(
            Status::Unsupported,
            format!(
                "the zip directory of a .keras file with {} assets has {directory} bytes, more than {}: make them \
                 fewer, or their names shorter",
                archive.assets.len(),
                zip::MAX_DIRECTORY
            ),
        ));
    }

    let len = layout.literals[WEIGHTS_HEADER].len() as u64;
    let extents = memory::make_mut(&mut layout.extents)?;
    memory::reserve(extents, 1 + layout.literals.len())?;
    extents.insert(0, Extent { offset: 0, len, source: Source::Literal(WEIGHTS_HEADER) });
    for i in [MIDDLE, CONFIG].into_iter().chain(ASSETS..layout.literals.len()).chain([DIRECTORY]) {
        let len = layout.literals[i].len() as u64;
        if len > 0 {
            extents.push(Extent { offset: layout.size, len, source: Source::Literal(i) });
        }
        layout.size += len;
    }
    layout.archive = Some(archive);
    Ok(layout)
}

impl Archive {
    /// The archive whose weights have `len` bytes and are made of these extents.
    fn new(extents: &[Extent], len: u64, config: &str, assets: &Assets) -> Result<Archive> {
        let weights = Parts::new(extents.iter().map(|e| {
            let begin = e.offset - WEIGHTS_AT as u64;
            (begin, begin + e.len)
        }))?;
        let mut at = 0;
        let mut member = |name: &str, len, crc, header: Option<usize>| {
            let member = Member { name: name.to_owned(), at, len, crc };
            at += header.unwrap_or(member.header_len()) as u64 + len;
            member
        };
        let members = [
            member("model.weights.h5", len, 0, Some(WEIGHTS_AT)),
            member("metadata.json", metadata_json(NO_DATE).len() as u64, 0, None),
            member("config.json", config.len() as u64, crc32fast::hash(config.as_bytes()), None),
        ];
        let assets = assets.iter().map(|(name, bytes)| {
            let name = format!("{}{name}", assets::DIRECTORY);
            member(&name, bytes.len() as u64, crc32fast::hash(bytes), None)
        });
        let assets = Arc::new(memory::collect(assets)?);
        Ok(Archive { members, assets, directory_at: at, weights })
    }

    /// Fills in what is known at a save. The metadata of HDF5 must be final.
    pub(super) fn seal(
        &mut self,
        extents: &[Extent],
        literals: &mut [Arc<Vec<u8>>],
        crcs: &[u32],
        date: [u16; 6],
    ) -> Result<()> {
        let metadata = crc32fast::hash(&literals[METADATA]);
        self.members[WEIGHTS].crc = self.weights.combine(extents.iter().filter_map(|e| match e.source {
            Source::Literal(METADATA) => Some(metadata),
            Source::Literal(_) => None,
            Source::Tensor(i) => Some(crcs[i]),
        }));
        let date = if is_date(date) { date } else { NO_DATE };
        self.members[JSON].crc = crc32fast::hash(metadata_json(date).as_bytes());
        self.render(literals, date)
    }

    /// Writes the literals around the members whose bytes are known: all but [`CONFIG`] and the assets' own.
    fn render(&self, literals: &mut [Arc<Vec<u8>>], date: [u16; 6]) -> Result<()> {
        let time = DosTime::new(date);
        let [weights, metadata, config] = &self.members;
        let out = cleared(&mut literals[WEIGHTS_HEADER])?;
        weights.put_header(out, time, WEIGHTS_AT)?;
        let out = cleared(&mut literals[MIDDLE])?;
        metadata.put_header(out, time, metadata.header_len())?;
        memory::append(out, metadata_json(date).as_bytes())?;
        config.put_header(out, time, config.header_len())?;
        for (asset, header) in self.assets.iter().zip(literals[ASSETS..].iter_mut().step_by(2)) {
            asset.put_header(cleared(header)?, time, asset.header_len())?;
        }
        let out = cleared(&mut literals[DIRECTORY])?;
        zip::put_directory(out, self.members.iter().chain(&*self.assets), time, self.directory_at)
    }
}

/// A literal of ours, to be written anew.
fn cleared(literal: &mut Arc<Vec<u8>>) -> Result<&mut Vec<u8>> {
    if Arc::get_mut(literal).is_none() {
        // It will be as long again: nothing can fail any more once the old one is gone.
        let mut bytes = Vec::new();
        memory::reserve(&mut bytes, literal.len() + zip::MORE)?;
        *literal = Arc::new(bytes);
    }
    // It is nobody else's now.
    let bytes = Arc::make_mut(literal);
    bytes.clear();
    Ok(bytes)
}

/// `metadata.json`, of the same length at every date.
fn metadata_json([year, month, day, hour, minute, second]: [u16; 6]) -> String {
    format!(
        "{{\"keras_version\": \"{KERAS_VERSION}\", \"date_saved\": \
         \"{year:04}-{month:02}-{day:02}@{hour:02}:{minute:02}:{second:02}\"}}"
    )
}

/// Whether zip can express it.
fn is_date([year, month, day, hour, minute, second]: [u16; 6]) -> bool {
    (1980..=2107).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
}
