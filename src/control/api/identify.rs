//! Who makes a request: a person by token, an identity by token or certificate, a gateway by certificate, or nobody.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use rustls::pki_types::CertificateDer;
use tonic::service::Interceptor;
use tonic::{Request, Status};
use x509_parser::extensions::GeneralName;

use super::super::actor::ControlHandle;
use super::super::attested::Attestation;
use super::super::authorize::Caller;
use super::super::halt;
use super::super::record::Digest;
use super::super::registry::JOIN_PREFIX;
use super::super::sign_in::{Stranger, Tokens};
use super::ApiError;
use crate::domain::identity::IdentityState;
use crate::domain::name::GatewayName;
use crate::domain::principal::{CertificateThumbprint, SpiffeId};
use crate::domain::root::Root;
use crate::serve::PeerCertificate;
use crate::token::verify::MAX_TOKEN_BYTES;

/// Longest `authorization` header that is looked at: the scheme and a token.
const MAX_AUTHORIZATION_BYTES: usize = MAX_TOKEN_BYTES + 16;

/// Finds the caller of each request before any service sees it.
#[derive(Clone, Debug)]
pub(in super::super) struct Identifier {
    pub(in super::super) handle: ControlHandle,
    pub(in super::super) trust_domain: String,
    /// Where tokens of others are taken.
    pub(in super::super) tokens: Option<Arc<Tokens>>,
    /// Who joins by somebody else's word.
    pub(in super::super) attestation: Arc<Attestation>,
}

impl Interceptor for Identifier {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        // Only we say who the caller is.
        request.extensions_mut().remove::<Caller>();
        match self.identify(&request) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Ok(request)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Identifier {
    fn identify(&self, request: &Request<()>) -> Result<Caller, ApiError> {
        let tokens = request.metadata().get_all("authorization").iter().map(|value| value.to_str().ok());
        let chain = request.peer_certs();
        self.known(tokens, chain.as_deref().map_or(&[], Vec::as_slice))
    }

    /// The caller of an HTTP request.
    ///
    /// # Errors
    /// Nobody known.
    pub(super) fn http(&self, headers: &HeaderMap, certificate: Option<&PeerCertificate>) -> Result<Caller, ApiError> {
        let tokens = headers.get_all(AUTHORIZATION).iter().map(|value| value.to_str().ok());
        // Gateways join over gRPC alone: an SVID without its chain opens no more than its identity has.
        self.known(tokens, certificate.map_or(&[], |PeerCertificate(certificate)| std::slice::from_ref(certificate)))
    }

    fn known<'v>(
        &self,
        tokens: impl Iterator<Item = Option<&'v str>>,
        chain: &[CertificateDer<'_>],
    ) -> Result<Caller, ApiError> {
        self.of(tokens, chain).map_err(|stranger| {
            self.handle.shared().metrics.unauthenticated.inc();
            stranger.map_or_else(ApiError::unauthenticated, |why| {
                tracing::debug!(%why, "a token made nobody known");
                ApiError::unknown(why)
            })
        })
    }

    /// Who that is; else why a token of others is nobody's, or nothing for those who showed none.
    fn of<'v>(
        &self,
        mut tokens: impl Iterator<Item = Option<&'v str>>,
        chain: &[CertificateDer<'_>],
    ) -> Result<Caller, Option<Stranger>> {
        let certificate = chain.first();
        if let Some(root) = certificate.and_then(|certificate| key_of(certificate))
            && halt::stops(&self.handle.model(), &root)
        {
            return Err(Some(Stranger::Stopped));
        }
        // Somebody who presents a token wants to be that person; a certificate beside it does not help.
        match (tokens.next(), tokens.next()) {
            (Some(Some(value)), None) => self.bearer(value, certificate),
            (None, _) => {
                let certificate = certificate.ok_or(None)?;
                let known = self.gateway(certificate).or_else(|| self.workload(certificate));
                known.map_or_else(|| self.attested(certificate, chain), Ok)
            }
            (Some(_), _) => Err(None),
        }
    }

    fn bearer(
        &self,
        authorization: &str,
        certificate: Option<&CertificateDer<'_>>,
    ) -> Result<Caller, Option<Stranger>> {
        if authorization.len() > MAX_AUTHORIZATION_BYTES {
            return Err(None);
        }
        let (scheme, token) = authorization.split_once(' ').ok_or(None)?;
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return Err(None);
        }
        let (model, now) = (self.handle.model(), self.handle.shared().clock.now());
        if token.contains('.') && self.attestation.is_ours(token) {
            let attested = self.attestation.pod(token, now).map_err(Stranger::from);
            return attested.map(|attested| Caller::Attested(attested.into())).map_err(Some);
        }
        // Only what others issue has dots.
        if let Some(tokens) = self.tokens.as_deref().filter(|_| token.contains('.')) {
            let thumbprint = certificate.and_then(|certificate| thumbprint(certificate));
            return tokens.caller(token, thumbprint, &model, now).map_err(Some);
        }
        let digest = Digest::of(token);
        if token.starts_with(JOIN_PREFIX) {
            let name = model.gateway_joining(&digest, now).ok_or(None)?;
            return Ok(Caller::Joining(name, digest));
        }
        model.speaker_with(&digest).map(Caller::Person).ok_or(None)
    }

