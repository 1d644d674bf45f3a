//! A clock that is set back.

use super::*;

const DAY: i64 = 24 * 60 * 60 * 1_000;
const PAUSE: Duration = Duration::from_mins(1);

async fn append(ledger: &Sqlite, n: usize) {
    assert_eq!(
        ledger
            .append(&key(n), DIGEST, None, Bytes::new())
            .await
            .unwrap(),
        Appended::Stored
    );
}

async fn leased(ledger: &Sqlite, n: usize, attempt: u32) -> Token {
    match ledger.lease_next("users", LEASE).await.unwrap() {
        NextEvent::Leased(event) => {
            assert_eq!((event.key, event.token.attempt), (key(n), attempt));
            event.token
        }
        nothing @ NextEvent::Empty { .. } => panic!("event {n} is not leased: {nothing:?}"),
    }
}

#[tokio::test]
async fn leases_and_delays_end_in_time_although_the_clock_is_set_back() {
    for restarted in [false, true] {
        let (folder, (clock, time)) = (Folder::new(), clock_at_rest());
        let open = async || {
            Sqlite::options()
                .clock(clock.clone())
                .open(folder.file())
                .await
                .unwrap()
        };
        let mut ledger = open().await;
        granted(&ledger, 0).await;
        let token = granted(&ledger, 1).await;
        assert_eq!(
            ledger.release(&key(1), token, PAUSE).await.unwrap(),
            LeaseStatus::Held
        );
        let token = granted(&ledger, 2).await;
        assert_eq!(
            ledger
                .complete(&key(2), token, Completion::Handled)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
        append(&ledger, 3).await;
        append(&ledger, 4).await;
        let token = leased(&ledger, 3, 1).await;
        assert_eq!(
            ledger.renew(&key(3), token, LEASE).await.unwrap(),
            LeaseStatus::Held
        );
        let token = leased(&ledger, 4, 1).await;
        assert_eq!(
            ledger.release(&key(4), token, PAUSE).await.unwrap(),
            LeaseStatus::Held
        );

        time.fetch_sub(DAY, Ordering::Relaxed);
        if restarted {
            ledger.close().await;
            ledger = open().await;
        }
        assert_eq!(
            ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(),
            Claim::InFlight { lease_left: LEASE }
        );
        assert_eq!(
            ledger.claim(&key(1), DIGEST, LEASE).await.unwrap(),
            Claim::NotYet { wait: PAUSE }
        );
        assert_eq!(
            ledger.claim(&key(2), DIGEST, LEASE).await.unwrap(),
            Claim::Handled {
                first_digest: DIGEST
            }
        );
        let NextEvent::Empty { due_in } = ledger.lease_next("users", LEASE).await.unwrap() else {
            panic!("it is leased")
        };
        assert_eq!(due_in, Some(LEASE));
        time.fetch_add(30_000, Ordering::Relaxed);
        assert_eq!(granted(&ledger, 0).await.attempt, 2);
        let token = leased(&ledger, 3, 2).await;
        assert_eq!(
            ledger
                .complete(&key(3), token, Completion::Handled)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
        time.fetch_add(30_000, Ordering::Relaxed);
        assert_eq!(granted(&ledger, 1).await.attempt, 2);
        leased(&ledger, 4, 2).await;
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_a_little_extends_nothing() {
    let (clock, time) = clock_at_rest();
    let ledger = Sqlite::options().clock(clock).in_memory().await.unwrap();
    granted(&ledger, 0).await;
    append(&ledger, 1).await;
    leased(&ledger, 1, 1).await;
    time.fetch_sub(500, Ordering::Relaxed);
    assert_eq!(
        ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(),
        Claim::InFlight { lease_left: LEASE }
    );
    let NextEvent::Empty { due_in } = ledger.lease_next("users", LEASE).await.unwrap() else {
        panic!("it is leased")
    };
    assert_eq!(due_in, Some(LEASE));
}
