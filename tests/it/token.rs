//! Tokens: what is taken as a credential, what is exchanged for what, and how a token ends.

use std::io::Write as _;
use std::sync::{Arc, Mutex};

use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::JwkSet;
use serde_json::{Value, json};

use crate::dev::{Answer, Dev, PATIENCE, curl, eventually};
use crate::world::{
    AUDIENCE, Certificate, DEV_AUDIENCE, Fleet, ISSUER, Key, Upstream, claims, dev_claims, evidence, header, jwks, now,
    plain_claims, record, with, workload,
};

const EXCHANGE: &str = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange";
const JWT_TYPE: &str = "subject_token_type=urn:ietf:params:oauth:token-type:jwt";

/// Posts a form to a token endpoint on the plain listener.
fn post(dev: &Dev, endpoint: &str, form: &[&str]) -> Answer {
    let url = format!("{}/.portcullis/{endpoint}", dev.addresses.gateway);
    let mut arguments: Vec<&str> = form.iter().flat_map(|pair| ["--data-urlencode", pair]).collect();
    arguments.push(&url);
    curl(&arguments)
}

fn exchange(dev: &Dev, subject: &str, more: &[&str]) -> Answer {
    let subject = format!("subject_token={subject}");
    post(dev, "token", &[&[EXCHANGE, JWT_TYPE, subject.as_str()][..], more].concat())
}

fn get(dev: &Dev, token: &str, path: &str) -> Answer {
    curl(&["-H", &format!("Authorization: Bearer {token}"), &format!("{}{path}", dev.addresses.gateway)])
}

