//! The SQLite ledger beside the same statements in hand-written batches, with the same driver and
//! durability.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use authpi_sdk::{
    ledger::{Appended, Claim, Completion, Digest, EventKey, Inbox, LeaseStatus, Ledger},
    stores::Sqlite,
    unstable,
};
use bytes::Bytes;
use serde::Serialize;
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::task::JoinSet;

use crate::{percentile, table};

const LEASE: Duration = Duration::from_secs(30);
const DIGEST: Digest = Digest::from_bytes([7; 16]);
static BODY: [u8; 1024] = [b'x'; 1024];

/// The work for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A claim and its completion: two operations.
    Handled,
    /// An append of 1 KiB: one operation.
    Appended,
}

/// The results for one kind of work at one concurrency.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    pub work: Work,
    pub in_flight: usize,
    /// Median of the rounds.
    pub per_second: f64,
    /// Over all rounds. Aim with 64 in flight: at least 15.
    pub events_per_flush: f64,
    /// The same statements, in a loop with one transaction for as many events as are in flight.
    /// Median of the rounds.
    pub by_hand_per_second: f64,
    /// Ours over the hand-written loop (median of the rounds' ratios). Aim with 64 in flight: at
    /// least 0.6.
    pub over_by_hand: f64,
}

/// Both kinds of work with 1, 8 and 64 events in flight, in new files in `folder`, which must be on
/// a real disk for realistic flushes. Ours and the hand-written loop take turns, round after round.
pub async fn measure(folder: &Path, quick: bool) -> Vec<Figures> {
    let mut figures = Vec::new();
    for work in [Work::Handled, Work::Appended] {
        for (in_flight, events) in [(1, 300), (8, 1_200), (64, 6_400)] {
            figures
                .push(compare(folder, work, in_flight, events, if quick { 3 } else { 15 }).await);
        }
    }
    figures
}

/// On the repository's disk: a temporary folder may be in memory.
pub fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder).expect("target/bench can be made");
    folder
}

