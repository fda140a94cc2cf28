//! Calls `pushline_deliver::fuzzing::headers`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pushline_deliver::fuzzing::headers(input));
