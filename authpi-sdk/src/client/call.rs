//! The one way that every call takes.
//!
//! [`Call`] holds an operation with its arguments and the options of this one call; awaiting it runs [`run`]: arguments are
//! checked, the account is found, and the request is sent under the call's deadline. Every failure leaves [`attempt`] as an
//! [`Error`], a timeout too, so that whoever repeats calls sees them all in one place.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use super::{
    Client, Connection, ETag, Page,
    answer::Answer,
    connection::{Exchange, Progress},
    error::{Error, Kind},
    idempotency, ids,
};
use crate::generated::api::{self, operations};

/// A call to AuthPI that is sent when it is awaited.
///
/// Nothing happens before; a call that is dropped was never made. A call can be cloned and so be made again, but then with
/// another idempotency key, unless it was given one.
#[derive(Clone)]
#[must_use = "a call is sent when it is awaited"]
pub struct Call<O> {
    client: Client,
    pub(super) operation: O,
    options: Options,
}

/// What one call may have otherwise than its client.
#[derive(Clone, Debug, Default)]
struct Options {
    timeout: Option<Duration>,
    idempotency_key: Option<String>,
    if_match: Option<ETag>,
}

impl<O: Operation> Call<O> {
    pub(super) fn new(client: &Client, operation: O) -> Self {
        Self { client: client.clone(), operation, options: Options::default() }
    }

    /// How long this call may take in all, from the moment it is awaited; [`ClientBuilder::timeout`] if not given.
    ///
    /// [`ClientBuilder::timeout`]: super::ClientBuilder::timeout
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }
}

impl<O: Keyed> Call<O> {
    /// The key that makes this call safe to repeat, 1 to 256 visible ASCII characters; a fresh random one if not given.
    ///
    /// AuthPI keeps a key for 24 hours per account. The same call under the same key gets the stored answer, one-time secrets
    /// included (that they are not blanked out is assumed); another call under it is a 422.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.options.idempotency_key = Some(key.into());
        self
    }
}

impl<O: Conditional> Call<O> {
    /// Only if the resource still has this state; else the call fails with 412. Without it the check is skipped.
    pub fn if_match(mut self, etag: &ETag) -> Self {
        self.options.if_match = Some(etag.clone());
        self
    }
}

impl<O: Paged> Call<O> {
    /// How many items a page may hold, 1 to 100; AuthPI takes 50 if not given.
    pub fn limit(mut self, limit: u32) -> Self {
        *self.operation.window().0 = Some(limit);
        self
    }

    /// The page to begin with: [`Page::next_page`](super::Page::next_page) of the page before.
    pub fn cursor(mut self, cursor: impl Into<String>) -> Self {
        *self.operation.window().1 = Some(cursor.into());
        self
    }
}

impl<O: fmt::Debug> fmt::Debug for Call<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("operation", &self.operation)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<O: Operation> IntoFuture for Call<O> {
    type Output = Result<O::Output, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(run(self))
    }
}

/// Something that can be asked of AuthPI, with its arguments. This SDK implements it; nobody else can.
pub trait Operation: Clone + Send + Sync + sealed::Sends + 'static {
    /// What a success gives.
    type Output: Send;
}

/// An operation that takes an idempotency key.
///
/// Others cannot be given one:
///
/// ```compile_fail,E0277
/// # let client: authpi_sdk::Client = unimplemented!();
/// client.webhooks().get("wh_1").idempotency_key("k");
/// ```
pub trait Keyed: Operation {}

/// An operation that can be made to depend on the state of its resource.
pub trait Conditional: Operation {}

/// An operation that gives a list, a page at a time.
pub trait Paged: Operation<Output = Page<Self::Item>> + sealed::Windowed {
    /// What is listed.
    type Item: Send;
}

/// A value with the state that it stands for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Tagged<T> {
    /// The value.
    pub value: T,
    /// The state; what [`Call::if_match`] takes.
    pub etag: Option<ETag>,
}

