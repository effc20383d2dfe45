//! Checkpoints as C2SP signed notes, and the key that signs them.
//!
//! A checkpoint says: the log of this origin has these many records, and this root stands for them. The text is
//! `origin\nsize\nbase64(root)\n`, an empty line, then signature lines `— name base64(key id || signature)`. Lines of
//! keys that we do not know (cosignatures, C2SP tlog-cosignature) are kept and ignored. Nothing here reads a clock or
//! decides when to sign.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::entry::hex;
use super::tree::{Hash, TreeHead, sha256};

/// Longest name of a log: it stands in every record.
pub const MAX_ORIGIN_BYTES: usize = 128;
/// Signature lines that a note may have (C2SP: at least 16).
pub const MAX_SIGNATURES: usize = 64;
/// Longest checkpoint note.
pub const MAX_NOTE_BYTES: usize = 64 * 1024;

const TYPE_ED25519: u8 = 0x01;

/// The name of a log: a URL without scheme and trailing slash (C2SP tlog-checkpoint), as the name of its key and in
/// each of its records. ASCII without spaces, `+`, quotation marks or backslashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin(String);

/// Why a text is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not a name of a log.
    #[error("not a log name: 1 to 128 printable ASCII characters without space, +, quotes or backslash")]
    Origin,
    /// Not a verifier key.
    #[error("not a verifier key: name+id+base64, Ed25519")]
    Key,
    /// Not a signed note.
    #[error("not a signed checkpoint: {0}")]
    Malformed(&'static str),
    /// A signature of the key does not hold.
    #[error("the signature of {0} does not verify")]
    Signature(String),
    /// No signature is of the key.
    #[error("not signed by {0}")]
    Unsigned(String),
    /// The key made no signature.
    #[error("the key could not sign")]
    Sign,
}

impl Origin {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Origin {
    type Err = NoteError;
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let good = (1..=MAX_ORIGIN_BYTES).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'+' | b'"' | b'\\'));
        if good { Ok(Self(text.to_owned())) } else { Err(NoteError::Origin) }
    }
}

/// A public key that verifies checkpoints, as `name+id+base64(type || key)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: Origin,
    public: [u8; 32],
}

impl VerifierKey {
    /// Of an Ed25519 public key.
    pub const fn new(name: Origin, public: [u8; 32]) -> Self {
        Self { name, public }
    }

    /// The name that it signs under: the origin of the log.
    pub fn name(&self) -> &Origin {
        &self.name
    }

    /// `SHA-256(name || 0x0A || type || key)`, the first 4 bytes.
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, TYPE_ED25519, &self.public)
    }

    /// The key, 32 bytes.
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.public).verify(message, signature).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&vkey(&self.name, TYPE_ED25519, &self.public))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, public) = parse_vkey(text, TYPE_ED25519)?;
        Ok(Self { name, public })
    }
}

/// `SHA-256(name || 0x0A || type || key)`, the first 4 bytes (C2SP signed-note).
pub(super) fn key_id(name: &Origin, kind: u8, public: &[u8; 32]) -> [u8; 4] {
    let mut text = name.0.as_bytes().to_vec();
    text.extend_from_slice(&[b'\n', kind]);
    text.extend_from_slice(public);
    let [a, b, c, d, ..] = sha256(&text);
    [a, b, c, d]
}

/// `name+id+base64(type || key)`.
pub(super) fn vkey(name: &Origin, kind: u8, public: &[u8; 32]) -> String {
    let mut key = vec![kind];
    key.extend_from_slice(public);
    format!("{name}+{}+{}", hex(&key_id(name, kind, public)), STANDARD.encode(key))
}

/// The name and the key of such a text.
pub(super) fn parse_vkey(text: &str, kind: u8) -> Result<(Origin, [u8; 32]), NoteError> {
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(NoteError::Key);
    };
    let decoded = STANDARD.decode(key).map_err(|_| NoteError::Key)?;
    let public = decoded.split_first().filter(|(first, _)| **first == kind).map(|(_, public)| public);
    let public = public.and_then(|public| public.try_into().ok()).ok_or(NoteError::Key)?;
    let name = name.parse()?;
    if hex(&key_id(&name, kind, &public)) == id { Ok((name, public)) } else { Err(NoteError::Key) }
}

