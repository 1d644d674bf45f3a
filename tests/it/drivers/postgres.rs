//! `Postgres`, on a server made by `initdb`.

mod backlog;
mod inspect;
mod notify;
mod opening;
mod permits;
mod pooler;
mod reconcile;
mod switched;
mod sync_users;
mod transactions;

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use authpi_sdk::{
    event::Subject,
    ledger::{
        Appended, Claim, Completion, Inbox as _, LeaseStatus, LeasedEvent, Ledger as _,
        LedgerError, NextEvent, Transactional as _, conformance,
    },
    receiver::Receiver,
    stores::{Postgres, PostgresOptions},
    worker::Worker,
};
use bytes::Bytes;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, PgPool, Row as _, postgres::PgPoolOptions};
use tokio::task::JoinSet;

use super::{
    DIGEST, EVENTS, LEASE, answered, chain, claims_dropped_midway, granted, handled, key,
    odd_names_hold_up_nothing, race,
};
use crate::servers::{
    postgres::{PostgresServer, fresh_prefix},
    until,
};
use crate::support::{SECRET, verifier};

/// A pool as users create it.
fn pool(server: &PostgresServer) -> PgPool {
    PgPoolOptions::new()
        .max_connections(8)
        .connect_lazy_with(server.options())
}

/// Runs a statement in which `{t}` is replaced by the prefix of the ledger's tables, and returns
/// the number of changed rows.
async fn meddle(connection: &mut PgConnection, prefix: &str, sql: &str) -> u64 {
    connection
        .execute(AssertSqlSafe(sql.replace("{t}", prefix)))
        .await
        .unwrap()
        .rows_affected()
}

async fn count(connection: &mut PgConnection, prefix: &str) -> usize {
    let sql = AssertSqlSafe(format!("SELECT count(*) FROM {prefix}ledger"));
    let count: i64 = sqlx::query(sql).fetch_one(connection).await.unwrap().get(0);
    count.try_into().unwrap()
}

/// Makes the records older, since the server's clock cannot be set.
async fn grow_older(connection: &mut PgConnection, prefix: &str, by: Duration) {
    let ms = by.as_millis();
    let sql = format!(
        "UPDATE {{t}}ledger SET at = at - {ms}, first_claimed_at = first_claimed_at - {ms}"
    );
    meddle(connection, prefix, &sql).await;
}

async fn opened(options: PostgresOptions, prefix: &str) -> (Postgres, PgConnection) {
    let server = PostgresServer::shared().await;
    let ledger = options.prefix(prefix).open(pool(server)).await.unwrap();
    (ledger, server.connection().await.unwrap())
}

/// A ledger with the timeout `limit`, for operations that must fail, and one with the default
/// timeout on the same pool and tables, for those that must succeed.
async fn with_short_limit(
    options: &PostgresOptions,
    limit: Duration,
    pool: &PgPool,
) -> (Postgres, Postgres) {
    let patient = options.clone().open(pool.clone()).await.unwrap();
    let open = || async { options.clone().timeout(limit).open(pool.clone()).await.ok() };
    (
        until(|| "the ledger cannot be opened".to_owned(), open).await,
        patient,
    )
}

fn dead(reason: &str, body: &'static [u8]) -> Completion {
    Completion::Dead {
        reason: reason.into(),
        body: Bytes::from_static(body),
    }
}

async fn leased(ledger: &Postgres) -> LeasedEvent {
    match ledger.lease_next("users", LEASE).await.unwrap() {
        NextEvent::Leased(leased) => leased,
        other => panic!("nothing is leased: {other:?}"),
    }
}

/// Each store has its own tables in the shared server's database.
struct Tables {
    server: &'static PostgresServer,
    pool: PgPool,
    options: fn() -> PostgresOptions,
    newest: Mutex<String>,
}

impl conformance::Harness for Tables {
    type Ledger = Postgres;

    async fn fresh(&self) -> Postgres {
        let prefix = fresh_prefix();
        self.newest.lock().unwrap().clone_from(&prefix);
        (self.options)()
            .prefix(prefix)
            .open(self.pool.clone())
            .await
            .unwrap()
    }

