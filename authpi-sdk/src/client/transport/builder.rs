//! The client and its settings, all checked before the first call.

use std::{env, fmt, sync::Arc, time::Duration};

use http::HeaderValue;
use tokio::sync::OnceCell;
use url::{Host, Url};

use super::{
    build_error::BuildError,
    credentials::{Credentials, Given, TokenSource},
    ids,
    retry::{Budget, RetryPolicy, TokenBucket},
    tls,
};
use crate::{generated::api, signature::Secret};

/// The address of AuthPI's API.
pub const DEFAULT_BASE_URL: &str = "https://api.authpi.com";

/// The default time limit of a call, including retries and pauses.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The default time limit of one attempt: a third of [`DEFAULT_TIMEOUT`], so that an attempt that
/// hangs leaves time for two more.
pub const DEFAULT_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit for connecting. It ends before an attempt does, so that an attempt that was never
/// sent is recognized as such.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls AuthPI's API.
///
/// Cheap to clone; clones share connections, the retry budget, tokens, and the account once it is
/// known. It needs a tokio runtime to make calls, but not to be built.
#[derive(Clone)]
pub struct Client(Arc<Settings>);

pub(crate) struct Settings {
    /// The base URL has no trailing slash.
    pub(crate) api: api::Client,
    pub(crate) credentials: Credentials,
    pub(crate) account: OnceCell<Box<str>>,
    pub(crate) timeout: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) budget: Arc<dyn Budget>,
}

impl Client {
    /// A builder with the default settings.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A client configured by the environment: see [`ClientBuilder::from_env`].
    ///
    /// # Errors
    /// When a variable is missing or a setting is invalid.
    pub fn from_env() -> Result<Self, BuildError> {
        ClientBuilder::from_env()?.build()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base_url", &self.0.api.baseurl)
            .field("credential", &self.0.credentials)
            .field("account", &self.0.account.get())
            .field("timeout", &self.0.timeout)
            .field("attempt_timeout", &self.0.attempt_timeout)
            .field("retry", &self.0.retry)
            .field("retry_budget", &self.0.budget)
            .finish_non_exhaustive()
    }
}

/// The settings of a [`Client`]; [`ClientBuilder::build`] checks them.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ClientBuilder {
    credentials: Vec<Given>,
    account: Option<String>,
    base_url: Option<String>,
    plain_http: bool,
    timeout: Option<Duration>,
    attempt_timeout: Option<Duration>,
    retry: RetryPolicy,
    budget: Option<Arc<dyn Budget>>,
    user_agent: Option<String>,
}

impl ClientBuilder {
    /// Reads settings from the environment: `AUTHPI_KEY_ID` and `AUTHPI_KEY_SECRET`, and, if set
    /// and not empty, `AUTHPI_ACCOUNT_ID` and `AUTHPI_BASE_URL`. Settings made afterwards take
    /// precedence.
    ///
    /// The first two names are from AuthPI's documentation; the other two are specific to this SDK.
    /// An access token is not read from the environment, since it is only valid for a short time.
    ///
    /// # Errors
    /// When the key's id or secret is missing, or a variable is not Unicode.
    pub fn from_env() -> Result<Self, BuildError> {
        let key_id = variable("AUTHPI_KEY_ID")?
            .ok_or_else(|| BuildError::new("the environment variable AUTHPI_KEY_ID is not set"))?;
        let secret = Secret::from_env("AUTHPI_KEY_SECRET")
            .map_err(|error| BuildError::new("no API key in the environment").caused_by(error))?;
        let mut builder = Self::default().api_key(key_id, secret);
        builder.account = variable("AUTHPI_ACCOUNT_ID")?;
        builder.base_url = variable("AUTHPI_BASE_URL")?;
        Ok(builder)
    }

    /// Authenticates with an API key: its id (`key_…`) and its secret. An API key acts on one
    /// account.
    pub fn api_key(self, key_id: impl Into<String>, secret: impl Into<Secret>) -> Self {
        self.give(Given::ApiKey(key_id.into(), secret.into()))
    }

