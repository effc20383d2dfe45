//! Break-glass, black-box: who gets it, by what proof, once, for how long; who is told; who reviews it.

use serde_json::{Value, json};

use crate::access::{approved, as_person, change, governed};
use crate::dev::{Dev, Done, PATIENCE, curl, eventually};
use crate::world::{Key, now, plain_claims, with};

/// Where the people of `dev` sign in.
const PROVIDER: &str = "https://people.dev.portcullis.local";

/// Runs the command line as somebody with a token, with `-o json`.
fn with_token(dev: &Dev, token: &str, arguments: &[&str]) -> Done {
    let mut command = dev.command(&[&["-o", "json"], arguments].concat());
    Done::of(command.env("PORTCULLIS_TOKEN", token).output().unwrap())
}

/// One of dev's people signs in: their ID token.
fn signs_in(dev: &Dev, person: &str) -> String {
    dev.json(&["dev", "sign-in", person])["token"].as_str().unwrap().to_owned()
}

/// Somebody signs in and breaks glass.
pub(crate) fn opens(dev: &Dev, person: &str, arguments: &[&str]) -> Done {
    with_token(dev, &signs_in(dev, person), &[&["breakglass", "open"], arguments].concat())
}

const WRITES: [&str; 6] = ["--identity", "billing", "--role", "orders-writer", "--reason", "nobody can pay"];

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

fn said(done: &Done) -> String {
    done.error()["message"].as_str().unwrap().to_owned()
}

#[test]
fn an_id_token_lets_break_glass_while_its_auth_time_is_recent_and_nothing_else_does() {
    let dev = governed();
    let key = Key::of_dev(&dev);
    let open = |token: &str| with_token(&dev, token, &[&["breakglass", "open"], &WRITES[..]].concat());
    let claims = || plain_claims(PROVIDER, "portcullis", "alice");
    let of = |auth_time: Value| key.sign(&with(claims(), "auth_time", auth_time));
    // What is fresh about a token is not when it was issued, but when somebody proved who they are.
    for (auth_time, why) in [
        (Value::Null, "nothing says when"),
        ("now".into(), "nothing says when"),
        ((now() - 400).into(), "signed in 4"),
        ((now() - 86_400).into(), "signed in 864"),
        ((now() + 120).into(), "in the future"),
    ] {
        let refused = open(&of(auth_time.clone())).exits(3);
        assert!(said(&refused).contains(why), "{auth_time}: {refused:?}");
    }
    // Nor a token of the control plane's own, nor one of a machine, nor one that a machine got for a person.
    let refused = as_person(&dev, "alice", &[&["breakglass", "open"], &WRITES[..]].concat()).exits(3);
    assert!(said(&refused).contains("auth_time"), "{refused:?}");
    open(&dev.token("billing")).exits(6);
    let acting = with(with(claims(), "auth_time", now().into()), "act", json!({ "sub": "helper" }));
    open(&key.sign(&acting)).exits(6);
    dev.call("billing", "DELETE", "/v1/orders/42").refuses(403, "grant_missing");

    let proof = with(with(claims(), "auth_time", (now() - 200).into()), "amr", json!(["pwd", "otp"]));
    let opened = open(&key.sign(&with(proof, "acr", "urn:strong".into()))).exits(0).json();
    assert_eq!(opened["break_glass"]["signed_in"]["amr"], json!(["pwd", "otp"]));
    assert_eq!(opened["break_glass"]["signed_in"]["acr"], "urn:strong");
    eventually("it is there", PATIENCE, || dev.call("billing", "DELETE", "/v1/orders/42").status == 200);
}

#[test]
fn what_policy_asks_of_the_sign_in_is_held() {
    let dev = governed();
    let key = Key::of_dev(&dev);
    dev.cli(&["policy", "starter", "--out", "policy"]).exits(0);
    let file = dev.home.path().join("policy/access.cedar");
    let rules = std::fs::read_to_string(&file).unwrap();
    let strict = rules.replace(
        "when { context.owns_identity };\n\n// People",
        "when { context.owns_identity && context.amr.contains(\"hwk\") };\n\n// People",
    );
    assert_ne!(rules, strict);
    std::fs::write(&file, strict).unwrap();
    let cases = dev.home.path().join("policy/cases.yaml");
    let text = std::fs::read_to_string(&cases)
        .unwrap()
        .replace("    action: break_glass\n", "    action: break_glass\n    amr: [hwk]\n");
    std::fs::write(cases, text).unwrap();
    approved(&dev, "carol", &change(&dev, &["policy", "publish", "-f", "policy", "--reason", "keys of hardware"]));
    let claims = with(plain_claims(PROVIDER, "portcullis", "alice"), "auth_time", now().into());
    let open = |amr: Value| {
        let token = key.sign(&with(claims.clone(), "amr", amr));
        with_token(&dev, &token, &[&["breakglass", "open"], &WRITES[..]].concat())
    };
    assert!(said(&open(json!(["pwd"])).exits(3)).contains("no rule lets them break glass"));
    open(json!("hwk")).exits(3);
    open(json!(["pwd", "hwk"])).exits(0);
}

