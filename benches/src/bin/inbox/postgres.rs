//! Postgres with `fsync = on`, beside the statement that a service would write, on a table of the same make.

use authpi_sdk::ledger::Postgres;
use benches::rate::{Compared, Each, compare};
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::{body, event_id, ours, servers::postgres::PostgresServer};

const APPEND: &str = "
    INSERT INTO by_hand (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, place)
    VALUES ($1, $2, 0, 0, 0, $3, $3, $4, $5, nextval('authpi_places')) ON CONFLICT DO NOTHING RETURNING 1";

pub(crate) async fn measure(server: &PostgresServer) -> Vec<Compared> {
    let (inbox, by_hand) = (inbox(server).await, pool(server).await);
    let table = "CREATE TABLE by_hand (LIKE authpi_ledger INCLUDING ALL)";
    sqlx::raw_sql(table).execute(&by_hand).await.expect("a table like the inbox's");
    compare(&ours("Postgres: append", inbox), &statement(by_hand), |_| Some(0.9)).await
}

pub(crate) async fn inbox(server: &PostgresServer) -> Postgres {
    Postgres::open(pool(server).await).await.expect("the inbox opens")
}

async fn pool(server: &PostgresServer) -> PgPool {
    let options = PgPoolOptions::new().max_connections(16).test_before_acquire(false);
    options.connect_with(server.options()).await.expect("it accepts connections")
}

fn statement(pool: PgPool) -> Each {
    Each::new("a statement in sqlx", move |n| {
        let pool = pool.clone();
        async move {
            let event_id = event_id(n);
            let append = sqlx::query(APPEND).bind("users").bind(&event_id).bind(1_700_000_000_000_i64);
            let append = append.bind(&[0_u8; 32][..]).bind(body(&event_id).to_vec());
            assert_eq!(append.fetch_all(&pool).await.expect("it appends").len(), 1);
        }
    })
}
