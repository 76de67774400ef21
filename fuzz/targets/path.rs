//! See [`ingress::fuzz::path`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress::fuzz::path(data));
