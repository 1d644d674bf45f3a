//! The outage drill on Postgres, where an effect takes place exactly once; and watermarks in
//! Postgres.

use std::{collections::BTreeMap, time::Duration};

use authpi_sdk::{
    event::{Event, Subject},
    handlers::Handlers,
    ledger::{Inbox as _, Tx},
    receiver::Receiver,
    reconcile::PostgresWatermark,
    stores::Postgres,
    worker::Worker,
};
use sqlx::{AssertSqlSafe, PgPool, Row as _};
use tokio::sync::oneshot;

use super::{meddle, pool};
use crate::{
    reconcile::{outage::Outage, watermark},
    servers::{
        postgres::{PostgresServer, fresh_prefix},
        until,
    },
};

/// Events that happen while the receiver is down.
const MISSED: usize = 5_000;

/// A ledger, and a table of effects without a constraint against repetition.
struct Effects {
    ledger: Postgres,
    pool: PgPool,
    prefix: String,
}

impl Effects {
    async fn new() -> Self {
        let server = PostgresServer::shared().await;
        let (pool, prefix) = (pool(server), fresh_prefix());
        let ledger = Postgres::options()
            .prefix(&*prefix)
            .open(pool.clone())
            .await
            .unwrap();
        let table =
            "CREATE TABLE {t}effects (n bigserial, event_id text NOT NULL, user_id text NOT NULL)";
        meddle(&mut server.connection().await.unwrap(), &prefix, table).await;
        Self {
            ledger,
            pool,
            prefix,
        }
    }

    fn handlers(&self) -> Handlers<String, Postgres> {
        let insert = format!(
            "INSERT INTO {}effects (event_id, user_id) VALUES ($1, $2)",
            self.prefix
        );
        Handlers::new(insert).fallback_tx(async |event: Event, cx, mut tx: Tx<Postgres>| {
            let insert = sqlx::query(AssertSqlSafe(String::clone(cx.state())));
            insert
                .bind(event.id())
                .bind(event.subject().user_id())
                .execute(&mut *tx)
                .await?;
            Ok(())
        })
    }

    /// Events per user, in the order in which they took effect.
    async fn per_user(&self) -> BTreeMap<String, Vec<String>> {
        let sql = format!(
            "SELECT event_id, user_id FROM {}effects ORDER BY n",
            self.prefix
        );
        let mut users = BTreeMap::<_, Vec<_>>::new();
        for row in sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&self.pool)
            .await
            .unwrap()
        {
            users
                .entry(row.get("user_id"))
                .or_default()
                .push(row.get("event_id"));
        }
        users
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_each_event_takes_effect_once_in_order_per_user() {
    let mut outage = Outage::over(MISSED).await;
    let effects = Effects::new().await;
    let receiver = Receiver::inline(
        "users",
        outage.verifier(),
        effects.ledger.clone(),
        effects.handlers(),
    )
    .clock(outage.clock())
    .build()
    .unwrap();
    let watermark = PostgresWatermark::open(effects.pool.clone()).await.unwrap();
    let reconcile = outage
        .reconcile(&receiver)
        .watermark(watermark)
        .concurrency(8)
        .ordered_by(Subject::user_id);
    let _ = outage
        .catch_up(&reconcile.build().unwrap())
        .await
        .into_result()
        .unwrap();
    outage.serve(&receiver).await;
    assert_eq!(effects.per_user().await, outage.ids_per_user());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_the_inbox_has_each_event_once_in_order_per_user() {
    let mut outage = Outage::over(MISSED).await;
    let effects = Effects::new().await;
    let receiver = Receiver::inbox("users", outage.verifier(), effects.ledger.clone())
        .ordered_by(Subject::user_id)
        .clock(outage.clock())
        .build()
        .unwrap();
    let _ = outage
        .catch_up(&outage.reconcile(&receiver).build().unwrap())
        .await
        .into_result()
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = Worker::builder("users", effects.ledger.clone(), effects.handlers());
    let worker = worker
        .poll_interval(Duration::from_millis(50))
        .build()
        .unwrap();
    let working = tokio::spawn(async move { worker.run(async { drop(stopped.await) }).await });
    outage.serve(&receiver).await;
    let empty =
        || async { (effects.ledger.backlog("users").await.unwrap().depth == 0).then_some(()) };
    until(|| "the inbox is not worked off".to_owned(), empty).await;
    drop(stop);
    working.await.unwrap();
    assert_eq!(effects.per_user().await, outage.ids_per_user());
}

#[tokio::test]
async fn a_watermark_is_found_again_and_never_goes_back() {
    let server = PostgresServer::start().await;
    // Replicas that start at the same time create the table once.
    let opening = (0..8).map(|_| PostgresWatermark::open(pool(&server)));
    let mut opening: tokio::task::JoinSet<_> = opening.collect();
    let mut stores = Vec::new();
    while let Some(opened) = opening.join_next().await {
        stores.push(opened.unwrap().unwrap());
    }
    watermark::keeps(&stores[0], &stores[1]).await;
    watermark::never_goes_back(&stores[2]).await;
}
