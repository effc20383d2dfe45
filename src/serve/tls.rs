//! TLS whose certificate and authorities may change while it serves.
//!
//! A handshake takes what holds just then. A connection whose client showed a certificate ends as soon as no authority
//! that is trusted vouches for it any more: whatever is spoken on it, nobody goes on by an authority that is gone.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::Stream;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::listen::{Connection, Listener};

/// How long a TLS handshake may take.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// What a server shows, and whose clients it takes.
pub(crate) struct LiveTls {
    held: ArcSwap<Held>,
    changed: watch::Sender<u64>,
}

struct Held {
    shown: Arc<CertifiedKey>,
    clients: Arc<dyn ClientCertVerifier>,
    /// Whose clients are taken with a SPIFFE ID of their own trust domain, and no other.
    domains: Vec<(String, Arc<dyn ClientCertVerifier>)>,
}

impl fmt::Debug for LiveTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveTls")
    }
}

/// What a server shows, and whose clients it takes, all PEM.
#[derive(Debug, Default)]
pub(crate) struct Material {
    /// Its certificate chain.
    pub(crate) certificate: Vec<u8>,
    /// Its key.
    pub(crate) key: zeroize::Zeroizing<Vec<u8>>,
    /// Authorities of client certificates.
    pub(crate) authorities: Vec<u8>,
    /// Authorities of trust domains: whoever has a certificate of one is taken with a SPIFFE ID of that domain alone.
    pub(crate) domains: Vec<(String, Vec<u8>)>,
}

impl Material {
    fn read(&self) -> Result<Held, String> {
        let fault = |what: &str, error: &dyn fmt::Display| format!("{what}: {error}");
        let chain = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| fault("certificate", &error))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| fault("key", &error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let shown = CertifiedKey::from_der(chain, key, &provider);
        let shown = shown.map_err(|error| fault("certificate and key", &error))?;
        let clients = verifier(&self.authorities).map_err(|error| fault("client CA", &error))?;
        let domains = self.domains.iter().map(|(domain, bundle)| {
            let clients = verifier(bundle).map_err(|error| fault(&format!("bundle of {domain}"), &error))?;
            Ok::<_, String>((domain.clone(), clients))
        });
        Ok(Held { shown: Arc::new(shown), clients, domains: domains.collect::<Result<_, _>>()? })
    }
}

fn verifier(authorities: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities) {
        let authority = authority.map_err(|error| error.to_string())?;
        roots.add(authority).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated();
    clients.build().map_err(|error| error.to_string())
}

/// The trust domain of an X.509-SVID: of the one URI among its names (X.509-SVID section 2).
fn domain_of(certificate: &[u8]) -> Option<String> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        x509_parser::extensions::GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (uri, None, true) = (uris.next()?, uris.next(), rest.is_empty()) else { return None };
    Some(uri.strip_prefix("spiffe://")?.split('/').next()?.to_owned())
}

impl Held {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.clients.verify_client_cert(leaf, rest, now).or_else(|error| {
            let domain = domain_of(leaf);
            let known = self.domains.iter().find(|(known, _)| domain.as_ref() == Some(known));
            known.map_or(Err(error), |(_, clients)| clients.verify_client_cert(leaf, rest, now))
        })
    }
}

impl LiveTls {
    /// With this.
    ///
    /// # Errors
    /// What is not PEM, a key that is not the certificate's, authorities that are none.
    pub(crate) fn new(material: &Material) -> Result<Arc<Self>, String> {
        let held = ArcSwap::from_pointee(material.read()?);
        Ok(Arc::new(Self { held, changed: watch::Sender::new(0) }))
    }

    /// Puts others in their place: all of them, or none when one is bad.
    ///
    /// # Errors
    /// As [`LiveTls::new`].
    pub(crate) fn replace(&self, material: &Material) -> Result<(), String> {
        self.held.store(material.read()?.into());
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// A server's configuration that follows it.
    ///
    /// # Errors
    /// When the library takes no version of TLS.
    pub(crate) fn config(self: &Arc<Self>, protocol: &[u8]) -> Result<Arc<ServerConfig>, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| format!("TLS: {error}"))?;
        let clients = Arc::new(Follows(self.clone()));
        let mut config = config.with_client_cert_verifier(clients.clone()).with_cert_resolver(clients);
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }

    /// Whether an authority that is trusted vouches for a client's chain.
    fn vouches(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, rest)) = chain.split_first() else { return true };
        self.held.load().verify(leaf, rest, UnixTime::now()).is_ok()
    }

    /// Whether an authority of that trust domain itself vouches for a client's chain, with a SPIFFE ID of that domain.
    pub(crate) fn vouches_as(&self, domain: &str, chain: &[CertificateDer<'_>]) -> bool {
        let held = self.held.load();
        let known = held.domains.iter().find(|(known, _)| known == domain);
        let Some(((_, clients), (leaf, rest))) = known.zip(chain.split_first()) else { return false };
        domain_of(leaf).as_deref() == Some(domain) && clients.verify_client_cert(leaf, rest, UnixTime::now()).is_ok()
    }

    /// To be taken before a handshake begins: what changes from then on ends the connection.
    pub(crate) fn since(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A connection after its handshake, which ends with what its client was let in by.
    pub(crate) fn guard<S>(self: &Arc<Self>, stream: TlsStream<S>, mut changed: watch::Receiver<u64>) -> Guarded<S> {
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = chain.iter().map(|it| it.clone().into_owned()).collect();
        let live = self.clone();
        let ended = async move {
            while changed.changed().await.is_ok() {
                if !live.vouches(&chain) {
                    return;
                }
            }
            std::future::pending().await
        };
        Guarded { stream, ended: Box::pin(ended), is_over: false }
    }
}

/// A connection that ends when nobody vouches for its client any more.
pub(crate) struct Guarded<S> {
    stream: TlsStream<S>,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_over: bool,
}

impl<S> Guarded<S> {
    /// The connection itself.
    pub(crate) const fn stream(&self) -> &TlsStream<S> {
        &self.stream
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.is_over {
            self.is_over = self.ended.as_mut().poll(cx).is_ready();
        }
        if self.is_over { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.go_on(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.go_on(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connections of a listener after their handshakes. One that takes its time holds up no other.
pub(crate) fn connections(
    mut listener: Listener,
    live: Arc<LiveTls>,
    config: Arc<ServerConfig>,
) -> impl Stream<Item = io::Result<Guarded<Connection>>> {
    let (done, taken) = mpsc::channel(1);
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        loop {
            let connection = tokio::select! {
                () = done.closed() => return,
                (connection, _) = listener.next() => connection,
            };
            let (acceptor, live, done) = (acceptor.clone(), live.clone(), done.clone());
            // Bounded by the listener's places, each of which such a task holds.
            tokio::spawn(async move {
                let since = live.since();
                let shaken = tokio::time::timeout(HANDSHAKE_PATIENCE, acceptor.accept(connection)).await;
                if let Ok(Ok(stream)) = shaken {
                    let _ = done.send(Ok(live.guard(stream, since))).await;
                }
            });
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(taken)
}

/// What rustls asks, answered by what holds just then.
#[derive(Debug)]
struct Follows(Arc<LiveTls>);

impl Follows {
    fn clients(&self) -> Arc<dyn ClientCertVerifier> {
        self.0.held.load().clients.clone()
    }
}

impl ResolvesServerCert for Follows {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.held.load().shown.clone())
    }
}

impl ClientCertVerifier for Follows {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: they may change, and whoever has a certificate for us knows which.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.held.load().verify(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients().verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients().verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients().supported_verify_schemes()
    }
}
