//! The request target and its one spelling.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis::gateway::fuzzing::target(data);
});
