//! Processes on one database.

use authpi_sdk::stores::Postgres;
use authpi_tests::harness::{EventId, Mode, Role, Store};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, postgres::PgConnectOptions};

use super::Trial;
use crate::servers::postgres::{PostgresServer, fresh_prefix};

async fn trial(name: &'static str, mode: Mode) -> Trial {
    let store = Store::Postgres(PostgresServer::shared().await.url(), fresh_prefix());
    Trial::new(name, mode, Some(store))
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_nothing_is_lost_and_only_a_kill_makes_an_effect_repeat() {
    trial("postgres, inline", Mode::Inline)
        .await
        .kill(&[Role::Receiver; 3], 0.2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_loses_nothing_and_only_a_kill_makes_an_effect_repeat() {
    trial("postgres, inbox", Mode::Inbox)
        .await
        .kill(&[Role::Both; 2], 0.2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_whose_workers_are_other_processes_loses_nothing_either() {
    let roles = [Role::Receiver, Role::Receiver, Role::Worker, Role::Worker];
    trial("postgres, inbox with workers apart", Mode::Inbox)
        .await
        .kill(&roles, 0.2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_an_effect_in_the_transaction_takes_place_once_whoever_is_killed() {
    trial("postgres, inline in a transaction", Mode::InlineTx)
        .await
        .kill(&[Role::Receiver; 3], 0.2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_effect_in_the_transaction_happens_once_despite_kills() {
    trial("postgres, inbox in a transaction", Mode::InboxTx)
        .await
        .kill(&[Role::Both; 2], 0.2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_processes_that_race_one_handles_each_event() {
    trial("postgres, race", Mode::Inline)
        .await
        .race(Role::Receiver)
        .await;
}

pub(super) async fn store(url: &str, prefix: &str) -> Postgres {
    Postgres::options()
        .prefix(prefix)
        .connect(url)
        .await
        .expect("the server answers")
}

async fn connection(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().expect("it is a server's address");
    options
        .disable_statement_logging()
        .connect()
        .await
        .expect("the server answers")
}

pub(super) async fn prepare(url: &str, prefix: &str) {
    let table =
        format!("CREATE TABLE {prefix}effects (number bigserial PRIMARY KEY, event text NOT NULL)");
    sqlx::query(AssertSqlSafe(table))
        .execute(&mut connection(url).await)
        .await
        .expect("the table can be made");
}

pub(super) async fn rows(url: &str, prefix: &str) -> Vec<EventId> {
    let rows = AssertSqlSafe(format!("SELECT event FROM {prefix}effects ORDER BY number"));
    let rows = sqlx::query_scalar::<_, String>(rows)
        .fetch_all(&mut connection(url).await)
        .await;
    let rows = rows.expect("the server answers");
    rows.iter()
        .map(|id| id.parse().expect("the service writes ids of ours"))
        .collect()
}