/// Row 48 of what approvals must stand: whoever breaks glass twice at the same moment has it once.
#[test]
fn twice_at_the_same_moment_is_once_and_so_is_its_review() {
    let dev = governed();
    let token = signs_in(&dev, "alice");
    let racing = |tokens: &[String], arguments: &[&str]| -> Vec<i32> {
        let command = |token: &String| {
            let mut command = dev.command(&[&["-o", "json"], arguments].concat());
            command
                .env("PORTCULLIS_TOKEN", token)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null());
            command.spawn().unwrap()
        };
        let children: Vec<_> = tokens.iter().map(command).collect();
        children.into_iter().map(|mut child| child.wait().unwrap().code().unwrap()).collect()
    };
    let count = |codes: &[i32], code: i32| codes.iter().filter(|it| **it == code).count();
    let codes = racing(&vec![token; 6], &[&["breakglass", "open"], &WRITES[..]].concat());
    assert_eq!((count(&codes, 0), count(&codes, 5)), (1, 5), "{codes:?}");
    let listed = dev.json(&["breakglass", "list"]);
    assert_eq!(listed["all"].as_array().unwrap().len(), 1);
    assert_eq!(dev.json(&["grant", "list", "--identity", "billing"])["grants"].as_array().unwrap().len(), 1);
    let id = text(&listed, "/all/0/id").to_owned();

    // Two reviewers at the same moment: one verdict, and the others are told whose.
    let person = |name: &str| std::fs::read_to_string(dev.dir().join("people").join(name)).unwrap().trim().to_owned();
    let reviewers: Vec<String> = ["bob", "carol", "administrator", "bob", "carol"].map(person).to_vec();
    let codes = racing(&reviewers, &["breakglass", "review", &id, "--verdict", "unjustified", "--comment", "no"]);
    assert_eq!((count(&codes, 0), count(&codes, 5)), (1, 4), "{codes:?}");
    let mut told = Value::Null;
    eventually("the evidence tells of one of each", PATIENCE, || {
        let done = dev.cli(&["-o", "json", "evidence", "explain", &id]);
        if done.code == 0 {
            told = done.json();
        }
        told["timeline"].as_array().is_some_and(|lines| lines.iter().any(|line| line["what"] == "breakglass.reviewed"))
    });
    let times = |what: &str| told["timeline"].as_array().unwrap().iter().filter(|line| line["what"] == what).count();
    assert_eq!((times("breakglass.opened"), times("breakglass.reviewed")), (1, 1), "{told}");
    assert_eq!(
        (told["subject"].as_str(), told["break_glass"]["opener"].as_str()),
        (Some("break_glass"), Some("alice"))
    );
}

#[test]
fn it_is_opened_listed_and_reviewed_over_http_as_on_the_command_line() {
    let dev = governed();
    let http = |token: &str, method: &str, path: &str, body: Option<Value>| {
        let (bearer, url) = (format!("Authorization: Bearer {token}"), format!("{}{path}", dev.addresses.http));
        let body = body.map(|body| body.to_string());
        let mut arguments = vec!["-X", method, "-H", &bearer, &url];
        if let Some(body) = &body {
            arguments.extend(["-H", "Content-Type: application/json", "--data-binary", body]);
        }
        curl(&arguments)
    };
    let person = |name: &str| std::fs::read_to_string(dev.dir().join("people").join(name)).unwrap().trim().to_owned();
    let open = json!({ "identity": "billing", "role": "orders-writer", "duration": "5m", "reason": "nobody can pay", "wait": "20s" });
    assert_eq!(http(&person("alice"), "POST", "/v1/break-glass", Some(open.clone())).is(403).json()["code"], "denied");
    let alice = signs_in(&dev, "alice");
    let opened = http(&alice, "POST", "/v1/break-glass", Some(open)).is(200).json();
    assert_eq!((&opened["enforced"], &opened["break_glass"]["state"]), (&json!(true), &json!("open")));
    assert_eq!(opened["grants"][0]["lineage"]["break_glass"], opened["break_glass"]["id"]);
    dev.call("billing", "DELETE", "/v1/orders/42").is(200);
    let id = text(&opened, "/break_glass/id").to_owned();
    let shown = http(&alice, "GET", &format!("/v1/break-glass/{id}"), None).is(200).json();
    assert_eq!(shown, dev.json(&["breakglass", "show", &id]));
    assert_eq!(http(&alice, "GET", "/v1/break-glass", None).is(200).json(), dev.json(&["break-glass", "list"]));
    let review = json!({ "verdict": "justified", "comment": "it was down" });
    let path = format!("/v1/break-glass/{id}/review");
    assert_eq!(http(&alice, "POST", &path, Some(review.clone())).is(403).json()["code"], "denied");
    let closed = http(&person("bob"), "POST", &path, Some(review.clone())).is(200).json();
    assert_eq!(closed["break_glass"]["review"]["by"], "bob");
    assert_eq!(http(&person("carol"), "POST", &path, Some(review)).is(409).json()["code"], "conflict");
    eventually("what lived of it ended with its review", PATIENCE, || {
        dev.call("billing", "DELETE", "/v1/orders/42").status == 403
    });
}
