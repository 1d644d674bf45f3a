//! Handlers whose writes commit together with their claim, and ingested events, on a store in
//! memory that can cause each fault. `drivers` tests real databases.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    event::{
        Event,
        types::{SessionCreated, UserCreated, UserUpdated},
    },
    handlers::{Context, HandlerError, Handlers},
    ledger::{
        Claim, Completion, Digest, EventKey, LeaseStatus, Ledger, LedgerError, Token,
        Transactional, Tx,
    },
    receiver::{Ingested, Inline, Receiver, ReceiverBuilder, StoreFailure},
    stores::{Memory, Sqlite},
    testing::{Fixture, ManualClock},
};
use tokio::sync::Notify;

use crate::servers::until;
use crate::support::{deliver, verifier};

/// A memory ledger and, in the same store, a list that handlers write to.
#[derive(Clone, Default)]
struct Shop {
    ledger: Memory,
    sold: Arc<Mutex<Vec<String>>>,
    /// Another worker takes over the record before the commit.
    overtaken: Arc<AtomicBool>,
    down: Arc<AtomicBool>,
    /// The number of completions that fail before one succeeds.
    stumbles: Arc<AtomicU32>,
    /// A commit returns only after a renewal has found no claim.
    answers_late: Arc<AtomicBool>,
    told_lost: Arc<Notify>,
    renewals: Arc<Mutex<Renewals>>,
}

/// What happens to renewals.
#[derive(Clone, Copy, Default, PartialEq)]
enum Renewals {
    #[default]
    Answered,
    Failing,
    Hanging,
}

impl Shop {
    fn sold(&self) -> Vec<String> {
        self.sold.lock().unwrap().clone()
    }
}

impl Transactional for Shop {
    type Connection = Vec<String>;
    type Transaction = Box<Vec<String>>;

    async fn begin(&self) -> Result<Self::Transaction, LedgerError> {
        Ok(Box::default())
    }

    async fn commit(
        &self,
        writes: Box<Vec<String>>,
        key: &EventKey,
        token: Token,
    ) -> Result<LeaseStatus, LedgerError> {
        if self.overtaken.swap(false, Ordering::Relaxed) {
            self.ledger.forget(key).await?;
        }
        let held = self
            .ledger
            .complete(key, token, Completion::Handled)
            .await?;
        if held == LeaseStatus::Held {
            self.sold.lock().unwrap().extend(*writes);
        }
        if self.answers_late.load(Ordering::Relaxed) {
            self.told_lost.notified().await;
        }
        Ok(held)
    }
}

impl Ledger for Shop {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(LedgerError::new("claim", "the shop is closed"));
        }
        self.ledger.claim(key, digest, lease).await
    }

    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        let renewals = *self.renewals.lock().unwrap();
        match renewals {
            Renewals::Answered => {}
            Renewals::Failing => return Err(LedgerError::new("renew", "the connection broke")),
            Renewals::Hanging => std::future::pending().await,
        }
        let held = self.ledger.renew(key, token, lease).await?;
        if held == LeaseStatus::Lost {
            self.told_lost.notify_one();
        }
        Ok(held)
    }

    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        if self
            .stumbles
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            return Err(LedgerError::new("complete", "the connection broke"));
        }
        self.ledger.complete(key, token, completion).await
    }

    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.ledger.release(key, token, pause).await
    }

    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        self.ledger.forget(key).await
    }

    fn keeps_dead_letters(&self) -> bool {
        false
    }

    fn retention(&self) -> Duration {
        Ledger::retention(&self.ledger)
    }
}

fn receiver<H: Clone + Send + Sync + 'static>(
    shop: &Shop,
    handlers: Handlers<(), H>,
) -> ReceiverBuilder<Inline>
where
    Shop: authpi_sdk::handlers::SupportsHandlers<H>,
{
    Receiver::inline("shop", verifier(), shop.clone(), handlers)
}

fn created() -> Fixture {
    Fixture::of::<UserCreated>().id("evt_1")
}

