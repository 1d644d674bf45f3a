//! Handlers that write in the transaction of their completion.

use sqlx::Connection as _;

use super::*;

const SOLD: &str = "CREATE TABLE sold (id TEXT PRIMARY KEY)";

async fn shop() -> Sqlite {
    let ledger = Sqlite::in_memory().await.unwrap();
    run(&ledger, SOLD).await.unwrap();
    ledger
}

async fn sell(transaction: &mut SqliteTransaction, id: &'static str) {
    sqlx::query("INSERT INTO sold VALUES (?1)")
        .bind(id)
        .execute(&mut **transaction)
        .await
        .unwrap();
}

async fn sold(ledger: &Sqlite) -> Vec<String> {
    let mut transaction = ledger.begin().await.unwrap();
    let rows = sqlx::query("SELECT id FROM sold ORDER BY id")
        .fetch_all(&mut *transaction)
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn what_is_written_and_the_completion_take_place_together() {
    let ledger = shop().await;
    let token = granted(&ledger, 0).await;
    let mut transaction = ledger.begin().await.unwrap();
    sell(&mut transaction, "a").await;
    assert_eq!(
        ledger.commit(transaction, &key(0), token).await.unwrap(),
        LeaseStatus::Held
    );
    assert_eq!(sold(&ledger).await, ["a"]);
    assert_eq!(
        ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(),
        Claim::Handled {
            first_digest: DIGEST
        }
    );
}

#[tokio::test]
async fn a_stale_token_takes_what_was_written_with_it() {
    let ledger = shop().await;
    let (clean, forgotten) = (granted(&ledger, 0).await, granted(&ledger, 1).await);
    assert!(ledger.forget(&key(1)).await.unwrap());
    for (n, token) in [
        (
            0,
            Token {
                nonce: clean.nonce ^ 1,
                ..clean
            },
        ),
        (1, forgotten),
    ] {
        let mut transaction = ledger.begin().await.unwrap();
        sell(&mut transaction, "a").await;
        assert_eq!(
            ledger.commit(transaction, &key(n), token).await.unwrap(),
            LeaseStatus::Lost
        );
    }
    assert!(sold(&ledger).await.is_empty());
    assert_eq!(
        ledger
            .complete(&key(0), clean, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    // It has completed already, so this would be a second effect.
    let mut transaction = ledger.begin().await.unwrap();
    sell(&mut transaction, "a").await;
    assert_eq!(
        ledger.commit(transaction, &key(0), clean).await.unwrap(),
        LeaseStatus::Lost
    );
    assert!(sold(&ledger).await.is_empty());
}

#[tokio::test]
async fn a_transaction_dropped_in_mid_statement_is_rolled_back_first() {
    let ledger = shop().await;
    let mut transaction = ledger.begin().await.unwrap();
    sell(&mut transaction, "a").await;
    let gate = Gate::at(&mut transaction).await;
    gate.close();
    {
        let many =
            sqlx::raw_sql("INSERT INTO sold VALUES ('b'); SELECT 1; INSERT INTO sold VALUES ('c')");
        let mut many = std::pin::pin!(many.execute(&mut *transaction));
        assert!(
            poll_once(&mut many).await.is_none(),
            "a statement passed a closed gate"
        );
        gate.until_reached();
    }
    gate.open();
    sqlx::query("SELECT 1")
        .execute(&mut *transaction)
        .await
        .unwrap();
    gate.close();
    {
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) SELECT i FROM n";
        let mut rows = std::pin::pin!(sqlx::query(endless).fetch_all(&mut *transaction));
        assert!(
            poll_once(&mut rows).await.is_none(),
            "a statement passed a closed gate"
        );
        gate.until_reached();
    }
    let claim = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.claim(&key(0), DIGEST, LEASE).await }
    });
    tokio::task::yield_now().await;
    drop(transaction);
    gate.open();
    assert!(matches!(
        claim.await.unwrap().unwrap(),
        Claim::Granted { .. }
    ));
    assert!(sold(&ledger).await.is_empty());
}

