//! Secrets in Postgres.

use authpi_sdk::endpoint::{PostgresSecretStore, SecretStore as _};
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::{client::secrets::conforms, servers::postgres::PostgresServer};

#[tokio::test]
async fn secrets_in_postgres_are_kept_for_all_replicas_that_start_at_once() {
    let server = PostgresServer::start().await;
    let mut replicas = JoinSet::new();
    for _ in 0..8 {
        let pool = PgPool::connect_with(server.options()).await.unwrap();
        replicas.spawn(async move { PostgresSecretStore::open(pool).await.unwrap() });
    }
    let replicas = replicas.join_all().await;
    conforms(&replicas[0]).await;
    let kept = replicas[7].load("orders").await.unwrap();
    assert_eq!(
        kept.len(),
        1,
        "what one replica keeps, another does not find"
    );
    let shown = format!("{:?} {kept:?}", replicas[0]);
    assert!(!shown.contains("whs_"), "{shown}");
}
