//! The way of a call, on one screen: identify, match, decide, look at the body, meter, register, credential, record.
//!
//! Each stage takes the result of the one before and gives the next one's, or a refusal. What comes out is an
//! [`Admitted`] call: a permit, its place in the register, what the upstream gets, and a record on disk. Nothing here
//! knows the proxy library; nothing there forwards without an [`Admitted`].

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use http::HeaderValue;

use super::Shared;
use super::connection::Connection;
use super::denials::{At, Course};
use super::identify::{Caller, identify};
use super::live::{Cut, KeyKey, Registration, Running, TokenKey};
use super::meter::Use;
use super::record::{self, OutcomeRecord, Particulars};
use super::refusal::{Dialect, Refusal, Wanted};
use super::worker::Worker;
use crate::decision::routes::Matched;
use crate::decision::snapshot::{IdentityIndex, LiveGrant, Snapshot};
use crate::decision::{Authority, Call, Decision, Now, Permit, UsedUp, decide};
use crate::domain::name::CallId;
use crate::domain::route::{BodyRule, Host};
use crate::domain::trust::Protocol;
use crate::domain::{Reason, Timestamp};
use crate::evidence::entry::{CredentialKind, Denial, Parameters, QueryHashes};
use crate::evidence::journal::JournalError;

/// A request whose form has been accepted.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) call: CallId,
    pub(crate) started: Timestamp,
    pub(crate) method: &'a str,
    pub(crate) host: &'a Host,
    /// Canonical, without the query.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) authorization: Option<&'a [u8]>,
    pub(crate) body: &'a Body,
    pub(crate) dialect: Dialect,
    pub(crate) connection: &'a Connection,
    pub(crate) cut: &'a Arc<Cut>,
}

/// What is known of a request's body.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nothing yet.
    Unread,
    /// All of it.
    Whole(WholeBody),
    /// That it cannot be had whole, and why.
    Unusable(Reason),
}

/// A whole body, by what identifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WholeBody {
    pub(crate) bytes: u64,
    pub(crate) sha256: [u8; 32],
}

/// What becomes of a request that is not refused.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large one is the one on every call's way: no allocation for it")]
pub(crate) enum Admission {
    /// It goes on.
    Forward(Admitted),
    /// Its route wants the body read first, up to this many bytes; then it is to be asked again. Only for a caller who is
    /// allowed the call by all else, so that nobody else can fill the memory for bodies.
    Inspect(u64),
}

/// A call that may be forwarded. Dropping it deregisters the call and records its outcome.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) permit: Permit,
    /// `Authorization` for the upstream.
    pub(crate) credential: Option<HeaderValue>,
    /// INVARIANT: before `registration`, so that the outcome is queued by the time the call counts as gone.
    pub(crate) outcome: OutcomeRecord,
    pub(crate) registration: Registration,
}

/// Takes a request through every stage before forwarding.
pub(crate) async fn admit(worker: &Worker, request: &Request<'_>) -> Result<Admission, Refusal> {
    let shared = &worker.shared;
    let begun = shared.authority.now();
    let mut identifying = pin!(identify(request.authorization, request.connection, &shared.verifier, begun.wall));
    let (caller, mut moment) = match poll!(identifying.as_mut()) {
        Poll::Ready(caller) => (caller, Some(begun)),
        // Keys have to be asked for, which takes time.
        Poll::Pending => (identifying.await, None),
    };
    let caller = caller.map_err(|reason| stranger(worker, request, reason))?;
    // A call is held seldom, and never longer than this in all.
    let mut patience = None;
    let mut metered = Metered::default();
    loop {
        let snapshot = shared.published.load();
        let now = moment.take().unwrap_or_else(|| shared.authority.now());
        let permit = match judge(&caller, request, &metered.used_up, &snapshot, &now) {
            Judged::Allow(identity, permit) => (identity, permit),
            Judged::Stranger(reason) => return Err(stranger(worker, request, reason)),
            Judged::Deny(denied) => return Err(deny(worker, request, &caller, &snapshot, *denied).await),
            Judged::Hold(hold, denied) => {
                let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(shared.limits.hold)));
                tokio::select! {
                    () = shared.authority.renewed() => continue,
                    () = patience => {}
                }
                let denied = Denied { reason: hold.reason(), ..*denied };
                return Err(deny(worker, request, &caller, &snapshot, denied).await);
            }
        };
        let (identity, (permit, matched)) = permit;
        match judge_body(permit.route().route().spec.body, request.body) {
            BodyJudged::Fine => {}
            BodyJudged::Read(most) => return Ok(Admission::Inspect(most)),
            BodyJudged::Deny(reason) => {
                let denied = Denied { reason, identity: Some(identity), target: Some(Target::of(&matched)) };
                return Err(deny(worker, request, &caller, &snapshot, denied).await);
            }
        }
        if let Some(grant) = metered.lacks(&permit, shared.authority.since_boot()) {
            let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(shared.limits.hold)));
            tokio::select! {
                biased;
                () = metered.take(shared, grant) => continue,
                () = patience => {}
            }
            let target = Some(Target::of(&matched));
            let denied = Denied { reason: Reason::UsesUnavailable, identity: Some(identity), target };
            return Err(deny(worker, request, &caller, &snapshot, denied).await);
        }
        let registration = register(worker, request, &caller, identity, &permit);
        // INVARIANT: registered first, read again second. A change published before the first is seen by the second; one
        // published after finds the call in the register.
        if !shared.published.is_current(&snapshot) {
            continue;
        }
        // The same for what the connection stands on.
        if let Err(reason) = request.connection.trusted() {
            drop(registration);
            return Err(stranger(worker, request, reason));
        }
        return match prepare(worker, request, &caller, permit, metered.of_call, &matched, registration, &now).await {
            Ok(admitted) => Ok(Admission::Forward(admitted)),
            Err(Unready::Recorded(reason)) => Err(Refusal::new(reason, request.call)),
            Err(Unready::Unrecorded(reason)) => {
                let denied = Denied { reason, identity: Some(identity), target: Some(Target::of(&matched)) };
                Err(deny(worker, request, &caller, &snapshot, denied).await)
            }
        };
    }
}