/// Sells, then continues as the attempt requires.
fn selling(then: fn(u32) -> authpi_sdk::HandlerResult) -> Handlers<(), Shop> {
    Handlers::new(()).on_tx(
        move |event: Event<UserCreated>, cx, mut tx: Tx<Shop>| async move {
            tx.push(event.id().to_owned());
            then(cx.attempt())
        },
    )
}

#[tokio::test]
async fn what_a_handler_writes_and_its_completion_commit_together() {
    let shop = Shop::default();
    let receiver = receiver(&shop, selling(|_| Ok(()))).build().unwrap();
    for _ in 0..3 {
        assert_eq!(deliver(&receiver, &created()).await, 200);
    }
    assert_eq!(shop.sold(), ["evt_1"]);
}

#[tokio::test]
async fn an_error_a_panic_and_a_terminal_error_undo_what_was_written() {
    let shop = Shop::default();
    let handlers = selling(|attempt| match attempt {
        1 => Err(HandlerError::retryable("busy")),
        2 => panic!("the handler's own"),
        3 => Err(HandlerError::terminal("never")),
        _ => Ok(()),
    });
    let receiver = receiver(&shop, handlers).build().unwrap();
    for _ in 1..=3 {
        assert_eq!(deliver(&receiver, &created()).await, 503);
        assert!(shop.sold().is_empty());
    }
    assert_eq!(deliver(&receiver, &created()).await, 200);
    assert_eq!(shop.sold(), ["evt_1"]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_misses_its_deadline_has_written_nothing() {
    let shop = Shop::default();
    let handlers =
        Handlers::new(()).on_tx(async |event: Event<UserCreated>, cx, mut tx: Tx<Shop>| {
            tx.push(event.id().to_owned());
            if cx.attempt() == 1 {
                std::future::pending::<()>().await;
            }
            Ok(())
        });
    let receiver = receiver(&shop, handlers).build().unwrap();
    assert_eq!(deliver(&receiver, &created()).await, 503);
    assert!(shop.sold().is_empty());
    assert_eq!(deliver(&receiver, &created()).await, 200);
    assert_eq!(shop.sold(), ["evt_1"]);
}

#[tokio::test]
async fn a_worker_that_was_overtaken_writes_nothing() {
    let shop = Shop::default();
    shop.overtaken.store(true, Ordering::Relaxed);
    let receiver = receiver(&shop, selling(|_| Ok(()))).build().unwrap();
    assert_eq!(deliver(&receiver, &created()).await, 503);
    assert!(shop.sold().is_empty());
    assert_eq!(deliver(&receiver, &created()).await, 200);
    assert_eq!(shop.sold(), ["evt_1"]);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_finds_the_event_handled_does_not_drop_its_commit() {
    let shop = Shop::default();
    shop.answers_late.store(true, Ordering::Relaxed);
    let receiver = receiver(&shop, selling(|_| Ok(())))
        .lease(Duration::from_secs(3))
        .build()
        .unwrap();
    assert_eq!(deliver(&receiver, &created()).await, 200);
    assert_eq!(shop.sold(), ["evt_1"]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_does_not_outlive_a_lease_that_cannot_be_renewed() {
    let lease = Duration::from_secs(30);
    for renewals in [Renewals::Failing, Renewals::Hanging] {
        let shop = Shop::default();
        let world = shop.clone();
        let handlers = Handlers::new(()).on(move |_: Event<UserCreated>, _| {
            // The first renewal succeeds, the others do not.
            let world = world.clone();
            async move {
                tokio::time::sleep(lease / 2).await;
                *world.renewals.lock().unwrap() = renewals;
                std::future::pending().await
            }
        });
        let receiver = receiver(&shop, handlers)
            .handler_timeout(lease * 10)
            .lease(lease)
            .build()
            .unwrap();
        let started = tokio::time::Instant::now();
        assert_eq!(deliver(&receiver, &created()).await, 503);
        assert_eq!(started.elapsed().as_secs(), (lease / 3 + lease).as_secs());
    }
}

#[tokio::test]
async fn a_stored_sqlite_transaction_is_never_committed_and_locks_until_dropped() {
    #[derive(Default)]
    struct Shelf {
        used: AtomicBool,
        kept: Mutex<Option<Tx<Sqlite>>>,
    }
    let clock = ManualClock::at(jiff::Timestamp::now());
    let options = Sqlite::options()
        .clock(clock.clock())
        .busy_timeout(Duration::from_millis(20));
    let store = options.in_memory().await.unwrap();
    let handlers = Handlers::new(Shelf::default()).on_tx(
        async |_: Event<UserCreated>, cx: Context<Shelf>, mut tx: Tx<Sqlite>| {
            let keep = !cx.state().used.swap(true, Ordering::Relaxed);
            sqlx::query("CREATE TABLE IF NOT EXISTS sold (kept BOOLEAN)")
                .execute(&mut *tx)
                .await?;
            sqlx::query("INSERT INTO sold VALUES (?)")
                .bind(keep)
                .execute(&mut *tx)
                .await?;
            if keep {
                *cx.state().kept.lock().unwrap() = Some(tx);
            }
            Ok(())
        },
    );
    let shelf = handlers.state();
    let receiver = Receiver::inline("shop", verifier(), store.clone(), handlers);
    let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
    let receiver = receiver
        .handler_timeout(minute)
        .lease(hour)
        .in_flight_wait(Duration::ZERO)
        .build()
        .unwrap();
    while shelf.kept.lock().unwrap().is_none() {
        assert_eq!(deliver(&receiver, &created()).await, 503);
    }
    let error = store
        .claim(
            &EventKey::new("shop", "evt_2"),
            Digest::from_bytes([0; 16]),
            Duration::from_secs(1),
        )
        .await
        .unwrap_err();
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("locked"),
        "{error:?}"
    );
    drop(shelf.kept.lock().unwrap().take());
    // The claim could not be released: its lease has to expire.
    clock.advance(hour);
    let handled = || async { (deliver(&receiver, &created()).await == 200).then_some(()) };
    until(|| "the event is not handled again".to_owned(), handled).await;
    let begun = || async { store.begin().await.ok() };
    let mut transaction = until(|| "the file is not free".to_owned(), begun).await;
    let sold: Result<Vec<bool>, _> = sqlx::query_scalar("SELECT kept FROM sold")
        .fetch_all(&mut *transaction)
        .await;
    assert_eq!(
        sold.unwrap(),
        [false],
        "a stored transaction was committed, or another write is missing"
    );
    drop(transaction);
    store.close().await;
}

/// The file is lent to one handler at a time, and an operation waits for it no longer than the busy
/// timeout, so the others do not request it yet.
#[tokio::test]
async fn sqlite_handlers_with_a_transaction_wait_beyond_the_busy_timeout() {
    const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
    let store = Sqlite::options()
        .busy_timeout(BUSY_TIMEOUT)
        .in_memory()
        .await
        .unwrap();
    let handlers = Handlers::new(()).on_tx(
        async |_: Event<UserCreated>, _: Context<()>, mut tx: Tx<Sqlite>| {
            sqlx::query("SELECT 1").execute(&mut *tx).await?;
            tokio::time::sleep(BUSY_TIMEOUT * 3 / 2).await;
            Ok(())
        },
    );
    let receiver = Receiver::inline("shop", verifier(), store.clone(), handlers)
        .handler_timeout(Duration::from_mins(5));
    let receiver = receiver.build().unwrap();
    let mut deliveries = tokio::task::JoinSet::new();
    for n in 0..4 {
        let receiver = receiver.clone();
        deliveries
            .spawn(async move { deliver(&receiver, &created().id(format!("evt_{n}"))).await });
    }
    assert_eq!(deliveries.join_all().await, [200; 4]);
    store.close().await;
}

#[tokio::test]
async fn a_handler_that_puts_its_transaction_away_has_failed() {
    let (shop, finish) = (Shop::default(), Arc::new(Notify::new()));
    let waiting = Arc::clone(&finish);
    let handlers =
        Handlers::new(()).on_tx(move |event: Event<UserCreated>, cx, mut tx: Tx<Shop>| {
            let waiting = Arc::clone(&waiting);
            async move {
                tx.push(event.id().to_owned());
                if cx.attempt() == 1 {
                    tokio::spawn(async move {
                        waiting.notified().await;
                        drop(tx);
                    });
                }
                Ok(())
            }
        });
    let receiver = receiver(&shop, handlers).build().unwrap();
    assert_eq!(deliver(&receiver, &created()).await, 503);
    finish.notify_one();
    assert_eq!(deliver(&receiver, &created()).await, 200);
    assert_eq!(shop.sold(), ["evt_1"]);
}

#[tokio::test]
async fn handlers_with_and_without_a_transaction_stand_in_one_registry() {
    let shop = Shop::default();
    let handlers = Handlers::new(())
        .on(async |_: Event<SessionCreated>, _| Ok(()))
        .on_tx(async |_: Event<UserCreated>, _, mut tx: Tx<Shop>| {
            tx.push("created".to_owned());
            Ok(())
        })
        .on_prefix_tx("user.", async |_, _, mut tx: Tx<Shop>| {
            tx.push("user".to_owned());
            Ok(())
        })
        .fallback_tx(async |_, _, mut tx: Tx<Shop>| {
            tx.push("other".to_owned());
            Ok(())
        });
    let receiver = receiver(&shop, handlers).build().unwrap();
    let sent = [
        Fixture::of::<SessionCreated>(),
        Fixture::of::<UserCreated>(),
        Fixture::of::<UserUpdated>(),
        Fixture::new("organization.created"),
    ];
    for (n, fixture) in sent.into_iter().enumerate() {
        assert_eq!(
            deliver(&receiver, &fixture.id(format!("evt_{n}"))).await,
            200
        );
    }
    assert_eq!(shop.sold(), ["created", "user", "other"]);
}

#[tokio::test]
async fn a_handler_with_a_transaction_is_not_run_without_a_claim() {
    let shop = Shop::default();
    shop.down.store(true, Ordering::Relaxed);
    let handlers = selling(|_| Ok(())).on(async |_: Event<UserUpdated>, _| Ok(()));
    let receiver = receiver(&shop, handlers)
        .on_store_failure(StoreFailure::HandleAnyway)
        .build()
        .unwrap();
    assert_eq!(deliver(&receiver, &created()).await, 503);
    assert_eq!(
        deliver(&receiver, &Fixture::of::<UserUpdated>().id("evt_2")).await,
        200
    );
    assert!(shop.sold().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_effect_repeats_after_two_failed_completions_not_after_one() {
    for (stumbles, first, sold) in [(1, 200, 1), (2, 503, 2)] {
        let shop = Shop::default();
        let sale = shop.clone();
        let handlers = Handlers::new(()).on(move |_: Event<UserCreated>, _| {
            sale.sold.lock().unwrap().push("sold".to_owned());
            std::future::ready(Ok(()))
        });
        let receiver = receiver(&shop, handlers)
            .lease(Duration::from_millis(1))
            .build()
            .unwrap();
        shop.stumbles.store(stumbles, Ordering::Relaxed);
        assert_eq!(
            deliver(&receiver, &created()).await,
            first,
            "{stumbles} failures"
        );
        // The ledger uses real time, which tokio's paused clock does not stop, so its lease of 1 ms
        // expires.
        while deliver(&receiver, &created()).await != 200 {}
        assert_eq!(shop.sold().len(), sold, "{stumbles} failures");
    }
}

#[tokio::test]
async fn an_ingested_event_is_handled_once_beside_its_deliveries() {
    let shop = Shop::default();
    let receiver = receiver(&shop, selling(|_| Ok(()))).build().unwrap();
    assert_eq!(
        receiver.ingest(created().verified()).await,
        Ingested::Handled
    );
    assert_eq!(deliver(&receiver, &created()).await, 200);
    assert_eq!(
        receiver.ingest(created().verified()).await,
        Ingested::Duplicate
    );
    assert_eq!(
        receiver
            .ingest(Fixture::of::<UserUpdated>().verified())
            .await,
        Ingested::Unhandled
    );
    assert_eq!(shop.sold(), ["evt_1"]);
    receiver.drain().await;
    let refused = receiver.ingest(created().verified()).await;
    assert!(
        matches!(
            refused,
            Ingested::NotAccepted {
                outcome: "draining",
                ..
            }
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_ingested_event_may_be_older_than_the_retention() {
    let old = created().time(jiff::Timestamp::UNIX_EPOCH);
    let shop = Shop::default();
    let receiver = receiver(&shop, selling(|_| Ok(()))).build().unwrap();
    assert_eq!(deliver(&receiver, &created().id("evt_recent")).await, 200);
    assert_eq!(deliver(&receiver, &old).await, 400);
    assert_eq!(receiver.ingest(old.verified()).await, Ingested::Handled);
    assert_eq!(shop.sold(), ["evt_recent", "evt_1"]);
}

#[tokio::test]
async fn an_old_capture_does_not_bury_the_event_that_still_waits_in_the_inbox() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = Receiver::inbox("shop", verifier(), store.clone())
        .build()
        .unwrap();
    assert_eq!(deliver(&receiver, &created()).await, 200);
    assert_eq!(
        deliver(&receiver, &created().time(jiff::Timestamp::UNIX_EPOCH)).await,
        200
    );
    let letters = store.dead_letters("shop", None, 10).await.unwrap();
    assert_eq!(
        letters
            .iter()
            .map(|letter| letter.key.event_id())
            .collect::<Vec<_>>(),
        ["expired:evt_1"]
    );
    let waiting = authpi_sdk::ledger::Inbox::backlog(&store, "shop")
        .await
        .unwrap();
    assert_eq!(waiting.depth, 1, "the event is still to be handled");
}

#[tokio::test]
async fn an_inline_dead_letter_is_replayed_ingested_and_handled_once() {
    let store = Sqlite::in_memory().await.unwrap();
    let repaired = Arc::new(AtomicBool::new(false));
    let handlers = Handlers::new(Arc::clone(&repaired)).on_tx(
        async |_: Event<UserCreated>, cx: Context<Arc<AtomicBool>>, mut tx: Tx<Sqlite>| {
            sqlx::query("CREATE TABLE IF NOT EXISTS sold (attempt INTEGER)")
                .execute(&mut *tx)
                .await?;
            sqlx::query("INSERT INTO sold VALUES (?)")
                .bind(cx.attempt())
                .execute(&mut *tx)
                .await?;
            if cx.state().load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err(HandlerError::terminal("broken"))
            }
        },
    );
    let receiver = Receiver::inline("shop", verifier(), store.clone(), handlers)
        .build()
        .unwrap();
    assert_eq!(deliver(&receiver, &created()).await, 200);
    let [letter] = &store.dead_letters("shop", None, 10).await.unwrap()[..] else {
        panic!("not one dead letter")
    };
    let event = letter.event().unwrap();
    assert_eq!(
        receiver.ingest(event.clone()).await,
        Ingested::Duplicate,
        "a dead event was handled again"
    );
    repaired.store(true, Ordering::SeqCst);
    assert!(store.replay(&letter.key).await.unwrap());
    assert_eq!(receiver.ingest(event.clone()).await, Ingested::Handled);
    assert_eq!(receiver.ingest(event).await, Ingested::Duplicate);
    assert!(
        !store.replay(&letter.key).await.unwrap(),
        "a handled event is not a dead letter"
    );
    assert!(
        store
            .dead_letters("shop", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        authpi_sdk::ledger::Inbox::backlog(&store, "shop")
            .await
            .unwrap()
            .depth,
        0
    );
}

#[tokio::test]
async fn a_dead_letter_that_is_forgotten_is_handled_when_it_is_sent_again() {
    let store = Sqlite::in_memory().await.unwrap();
    let failing = Handlers::new(())
        .on(async |_: Event<UserCreated>, _| Err(HandlerError::terminal("broken")));
    let receiver = Receiver::inline("shop", verifier(), store.clone(), failing)
        .build()
        .unwrap();
    assert_eq!(deliver(&receiver, &created()).await, 200);
    assert!(store.forget(&EventKey::new("shop", "evt_1")).await.unwrap());
    let repaired = Handlers::new(()).on(async |_: Event<UserCreated>, _| Ok(()));
    let receiver = Receiver::inline("shop", verifier(), store.clone(), repaired)
        .build()
        .unwrap();
    assert_eq!(
        receiver.ingest(created().verified()).await,
        Ingested::Handled
    );
    assert!(
        store
            .dead_letters("shop", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}
