//! Calls `pushline_ingest::fuzzing::mqtt3`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pushline_ingest::fuzzing::mqtt3(input));
