//! Processes on one JetStream stream with a ledger beside it; neither server is killed.

use authpi_sdk::stores::{Memory, Nats};
use authpi_tests::harness::{Mode, Role, Store};

use super::Trial;
use crate::servers::{
    nats::{NatsServer, fresh_name},
    postgres::{self, PostgresServer},
    redis::{self, RedisServer},
};

async fn over_redis(name: &'static str) -> Trial {
    let ledger = Store::Redis(RedisServer::shared().await.url(), redis::fresh_prefix());
    trial(name, Mode::Inbox, ledger).await
}

async fn over_postgres(name: &'static str) -> Trial {
    let ledger = Store::Postgres(
        PostgresServer::shared().await.url(),
        postgres::fresh_prefix(),
    );
    trial(name, Mode::InboxTx, ledger).await
}

async fn trial(name: &'static str, mode: Mode, ledger: Store) -> Trial {
    let store = Store::Nats(
        NatsServer::shared().await.url(),
        fresh_name(),
        Box::new(ledger),
    );
    Trial::new(name, mode, Some(store))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_loses_nothing_and_only_a_kill_makes_an_effect_repeat() {
    over_redis("nats, inbox")
        .await
        .kill(&[Role::Both; 2], 0.3)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_whose_workers_are_other_processes_loses_nothing_either() {
    let roles = [Role::Receiver, Role::Receiver, Role::Worker, Role::Worker];
    over_redis("nats, inbox with workers apart")
        .await
        .kill(&roles, 0.4)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_effect_in_the_transaction_happens_once_despite_kills() {
    over_postgres("nats, inbox in a transaction")
        .await
        .kill(&[Role::Both; 2], 0.3)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_processes_that_race_one_handles_each_event() {
    over_redis("nats, race").await.race(Role::Both).await;
}

/// The backlog and the dead letters are in the streams alone.
pub(super) async fn store(url: &str, name: &str) -> Nats<Memory> {
    let store = Nats::options()
        .stream(name)
        .subjects(name)
        .connect(url, Memory::new())
        .await;
    store.expect("the server answers")
}
