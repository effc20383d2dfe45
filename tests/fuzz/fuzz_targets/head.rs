//! The raw head of an HTTP/1.1 request.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis::gateway::fuzzing::head(data);
});
