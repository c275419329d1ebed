//! The HDF5 library as the judge: just enough of it, with owned ids and failures that panic.
//!
//! The library is not thread-safe: a test binary that uses this holds [`lock`] throughout each test.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, MutexGuard};

use ckpt::tensor::Dtype;
use hdf5_metno_sys::{h5, h5a, h5d, h5e, h5f, h5g, h5i, h5l, h5o, h5p, h5s, h5t};

/// Held while the library is used.
pub fn lock() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|e| e.into_inner())
}

/// An id of the library's, released with the value.
pub struct Id(h5i::hid_t);

impl Id {
    fn new(id: h5i::hid_t, what: &str) -> Id {
        assert!(id >= 0, "HDF5: {what}");
        Id(id)
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: the id is valid and owned.
        unsafe { h5i::H5Idec_ref(self.0) };
    }
}

fn c(s: &str) -> CString {
    CString::new(s).unwrap()
}

/// Opens a file.
pub fn open(path: &Path, write: bool) -> Id {
    let flags = if write { h5f::H5F_ACC_RDWR } else { h5f::H5F_ACC_RDONLY };
    let name = c(path.to_str().unwrap());
    // SAFETY: plain calls with valid arguments.
    let id = unsafe {
        h5::H5open();
        if std::env::var_os("CKPT_TEST_HDF5_ERRORS").is_none() {
            h5e::H5Eset_auto2(h5e::H5E_DEFAULT, None, ptr::null_mut());
        }
        h5f::H5Fopen(name.as_ptr(), flags, h5p::H5P_DEFAULT)
    };
    Id::new(id, &format!("open {path:?}"))
}

/// The group at a path.
pub fn group(at: &Id, path: &str) -> Id {
    // SAFETY: valid id and string.
    Id::new(unsafe { h5g::H5Gopen2(at.0, c(path).as_ptr(), h5p::H5P_DEFAULT) }, path)
}

/// Makes a group in a group.
pub fn create_group(at: &Id, name: &str) -> Id {
    let name = c(name);
    let default = h5p::H5P_DEFAULT;
    // SAFETY: valid id and string.
    Id::new(unsafe { h5g::H5Gcreate2(at.0, name.as_ptr(), default, default, default) }, "create group")
}

/// Deletes a link.
pub fn delete(at: &Id, name: &str) {
    // SAFETY: valid id and string.
    assert!(unsafe { h5l::H5Ldelete(at.0, c(name).as_ptr(), h5p::H5P_DEFAULT) } >= 0, "delete {name}");
}

/// The names in a group, by name.
pub fn names(group: &Id) -> Vec<String> {
    extern "C" fn push(
        _: h5i::hid_t,
        name: *const c_char,
        _: *const h5l::H5L_info2_t,
        out: *mut c_void,
    ) -> c_int {
        // SAFETY: the library passes a C string, and what `H5Literate2` was given.
        let (name, out) = unsafe { (CStr::from_ptr(name), &mut *out.cast::<Vec<String>>()) };
        out.push(name.to_str().unwrap().to_owned());
        0
    }
    let mut out: Vec<String> = Vec::new();
    // SAFETY: `out` outlives the call, and only `push` touches it meanwhile.
    let status = unsafe {
        h5l::H5Literate2(
            group.0,
            hdf5_metno_sys::h5::H5_index_t::H5_INDEX_NAME,
            hdf5_metno_sys::h5::H5_iter_order_t::H5_ITER_INC,
            ptr::null_mut(),
            Some(push),
            (&raw mut out).cast(),
        )
    };
    assert!(status >= 0, "iterate");
    out
}

/// The datatype that h5py uses for a dtype, made through the library.
pub fn datatype(dtype: Dtype) -> Id {
    // SAFETY: plain calls with valid ids; the enumeration's values outlive their calls.
    unsafe {
        let id = match dtype {
            Dtype::F32 => h5t::H5Tcopy(*h5t::H5T_IEEE_F32LE),
            Dtype::F64 => h5t::H5Tcopy(*h5t::H5T_IEEE_F64LE),
            Dtype::F16 => {
                let id = h5t::H5Tcopy(*h5t::H5T_IEEE_F32LE);
                h5t::H5Tset_fields(id, 15, 10, 5, 0, 10);
                h5t::H5Tset_size(id, 2);
                h5t::H5Tset_ebias(id, 15);
                id
            }
            Dtype::Bf16 => {
                let id = h5t::H5Tcreate(h5t::H5T_class_t::H5T_OPAQUE, 2);
                h5t::H5Tset_tag(id, c"".as_ptr());
                id
            }
            Dtype::I8 => h5t::H5Tcopy(*h5t::H5T_STD_I8LE),
            Dtype::U8 => h5t::H5Tcopy(*h5t::H5T_STD_U8LE),
            Dtype::I16 => h5t::H5Tcopy(*h5t::H5T_STD_I16LE),
            Dtype::U16 => h5t::H5Tcopy(*h5t::H5T_STD_U16LE),
            Dtype::I32 => h5t::H5Tcopy(*h5t::H5T_STD_I32LE),
            Dtype::U32 => h5t::H5Tcopy(*h5t::H5T_STD_U32LE),
            Dtype::I64 => h5t::H5Tcopy(*h5t::H5T_STD_I64LE),
            Dtype::U64 => h5t::H5Tcopy(*h5t::H5T_STD_U64LE),
            Dtype::Bool => {
                let id = h5t::H5Tenum_create(*h5t::H5T_STD_I8LE);
                for (name, value) in [(c"FALSE", 0i8), (c"TRUE", 1)] {
                    h5t::H5Tenum_insert(id, name.as_ptr(), (&raw const value).cast());
                }
                id
            }
        };
        Id::new(id, "datatype")
    }
}

