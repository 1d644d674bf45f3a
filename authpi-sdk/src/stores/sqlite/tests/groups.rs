//! Operations that share a transaction and a flush.

use super::*;

fn claims(
    ledger: &Sqlite,
    events: std::ops::Range<usize>,
) -> Vec<impl Future<Output = Result<Claim, LedgerError>> + 'static> {
    let claim = |n| {
        let ledger = ledger.clone();
        async move { ledger.claim(&key(n), DIGEST, LEASE).await }
    };
    events.map(claim).collect()
}

/// A claim for each event, with the test's own statement in the middle; returns the statement's
/// result and the number of granted claims.
async fn claims_around(ledger: &Sqlite, sql: &'static str) -> (Result<(), LedgerError>, usize) {
    enum Reported {
        Claim(Result<Claim, LedgerError>),
        Sql(Result<(), LedgerError>),
    }
    let asks = (0..20).map(|n| {
        let ledger = ledger.clone();
        async move {
            match n {
                10 => Reported::Sql(run(&ledger, sql).await),
                _ => Reported::Claim(ledger.claim(&key(n), DIGEST, LEASE).await),
            }
        }
    });
    let (mut own, mut granted) = (None, 0);
    for reported in at_once(ledger, asks).await {
        match reported {
            Reported::Claim(claim) => {
                granted += usize::from(matches!(claim, Ok(Claim::Granted { .. })));
            }
            Reported::Sql(reported) => own = Some(reported),
        }
    }
    (own.unwrap(), granted)
}

#[tokio::test]
async fn steps_that_wait_together_share_one_flush() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    let before = ledger.flushes();
    for claim in at_once(&ledger, claims(&ledger, 0..100)).await {
        assert!(matches!(claim.unwrap(), Claim::Granted { .. }));
    }
    assert_eq!(ledger.flushes() - before, 1);
    assert_eq!(count(&folder.file()).await, 100);
}

#[tokio::test]
async fn duplicates_and_looks_write_nothing_to_the_disk() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    for n in 0..50 {
        let token = granted(&ledger, n).await;
        assert_eq!(
            ledger
                .complete(&key(n), token, Completion::Handled)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
    }
    let journal = || std::fs::metadata(folder.0.join("hooks.db-wal")).unwrap();
    let (before, flushes) = (journal(), ledger.flushes());
    for claim in at_once(&ledger, claims(&ledger, 0..50)).await {
        assert_eq!(
            claim.unwrap(),
            Claim::Handled {
                first_digest: DIGEST
            }
        );
    }
    assert!(matches!(
        ledger.lease_next("users", LEASE).await.unwrap(),
        NextEvent::Empty { .. }
    ));
    assert_eq!(ledger.backlog("users").await.unwrap().depth, 0);
    assert!(!ledger.forget(&key(1000)).await.unwrap());
    assert_eq!(ledger.flushes(), flushes);
    let after = journal();
    assert_eq!(
        (after.len(), after.modified().unwrap()),
        (before.len(), before.modified().unwrap())
    );
}

#[tokio::test]
async fn a_step_that_fails_leaves_its_neighbours_be() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    let before = ledger.flushes();
    let (own, granted) = claims_around(
        &ledger,
        "INSERT INTO authpi_ledger (endpoint) VALUES (NULL)",
    )
    .await;
    assert!(chain(&own.unwrap_err()).contains("NOT NULL"));
    assert_eq!((granted, ledger.flushes() - before), (19, 1));
    assert_eq!(count(&folder.file()).await, 19);
}

#[tokio::test]
async fn an_operation_that_ends_the_transaction_costs_its_group_one_more_flush() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    // As SQLite does when the disk is full or cannot be read.
    let (own, granted) = claims_around(&ledger, "ROLLBACK; SELECT * FROM nowhere").await;
    assert!(chain(&own.unwrap_err()).contains("nowhere"));
    assert_eq!(granted, 19);
    assert_eq!(count(&folder.file()).await, 19);
    let claim = ledger.claim(&key(0), DIGEST, LEASE).await.unwrap();
    assert!(
        matches!(claim, Claim::InFlight { .. }),
        "an answer was given for what was rolled back: {claim:?}"
    );
}

