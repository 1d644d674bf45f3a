//! Keeps a table of users in a Postgres database in step with AuthPI, each event applied exactly
//! once.
//!
//! ```text
//! DATABASE_URL=postgres://… AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example sync_users_postgres
//! ```
//!
//! What a handler writes in its `Tx` and the ledger's record that the event was handled commit
//! together. Run as many of this program as you like, kill them whenever you like, have every
//! delivery sent twice: `users.events` counts each event once, which no upsert could do by itself.
//! Deliveries come in any order, so a column takes only what is newer, and a deleted user stays
//! deleted.
//!
//! Deliveries go to `/hooks/authpi` at `LISTEN` (127.0.0.1:8080 unless set). On SIGTERM and Ctrl-C
//! it finishes what it has begun, and ends.

mod shutdown;

use std::{env, time::Duration};

use authpi_sdk::{
    event::{
        Event, EventType, KnownEvent,
        payload::User,
        types::{UserCreated, UserDeleted, UserUpdated},
    },
    handlers::{Context, HandlerError, Handlers},
    ledger::Tx,
    receiver::Receiver,
    signature::{KeyRing, Secret, Verifier},
    stores::Postgres,
};
use axum::Router;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;

/// Each column has the time of the event that wrote it, in Unix microseconds. (A service has
/// migrations for this, which do not race when several of it start at once.)
const TABLE: &str = "CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY,
    username TEXT,
    username_as_of BIGINT NOT NULL DEFAULT 0,
    status TEXT,
    status_as_of BIGINT NOT NULL DEFAULT 0,
    deleted BOOLEAN NOT NULL DEFAULT false,
    events BIGINT NOT NULL DEFAULT 0    -- how many there were about this user
)";

/// Of two writes of a column the newer wins, whichever came first; an event that says nothing about
/// a column has 0 as its time. A deleted user stays deleted.
const PUT: &str =
    "INSERT INTO users AS u (id, username, username_as_of, status, status_as_of) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (id) DO UPDATE SET
        username = CASE WHEN excluded.username_as_of < u.username_as_of THEN u.username ELSE excluded.username END,
        username_as_of = greatest(excluded.username_as_of, u.username_as_of),
        status = CASE WHEN excluded.status_as_of < u.status_as_of THEN u.status ELSE excluded.status END,
        status_as_of = greatest(excluded.status_as_of, u.status_as_of)
    WHERE NOT u.deleted";

const DELETE: &str = "INSERT INTO users (id, deleted) VALUES ($1, true)
    ON CONFLICT (id) DO UPDATE SET username = NULL, status = NULL, deleted = true";

const COUNT: &str = "UPDATE users SET events = events + 1 WHERE id = $1";

async fn put<K: KnownEvent<Data = User>>(
    event: Event<K>,
    _cx: Context<()>,
    mut tx: Tx<Postgres>,
) -> authpi_sdk::HandlerResult {
    let (id, user) = (user_id(&event)?, event.data()?);
    // A member that is absent or of another shape says nothing about its column; an explicit `null`
    // clears it.
    let as_of = |says: bool| if says { as_of(&event) } else { 0 };
    let (says_username, says_status) = (
        user.username.is_some() || user.extra.is_null("username"),
        user.status.is_some() || user.extra.is_null("status"),
    );
    sqlx::query(PUT)
        .bind(id)
        .bind(user.username)
        .bind(as_of(says_username))
        .bind(user.status)
        .bind(as_of(says_status))
        .execute(&mut *tx)
        .await?;
    sqlx::query(COUNT).bind(id).execute(&mut *tx).await?;
    // The SDK commits. An error, here or above, would have undone everything, and the event would
    // be delivered again.
    Ok(())
}

async fn delete(
    event: Event<UserDeleted>,
    _cx: Context<()>,
    mut tx: Tx<Postgres>,
) -> authpi_sdk::HandlerResult {
    let id = user_id(&event)?;
    sqlx::query(DELETE).bind(id).execute(&mut *tx).await?;
    sqlx::query(COUNT).bind(id).execute(&mut *tx).await?;
    Ok(())
}

/// A user is created before anything else happens to them, also where two events are of the same
/// millisecond.
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
    // The ledger's tables lie beside ours, and one pool serves both. `test_before_acquire` would be
    // a round trip more per step.
    let url = env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?;
    let pool = PgPoolOptions::new()
        .max_connections(20)
        .test_before_acquire(false)
        .connect(&url)
        .await?;
    sqlx::query(TABLE).execute(&pool).await?;
    let ledger = Postgres::open(pool).await?;

    let keys = KeyRing::new().with("current", Secret::from_env("AUTHPI_WEBHOOK_SECRET")?);
    let handlers = Handlers::new(())
        .on_tx(put::<UserCreated>)
        .on_tx(put::<UserUpdated>)
        .on_tx(delete);
    let hook = Receiver::inline("users", Verifier::authpi(keys), ledger, handlers)
        // A handler has a connection for as long as it runs; four are left for claims.
        .max_in_flight(16)
        // The handlers are quick, so what a crash leaves behind may be taken up again soon.
        .lease(Duration::from_secs(2))
        .build()?;

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
