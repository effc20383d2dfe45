//! Where a browser brings the provider's answer: a port on loopback, for one sign-in (RFC 8252 section 7.3).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use oauth2::AuthorizationCode;
use oauth2::url::form_urlencoded;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::SignInError;
use super::provider::{Expected, Provider};

/// How long somebody has to sign in.
const PATIENCE: Duration = Duration::from_secs(300);
/// Answers that wait to be looked at: there is one browser.
const QUEUE: usize = 4;

/// A port on loopback.
pub(super) struct Loopback {
    listener: TcpListener,
    address: SocketAddr,
}

/// What the browser brought: the parameters, in their order.
type Answer = Vec<(String, String)>;

impl Loopback {
    pub(super) async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The redirect URI.
    pub(super) fn address(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Waits for the code of the sign-in that `expected` is of. Answers to others are refused and waited past.
    pub(super) async fn code(self, provider: &Provider, expected: &Expected) -> Result<AuthorizationCode, SignInError> {
        let (sender, mut answers) = mpsc::channel(QUEUE);
        let router = Router::new().route("/", get(take)).with_state(sender);
        let (done, is_done) = tokio::sync::oneshot::channel::<()>();
        let listener = self.listener;
        let serving = tokio::spawn(async move {
            let over = async move { drop(is_done.await) };
            axum::serve(listener, router).with_graceful_shutdown(over).await
        });
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let Some((answer, tell)): Option<Brought> = answers.recv().await else { return Err(SignInError::Late) };
                match provider.answered(&answer, expected) {
                    // Somebody else's, or a page that asks what is here.
                    None => {
                        let _ = tell.send((StatusCode::BAD_REQUEST, "This is no answer to a sign-in that runs here."));
                    }
                    Some(Ok(code)) => {
                        let _ = tell.send((StatusCode::OK, "Signed in. You can close this window."));
                        return Ok(code);
                    }
                    Some(Err(error)) => {
                        let _ = tell.send((StatusCode::OK, "Not signed in: the terminal says why."));
                        return Err(error);
                    }
                }
            }
        })
        .await
        .unwrap_or(Err(SignInError::Late));
        drop(done);
        // The browser's page is on its way: what is left of it gets a moment.
        let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
        found
    }
}

/// An answer, and the way to what its browser is shown.
type Brought = (Answer, tokio::sync::oneshot::Sender<(StatusCode, &'static str)>);

async fn take(State(to): State<mpsc::Sender<Brought>>, RawQuery(query): RawQuery) -> Response {
    let answer = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let (tell, told) = tokio::sync::oneshot::channel();
    let gone = (StatusCode::GONE, "This sign-in is over.");
    let (status, text) = match to.try_send((answer, tell)) {
        Ok(()) => told.await.unwrap_or(gone),
        Err(_) => gone,
    };
    let headers =
        [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store"), (REFERRER_POLICY, "no-referrer")];
    (status, headers, format!("{text}\n")).into_response()
}
