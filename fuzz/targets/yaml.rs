//! See [`model::fuzz::yaml`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| model::fuzz::yaml(data));
