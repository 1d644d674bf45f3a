//! The path of every call.
//!
//! [`Call`] holds an operation with its arguments and the options of this call. Awaiting it runs
//! [`run`]: it checks the arguments, looks up the account, sends the request, and retries it before
//! the call's deadline if that is safe and may help. Every failure of [`attempt`] is an [`Error`],
//! including timeouts, so [`Attempts`] sees all of them in one place.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::{
    account::WhoAmI,
    builder::Client,
    credentials::Authorization,
    error::{Error, Key},
    etag::ETag,
    exchange::{Built, NotBuilt, exchange},
    idempotency, ids,
    page::Page,
    response::Response,
    retry::{
        RetryPolicy, RetryStop,
        attempts::{Attempts, Terms},
    },
    telemetry::{self, CallTrace, Observed},
};
use crate::{
    generated::api::{self, operations},
    telemetry::trace,
};

/// A call to AuthPI that is sent when it is awaited.
///
/// Nothing is sent before that. A clone is a separate call: it has another idempotency key, unless
/// one was set.
#[derive(Clone)]
#[must_use = "a call is sent when it is awaited"]
pub struct Call<O> {
    pub(crate) client: Client,
    pub(crate) operation: O,
    options: Options,
}

/// The options of one call that differ from its client's.
#[derive(Clone, Default)]
struct Options {
    timeout: Option<Duration>,
    attempt_timeout: Option<Duration>,
    retry: Option<RetryPolicy>,
    idempotency_key: Option<String>,
    if_match: Option<ETag>,
    retry_without_etag: bool,
    headers: HeaderMap,
}

impl<O: Operation> Call<O> {
    pub(crate) fn new(client: &Client, operation: O) -> Self {
        Self {
            client: client.clone(),
            operation,
            options: Options::default(),
        }
    }

    /// The time limit of this call, including retries and pauses, from the moment it is awaited.
    /// Default: [`ClientBuilder::timeout`].
    ///
    /// [`ClientBuilder::timeout`]: crate::client::transport::ClientBuilder::timeout
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// The time limit of one attempt at this call. Default: [`ClientBuilder::attempt_timeout`]; for
    /// a redelivery, [`timeout`](Self::timeout). An attempt never takes longer than the rest of the
    /// call's time.
    ///
    /// [`ClientBuilder::attempt_timeout`]: crate::client::transport::ClientBuilder::attempt_timeout
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.options.attempt_timeout = Some(timeout);
        self
    }

    /// The retry policy of this call. Default: [`ClientBuilder::retry`]. The client's budget still
    /// applies.
    ///
    /// [`ClientBuilder::retry`]: crate::client::transport::ClientBuilder::retry
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.options.retry = Some(policy);
        self
    }

    /// Adds this header to each attempt. Replaces an earlier value of the same name.
    ///
    /// By default, the client sends its own `traceparent`. It continues the trace of the event
    /// whose handler makes the call, or begins a new trace if there is none. A `traceparent` given
    /// here replaces it.
    ///
    /// Headers that the client sends itself cannot be replaced: credential, user agent, host, and
    /// the headers of the body and the connection. The idempotency key and `If-Match` have their
    /// own options. A call with such a header fails: [`Error::is_invalid_argument`].
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.options.headers.insert(name, value);
        self
    }
}

impl<O: Keyed> Call<O> {
    /// The key that makes this call safe to repeat: 1 to 256 visible ASCII characters. Default: a
    /// new random key.
    ///
    /// AuthPI keeps a key for 24 hours per account. The same call with the same key gets the stored
    /// answer. It is assumed that this answer includes one-time secrets. A different call with the
    /// key gets 422.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.options.idempotency_key = Some(key.into());
        self
    }
}

impl<O: Conditional> Call<O> {
    /// Only performs the call if the resource still has this state; otherwise, the call fails with
    /// 412. Without this option, the state is not checked.
    ///
    /// The option also makes a `PATCH` or `DELETE` safe to retry: after the first attempt that took
    /// effect, the ETag no longer matches. There is one exception: an ETag is a time in
    /// milliseconds, so two changes within one millisecond have the same ETag, and the second is
    /// not detected.
    pub fn if_match(mut self, etag: &ETag) -> Self {
        self.options.if_match = Some(etag.clone());
        self
    }

