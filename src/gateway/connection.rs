//! What is known of a caller's connection before its first request.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use super::accept::{self, Fault};
use super::live::ConnectionId;
use super::tls::OpenClient;
use crate::domain::principal::{CertificateThumbprint, SpiffeId};
use crate::domain::root::Root;
use crate::domain::route::Host;
use crate::domain::{Reason, Timestamp};

/// A connection of a caller.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// The name that its requests are for, where the handshake said one and the listener holds callers to it.
    pub(crate) name: Option<Host>,
    /// The client certificate, when one was presented and verified.
    pub(crate) certificate: Option<ClientCertificate>,
    /// Its place among those whose trust can be withdrawn.
    pub(crate) client: Option<Arc<OpenClient>>,
    /// What its first request named as its host, and what that is: nearly every other one names the same.
    first_host: OnceLock<(Box<[u8]>, Host)>,
}

impl Connection {
    /// One from `peer`.
    pub(crate) const fn of(
        peer: SocketAddr,
        name: Option<Host>,
        certificate: Option<ClientCertificate>,
        client: Option<Arc<OpenClient>>,
    ) -> Self {
        Self { peer, name, certificate, client, first_host: OnceLock::new() }
    }

    /// One without a client certificate.
    pub(crate) const fn anonymous(peer: SocketAddr) -> Self {
        Self::of(peer, None, None, None)
    }

    /// The host that a request on it names.
    ///
    /// # Errors
    /// Those of [`accept::host`].
    pub(crate) fn host(&self, authority: &[u8]) -> Result<Host, Fault> {
        if let Some((_, host)) = self.first_host.get().filter(|(first, _)| **first == *authority) {
            return Ok(host.clone());
        }
        let host = accept::host(authority)?;
        let _ = self.first_host.set((authority.into(), host.clone()));
        Ok(host)
    }

    /// Whether it is still good for calls, whatever identifies them.
    ///
    /// # Errors
    /// [`Reason::CredentialUntrusted`]: its client certificate would not be taken any more.
    pub(crate) fn trusted(&self) -> Result<(), Reason> {
        match &self.client {
            Some(client) if client.is_withdrawn() => Err(Reason::CredentialUntrusted),
            _ => Ok(()),
        }
    }

    /// By which the calls of a connection with a client certificate are found.
    pub(crate) fn id(&self) -> Option<ConnectionId> {
        self.client.as_ref().map(|client| client.id())
    }
}

/// A verified X.509-SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// Its one URI.
    pub(crate) spiffe: SpiffeId,
    /// Of its DER.
    pub(crate) thumbprint: CertificateThumbprint,
    /// Its public key.
    pub(crate) root: Arc<Root>,
    /// First second after its validity: no call begins after it. One that runs goes on while its grant does.
    pub(crate) valid_until: Timestamp,
}

/// As what a workload shows its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Client,
    Server,
}

/// Why a certificate is not an X.509-SVID of a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SvidError {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate is one of an authority")]
    Authority,
    #[error("the certificate's key may sign certificates or may not sign at all")]
    KeyUsage,
    #[error("the certificate is not for this purpose")]
    ExtendedKeyUsage,
    #[error("the certificate does not hold exactly one URI")]
    OneUri,
    #[error("{0}")]
    Id(#[from] crate::domain::principal::SpiffeIdError),
}

impl ClientCertificate {
    /// Of a leaf's DER that a chain to the trust domain's authority has been found for (SPIFFE X.509-SVID section 4).
    ///
    /// # Errors
    /// When it is not the SVID of a workload.
    pub(crate) fn of_leaf(der: &[u8]) -> Result<Self, SvidError> {
        Self::of_leaf_for(der, Purpose::Client)
    }

