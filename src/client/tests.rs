//! Whom the client takes for a control plane.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use super::*;

/// A client's outcome with a server whose certificate is for `name`, from the pinned CA.
async fn connected(name: &str) -> Result<Client, ClientError> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let identity = Identity::from_pem(leaf.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).unwrap().add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Client::connect(&Target { address, ca_pem: ca.pem().into_bytes(), token: None, certificate: None, signed_in: None })
        .await
}

#[tokio::test]
async fn a_server_with_a_gateways_certificate_is_not_the_control_plane() {
    let refused = connected("localhost").await.err().unwrap();
    assert!(matches!(refused, ClientError::Unreachable { .. }), "{refused}");
    assert!(refused.to_string().contains("certificate"), "{refused}");
    assert!(connected(CONTROL_SERVER_NAME).await.is_ok());
}
