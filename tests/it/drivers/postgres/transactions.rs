//! A handler's writes in its `Tx` take effect exactly once, together with the record that the
//! event was handled.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use authpi_sdk::{
    event::{Event, types::UserCreated},
    handlers::{Context, HandlerError, Handlers},
    ledger::{
        Claim, Completion, EventKey, Inbox as _, LeaseStatus, Ledger as _, Transactional as _, Tx,
    },
    receiver::Receiver,
    stores::Postgres,
    testing::Fixture,
    worker::Worker,
};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};

use super::{grow_older, meddle, pool, with_short_limit};
use crate::support::{deliver, verifier};
use crate::{
    drivers::{DIGEST, EVENTS, LEASE, answered, chain, granted, key},
    servers::{
        postgres::{PostgresServer, fresh_prefix},
        until,
    },
};

const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A ledger, and a table in which each application of an effect is a row.
struct Shop {
    ledger: Postgres,
    /// On the same pool and tables, with the default timeout, if `ledger` has a short one.
    patient: Postgres,
    prefix: String,
    other: PgConnection,
}

impl Shop {
    async fn open() -> Self {
        Self::over(pool(PostgresServer::shared().await)).await
    }

    async fn over(pool: PgPool) -> Self {
        Self::with(None, PostgresServer::shared().await, pool).await
    }

    async fn with(limit: Option<Duration>, server: &PostgresServer, pool: PgPool) -> Self {
        let prefix = fresh_prefix();
        let mut other = server.connection().await.unwrap();
        meddle(
            &mut other,
            &prefix,
            "CREATE TABLE {t}sold (id bigserial PRIMARY KEY, event_id text)",
        )
        .await;
        let options = Postgres::options().prefix(&prefix);
        let (ledger, patient) = if let Some(limit) = limit {
            with_short_limit(&options, limit, &pool).await
        } else {
            let ledger = options.open(pool).await.unwrap();
            (ledger.clone(), ledger)
        };
        Self {
            ledger,
            patient,
            prefix,
            other,
        }
    }

    fn seller(&self) -> Seller {
        Seller(format!("INSERT INTO {}sold (event_id) VALUES ($1)", self.prefix).into())
    }

    /// The items sold, in order.
    async fn sold(&mut self) -> Vec<String> {
        let sold = AssertSqlSafe(format!(
            "SELECT event_id FROM {}sold ORDER BY id",
            self.prefix
        ));
        sqlx::query_scalar(sold)
            .fetch_all(&mut self.other)
            .await
            .unwrap()
    }

    async fn claim(&self, n: usize) -> Claim {
        self.ledger.claim(&key(n), DIGEST, LEASE).await.unwrap()
    }
}

/// Writes a row.
#[derive(Clone)]
struct Seller(Arc<str>);

impl Seller {
    async fn sell(&self, connection: &mut PgConnection, event_id: &str) -> Result<(), sqlx::Error> {
        sqlx::query(AssertSqlSafe(self.0.clone()))
            .bind(event_id)
            .execute(connection)
            .await
            .map(drop)
    }
}

fn of_one(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(TEST_TIMEOUT)
        .connect_lazy_with(options)
}

/// Always the same event: a fixture otherwise has the second of its creation.
fn event() -> Fixture {
    static TIME: LazyLock<jiff::Timestamp> = LazyLock::new(jiff::Timestamp::now);
    Fixture::of::<UserCreated>().id("evt_0").time(*TIME)
}

