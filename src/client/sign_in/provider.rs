//! A provider of OpenID Connect: where its endpoints are (Discovery 1.0), and what is asked of them.
//!
//! Everything over TLS or loopback, without redirects, with bounds on time and size.

use std::time::Duration;

use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, CsrfToken, DeviceAuthorizationUrl, EndpointNotSet, EndpointSet,
    ExtraTokenFields, HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken,
    RequestTokenError, RevocationUrl, Scope, StandardDeviceAuthorizationResponse, StandardRevocableToken,
    StandardTokenResponse, TokenResponse as _, TokenUrl,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Errand, SignIn, SignInError};
use crate::client::target;

/// Largest answer of a provider.
const MAX_ANSWER_BYTES: usize = 256 << 10;
/// Longest wait for one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long ago whoever is to sign in anew may have, in seconds, for a provider that does not heed `prompt`.
const FRESH_SECONDS: &str = "60";
/// Scopes where none are named.
const SCOPES: [&str; 3] = ["profile", "email", "offline_access"];

/// What of a token response is beyond OAuth (OpenID Connect Core 1.0 section 3.1.3.3).
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Extra {
    id_token: Option<String>,
}

impl ExtraTokenFields for Extra {}

type TokenAnswer = StandardTokenResponse<Extra, BasicTokenType>;
type OauthClient = oauth2::Client<
    BasicErrorResponse,
    TokenAnswer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// What is kept of a token response.
pub(super) struct Tokens {
    pub(super) id_token: Zeroizing<String>,
    pub(super) refresh_token: Option<Zeroizing<String>>,
}

/// What an answer must fit: it is of this sign-in and of no other.
pub(super) struct Expected {
    state: CsrfToken,
    nonce: String,
    verifier: PkceCodeVerifier,
}

/// A code that somebody types in elsewhere.
pub(super) struct DeviceCode(StandardDeviceAuthorizationResponse);

impl DeviceCode {
    pub(super) fn errand(&self) -> Errand {
        Errand::Enter { url: self.0.verification_uri().to_string(), code: self.0.user_code().secret().clone() }
    }
}

/// What a provider says of itself (Discovery 1.0 section 3).
#[derive(Debug, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: AuthUrl,
    token_endpoint: TokenUrl,
    device_authorization_endpoint: Option<DeviceAuthorizationUrl>,
    revocation_endpoint: Option<RevocationUrl>,
}

/// A provider, and the way to it.
pub(super) struct Provider {
    at: SignIn,
    http: reqwest::Client,
    metadata: Metadata,
}

/// Why there is no answer over HTTP.
#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("{0}")]
    Failed(String),
    #[error("its answer is larger than 256 KiB")]
    TooLarge,
    #[error("{0} is neither https nor on loopback")]
    Unsafe(String),
}

impl Provider {
    /// Asks the provider where its endpoints are.
    pub(super) async fn discover(at: &SignIn) -> Result<Self, SignInError> {
        let unreachable = |why: String| SignInError::Unreachable { issuer: at.issuer.clone(), why };
        let refused = |why: &str| SignInError::Provider { issuer: at.issuer.clone(), why: why.to_owned() };
        let http = client(at).map_err(unreachable)?;
        let url = format!("{}/.well-known/openid-configuration", at.issuer.trim_end_matches('/'));
        let request = http::Request::get(&url).body(Vec::new()).map_err(|_| refused("not the URL of an issuer"))?;
        let answer = send(&http, request).await.map_err(|error| unreachable(error.to_string()))?;
        if answer.status() != 200 {
            return Err(refused(&format!("its description ({url}) is answered {}", answer.status().as_u16())));
        }
        let metadata: Metadata =
            serde_json::from_slice(answer.body()).map_err(|error| refused(&format!("its description: {error}")))?;
        // Discovery 1.0 section 4.3: whoever describes another issuer is not asked anything.
        if metadata.issuer != at.issuer {
            return Err(refused(&format!("it calls itself `{}`", metadata.issuer)));
        }
        Ok(Self { at: at.clone(), http, metadata })
    }

    pub(super) fn fault(&self, why: &dyn std::fmt::Display) -> SignInError {
        SignInError::Provider { issuer: self.at.issuer.clone(), why: why.to_string() }
    }

