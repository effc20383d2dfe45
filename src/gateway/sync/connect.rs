//! The connection to the control plane: mutual TLS, both ends named by the control plane's own authority.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::evidence::cosignature::CosignerKey;
use crate::settings::gateway::ControlEndpoint;
use crate::wire::CONTROL_SERVER_NAME;
use crate::wire::v1::access_client::AccessClient;
use crate::wire::v1::evidence_client::EvidenceClient;
use crate::wire::v1::fleet_client::FleetClient;
use crate::wire::v1::grant_stream_client::GrantStreamClient;

/// Largest message taken: a delta or a part of a snapshot is half a MiB, and one object more at most.
pub(super) const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// When the next attempt to connect begins beside those that are under way. A lost packet is sent again after a second,
/// then two: whoever waits for that notices too late that the network is well again.
const ATTEMPT_EVERY: Duration = Duration::from_millis(400);
/// How often a connection is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(1);
/// A connection that answers no ping for this long is gone. A network that comes back finds a new connection tried, and not
/// an old one that waits for its turn to send a lost packet again: with the time before the ping, this is well within a
/// second of when the least age of authority (5 s) is over, less what of it is gone before the next renewal (3 s).
pub(super) const PING_PATIENCE: Duration = Duration::from_millis(1_500);
/// Longest that it is waited for where streams end before they bring anything: a control plane to which a whole fleet comes
/// back at once is slow, and who gives it up makes it slower.
pub(super) const MAX_PING_PATIENCE: Duration = Duration::from_secs(12);
/// How much of a snapshot may be on its way unread.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// A file of this gateway's certificate cannot be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        error: std::io::Error,
    },
    /// Not reachable, or not who it should be.
    #[error("{}", told(.0))]
    Transport(#[from] tonic::transport::Error),
}

/// What went wrong, and what to do where that is known: one end does not trust the other's certificate any more.
fn told(error: &tonic::transport::Error) -> String {
    let text = chain(error);
    if is_parted(error) { format!("{text}: {PARTED}") } else { text }
}

/// Whether an error says that a certificate comes from no authority that is trusted.
pub(super) fn is_parted(error: &dyn std::error::Error) -> bool {
    let text = chain(error);
    ["UnknownIssuer", "UnknownCA", "BadSignature", "DecryptError"].iter().any(|sign| text.contains(sign))
}

impl ConnectError {
    /// Whether nobody listens there.
    pub(super) fn is_refused(&self) -> bool {
        let Self::Transport(error) = self else { return false };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|it| it.kind() == std::io::ErrorKind::ConnectionRefused)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// What to do then. It may have been away while the CA was rotated.
pub(super) const PARTED: &str = "this gateway and the control plane have no authority in common any more, as when the CA was \
     rotated while this gateway was away: `portcullis fleet invite` it and `portcullis gateway join` anew";

/// An error with all of its causes: the outermost says only `transport error`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Opens a connection for the stream, one that is gone when it answers no ping for `patience`. Certificates are read each
/// time: they are renewed beneath us.
pub(super) async fn connect(
    endpoint: &ControlEndpoint,
    patience: Duration,
) -> Result<GrantStreamClient<Channel>, ConnectError> {
    let endpoint = channel(endpoint).await?.keep_alive_timeout(patience);
    let channel = first(|| endpoint.connect()).await?;
    Ok(GrantStreamClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// What the first attempt comes to that ends, of several that begin one after the other.
async fn first<F: Future>(attempt: impl Fn() -> F) -> F::Output {
    let mut attempts = FuturesUnordered::from_iter([attempt()]);
    loop {
        tokio::select! {
            Some(ended) = attempts.next() => return ended,
            () = tokio::time::sleep(ATTEMPT_EVERY) => attempts.push(attempt()),
        }
    }
}

/// A client for the control plane's other operations, over a connection of its own.
///
/// # Errors
/// When the certificate cannot be read or the control plane cannot be reached.
pub(super) async fn access(endpoint: &ControlEndpoint) -> Result<AccessClient<Channel>, ConnectError> {
    Ok(AccessClient::new(channel(endpoint).await?.connect().await?))
}

/// A client for what concerns the fleet, over a connection of its own.
pub(super) async fn fleet(endpoint: &ControlEndpoint) -> Result<FleetClient<Channel>, ConnectError> {
    Ok(FleetClient::new(channel(endpoint).await?.connect().await?))
}

/// A client on which this gateway answers questions, over a connection of its own: answers are large, and the stream's
/// must not wait behind them.
pub(super) async fn evidence(endpoint: &ControlEndpoint) -> Result<EvidenceClient<Channel>, ConnectError> {
    Ok(EvidenceClient::new(channel(endpoint).await?.connect().await?))
}

async fn channel(endpoint: &ControlEndpoint) -> Result<Endpoint, ConnectError> {
    // This library takes the process's provider and no other; an error says that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ca = read(&endpoint.ca_file).await?;
    let certificate = read(&endpoint.certificate_file).await?;
    let key = zeroize::Zeroizing::new(read(&endpoint.key_file).await?);
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .domain_name(CONTROL_SERVER_NAME)
        .identity(Identity::from_pem(certificate, key.as_slice()));
    let uri = format!("https://{}", endpoint.address.authority());
    Ok(Endpoint::from_shared(uri)?
        .tls_config(tls)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES)
        .tcp_nodelay(true))
}

/// Keys by which the control plane's word is known, at most: the one in use, and those around a change of it.
const MAX_KEYS: usize = 8;

/// The keys that sign authorities. Read each time, as certificates are.
pub(super) async fn keys(endpoint: &ControlEndpoint) -> Result<Vec<CosignerKey>, ConnectError> {
    let path = &endpoint.keys_file;
    let fault = |error: std::io::Error| ConnectError::File { path: path.clone(), error };
    let text = String::from_utf8(read(path).await?).map_err(|error| fault(std::io::Error::other(error)))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty()).take(MAX_KEYS);
    let keys = lines.map(|line| line.trim().parse()).collect::<Result<Vec<_>, _>>();
    let keys = keys.map_err(|error| fault(std::io::Error::other(error)))?;
    if keys.is_empty() { Err(fault(std::io::Error::other("it holds no key"))) } else { Ok(keys) }
}

pub(super) async fn read(path: &std::path::Path) -> Result<Vec<u8>, ConnectError> {
    tokio::fs::read(path).await.map_err(|error| ConnectError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_attempt_whose_packets_were_lost_is_not_waited_for() {
        let (began, attempts) = (tokio::time::Instant::now(), AtomicU32::new(0));
        let is_healed = || began.elapsed() >= Duration::from_secs(2);
        let ended = first(|| {
            attempts.fetch_add(1, SeqCst);
            let is_answered = is_healed();
            async move {
                if !is_answered {
                    tokio::time::sleep(CONNECT_TIMEOUT).await;
                }
                is_answered
            }
        });
        assert!(ended.await);
        assert!(began.elapsed() <= Duration::from_secs(2) + ATTEMPT_EVERY, "{:?}", began.elapsed());
        assert_eq!(attempts.load(SeqCst), 6);
    }

    #[tokio::test]
    async fn who_does_not_listen_is_told_from_who_does_not_answer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = ClientTlsConfig::new().domain_name(CONTROL_SERVER_NAME);
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
        let closes = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
        let closed = ConnectError::from(endpoint.connect().await.unwrap_err());
        assert!(!closed.is_refused(), "{closed}");
        closes.await.unwrap();
        let refused = ConnectError::from(endpoint.connect().await.unwrap_err());
        assert!(refused.is_refused(), "{refused}");
    }
}
