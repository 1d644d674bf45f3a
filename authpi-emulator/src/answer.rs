//! The result of an operation, before it becomes an HTTP response.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use serde_json::Value;

/// The body of a response: of the API, or of the inspector.
pub(crate) type ServerBody = UnsyncBoxBody<Bytes, Infallible>;

/// Status, headers and body.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// As JSON, to check it against the description; `bytes` is sent.
    body: Option<Value>,
    bytes: Bytes,
}

impl Answer {
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: None,
            bytes: Bytes::new(),
        }
    }

    pub(crate) fn json(status: StatusCode, body: Value) -> Self {
        Self::empty(status).with_body(body)
    }

    /// A single resource, in its envelope.
    pub(crate) fn resource(status: StatusCode, resource: Value) -> Self {
        // Not json!, which would copy the resource.
        Self::json(
            status,
            Value::Object([("data".to_owned(), resource)].into_iter().collect()),
        )
    }

    /// A stored response.
    pub(crate) fn replay(status: StatusCode, headers: &HeaderMap, bytes: Bytes) -> Self {
        let replayed = Self {
            status,
            headers: headers.clone(),
            body: None,
            bytes,
        };
        replayed.with_header(
            HeaderName::from_static("idempotent-replayed"),
            HeaderValue::from_static("true"),
        )
    }

    pub(crate) fn with_body(self, body: Value) -> Self {
        let bytes = Bytes::from(body.to_string());
        let headers = self.headers;
        let answer = Self {
            status: self.status,
            headers,
            body: Some(body),
            bytes,
        };
        answer.with_header(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        )
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn with_etag(self, etag: &str) -> Self {
        match HeaderValue::from_str(etag) {
            Ok(etag) => self.with_header(header::ETAG, etag),
            Err(_) => self,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The body before it is encoded, to check it against the description.
    pub(crate) fn body(&self) -> Option<&Value> {
        self.body.as_ref()
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn into_response(self) -> Response<ServerBody> {
        let mut response = Response::new(Full::new(self.bytes).boxed_unsync());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
