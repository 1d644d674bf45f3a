//! Connections to a server that cannot serve, or that have lost what they need, do not stay in the
//! pool.

use std::{sync::Arc, time::Duration};

use authpi_sdk::{
    endpoint::{PostgresSecretStore, SecretStore as _, StoredSecret},
    event::{Event, types::UserCreated},
    handlers::{Context, Handlers},
    ledger::{
        Completion, Inbox as _, LeaseStatus, Ledger as _, LedgerErrorKind, Transactional as _, Tx,
    },
    receiver::Receiver,
    reconcile::{PostgresWatermark, Watermark as _},
    stores::Postgres,
    testing::Fixture,
};
use jiff::Timestamp;
use sqlx::{
    AssertSqlSafe, Executor as _, PgConnection, PgPool,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::meddle;
use crate::support::{deliver, verifier};
use crate::{
    drivers::{DIGEST, LEASE, chain, granted, handled, key},
    servers::{
        forward::Forwarder,
        postgres::{PostgresServer, fresh_prefix},
        until,
    },
};

const CONNECTIONS: u32 = 6;

/// Like a service's pool: it does not check whether connections are alive.
fn pool(options: PgConnectOptions) -> PgPool {
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .test_before_acquire(false);
    pool.acquire_timeout(Duration::from_mins(1))
        .connect_lazy_with(options)
}

/// A receiver whose handler writes in its transaction.
async fn selling(store: &Postgres, other: &mut PgConnection) -> Receiver {
    other
        .execute("CREATE TABLE sold (event_id text)")
        .await
        .unwrap();
    other
        .execute("GRANT INSERT ON sold TO public")
        .await
        .unwrap();
    let handlers = Handlers::new(()).on_tx(
        async |event: Event<UserCreated>, _: Context<()>, mut tx: Tx<Postgres>| {
            sqlx::query("INSERT INTO sold VALUES ($1)")
                .bind(event.id())
                .execute(&mut *tx)
                .await?;
            Ok(())
        },
    );
    Receiver::inline("users", verifier(), store.clone(), handlers)
        .build()
        .unwrap()
}

async fn delivered(receiver: &Receiver, n: usize) -> u16 {
    deliver(
        receiver,
        &Fixture::of::<UserCreated>().id(format!("evt_{n}")),
    )
    .await
}

/// Opens all connections of the pool and holds them unused.
async fn all_connections(pool: &PgPool) -> Vec<PoolConnection<sqlx::Postgres>> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(pool.acquire().await.unwrap());
    }
    connections
}