/// What the meter said of a call so far.
#[derive(Default)]
struct Metered {
    /// The use that it has, of the counted grant that allows it.
    of_call: Option<Use>,
    /// Grants that allow it and have no use left.
    used_up: Vec<UsedUp>,
}

impl Metered {
    /// The counted grant that the permit stands on, when the call has no use of it yet. A use of another one goes back, and
    /// so does one that is void by now.
    fn lacks(&mut self, permit: &Permit, now: Duration) -> Option<Arc<LiveGrant>> {
        let counted = permit.grant().filter(|grant| grant.is_counted());
        let serves = |one: &Use| one.is_good(now) && counted.is_some_and(|grant| grant.id == one.grant);
        self.of_call = self.of_call.take().filter(serves);
        counted.filter(|_| self.of_call.is_none()).cloned()
    }

    /// Takes a use of it, or notes that there is none. The call is decided again afterwards.
    async fn take(&mut self, shared: &Shared, grant: Arc<LiveGrant>) {
        match shared.meter.wait(grant.id, || shared.authority.since_boot()).await {
            Ok(one) => self.of_call = Some(one),
            Err(dry) => {
                let is_over = dry.again >= grant.window.ends;
                let reason = if is_over { Reason::UsesSpent } else { Reason::UsesSpentForNow };
                self.used_up.push(UsedUp { grant: grant.id, reason });
            }
        }
    }
}

/// What the pure stages say.
enum Judged<'a> {
    Allow(IdentityIndex, (Permit, Matched<'a>)),
    /// A good credential of nobody in the inventory: as much a stranger as one without, however many an issuer has.
    Stranger(Reason),
    Deny(Box<Denied>),
    Hold(crate::decision::Hold, Box<Denied>),
}

/// A denial and what was known when it was made.
struct Denied {
    reason: Reason,
    identity: Option<IdentityIndex>,
    target: Option<Target>,
}

struct Target {
    route: crate::domain::name::RouteName,
    resource: crate::domain::name::ResourceName,
    action: crate::domain::name::ActionName,
}

fn judge<'a>(
    caller: &Caller<'_>,
    request: &Request<'a>,
    used_up: &[UsedUp],
    snapshot: &Snapshot,
    now: &Now,
) -> Judged<'a> {
    let deny = |reason, identity, target| Judged::Deny(Box::new(Denied { reason, identity, target }));
    // Before the first picture has come nobody is known, which says nothing about the caller.
    if now.authority == Authority::Missing {
        return deny(Reason::AuthorityMissing, None, None);
    }
    let identity = match caller.identity(snapshot) {
        Ok(identity) => identity,
        Err(reason) => return Judged::Stranger(reason),
    };
    if caller.is_halted(request.connection, snapshot) {
        return deny(Reason::CredentialHalted, Some(identity), None);
    }
    let matched = match snapshot.match_request(request.host, request.method, request.path) {
        Ok(matched) => matched,
        Err(reason) => return deny(reason, Some(identity), None),
    };
    let peer = Some(request.connection.peer.ip().to_canonical());
    let credential = match caller.credential() {
        Ok(credential) => credential,
        Err(reason) => return deny(reason, Some(identity), Some(Target::of(&matched))),
    };
    let call = Call { identity, credential, target: &matched, peer, used_up };
    match decide(&call, snapshot, now) {
        Decision::Allow(permit) if !carries(permit.route().route().spec.protocol, request.dialect) => {
            deny(Reason::ProtocolMismatch, Some(identity), Some(Target::of(&matched)))
        }
        Decision::Allow(permit) => Judged::Allow(identity, (permit, matched)),
        Decision::Deny(reason) => deny(reason, Some(identity), Some(Target::of(&matched))),
        Decision::Hold(hold) => {
            let denied = Denied { reason: hold.reason(), identity: Some(identity), target: Some(Target::of(&matched)) };
            Judged::Hold(hold, Box::new(denied))
        }
    }
}