/// Blocks a connection's statements while they run: SQLite calls it between any two of its
/// instructions.
#[derive(Clone, Default)]
struct Gate(Arc<(std::sync::Mutex<Passage>, std::sync::Condvar)>);

#[derive(Default)]
struct Passage {
    closed: bool,
    /// Whether a statement is waiting, or has waited since the gate was closed.
    reached: bool,
}

impl Gate {
    async fn at(connection: &mut SqliteConnection) -> Self {
        let gate = Self::default();
        let passed = gate.clone();
        connection
            .lock_handle()
            .await
            .unwrap()
            .set_progress_handler(1, move || passed.pass());
        gate
    }

    /// On the connection's own thread.
    fn pass(&self) -> bool {
        let (passage, changed) = &*self.0;
        let mut passage = passage.lock().unwrap();
        while passage.closed {
            passage.reached = true;
            changed.notify_all();
            passage = changed.wait(passage).unwrap();
        }
        true
    }

    fn close(&self) {
        *self.0.0.lock().unwrap() = Passage {
            closed: true,
            reached: false,
        };
    }

    fn open(&self) {
        self.0.0.lock().unwrap().closed = false;
        self.0.1.notify_all();
    }

    fn until_reached(&self) {
        let (passage, changed) = &*self.0;
        drop(
            changed
                .wait_while(passage.lock().unwrap(), |passage| !passage.reached)
                .unwrap(),
        );
    }
}

