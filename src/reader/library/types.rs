//! Which of the library's datatypes are exactly one of ours.

use std::ffi::{CStr, c_char, c_void};

use hdf5_metno_sys::h5::H5free_memory;
use hdf5_metno_sys::h5a::{H5Aexists, H5Aget_space, H5Aget_type, H5Aopen, H5Aread};
use hdf5_metno_sys::h5p::H5P_DEFAULT;
use hdf5_metno_sys::h5s::H5Sget_simple_extent_npoints;
use hdf5_metno_sys::h5t::{
    H5T_ENUM, H5T_FLOAT, H5T_INTEGER, H5T_NORM_IMPLIED, H5T_OPAQUE, H5T_ORDER_BE, H5T_ORDER_LE, H5T_SGN_2,
    H5T_STRING, H5Tcopy, H5Tget_class, H5Tget_ebias, H5Tget_fields, H5Tget_member_name, H5Tget_member_value,
    H5Tget_nmembers, H5Tget_norm, H5Tget_offset, H5Tget_order, H5Tget_precision, H5Tget_sign, H5Tget_size,
    H5Tis_variable_str, H5Tset_order,
};

use super::{Id, failure};
use crate::error::Result;
use crate::tensor::Dtype;

/// The dtype of `dataset`'s elements, whose type is `datatype`. The library's lock must be held.
pub(super) fn dtype(datatype: &Id, dataset: &Id) -> Result<Option<Dtype>> {
    let id = datatype.0;
    // SAFETY: the type is open and the lock held.
    let (class, size) = unsafe { (H5Tget_class(id), H5Tget_size(id)) };
    Ok(match class {
        H5T_INTEGER if is_plain(datatype) => integer(datatype, size),
        H5T_FLOAT if is_plain(datatype) => float(datatype),
        H5T_ENUM if size == 1 && is_boolean(datatype) => Some(Dtype::Bool),
        H5T_OPAQUE if size == 2 && text(dataset, c"dtype")?.as_deref() == Some("bfloat16") => {
            Some(Dtype::Bf16)
        }
        _ => None,
    })
}

/// The type as it is read into memory: the same, but little-endian. The library's lock must be held.
pub(super) fn little_endian(datatype: &Id) -> Result<Id> {
    // SAFETY: the types are open and the lock held.
    unsafe {
        let copy = Id::new(H5Tcopy(datatype.0), "copy a type")?;
        let ordered = matches!(H5Tget_class(copy.0), H5T_INTEGER | H5T_FLOAT);
        if ordered && H5Tset_order(copy.0, H5T_ORDER_LE) < 0 {
            return Err(failure("convert a type"));
        }
        Ok(copy)
    }
}

/// A number whose bits fill its bytes, in one of the two usual orders.
fn is_plain(datatype: &Id) -> bool {
    let id = datatype.0;
    // SAFETY: the type is open, a number, and the caller holds the lock.
    unsafe {
        matches!(H5Tget_order(id), H5T_ORDER_LE | H5T_ORDER_BE)
            && H5Tget_offset(id) == 0
            && H5Tget_size(id).checked_mul(8) == Some(H5Tget_precision(id))
    }
}

fn integer(datatype: &Id, size: usize) -> Option<Dtype> {
    // SAFETY: the type is open, an integer, and the caller holds the lock.
    let signed = unsafe { H5Tget_sign(datatype.0) } == H5T_SGN_2;
    Dtype::integer(size, signed)
}

fn float(datatype: &Id) -> Option<Dtype> {
    let id = datatype.0;
    let (mut sign, mut exponent, mut exponent_bits, mut mantissa, mut mantissa_bits) = (0, 0, 0, 0, 0);
    // SAFETY: the type is open, a float, and the caller holds the lock.
    let (status, bias, norm) = unsafe {
        let status = H5Tget_fields(
            id,
            &mut sign,
            &mut exponent,
            &mut exponent_bits,
            &mut mantissa,
            &mut mantissa_bits,
        );
        (status, H5Tget_ebias(id), H5Tget_norm(id))
    };
    if status < 0 || norm != H5T_NORM_IMPLIED {
        return None;
    }
    match (sign, exponent, exponent_bits, mantissa, mantissa_bits, bias) {
        (15, 10, 5, 0, 10, 15) => Some(Dtype::F16),
        (15, 7, 8, 0, 7, 127) => Some(Dtype::Bf16),
        (31, 23, 8, 0, 23, 127) => Some(Dtype::F32),
        (63, 52, 11, 0, 52, 1023) => Some(Dtype::F64),
        _ => None,
    }
}

/// h5py's boolean: FALSE = 0, TRUE = 1. The type must be an enumeration of one byte.
fn is_boolean(datatype: &Id) -> bool {
    let member = |i| {
        // SAFETY: the type is open and an enumeration of one byte, the lock is held; the library's text is
        // copied before it is given back.
        unsafe {
            let name = H5Tget_member_name(datatype.0, i);
            if name.is_null() {
                return None;
            }
            let text = CStr::from_ptr(name).to_owned();
            H5free_memory(name.cast());
            let mut value = 0_u8;
            (H5Tget_member_value(datatype.0, i, (&raw mut value).cast()) >= 0).then_some((text, value))
        }
    };
    // SAFETY: the type is open and an enumeration; the lock is held.
    if unsafe { H5Tget_nmembers(datatype.0) } != 2 {
        return false;
    }
    let (Some(a), Some(b)) = (member(0), member(1)) else { return false };
    let named = |m: &(std::ffi::CString, u8), name: &CStr, value| m.0.as_c_str() == name && m.1 == value;
    (named(&a, c"FALSE", 0) && named(&b, c"TRUE", 1)) || (named(&a, c"TRUE", 1) && named(&b, c"FALSE", 0))
}

/// The attribute `name`, if it is a single, short string.
fn text(object: &Id, name: &CStr) -> Result<Option<String>> {
    const LONGEST: usize = 64;
    // SAFETY: the object is open and the lock held; every identifier is checked before it is used; the buffer
    // has the size of the type, and a variable-length text is copied before it is given back.
    unsafe {
        if H5Aexists(object.0, name.as_ptr()) <= 0 {
            return Ok(None);
        }
        let attribute = Id::new(H5Aopen(object.0, name.as_ptr(), H5P_DEFAULT), "open an attribute")?;
        let space = Id::new(H5Aget_space(attribute.0), "read an attribute")?;
        let datatype = Id::new(H5Aget_type(attribute.0), "read an attribute")?;
        let size = H5Tget_size(datatype.0);
        if H5Sget_simple_extent_npoints(space.0) != 1 || H5Tget_class(datatype.0) != H5T_STRING {
            return Ok(None);
        }
        if H5Tis_variable_str(datatype.0) > 0 {
            let mut pointer: *mut c_char = std::ptr::null_mut();
            if H5Aread(attribute.0, datatype.0, (&raw mut pointer).cast::<c_void>()) < 0 {
                return Err(failure("read an attribute"));
            }
            if pointer.is_null() {
                return Ok(None);
            }
            let text = CStr::from_ptr(pointer).to_string_lossy().into_owned();
            H5free_memory(pointer.cast());
            return Ok(Some(text));
        }
        if size > LONGEST {
            return Ok(None);
        }
        let mut bytes = [0_u8; LONGEST];
        if H5Aread(attribute.0, datatype.0, bytes.as_mut_ptr().cast()) < 0 {
            return Err(failure("read an attribute"));
        }
        let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }
}
