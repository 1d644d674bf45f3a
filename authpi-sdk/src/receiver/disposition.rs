//! Every outcome of a delivery, and how it is answered.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::Full;

/// How a delivery is answered. According to AuthPI's guide, only status 200 acknowledges a
/// delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    /// The event is handled and recorded.
    Handled,
    /// The event is stored durably in the inbox.
    Stored,
    /// The event is known: handled or given up before, or waiting in the inbox.
    Duplicate,
    /// No handler is registered for this event type. Not recorded, so that the event can be handled
    /// later.
    Unhandled,
    /// The event was given up and kept as a dead letter.
    DeadLetter,
    /// The event was given up and dropped, as configured.
    Dropped,
    /// Another worker is handling the event, or has released it with a pause.
    InFlight { retry_after: Duration },
    /// The handler failed, and a retry may help.
    Failed { retry_after: Duration },
    /// The handler failed terminally, and the ledger cannot keep the event.
    CannotKeep { retry_after: Duration },
    /// The lease was lost: it expired, or another worker has taken over.
    LeaseLost { retry_after: Duration },
    /// The body was dropped before it was complete, to free memory of unverified bodies.
    Shed { retry_after: Duration },
    /// The maximum number of deliveries is in progress.
    TooMany { retry_after: Duration },
    /// The receiver is shutting down.
    Draining { retry_after: Duration },
    /// A step of the ledger failed.
    StoreDown { retry_after: Duration },
    /// The delivery seems to be older than the ledger's retention, but nothing confirms this
    /// machine's clock.
    ClockUnsure { retry_after: Duration },
    /// Authentic, but not a readable event, and the ledger keeps no dead letters.
    Unreadable,
    /// The store works but refuses the event's content. It keeps no dead letters, or refuses the
    /// dead letter too.
    ContentRefused,
    /// Authentic, but the `time` in the body is longer ago than the ledger's retention, and the
    /// ledger keeps no dead letters.
    Expired,
    /// The sender hung up before the body was complete.
    Interrupted,
    /// Not authentic.
    Unauthorized,
    /// Not a POST.
    NotPost,
    /// The body was not complete in time.
    TooSlow,
    /// The body is too large.
    TooLarge,
    /// The receiver has no usable secret, which is not the sender's fault.
    NoSecret,
}

impl Disposition {
    fn status(self) -> StatusCode {
        match self {
            Self::Handled
            | Self::Stored
            | Self::Duplicate
            | Self::Unhandled
            | Self::DeadLetter
            | Self::Dropped => StatusCode::OK,
            Self::InFlight { .. }
            | Self::Failed { .. }
            | Self::CannotKeep { .. }
            | Self::LeaseLost { .. }
            | Self::Shed { .. }
            | Self::TooMany { .. }
            | Self::Draining { .. }
            | Self::StoreDown { .. }
            | Self::ClockUnsure { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreadable | Self::ContentRefused | Self::Expired | Self::Interrupted => {
                StatusCode::BAD_REQUEST
            }
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotPost => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoSecret => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn retry_after(self) -> Option<Duration> {
        match self {
            Self::InFlight { retry_after }
            | Self::Failed { retry_after }
            | Self::CannotKeep { retry_after }
            | Self::LeaseLost { retry_after }
            | Self::Shed { retry_after }
            | Self::TooMany { retry_after }
            | Self::Draining { retry_after }
            | Self::StoreDown { retry_after }
            | Self::ClockUnsure { retry_after } => Some(retry_after),
            _ => None,
        }
    }

    /// The outcome's name in logs and metrics.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::Unhandled => "unhandled",
            Self::DeadLetter => "dead_letter",
            Self::Dropped => "dropped",
            Self::InFlight { .. } => "in_flight",
            Self::Failed { .. } => "failed",
            Self::CannotKeep { .. } => "cannot_keep",
            Self::LeaseLost { .. } => "lease_lost",
            Self::Shed { .. } => "shed",
            Self::TooMany { .. } => "too_many",
            Self::Draining { .. } => "draining",
            Self::StoreDown { .. } => "store_down",
            Self::ClockUnsure { .. } => "clock_unsure",
            Self::Unreadable => "unreadable",
            Self::ContentRefused => "content_refused",
            Self::Expired => "expired",
            Self::Interrupted => "interrupted",
            Self::Unauthorized => "unauthorized",
            Self::NotPost => "not_post",
            Self::TooSlow => "too_slow",
            Self::TooLarge => "too_large",
            Self::NoSecret => "no_secret",
        }
    }

    /// The body of the response. It is empty for an ordinary success. Other acknowledgements say
    /// what happened instead, and refusals repeat only what the status says.
    fn text(self) -> &'static str {
        if matches!(self, Self::Handled | Self::Stored) {
            return "";
        }
        match self.status() {
            StatusCode::OK => self.outcome(),
            StatusCode::SERVICE_UNAVAILABLE => "try again later",
            StatusCode::BAD_REQUEST => "the delivery cannot be accepted",
            StatusCode::UNAUTHORIZED => "unauthorized",
            StatusCode::METHOD_NOT_ALLOWED => "use POST",
            StatusCode::REQUEST_TIMEOUT => "the body took too long",
            StatusCode::PAYLOAD_TOO_LARGE => "the body is too large",
            _ => "the receiver is not configured",
        }
    }

    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let text = self.text();
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        if !text.is_empty() {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
        }
        if let Some(wait) = self.retry_after() {
            // Whole seconds, rounded up, and at least one.
            let seconds = wait
                .as_secs()
                .saturating_add(u64::from(wait.subsec_nanos() > 0));
            headers.insert(RETRY_AFTER, seconds.max(1).into());
        }
        if self == Self::NotPost {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}
