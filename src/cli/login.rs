//! `portcullis login` and `logout`: a person signs in where their context says.

use clap::Args;
use serde::Serialize;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::{Human, escaped};
use crate::client::sign_in::{Errand, SignedIn};
use crate::client::{Client, Target};
use crate::domain::Timestamp;

const WITHOUT: &str = "this context names no place to sign in: in ~/.config/portcullis/config.yaml it takes
  sign_in: { issuer: https://…, client_id: … }";

#[derive(Debug, Args)]
pub(super) struct Login {
    /// Without a browser on this machine: print a code, and an address to type it in elsewhere
    #[arg(long)]
    device: bool,
    /// Prove who you are anew, also where you are signed in: what break-glass takes
    #[arg(long)]
    fresh: bool,
}

#[derive(Debug, Args)]
pub(super) struct Logout {}

#[derive(Serialize)]
struct LoginAnswer {
    /// Who the control plane says it is.
    name: String,
    roles: Vec<String>,
    issuer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    /// Whether it goes on beyond that without signing in again.
    renewable: bool,
}

#[derive(Serialize)]
struct LogoutAnswer {
    issuer: String,
    signed_out: bool,
}

impl Login {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let (mut target, place) = place(context)?;
        let signed = place.sign_in(self.device, self.fresh, |errand| super::report(&told(errand))).await?;
        target.token = Some(signed.token.clone());
        // Somebody whom nobody here knows has signed in for nothing: better said now than at the next command.
        let me = match Client::connect(&target).await {
            Ok(mut client) => client.who_am_i().await,
            Err(error) => Err(error),
        };
        let me = match me {
            Ok(me) => me,
            Err(error) => {
                place.sign_out().await?;
                return Err(error.into());
            }
        };
        let answer = LoginAnswer {
            name: me.name,
            roles: me.roles,
            issuer: place.at.issuer.clone(),
            expires: signed.expires,
            renewable: signed.renewable,
        };
        context.output.answer(&answer, || {
            let end = answer.expires.filter(|_| !answer.renewable).map(|end| format!(", until {end}"));
            Human::Lines(vec![format!("Signed in as {}{}.", answer.name, end.unwrap_or_default())])
        })?;
        Ok(Exit::Done)
    }
}

impl Logout {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let (_, place) = place(context)?;
        let answer = LogoutAnswer { issuer: place.at.issuer.clone(), signed_out: place.sign_out().await? };
        context.output.answer(&answer, || {
            let text = if answer.signed_out { "Signed out." } else { "Nobody was signed in." };
            Human::Lines(vec![text.to_owned()])
        })?;
        Ok(Exit::Done)
    }
}

/// Where the context has somebody sign in, and the control plane that they then ask.
fn place(context: &Context) -> Result<(Target, SignedIn), Failure> {
    let target = Target::find(&context.pointers, &context.environment)?;
    let place = target.signed_in.clone().ok_or_else(|| Failure::usage(WITHOUT))?;
    Ok((target, place))
}

/// What to do, in words. Address and code are the provider's: nothing of them acts on the terminal.
fn told(errand: &Errand) -> String {
    match errand {
        Errand::Open { url } => format!("Open this address in a browser on this machine:\n\n  {}\n\n", escaped(url)),
        Errand::Enter { url, code } => {
            format!("Open {} and enter this code:\n\n  {}\n\n", escaped(url), escaped(code))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_provider_says_acts_on_the_terminal() {
        let (url, code) = ("https://p.example/\u{1b}]0;x\u{7}".to_owned(), "AB\u{1b}[2J\n\r\u{202e}CD".to_owned());
        for errand in [Errand::Enter { url: url.clone(), code }, Errand::Open { url }] {
            let text = told(&errand);
            let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(acts), "{text:?}");
            assert_eq!(text.matches('\n').count(), 4, "{text:?}");
        }
    }
}
