//! What a message makes of a snapshot, and what it ends.

use v1::change::Change;

use super::super::fixture::{ENDS, billing, catalog, delta, ended, grant, identity, object, resource, route, running};
use super::super::review::Review;
use super::*;
use crate::gateway::authority::Committed;
use crate::gateway::live::Verdict;

const NOTHING: Highest = Highest {
    epoch: 0,
    revision: 0,
    committed: Committed { epoch: 0, revision: 0 },
    wall: Timestamp::from_unix_micros(0),
};

fn whole(before: &Snapshot, message: v1::SnapshotPart) -> Picture {
    part(&mut None, before, NOTHING, message).unwrap().unwrap()
}

fn start(grants: &[u128]) -> Snapshot {
    let grants = grants.iter().map(|id| grant(*id)).collect();
    whole(&Snapshot::default(), fixture_part(7, catalog(), grants)).snapshot
}

fn change(before: &Snapshot, change: Change) -> Picture {
    super::delta(before, NOTHING, delta(8, vec![change])).unwrap()
}

fn grant_cut(id: u128, reason: Reason) -> (Selector, Reason) {
    (Selector::Grant(GrantId::from_bits(id)), reason)
}

#[test]
fn a_snapshot_takes_effect_with_its_last_part_and_not_before() {
    let mut assembly = None;
    let before = Snapshot::default();
    let first = v1::SnapshotPart { last: false, ..fixture_part(7, catalog(), vec![grant(1)]) };
    assert!(part(&mut assembly, &before, NOTHING, first).unwrap().is_none());
    let second = fixture_part(7, Vec::new(), vec![grant(2)]);
    let picture = part(&mut assembly, &before, NOTHING, second).unwrap().unwrap();
    assert_eq!((picture.snapshot.revision(), picture.snapshot.grant_count(), assembly.is_none()), (7, 2, true));
}

fn fixture_part(revision: u64, objects: Vec<v1::CatalogObject>, grants: Vec<v1::Grant>) -> v1::SnapshotPart {
    super::super::fixture::part(revision, objects, grants)
}

#[test]
fn parts_of_two_snapshots_do_not_mix() {
    let mut assembly = None;
    let first = v1::SnapshotPart { last: false, ..fixture_part(7, catalog(), Vec::new()) };
    part(&mut assembly, &Snapshot::default(), NOTHING, first).unwrap();
    let other = fixture_part(8, Vec::new(), Vec::new());
    assert!(matches!(part(&mut assembly, &Snapshot::default(), NOTHING, other), Err(Fault::Order { .. })));
    assert!(assembly.is_none(), "the next one begins anew");
}

#[test]
fn places_stay_over_a_snapshot() {
    let before = start(&[1]);
    let mut objects = catalog();
    let other = v1::CatalogObject { name: "another".into(), ..identity(&["another"]) };
    objects.insert(0, other);
    let after = whole(&before, fixture_part(9, objects, vec![grant(1)])).snapshot;
    assert_eq!(billing(&before), billing(&after));
}

#[test]
fn what_is_behind_is_refused_and_so_is_what_does_not_follow() {
    let before = start(&[1]);
    let highest = Highest { epoch: 1, revision: 9, ..NOTHING };
    assert!(matches!(super::delta(&before, highest, delta(8, Vec::new())), Err(Fault::Behind { .. })));
    let old = fixture_part(8, catalog(), Vec::new());
    assert!(matches!(part(&mut None, &before, highest, old), Err(Fault::Behind { .. })));
    assert!(matches!(super::delta(&before, NOTHING, delta(7, Vec::new())), Err(Fault::Order { .. })));
    let other_epoch = v1::Delta { epoch: 2, ..delta(8, Vec::new()) };
    assert!(matches!(super::delta(&before, NOTHING, other_epoch), Err(Fault::Order { .. })));
}

#[test]
fn what_is_not_understood_is_a_fault() {
    let before = start(&[1]);
    let unknown = v1::Delta { changes: vec![v1::Change { change: None }], ..delta(8, Vec::new()) };
    assert!(matches!(super::delta(&before, NOTHING, unknown), Err(Fault::Unknown)));
    for bad in [
        object("Sandwich", "a", &serde_json::json!({})),
        object("Resource", "api/orders", &serde_json::json!({"owner": "o", "shiny": true})),
        v1::CatalogObject { state: "resting".into(), ..identity(&[]) },
    ] {
        let message = delta(8, vec![Change::ObjectPut(bad)]);
        assert!(matches!(super::delta(&before, NOTHING, message), Err(Fault::Object(_))));
    }
    let overlap = delta(8, vec![Change::ObjectPut(route("same", "/v1/orders/**"))]);
    assert!(matches!(super::delta(&before, NOTHING, overlap), Err(Fault::Routes(_))));
    let role = object("Role", "reader", &serde_json::json!({"permissions": []}));
    assert_eq!(super::delta(&before, NOTHING, delta(8, vec![Change::ObjectPut(role)])).unwrap().snapshot.revision(), 8);
}

