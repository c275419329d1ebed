//! A `.keras` archive: the weights in an HDF5 file, the configuration and the metadata beside them.
#![forbid(unsafe_code)]

use super::content::Content;
use super::source::{Source, damaged};
use super::zip::Archive;
use super::{Opening, hdf5, weights};
use crate::error::Result;

/// The member that holds the weights.
const WEIGHTS: &str = "model.weights.h5";

/// Reads the archive.
pub(super) fn read(source: &Source, opening: &Opening) -> Result<Content> {
    let archive = Archive::open(source)?;
    let Some(member) = archive.member(WEIGHTS)? else {
        return Err(damaged(format!("it is a zip archive without the member '{WEIGHTS}' of a .keras file")));
    };
    let Some(origin) = hdf5::find(&member)? else {
        return Err(damaged(format!("its member '{WEIGHTS}' is not an HDF5 file")));
    };
    Ok(Content { archive: Some(archive), ..weights::read(&member, origin, opening)? })
}
