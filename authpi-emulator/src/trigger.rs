//! Triggered events: here, or in an emulator in another process.

use std::{fmt, time::Duration};

use authpi_sdk::event::EventType;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Map, Value};
use url::Url;

use crate::faults::{self, FaultPlan};

/// The path of the control endpoint.
pub(crate) const PATH: &str = "/_emulator/events";

/// A new event.
///
/// ```
/// use authpi_emulator::NewEvent;
/// use serde_json::json;
///
/// let event = NewEvent::new("user.created").subject(json!({"user_id": "usr_1"})).copies(2);
/// ```
#[derive(Clone)]
pub struct NewEvent {
    pub(crate) event_type: String,
    pub(crate) subject: Option<Value>,
    pub(crate) data: Option<Value>,
    pub(crate) copies: u32,
    pub(crate) allow_unknown_type: bool,
}

impl NewEvent {
    /// An event of this type, one of the catalogue's 106 such as `user.created` (unless
    /// [`allow_unknown_type`](Self::allow_unknown_type) is called).
    ///
    /// Its subject and data default to the examples of `openapi/events`.
    pub fn new(event_type: impl Into<String>) -> Self {
        let event_type = event_type.into();
        Self {
            event_type,
            subject: None,
            data: None,
            copies: 1,
            allow_unknown_type: false,
        }
    }

    /// Allows a type that is not in the catalogue, such as AuthPI may add one day:
    /// `user.teleported`.
    ///
    /// It is delivered to the webhooks with all events. Without this, it is refused, since it is
    /// usually a typo. Its subject and data are empty by default.
    #[must_use]
    pub fn allow_unknown_type(self) -> Self {
        Self {
            allow_unknown_type: true,
            ..self
        }
    }

    /// Sets whom and what it is about: a JSON object of ids.
    #[must_use]
    pub fn subject(self, subject: Value) -> Self {
        Self {
            subject: Some(subject),
            ..self
        }
    }

    /// Sets its payload: a JSON object.
    #[must_use]
    pub fn data(self, data: Value) -> Self {
        Self {
            data: Some(data),
            ..self
        }
    }

    /// Delivers it this number of times to each webhook, 1 to 1000 (default 1), like a sender that
    /// is not sure of its first attempt.
    #[must_use]
    pub fn copies(self, copies: u32) -> Self {
        Self { copies, ..self }
    }
}

impl fmt::Debug for NewEvent {
    /// Without subject and data, which may be personal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            event_type, copies, ..
        } = self;
        f.debug_struct("NewEvent")
            .field("type", event_type)
            .field("copies", copies)
            .finish_non_exhaustive()
    }
}

impl From<&str> for NewEvent {
    fn from(event_type: &str) -> Self {
        Self::new(event_type)
    }
}

impl From<String> for NewEvent {
    fn from(event_type: String) -> Self {
        Self::new(event_type)
    }
}

impl From<EventType> for NewEvent {
    fn from(event_type: EventType) -> Self {
        Self::new(event_type.as_str())
    }
}

/// Why an event was not created.
#[derive(Debug)]
pub struct TriggerError {
    what: String,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl TriggerError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            cause: None,
        }
    }

    fn caused(
        what: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            what: what.into(),
            cause: Some(cause.into()),
        }
    }
}

impl fmt::Display for TriggerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for TriggerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// An event that has happened in another emulator.
#[derive(Clone)]
#[non_exhaustive]
pub struct Triggered {
    /// The event, as the events API shows it.
    pub event: Value,
    /// The number of its pending deliveries; zero if no active webhook subscribes to it.
    pub deliveries: u64,
}

impl fmt::Debug for Triggered {
    /// Without subject and data, which may be personal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Triggered")
            .field("id", &self.event["id"])
            .field("deliveries", &self.deliveries)
            .finish_non_exhaustive()
    }
}

/// The timeout of a response from another emulator.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// An emulator in another process, called over plain HTTP.
pub struct RemoteEmulator {
    base_url: Url,
    authorization: HeaderValue,
    account_id: Option<String>,
}

