//! Statements: bytes that the holder of a key stands for, kept as they were signed.
//!
//! What is signed is never encoded again to be checked: the reader verifies the bytes, and then reads them. The kind
//! stands before them, so that nothing that was said as one kind can be shown as another, or as a checkpoint, which
//! never begins with a zero byte.

use super::checkpoint::{EvidenceKey, NoteError, VerifierKey};

/// What a statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementKind {
    /// A gateway: this stream is mine.
    Attach,
    /// A gateway: a revision is enforced here.
    Applied,
    /// A gateway: I ask for authority.
    Renewal,
    /// A gateway: this is what the log holds of which a copy is kept.
    Copy,
    /// The control plane: this gateway's renewal is answered.
    Authority,
}

impl StatementKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::Applied => "applied",
            Self::Renewal => "renewal",
            Self::Copy => "copy",
            Self::Authority => "authority",
        }
    }

    fn signed(self, payload: &[u8]) -> Vec<u8> {
        let name = self.name();
        let mut bytes = Vec::with_capacity(24 + name.len() + payload.len());
        bytes.extend_from_slice(b"\0portcullis/v1 ");
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(payload);
        bytes
    }
}

impl EvidenceKey {
    /// Signs `payload` as a statement: an Ed25519 signature of 64 bytes.
    ///
    /// # Errors
    /// When the key makes no signature.
    pub fn state(&self, kind: StatementKind, payload: &[u8]) -> Result<Vec<u8>, NoteError> {
        self.sign_bytes(&kind.signed(payload))
    }
}

impl VerifierKey {
    /// Whether `payload` is a statement of this key.
    pub fn stated(&self, kind: StatementKind, payload: &[u8], signature: &[u8]) -> bool {
        self.verifies(&kind.signed(payload), signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_of_one_key_one_kind_and_these_bytes() {
        let (key, other) = (EvidenceKey::generate().unwrap().0, EvidenceKey::generate().unwrap().0);
        let name = "portcullis/gateway/edge".parse().unwrap();
        let signature = key.state(StatementKind::Applied, b"revision 7").unwrap();
        let verifier = key.verifier(&name);
        assert!(verifier.stated(StatementKind::Applied, b"revision 7", &signature));
        assert!(!verifier.stated(StatementKind::Applied, b"revision 8", &signature));
        assert!(!verifier.stated(StatementKind::Authority, b"revision 7", &signature));
        assert!(!other.verifier(&name).stated(StatementKind::Applied, b"revision 7", &signature));
        assert!(!verifier.stated(StatementKind::Applied, b"revision 7", &signature[..63]));
    }
}
