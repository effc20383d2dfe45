//! What this authorization server is (RFC 8414 section 2).

use super::{JWKS_PATH, REVOKE_PATH, TOKEN_PATH};
use crate::token::oauth::{CLIENT_CREDENTIALS, TOKEN_EXCHANGE};

/// The document; `None` where the issuer is no URL and so has no endpoints that could be named.
pub(super) fn document(issuer: &str) -> Option<String> {
    if !issuer.starts_with("https://") && !issuer.starts_with("http://") {
        return None;
    }
    let document = serde_json::json!({
        "issuer": issuer,
        "token_endpoint": format!("{issuer}{TOKEN_PATH}"),
        "revocation_endpoint": format!("{issuer}{REVOKE_PATH}"),
        "jwks_uri": format!("{issuer}{JWKS_PATH}"),
        "grant_types_supported": [CLIENT_CREDENTIALS, TOKEN_EXCHANGE],
        "token_endpoint_auth_methods_supported": ["tls_client_auth", "none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "response_types_supported": [],
        "tls_client_certificate_bound_access_tokens": true,
    });
    Some(document.to_string())
}
