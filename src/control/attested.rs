//! Gateways that join by attestation: one identity, key set and log each, for replicas that come and go.
//!
//! Somebody else says who they are, a SPIFFE trust domain or a Kubernetes cluster; what they become, their template says.
//! A replica is named by its template and its own key, so that nobody joins as another. One that is gone is let go.

mod plan;

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::actor::ControlHandle;
use super::record::Digest;
use super::sign_in::SignInError;
use crate::domain::name::GatewayName;
use crate::domain::principal::SpiffeId;
use crate::domain::{Clock, Timestamp};
use crate::issuers::{Issuers, RevokedTokens, TokenVerifier, TrustedIssuer};
use crate::serve::LiveTls;
use crate::settings::control::{AttestationSettings, AttestedWho, TemplateSettings};
use crate::token::TokenError;
use crate::token::verify::UnverifiedToken;

pub(super) use plan::{Gone, plan_gone, plan_join};

/// Room for tokens that were verified: each is used once.
const CACHE_BYTES: u64 = 1 << 20;
/// How often it is looked who is gone.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

/// Who was attested, and may join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// A SPIFFE ID, or a cluster and a service account in it.
    pub subject: String,
    /// The one replica that it is, where the attestation says so: a pod's UID. `None`: its key is.
    pub instance: Option<String>,
    /// Of a token that is good for one joining, and when it ends.
    pub proof: Option<(Digest, Timestamp)>,
    /// The templates that mean it, by name.
    pub templates: Vec<GatewayName>,
}

