//! Records as the evidence tells them: without secrets, within what an entry holds, and never without what access hangs on.

use serde_json::{Map, Value, json};

use super::super::record::Record;
use super::hex;
use crate::domain::name::ActionName;

/// A token's digest proves nothing to a reader, and should not be guessed at.
pub(super) fn without_secrets(mut json: Value) -> Value {
    if let Some(object) = json.as_object_mut() {
        object.remove("token");
    }
    json
}

/// Largest record that the evidence tells whole: an entry holds at most 65,535 bytes.
const MAX_TOLD_BYTES: usize = 32 * 1024;

/// Of which the names of a grant's actions have so much.
const MAX_ACTIONS_BYTES: usize = 16 * 1024;

/// A record as the evidence tells it: whole, or, of one that is too large for that, digest and length, and of requests,
/// changes and grants what their story hangs on, and what of it was left out.
pub(super) fn told(record: &Record, json: Value) -> Value {
    let kept = match record {
        Record::Request(request) => {
            let given = request.approvals.iter();
            let approvals: Vec<Value> =
                given.map(|it| json!({ "id": it.id, "by": it.by, "on_behalf_of": it.on_behalf_of, "at": it.at, "digest": it.digest })).collect();
            let (ask, analysis) = (&request.ask, &request.analysis);
            json!({
                "id": request.id, "requester": request.requester, "state": request.state, "created": request.created,
                "expires": request.expires, "grants": request.grants, "approvals": approvals,
                "ask": { "identity": ask.identity, "reason": ask.reason, "ticket": ask.ticket, "duration": ask.duration },
                "analysis": { "verdict": analysis.verdict, "policy": analysis.policy, "digest": analysis.digest },
            })
        }
        Record::Proposal(it) => {
            let objects = it.objects.iter();
            let objects: Vec<Value> =
                objects.map(|it| json!({ "kind": it.kind, "name": it.name, "change": it.change })).take(200).collect();
            let approvals: Vec<Value> = it
                .approvals
                .iter()
                .map(|it| json!({ "id": it.id, "by": it.by, "at": it.at, "digest": it.digest }))
                .collect();
            let left_out = it.objects.len().saturating_sub(objects.len());
            json!({
                "id": it.id, "author": it.author, "reason": it.reason, "state": it.state, "created": it.created,
                "expires": it.expires, "objects": objects, "objects_left_out": left_out, "approvals": approvals,
                "digest": it.digest, "version": it.version, "settled": it.settled,
            })
        }
        Record::Grant(record) => {
            let (grant, mut room) = (&record.grant, MAX_ACTIONS_BYTES);
            let fits = |action: &&ActionName| {
                room = room.saturating_sub(action.as_str().len() + 3);
                room > 0
            };
            let actions: Vec<&ActionName> = grant.actions.iter().take_while(fits).collect();
            let more = grant.actions.len().saturating_sub(actions.len());
            // Who had access to what, and since when. Which limits it had is told by the digest alone.
            let mut kept = json!({
                "id": grant.id, "identity": grant.identity, "resource": grant.resource, "actions": actions,
                "actions_left_out": more, "window": grant.window, "lineage": grant.lineage, "revoked": grant.revoked,
            });
            let missing = |name: &&String| kept.get(name.as_str()).is_none();
            let all = json.get("grant").and_then(Value::as_object);
            let left_out: Vec<String> = all.into_iter().flat_map(Map::keys).filter(missing).cloned().collect();
            if let Some(kept) = kept.as_object_mut() {
                kept.insert("left_out".to_owned(), json!(left_out));
            }
            json!({ "grant": kept })
        }
        // Exceptions on it are exceptions on its resource.
        Record::Route(it) => json!({ "name": it.name, "spec": { "resource": it.spec.resource } }),
        _ => json!({}),
    };
    let whole = json.to_string().len() <= MAX_TOLD_BYTES;
    let mut short = bounded(json, MAX_TOLD_BYTES);
    if let (false, Some(short), Value::Object(kept)) = (whole, short.as_object_mut(), kept) {
        short.extend(kept);
    }
    short
}

/// Of a larger one its digest and its length.
pub(super) fn bounded(json: Value, most: usize) -> Value {
    let text = json.to_string();
    if text.len() <= most {
        return json;
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    json!({ "sha256": hex(digest.as_ref()), "bytes": text.len() })
}

#[cfg(test)]
mod tests {
    use super::super::super::record::GrantRecord;
    use super::*;

    fn of(actions: usize, reason: usize) -> Value {
        let names: Vec<String> = (0..actions).map(|n| format!("action-{n:03}-{}", "x".repeat(110))).collect();
        let at = "2027-01-15T08:00:00Z";
        let grant = json!({
            "id": crate::domain::name::GrantId::from_bits(9), "identity": "billing", "resource": "api/orders",
            "actions": names, "window": { "starts": at, "ends": at }, "limits": { "uses": 4 },
            "lineage": { "created": at, "created_by": "alice", "reason": "r".repeat(reason) },
        });
        let grant = serde_json::from_value(grant).unwrap();
        let record = Record::Grant(GrantRecord { grant, expiry_noted: false });
        told(&record, record.json().unwrap())
    }

    #[test]
    fn a_route_that_is_too_large_tells_where_it_leads() {
        let action =
            |n| json!({ "name": format!("a{n}"), "methods": ["GET"], "path": format!("/{}", "x".repeat(1_000)) });
        let actions: Vec<Value> = (0..50).map(action).collect();
        let spec = json!({ "upstream": "http://127.0.0.1:9000", "resource": "api/orders", "actions": actions });
        let route = crate::domain::route::Route {
            name: "orders".parse().unwrap(),
            spec: serde_json::from_value(spec).unwrap(),
        };
        let record = Record::Route(route);
        let told = told(&record, record.json().unwrap());
        assert!(told["sha256"].is_string(), "{told}");
        assert_eq!(told.pointer("/spec/resource"), Some(&json!("api/orders")));
    }

    #[test]
    fn a_grant_that_is_too_large_tells_who_had_access_to_what_and_what_it_leaves_out() {
        let whole = of(2, 10);
        assert!(whole.get("sha256").is_none() && whole["grant"]["left_out"].is_null(), "{whole}");
        assert_eq!(whole["grant"]["limits"]["uses"], 4);
        let one = of(2, MAX_TOLD_BYTES);
        assert_eq!(
            (one["grant"]["actions"].as_array().unwrap().len(), &one["grant"]["actions_left_out"]),
            (2, &json!(0))
        );
        let many = of(256, 1000);
        let grant = &many["grant"];
        let told = grant["actions"].as_array().unwrap().len();
        assert!(told > 100 && grant["actions_left_out"] == 256 - told, "{told}");
        assert_eq!(grant["left_out"], json!(["limits"]));
        assert_eq!((&grant["identity"], &grant["resource"]), (&json!("billing"), &json!("api/orders")));
        assert!(many["sha256"].is_string() && many.to_string().len() < MAX_TOLD_BYTES, "{}", many.to_string().len());
    }
}
