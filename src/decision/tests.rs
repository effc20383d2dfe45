//! Decisions, one rule at a time.

use super::snapshot::SnapshotBuilder;
use super::*;
use crate::domain::exception::{Exception, ExceptionRule, ExceptionSpec};
use crate::domain::grant::{Grant, Limits, Lineage, Window};
use crate::domain::identity::{Authenticator, Identity, IdentityKind, IdentitySpec};
use crate::domain::principal::Principal;
use crate::domain::resource::{Resource, ResourceSpec, Sensitivity, Span};
use crate::domain::route::{CredentialRule, Host, Route, RouteSpec};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_000);
const FRESH: Now = Now { wall: NOW, authority: Authority::Age(Duration::from_secs(1)) };

fn identity() -> Identity {
    Identity {
        name: "billing".parse().unwrap(),
        spec: IdentitySpec {
            kind: IdentityKind::Service,
            owner: "payments".parse().unwrap(),
            purpose: "charges".into(),
            environment: "production".into(),
            capabilities: Vec::new(),
            authenticate: vec![Authenticator::Token { issuer: "https://i".into(), subject: "billing".into() }],
        },
        state: IdentityState::Active,
    }
}

fn route(name: &str, paths: &[(&str, &str, &str)]) -> Route {
    let actions = paths.iter().map(|(action, methods, path)| {
        serde_json::json!({"name": action, "methods": methods.split(',').collect::<Vec<_>>(), "path": path})
    });
    let spec: RouteSpec = serde_json::from_value(serde_json::json!({
        "upstream": "http://127.0.0.1:9000", "resource": "api/orders", "actions": actions.collect::<Vec<_>>(),
    }))
    .unwrap();
    Route { name: name.parse().unwrap(), spec }
}

fn grant(id: u128) -> Grant {
    Grant {
        id: GrantId::from_bits(id),
        identity: "billing".parse().unwrap(),
        resource: "api/orders".parse().unwrap(),
        actions: vec!["read".parse().unwrap()],
        window: Window { starts: Timestamp::from_unix_seconds(900), ends: Timestamp::from_unix_seconds(1_100) },
        limits: Limits::default(),
        lineage: Lineage {
            created: NOW,
            created_by: "alice".parse().unwrap(),
            reason: "test".into(),
            ticket: None,
            until: Vec::new(),
            origin: None,
            exception: None,
            break_glass: None,
        },
        revoked: None,
    }
}

fn catalog() -> SnapshotBuilder {
    let mut builder = SnapshotBuilder::new();
    builder.put_identity(&identity());
    builder.put_resource(&Resource {
        name: "api/orders".parse().unwrap(),
        spec: ResourceSpec {
            owner: "bob".parse().unwrap(),
            sensitivity: Sensitivity::High,
            authority: Span::new(Duration::from_secs(10)),
        },
    });
    builder.put_route(route(
        "orders",
        &[("read", "GET,HEAD", "/v1/orders/**"), ("write", "POST,DELETE", "/v1/orders/{order}")],
    ));
    builder
}

fn with(grants: &[Grant]) -> Snapshot {
    let mut builder = catalog();
    grants.iter().for_each(|g| builder.put_grant(g));
    builder.build(1, 7).unwrap()
}

struct Ask<'a> {
    method: &'a str,
    path: &'a str,
    credential: Credential<'a>,
    now: Now,
}

const READ: Ask<'static> = Ask {
    method: "GET",
    path: "/v1/orders/42",
    credential: Credential::Token { issuer: "https://i", certificate: None },
    now: FRESH,
};

fn ask(snapshot: &Snapshot, ask: &Ask<'_>) -> Result<Permit, Reason> {
    let host: Host = "gate".parse().unwrap();
    let target = snapshot.match_request(&host, ask.method, ask.path)?;
    let principal = Principal::Token { issuer: "https://i".into(), subject: "billing".into() };
    let identity = snapshot.identify(&principal).ok_or(Reason::IdentityUnknown)?;
    let peer = Some("10.1.2.3".parse().unwrap());
    match decide(
        &Call { identity, credential: ask.credential, target: &target, peer, used_up: &[] },
        snapshot,
        &ask.now,
    ) {
        Decision::Allow(permit) => Ok(permit),
        Decision::Deny(reason) => Err(reason),
        Decision::Hold(hold) => Err(hold.reason()),
    }
}

