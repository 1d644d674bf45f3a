//! A service that can be observed: metrics for Prometheus, logs as JSON, and a readiness probe.
//!
//! ```text
//! cargo run --example observe
//! curl http://127.0.0.1:8080/metrics
//! curl http://127.0.0.1:8080/ready
//! ```
//!
//! It needs no account and no network: an emulated AuthPI delivers an event every second. Some
//! handlers fail, and some payloads do not have the deduced shape. `ops/` has alerts and a dashboard
//! for these metrics.

mod shutdown;

use std::{env, error::Error, time::Duration};

use authpi_emulator::{Emulator, NewEvent};
use authpi_sdk::{
    client::{Client, WebhookSpec},
    event::{
        Event, EventType,
        types::{UserCreated, UserUpdated},
    },
    handlers::{Context, HandlerError, Handlers},
    receiver::Receiver,
    signature::{KeyRing, Secret, Verifier},
    stores::Sqlite,
    telemetry,
};
use axum::{Router, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use tokio::{net::TcpListener, time::interval};
use tracing::Level;

/// Upper bounds in seconds: handlers and calls take milliseconds to seconds; an event may be handled
/// hours after it happened. Without buckets, the exporter makes summaries, which cannot be
/// aggregated.
const BUCKETS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0,
];

/// Installs the recorder of metrics.
fn metrics() -> Result<PrometheusHandle, Box<dyn Error>> {
    let histograms = Matcher::Suffix("_seconds".into());
    let recorder = PrometheusBuilder::new().set_buckets_for_metric(histograms, &BUCKETS)?;
    let handle = recorder.install_recorder()?;
    telemetry::describe_metrics();
    Ok(handle)
}

async fn user_created(event: Event<UserCreated>, cx: Context<Client>) -> authpi_sdk::HandlerResult {
    let user = event.data()?;
    // The call continues the event's trace, if it has one.
    cx.state().events().get(event.id()).await?;
    tracing::info!(has_name = user.username.is_some(), "a user was created");
    Ok(())
}

async fn user_updated(_: Event<UserUpdated>, cx: Context<Client>) -> authpi_sdk::HandlerResult {
    if cx.attempt() == 1 {
        return Err(HandlerError::retryable("the database is away"));
    }
    tracing::info!("a user was updated");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Each line is an object, with the spans around it and their fields.
    tracing_subscriber::fmt()
        .json()
        .with_max_level(Level::INFO)
        .init();
    let metrics = metrics()?;

    let authpi = Emulator::builder()
        .retry_delays([Duration::from_millis(200)])
        .start()
        .await?;
    let client = Client::builder()
        .api_key(authpi.key_id(), Secret::new(authpi.key_secret()))
        .base_url(authpi.base_url())
        .build()?;
    let listener =
        TcpListener::bind(env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into())).await?;
    let address = listener.local_addr()?;
    let spec = WebhookSpec::new("users", format!("http://{address}/hooks/authpi"))
        .events([EventType::UserCreated, EventType::UserUpdated]);
    let secret = client.webhooks().create(&spec).await?.secret;
    let keys = KeyRing::new().with("users", secret.ok_or("AuthPI made no secret")?);

    let handlers = Handlers::new(client).on(user_created).on(user_updated);
    let store = Sqlite::in_memory().await?;
    let hook = Receiver::inline("users", Verifier::authpi(keys), store, handlers)
        .label_event_types([EventType::UserCreated, EventType::UserUpdated])
        .build()?;

    let (probe, rendered) = (hook.clone(), metrics.clone());
    let ready = async move || {
        let health = probe.health().await;
        let status = if health.is_ready() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        (status, health.to_string())
    };
    let app = Router::new()
        .route_service("/hooks/authpi", hook.clone())
        .route("/metrics", get(async move || rendered.render()))
        .route("/ready", get(ready));
    tracing::info!(%address, "listening");
    let stop_requested = shutdown::shutdown_signal();
    let server = axum::serve(listener, app).with_graceful_shutdown(stop_requested);
    let events = async {
        let mut every_second = interval(Duration::from_secs(1));
        for n in 0.. {
            every_second.tick().await;
            // The exporter drops old samples only when it is asked to.
            metrics.run_upkeep();
            let event = match n % 3 {
                0 => NewEvent::new("user.created").copies(2),
                1 => NewEvent::new("user.updated"),
                _ => NewEvent::new("user.created").data(json!({ "username": ["ada"] })),
            };
            if let Err(error) = authpi.trigger(event).await {
                tracing::warn!(%error, "no event was triggered");
            }
        }
    };
    tokio::select! {
        result = server => result?,
        () = events => {}
    }
    hook.drain().await;
    Ok(())
}
