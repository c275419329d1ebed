//! `ckpt_reader`: an open checkpoint, the way back.

use std::ffi::{CString, c_char, c_void};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::OnceLock;

use crate::error::{Error, Result, Status};
use crate::memory;
use crate::reader::Reader;
use crate::tensor::TensorSpec;

use super::args::{self, free_handle, into_handle, invalid, some, string};
use super::model::ckpt_dtype;
use super::status::{answer, ckpt_status, guard};

/// An open checkpoint. Any thread may use it, several at a time.
pub struct ckpt_reader {
    pub(super) reader: Reader,
    /// What C has asked for, kept for as long as it may look at it.
    paths: Vec<OnceLock<CString>>,
    config: OnceLock<Option<CString>>,
    metadata: OnceLock<Option<CString>>,
    state: OnceLock<Option<CString>>,
    /// Keras' groups and their names, sorted.
    groups: OnceLock<Vec<(CString, CString)>>,
    assets: OnceLock<Vec<Asset>>,
}

struct Asset {
    name: CString,
    bytes: OnceLock<Vec<u8>>,
}

/// What a tensor in a checkpoint is. Its pointers are valid while the reader lives.
#[repr(C)]
pub struct ckpt_tensor_info {
    /// Where it stands: components joined by '/'.
    pub path: *const c_char,
    /// The type of an element.
    pub dtype: ckpt_dtype,
    /// Axes; 0 for a scalar.
    pub rank: usize,
    /// Sizes along the axes: rank of them.
    pub shape: *const i64,
    /// Bytes of all elements.
    pub nbytes: u64,
}

/// How a checkpoint is opened: flags, to be combined with |. Another bit is CKPT_E_INVALID_ARGUMENT.
#[repr(C)]
pub enum ckpt_open_flags {
    /// Whatever can be read is.
    CKPT_OPEN_DEFAULT = 0,
    /// The HDF5 library, whose own parser is not made for files from strangers, takes no part. It does not without this
    /// flag either: this version reads everything by itself.
    CKPT_OPEN_NO_HDF5_LIBRARY = 1,
}

/// Opens a checkpoint, written by this library, Keras, or whoever else writes one of its formats: .keras,
/// .weights.h5, a legacy .h5, the index .weights.json of several files, .safetensors, and the index
/// model.safetensors.index.json. What it is, its content says. *out is to be freed with ckpt_reader_free().
///
/// The files stay open, and what a save puts into their place later does not change this reader.
/// CKPT_E_NOT_FOUND where there is none; CKPT_E_FORMAT where it is damaged or something else.
///
/// @param path  UTF-8
/// @param out   not NULL; untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_open(
    path: *const c_char,
    out: Option<&mut MaybeUninit<*mut ckpt_reader>>,
) -> ckpt_status {
    // SAFETY: the header's contract.
    guard("ckpt_reader_open", || unsafe { open(path, 0, out) })
}

/// As ckpt_reader_open().
///
/// @param path   UTF-8
/// @param flags  ckpt_open_flags
/// @param out    not NULL; untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_open_flags(
    path: *const c_char,
    flags: u32,
    out: Option<&mut MaybeUninit<*mut ckpt_reader>>,
) -> ckpt_status {
    // SAFETY: the header's contract.
    guard("ckpt_reader_open_flags", || unsafe { open(path, flags, out) })
}

/// # Safety
/// `path` is NULL or a string that nobody changes during the call.
unsafe fn open(
    path: *const c_char,
    flags: u32,
    out: Option<&mut MaybeUninit<*mut ckpt_reader>>,
) -> Result<()> {
    const NO_LIBRARY: u32 = ckpt_open_flags::CKPT_OPEN_NO_HDF5_LIBRARY as u32;
    // SAFETY: this function's contract.
    let path = Path::new(unsafe { string(path, "path") }?);
    let out = some(out, "out")?;
    // There is no HDF5 library in this one.
    args::flags(flags, &[NO_LIBRARY], "flags")?;
    let reader = Reader::open(path)?;
    out.write(into_handle(ckpt_reader {
        paths: memory::collect(reader.tensors().iter().map(|_| OnceLock::new()))?,
        reader,
        config: OnceLock::new(),
        metadata: OnceLock::new(),
        state: OnceLock::new(),
        groups: OnceLock::new(),
        assets: OnceLock::new(),
    }));
    Ok(())
}

