//! The result of an operation, before it becomes an HTTP response.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, SizeHint};
use serde_json::Value;

/// The body of a response: of the API, or of the inspector. An error of the body closes the connection: a fault.
pub(crate) type ServerBody = UnsyncBoxBody<Bytes, io::Error>;

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

    /// A text that is not an answer of the API, such as a proxy's.
    pub(crate) fn text(status: StatusCode, text: &'static str) -> Self {
        let answer = Self {
            bytes: Bytes::from_static(text.as_bytes()),
            ..Self::empty(status)
        };
        answer.with_header(header::CONTENT_TYPE, HeaderValue::from_static("text/html"))
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
        let body = Full::new(self.bytes).map_err(|never| match never {});
        Self::response(self.status, self.headers, body.boxed_unsync())
    }

    /// The response whose body ends after its first half, with an error.
    pub(crate) fn into_cut_response(self) -> Response<ServerBody> {
        let body = Cut {
            half: Some(self.bytes.slice(..self.bytes.len() / 2)),
            length: self.bytes.len() as u64,
        };
        Self::response(self.status, self.headers, body.boxed_unsync())
    }

    fn response(status: StatusCode, headers: HeaderMap, body: ServerBody) -> Response<ServerBody> {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// Half of a body that announces its whole length.
struct Cut {
    half: Option<Bytes>,
    length: u64,
}

impl Body for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(match self.half.take() {
            Some(half) => Ok(Frame::data(half)),
            None => Err(io::Error::other("the fault plan cuts the response")),
        }))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
