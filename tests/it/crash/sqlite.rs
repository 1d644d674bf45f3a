//! Processes of one host on one file.

use std::path::Path;

use authpi_sdk::stores::Sqlite;
use authpi_tests::harness::{EventId, Mode, Role};
use sqlx::{ConnectOptions as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::Trial;
use crate::servers::DEADLINE;

#[tokio::test(flavor = "multi_thread")]
async fn inline_nothing_is_lost_and_only_a_kill_makes_an_effect_repeat() {
    Trial::new("sqlite, inline", Mode::Inline, None)
        .kill(&[Role::Receiver; 3], 0.2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_loses_nothing_and_only_a_kill_makes_an_effect_repeat() {
    Trial::new("sqlite, inbox", Mode::Inbox, None)
        .kill(&[Role::Both; 2], 0.2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_whose_workers_are_other_processes_loses_nothing_either() {
    let roles = [Role::Receiver, Role::Receiver, Role::Worker, Role::Worker];
    Trial::new("sqlite, inbox with workers apart", Mode::Inbox, None)
        .kill(&roles, 0.2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_an_effect_in_the_transaction_takes_place_once_whoever_is_killed() {
    Trial::new("sqlite, inline in a transaction", Mode::InlineTx, None)
        .kill(&[Role::Receiver; 3], 0.2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_effect_in_the_transaction_happens_once_despite_kills() {
    Trial::new("sqlite, inbox in a transaction", Mode::InboxTx, None)
        .kill(&[Role::Both; 2], 0.2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_processes_that_race_one_handles_each_event() {
    Trial::new("sqlite, race", Mode::Inline, None)
        .race(Role::Receiver)
        .await;
}

pub(super) async fn store(file: &Path) -> Sqlite {
    Sqlite::open(file).await.expect("the file can be opened")
}

async fn connection(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true);
    options
        .busy_timeout(DEADLINE)
        .connect()
        .await
        .expect("the file can be opened")
}

pub(super) async fn prepare(file: &Path) {
    let table =
        "CREATE TABLE effects (number INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL)";
    sqlx::query(table)
        .execute(&mut connection(file).await)
        .await
        .expect("the file can be written");
}

pub(super) async fn rows(file: &Path) -> Vec<EventId> {
    let rows = sqlx::query_scalar::<_, String>("SELECT event FROM effects ORDER BY number");
    let rows = rows
        .fetch_all(&mut connection(file).await)
        .await
        .expect("the file can be read");
    rows.iter()
        .map(|id| id.parse().expect("the service writes ids of ours"))
        .collect()
}
