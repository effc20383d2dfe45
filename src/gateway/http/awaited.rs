//! Bodies that are awaited: one that does not go on ends its call, and says by whose fault.

use pingora_proxy::Session;

use super::context::CallContext;
use super::gate::CallSlot;
use crate::domain::Reason;
use crate::domain::trust::Protocol;
use crate::evidence::entry::Ended;
use crate::gateway::worker::Worker;

/// A body is awaited: it has to come, and to be taken. A stream of gRPC is open for as long as its caller likes, and what
/// follows an upgrade is no body.
pub(super) fn await_body(worker: &Worker, session: &Session, context: &CallContext, slot: &CallSlot) {
    if context.protocol() == Some(Protocol::Grpc) || session.is_upgrade_req() {
        return;
    }
    let limit = worker.shared.limits.idle_timeout;
    if session.is_http2() {
        // The library has no limit there.
        slot.awaits_body(limit, (Ended::ClientGone, Reason::RequestTimeout));
    } else {
        // A caller that is silent meets the library's limit first: behind this one it is the upstream that takes nothing.
        slot.awaits_body(limit.saturating_mul(2), (Ended::UpstreamFailed, Reason::UpstreamTimeout));
    }
}
