//! See [`ingress::fuzz::names`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress::fuzz::names(data));