/// An OAuth refusal: status, `error`, and the gate's own reason.
#[track_caller]
fn refused(answer: &Answer, status: u16, error: &str, reason: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["error"], error, "{answer:?}");
    assert_eq!(body["reason"], reason, "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[test]
fn a_token_is_exchanged_bound_to_the_grant_and_good_for_the_gate_alone() {
    let dev = Dev::start();
    let subject = dev.token("billing");
    refused(&exchange(&dev, &subject, &["resource=api/orders"]), 400, "invalid_target", "token_target_invalid");
    let grant = dev.grant("billing", "api/orders", &["read", "write"]);
    let answer = exchange(&dev, &subject, &["resource=urn:portcullis:resource:api/orders", "scope=read"]).is(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let body = answer.json();
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    assert_eq!(body["scope"], "read");
    let life = body["expires_in"].as_i64().unwrap();
    assert!((1..=300).contains(&life), "{body}");
    let token = body["access_token"].as_str().unwrap();

    // The published set is for upstreams: none of them can take a token that is meant for the gate.
    let url = format!("{}/.portcullis/jwks.json", dev.addresses.gateway);
    let set: JwkSet = serde_json::from_str(&curl(&[&url]).is(200).body).unwrap();
    assert_eq!(header(token)["typ"], "at+jwt");
    assert!(set.find(header(token)["kid"].as_str().unwrap()).is_none(), "{set:?}");
    let said = claims(token);
    assert_eq!((said["aud"].as_str(), said["iss"].as_str()), (Some(DEV_AUDIENCE), Some(DEV_AUDIENCE)));
    assert_eq!((said["sub"].as_str(), said["grant"].as_str()), (Some("billing"), Some(grant.as_str())));
    assert_eq!(said["scope"], "read");

    let called = get(&dev, token, "/v1/orders/7").is(200);
    let intent = record(&dev, called.header("portcullis-call-id").unwrap(), "intent");
    assert_eq!(intent["data"]["credential"], "gate_token");
    let issued = evidence(&dev, &["--kind", "token_issued"]);
    assert_eq!(issued.len(), 1, "{issued:?}");
    assert_eq!(issued[0]["data"]["jti"], said["jti"]);
    assert!(!called.body.contains(token), "the token passed to the upstream");
}

#[test]
fn a_token_asks_for_no_more_than_its_scope() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read", "write"]);
    let answer = exchange(&dev, &dev.token("billing"), &["resource=api/orders", "scope=read"]).is(200).json();
    let url = format!("{}/v1/orders/7", dev.addresses.gateway);
    let bearer = format!("Authorization: Bearer {}", answer["access_token"].as_str().unwrap());
    curl(&["-H", &bearer, &url]).is(200);
    let wider = curl(&["-X", "POST", "-H", &bearer, &url]);
    wider.refuses(403, "action_not_granted");
}

#[test]
fn an_exchange_never_broadens_or_prolongs() {
    let dev = Dev::start();
    let subject = dev.token("billing");
    dev.grant_with("billing", "api/orders", &["read"], &["--duration", "40s"]);
    let broader = exchange(&dev, &subject, &["resource=api/orders", "scope=read write"]);
    refused(&broader, 400, "invalid_scope", "action_not_granted");
    let nonsense = exchange(&dev, &subject, &["resource=api/orders", "scope=read NOT,ONE"]);
    refused(&nonsense, 400, "invalid_scope", "token_scope_invalid");
    let elsewhere = exchange(&dev, &subject, &["resource=api/other"]);
    refused(&elsewhere, 400, "invalid_target", "token_target_invalid");
    let answer = exchange(&dev, &subject, &["resource=api/orders"]).is(200).json();
    assert!(answer["expires_in"].as_i64().unwrap() <= 40, "it outlives its grant: {answer}");
    assert_eq!(answer["scope"], "read");
    let token = answer["access_token"].as_str().unwrap();
    // A token of the gate is no subject token: nobody prolongs one by exchanging it.
    let again = exchange(&dev, token, &["resource=api/orders"]);
    refused(&again, 400, "invalid_request", "subject_token_invalid");
    // A short subject token gives a shorter one.
    let short = with(dev_claims("billing"), "exp", (now() + 20).into());
    let answer = exchange(&dev, &Key::of_dev(&dev).sign(&short), &["resource=api/orders"]).is(200).json();
    assert!(answer["expires_in"].as_i64().unwrap() <= 20, "{answer}");
}

#[test]
fn a_token_request_that_is_not_one_is_refused_by_its_name() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let subject = dev.token("billing");
    let answer = post(&dev, "token", &["grant_type=password", "username=a", "password=b"]);
    refused(&answer, 400, "unsupported_grant_type", "token_grant_type_unsupported");
    refused(&post(&dev, "token", &["x=y"]), 400, "invalid_request", "token_request_invalid");
    refused(&exchange(&dev, &subject, &[]), 400, "invalid_request", "token_request_invalid");
    let twice = exchange(&dev, &subject, &["resource=api/orders", "resource=api/orders"]);
    refused(&twice, 400, "invalid_target", "token_target_invalid");
    let actor = exchange(&dev, &subject, &["resource=api/orders", "actor_token=x"]);
    refused(&actor, 400, "invalid_request", "token_request_invalid");
    refused(&exchange(&dev, "not-a-token", &["resource=api/orders"]), 400, "invalid_request", "subject_token_invalid");
    let expired = with(with(dev_claims("billing"), "iat", (now() - 900).into()), "exp", (now() - 600).into());
    let answer = exchange(&dev, &Key::of_dev(&dev).sign(&expired), &["resource=api/orders"]);
    refused(&answer, 400, "invalid_request", "subject_token_invalid");
    let url = format!("{}/.portcullis/token", dev.addresses.gateway);
    curl(&[&url]).is(405);
    curl(&["-H", "content-type: application/json", "-d", "{}", &url]).is(400);
    curl(&[&format!("{}/.portcullis/else", dev.addresses.gateway)]).is(404);
    let large = format!("subject_token={}", "a".repeat(20_000));
    post(&dev, "token", &[&large]).is(400);
}

