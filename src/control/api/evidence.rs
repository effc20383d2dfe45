//! The `Evidence` service: questions to every gateway's log, and the streams on which gateways answer them.
//!
//! Nothing is kept here. What comes is what gateways say of themselves; whose part is missing is said.

mod keep;
mod places;
mod telling;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::super::actor::{ControlHandle, Shared};
use super::super::asked::NotAsked;
use super::super::authorize::{Caller, Operation};
use super::super::fleet::GatewayStatus;
use super::super::logs;
use super::push::in_good_standing;
use super::{ApiError, authorized};
use crate::domain::name::GatewayName;
use crate::evidence::checkpoint::VerifierKey;
use crate::wire::{MAX_EVIDENCE_RECORDS, v1};
use places::{Place, Places};

/// How long a gateway may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to say who it is.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Gateways that one question waits for at once, each with an answer of at most a message.
const GATEWAYS_AT_ONCE: usize = 16;
/// Values that one question may name.
const MAX_VALUES: usize = 16;

/// The service.
#[derive(Clone, Debug)]
pub(in super::super) struct EvidenceService {
    handle: ControlHandle,
    stop: watch::Receiver<bool>,
    places: Places,
}

impl EvidenceService {
    pub(in super::super) fn new(handle: ControlHandle, stop: watch::Receiver<bool>) -> Self {
        Self { handle, stop, places: Places::new() }
    }
}

type Questions = Pin<Box<dyn Stream<Item = Result<v1::EvidenceQuestion, Status>> + Send>>;

#[tonic::async_trait]
impl v1::evidence_server::Evidence for EvidenceService {
    type QueryStream = telling::Answers;
    type ServeStream = Questions;
    type KeepStream = keep::Answers;

    async fn query(&self, request: Request<v1::QueryEvidenceRequest>) -> Result<Response<telling::Answers>, Status> {
        let caller = authorized(&self.handle, &request, Operation::QueryEvidence, None).await?;
        let request = request.into_inner();
        let values = request.filter.as_ref().map_or(0, |filter| filter.values.len());
        if values > MAX_VALUES {
            return Err(ApiError::invalid(format!("at most {MAX_VALUES} values can be asked for")).into());
        }
        let asked = chosen(&self.handle, &request)?;
        let place = self.places.take(&caller.to_string()).await.map_err(|error| ApiError::limit(error.to_string()))?;
        // Held until the last answer has gone and nothing is read for one any more.
        let place = Arc::new(place);
        tracing::info!(%caller, gateways = asked.len(), "the gateways' evidence is asked");
        let (shared, request) = (self.handle.shared().clone(), Arc::new(request));
        let answers = futures_util::stream::iter(asked)
            .map(move |gateway| {
                let (shared, request, place) = (shared.clone(), request.clone(), place.clone());
                async move { ask(&shared, &gateway, &request, place).await }
            })
            .buffer_unordered(GATEWAYS_AT_ONCE);
        Ok(Response::new(telling::told(answers, self.stop.clone())))
    }

    async fn keep(&self, request: Request<Streaming<v1::KeepMessage>>) -> Result<Response<keep::Answers>, Status> {
        keep::keep(&self.handle, &self.stop, request).await
    }

    async fn serve(&self, request: Request<Streaming<v1::EvidenceAnswer>>) -> Result<Response<Questions>, Status> {
        let caller = authorized(&self.handle, &request, Operation::ServeEvidence, None).await?;
        let Caller::Gateway(name) = caller else { return Err(ApiError::unauthenticated().into()) };
        in_good_standing(self.handle.shared(), &name)?;
        let mut answers = request.into_inner();
        let first = tokio::time::timeout(HELLO_PATIENCE, answers.message()).await;
        let Ok(Some(first)) = first.map_err(|_| ApiError::invalid("no first message in time"))? else {
            return Err(ApiError::invalid("the first message must name the log").into());
        };
        let (down, questions) = mpsc::channel(1);
        let (shared, mut stop) = (self.handle.shared().clone(), self.stop.clone());
        let (session, mut asked) = shared.standing_by.enter(&name, first.log);
        tokio::spawn(async move {
            let hear = async {
                while let Ok(Some(answer)) = answers.message().await {
                    shared.standing_by.answered(&name, session, answer);
                }
            };
            let pass = async {
                while let Some(question) = asked.recv().await {
                    if down.send(Ok(question)).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = hear => {}
                () = pass => {}
                () = down.closed() => {}
                () = super::super::stopped(&mut stop) => {}
            }
            shared.standing_by.leave(&name, session);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(questions))))
    }
}