    fn oauth(&self) -> OauthClient {
        oauth2::Client::new(ClientId::new(self.at.client_id.clone()))
            .set_auth_uri(self.metadata.authorization_endpoint.clone())
            .set_token_uri(self.metadata.token_endpoint.clone())
    }

    fn scopes(&self) -> Vec<Scope> {
        let asked = self.at.scopes.clone().unwrap_or_else(|| SCOPES.map(str::to_owned).to_vec());
        std::iter::once("openid".to_owned()).chain(asked).map(Scope::new).collect()
    }

    /// The address to open, and what the answer must fit.
    pub(super) fn authorize(&self, redirect: &str, fresh: bool) -> Result<(String, Expected), SignInError> {
        let redirect = RedirectUrl::new(redirect.to_owned()).map_err(|error| self.fault(&error))?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let nonce = CsrfToken::new_random().into_secret();
        let mut client = self.oauth();
        client = client.set_redirect_uri(redirect);
        let request = client.authorize_url(CsrfToken::new_random).add_scopes(self.scopes());
        let request = request.set_pkce_challenge(challenge).add_extra_param("nonce", nonce.as_str());
        // Without `consent`, providers give no refresh token to whoever agreed before (Core 1.0 section 11). With `max_age`
        // the ID token has to say when they signed in, and with `login` that is now (section 3.1.2.1).
        let request = match fresh {
            true => request.add_extra_param("prompt", "login consent").add_extra_param("max_age", FRESH_SECONDS),
            false => request.add_extra_param("prompt", "consent"),
        };
        let (url, state) = request.url();
        Ok((url.into(), Expected { state, nonce, verifier }))
    }

    /// The code in an answer to this sign-in; nothing when it answers another.
    pub(super) fn answered(
        &self,
        answer: &[(String, String)],
        expected: &Expected,
    ) -> Option<Result<AuthorizationCode, SignInError>> {
        let one = |name: &str| {
            let mut found = answer.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
            found.next().filter(|_| found.next().is_none())
        };
        if one("state") != Some(expected.state.secret()) {
            return None;
        }
        // RFC 9207: whose answer it is, where they say so.
        if one("iss").is_some_and(|issuer| issuer != self.at.issuer) {
            return Some(Err(self.fault(&"another issuer answered")));
        }
        if let Some(error) = one("error") {
            let more = one("error_description").map(|text| format!(": {text}")).unwrap_or_default();
            return Some(Err(self.fault(&format!("{error}{more}"))));
        }
        let code = one("code").map(|code| AuthorizationCode::new(code.to_owned()));
        Some(code.ok_or_else(|| self.fault(&"its answer holds no code")))
    }

    /// Exchanges a code.
    pub(super) async fn tokens(
        &self,
        code: AuthorizationCode,
        expected: Expected,
        redirect: &str,
    ) -> Result<Tokens, SignInError> {
        let redirect = RedirectUrl::new(redirect.to_owned()).map_err(|error| self.fault(&error))?;
        let client = self.oauth().set_redirect_uri(redirect);
        let request = client.exchange_code(code).set_pkce_verifier(expected.verifier);
        let answer = request.request_async(&|request| send(&self.http, request)).await;
        self.taken(answer.map_err(|error| self.refused(error))?, Some(&expected.nonce))
    }

    /// Exchanges a refresh token. A provider that does not take it any more has ended the session.
    pub(super) async fn refreshed(&self, token: &str) -> Result<Tokens, SignInError> {
        let (client, token) = (self.oauth(), RefreshToken::new(token.to_owned()));
        let answer = client.exchange_refresh_token(&token).request_async(&|request| send(&self.http, request)).await;
        match answer {
            Ok(answer) => self.taken(answer, None),
            Err(RequestTokenError::ServerResponse(why)) => Err(self.at.not_signed_in(why.to_string())),
            Err(error) => Err(self.refused(error)),
        }
    }

