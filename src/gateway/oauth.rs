//! temp
use bytes::Bytes;
#[derive(Debug)]
pub struct Oauth {}
#[derive(Debug)]
pub struct Endpoint {
    pub call: crate::domain::name::CallId,
    pub method: String,
    pub path: String,
    pub content_type: Option<String>,
    pub authorization: Option<String>,
    pub body: Bytes,
    pub peer: std::net::SocketAddr,
    pub certificate: Option<(crate::domain::principal::SpiffeId, crate::domain::principal::CertificateThumbprint)>,
}
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}
impl Oauth {
    pub async fn handle(&self, _: Endpoint) -> Answer {
        Answer { status: 404, headers: vec![], body: Bytes::new() }
    }
}
