//! See [`dns::fuzz::query`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns::fuzz::query(data));
