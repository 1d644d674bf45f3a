//! What a large backlog costs those who look for work, and what becomes of one that an earlier
//! version has stored.

use authpi_sdk::{
    ledger::{Completion, EventKey, Inbox as _, LeaseStatus, Ledger as _, NextEvent},
    stores::Postgres,
};
use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgPoolOptions};
use tokio::task::JoinSet;

use super::{LEASE, Tables, conformance, fresh_prefix, key, leased, meddle, opened, pool};
use crate::servers::postgres::PostgresServer;

/// The tables as the version before made them.
const VERSION_5: &str = r#"
    CREATE TABLE {t}ledger (
        endpoint TEXT COLLATE "C" NOT NULL,
        event_id TEXT COLLATE "C" NOT NULL,
        state SMALLINT NOT NULL,
        attempt BIGINT NOT NULL,
        nonce BIGINT NOT NULL,
        at BIGINT NOT NULL,
        first_claimed_at BIGINT NOT NULL,
        first_digest BYTEA NOT NULL CHECK (octet_length(first_digest) = 16),
        reason TEXT,
        body BYTEA,
        PRIMARY KEY (endpoint, event_id)
    );
    CREATE INDEX {t}ledger_at ON {t}ledger (at);
    CREATE INDEX {t}ledger_dead ON {t}ledger (endpoint, at, event_id) WHERE state = 3;
    ALTER TABLE {t}ledger ADD COLUMN place BIGINT, ADD COLUMN lane TEXT COLLATE "C";
    CREATE SEQUENCE {t}places START 100;
    CREATE INDEX {t}inbox ON {t}ledger (endpoint, place) WHERE place IS NOT NULL AND state < 2;
    CREATE INDEX {t}inbox_lane ON {t}ledger (endpoint, lane, place) WHERE lane IS NOT NULL AND state < 2;
    CREATE TABLE {t}schema (version BIGINT NOT NULL);
    INSERT INTO {t}schema VALUES (5);
    INSERT INTO {t}ledger
        (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, lane, place)
    SELECT 'users', 'evt_' || n, state, attempt, n, at, 1700000000000, decode(repeat('07', 16), 'hex'), 'body', lane, n
    FROM (VALUES
        (0, 0, 1, 1700000000000, 'usr_1'),      -- its pause is over
        (1, 0, 0, 1700000000000, 'usr_1'),
        (2, 0, 0, 1700000000000, 'usr_1'),
        (3, 1, 1, 4000000000000, NULL),         -- it is leased
        (4, 1, 1, 1700000000000, NULL),         -- its lease is over
        (5, 0, 0, 1700000000000, NULL),
        (6, 2, 1, 1700000000000, 'usr_1')       -- it is handled
    ) AS stored (n, state, attempt, at, lane);
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_the_version_before_is_worked_off_in_its_order() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let mut other = server.connection().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(VERSION_5.replace("{t}", &prefix)))
        .execute(&mut other)
        .await
        .unwrap();
    let mut replicas = JoinSet::new();
    for _ in 0..8 {
        let prefix = prefix.clone();
        replicas.spawn(async move {
            Postgres::options()
                .prefix(prefix)
                .open(pool(server))
                .await
                .unwrap()
        });
    }
    let ledger = replicas.join_all().await.pop().unwrap();
    assert_eq!(ledger.backlog("users").await.unwrap().depth, 6);
    let first = leased(&ledger).await;
    assert_eq!(
        (&first.key, first.token.attempt, &first.body[..]),
        (&key(0), 2, &b"body"[..])
    );
    let (fourth, fifth) = (leased(&ledger).await, leased(&ledger).await);
    assert_eq!(
        (fourth.key, fourth.token.attempt, fifth.key),
        (key(4), 2, key(5))
    );
    assert!(
        matches!(
            ledger.lease_next("users", LEASE).await.unwrap(),
            NextEvent::Empty { .. }
        ),
        "a lane was passed over"
    );
    assert!(ledger.forget(&first.key).await.unwrap());
    for n in [1, 2] {
        let next = leased(&ledger).await;
        assert_eq!(next.key, key(n));
        assert_eq!(
            ledger
                .complete(&next.key, next.token, Completion::Handled)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
    }
}

/// How many rows the node of a plan and those below it have read, those thrown away included.
fn rows_of(node: &serde_json::Value) -> f64 {
    let kinds = [
        "Actual Rows",
        "Rows Removed by Filter",
        "Rows Removed by Join Filter",
        "Rows Removed by Index Recheck",
    ];
    let own: f64 = kinds.iter().filter_map(|kind| node[kind].as_f64()).sum();
    let below: f64 = node["Plans"]
        .as_array()
        .into_iter()
        .flatten()
        .map(rows_of)
        .sum();
    own * node["Actual Loops"].as_f64().unwrap_or(1.0) + below
}

/// How many rows a look for work visits; and how the server goes about it, for people.
async fn visited(connection: &mut PgConnection, statement: &str) -> (f64, String) {
    let explain = AssertSqlSafe(format!("EXPLAIN (ANALYZE, FORMAT JSON) {statement}"));
    let query = sqlx::query(explain)
        .bind("users")
        .bind(1_000_i64)
        .bind(1_i64)
        .bind(false);
    let row = query.fetch_one(connection).await.unwrap();
    let plan: serde_json::Value = serde_json::from_str(&row.get_unchecked::<String, _>(0)).unwrap();
    (rows_of(&plan[0]["Plan"]), format!("{plan:#}"))
}

