//! See [`dns::fuzz::reply`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns::fuzz::reply(data));
