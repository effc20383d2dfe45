//! What a denial and an approval are bound by: JSON Web Signatures (RFC 7515) that only the control plane makes and reads.
//!
//! Whoever carries one carries it unread, so there is no key to publish: HS256, under a key of this control plane's own. One
//! header each, compared byte for byte: nothing in a token says how it is to be verified.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::control::record::Digest;
use crate::domain::name::{ActionName, GrantId, IdentityName, RequestId, ResourceName};

/// What the key is derived for.
pub(super) const PURPOSE: &str = "authzen access requests";
/// Longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// What a token is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Denial,
    Approval,
}

impl Kind {
    const fn header(self) -> &'static str {
        match self {
            Self::Denial => r#"{"alg":"HS256","typ":"authzen-denial+jwt"}"#,
            Self::Approval => r#"{"alg":"HS256","typ":"authzen-approval+jwt"}"#,
        }
    }
}

/// A denial that access may be asked for after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Denial {
    pub(super) iss: String,
    pub(super) aud: String,
    /// The evaluation.
    pub(super) jti: String,
    pub(super) iat: i64,
    pub(super) exp: i64,
    /// Who asked the question.
    pub(super) asked_by: String,
    /// Whose access it would be.
    pub(super) identity: IdentityName,
    /// Of what was asked: SHA-256, hexadecimal.
    pub(super) bound: String,
    /// Members of the context that are in it.
    pub(super) binding_context_members: Vec<String>,
}

/// An approval, for when the question is asked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Approval {
    pub(super) iss: String,
    pub(super) aud: String,
    /// The grant that came of it.
    pub(super) jti: GrantId,
    pub(super) iat: i64,
    pub(super) exp: i64,
    pub(super) request: RequestId,
    pub(super) identity: IdentityName,
    pub(super) resource: ResourceName,
    pub(super) actions: Vec<ActionName>,
}

/// Signs and reads tokens.
#[derive(Debug)]
pub(super) struct Binding(pub(super) hmac::Key);

impl Binding {
    /// A token with these claims.
    pub(super) fn sign(&self, kind: Kind, claims: &impl Serialize) -> String {
        // Plain data: it is always JSON.
        let claims = serde_json::to_vec(claims).unwrap_or_default();
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(kind.header()), URL_SAFE_NO_PAD.encode(claims));
        let tag = hmac::sign(&self.0, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// The claims of a token that is ours and of this kind. Its times are the reader's to look at.
    pub(super) fn read<C: DeserializeOwned>(&self, kind: Kind, token: &str) -> Option<C> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (message, tag) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        // Compared in constant time.
        hmac::verify(&self.0, message.as_bytes(), &tag).ok()?;
        if header != URL_SAFE_NO_PAD.encode(kind.header()) {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

/// Members of the context that a decision hangs on.
pub(super) const CONTEXT_MEMBERS: [&str; 1] = ["ip"];

/// What a denial is bound to: subject, resource, action and the context that a decision hangs on, member for member
/// (section "Structural Comparison"). An actor may be said elsewhere when access is asked for.
pub(super) fn bound(question: &Value) -> String {
    let mut subject = question.get("subject").cloned().unwrap_or_default();
    if let Some(properties) = subject.get_mut("properties").and_then(Value::as_object_mut) {
        properties.remove("act");
    }
    let context = question.get("context").and_then(Value::as_object);
    let of_context = |name: &'static str| context.and_then(|context| context.get(name)).map(|value| (name, value));
    let context: std::collections::BTreeMap<&str, &Value> =
        CONTEXT_MEMBERS.into_iter().filter_map(of_context).collect();
    let mut all = json!({
        "subject": subject, "resource": question.get("resource"), "action": question.get("action"), "context": context,
    });
    all.sort_all_objects();
    Digest::of(all.to_string()).hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(key: u8) -> Binding {
        Binding(hmac::Key::new(hmac::HMAC_SHA256, &[key; 32]))
    }

    fn denial() -> Denial {
        Denial {
            iss: "https://a".into(),
            aud: "https://a/r".into(),
            jti: "e".into(),
            iat: 1,
            exp: 2,
            asked_by: "alice".into(),
            identity: "billing".parse().unwrap(),
            bound: "b".into(),
            binding_context_members: vec!["ip".into()],
        }
    }

    #[test]
    fn a_token_is_of_its_key_its_kind_and_as_it_was_signed() {
        let ours = binding(1);
        let token = ours.sign(Kind::Denial, &denial());
        assert_eq!(ours.read::<Denial>(Kind::Denial, &token), Some(denial()));
        assert_eq!(binding(2).read::<Denial>(Kind::Denial, &token), None);
        assert_eq!(ours.read::<Denial>(Kind::Approval, &token), None, "one is not good for the other");
        for place in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last character of base64 may have bits that say nothing.
            let read = ours.read::<Denial>(Kind::Denial, &changed);
            assert!(read.is_none() || read == Some(denial()), "{place}");
        }
        // A header that says that nothing is signed.
        let claims = token.split('.').nth(1).unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"authzen-denial+jwt"}"#);
        assert_eq!(ours.read::<Denial>(Kind::Denial, &format!("{none}.{claims}.")), None);
    }

    #[test]
    fn what_is_bound_is_compared_member_for_member() {
        let question = |text: &str| bound(&serde_json::from_str(text).unwrap());
        let one = r#"{"subject":{"type":"user","id":"a"},"resource":{"type":"r","id":"1"},"action":{"name":"read"}}"#;
        let same = r#"{"action":{"name":"read"},"resource":{"id":"1","type":"r"},"subject":{"id":"a","type":"user"},"context":{"time":"now"}}"#;
        assert_eq!(question(one), question(same));
        for other in [
            one.replace("\"1\"", "1"),
            one.replace("read", "write"),
            one.replace("\"id\":\"a\"", "\"id\":\"a\",\"properties\":{}"),
            one.replace("\"action\"", "\"context\":{\"ip\":\"::1\"},\"action\""),
        ] {
            assert_ne!(question(one), question(&other), "{other}");
        }
    }
}
