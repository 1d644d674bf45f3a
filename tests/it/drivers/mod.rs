//! The ledgers and inboxes on real servers and files: the public suite, replicas that race,
//! servers that stop, pause and return, and processes that are killed.

mod nats;
mod postgres;
mod probes;
mod redis;
mod secrets;
mod sqlite;

use std::{
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use authpi_sdk::{
    event::Event,
    handlers::{Context, HandlerError, Handlers},
    ledger::{
        Claim, Completion, DeadLetter, Digest, EventKey, Inbox, LeaseStatus, Ledger, LedgerError,
        Token,
    },
    receiver::Receiver,
    signature::SignatureScheme,
    stores::{Nats, Postgres, Sqlite},
    testing::Fixture,
    worker::WorkerBuilder,
};

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
    assert_eq!(
        ledger
            .complete(&key(n), token, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
}

/// All errors in the chain, as a log would show them.
pub(crate) fn chain(error: &LedgerError) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.fold(error.to_string(), |text, cause| {
        text + ": " + &cause.to_string()
    })
}

/// Printable characters that do not compress, so that no store shortens them.
pub(crate) fn noise(length: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + u8::try_from(state % 94).unwrap())
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

/// The stores' dead letter methods as one trait.
pub(crate) trait Letters: Inbox + Clone {
    async fn letters(&self) -> Vec<DeadLetter>;
    async fn put_back(&self, key: &EventKey) -> bool;
}

macro_rules! letters {
    ($($store:ty),*) => {$(
        impl Letters for $store {
            async fn letters(&self) -> Vec<DeadLetter> {
                self.dead_letters("users", None, 100).await.unwrap()
            }
            async fn put_back(&self, key: &EventKey) -> bool {
                self.replay(key).await.unwrap()
            }
        }
    )*};
}

letters! { Sqlite, Postgres, Nats<Postgres> }

type Seen = Mutex<Vec<(String, u32)>>;

/// Delivers events whose ids and subjects are chosen to break a store. Each fails terminally once,
/// is listed, replayed as documented, handled, and forgotten by its original id, and no other event
/// waits for any of them.
pub(crate) async fn odd_names_hold_up_nothing<I: Letters>(
    (receiver, inbox, secret): (&Receiver, &I, &str),
    worker: impl Fn(Handlers<(Arc<Seen>, bool)>) -> WorkerBuilder,
) {
    let long = noise(3_000);
    let names = [
        (long.as_str(), "ada"),
        ("evt_1", long.as_str()),
        ("nul\0", "nul\0"),
        ("sha256:0", "sha256:0"),
        ("line\r\nX: 1", "é\u{7f}"),
        ("evt_2", "bob"),
    ];
    for (id, user) in names {
        let event = Fixture::new("user.updated").id(id).subject("user_id", user);
        let request = event
            .request(&SignatureScheme::authpi(), &secret.into())
            .unwrap();
        assert_eq!(
            receiver.receive(request).await.status(),
            200,
            "{} by {}",
            id.len(),
            user.len()
        );
    }
    let seen: Arc<Seen> = Arc::default();
    for gives_up in [true, false] {
        let note = async |event: Event, cx: Context<(Arc<Seen>, bool)>| {
            let key = cx.idempotency_key();
            assert!(
                key.len() <= 255 && !key.contains(char::is_control),
                "{key:?}"
            );
            cx.state()
                .0
                .lock()
                .unwrap()
                .push((event.id().to_owned(), cx.attempt()));
            if cx.state().1 {
                Err(HandlerError::terminal("not now"))
            } else {
                Ok(())
            }
        };
        let handlers = Handlers::new((Arc::clone(&seen), gives_up)).on_prefix("user.", note);
        let worker = worker(handlers)
            .poll_interval(Duration::from_millis(50))
            .build()
            .unwrap();
        let done = async {
            let empty = || async {
                worker
                    .backlog()
                    .await
                    .is_ok_and(|left| left.depth == 0)
                    .then_some(())
            };
            until(|| "the backlog is not worked off".to_owned(), empty).await;
        };
        worker.run(done).await;
        let mut handled: Vec<_> = std::mem::take(&mut *seen.lock().unwrap());
        handled.sort_unstable();
        let mut expected = names.map(|(id, _)| (id.to_owned(), 1));
        expected.sort_unstable();
        assert_eq!(handled, expected);
        let letters = inbox.letters().await;
        assert_eq!(letters.len(), if gives_up { names.len() } else { 0 });
        for letter in letters {
            let id = letter.event().unwrap().id().to_owned();
            assert_eq!(
                EventKey::new("users", id.as_str()),
                letter.key,
                "the letter does not name its event"
            );
            assert_eq!(
                EventKey::from_stored("users", letter.key.event_id()),
                letter.key
            );
            assert!(
                inbox.put_back(&letter.key).await,
                "{} was not found by its letter's key",
                id.len()
            );
        }
    }
    for (id, _) in names {
        assert!(
            inbox.forget(&EventKey::new("users", id)).await.unwrap(),
            "it was not found by its original id"
        );
    }
}

/// Each ledger handles the events that it can claim, several at a time; each event must be handled
/// once.
async fn race<L: Ledger + Clone>(ledgers: &[L]) {
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..ledgers.len() * 3 {
        let ledger = ledgers[worker % ledgers.len()].clone();
        workers.spawn(async move {
            let mut won = Vec::new();
            for n in 0..EVENTS {
                let n = (n + worker * 7) % EVENTS;
                match ledger.claim(&key(n), DIGEST, LEASE).await.unwrap() {
                    Claim::Granted {
                        token,
                        first_digest,
                    } => {
                        assert_eq!((token.attempt, first_digest), (1, DIGEST));
                        assert_eq!(
                            ledger
                                .complete(&key(n), token, Completion::Handled)
                                .await
                                .unwrap(),
                            LeaseStatus::Held
                        );
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
        assert_eq!(
            claim,
            Claim::Handled {
                first_digest: DIGEST
            }
        );
    }
}

/// Drops claims at every point, beside others on the same connections. The ledger must keep
/// working.
async fn claims_dropped_midway<L: Ledger + Clone>(ledger: &L) {
    for n in 0..EVENTS {
        let impatient = Duration::from_micros(20 * n as u64);
        let (dropped, beside) = (key(n), key(EVENTS + n));
        let (_, claim) = tokio::join!(
            tokio::time::timeout(impatient, ledger.claim(&dropped, DIGEST, LEASE)),
            ledger.claim(&beside, DIGEST, LEASE),
        );
        let Claim::Granted { token, .. } = claim.unwrap() else {
            panic!("the claim beside a dropped one is refused")
        };
        assert_eq!(
            ledger
                .complete(&beside, token, Completion::Handled)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
        match ledger.claim(&dropped, DIGEST, LEASE).await.unwrap() {
            Claim::Granted { token, .. } => assert_eq!(token.attempt, 1),
            Claim::InFlight { lease_left } => assert!(lease_left <= LEASE),
            other => panic!("a dropped claim left {other:?}"),
        }
    }
}

/// Waits until a claim gets a response again, and returns it.
async fn answered(ledger: &impl Ledger, n: usize) -> Claim {
    let ask = || async { ledger.claim(&key(n), DIGEST, LEASE).await.ok() };
    until(|| "the ledger does not recover".to_owned(), ask).await
}