/// Sells, then continues as the attempt requires.
fn selling<F, Fut>(shop: &Shop, then: F) -> Receiver
where
    F: Fn(Context<Seller>, Tx<Postgres>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = authpi_sdk::HandlerResult> + Send,
{
    let handlers = Handlers::new(shop.seller()).on_tx(
        move |event: Event<UserCreated>, cx: Context<Seller>, mut tx: Tx<Postgres>| {
            let then = then.clone();
            async move {
                cx.state().sell(&mut tx, event.id()).await?;
                then(cx, tx).await
            }
        },
    );
    let hook = Receiver::inline("users", verifier(), shop.ledger.clone(), handlers);
    hook.handler_timeout(Duration::from_secs(2))
        .build()
        .unwrap()
}

#[tokio::test]
async fn an_effect_and_its_completion_commit_together() {
    let mut shop = Shop::open().await;
    let receiver = selling(&shop, async |_, _| Ok(()));
    for _ in 0..3 {
        assert_eq!(deliver(&receiver, &event()).await, 200);
    }
    assert_eq!(shop.sold().await, ["evt_0"]);
    assert_eq!(
        shop.claim(0).await,
        Claim::Handled {
            first_digest: digest(&event())
        }
    );
}

fn digest(event: &Fixture) -> authpi_sdk::ledger::Digest {
    authpi_sdk::ledger::Digest::of(event.verified().raw().as_bytes())
}

#[tokio::test]
async fn an_error_panic_timeout_or_stored_transaction_undoes_the_effect() {
    let mut shop = Shop::open().await;
    let put_away: Arc<Notify> = Arc::default();
    let finish = Arc::clone(&put_away);
    let receiver = selling(&shop, move |cx, tx| {
        let finish = Arc::clone(&finish);
        async move {
            match cx.attempt() {
                1 => Err(HandlerError::retryable("busy")),
                2 => panic!("the handler's own"),
                3 => std::future::pending().await,
                4 => {
                    tokio::spawn(async move {
                        finish.notified().await;
                        drop(tx);
                    });
                    Ok(())
                }
                _ => Ok(()),
            }
        }
    });
    for attempt in 1..=4 {
        assert_eq!(deliver(&receiver, &event()).await, 503, "attempt {attempt}");
        assert!(shop.sold().await.is_empty(), "attempt {attempt}");
    }
    put_away.notify_one();
    assert_eq!(deliver(&receiver, &event()).await, 200);
    assert_eq!(shop.sold().await, ["evt_0"]);
}

#[tokio::test]
async fn what_a_handler_gave_up_is_undone_and_a_dead_letter() {
    let mut shop = Shop::open().await;
    let receiver = selling(&shop, async |_, _| {
        Err(HandlerError::terminal("no such user"))
    });
    assert_eq!(deliver(&receiver, &event()).await, 200);
    assert!(shop.sold().await.is_empty());
    assert_eq!(
        shop.ledger
            .dead_letters("users", None, 10)
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_statement_that_failed_cannot_be_swallowed() {
    let mut shop = Shop::open().await;
    let receiver = selling(&shop, async |cx, mut tx| {
        if cx.attempt() == 1 {
            // This makes Postgres roll back the whole transaction.
            assert!(sqlx::query("SELECT 1 / 0").execute(&mut *tx).await.is_err());
        }
        Ok(())
    });
    assert_eq!(deliver(&receiver, &event()).await, 503);
    assert!(shop.sold().await.is_empty());
    assert_eq!(deliver(&receiver, &event()).await, 200);
    assert_eq!(shop.sold().await, ["evt_0"]);
}

#[tokio::test]
async fn savepoints_can_be_had_and_one_left_open_is_part_of_the_commit() {
    let mut shop = Shop::open().await;
    let seller = shop.seller();
    let token = granted(&shop.ledger, 0).await;
    let mut tx = shop.ledger.begin().await.unwrap();
    {
        let mut undone = tx.begin().await.unwrap();
        seller.sell(&mut undone, "undone").await.unwrap();
    }
    let mut inner = tx.begin().await.unwrap();
    seller.sell(&mut inner, "kept").await.unwrap();
    inner.commit().await.unwrap();
    let mut inner = tx.begin().await.unwrap();
    seller.sell(&mut inner, "left open").await.unwrap();
    std::mem::forget(inner);
    assert_eq!(
        shop.ledger.commit(tx, &key(0), token).await.unwrap(),
        LeaseStatus::Held
    );
    assert_eq!(shop.sold().await, ["kept", "left open"]);
}

#[tokio::test]
async fn of_a_stale_token_nothing_is_kept_and_a_token_commits_once() {
    let mut shop = Shop::over(of_one(PostgresServer::shared().await.options())).await;
    let seller = shop.seller();
    // The event was forgotten, taken over by another worker, failed terminally, already handled, or
    // put back to pending.
    for (n, spoil) in [
        "DELETE FROM {t}ledger",
        "UPDATE {t}ledger SET nonce = nonce + 1",
        "UPDATE {t}ledger SET state = 3",
        "UPDATE {t}ledger SET state = 2",
        "UPDATE {t}ledger SET state = 0",
    ]
    .into_iter()
    .enumerate()
    {
        let token = granted(&shop.ledger, n).await;
        let mut tx = shop.ledger.begin().await.unwrap();
        seller.sell(&mut tx, "never").await.unwrap();
        assert!(meddle(&mut shop.other, &shop.prefix, spoil).await > 0);
        assert_eq!(
            shop.ledger.commit(tx, &key(n), token).await.unwrap(),
            LeaseStatus::Lost,
            "{spoil}"
        );
        assert!(shop.sold().await.is_empty(), "{spoil}");
    }
}

#[tokio::test]
async fn a_lease_that_ran_out_unnoticed_still_commits() {
    let mut shop = Shop::open().await;
    let token = granted(&shop.ledger, 0).await;
    let mut tx = shop.ledger.begin().await.unwrap();
    shop.seller().sell(&mut tx, "evt_0").await.unwrap();
    grow_older(&mut shop.other, &shop.prefix, 2 * LEASE).await;
    assert_eq!(
        shop.ledger.commit(tx, &key(0), token).await.unwrap(),
        LeaseStatus::Held
    );
    assert_eq!(shop.sold().await, ["evt_0"]);
}

/// The last moment at which the database can refuse.
#[tokio::test]
async fn a_commit_that_the_database_refuses_is_an_error_and_leaves_the_claim() {
    let mut shop = Shop::over(of_one(PostgresServer::shared().await.options())).await;
    let unique = "ALTER TABLE {t}sold ADD UNIQUE (event_id) DEFERRABLE INITIALLY DEFERRED";
    meddle(&mut shop.other, &shop.prefix, unique).await;
    let seller = shop.seller();
    seller.sell(&mut shop.other, "evt_0").await.unwrap();
    let token = granted(&shop.ledger, 0).await;
    let mut tx = shop.ledger.begin().await.unwrap();
    seller.sell(&mut tx, "evt_0").await.unwrap();
    let error = shop.ledger.commit(tx, &key(0), token).await.unwrap_err();
    assert!(chain(&error).contains("duplicate key"), "{}", chain(&error));
    assert_eq!(shop.sold().await, ["evt_0"]);
    assert_eq!(
        shop.ledger.renew(&key(0), token, LEASE).await.unwrap(),
        LeaseStatus::Held
    );
}

/// The transaction does not see the renewal, so it must not overwrite it.
#[tokio::test]
async fn with_repeatable_read_a_renewed_lease_refuses_the_commit() {
    let server = PostgresServer::shared().await;
    let options = server
        .options()
        .options([("default_transaction_isolation", "repeatable read")]);
    let mut shop = Shop::over(
        PgPoolOptions::new()
            .max_connections(2)
            .connect_lazy_with(options),
    )
    .await;
    let seller = shop.seller();
    let token = granted(&shop.ledger, 0).await;
    let mut tx = shop.ledger.begin().await.unwrap();
    seller.sell(&mut tx, "never").await.unwrap();
    assert_eq!(
        shop.ledger.renew(&key(0), token, LEASE).await.unwrap(),
        LeaseStatus::Held
    );
    let error = shop.ledger.commit(tx, &key(0), token).await.unwrap_err();
    assert!(
        chain(&error).contains("could not serialize"),
        "{}",
        chain(&error)
    );
    assert!(shop.sold().await.is_empty());

    let mut tx = shop.ledger.begin().await.unwrap();
    seller.sell(&mut tx, "evt_0").await.unwrap();
    assert_eq!(
        shop.ledger.commit(tx, &key(0), token).await.unwrap(),
        LeaseStatus::Held
    );
    assert_eq!(shop.sold().await, ["evt_0"]);
}

/// One of two transactions that could not be serialized is refused, and its event is handled by
/// another attempt.
#[tokio::test(flavor = "multi_thread")]
async fn where_transactions_are_serializable_each_effect_still_takes_place_once() {
    let options = PostgresServer::shared().await.options();
    let options = options.options([("default_transaction_isolation", "serializable")]);
    let mut shop = Shop::over(
        PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(TEST_TIMEOUT)
            .connect_lazy_with(options),
    )
    .await;
    meddle(
        &mut shop.other,
        &shop.prefix,
        "CREATE TABLE {t}total (n bigint)",
    )
    .await;
    meddle(
        &mut shop.other,
        &shop.prefix,
        "INSERT INTO {t}total VALUES (0)",
    )
    .await;
    let add: Arc<str> = format!("UPDATE {}total SET n = n + 1", shop.prefix).into();
    let receiver = selling(&shop, move |_, mut tx| {
        let add = AssertSqlSafe(add.clone());
        async move {
            sqlx::query(add).execute(&mut *tx).await?;
            Ok(())
        }
    });
    let mut deliveries = JoinSet::new();
    for n in 0..20 {
        let (receiver, event) = (receiver.clone(), event().id(format!("evt_{n}")));
        deliveries.spawn(async move {
            until(
                || "the event is never handled".to_owned(),
                || async { (deliver(&receiver, &event).await == 200).then_some(()) },
            )
            .await;
        });
    }
    deliveries.join_all().await;
    let total = AssertSqlSafe(format!("SELECT n FROM {}total", shop.prefix));
    assert_eq!(
        sqlx::query_scalar::<_, i64>(total)
            .fetch_one(&mut shop.other)
            .await
            .unwrap(),
        20
    );
    assert_eq!(shop.sold().await.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_several_processes_apply_each_effect_once() {
    let mut shop = Shop::open().await;
    let mut workers = JoinSet::new();
    let done: Arc<Notify> = Arc::default();
    for _ in 0..3 {
        let ledger = Postgres::options()
            .prefix(&shop.prefix)
            .open(pool(PostgresServer::shared().await))
            .await
            .unwrap();
        let handlers = Handlers::new(shop.seller()).fallback_tx(
            async |event: Event, cx: Context<Seller>, mut tx: Tx<Postgres>| {
                cx.state().sell(&mut tx, event.id()).await?;
                if cx.attempt() == 1 && event.id().ends_with('7') {
                    return Err(HandlerError::retryable("busy"));
                }
                Ok(())
            },
        );
        let pause = Duration::from_millis(5);
        let worker = Worker::builder("users", ledger, handlers)
            .concurrency(4)
            .backoff(pause, pause)
            .build()
            .unwrap();
        let done = Arc::clone(&done);
        workers.spawn(async move { worker.run(done.notified()).await });
    }
    let hook = Receiver::inbox("users", verifier(), shop.ledger.clone())
        .build()
        .unwrap();
    for n in 0..EVENTS {
        assert_eq!(deliver(&hook, &event().id(format!("evt_{n}"))).await, 200);
        assert_eq!(deliver(&hook, &event().id(format!("evt_{n}"))).await, 200);
    }
    let ledger = shop.ledger.clone();
    let empty = || async { (ledger.backlog("users").await.unwrap().depth == 0).then_some(()) };
    until(|| "the backlog is not worked off".to_owned(), empty).await;
    for _ in 0..3 {
        done.notify_one();
    }
    workers.join_all().await;
    let mut sold = shop.sold().await;
    sold.sort_unstable();
    let mut expected: Vec<_> = (0..EVENTS).map(|n| format!("evt_{n}")).collect();
    expected.sort_unstable();
    assert_eq!(sold, expected);
}

/// It has locked the record's row: a renewal meanwhile waits for it, but not for ever.
#[tokio::test]
async fn a_renewal_blocked_by_a_transaction_times_out_and_is_not_a_lost_lease() {
    let server = PostgresServer::shared().await;
    let limit = Duration::from_millis(300);
    let mut shop = Shop::with(Some(limit), server, pool(server)).await;
    let token = granted(&shop.patient, 0).await;
    let lock = AssertSqlSafe(format!("SELECT FROM {}ledger FOR UPDATE", shop.prefix));
    let mut locking = shop.other.begin().await.unwrap();
    sqlx::query(lock).execute(&mut *locking).await.unwrap();

    let begun = Instant::now();
    let error = shop.ledger.renew(&key(0), token, LEASE).await.unwrap_err();
    assert!(
        chain(&error).contains("did not answer within 300ms"),
        "{}",
        chain(&error)
    );
    assert!(begun.elapsed() < 10 * limit, "{:?}", begun.elapsed());

    locking.rollback().await.unwrap();
    let renewed = || async { shop.patient.renew(&key(0), token, LEASE).await.ok() };
    assert_eq!(
        until(|| "the lease cannot be renewed".to_owned(), renewed).await,
        LeaseStatus::Held
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_dropped_during_a_statement_frees_its_pool_slot_in_time() {
    let server = PostgresServer::shared().await;
    let limit = Duration::from_millis(300);
    let mut shop = Shop::with(Some(limit), server, of_one(server.options())).await;
    let token = granted(&shop.patient, 0).await;
    let begun = || async { shop.ledger.begin().await.ok() };
    let mut tx = until(|| "no transaction can be begun".to_owned(), begun).await;
    shop.seller().sell(&mut tx, "never").await.unwrap();
    let forever = timeout(
        limit,
        sqlx::query("SELECT pg_sleep(3600)").execute(&mut *tx),
    )
    .await;
    assert!(forever.is_err(), "pg_sleep is over");
    drop(tx);
    let renewed = || async { shop.patient.renew(&key(0), token, LEASE).await.ok() };
    assert_eq!(
        until(
            || "the pool's one connection is never free again".to_owned(),
            renewed
        )
        .await,
        LeaseStatus::Held
    );
    assert!(shop.sold().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_on_a_hanging_server_times_out_and_has_no_effect() {
    let server = PostgresServer::start().await;
    let limit = Duration::from_millis(300);
    let mut shop = Shop::with(Some(limit), &server, of_one(server.options())).await;
    let token = granted(&shop.patient, 0).await;
    let mut tx = shop.patient.begin().await.unwrap();
    shop.seller().sell(&mut tx, "evt_0").await.unwrap();

    let paused = server.pause().await;
    let begun = Instant::now();
    let error = shop.ledger.commit(tx, &key(0), token).await.unwrap_err();
    assert!(
        chain(&error).contains("did not answer within 300ms"),
        "{}",
        chain(&error)
    );
    let error = shop.ledger.begin().await.unwrap_err();
    assert!(
        chain(&error).contains("did not answer within 300ms"),
        "{}",
        chain(&error)
    );
    assert!(begun.elapsed() < 10 * limit, "{:?}", begun.elapsed());
    drop(paused);

    // The completion arrived, but the commit was never sent.
    let completed = || async {
        shop.patient
            .complete(&key(0), token, Completion::Handled)
            .await
            .ok()
    };
    assert_eq!(
        until(|| "the ledger does not recover".to_owned(), completed).await,
        LeaseStatus::Held
    );
    assert!(shop.sold().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_in_a_transaction_has_undone_it() {
    let mut server = PostgresServer::start().await;
    let mut shop = Shop::with(None, &server, pool(&server)).await;
    let token = granted(&shop.ledger, 0).await;
    let mut tx = shop.ledger.begin().await.unwrap();
    shop.seller().sell(&mut tx, "never").await.unwrap();
    server.stop();
    assert!(shop.ledger.commit(tx, &key(0), token).await.is_err());
    assert!(shop.ledger.begin().await.is_err());
    server.start_again().await;
    assert!(matches!(
        answered(&shop.ledger, 0).await,
        Claim::InFlight { .. }
    ));
    shop.other = server.connection().await.unwrap();
    assert!(shop.sold().await.is_empty());
}

/// Where the connection breaks when a commit is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// The server never receives it.
    Before,
    /// Its response is lost.
    After,
}

/// A proxy between the ledger and the server that cuts the next commit.
struct Proxy {
    port: u16,
    armed: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(server: &'static PostgresServer, cut: Cut) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, armed) = (
            listener.local_addr().unwrap().port(),
            Arc::<AtomicBool>::default(),
        );
        let cutting = Arc::clone(&armed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let upstream = TcpStream::connect(server.address()).await.unwrap();
                tokio::spawn(Self::pass(client, upstream, cut, Arc::clone(&cutting)));
            }
        });
        Self { port, armed }
    }

    async fn pass(client: TcpStream, server: TcpStream, cut: Cut, armed: Arc<AtomicBool>) {
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let mut answering =
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        while let Some(sent) = Self::some(&mut from_client).await {
            if armed.load(Ordering::SeqCst) && sent.windows(6).any(|text| text == b"COMMIT") {
                armed.store(false, Ordering::SeqCst);
                // From here on, nothing from the server reaches the client.
                answering.abort();
                let _ = (&mut answering).await;
                if cut == Cut::After {
                    to_server.write_all(&sent).await.unwrap();
                }
                return;
            }
            if to_server.write_all(&sent).await.is_err() {
                return;
            }
        }
        answering.abort();
    }

    async fn some(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
        let mut sent = vec![0; 65536];
        let read = from.read(&mut sent).await.ok().filter(|&read| read > 0)?;
        sent.truncate(read);
        Some(sent)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_with_a_lost_response_fails_and_the_redelivery_decides() {
    let server = PostgresServer::shared().await;
    for cut in [Cut::Before, Cut::After] {
        let proxy = Proxy::start(server, cut).await;
        let through = PgPoolOptions::new()
            .max_connections(4)
            .connect_lazy_with(server.options().port(proxy.port));
        let mut shop = Shop::over(through).await;
        let receiver = selling(&shop, async |_, _| Ok(()));
        proxy.armed.store(true, Ordering::SeqCst);
        assert_eq!(
            deliver(&receiver, &event()).await,
            503,
            "{cut:?}: it is not known whether it took place"
        );
        assert!(!proxy.armed.load(Ordering::SeqCst), "no commit came by");
        if cut == Cut::Before {
            assert!(shop.sold().await.is_empty());
        } else {
            let sql: Arc<str> = format!("SELECT FROM {}sold", shop.prefix).into();
            let other = tokio::sync::Mutex::new(&mut shop.other);
            let committed = || async {
                let rows = sqlx::query(AssertSqlSafe(sql.clone()))
                    .fetch_all(&mut **other.lock().await)
                    .await
                    .unwrap();
                (rows.len() == 1).then_some(())
            };
            until(|| "the commit did not take place".to_owned(), committed).await;
        }
        let handled = || async { (deliver(&receiver, &event()).await == 200).then_some(()) };
        until(|| format!("{cut:?}: the event is never handled"), handled).await;
        assert_eq!(shop.sold().await, ["evt_0"], "{cut:?}");
    }
}

#[tokio::test]
async fn a_worker_s_dead_letter_is_replayed_and_its_effect_takes_place_once() {
    let mut shop = Shop::open().await;
    let hook = Receiver::inbox("users", verifier(), shop.ledger.clone())
        .build()
        .unwrap();
    assert_eq!(deliver(&hook, &event()).await, 200);
    let bug: Arc<AtomicBool> = Arc::new(AtomicBool::new(true));
    let handlers = Handlers::new((shop.seller(), Arc::clone(&bug))).fallback_tx(
        async |event: Event, cx: Context<(Seller, Arc<AtomicBool>)>, mut tx: Tx<Postgres>| {
            cx.state().0.sell(&mut tx, event.id()).await?;
            if cx.state().1.load(Ordering::SeqCst) {
                Err(HandlerError::terminal("a bug"))
            } else {
                Ok(())
            }
        },
    );
    let worker = Worker::builder("users", shop.ledger.clone(), handlers)
        .build()
        .unwrap();
    let ledger = shop.ledger.clone();
    let settled = || async {
        let empty = async {
            while ledger.backlog("users").await.unwrap().depth > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(TEST_TIMEOUT, worker.run(empty))
            .await
            .expect("the worker does not stop");
    };
    settled().await;
    let letters = ledger.dead_letters("users", None, 10).await.unwrap();
    assert_eq!(
        letters.iter().map(|letter| &letter.key).collect::<Vec<_>>(),
        [&EventKey::new("users", "evt_0")]
    );
    bug.store(false, Ordering::SeqCst);
    assert!(ledger.replay(&letters[0].key).await.unwrap());
    settled().await;
    assert_eq!(shop.sold().await, ["evt_0"]);
    assert_eq!(deliver(&hook, &event()).await, 200);
    assert!(matches!(shop.claim(0).await, Claim::Handled { .. }));
}
