//! Processes on one server, which is not killed itself: `docs/choosing-a-store.md` tells what it
//! may lose then.

use authpi_tests::harness::{Mode, Role, Store};

use super::Trial;
use crate::servers::redis::{RedisServer, fresh_prefix};

async fn trial(name: &'static str) -> Trial {
    Trial::new(
        name,
        Mode::Inline,
        Some(Store::Redis(
            RedisServer::shared().await.url(),
            fresh_prefix(),
        )),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_nothing_is_lost_and_only_a_kill_makes_an_effect_repeat() {
    trial("redis, inline")
        .await
        .kill(&[Role::Receiver; 3], 1.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_processes_that_race_one_handles_each_event() {
    trial("redis, race").await.race(Role::Receiver).await;
}
