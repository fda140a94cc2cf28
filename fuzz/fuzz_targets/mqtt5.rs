//! Calls `pushline_ingest::fuzzing::mqtt5`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pushline_ingest::fuzzing::mqtt5(input));
