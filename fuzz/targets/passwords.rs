//! See [`ingress::fuzz::passwords`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress::fuzz::passwords(data));