/// Why an attestation lets nobody join. For its bearer to read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AttestError {
    /// The token does not verify.
    #[error("the service account token is not taken: {0}")]
    Token(#[from] TokenError),
    /// It verifies, and is not of a pod.
    #[error("the token is not a projected service account token of a pod: {0} is missing or does not go with `sub`")]
    NotOfAPod(&'static str),
    /// More than one audience: whoever else takes it could join with it.
    #[error("the token is meant for others too: project one with this control plane's audience alone")]
    Audiences,
    /// No template means it.
    #[error("`{0}` is attested, and no template of this control plane means it")]
    NoTemplate(String),
}

/// Whose word counts.
#[derive(Debug)]
pub(super) struct Attestation {
    settings: AttestationSettings,
    tokens: Option<TokenVerifier>,
    tls: Arc<LiveTls>,
}

impl Attestation {
    /// As the settings say; the keys of clusters are kept fresh until the tasks end.
    ///
    /// # Errors
    /// When issuers cannot be taken together.
    pub(super) fn of(
        settings: &AttestationSettings,
        tls: &Arc<LiveTls>,
        clock: Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<(Self, JoinSet<()>), SignInError> {
        let (settings, tls) = (settings.clone(), tls.clone());
        if settings.kubernetes.is_empty() {
            return Ok((Self { settings, tokens: None, tls }, JoinSet::new()));
        }
        let trusted = settings.kubernetes.iter().map(|issuer| {
            TrustedIssuer::try_from(issuer).map_err(|faults| SignInError::Issuer {
                issuer: issuer.issuer.clone(),
                why: faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            })
        });
        let issuers = Arc::new(Issuers::trusting(trusted.collect::<Result<_, _>>()?, clock)?);
        let keys = issuers.keep_fresh(runtime);
        let tokens = Some(TokenVerifier::new(issuers, Arc::new(RevokedTokens::default()), CACHE_BYTES));
        Ok((Self { settings, tokens, tls }, keys))
    }

    /// A template.
    pub(super) fn template(&self, name: &GatewayName) -> Option<&TemplateSettings> {
        self.settings.templates.iter().find(|template| template.name == *name)
    }

    /// Whether a token, by the issuer that it names, is one to join with.
    pub(super) fn is_ours(&self, token: &str) -> bool {
        let parsed = UnverifiedToken::parse(token).ok();
        let issuer = parsed.as_ref().and_then(|parsed| parsed.issuer().ok());
        issuer.is_some_and(|issuer| self.settings.kubernetes.iter().any(|known| known.issuer == issuer))
    }

    /// Who has a projected service account token.
    ///
    /// # Errors
    /// When it does not verify, is not of a pod, or no template means it.
    pub(super) fn pod(&self, token: &str, now: Timestamp) -> Result<Attested, AttestError> {
        let tokens = self.tokens.as_ref().ok_or(TokenError::IssuerUnknown)?;
        let verified = tokens.verify(token, now)?;
        if verified.audiences.len() != 1 {
            return Err(AttestError::Audiences);
        }
        let parsed = UnverifiedToken::parse(token)?;
        let text = |pointer: &'static str| {
            let value = parsed.member("kubernetes.io").and_then(|claims| claims.pointer(pointer));
            let text = value.and_then(serde_json::Value::as_str).filter(|text| !text.is_empty() && text.len() <= 256);
            text.ok_or(AttestError::NotOfAPod(pointer))
        };
        let (namespace, account) = (text("/namespace")?, text("/serviceaccount/name")?);
        let (account_uid, pod_uid) = (text("/serviceaccount/uid")?, text("/pod/uid")?);
        if *verified.subject != *format!("system:serviceaccount:{namespace}:{account}") {
            return Err(AttestError::NotOfAPod("sub"));
        }
        let subject = format!("{} {}", verified.issuer, verified.subject);
        let means = |who: &AttestedWho| match who {
            AttestedWho::Kubernetes { issuer, namespace: wanted, service_account } => {
                **issuer == *verified.issuer && wanted == namespace && service_account == account
            }
            AttestedWho::Spiffe(_) => false,
        };
        // By its `jti`, or what is signed, which is the same however the signature is written.
        let proof = Digest::of(format!("{}\n{}", verified.issuer, verified.handle()));
        self.attested(subject, means, Some(format!("{account_uid}/{pod_uid}")), Some((proof, verified.valid_until())))
    }

    /// Who has an X.509-SVID; TLS verified that they have its key. The chain has to end at an authority of the SVID's own
    /// trust domain, whoever else is trusted here.
    ///
    /// # Errors
    /// When no template means it.
    pub(super) fn workload(
        &self,
        id: &SpiffeId,
        chain: &[CertificateDer<'_>],
    ) -> Option<Result<Attested, AttestError>> {
        if !self.tls.vouches_as(id.trust_domain(), chain) {
            return None;
        }
        Some(self.attested(id.to_string(), |who| who.is_spiffe(id), None, None))
    }

    fn attested(
        &self,
        subject: String,
        means: impl Fn(&AttestedWho) -> bool,
        instance: Option<String>,
        proof: Option<(Digest, Timestamp)>,
    ) -> Result<Attested, AttestError> {
        let templates = self.settings.templates.iter().filter(|template| means(&template.who));
        let templates: Vec<_> = templates.map(|template| template.name.clone()).collect();
        if templates.is_empty() {
            return Err(AttestError::NoTemplate(subject));
        }
        Ok(Attested { subject, instance, proof, templates })
    }
}

/// Lets replicas go that have been away for too long, until stopped.
pub(super) async fn let_go(
    handle: ControlHandle,
    templates: Vec<TemplateSettings>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = super::stopped(&mut stop) => return,
            _ = every.tick() => {}
        }
        let now = handle.shared().clock.now();
        let away = handle.gateways().into_iter().filter(|status| !status.connected);
        let gone: Vec<Gone> = away.map(|status| Gone { gateway: status.name, heard: status.answered }).collect();
        let model = handle.model();
        if plan_gone(&model, now, &templates, &gone).is_empty() {
            continue;
        }
        if let Err(error) = handle.let_go(templates.clone(), gone).await {
            tracing::warn!(%error, "gateways that are gone could not be let go");
        }
    }
}