#[tokio::test]
async fn a_look_for_work_visits_no_event_that_is_paused_leased_or_behind_another() {
    const BACKLOG: i64 = 5_000;
    let prefix = fresh_prefix();
    let (ledger, mut other) = opened(Postgres::options(), &prefix).await;
    // Half of them are paused for long; the others are in two lanes, whose first ones are leased.
    let filled = format!(
        "INSERT INTO {{t}}ledger
            (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, lane, place, behind)
        SELECT 'users', 'evt_' || n, 0, n % 2, n, CASE WHEN n % 2 = 1 THEN 4000000000000 ELSE 0 END, 0,
            decode(repeat('07', 16), 'hex'), 'body', CASE WHEN n % 2 = 0 THEN 'lane ' || n % 4 END, n, n % 2 = 0 AND n > 4
        FROM generate_series(1, {BACKLOG}) n"
    );
    meddle(&mut other, &prefix, &filled).await;
    for n in [2, 4] {
        assert_eq!(leased(&ledger).await.key, key(n));
    }
    let [look, ..] = ledger.looks();
    // As the planner knows nothing of the rows, and as it knows them.
    for known in ["SELECT", "VACUUM ANALYZE {t}ledger"] {
        meddle(&mut other, &prefix, known).await;
        let (rows, plan) = visited(&mut other, &look).await;
        assert!(
            rows < 50.0,
            "{rows} rows were visited after {known:?}: {plan}"
        );
    }
    assert!(matches!(
        ledger.lease_next("users", LEASE).await.unwrap(),
        NextEvent::Empty { due_in: Some(_) }
    ));
}

#[tokio::test]
async fn what_is_woken_or_pruned_is_found_without_the_rest() {
    let prefix = fresh_prefix();
    let (ledger, mut other) = opened(Postgres::options(), &prefix).await;
    let [_, wake, prune] = ledger.looks();
    let run = async |connection: &mut PgConnection, sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .fetch_all(connection)
            .await
            .unwrap()
    };
    // A connection keeps the plan that it made at first, when there was nothing; prunings are
    // planned each time.
    let prepare = format!(
        "SET plan_cache_mode = force_generic_plan; PREPARE wake (text, bigint) AS {wake}; EXECUTE wake ('users', 100)"
    );
    run(&mut other, prepare).await;
    // Of each 2,000, three are due.
    let filled = "
        INSERT INTO {t}ledger (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, place)
        SELECT 'users', 'evt_' || n, 0, 1, n, CASE WHEN n <= 3 THEN n ELSE 4000000000000 END, 0,
            decode(repeat('07', 16), 'hex'), 'body', n
        FROM generate_series(1, 2000) n;
        INSERT INTO {t}ledger (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest)
        SELECT 'users', 'done_' || n, 2, 1, n, CASE WHEN n <= 3 THEN n ELSE 4000000000000 END, 0,
            decode(repeat('07', 16), 'hex')
        FROM generate_series(1, 2000) n";
    meddle(&mut other, &prefix, filled).await;
    run(
        &mut other,
        format!("SET plan_cache_mode = auto; PREPARE prune (bigint, bigint) AS {prune}"),
    )
    .await;
    for call in ["wake ('users', 100)", "prune (1000, 100)"] {
        let rows = run(
            &mut other,
            format!("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {call}"),
        )
        .await;
        let plan: serde_json::Value =
            serde_json::from_str(&rows[0].get_unchecked::<String, _>(0)).unwrap();
        let rows = rows_of(&plan[0]["Plan"]);
        assert!(rows < 50.0, "{rows} rows were visited by {call}: {plan:#}");
    }
    assert_eq!(leased(&ledger).await.key.event_id(), "evt_1");
    assert!(
        !ledger
            .forget(&EventKey::new("users", "done_1"))
            .await
            .unwrap(),
        "it was not pruned"
    );
    assert!(
        ledger
            .forget(&EventKey::new("users", "done_4"))
            .await
            .unwrap(),
        "too much was pruned"
    );
}

#[tokio::test]
async fn who_ends_an_event_by_an_old_snapshot_fails_and_leaves_no_lane_standing() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let prefix = fresh_prefix();
        let (ledger, mut other) = opened(Postgres::options(), &prefix).await;
        let append = async |n| {
            ledger
                .append(&key(n), crate::stores::DIGEST, Some("lane"), "body".into())
                .await
                .unwrap()
        };
        append(0).await;
        let first = leased(&ledger).await;
        meddle(
            &mut other,
            &prefix,
            &format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM {{t}}ledger"),
        )
        .await;
        append(1).await;
        // As the completion in a handler's transaction.
        let end = AssertSqlSafe(format!(
            "UPDATE {prefix}ledger SET state = 2, at = 1, body = NULL WHERE state = 1"
        ));
        let error = sqlx::raw_sql(end)
            .execute(&mut other)
            .await
            .unwrap_err()
            .into_database_error()
            .unwrap();
        assert_eq!(error.code().as_deref(), Some("40001"), "{level}: {error}");
        meddle(&mut other, &prefix, "ROLLBACK").await;
        assert_eq!(
            ledger
                .complete(&first.key, first.token, Completion::Handled)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
        assert_eq!(
            leased(&ledger).await.key,
            key(1),
            "{level}: the lane stands still"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_are_kept_where_reads_are_repeatable() {
    let server = PostgresServer::shared().await;
    let options = server
        .options()
        .options([("default_transaction_isolation", "repeatable read")]);
    let pool = PgPoolOptions::new()
        .max_connections(8)
        .connect_lazy_with(options);
    let tables = Tables {
        server,
        pool,
        options: Postgres::options,
        newest: std::sync::Mutex::default(),
    };
    conformance::inbox::run(&tables).await;
    conformance::ordering::run(&tables).await;
}