/// Closes a checkpoint; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_free(reader: *mut ckpt_reader) {
    // SAFETY: NULL or from ckpt_reader_open, freed once, by the header's contract.
    unsafe { free_handle(reader) }
}

/// How many tensors there are; 0 for NULL. What this library keeps in "/libckpt" is not among them.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_len(reader: Option<&ckpt_reader>) -> usize {
    answer(0, || reader.map_or(0, |r| r.reader.tensors().len()))
}

/// Finds a tensor by its path; its index is below ckpt_reader_len(). CKPT_E_NOT_FOUND where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_find(
    reader: Option<&ckpt_reader>,
    path: *const c_char,
    index: Option<&mut MaybeUninit<usize>>,
) -> ckpt_status {
    guard("ckpt_reader_find", || {
        let reader = &some(reader, "reader")?.reader;
        // SAFETY: NULL or a string, by the header's contract.
        let path = unsafe { string(path, "path") }?;
        let index = some(index, "index")?;
        let found = reader
            .find(path)
            .ok_or_else(|| Error::new(Status::NotFound, format!("the checkpoint has no tensor '{path}'")))?;
        index.write(found);
        Ok(())
    })
}

impl ckpt_reader {
    fn spec(&self, index: usize) -> Result<&TensorSpec> {
        let tensors = self.reader.tensors();
        tensors
            .get(index)
            .ok_or_else(|| invalid(format!("index is {index}, but there are {} tensors", tensors.len())))
    }
}

/// Tells what a tensor is.
///
/// @param index  below ckpt_reader_len()
/// @param out    not NULL; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_tensor(
    reader: Option<&ckpt_reader>,
    index: usize,
    out: Option<&mut MaybeUninit<ckpt_tensor_info>>,
) -> ckpt_status {
    guard("ckpt_reader_tensor", || {
        let reader = some(reader, "reader")?;
        let out = some(out, "out")?;
        let spec = reader.spec(index)?;
        let path = match reader.paths.get(index) {
            Some(slot) => slot.get_or_init(|| CString::new(spec.path.as_str()).unwrap_or_default()).as_ptr(),
            None => c"".as_ptr(),
        };
        out.write(ckpt_tensor_info {
            path,
            dtype: spec.dtype.into(),
            rank: spec.shape.len(),
            shape: spec.shape.as_ptr().cast(),
            nbytes: spec.nbytes(),
        });
        Ok(())
    })
}

/// Reads a tensor, row-major, and verifies its checksum where the file has one (CKPT_E_FORMAT).
///
/// @param index      below ckpt_reader_len()
/// @param dst        the caller's memory; NULL is fine for a tensor without elements. After a failure its content
///                   is not defined.
/// @param dst_bytes  the size of dst: exactly the tensor's nbytes, else CKPT_E_MISMATCH
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_read(
    reader: Option<&ckpt_reader>,
    index: usize,
    dst: *mut c_void,
    dst_bytes: usize,
) -> ckpt_status {
    guard("ckpt_reader_read", || {
        let reader = some(reader, "reader")?;
        let spec = reader.spec(index)?;
        if spec.nbytes() != dst_bytes as u64 {
            return Err(Error::new(
                Status::Mismatch,
                format!("tensor '{}' has {} bytes, but dst_bytes is {dst_bytes}", spec.path, spec.nbytes()),
            ));
        }
        // SAFETY: NULL or `dst_bytes` of the caller's memory that nobody else uses, by the header's contract.
        let dst = unsafe { args::slice_mut(dst.cast::<u8>(), dst_bytes, "dst") }?;
        reader.reader.read(index, dst)
    })
}

/// Reads all tensors and compares them with their checksums: CKPT_E_FORMAT names the first that differs. Tensors
/// without a checksum (Keras writes none) are skipped.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_verify(reader: Option<&ckpt_reader>) -> ckpt_status {
    guard("ckpt_reader_verify", || some(reader, "reader")?.reader.verify())
}