/// What a POST gave.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Posted<T> {
    /// The value.
    pub value: T,
    /// The state, where the answer names one.
    pub etag: Option<ETag>,
    /// Whether this is the stored answer to an earlier call under the same idempotency key.
    pub replayed: bool,
}

pub(super) mod sealed {
    use super::{Attempt, Error, Failed, Future, Reply, operations};

    /// How an operation is sent: by one method of the generated client.
    pub trait Sends: Sized {
        /// What the generated client gives for it.
        type Wire: Send;
        /// The operation in the description.
        const OPERATION: operations::Operation;

        /// # Errors
        /// When an argument is wrong.
        fn check(&self) -> Result<(), Error> {
            Ok(())
        }

        fn send(&self, attempt: &Attempt<'_>) -> impl Future<Output = Result<Self::Wire, Failed>> + Send;

        /// The value that the caller gets.
        fn read(reply: Reply<Self::Wire>) -> <Self as super::Operation>::Output
        where
            Self: super::Operation;
    }

    /// An operation that can be told how much to give and where to begin.
    pub trait Windowed {
        fn window(&mut self) -> (&mut Option<u32>, &mut Option<String>);
    }
}

/// What the generated client gives for a call that failed.
pub(super) type Failed = api::Error<()>;

/// One attempt at a call.
#[derive(Debug)]
pub struct Attempt<'a> {
    pub(super) api: Api,
    pub(super) account: &'a str,
    pub(super) idempotency_key: Option<&'a str>,
    pub(super) if_match: Option<&'a str>,
}

/// The generated client, whose own `Debug` is not wanted.
pub(super) struct Api(pub(super) api::Client);

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Api")
    }
}

impl std::ops::Deref for Api {
    type Target = api::Client;

    fn deref(&self) -> &api::Client {
        &self.0
    }
}

/// A success: what was decoded, and the headers it came with.
#[derive(Debug)]
pub struct Reply<T> {
    pub(super) value: T,
    pub(super) headers: HeaderMap,
}

impl<T> Reply<T> {
    pub(super) fn tagged<U>(self, value: impl FnOnce(T) -> U) -> Tagged<U> {
        Tagged { etag: ETag::of(&self.headers), value: value(self.value) }
    }

    pub(super) fn posted<U>(self, value: impl FnOnce(T) -> U) -> Posted<U> {
        let (etag, replayed) = (ETag::of(&self.headers), Answer::replayed(&self.headers));
        Posted { value: value(self.value), etag, replayed }
    }
}

async fn run<O: Operation>(call: Call<O>) -> Result<O::Output, Error> {
    let Call { client, operation, options } = &call;
    let deadline = deadline(options.timeout.unwrap_or(client.settings().timeout));
    let prepared = async {
        operation.check()?;
        let key = key::<O>(options)?;
        let account = if O::OPERATION.path.contains("{account_id}") { client.account_by(deadline).await? } else { "" };
        Ok((key, account))
    };
    let (key, account) = prepared.await.map_err(|error: Error| error.during(O::OPERATION.id))?;
    // Where repeating sits: the key and the deadline belong to the call, everything below to one attempt at it.
    attempt(client, operation, account, key.as_deref(), options.if_match.as_ref(), deadline)
        .await
        .map_err(|error| error.during(O::OPERATION.id))
}

