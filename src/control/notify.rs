//! People are told: webhooks about requests that wait, what became of them, and what else somebody should see.
//!
//! What is told is committed and in the evidence by then. A notice is lost when the process ends before it is delivered, and
//! may come twice; its `webhook-id` says so. Nothing in it decides anything: its link shows a request, and approving takes a
//! person's token. Each webhook has its own queue, so that a slow one keeps nobody waiting.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::metrics::Metrics;
use super::outbox::{Reached, Sink, SinkError, Told};
use crate::domain::Clock;
use crate::domain::breakglass::BreakGlass;
use crate::domain::request::{Request, in_words};
use crate::settings::control::{NotifyFormat, WebhookSettings};
use crate::settings::{SecretError, read_secret};

/// Notices that wait for one webhook; past them the newest are dropped, and counted.
const MAX_QUEUED: usize = 1_024;
/// Shortest secret: one that can be guessed signs nothing.
const MIN_SECRET_BYTES: usize = 16;
/// How long a webhook may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before each further try; after the last one the notice is given up.
const RETRIES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(15), Duration::from_secs(60)];
/// Refusals that pass.
const AGAIN: [reqwest::StatusCode; 2] = [reqwest::StatusCode::REQUEST_TIMEOUT, reqwest::StatusCode::TOO_MANY_REQUESTS];
/// What is told where the settings do not say: what waits for people, and what they should not overlook.
const TOLD: [&str; 21] = [
    "request.created",
    "request.approved",
    "request.escalated",
    "request.granted",
    "request.denied",
    "request.refused",
    "request.expired",
    "identity.quarantined",
    "identity.released",
    "identity.offboarded",
    "policy.published",
    "exception.created",
    "exception.changed",
    "gateway.expelled",
    "ticket.closed",
    "delegation.created",
    "delegation.ended",
    "breakglass.opened",
    "breakglass.closed",
    "breakglass.reviewed",
    "breakglass.overdue",
];

/// The evidence, and those who are told of it after.
#[derive(Debug)]
pub(super) struct Notifying {
    evidence: Arc<dyn Sink>,
    webhooks: Vec<Webhook>,
    metrics: Metrics,
    base: String,
}

#[derive(Debug)]
struct Webhook {
    events: Vec<String>,
    queue: mpsc::Sender<Arc<Notice>>,
}

/// A payload as Standard Webhooks 1.0 has it.
#[derive(Debug, Serialize)]
struct Notice {
    /// The same each time that it is sent.
    #[serde(skip)]
    id: String,
    r#type: String,
    timestamp: String,
    data: Data,
}

#[derive(Debug, Serialize)]
struct Data {
    /// For example `request/01M8…`.
    object: String,
    actor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Asked>,
    #[serde(skip_serializing_if = "Option::is_none")]
    break_glass: Option<Broken>,
    /// Where it is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

/// Of a request what people are asked about.
#[derive(Debug, Serialize)]
struct Asked {
    id: String,
    state: &'static str,
    requester: String,
    identity: String,
    access: String,
    duration: String,
    reason: String,
    /// Who must approve, in words.
    needs: Vec<String>,
    /// The same in a sentence, in its order.
    takes: String,
    /// Some of those who can.
    who_can: Vec<String>,
    expires: String,
}

impl Asked {
    fn of(request: &Request) -> Self {
        Self {
            id: request.id.to_string(),
            state: request.state.as_str(),
            requester: request.requester.to_string(),
            identity: request.ask.identity.to_string(),
            access: request.ask.access.to_string(),
            duration: request.ask.duration.to_string(),
            reason: request.ask.reason.clone(),
            needs: request.analysis.stages.iter().map(ToString::to_string).collect(),
            takes: in_words(&request.analysis.stages),
            who_can: request.analysis.eligible.iter().map(ToString::to_string).collect(),
            expires: request.expires.to_string(),
        }
    }
}

/// Of a break-glass what people are told.
#[derive(Debug, Serialize)]
struct Broken {
    id: String,
    opener: String,
    identity: String,
    access: String,
    /// When the access is over.
    ends: String,
    reason: String,
    /// Whom it concerns: the first ones.
    concerns: Vec<String>,
    /// How many others.
    #[serde(skip_serializing_if = "Option::is_none")]
    concerns_besides: Option<u64>,
    /// Some of those who can close its review.
    reviewers: Vec<String>,
    /// Until when that is to be.
    due: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'static str>,
}

impl Broken {
    fn of(it: &BreakGlass) -> Self {
        Self {
            id: it.id.to_string(),
            opener: it.opener.to_string(),
            identity: it.ask.identity.to_string(),
            access: it.ask.access.to_string(),
            ends: it.ends.to_string(),
            reason: it.ask.reason.clone(),
            concerns: it.concerned.iter().map(ToString::to_string).collect(),
            concerns_besides: Some(it.concerned_besides).filter(|more| *more > 0),
            reviewers: it.reviewers.iter().map(ToString::to_string).collect(),
            due: it.due.to_string(),
            verdict: it.review.as_ref().map(|review| review.verdict.as_str()),
        }
    }

