//! See [`ingress::fuzz::template`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress::fuzz::template(data));