/// As text.
pub fn shown(figures: &[Figures]) -> String {
    let head = [
        "SQLite",
        "in flight",
        "per second",
        "events per flush",
        "batches by hand",
        "ratio",
        "aims",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for one in figures {
        let met = one.events_per_flush >= 15.0 && one.over_by_hand >= 0.6;
        let aims = format!("15 and 0.6 ({})", if met { "met" } else { "missed" });
        rows.push(vec![
            match one.work {
                Work::Handled => "claim + complete".to_owned(),
                Work::Appended => "append".to_owned(),
            },
            one.in_flight.to_string(),
            format!("{:.0}", one.per_second),
            format!("{:.1}", one.events_per_flush),
            format!("{:.0}", one.by_hand_per_second),
            format!("{:.2}", one.over_by_hand),
            if one.in_flight == 64 {
                aims
            } else {
                String::new()
            },
        ]);
    }
    table(&rows)
}

async fn compare(
    folder: &Path,
    work: Work,
    in_flight: usize,
    events: usize,
    rounds: usize,
) -> Figures {
    let (mut ours, mut by_hand, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut flushes = 0;
    for round in 0..rounds {
        let file = File::new(folder);
        let ledger = Sqlite::open(&file.0).await.expect("a ledger");
        let before = unstable::sqlite_flushes(&ledger);
        let taken = in_tasks(&ledger, work, in_flight, events).await;
        flushes += unstable::sqlite_flushes(&ledger) - before;
        ledger.close().await;
        ours.push(events as f64 / taken.as_secs_f64());

        let file = File::new(folder);
        // Creates the tables.
        Sqlite::open(&file.0).await.expect("a ledger").close().await;
        let taken = in_batches(&file.0, work, in_flight, events).await;
        by_hand.push(events as f64 / taken.as_secs_f64());
        ratios.push(ours[round] / by_hand[round]);
    }
    Figures {
        work,
        in_flight,
        per_second: percentile(&mut ours, 50),
        events_per_flush: (events * rounds) as f64 / flushes as f64,
        by_hand_per_second: percentile(&mut by_hand, 50),
        over_by_hand: percentile(&mut ratios, 50),
    }
}

/// Like a receiver: one task for each event in flight.
async fn in_tasks(ledger: &Sqlite, work: Work, in_flight: usize, events: usize) -> Duration {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    for _ in 0..in_flight {
        let (ledger, next) = (ledger.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= events {
                    return;
                }
                let key = key(n);
                if work == Work::Appended {
                    let body = Bytes::from_static(&BODY);
                    assert_eq!(
                        ledger
                            .append(&key, DIGEST, None, body)
                            .await
                            .expect("SQLite"),
                        Appended::Stored
                    );
                    continue;
                }
                let claim = ledger.claim(&key, DIGEST, LEASE).await.expect("SQLite");
                let Claim::Granted { token, .. } = claim else {
                    panic!("{claim:?}")
                };
                assert_eq!(
                    ledger
                        .complete(&key, token, Completion::Handled)
                        .await
                        .expect("SQLite"),
                    LeaseStatus::Held
                );
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no panic");
    }
    started.elapsed()
}

/// Like code that has all events of a batch available: the same statements, one transaction per
/// batch.
async fn in_batches(path: &Path, work: Work, batch: usize, events: usize) -> Duration {
    use sqlx::ConnectOptions as _;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .pragma("synchronous", "FULL")
        .disable_statement_logging();
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .expect("a connection");
    let started = Instant::now();
    for first in (0..events).step_by(batch) {
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut connection)
            .await
            .expect("SQLite");
        let keys = (first..events.min(first + batch)).map(key);
        match work {
            Work::Handled => handle_batch(&mut connection, keys).await,
            Work::Appended => append_batch(&mut connection, keys).await,
        }
        sqlx::query("COMMIT")
            .execute(&mut connection)
            .await
            .expect("SQLite");
    }
    let taken = started.elapsed();
    connection.close().await.expect("SQLite");
    taken
}

async fn handle_batch(connection: &mut SqliteConnection, keys: impl Iterator<Item = EventKey>) {
    let mut claimed = Vec::new();
    for key in keys {
        let now = now();
        let claim = sqlx::query(unstable::sqlite_statements().claim)
            .bind(key.endpoint().to_owned())
            .bind(key.event_id().to_owned())
            .bind(now + 30_000)
            .bind(now)
            .bind(DIGEST.to_bytes().to_vec())
            .bind(now - 30 * 24 * 60 * 60 * 1000);
        let row = claim
            .fetch_all(&mut *connection)
            .await
            .expect("SQLite")
            .remove(0);
        claimed.push((key, row.get::<i64, _>(0), row.get::<i64, _>(1)));
    }
    for (key, attempt, nonce) in claimed {
        let handled = sqlx::query(unstable::sqlite_statements().handled)
            .bind(key.endpoint().to_owned())
            .bind(key.event_id().to_owned())
            .bind(attempt)
            .bind(nonce)
            .bind(now());
        assert_eq!(
            handled
                .execute(&mut *connection)
                .await
                .expect("SQLite")
                .rows_affected(),
            1
        );
    }
}

async fn append_batch(connection: &mut SqliteConnection, keys: impl Iterator<Item = EventKey>) {
    for key in keys {
        let now = now();
        let append = sqlx::query(unstable::sqlite_statements().append)
            .bind(key.endpoint().to_owned())
            .bind(key.event_id().to_owned())
            .bind(now)
            .bind(DIGEST.to_bytes().to_vec())
            .bind(&BODY[..])
            .bind(None::<String>)
            .bind(now - 30 * 24 * 60 * 60 * 1000);
        assert_eq!(
            append
                .fetch_all(&mut *connection)
                .await
                .expect("SQLite")
                .len(),
            1
        );
    }
}

fn key(n: usize) -> EventKey {
    EventKey::new("users", format!("evt_{n:026}"))
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A new database for each round, so that all start equally; removed at the end.
pub struct File(pub PathBuf);

impl File {
    /// A file that is not in use, in this folder.
    pub fn new(folder: &Path) -> Self {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        Self(folder.join(format!("bench-{}-{number}.db", std::process::id())))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm"] {
            let mut path = self.0.clone().into_os_string();
            path.push(end);
            let _ = std::fs::remove_file(path);
        }
    }
}
