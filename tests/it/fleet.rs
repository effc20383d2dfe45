//! Gateways as the control plane knows them: their signed word, their logs, and one that is expelled.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::client::target::ClientCertificate;
use portcullis::client::{Client, Target};
use portcullis::evidence::checkpoint::VerifierKey;
use portcullis::evidence::statement::StatementKind;
use portcullis::wire::v1;
use prost::Message as _;
use rustix::process::Signal;
use serde_json::Value;

use crate::dev::{PATIENCE, Raw, START, curl, eventually, run};
use crate::world::{Fleet, Gate, Upstream, ends};

const CALL: &str = "/v1/orders/7";

fn edge(fleet: &Fleet) -> Value {
    fleet.json(&["fleet", "status"])["gateways"][0].clone()
}

fn cosigned(fleet: &Fleet) -> u64 {
    edge(fleet)["log"]["cosigned_size"].as_u64().unwrap_or_default()
}

fn stop(mut gate: Gate) {
    gate.process.signal(Signal::TERM);
    eventually("the gateway has ended", START, || gate.process.ended().is_some());
}

/// Makes calls until more than `size` records are cosigned.
fn grow(fleet: &Fleet, gate: &Gate, size: u64) -> u64 {
    let bearer = fleet.bearer();
    eventually("more is cosigned", PATIENCE, || {
        gate.get(&bearer, CALL).is(200);
        cosigned(fleet) > size
    });
    cosigned(fleet)
}

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

/// What the control plane's evidence says was done.
fn told(fleet: &Fleet, operation: &str) -> usize {
    let log = fleet.home.path().join("control/evidence");
    let query = run(fleet.home.path(), &["-o", "json", "evidence", "query", log.to_str().unwrap()]).exits(0);
    query.stdout.lines().filter(|line| line.contains(&format!("\"{operation}\""))).count()
}

#[test]
fn a_receipt_holds_the_gateways_signed_word_and_its_log_is_cosigned() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|_| {}).ready();
    let grant = fleet.grant("--wait=20s");
    grow(&fleet, &gate, 0);
    let revoked = fleet.json(&["grant", "revoke", &grant, "--reason", "over", "--wait=20s"]);
    let receipt = &revoked["gateways"][0];
    assert_eq!((&receipt["state"], &receipt["connected"]), (&"enforced".into(), &true.into()), "{receipt}");
    let text = |name: &str| receipt["statement"][name].as_str().unwrap_or_else(|| panic!("{receipt}"));
    let (payload, signature) = (STANDARD.decode(text("payload")).unwrap(), STANDARD.decode(text("signature")).unwrap());
    let key: VerifierKey = text("key").parse().unwrap();
    assert!(key.stated(StatementKind::Applied, &payload, &signature));
    let applied = v1::Applied::decode(payload.as_slice()).unwrap();
    assert!(applied.revision >= revoked["revision"].as_u64().unwrap());
    assert_eq!(applied.log, "portcullis/gateway/edge");
    // The same key signs the log, which also the control plane's key vouches for.
    let status = edge(&fleet);
    assert_eq!(status["log"]["key"], text("key"));
    let cosigner = std::fs::read_to_string(fleet.home.path().join("control/ca/control.vkey")).unwrap();
    let verify = |cosigner: &str| {
        let verify =
            ["-o", "json", "evidence", "verify", "edge/evidence", "--key", text("key"), "--cosigner", cosigner];
        run(fleet.home.path(), &verify)
    };
    let verified = verify(cosigner.trim()).exits(0).json();
    assert!(verified["cosigned"].is_string() && verified["cosigned_size"].as_u64() > Some(0), "{verified}");
    let other = portcullis::evidence::checkpoint::EvidenceKey::generate().unwrap().0;
    let name = "test.example/portcullis/control".parse().unwrap();
    let other = portcullis::evidence::cosignature::CosignerKey::of(&other, &name).to_string();
    verify(&other).exits(8);
}

