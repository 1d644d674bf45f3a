//! Keeps a table of users in a Postgres database in sync with AuthPI, applying each event exactly
//! once.
//!
//! ```text
//! DATABASE_URL=postgres://… AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example sync_users_postgres
//! ```
//!
//! A handler's writes in its `Tx` and the ledger's record commit together. You can run any number
//! of copies of this program, kill them at any time, and have every delivery sent twice:
//! `users.events` counts each event once, which an upsert alone cannot guarantee. Deliveries arrive
//! in any order, so only newer values are written to a column, and a deleted user stays deleted.
//!
//! Deliveries arrive at `/hooks/authpi` on `LISTEN` (default 127.0.0.1:8080). On SIGTERM and
//! Ctrl-C, the program completes the deliveries in progress, then ends.

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

/// Each column has the time of the event that wrote it, in Unix microseconds. (A real service would
/// use migrations, which do not race when several copies start.)
const TABLE: &str = "CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY,
    username TEXT,
    username_as_of BIGINT NOT NULL DEFAULT 0,
    status TEXT,
    status_as_of BIGINT NOT NULL DEFAULT 0,
    deleted BOOLEAN NOT NULL DEFAULT false,
    events BIGINT NOT NULL DEFAULT 0    -- how many there were about this user
)";

/// The newer of two writes to a column wins, in whatever order they arrive. An event without a
/// value for a column has the time 0. A deleted user stays deleted.
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
    // A member that is absent or has an unexpected type does not change its column. An explicit
    // `null` clears it.
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
    // The SDK commits. An error, here or above, rolls everything back, and AuthPI delivers the
    // event again.
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
    // The ledger's tables are in the same database, and share the pool. `test_before_acquire` would
    // add a round trip to each operation.
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
        // A handler uses a connection while it runs; four are left for claims.
        .max_in_flight(16)
        // The handlers are fast, so a short lease lets a restart continue soon.
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
