//! A provider that answers with what it should not, on a socket.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn id_token(issuer: &str, sub: Option<&str>, exp: i64) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut claims = json!({ "iss": issuer, "aud": "portcullis", "exp": exp });
    if let Some(sub) = sub {
        claims["sub"] = sub.into();
    }
    format!("{}.{}.{}", part(json!({ "alg": "ES256" })), part(claims), URL_SAFE_NO_PAD.encode([1; 64]))
}

/// Serves a description, and an answer to each refresh with an ID token of `sub`.
async fn provider(sub: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let told = issuer.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|it| it == b"\r\n\r\n") {
                let read = stream.read(&mut buffer).await.unwrap();
                request.extend_from_slice(&buffer[..read]);
            }
            let body = if request.starts_with(b"GET /.well-known/openid-configuration") {
                json!({
                    "issuer": told, "authorization_endpoint": format!("{told}/a"), "token_endpoint": format!("{told}/t"),
                })
            } else {
                let token = id_token(&told, sub, 2_000_000_000);
                json!({ "access_token": "x", "token_type": "bearer", "id_token": token, "refresh_token": "new" })
            };
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    issuer
}

#[tokio::test]
async fn a_refreshed_token_is_of_who_signed_in_or_nothing_is_kept_of_it() {
    // A second call changes nothing: the process has one provider, and it is this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let now = Timestamp::from_unix_seconds(1_900_000_000);
    for (sub, good) in [(Some("alice"), true), (Some("mallory"), false), (None, false)] {
        let home = tempfile::tempdir().unwrap();
        let at = SignIn { issuer: provider(sub).await, client_id: "portcullis".into(), ca_file: None, scopes: None };
        let old = id_token(&at.issuer, Some("alice"), 1_800_000_000);
        let tokens = Tokens { id_token: old.clone().into(), refresh_token: Some("old".to_owned().into()) };
        let signed = SignedIn { at, file: home.path().join("tokens.json") };
        Kept::of(&signed.at, tokens).write(&signed.file).unwrap();
        let refreshed = signed.token(now).await;
        let kept = Kept::read(&signed.file, &signed.at).unwrap();
        if good {
            assert_eq!(subject(&refreshed.unwrap()).as_deref(), Some("alice"));
            assert_ne!(*kept.id_token, old);
        } else {
            let error = refreshed.unwrap_err().to_string();
            assert!(error.contains("somebody else"), "{error}");
            assert_eq!(*kept.id_token, old, "{sub:?}");
        }
    }
}