    /// Permits retries although this call has no [`if_match`](Self::if_match). The call may then be
    /// performed twice, and undo a change that another caller made in between.
    ///
    /// With neither this option nor an ETag, a `PATCH` or `DELETE` is only retried if the server
    /// has certainly not acted. A `POST` needs neither, since it has an idempotency key.
    pub fn retry_without_etag(mut self) -> Self {
        self.options.retry_without_etag = true;
        self
    }
}

impl<O: Paged> Call<O> {
    /// The number of items per page, 1 to 100. AuthPI's default is 50.
    pub fn limit(mut self, limit: u32) -> Self {
        *self.operation.window().0 = Some(limit);
        self
    }

    /// The page to start with: [`Page::next_page`](crate::client::Page::next_page) of the previous
    /// page.
    pub fn cursor(mut self, cursor: impl Into<String>) -> Self {
        *self.operation.window().1 = Some(cursor.into());
        self
    }
}

impl Options {
    /// The options for another call that this call needs: the same policy and headers.
    fn beside(&self) -> Self {
        Self {
            attempt_timeout: self.attempt_timeout,
            retry: self.retry.clone(),
            headers: self.headers.clone(),
            ..Self::default()
        }
    }
}

impl<O> Call<O> {
    /// Another call with the same policy and headers.
    pub(crate) fn beside<P: Operation>(&self, operation: P) -> Call<P> {
        Call {
            client: self.client.clone(),
            operation,
            options: self.options.beside(),
        }
    }
}

impl fmt::Debug for Options {
    /// Only the names of headers: a value may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            timeout,
            attempt_timeout,
            retry,
            idempotency_key,
            if_match,
            retry_without_etag,
            headers,
        } = self;
        f.debug_struct("Options")
            .field("timeout", timeout)
            .field("attempt_timeout", attempt_timeout)
            .field("retry", retry)
            .field("idempotency_key", idempotency_key)
            .field("if_match", if_match)
            .field("retry_without_etag", retry_without_etag)
            .field("headers", &headers.keys().collect::<Vec<_>>())
            .finish()
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
        let trace = CallTrace::begin(self.options.headers.get(CallTrace::HEADER));
        let span = telemetry::span(O::OPERATION.id, trace.as_ref());
        let mut observed = Observed::begin(O::OPERATION.id, span.clone(), trace);
        // A block, since a function would store its arguments twice.
        let running = async move { run(&self, &mut observed).await };
        // Calls on behalf of this one have the same trace.
        let running = trace::within(trace.map(|trace| trace.id), running);
        Box::pin(running.instrument(span))
    }
}

/// A call of AuthPI's API, with its arguments. Sealed: only this SDK implements it.
pub trait Operation: Clone + Send + Sync + sealed::ToRequest + 'static {
    /// The result of a success.
    type Output: Send;
}

/// An operation that takes an idempotency key.
///
/// Other operations do not compile with one:
///
/// ```compile_fail,E0277
/// # let client: authpi_sdk::Client = unimplemented!();
/// client.webhooks().get("wh_1").idempotency_key("k");
/// ```
pub trait Keyed: Operation {}

/// An operation that can be made to depend on the state of its resource.
pub trait Conditional: Operation {}

/// An operation that returns a list, page by page.
pub trait Paged: Operation<Output = Page<Self::Item>> + sealed::PageParams {
    /// The type of the items.
    type Item: Send;
}

/// A value with its ETag.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WithETag<T> {
    /// The value.
    pub value: T,
    /// The ETag, for [`Call::if_match`].
    pub etag: Option<ETag>,
}

/// The result of a POST.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WithReplay<T> {
    /// The value.
    pub value: T,
    /// The ETag, if the answer contains one.
    pub etag: Option<ETag>,
    /// Whether this is the stored answer to an earlier call with the same idempotency key.
    pub replayed: bool,
}

pub(crate) mod sealed {
    use super::{Attempt, Built, Error, Future, Recheck, Reply, operations};

    /// Builds the request of an operation with a method of the generated client.
    pub trait ToRequest: Sized {
        /// The type that its answer is read as.
        type Wire: Send;
        /// The operation in AuthPI's description.
        const OPERATION: operations::Operation;
        /// Whether AuthPI waits for an endpoint before it answers. An attempt then has no time
        /// limit besides the call's, unless the caller sets one.
        const WAITS_FOR_AN_ENDPOINT: bool = false;

        /// # Errors
        /// When an argument is invalid.
        fn check(&self) -> Result<(), Error> {
            Ok(())
        }

