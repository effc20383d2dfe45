//! What became of each approval: the revision that a gateway first decided on, or that it never took effect and why.
//!
//! Knows a story that was told already, and reads no log.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::GrantStory;

/// An approval of a story's request, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApprovalStory {
    /// Its identifier.
    pub id: String,
    /// Whose it is.
    pub by: String,
    /// Logs of gateways that let a call through because of it, with the first revision that such a decision was made on.
    pub enforced: BTreeMap<String, u64>,
    /// Why it had no effect; absent when it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_effect: Option<String>,
}

/// What became of each approval of `request`, which gave `grants`.
pub(super) fn of(request: &Value, grants: &[GrantStory]) -> Vec<ApprovalStory> {
    let given = request.get("approvals").and_then(Value::as_array).into_iter().flatten();
    given.map(|approval| approval_story(approval, request, grants)).collect()
}

fn approval_story(approval: &Value, request: &Value, grants: &[GrantStory]) -> ApprovalStory {
    let (digest, mut enforced) = (text(approval, "/digest"), BTreeMap::new());
    // An approval of something else than what was granted gave nothing.
    let counts = |grant: &&GrantStory| bound_to(grant).is_none_or(|bound| bound == digest);
    let of_it: Vec<&GrantStory> = grants.iter().filter(counts).collect();
    for (log, revision) in of_it.iter().filter(|grant| grant.calls.count > 0).flat_map(|grant| &grant.calls.enforced) {
        let first = enforced.entry(log.clone()).or_insert(*revision);
        *first = (*first).min(*revision);
    }
    let without_effect = enforced.is_empty().then(|| why_none(request, grants, &of_it));
    ApprovalStory {
        id: text(approval, "/id").to_owned(),
        by: text(approval, "/by").to_owned(),
        enforced,
        without_effect,
    }
}

fn why_none(request: &Value, grants: &[GrantStory], of_it: &[&GrantStory]) -> String {
    if let Some(grant) = of_it.first() {
        let ended =
            grant.ended.as_ref().map(|how| format!("it {} before", if how == "revoked" { "was revoked" } else { how }));
        let when = ended.unwrap_or_else(|| "so far".to_owned());
        return format!("grant {}: no gateway of these logs let a call through under it, {when}", grant.id);
    }
    if !grants.is_empty() {
        return "what was granted differs from what was approved here".to_owned();
    }
    match text(request, "/state") {
        "pending" => "the request waits for more approvals".to_owned(),
        state => format!("the request was {state}: {}", text(request, "/settled/reason")),
    }
}

/// The digest that the approvals of a grant are bound to.
fn bound_to(grant: &GrantStory) -> Option<&str> {
    grant.made.as_ref()?.pointer("/lineage/origin/digest")?.as_str()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Calls;
    use super::*;
    use crate::domain::name::GrantId;

    fn grant(digest: &str, calls: u64, ended: Option<&str>) -> GrantStory {
        let enforced = if calls > 0 { BTreeMap::from([("edge".to_owned(), 7)]) } else { BTreeMap::new() };
        GrantStory {
            id: GrantId::from_bits(1),
            made: Some(json!({ "lineage": { "origin": { "digest": digest } } })),
            revision: Some(6),
            ended: ended.map(str::to_owned),
            calls: Calls { count: calls, enforced, ..Calls::default() },
        }
    }

    fn effect(state: &str, grants: &[GrantStory]) -> ApprovalStory {
        let request = json!({
            "state": state, "settled": { "reason": "not needed" },
            "approvals": [{ "id": "a", "by": "bob", "digest": "d" }],
        });
        of(&request, grants).remove(0)
    }

    #[test]
    fn an_approval_is_enforced_from_a_revision_on_or_says_why_it_is_not() {
        let enforced = effect("granted", &[grant("d", 2, Some("expired"))]);
        assert_eq!((enforced.enforced.get("edge"), enforced.without_effect), (Some(&7), None));
        let why = |state: &str, grants: &[GrantStory]| effect(state, grants).without_effect.unwrap_or_default();
        assert!(
            why("granted", &[grant("d", 0, None)])
                .ends_with("no gateway of these logs let a call through under it, so far")
        );
        assert!(why("granted", &[grant("d", 0, Some("revoked"))]).ends_with("it was revoked before"));
        assert!(why("granted", &[grant("d", 0, Some("expired"))]).ends_with("it expired before"));
        assert_eq!(why("granted", &[grant("other", 2, None)]), "what was granted differs from what was approved here");
        assert_eq!(why("cancelled", &[]), "the request was cancelled: not needed");
        assert_eq!(why("pending", &[]), "the request waits for more approvals");
    }
}
