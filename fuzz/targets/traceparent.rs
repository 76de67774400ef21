//! See [`ingress::fuzz::traceparent`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingress::fuzz::traceparent(data));
