//! Who asks the control plane, by tokens of others: people who sign in at a provider that nobody here wrote, and machines by
//! their issuers' tokens.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{ChildStderr, Command, Stdio};

use serde_json::{Value, json};

use crate::clients::{clients, script};
use crate::dev::{Done, Stream, command, curl, eventually, run};
use crate::world::{AUDIENCE, Fleet, ISSUER, Key, Upstream, jwks, now, plain_claims, with};

const CONTROL: &str = "https://control.test";

/// A fleet whose control plane runs with settings that `edit` has changed, and with these people.
fn fleet(upstream: &Upstream, people: &[&str], edit: impl FnOnce(&mut Value)) -> Fleet {
    let mut fleet = Fleet::of(upstream.address, &[]);
    let config = fleet.home.path().join("control.yaml");
    let mut settings: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    settings["http_address"] = crate::world::free_address().to_string().into();
    edit(&mut settings);
    std::fs::write(&config, settings.to_string()).unwrap();
    fleet.control.kill();
    let mut init = vec!["control", "init", "-c", "control.yaml"];
    init.extend(people.iter().flat_map(|person| ["--person", person]));
    run(fleet.home.path(), &init).exits(0);
    fleet.restart_control();
    fleet
}

/// What the HTTP API says to `GET /v1/me` with this token: who it is, or why nobody.
fn me(fleet: &Fleet, token: &str) -> Result<String, String> {
    let settings = std::fs::read(fleet.home.path().join("control.yaml")).unwrap();
    let settings: Value = serde_json::from_slice(&settings).unwrap();
    let url = format!("http://{}/v1/me", settings["http_address"].as_str().unwrap());
    let answer = curl(&["-H", &format!("Authorization: Bearer {token}"), &url]);
    let body = answer.json();
    match answer.status {
        200 => Ok(format!("{} {}", body["kind"].as_str().unwrap(), body["name"].as_str().unwrap())),
        401 => Err(body["detail"].as_str().unwrap().to_owned()),
        other => panic!("{other}: {body}"),
    }
}

/// A provider with everybody in it, and a user's command line with a context that signs in there.
struct Provider {
    _process: Stream,
    issuer: String,
}

impl Provider {
    fn start(id_token_seconds: u32) -> Self {
        let mut node = Command::new("node");
        node.arg(script("provider.mjs")).arg(id_token_seconds.to_string());
        node.env("NODE_PATH", clients().join("node_modules"));
        let process = Stream::of(node);
        let issuer = process.line("http://127.0.0.1:").trim().to_owned();
        Self { _process: process, issuer }
    }

    fn settings(&self) -> Value {
        json!({ "issuer": self.issuer, "client_id": "portcullis", "jwks_url": format!("{}/jwks", self.issuer) })
    }

    /// Somebody signs in at a page of it: the page that they end at.
    fn browse(&self, url: &str, login: &str, code: Option<&str>) -> String {
        assert!(url.starts_with(&self.issuer), "{url}");
        let mut browser = Command::new("node");
        browser.arg(script("browser.mjs")).args([url, login]).args(code).stdin(Stdio::null());
        Done::of(browser.output().unwrap()).exits(0).stdout
    }
}

/// A person's command line: a context, and nothing else that says who they are.
fn context(fleet: &Fleet, provider: &Provider) {
    let ca = fleet.home.path().join("control/ca/ca.pem");
    let sign_in = json!({ "issuer": provider.issuer, "client_id": "portcullis" });
    let context = json!({ "address": fleet.address, "ca_file": ca, "sign_in": sign_in });
    let dir = fleet.home.path().join(".config/portcullis");
    std::fs::create_dir_all(&dir).unwrap();
    let config = json!({ "current": "test", "contexts": { "test": context } });
    std::fs::write(dir.join("config.yaml"), config.to_string()).unwrap();
}

