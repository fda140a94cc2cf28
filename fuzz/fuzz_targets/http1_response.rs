//! Calls `pushline_deliver::fuzzing::http1_response`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pushline_deliver::fuzzing::http1_response(input));
