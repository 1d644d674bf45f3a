//! Keeps a table of users in a Postgres database in step with AuthPI, each event applied exactly once.
//!
//! ```text
//! DATABASE_URL=postgres://… AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example sync_users_postgres
//! ```
//!
//! What a handler writes in its `Tx` and the ledger's record that the event was handled commit together. Run as many of this
//! program as you like, kill them whenever you like, have every delivery sent twice: `users.events` counts each event once, which no
//! upsert could do by itself. Deliveries may come out of order, so a row takes only what is newer, and a deleted user stays deleted.
//!
//! Deliveries go to `/hooks/authpi` at `LISTEN` (127.0.0.1:8080 unless set). On SIGTERM and Ctrl-C it finishes what it has begun, and
//! ends.

use std::{env, time::Duration};

use authpi_sdk::{
    event::{
        Event, KnownEvent,
        payload::User,
        types::{UserCreated, UserDeleted, UserUpdated},
    },
    handlers::{Context, HandlerError, Handlers},
    ledger::{Postgres, Tx},
    receiver::Receiver,
    signature::{KeyRing, Secret, Verifier},
};
use axum::Router;
use sqlx::postgres::PgPoolOptions;
use tokio::{
    net::TcpListener,
    select,
    signal::unix::{SignalKind, signal},
};

/// (A service has migrations for this, which do not race when several of it start at once.)
const TABLE: &str = "CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY,
    username TEXT,
    status TEXT,
    deleted BOOLEAN NOT NULL DEFAULT false,
    as_of BIGINT NOT NULL,              -- Unix ms: when what the row says happened
    events BIGINT NOT NULL DEFAULT 0    -- how many there were about this user
)";

/// Of two writes about one user the newer wins, whichever came first; after a deletion none does.
const PUT: &str = "INSERT INTO users (id, username, status, as_of) VALUES ($1, $2, $3, $4)
    ON CONFLICT (id) DO UPDATE SET username = excluded.username, status = excluded.status, as_of = excluded.as_of
    WHERE excluded.as_of >= users.as_of AND NOT users.deleted";

const DELETE: &str = "INSERT INTO users (id, deleted, as_of) VALUES ($1, true, $2)
    ON CONFLICT (id) DO UPDATE SET username = NULL, status = NULL, deleted = true, as_of = excluded.as_of";

const COUNT: &str = "UPDATE users SET events = events + 1 WHERE id = $1";

async fn put<K: KnownEvent<Data = User>>(
    event: Event<K>,
    _cx: Context<()>,
    mut tx: Tx<Postgres>,
) -> authpi_sdk::Result {
    let (id, user) = (user_id(&event)?, event.data()?);
    sqlx::query(PUT)
        .bind(id)
        .bind(user.username)
        .bind(user.status)
        .bind(event.time().as_millisecond())
        .execute(&mut *tx)
        .await?;
    sqlx::query(COUNT).bind(id).execute(&mut *tx).await?;
    // The SDK commits. An error, here or above, would have undone everything, and the event would be delivered again.
    Ok(())
}

async fn delete(event: Event<UserDeleted>, _cx: Context<()>, mut tx: Tx<Postgres>) -> authpi_sdk::Result {
    let id = user_id(&event)?;
    sqlx::query(DELETE).bind(id).bind(event.time().as_millisecond()).execute(&mut *tx).await?;
    sqlx::query(COUNT).bind(id).execute(&mut *tx).await?;
    Ok(())
}

fn user_id<K: KnownEvent>(event: &Event<K>) -> authpi_sdk::Result<&str> {
    event.subject().user_id().ok_or_else(|| HandlerError::terminal("the event names no user"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Before anything else, so that there is no moment at which a signal ends the program midway.
    let stop = stop()?;
    // The ledger's tables lie beside ours, and one pool serves both. `test_before_acquire` would be a round trip more per step.
    let url = env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?;
    let pool = PgPoolOptions::new().max_connections(20).test_before_acquire(false).connect(&url).await?;
    sqlx::query(TABLE).execute(&pool).await?;
    let ledger = Postgres::open(pool).await?;

    let keys = KeyRing::new().with("current", Secret::from_env("AUTHPI_WEBHOOK_SECRET")?);
    let handlers = Handlers::new(()).on_tx(put::<UserCreated>).on_tx(put::<UserUpdated>).on_tx(delete);
    let hook = Receiver::inline("users", Verifier::authpi(keys), ledger, handlers)
        // A handler has a connection for as long as it runs; four are left for claims.
        .max_in_flight(16)
        // The handlers are quick, so what a crash leaves behind may be taken up again soon.
        .lease(Duration::from_secs(2))
        .build()?;

    let listener = TcpListener::bind(env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into())).await?;
    println!("listening on http://{}/hooks/authpi", listener.local_addr()?);
    let app = Router::new().route_service("/hooks/authpi", hook.clone());
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    hook.drain().await;
    Ok(())
}

/// Resolves on Ctrl-C and on SIGTERM, by which Docker, Kubernetes and systemd ask a service to end.
fn stop() -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
