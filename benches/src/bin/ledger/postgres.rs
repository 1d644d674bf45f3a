//! Postgres with `fsync = on`, beside the two statements that a service would write, on a table of the same make.

use authpi_sdk::ledger::Postgres;
use benches::rate::{Compared, Each, compare};
use sqlx::{PgPool, postgres::PgPoolOptions};

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
        let options = PgPoolOptions::new().max_connections(16).test_before_acquire(false);
        options.connect_with(server.options()).await.expect("it accepts connections")
    };
    let ledger = Postgres::open(pool().await).await.expect("the ledger opens");
    let by_hand = pool().await;
    let table = "CREATE TABLE by_hand (LIKE authpi_ledger INCLUDING ALL)";
    sqlx::raw_sql(table).execute(&by_hand).await.expect("a table like the ledger's");
    compare(&ours("Postgres: claim + complete", ledger), &statements(by_hand), |_| Some(0.9)).await
}

fn statements(pool: PgPool) -> Each {
    Each::new("two statements in sqlx", move |n| {
        let pool = pool.clone();
        async move {
            let (event_id, nonce, now) = (format!("evt_{n:026}"), n as i64, 1_700_000_000_000_i64);
            let claim = sqlx::query(CLAIM).bind("users").bind(&event_id).bind(nonce).bind(now).bind(&[0_u8; 32][..]);
            assert_eq!(claim.fetch_all(&pool).await.expect("it claims").len(), 1);
            let complete = sqlx::query(COMPLETE).bind("users").bind(&event_id).bind(nonce).bind(now);
            assert_eq!(complete.execute(&pool).await.expect("it completes").rows_affected(), 1);
        }
    })
}