/// Whether a route can carry a call: gRPC ends in trailers, which HTTP/1.1 on either side would lose.
const fn carries(protocol: Protocol, dialect: Dialect) -> bool {
    match (protocol, dialect) {
        (Protocol::Grpc, Dialect::Grpc) | (Protocol::Http1, Dialect::Http) | (Protocol::Http2, _) => true,
        (Protocol::Grpc, Dialect::Http) | (Protocol::Http1, Dialect::Grpc) => false,
    }
}

/// What a route says of what is known of the body.
enum BodyJudged {
    Fine,
    Read(u64),
    Deny(Reason),
}

fn judge_body(rule: BodyRule, body: &Body) -> BodyJudged {
    match (body, rule) {
        // Whatever the route says now: what was read of it is gone.
        (Body::Unusable(reason), _) => BodyJudged::Deny(*reason),
        (_, BodyRule::Stream) => BodyJudged::Fine,
        (Body::Unread, BodyRule::Inspect(most)) => BodyJudged::Read(most.as_bytes()),
        // The route may have changed while the body was read.
        (Body::Whole(body), BodyRule::Inspect(most)) if body.bytes > most.as_bytes() => {
            BodyJudged::Deny(Reason::BodyTooLarge)
        }
        (Body::Whole(_), BodyRule::Inspect(_)) => BodyJudged::Fine,
    }
}

impl Target {
    fn of(matched: &Matched<'_>) -> Self {
        Self {
            route: matched.route_name().clone(),
            resource: matched.route().route().spec.resource.clone(),
            action: matched.action_name().clone(),
        }
    }
}

fn register(
    worker: &Worker,
    request: &Request<'_>,
    caller: &Caller<'_>,
    identity: IdentityIndex,
    permit: &Permit,
) -> Registration {
    let mut running = Running::of(request.call, identity, permit);
    running.connection = request.connection.id();
    running.roots = caller.roots(request.connection);
    match caller {
        Caller::Certificate(certificate) => running.key = Some(KeyKey::of(certificate.thumbprint.as_bytes())),
        Caller::Token { verified, .. } | Caller::Revoked(verified) => {
            running.token = Some(TokenKey::of(&verified.issuer, verified.handle()));
            running.key = verified.key().kid().map(|kid| KeyKey::of_issuer(&verified.issuer, kid));
        }
    }
    worker.shared.registry.register(worker.index, running, request.cut.clone())
}

/// Why an allowed call does not go on after all.
enum Unready {
    /// Its intent is on disk, and its outcome says the rest.
    Recorded(Reason),
    /// Nothing is recorded yet.
    Unrecorded(Reason),
}

/// Credential and intent. A crash before the record is durable leaves nothing: no byte went upstream. A crash after it
/// leaves an intent without an outcome, which says so itself.
#[expect(clippy::too_many_arguments, reason = "all that the stages before came to")]
async fn prepare(
    worker: &Worker,
    request: &Request<'_>,
    caller: &Caller<'_>,
    permit: Permit,
    metered: Option<Use>,
    matched: &Matched<'_>,
    registration: Registration,
    now: &Now,
) -> Result<Admitted, Unready> {
    // A token can have been revoked between its check and the registration.
    if let Caller::Token { verified, .. } = caller
        && worker.shared.verifier.revoked().is_revoked(verified)
    {
        return Err(Unready::Unrecorded(Reason::TokenRevoked));
    }
    let credential = worker.minter.outgoing(&permit, now).map_err(Unready::Unrecorded)?;
    let principal = caller.principal();
    let upstream = permit.route().upstream_text();
    let key = worker.shared.hash_key.load();
    let values = matched.parameters().iter().map(|(name, value)| (std::borrow::Cow::Borrowed(name), value.as_ref()));
    let parameters = Parameters::new(values, &key);
    let allotment = metered.as_ref().map(|one| one.allotment);
    let particulars = Particulars { allotment, ..particulars(request, principal, caller) };
    let intent = record::intent(&particulars, &permit, parameters, &key, now, upstream);
    // Before it can be on disk: what became of it, nobody may know.
    if let Some(one) = metered {
        one.spend();
    }
    let (ticket, room) = worker.waiters.intent(&intent).map_err(|error| Unready::Unrecorded(error.reason()))?;
    registration.intent(ticket.seq);
    let clock = worker.shared.clock.clone();
    let mut outcome = OutcomeRecord::new(room, clock, worker.metrics.clone(), request.started, request.cut.clone());
    worker.waiters.durable(ticket).await.map_err(|error| {
        outcome.end(crate::evidence::entry::Ended::Unknown, Some(error.reason()));
        Unready::Unrecorded(error.reason())
    })?;
    outcome.promised();
    if let Some(reason) = request.cut.reason() {
        return Err(Unready::Recorded(reason));
    }
    // The disk took its time, and connecting will: whether the permit still holds is for the last look before the first
    // byte (`lapsed`).
    match permit.grant() {
        Some(_) => worker.metrics.allowed(),
        None => worker.metrics.observed(),
    }
    Ok(Admitted { permit, credential, outcome, registration })
}