    async fn advance(&self, _: &Postgres, by: Duration) {
        let prefix = self.newest.lock().unwrap().clone();
        grow_older(&mut self.server.connection().await.unwrap(), &prefix, by).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms() {
    let server = PostgresServer::shared().await;
    let pool = pool(server);
    let tables = Tables {
        server,
        pool,
        options: Postgres::options,
        newest: Mutex::default(),
    };
    conformance::run(&tables).await;
    conformance::inbox::run(&tables).await;
    conformance::ordering::run(&tables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_where_transactions_are_serializable() {
    let server = PostgresServer::shared().await;
    let options = server
        .options()
        .options([("default_transaction_isolation", "serializable")]);
    let pool = PgPoolOptions::new()
        .max_connections(8)
        .connect_lazy_with(options);
    // Of 64 racing claims, all but one may need several attempts.
    let options = || Postgres::options().timeout(Duration::from_mins(1));
    let tables = Tables {
        server,
        pool,
        options,
        newest: Mutex::default(),
    };
    conformance::run(&tables).await;
    conformance::inbox::run(&tables).await;
    conformance::ordering::run(&tables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_at_once_make_the_tables_once() {
    let server = PostgresServer::shared().await;
    let prefix = fresh_prefix();
    let mut starting = JoinSet::new();
    for n in 0..12 {
        let prefix = prefix.clone();
        starting.spawn(async move {
            // A separate pool, like a replica's.
            let ledger = Postgres::options()
                .prefix(prefix)
                .connect(&server.url())
                .await
                .unwrap();
            granted(&ledger, n).await;
        });
    }
    starting.join_all().await;
    assert_eq!(
        count(&mut server.connection().await.unwrap(), &prefix).await,
        12
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_replicas_that_race_one_handles_each_event() {
    let (first, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(
            Postgres::options()
                .prefix(&prefix)
                .connect(&first.url())
                .await
                .unwrap(),
        );
    }
    race(&replicas).await;
}

#[tokio::test]
async fn records_leases_and_dead_letters_outlive_a_crash_of_the_server() {
    let mut server = PostgresServer::start().await;
    let ledger = Postgres::connect(&server.url()).await.unwrap();
    handled(&ledger, 0).await;
    let claimed = granted(&ledger, 1).await;
    let given_up = granted(&ledger, 2).await;
    assert_eq!(
        ledger
            .complete(&key(2), given_up, dead("no such user", b"{\xff}"))
            .await
            .unwrap(),
        LeaseStatus::Held
    );

    server.stop();
    let error = ledger.claim(&key(0), DIGEST, LEASE).await.unwrap_err();
    assert!(
        chain(&error).starts_with("the ledger failed to claim: "),
        "{}",
        chain(&error)
    );

    server.start_again().await;
    assert_eq!(
        answered(&ledger, 0).await,
        Claim::Handled {
            first_digest: DIGEST
        }
    );
    assert!(matches!(answered(&ledger, 1).await, Claim::InFlight { .. }));
    assert_eq!(
        ledger.renew(&key(1), claimed, LEASE).await.unwrap(),
        LeaseStatus::Held
    );
    assert_eq!(
        answered(&ledger, 2).await,
        Claim::Dead {
            first_digest: DIGEST
        }
    );
    let letters = ledger.dead_letters("users", None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].reason.as_str(), &letters[0].body[..]),
        ("no such user", &b"{\xff}"[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_fails_each_step_in_time_and_can_then_be_used_again() {
    let server = PostgresServer::start().await;
    let timeout = Duration::from_millis(300);
    let (ledger, patient) = with_short_limit(&Postgres::options(), timeout, &pool(&server)).await;
    let token = granted(&patient, 0).await;

    let paused = server.pause().await;
    // More operations than connections, so that some wait for one.
    for round in 0..2 {
        let started = Instant::now();
        let mut steps = JoinSet::new();
        for n in 1..=20 {
            let ledger = ledger.clone();
            steps.spawn(async move { ledger.claim(&key(round * 20 + n), DIGEST, LEASE).await });
        }
        for claim in steps.join_all().await {
            let error = chain(&claim.unwrap_err());
            assert!(error.contains("did not answer within 300ms"), "{error}");
        }
        assert!(
            started.elapsed() < timeout * 10,
            "the steps took {:?}",
            started.elapsed()
        );
    }
    drop(paused);

    answered(&ledger, 100).await;
    let completed = || async {
        ledger
            .complete(&key(0), token, Completion::Handled)
            .await
            .ok()
    };
    assert_eq!(
        until(|| "the ledger does not recover".to_owned(), completed).await,
        LeaseStatus::Held
    );
    // The state of operations without a response is unknown; nothing else is.
    for n in 1..=40 {
        assert!(matches!(
            answered(&patient, n).await,
            Claim::Granted { .. } | Claim::InFlight { .. }
        ));
    }
}

#[tokio::test]
async fn a_closed_connection_fails_at_most_one_operation_and_is_replaced() {
    let server = PostgresServer::shared().await;
    let prefix = fresh_prefix();
    let url = format!("{}?application_name={prefix}", server.url());
    let ledger = Postgres::options()
        .prefix(&prefix)
        .connect(&url)
        .await
        .unwrap();
    handled(&ledger, 0).await;
    let mut other = server.connection().await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
    let ended: Vec<bool> = sqlx::query_scalar(end)
        .bind(&prefix)
        .fetch_all(&mut other)
        .await
        .unwrap();
    // The pool may have opened a second connection while the first was being returned.
    assert!(!ended.is_empty() && ended.iter().all(|&ended| ended));
    // Whichever of the pool's connections a claim gets: each terminated one fails one claim, and
    // all others succeed.
    let mut failed = 0;
    for _ in 0..4 * ended.len() {
        match ledger.claim(&key(0), DIGEST, LEASE).await {
            Ok(claim) => assert_eq!(
                claim,
                Claim::Handled {
                    first_digest: DIGEST
                }
            ),
            Err(error) => {
                failed += 1;
                assert!(failed <= ended.len(), "{}", chain(&error));
            }
        }
    }
}

#[tokio::test]
async fn claims_dropped_midway_leave_whole_records_and_a_pool_that_is_of_use() {
    let (ledger, _) = opened(Postgres::options(), &fresh_prefix()).await;
    claims_dropped_midway(&ledger).await;
}

#[tokio::test]
async fn dead_letters_tell_what_happened_and_come_in_pages() {
    let prefix = fresh_prefix();
    let (ledger, mut other) = opened(Postgres::options(), &prefix).await;
    for n in 0..5 {
        let token = granted(&ledger, n).await;
        assert_eq!(
            ledger
                .release(&key(n), token, Duration::ZERO)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
        let token = granted(&ledger, n).await;
        let reason = format!("reason {n}\0\\");
        assert_eq!(
            ledger
                .complete(&key(n), token, dead(&reason, b"body"))
                .await
                .unwrap(),
            LeaseStatus::Held
        );
    }
    // Three of them within the same millisecond, a second after the first claim.
    let sql = "UPDATE {t}ledger SET first_claimed_at = 1700000000000,
        at = 1700000001000 + CASE WHEN event_id = 'evt_0' THEN 0 WHEN event_id = 'evt_4' THEN 2 ELSE 1 END";
    assert_eq!(meddle(&mut other, &prefix, sql).await, 5);

    let all = ledger.dead_letters("users", None, 100).await.unwrap();
    assert_eq!(
        all.iter()
            .map(|letter| letter.key.clone())
            .collect::<Vec<_>>(),
        [0, 1, 2, 3, 4].map(key)
    );
    let letter = &all[0];
    assert_eq!(
        (letter.attempts, letter.reason.as_str(), &letter.body[..]),
        (2, "reason 0\0\\", &b"body"[..])
    );
    assert_eq!(
        letter
            .died_at
            .duration_since(letter.first_claimed_at)
            .as_millis(),
        1_000
    );
    assert!(
        !format!("{letter:?}").contains("body:"),
        "a payload in Debug: {letter:?}"
    );

    let mut paged = ledger.dead_letters("users", None, 2).await.unwrap();
    loop {
        let page = ledger.dead_letters("users", paged.last(), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert!(
        ledger
            .dead_letters("other", None, 100)
            .await
            .unwrap()
            .is_empty(),
        "another endpoint's letter"
    );

    assert!(ledger.forget(&key(0)).await.unwrap());
    assert_eq!(
        ledger.dead_letters("users", None, 100).await.unwrap().len(),
        4
    );
    assert_eq!(granted(&ledger, 0).await.attempt, 1);
}

#[tokio::test]
async fn a_dead_letter_that_is_replayed_is_as_if_it_had_just_been_stored() {
    let prefix = fresh_prefix();
    let (ledger, mut other) = opened(Postgres::options(), &prefix).await;
    // Two with the same ordering key, the first of which becomes a dead letter; and one that an
    // inline receiver failed terminally.
    for n in 0..2 {
        let appended = ledger
            .append(
                &key(n),
                DIGEST,
                Some("usr_1"),
                Bytes::from(format!("body {n}")),
            )
            .await;
        assert_eq!(appended.unwrap(), Appended::Stored);
    }
    let first = leased(&ledger).await;
    assert_eq!(first.key, key(0));
    assert_eq!(
        ledger
            .complete(&key(0), first.token, dead("no such user", b"body 0"))
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    let inline = granted(&ledger, 2).await;
    assert_eq!(
        ledger
            .complete(&key(2), inline, dead("no such user", b"body 2"))
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    grow_older(&mut other, &prefix, Duration::from_hours(1)).await;

    assert!(
        !ledger.replay(&key(1)).await.unwrap(),
        "a waiting event is not a dead letter"
    );
    assert!(
        !ledger.replay(&key(9)).await.unwrap(),
        "the dead letter does not exist"
    );
    assert!(ledger.replay(&key(0)).await.unwrap());
    assert!(
        !ledger.replay(&key(0)).await.unwrap(),
        "it is none any more"
    );
    assert!(ledger.replay(&key(2)).await.unwrap());
    assert!(
        ledger
            .dead_letters("users", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(ledger.backlog("users").await.unwrap().depth, 3);

    // The ordering key's other event is first now; the one without an ordering key waits for none.
    let second = leased(&ledger).await;
    assert_eq!(second.key, key(1));
    let third = leased(&ledger).await;
    assert_eq!(
        (third.key, third.token.attempt, &third.body[..]),
        (key(2), 1, &b"body 2"[..])
    );
    assert!(matches!(
        ledger.lease_next("users", LEASE).await.unwrap(),
        NextEvent::Empty { .. }
    ));
    assert_eq!(
        ledger
            .complete(&key(1), second.token, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    let again = leased(&ledger).await;
    assert_eq!(
        (again.key, again.token.attempt, &again.body[..]),
        (key(0), 1, &b"body 0"[..])
    );
    assert!(
        again.received_at > first.received_at,
        "it has waited from its replay on"
    );
    let stale = ledger
        .complete(&key(0), first.token, Completion::Handled)
        .await
        .unwrap();
    assert_eq!(
        stale,
        LeaseStatus::Lost,
        "the token from before the replay is still good"
    );
}

#[tokio::test]
async fn ids_and_ordering_keys_of_any_length_are_stored_handled_and_replayed() {
    let (ledger, _) = opened(Postgres::options(), &fresh_prefix()).await;
    let receiver = Receiver::inbox("users", verifier(), ledger.clone())
        .ordered_by(Subject::user_id)
        .build()
        .unwrap();
    let worker = |handlers| Worker::builder("users", ledger.clone(), handlers);
    odd_names_hold_up_nothing((&receiver, &ledger, SECRET), worker).await;
}

#[tokio::test]
async fn claims_prune_what_is_past_its_retention() {
    let prefix = fresh_prefix();
    let day = Duration::from_hours(24);
    let (ledger, mut other) = opened(Postgres::options().retention(day), &prefix).await;
    for n in 0..EVENTS {
        let token = granted(&ledger, n).await;
        let completion = if n % 2 == 0 {
            Completion::Handled
        } else {
            dead("reason", b"body")
        };
        assert_eq!(
            ledger.complete(&key(n), token, completion).await.unwrap(),
            LeaseStatus::Held
        );
    }
    grow_older(&mut other, &prefix, day).await;
    for n in EVENTS..2 * EVENTS {
        granted(&ledger, n).await;
    }
    // Pruning happens after a claim's response.
    let other = tokio::sync::Mutex::new(other);
    let pruned = || async {
        let left = count(&mut *other.lock().await, &prefix).await;
        (left == EVENTS).then_some(())
    };
    until(|| "old records stay".to_owned(), pruned).await;

    assert_eq!(
        ledger.purge(Duration::ZERO).await.unwrap(),
        0,
        "claimed records were purged"
    );
}

#[tokio::test]
async fn purge_removes_all_portions_of_what_is_older_than_it_is_given() {
    let prefix = fresh_prefix();
    let year = Duration::from_hours(24 * 365);
    // The ledger's own pruning, which runs in the background, finds nothing to remove.
    let (ledger, mut other) = opened(Postgres::options().retention(100 * year), &prefix).await;
    granted(&ledger, 0).await;
    let more = 600;
    let filled = format!(
        "INSERT INTO {{t}}ledger SELECT 'users', 'more_' || n, 2, 1, n, 1700000000000, 1700000000000, \
         decode(repeat('07', 16), 'hex') FROM generate_series(1, {more}) n"
    );
    meddle(&mut other, &prefix, &filled).await;
    assert_eq!(ledger.purge(100 * year).await.unwrap(), 0);
    assert_eq!(
        ledger.purge(year).await.unwrap(),
        more,
        "more than one portion"
    );
    assert_eq!(count(&mut other, &prefix).await, 1);
}

#[tokio::test]
async fn a_duplicate_writes_nothing() {
    let prefix = fresh_prefix();
    let (ledger, mut other) = opened(Postgres::options(), &prefix).await;
    handled(&ledger, 0).await;
    granted(&ledger, 1).await;
    // A row that was written, or even locked, has another xmax or ctid.
    let look = AssertSqlSafe(format!(
        "SELECT string_agg(concat(ctid, xmin, ',', xmax), ' ') FROM {prefix}ledger"
    ));
    let before: String = sqlx::query_scalar(look)
        .fetch_one(&mut other)
        .await
        .unwrap();
    for _ in 0..10 {
        assert_eq!(
            ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(),
            Claim::Handled {
                first_digest: DIGEST
            }
        );
        assert!(matches!(
            ledger.claim(&key(1), DIGEST, LEASE).await.unwrap(),
            Claim::InFlight { .. }
        ));
    }
    let look = AssertSqlSafe(format!(
        "SELECT string_agg(concat(ctid, xmin, ',', xmax), ' ') FROM {prefix}ledger"
    ));
    let after: String = sqlx::query_scalar(look)
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_claim_that_waited_for_another_tells_what_became_of_that() {
    let prefix = fresh_prefix();
    let (ledger, mut other) = opened(Postgres::options(), &prefix).await;
    // Another transaction has inserted the record but not committed: the claim does not see it, and
    // must wait.
    meddle(&mut other, &prefix, "BEGIN").await;
    let made = "INSERT INTO {t}ledger VALUES ('users', 'evt_0', 2, 1, 1,
        (extract(epoch FROM clock_timestamp()) * 1000)::bigint, 0, decode(repeat('07', 16), 'hex'))";
    meddle(&mut other, &prefix, made).await;
    let waiting = tokio::spawn(async move { ledger.claim(&key(0), DIGEST, LEASE).await });
    let server = PostgresServer::shared().await;
    let third = tokio::sync::Mutex::new(server.connection().await.unwrap());
    let waits = || async {
        let look = format!(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{prefix}%'"
        );
        let rows = sqlx::query(AssertSqlSafe(look))
            .fetch_all(&mut *third.lock().await)
            .await
            .unwrap();
        (!rows.is_empty()).then_some(())
    };
    until(|| "the claim does not wait".to_owned(), waits).await;
    meddle(&mut other, &prefix, "COMMIT").await;
    assert_eq!(
        waiting.await.unwrap().unwrap(),
        Claim::Handled {
            first_digest: DIGEST
        }
    );
}

#[tokio::test]
async fn a_handled_event_keeps_no_body_and_a_dead_one_does() {
    let prefix = fresh_prefix();
    let (ledger, mut other) = opened(Postgres::options(), &prefix).await;
    for n in 0..3 {
        let body = Bytes::from_static(b"body");
        assert_eq!(
            ledger.append(&key(n), DIGEST, None, body).await.unwrap(),
            Appended::Stored
        );
        let event = leased(&ledger).await;
        let held = match n {
            0 => {
                ledger
                    .complete(&event.key, event.token, Completion::Handled)
                    .await
            }
            1 => {
                ledger
                    .commit(ledger.begin().await.unwrap(), &event.key, event.token)
                    .await
            }
            _ => {
                ledger
                    .complete(&event.key, event.token, dead("reason", b"body"))
                    .await
            }
        };
        assert_eq!(held.unwrap(), LeaseStatus::Held);
    }
    let kept = AssertSqlSafe(format!(
        "SELECT event_id FROM {prefix}ledger WHERE body IS NOT NULL"
    ));
    let kept: Vec<String> = sqlx::query_scalar(kept)
        .fetch_all(&mut other)
        .await
        .unwrap();
    assert_eq!(kept, ["evt_2"]);
}

#[tokio::test]
async fn a_timed_out_operation_is_cancelled_at_the_server_and_leases_nothing() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let url = format!("{}?application_name={prefix}", server.url());
    let options = Postgres::options().prefix(&prefix);
    let patient = options.clone().connect(&server.url()).await.unwrap();
    let connect = || async {
        options
            .clone()
            .timeout(Duration::from_millis(300))
            .connect(&url)
            .await
            .ok()
    };
    let ledger = until(|| "the ledger cannot be opened".to_owned(), connect).await;
    let appended = patient
        .append(&key(0), DIGEST, None, Bytes::from_static(b"body"))
        .await
        .unwrap();
    assert_eq!(appended, Appended::Stored);
    let mut other = server.connection().await.unwrap();
    meddle(&mut other, &prefix, "BEGIN; LOCK TABLE {t}ledger").await;
    assert!(
        ledger.lease_next("users", LEASE).await.is_err(),
        "leased while the table was locked"
    );
    // If the server did not cancel the statement, it would wait until the lock is released.
    let third = tokio::sync::Mutex::new(server.connection().await.unwrap());
    let ended = || async {
        let look =
            "SELECT 1 FROM pg_stat_activity WHERE application_name = $1 AND state = 'active'";
        let rows = sqlx::query(look)
            .bind(&prefix)
            .fetch_all(&mut *third.lock().await)
            .await
            .unwrap();
        rows.is_empty().then_some(())
    };
    until(
        || "the server continues an abandoned statement".to_owned(),
        ended,
    )
    .await;
    meddle(&mut other, &prefix, "COMMIT").await;
    assert_eq!(
        leased(&patient).await.token.attempt,
        1,
        "an attempt that no handler got was counted"
    );
}

#[tokio::test]
async fn a_later_versions_tables_are_refused_and_left_alone() {
    let prefix = fresh_prefix();
    let (_, mut other) = opened(Postgres::options(), &prefix).await;
    meddle(&mut other, &prefix, "UPDATE {t}schema SET version = 99").await;
    let server = PostgresServer::shared().await;
    let error = chain(
        &Postgres::options()
            .prefix(&prefix)
            .open(pool(server))
            .await
            .unwrap_err(),
    );
    assert!(
        error.contains(&format!("{prefix}… have version 99")),
        "{error}"
    );
    let version = AssertSqlSafe(format!("SELECT version FROM {prefix}schema"));
    assert_eq!(
        sqlx::query_scalar::<_, i64>(version)
            .fetch_one(&mut other)
            .await
            .unwrap(),
        99
    );
}

#[tokio::test]
async fn tables_of_an_unreleased_version_are_refused_and_left_alone() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let mut other = server.connection().await.unwrap();
    let tables = "
        CREATE TABLE {t}ledger (endpoint TEXT NOT NULL, event_id TEXT NOT NULL, first_digest BYTEA NOT NULL);
        INSERT INTO {t}ledger VALUES ('users', 'evt_0', decode(repeat('07', 32), 'hex'));
        CREATE TABLE {t}schema (version BIGINT NOT NULL);
        INSERT INTO {t}schema VALUES (0)";
    meddle(&mut other, &prefix, tables).await;
    for version in 1..=6_i64 {
        meddle(
            &mut other,
            &prefix,
            &format!("UPDATE {{t}}schema SET version = {version}"),
        )
        .await;
        let error = chain(
            &Postgres::options()
                .prefix(&prefix)
                .open(pool(server))
                .await
                .unwrap_err(),
        );
        let reported =
            format!("{prefix}… have version {version}, made by an unreleased authpi-sdk");
        assert!(
            error.contains(&reported) && error.contains("set another prefix"),
            "{error}"
        );
        let left = AssertSqlSafe(format!(
            "SELECT version, octet_length(first_digest) FROM {prefix}schema, {prefix}ledger"
        ));
        let left: (i64, i32) = sqlx::query_as(left).fetch_one(&mut other).await.unwrap();
        assert_eq!(left, (version, 32));
    }
}

#[tokio::test]
async fn a_role_that_may_not_make_tables_uses_those_that_are_there() {
    let prefix = fresh_prefix();
    let (_, mut other) = opened(Postgres::options(), &prefix).await;
    let role = format!("{prefix}role");
    let sql =
        "CREATE ROLE {t}role LOGIN; REVOKE CREATE ON SCHEMA public FROM public; GRANT SELECT ON {t}schema TO {t}role;
        GRANT SELECT, INSERT, UPDATE, DELETE ON {t}ledger TO {t}role; GRANT USAGE ON SEQUENCE {t}positions TO {t}role";
    sqlx::raw_sql(AssertSqlSafe(sql.replace("{t}", &prefix)))
        .execute(&mut other)
        .await
        .unwrap();
    let server = PostgresServer::shared().await;
    let pool = PgPoolOptions::new().connect_lazy_with(server.options().username(&role));
    let ledger = Postgres::options()
        .prefix(&prefix)
        .open(pool.clone())
        .await
        .unwrap();
    handled(&ledger, 0).await;
    let appended = ledger
        .append(&key(1), DIGEST, Some("usr_1"), Bytes::from_static(b"body"))
        .await
        .unwrap();
    assert_eq!(
        (appended, leased(&ledger).await.key),
        (Appended::Stored, key(1))
    );
    let error = chain(
        &Postgres::options()
            .prefix(fresh_prefix())
            .open(pool)
            .await
            .unwrap_err(),
    );
    assert!(error.contains("permission denied"), "{error}");
}

#[tokio::test]
async fn a_schema_of_ones_own_holds_the_tables() {
    let server = PostgresServer::shared().await;
    let mut other = server.connection().await.unwrap();
    let prefix = fresh_prefix();
    // A reserved word of SQL.
    meddle(&mut other, &prefix, "CREATE SCHEMA IF NOT EXISTS \"table\"").await;
    let options = || Postgres::options().schema("table").prefix(&prefix);
    handled(&options().open(pool(server)).await.unwrap(), 0).await;
    let again = options().open(pool(server)).await.unwrap();
    assert_eq!(
        again.claim(&key(0), DIGEST, LEASE).await.unwrap(),
        Claim::Handled {
            first_digest: DIGEST
        }
    );
    assert_eq!(count(&mut other, &format!("\"table\".{prefix}")).await, 1);
    // The same prefix elsewhere is another ledger.
    let elsewhere = Postgres::options()
        .prefix(&prefix)
        .open(pool(server))
        .await
        .unwrap();
    handled(&elsewhere, 0).await;
}

#[tokio::test]
async fn what_cannot_be_opened_is_told_without_the_password() {
    let refused = |options: PostgresOptions| async move {
        let never = PgPoolOptions::new()
            .connect_lazy("postgres://nowhere.invalid/")
            .unwrap();
        chain(&options.open(never).await.unwrap_err())
    };
    for prefix in [
        "",
        "Users",
        "a-b",
        "a;drop table users",
        "\"",
        "über",
        &"x".repeat(41),
    ] {
        let error = refused(Postgres::options().prefix(prefix)).await;
        assert!(
            error.contains("cannot be used as a prefix of tables"),
            "{error}"
        );
    }
    let error = refused(Postgres::options().schema("no schema")).await;
    assert!(error.contains("cannot be used as a schema"), "{error}");

    // Port 1 has no listener.
    for (url, why) in [
        ("postgres://me:hunter2@127.0.0.1:1/db", "refused"),
        (
            "postgres://me:hunter2@127.0.0.1:99999999/db",
            "invalid port",
        ),
    ] {
        let error: LedgerError = Postgres::connect(url).await.unwrap_err();
        assert!(chain(&error).contains(why), "{}", chain(&error));
        assert!(
            !format!("{} {error:?}", chain(&error)).contains("hunter2"),
            "{error:?}"
        );
    }
    let ledger = Postgres::options()
        .prefix(fresh_prefix())
        .connect(&PostgresServer::shared().await.url())
        .await
        .unwrap();
    assert!(!format!("{ledger:?}").contains("127.0.0.1"), "{ledger:?}");
}
