//! Sources of access tokens.

use std::{error::Error as StdError, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::signature::Secret;

/// A source of access tokens.
///
/// AuthPI's own SDK takes a callback for this. AuthPI's Core API does not define how to get a token
/// from an issuer. An async closure implements this trait:
///
/// ```no_run
/// # use std::time::Duration;
/// use authpi_sdk::client::{AccessToken, Client};
///
/// # async fn ask_the_issuer() -> std::io::Result<(String, u64)> { unimplemented!() }
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let authpi = Client::builder()
///     .token_source(|| async {
///         let (token, seconds) = ask_the_issuer().await?;
///         Ok(AccessToken::new(token).expires_in(Duration::from_secs(seconds)))
///     })
///     .build()?;
/// # let _ = authpi;
/// # Ok(())
/// # }
/// ```
pub trait TokenSource: Send + Sync + 'static {
    /// Returns a new access token.
    ///
    /// A client never calls it concurrently. It runs in a separate task, which continues if the API
    /// call that needs the token gives up. After 30 s, its future is dropped.
    ///
    /// # Errors
    /// When there is no token. The error becomes the cause of the call's error, so it must not
    /// contain a secret.
    fn token(
        &self,
    ) -> impl Future<Output = Result<AccessToken, Box<dyn StdError + Send + Sync>>> + Send;
}

impl<F, Fut> TokenSource for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<AccessToken, Box<dyn StdError + Send + Sync>>> + Send,
{
    fn token(
        &self,
    ) -> impl Future<Output = Result<AccessToken, Box<dyn StdError + Send + Sync>>> + Send {
        self()
    }
}

/// An access token and its expiry.
#[derive(Clone, Debug)]
#[must_use]
pub struct AccessToken {
    pub(super) token: Secret,
    pub(super) ends: Option<Instant>,
}

impl AccessToken {
    /// A token that is valid until AuthPI refuses it.
    pub fn new(token: impl Into<Secret>) -> Self {
        Self {
            token: token.into(),
            ends: None,
        }
    }

    /// Sets how long the token is valid from now. It is renewed a minute before its expiry, or in
    /// the last fifth of its time if that is shorter.
    pub fn expires_in(mut self, time: Duration) -> Self {
        // A time that is too large for the clock means no expiry.
        self.ends = Instant::now().checked_add(time);
        self
    }

    /// Sets the token's expiry, by this machine's clock. It is renewed as with
    /// [`expires_in`](Self::expires_in).
    pub fn expires_at(self, at: Timestamp) -> Self {
        let left = at.duration_since(Timestamp::now());
        self.expires_in(Duration::try_from(left).unwrap_or(Duration::ZERO))
    }
}

type Asked<'a> =
    Pin<Box<dyn Future<Output = Result<AccessToken, Box<dyn StdError + Send + Sync>>> + Send + 'a>>;

/// Any source of tokens.
#[derive(Clone)]
pub(crate) struct AnySource(Arc<dyn Erased>);

trait Erased: Send + Sync {
    fn token(&self) -> Asked<'_>;
}

impl<S: TokenSource> Erased for S {
    fn token(&self) -> Asked<'_> {
        Box::pin(TokenSource::token(self))
    }
}

pub(super) fn any(source: impl TokenSource) -> AnySource {
    AnySource(Arc::new(source))
}

impl AnySource {
    pub(super) fn token(&self) -> Asked<'_> {
        self.0.token()
    }
}

impl fmt::Debug for AnySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnySource")
    }
}
