//! The token endpoint (RFC 8693; RFC 6749 section 4.4 with RFC 8705).

use std::borrow::Cow;
use std::sync::Arc;

use super::{Answer, Endpoint, Oauth, Refused, Who, private};
use crate::decision::snapshot::{IdentityIndex, LiveGrant, Snapshot};
use crate::decision::{Authority, Basis, Call, Credential, Decision, Now, decide};
use crate::domain::grant::Binding;
use crate::domain::name::{ActionName, IdentityName};
use crate::domain::principal::{CertificateThumbprint, Principal};
use crate::domain::root::Root;
use crate::domain::{Reason, Timestamp};
use crate::evidence::entry::{CredentialKind, IssueKind, TokenIssued};
use crate::gateway::connection::ClientCertificate;
use crate::gateway::metrics::MintedFor;
use crate::token::mint::{AccessToken, MintError, access_token};
use crate::token::oauth::{Proof, TokenAnswer, TokenRequest, subject_token_reason};
use crate::token::verify::Verified;

/// Who asks, verified.
enum Asker<'r> {
    Certificate(&'r ClientCertificate),
    Token { verified: Arc<Verified>, certificate: Option<CertificateThumbprint> },
}

/// What the decision gave.
struct Given {
    grant: Arc<LiveGrant>,
    actions: Vec<ActionName>,
}

/// What a decision says to a request.
enum Ruling {
    Give(Given),
    Deny(Reason),
    Hold(Reason),
}

impl Oauth {
    pub(super) async fn token(&self, request: &Endpoint) -> Result<Answer, Refused> {
        let form = TokenRequest::parse(self.form(request)?).map_err(|error| Refused::Stranger(error.reason()))?;
        let asker = self.asker(request, &form).await?;
        let principal = asker.principal();
        let mut who =
            Who { identity: None, principal: &principal, credential: asker.kind(), resource: Some(&form.resource) };
        let mut patience = std::pin::pin!(tokio::time::sleep(self.parts.hold));
        let (name, given, now) = loop {
            let snapshot = self.parts.published.load();
            let now = self.parts.authority.now();
            // Before the first picture has come nobody is known, which says nothing about the caller.
            if now.authority == Authority::Missing {
                return Err(self.deny(request, &who, Reason::AuthorityMissing).await);
            }
            let Some(identity) = snapshot.identify(&asker.as_principal()) else {
                return Err(self.deny(request, &who, Reason::IdentityUnknown).await);
            };
            let Some(name) = snapshot.identity(identity).map(|entry| entry.name.clone()) else {
                return Err(self.deny(request, &who, Reason::IdentityUnknown).await);
            };
            who.identity = Some(name.clone());
            if form.client.as_deref().is_some_and(|client| client != name.as_str()) {
                return Err(self.deny(request, &who, Reason::TokenRequestInvalid).await);
            }
            let of_connection = request.certificate.as_ref().map(|certificate| &certificate.root);
            if [Some(asker.root()), of_connection].into_iter().flatten().any(|it| snapshot.is_credential_halted(it)) {
                return Err(self.deny(request, &who, Reason::CredentialHalted).await);
            }
            match rule(&snapshot, &now, identity, &asker, &form, request) {
                Ruling::Give(given) => break (name, given, now),
                Ruling::Deny(reason) => return Err(self.deny(request, &who, reason).await),
                Ruling::Hold(reason) => tokio::select! {
                    () = self.parts.authority.renewed() => {}
                    () = &mut patience => return Err(self.deny(request, &who, reason).await),
                },
            }
        };
        match self.issue(request, &form, &asker, &name, &given, now.wall).await {
            Ok(answer) => Ok(answer),
            Err(reason) => Err(self.deny(request, &who, reason).await),
        }
    }