    /// Authenticates with an access token or a personal token.
    pub fn access_token(self, token: impl Into<Secret>) -> Self {
        self.give(Given::AccessToken(token.into()))
    }

    /// Authenticates with access tokens from this source. The client requests another token when
    /// the current one is about to expire or is refused (401). A call whose token is refused is
    /// sent once more with the new one.
    pub fn token_source(self, source: impl TokenSource) -> Self {
        self.give(Given::source(source))
    }

    /// A credential of the same kind replaces the previous one. Credentials of different kinds are
    /// an error of `build`.
    fn give(mut self, given: Given) -> Self {
        let kind = std::mem::discriminant(&given);
        self.credentials
            .retain(|other| std::mem::discriminant(other) != kind);
        self.credentials.push(given);
        self
    }

    /// The account (`acc_…`) that calls act on. Default: the credential's only account, which the
    /// first call that needs it looks up with `GET /v1/me`.
    pub fn account(mut self, account_id: impl Into<String>) -> Self {
        self.account = Some(account_id.into());
        self
    }

    /// The address of the API. Default: [`DEFAULT_BASE_URL`]. It must be `https`, or `http` to this
    /// machine (to others with [`allow_plain_http`](Self::allow_plain_http)). It may have a path,
    /// but no user, query or fragment.
    pub fn base_url(mut self, base_url: impl Into<String>) -> Self {
        self.base_url = Some(base_url.into());
        self
    }

    /// Allows a plain `http` base URL on another machine, for an emulator in a container network.
    /// The credential is then sent unencrypted.
    pub fn allow_plain_http(mut self) -> Self {
        self.plain_http = true;
        self
    }

    /// The time limit of a call, including retries and pauses. Default: [`DEFAULT_TIMEOUT`] (30 s).
    /// [`Call::timeout`](crate::client::transport::Call::timeout) sets it for one call.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The time limit of one attempt. Default: [`DEFAULT_ATTEMPT_TIMEOUT`] (10 s), or the rest of
    /// the call's time if that is less. Redeliveries, which wait for an endpoint's answer, have all
    /// of the call's time unless
    /// [`Call::attempt_timeout`](crate::client::transport::Call::attempt_timeout) is set.
    ///
    /// Connecting may take at most 5 s, three quarters of this time limit, or three quarters of
    /// [`timeout`](Self::timeout), whichever is shortest.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// The retry policy. Default: [`RetryPolicy::default`].
    /// [`Call::retry`](crate::client::transport::Call::retry) sets it for one call.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Limits the retries of this client and its clones together. Default: a separate
    /// [`TokenBucket`] for each client. Several clients can share an `Arc` of one budget.
    pub fn retry_budget(mut self, budget: impl Budget) -> Self {
        self.budget = Some(Arc::new(budget));
        self
    }

    /// A suffix for the user agent `authpi-sdk-rust/<version> (<system>; <architecture>)`, such as
    /// `billing/2.1`.
    pub fn user_agent(mut self, suffix: impl Into<String>) -> Self {
        self.user_agent = Some(suffix.into());
        self
    }

