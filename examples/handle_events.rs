//! Keeps a table of users in sync with AuthPI.
//!
//! ```text
//! AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example handle_events
//! ```
//!
//! Deliveries arrive at `/hooks/authpi` on `LISTEN` (default 127.0.0.1:8080). The table and the
//! ledger are SQLite files in `DATA_DIR` (default: the current folder). Deliveries arrive in any
//! order, so only newer values are written to a column, and a deleted user stays deleted.

mod shutdown;

use std::{env, path::PathBuf};

use authpi_sdk::{
    event::{
        Event, EventType, KnownEvent,
        payload::User,
        types::{UserCreated, UserDeleted, UserUpdated},
    },
    handlers::{Context, HandlerError, Handlers},
    receiver::Receiver,
    signature::{KeyRing, Secret, Verifier},
    stores::Sqlite,
};
use axum::Router;
use sqlx::{SqlitePool, sqlite::SqliteConnectOptions};
use tokio::net::TcpListener;

/// Each column has the time of the event that wrote it, in Unix microseconds.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY,
    username TEXT,
    username_as_of INTEGER NOT NULL DEFAULT 0,
    status TEXT,
    status_as_of INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0
)";

/// The newer of two writes to a column wins, in whatever order they arrive. An event without a
/// value for a column has the time 0. A deleted user stays deleted.
const PUT: &str = "INSERT INTO users AS u (id, username, username_as_of, status, status_as_of) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET
        username = CASE WHEN excluded.username_as_of < u.username_as_of THEN u.username ELSE excluded.username END,
        username_as_of = max(excluded.username_as_of, u.username_as_of),
        status = CASE WHEN excluded.status_as_of < u.status_as_of THEN u.status ELSE excluded.status END,
        status_as_of = max(excluded.status_as_of, u.status_as_of)
    WHERE NOT u.deleted";

const DELETE: &str = "INSERT INTO users (id, deleted) VALUES (?, 1)
    ON CONFLICT (id) DO UPDATE SET username = NULL, status = NULL, deleted = 1";

async fn put<K: KnownEvent<Data = User>>(
    event: Event<K>,
    cx: Context<SqlitePool>,
) -> authpi_sdk::HandlerResult {
    let user = event.data()?;
    // A member that is absent or has an unexpected type does not change its column. An explicit
    // `null` clears it.
    let as_of = |says: bool| if says { as_of(&event) } else { 0 };
    let (says_username, says_status) = (
        user.username.is_some() || user.extra.is_null("username"),
        user.status.is_some() || user.extra.is_null("status"),
    );
    sqlx::query(PUT)
        .bind(user_id(&event)?)
        .bind(user.username)
        .bind(as_of(says_username))
        .bind(user.status)
        .bind(as_of(says_status))
        .execute(cx.state())
        .await?;
    Ok(())
}

async fn delete(event: Event<UserDeleted>, cx: Context<SqlitePool>) -> authpi_sdk::HandlerResult {
    sqlx::query(DELETE)
        .bind(user_id(&event)?)
        .execute(cx.state())
        .await?;
    Ok(())
}

/// A user's creation precedes all other events, even within the same millisecond.
fn as_of<K: KnownEvent>(event: &Event<K>) -> i64 {
    event.time().as_microsecond() - i64::from(K::TYPE == EventType::UserCreated)
}

fn user_id<K: KnownEvent>(event: &Event<K>) -> authpi_sdk::HandlerResult<&str> {
    event
        .subject()
        .user_id()
        .ok_or_else(|| HandlerError::terminal("the event names no user"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = PathBuf::from(env::var("DATA_DIR").unwrap_or_else(|_| ".".into()));
    let users = SqliteConnectOptions::new()
        .filename(data.join("users.db"))
        .create_if_missing(true);
    let users = SqlitePool::connect_with(users).await?;
    sqlx::query(TABLE).execute(&users).await?;

    let keys = KeyRing::new().with("current", Secret::from_env("AUTHPI_WEBHOOK_SECRET")?);
    let ledger = Sqlite::open(data.join("hooks.db")).await?;
    let handlers = Handlers::new(users)
        .on(put::<UserCreated>)
        .on(put::<UserUpdated>)
        .on(delete);
    let hook = Receiver::inline("users", Verifier::authpi(keys), ledger, handlers).build()?;

    let listener =
        TcpListener::bind(env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into())).await?;
    println!(
        "listening on http://{}/hooks/authpi",
        listener.local_addr()?
    );
    let app = Router::new().route_service("/hooks/authpi", hook.clone());
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown::shutdown_signal())
        .await?;
    hook.drain().await;
    Ok(())
}
