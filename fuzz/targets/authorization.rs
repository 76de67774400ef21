//! See [`ingress::fuzz::authorization`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress::fuzz::authorization(data));