        /// # Errors
        /// When a value is not valid in a header or URL.
        fn request(&self, attempt: &Attempt<'_>) -> Built<Self::Wire>;

        /// The value for the caller.
        fn read(reply: Reply<Self::Wire>) -> <Self as super::Operation>::Output
        where
            Self: super::Operation;

        /// Handles a failed attempt. May return a success if the current state shows that an
        /// earlier attempt took effect.
        fn settle(
            &self,
            refused: Error,
            _look: Recheck<'_>,
        ) -> impl Future<Output = Result<<Self as super::Operation>::Output, Error>> + Send
        where
            Self: super::Operation,
        {
            std::future::ready(Err(refused))
        }

        /// Whether the answer contains a new secret that cannot be fetched again.
        fn shows_a_secret_once(&self) -> bool {
            false
        }
    }

    /// An operation with a page size and a cursor.
    pub trait PageParams {
        fn window(&mut self) -> (&mut Option<u32>, &mut Option<String>);
    }
}

/// The parameters of one attempt.
pub struct Attempt<'a> {
    pub(crate) api: &'a api::Client,
    pub(crate) account: &'a str,
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) if_match: Option<&'a str>,
}

/// A success: the decoded value and the headers.
#[derive(Debug)]
pub struct Reply<T> {
    pub(crate) value: T,
    pub(crate) headers: HeaderMap,
}

impl<T> Reply<T> {
    pub(crate) fn tagged<U>(self, value: impl FnOnce(T) -> U) -> WithETag<U> {
        WithETag {
            etag: ETag::of(&self.headers),
            value: value(self.value),
        }
    }

    pub(crate) fn posted<U>(self, value: impl FnOnce(T) -> U) -> WithReplay<U> {
        let (etag, replayed) = (ETag::of(&self.headers), Response::replayed(&self.headers));
        WithReplay {
            value: value(self.value),
            etag,
            replayed,
        }
    }
}

/// Reads the current state during a call.
#[derive(Clone, Copy, Debug)]
pub struct Recheck<'a> {
    client: &'a Client,
    options: &'a Options,
    deadline: Instant,
    /// Whether the server may have acted on an attempt before the last one.
    pub(crate) fate_unknown: bool,
}

impl Recheck<'_> {
    /// A call with the rest of the time and the same policy and headers.
    pub(crate) fn ask<O: Operation>(&self, operation: O) -> Call<O> {
        let timeout = self.deadline.saturating_duration_since(Instant::now());
        Call {
            client: self.client.clone(),
            operation,
            options: self.options.beside(),
        }
        .timeout(timeout)
    }
}

async fn run<O: Operation>(call: &Call<O>, observed: &mut Observed) -> Result<O::Output, Error> {
    attempts(call, observed).await.map_err(|error| {
        let error = error.during(O::OPERATION.id);
        let error = if call.operation.shows_a_secret_once() {
            error.with_its_secret()
        } else {
            error
        };
        observed.failed(&error);
        error
    })
}

async fn attempts<O: Operation>(
    call: &Call<O>,
    observed: &mut Observed,
) -> Result<O::Output, Error> {
    let Call {
        client,
        operation,
        options,
    } = call;
    let settings = client.settings();
    let deadline = deadline(options.timeout.unwrap_or(settings.timeout));
    operation.check()?;
    check_headers(&options.headers)?;
    let key = key::<O>(options)?;
    let account = if O::OPERATION.path.contains("{account_id}") {
        client
            .account_by(|| call.beside(WhoAmI {}), deadline)
            .await?
    } else {
        ""
    };

    let waits = O::WAITS_FOR_AN_ENDPOINT.then_some(Duration::MAX);
    let mut attempts = Attempts::new(Terms {
        operation: O::OPERATION.id,
        safe: is_safe::<O>(options, key.is_some()),
        keyed: key.is_some(),
        policy: options.retry.as_ref().unwrap_or(&settings.retry),
        budget: &*settings.budget,
        deadline,
        attempt_timeout: options
            .attempt_timeout
            .or(waits)
            .unwrap_or(settings.attempt_timeout),
    });
    let mut renewed = false;
    loop {
        // All attempts share the key and the deadline. Everything below belongs to one attempt.
        let authorization = settings.credentials.authorization(deadline).await;
        let authorization = authorization
            .map_err(|error| attempts.over(error.under(key.clone()), RetryStop::Permanent))?;
        let until = attempts.begin();
        let trace = observed.attempt(attempts.made());
        let attempt = attempt(call, account, key.as_ref(), &authorization, trace, until);
        let error = match attempt.await {
            Ok((output, status)) => {
                attempts.succeeded();
                observed.succeeded(status);
                return Ok(output);
            }
            Err(error) => error,
        };
        let error = error.under(key.clone());
        observed.refused(&error);
        let error = if error.is_unauthorized() && !renewed {
            match settings.credentials.replace(&authorization, deadline).await {
                Ok(true) => {
                    // Once per call, whatever the policy says: the server has not acted, and the
                    // new token has not been tried.
                    renewed = true;
                    attempts.renewed(&error);
                    continue;
                }
                Ok(false) => error,
                Err(no_token) => error.caused_by(no_token),
            }
        } else {
            error
        };
        let look = Recheck {
            client,
            options,
            deadline,
            fate_unknown: attempts.fate_unknown(),
        };
        let error = match operation.settle(error, look).await {
            Ok(output) => {
                attempts.succeeded();
                observed.inferred();
                return Ok(output);
            }
            Err(error) => error,
        };
        attempts.again(error).await?;
    }
}