#[test]
fn an_ended_grant_is_gone_and_its_calls_are_named() {
    let picture = change(&start(&[1, 2]), ended(1));
    assert!(picture.snapshot.grant(GrantId::from_bits(1)).is_none());
    assert_eq!(picture.snapshot.grant_count(), 1);
    assert_eq!(picture.cut, [grant_cut(1, Reason::GrantRevoked)]);
    assert_eq!(picture.grants, [GrantId::from_bits(1)]);
    let put = v1::Grant { revoked: Some(v1::Revocation { by: "bob".into(), ..Default::default() }), ..grant(2) };
    let picture = change(&start(&[1, 2]), Change::GrantPut(put));
    assert!(picture.snapshot.grant(GrantId::from_bits(2)).is_none(), "a grant that is delivered as revoked is none");
}

#[test]
fn a_grant_that_became_less_ends_its_calls_and_one_that_did_not_does_not() {
    let before = start(&[1]);
    let less = [
        v1::Grant { ends_unix_us: ENDS.unix_micros() - 1, ..grant(1) },
        v1::Grant { actions: vec!["read".into()], ..grant(1) },
        v1::Grant {
            limits: Some(v1::Limits { networks: vec!["10.0.0.0/8".into()], ..Default::default() }),
            ..grant(1)
        },
        v1::Grant { resource: "api/other".into(), ..grant(1) },
    ];
    for message in less {
        assert_eq!(change(&before, Change::GrantPut(message)).cut, [grant_cut(1, Reason::GrantRevoked)]);
    }
    let longer = v1::Grant { ends_unix_us: ENDS.unix_micros() + 1, ..grant(1) };
    assert!(change(&before, Change::GrantPut(longer)).cut.is_empty());
    assert!(change(&before, Change::GrantPut(grant(3))).cut.is_empty());
}

#[test]
fn an_identity_that_is_not_active_or_lost_a_credential_ends_its_calls() {
    let before = start(&[1]);
    let place = Selector::Identity(billing(&before));
    let quarantined = v1::CatalogObject { state: "quarantined".into(), ..identity(&["billing"]) };
    assert_eq!(change(&before, Change::ObjectPut(quarantined)).cut, [(place.clone(), Reason::IdentityInactive)]);
    let moved = change(&before, Change::ObjectPut(identity(&["other"])));
    assert_eq!(moved.cut, [(place.clone(), Reason::IdentityUnknown)]);
    assert!(change(&before, Change::ObjectPut(identity(&["billing", "other"]))).cut.is_empty());
    let key = v1::ObjectKey { kind: "Identity".into(), name: "billing".into() };
    let removed = change(&before, Change::ObjectDeleted(key));
    assert_eq!(removed.cut, [(place, Reason::IdentityUnknown)]);
    assert!(removed.snapshot.identity_place(&"billing".parse().unwrap()).is_none());
    let swapped = whole(&before, fixture_part(9, vec![identity(&["other"])], Vec::new())).snapshot;
    assert!(lost_credentials(&before, &swapped).contains(&billing(&before)));
}

#[test]
fn a_revoked_token_ends_its_calls() {
    let token = v1::RevokedToken { issuer: "https://i".into(), jti: "a".into(), expires_unix_us: 5 };
    let picture = change(&start(&[]), Change::TokenRevoked(token));
    assert_eq!(picture.cut, [(Selector::Token(TokenKey::of("https://i", "a")), Reason::TokenRevoked)]);
    assert_eq!(picture.revoked[0].expires, Timestamp::from_unix_micros(5));
}

#[test]
fn a_review_finds_what_no_index_leads_to() {
    let before = start(&[1, 2]);
    let call = running(&before, 1, 1);
    let judge = |after: &Snapshot| Review::new(&before, after).verdict(&call);
    let with = |objects: Vec<v1::CatalogObject>, grants: &[u128]| {
        whole(&before, fixture_part(9, objects, grants.iter().map(|id| grant(*id)).collect())).snapshot
    };
    let cut = |reason| Verdict::Cut(reason);
    let (who, what, way) = (identity(&["billing"]), resource("10s"), route("orders", "/v1/orders/**"));
    assert_eq!(judge(&with(catalog(), &[1])), Verdict::Keep);
    assert_eq!(judge(&with(catalog(), &[2])), cut(Reason::GrantRevoked));
    assert_eq!(judge(&with(vec![what.clone(), way.clone()], &[1])), cut(Reason::IdentityUnknown));
    assert_eq!(judge(&with(vec![who.clone(), way.clone()], &[1])), cut(Reason::GrantMissing));
    assert_eq!(judge(&with(vec![who.clone(), what.clone()], &[1])), cut(Reason::RouteUnknown));
    let elsewhere = vec![who.clone(), what, route("orders", "/v2/**")];
    assert_eq!(judge(&with(elsewhere, &[1])), cut(Reason::RouteUnknown));
    let tighter = with(vec![who, resource("5s"), way], &[1]);
    assert_eq!(judge(&tighter), Verdict::Tighten(std::time::Duration::from_secs(5)));
    let mut observed = running(&before, 2, 1);
    (observed.grant, observed.exception) = (None, Some("trial".parse().unwrap()));
    let after = with(catalog(), &[1]);
    assert_eq!(Review::new(&before, &after).verdict(&observed), cut(Reason::ExceptionEnded));
    let exception = object(
        "Exception",
        "trial",
        &serde_json::json!({"rule": "observe", "route": "orders", "owner": "bob", "reason": "a trial",
            "expires": "1970-01-01T00:16:40Z"}),
    );
    let after = with(catalog().into_iter().chain([exception]).collect(), &[]);
    assert_eq!(Review::new(&before, &after).verdict(&observed), Verdict::Keep);
}
