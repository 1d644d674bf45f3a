//! One request and its answer.
//!
//! The generated client builds a [`Request`] and says how its answer is read. [`exchange`] sends
//! the request. If the time runs out, the parts of the answer that have arrived are kept for the
//! error.

use std::{fmt, io};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue,
    header::{self, InvalidHeaderValue},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::{
    credentials::Authorization,
    error::{Error, Kind, ProxyFault},
    response::Response,
    telemetry::CallTrace,
};
use crate::json::{self, FromRaw};

/// The maximum size of an answer, in bytes. A page of 100 events is far smaller.
pub(crate) const MAX_RESPONSE_BYTES: usize = 8 * 1024 * 1024;

/// A built request, and how its answer is read.
pub struct Request<T> {
    http: reqwest::Request,
    read: fn(&[u8]) -> serde_json::Result<T>,
}

/// The result of the generated client.
pub(crate) type Built<T> = Result<Request<T>, NotBuilt>;

/// A value is not valid in a header or URL. The error does not contain it, since it may be secret.
#[derive(Debug)]
pub struct NotBuilt;

impl From<reqwest::Error> for NotBuilt {
    fn from(_: reqwest::Error) -> Self {
        Self
    }
}

impl From<InvalidHeaderValue> for NotBuilt {
    fn from(_: InvalidHeaderValue) -> Self {
        Self
    }
}

impl<T> Request<T> {
    /// A request whose answer is JSON.
    pub(crate) fn new(http: reqwest::Request) -> Self
    where
        T: DeserializeOwned + FromRaw,
    {
        Self {
            http,
            read: json::answer,
        }
    }
}

impl Request<()> {
    /// A request whose answer is only a status.
    pub(crate) fn without_body(http: reqwest::Request) -> Self {
        Self {
            http,
            read: |_| Ok(()),
        }
    }
}

impl<T> Request<T> {
    /// The same request, with its answer read as another type.
    pub(crate) fn read_as<U: DeserializeOwned + FromRaw>(self) -> Request<U> {
        Request::new(self.http)
    }

    /// Adds the trace, the caller's own headers and the credential.
    pub(super) fn by(
        mut self,
        authorization: &Authorization,
        trace: Option<HeaderValue>,
        own: &HeaderMap,
    ) -> Self {
        let headers = self.http.headers_mut();
        if let Some(trace) = trace {
            headers.insert(CallTrace::HEADER, trace);
        }
        if !own.is_empty() {
            headers.extend(own.clone());
        }
        headers.insert(header::AUTHORIZATION, authorization.header.clone());
        self
    }
}

impl<T> fmt::Debug for Request<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", self.http.method())
            .finish_non_exhaustive()
    }
}

/// Sends the request and reads the whole answer, up to [`MAX_RESPONSE_BYTES`] bytes, before the
/// deadline.
///
/// Not an `async fn`, since that would keep the request in memory until the answer is read.
///
/// # Errors
/// Any failure, with the answer if there is one.
pub(crate) fn exchange<T>(
    http: &reqwest::Client,
    request: Request<T>,
    until: Instant,
) -> impl Future<Output = Result<(T, Response), Error>> + use<T> {
    let Request {
        http: request,
        read,
    } = request;
    let sent = http.execute(request);
    async move {
        let mut answer = None;
        let received = timeout_at(until, receive(sent, &mut answer)).await;
        let Some(answer) = answer else {
            return Err(match received {
                Ok(End::Broken(error)) => not_exchanged(error),
                _ => Error::new(Kind::Timeout { connecting: false }, true),
            });
        };
        match received {
            Err(_elapsed) => {
                Err(Error::new(Kind::Timeout { connecting: false }, true).answered(answer))
            }
            // For a refusal, the status is enough, even if the body was cut off or is too large.
            Ok(_) if !answer.status.is_success() => Err(Error::refused(answer)),
            Ok(End::Broken(error)) => Err(not_exchanged(error).answered(answer)),
            Ok(End::TooLarge) => Err(Error::too_large(answer)),
            Ok(End::Whole) => match read(&answer.body) {
                Ok(value) => Ok((value, answer)),
                Err(error) => Err(unreadable(&error, answer)),
            },
        }
    }
}

/// How reading an answer ended.
enum End {
    Whole,
    TooLarge,
    Broken(reqwest::Error),
}

/// Stores each part as it arrives, in case the time runs out.
async fn receive(
    sent: impl Future<Output = reqwest::Result<reqwest::Response>>,
    answer: &mut Option<Response>,
) -> End {
    let mut response = match sent.await {
        Ok(response) => response,
        Err(error) => return End::Broken(error),
    };
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let answer = answer.insert(Response {
        status,
        headers,
        body: Bytes::new(),
    });
    loop {
        match response.chunk().await {
            Ok(None) => return End::Whole,
            Ok(Some(chunk)) if answer.body.len() + chunk.len() > MAX_RESPONSE_BYTES => {
                return End::TooLarge;
            }
            // Most bodies arrive in one chunk, which is kept without copying.
            Ok(Some(chunk)) if answer.body.is_empty() => answer.body = chunk,
            Ok(Some(chunk)) => {
                let mut body = BytesMut::from(std::mem::take(&mut answer.body));
                body.extend_from_slice(&chunk);
                answer.body = body.freeze();
            }
            Err(error) => return End::Broken(error),
        }
    }
}