    /// In a sentence.
    fn text(&self) -> String {
        let Self { id, opener, identity, access, ends, reason, .. } = self;
        let mut text = format!(": {opener} has {access} for {identity} until {ends}: {reason}");
        let besides = self.concerns_besides.map(|more| format!(", and {more} more")).unwrap_or_default();
        text.push_str(&format!(". It concerns {}{besides}", self.concerns.join(", ")));
        if self.verdict.is_none() {
            let (who, due) = (self.reviewers.join(", "), &self.due);
            text.push_str(&format!("; {who} can close its review, until {due}: `portcullis breakglass show {id}`"));
        }
        text
    }
}

impl Notice {
    /// The `place`th of its revision.
    fn of(told: &Told, place: usize, base: &str) -> Self {
        let request: Option<Request> = (told.event.object.starts_with("request/"))
            .then(|| told.event.after.clone().and_then(|after| serde_json::from_value(after).ok()))
            .flatten();
        // Also of one of which the event tells no more than that it is there.
        let link = told.event.object.strip_prefix("request/").map(|id| format!("{base}/v1/requests/{id}"));
        let broken = told.event.object.strip_prefix("breakglass/");
        let link = link.or_else(|| broken.map(|id| format!("{base}/v1/break-glass/{id}")));
        let broken = broken.and_then(|_| serde_json::from_value(told.event.after.clone()?).ok());
        Self {
            id: format!("msg_{}_{place}", told.revision),
            r#type: told.event.operation.clone(),
            timestamp: told.at.to_string(),
            data: Data {
                object: told.event.object.clone(),
                actor: told.actor.clone(),
                reason: told.event.reason.clone(),
                request: request.as_ref().map(Asked::of),
                break_glass: broken.as_ref().map(Broken::of),
                link,
            },
        }
    }

    /// In a sentence, for a chat.
    fn text(&self) -> String {
        let Data { object, actor, reason, request, break_glass, link } = &self.data;
        let mut text = format!("*{}* {object} by {actor}", self.r#type);
        if let Some(asked) = request {
            text.push_str(&format!(
                ": {} asks for {} for {}, for {}: {}",
                asked.requester, asked.access, asked.identity, asked.duration, asked.reason
            ));
            if asked.state == "pending" {
                text.push_str(&format!(
                    ". It takes {}; {} can approve, until {}: `portcullis request show {}`",
                    asked.takes,
                    asked.who_can.join(", "),
                    asked.expires,
                    asked.id
                ));
            }
        }
        if let Some(broken) = break_glass {
            text.push_str(&broken.text());
        }
        if let Some(reason) = reason.as_ref().filter(|_| request.as_ref().is_none_or(|asked| asked.state != "pending"))
        {
            text.push_str(&format!(" ({reason})"));
        }
        // Slack's escapes; nobody's words make a mention or a link of their own.
        let mut text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        match link {
            Some(link) => format!("{text} <{link}>"),
            None => text,
        }
    }

    fn body(&self, format: NotifyFormat) -> Vec<u8> {
        let json = match format {
            NotifyFormat::Json => serde_json::to_value(self).unwrap_or(Value::Null),
            NotifyFormat::Slack => serde_json::json!({ "text": self.text() }),
        };
        json.to_string().into_bytes()
    }
}

/// Why webhooks cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The secret of one cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What it holds after `whsec_` is not base64.
    #[error("{0}: no base64 behind `whsec_`")]
    NotBase64(String),
    /// It could be guessed.
    #[error("{0}: a secret has at least {MIN_SECRET_BYTES} bytes")]
    Short(String),
    /// There can be no client.
    #[error("{0}")]
    Client(#[from] reqwest::Error),
}

impl Notifying {
    /// Evidence that is told on to these webhooks, with what brings it there.
    pub(super) fn new(
        evidence: Arc<dyn Sink>,
        webhooks: &[WebhookSettings],
        base: &str,
        metrics: &Metrics,
        clock: &Arc<dyn Clock>,
        stop: &watch::Receiver<bool>,
    ) -> Result<(Self, Vec<tokio::task::JoinHandle<()>>), NotifyError> {
        let (mut queues, mut tasks) = (Vec::new(), Vec::new());
        for settings in webhooks {
            let (queue, waiting) = mpsc::channel(MAX_QUEUED);
            let events = settings.events.clone();
            queues.push(Webhook { events, queue });
            let delivery = Delivery {
                client: client(&settings.url)?,
                url: settings.url.clone(),
                format: settings.format,
                key: settings.secret_file.as_deref().map(key).transpose()?,
                clock: clock.clone(),
                metrics: metrics.clone(),
            };
            tasks.push(tokio::spawn(delivery.run(waiting, stop.clone())));
        }
        Ok((Self { evidence, webhooks: queues, metrics: metrics.clone(), base: base.to_owned() }, tasks))
    }
}

#[async_trait]
impl Sink for Notifying {
    async fn reached(&self) -> Result<Reached, SinkError> {
        self.evidence.reached().await
    }

