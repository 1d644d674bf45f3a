//! One request to a receiver, over plain HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use super::Hosts;
use crate::assumptions;

/// The number of bytes of a receiver's response that are read, to keep the connection usable.
const MAX_ANSWER: usize = 64 * 1024;

/// A request and its target.
pub(crate) struct Outgoing {
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Sends deliveries over pooled connections.
pub(crate) struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
    hosts: Hosts,
}

impl Sender {
    pub(crate) fn new(timeout: Duration, hosts: Hosts) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            timeout,
            hosts,
        }
    }

    /// Whether this URL can be called, or the reason that it cannot.
    pub(crate) fn check(&self, url: &str) -> Result<(), String> {
        self.hosts.check(url)
    }

    /// The status of the response; redirects are not followed. If there was no response, the reason
    /// for `last_error`.
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<u16, String> {
        self.check(&outgoing.url)?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&outgoing.url)
            .header(header::CONTENT_TYPE, assumptions::DELIVERY_CONTENT_TYPE)
            .header(
                header::USER_AGENT,
                concat!("authpi-emulator/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::new(outgoing.body))
            .map_err(|error| format!("cannot call the webhook's URL: {error}"))?;
        request.headers_mut().extend(outgoing.headers);
        let exchange = async {
            let answer = self
                .client
                .request(request)
                .await
                .map_err(|error| reported(&error))?;
            let status = answer.status().as_u16();
            // The body is ignored, but a delivery is acknowledged only by a complete response.
            match Limited::new(answer.into_body(), MAX_ANSWER).collect().await {
                Ok(_) => Ok(status),
                Err(error) if error.is::<http_body_util::LengthLimitError>() => Ok(status),
                Err(error) => Err(format!("the receiver's response was cut off: {error}")),
            }
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answered) => answered,
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }
}

/// The error with its causes, since hyper-util's own text is not specific.
fn reported(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
