//! The table: every operation of the HTTP API.

use schemars::JsonSchema;
use serde::Serialize;

use super::problem::Problem;
use super::shapes::{
    DeadToken, Documents, NewAccess, NewPolicy, NewState, Nothing, Question, Sweep, Waiting, WhichGrants, WhichObjects,
    WhichPolicy, WhichRequests, Why, WhyAndWait, Yes, millis,
};
use super::{Operation, Received, Takes, Verb};
use crate::domain::name::{GrantId, IdentityName, RequestId};
use crate::wire::answers::{
    ApplyAnswer, CanIAnswer, CreateAnswer, GrantList, GrantRecord, Me, ObjectAnswer, ObjectList, PolicyAnswer,
    RequestAnswer, RequestList, RevokeAnswer, ShownGrant, StateAnswer, SweepAnswer, present,
};
use crate::wire::v1;
use v1::access_server::Access as _;
use v1::catalog_server::Catalog as _;

/// A revision.
#[derive(Debug, Serialize, JsonSchema)]
struct Revision {
    /// Of the change.
    revision: u64,
}

mod breakglass;
mod changes;
mod delegations;
mod evidence;
mod exceptions;

fn request_id<I>(received: &Received<I>) -> Result<Vec<u8>, Problem> {
    received.part::<RequestId>("id").map(|id| id.bits().to_be_bytes().to_vec())
}

fn grant_id<I>(received: &Received<I>) -> Result<Vec<u8>, Problem> {
    received.part::<GrantId>("id").map(|id| id.bits().to_be_bytes().to_vec())
}