#[test]
fn a_client_certificate_gets_a_token_bound_to_it() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let path = |identity: &str, file: &str| dev.identity(identity, file).display().to_string();
    let ca = dev.dir().join("ca.pem").display().to_string();
    let (cert, key) = (path("billing", "cert.pem"), path("billing", "key.pem"));
    let url = format!("{}/.portcullis/token", dev.addresses.gateway_tls);
    let form = ["-d", "grant_type=client_credentials", "-d", "resource=api/orders"];
    let mtls = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    let issued = curl(&[&mtls[..], &form, &[url.as_str()]].concat()).is(200).json();
    let token = issued["access_token"].as_str().unwrap();
    assert!(claims(token)["cnf"]["x5t#S256"].is_string(), "{}", claims(token));
    let bearer = format!("Authorization: Bearer {token}");
    let orders = format!("{}/v1/orders/7", dev.addresses.gateway_tls);
    curl(&[&mtls[..], &["-H", bearer.as_str(), orders.as_str()]].concat()).is(200);
    // Stolen, it is worth nothing: not without a certificate, not with somebody else's.
    get(&dev, token, "/v1/orders/7").refuses(401, "token_binding");
    curl(&["--cacert", &ca, "-H", &bearer, &orders]).refuses(401, "token_binding");
    let (cert, key) = (path("helper", "cert.pem"), path("helper", "key.pem"));
    let other = ["--cacert", &ca, "--cert", &cert, "--key", &key, "-H", &bearer, &orders];
    curl(&other).refuses(401, "token_binding");
    // Without a certificate nobody is known.
    let nobody = curl(&[&["--cacert", ca.as_str()][..], &form, &[url.as_str()]].concat());
    refused(&nobody, 401, "invalid_client", "credential_missing");
}

#[test]
fn a_token_opens_its_own_grant_and_no_other() {
    let dev = Dev::start();
    let documents = "kind: Resource\nname: api/other\nspec: { owner: bob }\n---\n".to_owned()
        + &crate::world::route("other", "other.test", "http://127.0.0.1:9").replace("api/orders", "api/other");
    crate::world::apply(&dev, &documents).exits(0);
    let first = dev.grant("billing", "api/orders", &["read"]);
    dev.grant("billing", "api/other", &["read"]);
    let answer = exchange(&dev, &dev.token("billing"), &["resource=api/orders"]).is(200).json();
    let token = answer["access_token"].as_str().unwrap();
    get(&dev, token, "/v1/orders/7").is(200);
    let other = ["-H", "Host: other.test", "-H", &format!("Authorization: Bearer {token}"), &dev.addresses.gateway];
    curl(&other).refuses(403, "grant_missing");
    // Another grant for the same resource does not keep it alive.
    dev.grant("billing", "api/orders", &["read"]);
    dev.revoke(&first);
    let dead = get(&dev, token, "/v1/orders/7");
    assert!([401, 403].contains(&dead.status), "{dead:?}");
    dev.call("billing", "GET", "/v1/orders/7").is(200);
}

#[test]
fn a_revoked_token_is_dead_at_once_with_its_streams() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let issue = || {
        let answer = exchange(&dev, &dev.token("billing"), &["resource=api/orders"]).is(200).json();
        answer["access_token"].as_str().unwrap().to_owned()
    };
    let (dead, alive) = (issue(), issue());
    let open = |token: &str| {
        let mut raw = dev.raw();
        raw.send(format!("GET /v1/orders/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"));
        raw.until("event: order");
        raw
    };
    let (mut cut, mut neighbour) = (open(&dead), open(&alive));
    post(&dev, "revoke", &[&format!("token={dead}")]).is(200);
    get(&dev, &dead, "/v1/orders/7").refuses(401, "token_revoked");
    cut.to_end();
    get(&dev, &alive, "/v1/orders/7").is(200);
    neighbour.seen.clear();
    neighbour.until("event: order");
    let recorded = evidence(&dev, &["--kind", "token_revoked"]);
    assert_eq!(recorded[0]["data"]["jti"], claims(&dead)["jti"], "{recorded:?}");
    // RFC 7009: again, or nonsense, is as good as revoked; a token of another issuer is not ours to end.
    post(&dev, "revoke", &[&format!("token={dead}")]).is(200);
    post(&dev, "revoke", &["token=nonsense"]).is(200);
    let foreign = post(&dev, "revoke", &[&format!("token={}", dev.token("billing"))]).is(400);
    assert_eq!(foreign.json()["error"], "unsupported_token_type");
}

