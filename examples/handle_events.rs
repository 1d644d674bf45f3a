//! Keeps a table of users in step with AuthPI.
//!
//! ```text
//! AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example handle_events
//! ```
//!
//! Deliveries go to `/hooks/authpi` at `LISTEN` (127.0.0.1:8080 unless set); the table and the ledger are SQLite files in
//! `DATA_DIR` (this folder unless set). Deliveries may come out of order, so a row is written only by what is newer, and a
//! deleted user is remembered as such.

use std::{env, path::PathBuf};

use authpi_sdk::{
    event::{
        Event, KnownEvent,
        payload::User,
        types::{UserCreated, UserDeleted, UserUpdated},
    },
    handlers::{Context, HandlerError, Handlers},
    ledger::Sqlite,
    receiver::Receiver,
    signature::{KeyRing, Secret, Verifier},
};
use axum::Router;
use sqlx::{SqlitePool, sqlite::SqliteConnectOptions};
use tokio::{net::TcpListener, signal};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS users
    (id TEXT PRIMARY KEY, username TEXT, status TEXT, deleted INTEGER NOT NULL DEFAULT 0, as_of INTEGER NOT NULL)";

/// Of two writes about one user the newer wins, whichever came first; after a deletion none does.
const PUT: &str = "INSERT INTO users (id, username, status, as_of) VALUES (?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET username = excluded.username, status = excluded.status, as_of = excluded.as_of
    WHERE excluded.as_of >= users.as_of AND NOT users.deleted";

const DELETE: &str = "INSERT INTO users (id, deleted, as_of) VALUES (?, 1, ?)
    ON CONFLICT (id) DO UPDATE SET username = NULL, status = NULL, deleted = 1, as_of = excluded.as_of";

async fn put<K: KnownEvent<Data = User>>(event: Event<K>, cx: Context<SqlitePool>) -> authpi_sdk::Result {
    let user = event.data()?;
    sqlx::query(PUT)
        .bind(user_id(&event)?)
        .bind(user.username)
        .bind(user.status)
        .bind(event.time().as_millisecond())
        .execute(&*cx.state)
        .await?;
    Ok(())
}

async fn delete(event: Event<UserDeleted>, cx: Context<SqlitePool>) -> authpi_sdk::Result {
    sqlx::query(DELETE).bind(user_id(&event)?).bind(event.time().as_millisecond()).execute(&*cx.state).await?;
    Ok(())
}

fn user_id<K: KnownEvent>(event: &Event<K>) -> authpi_sdk::Result<&str> {
    event.subject().user_id().ok_or_else(|| HandlerError::terminal("the event names no user"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = PathBuf::from(env::var("DATA_DIR").unwrap_or_else(|_| ".".into()));
    let users = SqliteConnectOptions::new().filename(data.join("users.db")).create_if_missing(true);
    let users = SqlitePool::connect_with(users).await?;
    sqlx::query(TABLE).execute(&users).await?;

    let keys = KeyRing::new().with("current", Secret::from_env("AUTHPI_WEBHOOK_SECRET")?);
    let ledger = Sqlite::open(data.join("hooks.db")).await?;
    let handlers = Handlers::new(users).on(put::<UserCreated>).on(put::<UserUpdated>).on(delete);
    let hook = Receiver::inline("users", Verifier::authpi(keys), ledger, handlers).build()?;

    let listener = TcpListener::bind(env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into())).await?;
    println!("listening on http://{}/hooks/authpi", listener.local_addr()?);
    let app = Router::new().route_service("/hooks/authpi", hook.clone());
    axum::serve(listener, app).with_graceful_shutdown(stop()).await?;
    hook.drain().await;
    Ok(())
}

/// Ctrl-C, or the SIGTERM with which service managers and Kubernetes end a process.
async fn stop() {
    #[cfg(unix)]
    if let Ok(mut told) = signal::unix::signal(signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = told.recv() => {}
            _ = signal::ctrl_c() => {}
        }
        return;
    }
    // Without the signal there is nothing to wait for.
    let _ = signal::ctrl_c().await;
}