/// Whether the call may be sent again although the server may have acted: performing it twice has
/// the same effect as performing it once, or the caller permits retries.
fn is_safe<O: Operation>(options: &Options, keyed: bool) -> bool {
    let operation = O::OPERATION;
    match operation.method {
        Method::GET | Method::HEAD => true,
        _ if keyed => true,
        _ => operation.if_match && (options.if_match.is_some() || options.retry_without_etag),
    }
}

/// One attempt: builds the request, sends it, and reads the answer.
async fn attempt<O: Operation>(
    call: &Call<O>,
    account: &str,
    key: Option<&Key>,
    authorization: &Authorization,
    trace: Option<HeaderValue>,
    until: Instant,
) -> Result<(O::Output, StatusCode), Error> {
    let Call {
        client,
        operation,
        options,
    } = call;
    let settings = client.settings();
    let (idempotency_key, if_match) = (
        key.map(|key| &*key.text),
        options.if_match.as_ref().map(ETag::as_str),
    );
    let request = operation.request(&Attempt {
        api: &settings.api,
        account,
        idempotency_key,
        if_match,
    });
    let request =
        request.map_err(|NotBuilt| Error::invalid_argument("could not build the request"))?;
    let request = request.by(authorization, trace, &options.headers);
    let exchanged = exchange(&settings.api.client, request, until).await;
    let (value, answer) = exchanged.map_err(|error| error.towards(&settings.api.baseurl))?;
    Ok((
        O::read(Reply {
            value,
            headers: answer.headers,
        }),
        answer.status,
    ))
}

/// The caller's headers must not replace those of the client.
fn check_headers(headers: &HeaderMap) -> Result<(), Error> {
    if headers.is_empty() {
        return Ok(());
    }
    let ours = [
        header::ACCEPT,
        header::AUTHORIZATION,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::EXPECT,
        header::HOST,
        header::IF_MATCH,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::USER_AGENT,
        HeaderName::from_static("idempotency-key"),
    ];
    match headers.keys().find(|name| ours.contains(name)) {
        Some(name) => Err(Error::invalid_argument(format!(
            "the client sets the header {name} itself"
        ))),
        None => Ok(()),
    }
}

/// The deadline for a call with this timeout; in the far future if it is too large.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    const LONG: Duration = Duration::from_hours(24 * 365);
    Instant::now() + timeout.min(LONG)
}

/// The idempotency key of all attempts of a call. AuthPI documents keys for POST only.
fn key<O: Operation>(options: &Options) -> Result<Option<Key>, Error> {
    if O::OPERATION.method != Method::POST || !O::OPERATION.idempotency_key {
        return Ok(None);
    }
    match &options.idempotency_key {
        Some(key) => idempotency::check(key).map(|()| {
            Some(Key {
                text: key.clone(),
                own: true,
            })
        }),
        None => Ok(Some(Key {
            text: idempotency::fresh()?,
            own: false,
        })),
    }
}

/// Checks several ids.
pub(crate) fn check_ids<'a>(
    ids: impl IntoIterator<Item = (&'static str, &'a str)>,
) -> Result<(), Error> {
    ids.into_iter()
        .try_for_each(|(what, id)| ids::check(what, id))
}