    /// Checks the settings and sets up TLS. Sends nothing.
    ///
    /// With the feature `rustls`, the client uses the process's default crypto provider. If there
    /// is none, it installs ring as the default.
    ///
    /// # Errors
    /// - The number of credentials (API key, access token, token source) is not one.
    /// - The credential is invalid: an id that does not start with `key_`, id and secret in the
    ///   wrong order, an empty value, or a value that is not valid in a header.
    /// - The base URL, account id or user agent is invalid, or a timeout is zero.
    /// - The base URL is `https`, and this crate was built without the features `rustls` and
    ///   `native-tls`.
    /// - The base URL is `https`, and the system has no CA certificates.
    pub fn build(self) -> Result<Client, BuildError> {
        let credentials = match &*self.credentials {
            [only] => Credentials::new(only)?,
            [] => {
                return Err(BuildError::new(
                    "no API key, access token or token source was given",
                ));
            }
            [one, other, ..] => {
                return Err(BuildError::new(format!(
                    "both an {one:?} and an {other:?} were given; give one"
                )));
            }
        };
        if let Some(problem) = self.account.as_deref().and_then(ids::problem) {
            return Err(BuildError::new(format!("the account id {problem}")));
        }
        let timeout = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let attempt_timeout = self.attempt_timeout.unwrap_or(DEFAULT_ATTEMPT_TIMEOUT);
        if timeout.is_zero() || attempt_timeout.is_zero() {
            return Err(BuildError::new("the timeout is zero"));
        }
        let base_url = base_url(
            self.base_url.as_deref().unwrap_or(DEFAULT_BASE_URL),
            self.plain_http,
        )?;

        let mut http = reqwest::Client::builder()
            // A redirect would send the credential to an address that is not configured.
            .redirect(reqwest::redirect::Policy::none())
            // Retries are decided by this crate, where errors are typed.
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT.min(timeout.min(attempt_timeout) / 4 * 3))
            .user_agent(user_agent(self.user_agent.as_deref())?);
        if base_url.scheme() == "http" {
            // An emulator must not be reached through a proxy.
            http = http.no_proxy();
        } else {
            http = http.https_only(true);
        }
        let http = tls::set_up(http, base_url.scheme() == "https")?
            .build()
            .map_err(|error| {
                BuildError::new("could not set up the HTTP client").caused_by(error)
            })?;
        Ok(Client(Arc::new(Settings {
            api: api::Client::new_with_client(base_url.as_str().trim_end_matches('/'), http),
            credentials,
            account: OnceCell::new_with(self.account.map(Into::into)),
            timeout,
            attempt_timeout,
            retry: self.retry,
            budget: self
                .budget
                .unwrap_or_else(|| Arc::new(TokenBucket::default())),
        })))
    }
}

fn variable(name: &str) -> Result<Option<String>, BuildError> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(BuildError::new(format!(
            "the environment variable {name} is not Unicode"
        ))),
    }
}

