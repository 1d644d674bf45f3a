//! One request to a receiver, over plain HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use jiff::Timestamp;

use super::Hosts;

/// The number of bytes of a receiver's response that are read, to keep the connection usable.
pub(super) const MAX_ANSWER: usize = 64 * 1024;
/// The number of bytes of a receiver's response that are kept.
pub(super) const KEPT_ANSWER: usize = 4 * 1024;

/// A request and its target.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The response of a receiver.
pub(crate) struct Answered {
    pub(crate) status: u16,
    /// The pause that the receiver requests.
    pub(crate) retry_after: Option<Duration>,
    /// The beginning of its body.
    #[cfg_attr(not(feature = "inspector"), expect(dead_code))]
    pub(crate) body: Bytes,
    /// Whether its body is longer.
    #[cfg_attr(not(feature = "inspector"), expect(dead_code))]
    pub(crate) is_cut: bool,
}

/// Sends deliveries over pooled connections.
pub(crate) struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    pub(super) timeout: Duration,
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

    /// The hosts that it may send to, besides this machine.
    #[cfg(feature = "inspector")]
    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Whether this URL can be called, or the reason that it cannot.
    pub(crate) fn check(&self, url: &str) -> Result<(), String> {
        self.hosts.check(url)
    }

    /// The response; redirects are not followed. If there was none, the reason for `last_error`.
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<Answered, String> {
        self.check(&outgoing.url)?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&outgoing.url)
            .body(Full::new(outgoing.body))
            .map_err(|error| format!("cannot call the webhook's URL: {error}"))?;
        *request.headers_mut() = outgoing.headers;
        let exchange = async {
            let answer = self
                .client
                .request(request)
                .await
                .map_err(|error| reported(&error))?;
            let status = answer.status().as_u16();
            let retry_after = retry_after(answer.headers());
            // The content of the body has no effect. But a response that is cut off before its end,
            // or before `MAX_ANSWER`, does not acknowledge the delivery.
            let (body, is_cut) = read(answer.into_body()).await?;
            Ok(Answered {
                status,
                retry_after,
                body,
                is_cut,
            })
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answered) => answered,
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }
}

/// The response's `Retry-After`: seconds, or a date by the system's clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default())
}

/// The beginning of a response's body, and whether there is more.
async fn read(mut body: Incoming) -> Result<(Bytes, bool), String> {
    let (mut kept, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| format!("the receiver's response was cut off: {error}"))?;
        let Some(bytes) = frame.data_ref() else {
            continue;
        };
        length += bytes.len();
        let room = KEPT_ANSWER - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if length > MAX_ANSWER {
            break;
        }
    }
    Ok((kept.into(), length > KEPT_ANSWER))
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
