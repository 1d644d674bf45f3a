//! What a health probe reports while the server stops, hangs, and returns.

use authpi_sdk::{
    Clock,
    event::{Event, types::UserCreated},
    handlers::Handlers,
    ledger::{LedgerError, LedgerErrorKind},
    receiver::Receiver,
    stores::{Memory, NatsOptions, Postgres, Redis},
    testing::Fixture,
    worker::Worker,
};
use jiff::{SignedDuration, Timestamp};
use sqlx::postgres::PgPoolOptions;

use crate::servers::{
    nats::{NatsServer, fresh_name},
    postgres::{PostgresServer, fresh_prefix},
    redis::{RedisServer, fresh_prefix as redis_prefix},
    until,
};
use crate::support::{deliver, verifier};

#[tokio::test]
async fn a_probe_is_ready_exactly_while_postgres_answers() {
    let mut server = PostgresServer::start().await;
    let store = Postgres::connect(&server.url()).await.unwrap();
    let inline = Receiver::inline("inline", verifier(), store.clone(), Handlers::new(()))
        .build()
        .unwrap();
    let inbox = Receiver::inbox("inbox", verifier(), store.clone())
        .build()
        .unwrap();
    let worker = Worker::builder("inbox", store, Handlers::new(()))
        .build()
        .unwrap();
    let ready = async || {
        let (inline, inbox, worker) =
            tokio::join!(inline.health(), inbox.health(), worker.health());
        [inline.is_ready(), inbox.is_ready(), worker.is_ready()]
    };
    inbox.ingest(Fixture::new("user.created").verified()).await;
    assert_eq!(ready().await, [true; 3]);
    assert_eq!(worker.health().await.backlog.unwrap().depth, 1);

    // A probe's result is valid for a second.
    let never = || "the probes never became ready again".to_owned();
    let still = || "a server that does not answer is taken for one that does".to_owned();
    let paused = server.pause().await;
    until(still, async || (ready().await == [false; 3]).then_some(())).await;
    drop(paused);
    until(never, async || (ready().await == [true; 3]).then_some(())).await;

    server.stop();
    until(still, async || (ready().await == [false; 3]).then_some(())).await;
    server.start_again().await;
    until(never, async || (ready().await == [true; 3]).then_some(())).await;
}

/// Polls until the probe reports `expected`; a result is valid for a second.
async fn says(hook: &Receiver, expected: Result<(), LedgerErrorKind>) {
    let last = std::sync::Mutex::new(String::new());
    let asked = async || {
        let health = hook.health().await;
        *last.lock().unwrap() = format!("{health:?}");
        let ready = matches!(expected, Ok(()) | Err(LedgerErrorKind::Busy));
        (health.store.as_ref().err().map(LedgerError::kind) == expected.err()
            && health.is_ready() == ready)
            .then_some(())
    };
    until(
        || format!("expected {expected:?}: {}", last.lock().unwrap()),
        asked,
    )
    .await;
}

#[tokio::test]
async fn a_redis_that_answers_and_cannot_write_is_not_ready() {
    let server = RedisServer::start().await;
    let store = Redis::connect(&server.url()).await.unwrap();
    let hook = Receiver::inline("users", verifier(), store, Handlers::new(()))
        .build()
        .unwrap();
    let mut by_hand = server.connection().await.unwrap();
    for (fault, repaired) in [
        (
            ["REPLICAOF", "127.0.0.1", "1"].as_slice(),
            ["REPLICAOF", "NO", "ONE"].as_slice(),
        ),
        (
            &["CONFIG", "SET", "maxmemory", "1"],
            &["CONFIG", "SET", "maxmemory", "0"],
        ),
    ] {
        says(&hook, Ok(())).await;
        let mut tell = async |words: &[&str]| {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            command.query_async::<()>(&mut by_hand).await.unwrap();
        };
        tell(fault).await;
        says(&hook, Err(LedgerErrorKind::CannotWrite)).await;
        tell(repaired).await;
    }
    says(&hook, Ok(())).await;
}

#[tokio::test]
async fn a_postgres_that_answers_and_is_read_only_is_not_ready() {
    let server = PostgresServer::start().await;
    let store = Postgres::connect(&server.url()).await.unwrap();
    let inline = Receiver::inline("inline", verifier(), store.clone(), Handlers::new(()))
        .build()
        .unwrap();
    let inbox = Receiver::inbox("inbox", verifier(), store).build().unwrap();
    let mut by_hand = server.connection().await.unwrap();
    let mut read_only = async |on: bool| {
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
        for statement in [set.as_str(), "SELECT pg_reload_conf()"] {
            sqlx::query(sqlx::AssertSqlSafe(statement))
                .execute(&mut by_hand)
                .await
                .unwrap();
        }
    };
    for (on, expected) in [
        (false, Ok(())),
        (true, Err(LedgerErrorKind::CannotWrite)),
        (false, Ok(())),
    ] {
        read_only(on).await;
        says(&inline, expected).await;
        says(&inbox, expected).await;
    }
}

