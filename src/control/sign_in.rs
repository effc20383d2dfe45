//! Who somebody is by a token that others issued: machines by their issuers', people by the ID token of where they sign in.
//!
//! What verifies is looked up in the inventory; what a token says that somebody may is nothing here. Knows no transport.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::attested::AttestError;
use super::authorize::Caller;
use super::halt;
use super::model::Model;
use super::record::{Digest, Person, PersonRole};
use crate::domain::breakglass::SignedIn;
use crate::domain::identity::IdentityState;
use crate::domain::name::OwnerName;
use crate::domain::principal::CertificateThumbprint;
use crate::domain::root::Root;
use crate::domain::{Clock, Timestamp};
use crate::issuers::{
    IssuerSettingError, Issuers, IssuersError, KeySource, RevokedTokens, TokenVerifier, TrustedIssuer,
};
use crate::settings::ControlSettings;
use crate::settings::control::{PersonClaim, SignInSettings};
use crate::settings::issuer;
use crate::token::TokenError;
use crate::token::verify::{IssuerProfile, TokenTypes, UnverifiedToken, Verified};

/// The account that is there from the beginning.
const ADMINISTRATOR: &str = "administrator";
/// Room for tokens that were verified.
const CACHE_BYTES: u64 = 8 << 20;
/// Longest `acr`, or part of `amr`, that is kept of a sign-in.
const MAX_CLAIM_BYTES: usize = 256;
/// Parts of `amr` that are kept.
const MAX_METHODS: usize = 16;

/// Why tokens of others cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// An issuer is not settled well.
    #[error("issuer `{issuer}`: {why}")]
    Issuer {
        /// Its name.
        issuer: String,
        /// What is wrong.
        why: String,
    },
    /// They do not go together.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
}

