//! Cosignatures: a second party's word that a checkpoint extends every one that it saw before (C2SP tlog-cosignature,
//! Ed25519, `cosignature/v1`).
//!
//! What is signed is `cosignature/v1\ntime <unix seconds>\n` and the checkpoint's text; the signature line carries the
//! time and the signature. Whether a checkpoint deserves one is decided elsewhere.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::{
    Checkpoint, EvidenceKey, MAX_SIGNATURES, NoteError, Origin, VerifierKey, key_id, parse_vkey, vkey,
};
use crate::domain::Timestamp;

const TYPE_COSIGNATURE: u8 = 0x04;
const TIME_BYTES: usize = 8;
const SIGNATURE_BYTES: usize = 64;

/// A public key that verifies cosignatures and statements, as `name+id+base64(0x04 || key)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosignerKey(VerifierKey);

impl CosignerKey {
    /// The key that verifies what `key` cosigns under a name.
    pub fn of(key: &EvidenceKey, name: &Origin) -> Self {
        Self(key.verifier(name))
    }

    /// The cosigner's name.
    pub fn name(&self) -> &Origin {
        self.0.name()
    }

    /// The same key, for statements.
    pub const fn verifier(&self) -> &VerifierKey {
        &self.0
    }

    fn id(&self) -> [u8; 4] {
        key_id(self.name(), TYPE_COSIGNATURE, self.0.public())
    }

    /// When this key cosigned the checkpoint of a note; `None` when no line of it is this key's and holds.
    pub fn cosigned(&self, note: &str) -> Option<Timestamp> {
        let split = note.rfind("\n\n")?;
        let (text, lines) = (note.get(..=split)?, note.get(split + 2..)?);
        lines.lines().take(MAX_SIGNATURES).find_map(|line| self.cosigned_by(text, line))
    }

    fn cosigned_by(&self, text: &str, line: &str) -> Option<Timestamp> {
        let (name, encoded) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let decoded = STANDARD.decode(encoded).ok()?;
        let (id, rest) = decoded.split_at_checked(4)?;
        let (time, signature) = rest.split_at_checked(TIME_BYTES)?;
        if name != self.name().as_str() || id != self.id() || signature.len() != SIGNATURE_BYTES {
            return None;
        }
        let seconds = u64::from_be_bytes(time.try_into().ok()?);
        let holds = self.0.verifies(signed(text, seconds).as_bytes(), signature);
        holds.then(|| i64::try_from(seconds).ok().map(Timestamp::from_unix_seconds)).flatten()
    }
}

impl fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&vkey(self.name(), TYPE_COSIGNATURE, self.0.public()))
    }
}

impl FromStr for CosignerKey {
    type Err = NoteError;
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, public) = parse_vkey(text, TYPE_COSIGNATURE)?;
        Ok(Self(VerifierKey::new(name, public)))
    }
}

/// The line that cosigns a checkpoint at a time, newline included.
///
/// # Errors
/// When the time is before 1970, or the key makes no signature.
pub fn cosign(checkpoint: &Checkpoint, key: &EvidenceKey, name: &Origin, at: Timestamp) -> Result<String, NoteError> {
    let seconds = u64::try_from(at.unix_micros() / 1_000_000).map_err(|_| NoteError::Sign)?;
    let mut line = CosignerKey::of(key, name).id().to_vec();
    line.extend_from_slice(&seconds.to_be_bytes());
    line.extend_from_slice(&key.sign_bytes(signed(&checkpoint.text(), seconds).as_bytes())?);
    Ok(format!("\u{2014} {name} {}\n", STANDARD.encode(line)))
}

fn signed(text: &str, seconds: u64) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Hash, TreeHead};
    use super::*;

    #[test]
    fn a_cosigned_note_tells_when_and_no_altered_byte_does() {
        let (log, control) = (EvidenceKey::generate().unwrap().0, EvidenceKey::generate().unwrap().0);
        let name: Origin = "portcullis/control/example.org".parse().unwrap();
        let origin = "portcullis/gateway/edge".parse().unwrap();
        let checkpoint = Checkpoint { origin, head: TreeHead { size: 9, root: Hash([7; 32]) } };
        let at = Timestamp::from_unix_seconds(1_700_000_000);
        let line = cosign(&checkpoint, &control, &name, at).unwrap();
        let note = format!("{}{line}", checkpoint.sign(&log).unwrap());
        let key = CosignerKey::of(&control, &name);
        assert_eq!(key.to_string().parse::<CosignerKey>().unwrap(), key);
        assert_eq!(key.cosigned(&note), Some(at));
        // The log's own signature still holds beside it.
        assert_eq!(Checkpoint::verify(note.as_bytes(), &log.verifier(&checkpoint.origin)).unwrap(), checkpoint);
        let own_signature = checkpoint.sign(&log).unwrap().len();
        let text = checkpoint.text().len();
        for at in (0..text).chain(own_signature..note.len() - 1) {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            let altered = String::from_utf8_lossy(&bytes);
            assert_eq!(key.cosigned(&altered), None, "byte {at}");
        }
        assert_eq!(CosignerKey::of(&log, &name).cosigned(&note), None);
        assert!(log.verifier(&name).to_string().parse::<CosignerKey>().is_err(), "of the other type");
    }
}