fn base_url(text: &str, plain_http: bool) -> Result<Url, BuildError> {
    // The text is not in the error: it may contain a password.
    let url = Url::parse(text)
        .map_err(|error| BuildError::new("the base URL is not valid").caused_by(error))?;
    let wrong = if !matches!(url.scheme(), "http" | "https") {
        "must be http or https"
    } else if !url.username().is_empty() || url.password().is_some() {
        "must not contain a user name or password"
    } else if url.query().is_some() || url.fragment().is_some() {
        "must not contain a query or fragment"
    } else if url.scheme() == "http" && !plain_http && !is_loopback(&url) {
        "must be https: plain http to another machine sends the credential unencrypted; \
         use `allow_plain_http` to permit it"
    } else {
        return Ok(url);
    };
    Err(BuildError::new(format!("the base URL {wrong}")))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        // By RFC 6761, these names never leave the machine.
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn user_agent(suffix: Option<&str>) -> Result<HeaderValue, BuildError> {
    let mut text = format!(
        "authpi-sdk-rust/{} ({}; {})",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    if let Some(suffix) = suffix.map(str::trim).filter(|suffix| !suffix.is_empty()) {
        text.push(' ');
        text.push_str(suffix);
    }
    if !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err(BuildError::new("the user agent must be printable ASCII"));
    }
    HeaderValue::from_str(&text).map_err(|error| {
        BuildError::new("the user agent is not a valid header value").caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;
    use crate::client::transport::credentials::AccessToken;

    fn local() -> ClientBuilder {
        Client::builder().base_url("http://127.0.0.1:1")
    }

    fn refusal(builder: ClientBuilder) -> String {
        let error = builder.build().unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("very_secret"), "{shown}");
        shown
    }

    #[test]
    fn exactly_one_credential_is_wanted() {
        assert!(refusal(local()).contains("no API key"));
        assert!(
            refusal(
                local()
                    .api_key("key_1", "very_secret")
                    .access_token("very_secret")
            )
            .contains("give one")
        );
        local().api_key("key_1", "s").build().unwrap();
        local().access_token("eyJ.e.s").build().unwrap();
        let source = || async { Ok(AccessToken::new("very_secret")) };
        local().token_source(source).build().unwrap();
        assert!(
            refusal(local().token_source(source).api_key("key_1", "very_secret"))
                .contains("give one")
        );
        local()
            .api_key("key_1", "")
            .api_key("key_1", "s")
            .build()
            .expect("what was given again replaces the first");
    }

    #[test]
    fn swapped_and_missing_halves_of_an_api_key_are_refused() {
        assert!(refusal(local().api_key("very_secret", "key_1")).contains("swapped"));
        assert!(
            refusal(local().api_key("very_secret", "very_secret")).contains("must start with key_")
        );
        assert!(refusal(local().api_key("key_1", "")).contains("empty"));
        assert!(refusal(local().api_key("", "very_secret")).contains("empty"));
        assert!(refusal(local().api_key("key_:1", "very_secret")).contains("colon"));
        assert!(refusal(local().api_key("key_1", "very_secret\n")).contains("control characters"));
        assert!(refusal(local().access_token("very_secret\n")).contains("white space"));
        assert!(refusal(local().access_token("")).contains("empty"));
        assert!(refusal(local().access_token("key_1")).contains("an API key's id"));
    }

    #[test]
    fn a_base_url_is_normalised_and_one_that_leaks_or_misleads_is_refused() {
        let built = |url: &str| {
            local()
                .base_url(url)
                .api_key("key_1", "s")
                .build()
                .map(|c| c.settings().api.baseurl.clone())
        };
        assert_eq!(
            built("http://LOCALHOST:8080").unwrap(),
            "http://localhost:8080"
        );
        assert_eq!(built("http://[::1]:80/").unwrap(), "http://[::1]");
        assert_eq!(
            built("http://127.8.8.8/a/b//").unwrap(),
            "http://127.8.8.8/a/b"
        );
        for bad in [
            "",
            "api.authpi.com",
            "ftp://localhost",
            "http://user:very_secret@localhost",
            "http://localhost?x=very_secret",
            "http://localhost#f",
            "http://example.com",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "http://",
        ] {
            refusal(local().base_url(bad).api_key("key_1", "s"));
        }
        local()
            .base_url("http://emulator:4010")
            .allow_plain_http()
            .api_key("key_1", "s")
            .build()
            .unwrap();
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let keyed = || local().api_key("key_1", "very_secret");
        for id in ["", "..", "a/b"] {
            refusal(keyed().account(id));
        }
        refusal(keyed().timeout(Duration::ZERO));
        refusal(keyed().attempt_timeout(Duration::ZERO));
        refusal(keyed().user_agent("naïve"));
        refusal(keyed().user_agent("a\r\nx: y"));
        keyed()
            .timeout(Duration::MAX)
            .user_agent("billing/2.1")
            .build()
            .unwrap();
    }

    #[test]
    fn no_credential_is_in_the_debug_output_of_a_client_or_its_builder() {
        let builder = local().api_key("key_1", "very_secret");
        let shown = format!(
            "{builder:?}{:?}{:?}",
            builder.clone().build().unwrap(),
            local().access_token("very_secret")
        );
        let basic = base64::engine::general_purpose::STANDARD.encode("key_1:very_secret");
        assert!(
            !shown.contains("very_secret") && !shown.contains(&basic),
            "{shown}"
        );
    }

    #[cfg(not(any(feature = "rustls", feature = "native-tls")))]
    #[test]
    fn https_without_a_tls_feature_is_refused_and_names_the_features() {
        let shown = refusal(Client::builder().api_key("key_1", "very_secret"));
        assert!(
            shown.contains("rustls") && shown.contains("native-tls"),
            "{shown}"
        );
    }

    /// A proxy that answers `CONNECT` with this, and counts connections.
    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    async fn proxy(reply: &'static [u8]) -> (String, Arc<std::sync::atomic::AtomicU32>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n")
                    && connection.read_buf(&mut head).await.unwrap() > 0
                {}
                assert!(
                    head.starts_with(b"CONNECT authpi.invalid:443 "),
                    "{}",
                    String::from_utf8_lossy(&head)
                );
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                connection.write_all(reply).await.unwrap();
            }
        });
        (address, asked)
    }

    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    #[tokio::test]
    async fn proxy_failures_are_retried_and_reported_as_such() {
        use std::sync::atomic::Ordering;

        use crate::client::transport::retry::{ExponentialBackoff, RetryStop};

        let nothing = Duration::ZERO;
        let policy = RetryPolicy::default()
            .max_attempts(3)
            .backoff(ExponentialBackoff::new(nothing, nothing));
        let builder = Client::builder()
            .base_url("https://authpi.invalid/")
            .api_key("key_1", "very_secret")
            .account("acc_1");
        for (reply, attempts, why, reported) in [
            (
                &b"HTTP/1.1 502 Bad Gateway\r\n\r\n"[..],
                3,
                RetryStop::Attempts,
                "the proxy rejected CONNECT",
            ),
            (
                b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy",
                3,
                RetryStop::Attempts,
                "or closed the connection",
            ),
            (b"", 3, RetryStop::Attempts, "or closed the connection"),
            (
                b"HTTP/1.1 20",
                3,
                RetryStop::Attempts,
                "or closed the connection",
            ),
            // It opens the tunnel, but there is no server behind it.
            (
                b"HTTP/1.1 200 OK\r\n\r\n",
                3,
                RetryStop::Attempts,
                "could not connect to authpi.invalid:443",
            ),
            (
                b"HTTP/1.1 407 Who\r\n\r\n",
                1,
                RetryStop::Permanent,
                "the proxy requires credentials (407)",
            ),
        ] {
            let (address, asked) = proxy(reply).await;
            let mut client = builder.clone().retry(policy.clone()).build().unwrap();
            let http = reqwest::Client::builder().proxy(reqwest::Proxy::https(address).unwrap());
            let http = tls::set_up(http, true).unwrap().build().unwrap();
            Arc::get_mut(&mut client.0)
                .expect("it is not shared yet")
                .api
                .client = http;
            let error = client.webhooks().list().await.unwrap_err();
            let shown = error.to_string();
            assert!(
                error.is_connect() && !error.may_have_run() && shown.contains(reported),
                "{shown} {error:?}"
            );
            assert!(
                shown.contains("could not connect to authpi.invalid:443")
                    && !shown.contains("very_secret"),
                "{shown}"
            );
            assert_eq!(
                (error.attempts(), error.retry_stop()),
                (attempts, Some(why)),
                "{shown} {error:?}"
            );
            assert_eq!(asked.load(Ordering::SeqCst), attempts, "{shown}");
        }
        // A proxy that does not exist.
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let mut client = builder.retry(policy).build().unwrap();
        let http = reqwest::Client::builder()
            .proxy(reqwest::Proxy::https(format!("http://{gone}")).unwrap());
        Arc::get_mut(&mut client.0)
            .expect("it is not shared yet")
            .api
            .client = tls::set_up(http, true).unwrap().build().unwrap();
        let error = client.webhooks().list().await.unwrap_err();
        assert!(
            error.attempts() == 3 && error.to_string().contains("could not reach the proxy"),
            "{error} {error:?}"
        );
    }

    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    #[test]
    fn a_client_for_authpi_itself_is_built_with_tls() {
        Client::builder().api_key("key_1", "s").build().unwrap();
    }
}
