//! Errors, and what they say about the server.

use std::{
    error::Error,
    fmt,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use async_nats::{
    ConnectError, ConnectErrorKind,
    jetstream::{
        self, ErrorCode,
        context::{ConsumerInfoError, ConsumerInfoErrorKind, PublishError, PublishErrorKind},
    },
};

use crate::ledger::{LedgerError, LedgerErrorKind};

pub(super) type AnyError = Box<dyn Error + Send + Sync>;

/// What an error is about: the message, or the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The message is too large for this server.
    Content,
    /// The stream is full, or there is no space for it.
    CannotWrite,
    /// JetStream does not answer at this server, or does not know the stream.
    NoJetStream,
    Other,
}

impl Verdict {
    pub(super) fn of(error: &LedgerError) -> Self {
        let causes = std::iter::successors(error.source(), |&error| error.source());
        causes
            .map(Self::of_cause)
            .find(|verdict| *verdict != Self::Other)
            .unwrap_or(Self::Other)
    }

    pub(super) fn of_cause(error: &(dyn Error + 'static)) -> Self {
        if let Some(error) = error.downcast_ref::<PublishError>() {
            return match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => Self::Content,
                PublishErrorKind::StreamNotFound => Self::NoJetStream,
                _ => Self::Other,
            };
        }
        if let Some(error) = error.downcast_ref::<ConsumerInfoError>() {
            return match error.kind() {
                ConsumerInfoErrorKind::NoResponders => Self::NoJetStream,
                ConsumerInfoErrorKind::JetStream(error) => Self::of_code(error.error_code()),
                _ => Self::Other,
            };
        }
        if let Some(error) = error.downcast_ref::<jetstream::context::RequestError>() {
            let unanswered = error.kind() == jetstream::context::RequestErrorKind::NoResponders;
            return if unanswered {
                Self::NoJetStream
            } else {
                Self::Other
            };
        }
        if let Some(error) = error.downcast_ref::<async_nats::RequestError>() {
            let unanswered = error.kind() == async_nats::RequestErrorKind::NoResponders;
            return if unanswered {
                Self::NoJetStream
            } else {
                Self::Other
            };
        }
        error
            .downcast_ref::<jetstream::Error>()
            .map_or(Self::Other, |error| Self::of_code(error.error_code()))
    }

    fn of_code(code: ErrorCode) -> Self {
        match code {
            ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
            | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => Self::Content,
            ErrorCode::STREAM_STORE_FAILED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => Self::CannotWrite,
            ErrorCode::JETSTREAM_NOT_ENABLED
            | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
            | ErrorCode::CLUSTER_NOT_AVAILABLE => Self::NoJetStream,
            _ => Self::Other,
        }
    }

    pub(super) fn kind(self) -> LedgerErrorKind {
        match self {
            Self::Content => LedgerErrorKind::Content,
            Self::CannotWrite | Self::NoJetStream => LedgerErrorKind::CannotWrite,
            Self::Other => LedgerErrorKind::Unreachable,
        }
    }
}

/// The last error that the server sent separately from the answers to requests. It reports some
/// errors only in this way, such as a missing permission.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<Option<(Instant, String)>>);

impl Said {
    pub(super) fn note(&self, error: &async_nats::ServerError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), error.to_string()));
    }

    /// The error sent since then, if any.
    pub(super) fn since(&self, then: Instant) -> Option<String> {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.as_ref()
            .filter(|(at, _)| *at >= then)
            .map(|(_, said)| said.clone())
    }
}

/// A step failed, and the server has sent the reason.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) said: String,
    pub(super) error: LedgerError,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server said: {}", self.said)
    }
}

impl Error for Denied {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Not connected.
#[derive(Debug)]
pub(super) struct Unconnected {
    pub(super) server: String,
    pub(super) error: Option<ConnectError>,
}

impl Unconnected {
    pub(super) fn boxed(server: &str, error: Option<ConnectError>) -> AnyError {
        Box::new(Self {
            server: server.to_owned(),
            error,
        })
    }
}

impl fmt::Display for Unconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, error } = self;
        match error.as_ref().map(ConnectError::kind) {
            Some(ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication) => {
                write!(
                    f,
                    "could not log in to NATS at {server}; check the user name and password, or the token"
                )
            }
            Some(_) => write!(f, "could not connect to NATS at {server}"),
            None => write!(f, "could not connect to NATS at {server} in time"),
        }
    }
}

impl Error for Unconnected {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.as_ref().map(|error| error as _)
    }
}
