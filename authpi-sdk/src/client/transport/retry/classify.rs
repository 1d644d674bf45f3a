//! Which failures are transient.

use std::fmt;

use http::StatusCode;

use super::RetryReason;
use crate::{client::transport::error::Error, generated::api::types::ErrorCode};

/// Distinguishes transient failures from permanent ones.
pub trait RetryClassifier: fmt::Debug + Send + Sync + 'static {
    /// The reason why a retry may succeed; `None` if it cannot.
    ///
    /// Called once for each failed attempt. A reason alone does not cause a retry. The call must
    /// also be safe to repeat, unless the server has certainly not acted.
    fn passes(&self, failed: &FailedAttempt<'_>) -> Option<RetryReason>;
}

/// A failed attempt at a call.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FailedAttempt<'a> {
    /// The operation's id in AuthPI's description, such as `webhooks.create`.
    pub operation: &'static str,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Whether the call has an idempotency key, which all its attempts share.
    pub keyed: bool,
    /// What went wrong.
    pub error: &'a Error,
}

/// The default classifier. These failures are transient: no connection, a broken connection, no
/// answer in time, an answer that was cut off, 408, 429, 502, 503, 504, and 409 if the same call is
/// in progress with the same idempotency key.
///
/// No other 4xx is transient, nor is a connection that fails because of the configuration, such as
/// a server without TLS or with an untrusted certificate. For a 5xx, AuthPI's `retryable` in the
/// body takes precedence: a 500 is transient if the body says so, and a 503 is not if the body says
/// that it is not retryable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefaultClassifier;

impl RetryClassifier for DefaultClassifier {
    fn passes(&self, failed: &FailedAttempt<'_>) -> Option<RetryReason> {
        let error = failed.error;
        match error.status() {
            // For 429 and 408, only the status counts, whatever the body says: it may be the answer
            // of a gateway.
            Some(StatusCode::TOO_MANY_REQUESTS) => Some(RetryReason::RateLimited),
            Some(StatusCode::REQUEST_TIMEOUT) => Some(RetryReason::Unavailable),
            Some(StatusCode::CONFLICT) => {
                (failed.keyed && in_flight(error)).then_some(RetryReason::InFlight)
            }
            Some(status) if status.is_server_error() => {
                let usually = matches!(
                    status,
                    StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                );
                error
                    .retryable()
                    .unwrap_or(usually)
                    .then_some(RetryReason::Unavailable)
            }
            Some(status) if !status.is_success() => None,
            _ => error.fault(),
        }
    }
}

/// AuthPI documents 409 `conflict` with `Retry-After` for a call whose idempotency key is in use. A
/// 409 without `Retry-After` is another conflict, which waiting does not resolve.
fn in_flight(error: &Error) -> bool {
    error.retry_after().is_some() && error.code().is_none_or(|code| *code == ErrorCode::Conflict)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::*;
    use crate::client::transport::{error::Kind, response::Response};

    fn passes(keyed: bool, error: &Error) -> Option<RetryReason> {
        DefaultClassifier.passes(&FailedAttempt {
            operation: "webhooks.create",
            attempt: 1,
            keyed,
            error,
        })
    }

    fn refused(status: u16, retry_after: Option<&'static str>, body: &'static str) -> Error {
        let mut headers = HeaderMap::new();
        if let Some(after) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(after));
        }
        Error::refused(Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: body.into(),
        })
    }

    #[test]
    fn a_status_that_passes_is_known_whatever_the_body_says() {
        for body in ["", "<html>", r#"{"error":"x","retryable":false}"#] {
            assert_eq!(
                passes(false, &refused(429, None, body)),
                Some(RetryReason::RateLimited),
                "{body}"
            );
            assert_eq!(
                passes(false, &refused(408, None, body)),
                Some(RetryReason::Unavailable),
                "{body}"
            );
        }
        for status in [502, 503, 504] {
            assert_eq!(
                passes(false, &refused(status, None, "<html>")),
                Some(RetryReason::Unavailable),
                "{status}"
            );
        }
    }

    #[test]
    fn no_other_refusal_passes_and_no_redirect() {
        for status in [
            301, 302, 307, 400, 401, 402, 403, 404, 405, 409, 410, 412, 413, 415, 422, 425, 451,
            500, 501,
        ] {
            for body in ["", r#"{"error":"invalid_request","retryable":false}"#] {
                assert_eq!(
                    passes(true, &refused(status, None, body)),
                    None,
                    "{status} {body}"
                );
            }
        }
        // A 422 is not retried, even if its body says that it is retryable.
        assert_eq!(
            passes(true, &refused(422, None, r#"{"retryable":true}"#)),
            None
        );
    }

    #[test]
    fn of_a_5xx_authpis_own_word_goes_first() {
        assert_eq!(
            passes(true, &refused(500, None, r#"{"retryable":true}"#)),
            Some(RetryReason::Unavailable)
        );
        assert_eq!(
            passes(true, &refused(503, None, r#"{"retryable":false}"#)),
            None
        );
    }

    #[test]
    fn a_conflict_passes_only_where_it_is_the_same_call_under_way() {
        let conflict = r#"{"error":"conflict","error_description":"in flight"}"#;
        assert_eq!(
            passes(true, &refused(409, Some("1"), conflict)),
            Some(RetryReason::InFlight)
        );
        assert_eq!(
            passes(true, &refused(409, Some("1"), "")),
            Some(RetryReason::InFlight)
        );
        assert_eq!(
            passes(
                true,
                &refused(409, None, r#"{"error":"conflict","retry_after":2}"#)
            ),
            Some(RetryReason::InFlight)
        );
        assert_eq!(
            passes(true, &refused(409, None, conflict)),
            None,
            "it names no wait"
        );
        assert_eq!(
            passes(true, &refused(409, Some("1"), r#"{"error":"other"}"#)),
            None,
            "it has another code"
        );
        assert_eq!(
            passes(false, &refused(409, Some("1"), conflict)),
            None,
            "it carried no key"
        );
    }

    #[test]
    fn faults_of_the_transport_pass_and_mistakes_of_configuration_do_not() {
        for (kind, reason) in [
            (
                Kind::Connect { transient: true },
                Some(RetryReason::Connect),
            ),
            (Kind::Connect { transient: false }, None),
            (
                Kind::Timeout { connecting: true },
                Some(RetryReason::Connect),
            ),
            (
                Kind::Timeout { connecting: false },
                Some(RetryReason::Timeout),
            ),
            (Kind::Transport, Some(RetryReason::Broken)),
            (Kind::InvalidArgument(String::new()), None),
            (Kind::Configuration(String::new()), None),
            (Kind::Credential(String::new()), None),
        ] {
            assert_eq!(
                passes(true, &Error::new(kind.clone(), false)),
                reason,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn a_refusal_with_a_stalled_body_is_classified_by_status() {
        let stalled = |status| {
            let answer = Response {
                status: StatusCode::from_u16(status).unwrap(),
                ..Response::default()
            };
            Error::new(Kind::Timeout { connecting: false }, true).answered(answer)
        };
        assert_eq!(passes(true, &stalled(429)), Some(RetryReason::RateLimited));
        assert_eq!(passes(true, &stalled(404)), None);
        assert_eq!(passes(true, &stalled(201)), Some(RetryReason::Timeout));
    }
}