/// The private key of a log. Cheap to clone.
#[derive(Clone)]
pub struct EvidenceKey {
    pair: Arc<Ed25519KeyPair>,
    public: [u8; 32],
}

/// A key file that is not one.
#[derive(Debug, thiserror::Error)]
#[error("not an Ed25519 private key (PKCS#8): {0}")]
pub struct KeyError(String);

impl fmt::Debug for EvidenceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EvidenceKey(..)")
    }
}

impl EvidenceKey {
    /// From PKCS#8, DER.
    ///
    /// # Errors
    /// When it is not an Ed25519 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|e| KeyError(e.to_string()))?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError("bad public key".into()))?;
        Ok(Self { pair: Arc::new(pair), public })
    }

    /// A new key, and its PKCS#8 form.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn generate() -> Result<(Self, Vec<u8>), KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|e| KeyError(e.to_string()))?;
        let der = pair.to_pkcs8().map_err(|e| KeyError(e.to_string()))?.as_ref().to_vec();
        Ok((Self::from_pkcs8(&der)?, der))
    }

    pub(super) fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, NoteError> {
        self.pair.try_sign(message).map(|signature| signature.as_ref().to_vec()).map_err(|_| NoteError::Sign)
    }

    /// The key that verifies what this one signs for a log.
    pub fn verifier(&self, origin: &Origin) -> VerifierKey {
        VerifierKey::new(origin.clone(), self.public)
    }
}

/// What a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: Origin,
    /// How many records, and the root over them.
    pub head: TreeHead,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.head.size, STANDARD.encode(self.head.root.0))
    }

    /// The signed note.
    ///
    /// # Errors
    /// When the key makes no signature.
    pub fn sign(&self, key: &EvidenceKey) -> Result<String, NoteError> {
        let text = self.text();
        let mut line = key.verifier(&self.origin).id().to_vec();
        line.extend_from_slice(&key.sign_bytes(text.as_bytes())?);
        Ok(format!("{text}\n\u{2014} {} {}\n", self.origin, STANDARD.encode(line)))
    }

    /// Reads a signed note and verifies the signature of `key`.
    ///
    /// # Errors
    /// When it is not a checkpoint of the key's log, or the key's signature is missing or does not hold.
    pub fn verify(note: &[u8], key: &VerifierKey) -> Result<Self, NoteError> {
        let text = verify_note(note, key)?;
        let checkpoint = Self::parse_text(text)?;
        if checkpoint.origin == key.name { Ok(checkpoint) } else { Err(NoteError::Unsigned(key.name.to_string())) }
    }

    /// Reads a note without asking who signed it: for who verified a cosignature of it.
    ///
    /// # Errors
    /// When it is not a checkpoint.
    pub(super) fn read(note: &[u8]) -> Result<Self, NoteError> {
        let (text, _) = split_note(note)?;
        Self::parse_text(text)
    }

    fn parse_text(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.split_inclusive('\n').map(|line| line.strip_suffix('\n').unwrap_or(line));
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Malformed("fewer than three lines"));
        };
        let number: u64 = size.parse().map_err(|_| NoteError::Malformed("the size is not a number"))?;
        if number.to_string() != size {
            return Err(NoteError::Malformed("the size is not in canonical form"));
        }
        let root = STANDARD.decode(root).map_err(|_| NoteError::Malformed("the root is not base64"))?;
        let root = root.try_into().map_err(|_| NoteError::Malformed("the root is not 32 bytes"))?;
        Ok(Self { origin: origin.parse()?, head: TreeHead { size: number, root: Hash(root) } })
    }
}

/// Verifies the signature of `key` on a signed note (C2SP signed-note) and gives its text, final newline included.
///
/// # Errors
/// When it is not a note, or the key's signature is missing or does not hold.
pub fn verify_note<'n>(note: &'n [u8], key: &VerifierKey) -> Result<&'n str, NoteError> {
    let bad = NoteError::Malformed;
    let (text, rest) = split_note(note)?;
    let mut verified = false;
    for (count, line) in rest.lines().enumerate() {
        if count >= MAX_SIGNATURES {
            return Err(bad("too many signatures"));
        }
        let line = line.strip_prefix("\u{2014} ").ok_or_else(|| bad("a line is not a signature"))?;
        let (name, encoded) = line.split_once(' ').ok_or_else(|| bad("a line is not a signature"))?;
        let decoded = STANDARD.decode(encoded).map_err(|_| bad("a signature is not base64"))?;
        let (id, signature) = decoded.split_at_checked(4).ok_or_else(|| bad("a signature is too short"))?;
        if name == key.name.as_str() && id == key.id() {
            if !key.verifies(text.as_bytes(), signature) {
                return Err(NoteError::Signature(key.name.to_string()));
            }
            verified = true;
        }
    }
    if verified { Ok(text) } else { Err(NoteError::Unsigned(key.name.to_string())) }
}