/// A dataset as the library sees it.
pub struct Dataset {
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
    /// The attribute `dtype`.
    pub dtype_attribute: Option<String>,
}

/// Reads a dataset, which must have the datatype of `dtype`.
pub fn read(at: &Id, name: &str, dtype: Dtype) -> Dataset {
    let name_c = c(name);
    // SAFETY: valid ids; the buffers have the sizes that the library states.
    unsafe {
        let id = Id::new(h5d::H5Dopen2(at.0, name_c.as_ptr(), h5p::H5P_DEFAULT), name);
        let found = Id::new(h5d::H5Dget_type(id.0), "type");
        assert!(h5t::H5Tequal(found.0, datatype(dtype).0) > 0, "{name} is not {}", dtype.name());
        let space = Id::new(h5d::H5Dget_space(id.0), "space");
        let mut shape = vec![0; h5s::H5Sget_simple_extent_ndims(space.0) as usize];
        let mut max = shape.clone();
        h5s::H5Sget_simple_extent_dims(space.0, shape.as_mut_ptr(), max.as_mut_ptr());
        assert_eq!(shape, max);
        let points = h5s::H5Sget_simple_extent_npoints(space.0) as usize;
        let mut bytes = vec![0xa5; points * dtype.size()];
        assert_eq!(h5d::H5Dget_storage_size(id.0), bytes.len() as u64, "{name}");
        let all = h5s::H5S_ALL;
        let status = h5d::H5Dread(id.0, found.0, all, all, h5p::H5P_DEFAULT, bytes.as_mut_ptr().cast());
        assert!(status >= 0, "read {name}");
        Dataset { shape, bytes, dtype_attribute: string_attribute(&id, "dtype") }
    }
}

/// Creates and writes a dataset.
pub fn create(at: &Id, name: &str, dtype: Dtype, shape: &[u64], bytes: &[u8]) {
    let (name, kind, default) = (c(name), datatype(dtype), h5p::H5P_DEFAULT);
    // SAFETY: valid ids; `bytes` holds all elements.
    unsafe {
        let space = Id::new(h5s::H5Screate_simple(shape.len() as i32, shape.as_ptr(), ptr::null()), "space");
        let id = h5d::H5Dcreate2(at.0, name.as_ptr(), kind.0, space.0, default, default, default);
        let id = Id::new(id, "create");
        let all = h5s::H5S_ALL;
        assert!(h5d::H5Dwrite(id.0, kind.0, all, all, default, bytes.as_ptr().cast()) >= 0);
    }
}

fn string_type() -> Id {
    // SAFETY: plain calls with valid ids.
    unsafe {
        let id = Id::new(h5t::H5Tcopy(*h5t::H5T_C_S1), "string");
        h5t::H5Tset_size(id.0, h5t::H5T_VARIABLE);
        h5t::H5Tset_cset(id.0, h5t::H5T_cset_t::H5T_CSET_UTF8);
        id
    }
}

/// The attribute of an object, a variable-length UTF-8 string.
pub fn string_attribute(object: &Id, name: &str) -> Option<String> {
    let name = c(name);
    // SAFETY: valid ids; the string is the library's, and freed by it.
    unsafe {
        if h5a::H5Aexists(object.0, name.as_ptr()) <= 0 {
            return None;
        }
        let id = Id::new(h5a::H5Aopen(object.0, name.as_ptr(), h5p::H5P_DEFAULT), "attribute");
        let found = Id::new(h5a::H5Aget_type(id.0), "type");
        assert!(h5t::H5Tequal(found.0, string_type().0) > 0);
        let space = Id::new(h5a::H5Aget_space(id.0), "space");
        assert_eq!(h5s::H5Sget_simple_extent_type(space.0), h5s::H5S_class_t::H5S_SCALAR);
        let mut text: *mut c_char = ptr::null_mut();
        assert!(h5a::H5Aread(id.0, found.0, (&raw mut text).cast()) >= 0);
        let out = CStr::from_ptr(text).to_str().unwrap().to_owned();
        h5::H5free_memory(text.cast());
        Some(out)
    }
}

/// Sets a string attribute: makes it, or overwrites it in place.
pub fn set_string_attribute(object: &Id, name: &str, value: &str) {
    let (name, value, kind, default) = (c(name), c(value), string_type(), h5p::H5P_DEFAULT);
    // SAFETY: valid ids and strings.
    unsafe {
        let id = if h5a::H5Aexists(object.0, name.as_ptr()) > 0 {
            h5a::H5Aopen(object.0, name.as_ptr(), default)
        } else {
            let space = Id::new(h5s::H5Screate(h5s::H5S_class_t::H5S_SCALAR), "space");
            h5a::H5Acreate2(object.0, name.as_ptr(), kind.0, space.0, default, default)
        };
        let id = Id::new(id, "attribute");
        let text = value.as_ptr();
        assert!(h5a::H5Awrite(id.0, kind.0, (&raw const text).cast()) >= 0);
    }
}

/// Whether the object at a path is a group.
pub fn is_group(at: &Id, name: &str) -> bool {
    let name = c(name);
    // SAFETY: valid id and string.
    unsafe {
        let id = Id::new(h5o::H5Oopen(at.0, name.as_ptr(), h5p::H5P_DEFAULT), "open");
        h5i::H5Iget_type(id.0) == h5i::H5I_type_t::H5I_GROUP
    }
}