#[test]
fn a_log_put_back_from_a_copy_gets_no_authority_before_it_is_sealed() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let at = |name: &str| fleet.home.path().join(name);
    let gate = fleet.gateway(|_| {}).ready();
    fleet.grant("--wait=20s");
    grow(&fleet, &gate, 0);
    stop(gate);
    copy(&at("edge"), &at("backup"));
    let gate = fleet.gateway(|_| {}).ready();
    let size = cosigned(&fleet);
    grow(&fleet, &gate, size + 20);
    let sealing = ["-o", "json", "gateway", "seal", "-c", "gateway.yaml"];
    let running = run(fleet.home.path(), &sealing);
    assert!(running.code != 0 && running.stderr.contains("stop the gateway first"), "{running:?}");
    stop(gate);
    std::fs::rename(at("edge"), at("lost")).unwrap();
    std::fs::rename(at("backup"), at("edge")).unwrap();

    let gate = fleet.gateway(|_| {});
    gate.process.says("the stream to the control plane is over");
    eventually("its log is refused, in the evidence too", PATIENCE, || told(&fleet, "log.refused") > 0);
    let (bearer, seen) = (fleet.bearer(), upstream.seen());
    assert_eq!(gate.get(&bearer, CALL).status, 503);
    assert_eq!(curl(&[&format!("{}/readyz", gate.admin)]).status, 503);
    assert_eq!(upstream.seen(), seen);
    assert!(gate.process.log().contains("gateway seal"), "it says what to do");
    stop(gate);
    let sealed = run(fleet.home.path(), &sealing).exits(0).json();
    assert_eq!(sealed["next"], 2);
    let gate = fleet.gateway(|_| {}).ready();
    gate.get(&bearer, CALL).is(200);
    let status = edge(&fleet);
    assert_eq!(status["log"]["sealed"], 1, "{status}");
    assert!(status["log"]["key"].as_str().unwrap().starts_with("portcullis/gateway/edge/2+"), "{status}");
    eventually("the new log is noted", PATIENCE, || told(&fleet, "log.replaced") == 1);
    run(fleet.home.path(), &["evidence", "verify", "edge/evidence.sealed-1"]).exits(0);
    run(fleet.home.path(), &["evidence", "verify", "edge/evidence"]).exits(0);
}

#[test]
fn an_expelled_gateway_has_no_authority_again_and_one_without_its_key_is_readmitted() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|_| {}).ready();
    fleet.grant("--wait=20s");
    grow(&fleet, &gate, 0);
    stop(gate);
    // Its disk is gone, and with it its key.
    std::fs::rename(fleet.home.path().join("edge"), fleet.home.path().join("gone")).unwrap();
    let gate = fleet.gateway(|_| {});
    eventually("its new key is refused", PATIENCE, || gate.process.log().contains("fleet readmit edge"));
    let bearer = fleet.bearer();
    assert_eq!(gate.get(&bearer, CALL).status, 503);
    fleet.cli(&["fleet", "readmit", "edge", "--reason", "its disk died"]).exits(0);
    let gate = gate.ready();
    gate.get(&bearer, CALL).is(200);

    fleet.cli(&["fleet", "expel", "nobody", "--reason", "x"]).exits(4);
    fleet.cli(&["fleet", "expel", "edge"]).exits(2);
    let expelled = fleet.json(&["fleet", "expel", "edge", "--reason", "stolen"]);
    assert_eq!(expelled["standing"], "expelled");
    fleet.json(&["fleet", "expel", "edge", "--reason", "again"]);
    assert_eq!(told(&fleet, "gateway.expelled"), 1);
    // The sensitive resource stops within its bound, and stays stopped.
    let bound = Duration::from_secs(30);
    eventually("its authority has run out", bound, || gate.get(&bearer, CALL).status == 503);
    assert!(gate.process.log().contains("was expelled"));
    let again = ["control", "init", "-c", "control.yaml", "--gateway", "edge"];
    drop(gate);
    let mut control = fleet.control;
    control.signal(Signal::TERM);
    eventually("the control plane has ended", START, || control.ended().is_some());
    let refused = run(fleet.home.path(), &again);
    assert!(refused.code != 0 && refused.stderr.contains("another name"), "{refused:?}");
}