async fn poll_once<F: Future>(future: &mut std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn a_transaction_within_it_can_be_undone_by_itself() {
    let ledger = shop().await;
    for (n, kept) in [(0, "a"), (1, "b")] {
        let token = granted(&ledger, n).await;
        let mut transaction = ledger.begin().await.unwrap();
        sell(&mut transaction, kept).await;
        let mut inner = transaction.begin().await.unwrap();
        sqlx::query("INSERT INTO sold VALUES ('undone')")
            .execute(&mut *inner)
            .await
            .unwrap();
        if n == 0 {
            drop(inner);
        } else {
            inner.rollback().await.unwrap();
        }
        let inner = transaction.begin().await.unwrap();
        inner.commit().await.unwrap();
        assert_eq!(
            ledger.commit(transaction, &key(n), token).await.unwrap(),
            LeaseStatus::Held
        );
    }
    assert_eq!(sold(&ledger).await, ["a", "b"]);
}

#[tokio::test]
async fn a_transaction_that_the_handler_ended_itself_completes_nothing() {
    let ledger = shop().await;
    for ending in ["COMMIT", "ROLLBACK", "COMMIT; BEGIN"] {
        let token = granted(&ledger, 0).await;
        let mut transaction = ledger.begin().await.unwrap();
        sqlx::raw_sql(ending)
            .execute(&mut *transaction)
            .await
            .unwrap();
        let error = chain(
            &ledger
                .commit(transaction, &key(0), token)
                .await
                .unwrap_err(),
        );
        assert!(error.contains("has already ended"), "{error}");
        assert_eq!(
            ledger
                .release(&key(0), token, Duration::ZERO)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
    }
    let token = granted(&ledger, 0).await;
    let mut transaction = ledger.begin().await.unwrap();
    sell(&mut transaction, "a").await;
    assert_eq!(
        ledger.commit(transaction, &key(0), token).await.unwrap(),
        LeaseStatus::Held
    );
    assert_eq!(sold(&ledger).await, ["a"]);
}

#[tokio::test]
async fn waiting_too_long_for_a_handler_is_an_error_and_loses_nothing() {
    let limit = Duration::from_millis(30);
    let ledger = Sqlite::options()
        .busy_timeout(limit)
        .in_memory()
        .await
        .unwrap();
    let token = granted(&ledger, 0).await;
    // On a busy machine, the timeout may expire before the writer runs.
    let transaction = loop {
        if let Ok(transaction) = ledger.begin().await {
            break transaction;
        }
    };
    let (held, other) = (key(0), key(1));
    let (renewed, claimed, begun, backlog) = tokio::join!(
        ledger.renew(&held, token, LEASE),
        ledger.claim(&other, DIGEST, LEASE),
        ledger.begin(),
        ledger.backlog("users"),
    );
    let errors = [
        renewed.unwrap_err(),
        claimed.unwrap_err(),
        begun.unwrap_err(),
        backlog.unwrap_err(),
    ];
    for error in errors {
        assert!(
            chain(&error).contains("locked for 30ms"),
            "{}",
            chain(&error)
        );
        assert_eq!(error.kind(), LedgerErrorKind::Busy);
    }
    assert_eq!(
        ledger.commit(transaction, &key(0), token).await.unwrap(),
        LeaseStatus::Held,
        "its lease was lost"
    );
    assert_eq!(
        granted(&ledger, 1).await.attempt,
        1,
        "a claim that failed took place"
    );
}

#[tokio::test]
async fn a_waiting_renewal_runs_between_two_handlers() {
    let ledger = Sqlite::in_memory().await.unwrap();
    let token = granted(&ledger, 0).await;
    let first = ledger.begin().await.unwrap();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (ledger, order) = (ledger.clone(), Arc::clone(&order));
        waiting.spawn(async move {
            let transaction = ledger.begin().await.unwrap();
            order.lock().unwrap().push("handler");
            tokio::task::yield_now().await;
            drop(transaction);
        });
    }
    let (clone, reported) = (ledger.clone(), Arc::clone(&order));
    waiting.spawn(async move {
        assert_eq!(
            clone.renew(&key(0), token, LEASE).await.unwrap(),
            LeaseStatus::Held
        );
        reported.lock().unwrap().push("renewal");
    });
    tokio::task::yield_now().await;
    drop(first);
    waiting.join_all().await;
    assert_eq!(
        order.lock().unwrap()[..2]
            .iter()
            .filter(|who| **who == "renewal")
            .count(),
        1,
        "{order:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_handlers_at_once_write_one_after_another_and_all_of_it_is_there() {
    let folder = Folder::new();
    let ledger = Sqlite::options()
        .busy_timeout(Duration::from_mins(1))
        .open(folder.file())
        .await
        .unwrap();
    run(
        &ledger,
        "CREATE TABLE counter (n INTEGER); INSERT INTO counter VALUES (0)",
    )
    .await
    .unwrap();
    let mut handlers = tokio::task::JoinSet::new();
    for n in 0..64 {
        let ledger = ledger.clone();
        handlers.spawn(async move {
            let token = granted(&ledger, n).await;
            let mut transaction = ledger.begin().await.unwrap();
            let row = sqlx::query("SELECT n FROM counter")
                .fetch_one(&mut *transaction)
                .await
                .unwrap();
            let next = row.get::<i64, _>(0) + 1;
            sqlx::query("UPDATE counter SET n = ?1")
                .bind(next)
                .execute(&mut *transaction)
                .await
                .unwrap();
            // Every fourth transaction is dropped instead of committed, so its increment is undone.
            if n % 4 != 0 {
                assert_eq!(
                    ledger.commit(transaction, &key(n), token).await.unwrap(),
                    LeaseStatus::Held
                );
            }
        });
    }
    handlers.join_all().await;
    ledger.close().await;
    let mut file =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.file()))
            .await
            .unwrap();
    let row =
        sqlx::query("SELECT n, (SELECT count(*) FROM authpi_ledger WHERE state = 2) FROM counter")
            .fetch_one(&mut file)
            .await
            .unwrap();
    assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (48, 48));
}