#[test]
fn nothing_is_allowed_without_a_live_grant() {
    assert_eq!(ask(&with(&[]), &READ).unwrap_err(), Reason::GrantMissing);
    let permit = ask(&with(&[grant(1)]), &READ).unwrap();
    assert_eq!(permit.grant().unwrap().id, GrantId::from_bits(1));
    assert_eq!((permit.epoch(), permit.revision()), (1, 7));
    let mut gone = with(&[grant(1)]).edit();
    assert!(gone.remove_grant(GrantId::from_bits(1)));
    assert_eq!(ask(&gone.build(1, 8).unwrap(), &READ).unwrap_err(), Reason::GrantMissing);
}

#[test]
fn a_grant_opens_its_action_only() {
    let write = Ask { method: "DELETE", ..READ };
    assert_eq!(ask(&with(&[grant(1)]), &write).unwrap_err(), Reason::ActionNotGranted);
    assert_eq!(ask(&with(&[grant(1)]), &Ask { method: "PUT", ..READ }).unwrap_err(), Reason::MethodNotAllowed);
    assert_eq!(ask(&with(&[grant(1)]), &Ask { path: "/v2", ..READ }).unwrap_err(), Reason::RouteUnknown);
}

#[test]
fn a_window_is_half_open() {
    let at = |seconds| Ask { now: Now { wall: Timestamp::from_unix_seconds(seconds), ..FRESH }, ..READ };
    let snapshot = with(&[grant(1)]);
    assert_eq!(ask(&snapshot, &at(899)).unwrap_err(), Reason::GrantNotYetValid);
    assert!(ask(&snapshot, &at(900)).is_ok());
    assert!(ask(&snapshot, &at(1_099)).is_ok());
    assert_eq!(ask(&snapshot, &at(1_100)).unwrap_err(), Reason::GrantExpired);
}

#[test]
fn the_grant_that_lasts_longest_is_used() {
    let mut longer = grant(2);
    longer.window.ends = Timestamp::from_unix_seconds(2_000);
    let mut shorter = grant(3);
    shorter.window.ends = Timestamp::from_unix_seconds(1_050);
    let permit = ask(&with(&[grant(1), longer, shorter]), &READ).unwrap();
    assert_eq!(permit.grant().unwrap().id, GrantId::from_bits(2));
    assert_eq!(permit.ends(), Timestamp::from_unix_seconds(2_000));
}

#[test]
fn listed_parameters_must_be_present_and_listed() {
    let mut limited = grant(1);
    limited.limits.parameters.insert("order".parse().unwrap(), vec!["42".into(), "a b".into()]);
    limited.actions.push("write".parse().unwrap());
    let snapshot = with(&[limited]);
    let delete = |path| Ask { method: "DELETE", path, ..READ };
    assert!(ask(&snapshot, &delete("/v1/orders/42")).is_ok());
    assert!(ask(&snapshot, &delete("/v1/orders/a%20b")).is_ok());
    assert_eq!(ask(&snapshot, &delete("/v1/orders/43")).unwrap_err(), Reason::ParameterNotGranted);
    assert_eq!(ask(&snapshot, &delete("/v1/orders/%ff")).unwrap_err(), Reason::RequestMalformed);
    // The read rule has no parameter to compare: refused, not waved through.
    assert_eq!(ask(&snapshot, &READ).unwrap_err(), Reason::ParameterNotGranted);
}

#[test]
fn networks_and_bindings_narrow() {
    let mut elsewhere = grant(1);
    elsewhere.limits.networks = vec!["192.168.0.0/16".parse().unwrap()];
    assert_eq!(ask(&with(&[elsewhere.clone()]), &READ).unwrap_err(), Reason::NetworkNotGranted);
    elsewhere.limits.networks.push("10.0.0.0/8".parse().unwrap());
    assert!(ask(&with(&[elsewhere]), &READ).is_ok());

    let thumbprint = CertificateThumbprint::from_bytes([7; 32]);
    let mut bound = grant(1);
    bound.limits.binding = Some(Binding::Certificate(thumbprint));
    let snapshot = with(&[bound.clone()]);
    assert_eq!(ask(&snapshot, &READ).unwrap_err(), Reason::BindingNotGranted);
    let token = |certificate| Ask { credential: Credential::Token { issuer: "https://i", certificate }, ..READ };
    assert!(ask(&snapshot, &token(Some(thumbprint))).is_ok());
    bound.limits.binding = Some(Binding::Issuer("https://other".into()));
    assert_eq!(ask(&with(&[bound.clone()]), &READ).unwrap_err(), Reason::BindingNotGranted);
    bound.limits.binding = Some(Binding::Spiffe("spiffe://td/a".parse().unwrap()));
    assert_eq!(ask(&with(&[bound]), &READ).unwrap_err(), Reason::BindingNotGranted);
}

