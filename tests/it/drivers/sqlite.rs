//! `Sqlite` with files: processes that are killed, callers that go away, handlers that write in
//! the ledger's file.

use std::{collections::BTreeSet, path::Path, process::Stdio, time::Duration};

use authpi_sdk::{
    event::{Event, Subject, types::UserCreated},
    handlers::{HandlerError, Handlers},
    ledger::{Claim, EventKey, Inbox as _, Ledger as _, NextEvent, Tx},
    receiver::Receiver,
    stores::Sqlite,
    testing::Fixture,
    worker::Worker,
};
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    task::JoinSet,
    time::timeout,
};

use super::{DIGEST, LEASE, claims_dropped_midway};
use crate::servers::DEADLINE;
use crate::support::{self, Folder, verifier};

async fn connect(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

/// A file with an application's table.
async fn shop(folder: &Folder) {
    let table = "CREATE TABLE sold (id TEXT PRIMARY KEY)";
    sqlx::raw_sql(table)
        .execute(&mut connect(&folder.join("hooks.db")).await)
        .await
        .unwrap();
}

async fn sold(folder: &Folder) -> BTreeSet<String> {
    let rows = sqlx::query("SELECT id FROM sold")
        .fetch_all(&mut connect(&folder.join("hooks.db")).await)
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The responses that a process received, with 64 events in flight, before it was killed: a word
/// and the event's number.
async fn told_until_killed(folder: &Folder, first: usize, after: usize) -> Vec<(String, usize)> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_mock_server"));
    program
        .arg(folder.join("hooks.db"))
        .arg(first.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut process = program.spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut reported = Vec::new();
    while let Some(line) = timeout(DEADLINE, lines.next_line())
        .await
        .expect("the process hangs")
        .unwrap()
    {
        if reported.len() == after {
            process.start_kill().unwrap();
        }
        // The last line may be incomplete.
        let Some((word, n)) = line.split_once(' ') else {
            continue;
        };
        reported.extend(n.parse().ok().map(|n| (word.to_owned(), n)));
    }
    assert!(reported.len() >= after, "it ended by itself");
    process.wait().await.unwrap();
    reported
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_answered_before_a_kill_is_there_after_it() {
    let folder = Folder::new();
    shop(&folder).await;
    for (round, after) in [300, 700, 1_100].into_iter().enumerate() {
        let first = round * 100_000;
        let reported = told_until_killed(&folder, first, after).await;
        let ledger = Sqlite::open(folder.join("hooks.db")).await.unwrap();
        let sold = sold(&folder).await;
        for (word, n) in &reported {
            let claim = ledger
                .claim(&EventKey::new("users", n.to_string()), DIGEST, LEASE)
                .await
                .unwrap();
            match word.as_str() {
                "claimed" => assert!(
                    matches!(claim, Claim::InFlight { .. } | Claim::Handled { .. }),
                    "{n}: {claim:?}"
                ),
                "handled" => assert_eq!(
                    claim,
                    Claim::Handled {
                        first_digest: DIGEST
                    },
                    "{n}"
                ),
                "sold" => {
                    assert_eq!(
                        claim,
                        Claim::Handled {
                            first_digest: DIGEST
                        },
                        "{n}"
                    );
                    assert!(sold.contains(&n.to_string()), "{n}");
                }
                // Still waiting: this claim is its first.
                "stored" => {
                    assert!(
                        matches!(claim, Claim::Granted { token, .. } if token.attempt == 1),
                        "{n}: {claim:?}"
                    );
                }
                other => panic!("{other} {n}"),
            }
        }
        // Each event in `sold` is also handled, even if the process was killed before it reported
        // that.
        for id in sold
            .iter()
            .filter(|id| id.parse::<usize>().unwrap() >= first)
        {
            let claim = ledger
                .claim(&EventKey::new("users", id.as_str()), DIGEST, LEASE)
                .await
                .unwrap();
            assert_eq!(
                claim,
                Claim::Handled {
                    first_digest: DIGEST
                },
                "{id} is sold and not handled"
            );
        }
        ledger.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_can_be_dropped_at_any_point() {
    let folder = Folder::new();
    claims_dropped_midway(&Sqlite::open(folder.join("hooks.db")).await.unwrap()).await;
}

/// Sells, then fails the first attempt.
fn selling() -> Handlers<(), Sqlite> {
    Handlers::new(()).on_tx(async |event: Event<UserCreated>, cx, mut tx: Tx<Sqlite>| {
        sqlx::query("INSERT INTO sold VALUES (?1)")
            .bind(event.id())
            .execute(&mut *tx)
            .await?;
        if cx.attempt() == 1 {
            Err(HandlerError::retryable("once more"))
        } else {
            Ok(())
        }
    })
}

fn ids() -> Vec<String> {
    (0..24).map(|n| format!("evt_{n:02}")).collect()
}

async fn deliver(receiver: &Receiver, id: &str) -> u16 {
    let fixture = Fixture::of::<UserCreated>().id(id).subject("user_id", id);
    support::deliver(receiver, &fixture).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_takes_effect_once_however_often_it_is_delivered_and_to_whom() {
    let folder = Folder::new();
    shop(&folder).await;
    let mut receivers = Vec::new();
    for _ in 0..2 {
        let ledger = Sqlite::options()
            .busy_timeout(DEADLINE)
            .open(folder.join("hooks.db"))
            .await
            .unwrap();
        receivers.push(
            Receiver::inline("shop", verifier(), ledger, selling())
                .build()
                .unwrap(),
        );
    }
    let mut deliveries = JoinSet::new();
    for id in ids() {
        for copy in 0..3 {
            let (receiver, id) = (receivers[copy % 2].clone(), id.clone());
            deliveries.spawn(async move {
                // Like AuthPI: repeated until accepted. A second effect would violate a constraint,
                // and never be accepted.
                let taken = async { while deliver(&receiver, &id).await != 200 {} };
                timeout(DEADLINE, taken)
                    .await
                    .expect("an event is never handled");
            });
        }
    }
    deliveries.join_all().await;
    assert_eq!(sold(&folder).await, ids().into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_write_in_the_ledgers_file_and_bury_nothing() {
    let folder = Folder::new();
    shop(&folder).await;
    let store = Sqlite::open(folder.join("hooks.db")).await.unwrap();
    let receiver = Receiver::inbox("shop", verifier(), store.clone())
        .ordered_by(Subject::user_id)
        .build()
        .unwrap();
    for id in ids() {
        assert_eq!(deliver(&receiver, &id).await, 200);
    }
    let pause = Duration::from_millis(5);
    let worker = Worker::builder("shop", store.clone(), selling())
        .backoff(pause, pause)
        .concurrency(16)
        .build()
        .unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move { worker.run(async { drop(stopped.await) }).await });
    let done = async {
        while store.backlog("shop").await.unwrap().depth > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, done)
        .await
        .expect("the backlog was not worked off");
    stop.send(()).unwrap();
    running.await.unwrap();
    assert_eq!(sold(&folder).await, ids().into_iter().collect());
    assert!(
        store
            .dead_letters("shop", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(matches!(
        store.lease_next("shop", LEASE).await.unwrap(),
        NextEvent::Empty { .. }
    ));
}
