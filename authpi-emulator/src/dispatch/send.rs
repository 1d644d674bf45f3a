//! One request to a receiver, over plain HTTP to this machine.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use url::{Host, Url};

use crate::assumptions;

/// At most so many bytes of a receiver's answer are read, only to keep the connection in use.
const MAX_ANSWER: usize = 64 * 1024;

/// What is to be sent, and where.
pub(crate) struct Outgoing {
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Sends deliveries, on connections that it keeps.
pub(crate) struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

impl Sender {
    pub(crate) fn new(timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector), timeout }
    }

    /// The status of the answer; redirects are not followed. Or why there was none, as a text for `last_error`.
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<u16, String> {
        check_loopback(&outgoing.url)?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&outgoing.url)
            .header(header::CONTENT_TYPE, assumptions::DELIVERY_CONTENT_TYPE)
            .header(header::USER_AGENT, concat!("authpi-emulator/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(outgoing.body))
            .map_err(|error| format!("the webhook's URL cannot be called: {error}"))?;
        request.headers_mut().extend(outgoing.headers);
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| told(&error))?;
            let status = answer.status().as_u16();
            // What the answer says is of no interest, but a receipt is one only when all of it has come.
            match Limited::new(answer.into_body(), MAX_ANSWER).collect().await {
                Ok(_) => Ok(status),
                Err(error) if error.is::<http_body_util::LengthLimitError>() => Ok(status),
                Err(error) => Err(format!("the receiver broke off its answer: {error}")),
            }
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answered) => answered,
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }
}

/// The error with its causes: hyper-util's own text says little.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn check_loopback(url: &str) -> Result<(), String> {
    let parsed = Url::parse(url).map_err(|error| format!("the webhook's URL cannot be called: {error}"))?;
    let here = match parsed.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost") || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    };
    if here && parsed.scheme() == "http" {
        Ok(())
    } else {
        Err("the emulator delivers only to loopback addresses over plain HTTP".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_called() {
        for url in ["http://localhost:1/x", "http://127.9.9.9", "http://[::1]:8080/", "http://[::ffff:127.0.0.1]/"] {
            assert!(check_loopback(url).is_ok(), "{url}");
        }
        for url in [
            "https://localhost/",
            "http://example.com/",
            "http://192.168.0.1/",
            "http://localhost.example.com/",
            "nonsense",
        ] {
            assert!(check_loopback(url).is_err(), "{url}");
        }
    }
}