/// The recorded gateways that are meant.
fn chosen(handle: &ControlHandle, request: &v1::QueryEvidenceRequest) -> Result<Vec<GatewayStatus>, ApiError> {
    let mut known = handle.gateways();
    for name in &request.gateways {
        if !known.iter().any(|status| status.name.as_str() == name) {
            return Err(ApiError::not_found(format!("there is no gateway {name}")));
        }
    }
    known.retain(|status| {
        request.gateways.is_empty() || request.gateways.iter().any(|name| status.name.as_str() == name)
    });
    Ok(known)
}

async fn ask(
    shared: &Shared,
    gateway: &GatewayStatus,
    request: &v1::QueryEvidenceRequest,
    place: Arc<Place>,
) -> v1::GatewayEvidence {
    let name: &GatewayName = &gateway.name;
    let heard_unix_us = gateway.answered.unix_micros();
    let missing = |why: String| v1::GatewayEvidence {
        gateway: name.to_string(),
        missing: why,
        heard_unix_us,
        ..v1::GatewayEvidence::default()
    };
    if let Err(denied) = in_good_standing(shared, name) {
        return missing(Status::from(denied).message().to_owned());
    }
    let limit = match request.limit {
        0 => MAX_EVIDENCE_RECORDS,
        limit => limit.min(MAX_EVIDENCE_RECORDS),
    };
    let question = v1::EvidenceQuestion {
        number: 0,
        filter: request.filter.clone(),
        limit,
        after: request.after.get(name.as_str()).copied(),
        last: request.last,
    };
    let after = request.after.get(name.as_str()).copied().unwrap_or_default();
    let mut under_way = match shared.standing_by.ask(name, question.clone()) {
        Ok(under_way) => under_way,
        Err(NotAsked::Busy) => return missing(NotAsked::Busy.to_string()),
        Err(NotAsked::Away) => {
            let copied = from_copy(shared, name, question, place).await;
            return copied.map_or_else(
                || missing(NotAsked::Away.to_string()),
                // INVARIANT: a copy that is behind what was told already takes nobody back.
                |answer| v1::GatewayEvidence {
                    gateway: name.to_string(),
                    heard_unix_us,
                    copy: true,
                    reached: if answer.missing.is_empty() { answer.reached.max(after) } else { 0 },
                    ..answer
                },
            );
        }
    };
    match tokio::time::timeout(ANSWER_PATIENCE, &mut under_way.answer).await {
        Err(_) => missing(format!("it did not answer within {} s", ANSWER_PATIENCE.as_secs())),
        Ok(Err(_)) => missing("it went away".into()),
        Ok(Ok(answer)) if !answer.fault.is_empty() => missing(answer.fault),
        Ok(Ok(answer)) => v1::GatewayEvidence {
            gateway: name.to_string(),
            missing: String::new(),
            heard_unix_us,
            key: key_of(shared, name, &under_way.log),
            log: under_way.log.clone(),
            records: answer.records,
            reached: answer.reached,
            size: answer.size,
            copy: false,
            present_from: answer.present_from,
        },
    }
}

/// The key of a gateway's log. Of one that has just begun it is not known yet: that of the one before is not its.
fn key_of(shared: &Shared, gateway: &GatewayName, log: &str) -> String {
    let model = shared.model.load();
    let known = model.logs.get(gateway).map(|kept| kept.value.key.clone());
    known.filter(|key| key.starts_with(&format!("{log}+"))).unwrap_or_default()
}

/// What the copy of its latest log has, where one is kept.
async fn from_copy(
    shared: &Shared,
    name: &GatewayName,
    question: v1::EvidenceQuestion,
    place: Arc<Place>,
) -> Option<v1::GatewayEvidence> {
    let key: VerifierKey = shared.model.load().logs.get(name)?.value.key.parse().ok()?;
    let log = key.name().to_string();
    let directory = shared.copies.get()?.copy_of(name, logs::place(name, &log)?, &key)?;
    match crate::asking::answered(&directory, question, place).await {
        Ok(answer) => Some(v1::GatewayEvidence {
            key: key.to_string(),
            log,
            records: answer.records,
            reached: answer.reached,
            size: answer.size,
            present_from: answer.present_from,
            ..v1::GatewayEvidence::default()
        }),
        Err(error) => {
            Some(v1::GatewayEvidence { missing: format!("its copy: {error}"), ..v1::GatewayEvidence::default() })
        }
    }
}
