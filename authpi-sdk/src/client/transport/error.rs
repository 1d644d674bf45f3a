//! Why a call failed, and whether the server may have acted.

use std::{error::Error as StdError, fmt, time::Duration};

use http::{HeaderMap, StatusCode};
use url::Url;

use super::{
    etag::ETag,
    response::{ApiErrorBody, Response},
    retry_reason::{RetryReason, RetryStop},
};
use crate::generated::api::types::{ErrorCode, FieldError};

type Cause = Box<dyn StdError + Send + Sync>;

/// Why a call failed.
///
/// It is opaque. Predicates distinguish the cases, so that a new case is not a breaking change.
/// [`Error::may_have_run`] says whether the server may have acted, which decides whether repeating
/// the call is safe. [`Error::attempts`] and [`Error::retry_stop`] say how often the client has
/// tried, and why it stopped. Neither `Debug` nor `Display` contains a header or a body, but both
/// contain AuthPI's own error information (code, description, fields, reference).
pub struct Error(Box<Inner>);

struct Inner {
    operation: Option<&'static str>,
    kind: Kind,
    may_have_run: bool,
    answer: Option<Response>,
    complaint: ApiErrorBody,
    attempts: u32,
    no_more: Option<RetryStop>,
    idempotency_key: Option<Key>,
    secret_lost: bool,
    source: Option<Cause>,
    /// Host and port of the call, if there was no answer.
    peer: Option<String>,
}

/// The idempotency key that a call was sent with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) text: String,
    /// The caller set it.
    pub(crate) own: bool,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The call was not sent: an argument is invalid.
    InvalidArgument(String),
    /// The call was not sent: the account is not known.
    Configuration(String),
    /// The call was not sent: no access token was available.
    Credential(String),
    /// There was no connection, perhaps temporarily.
    Connect { transient: bool },
    /// There was no connection, because of the proxy.
    Proxy(ProxyFault),
    /// No complete answer arrived in time.
    Timeout { connecting: bool },
    /// The connection broke.
    Transport,
    /// AuthPI, or a server on the way to it, refused or failed.
    Refused,
    /// A redirect, which is not followed.
    Redirect,
    /// The status is a success, but the answer is not the expected one; perhaps it was cut off.
    Malformed { why: String, cut_off: bool },
    /// The status is a success, but the body is too large.
    TooLarge,
    /// The change may have been made: the webhook's readable members match it. If so, the secret
    /// that AuthPI created for it is lost with the answer.
    SecretLost,
}

/// What is wrong with a proxy. The HTTP library does not report the proxy's status; only 407 is
/// recognized, by the text of its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyFault {
    /// The proxy cannot be reached, perhaps temporarily.
    Unreachable { transient: bool },
    /// It answered `CONNECT` with an error, or hung up.
    NoTunnel,
    /// It answered `CONNECT` with 407.
    Credentials,
}

impl ProxyFault {
    fn passes(self) -> bool {
        matches!(self, Self::NoTunnel | Self::Unreachable { transient: true })
    }
}

impl fmt::Display for ProxyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable { transient: true } => "could not reach the proxy",
            Self::Unreachable { transient: false } => {
                "could not reach the proxy; check its settings"
            }
            Self::NoTunnel => "the proxy rejected CONNECT or closed the connection",
            Self::Credentials => "the proxy requires credentials (407)",
        })
    }
}

impl Error {
    pub(crate) fn new(kind: Kind, may_have_run: bool) -> Self {
        Self(Box::new(Inner {
            operation: None,
            kind,
            may_have_run,
            answer: None,
            complaint: ApiErrorBody::default(),
            attempts: 0,
            no_more: None,
            idempotency_key: None,
            secret_lost: false,
            source: None,
            peer: None,
        }))
    }