    /// A code to type in elsewhere.
    pub(super) async fn device_code(&self, fresh: bool) -> Result<DeviceCode, SignInError> {
        let Some(endpoint) = &self.metadata.device_authorization_endpoint else {
            return Err(self.fault(&"it has no sign-in by a code (RFC 8628): leave --device away"));
        };
        let client = self.oauth().set_device_authorization_url(endpoint.clone());
        let mut request = client.exchange_device_code().add_scopes(self.scopes());
        if fresh {
            // RFC 8628 section 3.1 lets parameters be added; whether they are heeded, the token says.
            request = request.add_extra_param("prompt", "login").add_extra_param("max_age", FRESH_SECONDS);
        }
        let answer = request.request_async(&|request| send(&self.http, request)).await;
        answer.map(DeviceCode).map_err(|error| self.refused(error))
    }

    /// Waits until somebody typed the code in.
    pub(super) async fn device_tokens(&self, code: &DeviceCode) -> Result<Tokens, SignInError> {
        let client = self.oauth();
        let answer = client
            .exchange_device_access_token(&code.0)
            .request_async(&|request| send(&self.http, request), tokio::time::sleep, None)
            .await;
        self.taken(answer.map_err(|error| self.refused(error))?, None)
    }

    /// Tells the provider that a refresh token is not wanted any more (RFC 7009), where it wants to be told.
    pub(super) async fn revoke(&self, token: &str) {
        let Some(endpoint) = &self.metadata.revocation_endpoint else { return };
        let client = self.oauth().set_revocation_url(endpoint.clone());
        let token = StandardRevocableToken::RefreshToken(RefreshToken::new(token.to_owned()));
        if let Ok(request) = client.revoke_token(token) {
            // It ends by itself, too; who signs out is not kept waiting for a reason.
            let _ = request.request_async(&|request| send(&self.http, request)).await;
        }
    }

    fn taken(&self, answer: TokenAnswer, nonce: Option<&str>) -> Result<Tokens, SignInError> {
        let token = answer.extra_fields().id_token.clone().map(Zeroizing::new);
        let id_token = token.ok_or_else(|| self.fault(&"it gave no ID token: is `openid` allowed to this client?"))?;
        self.at.look(&id_token, nonce).map_err(|why| self.fault(&why))?;
        let refresh_token = answer.refresh_token().map(|token| Zeroizing::new(token.secret().clone()));
        Ok(Tokens { id_token, refresh_token })
    }

    fn refused<T: oauth2::ErrorResponse + std::fmt::Display>(
        &self,
        error: RequestTokenError<HttpError, T>,
    ) -> SignInError {
        match error {
            RequestTokenError::ServerResponse(why) => self.fault(&why),
            RequestTokenError::Request(why) => {
                SignInError::Unreachable { issuer: self.at.issuer.clone(), why: why.to_string() }
            }
            RequestTokenError::Parse(error, _) => self.fault(&format!("its answer does not read: {error}")),
            RequestTokenError::Other(why) => self.fault(&why),
        }
    }
}

fn client(at: &SignIn) -> Result<reqwest::Client, String> {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(ANSWER_TIMEOUT)
        .pool_max_idle_per_host(0);
    let builder = match &at.ca_file {
        Some(file) => {
            let pem = target::read(file, "the provider's authority (sign_in.ca_file)").map_err(|e| e.to_string())?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| error.to_string())?;
            builder.tls_certs_only(authorities)
        }
        // Plain loopback needs no roots, and a bare machine has none.
        None if at.issuer.starts_with("http://") => builder.tls_certs_only([]),
        None => builder,
    };
    builder.build().map_err(|error| error.to_string())
}

/// One request, one answer.
async fn send(client: &reqwest::Client, request: HttpRequest) -> Result<HttpResponse, HttpError> {
    if !is_safe(request.uri()) {
        return Err(HttpError::Unsafe(request.uri().to_string()));
    }
    let failed = |error: reqwest::Error| HttpError::Failed(super::super::causes(&error.without_url()));
    let request = reqwest::Request::try_from(request).map_err(failed)?;
    let mut response = client.execute(request).await.map_err(failed)?;
    let mut answer = http::Response::builder().status(response.status());
    if let Some(headers) = answer.headers_mut() {
        headers.clone_from(response.headers());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(HttpError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    answer.body(body).map_err(|error| HttpError::Failed(error.to_string()))
}

/// Whether what is sent there is read by whom it is meant for alone.
fn is_safe(uri: &http::Uri) -> bool {
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => true,
        (Some("http"), Some(host)) => ["localhost", "127.0.0.1", "[::1]"].contains(&host),
        _ => false,
    }
}
