//! The ledgers and inboxes on what they are for, real servers and files: the public suite, replicas that race, servers that stop,
//! pause and come back, processes that are killed.

mod nats;
mod postgres;
mod probes;
mod redis;
mod secrets;
mod sqlite;

use std::{error::Error, time::Duration};

use authpi_sdk::ledger::{Claim, Completion, Digest, EventKey, Held, Ledger, LedgerError, Token};

use crate::servers::until;

const DIGEST: Digest = Digest::from_bytes([7; 16]);
const LEASE: Duration = Duration::from_mins(10);
const EVENTS: usize = 100;

fn key(n: usize) -> EventKey {
    EventKey::new("users", format!("evt_{n}"))
}

async fn granted(ledger: &impl Ledger, n: usize) -> Token {
    match ledger.claim(&key(n), DIGEST, LEASE).await.unwrap() {
        Claim::Granted { token, .. } => token,
        other => panic!("the claim of event {n} ended as {other:?}"),
    }
}

async fn handled(ledger: &impl Ledger, n: usize) {
    let token = granted(ledger, n).await;
    assert_eq!(ledger.complete(&key(n), token, Completion::Handled).await.unwrap(), Held::Yes);
}

/// Each error in the chain, as a log would show it.
fn chain(error: &LedgerError) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.fold(error.to_string(), |text, cause| text + ": " + &cause.to_string())
}

/// Every ledger handles what it can get of the events, each of them several times at once; each event must be handled once.
async fn race<L: Ledger + Clone>(ledgers: &[L]) {
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..ledgers.len() * 3 {
        let ledger = ledgers[worker % ledgers.len()].clone();
        workers.spawn(async move {
            let mut won = Vec::new();
            for n in 0..EVENTS {
                let n = (n + worker * 7) % EVENTS;
                match ledger.claim(&key(n), DIGEST, LEASE).await.unwrap() {
                    Claim::Granted { token, first_digest } => {
                        assert_eq!((token.attempt, first_digest), (1, DIGEST));
                        assert_eq!(ledger.complete(&key(n), token, Completion::Handled).await.unwrap(), Held::Yes);
                        won.push(n);
                    }
                    Claim::InFlight { .. } | Claim::Handled { .. } => {}
                    other => panic!("a raced claim ended as {other:?}"),
                }
            }
            won
        });
    }
    let mut won = workers.join_all().await.concat();
    won.sort_unstable();
    assert_eq!(won, (0..EVENTS).collect::<Vec<_>>());
    for n in 0..EVENTS {
        let claim = ledgers[0].claim(&key(n), DIGEST, LEASE).await.unwrap();
        assert_eq!(claim, Claim::Handled { first_digest: DIGEST });
    }
}

/// Drops claims at every point, beside others on the same connections. Whatever became of them, the ledger is of use.
async fn claims_dropped_midway<L: Ledger + Clone>(ledger: &L) {
    for n in 0..EVENTS {
        let impatient = Duration::from_micros(20 * n as u64);
        let (dropped, beside) = (key(n), key(EVENTS + n));
        let (_, claim) = tokio::join!(
            tokio::time::timeout(impatient, ledger.claim(&dropped, DIGEST, LEASE)),
            ledger.claim(&beside, DIGEST, LEASE),
        );
        let Claim::Granted { token, .. } = claim.unwrap() else { panic!("the claim beside a dropped one is refused") };
        assert_eq!(ledger.complete(&beside, token, Completion::Handled).await.unwrap(), Held::Yes);
        match ledger.claim(&dropped, DIGEST, LEASE).await.unwrap() {
            Claim::Granted { token, .. } => assert_eq!(token.attempt, 1),
            Claim::InFlight { lease_left } => assert!(lease_left <= LEASE),
            other => panic!("a dropped claim left {other:?}"),
        }
    }
}

/// Waits until a claim gets an answer again, and says which.
async fn answered(ledger: &impl Ledger, n: usize) -> Claim {
    let ask = || async { ledger.claim(&key(n), DIGEST, LEASE).await.ok() };
    until(|| "the ledger does not recover".to_owned(), ask).await
}
