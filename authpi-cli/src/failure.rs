//! Why a command failed: one line for standard error, and the exit code.

use std::{error::Error, fmt, process::ExitCode};

use authpi_sdk::{client, endpoint::EndpointError};
use http::StatusCode;

/// The documented exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Failed = 1,
    /// Also used by the argument parser.
    Usage = 2,
    NotFound = 3,
    NotAuthorized = 4,
}

/// Shown at the end of the program's help.
pub(crate) const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not authorized.";

/// Why a command failed, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    message: String,
    hint: Option<String>,
    /// Standard output was closed by its reader: the program ends without a message.
    closed: bool,
}

pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            code: Code::Failed,
            message: message.into(),
            hint: None,
            closed: false,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(message).code(Code::Usage)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(message).code(Code::NotFound)
    }

    /// `what` failed because of `error` and its causes.
    pub(crate) fn because(what: impl fmt::Display, error: &(dyn Error + 'static)) -> Self {
        Self::new(format!("{what}: {}", chain(error)))
    }

    pub(crate) fn closed() -> Self {
        Self {
            closed: true,
            ..Self::new("standard output is closed")
        }
    }

    /// Names what it is about.
    pub(crate) fn about(self, what: &str) -> Self {
        Self {
            message: format!("{what}: {}", self.message),
            ..self
        }
    }

    pub(crate) fn code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// What the user can do about it.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Writes the line, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.closed {
            return ExitCode::SUCCESS;
        }
        crate::output::note(&self.to_string());
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever a server wrote.
        f.write_str(&one_line(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, " ({})", one_line(hint)),
            None => Ok(()),
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let failure = Self::new(chain(&error));
        match error.status() {
            Some(StatusCode::UNAUTHORIZED) => failure
                .code(Code::NotAuthorized)
                .hint("check the key's id and secret, and that it belongs to this base URL"),
            Some(StatusCode::FORBIDDEN) => failure
                .code(Code::NotAuthorized)
                .hint("the key lacks the permission for this"),
            Some(StatusCode::NOT_FOUND) => failure.code(Code::NotFound),
            _ if error.is_credential() => failure.code(Code::NotAuthorized),
            _ if error.is_invalid_argument() => failure.code(Code::Usage),
            _ => failure,
        }
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::Call(error) => error.into(),
            error @ EndpointError::SecretLost(_) => Self::new(chain(&error)).hint(
                "if another file has the secret, give that one; --renew-lost-secret replaces the webhook",
            ),
            error => Self::new(chain(&error)),
        }
    }
}

impl From<authpi_emulator::TriggerError> for Failure {
    fn from(error: authpi_emulator::TriggerError) -> Self {
        Self::new(chain(&error))
    }
}

/// An error and its causes, without those that the message before them already contains.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Control characters become spaces.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_hint() {
        let failure = Failure::not_found("no webhook\n\u{1b}[31mwh_1").hint("list them");
        assert_eq!(failure.to_string(), "no webhook  [31mwh_1 (list them)");
        assert_eq!(failure.code, Code::NotFound);
    }
}
