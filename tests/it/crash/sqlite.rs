//! Processes of one host on one file.

use std::path::Path;

use authpi_tests::trial::{EventId, Mode, Role};
use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};

use super::Trial;

#[tokio::test(flavor = "multi_thread")]
async fn inline_nothing_is_lost_and_only_a_kill_makes_an_effect_repeat() {
    Trial::new("sqlite, inline", Mode::Inline, None).kill(&[Role::Receiver; 3], 0.4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_loses_nothing_and_only_a_kill_makes_an_effect_repeat() {
    Trial::new("sqlite, inbox", Mode::Inbox, None).kill(&[Role::Both; 2], 0.3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_whose_workers_are_other_processes_loses_nothing_either() {
    let roles = [Role::Receiver, Role::Receiver, Role::Worker, Role::Worker];
    Trial::new("sqlite, inbox with workers apart", Mode::Inbox, None).kill(&roles, 0.3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_processes_that_race_one_handles_each_event() {
    Trial::new("sqlite, race", Mode::Inline, None).race().await;
}

pub(super) async fn rows(file: &Path) -> Vec<EventId> {
    let mut connection = SqliteConnectOptions::new().filename(file).connect().await.expect("the file can be opened");
    let made = sqlx::query("CREATE TABLE IF NOT EXISTS effects (number INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT)");
    made.execute(&mut connection).await.expect("the file can be written");
    let rows = sqlx::query_scalar::<_, String>("SELECT event FROM effects ORDER BY number");
    let rows = rows.fetch_all(&mut connection).await.expect("the file can be read");
    rows.iter().map(|id| id.parse().expect("the service writes ids of ours")).collect()
}