    fn gateway(&self, certificate: &[u8]) -> Option<Caller> {
        // TLS verified the chain up to our CA; what is left is the name.
        let name = gateway_name(certificate, &self.trust_domain)?;
        let model = self.handle.model();
        let gateway = &model.gateways.get(&name)?.value;
        // Who joined anew has other keys: its old ones are somebody's who found them.
        let is_its_own = gateway.client_key.is_none_or(|known| client_key(certificate) == Some(known));
        is_its_own.then_some(Caller::Gateway(name))
    }
}

impl Identifier {
    /// A replica that may join by its X.509-SVID.
    fn attested(&self, certificate: &[u8], chain: &[CertificateDer<'_>]) -> Result<Caller, Option<Stranger>> {
        let id = spiffe_id(certificate).ok_or(None)?;
        match self.attestation.workload(&id, chain) {
            Some(Ok(attested)) => Ok(Caller::Attested(attested.into())),
            Some(Err(why)) => Err(Some(why.into())),
            None => Err(None),
        }
    }

    /// An identity by its X.509-SVID. TLS verified the chain; an identity that is set aside is nobody here.
    fn workload(&self, certificate: &[u8]) -> Option<Caller> {
        let id = spiffe_id(certificate)?;
        let model = self.handle.model();
        let name = model.workloads.get(&id)?;
        let identity = model.identities.get(name)?;
        (identity.value.state == IdentityState::Active).then(|| Caller::Identity(name.clone()))
    }
}

/// Of a whole certificate (RFC 8705 section 3.1).
fn thumbprint(der: &[u8]) -> Option<CertificateThumbprint> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    digest.as_ref().try_into().ok().map(CertificateThumbprint::from_bytes)
}

/// What a halt calls the key that a certificate is for.
fn key_of(der: &[u8]) -> Option<Root> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.public_key().raw);
    digest.as_ref().try_into().ok().map(Root::PublicKey)
}

/// Of the key that a certificate is for.
pub(super) fn client_key(der: &[u8]) -> Option<Digest> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(Digest::of(certificate.public_key().raw))
}

/// The gateway that a certificate names: exactly one URI among its alternative names, `spiffe://DOMAIN/gateway/NAME`
/// (X.509-SVID section 2: a certificate with more than one URI is not valid).
pub(in super::super) fn gateway_name(der: &[u8], trust_domain: &str) -> Option<GatewayName> {
    let id = spiffe_id(der)?;
    if id.trust_domain() != trust_domain {
        return None;
    }
    let path = id.as_str().strip_prefix("spiffe://")?.strip_prefix(trust_domain)?;
    path.strip_prefix("/gateway/")?.parse().ok()
}

/// The SPIFFE ID of a certificate: exactly one URI among its alternative names (X.509-SVID section 2).
fn spiffe_id(der: &[u8]) -> Option<SpiffeId> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (uri, None) = (uris.next()?, uris.next()) else { return None };
    uri.parse().ok()
}
