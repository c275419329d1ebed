//! An HDF5 file, with the HDF5 library for what our parser leaves to it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::in_file(bytes, |path| targets::checkpoint(path, true, &mut ())));
