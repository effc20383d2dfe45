//! A key or an issuer that leaked: what it vouched for is cut and refused, whatever came of it, until it is let go on.

use std::process::Command;

use crate::dev::{Dev, Stream, curl};
use crate::world::DEV_ISSUER;

const CALL: &str = "/v1/orders/7";

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// A token of the gate's for a token of an issuer's.
fn exchanged(dev: &Dev, subject: &str) -> crate::dev::Answer {
    let url = format!("{}/.portcullis/token", dev.addresses.gateway);
    let subject = format!("subject_token={subject}");
    curl(&[
        "--data-urlencode",
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange",
        "--data-urlencode",
        "subject_token_type=urn:ietf:params:oauth:token-type:jwt",
        "--data-urlencode",
        &subject,
        "--data-urlencode",
        "resource=api/orders",
        &url,
    ])
}

fn open(dev: &Dev, authorization: &str) -> Stream {
    let mut command = Command::new("curl");
    let url = format!("{}/v1/orders/events", dev.addresses.gateway);
    command.args(["-sSN", "--max-time", "120", "-H", authorization, &url]);
    let stream = Stream::of(command);
    stream.line("data:");
    stream
}

#[test]
fn what_an_issuer_or_one_of_its_keys_vouched_for_is_cut_and_refused_also_after_an_exchange() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let subject = dev.token("billing");
    let kid = crate::world::header(&subject)["kid"].as_str().unwrap().to_owned();
    let given = exchanged(&dev, &subject).is(200).json();
    let given = given["access_token"].as_str().unwrap().to_owned();
    let root = crate::world::claims(&given)["root"].clone();
    assert_eq!(root, format!("issuer/{DEV_ISSUER}#{kid}"));
    let url = format!("{}{CALL}", dev.addresses.gateway);
    let whole = ["--issuer", DEV_ISSUER];
    let one_key = ["--issuer", DEV_ISSUER, "--key", &kid];
    for scope in [&whole[..], &one_key] {
        let streams = [open(&dev, &bearer(&subject)), open(&dev, &bearer(&given))];
        let halt = [&["fleet", "halt"][..], scope, &["--reason", "its key leaked", "--wait=20s"]].concat();
        let halted = dev.json(&halt);
        assert_eq!(halted["enforced"], true, "{halted}");
        let cut = halted["gateways"][0]["cut"].as_array().unwrap();
        assert!(cut.len() == 2 && cut.iter().all(|call| call["reason"] == "credential_halted"), "{halted}");
        streams.into_iter().for_each(|stream| drop(stream.ended()));
        for token in [&subject, &given] {
            curl(&["-H", &bearer(token), &url]).refuses(401, "credential_halted");
        }
        let refused = exchanged(&dev, &subject);
        assert_eq!((refused.status, &refused.json()["reason"]), (401, &"credential_halted".into()), "{refused:?}");
        // Who came by something else goes on.
        let mtls = mtls(&dev);
        let arguments: Vec<&str> = mtls.iter().map(String::as_str).collect();
        curl(&[&arguments[..], &[&format!("{}{CALL}", dev.addresses.gateway_tls)]].concat()).is(200);
        dev.json(&[&["fleet", "resume"][..], scope, &["--reason", "it was nothing", "--wait=20s"]].concat());
        for token in [&subject, &given] {
            curl(&["-H", &bearer(token), &url]).is(200);
        }
    }
    // Another key of the issuer's is another key.
    dev.json(&["fleet", "halt", "--issuer", DEV_ISSUER, "--key", "another", "--reason", "x", "--wait=20s"]);
    curl(&["-H", &bearer(&given), &url]).is(200);
    for bad in [&["--key", "k1"][..], &["--issuer", ""], &["--all", "--issuer", DEV_ISSUER]] {
        dev.cli(&[&["fleet", "halt", "--reason", "x"][..], bad].concat()).exits(2);
    }
}

/// How curl shows billing's certificate.
fn mtls(dev: &Dev) -> [String; 6] {
    let path = |file: &str| dev.identity("billing", file).display().to_string();
    let ca = dev.dir().join("ca.pem").display().to_string();
    ["--cacert".into(), ca, "--cert".into(), path("cert.pem"), "--key".into(), path("key.pem")]
}

/// As one finds it out: `openssl x509 -pubkey`, and SHA-256 of its DER.
fn public_key(dev: &Dev) -> String {
    let pem = std::fs::read(dev.identity("billing", "cert.pem")).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.public_key().raw);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_certificates_key_is_refused_with_the_tokens_that_were_given_for_it() {
    let dev = Dev::start();
    dev.grant("billing", "api/orders", &["read"]);
    let mtls = mtls(&dev);
    let mtls: Vec<&str> = mtls.iter().map(String::as_str).collect();
    let form = ["-d", "grant_type=client_credentials", "-d", "resource=api/orders"];
    let endpoint = format!("{}/.portcullis/token", dev.addresses.gateway_tls);
    let given = curl(&[&mtls[..], &form, &[endpoint.as_str()]].concat()).is(200).json();
    let given = bearer(given["access_token"].as_str().unwrap());
    let url = format!("{}{CALL}", dev.addresses.gateway_tls);
    let (by_certificate, by_token) =
        ([&mtls[..], &[url.as_str()]].concat(), [&mtls[..], &["-H", given.as_str(), url.as_str()]].concat());
    for call in [&by_certificate, &by_token] {
        curl(call).is(200);
    }
    let key = public_key(&dev);
    dev.json(&["fleet", "halt", "--key", &key, "--reason", "its key was copied", "--wait=20s"]);
    for call in [&by_certificate, &by_token] {
        curl(call).refuses(401, "credential_halted");
    }
    let refused = curl(&[&mtls[..], &form, &[endpoint.as_str()]].concat());
    assert_eq!((refused.status, &refused.json()["reason"]), (401, &"credential_halted".into()));
    // Nor does the control plane take it.
    let [certificate, private] =
        ["cert.pem", "key.pem"].map(|file| dev.identity("billing", file).display().to_string());
    let asks = ["--auth-cert-file", &certificate, "--auth-key-file", &private, "request", "list"];
    dev.cli(&asks).exits(6);
    // The identity itself, by its token over a connection of its own, goes on.
    let plain = format!("{}{CALL}", dev.addresses.gateway);
    curl(&["-H", &bearer(&dev.token("billing")), &plain]).is(200);
    let status = dev.json(&["fleet", "status"]);
    assert_eq!(status["halts"][0]["scope"], format!("public-key/{key}"));
    dev.json(&["fleet", "resume", "--key", &key, "--reason", "another key is in place", "--wait=20s"]);
    curl(&by_certificate).is(200);
    dev.cli(&asks).exits(0);
}