#[test]
fn a_gate_token_opens_its_own_grant_only() {
    let snapshot = with(&[grant(1), grant(2)]);
    let scoped = |id, scope| Ask {
        credential: Credential::Gate { grant: GrantId::from_bits(id), scope, certificate: None },
        ..READ
    };
    let gate = |id| scoped(id, "write read");
    assert_eq!(ask(&snapshot, &gate(2)).unwrap().grant().unwrap().id, GrantId::from_bits(2));
    assert_eq!(ask(&snapshot, &gate(3)).unwrap_err(), Reason::GrantMissing);
    // The grant gives reading; a token that was asked for without it does not.
    for scope in ["", "write", "rea", "readonly"] {
        assert_eq!(ask(&snapshot, &scoped(2, scope)).unwrap_err(), Reason::ActionNotGranted, "{scope}");
    }
}

#[test]
fn authority_bounds_what_a_grant_opens() {
    let snapshot = with(&[grant(1)]);
    let with = |authority| Ask { now: Now { wall: NOW, authority }, ..READ };
    assert_eq!(ask(&snapshot, &with(Authority::Missing)).unwrap_err(), Reason::AuthorityMissing);
    assert!(ask(&snapshot, &with(Authority::Age(Duration::from_secs(10)))).is_ok());
    let older = Authority::Age(Duration::from_millis(10_001));
    assert_eq!(ask(&snapshot, &with(older)).unwrap_err(), Reason::AuthorityStale);
    let host: Host = "gate".parse().unwrap();
    let target = snapshot.match_request(&host, "GET", "/v1/orders/1").unwrap();
    let call = Call {
        identity: snapshot.identity_place(&"billing".parse().unwrap()).unwrap(),
        credential: Credential::Assumed,
        target: &target,
        peer: None,
        used_up: &[],
    };
    let unknown = Now { wall: NOW, authority: Authority::Unknown };
    assert!(matches!(decide(&call, &snapshot, &unknown), Decision::Hold(Hold::Authority)));
}

#[test]
fn an_inactive_identity_has_nothing() {
    for state in [IdentityState::Quarantined, IdentityState::Offboarded] {
        let mut builder = with(&[grant(1)]).edit();
        builder.put_identity(&Identity { state, ..identity() });
        assert_eq!(ask(&builder.build(1, 8).unwrap(), &READ).unwrap_err(), Reason::IdentityInactive);
    }
    let mut builder = with(&[grant(1)]).edit();
    builder.remove_identity(&"billing".parse().unwrap());
    assert_eq!(ask(&builder.build(1, 8).unwrap(), &READ).unwrap_err(), Reason::IdentityUnknown);
}

#[test]
fn observing_lets_through_without_a_credential_until_it_ends() {
    let mut builder = catalog();
    builder.put_exception(&Exception::described(
        "trial".parse().unwrap(),
        ExceptionSpec {
            rule: ExceptionRule::Observe,
            route: Some("orders".parse().unwrap()),
            owner: "bob".parse().unwrap(),
            reason: "who would break?".into(),
            expires: Timestamp::from_unix_seconds(1_050),
            identity: None,
            policy_rule: None,
        },
    ));
    let snapshot = builder.build(1, 7).unwrap();
    let permit = ask(&snapshot, &READ).unwrap();
    assert!(matches!(permit.basis(), Basis::Exception { would_refuse: Reason::GrantMissing, .. }));
    assert_eq!(permit.credential(), CredentialRule::None);
    assert_eq!(permit.end_reason(), Reason::ExceptionEnded);
    let after = Now { wall: Timestamp::from_unix_seconds(1_050), ..FRESH };
    assert_eq!(ask(&snapshot, &Ask { now: after, ..READ }).unwrap_err(), Reason::GrantMissing);
    let stale = Now { wall: NOW, authority: Authority::Missing };
    assert_eq!(ask(&snapshot, &Ask { now: stale, ..READ }).unwrap_err(), Reason::AuthorityMissing);
}