/// The one file that is kept of who signed in.
fn kept(fleet: &Fleet) -> Option<PathBuf> {
    let dir = fleet.home.path().join(".config/portcullis/signed-in");
    let files = std::fs::read_dir(dir).ok()?.map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.next()
}

fn line(stderr: &mut BufReader<ChildStderr>, part: &str) -> String {
    let mut line = String::new();
    while stderr.read_line(&mut line).unwrap() > 0 {
        if line.contains(part) {
            return line.trim().to_owned();
        }
        line.clear();
    }
    panic!("ended before it said `{part}`");
}

/// `portcullis login`, with somebody before the browser.
fn login(fleet: &Fleet, provider: &Provider, who: &str, device: bool) -> Done {
    login_with(fleet, provider, who, device, &[])
}

fn login_with(fleet: &Fleet, provider: &Provider, who: &str, device: bool, more: &[&str]) -> Done {
    let mut login = command(fleet.home.path());
    login.args(["-o", "json", "login"]).args(device.then_some("--device")).args(more);
    let mut child = login.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let page = if device {
        let at = line(&mut stderr, "enter this code");
        let url = at.split_whitespace().nth(1).unwrap();
        let code = line(&mut stderr, "-");
        provider.browse(url, who, Some(&code))
    } else {
        let url = line(&mut stderr, &provider.issuer);
        provider.browse(&url, who, None)
    };
    assert!(page.starts_with("200 "), "{page}");
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut errors).unwrap();
    let output = child.wait_with_output().unwrap();
    let mut done = Done::of(output);
    done.stderr = errors;
    done
}