/// Returns them, and waits until all are available again.
async fn give_back(pool: &PgPool, connections: Vec<PoolConnection<sqlx::Postgres>>) {
    drop(connections);
    let all = || async { (pool.num_idle() == CONNECTIONS as usize).then_some(()) };
    until(|| "the connections do not come back".to_owned(), all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_made_while_the_role_was_read_only_fail_nothing_afterwards() {
    let server = PostgresServer::start().await;
    let mut other = server.connection().await.unwrap();
    other.execute("CREATE ROLE app LOGIN").await.unwrap();
    other
        .execute("GRANT CREATE ON SCHEMA public TO app")
        .await
        .unwrap();
    let pool = pool(server.options().username("app"));
    let store = Postgres::open(pool.clone()).await.unwrap();
    let receiver = selling(&store, &mut other).await;
    assert_eq!(delivered(&receiver, 0).await, 200);

    other
        .execute("ALTER ROLE app SET default_transaction_read_only = on")
        .await
        .unwrap();
    let end = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = 'app'";
    other.execute(end).await.unwrap();
    let refused = || async {
        let error = store.claim(&key(1000), DIGEST, LEASE).await.unwrap_err();
        (error.kind() == LedgerErrorKind::CannotWrite).then(|| chain(&error))
    };
    let error = until(|| "the role can still write".to_owned(), refused).await;
    assert!(error.contains("read-only transaction"), "{error}");
    // Some of the terminated ones may still be in the pool.
    let stale = || async {
        let mut stale = all_connections(&pool).await;
        for connection in &mut stale {
            connection.execute("SELECT").await.ok()?;
        }
        Some(stale)
    };
    let stale = until(|| "the connections are not replaced".to_owned(), stale).await;
    other
        .execute("ALTER ROLE app RESET default_transaction_read_only")
        .await
        .unwrap();
    give_back(&pool, stale).await;

    for n in 1..=36 {
        assert_eq!(delivered(&receiver, n).await, 200, "delivery {n}");
    }
}

/// A primary, its standby, and one address for both.
struct Pair {
    primary: PostgresServer,
    standby: PostgresServer,
    forwarder: Forwarder,
}

impl Pair {
    async fn start() -> Self {
        let primary = PostgresServer::start().await;
        let standby = primary.standby().await;
        let forwarder = Forwarder::to(primary.socket_address()).await;
        Self {
            primary,
            standby,
            forwarder,
        }
    }

    fn options(&self) -> PgConnectOptions {
        self.primary.options().port(self.forwarder.address().port())
    }

    /// Fills the pool with connections to the standby, then switches the address back to the
    /// primary.
    async fn switch_over_and_back(&self, pool: &PgPool) {
        self.forwarder.switch(self.standby.socket_address());
        self.forwarder.cut();
        let stale = || async {
            let mut stale = all_connections(pool).await;
            for connection in &mut stale {
                let is_standby = sqlx::query_scalar("SELECT pg_is_in_recovery()")
                    .fetch_one(&mut **connection)
                    .await;
                if !is_standby.ok()? {
                    return None;
                }
            }
            Some(stale)
        };
        let stale = until(
            || "the pool does not fill with connections to the standby".to_owned(),
            stale,
        )
        .await;
        self.forwarder.switch(self.primary.socket_address());
        give_back(pool, stale).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_standby_cause_no_failure_after_the_switch_back() {
    let pair = Pair::start().await;
    let pool = pool(pair.options());
    let store = Postgres::open(pool.clone()).await.unwrap();
    let mut other = pair.primary.connection().await.unwrap();
    let receiver = selling(&store, &mut other).await;
    assert_eq!(delivered(&receiver, 0).await, 200);

    pair.switch_over_and_back(&pool).await;
    for n in 1..=36 {
        assert_eq!(delivered(&receiver, n).await, 200, "delivery {n}");
    }

    // Each operation separately, as the first that gets such a connection.
    pair.switch_over_and_back(&pool).await;
    let token = granted(&store, 100).await;
    pair.switch_over_and_back(&pool).await;
    assert_eq!(
        store.renew(&key(100), token, LEASE).await.unwrap(),
        LeaseStatus::Held
    );
    pair.switch_over_and_back(&pool).await;
    assert_eq!(
        store
            .complete(&key(100), token, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    pair.switch_over_and_back(&pool).await;
    store
        .append(&key(101), DIGEST, None, "{}".into())
        .await
        .unwrap();
    pair.switch_over_and_back(&pool).await;
    assert_eq!(super::leased(&store).await.key, key(101));
    pair.switch_over_and_back(&pool).await;
    assert!(store.forget(&key(101)).await.unwrap());
    // A handler's transaction, before its handler has started.
    let token = granted(&store, 102).await;
    pair.switch_over_and_back(&pool).await;
    let mut tx = store.begin().await.unwrap();
    tx.execute("INSERT INTO sold VALUES ('by hand')")
        .await
        .unwrap();
    assert_eq!(
        store.commit(tx, &key(102), token).await.unwrap(),
        LeaseStatus::Held
    );
    let sold: i64 = sqlx::query_scalar("SELECT count(*) FROM sold")
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert_eq!(sold, 38);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_and_watermarks_are_saved_once_the_address_leads_to_the_primary() {
    let pair = Pair::start().await;
    let pool = pool(pair.options());
    let secrets = PostgresSecretStore::open(pool.clone()).await.unwrap();
    let watermark = PostgresWatermark::open(pool.clone()).await.unwrap();
    pair.switch_over_and_back(&pool).await;
    let kept = StoredSecret::new("acc_1", "wh_1", Timestamp::UNIX_EPOCH);
    secrets.save("users", &kept).await.unwrap();
    assert_eq!(secrets.load("users").await.unwrap().len(), 1);
    pair.switch_over_and_back(&pool).await;
    let at = Timestamp::from_second(1_700_000_000).unwrap();
    watermark.save("users", at).await.unwrap();
    assert_eq!(watermark.load("users").await.unwrap(), Some(at));
}

/// A ledger with one connection, so that each operation gets the connection of the previous one.
async fn with_one_connection(server: &PostgresServer) -> (Postgres, PgPool) {
    let one = PgPoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false);
    let pool = one
        .acquire_timeout(Duration::from_mins(1))
        .connect_lazy_with(server.options());
    (
        Postgres::options()
            .prefix(fresh_prefix())
            .open(pool.clone())
            .await
            .unwrap(),
        pool,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_that_a_handler_deallocated_fail_no_later_step() {
    let (store, _) = with_one_connection(PostgresServer::shared().await).await;
    for round in 0..5 {
        handled(&store, 2 * round).await;
        assert!(
            store
                .dead_letters("users", None, 10)
                .await
                .unwrap()
                .is_empty()
        );
        let mut tx = store.begin().await.unwrap();
        tx.execute("DEALLOCATE ALL").await.unwrap();
        drop(tx);
        assert!(
            store
                .dead_letters("users", None, 10)
                .await
                .unwrap()
                .is_empty()
        );
        handled(&store, 2 * round + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_sets_for_its_session_fails_no_later_step() {
    let (server, role) = (
        PostgresServer::shared().await,
        format!("{}role", fresh_prefix()),
    );
    let (store, pool) = with_one_connection(server).await;
    let made = format!("CREATE ROLE {role}");
    server
        .connection()
        .await
        .unwrap()
        .execute(AssertSqlSafe(made))
        .await
        .unwrap();
    let role = format!("SET ROLE {role}");
    let read_only = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY";
    for (round, set) in ["SET search_path = nowhere", &role, read_only]
        .into_iter()
        .enumerate()
    {
        handled(&store, 2 * round).await;
        pool.acquire()
            .await
            .unwrap()
            .execute(AssertSqlSafe(set.to_owned()))
            .await
            .unwrap();
        handled(&store, 2 * round + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outdated_handler_plans_fail_at_most_one_attempt_per_connection() {
    const CONNECTIONS: usize = 3;
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let options = PgPoolOptions::new()
        .max_connections(CONNECTIONS.try_into().unwrap())
        .test_before_acquire(false);
    let store = Postgres::options()
        .prefix(&prefix)
        .open(options.connect_lazy_with(server.options()))
        .await
        .unwrap();
    let mut other = server.connection().await.unwrap();
    meddle(&mut other, &prefix, "CREATE TABLE {t}users (id int)").await;
    let all: Arc<str> = format!("SELECT * FROM {prefix}users").into();
    let handlers = Handlers::new(all).on_tx(
        async |_: Event<UserCreated>, cx: Context<Arc<str>>, mut tx: Tx<Postgres>| {
            sqlx::query(AssertSqlSafe(cx.state().to_string()))
                .fetch_all(&mut *tx)
                .await?;
            Ok(())
        },
    );
    let receiver = Receiver::inline("users", verifier(), store, handlers)
        .build()
        .unwrap();
    for n in 0..10 {
        assert_eq!(delivered(&receiver, n).await, 200);
    }
    meddle(
        &mut other,
        &prefix,
        "ALTER TABLE {t}users ADD COLUMN name text",
    )
    .await;
    let mut refused = 0;
    for n in 10..30 {
        refused += usize::from(delivered(&receiver, n).await != 200);
    }
    assert!(refused <= CONNECTIONS, "{refused} deliveries failed");
}