#[tokio::test]
async fn a_postgres_whose_connections_are_all_in_use_is_busy_and_ready() {
    let server = PostgresServer::start().await;
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .connect(&server.url())
        .await
        .unwrap();
    let store = Postgres::open(pool.clone()).await.unwrap();
    let hook = Receiver::inline("users", verifier(), store, Handlers::new(()))
        .build()
        .unwrap();
    says(&hook, Ok(())).await;
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(pool.acquire().await.unwrap());
    }
    says(&hook, Err(LedgerErrorKind::Busy)).await;
    assert!(
        hook.health()
            .await
            .to_string()
            .starts_with("ready, but the store is busy")
    );
    drop(taken);
    says(&hook, Ok(())).await;
}

#[tokio::test]
async fn a_role_that_cannot_append_fails_at_the_first_probe_of_an_inbox() {
    let server = PostgresServer::start().await;
    let owner = Postgres::connect(&server.url()).await.unwrap();
    let mut by_hand = server.connection().await.unwrap();
    for statement in [
        "CREATE ROLE inline_only LOGIN",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO inline_only",
    ] {
        sqlx::query(statement).execute(&mut by_hand).await.unwrap();
    }
    drop(owner);
    let url = server.url().replace("postgres@", "inline_only@");
    assert!(url.contains("inline_only"), "{url}");
    let store = Postgres::connect(&url).await.unwrap();
    let inline = Receiver::inline("inline", verifier(), store.clone(), Handlers::new(()))
        .build()
        .unwrap();
    let inbox = Receiver::inbox("inbox", verifier(), store.clone())
        .build()
        .unwrap();
    let worker = Worker::builder("inbox", store, Handlers::new(()))
        .build()
        .unwrap();
    says(&inline, Ok(())).await;
    says(&inbox, Err(LedgerErrorKind::CannotWrite)).await;
    let health = worker.health().await;
    assert!(
        !health.is_ready() && health.to_string().starts_with("the store cannot write"),
        "{health:?}"
    );
}

#[tokio::test]
async fn a_probe_of_a_queue_publishes_nothing() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let inbox = NatsOptions::default()
        .stream(&name)
        .subjects(&name)
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    let hook = Receiver::inbox("users", verifier(), inbox.clone())
        .build()
        .unwrap();
    let worker = Worker::builder("users", inbox, Handlers::new(()))
        .build()
        .unwrap();
    says(&hook, Ok(())).await;
    assert!(worker.health().await.is_ready());
    let mut stream = server.jetstream().await.get_stream(&name).await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.last_sequence, 0);
}

/// A delivery that was signed long ago, and its response.
async fn deliver_old(hook: &Receiver) -> u16 {
    let old = Fixture::of::<UserCreated>().time(Timestamp::UNIX_EPOCH);
    deliver(hook, &old).await
}

#[tokio::test]
async fn the_clock_of_postgres_or_redis_is_the_second_witness_for_an_age() {
    let (postgres, redis) = (PostgresServer::shared().await, RedisServer::shared().await);
    let postgres = Postgres::options()
        .prefix(fresh_prefix())
        .connect(&postgres.url())
        .await
        .unwrap();
    let redis = Redis::options()
        .prefix(redis_prefix())
        .connect(&redis.url())
        .await
        .unwrap();
    let name = fresh_name();
    let over_nats = NatsOptions::default().stream(&name).subjects(&name);
    let over_nats = over_nats
        .connect(&NatsServer::shared().await.url(), redis.clone())
        .await
        .unwrap();
    let handlers = || {
        Handlers::new(()).on(async |_: Event<UserCreated>, _| panic!("an old capture was handled"))
    };
    let hooks = |clock: Clock| {
        [
            (
                Receiver::inline("users", verifier(), postgres.clone(), handlers())
                    .clock(clock.clone()),
                200,
            ),
            (
                Receiver::inline("users", verifier(), redis.clone(), handlers())
                    .clock(clock.clone()),
                400,
            ),
            (
                Receiver::inline("users", verifier(), over_nats.clone(), handlers()).clock(clock),
                200,
            ),
        ]
        .map(|(hook, expected)| (hook.build().unwrap(), expected))
    };
    let ahead = Clock::from_fn(|| Timestamp::now() + SignedDuration::from_hours(40 * 24));
    for (hook, _) in hooks(ahead) {
        assert_eq!(deliver_old(&hook).await, 503, "the store's clock differs");
        let recent = Fixture::of::<UserCreated>();
        assert_eq!(
            deliver(&hook, &recent).await,
            503,
            "it only seems to be old"
        );
        assert!(hook.health().await.clock_unsure);
    }
    for (hook, expected) in hooks(Clock::system()) {
        assert_eq!(deliver_old(&hook).await, expected);
        assert!(!hook.health().await.clock_unsure);
    }
}
