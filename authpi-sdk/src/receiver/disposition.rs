//! The table of answers, all of it.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::Full;

/// What became of a delivery. Exactly 200 acknowledges (AuthPI's guide).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    /// The handler is done and the ledger knows.
    Handled,
    /// It is in the inbox, durably.
    Stored,
    /// It is known: handled or given up before, or waiting in the inbox.
    Duplicate,
    /// No handler is registered for this type. Not recorded, so that the event can be handled later.
    Unhandled,
    /// Given up, and kept as a dead letter.
    DeadLetter,
    /// Given up and not kept, as was chosen by name.
    Dropped,
    /// Another worker is on it.
    InFlight { retry_after: Duration },
    /// The handler failed, and another try is worth it.
    Failed { retry_after: Duration },
    /// The handler gave up, and nothing here can keep the event.
    CannotKeep { retry_after: Duration },
    /// Another worker has taken over.
    LeaseLost { retry_after: Duration },
    /// The body was dropped before it was complete, since unverified bodies hold as much memory as
    /// they may.
    Shed { retry_after: Duration },
    /// As much is in flight as may be.
    TooMany { retry_after: Duration },
    /// The receiver is shutting down.
    Draining { retry_after: Duration },
    /// The ledger cannot be reached.
    StoreDown { retry_after: Duration },
    /// It seems to be older than records are kept, and nothing but this machine's clock says so.
    ClockUnsure { retry_after: Duration },
    /// Authentic, but not a readable event, and nothing here can keep it.
    Unreadable,
    /// The store works and refuses what the event contains, even as a dead letter, or keeps none.
    ContentRefused,
    /// Authentic, but signed longer ago than records are kept, and nothing here can keep it.
    Expired,
    /// The sender hung up before the body was complete.
    Interrupted,
    /// Not authentic.
    Unauthorized,
    /// Not a POST.
    NotPost,
    /// The body was not complete in time.
    TooSlow,
    /// The body is over the cap.
    TooLarge,
    /// We have no usable secret: our fault.
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

    /// The text for the peer: the outcome of an accepted delivery, else no more than the
    /// status says.
    fn text(self) -> &'static str {
        match self.status() {
            StatusCode::OK => self.outcome(),
            StatusCode::SERVICE_UNAVAILABLE => "try again later",
            StatusCode::BAD_REQUEST => "not a readable event",
            StatusCode::UNAUTHORIZED => "unauthorized",
            StatusCode::METHOD_NOT_ALLOWED => "deliveries are posted",
            StatusCode::REQUEST_TIMEOUT => "the body took too long",
            StatusCode::PAYLOAD_TOO_LARGE => "the body is too large",
            _ => "not set up",
        }
    }

    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from_static(self.text().as_bytes())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if let Some(wait) = self.retry_after() {
            // Whole seconds, rounded up, and never "at once".
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