/// What is in a slot; made where there is nothing yet.
fn listed<T>(slot: &OnceLock<Vec<T>>, list: impl FnOnce() -> Result<Vec<T>>) -> Result<&[T]> {
    if let Some(list) = slot.get() {
        return Ok(list);
    }
    let list = list()?;
    Ok(slot.get_or_init(|| list))
}

impl ckpt_reader {
    /// A text of the file that is read when it is first asked for, and `NotFound` where there is none.
    fn text(
        &self,
        slot: &OnceLock<Option<CString>>,
        read: impl FnOnce(&Reader) -> Result<Option<String>>,
        what: &str,
    ) -> Result<*const c_char> {
        if slot.get().is_none() {
            let text = read(&self.reader)?;
            let text = text.as_deref().map(args::c_string).transpose()?;
            slot.get_or_init(|| text);
        }
        let text = slot.get().and_then(Option::as_ref).map(|text| text.as_ptr());
        text.ok_or_else(|| Error::new(Status::NotFound, format!("the checkpoint has no {what}")))
    }

    fn groups(&self) -> Result<&[(CString, CString)]> {
        let names = || {
            let names = self.reader.names();
            memory::try_collect(
                names.map(|(group, name)| Ok((args::c_string(group)?, args::c_string(name)?))),
            )
        };
        listed(&self.groups, names)
    }

    fn assets(&self) -> Result<&[Asset]> {
        let asset = |name| Ok(Asset { name: args::c_string(name)?, bytes: OnceLock::new() });
        listed(&self.assets, || memory::try_collect(self.reader.asset_names().map(asset)))
    }
}

/// The model's configuration, JSON: what ckpt_model_set_config() was given, and Keras' model.to_json() gives.
/// CKPT_E_NOT_FOUND where the file has none.
///
/// @param out  not NULL; *out is valid while the reader lives; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_config(
    reader: Option<&ckpt_reader>,
    out: Option<&mut MaybeUninit<*const c_char>>,
) -> ckpt_status {
    guard("ckpt_reader_config", || {
        let (reader, out) = (some(reader, "reader")?, some(out, "out")?);
        out.write(reader.text(&reader.config, Reader::config, "configuration of a model")?);
        Ok(())
    })
}

/// What the file says of itself, JSON: "keras_version" and "date_saved" of a .keras file, and what the other formats
/// have of it (ckpt_model_set_metadata()). CKPT_E_NOT_FOUND where it says nothing.
///
/// @param out  not NULL; *out is valid while the reader lives; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_metadata(
    reader: Option<&ckpt_reader>,
    out: Option<&mut MaybeUninit<*const c_char>>,
) -> ckpt_status {
    guard("ckpt_reader_metadata", || {
        let (reader, out) = (some(reader, "reader")?, some(out, "out")?);
        out.write(reader.text(&reader.metadata, Reader::metadata, "metadata")?);
        Ok(())
    })
}

/// The training state that this library has put into the file, JSON: the event of the save, its metrics, the best.
/// CKPT_E_NOT_FOUND where there is none (another program wrote the file), CKPT_E_FORMAT where it is damaged.
///
/// @param out  not NULL; *out is valid while the reader lives; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_state(
    reader: Option<&ckpt_reader>,
    out: Option<&mut MaybeUninit<*const c_char>>,
) -> ckpt_status {
    guard("ckpt_reader_state", || {
        let (reader, out) = (some(reader, "reader")?, some(out, "out")?);
        let text = |state: &[u8]| memory::text(std::str::from_utf8(state).unwrap_or_default());
        let state = |r: &Reader| r.state()?.map(text).transpose();
        out.write(reader.text(&reader.state, state, "training state")?);
        Ok(())
    })
}