#[test]
fn the_command_line_exchanges_and_revokes() {
    let dev = Dev::start();
    let none = ["-o", "json", "token", "exchange", "--identity", "billing", "--resource", "api/orders"];
    assert_eq!(dev.cli(&none).exits(3).error()["reason"], "token_target_invalid");
    dev.grant("billing", "api/orders", &["read"]);
    let issued =
        dev.json(&["token", "exchange", "--identity", "billing", "--resource", "api/orders", "--action", "read"]);
    let token = issued["access_token"].as_str().unwrap();
    get(&dev, token, "/v1/orders/7").is(200);
    dev.cli(&["token", "revoke", token]).exits(0);
    eventually("the token is dead", PATIENCE, || get(&dev, token, "/v1/orders/7").status == 401);
    get(&dev, token, "/v1/orders/7").refuses(401, "token_revoked");
    dev.cli(&["--as-person", "alice", "token", "revoke", &dev.token("billing")]).exits(3);
}

#[test]
fn tokens_that_do_not_hold_are_refused_with_the_reason() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let key = Key::of_dev(&dev);
    let good = || dev_claims("billing");
    get(&dev, &key.sign(&good()), "/v1/orders/7").is(200);
    let unsigned = {
        let mut parts = key.sign(&good()).rsplit_once('.').unwrap().0.to_owned();
        parts.push('.');
        parts
    };
    let headed = |head: Value, claims: &Value| {
        use base64::Engine as _;
        let encode = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}", encode(&head), encode(claims))
    };
    let none = |alg: &str| format!("{}.AAAA", headed(json!({ "alg": alg, "kid": key.kid }), &good()));
    // The public key's bytes as the secret of an HMAC: the oldest confusion there is.
    let confused = {
        let set = std::fs::read(dev.dir().join("issuer/jwks.json")).unwrap();
        let mut head = jsonwebtoken::Header::new(Algorithm::HS256);
        head.kid = Some(key.kid.clone());
        jsonwebtoken::encode(&head, &good(), &jsonwebtoken::EncodingKey::from_secret(&set)).unwrap()
    };
    let signed_headers = |name: &str, value: Value| {
        let token = key.sign(&good());
        let mut head = header(&token);
        head[name] = value;
        format!("{}.{}", headed(head, &good()), token.rsplit('.').next().unwrap())
    };
    let past = with(with(good(), "iat", (now() - 900).into()), "exp", (now() - 600).into());
    let future = with(good(), "nbf", (now() + 600).into());
    let tampered = {
        let token = key.sign(&good());
        let other = headed(header(&token), &dev_claims("helper"));
        format!("{other}.{}", token.rsplit('.').next().unwrap())
    };
    let cases = [
        ("expired", key.sign(&past), "credential_expired"),
        ("not yet valid", key.sign(&future), "credential_expired"),
        ("another audience", key.sign(&with(good(), "aud", "https://else".into())), "token_audience"),
        ("no audience", key.sign(&with(good(), "aud", Value::Null)), "token_invalid"),
        ("an unknown issuer", key.sign(&with(good(), "iss", "https://else".into())), "issuer_unknown"),
        ("no end", key.sign(&with(good(), "exp", Value::Null)), "token_invalid"),
        ("a life beyond the issuer's", key.sign(&with(good(), "exp", (now() + 30 * 86_400).into())), "token_invalid"),
        ("another key under its name", Key::es256("x").sign_as(&key.kid, &good()), "token_invalid"),
        ("a key that nobody knows", Key::es256("unheard-of").sign(&good()), "token_invalid"),
        ("an HMAC of the public key", confused, "token_invalid"),
        ("alg none", none("none"), "token_invalid"),
        ("alg None", none("NoNe"), "token_invalid"),
        ("its own key in the header", signed_headers("jwk", key.jwk()), "token_invalid"),
        ("a key's address in the header", signed_headers("jku", "https://else/jwks".into()), "token_invalid"),
        ("crit", signed_headers("crit", json!(["exp"])), "token_invalid"),
        ("claims of somebody else", tampered, "token_invalid"),
        ("a token meant for upstreams", key.sign(&with(good(), "token_use", "upstream".into())), "token_invalid"),
    ];
    for (what, token, reason) in cases {
        let answer = get(&dev, &token, "/v1/orders/7");
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (401, Some(reason)), "{what}: {answer:?}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.contains("error=\"invalid_token\""), "{what}: {challenge}");
    }
    let answer = get(&dev, &unsigned, "/v1/orders/7").is(401);
    assert!(["credential_malformed", "token_invalid"].contains(&answer.json()["reason"].as_str().unwrap()));
    // Its own claims about grants are worth nothing.
    let claimed =
        with(with(dev_claims("helper"), "grant", "01ARZ3NDEKTSV4RRFFQ69G5FAV".into()), "scope", "read".into());
    get(&dev, &key.sign(&claimed), "/v1/orders/7").refuses(403, "grant_missing");
    get(&dev, &key.sign(&dev_claims("nobody")), "/v1/orders/7").refuses(403, "identity_unknown");
}

