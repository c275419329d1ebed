//! Datatypes as h5py and Keras write them.

use super::super::bytes::Put;
use crate::tensor::Dtype;

// The class in the low half of the first byte, the version in the high half.
const FIXED_POINT: u8 = 0x10;
const FLOAT: u8 = 0x11;
const STRING: u8 = 0x13;
const OPAQUE: u8 = 0x15;
const ENUM: u8 = 0x18;
const VARIABLE_LENGTH: u8 = 0x19;

/// Bytes of [`put_string`].
pub(super) const STRING_LEN: u16 = 20;

/// Bytes of [`put_fixed_string`].
pub(super) const FIXED_STRING_LEN: u16 = 8;

/// Bytes of a variable-length string where it is used: its length, and where its bytes are in the global heap.
pub(super) const STRING_REF_LEN: u32 = 16;

/// The datatype of a tensor's elements.
///
/// bfloat16 is opaque bytes: HDF5 1.14 has no such type, and Keras tells it by an attribute. Booleans are the
/// enumeration that h5py knows as `bool`.
pub(super) fn put(out: &mut Vec<u8>, dtype: Dtype) {
    match dtype {
        Dtype::F16 => float(out, 2, 10, 5, 15),
        Dtype::F32 => float(out, 4, 23, 8, 127),
        Dtype::F64 => float(out, 8, 52, 11, 1023),
        Dtype::Bf16 => head(out, OPAQUE, [0, 0, 0], 2),
        Dtype::U8 => integer(out, 1, false),
        Dtype::U16 => integer(out, 2, false),
        Dtype::U32 => integer(out, 4, false),
        Dtype::U64 => integer(out, 8, false),
        Dtype::I8 => integer(out, 1, true),
        Dtype::I16 => integer(out, 2, true),
        Dtype::I32 => integer(out, 4, true),
        Dtype::I64 => integer(out, 8, true),
        Dtype::Bool => {
            head(out, ENUM, [2, 0, 0], 1);
            integer(out, 1, true);
            out.put(b"FALSE\0\0\0TRUE\0\0\0\0");
            out.put(&[0, 1]);
        }
    }
}

/// A variable-length UTF-8 string.
pub(super) fn put_string(out: &mut Vec<u8>) {
    head(out, VARIABLE_LENGTH, [1, 1, 0], STRING_REF_LEN);
    integer(out, 1, false);
}

/// A string of `len` bytes, zeros at its end: what NumPy's bytes become.
pub(super) fn put_fixed_string(out: &mut Vec<u8>, len: u32) {
    const NULL_PADDED: u8 = 1;
    head(out, STRING, [NULL_PADDED, 0, 0], len);
}

fn head(out: &mut Vec<u8>, class: u8, bits: [u8; 3], size: u32) {
    out.put_u8(class);
    out.put(&bits);
    out.put_u32(size);
}

fn integer(out: &mut Vec<u8>, size: u8, signed: bool) {
    head(out, FIXED_POINT, [u8::from(signed) << 3, 0, 0], size.into());
    out.put_u16(0); // first bit
    out.put_u16(u16::from(size) * 8); // bits
}

fn float(out: &mut Vec<u8>, size: u8, mantissa: u8, exponent: u8, bias: u32) {
    // Little-endian, an implied leading one, and where the sign is.
    head(out, FLOAT, [0x20, size * 8 - 1, 0], size.into());
    out.put_u16(0); // first bit
    out.put_u16(u16::from(size) * 8); // bits
    out.put(&[mantissa, exponent, 0, mantissa]); // where the exponent is, and the mantissa
    out.put_u32(bias);
}
