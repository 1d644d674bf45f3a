//! The cost of an inbox: appends per second beside the same hand-written operation with the same
//! driver on the same server, and the time from an append to its handler. SQLite and Postgres flush
//! acknowledged events to the disk. JetStream 2.9 cannot, so its stream survives a crash of the
//! server, but not of its host.

mod latency;
mod nats;
mod postgres;
#[path = "../../../../tests/it/servers/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    clippy::all,
    clippy::pedantic,
    reason = "the tests' servers, of which a part is used"
)]
mod servers;

use std::sync::Arc;

use authpi_sdk::{
    event::types::UserUpdated,
    ledger::{Appended, Digest, EventKey, Inbox},
    stores::Sqlite,
    testing::Fixture,
};
use benches::{
    Made,
    rate::{Compared, Each, shown},
    sqlite, write_json,
};
use bytes::Bytes;
use latency::Latency;
use serde::Serialize;
use servers::{nats::NatsServer, postgres::PostgresServer};

#[derive(Serialize)]
struct Figures {
    made: Made,
    appends: Vec<Compared>,
    latency: Vec<Latency>,
}

#[tokio::main]
async fn main() {
    let made = Made::here(&["authpi-sdk", "sqlx", "async-nats"]);
    println!("{made}");
    let (postgres, nats) = (
        PostgresServer::start_with(&["-c", "fsync=on"]).await,
        NatsServer::start().await,
    );
    let mut appends = postgres::measure(&postgres).await;
    appends.extend(nats::measure(&nats).await);
    println!(
        "appends of 1 KiB (SQLite's are in `bench ledger`)\n\n{}",
        shown(&appends)
    );

    let file = sqlite::File::new(&sqlite::folder());
    let latency = vec![
        latency::measure(
            "SQLite",
            Sqlite::open(&file.0).await.expect("the inbox opens"),
            None,
        )
        .await,
        latency::measure(
            "Postgres, another pool",
            postgres::inbox(&postgres).await,
            Some(postgres::inbox(&postgres).await),
        )
        .await,
        latency::measure(
            "NATS, another connection",
            nats::inbox(&nats).await,
            Some(nats::inbox(&nats).await),
        )
        .await,
    ];
    println!(
        "from the beginning of an append to its handler\n\n{}",
        latency::shown(&latency)
    );
    write_json(
        "inbox",
        &Figures {
            made,
            appends,
            latency,
        },
    );
}

fn key(n: usize) -> EventKey {
    EventKey::new("users", event_id(n))
}

fn event_id(n: usize) -> String {
    format!("evt_{n:026}")
}

/// A delivery of about 1 KiB.
fn body(event_id: &str) -> Bytes {
    let fixture = Fixture::of::<UserUpdated>().id(event_id);
    let missing = 1024_usize.saturating_sub(
        fixture
            .clone()
            .data(serde_json::json!({ "filler": "" }))
            .body()
            .len(),
    );
    fixture
        .data(serde_json::json!({ "filler": "x".repeat(missing) }))
        .body()
}

fn ours(name: &'static str, inbox: impl Inbox) -> Each {
    let inbox = Arc::new(inbox);
    Each::new(name, move |n| {
        let inbox = Arc::clone(&inbox);
        async move {
            let body = body(&event_id(n));
            let appended = inbox
                .append(&key(n), Digest::from_bytes([0; 16]), None, body)
                .await
                .expect("the store answers");
            assert_eq!(appended, Appended::Stored);
        }
    })
}
