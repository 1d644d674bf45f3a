//! What the generated client carries from call to call: the credential, and a place where one exchange is written down.
//!
//! The generated code gives back a value or an error without status, headers and body. So each call has an [`Exchange`] of
//! its own, in which the hook that sends the request writes down how far it came and what was answered.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use progenitor_client::{ClientHooks, Error, OperationInfo};
use reqwest::{ResponseBuilderExt as _, Url};

use super::answer::Answer;
use crate::generated::api;

/// The longest answer that is read, in bytes. A page of 100 events is far below it.
pub(super) const LONGEST_ANSWER: usize = 8 * 1024 * 1024;

/// What one call is sent with, and where its exchange is written down.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(super) authorization: HeaderValue,
    /// Headers of the caller's own.
    pub(super) headers: HeaderMap,
    pub(super) exchange: Arc<Exchange>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// How far a request came.
#[derive(Default)]
pub(super) struct Exchange(Mutex<Progress>);

#[derive(Default)]
pub(super) struct Progress {
    /// The request was given to the transport.
    pub(super) sent: bool,
    /// Status and headers came; and the body, unless it broke off.
    pub(super) answer: Option<Answer>,
    /// The body is longer than we read.
    pub(super) too_large: bool,
}

impl Exchange {
    /// Takes what was written down; once, when the exchange is over.
    pub(super) fn take(&self) -> Progress {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The body of the answer, as far as it came.
    pub(super) fn body(&self) -> Bytes {
        let progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        progress.answer.as_ref().map(|answer| answer.body.clone()).unwrap_or_default()
    }

    fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ClientHooks<Connection> for api::Client {
    async fn pre<E>(&self, request: &mut reqwest::Request, _: &OperationInfo) -> Result<(), Error<E>> {
        let headers = request.headers_mut();
        headers.extend(self.inner.headers.clone());
        headers.insert(header::AUTHORIZATION, self.inner.authorization.clone());
        Ok(())
    }

    /// Sends the request and reads the whole answer, at most [`LONGEST_ANSWER`] bytes of it.
    async fn exec(&self, request: reqwest::Request, _: &OperationInfo) -> reqwest::Result<reqwest::Response> {
        let exchange = &*self.inner.exchange;
        exchange.note(|progress| progress.sent = true);
        let url = request.url().clone();
        let mut response = self.client.execute(request).await?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        exchange.note(|progress| progress.answer = Some(Answer { status, headers, body: Bytes::new() }));

        let (body, end) = read(&mut response).await;
        exchange.note(|progress| {
            progress.too_large = matches!(end, End::TooLarge);
            if let Some(answer) = &mut progress.answer {
                answer.body = body.clone();
            }
        });
        let body = match end {
            // Of a refusal the status says enough, even where its body broke off.
            End::Broken(error) if status.is_success() => return Err(error),
            End::TooLarge => Bytes::new(),
            _ => body,
        };
        Ok(rebuilt(url, status, body))
    }
}

/// How the reading of a body ended.
enum End {
    Whole,
    TooLarge,
    Broken(reqwest::Error),
}

async fn read(response: &mut reqwest::Response) -> (Bytes, End) {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) => return (body.freeze(), End::Whole),
            Ok(Some(chunk)) if body.len() + chunk.len() > LONGEST_ANSWER => return (body.freeze(), End::TooLarge),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => return (body.freeze(), End::Broken(error)),
        }
    }
}

/// Without the address reqwest would make one up, and parse it.
fn rebuilt(url: Url, status: StatusCode, body: Bytes) -> reqwest::Response {
    let response = http::Response::builder().url(url).body(body.clone());
    let mut response = response.unwrap_or_else(|_| http::Response::new(body));
    *response.status_mut() = status;
    response.into()
}
