//! Wiring: which parts run in a process, and how it ends.
//!
//! The one place that knows gateway and control plane both. It reads settings, starts parts, waits for signals and
//! ends them in order; what the parts do is theirs.

mod sample;

/// Installs the cryptography of this process: aws-lc-rs, for every library that asks for the default.
pub fn crypto() {
    // Somebody of the same process (a test) may have been first, with the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