#[tokio::test]
async fn a_full_disk_rolls_back_a_handlers_writes_and_its_completion() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    run(&ledger, SOLD).await.unwrap();
    let token = granted(&ledger, 0).await;
    run(&ledger, "PRAGMA max_page_count = 1").await.unwrap();
    let mut transaction = ledger.begin().await.unwrap();
    sell(&mut transaction, "a").await;
    let large = sqlx::query("INSERT INTO sold VALUES (?1)").bind("x".repeat(100_000));
    // The handler ignores this error. SQLite may have rolled the transaction back, and then the
    // earlier writes are undone too.
    assert!(
        large
            .execute(&mut *transaction)
            .await
            .unwrap_err()
            .to_string()
            .contains("full")
    );
    let committed = ledger.commit(transaction, &key(0), token).await;
    run(&ledger, "PRAGMA max_page_count = 1000000")
        .await
        .unwrap();
    let claim = ledger.claim(&key(0), DIGEST, LEASE).await.unwrap();
    if committed.is_ok() {
        assert_eq!(
            (claim, sold(&ledger).await),
            (
                Claim::Handled {
                    first_digest: DIGEST
                },
                vec!["a".to_owned()]
            )
        );
    } else {
        assert!(
            matches!(claim, Claim::InFlight { .. }) && sold(&ledger).await.is_empty(),
            "{claim:?}"
        );
    }
}

#[tokio::test]
async fn a_transaction_outlives_no_runtime_and_no_closing() {
    let ledger = shop().await;
    let mut transaction = ledger.begin().await.unwrap();
    sell(&mut transaction, "a").await;
    let closing = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.close().await }
    });
    tokio::task::yield_now().await;
    assert!(!closing.is_finished(), "closed under a handler");
    drop(transaction);
    closing.await.unwrap();
    assert!(chain(&ledger.begin().await.unwrap_err()).contains("closed"));
}

#[tokio::test]
async fn a_replayed_dead_letter_is_handled_after_what_waits_in_its_ordering_key() {
    let (clock, time) = clock_at_rest();
    let ledger = Sqlite::options().clock(clock).in_memory().await.unwrap();
    let append = async |n| {
        let body = Bytes::from(format!("body of {n}"));
        assert_eq!(
            ledger
                .append(&key(n), DIGEST, Some("ordering_key"), body)
                .await
                .unwrap(),
            Appended::Stored
        );
    };
    let leased = async || match ledger.lease_next("users", LEASE).await.unwrap() {
        NextEvent::Leased(leased) => leased,
        other @ NextEvent::Empty { .. } => panic!("{other:?}"),
    };
    append(0).await;
    let first = leased().await;
    assert!(
        !ledger.replay(&key(0)).await.unwrap(),
        "a claimed event was replayed"
    );
    let reason = Completion::Dead {
        reason: "poisoned".into(),
        body: first.body.clone(),
    };
    assert_eq!(
        ledger.complete(&key(0), first.token, reason).await.unwrap(),
        LeaseStatus::Held
    );
    append(1).await;
    time.fetch_add(60_000, Ordering::Relaxed);
    let reported = ledger.appended();
    assert!(ledger.replay(&key(0)).await.unwrap());
    tokio::time::timeout(LEASE, reported)
        .await
        .expect("a replay does not notify workers");
    assert!(
        !ledger.replay(&key(0)).await.unwrap(),
        "a pending event was replayed"
    );
    assert!(
        !ledger.replay(&key(7)).await.unwrap(),
        "an unknown event was replayed"
    );
    assert!(
        ledger
            .dead_letters("users", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(ledger.backlog("users").await.unwrap().depth, 2);

    let second = leased().await;
    assert_eq!(second.key, key(1));
    assert_eq!(
        ledger
            .complete(&key(1), second.token, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    let again = leased().await;
    assert_eq!(
        (again.key, &again.body[..], again.token.attempt),
        (key(0), &b"body of 0"[..], 1)
    );
    assert_eq!(
        again
            .received_at
            .duration_since(first.received_at)
            .as_secs(),
        60,
        "it counts as old"
    );
    assert_eq!(
        ledger
            .complete(&key(0), first.token, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Lost
    );
    assert_eq!(
        ledger
            .complete(&key(0), again.token, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    assert!(
        !ledger.replay(&key(0)).await.unwrap(),
        "a handled event was replayed"
    );
}
