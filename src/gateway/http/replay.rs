//! A caller's session whose body has been read and decided on: the library's normal way, with the body from memory.
//!
//! The library sends what it calls the retry buffer before anything that it reads, and again when it tries again; here
//! that buffer is the whole body, and nothing is left to read. So what goes upstream is exactly what was hashed into the
//! evidence, and pool, filters and streaming of the answer stay the library's. The trait is a hidden part of it: hence
//! its exact version in Cargo.toml.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Uri};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session as CustomSession;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::{ErrorType, OrErr as _, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::gate::CallSlot;
use super::inspect::Inspected;
use crate::gateway::budget::Share;

/// Messages beside HTTP, which neither HTTP/1.1 nor HTTP/2 has.
type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

struct Replay {
    inner: ServerSession,
    body: Bytes,
    slot: Arc<CallSlot>,
    /// Whether the answer came to its end, so that the connection can go on.
    finished: bool,
    /// INVARIANT: as long as `body`.
    _share: Share,
}

/// Has the library send `inspected` in place of what it would read from the caller, to the upstream `authority`.
pub(super) fn install(
    session: &mut Session,
    inspected: Inspected,
    slot: &Arc<CallSlot>,
    authority: &str,
) -> Result<()> {
    let header = session.req_header_mut();
    header.remove_header(&TRANSFER_ENCODING);
    header.remove_header(&EXPECT);
    header.insert_header(CONTENT_LENGTH, inspected.bytes.len())?;
    // The library does not reconcile host and authority of such a session: there is only one, ours.
    header.insert_header(HOST, authority)?;
    let target = header.uri.path_and_query().map_or("/", |target| target.as_str()).parse::<Uri>();
    header.set_uri(target.or_err(ErrorType::InternalError, "a target that was accepted")?);
    let place = &mut *session.downstream_session;
    let inner = std::mem::replace(place, ServerSession::new_custom(Box::new(())));
    let Inspected { bytes: body, share, .. } = inspected;
    let replay = Replay { inner, body, slot: slot.clone(), finished: false, _share: share };
    *place = ServerSession::new_custom(Box::new(replay));
    Ok(())
}

impl Replay {
    /// The library cannot tell such a session that its connection ends.
    fn set_keepalive(&mut self) {
        if self.slot.is_last() {
            self.inner.set_keepalive(None);
        }
    }
}

impl Drop for Replay {
    /// The library keeps no connection of such a session: the gate does, when the answer came to its end.
    fn drop(&mut self) {
        if self.finished {
            self.slot.give_back(std::mem::replace(&mut self.inner, ServerSession::new_custom(Box::new(()))));
        }
    }
}

#[async_trait]
impl CustomSession for Replay {
    fn req_header(&self) -> &RequestHeader {
        self.inner.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner.req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    async fn write_response_header(&mut self, response: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.set_keepalive();
        if let ServerSession::H2(stream) = &mut self.inner {
            return stream.write_response_header(response, end);
        }
        self.inner.write_response_header(response).await
    }

    async fn write_response_header_ref(&mut self, response: &ResponseHeader, _end: bool) -> Result<()> {
        self.set_keepalive();
        self.inner.write_response_header_ref(response).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.inner.write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner.write_response_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.inner.response_duplex_vec(tasks).await
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.inner.get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner.response_written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.inner.shutdown().await;
    }

    fn is_body_done(&mut self) -> bool {
        true
    }

    fn is_body_empty(&mut self) -> bool {
        self.body.is_empty()
    }

    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        false
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        Some(self.body.clone()).filter(|body| !body.is_empty())
    }

    async fn finish(&mut self) -> Result<()> {
        self.inner.finish_body().await?;
        self.finished = true;
        Ok(())
    }

    /// Only the library's own error answers call it: such a connection is not kept.
    async fn finish_custom(&mut self) -> Result<()> {
        self.finished = false;
        Ok(())
    }

    /// Watches the real connection: a caller that goes away ends the call.
    async fn read_body_or_idle(&mut self, _no_body_expected: bool) -> Result<Option<Bytes>> {
        self.inner.read_body_or_idle(true).await
    }

    fn body_bytes_sent(&self) -> usize {
        self.inner.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.inner.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner.to_h1_raw()
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _reader: Messages) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
