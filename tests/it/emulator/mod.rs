//! The emulator over HTTP, rule by rule.
//!
//! The emulator checks each of its responses against `openapi/authpi.yaml`, and returns 500 on a
//! violation, so each of these tests checks that as well.

mod api;
mod deliveries;
pub(crate) mod endpoint;
mod faults;
mod idempotency;
mod lifecycle;
mod state_file;

use authpi_emulator::{Builder, Emulator, EmulatorClock};
use jiff::Timestamp;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

/// Noon UTC on some day, in Unix milliseconds, for manual clocks.
const NOON: i64 = 1_763_899_200_000;

/// An emulator and a client of its account.
struct Authpi {
    emulator: Emulator,
    http: Client,
}

/// A complete response.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

/// The SDK's feature `rustls` enables reqwest's without a provider, and then every reqwest client
/// needs one.
pub(crate) fn http() -> Client {
    // An error means that another test has done this already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

impl Authpi {
    async fn start() -> Self {
        Self::with(Emulator::builder()).await
    }

    async fn with(builder: Builder) -> Self {
        Self {
            emulator: builder.start().await.unwrap(),
            http: http(),
        }
    }

    /// With a clock that stands still.
    async fn at_noon(builder: Builder) -> Self {
        Self::with(builder.clock(EmulatorClock::manual(
            Timestamp::from_millisecond(NOON).unwrap(),
        )))
        .await
    }

    /// A request without credentials.
    fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.emulator.base_url()))
    }

    /// A request with the API key; `path` is within the account.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let path = format!("/v1/accounts/{}{path}", self.emulator.account_id());
        self.anonymous(method, &path)
            .basic_auth(self.emulator.key_id(), Some(self.emulator.key_secret()))
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    async fn patch(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::PATCH, path).json(body)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    /// Creates a webhook with a signature; returns its id and its secret.
    async fn webhook(&self, url: &str, events: &[&str]) -> (String, String) {
        let body =
            json!({"name": "test", "url": url, "auth": {"type": "signature"}, "events": events});
        let made = self
            .post("/webhooks", &body)
            .await
            .expect(StatusCode::CREATED);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (
            text(&made["data"]["id"]),
            text(&made["data"]["auth"]["signature_secret_plain"]),
        )
    }

    /// The only delivery of a webhook.
    async fn delivery(&self, webhook_id: &str) -> Value {
        let page = self
            .get(&format!("/webhooks/{webhook_id}/deliveries"))
            .await
            .expect(StatusCode::OK);
        match page["data"].as_array().unwrap().as_slice() {
            [only] => only.clone(),
            several => panic!("there are {} deliveries", several.len()),
        }
    }
}

impl Answer {
    async fn of(request: RequestBuilder) -> Self {
        Self::read(request.send().await.unwrap()).await
    }

    async fn read(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap()
        };
        Self {
            status,
            headers,
            body,
        }
    }

    /// The body, if the status is `status`.
    #[track_caller]
    fn expect(self, status: StatusCode) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// Checks AuthPI's error envelope; returns the names of its fields.
    #[track_caller]
    fn refused(&self, status: u16, error: &str) -> Vec<&str> {
        assert_eq!(
            (self.status.as_u16(), &self.body["error"]),
            (status, &json!(error)),
            "{}",
            self.body
        );
        assert!(
            self.body["error_description"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{}",
            self.body
        );
        assert!(
            self.body["retryable"].is_boolean() && self.body["reference"].is_string(),
            "{}",
            self.body
        );
        let fields = self.body["fields"].as_array().into_iter().flatten();
        fields
            .map(|field| field["field"].as_str().unwrap())
            .collect()
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(|value| value.to_str().unwrap())
            .unwrap_or_default()
    }

    fn etag(&self) -> &str {
        self.header("etag")
    }
}

/// A page's ids.
fn ids(page: &Value) -> Vec<String> {
    page["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}