    pub(crate) fn invalid_argument(why: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument(why.into()), false)
    }

    pub(crate) fn configuration(why: impl Into<String>) -> Self {
        Self::new(Kind::Configuration(why.into()), false)
    }

    /// An answer whose status is not a success.
    pub(crate) fn refused(answer: Response) -> Self {
        let kind = if answer.status.is_redirection() {
            Kind::Redirect
        } else {
            Kind::Refused
        };
        Self::new(kind, may_have_run(answer.status)).answered(answer)
    }

    pub(crate) fn malformed(why: impl Into<String>, answer: Response) -> Self {
        Self::new(
            Kind::Malformed {
                why: why.into(),
                cut_off: false,
            },
            true,
        )
        .answered(answer)
    }

    /// A success whose body is too large.
    pub(crate) fn too_large(answer: Response) -> Self {
        Self::new(Kind::TooLarge, true).answered(answer)
    }

    pub(crate) fn is_too_large(&self) -> bool {
        matches!(self.0.kind, Kind::TooLarge)
    }

    pub(crate) fn cut_off(why: impl Into<String>, answer: Response) -> Self {
        Self::new(
            Kind::Malformed {
                why: why.into(),
                cut_off: true,
            },
            true,
        )
        .answered(answer)
    }

    /// Turns a refusal into the error `SecretLost`. An earlier attempt has probably made the
    /// change, and the refusal is its consequence.
    pub(crate) fn secret_is_lost(mut self) -> Self {
        self.0.kind = Kind::SecretLost;
        self.0.may_have_run = true;
        self
    }

    /// Names the server, unless there is an answer. A base URL contains neither user nor query.
    pub(crate) fn towards(mut self, base_url: &str) -> Self {
        if self.0.answer.is_none() {
            let url = Url::parse(base_url).ok();
            self.0.peer = url.and_then(|url| {
                Some(format!(
                    "{}:{}",
                    url.host_str()?,
                    url.port_or_known_default()?
                ))
            });
        }
        self
    }

    pub(crate) fn caused_by(mut self, source: impl Into<Cause>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the answer. If its status is not a success, the status determines whether the server
    /// may have acted.
    pub(crate) fn answered(mut self, answer: Response) -> Self {
        if !answer.status.is_success() {
            self.0.complaint = ApiErrorBody::read(&answer.body);
            self.0.may_have_run = may_have_run(answer.status);
        }
        self.0.answer = Some(answer.shortened());
        self
    }

    pub(crate) fn during(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// For a call that was not sent because another call that it needs failed.
    pub(crate) fn before_the_call(mut self) -> Self {
        self.0.may_have_run = false;
        self
    }

    /// Adds what is known of the whole call: the number of attempts, why there was no further one,
    /// and whether an earlier attempt may have taken effect.
    pub(crate) fn after(
        mut self,
        attempts: u32,
        retry_stop: RetryStop,
        earlier_may_have_run: bool,
    ) -> Self {
        self.0.attempts = attempts;
        self.0.no_more = Some(retry_stop);
        self.0.may_have_run |= earlier_may_have_run;
        self
    }

    pub(crate) fn under(mut self, key: Option<Key>) -> Self {
        // Without a key, the conflict is not with another attempt at this call.
        if key.is_none() && self.is_conflict() {
            self.0.may_have_run = false;
        }
        self.0.idempotency_key = key;
        self
    }

    /// For an operation that creates a secret which only its answer contains.
    pub(crate) fn with_its_secret(mut self) -> Self {
        self.0.secret_lost = self.0.may_have_run;
        self
    }

    /// The retry reason, if this is a transient failure of the transport: no connection, a broken
    /// one, or an incomplete answer. Does not look at the status.
    pub(crate) fn fault(&self) -> Option<RetryReason> {
        match self.0.kind {
            Kind::Connect { transient: true } | Kind::Timeout { connecting: true } => {
                Some(RetryReason::Connect)
            }
            Kind::Proxy(fault) => fault.passes().then_some(RetryReason::Connect),
            Kind::Timeout { connecting: false } => Some(RetryReason::Timeout),
            Kind::Transport => Some(RetryReason::Broken),
            Kind::Malformed { cut_off: true, .. } => Some(RetryReason::CutOff),
            _ => None,
        }
    }

    /// The outcome of the call, for metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self.0.kind {
            Kind::InvalidArgument(_) => "invalid_argument",
            Kind::Configuration(_) => "configuration",
            Kind::Credential(_) => "no_credential",
            Kind::Connect { .. } | Kind::Proxy(_) | Kind::Timeout { connecting: true } => {
                "no_connection"
            }
            Kind::Timeout { connecting: false } => "timeout",
            Kind::Transport => "broken",
            Kind::Refused => "refused",
            Kind::Redirect => "redirected",
            Kind::Malformed { .. } | Kind::TooLarge => "malformed",
            Kind::SecretLost => "secret_lost",
        }
    }

    /// Whether the server may have acted on the call, in any attempt.
    ///
    /// - `false`: the server has not acted, and repeating the call is safe. The call was not sent
    ///   (for example an invalid argument, or no connection), or it was refused with a 4xx other
    ///   than those below.
    /// - `true`: the server may have acted. An attempt was sent and no complete answer arrived, the
    ///   answer is not the expected one, or its status is a redirect, 408, 409 to a `POST` (the
    ///   same call may be in progress with the same idempotency key) or a 5xx.
    ///
    /// If it is not known whether anything was sent, the result is `true`, for example if the
    /// attempt's timeout passed while the client was connecting.
    pub fn may_have_run(&self) -> bool {
        self.0.may_have_run
    }

    /// The number of attempts, including those whose connection failed. It is 0 if the call failed
    /// before the first attempt, for example because an argument is invalid or no token is
    /// available. If the account could not be looked up ([`operation`](Self::operation) is
    /// `me.get`), these are the attempts of the lookup.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Why the client did not retry. `None` if there was nothing to decide, for example because an
    /// argument is invalid.
    pub fn retry_stop(&self) -> Option<RetryStop> {
        self.0.no_more
    }

    /// The idempotency key of the call, if it was a POST.
    ///
    /// If the server may have acted, repeat the same call with this key
    /// ([`Call::idempotency_key`](crate::client::transport::Call::idempotency_key)) within 24
    /// hours. AuthPI then performs it only if it was not performed before, and otherwise returns
    /// the lost answer.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.0.idempotency_key.as_ref().map(|key| key.text.as_str())
    }

    /// Whether this call has, or may have, created a secret that is now lost: it changed a
    /// webhook's authentication, and the answer did not arrive. To create another secret, repeat
    /// the change with the webhook's current ETag.
    ///
    /// Always `false` for `create`, since its answer can be fetched again: see
    /// [`Error::idempotency_key`].
    pub fn is_secret_lost(&self) -> bool {
        self.0.secret_lost
    }

    /// The status of the answer, if any.
    pub fn status(&self) -> Option<StatusCode> {
        self.0.answer.as_ref().map(|answer| answer.status)
    }

    /// Whether AuthPI itself answered that the resource does not exist. A 404 of a gateway, or
    /// because of a wrong base URL, does not count.
    pub(crate) fn says_there_is_none(&self) -> bool {
        self.is_not_found() && self.code() == Some(&ErrorCode::NotFound)
    }

    fn has_status(&self, status: StatusCode) -> bool {
        self.status() == Some(status)
    }

    /// The id of the failed operation, as in AuthPI's description (`webhooks.create`).
    ///
    /// It is `me.get` if the call had to look up the account first and that failed.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// No complete answer arrived before the call's deadline, or within the time limit of its last
    /// attempt.
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, Kind::Timeout { .. })
    }

    /// The last attempt got no connection (unknown name, refused, proxy, TLS, or the time limit for
    /// connecting passed), so it sent nothing. An earlier attempt may have been sent: see
    /// [`may_have_run`](Self::may_have_run).
    pub fn is_connect(&self) -> bool {
        matches!(
            self.0.kind,
            Kind::Connect { .. } | Kind::Proxy(_) | Kind::Timeout { connecting: true }
        )
    }

    /// The call was not sent because an argument is invalid, for example an id.
    pub fn is_invalid_argument(&self) -> bool {
        matches!(self.0.kind, Kind::InvalidArgument(_))
    }

    /// The call was not sent because the credential does not belong to exactly one account; see
    /// [`ClientBuilder::account`].
    ///
    /// [`ClientBuilder::account`]: crate::client::transport::ClientBuilder::account
    pub fn is_configuration(&self) -> bool {
        matches!(self.0.kind, Kind::Configuration(_))
    }

    /// The call was not sent because no access token was available:
    /// [`TokenSource`](crate::client::transport::TokenSource) failed, was too slow, or returned an
    /// invalid token. The source's error is this error's [`source`](StdError::source).
    pub fn is_credential(&self) -> bool {
        matches!(self.0.kind, Kind::Credential(_))
    }

    /// The status is a success, but the answer is not the expected one: not JSON, another shape,
    /// empty, too large, or cut off.
    pub fn is_malformed_response(&self) -> bool {
        matches!(self.0.kind, Kind::Malformed { .. } | Kind::TooLarge)
    }

    /// 422: the idempotency key was used for another call within the last 24 hours.
    ///
    /// AuthPI documents it as `invalid_request`, without saying how it differs from an invalid
    /// body. Assumed: its `fields` name the key, or there are none. Always `false` for a key that
    /// the client created, since the client never reuses a key.
    pub fn is_idempotency_key_reused(&self) -> bool {
        let names_it = |field: &FieldError| field.field.eq_ignore_ascii_case("idempotency-key");
        self.has_status(StatusCode::UNPROCESSABLE_ENTITY)
            && self.0.idempotency_key.as_ref().is_some_and(|key| key.own)
            && (self.fields().is_empty() || self.fields().iter().any(names_it))
    }

    /// The answer is a redirect. It is not followed, so that the credential is not sent elsewhere.
    /// The base URL is wrong.
    pub fn is_redirect(&self) -> bool {
        self.0.kind == Kind::Redirect
    }

    /// 400 or 422: the request is invalid; [`Error::fields`] may say where.
    pub fn is_validation(&self) -> bool {
        self.has_status(StatusCode::BAD_REQUEST)
            || self.has_status(StatusCode::UNPROCESSABLE_ENTITY)
    }

    /// 401: the credential was not accepted.
    pub fn is_unauthorized(&self) -> bool {
        self.has_status(StatusCode::UNAUTHORIZED)
    }

    /// 403: the credential may not do this.
    pub fn is_forbidden(&self) -> bool {
        self.has_status(StatusCode::FORBIDDEN)
    }

    /// 404: the resource does not exist, or this credential has no access to it.
    pub fn is_not_found(&self) -> bool {
        self.has_status(StatusCode::NOT_FOUND)
    }

    /// 409: the call conflicts with another call or with the state of the resource. For example,
    /// another call with the same idempotency key is in progress.
    pub fn is_conflict(&self) -> bool {
        self.has_status(StatusCode::CONFLICT)
    }

    /// 412: the resource's state differs from `If-Match`; [`Error::current_etag`] may have the
    /// current one. `false` if the call itself may have produced that state: see
    /// [`Error::is_secret_lost`].
    pub fn is_precondition_failed(&self) -> bool {
        self.has_status(StatusCode::PRECONDITION_FAILED) && self.0.kind != Kind::SecretLost
    }

    /// 429: too many calls; [`Error::retry_after`] may say how long to wait.
    pub fn is_rate_limited(&self) -> bool {
        self.has_status(StatusCode::TOO_MANY_REQUESTS)
    }

    /// 5xx: AuthPI, or a gateway before it, failed.
    pub fn is_server_error(&self) -> bool {
        self.status().is_some_and(|status| status.is_server_error())
    }

    /// How long AuthPI asks to wait before the next attempt: from the body, otherwise from the
    /// `Retry-After` header (seconds or a date). A fraction of a second is rounded up. A number
    /// that is too large becomes [`Duration::MAX`].
    pub fn retry_after(&self) -> Option<Duration> {
        let answer = self.0.answer.as_ref()?;
        self.0
            .complaint
            .retry_after
            .or_else(|| answer.retry_after_header())
    }

    /// AuthPI's error code, truncated to 300 characters.
    pub fn code(&self) -> Option<&ErrorCode> {
        self.0.complaint.code.as_ref()
    }

    /// AuthPI's description of the error, truncated to 4096 characters.
    pub fn description(&self) -> Option<&str> {
        self.0.complaint.description.as_deref()
    }

    /// The reference to give to AuthPI's support, truncated to 300 characters.
    pub fn reference(&self) -> Option<&str> {
        self.0.complaint.reference.as_deref()
    }

    /// Whether the same call may succeed later, according to AuthPI. `None` if the answer does not
    /// say whether it may.
    pub fn retryable(&self) -> Option<bool> {
        self.0.complaint.retryable
    }

    /// The invalid members of the request, at most the first 100. Their texts are truncated to 4096
    /// characters.
    pub fn fields(&self) -> &[FieldError] {
        &self.0.complaint.fields
    }

    /// The resource's current ETag, from the body of a 412.
    pub fn current_etag(&self) -> Option<&ETag> {
        self.0.complaint.current_etag.as_ref()
    }

    /// The answer's headers, if any. Do not log them; they may contain secrets.
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.0.answer.as_ref().map(|answer| &answer.headers)
    }

    /// The first 4096 characters of the answer's body, if it is text. **It may contain secrets**,
    /// for example in a malformed answer to a create call.
    pub fn body(&self) -> Option<&str> {
        self.0.answer.as_ref()?.text()
    }
}

