//! The inspector page of the emulator: over HTTP, and in a browser.

mod browser;
mod chromium;
mod http;

use authpi_emulator::{Builder, Emulator};
use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect::Policy};

use crate::emulator::{self, endpoint::Endpoint};

/// An emulator, an endpoint, and a client that sends forms as the page does.
struct Page {
    emulator: Emulator,
    endpoint: Endpoint,
    http: Client,
    /// Without a final slash.
    url: String,
}

impl Page {
    async fn start() -> Self {
        Self::with(Emulator::builder()).await
    }

    /// Nothing changes by itself.
    async fn without_retries() -> Self {
        Self::with(Emulator::builder().retry_delays([])).await
    }

    async fn with(builder: Builder) -> Self {
        // Prepares the TLS provider that reqwest's clients need.
        drop(emulator::http());
        let emulator = builder.start().await.unwrap();
        let url = emulator.inspector_url().unwrap();
        Self {
            url: url.trim_end_matches('/').to_owned(),
            endpoint: Endpoint::start().await,
            http: Client::builder().redirect(Policy::none()).build().unwrap(),
            emulator,
        }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    /// A form of the page.
    fn post(&self, path: &str, form: &[(&str, &str)]) -> RequestBuilder {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        self.http
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("origin", self.emulator.base_url())
            .body(body)
    }

    /// The HTML of a page that exists.
    async fn html(&self, path: &str) -> String {
        let response = self.get(path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.text().await.unwrap()
    }

    /// Creates a webhook for the endpoint. Returns the path of its secrets.
    async fn webhook(&self, auth: &str, events: &[&str]) -> String {
        let url = self.endpoint.url.clone();
        let mut form = vec![("name", "local"), ("url", &url), ("auth", auth)];
        form.extend(events.iter().map(|name| ("events", *name)));
        let created = self.post("/webhooks", &form).send().await.unwrap();
        let path = led_to(&created);
        path.strip_prefix("/_inspector").unwrap().to_owned()
    }
}

/// The target of a redirect.
fn led_to(response: &Response) -> String {
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    response.headers()["location"].to_str().unwrap().to_owned()
}