/// One attempt: the request is sent and its answer read, or an error says why not.
async fn attempt<O: Operation>(
    client: &Client,
    operation: &O,
    account: &str,
    idempotency_key: Option<&str>,
    if_match: Option<&ETag>,
    deadline: Instant,
) -> Result<O::Output, Error> {
    let settings = client.settings();
    let exchange = Arc::<Exchange>::default();
    let connection = Connection { authorization: settings.authorization.clone(), exchange: Arc::clone(&exchange) };
    let api = Api(api::Client::new_with_client(&settings.base_url, settings.http.clone(), connection));
    let attempt = Attempt { api, account, idempotency_key, if_match: if_match.map(ETag::as_str) };
    let sent = timeout_at(deadline, operation.send(&attempt)).await;
    let progress = exchange.take();
    match sent {
        Ok(Ok(_)) if progress.too_large => Err(too_large(progress)),
        Ok(Ok(value)) => {
            let headers = progress.answer.map(|answer| answer.headers).unwrap_or_default();
            Ok(O::read(Reply { value, headers }))
        }
        Ok(Err(failed)) => Err(failure(failed, progress)),
        Err(_elapsed) => {
            let error = Error::new(Kind::Timeout { connecting: false }, progress.sent);
            Err(match progress.answer {
                Some(answer) => error.answered(answer),
                None => error,
            })
        }
    }
}

/// The end of the time that a call may take; for a time without end, so far away that nobody sees it.
pub(super) fn deadline(timeout: Duration) -> Instant {
    const LONG: Duration = Duration::from_hours(24 * 365);
    Instant::now() + timeout.min(LONG)
}

/// The idempotency key of a call: one for all its attempts. AuthPI documents keys for POST only.
fn key<O: Operation>(options: &Options) -> Result<Option<String>, Error> {
    if O::OPERATION.method != http::Method::POST {
        return Ok(None);
    }
    match &options.idempotency_key {
        Some(key) => idempotency::check(key).map(|()| Some(key.clone())),
        None => idempotency::fresh().map(Some),
    }
}

/// What became of a request that gave no value.
fn failure(failed: Failed, progress: Progress) -> Error {
    if progress.too_large {
        return too_large(progress);
    }
    match (failed, progress.answer) {
        (Failed::CommunicationError(error) | Failed::ResponseBodyError(error), answer) => {
            let failed = not_exchanged(error);
            match answer {
                Some(answer) => failed.answered(answer),
                None => failed,
            }
        }
        (Failed::InvalidResponsePayload(_, error), Some(answer)) => {
            let why = if answer.body.is_empty() && Answer::replayed(&answer.headers) {
                // AuthPI replays an answer of more than 512 KB with its status and without its body.
                "the stored answer of an earlier call was too large to be replayed".to_owned()
            } else if answer.body.is_empty() {
                "the body is empty".to_owned()
            } else {
                without_values(&error)
            };
            Error::malformed(why, answer)
        }
        (_, Some(answer)) => Error::refused(answer),
        // Nothing was sent: a header or the address did not hold what was put into it.
        (_, None) => Error::invalid_argument("the request cannot be built"),
    }
}

/// The transport's fault: no connection, or one that broke.
fn not_exchanged(error: reqwest::Error) -> Error {
    let failed = if error.is_connect() {
        Error::new(if error.is_timeout() { Kind::Timeout { connecting: true } } else { Kind::Connect }, false)
    } else if error.is_builder() {
        Error::invalid_argument("the request cannot be built")
    } else if error.is_timeout() {
        Error::new(Kind::Timeout { connecting: false }, true)
    } else {
        Error::new(Kind::Transport, true)
    };
    // Ids and filters are in the address; a log needs neither.
    failed.caused_by(error.without_url())
}

fn too_large(progress: Progress) -> Error {
    let answer = progress.answer.unwrap_or_default();
    if answer.status.is_success() { Error::malformed("the body is over 8 MiB", answer) } else { Error::refused(answer) }
}

/// Why JSON was not read, without any value from it: serde's messages quote what they found, which may be a secret.
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
        format!("JSON of another shape ({place})")
    }
}

/// Checks several ids.
pub(super) fn check_ids<'a>(ids: impl IntoIterator<Item = (&'static str, &'a str)>) -> Result<(), Error> {
    ids.into_iter().try_for_each(|(what, id)| ids::check(what, id))
}