#[test]
fn people_sign_in_by_browser_or_by_code_and_are_who_their_account_says() {
    let (upstream, provider) = (Upstream::ok(), Provider::start(30));
    let fleet = fleet(&upstream, &["alice=developer", "bob=owner", "orders=owner", "carol=security"], |settings| {
        settings["sign_in"] = provider.settings()
    });
    fleet.apply(
        "kind: Identity\nname: reporter\nspec: { kind: agent, owner: alice, purpose: tests, environment: test }\n",
    );
    fleet.cli(&["policy", "publish", "--starter", "--reason", "to begin with"]).exits(0);
    context(&fleet, &provider);
    let portcullis = |arguments: &[&str]| run(fleet.home.path(), &[&["-o", "json"][..], arguments].concat());

    let refused = portcullis(&["request", "list"]).exits(6);
    assert!(refused.error()["message"].as_str().unwrap().contains("portcullis login"), "{refused:?}");

    let signed = login(&fleet, &provider, "alice", false).exits(0).json();
    assert_eq!(
        (&signed["name"], &signed["roles"], &signed["renewable"]),
        (&json!("alice"), &json!(["developer"]), &json!(true))
    );
    let file = kept(&fleet).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let first = std::fs::read_to_string(&file).unwrap();

    // Its half a minute is less than a command may take: it is refreshed, and the refresh token with it.
    let ask = ["request", "create", "--identity", "reporter", "--resource", "api/orders", "--action", "read"];
    let asked = portcullis(&[&ask[..], &["--duration", "4h", "--reason", "a look"]].concat()).exits(0).json();
    assert_eq!(asked.pointer("/request/requester/person"), Some(&json!("alice")), "{asked}");
    let second = std::fs::read_to_string(&file).unwrap();
    assert_ne!(first, second);
    // Several at once: a refresh token is taken once, and each of them is served.
    let mut all: Vec<_> = (0..6)
        .map(|_| {
            command(fleet.home.path()).args(["-o", "json", "request", "list"]).stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for child in &mut all {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }

    assert_eq!(portcullis(&["logout"]).exits(0).json()["signed_out"], true);
    assert_eq!(kept(&fleet), None);
    portcullis(&["request", "list"]).exits(6);
    assert_eq!(portcullis(&["logout"]).exits(0).json()["signed_out"], false);

    assert_eq!(login(&fleet, &provider, "bob", true).exits(0).json()["name"], "bob");
    portcullis(&["request", "list"]).exits(0);
    portcullis(&["apply", "-f", "catalog.yaml"]).exits(3);

    // Whom nobody here knows has signed in for nothing, and nothing of it is kept.
    portcullis(&["logout"]).exits(0);
    let stranger = login(&fleet, &provider, "mallory", false).exits(6);
    assert!(stranger.stderr.contains("whom nobody here knows"), "{}", stranger.stderr);
    assert_eq!(kept(&fleet), None);

    // What signs somebody in is in no log.
    let log = fleet.control.log();
    for token in [&first, &second] {
        let token: Value = serde_json::from_str(token).unwrap();
        assert!(!log.contains(token["id_token"].as_str().unwrap()));
    }
}

/// What `auth_time` says is the provider's word for when somebody proved who they are; it is asked for, and a refresh keeps it.
#[test]
fn who_signs_in_anew_may_break_glass_and_who_signed_in_otherwise_may_not() {
    let (upstream, provider) = (Upstream::ok(), Provider::start(30));
    let fleet = fleet(&upstream, &["alice=developer", "carol=security"], |settings| {
        settings["sign_in"] = provider.settings();
    });
    fleet.apply(
        "kind: Identity\nname: reporter\nspec: { kind: agent, owner: alice, purpose: tests, environment: test }\n",
    );
    fleet.cli(&["policy", "publish", "--starter", "--reason", "to begin with"]).exits(0);
    context(&fleet, &provider);
    let open = || {
        let open = ["-o", "json", "breakglass", "open", "--identity", "reporter", "--resource", "api/orders"];
        run(fleet.home.path(), &[&open[..], &["--action", "read", "--reason", "it is down"]].concat())
    };
    login(&fleet, &provider, "alice", false).exits(0);
    let refused = open().exits(3);
    assert!(refused.error()["message"].as_str().unwrap().contains("login --fresh"), "{refused:?}");
    login_with(&fleet, &provider, "alice", false, &["--fresh"]).exits(0);
    let opened = open().exits(0).json();
    let signed_in = &opened["break_glass"]["signed_in"];
    assert_eq!((&signed_in["issuer"], &opened["break_glass"]["opener"]), (&json!(provider.issuer), &json!("alice")));
}

#[test]
fn an_answer_to_another_sign_in_is_waited_past_and_a_refusal_ends_it() {
    let (upstream, provider) = (Upstream::ok(), Provider::start(3600));
    let fleet = fleet(&upstream, &["alice=developer"], |settings| settings["sign_in"] = provider.settings());
    context(&fleet, &provider);
    let begin = || {
        let mut login = command(fleet.home.path());
        login.args(["-o", "json", "login"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = login.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let url = line(&mut stderr, &provider.issuer);
        let parameter = |name: &str| {
            let (_, rest) = url.split_once(&format!("{name}=")).unwrap();
            rest.split('&').next().unwrap().replace("%3A", ":").replace("%2F", "/")
        };
        let (redirect, state) = (parameter("redirect_uri"), parameter("state"));
        (child, stderr, url, redirect, state)
    };
    // A page that guesses: another state, none, two of them. Then a code that is none, from another issuer.
    let (mut child, _stderr, url, redirect, state) = begin();
    for query in ["code=x&state=y", "code=x", "", &format!("state={state}&state={state}&code=x")] {
        assert_eq!(curl(&[&format!("{redirect}?{query}")]).status, 400, "{query}");
    }
    assert!(provider.browse(&url, "alice", None).contains("Signed in"));
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let (mut child, mut stderr, _, redirect, state) = begin();
    curl(&[&format!("{redirect}?code=x&state={state}&iss=https://other.example")]);
    assert_eq!(child.wait().unwrap().code(), Some(6));
    assert!(line(&mut stderr, "error").contains("another issuer answered"));

    let (mut child, mut stderr, _, redirect, state) = begin();
    curl(&["-g", &format!("{redirect}?error=access_denied&error_description=no%1b[31m&state={state}")]);
    assert_eq!(child.wait().unwrap().code(), Some(6));
    let said = line(&mut stderr, "error");
    assert!(said.contains("access_denied") && !said.contains('\u{1b}'), "{said}");

    // A code of nobody's: the provider refuses it.
    let (mut child, _stderr, _, redirect, state) = begin();
    curl(&[&format!("{redirect}?code=x&state={state}&iss={}", provider.issuer)]);
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

#[test]
fn only_an_id_token_for_this_control_plane_alone_makes_somebody_a_person() {
    let (upstream, key, other) = (Upstream::ok(), Key::es256("p1"), Key::es256("p1"));
    let provider = "https://id.test";
    let fleet = fleet(&upstream, &["alice=developer"], |settings| {
        settings["sign_in"] = json!({ "issuer": provider, "client_id": "portcullis", "jwks_file": "provider.json" });
    });
    std::fs::write(fleet.home.path().join("provider.json"), jwks(&[&key])).unwrap();
    let good = || with(plain_claims(provider, "portcullis", "8d2f"), "preferred_username", "alice".into());
    eventually("its keys were read", crate::dev::PATIENCE, || me(&fleet, &key.sign(&good())).is_ok());
    assert_eq!(me(&fleet, &key.sign(&good())).unwrap(), "person alice");

    let refused = |claims: Value, why: &str| {
        let said = me(&fleet, &key.sign(&claims)).expect_err(why);
        assert!(said.contains(why), "{said}");
    };
    refused(with(good(), "aud", "another".into()), "audience");
    refused(with(good(), "aud", json!(["portcullis", "another"])), "alone");
    refused(with(good(), "azp", "another".into()), "alone");
    refused(with(good(), "scope", "openid".into()), "alone");
    assert!(me(&fleet, &key.sign(&with(good(), "azp", "portcullis".into()))).is_ok());
    refused(with(good(), "exp", (now() - 60).into()), "expired");
    refused(with(good(), "exp", (now() + 200_000).into()), "lifetime");
    refused(with(good(), "events", json!({ "http://schemas.openid.net/event/backchannel-logout": {} })), "type");
    refused(with(good(), "act", json!({ "sub": "an agent" })), "acts for another");
    refused(with(good(), "cnf", json!({ "x5t#S256": "A".repeat(43) })), "bound to a client certificate");
    refused(with(good(), "preferred_username", Value::Null), "names a person");
    refused(with(good(), "preferred_username", json!(["alice"])), "names a person");
    refused(with(good(), "preferred_username", "Alice".into()), "names a person");
    refused(with(good(), "preferred_username", "mallory".into()), "whom nobody here knows");
    refused(with(good(), "preferred_username", "administrator".into()), "its token's alone");
    refused(with(good(), "iss", "https://other.test".into()), "not trusted");
    assert!(me(&fleet, &other.sign(&good())).expect_err("another key").contains("signature"));
    // A document describes somebody: it lets nobody in where the settings do not say so.
    fleet.apply("kind: Person\nname: dana\nspec: { email: dana@example.org }\n");
    refused(with(good(), "preferred_username", "dana".into()), "whom nobody here knows");
}

#[test]
fn somebody_with_a_document_is_let_in_where_the_settings_say_so_by_a_verified_address() {
    let (upstream, key) = (Upstream::ok(), Key::es256("p1"));
    let provider = "https://id.test";
    let fleet = fleet(&upstream, &[], |settings| {
        settings["sign_in"] = json!({ "issuer": provider, "client_id": "portcullis", "jwks_file": "provider.json",
                                      "person": "email", "documented": true });
    });
    std::fs::write(fleet.home.path().join("provider.json"), jwks(&[&key])).unwrap();
    let person = |name: &str, email: &str| format!("kind: Person\nname: {name}\nspec: {{ email: {email} }}\n---\n");
    fleet.apply(&format!(
        "{}{}{}",
        person("dana", "dana@example.org"),
        person("one", "both@x.org"),
        person("two", "both@x.org")
    ));
    let of = |email: &str, verified: Value| {
        let claims = with(plain_claims(provider, "portcullis", "8d2f"), "email", email.into());
        me(&fleet, &key.sign(&with(claims, "email_verified", verified)))
    };
    eventually("its keys were read", crate::dev::PATIENCE, || of("dana@example.org", true.into()).is_ok());
    assert_eq!(of("Dana@Example.org", true.into()).unwrap(), "person dana");
    for (email, verified) in [
        ("dana@example.org", false.into()),
        ("dana@example.org", "true".into()),
        ("dana@example.org", Value::Null),
        ("both@x.org", true.into()),
        ("eve@example.org", true.into()),
    ] {
        assert!(of(email, verified.clone()).is_err(), "{email} {verified}");
    }
}

#[test]
fn a_machine_asks_for_itself_with_a_token_of_its_issuer_meant_for_the_control_plane() {
    let upstream = Upstream::ok();
    let fleet = fleet(&upstream, &[], |settings| {
        settings["issuers"] = json!([{ "issuer": ISSUER, "jwks_file": "jwks.json", "audiences": [CONTROL] }]);
    });
    let good = || plain_claims(ISSUER, CONTROL, "billing");
    let token = |claims: &Value| fleet.key.sign(claims);
    eventually("its keys were read", crate::dev::PATIENCE, || me(&fleet, &token(&good())).is_ok());
    assert_eq!(me(&fleet, &token(&good())).unwrap(), "identity billing");
    fleet.cli(&["policy", "publish", "--starter", "--reason", "to begin with"]).exits(0);

    let ask =
        ["-o", "json", "request", "create", "--identity", "billing", "--resource", "api/orders", "--action", "read"];
    let asked = |token: &str| {
        let mut ask = fleet.command(&[&ask[..], &["--duration", "10m", "--reason", "a run"]].concat());
        Done::of(ask.env("PORTCULLIS_TOKEN", token).output().unwrap())
    };
    let made = asked(&token(&good())).exits(0).json();
    assert_eq!(made.pointer("/request/requester/identity"), Some(&json!("billing")), "{made}");
    // For itself alone, and nothing but that.
    let other = fleet.command(&["-o", "json", "grant", "list"]).env("PORTCULLIS_TOKEN", token(&good())).output();
    Done::of(other.unwrap()).exits(3);

    // What a gateway takes is nothing here: a gateway that was broken into has many of those.
    asked(&token(&with(good(), "aud", AUDIENCE.into()))).exits(6);
    asked(&token(&with(good(), "sub", "nobody".into()))).exits(6);
    asked(&token(&with(good(), "exp", (now() - 60).into()))).exits(6);
    asked(&Key::es256("k1").sign(&good())).exits(6);
    asked(&token(&with(good(), "act", json!({ "sub": "another" })))).exits(6);
    // A key that was halted speaks for nobody here either.
    let root = ["--issuer", ISSUER, "--reason", "its key leaked"];
    for (which, resumed) in
        [(&root[..], &root[..2]), (&[&root[..], &["--key", "k1"]].concat(), &["--issuer", ISSUER, "--key", "k1"])]
    {
        fleet.cli(&[&["fleet", "halt"], which].concat()).exits(0);
        let stopped = asked(&token(&good())).exits(6);
        assert!(stopped.error()["message"].as_str().unwrap().contains("stands still"), "{stopped:?}");
        fleet.cli(&[&["fleet", "resume", "--reason", "another key is in place"], resumed].concat()).exits(0);
        assert_eq!(me(&fleet, &token(&good())).unwrap(), "identity billing");
    }
    fleet.cli(&["identity", "quarantine", "billing", "--reason", "a leak"]).exits(0);
    let aside = asked(&token(&good())).exits(6);
    assert!(aside.error()["message"].as_str().unwrap().contains("no identity that is active"), "{aside:?}");
}
