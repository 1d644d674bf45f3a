//! The cost of leasing with a large backlog.

use authpi_sdk::{
    ledger::{Completion, EventKey, Inbox as _, LeaseStatus, Ledger as _, NextEvent},
    stores::Postgres,
    unstable::{self, PostgresStatements},
};
use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgPoolOptions};

use super::{LEASE, Tables, conformance, fresh_prefix, key, leased, meddle, opened};
use crate::servers::postgres::PostgresServer;

/// The number of rows that a plan's node and those below it have read, including discarded ones.
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

/// The number of rows that a lease visits, and the plan as text.
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
async fn leasing_visits_no_event_that_is_waiting_leased_or_blocked() {
    const BACKLOG: i64 = 5_000;
    let prefix = fresh_prefix();
    let (ledger, mut other) = opened(Postgres::options(), &prefix).await;
    // Half of them wait for a retry; the others have two ordering keys, whose first events are
    // leased.
    let filled = format!(
        "INSERT INTO {{t}}ledger
            (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, ordering_key, position, blocked)
        SELECT 'users', 'evt_' || n, 0, n % 2, n, CASE WHEN n % 2 = 1 THEN 4000000000000 ELSE 0 END, 0,
            decode(repeat('07', 16), 'hex'), 'body', CASE WHEN n % 2 = 0 THEN 'ordering_key ' || n % 4 END, n, n % 2 = 0 AND n > 4
        FROM generate_series(1, {BACKLOG}) n"
    );
    meddle(&mut other, &prefix, &filled).await;
    for n in [2, 4] {
        assert_eq!(leased(&ledger).await.key, key(n));
    }
    let lease_next = unstable::postgres_statements(&ledger).lease_next;
    // Without and with planner statistics.
    for known in ["SELECT", "VACUUM ANALYZE {t}ledger"] {
        meddle(&mut other, &prefix, known).await;
        let (rows, plan) = visited(&mut other, &lease_next).await;
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
    let PostgresStatements { wake, prune, .. } = unstable::postgres_statements(&ledger);
    let run = async |connection: &mut PgConnection, sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .fetch_all(connection)
            .await
            .unwrap()
    };
    // A connection keeps the plan that it made first, when the table was empty; pruning is planned
    // each time.
    let prepare = format!(
        "SET plan_cache_mode = force_generic_plan; PREPARE wake (text, bigint) AS {wake}; EXECUTE wake ('users', 100)"
    );
    run(&mut other, prepare).await;
    // Three of each 2,000 are due.
    let filled = "
        INSERT INTO {t}ledger (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, position)
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
async fn ending_an_event_from_an_old_snapshot_fails_and_blocks_no_ordering_key() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let prefix = fresh_prefix();
        let (ledger, mut other) = opened(Postgres::options(), &prefix).await;
        let append = async |n| {
            ledger
                .append(
                    &key(n),
                    crate::drivers::DIGEST,
                    Some("ordering_key"),
                    "body".into(),
                )
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
        // Like the completion in a handler's transaction.
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
            "{level}: the ordering_key stands still"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ordering_keys_are_kept_where_reads_are_repeatable() {
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
