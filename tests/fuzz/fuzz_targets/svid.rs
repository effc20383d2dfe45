//! The certificate of a caller.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    portcullis::gateway::fuzzing::svid(data);
});