/// Whether the server may have acted if it answered with this status, which is not a success.
fn may_have_run(status: StatusCode) -> bool {
    !status.is_client_error()
        || status == StatusCode::REQUEST_TIMEOUT
        || status == StatusCode::CONFLICT
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            operation,
            kind,
            complaint,
            attempts,
            no_more,
            peer,
            ..
        } = &*self.0;
        if let Some(operation) = operation {
            write!(f, "{operation}: ")?;
        }
        let (to, from) = match peer {
            Some(peer) => (format!(" to {peer}"), format!(" from {peer}")),
            None => Default::default(),
        };
        match kind {
            Kind::InvalidArgument(why) | Kind::Configuration(why) | Kind::Credential(why) => {
                f.write_str(why)?;
            }
            Kind::Connect { transient: true } => write!(f, "could not connect{to}")?,
            Kind::Connect { transient: false } => {
                write!(f, "could not connect{to}; check the TLS configuration")?;
            }
            Kind::Proxy(fault) => write!(f, "could not connect{to}: {fault}")?,
            Kind::Timeout { connecting: true } => write!(f, "could not connect{to} in time")?,
            Kind::Timeout { connecting: false } => write!(f, "no complete response{from} in time")?,
            Kind::Transport => write!(f, "the connection{to} broke")?,
            Kind::Refused => f.write_str("refused")?,
            Kind::Redirect => {
                f.write_str("redirected; redirects are not followed: check the base URL")?;
            }
            Kind::Malformed { why, .. } => write!(f, "malformed response: {why}")?,
            Kind::TooLarge => f.write_str("malformed response: the body exceeds 8 MiB")?,
            Kind::SecretLost => {
                f.write_str("the change may have been made; then its new secret is lost")?;
            }
        }
        if let Some(status) = self.status() {
            write!(f, " [{}", status.as_u16())?;
            if let Some(code) = &complaint.code {
                write!(f, " {}", OneLine(code.as_str()))?;
            }
            f.write_str("]")?;
        }
        if let Some(description) = &complaint.description {
            write!(f, " {}", OneLine(description))?;
        }
        for FieldError {
            field,
            code,
            message,
        } in complaint.fields.iter().take(SHOWN_FIELDS)
        {
            write!(
                f,
                "; {}: {} {}",
                OneLine(field),
                OneLine(code),
                OneLine(message)
            )?;
        }
        if let Some(more @ 1..) =
            (complaint.fields.len() + complaint.more_fields).checked_sub(SHOWN_FIELDS)
        {
            write!(f, "; and {more} more fields")?;
        }
        if let Some(reference) = &complaint.reference {
            write!(f, " (reference {})", OneLine(reference))?;
        }
        if self.is_idempotency_key_reused() {
            f.write_str("; the idempotency key may have been used for another call")?;
        }
        if self.may_have_run() {
            f.write_str("; the server may have acted")?;
            if self.is_secret_lost() && *kind != Kind::SecretLost {
                f.write_str("; then its new secret is lost")?;
            }
        }
        match no_more {
            // A single attempt that could not have been retried needs no explanation.
            None => {}
            Some(RetryStop::Permanent | RetryStop::Attempts) if *attempts < 2 => {}
            Some(why) => write!(f, "; attempt {attempts}, {why}")?,
        }
        Ok(())
    }
}

