//! The cost of a ledger: memory per event in the memory ledger, and claim + complete in each store
//! beside the same hand-written work with the same driver on the same durable server.

mod memory;
mod postgres;
mod redis;
#[path = "../../../../tests/it/servers/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    clippy::all,
    clippy::pedantic,
    reason = "the tests' servers, of which a part is used"
)]
mod servers;

use std::{sync::Arc, time::Duration};

use authpi_sdk::ledger::{Claim, Completion, Digest, EventKey, LeaseStatus, Ledger};
use benches::{
    Made, quick,
    rate::{Compared, Each, shown},
    sqlite, write_json,
};
use serde::Serialize;

const LEASE: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Figures {
    made: Made,
    memory: Vec<memory::Remembered>,
    stores: Vec<Compared>,
    sqlite: Vec<sqlite::Figures>,
}

fn main() {
    if memory::is_asked() {
        return memory::answer();
    }
    let made = Made::here(&["authpi-sdk", "sqlx", "redis"]);
    println!("{made}");
    let memory = memory::measure();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (stores, sqlite) = runtime.block_on(async {
        let mut stores = postgres::measure().await;
        stores.extend(redis::measure().await);
        (stores, sqlite::measure(&sqlite::folder(), quick()).await)
    });
    println!(
        "A new event, on stores that keep what they acknowledge\n\n{}\n{}",
        shown(&stores),
        sqlite::shown(&sqlite)
    );
    write_json(
        "ledger",
        &Figures {
            made,
            memory,
            stores,
            sqlite,
        },
    );
}

fn key(n: usize) -> EventKey {
    EventKey::new("users", format!("evt_{n:026}"))
}

/// Claim, then completion, as the receiver does it.
fn ours(name: &'static str, ledger: impl Ledger) -> Each {
    let ledger = Arc::new(ledger);
    Each::new(name, move |n| {
        let ledger = Arc::clone(&ledger);
        async move {
            let key = key(n);
            let claim = ledger
                .claim(&key, Digest::from_bytes([0; 16]), LEASE)
                .await
                .expect("the store answers");
            let Claim::Granted { token, .. } = claim else {
                panic!("not granted: {claim:?}")
            };
            let held = ledger
                .complete(&key, token, Completion::Handled)
                .await
                .expect("the store answers");
            assert_eq!(held, LeaseStatus::Held);
        }
    })
}