/// An issuer over HTTP whose set of keys the test changes.
fn issuer_over_http(first: &Key) -> (Upstream, Arc<Mutex<Option<String>>>) {
    let set = Arc::new(Mutex::new(Some(jwks(&[first]))));
    let served = set.clone();
    let upstream = Upstream::start(move |_, stream| {
        let answer = match &*served.lock().unwrap() {
            Some(set) => format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{set}",
                set.len()
            ),
            None => "HTTP/1.1 500 Broken\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        };
        let _ = stream.write_all(answer.as_bytes());
    });
    (upstream, set)
}

#[test]
fn an_issuers_keys_are_rotated_by_name_without_a_restart() {
    let (old, new, rsa, ed) = (Key::es256("old"), Key::es256("new"), Key::rs256("rsa"), Key::ed25519("ed"));
    let (server, set) = issuer_over_http(&old);
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let gate = fleet
        .gateway(|config| {
            let url = format!("http://{}/jwks.json", server.address);
            config["issuers"] = json!([{ "issuer": ISSUER, "jwks_url": url, "refresh": "1s" }]);
        })
        .ready();
    fleet.grant("--wait=20s");
    let call = |key: &Key| {
        let bearer = format!("Authorization: Bearer {}", key.sign(&plain_claims(ISSUER, AUDIENCE, "billing")));
        gate.get(&bearer, "/v1/orders/7")
    };
    call(&old).is(200);
    let before = format!("Authorization: Bearer {}", old.sign(&plain_claims(ISSUER, AUDIENCE, "billing")));
    gate.get(&before, "/v1/orders/7").is(200);
    call(&new).refuses(401, "token_invalid");
    *set.lock().unwrap() = Some(jwks(&[&new, &rsa, &ed]));
    eventually("the new keys are known", PATIENCE, || call(&new).status == 200);
    // All three algorithms, and the old key is dead, also for a token that was cached.
    call(&rsa).is(200);
    call(&ed).is(200);
    call(&old).refuses(401, "token_invalid");
    gate.get(&before, "/v1/orders/7").refuses(401, "token_invalid");
    // The set cannot be fetched any more: what is known is still good for a while.
    *set.lock().unwrap() = None;
    let fetched = server.seen();
    eventually("it was asked again", PATIENCE, || server.seen() > fetched);
    call(&new).is(200);
}

#[test]
fn an_issuer_without_keys_is_unavailable_and_lets_nobody_in() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let nobody = crate::world::free_address();
    let gate = fleet.gateway(|config| {
        config["issuers"] = json!([{ "issuer": ISSUER, "jwks_url": format!("http://{nobody}/jwks.json") }]);
    });
    fleet.grant("");
    let answer = gate.get(&fleet.bearer(), "/v1/orders/7").refuses(503, "issuer_unavailable");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(upstream.seen(), 0);
}

#[test]
fn a_token_of_an_issuer_can_be_bound_to_a_certificate() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let certificate = Certificate::of_dev(&dev, &workload(&["spiffe://dev.portcullis.local/workload/billing"]));
    let bound = with(dev_claims("billing"), "cnf", json!({ "x5t#S256": certificate.thumbprint }));
    let token = Key::of_dev(&dev).sign(&bound);
    get(&dev, &token, "/v1/orders/7").refuses(401, "token_binding");
    let ca = dev.dir().join("ca.pem").display().to_string();
    let url = format!("{}/v1/orders/7", dev.addresses.gateway_tls);
    let bearer = format!("Authorization: Bearer {token}");
    curl(&["--cacert", &ca, "--cert", &certificate.cert, "--key", &certificate.key, "-H", &bearer, &url]).is(200);
}