#[tokio::test]
async fn a_failed_commit_is_reported_to_all_and_writes_nothing() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    let tables = "
        CREATE TABLE parent (id INTEGER PRIMARY KEY);
        CREATE TABLE child (parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)";
    run(&ledger, tables).await.unwrap();
    let before = ledger.flushes();
    // Detected by the commit.
    let (own, granted) = claims_around(&ledger, "INSERT INTO child VALUES (1)").await;
    let error = chain(&own.unwrap_err());
    assert!(
        error.contains("could not be committed") && error.contains("FOREIGN KEY"),
        "{error}"
    );
    assert_eq!((granted, ledger.flushes() - before), (0, 0));
    assert_eq!(count(&folder.file()).await, 0);
    assert_eq!(super::granted(&ledger, 0).await.attempt, 1);
}

#[tokio::test]
async fn a_full_disk_fails_whole_operations_of_a_group_only() {
    static LARGE: [u8; 200_000] = [b'x'; 200_000];
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    let mut tokens = Vec::new();
    for n in 0..20 {
        tokens.push(granted(&ledger, n).await);
    }
    // Space for half of the following operations.
    run(&ledger, "PRAGMA max_page_count = 500").await.unwrap();
    let completions = || {
        let complete = |(n, token)| {
            let ledger = ledger.clone();
            async move {
                ledger
                    .complete(&key(n), token, dead("reason", &LARGE))
                    .await
            }
        };
        tokens
            .clone()
            .into_iter()
            .enumerate()
            .map(complete)
            .collect::<Vec<_>>()
    };
    let reported = at_once(&ledger, completions()).await;
    let done = reported
        .iter()
        .filter(|reported| matches!(reported, Ok(LeaseStatus::Held)))
        .count();
    assert!(done > 0 && done < 20, "{done} of 20 had room");
    for error in reported
        .iter()
        .filter_map(|reported| reported.as_ref().err())
    {
        assert!(chain(error).contains("full"), "{}", chain(error));
        assert_eq!(error.kind(), LedgerErrorKind::CannotWrite);
    }
    let letters = ledger.dead_letters("users", None, 100).await.unwrap();
    assert_eq!(
        letters.len(),
        done,
        "what was answered is not what is there"
    );
    assert!(letters.iter().all(|letter| letter.body == LARGE[..]));
    for (n, reported) in reported
        .iter()
        .enumerate()
        .filter(|(_, reported)| reported.is_err())
    {
        let claim = ledger.claim(&key(n), DIGEST, LEASE).await.unwrap();
        assert!(
            matches!(claim, Claim::InFlight { .. }),
            "{claim:?} after {reported:?}"
        );
    }
    run(&ledger, "PRAGMA max_page_count = 1000000")
        .await
        .unwrap();
    for reported in at_once(&ledger, completions()).await {
        assert_eq!(reported.unwrap(), LeaseStatus::Held);
    }
    assert_eq!(
        ledger.dead_letters("users", None, 100).await.unwrap().len(),
        20
    );
}

