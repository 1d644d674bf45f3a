//! Errors, in AuthPI's error envelope.

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::{answer::Answer, assumptions, ids};

/// A response that is not 2xx.
#[derive(Debug)]
pub(crate) struct ApiError(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    error: &'static str,
    description: String,
    fields: Vec<Field>,
    retry_after: Option<u64>,
    current_etag: Option<String>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// One mistake in a request: its location, a code for programs, and a text for people.
#[expect(clippy::struct_field_names, reason = "AuthPI's names")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) field: String,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Field {
    pub(crate) fn new(
        field: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            code,
            message: message.into(),
        }
    }
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        error: &'static str,
        description: impl Into<String>,
    ) -> Self {
        Self(Box::new(Parts {
            status,
            error,
            description: description.into(),
            fields: Vec::new(),
            retry_after: None,
            current_etag: None,
            header: None,
        }))
    }

    fn with_fields(mut self, fields: Vec<Field>) -> Self {
        self.0.fields = fields;
        self
    }

    fn with_retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }

    fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// The request cannot be read.
    pub(crate) fn malformed(description: impl Into<String>, fields: Vec<Field>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", description).with_fields(fields)
    }

    /// The request can be read, but violates the description.
    pub(crate) fn invalid(fields: Vec<Field>) -> Self {
        let description = match fields.as_slice() {
            [only] => format!("{}: {}", only.field, only.message),
            several => format!("{} members of the request are not valid", several.len()),
        };
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_request",
            description,
        )
        .with_fields(fields)
    }

    pub(crate) fn unauthenticated(description: &str) -> Self {
        let schemes = HeaderValue::from_static("Basic realm=\"AuthPI\", Bearer");
        Self::new(
            StatusCode::UNAUTHORIZED,
            assumptions::UNAUTHENTICATED,
            description,
        )
        .with_header(header::WWW_AUTHENTICATE, schemes)
    }

    pub(crate) fn forbidden(description: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, assumptions::FORBIDDEN, description)
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("{what} not found"),
        )
    }

    pub(crate) fn method_not_allowed(allowed: &str) -> Self {
        let description = format!("this path takes {allowed}");
        let problem = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request",
            description,
        );
        match HeaderValue::from_str(allowed) {
            Ok(allowed) => problem.with_header(header::ALLOW, allowed),
            Err(_) => problem,
        }
    }

    pub(crate) fn stale(current_etag: String) -> Self {
        let description = "the resource has changed since it was read";
        let mut problem = Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            description,
        );
        problem.0.current_etag = Some(current_etag);
        problem
    }

    pub(crate) fn conflict(description: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", description)
            .with_retry_after(assumptions::CONFLICT_RETRY_AFTER)
    }

    pub(crate) fn stopping() -> Self {
        Self::unavailable("the emulator is shutting down")
    }

    /// It cannot be done now, but later.
    pub(crate) fn unavailable(description: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", description)
            .with_retry_after(assumptions::CONFLICT_RETRY_AFTER)
    }

    pub(crate) fn internal(description: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            description,
        )
    }

    #[cfg(feature = "inspector")]
    pub(crate) fn is_not_found(&self) -> bool {
        self.0.status == StatusCode::NOT_FOUND
    }

    #[cfg(feature = "inspector")]
    pub(crate) fn fields(&self) -> &[Field] {
        &self.0.fields
    }

    pub(crate) fn description(&self) -> &str {
        &self.0.description
    }

    /// AuthPI derives `retryable` from the status. A conflict is retryable, since the other call
    /// will end.
    fn retryable(&self) -> bool {
        matches!(self.0.status.as_u16(), 408 | 409 | 429 | 502 | 503 | 504)
    }
}

impl From<ApiError> for Answer {
    fn from(problem: ApiError) -> Self {
        let retryable = problem.retryable();
        let problem = *problem.0;
        let mut body = json!({
            "error": problem.error,
            "error_description": problem.description,
            "retryable": retryable,
            "reference": ids::hex::<8>("ref_"),
        });
        if !problem.fields.is_empty() {
            body["fields"] = problem
                .fields
                .into_iter()
                .map(|field| json!({"field": field.field, "code": field.code, "message": field.message}))
                .collect();
        }
        if let Some(seconds) = problem.retry_after {
            body["retry_after"] = Value::from(seconds);
        }
        let mut answer = Answer::empty(problem.status);
        if let Some(etag) = problem.current_etag {
            body["current_etag"] = Value::from(etag.clone());
            answer = answer.with_etag(&etag);
        }
        if let Some(seconds) = problem.retry_after {
            answer = answer.with_header(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some((name, value)) = problem.header {
            answer = answer.with_header(name, value);
        }
        answer.with_body(body)
    }
}
