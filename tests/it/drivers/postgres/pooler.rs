//! Behind `PgBouncer`, which refuses unknown startup parameters.

use authpi_sdk::{
    event::{Event, types::UserCreated},
    handlers::{Context, Handlers},
    ledger::Tx,
    receiver::Receiver,
    stores::Postgres,
    testing::Fixture,
};
use sqlx::postgres::PgPoolOptions;

use crate::support::{deliver, verifier};
use crate::{
    drivers::chain,
    servers::{
        pgbouncer::PgBouncer,
        postgres::{PostgresServer, fresh_prefix},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_refuses_our_settings_is_refused_at_opening() {
    let server = PostgresServer::shared().await;
    let pooler = PgBouncer::before(server, "extra_float_digits").await;
    let error = Postgres::options()
        .prefix(fresh_prefix())
        .connect(&pooler.url())
        .await
        .map(drop)
        .unwrap_err();
    let error = chain(&error);
    assert!(
        error.contains("ignore_startup_parameters") && error.contains("startup parameter: options"),
        "{error}"
    );
    // A custom pool that does not send `options` at startup works there.
    let without = PgPoolOptions::new()
        .max_connections(4)
        .connect_lazy_with(pooler.options(server));
    works(
        Postgres::options()
            .prefix(fresh_prefix())
            .open(without)
            .await
            .unwrap(),
    )
    .await;
    let with = pooler
        .options(server)
        .options([("statement_timeout", "5s")]);
    let with = PgPoolOptions::new()
        .max_connections(4)
        .connect_lazy_with(with);
    let error = Postgres::options()
        .prefix(fresh_prefix())
        .open(with)
        .await
        .map(drop)
        .unwrap_err();
    assert!(
        chain(&error).contains("ignore_startup_parameters"),
        "{}",
        chain(&error)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_handled_behind_a_pooler_that_lets_the_settings_through() {
    let server = PostgresServer::shared().await;
    let pooler = PgBouncer::before(server, "extra_float_digits, options").await;
    works(
        Postgres::options()
            .prefix(fresh_prefix())
            .connect(&pooler.url())
            .await
            .unwrap(),
    )
    .await;
}

async fn works(store: Postgres) {
    let handlers = Handlers::new(()).on_tx(
        async |_: Event<UserCreated>, _: Context<()>, mut tx: Tx<Postgres>| {
            sqlx::query("SELECT 1").execute(&mut *tx).await?;
            Ok(())
        },
    );
    let receiver = Receiver::inline("users", verifier(), store, handlers)
        .build()
        .unwrap();
    for n in 0..5 {
        let event = Fixture::of::<UserCreated>().id(format!("evt_{n}"));
        assert_eq!(deliver(&receiver, &event).await, 200);
    }
}