#[test]
fn the_red_button_stops_everything_and_lets_it_go_on() {
    let upstream = Upstream::start(|head, stream| {
        if head.contains("/events") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n");
            let _ = ends(stream);
        } else {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    });
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|_| {}).ready();
    fleet.grant("--wait=20s");
    let bearer = fleet.bearer();
    for scope in [&["--all"][..], &["--resource", "api/orders"]] {
        gate.get(&bearer, CALL).is(200);
        let mut open = Raw::connect(&gate.url);
        open.send(format!("GET /v1/orders/events HTTP/1.1\r\nHost: a\r\n{bearer}\r\n\r\n")).until("data: 1");
        let halt = [&["fleet", "halt"][..], scope, &["--reason", "a leak", "--wait=20s"]].concat();
        let halted = fleet.json(&halt);
        assert_eq!(halted["enforced"], true, "{halted}");
        let cut = &halted["gateways"][0]["cut"][0];
        assert_eq!(cut["reason"], "halted", "{halted}");
        assert!(open.to_end().contains("data: 1"));
        let seen = upstream.seen();
        gate.get(&bearer, CALL).refuses(503, "halted");
        assert_eq!(upstream.seen(), seen);
        let asked = fleet.cli(&["-o", "json", "can-i", "--as", "billing", "read", "api/orders"]).exits(3);
        assert_eq!(asked.json()["reason"], "halted");
        // Grants stay as they were, and a restart changes nothing.
        assert_eq!(fleet.json(&["grant", "list"])["grants"].as_array().unwrap().len(), 1);
        let status = fleet.json(&["fleet", "status"]);
        assert_eq!(
            (&status["halts"][0]["reason"], &status["halts"][0]["by"]),
            (&"a leak".into(), &"administrator".into())
        );
        fleet.json(&halt);
        fleet.json(&[&["fleet", "resume"][..], scope, &["--reason", "nothing", "--wait=20s"]].concat());
        gate.get(&bearer, CALL).is(200);
    }
    fleet.cli(&["fleet", "resume", "--all", "--reason", "again"]).exits(4);
    fleet.cli(&["fleet", "halt", "--reason", "what?"]).exits(2);
    fleet.cli(&["fleet", "halt", "--resource", "api/none", "--reason", "x"]).exits(4);
    assert_eq!((told(&fleet, "halt.begun"), told(&fleet, "halt.ended")), (2, 2));
    // It holds over a restart of the gateway, and of the control plane.
    fleet.json(&["fleet", "halt", "--all", "--reason", "over a restart", "--wait=20s"]);
    stop(gate);
    let mut fleet = fleet;
    fleet.control.signal(Signal::TERM);
    eventually("the control plane has ended", START, || fleet.control.ended().is_some());
    fleet.restart_control();
    let gate = fleet.gateway(|_| {}).ready();
    gate.get(&bearer, CALL).refuses(503, "halted");
}