    async fn asker<'r>(&self, request: &'r Endpoint, form: &TokenRequest) -> Result<Asker<'r>, Refused> {
        let now = self.parts.authority.wall();
        let certificate = request.certificate.as_ref();
        match &form.proof {
            Proof::Certificate => match certificate {
                None => Err(Refused::Stranger(Reason::CredentialMissing)),
                Some(certificate) if now < certificate.valid_until => Ok(Asker::Certificate(certificate)),
                Some(_) => Err(Refused::Stranger(Reason::CredentialExpired)),
            },
            Proof::SubjectToken(token) => {
                let verified =
                    self.parts.verifier.verify_awaiting_keys(token.as_str(), now).await.map_err(|error| {
                        tracing::debug!(call = %request.call, %error, "a subject token does not hold");
                        Refused::Stranger(subject_token_reason(error))
                    })?;
                let certificate = certificate.filter(|c| now < c.valid_until).map(|c| c.thumbprint);
                // Exchanging a token of ours could only prolong it; and a bound one counts over its certificate alone.
                if verified.gate.is_some() || (verified.thumbprint.is_some() && verified.thumbprint != certificate) {
                    return Err(Refused::Stranger(Reason::SubjectTokenInvalid));
                }
                Ok(Asker::Token { verified, certificate })
            }
        }
    }

    /// Mints, records, and only then gives. A crash after the record leaves one of a token that nobody has.
    async fn issue(
        &self,
        request: &Endpoint,
        form: &TokenRequest,
        asker: &Asker<'_>,
        identity: &IdentityName,
        given: &Given,
        now: Timestamp,
    ) -> Result<Answer, Reason> {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| Reason::InternalFault)?;
        let token = AccessToken {
            issuer: &self.parts.issuer,
            audience: &self.parts.audience,
            identity,
            grant: given.grant.id,
            resource: &form.resource,
            actions: &given.actions,
            thumbprint: asker.bound_to(&given.grant),
            root: asker.root(),
            not_after: given.grant.window.ends.min(asker.valid_until()),
            random,
        };
        let minted = access_token(&self.parts.access_key, &token, now).map_err(|error| match error {
            MintError::Ended => Reason::GrantExpired,
            MintError::Key(_) => Reason::InternalFault,
        })?;
        let (kind, parent) = match asker {
            Asker::Certificate(_) => (IssueKind::Certificate, None),
            Asker::Token { verified, .. } => (IssueKind::Exchange, verified.token_id.clone()),
        };
        let record = TokenIssued {
            call: request.call,
            jti: minted.token_id.as_ref().into(),
            grant: given.grant.id,
            identity: Cow::Borrowed(identity),
            audience: self.parts.audience.as_str().into(),
            expires: minted.expires,
            kind,
            parent_jti: parent.as_deref().map(Into::into),
        };
        // A token that leaves is a call that is allowed: within the archive's bound, or not at all.
        self.parts.journal.within_bound().map_err(|error| error.reason())?;
        self.write(&record).await.map_err(|error| error.reason())?;
        self.parts.metrics.minted(MintedFor::Caller);
        Ok(private(200, TokenAnswer::new(&minted, form.kind, &given.actions, now).to_json().into()))
    }
}

/// Decides each action asked for, by the decision that calls go through. One token is of one grant, so each grant is
/// asked alone: the one that lasts longest and allows all of it.
fn rule(
    snapshot: &Snapshot,
    now: &Now,
    identity: IdentityIndex,
    asker: &Asker<'_>,
    form: &TokenRequest,
    request: &Endpoint,
) -> Ruling {
    let Some(resource) = snapshot.resource_place(&form.resource) else {
        return Ruling::Deny(Reason::TokenTargetInvalid);
    };
    let mut grants: Vec<&Arc<LiveGrant>> = snapshot.grants(identity, resource).iter().collect();
    grants.sort_by_key(|grant| std::cmp::Reverse(grant.window.ends));
    let mut nearest = None;
    for grant in &grants {
        let own: Vec<ActionName> = grant.actions.iter().filter_map(|place| snapshot.action(*place)).cloned().collect();
        let asked = if form.actions.is_empty() { own } else { form.actions.clone() };
        let ruling = match alone(snapshot, grant, &grants) {
            Ok(snapshot) => asked.iter().try_for_each(|action| {
                let parameters = grant.limits.iter().flat_map(|limits| &limits.parameters);
                // Parameters are of calls, and checked on each: the question is asked with values that the grant accepts.
                let parameters: Vec<_> =
                    parameters.filter_map(|(name, values)| Some((name.clone(), values.first()?.clone()))).collect();
                // Grants are of resources: any route of the action will do. One that no route has is beyond every grant.
                let assumed = snapshot.assume(&form.resource, action, &parameters);
                let target = assumed.first().ok_or(Ruling::Deny(Reason::TokenScopeInvalid))?;
                let peer = Some(request.peer.ip().to_canonical());
                let call = Call { identity, credential: asker.credential(), target, peer, used_up: &[] };
                allowed(decide(&call, &snapshot, now))
            }),
            Err(reason) => Err(Ruling::Deny(reason)),
        };
        match ruling {
            Ok(()) => return Ruling::Give(Given { grant: Arc::clone(grant), actions: asked }),
            Err(Ruling::Deny(reason)) => drop(nearest.get_or_insert(reason)),
            Err(ruling @ (Ruling::Give(_) | Ruling::Hold(_))) => return ruling,
        }
    }
    Ruling::Deny(nearest.unwrap_or(Reason::TokenTargetInvalid))
}

