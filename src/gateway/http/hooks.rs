//! The library's hooks: thin, each leading to a stage of ours and back.
//!
//! In this library `Ok(true)` from a filter means "answered, stop here" and `Ok(false)` "go on". A panic in a hook is
//! caught inside it and refuses the call; the library's own logging hook is no place for the record, since a cut and a
//! panic skip it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::HeaderValue;
use http::header::{AUTHORIZATION, UPGRADE};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use super::context::{CallContext, Running};
use super::failure::{self, REFUSED};
use super::gate::CallSlot;
use super::inspect::Inspected;
use super::reply::{Replies, is_interim};
use super::{answer, awaited, dial, endpoints, inspect, replay, request, strip};
use crate::domain::Reason;
use crate::domain::name::ulid_text;
use crate::domain::route::Host;
use crate::evidence::entry::Ended;
use crate::gateway::pipeline::{Admission, Admitted, Body, Request, admit, lapsed};
use crate::gateway::refusal::{CALL_ID_HEADER, Dialect, Refusal};
use crate::gateway::worker::Worker;

/// The hooks of one worker.
pub(super) struct Hooks {
    worker: Arc<Worker>,
}

/// What becomes of a request.
enum Decided {
    Forward,
    Refuse(Refusal),
}

impl Hooks {
    pub(super) fn new(worker: Arc<Worker>) -> Self {
        Self { worker }
    }

    /// Everything before forwarding. `Ok(true)`: answered here.
    async fn receive(&self, session: &mut Session, context: &mut CallContext) -> Result<bool> {
        let Some(slot) = context.slot.clone() else {
            return Error::e_explain(ErrorType::InternalError, "a call outside of its slot");
        };
        context.dialect = answer::dialect(session);
        // A caller that is silent within its request's body for as long as between requests is gone. Over HTTP/2 the
        // library has no such limit, and the race around the call has.
        session.as_mut().set_read_timeout(Some(self.worker.shared.limits.idle_timeout));
        // So is one that takes nothing of its answer for as long.
        session.as_mut().set_write_timeout(Some(self.worker.shared.limits.idle_timeout));
        let refusal = match request::accept(session, &slot.connection) {
            Err(fault) => {
                let peer = slot.connection.peer;
                tracing::debug!(%peer, reason = %fault.reason, detail = fault.detail, "a request was refused");
                self.worker.metrics.refused(fault.reason);
                self.worker.shared.refusals.note(fault.reason, peer, "", "");
                Refusal::new(fault.reason, context.call)
            }
            Ok(host) => {
                if endpoints::is_ours(session.req_header().uri.path()) {
                    let reply = endpoints::serve(&self.worker, session, context.call, &slot.connection).await?;
                    answer::write(session, reply).await?;
                    return Ok(true);
                }
                match self.decide(session, context, &slot, &host).await? {
                    Decided::Forward => return Ok(false),
                    Decided::Refuse(refusal) => refusal,
                }
            }
        };
        self.refuse(session, context, &refusal).await?;
        Ok(true)
    }

    /// Takes the request through the pipeline: once, and a second time with its body where the route has it inspected.
    async fn decide(
        &self,
        session: &mut Session,
        context: &mut CallContext,
        slot: &Arc<CallSlot>,
        host: &Host,
    ) -> Result<Decided> {
        let (mut body, mut inspected) = (Body::Unread, None);
        loop {
            let header = session.req_header();
            let request = Request {
                call: context.call,
                started: context.started,
                method: header.method.as_str(),
                host,
                path: header.uri.path(),
                query: header.uri.query(),
                authorization: header.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes),
                dialect: context.dialect,
                body: &body,
                connection: &slot.connection,
                cut: &slot.cut,
            };
            match admit(&self.worker, &request).await {
                Ok(Admission::Forward(admitted)) => {
                    if let Some(inspected) = inspected.take_if(|inspected: &mut Inspected| inspected.announced) {
                        replay::install(session, inspected, slot, admitted.permit.route().upstream_authority())?;
                    }
                    Self::forward(context, slot, admitted);
                    if !session.as_mut().is_body_done() {
                        awaited::await_body(&self.worker, session, context, slot);
                    }
                    return Ok(Decided::Forward);
                }
                Ok(Admission::Inspect(most)) => match inspect::read(&self.worker, session, most).await {
                    Ok(whole) => {
                        body = Body::Whole(whole.digest);
                        inspected = Some(whole);
                    }
                    Err(reason) => {
                        let reason = if slot.is_misframed() { Reason::RequestMalformed } else { reason };
                        self.worker.metrics.body_refused(reason);
                        // What is left of the body must never be read as a request.
                        session.set_keepalive(None);
                        body = Body::Unusable(reason);
                    }
                },
                Err(refusal) => return Ok(Decided::Refuse(refusal)),
            }
        }
    }

    /// From here on the call is raced against its cut.
    fn forward(context: &mut CallContext, slot: &CallSlot, admitted: Admitted) {
        slot.forward(context.call);
        let call_id = HeaderValue::from_bytes(&ulid_text(context.call.bits())).unwrap_or(HeaderValue::from_static("-"));
        context.running = Some(Running { call_id, admitted });
    }

    async fn refuse(&self, session: &mut Session, context: &mut CallContext, refusal: &Refusal) -> Result<()> {
        context.refusal = Some(refusal.reason);
        answer::write(session, refusal.answer(context.dialect)).await
    }

    /// Makes the caller's request the upstream's.
    fn prepare(&self, context: &mut CallContext, request: &mut RequestHeader) -> Result<()> {
        let Some(running) = &mut context.running else {
            return Error::e_explain(ErrorType::InternalError, "nothing was admitted");
        };
        // The last look before the first byte goes upstream: connecting may have taken a while.
        let admitted = &running.admitted;
        let cut = admitted.registration.cut().reason();
        if let Some(reason) = cut.or_else(|| lapsed(&admitted.permit, &self.worker.shared.authority.now())) {
            context.refusal = Some(reason);
            running.admitted.outcome.end(Ended::Cut, Some(reason));
            return Error::e_explain(REFUSED, reason.code());
        }
        let credential = running.admitted.credential.clone();
        for name in strip::strip(&request.headers) {
            // What is put in its place below takes its place.
            if name != AUTHORIZATION || credential.is_none() {
                request.remove_header(&name);
            }
        }
        strip::join_cookies(request)?;
        // The upstream that was decided on, not the host that the caller named: it could mean another there.
        // Names as texts: the library spells any other anew on each call.
        let route = running.admitted.permit.route();
        dial::name(request, &route.route().spec, route.upstream_authority())?;
        if let Some(credential) = credential {
            request.insert_header("Authorization", credential)?;
        }
        request.insert_header(CALL_ID_HEADER, running.call_id.clone())?;
        running.admitted.outcome.upstream_started = true;
        Ok(())
    }
}

