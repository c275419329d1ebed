//! Keras' `.keras`: a zip archive of the weights, the metadata and the configuration, that is an HDF5 file too.
//!
//! The weights come first, and their local header is padded so that they begin at byte 4096: one of the places
//! where HDF5 looks for a superblock, and one that keeps the data's alignment. (Behind a large configuration
//! they could not: an extra field pads by at most 65,535 bytes.)

use super::crc::Parts;
use super::zip::{self, DosTime, Member};
use super::{Extent, Layout, METADATA, Options, Schema, Source, hdf5};
use crate::error::{Error, Result, Status};

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
    let mut layout = Layout::new(hdf5::lay_out(schema, options.state_capacity)?, base);
    let weights_end = layout.size;

    let archive = Archive::new(&layout.extents, weights_end - base, config);
    layout.literals.resize_with(DIRECTORY + 1, Vec::new);
    layout.literals[CONFIG] = config.as_bytes().to_vec();
    archive.render(&mut layout.literals, NO_DATE);

    let lens: Vec<u64> = layout.literals.iter().map(|l| l.len() as u64).collect();
    let literal = |offset, i: usize| Extent { offset, len: lens[i], source: Source::Literal(i) };
    layout.extents.insert(0, literal(0, WEIGHTS_HEADER));
    layout.extents.push(literal(weights_end, MIDDLE));
    if !config.is_empty() {
        layout.extents.push(literal(weights_end + lens[MIDDLE], CONFIG));
    }
    layout.extents.push(literal(archive.directory_at, DIRECTORY));
    layout.size = archive.directory_at + lens[DIRECTORY];
    layout.archive = Some(archive);
    Ok(layout)
}

impl Archive {
    /// The archive whose weights have `len` bytes and are made of these extents.
    fn new(extents: &[Extent], len: u64, config: &str) -> Archive {
        let weights = Parts::new(extents.iter().map(|e| {
            let begin = e.offset - WEIGHTS_AT as u64;
            (begin, begin + e.len)
        }));
        let mut at = 0;
        let mut member = |name, len, crc, header: Option<usize>| {
            let member = Member { name, at, len, crc };
            at += header.unwrap_or(member.header_len()) as u64 + len;
            member
        };
        let members = [
            member("model.weights.h5", len, 0, Some(WEIGHTS_AT)),
            member("metadata.json", metadata_json(NO_DATE).len() as u64, 0, None),
            member("config.json", config.len() as u64, crc32fast::hash(config.as_bytes()), None),
        ];
        Archive { members, directory_at: at, weights }
    }

    /// Fills in what is known at a save. The metadata of HDF5 must be final.
    pub(super) fn seal(
        &mut self,
        extents: &[Extent],
        literals: &mut [Vec<u8>],
        crcs: &[u32],
        date: [u16; 6],
    ) {
        let metadata = crc32fast::hash(&literals[METADATA]);
        self.members[WEIGHTS].crc = self.weights.combine(extents.iter().filter_map(|e| match e.source {
            Source::Literal(METADATA) => Some(metadata),
            Source::Literal(_) => None,
            Source::Tensor(i) => Some(crcs[i]),
        }));
        let date = if is_date(date) { date } else { NO_DATE };
        self.members[JSON].crc = crc32fast::hash(metadata_json(date).as_bytes());
        self.render(literals, date);
    }

    /// Writes the literals around the weights, all but [`CONFIG`].
    fn render(&self, literals: &mut [Vec<u8>], date: [u16; 6]) {
        let time = DosTime::new(date);
        let [weights, metadata, config] = &self.members;
        let out = &mut literals[WEIGHTS_HEADER];
        out.clear();
        weights.put_header(out, time, WEIGHTS_AT);
        let out = &mut literals[MIDDLE];
        out.clear();
        metadata.put_header(out, time, metadata.header_len());
        out.extend_from_slice(metadata_json(date).as_bytes());
        config.put_header(out, time, config.header_len());
        let out = &mut literals[DIRECTORY];
        out.clear();
        zip::put_directory(out, &self.members, time, self.directory_at);
    }
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