/// The picture with this one of an identity's grants on a resource, and none of the others.
fn alone(snapshot: &Snapshot, grant: &LiveGrant, all: &[&Arc<LiveGrant>]) -> Result<Snapshot, Reason> {
    let mut builder = snapshot.edit();
    for other in all.iter().filter(|other| other.id != grant.id) {
        builder.remove_grant(other.id);
    }
    // Routes are as they were, and they did make a table.
    builder.build(snapshot.epoch(), snapshot.revision()).map_err(|_| Reason::InternalFault)
}

fn allowed(decision: Decision) -> Result<(), Ruling> {
    match decision {
        Decision::Allow(permit) => match permit.basis() {
            Basis::Grant(_) => Ok(()),
            // An exception lets calls through and gives no rights: nothing is issued for it.
            Basis::Exception { would_refuse, .. } => Err(Ruling::Deny(*would_refuse)),
        },
        Decision::Deny(reason) => Err(Ruling::Deny(reason)),
        Decision::Hold(hold) => Err(Ruling::Hold(hold.reason())),
    }
}

impl Asker<'_> {
    fn as_principal(&self) -> Principal {
        match self {
            Self::Certificate(certificate) => Principal::Spiffe(certificate.spiffe.clone()),
            Self::Token { verified, .. } => verified.principal(),
        }
    }

    fn principal(&self) -> String {
        self.as_principal().to_string()
    }

    fn kind(&self) -> CredentialKind {
        match self {
            Self::Certificate(_) => CredentialKind::Certificate,
            Self::Token { .. } => CredentialKind::Token,
        }
    }

    fn credential(&self) -> Credential<'_> {
        match self {
            Self::Certificate(c) => Credential::Certificate { spiffe: &c.spiffe, thumbprint: c.thumbprint },
            Self::Token { verified, certificate } => {
                Credential::Token { issuer: &verified.issuer, certificate: *certificate }
            }
        }
    }

    /// What vouched for it.
    fn root(&self) -> &Arc<Root> {
        match self {
            Self::Certificate(certificate) => &certificate.root,
            Self::Token { verified, .. } => verified.root(),
        }
    }

    /// It ends no later than what was shown for it.
    fn valid_until(&self) -> Timestamp {
        match self {
            Self::Certificate(certificate) => certificate.valid_until,
            Self::Token { verified, .. } => verified.expires,
        }
    }

    /// The certificate that the new token is bound to: what was bound stays bound.
    fn bound_to(&self, grant: &LiveGrant) -> Option<CertificateThumbprint> {
        match self {
            Self::Certificate(certificate) => Some(certificate.thumbprint),
            Self::Token { verified, certificate } => match grant.limits.as_ref().and_then(|l| l.binding.as_ref()) {
                Some(Binding::Certificate(_)) => *certificate,
                Some(Binding::Spiffe(_) | Binding::Issuer(_)) | None => verified.thumbprint,
            },
        }
    }
}