    async fn append(&self, told: &[Told]) -> Result<(), SinkError> {
        self.evidence.append(told).await?;
        for (at, one) in told.iter().enumerate() {
            let place = told.iter().take(at).filter(|before| before.revision == one.revision).count();
            let operation = &one.event.operation;
            let wanted = |webhook: &&Webhook| match webhook.events.as_slice() {
                [] => TOLD.contains(&operation.as_str()),
                some => some.iter().any(|wanted| wanted == operation),
            };
            let mut notice = None;
            for webhook in self.webhooks.iter().filter(wanted) {
                let notice = notice.get_or_insert_with(|| Arc::new(Notice::of(one, place, &self.base))).clone();
                if webhook.queue.try_send(notice).is_err() {
                    self.metrics.notices.with_label_values(&["dropped"]).inc();
                }
            }
        }
        Ok(())
    }
}

fn key(file: &std::path::Path) -> Result<hmac::Key, NotifyError> {
    let secret = read_secret(file)?;
    let bytes = match secret.strip_prefix(b"whsec_") {
        Some(text) => STANDARD.decode(text).map_err(|_| NotifyError::NotBase64(file.display().to_string()))?,
        None => secret.to_vec(),
    };
    if bytes.len() < MIN_SECRET_BYTES {
        return Err(NotifyError::Short(file.display().to_string()));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn client(url: &str) -> reqwest::Result<reqwest::Client> {
    // A second call changes nothing: the process has one provider, and it is this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE);
    // Without TLS there is nothing to check a certificate against, and a bare machine has no roots.
    let is_tls = url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
    if is_tls { builder.build() } else { builder.no_proxy().tls_certs_only([]).build() }
}

/// One webhook's way out.
struct Delivery {
    client: reqwest::Client,
    url: String,
    format: NotifyFormat,
    key: Option<hmac::Key>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl Delivery {
    async fn run(self, mut waiting: mpsc::Receiver<Arc<Notice>>, mut stop: watch::Receiver<bool>) {
        loop {
            let notice = tokio::select! {
                notice = waiting.recv() => notice,
                () = super::stopped(&mut stop) => None,
            };
            let Some(notice) = notice else { return };
            let result = tokio::select! {
                result = self.deliver(&notice) => result,
                () = super::stopped(&mut stop) => return,
            };
            self.metrics.notices.with_label_values(&[result]).inc();
        }
    }

    async fn deliver(&self, notice: &Notice) -> &'static str {
        let body = notice.body(self.format);
        for wait in RETRIES.iter().map(Some).chain([None]) {
            let why = match self.attempt(notice, body.clone()).await {
                Ok(status) if status.is_success() => return "sent",
                // It will not be taken the next time either, and others wait.
                Ok(status) if status.is_client_error() && !AGAIN.contains(&status) => {
                    tracing::warn!(notice = %notice.id, %status, "a notice was refused");
                    return "failed";
                }
                Ok(status) => status.to_string(),
                // The address may hold a secret, as Slack's do.
                Err(error) => error.without_url().to_string(),
            };
            let Some(wait) = wait else {
                tracing::warn!(notice = %notice.id, %why, "a notice was given up");
                break;
            };
            tokio::time::sleep(*wait).await;
        }
        "failed"
    }

    /// Sends it once, signed as Standard Webhooks 1.0 has it: `v1,` and HMAC-SHA256 over id, time and body.
    async fn attempt(&self, notice: &Notice, body: Vec<u8>) -> reqwest::Result<reqwest::StatusCode> {
        let seconds = self.clock.now().unix_micros() / 1_000_000;
        let mut request = self.client.post(&self.url).header("content-type", "application/json");
        request = request.header("webhook-id", &notice.id).header("webhook-timestamp", seconds.to_string());
        if let Some(key) = &self.key {
            let mut signing = hmac::Context::with_key(key);
            signing.update(format!("{}.{seconds}.", notice.id).as_bytes());
            signing.update(&body);
            request = request.header("webhook-signature", format!("v1,{}", STANDARD.encode(signing.sign())));
        }
        Ok(request.body(body).send().await?.status())
    }
}