/// Runs what a hook does; a panic in it becomes an error, the call is refused, and its record says so.
fn guarded<T>(
    hook: &'static str,
    context: &mut CallContext,
    work: impl FnOnce(&mut CallContext) -> Result<T>,
) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(|| work(context))).unwrap_or_else(|_| {
        tracing::error!(hook, call = %context.call, "a panic was caught");
        context.refusal = Some(Reason::InternalFault);
        if let Some(running) = &mut context.running {
            running.admitted.outcome.end(Ended::Panicked, Some(Reason::InternalFault));
        }
        Error::e_explain(ErrorType::InternalError, "a panic was caught")
    })
}

/// The upstream answered what no caller is to get.
fn upstream_fault(context: &mut CallContext, fault: &'static str) -> Result<()> {
    context.refusal = Some(Reason::UpstreamFault);
    Err(Error::explain(REFUSED, fault).into_up())
}

#[async_trait]
impl ProxyHttp for Hooks {
    type CTX = CallContext;

    fn new_ctx(&self) -> CallContext {
        let started = self.worker.shared.clock.now();
        CallContext {
            slot: CallSlot::current(),
            call: self.worker.next_call(started),
            started,
            dialect: Dialect::Http,
            refusal: None,
            replies: Replies::default(),
            running: None,
        }
    }

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, context: &mut CallContext) -> Result<bool> {
        match AssertUnwindSafe(self.receive(session, context)).catch_unwind().await {
            Ok(result) => result,
            Err(_) => {
                tracing::error!(call = %context.call, "a panic was caught; the call is refused");
                if let Some(running) = &mut context.running {
                    running.admitted.outcome.end(Ended::Panicked, Some(Reason::InternalFault));
                }
                let refusal = Refusal::new(Reason::InternalFault, context.call);
                self.refuse(session, context, &refusal).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, context: &mut CallContext) -> Result<Box<HttpPeer>> {
        let Some(running) = &context.running else {
            return Error::e_explain(ErrorType::InternalError, "nothing was admitted");
        };
        dial::peer(&self.worker, &running.admitted.permit.route().route().spec).await.or_else(|reason| {
            context.refusal = Some(reason);
            Error::e_explain(ErrorType::ConnectError, "the upstream has no address to connect to")
        })
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        number: std::os::fd::RawFd,
        _digest: Option<&Digest>,
        context: &mut CallContext,
    ) -> Result<()> {
        if !reused {
            self.worker.metrics.upstream_connected();
        }
        if let (Some(running), Some(slot)) = (&context.running, &context.slot) {
            let spec = &running.admitted.permit.route().route().spec;
            if spec.upstream.tls
                && !spec.protocol.is_http2()
                && let Some(link) = self.worker.links.of(number)
            {
                slot.has(link);
            }
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        context: &mut CallContext,
    ) -> Result<()> {
        guarded("upstream_request_filter", context, |context| self.prepare(context, request))
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut CallContext,
    ) -> Result<()> {
        if let Some(slot) = &context.slot {
            slot.has_heard(end);
        }
        // INVARIANT: no empty end goes on. The library would write it as a chunk, which is the last one, and then the last one:
        // five bytes before the next call's head.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        if let (Some(running), Some(body)) = (&mut context.running, body) {
            running.admitted.outcome.request_bytes += body.len() as u64;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut CallContext,
    ) -> Result<()> {
        guarded("upstream_response_filter", context, |context| {
            // Who has an answer already waits for nobody's body.
            if let Some(slot) = context.slot.as_ref().filter(|_| !is_interim(response.status)) {
                slot.has_heard(true);
            }
            context.replies.take(response).or_else(|fault| upstream_fault(context, fault))
        })
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut CallContext,
    ) -> Result<()> {
        guarded("response_filter", context, |context| {
            if let Some(running) = &mut context.running {
                running.admitted.outcome.status = Some(response.status.as_u16());
                if response.status != http::StatusCode::SWITCHING_PROTOCOLS {
                    for name in strip::strip_response(&response.headers) {
                        response.remove_header(&name);
                    }
                }
                response.insert_header(CALL_ID_HEADER, running.call_id.clone())?;
            }
            if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
                // To a WebSocket, and because the caller asked: anything else would be a tunnel past every check.
                let websocket = |headers: &http::HeaderMap| {
                    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
                };
                if !websocket(&session.req_header().headers) || !websocket(&response.headers) {
                    return upstream_fault(context, "an upgrade that nobody asked for");
                }
                // The library would end a WebSocket whose caller is silent for a minute. Its grant ends it.
                session.as_mut().set_read_timeout(None);
            }
            Ok(())
        })
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut CallContext,
    ) -> Result<Option<Duration>> {
        if end
            && context.replies.ends_with_connection()
            && context.slot.as_ref().is_some_and(|slot| slot.is_truncated())
        {
            return upstream_fault(context, "the connection that ends the answer was cut").map(|()| None);
        }
        if let (Some(running), Some(body)) = (&mut context.running, body) {
            let bytes = body.len() as u64;
            running.admitted.outcome.response_bytes += bytes;
            running.admitted.registration.count_response(bytes);
        }
        Ok(None)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut CallContext,
        reused: bool,
    ) -> Box<Error> {
        // One intent, one effect: tried again is only what has none, and only where a kept connection had gone stale.
        let safe = session.req_header().method.is_safe();
        if safe && !session.as_ref().retry_buffer_truncated() {
            error.retry.decide_reuse(reused);
            // What was sent is sent again, and was sent once.
            if let Some(running) = context.running.as_mut().filter(|_| error.retry()) {
                running.admitted.outcome.request_bytes = 0;
            }
        } else {
            error.set_retry(false);
        }
        error
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        _context: &mut CallContext,
        error: Box<Error>,
    ) -> Box<Error> {
        self.worker.metrics.upstream_failed(failure::reason_of(&error));
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut CallContext) -> FailToProxy {
        let misframed = context.slot.as_ref().is_some_and(|slot| slot.is_misframed());
        let reason = context
            .refusal
            .unwrap_or_else(|| if misframed { Reason::RequestMalformed } else { failure::reason_of(error) });
        let (ended, why) = failure::ending(error, reason, misframed);
        // Nobody is told who is not there.
        let has_left = (ended, why) == (Ended::ClientGone, None);
        if let Some(running) = &mut context.running {
            running.admitted.outcome.end(ended, why);
        }
        if reason == Reason::RequestTimeout {
            self.worker.metrics.body_stalled();
        }
        tracing::debug!(call = %context.call, %reason, %error, "a call failed");
        let status = reason.info().status;
        if !has_left && session.response_written().is_none_or(|head| is_interim(head.status)) {
            let refusal = Refusal::new(reason, context.call);
            // The library keeps no connection on which a call failed: say so, also behind a replaying session.
            session.set_keepalive(None);
            if let Some(slot) = &context.slot {
                slot.close();
            }
            if self.refuse(session, context, &refusal).await.is_ok()
                && let Some(running) = &mut context.running
            {
                running.admitted.outcome.status = Some(status);
            }
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, _session: &mut Session, error: Option<&Error>, context: &mut CallContext) {
        let Some(running) = &mut context.running else { return };
        let outcome = &mut running.admitted.outcome;
        if error.is_none() {
            outcome.end(Ended::Completed, None);
        }
    }

    fn request_summary(&self, _session: &Session, context: &CallContext) -> String {
        // The library's own summary names the path with its query, which may hold secrets.
        format!("call {}", context.call)
    }

    fn suppress_error_log(&self, _session: &Session, _context: &CallContext, _error: &Error) -> bool {
        // The library would log the request's path and peer; the evidence has them, bounded.
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use crate::domain::name::CallId;

    #[test]
    fn a_panic_in_a_hook_is_a_refusal() {
        let started = Timestamp::from_unix_seconds(0);
        let mut context = CallContext {
            slot: None,
            call: CallId::from_bits(1),
            started,
            dialect: Dialect::Http,
            refusal: None,
            replies: Replies::default(),
            running: None,
        };
        let error = guarded::<()>("a hook", &mut context, |_| panic!("on purpose")).unwrap_err();
        assert_eq!((failure::reason_of(&error), context.refusal), (Reason::InternalFault, Some(Reason::InternalFault)));
        let whole = guarded("a hook", &mut context, |_| Ok(7)).unwrap();
        assert_eq!(whole, 7);
    }
}
