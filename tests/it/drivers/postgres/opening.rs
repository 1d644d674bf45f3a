//! Opening checks that the ledger works with this server, role and settings, and errors have the
//! right kind.

use std::time::Duration;

use authpi_sdk::{
    event::{Event, types::UserCreated},
    handlers::{Context, Handlers},
    ledger::{EventKey, Inbox as _, Ledger as _, LedgerError, LedgerErrorKind, Tx},
    stores::Postgres,
    testing::Fixture,
    worker::Worker,
};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, Executor as _, PgPool, postgres::PgPoolOptions};

use super::{pool, with_short_limit};
use crate::{
    drivers::{DIGEST, LEASE, chain, handled, key},
    servers::{
        postgres::{PostgresServer, fresh_prefix},
        until,
    },
};

async fn refused(
    opening: impl Future<Output = Result<Postgres, LedgerError>>,
) -> (LedgerErrorKind, String) {
    let error = opening.await.map(drop).unwrap_err();
    (error.kind(), chain(&error))
}

#[tokio::test]
async fn a_standby_is_refused_when_it_is_opened() {
    let primary = PostgresServer::start().await;
    let standby = primary.standby().await;
    let (kind, error) = refused(Postgres::connect(&standby.url())).await;
    assert_eq!(
        kind,
        LedgerErrorKind::CannotWrite,
        "without the tables: {error}"
    );
    assert!(error.contains("it is a standby"), "{error}");

    handled(&Postgres::connect(&primary.url()).await.unwrap(), 0).await;
    let replayed = || async {
        let mut standby = standby.connection().await.ok()?;
        standby
            .execute("SELECT FROM authpi_ledger WHERE event_id = 'evt_0'")
            .await
            .ok()?;
        Some(())
    };
    until(|| "the standby does not follow".to_owned(), replayed).await;
    for opening in [
        Postgres::connect(&standby.url()).await,
        Postgres::open(pool(&standby)).await,
    ] {
        let (kind, error) = refused(async { opening }).await;
        assert_eq!(kind, LedgerErrorKind::CannotWrite, "{error}");
        assert!(
            error.contains("it is a standby") && error.contains("read-only transaction"),
            "{error}"
        );
    }
}

/// A role of this server, with these permissions on existing tables.
async fn role(server: &PostgresServer, prefix: &str, rights: &str) -> PgPool {
    drop(
        Postgres::options()
            .prefix(prefix)
            .open(pool(server))
            .await
            .unwrap(),
    );
    let sql =
        format!("CREATE ROLE {{t}}role LOGIN; GRANT SELECT ON {{t}}schema TO {{t}}role; {rights}");
    let mut other = server.connection().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.replace("{t}", prefix)))
        .execute(&mut other)
        .await
        .unwrap();
    PgPoolOptions::new()
        .max_connections(8)
        .connect_lazy_with(server.options().username(&format!("{prefix}role")))
}

