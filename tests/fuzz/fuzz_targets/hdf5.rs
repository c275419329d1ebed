//! An HDF5 file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::in_file(bytes, |path| targets::checkpoint(path, &mut ())));