#[test]
fn a_gateway_joins_once_with_an_invitation_and_its_keys_stay_with_it() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let at = |name: &str| fleet.home.path().join(name);
    let settings = |name: &'static str| {
        move |config: &mut Value| {
            config["name"] = name.into();
            config["state_dir"] = name.into();
            config["listen"].as_array_mut().unwrap().truncate(1);
            for (key, file) in [("ca_file", "ca.pem"), ("certificate_file", "gateway.pem"), ("key_file", "gateway.key")]
            {
                config["control"][key] = format!("{name}/{file}").into();
            }
        }
    };
    // Writes the settings; without a certificate it reaches nobody.
    drop(fleet.gateway(settings("west")));
    let invite = |name: &str, out: &str| {
        fleet.cli(&["fleet", "invite", name, "--host", "west.internal", "--out", at(out).to_str().unwrap()])
    };
    invite("west", "west.json").exits(0);
    invite("west", "west.json").exits(5);
    let invitation: Value = serde_json::from_slice(&std::fs::read(at("west.json")).unwrap()).unwrap();
    let text = |name: &str| invitation[name].as_str().unwrap().to_owned();
    // The secret is good for joining alone.
    let mut command = fleet.command(&["grant", "list"]);
    assert_eq!(command.env("PORTCULLIS_TOKEN", text("token")).output().unwrap().status.code(), Some(3));
    std::fs::copy(at("west.json"), at("copy.json")).unwrap();
    std::fs::write(at("forged.json"), std::fs::read_to_string(at("west.json")).unwrap().replace("pcj_", "pcj_x"))
        .unwrap();
    for file in ["copy.json", "forged.json"] {
        std::fs::set_permissions(at(file), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let join = |file: &str| {
        run(fleet.home.path(), &["-o", "json", "gateway", "join", "-c", "gateway.yaml", "--invitation", file])
    };
    assert_ne!(join("forged.json").code, 0);
    invite("east", "east.json").exits(0);
    let other = join("east.json");
    assert!(other.code != 0 && other.stderr.contains("is for gateway east"), "{other:?}");
    let joined = join("west.json").exits(0).json();
    assert_eq!(joined["gateway"], "west");
    assert!(!at("west.json").exists(), "it is spent");
    let again = join("copy.json");
    assert_ne!(again.code, 0, "{again:?}");
    let gate = fleet.gateway(settings("west")).ready();
    // The other one that is recorded never came.
    fleet.grant("");
    eventually("the grant is there", PATIENCE, || gate.get(&fleet.bearer(), CALL).status == 200);
    let status = fleet.json(&["fleet", "status"]);
    let west = status["gateways"].as_array().unwrap().iter().find(|gateway| gateway["name"] == "west").unwrap();
    assert!(west["connected"] == true && west["log"]["key"].as_str().unwrap().starts_with("portcullis/gateway/west+"));
    let control = walk(&at("control"));
    let key = std::fs::read_to_string(at("west/gateway.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!crate::world::holds(&control, secret) && !crate::world::holds(&control, &text("token")));
    assert_eq!((told(&fleet, "gateway.joined"), told(&fleet, "gateway.invited")), (1, 2));
    // Its state is lost, keys and all: a new invitation, and it is the same gateway with a new log.
    stop(gate);
    std::fs::rename(at("west"), at("lost-west")).unwrap();
    invite("west", "west.json").exits(0);
    join("west.json").exits(0);
    let gate = fleet.gateway(settings("west")).ready();
    gate.get(&fleet.bearer(), CALL).is(200);
    fleet.cli(&["fleet", "expel", "west", "--reason", "stolen"]).exits(0);
    invite("west", "more.json").exits(5);
}

#[test]
fn a_certificate_near_its_end_is_renewed_for_the_key_that_is_there() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let at = |name: &str| fleet.home.path().join(name);
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    let ca = rcgen::KeyPair::from_pem(&read("control/ca/ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("control/ca/ca.pem"), ca).unwrap();
    let key = rcgen::KeyPair::from_pem(&read("control/gateways/edge/gateway.key")).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let id = "spiffe://test.example/gateway/edge".to_owned().try_into().unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(id));
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(crate::world::now().try_into().unwrap());
    params.not_before = now - Duration::from_secs(7_200);
    params.not_after = now + Duration::from_secs(1_200);
    std::fs::write(at("control/gateways/edge/gateway.pem"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    let before = read("control/gateways/edge/gateway.pem");
    let gate = fleet.gateway(|_| {}).ready();
    eventually("it is renewed", PATIENCE, || read("control/gateways/edge/gateway.pem") != before);
    eventually("it is noted", PATIENCE, || told(&fleet, "gateway.certified") == 1);
    stop(gate);
    let gate = fleet.gateway(|_| {}).ready();
    fleet.grant("--wait=20s");
    gate.get(&fleet.bearer(), CALL).is(200);
}

#[test]
fn a_drill_goes_through_every_gateway_and_ends_nothing() {
    let upstream = Upstream::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n");
        let _ = ends(stream);
    });
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|_| {}).ready();
    fleet.grant("--wait=20s");
    let mut open = Raw::connect(&gate.url);
    open.send(format!("GET /v1/orders/events HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", fleet.bearer())).until("data: 1");
    for _ in 0..2 {
        let drilled = fleet.json(&["fleet", "drill"]);
        let edge = &drilled["gateways"][0];
        assert!(edge["cut_us"].as_u64() > Some(0) && edge["allow_us"].as_u64() > Some(0), "{drilled}");
    }
    assert_eq!(gate.metric("portcullis_running_calls"), 1.0, "what runs goes on");
    assert_eq!(fleet.json(&["fleet", "status"])["halts"], serde_json::json!([]));
    assert_eq!(told(&fleet, "fleet.drilled"), 2);
    // One that is out of reach is shown as such.
    gate.process.signal(Signal::STOP);
    let late = fleet.cli(&["-o", "json", "fleet", "drill", "--wait", "1s"]).exits(7);
    assert_eq!(late.json()["gateways"][0]["cut_us"], Value::Null);
    gate.process.signal(Signal::CONT);
    eventually("it is back", PATIENCE, || fleet.cli(&["fleet", "drill"]).code == 0);
}

#[test]
fn every_grant_of_an_identity_on_a_resource_or_at_all_ends_at_once() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let gate = fleet.gateway(|_| {}).ready();
    let bearer = fleet.bearer();
    for which in [&["--identity", "billing"][..], &["--resource", "api/orders"], &["--all"]] {
        // More than one transaction holds.
        let grants = 130;
        (0..grants).for_each(|_| drop(fleet.grant("")));
        eventually("the grants are there", PATIENCE, || gate.get(&bearer, CALL).status == 200);
        let revoke = [&["grant", "revoke"][..], which, &["--reason", "leak", "--wait=20s"]].concat();
        let swept = fleet.json(&revoke);
        assert_eq!((&swept["revoked"], &swept["enforced"]), (&grants.into(), &true.into()), "{swept}");
        gate.get(&bearer, CALL).refuses(403, "grant_missing");
        assert_eq!(fleet.json(&["grant", "list"])["grants"], serde_json::json!([]));
        assert_eq!(fleet.json(&revoke)["revoked"], 0, "again it is as it was");
    }
    fleet.cli(&["grant", "revoke", "--identity", "nobody", "--reason", "x"]).exits(4);
    fleet.cli(&["grant", "revoke", "--all", "--identity", "billing", "--reason", "x"]).exits(2);
    fleet.cli(&["grant", "revoke", "--reason", "x"]).exits(2);
}

/// Every byte in a directory.
fn walk(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().filter_map(Result::ok) {
        let path = entry.path();
        bytes.extend(if path.is_dir() { walk(&path) } else { std::fs::read(&path).unwrap_or_default() });
    }
    bytes
}

#[test]
fn a_gateways_certificate_opens_no_certificate_for_another_key() {
    let upstream = Upstream::ok();
    let fleet = Fleet::start(upstream.address);
    let read = |name: &str| std::fs::read(fleet.home.path().join(name)).unwrap();
    let certificate = ClientCertificate {
        chain_pem: read("control/gateways/edge/gateway.pem"),
        key_pem: String::from_utf8(read("control/gateways/edge/gateway.key")).unwrap().into(),
    };
    let target = Target {
        address: fleet.address.clone(),
        ca_pem: read("control/ca/ca.pem"),
        token: None,
        signed_in: None,
        certificate: Some(certificate),
    };
    let own = rcgen::KeyPair::from_pem(&String::from_utf8(read("control/gateways/edge/gateway.key")).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut client = runtime.block_on(Client::connect(&target)).unwrap();
    let mut certify = |key: &rcgen::KeyPair| {
        let request = rcgen::CertificateParams::default().serialize_request(key).unwrap();
        let request = v1::CertifyRequest { certificate_request: request.der().to_vec(), ..Default::default() };
        runtime.block_on(client.certify(request))
    };
    assert!(certify(&own).is_ok());
    let refused = certify(&rcgen::KeyPair::generate().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("is for another key than the certificate's"), "{refused}");
}
