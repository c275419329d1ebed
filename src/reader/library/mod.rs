//! The HDF5 library, for what our own parser refuses: chunks that went through the filters scaleoffset and nbit.
//! Nothing else goes to it. Before it does, our parser has read the whole tree and the dataset's header, knows its
//! type and shape, and has ruled out virtual and external storage.
//!
//! The library is not thread-safe: every call is made under one lock. Its environment variables are kept from it
//! where they could break it or load code into the process.

mod driver;
mod types;

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use hdf5_metno_sys::h5::H5dont_atexit;
use hdf5_metno_sys::h5d::{H5D_VIRTUAL, H5Dget_create_plist, H5Dget_space, H5Dget_type, H5Dread};
use hdf5_metno_sys::h5e::{H5E_DEFAULT, H5E_WALK_UPWARD, H5E_error2_t, H5Eset_auto2, H5Ewalk2};
use hdf5_metno_sys::h5f::{H5F_ACC_RDONLY, H5F_CLOSE_STRONG, H5Fopen};
use hdf5_metno_sys::h5i::{H5I_DATASET, H5Idec_ref, H5Iget_type, hid_t};
use hdf5_metno_sys::h5o::{H5O_token_t, H5Oopen_by_token};
use hdf5_metno_sys::h5p::{
    H5P_CLS_FILE_ACCESS, H5P_DEFAULT, H5Pcreate, H5Pget_external_count, H5Pget_filter2, H5Pget_layout,
    H5Pget_nfilters, H5Pset_fclose_degree, H5Pset_vol,
};
use hdf5_metno_sys::h5s::{
    H5S_ALL, H5S_NULL, H5Sget_simple_extent_dims, H5Sget_simple_extent_ndims, H5Sget_simple_extent_type,
};
use hdf5_metno_sys::h5z::H5Zfilter_avail;
use parking_lot::{Mutex, ReentrantMutexGuard};

use crate::error::{Error, Result, Status};
use crate::reader::source::{Source, damaged};
use crate::tensor::{Dtype, MAX_RANK, TensorSpec};

unsafe extern "C" {
    fn H5_init_library() -> c_int;
    fn H5VL_init_phase2() -> c_int;
    fn H5PL__set_plugin_control_mask(mask: c_uint) -> c_int;
    fn H5VL_native_register() -> hid_t;
    fn H5VLnative_addr_to_token(location: hid_t, address: u64, token: *mut H5O_token_t) -> c_int;
}

/// The process's HDF5 library, locked. Everything below needs one as proof.
struct Locked {
    driver: hid_t,
    _guard: ReentrantMutexGuard<'static, ()>,
}

fn lock() -> Result<Locked> {
    static DRIVER: Mutex<Option<hid_t>> = Mutex::new(None);
    let guard = hdf5_metno_sys::LOCK.lock();
    let driver = *DRIVER.lock().get_or_insert_with(|| {
        // SAFETY: the library's lock is held, and this runs once.
        unsafe { start() }
    });
    if driver < 0 {
        return Err(Error::new(
            Status::Unsupported,
            "the HDF5 library, which this file needs, did not start",
        ));
    }
    Ok(Locked { driver, _guard: guard })
}

/// Initialises the library and registers our driver; returns its id, negative on failure.
///
/// No plugin is loaded, whatever `HDF5_PLUGIN_PATH`, `HDF5_VOL_CONNECTOR` and `HDF5_DRIVER` say: they are
/// forbidden before the initialisation reads these variables, and the files are opened with a driver and a
/// connector named by us. One that names a plugin makes the initialisation end early, at a step that no file
/// of ours needs; what stands after the driver's step is then done here.
///
/// # Safety
/// The library's lock must be held.
unsafe fn start() -> hid_t {
    // SAFETY: each may be called before the initialisation, or is it. `H5_init_library` is called by its own
    // name since a failure in a public function would be printed.
    unsafe {
        H5dont_atexit();
        H5PL__set_plugin_control_mask(0);
        if H5_init_library() < 0 {
            H5VL_init_phase2();
        }
        H5Eset_auto2(H5E_DEFAULT, None, ptr::null_mut());
        driver::register()
    }
}

/// An identifier of the library's, released at the end of its life.
struct Id(hid_t);

impl Id {
    /// Takes over an identifier that a call has returned; `what` says what it was to do.
    fn new(id: hid_t, what: &str) -> Result<Id> {
        if id < 0 { Err(failure(what)) } else { Ok(Id(id)) }
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        let _guard = hdf5_metno_sys::LOCK.lock();
        // SAFETY: the identifier is valid and ours, the lock is held.
        unsafe { H5Idec_ref(self.0) };
    }
}

/// The library's own words on what has just failed.
fn failure(what: &str) -> Error {
    unsafe extern "C" fn first(_: c_uint, entry: *const H5E_error2_t, out: *mut c_void) -> c_int {
        // SAFETY: `out` is the string below; the library's entry and its text are valid during the call.
        unsafe {
            let out = &mut *out.cast::<String>();
            if out.is_empty() && !entry.is_null() && !(*entry).desc.is_null() {
                *out = CStr::from_ptr((*entry).desc).to_string_lossy().into_owned();
            }
        }
        0
    }
    let mut cause = String::new();
    // SAFETY: the callback gets the string, which outlives the call; the caller holds the lock.
    unsafe { H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, Some(first), (&raw mut cause).cast()) };
    damaged(format!("the HDF5 library cannot {what}: {cause}"))
}

/// One file, opened by the library when it is first needed.
pub(super) struct Library {
    allowed: bool,
    source: Option<Arc<Source>>,
    file: Mutex<Option<Id>>,
}

