//! Access Request and Approval Profile (Draft 1): which denials access can be asked for after, and what an approval is worth
//! when the question is asked again.
//!
//! A denial stays one. Policy says whether whoever asks could ask for access; the approval itself gives nothing: the answer
//! is that of the grants that live, and an approval only says more of a no.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Map, Value, json};

use super::binding::{Approval, Binding, CONTEXT_MEMBERS, Denial, Kind, bound};
use super::{Asking, Decided};
use crate::control::analyse::may_be_asked;
use crate::control::authorize::Caller;
use crate::control::grant::parameters_of;
use crate::control::model::Model;
use crate::domain::grant::{GrantState, Limits};
use crate::domain::name::{ActionName, CallId, IdentityName, ParameterName, ResourceName};
use crate::domain::request::{Access, Ask, Requester};
use crate::domain::resource::Span;
use crate::domain::role::Permission;
use crate::domain::{Reason, Timestamp};

/// Where access is asked for.
pub(super) const REQUESTS: &str = "/access/v1/requests";
/// How long access can be asked for after a denial. What is asked for until a moment begins with the denial, and may lie
/// no further back than grants may.
const DENIAL_LIFE: i64 = 240;
/// For how long access is asked for where nobody says.
pub(super) const USUAL: Span = Span::new(std::time::Duration::from_secs(900));

/// What access requests are told by and bound with.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) binding: Binding,
    /// Where callers reach the control plane.
    pub(super) base: String,
}

impl Profile {
    /// Where access is asked for.
    pub(super) fn endpoint(&self) -> String {
        format!("{}{REQUESTS}", self.base)
    }

    /// Whether claims are of this control plane, for itself.
    pub(super) fn is_ours(&self, iss: &str, aud: &str) -> bool {
        iss == self.base && aud == self.endpoint()
    }
}

/// What a question is about.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) identity: IdentityName,
    pub(super) action: ActionName,
    pub(super) resource: ResourceName,
    pub(super) parameters: Vec<(ParameterName, String)>,
}

impl Named {
    /// What would be asked for: this action on this resource, with those of the parameters that a route has.
    pub(super) fn ask(&self, model: &Model, starts: Option<Timestamp>, duration: Span, reason: &str) -> Ask {
        let permission = Permission { resource: self.resource.clone(), actions: vec![self.action.clone()] };
        let known = parameters_of(model, &permission);
        let said = self.parameters.iter().filter(|(name, _)| known.contains(name));
        let parameters = said.map(|(name, value)| (name.clone(), vec![value.clone()])).collect();
        Ask {
            identity: self.identity.clone(),
            access: Access::Resource(permission),
            starts,
            duration,
            limits: Limits { parameters, ..Limits::default() },
            reason: reason.to_owned(),
            ticket: None,
            until: Vec::new(),
        }
    }
}

/// Whether access would help.
const fn would_help(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::GrantMissing
            | Reason::ActionNotGranted
            | Reason::ParameterNotGranted
            | Reason::GrantExpired
            | Reason::GrantRevoked
            | Reason::UsesSpent
    )
}

