//! What of a caller's headers passes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis::gateway::fuzzing::headers(data);
});
