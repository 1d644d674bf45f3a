//! Postgres with `fsync = on`, beside the same two statements by hand, and beside the simplest
//! sufficient statements on an equal table, which do not check an existing record.

use std::sync::Arc;

use authpi_sdk::{stores::Postgres, unstable};
use benches::rate::{Compared, Each, compare};
use sqlx::{AssertSqlSafe, PgPool, Row as _, postgres::PgPoolOptions};

use super::{ours, servers::postgres::PostgresServer};

const CLAIM: &str = "
    INSERT INTO by_hand (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest)
    VALUES ($1, $2, 1, 1, $3, $4, $4, $5) ON CONFLICT DO NOTHING RETURNING attempt";
const COMPLETE: &str = "
    UPDATE by_hand SET state = 2, at = $4, body = NULL
    WHERE endpoint = $1 AND event_id = $2 AND nonce = $3 AND state = 1";

pub(crate) async fn measure() -> Vec<Compared> {
    let server = PostgresServer::start_with(&["-c", "fsync=on"]).await;
    let pool = || async {
        let options = PgPoolOptions::new()
            .max_connections(16)
            .test_before_acquire(false);
        options
            .connect_with(server.options())
            .await
            .expect("it accepts connections")
    };
    let ledger = Postgres::open(pool().await)
        .await
        .expect("the ledger opens");
    let by_hand = pool().await;
    let statements = unstable::postgres_statements(&ledger);
    let table = "CREATE TABLE by_hand (LIKE authpi_ledger INCLUDING ALL)";
    sqlx::raw_sql(table)
        .execute(&by_hand)
        .await
        .expect("a table like the ledger's");
    let ours = ours("Postgres: claim + complete", ledger);
    let mut compared = compare(
        &ours,
        &same(by_hand.clone(), statements.claim, statements.handled),
        |_| Some(0.9),
    )
    .await;
    compared.extend(compare(&ours, &plainest(by_hand), |_| None).await);
    compared
}

fn same(pool: PgPool, claim: Arc<str>, complete: Arc<str>) -> Each {
    Each::new("the same in sqlx", move |n| {
        let (pool, claim, complete) = (pool.clone(), Arc::clone(&claim), Arc::clone(&complete));
        async move {
            let (event_id, nonce) = (format!("evt_{n:026}"), n as i64);
            let claim = sqlx::query(AssertSqlSafe(claim))
                .bind("by hand")
                .bind(&event_id)
                .bind(nonce)
                .bind(30_000_i64);
            let claim = claim.bind(&[0_u8; 16][..]).bind(2_592_000_000_i64);
            let claimed = claim.fetch_all(&pool).await.expect("it claims");
            let attempt: i64 = claimed[0].get(0);
            let complete = sqlx::query(AssertSqlSafe(complete))
                .bind("by hand")
                .bind(&event_id)
                .bind(attempt)
                .bind(nonce);
            assert_eq!(
                complete.fetch_all(&pool).await.expect("it completes").len(),
                1
            );
        }
    })
}

fn plainest(pool: PgPool) -> Each {
    Each::new("a bare INSERT and UPDATE", move |n| {
        let pool = pool.clone();
        async move {
            let (event_id, nonce, now) = (format!("evt_{n:026}"), n as i64, 1_700_000_000_000_i64);
            let claim = sqlx::query(CLAIM)
                .bind("users")
                .bind(&event_id)
                .bind(nonce)
                .bind(now)
                .bind(&[0_u8; 16][..]);
            assert_eq!(claim.fetch_all(&pool).await.expect("it claims").len(), 1);
            let complete = sqlx::query(COMPLETE)
                .bind("users")
                .bind(&event_id)
                .bind(nonce)
                .bind(now);
            assert_eq!(
                complete
                    .execute(&pool)
                    .await
                    .expect("it completes")
                    .rows_affected(),
                1
            );
        }
    })
}
