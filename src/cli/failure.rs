//! How a command fails: one exit code per cause, a text for people, a document for scripts.
//!
//! The codes are relied on: 0 done, 1 failed, 2 usage or configuration, 3 denied, 4 not found, 5 conflict,
//! 6 unauthenticated, 7 unavailable or timed out, 8 verification failed.

use std::process::ExitCode;

use serde::Serialize;

use super::output::{Format, escaped, harmless_json};
use crate::app::AppError;
use crate::client::sign_in::SignInError;
use crate::client::{ClientError, Refusal, TargetError};

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Denied = 3,
    NotFound = 4,
    Conflict = 5,
    Unauthenticated = 6,
    Unavailable = 7,
    VerificationFailed = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not do what it was asked to.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// A reason code, where one applies.
    pub(crate) reason: Option<String>,
    /// Standard output was closed by its reader: nothing to say, nobody to say it to.
    pub(crate) quiet: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    code: Exit,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), reason: None, quiet: false }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn with_reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into()).filter(|r| !r.is_empty());
        self
    }

    /// The text on standard error.
    pub(crate) fn render(&self, format: Format) -> String {
        match format {
            Format::Json => {
                let body = Body { code: self.exit, message: &self.message, reason: self.reason.as_deref() };
                let document = serde_json::to_string(&Document { error: body }).unwrap_or_default();
                format!("{}\n", harmless_json(&document))
            }
            Format::Table | Format::Yaml => {
                let lines: Vec<_> = self.message.lines().map(escaped).collect();
                format!("error: {}\n", lines.join("\n"))
            }
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self { quiet: true, ..Self::new(Exit::Done, "") };
        }
        Self::new(Exit::Failed, error.to_string())
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        let exit = match error {
            AppError::Usage(_) | AppError::Settings(_) => Exit::Usage,
            AppError::Conflict(_) => Exit::Conflict,
            AppError::Io { .. } | AppError::Part { .. } | AppError::Impatient => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        let exit = if error.is_absent() { Exit::Unavailable } else { Exit::Usage };
        Self::new(exit, error.to_string())
    }
}

impl From<SignInError> for Failure {
    fn from(error: SignInError) -> Self {
        let exit = match error {
            SignInError::NotSignedIn { .. } | SignInError::Provider { .. } => Exit::Unauthenticated,
            SignInError::Unreachable { .. } | SignInError::Late => Exit::Unavailable,
            SignInError::File { .. } => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Target(error) => error.into(),
            ClientError::Unreachable { .. } => {
                Self::new(Exit::Unavailable, format!("{error}\nIs `portcullis dev`, or the control plane, running?"))
            }
            ClientError::Refused { refusal, message, reason } => {
                Self { reason, ..Self::new(exit_of(refusal), message) }
            }
            ClientError::SignIn(error) => error.into(),
            ClientError::Answer(_) => Self::new(Exit::Failed, error.to_string()),
        }
    }
}

/// What a refusal means for the one at the prompt.
fn exit_of(refusal: Refusal) -> Exit {
    match refusal {
        Refusal::Invalid => Exit::Usage,
        Refusal::Denied => Exit::Denied,
        Refusal::NotFound => Exit::NotFound,
        Refusal::Conflict | Refusal::Unfit => Exit::Conflict,
        Refusal::Unauthenticated => Exit::Unauthenticated,
        Refusal::Unavailable => Exit::Unavailable,
        Refusal::Failed => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_json_document_with_code_message_and_reason() {
        let failure = Failure::new(Exit::Denied, "no\u{1b}[31m grant\u{9b}2J").with_reason("grant_missing");
        let text = failure.render(Format::Json);
        assert!(text.is_ascii() && !text.contains('\u{1b}'), "{text:?}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["error"]["code"], "denied");
        assert_eq!(value["error"]["reason"], "grant_missing");
        assert_eq!(value["error"]["message"], "no\u{1b}[31m grant\u{9b}2J");
        assert_eq!(failure.render(Format::Table), "error: no\\u{1b}[31m grant\\u{9b}2J\n");
    }
}