/// Every operation.
pub(super) fn all() -> Vec<Operation> {
    [
        requests(),
        delegations::all(),
        grants(),
        catalog(),
        changes::all(),
        breakglass::all(),
        exceptions::all(),
        evidence::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn requests() -> Vec<Operation> {
    let me = ("whoAmI", "Who the caller is and what they may do by standing.");
    let list = ("listRequests", "Requests: those that are open, newest first.");
    let create = (
        "createRequest",
        "Asks for access. What policy refuses is answered as a request that is denied. With `idempotency-key`, the same \
         request of the same caller within a day is made once.",
    );
    let get = ("getRequest", "One request, with the analysis as of now while it is open.");
    let approve =
        ("approveRequest", "Approves a request as it was seen. The last approval that it takes makes the grants.");
    let deny = ("denyRequest", "Says no to a request.");
    let cancel = ("cancelRequest", "Takes an open request back; of one that was granted, ends what it was granted.");
    vec![
        Operation::new(Verb::Get, "/v1/me", me, Takes::Nothing, |served, received: Received<Nothing>| async move {
            let done = served.access.who_am_i(received.message(v1::WhoAmIRequest {})).await?;
            Ok(Me::from(done.into_inner()))
        }),
        Operation::new(
            Verb::Get,
            "/v1/requests",
            list,
            Takes::Query,
            |served, it: Received<WhichRequests>| async move {
                let done =
                    served.access.list_requests(it.message(v1::ListRequestsRequest { all: it.input.all })).await?;
                Ok(RequestList::try_from(done.into_inner())?)
            },
        ),
        Operation {
            is_keyed: true,
            ..Operation::new(
                Verb::Post,
                "/v1/requests",
                create,
                Takes::Body,
                |served, it: Received<NewAccess>| async move {
                    let (it, input) = it.split();
                    let waited = input.wait.is_some();
                    let done = served.access.create_request(it.message(input.request(it.key.clone()))).await?;
                    Ok(RequestAnswer::of(done.into_inner(), waited, served.now())?)
                },
            )
        },
        Operation::new(Verb::Get, "/v1/requests/{id}", get, Takes::Query, |served, it: Received<Waiting>| async move {
            let message = v1::GetRequestRequest { id: request_id(&it)?, wait_ms: millis(it.input.wait) };
            let done = served.access.get_request(it.message(message)).await?;
            Ok(RequestAnswer::of(done.into_inner(), it.input.wait.is_some(), served.now())?)
        }),
        Operation::new(
            Verb::Post,
            "/v1/requests/{id}/approve",
            approve,
            Takes::Body,
            |served, it: Received<Yes>| async move {
                let id = request_id(&it)?;
                let (it, Yes { digest, comment, on_behalf_of }) = it.split();
                let on_behalf_of = on_behalf_of.map(String::from).unwrap_or_default();
                let message = v1::ApproveRequestRequest { id, digest, comment, on_behalf_of };
                let done = served.access.approve_request(it.message(message)).await?;
                Ok(RequestAnswer::of(done.into_inner(), false, served.now())?)
            },
        ),
        Operation::new(
            Verb::Post,
            "/v1/requests/{id}/deny",
            deny,
            Takes::Body,
            |served, it: Received<Why>| async move {
                let id = request_id(&it)?;
                let (it, Why { reason }) = it.split();
                let done = served.access.deny_request(it.message(v1::DenyRequestRequest { id, reason })).await?;
                Ok(RequestAnswer::of(done.into_inner(), false, served.now())?)
            },
        ),
        Operation::new(
            Verb::Post,
            "/v1/requests/{id}/cancel",
            cancel,
            Takes::Body,
            |served, it: Received<WhyAndWait>| async move {
                let id = request_id(&it)?;
                let (it, WhyAndWait { reason, wait }) = it.split();
                let message = v1::CancelRequestRequest { id, reason, wait_ms: millis(wait) };
                let done = served.access.cancel_request(it.message(message)).await?;
                Ok(RequestAnswer::of(done.into_inner(), wait.is_some(), served.now())?)
            },
        ),
    ]
}

fn grants() -> Vec<Operation> {
    let list = ("listGrants", "Grants, oldest first, in pages.");
    let create = ("createGrant", "Makes a grant by hand: administrators alone, and nobody once a policy is in force.");
    let sweep = ("revokeGrants", "Ends every grant of an identity, on a resource, or every one there is.");
    let get = ("getGrant", "One grant, live or ended.");
    let revoke = ("revokeGrant", "Ends a grant now. Ending it twice answers as the first time.");
    let can_i = ("canI", "What the gate would say, by the code that the gate runs.");
    let token = ("revokeToken", "Declares a token dead everywhere before its end.");
    vec![
        Operation::new(Verb::Get, "/v1/grants", list, Takes::Query, |served, it: Received<WhichGrants>| async move {
            let (it, input) = it.split();
            let done = served.access.list_grants(it.message(input.request()?)).await?;
            Ok(GrantList::of(done.into_inner(), served.now())?)
        }),
        Operation::new(Verb::Post, "/v1/grants", create, Takes::Body, |served, it: Received<NewAccess>| async move {
            let (it, input) = it.split();
            let done = served.access.create_grant(it.message(input.grant())).await?;
            Ok(CreateAnswer::of(done.into_inner(), served.now())?)
        }),
        Operation::new(Verb::Post, "/v1/grants/revoke", sweep, Takes::Body, |served, it: Received<Sweep>| async move {
            let (it, input) = it.split();
            let waited = input.wait.is_some();
            let done = served.access.revoke_grants(it.message(input.into())).await?;
            Ok(SweepAnswer::of(done.into_inner(), waited)?)
        }),
        Operation::new(Verb::Get, "/v1/grants/{id}", get, Takes::Nothing, |served, it: Received<Nothing>| async move {
            let done = served.access.get_grant(it.message(v1::GetGrantRequest { id: grant_id(&it)? })).await?;
            let grant: ShownGrant = GrantRecord::try_from(done.into_inner())?.shown(served.now());
            Ok(grant)
        }),
        Operation::new(
            Verb::Post,
            "/v1/grants/{id}/revoke",
            revoke,
            Takes::Body,
            |served, it: Received<WhyAndWait>| async move {
                let id = grant_id(&it)?;
                let (it, WhyAndWait { reason, wait }) = it.split();
                let message = v1::RevokeGrantRequest { id, reason, wait_ms: millis(wait) };
                let done = served.access.revoke_grant(it.message(message)).await?;
                Ok(RevokeAnswer::of(done.into_inner(), wait.is_some(), served.now())?)
            },
        ),
        Operation::new(Verb::Post, "/v1/can-i", can_i, Takes::Body, |served, it: Received<Question>| async move {
            let (it, input) = it.split();
            let done = served.access.can_i(it.message(input.into())).await?;
            Ok(CanIAnswer::of(done.into_inner(), served.now())?)
        }),
        Operation::new(
            Verb::Post,
            "/v1/tokens/revoke",
            token,
            Takes::Body,
            |served, it: Received<DeadToken>| async move {
                let (it, input) = it.split();
                let done = served.access.revoke_token(it.message(input.into())).await?;
                Ok(Revision { revision: done.into_inner().revision })
            },
        ),
    ]
}

fn catalog() -> Vec<Operation> {
    let list = ("listObjects", "Objects of the catalog.");
    let get = ("getObject", "One object of the catalog. A `/` in a name is written `%2F`.");
    let apply = ("apply", "Puts documents into the catalog, all or none; or says what they would change.");
    let state = (
        "setIdentityState",
        "Sets an identity aside, releases it, or sends it off. With the first and the last, everything that it holds ends.",
    );
    let policy = ("getPolicy", "The policy that is in force, or a version of it.");
    let publish = ("publishPolicy", "Puts a policy into force, checked as `portcullis policy test` does.");
    vec![
        Operation::new(Verb::Get, "/v1/objects", list, Takes::Query, |served, it: Received<WhichObjects>| async move {
            let (it, input) = it.split();
            let done = served.catalog.list_objects(it.message(input.into())).await?;
            Ok(ObjectList::try_from(done.into_inner())?)
        }),
        Operation::new(
            Verb::Get,
            "/v1/objects/{kind}/{name}",
            get,
            Takes::Nothing,
            |served, it: Received<Nothing>| async move {
                let message = v1::GetObjectRequest { kind: it.part("kind")?, name: it.part("name")? };
                let done = served.catalog.get_object(it.message(message)).await?;
                Ok(ObjectAnswer::try_from(present("object", done.into_inner().object)?)?)
            },
        ),
        Operation::new(Verb::Post, "/v1/apply", apply, Takes::Body, |served, it: Received<Documents>| async move {
            let (it, input) = it.split();
            let dry_run = input.dry_run;
            let done = served.catalog.apply(it.message(input.into())).await?;
            Ok(ApplyAnswer::of(done.into_inner(), dry_run)?)
        }),
        Operation::new(
            Verb::Post,
            "/v1/identities/{name}/state",
            state,
            Takes::Body,
            |served, it: Received<NewState>| async move {
                let name: IdentityName = it.part("name")?;
                let (it, input) = it.split();
                let waited = input.wait.is_some();
                let done = served.catalog.set_identity_state(it.message(input.of(name))).await?;
                Ok(StateAnswer::of(done.into_inner(), waited)?)
            },
        ),
        Operation::new(Verb::Get, "/v1/policy", policy, Takes::Query, |served, it: Received<WhichPolicy>| async move {
            let version = it.input.version.unwrap_or_default();
            let done = served.catalog.get_policy(it.message(v1::GetPolicyRequest { version })).await?;
            Ok(PolicyAnswer::try_from(done.into_inner())?)
        }),
        Operation::new(Verb::Put, "/v1/policy", publish, Takes::Body, |served, it: Received<NewPolicy>| async move {
            let (it, input) = it.split();
            let done = served.catalog.publish_policy(it.message(input.into())).await?;
            Ok(PolicyAnswer::try_from(done.into_inner())?)
        }),
    ]
}
