//! Posts deliveries to an endpoint.

use std::time::{Duration, Instant};

use authpi_sdk::testing::RecordedAnswer;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use reqwest::{Client, Url, redirect::Policy};

use crate::failure::{Failure, Result, chain};

/// How long an endpoint may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How much of an answer's body is kept.
const MAX_ANSWER: usize = 1024 * 1024;

/// Headers that belong to one connection, or that the client writes itself.
pub(crate) const NOT_FORWARDED: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::CONTENT_LENGTH,
];

/// The endpoint that deliveries are sent to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    url: Url,
    client: Client,
}

/// An answer, complete or cut after 1 MiB.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// From the request to the answer.
    pub(crate) took: Duration,
}

impl Answer {
    /// The answer as a recording keeps it.
    pub(crate) fn recorded(&self) -> RecordedAnswer {
        let millis = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        RecordedAnswer::new(self.status.as_u16(), millis, &self.body)
    }
}

impl Target {
    /// The endpoint at an `http` or `https` address.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let parsed = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(url) = parsed else {
            return Err(Failure::usage(format!("{url} is not an http or https URL"))
                .hint("such as http://127.0.0.1:8080/hooks/authpi"));
        };
        // An error means that another client has done this already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder().redirect(Policy::none()).timeout(TIMEOUT);
        if url.host_str().is_some_and(is_loopback) {
            builder = builder.no_proxy();
        }
        let client = builder
            .build()
            .map_err(|error| Failure::because("cannot set up the connection", &error))?;
        Ok(Self { url, client })
    }

    /// The address, without user and password.
    pub(crate) fn shown(&self) -> String {
        let mut url = self.url.clone();
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.to_string()
    }

    /// Sends a request to this address with the given headers, less [`NOT_FORWARDED`]. If the
    /// address has no path, `path` is used, with its query. The error is a line of text.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: Option<&str>,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> std::result::Result<Answer, String> {
        for name in &NOT_FORWARDED {
            headers.remove(name);
        }
        let mut url = self.url.clone();
        if let (Some(path), "/", None) = (path, url.path(), url.query()) {
            let (path, query) = path
                .split_once('?')
                .map_or((path, None), |(path, query)| (path, Some(query)));
            url.set_path(path);
            url.set_query(query);
        }
        let started = Instant::now();
        let request = self.client.request(method, url).headers(headers).body(body);
        // The address may hold a token.
        let failed = |error: reqwest::Error| chain(&error.without_url());
        let mut response = request.send().await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while body.len() < MAX_ANSWER {
            match response.chunk().await.map_err(failed)? {
                Some(chunk) => body.extend_from_slice(&chunk),
                None => break,
            }
        }
        Ok(Answer {
            status,
            headers,
            body: body.into(),
            took: started.elapsed(),
        })
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}