/// The maximum number of invalid members in a message.
const SHOWN_FIELDS: usize = 10;

/// Text of the server in a one-line message: without control characters, and of limited length.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX_CHARS: usize = 300;
        for c in self.0.chars().take(MAX_CHARS) {
            fmt::Write::write_char(f, if c.is_control() { ' ' } else { c })?;
        }
        if self.0.chars().nth(MAX_CHARS).is_some() {
            f.write_str("…")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            operation,
            kind,
            may_have_run,
            answer,
            complaint,
            attempts,
            no_more,
            secret_lost,
            source,
            peer,
            ..
        } = &*self.0;
        let mut debug = f.debug_struct("Error");
        debug
            .field("operation", operation)
            .field("kind", kind)
            .field("may_have_run", may_have_run);
        debug
            .field("peer", peer)
            .field("attempts", attempts)
            .field("retry_stop", no_more)
            .field("secret_lost", secret_lost);
        if let Some(answer) = answer {
            debug
                .field("answer", answer)
                .field("complaint", &Shown(complaint));
        }
        debug.field("source", source).finish()
    }
}

/// An error body in `Debug`. It is truncated as in the message.
struct Shown<'a>(&'a ApiErrorBody);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ApiErrorBody {
            code,
            description,
            retryable,
            reference,
            retry_after,
            fields,
            more_fields,
            current_etag,
        } = self.0;
        let short = |text: Option<&str>| text.map(|text| OneLine(text).to_string());
        let shown = fields.iter().take(SHOWN_FIELDS);
        let shown: Vec<_> = shown
            .map(
                |FieldError {
                     field,
                     code,
                     message,
                 }| [field, code, message].map(|text| OneLine(text).to_string()),
            )
            .collect();
        f.debug_struct("ApiErrorBody")
            .field("code", &short(code.as_ref().map(ErrorCode::as_str)))
            .field("description", &short(description.as_deref()))
            .field("retryable", retryable)
            .field("reference", &short(reference.as_deref()))
            .field("retry_after", retry_after)
            .field("fields", &shown)
            .field("more_fields", &(fields.len() - shown.len() + more_fields))
            .field(
                "current_etag",
                &short(current_etag.as_ref().map(ETag::as_str)),
            )
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &'static str) -> Error {
        let status = StatusCode::from_u16(status).unwrap();
        Error::refused(Response {
            status,
            body: body.into(),
            ..Response::default()
        })
        .during("webhooks.create")
    }

    #[test]
    fn each_status_says_whether_the_server_may_have_acted() {
        for status in [400, 401, 402, 403, 404, 412, 415, 422, 429] {
            assert!(!refused(status, "").may_have_run(), "{status}");
        }
        for status in [302, 307, 408, 409, 500, 502, 503, 504] {
            assert!(refused(status, "").may_have_run(), "{status}");
        }
    }

    #[test]
    fn the_message_says_what_authpi_says_in_one_line() {
        let error = refused(
            422,
            r#"{"error":"invalid_request","error_description":"bad\r\nrequest","fields":[{"field":"url","code":"invalid","message":"no address"}],"reference":"req_1"}"#,
        );
        assert_eq!(
            error.to_string(),
            "webhooks.create: refused [422 invalid_request] bad  request; url: invalid no address (reference req_1)"
        );
        assert_eq!(
            refused(502, "<html>").to_string(),
            "webhooks.create: refused [502]; the server may have acted"
        );
    }

    #[test]
    fn a_refusal_of_any_length_has_a_short_message() {
        let long = "x".repeat(100_000);
        let field = format!(r#"{{"field":"{long}","code":"{long}","message":"{long}"}}"#);
        let body = format!(
            r#"{{"error":"{long}","error_description":"{long}","reference":"{long}","fields":[{}]}}"#,
            vec![r#"{"field":"f","code":"c","message":"m"}"#; 160_000].join(",") + "," + &field
        );
        let answer = |body: &str| Response {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            body: body.to_owned().into(),
            ..Response::default()
        };
        let error = Error::refused(answer(&body));
        let shown = error.to_string();
        assert!(
            shown.len() < 2_000
                && shown.contains("; f: c m")
                && shown.contains("and 159991 more fields"),
            "{shown}"
        );
        let longest = vec![field.as_str(); 50].join(",");
        let longest = Error::refused(answer(&format!(
            r#"{{"error":"{long}","fields":[{longest}]}}"#
        )));
        assert!(
            longest.to_string().len() < 15_000 && format!("{longest:?}").len() < 15_000,
            "{longest:?}"
        );
        assert!(format!("{error:?}").len() < 3_000, "{error:?}");
    }

    #[test]
    fn a_body_is_in_neither_debug_nor_display() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "set-cookie",
            http::HeaderValue::from_static("session=very_secret"),
        );
        let body = r#"{"data":{"signature_secret_plain":"very_secret"}"#.into();
        let error = Error::malformed(
            "not JSON",
            Response {
                status: StatusCode::CREATED,
                headers,
                body,
            },
        );
        assert!(error.body().unwrap().contains("very_secret"));
        let shown = format!("{error} {error:?} {error:#?}");
        assert!(!shown.contains("very_secret"), "{shown}");
    }

    #[test]
    fn an_error_can_cross_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
    }
}
