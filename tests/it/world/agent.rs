//! A SPIFFE agent of the test's own: the Workload API on a socket, as far as X.509-SVIDs go.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};

use super::{Authority, Certificate};

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct X509SvidRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
}

impl X509SvidResponse {
    /// One SVID, the bundle of its domain, and those of other domains.
    pub(crate) fn new(id: &str, svid: &Certificate, bundle: &Authority, federated: &[(&str, &Authority)]) -> Self {
        let der = |pem: &Path| CertificateDer::from_pem_file(pem).unwrap().to_vec();
        let key = PrivateKeyDer::from_pem_file(&svid.key).unwrap().secret_der().to_vec();
        let svid = X509Svid {
            spiffe_id: id.to_owned(),
            x509_svid: der(Path::new(&svid.cert)),
            x509_svid_key: key,
            bundle: der(&bundle.pem),
        };
        let federated = federated.iter().map(|(domain, authority)| (format!("spiffe://{domain}"), der(&authority.pem)));
        Self { svids: vec![svid], federated_bundles: federated.collect() }
    }
}

/// A running agent. Dropping it closes the socket and every stream.
pub(crate) struct Agent {
    _runtime: tokio::runtime::Runtime,
    gives: watch::Sender<X509SvidResponse>,
}

impl Agent {
    pub(crate) fn start(socket: &Path, first: X509SvidResponse) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let gives = watch::Sender::new(first);
        let _ = std::fs::remove_file(socket);
        let _entered = runtime.enter();
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(tokio::net::UnixListener::bind(socket).unwrap());
        let api = Api(gives.subscribe());
        runtime.spawn(tonic::transport::Server::builder().serve_with_incoming(api, incoming));
        drop(_entered);
        Self { _runtime: runtime, gives }
    }

    /// From now on it gives this.
    pub(crate) fn give(&self, response: X509SvidResponse) {
        self.gives.send_replace(response);
    }
}

#[derive(Clone)]
struct Api(watch::Receiver<X509SvidResponse>);

impl tonic::codegen::Service<Request<Body>> for Api {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/SpiffeWorkloadAPI/FetchX509SVID" {
                return Ok(tonic::Status::unimplemented("not of this agent").into_http());
            }
            let codec = tonic_prost::ProstCodec::default();
            Ok(tonic::server::Grpc::new(codec).server_streaming(api, request).await)
        })
    }
}

impl tonic::server::ServerStreamingService<X509SvidRequest> for Api {
    type Response = X509SvidResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<X509SvidResponse, tonic::Status>> + Send>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<X509SvidRequest>) -> Self::Future {
        // Workload API section 4.1: against confused deputies.
        std::future::ready(match request.metadata().get("workload.spiffe.io") {
            Some(value) if value == "true" => {
                let stream = tokio_stream::wrappers::WatchStream::new(self.0.clone()).map(Ok);
                Ok(tonic::Response::new(Box::pin(stream) as Self::ResponseStream))
            }
            _ => Err(tonic::Status::invalid_argument("the security header is missing")),
        })
    }
}
