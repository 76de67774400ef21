//! See [`ingress::fuzz::response`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress::fuzz::response(data));
