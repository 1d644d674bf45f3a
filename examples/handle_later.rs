//! Writes an audit log of all events, after the delivery has been acknowledged.
//!
//! ```text
//! AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example handle_later
//! ```
//!
//! The receiver responds as soon as a delivery is stored. The worker writes the log, each user's
//! events in their order of arrival. You can kill the program at any time: after the next start,
//! every acknowledged event is in the log. (An event may then be written twice, which the log's key
//! makes harmless.) The settings are those of `handle_events`.

mod shutdown;

use std::{env, path::PathBuf, time::Duration};

use authpi_sdk::{
    event::{Event, Subject},
    handlers::{Context, Handlers},
    receiver::Receiver,
    signature::{KeyRing, Secret, Verifier},
    stores::Sqlite,
    worker::Worker,
};
use axum::Router;
use sqlx::{SqlitePool, sqlite::SqliteConnectOptions};
use tokio::{net::TcpListener, sync::watch};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS audit
    (event_id TEXT PRIMARY KEY, event_type TEXT NOT NULL, happened_at INTEGER NOT NULL, event TEXT NOT NULL)";

const PUT: &str = "INSERT INTO audit (event_id, event_type, happened_at, event) VALUES (?, ?, ?, ?)
    ON CONFLICT (event_id) DO NOTHING";

async fn write(event: Event, cx: Context<SqlitePool>) -> authpi_sdk::HandlerResult {
    sqlx::query(PUT)
        .bind(event.id())
        .bind(event.event_type().as_str())
        .bind(event.time().as_millisecond())
        .bind(event.raw())
        .execute(cx.state())
        .await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = PathBuf::from(env::var("DATA_DIR").unwrap_or_else(|_| ".".into()));
    let audit = SqliteConnectOptions::new()
        .filename(data.join("audit.db"))
        .create_if_missing(true);
    let audit = SqlitePool::connect_with(audit).await?;
    sqlx::query(TABLE).execute(&audit).await?;

    let keys = KeyRing::new().with("current", Secret::from_env("AUTHPI_WEBHOOK_SECRET")?);
    let store = Sqlite::open(data.join("hooks.db")).await?;
    let hook = Receiver::inbox("audit", Verifier::authpi(keys), store.clone())
        .ordered_by(Subject::user_id)
        .build()?;
    // The handler is fast, so a short lease lets a restart continue soon.
    let lease = Duration::from_secs(2);
    let worker = Worker::builder("audit", store, Handlers::new(audit).fallback(write))
        .lease(lease)
        .build()?;

    let listener =
        TcpListener::bind(env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into())).await?;
    println!(
        "listening on http://{}/hooks/authpi",
        listener.local_addr()?
    );
    let stop_requested = shutdown::shutdown_signal();
    let (stop, stopped) = watch::channel(());
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move {
            // Resolves when the sender is dropped.
            let _ = stopped.changed().await;
        }
    };
    let app = Router::new().route_service("/hooks/authpi", hook.clone());
    let server = axum::serve(listener, app).with_graceful_shutdown(until_stopped());
    let (result, (), ()) =
        tokio::join!(async { server.await }, worker.run(until_stopped()), async {
            stop_requested.await;
            drop(stop);
        });
    hook.drain().await;
    Ok(result?)
}
