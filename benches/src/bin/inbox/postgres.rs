//! Postgres with `fsync = on`, beside the same statement by hand, and beside the simplest
//! sufficient statement on an equal table, which keeps no order and does not report duplicates.

use std::sync::Arc;

use authpi_sdk::{stores::Postgres, unstable};
use benches::rate::{Compared, Each, compare};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};

use super::{body, event_id, ours, servers::postgres::PostgresServer};

const APPEND: &str = "
    INSERT INTO by_hand (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, position)
    VALUES ($1, $2, 0, 0, 0, $3, $3, $4, $5, nextval('authpi_positions')) ON CONFLICT DO NOTHING RETURNING 1";

pub(crate) async fn measure(server: &PostgresServer) -> Vec<Compared> {
    let (inbox, by_hand) = (inbox(server).await, pool(server).await);
    let append = unstable::postgres_statements(&inbox).append;
    let table = "CREATE TABLE by_hand (LIKE authpi_ledger INCLUDING ALL)";
    sqlx::raw_sql(table)
        .execute(&by_hand)
        .await
        .expect("a table like the inbox's");
    let ours = ours("Postgres: append", inbox);
    let mut compared = compare(&ours, &same(by_hand.clone(), append), |_| Some(0.9)).await;
    compared.extend(compare(&ours, &plainest(by_hand), |_| None).await);
    compared
}

fn same(pool: PgPool, append: Arc<str>) -> Each {
    Each::new("the same in sqlx", move |n| {
        let (pool, append) = (pool.clone(), Arc::clone(&append));
        async move {
            let event_id = event_id(n);
            let append = sqlx::query(AssertSqlSafe(append))
                .bind("by hand")
                .bind(&event_id)
                .bind(&[0_u8; 16][..]);
            let append = append
                .bind(body(&event_id).to_vec())
                .bind(None::<String>)
                .bind(2_592_000_000_i64);
            assert_eq!(append.fetch_all(&pool).await.expect("it appends").len(), 1);
        }
    })
}

pub(crate) async fn inbox(server: &PostgresServer) -> Postgres {
    Postgres::open(pool(server).await)
        .await
        .expect("the inbox opens")
}

async fn pool(server: &PostgresServer) -> PgPool {
    let options = PgPoolOptions::new()
        .max_connections(16)
        .test_before_acquire(false);
    options
        .connect_with(server.options())
        .await
        .expect("it accepts connections")
}

fn plainest(pool: PgPool) -> Each {
    Each::new("a bare INSERT", move |n| {
        let pool = pool.clone();
        async move {
            let event_id = event_id(n);
            let append = sqlx::query(APPEND)
                .bind("users")
                .bind(&event_id)
                .bind(1_700_000_000_000_i64);
            let append = append.bind(&[0_u8; 16][..]).bind(body(&event_id).to_vec());
            assert_eq!(append.fetch_all(&pool).await.expect("it appends").len(), 1);
        }
    })
}