/// The text of a note, and its signature lines.
fn split_note(note: &[u8]) -> Result<(&str, &str), NoteError> {
    let bad = NoteError::Malformed;
    if note.len() > MAX_NOTE_BYTES {
        return Err(bad("too long"));
    }
    let note = std::str::from_utf8(note).map_err(|_| bad("not UTF-8"))?;
    if note.chars().any(|c| c.is_control() && c != '\n') {
        return Err(bad("control characters"));
    }
    let split = note.rfind("\n\n").ok_or_else(|| bad("no empty line"))?;
    let (text, rest) = (note.get(..=split), note.get(split + 2..));
    let (Some(text), Some(rest)) = (text, rest) else { return Err(bad("no empty line")) };
    if rest.is_empty() || !rest.ends_with('\n') {
        return Err(bad("no signature lines"));
    }
    Ok((text, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const SIGNATURE: &str =
        "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=";

    fn key() -> EvidenceKey {
        EvidenceKey::generate().unwrap().0
    }

    fn checkpoint(size: u64) -> Checkpoint {
        Checkpoint { origin: "gate.example/log".parse().unwrap(), head: TreeHead { size, root: Hash([7; 32]) } }
    }

    #[test]
    fn the_known_note_verifies() {
        let key: VerifierKey = VKEY.parse().unwrap();
        assert_eq!(key.to_string(), VKEY);
        let text = "This is an example message.\n";
        let note = format!("{text}\n\u{2014} example.com/foo {SIGNATURE}\n");
        assert_eq!(verify_note(note.as_bytes(), &key).unwrap(), text);
        let altered = note.replace("example message", "exemple message");
        assert_eq!(verify_note(altered.as_bytes(), &key), Err(NoteError::Signature("example.com/foo".into())));
        assert!(VKEY.replace("530d", "530e").parse::<VerifierKey>().is_err());
    }

    #[test]
    fn what_is_signed_verifies_and_no_altered_byte_does() {
        let key = key();
        let checkpoint = checkpoint(70_000);
        let verifier = key.verifier(&checkpoint.origin);
        assert_eq!(verifier.to_string().parse::<VerifierKey>().unwrap(), verifier);
        let note = checkpoint.sign(&key).unwrap();
        assert_eq!(Checkpoint::verify(note.as_bytes(), &verifier).unwrap(), checkpoint);
        for at in 0..note.len() {
            for bit in [0, 5, 7] {
                let mut bytes = note.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert!(Checkpoint::verify(&bytes, &verifier).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn unknown_signatures_are_ignored_and_a_missing_one_refused() {
        let (ours, theirs) = (key(), key());
        let checkpoint = checkpoint(1);
        let mut note = checkpoint.sign(&ours).unwrap();
        let line = STANDARD.encode([1; 76]);
        note.push_str(&format!("\u{2014} witness.example/w {line}\n"));
        assert!(Checkpoint::verify(note.as_bytes(), &ours.verifier(&checkpoint.origin)).is_ok());
        let other = theirs.verifier(&checkpoint.origin);
        assert!(matches!(Checkpoint::verify(note.as_bytes(), &other), Err(NoteError::Unsigned(_))));
    }

    #[test]
    fn sizes_and_names_have_one_form() {
        let key = key();
        let good = checkpoint(7);
        let note = good.sign(&key).unwrap();
        let verifier = key.verifier(&good.origin);
        assert!(Checkpoint::verify(note.replace("\n7\n", "\n07\n").as_bytes(), &verifier).is_err());
        for bad in ["", "a b", "a+b", "a\"b", "a\\b", "ä", "a\n"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
