//! An index of files that are not there: `.weights.json`, `model.safetensors.index.json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::in_file(bytes, |path| targets::checkpoint(path, &mut ())));