#[tokio::test]
async fn a_role_that_cannot_write_is_refused_when_the_ledger_is_opened() {
    let (server, all) = (
        PostgresServer::shared().await,
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {t}ledger TO {t}role",
    );
    let read_only = format!("{all}; ALTER ROLE {{t}}role SET default_transaction_read_only = on");
    for (rights, why) in [
        (
            "GRANT SELECT ON {t}ledger TO {t}role",
            "the role lacks a right",
        ),
        (
            "GRANT SELECT, INSERT, UPDATE ON {t}ledger TO {t}role",
            "the role lacks a right",
        ),
        (
            read_only.as_str(),
            "or the role or database is configured as read-only",
        ),
    ] {
        let prefix = fresh_prefix();
        let pool = role(server, &prefix, rights).await;
        let (kind, error) = refused(Postgres::options().prefix(&prefix).open(pool)).await;
        assert_eq!(kind, LedgerErrorKind::CannotWrite, "{error}");
        assert!(error.contains(why), "{error}");
        assert!(
            error.contains("permission denied") || error.contains("read-only transaction"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_role_without_the_sequence_may_open_a_ledger_but_not_an_inbox() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let pool = role(
        server,
        &prefix,
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {t}ledger TO {t}role",
    )
    .await;
    let store = Postgres::options()
        .prefix(&prefix)
        .open(pool)
        .await
        .unwrap();
    handled(&store, 0).await;
    store.check_write().await.unwrap();
    let appended = store
        .append(&key(1), DIGEST, None, "{}".into())
        .await
        .map(drop);
    for error in [
        appended.unwrap_err(),
        store.check_append().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), LedgerErrorKind::CannotWrite);
        assert!(
            chain(&error).contains(&format!("permission denied for sequence {prefix}positions")),
            "{}",
            chain(&error)
        );
    }
}

#[tokio::test]
async fn a_database_that_cannot_hold_any_text_is_refused_when_it_is_opened() {
    let server = PostgresServer::start().await;
    let mut other = server.connection().await.unwrap();
    for (name, encoding) in [("latin", "LATIN1"), ("bytes", "SQL_ASCII")] {
        let made =
            format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        other.execute(AssertSqlSafe(made)).await.unwrap();
        let there = PgPoolOptions::new().connect_lazy_with(server.options().database(name));
        let (_, error) = refused(Postgres::open(there)).await;
        assert!(
            error.contains(&format!(
                "encoding is {encoding}; create one with ENCODING 'UTF8'"
            )),
            "{error}"
        );
    }
}

#[tokio::test]
async fn opening_leaves_nothing_behind() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    for _ in 0..3 {
        drop(
            Postgres::options()
                .prefix(&prefix)
                .connect(&server.url())
                .await
                .unwrap(),
        );
    }
    let left = AssertSqlSafe(format!("SELECT count(*) FROM {prefix}ledger"));
    let left: i64 = sqlx::query_scalar(left)
        .fetch_one(&mut server.connection().await.unwrap())
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn errors_tell_a_busy_pool_from_a_server_that_is_away_and_from_content() {
    let mut server = PostgresServer::start().await;
    let limit = Duration::from_millis(500);
    let few = PgPoolOptions::new()
        .max_connections(3)
        .connect_lazy_with(server.options());
    let (store, patient) = with_short_limit(&Postgres::options(), limit, &few).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(few.acquire().await.unwrap());
    }
    assert!(store.is_busy());
    assert_eq!(
        store
            .claim(&key(0), DIGEST, LEASE)
            .await
            .unwrap_err()
            .kind(),
        LedgerErrorKind::Busy
    );
    drop(taken);
    let free = || async { store.claim(&key(0), DIGEST, LEASE).await.ok() };
    until(
        || "the pool's connections are not free again".to_owned(),
        free,
    )
    .await;

    // Cannot be compressed to fit an index.
    let mut random = fastrand::Rng::with_seed(0);
    let long: String = (0..4800).map(|_| random.alphanumeric()).collect();
    let error = patient
        .append(&EventKey::new(long, "evt_0"), DIGEST, None, "{}".into())
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), LedgerErrorKind::Content, "{}", chain(&error));

    server.stop();
    let error = store.claim(&key(1), DIGEST, LEASE).await.unwrap_err();
    assert_eq!(
        error.kind(),
        LedgerErrorKind::Unreachable,
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn a_server_that_hangs_is_not_taken_for_a_busy_one() {
    let server = PostgresServer::start().await;
    let limit = Duration::from_millis(500);
    let few = PgPoolOptions::new()
        .max_connections(3)
        .connect_lazy_with(server.options());
    let (store, _) = with_short_limit(&Postgres::options(), limit, &few).await;
    let _paused = server.pause().await;
    // As many as there are connections, and more that wait for one.
    let hanging = || async {
        let claims = (0..9).map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .claim(&key(n), DIGEST, LEASE)
                    .await
                    .unwrap_err()
                    .kind()
            })
        });
        let mut kinds = Vec::new();
        for claim in claims.collect::<Vec<_>>() {
            kinds.push(claim.await.unwrap());
        }
        kinds
            .iter()
            .all(|&kind| kind == LedgerErrorKind::Unreachable)
            .then_some(())
    };
    until(
        || "a server that hangs is taken for a busy one".to_owned(),
        hanging,
    )
    .await;
}

#[tokio::test]
async fn the_servers_clock_is_a_witness() {
    let server = PostgresServer::shared().await;
    let store = Postgres::options()
        .prefix(fresh_prefix())
        .connect(&server.url())
        .await
        .unwrap();
    let before = Timestamp::now();
    let reported = store
        .server_time()
        .await
        .unwrap()
        .expect("the server has a clock");
    // The clock of the same machine.
    let second = Duration::from_secs(1);
    assert!(
        before - second <= reported && reported <= Timestamp::now() + second,
        "{reported} is not now"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_timeout_in_a_handler_says_how_to_raise_it() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let options = Postgres::options()
        .prefix(&prefix)
        .timeout(Duration::from_secs(1));
    let store = options.connect(&server.url()).await.unwrap();
    let event = Fixture::of::<UserCreated>().id("evt_0");
    store
        .append(&key(0), DIGEST, None, event.body())
        .await
        .unwrap();
    let handlers = Handlers::new(()).on_tx(
        async |_: Event<UserCreated>, _: Context<()>, mut tx: Tx<Postgres>| {
            sqlx::query("SELECT pg_sleep(3600)")
                .execute(&mut *tx)
                .await?;
            Ok(())
        },
    );
    let minute = Duration::from_mins(1);
    let worker = Worker::builder("users", store.clone(), handlers)
        .max_attempts(1)
        .handler_timeout(minute)
        .build()
        .unwrap();
    let dead = async {
        let letters = || async { store.dead_letters("users", None, 1).await.ok()?.pop() };
        until(|| "the event is not given up".to_owned(), letters).await
    };
    let (tell, reported) = tokio::sync::oneshot::channel();
    Box::pin(worker.run(async { tell.send(dead.await).expect("the test waits") })).await;
    let reason = reported.await.unwrap().reason;
    for part in [
        "canceled by statement_timeout = 1000ms",
        "SET LOCAL statement_timeout",
        "due to statement timeout",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
}
