//! Signatures of each shape, and what each says of a ticket.

use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const SECRET: &[u8] = b"an old secret of ours\nthe secret that is in use\n";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tag(secret: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text).as_ref().to_vec()
}

fn verified(shape: TicketShape, secrets: &[u8], headers: &[(&str, &str)], body: &[u8]) -> Result<(), Untrue> {
    let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    verify(shape, secrets, &header, body, NOW)
}

#[test]
fn each_shape_takes_its_own_signature_by_any_of_its_secrets_and_no_other() {
    let body = br#"{"a":1}"#;
    for secret in [&b"an old secret of ours"[..], b"the secret that is in use"] {
        let good = hex(&tag(secret, body));
        for (shape, header, value) in [
            (TicketShape::Jira, "x-hub-signature", format!("sha256={good}")),
            (TicketShape::Github, "x-hub-signature-256", format!("sha256={good}")),
            (TicketShape::Pagerduty, "x-pagerduty-signature", format!("v1={},v1={good}", "0".repeat(64))),
        ] {
            assert_eq!(verified(shape, SECRET, &[(header, &value)], body), Ok(()), "{shape:?}");
            let untrue = Err(Untrue::Unsigned);
            assert_eq!(verified(shape, SECRET, &[(header, &value)], br#"{"a":2}"#), untrue);
            assert_eq!(verified(shape, b"another secret altogether", &[(header, &value)], body), untrue);
            assert_eq!(verified(shape, SECRET, &[], body), untrue);
            let cut = value.get(..value.len() - 2).unwrap();
            for bad in ["", "sha256=", "v1=", &good, "sha1=ab", cut, "sha256=é", "v1=zz"] {
                assert_eq!(verified(shape, SECRET, &[(header, bad)], body), untrue, "{shape:?} {bad}");
            }
        }
    }
    // A secret that can be guessed signs nothing.
    let short = format!("sha256={}", hex(&tag(b"short", body)));
    assert_eq!(verified(TicketShape::Jira, b"short", &[("x-hub-signature", &short)], body), Err(Untrue::Unsigned));
}

#[test]
fn the_example_of_githubs_documentation_holds() {
    // docs.github.com, "Validating webhook deliveries": secret, payload and signature to test an implementation with.
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let headers = [("x-hub-signature-256", signature)];
    assert_eq!(verified(TicketShape::Github, b"It's a Secret to Everybody", &headers, b"Hello, World!"), Ok(()));
}

#[test]
fn a_standard_webhook_is_signed_with_its_id_and_time_and_is_not_old() {
    let body = br#"{"type":"x"}"#;
    let key = STANDARD.encode(b"twenty-four bytes of key");
    let secrets = format!("whsec_{key}");
    let at = |seconds: i64, id: &str| {
        let time = (NOW.unix_seconds() + seconds).to_string();
        let text = [format!("{id}.{time}.").as_bytes(), body].concat();
        let signature = format!("v1a,xyz v1,{}", STANDARD.encode(tag(b"twenty-four bytes of key", &text)));
        (time, signature)
    };
    let check = |id: &str, (time, signature): &(String, String)| {
        let headers = [("webhook-id", id), ("webhook-timestamp", time.as_str()), ("webhook-signature", signature)];
        verified(TicketShape::Generic, secrets.as_bytes(), &headers, body)
    };
    assert_eq!(check("msg_1", &at(0, "msg_1")), Ok(()));
    assert_eq!(check("msg_1", &at(-299, "msg_1")), Ok(()));
    assert_eq!(check("msg_1", &at(-301, "msg_1")), Err(Untrue::Stale));
    assert_eq!(check("msg_1", &at(301, "msg_1")), Err(Untrue::Stale));
    assert_eq!(check("msg_2", &at(0, "msg_1")), Err(Untrue::Unsigned), "another id");
    let (_, signature) = at(-299, "msg_1");
    assert_eq!(check("msg_1", &(NOW.unix_seconds().to_string(), signature)), Err(Untrue::Unsigned), "another time");
    let (time, signature) = at(0, "msg_1");
    let headers = [("webhook-timestamp", time.as_str()), ("webhook-signature", signature.as_str())];
    assert_eq!(verified(TicketShape::Generic, secrets.as_bytes(), &headers, body), Err(Untrue::Unsigned), "no id");
}

fn said(shape: TicketShape, body: &Value) -> Option<(String, bool, String)> {
    let claim = claim(shape, &|_| None, body).unwrap()?;
    Some((claim.key, claim.closed, claim.since.to_string()))
}

#[test]
fn what_each_shape_says_of_a_ticket_is_read_from_what_is_signed() {
    let is = |key: &str, closed, since: &str| Some((key.to_owned(), closed, since.to_owned()));
    let jira = |event: &str, category: &str| {
        json!({ "timestamp": 1_800_000_000_000i64, "webhookEvent": event,
            "issue": { "key": "OPS-7", "fields": { "status": { "statusCategory": { "key": category } } } } })
    };
    let at = "2027-01-15T08:00:00Z";
    assert_eq!(said(TicketShape::Jira, &jira("jira:issue_updated", "done")), is("OPS-7", true, at));
    assert_eq!(said(TicketShape::Jira, &jira("jira:issue_updated", "indeterminate")), is("OPS-7", false, at));
    assert_eq!(said(TicketShape::Jira, &jira("jira:issue_deleted", "new")), is("OPS-7", true, at));
    assert_eq!(said(TicketShape::Jira, &jira("comment_created", "done")), None);

    let repository = json!({ "full_name": "acme/shop" });
    let issue = json!({ "action": "closed", "repository": repository,
        "issue": { "number": 7, "state": "closed", "updated_at": at } });
    assert_eq!(said(TicketShape::Github, &issue), is("acme/shop#7", true, at));
    let moved = json!({ "action": "transferred", "repository": repository,
        "issue": { "number": 7, "state": "open", "updated_at": at } });
    assert_eq!(said(TicketShape::Github, &moved), is("acme/shop#7", true, at));
    // A comment that is deleted closes no issue.
    let comment = json!({ "action": "deleted", "repository": repository, "comment": {},
        "issue": { "number": 7, "state": "open", "updated_at": at } });
    assert_eq!(said(TicketShape::Github, &comment), is("acme/shop#7", false, at));
    let job = |status: &str| {
        json!({ "action": status, "repository": repository,
        "workflow_job": { "id": 29, "run_id": 3, "status": status, "started_at": at, "completed_at": null } })
    };
    assert_eq!(said(TicketShape::Github, &job("completed")), is("acme/shop/job/29", true, at));
    assert_eq!(said(TicketShape::Github, &job("in_progress")), is("acme/shop/job/29", false, at));
    let run = json!({ "repository": repository, "workflow_run": { "id": 3, "status": "completed", "updated_at": at } });
    assert_eq!(said(TicketShape::Github, &run), is("acme/shop/run/3", true, at));
    let deployment = |state: &str| {
        json!({ "repository": repository, "deployment": { "id": 5 }, "workflow_run": { "id": 3 },
        "deployment_status": { "state": state, "updated_at": at } })
    };
    for (state, closed) in
        [("success", true), ("failure", true), ("inactive", true), ("in_progress", false), ("queued", false)]
    {
        assert_eq!(said(TicketShape::Github, &deployment(state)), is("acme/shop/deployment/5", closed, at));
    }
    assert_eq!(said(TicketShape::Github, &json!({ "zen": "Design for failure.", "hook_id": 1 })), None);

    let incident = |kind: &str, status: &str, data: &str| {
        json!({ "event": { "id": "01", "event_type": kind,
        "occurred_at": at, "data": { "id": "PT4KHLK", "type": data, "status": status } } })
    };
    let resolved = incident("incident.resolved", "resolved", "incident");
    assert_eq!(said(TicketShape::Pagerduty, &resolved), is("PT4KHLK", true, at));
    let reopened = incident("incident.reopened", "triggered", "incident");
    assert_eq!(said(TicketShape::Pagerduty, &reopened), is("PT4KHLK", false, at));
    assert_eq!(said(TicketShape::Pagerduty, &incident("incident.annotated", "", "incident_note")), None);
    assert_eq!(said(TicketShape::Pagerduty, &json!({ "event": { "event_type": "pagey.ping" } })), None);

    let own = json!({ "type": "change.closed", "timestamp": at, "data": { "ticket": "CHG-1", "state": "closed" } });
    assert_eq!(said(TicketShape::Generic, &own), is("CHG-1", true, at));
    for lacking in [json!({}), json!({ "type": "x", "timestamp": at, "data": { "ticket": "a", "state": "done" } })] {
        assert!(claim(TicketShape::Generic, &|_| None, &lacking).is_err());
    }
    for shape in [TicketShape::Jira, TicketShape::Pagerduty] {
        assert!(claim(shape, &|_| None, &json!({ "a": 1 })).is_err());
    }
}
