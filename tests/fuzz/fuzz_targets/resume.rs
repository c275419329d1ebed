//! A checkpoint, or a training state, to resume from.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::resume(bytes));
