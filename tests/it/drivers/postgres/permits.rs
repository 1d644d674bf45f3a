//! Handlers with a transaction wait for each other in a queue, not for the connections that
//! everything else needs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    event::{
        Event, EventType,
        types::{UserCreated, UserDeleted},
    },
    handlers::{Context, Handlers},
    ledger::{Appended, Claim, Completion, Inbox as _, LeaseStatus, Ledger as _, Tx},
    receiver::{BuildError, Inline, Receiver, ReceiverBuilder},
    stores::Postgres,
    testing::Fixture,
    worker::Worker,
};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

use super::pool;
use crate::support::{deliver, verifier};
use crate::{
    drivers::{DIGEST, LEASE, key},
    servers::{
        postgres::{PostgresServer, fresh_prefix},
        until,
    },
};

/// Longer than any test, so that nothing times out.
const DEADLINE: Duration = Duration::from_mins(5);
const TEST_TIMEOUT: Duration = Duration::from_mins(1);

/// A gate for handlers, with the number of handlers in it.
#[derive(Clone)]
struct Gate {
    open: Arc<Semaphore>,
    within: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    started: mpsc::UnboundedSender<String>,
}

impl Gate {
    fn closed() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (started, starts) = mpsc::unbounded_channel();
        let gate = Self {
            open: Arc::new(Semaphore::new(0)),
            within: Arc::default(),
            most: Arc::default(),
            started,
        };
        (gate, starts)
    }

    async fn pass(&self, event_id: &str) {
        let within = self.within.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(within, Ordering::SeqCst);
        let _ = self.started.send(event_id.to_owned());
        let _ = self.open.acquire().await;
        self.within.fetch_sub(1, Ordering::SeqCst);
    }

    fn open(&self) {
        self.open.close();
    }
}

/// `user.created` goes through the gate with its transaction; `user.deleted` does not.
fn handlers(gate: &Gate) -> Handlers<Gate, Postgres> {
    Handlers::new(gate.clone())
        .on(async |event: Event<UserDeleted>, cx: Context<Gate>| {
            let _ = cx.state().started.send(event.id().to_owned());
            Ok(())
        })
        .on_tx(
            async |event: Event<UserCreated>, cx: Context<Gate>, mut tx: Tx<Postgres>| {
                cx.state().pass(event.id()).await;
                sqlx::query("SELECT 1").execute(&mut *tx).await?;
                Ok(())
            },
        )
}

fn receiver(store: &Postgres, gate: &Gate) -> ReceiverBuilder<Inline> {
    Receiver::inline("users", verifier(), store.clone(), handlers(gate)).handler_timeout(DEADLINE)
}

fn created(n: usize) -> Fixture {
    Fixture::of::<UserCreated>().id(format!("evt_{n}"))
}

fn deleted(n: usize) -> Fixture {
    Fixture::of::<UserDeleted>().id(format!("evt_{n}"))
}

async fn next(starts: &mut mpsc::UnboundedReceiver<String>) -> String {
    timeout(TEST_TIMEOUT, starts.recv())
        .await
        .expect("no handler starts")
        .expect("the handlers are there")
}

async fn append(store: &Postgres, n: usize, fixture: &Fixture) {
    let appended = store
        .append(&key(n), DIGEST, None, fixture.body())
        .await
        .unwrap();
    assert_eq!(appended, Appended::Stored);
}