impl RemoteEmulator {
    /// The emulator at `base_url`, with the key that it was started with.
    ///
    /// # Errors
    /// If `base_url` is not an `http` URL. AuthPI's own is not, so events cannot be created there.
    pub fn new(base_url: &str, key_id: &str, key_secret: &str) -> Result<Self, TriggerError> {
        let url = Url::parse(base_url)
            .map_err(|error| TriggerError::caused(format!("`{base_url}` is not a URL"), error))?;
        if url.scheme() != "http" {
            return Err(TriggerError::new(format!(
                "{base_url} is not an emulator: emulators use plain http"
            )));
        }
        let mut authorization = HeaderValue::try_from(format!(
            "Basic {}",
            STANDARD.encode(format!("{key_id}:{key_secret}"))
        ))
        .map_err(|error| TriggerError::caused("the key is not a valid header value", error))?;
        authorization.set_sensitive(true);
        Ok(Self {
            base_url: url,
            authorization,
            account_id: None,
        })
    }

    /// Makes the emulator check that it has this account.
    #[must_use]
    pub fn account(self, account_id: impl Into<String>) -> Self {
        Self {
            account_id: Some(account_id.into()),
            ..self
        }
    }

    /// Creates an event.
    ///
    /// # Errors
    /// If the emulator cannot be reached, does not respond within 30 seconds, or refuses, with its
    /// reason.
    pub async fn trigger(&self, event: impl Into<NewEvent>) -> Result<Triggered, TriggerError> {
        let event = event.into();
        let mut body = Map::new();
        body.insert("type".to_owned(), event.event_type.into());
        body.insert("copies".to_owned(), event.copies.into());
        if event.allow_unknown_type {
            body.insert("allow_unknown_type".to_owned(), true.into());
        }
        body.extend(event.subject.map(|subject| ("subject".to_owned(), subject)));
        body.extend(event.data.map(|data| ("data".to_owned(), data)));
        let mut answer = self
            .call(Method::POST, PATH, Some(&Value::Object(body)))
            .await?;
        Ok(Triggered {
            event: answer["data"].take(),
            deliveries: answer["deliveries"].as_u64().unwrap_or_default(),
        })
    }

    /// The present faults.
    ///
    /// # Errors
    /// As for [`trigger`](Self::trigger).
    pub async fn faults(&self) -> Result<FaultPlan, TriggerError> {
        self.plan(Method::GET, None).await
    }

    /// Replaces the faults, and returns them.
    ///
    /// # Errors
    /// As for [`trigger`](Self::trigger); the previous faults then stay.
    pub async fn set_faults(&self, plan: &FaultPlan) -> Result<FaultPlan, TriggerError> {
        let body = serde_json::to_value(plan)
            .map_err(|error| TriggerError::caused("the plan cannot be sent", error))?;
        self.plan(Method::PUT, Some(&body)).await
    }

    /// Removes all faults.
    ///
    /// # Errors
    /// As for [`trigger`](Self::trigger).
    pub async fn clear_faults(&self) -> Result<(), TriggerError> {
        self.plan(Method::DELETE, None).await.map(drop)
    }

    async fn plan(&self, method: Method, body: Option<&Value>) -> Result<FaultPlan, TriggerError> {
        let mut answer = self.call(method, faults::PATH, body).await?;
        serde_json::from_value(answer["data"].take())
            .map_err(|error| TriggerError::caused("the emulator's plan cannot be read", error))
    }

    /// Calls a control endpoint, and returns the response of a success.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, TriggerError> {
        let mut url = self.base_url.clone();
        url.set_path(&format!(
            "{}{path}",
            self.base_url.path().trim_end_matches('/')
        ));
        if let Some(account_id) = &self.account_id {
            url.query_pairs_mut().append_pair("account_id", account_id);
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| TriggerError::caused("cannot call the emulator's address", error))?;
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(request)).await;
        let (status, body) = answered.map_err(|late| {
            TriggerError::caused(format!("{} does not answer", self.base_url), late)
        })??;
        match body["error_description"].as_str() {
            _ if status.is_success() => Ok(body),
            Some(reported) => Err(TriggerError::new(format!(
                "the emulator refused the request ({status}): {reported}"
            ))),
            None => Err(TriggerError::new(format!(
                "{} answers {status}; is it an emulator?",
                self.base_url
            ))),
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Value), TriggerError> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let answer = client.request(request).await.map_err(|error| {
            TriggerError::caused(
                format!("the emulator at {} cannot be reached", self.base_url),
                error,
            )
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), 16 * 1024 * 1024)
            .collect()
            .await;
        let body = body
            .map_err(|error| TriggerError::caused("the emulator's response was cut off", error))?
            .to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

impl fmt::Debug for RemoteEmulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteEmulator")
            .field("base_url", &self.base_url.as_str())
            .finish_non_exhaustive()
    }
}