fn unreadable(error: &serde_json::Error, answer: Response) -> Error {
    if answer.body.is_empty() && Response::replayed(&answer.headers) {
        // AuthPI replays an answer of more than 512 KB with its status and without its body.
        Error::malformed(
            "the stored response of an earlier call was too large to replay",
            answer,
        )
    } else if answer.body.is_empty() {
        Error::cut_off("the body is empty", answer)
    } else if error.is_eof() {
        Error::cut_off(without_values(error), answer)
    } else {
        Error::malformed(without_values(error), answer)
    }
}

/// A failure of the transport: no connection, or a broken one.
fn not_exchanged(error: reqwest::Error) -> Error {
    let failed = if error.is_connect() && error.is_timeout() {
        Error::new(Kind::Timeout { connecting: true }, false)
    } else if let Some(fault) = proxy_fault(&error) {
        Error::new(Kind::Proxy(fault), false)
    } else if error.is_connect() {
        Error::new(
            Kind::Connect {
                transient: may_connect_later(&error),
            },
            false,
        )
    } else if error.is_builder() {
        Error::invalid_argument("could not build the request")
    } else if error.is_timeout() {
        Error::new(Kind::Timeout { connecting: false }, true)
    } else {
        Error::new(Kind::Transport, true)
    };
    // The URL contains ids and filters, which do not belong in logs.
    failed.caused_by(error.without_url())
}

/// The proxy's fault, if a proxy caused the error. The HTTP library only reports it as text,
/// without the status.
fn proxy_fault(error: &reqwest::Error) -> Option<ProxyFault> {
    let mut causes =
        std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let why = causes.find_map(|cause| {
        cause
            .to_string()
            .strip_prefix("tunnel error: ")
            .map(str::to_owned)
    })?;
    Some(match &*why {
        "proxy authorization required" => ProxyFault::Credentials,
        "failed to create underlying connection" => ProxyFault::Unreachable {
            transient: may_connect_later(error),
        },
        _ => ProxyFault::NoTunnel,
    })
}

/// Whether connecting may succeed later: the network failed, not the configuration.
///
/// rustls reports a TLS failure (an untrusted certificate, no TLS) as an I/O error of the kind
/// `InvalidData`. The system's library reports it as another type of error. Failures of the network
/// are I/O errors of other kinds.
fn may_connect_later(error: &reqwest::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    // If the peer closed the connection, only the text of OpenSSL's error says so.
    if causes
        .clone()
        .any(|cause| cause.to_string() == "unexpected EOF")
    {
        return true;
    }
    let faults = causes.filter_map(|cause| cause.downcast_ref::<io::Error>());
    // I/O errors may contain others, which `source` skips.
    let nested = |fault| {
        std::iter::successors(Some(fault), |fault: &&io::Error| {
            fault.get_ref()?.downcast_ref()
        })
    };
    let kinds: Vec<_> = faults.flat_map(nested).map(io::Error::kind).collect();
    let set_up_wrong = |kind: &io::ErrorKind| {
        use io::ErrorKind::{InvalidData, InvalidInput, PermissionDenied, Unsupported};
        matches!(
            kind,
            InvalidData | InvalidInput | PermissionDenied | Unsupported
        )
    };
    !kinds.is_empty() && !kinds.iter().any(set_up_wrong)
}

/// Why JSON could not be read, without any value from it: serde's messages quote the content, which
/// may be a secret.
fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!("line {}, column {}", error.line(), error.column());
    // These texts contain no value. The second form is from `crate::json`: the member's name and
    // what was expected.
    if text.starts_with("missing ") || text.starts_with('`') {
        text
    } else if let Some((_, expected)) = text.rsplit_once(", expected ") {
        format!("expected {expected}")
    } else if error.is_syntax() || error.is_eof() {
        format!("not JSON ({place})")
    } else {
        format!("unexpected JSON ({place})")
    }
}

#[cfg(test)]
mod tests {
    /// With each of the TLS features, which report errors differently.
    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    #[tokio::test]
    async fn a_server_that_knows_no_tls_is_a_mistake_and_one_that_hangs_up_a_fault() {
        use tokio::io::AsyncWriteExt as _;

        use crate::client::transport::{
            builder::Client,
            retry::{ExponentialBackoff, RetryPolicy, RetryStop},
        };

        let nothing = std::time::Duration::ZERO;
        let policy = RetryPolicy::default()
            .max_attempts(2)
            .backoff(ExponentialBackoff::new(nothing, nothing));
        for (reply, attempts, why) in [
            ("HTTP/1.1 400 No\r\n\r\n", 1, RetryStop::Permanent),
            ("", 2, RetryStop::Attempts),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let base_url = format!("https://{}", listener.local_addr().unwrap());
            let server = tokio::spawn(async move {
                while let Ok((mut connection, _)) = listener.accept().await {
                    // The client's message is read, so that the connection ends in order.
                    connection.readable().await.unwrap();
                    let _ = connection.try_read(&mut [0; 4096]);
                    let _ = connection.write_all(reply.as_bytes()).await;
                }
            });
            let client = Client::builder()
                .base_url(base_url)
                .api_key("key_1", "s")
                .retry(policy.clone());
            let error = client.build().unwrap().whoami().await.unwrap_err();
            assert!(error.is_connect() && !error.may_have_run(), "{error:?}");
            assert_eq!(
                (error.attempts(), error.retry_stop()),
                (attempts, Some(why)),
                "{error:?}"
            );
            server.abort();
        }
    }
}