async fn scalar(pool: &PgPool, prefix: &str, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.replace("{t}", prefix)))
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_with_a_transaction_leave_connections_to_others() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let store = Postgres::options()
        .prefix(&prefix)
        .connect(&server.url())
        .await
        .unwrap();
    let (gate, mut starts) = Gate::closed();
    // Renewed every five seconds.
    let receiver = receiver(&store, &gate)
        .lease(Duration::from_secs(15))
        .build()
        .unwrap();
    let mut deliveries = JoinSet::new();
    for n in 0..50 {
        let receiver = receiver.clone();
        deliveries.spawn(async move { deliver(&receiver, &created(n)).await });
    }
    // Ten connections, minus the two that are reserved.
    for _ in 0..8 {
        next(&mut starts).await;
    }
    let look = pool(server);
    let renewed =
        "SELECT count(*) FROM {t}ledger WHERE state = 1 AND at > first_claimed_at + 16000";
    let renewed = || async { (scalar(&look, &prefix, renewed).await == 8).then_some(()) };
    until(
        || "the leases of handlers that wait are not renewed".to_owned(),
        renewed,
    )
    .await;
    assert_eq!(
        scalar(&look, &prefix, "SELECT count(*) FROM {t}ledger").await,
        8,
        "what waits holds a claim"
    );
    assert_eq!(deliver(&receiver, &deleted(100)).await, 200);
    assert_eq!(next(&mut starts).await, "evt_100");
    let Claim::Granted { token, .. } = store.claim(&key(101), DIGEST, LEASE).await.unwrap() else {
        panic!("not new")
    };
    assert_eq!(
        store
            .complete(&key(101), token, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );

    gate.open();
    assert_eq!(deliveries.join_all().await, [200; 50]);
    assert_eq!(gate.most.load(Ordering::SeqCst), 8);
    let once = "SELECT count(*) FROM {t}ledger WHERE state = 2 AND attempt = 1";
    assert_eq!(scalar(&look, &prefix, once).await, 52, "a lease was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_an_event_that_is_being_handled_hold_no_permit() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let two_permits = PgPoolOptions::new()
        .max_connections(4)
        .connect_lazy_with(server.options());
    let store = Postgres::options()
        .prefix(&prefix)
        .open(two_permits)
        .await
        .unwrap();
    let (gate, mut starts) = Gate::closed();
    let receiver = receiver(&store, &gate)
        .in_flight_wait(DEADLINE)
        .build()
        .unwrap();
    let mut deliveries = JoinSet::new();
    let mut deliver_one = |n| {
        let receiver = receiver.clone();
        deliveries.spawn(async move { deliver(&receiver, &created(n)).await });
    };
    deliver_one(0);
    assert_eq!(next(&mut starts).await, "evt_0");
    // A copy of evt_0 must return its permit before it waits for the first delivery. Otherwise it
    // would hold the second permit, and evt_1 could not start.
    (0..3).for_each(|_| deliver_one(0));
    deliver_one(1);
    assert_eq!(next(&mut starts).await, "evt_1");
    gate.open();
    assert_eq!(deliveries.join_all().await, [200; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_a_permit_is_part_of_the_handlers_time_and_claims_nothing() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let one_permit = PgPoolOptions::new()
        .max_connections(3)
        .connect_lazy_with(server.options());
    let store = Postgres::options()
        .prefix(&prefix)
        .open(one_permit)
        .await
        .unwrap();
    let (gate, mut starts) = Gate::closed();
    let patient = receiver(&store, &gate).build().unwrap();
    let impatient = receiver(&store, &gate)
        .handler_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let first = tokio::spawn(async move { deliver(&patient, &created(0)).await });
    next(&mut starts).await;
    assert_eq!(deliver(&impatient, &created(1)).await, 503);
    let claimed = "SELECT count(*) FROM {t}ledger WHERE event_id = 'evt_1'";
    assert_eq!(scalar(&pool(server), &prefix, claimed).await, 0);
    gate.open();
    assert_eq!(first.await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_leases_no_more_events_than_transactions_available() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let one_permit = PgPoolOptions::new()
        .max_connections(3)
        .connect_lazy_with(server.options());
    let store = Postgres::options()
        .prefix(&prefix)
        .open(one_permit)
        .await
        .unwrap();
    for n in 0..20 {
        append(&store, n, &created(n)).await;
    }
    let leased: Arc<str> = format!("SELECT count(*) FROM {prefix}ledger WHERE state = 1").into();
    let handlers = Handlers::new(leased).fallback_tx(
        async |_: Event, cx: Context<Arc<str>>, mut tx: Tx<Postgres>| {
            let leased: i64 = sqlx::query_scalar(AssertSqlSafe(cx.state().to_string()))
                .fetch_one(&mut *tx)
                .await?;
            assert_eq!(
                leased, 1,
                "events are leased before there is a connection for their handlers"
            );
            Ok(())
        },
    );
    let worker = Worker::builder("users", store.clone(), handlers)
        .build()
        .unwrap();
    let handled = async {
        let all = || async { (store.backlog("users").await.ok()?.depth == 0).then_some(()) };
        until(|| "the backlog is not worked off".to_owned(), all).await;
    };
    worker.run(handled).await;
    let once = "SELECT count(*) FROM {t}ledger WHERE state = 2 AND attempt = 1";
    assert_eq!(scalar(&pool(server), &prefix, once).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_runs_plain_handlers_while_others_wait_for_transactions() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let one_permit = PgPoolOptions::new()
        .max_connections(3)
        .connect_lazy_with(server.options());
    let store = Postgres::options()
        .prefix(&prefix)
        .open(one_permit)
        .await
        .unwrap();
    let (gate, mut starts) = Gate::closed();
    for n in 0..4 {
        append(&store, n, &created(n)).await;
    }
    append(&store, 4, &deleted(4)).await;
    let worker = Worker::builder("users", store.clone(), handlers(&gate))
        .handler_timeout(DEADLINE)
        .build()
        .unwrap();
    let done = async {
        let (with, without) = (next(&mut starts).await, next(&mut starts).await);
        assert!(
            [&with, &without].contains(&&"evt_4".to_owned()),
            "{with} and {without} were started first"
        );
        gate.open();
        let all = || async { (store.backlog("users").await.ok()?.depth == 0).then_some(()) };
        until(|| "the backlog is not worked off".to_owned(), all).await;
    };
    worker.run(done).await;
    assert_eq!(gate.most.load(Ordering::SeqCst), 1);
    let once = "SELECT count(*) FROM {t}ledger WHERE state = 2 AND attempt = 1";
    assert_eq!(scalar(&pool(server), &prefix, once).await, 5);
}

#[tokio::test]
async fn a_pool_too_small_for_transactions_is_refused_at_build() {
    let server = PostgresServer::shared().await;
    let small = PgPoolOptions::new()
        .max_connections(2)
        .connect_lazy_with(server.options());
    let store = Postgres::options()
        .prefix(fresh_prefix())
        .open(small)
        .await
        .unwrap();
    let (gate, _starts) = Gate::closed();
    for refused in [
        receiver(&store, &gate).build().map(drop).unwrap_err(),
        Worker::builder("users", store.clone(), handlers(&gate))
            .build()
            .map(drop)
            .unwrap_err(),
    ] {
        let BuildError::Pool(too_small) = &refused else {
            panic!("{refused:?}")
        };
        assert_eq!((too_small.connections, too_small.needed), (2, 3));
        assert!(
            too_small.to_string().contains("raise max_connections to 3"),
            "{too_small}"
        );
    }
    let without =
        || Handlers::new(()).on_type(EventType::from("user.created"), async |_: Event, _| Ok(()));
    Receiver::inline("users", verifier(), store.clone(), without())
        .build()
        .unwrap();
    Worker::builder("users", store, without()).build().unwrap();
}
