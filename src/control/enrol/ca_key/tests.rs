//! Keys that others keep: what they sign is held against the key, and what they break breaks nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::super::{CertificateAuthority, EnrolError, Issued, Subject, ca_keys};
use super::*;
use crate::control::sample::NOW;
use crate::domain::clock::ManualClock;
use crate::files;

/// A signer of a shell and openssl, with keys in a directory of its own. `sign` may be another command.
fn signer(dir: &Path, sign: &str, timeout: Duration) -> CaSignerSettings {
    let script = dir.join("signer");
    let text = format!(
        "#!/bin/sh\nkey={0}/$2.pem\n[ -e \"$key\" ] || exit 3\ncase $1 in\n\
         public-key) exec openssl pkey -in \"$key\" -pubout ;;\nsign) {sign} ;;\nesac\nexit 1\n",
        dir.display()
    );
    files::write(&script, text.as_bytes(), files::PRIVATE).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    CaSignerSettings { command: vec![script.display().to_string()], timeout }
}

const GOOD: &str = "exec openssl dgst -sha256 -sign \"$key\"";
const PATIENCE: Duration = Duration::from_secs(20);

fn make_key(dir: &Path, label: &str, kind: &[&str]) {
    let mut command = std::process::Command::new("openssl");
    command.arg("genpkey").args(kind).arg("-out").arg(dir.join(format!("{label}.pem")));
    assert!(command.output().unwrap().status.success());
}

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];

#[tokio::test]
async fn a_key_that_a_command_keeps_issues_what_its_ca_verifies_and_never_lies_in_a_file_of_ours() {
    for kind in [P256, RSA] {
        let (dir, keeper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make_key(keeper.path(), "ca", kind);
        let signer = signer(keeper.path(), GOOD, PATIENCE);
        let clock = ManualClock::at(NOW);
        let ca = CertificateAuthority::open_or_create(dir.path(), Some(&signer), "example.org", &clock).await.unwrap();
        let subject = Subject::Gateway { name: "edge".parse().unwrap(), names: Vec::new() };
        let (certificate, key) = (dir.path().join("edge.pem"), dir.path().join("edge.key"));
        assert_eq!(ca.issue(&subject, &certificate, &key, &clock).await.unwrap(), Issued::New);
        assert!(!dir.path().join("ca.key").exists());
        // Another implementation follows the chain.
        let mut verify = std::process::Command::new("openssl");
        verify.arg("verify").arg("-no_check_time").arg("-CAfile").arg(dir.path().join("ca.pem")).arg(&certificate);
        let verified = verify.output().unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        // Opened again it is the same CA, and a label that nobody has is none.
        let again =
            CertificateAuthority::open(dir.path(), Some(&signer), "example.org", &clock).await.unwrap().unwrap();
        assert_eq!(again.pem(), ca.pem());
        let keys = ca_keys(dir.path(), Some(&signer));
        let missing = CertificateAuthority::make(&keys, "ca-2", "example.org", &clock).await.unwrap_err();
        assert!(missing.to_string().contains("make it there first"), "{missing}");
    }
}

#[tokio::test]
async fn a_signer_that_errs_lies_hangs_or_floods_issues_nothing() {
    let (dir, keeper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_key(keeper.path(), "ca", P256);
    make_key(keeper.path(), "other", P256);
    let clock = ManualClock::at(NOW);
    let other = format!("exec openssl dgst -sha256 -sign {}/other.pem", keeper.path().display());
    let not_this = "printf x | openssl dgst -sha256 -sign \"$key\"; exit 0";
    for (sign, short, says) in [
        ("echo no >&2; exit 1", false, "ended with exit code 1: no"),
        (other.as_str(), false, "what came back is not its signature"),
        (not_this, false, "what came back is not its signature"),
        ("exit 0", false, "said nothing"),
        ("exec head -c 40000 /dev/zero", false, "said more than"),
        ("exit 3", false, "there is no such key"),
        ("kill -9 $$", false, "ended with a signal"),
        ("sleep 600 & wait", true, "no answer in"),
    ] {
        let timeout = if short { Duration::from_secs(1) } else { PATIENCE };
        let signer = signer(keeper.path(), sign, timeout);
        let made = CertificateAuthority::open_or_create(dir.path(), Some(&signer), "example.org", &clock).await;
        let said = made.unwrap_err().to_string();
        assert!(said.contains(says), "{sign}: {said}");
        assert!(!dir.path().join("ca.pem").exists());
    }
    // Ed25519 is no kind that clients of every age verify.
    make_key(keeper.path(), "ca", &["-algorithm", "ED25519"]);
    let signer = signer(keeper.path(), GOOD, PATIENCE);
    let made = CertificateAuthority::open_or_create(dir.path(), Some(&signer), "example.org", &clock).await;
    assert!(made.unwrap_err().to_string().contains("is not of ECDSA P-256"));
}

/// Signs what it likes.
#[derive(Debug)]
struct Liar(rcgen::KeyPair);

#[async_trait]
impl CaKeys for Liar {
    async fn public_key(&self, _label: &str) -> Result<Option<Vec<u8>>, CaKeyError> {
        Ok(Some(self.0.subject_public_key_info()))
    }

    async fn sign(&self, _label: &str, _algorithm: CaAlgorithm, _message: &[u8]) -> Result<Vec<u8>, CaKeyError> {
        Ok(self.0.sign(b"something else").unwrap())
    }

    async fn make(&self, _label: &str) -> Result<(), CaKeyError> {
        Ok(())
    }

    async fn destroy(&self, _label: &str) -> Result<(), CaKeyError> {
        Ok(())
    }
}

#[tokio::test]
async fn what_is_signed_is_what_is_issued() {
    let keys: Arc<dyn CaKeys> = Arc::new(Liar(rcgen::KeyPair::generate().unwrap()));
    let made = CertificateAuthority::make(&keys, "ca", "example.org", &ManualClock::at(NOW)).await;
    assert!(matches!(made, Err(EnrolError::Key(CaKeyError::Signature(_)))));
}