#[tokio::test]
async fn a_file_that_another_process_keeps_locked_fails_a_group_as_a_whole() {
    let folder = Folder::new();
    let ledger = Sqlite::options()
        .busy_timeout(Duration::from_millis(200))
        .open(folder.file())
        .await
        .unwrap();
    let mut other =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.file()))
            .await
            .unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    // The runtime has one thread: all of them send their request before the writer runs.
    let asking: Vec<_> = claims(&ledger, 0..20)
        .into_iter()
        .map(tokio::spawn)
        .collect();
    for claim in asking {
        let error = claim.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), LedgerErrorKind::Busy);
        let error = chain(&error);
        assert!(
            error.contains("shares with others could not be begun") && error.contains("locked"),
            "{error}"
        );
    }
    assert_eq!(count(&folder.file()).await, 0);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(granted(&ledger, 100).await.attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_cancelled_at_any_point_change_nothing_for_the_others() {
    let folder = Folder::new();
    let ledger = Sqlite::options()
        .busy_timeout(Duration::from_mins(1))
        .open(folder.file())
        .await
        .unwrap();
    let mut patient = tokio::task::JoinSet::new();
    for worker in 0..16 {
        let ledger = ledger.clone();
        patient.spawn(async move {
            for n in 0..40 {
                let n = 10_000 + worker * 100 + n;
                let token = granted(&ledger, n).await;
                assert_eq!(
                    ledger
                        .complete(&key(n), token, Completion::Handled)
                        .await
                        .unwrap(),
                    LeaseStatus::Held
                );
            }
        });
    }
    let mut hasty = tokio::task::JoinSet::new();
    for worker in 0..16 {
        let ledger = ledger.clone();
        hasty.spawn(async move {
            for n in 0..40_u64 {
                let limit = Duration::from_micros(n * n * 3);
                let n = usize::try_from(n).unwrap() + worker * 100;
                let all = async {
                    let token = granted(&ledger, n).await;
                    let held = match n % 3 {
                        0 => ledger.complete(&key(n), token, Completion::Handled).await,
                        1 => ledger.release(&key(n), token, Duration::ZERO).await,
                        _ => {
                            let transaction = ledger.begin().await.unwrap();
                            ledger.commit(transaction, &key(n), token).await
                        }
                    };
                    assert_eq!(held.unwrap(), LeaseStatus::Held);
                };
                // The time limit may cancel this before, between or during its operations: none,
                // some or all of them take effect.
                let _ = tokio::time::timeout(limit, all).await;
            }
        });
    }
    patient.join_all().await;
    hasty.join_all().await;
    for worker in 0..16 {
        for n in 0..40 {
            let claim = ledger
                .claim(&key(10_000 + worker * 100 + n), DIGEST, LEASE)
                .await
                .unwrap();
            assert_eq!(
                claim,
                Claim::Handled {
                    first_digest: DIGEST
                }
            );
            match ledger
                .claim(&key(worker * 100 + n), DIGEST, LEASE)
                .await
                .unwrap()
            {
                Claim::Granted { token, .. } => assert!(token.attempt <= 2),
                Claim::InFlight { .. } | Claim::Handled { .. } => {}
                other => panic!("a cancelled caller left {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_claim_is_skipped_if_its_caller_is_gone() {
    let ledger = Sqlite::in_memory().await.unwrap();
    let held = ledger.begin().await.unwrap();
    let gone: Vec<_> = claims(&ledger, 0..10)
        .into_iter()
        .map(tokio::spawn)
        .collect();
    tokio::task::yield_now().await;
    for claim in gone {
        claim.abort();
        assert!(claim.await.unwrap_err().is_cancelled());
    }
    drop(held);
    for n in 0..10 {
        assert_eq!(granted(&ledger, n).await.attempt, 1);
    }
}

#[tokio::test]
async fn closing_lets_what_was_asked_before_take_place() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    let held = ledger.begin().await.unwrap();
    let before: Vec<_> = claims(&ledger, 0..10)
        .into_iter()
        .map(tokio::spawn)
        .collect();
    tokio::task::yield_now().await;
    let closing = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.close().await }
    });
    tokio::task::yield_now().await;
    let after: Vec<_> = claims(&ledger, 10..20)
        .into_iter()
        .map(tokio::spawn)
        .collect();
    tokio::task::yield_now().await;
    drop(held);
    for claim in before {
        assert!(matches!(claim.await.unwrap(), Ok(Claim::Granted { .. })));
    }
    for claim in after {
        let error = chain(&claim.await.unwrap().unwrap_err());
        assert!(error.contains("closed"), "{error}");
    }
    closing.await.unwrap();
    assert_eq!(count(&folder.file()).await, 10);
}