impl Drop for Library {
    fn drop(&mut self) {
        // Before the source goes, which it reads from.
        *self.file.lock() = None;
    }
}

impl Library {
    /// For a file that is attached later. Unless it is `allowed`, everything that it is asked for is refused.
    pub fn new(allowed: bool) -> Library {
        Library { allowed, source: None, file: Mutex::new(None) }
    }

    /// Names the stretch that addresses refer to.
    pub fn attach(&mut self, source: &Source) {
        self.source = Some(Arc::new(source.clone()));
    }

    fn open(&self, locked: &Locked, header: u64) -> Result<Id> {
        let mut file = self.file.lock();
        let file = match &*file {
            Some(id) => id.0,
            None => file.insert(self.open_file(locked)?).0,
        };
        let mut token = MaybeUninit::uninit();
        // SAFETY: a valid file; the token is used only if the library has made one; the lock is held.
        let object = unsafe {
            match H5VLnative_addr_to_token(file, header, token.as_mut_ptr()) {
                0.. => H5Oopen_by_token(file, token.assume_init()),
                _ => -1,
            }
        };
        Id::new(object, "open an object")
    }

    fn open_file(&self, locked: &Locked) -> Result<Id> {
        let Some(source) = &self.source else {
            return Err(Error::new(
                Status::Internal,
                "the HDF5 library was asked for a file before it had one",
            ));
        };
        // SAFETY: the lock is held, every identifier is checked before it is used, and `self` closes the file
        // before it lets go of the source.
        unsafe {
            let access = Id::new(H5Pcreate(*H5P_CLS_FILE_ACCESS), "start")?;
            let set = [
                H5Pset_vol(access.0, H5VL_native_register(), ptr::null()),
                driver::set(access.0, locked.driver, Arc::as_ptr(source)),
                H5Pset_fclose_degree(access.0, H5F_CLOSE_STRONG),
            ];
            if set.iter().any(|&status| status < 0) {
                return Err(failure("start"));
            }
            Id::new(H5Fopen(c"checkpoint".as_ptr(), H5F_ACC_RDONLY, access.0), "open it")
        }
    }

    /// Fills `dst` with the elements of the dataset at `header`, row-major and little-endian. `refusal` is why our
    /// own parser did not, and stays the answer where the library does not either.
    pub fn read(&self, header: u64, spec: &TensorSpec, dst: &mut [u8], refusal: Error) -> Result<()> {
        if !self.allowed {
            return Err(refusal);
        }
        let locked = lock()?;
        let dataset = self.open(&locked, header)?;
        if describe(&dataset)? != Some((spec.dtype, spec.shape.clone())) || spec.nbytes() != dst.len() as u64
        {
            return Err(damaged("it is not what it was when the file was opened"));
        }
        if !has_filters(&dataset)? {
            return Err(refusal);
        }
        // SAFETY: the dataset is open and of this type and shape, so that exactly `dst.len()` bytes are written;
        // the lock is held.
        unsafe {
            let file_type = Id::new(H5Dget_type(dataset.0), "read a type")?;
            let memory_type = types::little_endian(&file_type)?;
            let out = dst.as_mut_ptr().cast();
            if H5Dread(dataset.0, memory_type.0, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) < 0 {
                return Err(failure("read it"));
            }
        }
        Ok(())
    }
}

/// Type and shape, if the object is a dataset that can be a tensor. The lock must be held.
fn describe(object: &Id) -> Result<Option<(Dtype, Vec<u64>)>> {
    // SAFETY: the object is open, every other identifier is checked before it is used, the lock is held;
    // `dims` has room for as many dimensions as a dataspace can have.
    unsafe {
        if H5Iget_type(object.0) != H5I_DATASET {
            return Ok(None);
        }
        let creation = Id::new(H5Dget_create_plist(object.0), "read a dataset's properties")?;
        if H5Pget_layout(creation.0) == H5D_VIRTUAL || H5Pget_external_count(creation.0) != 0 {
            return Err(damaged("its bytes are in other files, which are not read"));
        }
        let space = Id::new(H5Dget_space(object.0), "read a shape")?;
        let rank = usize::try_from(H5Sget_simple_extent_ndims(space.0)).unwrap_or(usize::MAX);
        if H5Sget_simple_extent_type(space.0) == H5S_NULL || rank > MAX_RANK {
            return Ok(None);
        }
        let mut dims = [0_u64; MAX_RANK];
        if H5Sget_simple_extent_dims(space.0, dims.as_mut_ptr(), ptr::null_mut()) < 0 {
            return Err(failure("read a shape"));
        }
        let datatype = Id::new(H5Dget_type(object.0), "read a type")?;
        let Some(dtype) = types::dtype(&datatype, object)? else { return Ok(None) };
        Ok(Some((dtype, dims.iter().take(rank).copied().collect())))
    }
}

/// Does this build of the library have all filters of the dataset? The lock must be held.
fn has_filters(dataset: &Id) -> Result<bool> {
    // SAFETY: the dataset is open, the list is checked before it is used, the lock is held; no pointer is
    // written to where the matching length is zero.
    unsafe {
        let creation = Id::new(H5Dget_create_plist(dataset.0), "read a dataset's properties")?;
        let (mut flags, mut values, mut config) = (0, 0, 0);
        Ok((0..H5Pget_nfilters(creation.0).max(0) as c_uint).all(|i| {
            let (name, data) = (ptr::null_mut(), ptr::null_mut());
            let filter = H5Pget_filter2(creation.0, i, &mut flags, &mut values, data, 0, name, &mut config);
            filter >= 0 && H5Zfilter_avail(filter) > 0
        }))
    }
}
