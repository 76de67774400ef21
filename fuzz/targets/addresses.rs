//! See [`ingress::fuzz::addresses`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress::fuzz::addresses(data));
