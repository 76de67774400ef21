//! See [`ingress::fuzz::host`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress::fuzz::host(data));