/// Why a permit does not hold at `now`, by time and authority alone: all else that ends it fires the call's cut.
pub(crate) fn lapsed(permit: &Permit, now: &Now) -> Option<Reason> {
    if now.wall >= permit.ends() {
        return Some(permit.end_reason());
    }
    match now.authority {
        Authority::Missing => Some(Reason::AuthorityMissing),
        Authority::Unknown => Some(Reason::AuthorityStale),
        Authority::Age(age) => (age > permit.authority_bound()).then_some(Reason::AuthorityStale),
    }
}

fn particulars<'a>(request: &'a Request<'_>, principal: &'a str, caller: &Caller<'_>) -> Particulars<'a> {
    Particulars {
        call: request.call,
        method: request.method,
        host: request.host.as_str(),
        path: request.path,
        peer: request.connection.peer,
        principal,
        credential: credential_kind(caller),
        body: match request.body {
            Body::Whole(body) => Some(*body),
            Body::Unread | Body::Unusable(_) => None,
        },
        query: request.query,
        allotment: None,
    }
}

fn credential_kind(caller: &Caller<'_>) -> CredentialKind {
    match caller {
        Caller::Certificate(_) => CredentialKind::Certificate,
        Caller::Token { verified, .. } | Caller::Revoked(verified) if verified.gate.is_some() => {
            CredentialKind::GateToken
        }
        Caller::Token { .. } | Caller::Revoked(_) => CredentialKind::Token,
    }
}

/// Nobody known: counted, not recorded one by one.
fn stranger(worker: &Worker, request: &Request<'_>, reason: Reason) -> Refusal {
    worker.metrics.refused(reason);
    worker.shared.refusals.note(reason, request.connection.peer, request.method, request.path);
    Refusal::new(reason, request.call)
}

/// A verified caller is refused: on disk first, answered second.
async fn deny(
    worker: &Worker,
    request: &Request<'_>,
    caller: &Caller<'_>,
    snapshot: &Snapshot,
    denied: Denied,
) -> Refusal {
    use std::borrow::Cow;
    let identity = denied.identity.and_then(|place| snapshot.identity(place));
    let principal = caller.principal();
    let target = denied.target.as_ref();
    let record = Denial {
        call: request.call,
        reason: denied.reason,
        identity: identity.map(|entry| Cow::Borrowed(&entry.name)),
        principal: Some(principal.into()),
        credential: Some(credential_kind(caller)),
        route: target.map(|t| Cow::Borrowed(&t.route)),
        resource: target.map(|t| Cow::Borrowed(&t.resource)),
        action: target.map(|t| Cow::Borrowed(&t.action)),
        method: request.method.into(),
        host: request.host.as_str().into(),
        path: request.path.into(),
        query: request.query.and_then(|query| QueryHashes::of(query, &worker.shared.hash_key.load())),
        peer: request.connection.peer,
        epoch: snapshot.epoch(),
        revision: snapshot.revision(),
    };
    worker.metrics.denied(denied.reason);
    if let Err(error) = write(worker, &record).await {
        return Refusal::new(error.reason(), request.call);
    }
    let wanted = identity.zip(denied.target).map(|(identity, target)| {
        let is_governed = worker.shared.published.is_governed();
        let (resource, action) = (target.resource, target.action);
        Box::new(Wanted { identity: identity.name.clone(), resource, action, is_governed })
    });
    Refusal { reason: denied.reason, call: request.call, wanted }
}

/// A denial's own record, or its place in an aggregate that is on disk.
async fn write(worker: &Worker, denial: &Denial<'_>) -> Result<(), JournalError> {
    let shared = &worker.shared;
    let at = At { since_boot: shared.authority.since_boot(), wall: shared.clock.now() };
    let ticket = match shared.denials.take(&shared.journal, denial, at)? {
        Course::Alone => worker.waiters.append(denial)?,
        Course::Counted(ticket) => {
            worker.metrics.denial_counted();
            ticket
        }
        Course::CountedAlready => {
            worker.metrics.denial_counted();
            return Ok(());
        }
    };
    worker.waiters.durable(ticket).await
}