#[test]
fn routes_match_by_specificity_and_refuse_ambiguity() {
    let mut builder = catalog();
    builder.put_route(route("clash", &[("read", "GET", "/v1/{kind}/events")]));
    let faults = builder.build(1, 1).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");

    let mut builder = catalog();
    builder.put_route(route("events", &[("watch", "GET", "/v1/orders/events")]));
    let mut hosted = route("hosted", &[("read", "GET", "/**")]);
    hosted.spec.host = Some("orders.internal".parse().unwrap());
    builder.put_route(hosted);
    let snapshot = builder.build(1, 1).unwrap();
    let name = |host: &str, path| {
        let host: Host = host.parse().unwrap();
        snapshot.match_request(&host, "GET", path).map(|m| m.route_name().to_string())
    };
    assert_eq!(name("gate", "/v1/orders/events").unwrap(), "events");
    assert_eq!(name("gate", "/v1/orders/event").unwrap(), "orders");
    assert_eq!(name("orders.internal", "/v1/orders/events").unwrap(), "hosted");
    assert_eq!(name("gate", "/").unwrap_err(), Reason::RouteUnknown);
}

#[test]
fn old_snapshots_stay_as_they_were() {
    let before = with(&[grant(1)]);
    let mut builder = before.edit();
    for id in 2..500 {
        builder.put_grant(&grant(id));
    }
    builder.remove_grant(GrantId::from_bits(1));
    let after = builder.build(1, 9).unwrap();
    assert_eq!((before.grant_count(), after.grant_count()), (1, 498));
    assert!(before.grant(GrantId::from_bits(1)).is_some() && after.grant(GrantId::from_bits(1)).is_none());
    assert_eq!(ask(&before, &READ).unwrap().revision(), 7);
}

proptest::proptest! {
    #[test]
    fn one_identitys_grants_on_one_resource_are_those_that_were_put_and_not_removed(
        steps in proptest::collection::vec((0u128..12, 0u8..5), 0..200),
    ) {
        use std::collections::BTreeSet;
        let held = |snapshot: &Snapshot| -> Vec<u128> {
            let resource = snapshot.resource_place(&"api/orders".parse().unwrap()).unwrap();
            let identity = snapshot.identity_place(&"billing".parse().unwrap()).unwrap();
            let mut ids: Vec<_> = snapshot.grants(identity, resource).iter().map(|grant| grant.id.bits()).collect();
            ids.sort_unstable();
            ids
        };
        let (mut snapshot, mut model) = (with(&[]), BTreeSet::new());
        let mut kept = Vec::new();
        for batch in steps.chunks(7) {
            let mut builder = snapshot.edit();
            for (id, what) in batch {
                if *what < 3 {
                    builder.put_grant(&grant(*id));
                    model.insert(*id);
                } else {
                    assert_eq!(builder.remove_grant(GrantId::from_bits(*id)), model.remove(id));
                }
            }
            snapshot = builder.build(1, 7).unwrap();
            kept.push((snapshot.clone(), model.clone()));
        }
        // Those of before, too: what is changed in place is nobody else's.
        for (snapshot, model) in kept {
            assert_eq!(snapshot.grant_count(), model.len());
            assert_eq!(held(&snapshot), model.into_iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_question_about_an_action_is_asked_of_every_route_that_leads_to_it() {
    let mut builder = catalog();
    builder.put_route(route("another", &[("read", "GET", "/another/**"), ("read", "GET", "/third/{order}")]));
    builder.put_route(route("writes", &[("write", "PUT", "/writes")]));
    let snapshot = builder.build(1, 7).unwrap();
    let names = |action: &str| {
        let assumed = snapshot.assume(&"api/orders".parse().unwrap(), &action.parse().unwrap(), &[]);
        assumed.iter().map(|target| target.route_name().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names("read"), ["another", "orders"]);
    assert_eq!(names("write"), ["orders", "writes"]);
    assert!(names("delete").is_empty());
}
