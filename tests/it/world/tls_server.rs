//! An upstream that speaks TLS, by rustls, with threads of its own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::Certificate;

type Session<'a> = rustls::Stream<'a, ServerConnection, TcpStream>;
type Handler = dyn Fn(&str, &mut Session<'_>) -> bool + Send + Sync;

/// An HTTP/1.1 server over TLS 1.2 and 1.3. It keeps connections.
pub(crate) struct TlsServer {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    heads: Mutex<Vec<String>>,
    served: AtomicUsize,
}

impl TlsServer {
    /// Answers every request with 200 and `ok`.
    pub(crate) fn start(certificate: &Certificate, clients: Option<&Certificate>) -> Self {
        Self::serve(certificate, clients, |_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok()
        })
    }

    /// With `clients`, only callers with a certificate of that authority. The handler says whether the connection is kept.
    pub(crate) fn serve(
        certificate: &Certificate,
        clients: Option<&Certificate>,
        handler: impl Fn(&str, &mut Session<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        let config = server_config(certificate, clients, &[b"http/1.1"]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Seen> = Arc::default();
        let (kept, handler): (_, Arc<Handler>) = (seen.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(tcp), config, seen, handler) = (stream, config.clone(), kept.clone(), handler.clone()) else {
                    return;
                };
                std::thread::spawn(move || connection(tcp, config, &seen, &*handler));
            }
        });
        Self { address, seen }
    }

    /// The heads of all requests.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap().clone()
    }

    /// Connections with at least one request.
    pub(crate) fn connections(&self) -> usize {
        self.seen.served.load(Ordering::SeqCst)
    }
}

fn connection(mut tcp: TcpStream, config: Arc<ServerConfig>, seen: &Seen, handler: &Handler) {
    let _ = tcp.set_read_timeout(Some(Duration::from_secs(60)));
    let mut session = ServerConnection::new(config).unwrap();
    while session.is_handshaking() {
        if session.complete_io(&mut tcp).is_err() {
            return;
        }
    }
    let mut stream = rustls::Stream::new(&mut session, &mut tcp);
    let mut first = true;
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        if std::mem::take(&mut first) {
            seen.served.fetch_add(1, Ordering::SeqCst);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        seen.heads.lock().unwrap().push(head.clone());
        if !handler(&head, &mut stream) {
            return;
        }
    }
}

/// A server's configuration.
pub(crate) fn server_config(
    certificate: &Certificate,
    clients: Option<&Certificate>,
    protocols: &[&[u8]],
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(&ca.cert).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = vec![CertificateDer::from_pem_file(&certificate.cert).unwrap()];
    let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&certificate.key).unwrap()).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}
