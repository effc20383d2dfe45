//! `portcullis can-i`: what the gate would say, by the code that the gate runs.

use std::collections::HashMap;

use clap::Args;

use super::Context;
use super::failure::{Exit, Failure};
use super::limits::pair;
use super::output::Human;
use super::time::both;
use crate::client::answers::CanIAnswer;
use crate::clock::SystemClock;
use crate::domain::Clock as _;
use crate::domain::name::{ActionName, IdentityName, ParameterName, ResourceName};
use crate::wire::v1;

#[derive(Debug, Args)]
pub(super) struct CanI {
    /// Who would call
    #[arg(long = "as", value_name = "IDENTITY")]
    identity: IdentityName,
    /// What they would do
    action: ActionName,
    /// To what
    resource: ResourceName,
    /// A parameter of the call; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    parameter: Vec<(ParameterName, String)>,
}

impl CanI {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut parameters = HashMap::new();
        for (name, value) in self.parameter {
            if parameters.insert(name.to_string(), value).is_some() {
                return Err(Failure::usage(format!("parameter `{name}` stands twice")));
            }
        }
        let request = v1::CanIRequest {
            identity: self.identity.to_string(),
            action: self.action.to_string(),
            resource: self.resource.to_string(),
            parameters,
        };
        let answer = context.client().await?.can_i(request).await?;
        let now = SystemClock.now();
        let answer = CanIAnswer {
            allowed: answer.allowed,
            reason: answer.reason,
            detail: answer.detail,
            grant: answer.grant.map(|grant| grant.shown(now)),
            revision: answer.revision,
        };
        context.output.answer(&answer, || Human::Lines(vec![line(&answer, now)]))?;
        Ok(if answer.allowed { Exit::Done } else { Exit::Denied })
    }
}

fn line(answer: &CanIAnswer, now: crate::domain::Timestamp) -> String {
    match (answer.allowed, &answer.grant) {
        (true, Some(shown)) => {
            let grant = &shown.record.grant;
            format!("yes: grant {} until {}", grant.id, both(grant.window.ends, now))
        }
        (true, None) => "yes".to_owned(),
        (false, _) => {
            let reason = answer.reason.as_deref().unwrap_or("denied");
            let detail = answer.detail.as_deref().unwrap_or_default();
            format!("no: {reason} {detail}").trim_end().to_owned()
        }
    }
}
