//! One request and its answer.
//!
//! The generated client puts a [`Request`] together and says what its answer is read as;
//! [`exchange`] sends it. What came of the answer is kept for the error whatever happens on the
//! way, also when the time is up.

use std::{fmt, io};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap,
    header::{self, InvalidHeaderValue},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::{
    credentials::Authorization,
    error::{Error, Kind, ProxyFault},
    response::Response,
};
use crate::json::{self, FromRaw};

/// The longest answer that is read, in bytes. A page of 100 events is far below it.
pub(crate) const MAX_RESPONSE_BYTES: usize = 8 * 1024 * 1024;

/// A request that is put together, and how its answer is read.
pub struct Request<T> {
    http: reqwest::Request,
    read: fn(&[u8]) -> serde_json::Result<T>,
}

/// What the generated client gives.
pub(crate) type Built<T> = Result<Request<T>, NotBuilt>;

/// Something does not go into a header or an address. What, is not kept: it may be secret.
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
    /// One whose answer is JSON.
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
    /// One whose answer says all by its status.
    pub(crate) fn without_body(http: reqwest::Request) -> Self {
        Self {
            http,
            read: |_| Ok(()),
        }
    }
}

impl<T> Request<T> {
    /// The same, with its answer read as something else.
    pub(crate) fn read_as<U: DeserializeOwned + FromRaw>(self) -> Request<U> {
        Request::new(self.http)
    }

    /// With the caller's own headers, and who the caller is.
    pub(super) fn by(mut self, authorization: &Authorization, own: &HeaderMap) -> Self {
        let headers = self.http.headers_mut();
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

/// Sends the request and reads the whole answer, at most [`MAX_RESPONSE_BYTES`] bytes of it, for as
/// long as there is time.
///
/// No `async fn`, since that would keep the request, of which nothing is needed once it is sent.
///
/// # Errors
/// Whatever came in the way of a value; with the answer, where one came.
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
            // The status says enough, even where the body was cut off or does not end.
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

/// How the reading of an answer ended.
enum End {
    Whole,
    TooLarge,
    Broken(reqwest::Error),
}

/// Writes down at once what came, for the case that there is no time for the rest.
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
            // Most bodies come in one piece, which is kept without copying.
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

/// The transport's fault: no connection, or one that broke.
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
    // Ids and filters are in the address; a log needs neither.
    failed.caused_by(error.without_url())
}

/// What the proxy on the way did, if it was the proxy. The HTTP library tells it in words alone,
/// and not with which status it refused.
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

/// Whether a connection that did not come about may come about later: it was the network, and not
/// what is set up here or there.
///
/// rustls gives what is wrong with TLS (a certificate that is not trusted, no TLS at all) as
/// invalid data, the system's library as an error of its own; the network's faults are errors of
/// input and output.
fn may_connect_later(error: &reqwest::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    // OpenSSL tells only in words that the other side has hung up.
    if causes
        .clone()
        .any(|cause| cause.to_string() == "unexpected EOF")
    {
        return true;
    }
    let faults = causes.filter_map(|cause| cause.downcast_ref::<io::Error>());
    // One inside the other: what `source` passes over.
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

/// Why JSON was not read, without any value from it: serde's messages quote what they found, which
/// may be a secret.
fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!("line {}, column {}", error.line(), error.column());
    // The second is `crate::json`'s, which names the member and what was expected there.
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
    /// With each of the TLS features: they tell what is wrong in ways of their own.
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
                    // What the client says is read, so that the connection ends in order.
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