/// Keras' name of a group: what ckpt_model_set_name() was given. CKPT_E_NOT_FOUND where it has none.
///
/// @param group  as in ckpt_model_set_name(): "layers/dense", "" for the root
/// @param out    not NULL; *out is valid while the reader lives; untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_name(
    reader: Option<&ckpt_reader>,
    group: *const c_char,
    out: Option<&mut MaybeUninit<*const c_char>>,
) -> ckpt_status {
    guard("ckpt_reader_name", || {
        let reader = some(reader, "reader")?;
        // SAFETY: NULL or a string, by the header's contract.
        let group = unsafe { string(group, "group") }?;
        let out = some(out, "out")?;
        let groups = reader.groups()?;
        let found = groups.binary_search_by(|(other, _)| other.as_bytes().cmp(group.as_bytes()));
        let (_, name) = found.ok().and_then(|i| groups.get(i)).ok_or_else(|| {
            Error::new(Status::NotFound, format!("the checkpoint has no name for the group '{group}'"))
        })?;
        out.write(name.as_ptr());
        Ok(())
    })
}

/// How many groups have a name; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_groups_len(reader: Option<&ckpt_reader>) -> usize {
    answer(0, || reader.map_or(0, |r| r.reader.names().count()))
}

/// Tells a group that has a name, and that name; both are valid while the reader lives.
///
/// @param index  below ckpt_reader_groups_len(); sorted by group
/// @param group  not NULL; untouched on failure
/// @param name   not NULL; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_group(
    reader: Option<&ckpt_reader>,
    index: usize,
    group: Option<&mut MaybeUninit<*const c_char>>,
    name: Option<&mut MaybeUninit<*const c_char>>,
) -> ckpt_status {
    guard("ckpt_reader_group", || {
        let groups = some(reader, "reader")?.groups()?;
        let (group, name) = (some(group, "group")?, some(name, "name")?);
        let (of, called) = groups
            .get(index)
            .ok_or_else(|| invalid(format!("index is {index}, but {} groups have a name", groups.len())))?;
        group.write(of.as_ptr());
        name.write(called.as_ptr());
        Ok(())
    })
}

/// How many assets a .keras file has; 0 for other files, and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_assets_len(reader: Option<&ckpt_reader>) -> usize {
    answer(0, || reader.map_or(0, |r| r.reader.asset_names().count()))
}

/// The name of an asset, as in ckpt_model_set_asset().
///
/// @param index  below ckpt_reader_assets_len()
/// @param out    not NULL; *out is valid while the reader lives; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_reader_asset_name(
    reader: Option<&ckpt_reader>,
    index: usize,
    out: Option<&mut MaybeUninit<*const c_char>>,
) -> ckpt_status {
    guard("ckpt_reader_asset_name", || {
        let (assets, out) = (some(reader, "reader")?.assets()?, some(out, "out")?);
        let asset = assets
            .get(index)
            .ok_or_else(|| invalid(format!("index is {index}, but there are {} assets", assets.len())))?;
        out.write(asset.name.as_ptr());
        Ok(())
    })
}

/// Reads an asset, and verifies its checksum (CKPT_E_FORMAT). CKPT_E_NOT_FOUND where there is none of that name.
///
/// @param name   as ckpt_reader_asset_name() gives it
/// @param bytes  not NULL; *bytes is valid while the reader lives, which keeps it in memory; untouched on failure
/// @param n      not NULL; how many bytes there are; untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_reader_asset(
    reader: Option<&ckpt_reader>,
    name: *const c_char,
    bytes: Option<&mut MaybeUninit<*const c_void>>,
    n: Option<&mut MaybeUninit<usize>>,
) -> ckpt_status {
    guard("ckpt_reader_asset", || {
        let reader = some(reader, "reader")?;
        // SAFETY: NULL or a string, by the header's contract.
        let name = unsafe { string(name, "name") }?;
        let (bytes, n) = (some(bytes, "bytes")?, some(n, "n")?);
        let none = || Error::new(Status::NotFound, format!("the checkpoint has no asset '{name}'"));
        let assets = reader.assets()?;
        // They are sorted, as the members of an archive are.
        let found = assets.binary_search_by(|asset| asset.name.as_bytes().cmp(name.as_bytes()));
        let asset = found.ok().and_then(|i| assets.get(i)).ok_or_else(none)?;
        if asset.bytes.get().is_none() {
            let read = reader.reader.asset(name)?.ok_or_else(none)?;
            asset.bytes.get_or_init(|| read);
        }
        let found = asset.bytes.get().map(Vec::as_slice).unwrap_or_default();
        bytes.write(found.as_ptr().cast());
        n.write(found.len());
        Ok(())
    })
}