/// Adds to a denial what it takes to ask for access, where whoever asks, or the subject itself, could.
pub(super) fn offer(asking: &Asking, question: &Value, named: &Named, reason: &str, context: &mut Map<String, Value>) {
    let Ok(true) = reason.parse::<Reason>().map(would_help) else { return };
    let requester = match &asking.caller {
        Caller::Person(person) => Requester::Person(person.name.clone()),
        Caller::Identity(_) => Requester::Identity(named.identity.clone()),
        Caller::Gateway(_) | Caller::Joining(..) | Caller::Attested(_) | Caller::System => return,
    };
    let ask = named.ask(&asking.model, None, USUAL, "asked for after a denial");
    if !may_be_asked(&asking.model, asking.now, &requester, &ask) {
        return;
    }
    let mut random = [0; 16];
    // Without randomness there is no evaluation to tell from others.
    if SystemRandom::new().fill(&mut random).is_err() {
        return;
    }
    let (profile, iat) = (&asking.profile, asking.now.unix_seconds());
    let denial = Denial {
        iss: profile.base.clone(),
        aud: profile.endpoint(),
        jti: format!("eval_{}", CallId::new(asking.now, u128::from_be_bytes(random))),
        iat,
        exp: iat.saturating_add(DENIAL_LIFE),
        asked_by: asking.caller.to_string(),
        identity: named.identity.clone(),
        bound: bound(question),
        binding_context_members: CONTEXT_MEMBERS.map(str::to_owned).to_vec(),
    };
    let what = format!("{} on {} for {}", named.action, named.resource, named.identity);
    context.insert("evaluation_id".to_owned(), json!(denial.jti));
    context.insert("evaluated_at".to_owned(), json!(Timestamp::from_unix_seconds(iat)));
    context.insert(
        "access_request".to_owned(),
        json!({
            "endpoint": profile.endpoint(),
            "expires_at": Timestamp::from_unix_seconds(denial.exp),
            "binding_token": profile.binding.sign(Kind::Denial, &denial),
            "display": { "title": "Ask for access", "description": what },
        }),
    );
}

/// The answer to a question that an approval came with: `answer` is what the gate would say without it.
pub(super) fn decided(asking: &Asking, question: &Value, named: &Named, presented: &Value, answer: Decided) -> Decided {
    let Some(approval) = read(&asking.profile, presented) else {
        return Decided::next("approval_unverifiable", "none", "the approval is not one of this control plane");
    };
    let in_scope = approval.identity == named.identity
        && approval.resource == named.resource
        && approval.actions.contains(&named.action);
    let until = Timestamp::from_unix_seconds(approval.exp);
    let grant = asking.model.grants.get(&approval.jti).map(|kept| kept.value.state(asking.now));
    let (reason, next, detail) = match (answer, grant) {
        _ if !in_scope => ("out_of_scope", "request", "the approval is of something else"),
        _ if asking.now >= until => ("approval_expired", "request", "the time of the approval is over"),
        (Decided::Yes(mut context), _) => {
            let known = json!({ "id": approval.jti, "approved_until": until });
            context.insert("approval".to_owned(), known);
            return Decided::Yes(context);
        }
        (_, None | Some(GrantState::Expired | GrantState::Revoked)) => {
            ("approval_expired", "request", "the grant that came of the approval has ended")
        }
        (_, Some(GrantState::Scheduled)) => {
            ("grant_pending", "retry", "the grant that came of the approval has not begun")
        }
        (_, Some(GrantState::Active)) => {
            ("policy_denied", "none", "the grant that came of the approval does not cover this")
        }
    };
    let mut no = Decided::next(reason, next, detail);
    if let Decided::No(context) = &mut no {
        match next {
            "request" => offer(asking, question, named, Reason::GrantMissing.code(), context),
            "retry" => {
                let starts = asking.model.grants.get(&approval.jti).map(|kept| kept.value.window.starts);
                let wait = starts.map_or(1, |starts| starts.saturating_since(asking.now).as_secs().saturating_add(1));
                context.insert("retry_after".to_owned(), json!(wait));
            }
            _ => {}
        }
    }
    no
}

/// The claims of an approval, where what is said beside them is what they say.
fn read(profile: &Profile, presented: &Value) -> Option<Approval> {
    let state = presented.get("state").and_then(Value::as_str)?;
    let claims: Approval = profile.binding.read(Kind::Approval, state)?;
    let said = |member: &str| presented.get(member).and_then(Value::as_str);
    let until = Timestamp::from_unix_seconds(claims.exp).to_string();
    let same = said("id") == Some(&claims.jti.to_string()) && said("approved_until") == Some(&until);
    (same && profile.is_ours(&claims.iss, &claims.aud)).then_some(claims)
}
