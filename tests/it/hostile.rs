//! Ways around a grant: exchanging a credential that is over, and coming in by another door after a revocation.

use serde_json::Value;

use crate::dev::{Answer, Dev, PATIENCE, curl, eventually};
use crate::world::{Key, dev_claims, now, with};

/// Asks the gateway for a token of `billing`'s grant on the orders, with this subject token.
fn exchange(dev: &Dev, subject: &str, more: &[&str]) -> Answer {
    let subject = format!("subject_token={subject}");
    let form = [
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type=urn:ietf:params:oauth:token-type:jwt",
        "resource=api/orders",
        &subject,
    ];
    let mut arguments: Vec<&str> = form.iter().chain(more).flat_map(|pair| ["--data-urlencode", pair]).collect();
    let url = format!("{}/.portcullis/token", dev.addresses.gateway);
    arguments.push(&url);
    curl(&arguments)
}

fn issued(answer: Answer) -> Value {
    answer.is(200).json()
}

fn call(dev: &Dev, token: &str) -> Answer {
    curl(&["-H", &format!("Authorization: Bearer {token}"), &format!("{}/v1/orders/7", dev.addresses.gateway)])
}

#[test]
fn nothing_is_exchanged_for_a_subject_that_is_over() {
    let dev = Dev::start();
    let grant = dev.grant("billing", "api/orders", &["read"]);
    let key = Key::of_dev(&dev);
    let good = || dev_claims("billing");
    issued(exchange(&dev, &key.sign(&good()), &[]));
    let over = |seconds: i64| with(with(good(), "iat", (now() - 300).into()), "exp", (now() - seconds).into());
    let elsewhere = with(good(), "aud", "https://else".into());
    let early = with(good(), "nbf", (now() + 60).into());
    for (what, claims) in [("over by 1 s", over(1)), ("over", over(60)), ("for others", elsewhere), ("early", early)] {
        let refused = exchange(&dev, &key.sign(&claims), &[]);
        assert_eq!(refused.status, 400, "{what}: {refused:?}");
        // Within the issuer's leeway it is known still, and a token that ends with it would be over before it is made.
        let expected = if what == "over by 1 s" { "invalid_target" } else { "invalid_request" };
        assert_eq!(refused.json()["error"], expected, "{what}");
        assert!(refused.json().get("access_token").is_none(), "{what}: {refused:?}");
    }
    // What the upstream got is no subject, and neither is it one that the gate takes for a call.
    let seen = dev.call("billing", "GET", "/v1/orders/7").is(200).json();
    let upstream = seen["headers"]["authorization"].as_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    assert_eq!(exchange(&dev, &upstream, &[]).is(400).json()["error"], "invalid_request");
    assert_eq!(call(&dev, &upstream).status, 401);
    // Another one's subject gets nothing of this grant, whatever it asks for.
    for more in [&[][..], &["scope=read"], &["audience=billing"]] {
        let refused = exchange(&dev, &key.sign(&dev_claims("helper")), more);
        assert!(refused.status == 400 && refused.json().get("access_token").is_none(), "{refused:?}");
    }
    // A revoked grant gives no more tokens, and what it gave is dead.
    let token = issued(exchange(&dev, &key.sign(&good()), &[]))["access_token"].as_str().unwrap().to_owned();
    call(&dev, &token).is(200);
    dev.revoke(&grant);
    assert_eq!(exchange(&dev, &key.sign(&good()), &[]).is(400).json()["error"], "invalid_target");
    assert_ne!(call(&dev, &token).status, 200);
}

#[test]
fn an_exchange_of_an_exchange_gives_no_more_than_the_first() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read", "write"]);
    let narrow = issued(exchange(&dev, &dev.token("billing"), &["scope=read"]));
    let narrow = narrow["access_token"].as_str().unwrap();
    for more in [&["scope=read write"][..], &["scope=read"], &[]] {
        let refused = exchange(&dev, narrow, more);
        assert!(refused.status == 400 && refused.json().get("access_token").is_none(), "{refused:?}");
    }
    curl(&[
        "-X",
        "POST",
        "-H",
        &format!("Authorization: Bearer {narrow}"),
        &format!("{}/v1/orders/7", dev.addresses.gateway),
    ])
    .refuses(403, "action_not_granted");
}

#[test]
fn a_revocation_closes_every_door_at_once() {
    let dev = Dev::start();
    let grant = dev.grant("billing", "api/orders", &["read"]);
    let token = issued(exchange(&dev, &dev.token("billing"), &[]))["access_token"].as_str().unwrap().to_owned();
    let doors = |dev: &Dev| {
        [
            dev.call("billing", "GET", "/v1/orders/7").status,
            dev.call_tls("billing", "GET", "/v1/orders/7").status,
            call(dev, &token).status,
        ]
    };
    assert_eq!(doors(&dev), [200, 200, 200]);
    dev.revoke(&grant);
    assert!(doors(&dev).iter().all(|status| *status != 200), "{:?}", doors(&dev));
    // An identity that is set aside gets in by none of them, and no new grant takes its place.
    dev.grant("billing", "api/orders", &["read"]);
    eventually("it is let in again", PATIENCE, || dev.call("billing", "GET", "/v1/orders/7").status == 200);
    dev.json(&["identity", "quarantine", "billing", "--reason", "odd", "--wait"]);
    assert!(doors(&dev).iter().all(|status| *status != 200), "{:?}", doors(&dev));
    let refused = dev.cli(&[
        "-ojson",
        "grant",
        "create",
        "--identity",
        "billing",
        "--resource",
        "api/orders",
        "--action",
        "read",
        "--duration",
        "5m",
        "--reason",
        "x",
    ]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(doors(&dev).iter().all(|status| *status != 200), "{:?}", doors(&dev));
}