    /// As [`ClientCertificate::of_leaf`], of a workload that acts as this.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn of_leaf_for(der: &[u8], purpose: Purpose) -> Result<Self, SvidError> {
        use x509_parser::extensions::GeneralName;
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| SvidError::Unreadable)?;
        if !rest.is_empty() {
            return Err(SvidError::Unreadable);
        }
        if certificate.is_ca() {
            return Err(SvidError::Authority);
        }
        let usage = certificate.key_usage().map_err(|_| SvidError::Unreadable)?.ok_or(SvidError::KeyUsage)?.value;
        if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
            return Err(SvidError::KeyUsage);
        }
        let purposes = certificate.extended_key_usage().map_err(|_| SvidError::Unreadable)?;
        let fits = |usage: &x509_parser::extensions::ExtendedKeyUsage<'_>| match purpose {
            Purpose::Client => usage.client_auth,
            Purpose::Server => usage.server_auth,
        };
        if purposes.is_some_and(|purposes| !fits(purposes.value)) {
            return Err(SvidError::ExtendedKeyUsage);
        }
        let names =
            certificate.subject_alternative_name().map_err(|_| SvidError::Unreadable)?.ok_or(SvidError::OneUri)?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(SvidError::OneUri) };
        let sha256 = |bytes: &[u8]| {
            let mut digest = [0; 32];
            digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
            digest
        };
        let last_second = certificate.validity().not_after.timestamp();
        Ok(Self {
            spiffe: uri.parse()?,
            thumbprint: CertificateThumbprint::from_bytes(sha256(der)),
            root: Arc::new(Root::PublicKey(sha256(certificate.public_key().raw))),
            valid_until: Timestamp::from_unix_seconds(last_second.saturating_add(1)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    };

    fn leaf(edit: impl FnOnce(&mut CertificateParams)) -> Result<ClientCertificate, SvidError> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://td/a".try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        edit(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate::of_leaf(certificate.der())
    }

    #[test]
    fn the_host_is_what_each_request_names_whatever_the_first_one_named() {
        let connection = Connection::anonymous(([127, 0, 0, 1], 1).into());
        for (authority, host) in
            [("a.example:80", "a.example"), ("a.example:80", "a.example"), ("A.example", "a.example"), ("b", "b")]
        {
            assert_eq!(connection.host(authority.as_bytes()).unwrap().as_str(), host);
        }
        for bad in ["a.example:80:1", "", "a b", "a.example:80\u{e9}"] {
            assert!(connection.host(bad.as_bytes()).is_err(), "{bad}");
        }
        let misnamed = Connection::anonymous(([127, 0, 0, 1], 1).into());
        assert!(misnamed.host(b"a b").is_err() && misnamed.host(b"a b").is_err(), "nothing is kept of what is none");
    }

    #[test]
    fn only_the_svid_of_a_workload_names_a_caller() {
        assert_eq!(leaf(|_| ()).unwrap().spiffe.as_str(), "spiffe://td/a");
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        assert_eq!(leaf(|p| p.subject_alt_names.push(uri("spiffe://td/b"))), Err(SvidError::OneUri));
        assert_eq!(leaf(|p| p.subject_alt_names.clear()), Err(SvidError::OneUri));
        assert!(matches!(leaf(|p| p.subject_alt_names = vec![uri("https://td/a")]), Err(SvidError::Id(_))));
        assert!(matches!(leaf(|p| p.subject_alt_names = vec![uri("spiffe://td")]), Err(SvidError::Id(_))));
        assert_eq!(leaf(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Err(SvidError::Authority));
        assert_eq!(leaf(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), Err(SvidError::KeyUsage));
        assert_eq!(leaf(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]), Err(SvidError::KeyUsage));
        assert_eq!(leaf(|p| p.key_usages.clear()), Err(SvidError::KeyUsage));
        let purpose = |purpose| leaf(move |p| p.extended_key_usages = vec![purpose]);
        assert_eq!(purpose(ExtendedKeyUsagePurpose::ServerAuth), Err(SvidError::ExtendedKeyUsage));
        assert!(purpose(ExtendedKeyUsagePurpose::ClientAuth).is_ok());
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri("spiffe://td/a")];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert!(ClientCertificate::of_leaf_for(server.der(), Purpose::Server).is_ok());
        assert_eq!(ClientCertificate::of_leaf(b"\x30\x00"), Err(SvidError::Unreadable));
    }
}