/// Why a token makes nobody known. For its holder to read: it tells nothing but what the token says itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stranger {
    /// It does not verify.
    #[error("the token is not taken: {0}")]
    Token(#[from] TokenError),
    /// It is bound to a certificate that was not shown.
    #[error("the token is bound to a client certificate, which has to be shown with it (RFC 8705)")]
    Binding,
    /// Somebody acts for somebody.
    #[error("the token is somebody's who acts for another: who asks the control plane speaks for themselves")]
    Delegated,
    /// What vouched for it was halted, or the token itself revoked.
    #[error(
        "what vouched for the credential stands still, or it was revoked: an administrator's own token lets it go on"
    )]
    Stopped,
    /// Not what a person gets who signs in.
    #[error("the token is not an ID token for this control plane alone")]
    NotAnIdToken,
    /// It does not say who it is.
    #[error("the token says nothing that names a person: claim `{0}` is missing, not verified, or not a name")]
    Unnamed(&'static str),
    /// Who it is, is nobody here.
    #[error("signed in as `{0}`, whom nobody here knows: it takes an account (`control init --person`)")]
    NoAccount(OwnerName),
    /// The account that every control plane has is no name at a provider, where names may be anybody's to choose.
    #[error("nobody signs in as `{0}`: that account is its token's alone")]
    TokenAlone(OwnerName),
    /// Somebody vouches for it, and it may not join.
    #[error(transparent)]
    Attested(#[from] AttestError),
    /// An identity is not in the inventory, or set aside.
    #[error("the token's subject is no identity that is active here")]
    NoIdentity,
}

/// Takes tokens of others.
#[derive(Debug)]
pub(super) struct Tokens {
    verifier: TokenVerifier,
    people: Option<People>,
}

/// How a person is known.
#[derive(Debug)]
struct People {
    issuer: Arc<str>,
    claim: PersonClaim,
    documented: bool,
}

impl Tokens {
    /// Of the settings' issuers, whose keys are kept fresh until the tasks end; none where there are none.
    ///
    /// # Errors
    /// When they cannot be taken together.
    pub(super) fn of(
        settings: &ControlSettings,
        clock: Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Option<(Self, JoinSet<()>)>, SignInError> {
        let people = settings.sign_in.as_ref();
        if settings.issuers.is_empty() && people.is_none() {
            return Ok(None);
        }
        let fault = |issuer: &str, faults: Vec<IssuerSettingError>| SignInError::Issuer {
            issuer: issuer.to_owned(),
            why: faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        };
        let machine = |settings: &issuer::IssuerSettings| {
            TrustedIssuer::try_from(settings).map_err(|faults| fault(&settings.issuer, faults))
        };
        let mut trusted = settings.issuers.iter().map(machine).collect::<Result<Vec<_>, _>>()?;
        if let Some(settings) = people {
            trusted.push(provider(settings).map_err(|faults| fault(&settings.issuer.issuer, faults))?);
        }
        let issuers = Arc::new(Issuers::trusting(trusted, clock)?);
        let tasks = issuers.keep_fresh(runtime);
        let people = people.map(|settings| People {
            issuer: settings.issuer.issuer.as_str().into(),
            claim: settings.person,
            documented: settings.documented,
        });
        let verifier = TokenVerifier::new(issuers, Arc::new(RevokedTokens::default()), CACHE_BYTES);
        Ok(Some((Self { verifier, people }, tasks)))
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// Why it is nobody's.
    pub(super) fn caller(
        &self,
        token: &str,
        certificate: Option<CertificateThumbprint>,
        model: &Model,
        now: Timestamp,
    ) -> Result<Caller, Stranger> {
        let verified = self.verifier.verify(token, now)?;
        if verified.thumbprint.is_some() && verified.thumbprint != certificate {
            return Err(Stranger::Binding);
        }
        // Here as at the gateways: a key that leaked speaks for nobody.
        let revoked = (verified.issuer.to_string(), verified.handle().to_string());
        if model.tokens.contains_key(&revoked) || halt::stops(model, verified.root()) {
            return Err(Stranger::Stopped);
        }
        if verified.actor.is_some() {
            return Err(Stranger::Delegated);
        }
        match self.people.as_ref().filter(|people| people.issuer == verified.issuer) {
            Some(people) => people.person(token, &verified, model).map(Caller::Person),
            None => identity(&verified, model),
        }
    }
}

fn provider(settings: &SignInSettings) -> Result<TrustedIssuer, Vec<IssuerSettingError>> {
    let SignInSettings { issuer, client_id, .. } = settings;
    let (leeway, life) = (issuer.leeway, Some(issuer.max_lifetime));
    let profile = IssuerProfile::trusted(&issuer.issuer, &[client_id], TokenTypes::Jwt, leeway, life)
        .map_err(|faults| faults.into_iter().map(IssuerSettingError::Profile).collect::<Vec<_>>())?;
    let source = match &issuer.keys {
        issuer::KeySource::File(path) => KeySource::File(path.clone()),
        issuer::KeySource::Url(url) => KeySource::Url(url.parse().map_err(|e| vec![IssuerSettingError::Url(e)])?),
    };
    TrustedIssuer::new(profile, source, Some(issuer.refresh), Some(issuer.max_stale))
}

fn identity(verified: &Verified, model: &Model) -> Result<Caller, Stranger> {
    let name = model.subjects.get(&(verified.subject.clone(), verified.issuer.clone())).ok_or(Stranger::NoIdentity)?;
    let active = model.identities.get(name).filter(|identity| identity.value.state == IdentityState::Active);
    active.map(|_| Caller::Identity(name.clone())).ok_or(Stranger::NoIdentity)
}

impl People {
    fn person(&self, token: &str, verified: &Verified, model: &Model) -> Result<Arc<Person>, Stranger> {
        // The profile checked that one audience is ours; a token for others too is what they could show here.
        if verified.audiences.len() != 1 {
            return Err(Stranger::NotAnIdToken);
        }
        let claims = UnverifiedToken::parse(token)?;
        // OpenID Connect Core 2: another party's would not be shown here; RFC 9068 2.2.3: what has a scope opens something.
        let is_anothers =
            claims.member("azp").is_some_and(|azp| azp.as_str() != verified.audiences.first().map(|it| &**it));
        if is_anothers || ["scope", "scp"].iter().any(|claim| claims.member(claim).is_some()) {
            return Err(Stranger::NotAnIdToken);
        }
        let unnamed = Stranger::Unnamed(self.claim.as_str());
        let text = |name| claims.member(name).and_then(|value| value.as_str());
        let name = match self.claim {
            PersonClaim::Sub => verified.subject.parse().ok(),
            PersonClaim::PreferredUsername => text(self.claim.as_str()).and_then(|name| name.parse().ok()),
            PersonClaim::Email => {
                let is_verified = claims.member("email_verified").and_then(|value| value.as_bool()) == Some(true);
                text(self.claim.as_str()).filter(|_| is_verified).and_then(|email| with_email(email, model))
            }
        };
        let name: OwnerName = name.ok_or(unnamed)?;
        if name.as_str() == ADMINISTRATOR {
            return Err(Stranger::TokenAlone(name));
        }
        let known = model.people.get(&name).map(|kept| kept.value.clone());
        let documented = || (self.documented && model.entries.contains_key(&name)).then(|| Arc::new(developer(&name)));
        let person = known.or_else(documented).ok_or_else(|| Stranger::NoAccount(name.clone()))?;
        let person = Person { signed_in: signed_in(&claims, verified), ..person.as_ref().clone() };
        Ok(model.speaking(Arc::new(person)))
    }
}

/// When and how they proved who they are, as the ID token says (OpenID Connect Core 1.0 section 2): `auth_time` is a number of
/// seconds and stands in it when it was asked for; `acr` and `amr` are the provider's to give.
fn signed_in(claims: &UnverifiedToken<'_>, verified: &Verified) -> Option<Arc<SignedIn>> {
    let seconds = claims.member("auth_time")?;
    let seconds =
        seconds.as_i64().or_else(|| seconds.as_f64().filter(|it| it.is_finite()).map(|it| it.floor() as i64))?;
    let short = |text: &str| (1..=MAX_CLAIM_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
    let texts = claims.member("amr").and_then(|value| value.as_array()).map(Vec::as_slice).unwrap_or_default();
    let amr = texts.iter().filter_map(|it| it.as_str()).filter(|it| short(it)).take(MAX_METHODS);
    Some(Arc::new(SignedIn {
        issuer: verified.issuer.to_string(),
        kid: match verified.root().as_ref() {
            Root::Issuer { kid, .. } => kid.as_deref().map(str::to_owned),
            Root::PublicKey(_) | Root::Unknown => None,
        },
        at: Timestamp::from_unix_seconds(seconds),
        acr: claims.member("acr").and_then(|it| it.as_str()).filter(|it| short(it)).map(str::to_owned),
        amr: amr.map(str::to_owned).collect(),
    }))
}

/// The one person whose document has this address.
fn with_email(email: &str, model: &Model) -> Option<OwnerName> {
    let has = |of: &Option<String>| of.as_deref().is_some_and(|of| of.eq_ignore_ascii_case(email));
    let mut found = model.entries.values().filter(|kept| has(&kept.value.spec.email));
    let (one, None) = (found.next()?, found.next()) else { return None };
    Some(one.value.name.clone())
}

/// Somebody of whom there is a document and no account.
pub(super) fn developer(name: &OwnerName) -> Person {
    // No token has this digest: it is that of nothing, and a token is never empty.
    let token = Digest::of("");
    Person { name: name.clone(), roles: vec![PersonRole::Developer], speaks_for: Vec::new(), token, signed_in: None }
}
