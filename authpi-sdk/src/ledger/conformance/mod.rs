//! The conformance suite: what every [`Ledger`] must do. The stores of this crate pass it. Use it
//! to test your own.
//!
//! Give it a [`Harness`], which creates empty stores and advances their time, and [`run`] it in a
//! test. Each case is also a function. It is named after a property and panics if the property does
//! not hold. [`inbox`] and [`ordering`] have the cases of inboxes, [`inspect`] those of
//! [inspectors](super::inspect).
//!
//! ```
//! use std::{sync::{Arc, atomic::{AtomicI64, Ordering}}, time::Duration};
//! use authpi_sdk::{Clock, ledger::conformance, stores::Memory};
//!
//! struct Memories(Arc<AtomicI64>);
//!
//! impl conformance::Harness for Memories {
//!     type Ledger = Memory;
//!     async fn fresh(&self) -> Memory {
//!         let seconds = self.0.clone();
//!         Memory::new().with_clock(Clock::from_fn(move || {
//!             jiff::Timestamp::from_second(seconds.load(Ordering::Relaxed)).unwrap()
//!         }))
//!     }
//!     async fn advance(&self, _: &Memory, by: Duration) {
//!         self.0.fetch_add(by.as_secs() as i64, Ordering::Relaxed);
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! conformance::run(&Memories(Arc::default())).await;
//! # }
//! ```

use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::task::JoinSet;

use super::{Claim, Completion, Digest, EventKey, LeaseStatus, Ledger, Token};

/// Creates stores for the suite and advances their time.
pub trait Harness: Send + Sync {
    /// The ledger under test.
    type Ledger: Ledger;

    /// Whether `append` of an inbox detects that an event is already done (the default). With
    /// `false`, as for a queue, `append` may store such an event again, and `lease_next` detects
    /// that it is done. `lease_next` must not lease the event.
    const TELLS_WHAT_IS_DONE: bool = true;

    /// A ledger over an empty store, with a retention of at least a day.
    fn fresh(&self) -> impl Future<Output = Self::Ledger> + Send;

    /// Advances the store's time by `by`, a whole number of seconds: sets its clock forward or, if
    /// that is not possible, moves the times in its records back. Real time also passes; the suite
    /// allows half a minute for that.
    fn advance(&self, ledger: &Self::Ledger, by: Duration) -> impl Future<Output = ()> + Send;
}

macro_rules! cases {
    (of $what:ident: $($(#[$doc:meta])* async fn $case:ident($harness:ident) $body:block)*) => {
        /// Runs every case, one after another, each on its own store.
        ///
        /// # Panics
        /// When the store does not conform. The message says how.
        pub async fn run<H: Harness<Ledger: $what>>(harness: &H) {
            // Boxed, so that the suite's future is not as large as its largest case.
            $(Box::pin($case(harness)).await;)*
        }

        /// The names of the cases, in the order in which [`run`] runs them.
        pub const CASES: &[&str] = &[$(stringify!($case)),*];

        $($(#[$doc])*
        /// # Panics
        /// When this does not hold.
        pub async fn $case<H: Harness<Ledger: $what>>($harness: &H) $body)*
    };
}

pub mod inbox;
pub mod inspect;
pub mod ordering;

cases! { of Ledger:
    /// The first claim of an event is granted as attempt 1, with its own digest as the first.
    async fn a_fresh_claim_is_granted(harness) {
        let ledger = harness.fresh().await;
        let (token, first_digest) = granted(&ledger, &key("fresh")).await;
        assert_eq!((token.attempt, first_digest), (1, DIGEST));
    }

    /// A handled event is reported as handled and never granted again.
    async fn a_handled_event_is_never_granted_again(harness) {
        let ledger = harness.fresh().await;
        let (token, _) = granted(&ledger, &key("handled")).await;
        assert_eq!(complete(&ledger, &key("handled"), token).await, LeaseStatus::Held);
        for _ in 0..3 {
            assert_eq!(claim(&ledger, &key("handled")).await, Claim::Handled { first_digest: DIGEST });
            harness.advance(&ledger, LEASE * 2).await;
        }
    }

    /// While a lease runs, every other claim reports that the event is in flight, and for how long.
    async fn a_claimed_event_is_in_flight_until_its_lease_ends(harness) {
        let ledger = harness.fresh().await;
        granted(&ledger, &key("claimed")).await;
        assert_in_flight(claim(&ledger, &key("claimed")).await, LEASE);
        harness.advance(&ledger, LEASE / 2).await;
        assert_in_flight(claim(&ledger, &key("claimed")).await, LEASE / 2);
    }

    /// A claim after the lease's end is granted with the next attempt number and another token.
    async fn an_expired_lease_is_taken_over_as_the_next_attempt(harness) {
        let ledger = harness.fresh().await;
        let (slow, _) = granted(&ledger, &key("expired")).await;
        for attempt in 2..5 {
            harness.advance(&ledger, LEASE).await;
            let (token, first_digest) = granted(&ledger, &key("expired")).await;
            assert_eq!((token.attempt, first_digest), (attempt, DIGEST));
            assert_ne!(token, slow);
        }
    }

    /// After a takeover, the old token can neither renew nor release nor complete the record, and
    /// does not affect the new holder.
    async fn a_stale_token_changes_nothing(harness) {
        let ledger = harness.fresh().await;
        let (stale, _) = granted(&ledger, &key("stale")).await;
        harness.advance(&ledger, LEASE).await;
        let (token, _) = granted(&ledger, &key("stale")).await;
        all_lost(&ledger, &key("stale"), stale).await;
        assert_in_flight(claim(&ledger, &key("stale")).await, LEASE);
        assert_eq!(complete(&ledger, &key("stale"), token).await, LeaseStatus::Held);
        all_lost(&ledger, &key("stale"), stale).await;
        assert_eq!(claim(&ledger, &key("stale")).await, Claim::Handled { first_digest: DIGEST });
    }

    /// A token is stale if it has the right attempt but another nonce, or the right nonce but
    /// another attempt. An event that was never claimed has no holder, and a step with a foreign
    /// token creates no record.
    async fn a_foreign_token_changes_nothing(harness) {
        let ledger = harness.fresh().await;
        let (token, _) = granted(&ledger, &key("foreign")).await;
        all_lost(&ledger, &key("foreign"), Token { nonce: token.nonce ^ 1, ..token }).await;
        all_lost(&ledger, &key("foreign"), Token { attempt: token.attempt + 1, ..token }).await;
        all_lost(&ledger, &key("never claimed"), token).await;
        assert!(!ledger.forget(&key("never claimed")).await.expect("forget"), "a failed step made a record");
        assert_eq!(complete(&ledger, &key("foreign"), token).await, LeaseStatus::Held);
    }

    /// A lease that has expired, but was not taken over, can still be renewed, released and
    /// completed by its holder.
    async fn a_lease_nobody_took_over_is_still_its_holders(harness) {
        let ledger = harness.fresh().await;
        let (token, _) = granted(&ledger, &key("late")).await;
        harness.advance(&ledger, LEASE * 3).await;
        assert_eq!(ledger.renew(&key("late"), token, LEASE).await.expect("renew"), LeaseStatus::Held);
        assert_in_flight(claim(&ledger, &key("late")).await, LEASE);
        harness.advance(&ledger, LEASE * 3).await;
        assert_eq!(complete(&ledger, &key("late"), token).await, LeaseStatus::Held);
    }

    /// A renewal counts from now, not from the end of the lease, and can be repeated.
    async fn a_renewed_lease_counts_from_now(harness) {
        let ledger = harness.fresh().await;
        let (token, _) = granted(&ledger, &key("renewed")).await;
        for _ in 0..5 {
            harness.advance(&ledger, LEASE / 2).await;
            assert_eq!(ledger.renew(&key("renewed"), token, LEASE).await.expect("renew"), LeaseStatus::Held);
            assert_in_flight(claim(&ledger, &key("renewed")).await, LEASE);
        }
        assert_eq!(ledger.renew(&key("renewed"), token, LEASE / 2).await.expect("renew"), LeaseStatus::Held);
        assert_in_flight(claim(&ledger, &key("renewed")).await, LEASE / 2);
    }

    /// A released event is not granted before its pause ends. Then it is granted as the next
    /// attempt.
    async fn a_released_event_waits_for_its_pause(harness) {
        let ledger = harness.fresh().await;
        let (token, _) = granted(&ledger, &key("released")).await;
        assert_eq!(ledger.release(&key("released"), token, LEASE * 10).await.expect("release"), LeaseStatus::Held);
        assert_not_yet(claim(&ledger, &key("released")).await, LEASE * 10);
        all_lost(&ledger, &key("released"), token).await;
        harness.advance(&ledger, LEASE * 9).await;
        assert_not_yet(claim(&ledger, &key("released")).await, LEASE);
        harness.advance(&ledger, LEASE).await;
        assert_eq!(granted(&ledger, &key("released")).await.0.attempt, 2);
    }

    /// With a pause of zero, the next claim is granted at once. Each attempt counts.
    async fn an_event_released_without_a_pause_is_free(harness) {
        let ledger = harness.fresh().await;
        for attempt in 1..20 {
            let (token, first_digest) = granted(&ledger, &key("free")).await;
            assert_eq!((token.attempt, first_digest), (attempt, DIGEST));
            assert_eq!(ledger.release(&key("free"), token, Duration::ZERO).await.expect("release"), LeaseStatus::Held);
        }
    }

    /// A dead event is reported as dead and never granted again.
    async fn a_dead_event_is_never_granted_again(harness) {
        let ledger = harness.fresh().await;
        let (token, _) = granted(&ledger, &key("dead")).await;
        assert_eq!(ledger.complete(&key("dead"), token, dead()).await.expect("complete"), LeaseStatus::Held);
        harness.advance(&ledger, LEASE * 2).await;
        assert_eq!(claim(&ledger, &key("dead")).await, Claim::Dead { first_digest: DIGEST });
    }

    /// Repeating the same completion with the same token succeeds and changes nothing. Another
    /// completion finds the lease lost.
    async fn a_completion_can_be_repeated(harness) {
        let ledger = harness.fresh().await;
        for (name, first, other) in [("a", Completion::Handled, dead()), ("b", dead(), Completion::Handled)] {
            let (token, _) = granted(&ledger, &key(name)).await;
            for _ in 0..3 {
                let held = ledger.complete(&key(name), token, first.clone()).await.expect("complete");
                assert_eq!(held, LeaseStatus::Held, "{first:?} again");
                let held = ledger.complete(&key(name), token, other.clone()).await.expect("complete");
                assert_eq!(held, LeaseStatus::Lost, "{other:?} after {first:?}");
                assert_eq!(ledger.renew(&key(name), token, LEASE).await.expect("renew"), LeaseStatus::Lost);
                assert_eq!(ledger.release(&key(name), token, LEASE).await.expect("release"), LeaseStatus::Lost);
            }
        }
        assert_eq!(claim(&ledger, &key("a")).await, Claim::Handled { first_digest: DIGEST });
        assert_eq!(claim(&ledger, &key("b")).await, Claim::Dead { first_digest: DIGEST });
    }

    /// A forgotten event is new again, whatever its state was. Its old token is stale although the
    /// attempt number is the same. Forgetting returns whether there was a record.
    async fn a_forgotten_event_is_fresh(harness) {
        let ledger = harness.fresh().await;
        assert!(!ledger.forget(&key("unknown")).await.expect("forget"), "there was nothing to forget");
        for state in ["claimed", "expired", "pending", "handled", "dead"] {
            let key = key(state);
            let (token, _) = granted(&ledger, &key).await;
            let held = match state {
                "pending" => ledger.release(&key, token, LEASE * 10).await,
                "handled" => ledger.complete(&key, token, Completion::Handled).await,
                "dead" => ledger.complete(&key, token, dead()).await,
                "expired" => {
                    harness.advance(&ledger, LEASE).await;
                    Ok(LeaseStatus::Held)
                }
                _ => Ok(LeaseStatus::Held),
            };
            assert_eq!(held.expect("a step"), LeaseStatus::Held);
            assert!(ledger.forget(&key).await.expect("forget"), "a {state} record was not there");
            assert!(!ledger.forget(&key).await.expect("forget"), "a {state} record was still there");
            all_lost(&ledger, &key, token).await;
            let Claim::Granted { token: new, first_digest } =
                ledger.claim(&key, OTHER_DIGEST, LEASE).await.expect("claim")
            else {
                panic!("a forgotten {state} event is not granted");
            };
            assert_eq!((new.attempt, first_digest), (1, OTHER_DIGEST), "something of the {state} record was kept");
            all_lost(&ledger, &key, token).await;
        }
    }

    /// The reported digest is that of the first claim, whatever the digest of later claims.
    async fn a_duplicate_returns_the_first_digest(harness) {
        let ledger = harness.fresh().await;
        let key = key("digest");
        let other = |lease| ledger.claim(&key, OTHER_DIGEST, lease);
        let (token, _) = granted(&ledger, &key).await;
        assert_eq!(ledger.release(&key, token, Duration::ZERO).await.expect("release"), LeaseStatus::Held);
        let Claim::Granted { token, first_digest } = other(LEASE).await.expect("claim") else {
            panic!("a released event is not granted");
        };
        assert_eq!(first_digest, DIGEST);
        assert_eq!(complete(&ledger, &key, token).await, LeaseStatus::Held);
        assert_eq!(other(LEASE).await.expect("claim"), Claim::Handled { first_digest: DIGEST });
    }

    /// A digest is any 16 bytes, including zeros and bytes that are not text.
    async fn a_digest_comes_back_byte_for_byte(harness) {
        let ledger = harness.fresh().await;
        let every_byte = (0..16).map(|n| std::array::from_fn(|m| u8::try_from(16 * n + m).expect("a byte")));
        for bytes in every_byte.chain([[0; 16], [0xff; 16]]) {
            let (digest, key) = (Digest::from_bytes(bytes), key(&format!("{bytes:?}")));
            for released in 0..2 {
                let Claim::Granted { token, first_digest } = ledger.claim(&key, digest, LEASE).await.expect("claim") else {
                    panic!("an event that was released {released} times is not granted");
                };
                assert_eq!(first_digest, digest);
                assert_eq!(ledger.release(&key, token, Duration::ZERO).await.expect("release"), LeaseStatus::Held);
            }
            let Claim::Granted { token, .. } = ledger.claim(&key, digest, LEASE).await.expect("claim") else {
                panic!("a released event is not granted");
            };
            assert_eq!(complete(&ledger, &key, token).await, LeaseStatus::Held);
            let claim = ledger.claim(&key, digest, LEASE).await.expect("claim");
            assert_eq!(claim, Claim::Handled { first_digest: digest });
        }
    }

    /// The same id at two endpoints has two records, and no pair of names collides with another.
    async fn endpoints_do_not_collide(harness) {
        let ledger = harness.fresh().await;
        let keys = [("a", "b"), ("b", "a"), ("a", "a"), ("ab", "c"), ("a", "bc"), ("a:b", "c"), ("a", "b:c"), ("a/b", ""), ("a", "/b")];
        for (endpoint, id) in keys {
            let key = EventKey::new(endpoint, id);
            let (token, _) = granted(&ledger, &key).await;
            assert_eq!(complete(&ledger, &key, token).await, LeaseStatus::Held);
        }
    }

    /// The ledger treats ids as bytes: empty, long, in any script, with quotes, NUL or trailing
    /// spaces, or differing in case only.
    async fn ids_of_any_kind_are_kept_apart(harness) {
        let ledger = harness.fresh().await;
        let long = "x".repeat(10_000);
        let longer = "x".repeat(10_001);
        let ids = [
            "", " ", "  ", "a", "A", "a ", " a", "a\0", "a\0b", "é", "e\u{301}", "事件", "🦀", "'", "''", "\"", "`", "\\", "%", "_",
            "?1", "$1", "--", "; DROP TABLE authpi_ledger", "\n", "\r\n", "NULL", "0", "00", "0.0", "{a}", "*", &long, &longer,
        ];
        for id in ids {
            for endpoint in ["", "users", "'; --"] {
                let key = EventKey::new(endpoint, id);
                let (token, _) = granted(&ledger, &key).await;
                assert_eq!(complete(&ledger, &key, token).await, LeaseStatus::Held, "{key:?}");
                assert_eq!(claim(&ledger, &key).await, Claim::Handled { first_digest: DIGEST }, "{key:?}");
            }
        }
        for id in ids {
            assert!(ledger.forget(&EventKey::new("users", id)).await.expect("forget"), "{id:?}");
        }
    }

    /// An id of any length and any characters has its own record. An id that equals the hashed form
    /// of another id does not find the other's record.
    async fn ids_of_any_length_are_keyed_and_found_by_the_original(harness) {
        let ledger = harness.fresh().await;
        for id in hostile_names() {
            // The two ids differ only at their ends, so a store that truncates ids would confuse
            // them.
            let ids = [format!("{id}1"), format!("{id}2")];
            let hashes = ids.clone().map(|id| EventKey::new("users", id).event_id().to_owned());
            for id in ids.iter().chain(&hashes) {
                let key = EventKey::new("users", id.as_str());
                let (token, _) = granted(&ledger, &key).await;
                assert_eq!(ledger.renew(&key, token, LEASE).await.expect("renew"), LeaseStatus::Held);
                assert_eq!(ledger.release(&key, token, Duration::ZERO).await.expect("release"), LeaseStatus::Held);
                let (token, _) = granted(&ledger, &key).await;
                assert_eq!(ledger.complete(&key, token, dead()).await.expect("complete"), LeaseStatus::Held);
                let stored = EventKey::from_stored("users", key.event_id());
                assert_eq!(claim(&ledger, &stored).await, Claim::Dead { first_digest: DIGEST });
            }
            for id in ids.iter().chain(&hashes) {
                let key = EventKey::new("users", id.as_str());
                assert!(ledger.forget(&key).await.expect("forget"), "it was not found by its original id");
                granted(&ledger, &key).await;
            }
        }
    }

    /// Durations at the ends of the range do not overflow.
    async fn no_length_of_time_overflows(harness) {
        let ledger = harness.fresh().await;
        let key = key("long");
        let Claim::Granted { token, .. } = ledger.claim(&key, DIGEST, Duration::MAX).await.expect("claim") else {
            panic!("not granted");
        };
        assert!(matches!(claim(&ledger, &key).await, Claim::InFlight { .. }));
        assert_eq!(ledger.renew(&key, token, Duration::MAX).await.expect("renew"), LeaseStatus::Held);
        assert_eq!(ledger.release(&key, token, Duration::MAX).await.expect("release"), LeaseStatus::Held);
        assert!(matches!(claim(&ledger, &key).await, Claim::NotYet { .. }));
        assert!(ledger.forget(&key).await.expect("forget"));
        let Claim::Granted { token, .. } = ledger.claim(&key, DIGEST, Duration::ZERO).await.expect("claim") else {
            panic!("not granted");
        };
        assert_eq!(granted(&ledger, &key).await.0.attempt, token.attempt + 1, "a lease of zero has not expired");
    }

    /// If many claims of one event run concurrently, exactly one is granted. This holds for a new
    /// event and for one whose lease has expired.
    async fn of_many_claims_at_once_one_is_granted(harness) {
        let ledger = Arc::new(harness.fresh().await);
        for attempt in 1..4 {
            let mut claims = JoinSet::new();
            for _ in 0..CLAIMERS {
                let ledger = ledger.clone();
                claims.spawn(async move { claim(&*ledger, &key("raced")).await });
            }
            let claims = claims.join_all().await;
            let tokens: Vec<_> = claims
                .iter()
                .filter_map(|claim| match claim {
                    Claim::Granted { token, .. } => Some(token.attempt),
                    Claim::InFlight { .. } => None,
                    other => panic!("a raced claim ended as {other:?}"),
                })
                .collect();
            assert_eq!(tokens, [attempt], "the attempts granted");
            harness.advance(&ledger, LEASE).await;
        }
    }

    /// Concurrent workers complete each of many events exactly once, although some first release
    /// their claims.
    async fn racing_workers_complete_each_event_once(harness) {
        const EVENTS: usize = 20;
        let ledger = Arc::new(harness.fresh().await);
        let mut workers = JoinSet::new();
        for worker in 0..8 {
            let ledger = ledger.clone();
            workers.spawn(async move {
                let (mut completed, mut open): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..EVENTS).collect());
                let order = open.len();
                open.rotate_left(worker * order / 8);
                while let Some(event) = open.pop() {
                    let key = key(&format!("event {event}"));
                    match claim(&*ledger, &key).await {
                        Claim::Granted { token, .. } if token.attempt == 1 => {
                            let held = ledger.release(&key, token, Duration::ZERO).await.expect("release");
                            assert_eq!(held, LeaseStatus::Held);
                            open.insert(0, event);
                        }
                        Claim::Granted { token, .. } => {
                            assert_eq!(token.attempt, 2);
                            assert_eq!(complete(&*ledger, &key, token).await, LeaseStatus::Held);
                            completed.push(event);
                        }
                        Claim::Handled { .. } => {}
                        Claim::InFlight { .. } => {
                            open.insert(0, event);
                            tokio::task::yield_now().await;
                        }
                        other => panic!("a raced claim ended as {other:?}"),
                    }
                }
                completed
            });
        }
        let mut completed = workers.join_all().await.concat();
        completed.sort_unstable();
        assert_eq!(completed, (0..EVENTS).collect::<Vec<_>>());
    }

    /// A step whose caller goes away takes place completely or not at all.
    async fn a_dropped_step_leaves_a_whole_record(harness) {
        let ledger = harness.fresh().await;
        for polls in 0..8 {
            let key = key(&format!("claim dropped after {polls} polls"));
            poll_and_drop(ledger.claim(&key, DIGEST, LEASE), polls).await;
            match claim(&ledger, &key).await {
                Claim::Granted { token, first_digest } => assert_eq!((token.attempt, first_digest), (1, DIGEST)),
                in_flight => assert_in_flight(in_flight, LEASE),
            }
            let key = self::key(&format!("completion dropped after {polls} polls"));
            let (token, _) = granted(&ledger, &key).await;
            poll_and_drop(ledger.complete(&key, token, Completion::Handled), polls).await;
            match claim(&ledger, &key).await {
                Claim::Handled { first_digest } => assert_eq!(first_digest, DIGEST),
                in_flight => assert_in_flight(in_flight, LEASE),
            }
            assert_eq!(complete(&ledger, &key, token).await, LeaseStatus::Held);
            let key = self::key(&format!("renewal dropped after {polls} polls"));
            let (token, _) = granted(&ledger, &key).await;
            poll_and_drop(ledger.renew(&key, token, LEASE * 3), polls).await;
            match claim(&ledger, &key).await {
                Claim::InFlight { lease_left } if lease_left > LEASE => {
                    assert_in_flight(Claim::InFlight { lease_left }, LEASE * 3);
                }
                as_before => assert_in_flight(as_before, LEASE),
            }
            assert_eq!(complete(&ledger, &key, token).await, LeaseStatus::Held);
            let key = self::key(&format!("release dropped after {polls} polls"));
            let (token, _) = granted(&ledger, &key).await;
            poll_and_drop(ledger.release(&key, token, LEASE * 10), polls).await;
            match claim(&ledger, &key).await {
                not_yet @ Claim::NotYet { .. } => assert_not_yet(not_yet, LEASE * 10),
                in_flight => assert_in_flight(in_flight, LEASE),
            }
        }
    }

    /// A finished event is kept for the whole retention, and gone after twice that time.
    async fn finished_events_are_remembered_for_the_retention(harness) {
        let ledger = harness.fresh().await;
        let retention = Duration::from_secs(ledger.retention().as_secs());
        assert!(retention >= Duration::from_hours(24), "the suite needs a ledger with a retention of a day or more");
        let (token, _) = granted(&ledger, &key("handled")).await;
        assert_eq!(complete(&ledger, &key("handled"), token).await, LeaseStatus::Held);
        let (token, _) = granted(&ledger, &key("dead")).await;
        assert_eq!(ledger.complete(&key("dead"), token, dead()).await.expect("complete"), LeaseStatus::Held);
        harness.advance(&ledger, retention.saturating_sub(SLACK)).await;
        for n in 0..10 {
            granted(&ledger, &key(&format!("in between {n}"))).await;
        }
        assert_eq!(claim(&ledger, &key("handled")).await, Claim::Handled { first_digest: DIGEST });
        assert_eq!(claim(&ledger, &key("dead")).await, Claim::Dead { first_digest: DIGEST });
        harness.advance(&ledger, retention + SLACK).await;
        for name in ["handled", "dead"] {
            let Claim::Granted { token, first_digest } =
                ledger.claim(&key(name), OTHER_DIGEST, LEASE).await.expect("claim")
            else {
                panic!("a {name} event is remembered beyond twice the retention");
            };
            assert_eq!((token.attempt, first_digest), (1, OTHER_DIGEST));
        }
    }

    /// No two tokens are equal, whatever was claimed, forgotten and claimed again.
    async fn no_token_is_given_twice(harness) {
        let ledger = harness.fresh().await;
        let mut seen = HashSet::new();
        for _ in 0..50 {
            for name in ["a", "b"] {
                let (token, _) = granted(&ledger, &key(name)).await;
                assert!(seen.insert(token.nonce), "a nonce was given twice");
                assert!(ledger.forget(&key(name)).await.expect("forget"));
            }
        }
    }

    /// Random steps of holders and others on a few events agree with a simple model.
    async fn random_histories_agree_with_the_model(harness) {
        for seed in 0..8 {
            let ledger = harness.fresh().await;
            let mut history = History::new(seed, ledger.retention());
            for _ in 0..150 {
                history.step(harness, &ledger).await;
            }
        }
    }
}

const CLAIMERS: usize = 64;
const LEASE: Duration = Duration::from_mins(2);
/// How much real time may pass.
const SLACK: Duration = Duration::from_secs(30);
const DIGEST: Digest = Digest::from_bytes([1; 16]);
const OTHER_DIGEST: Digest = Digest::from_bytes([2; 16]);

fn key(event_id: &str) -> EventKey {
    EventKey::new("conformance", event_id)
}

fn dead() -> Completion {
    Completion::Dead {
        reason: "conformance".into(),
        body: bytes::Bytes::from_static(b"\0\xff{}"),
    }
}

async fn claim(ledger: &impl Ledger, key: &EventKey) -> Claim {
    ledger.claim(key, DIGEST, LEASE).await.expect("claim")
}

async fn granted(ledger: &impl Ledger, key: &EventKey) -> (Token, Digest) {
    match claim(ledger, key).await {
        Claim::Granted {
            token,
            first_digest,
        } => (token, first_digest),
        other => panic!("the claim of {key:?} ended as {other:?}"),
    }
}

async fn complete(ledger: &impl Ledger, key: &EventKey, token: Token) -> LeaseStatus {
    ledger
        .complete(key, token, Completion::Handled)
        .await
        .expect("complete")
}

async fn all_lost(ledger: &impl Ledger, key: &EventKey, token: Token) {
    assert_eq!(
        ledger.renew(key, token, LEASE).await.expect("renew"),
        LeaseStatus::Lost,
        "renewed with {token:?}"
    );
    assert_eq!(
        ledger.release(key, token, LEASE).await.expect("release"),
        LeaseStatus::Lost,
        "released with {token:?}"
    );
    for completion in [Completion::Handled, dead()] {
        let held = ledger
            .complete(key, token, completion.clone())
            .await
            .expect("complete");
        assert_eq!(
            held,
            LeaseStatus::Lost,
            "completed as {completion:?} with {token:?}"
        );
    }
}

#[track_caller]
fn assert_in_flight(claim: Claim, lease: Duration) {
    let Claim::InFlight { lease_left } = claim else {
        panic!("expected a lease, and found {claim:?}")
    };
    assert!(
        lease_left <= lease && lease_left + SLACK > lease,
        "{lease_left:?} is left of a lease of {lease:?}"
    );
}

#[track_caller]
fn assert_not_yet(claim: Claim, pause: Duration) {
    let Claim::NotYet { wait } = claim else {
        panic!("expected a pause, and found {claim:?}")
    };
    assert!(
        wait <= pause && wait + SLACK > pause,
        "{wait:?} is left of a pause of {pause:?}"
    );
}

/// Polls the future at most this often, yielding in between, and drops it.
async fn poll_and_drop(future: impl Future, polls: usize) {
    let mut future = pin!(future);
    for _ in 0..polls {
        if poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// The model: the state of a record after the last step that took effect, and when its lease or
/// pause ends.
#[derive(Clone, Copy, Debug)]
enum Modelled {
    Claimed { token: Token, until: Duration },
    Pending { attempt: u32, until: Duration },
    Finished { token: Token, dead: bool },
}

struct History {
    seed: u64,
    random: u64,
    now: Duration,
    retention: Duration,
    /// For a few events: the state, the digest of the first claim, and every token ever granted.
    records: [Option<(Modelled, Digest)>; 3],
    tokens: [Vec<Token>; 3],
    reported: Vec<String>,
}

impl History {
    fn new(seed: u64, retention: Duration) -> Self {
        let now = Duration::ZERO;
        Self {
            seed,
            random: seed,
            now,
            retention,
            records: [None; 3],
            tokens: Default::default(),
            reported: Vec::new(),
        }
    }

    /// A number below `n` (splitmix64).
    fn below(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    /// The length of a lease or pause: zero to four minutes, plus half a minute. Time advances by
    /// whole minutes, so none ends within half a minute of a check.
    fn some_time(&mut self) -> Duration {
        Duration::from_mins(self.below(5)) + SLACK
    }

    async fn step<H: Harness>(&mut self, harness: &H, ledger: &H::Ledger) {
        let at = usize::try_from(self.below(3)).expect("below three");
        let key = key(["one", "two", "three"][at]);
        // Usually the newest token, sometimes any earlier one.
        let token = match self.tokens[at].len() as u64 {
            0 => Token {
                attempt: 1,
                nonce: 0,
            },
            many if self.below(4) == 0 => {
                let any = usize::try_from(self.below(many)).expect("below a length");
                self.tokens[at][any]
            }
            _ => self.tokens[at][self.tokens[at].len() - 1],
        };
        let holds = matches!(self.records[at], Some((Modelled::Claimed { token: holder, .. }, _)) if holder == token);
        match self.below(12) {
            0..4 => self.claim(ledger, at, &key).await,
            4 => {
                let lease = self.some_time();
                let held = ledger.renew(&key, token, lease).await.expect("renew");
                self.agree(format!("renew {at} {token:?} {lease:?}"), held, holds);
                if holds {
                    self.turn_into(
                        at,
                        Modelled::Claimed {
                            token,
                            until: self.now + lease,
                        },
                    );
                }
            }
            5 | 6 => {
                let pause = self.some_time();
                let held = ledger.release(&key, token, pause).await.expect("release");
                self.agree(format!("release {at} {token:?} {pause:?}"), held, holds);
                if holds {
                    self.turn_into(
                        at,
                        Modelled::Pending {
                            attempt: token.attempt,
                            until: self.now + pause,
                        },
                    );
                }
            }
            7 | 8 => {
                let dies = self.below(2) == 0;
                let completion = if dies { dead() } else { Completion::Handled };
                let again = matches!(self.records[at], Some((Modelled::Finished { token: by, dead }, _))
                    if by == token && dead == dies);
                let held = ledger
                    .complete(&key, token, completion)
                    .await
                    .expect("complete");
                self.agree(
                    format!("complete {at} {token:?}, dead: {dies}"),
                    held,
                    holds || again,
                );
                if holds {
                    self.turn_into(at, Modelled::Finished { token, dead: dies });
                }
            }
            9 => {
                let there = ledger.forget(&key).await.expect("forget");
                self.reported.push(format!("forget {at}"));
                assert_eq!(there, self.records[at].is_some(), "{self}");
                self.records[at] = None;
            }
            10 if self.below(4) == 0 => self.outlast_the_retention(harness, ledger).await,
            _ => {
                let by = Duration::from_mins(1 + self.below(4));
                self.reported.push(format!("advance {by:?}"));
                harness.advance(ledger, by).await;
                self.now += by;
            }
        }
    }

    async fn claim(&mut self, ledger: &impl Ledger, at: usize, key: &EventKey) {
        let lease = self.some_time();
        let digest = if self.below(2) == 0 {
            DIGEST
        } else {
            OTHER_DIGEST
        };
        let found = ledger.claim(key, digest, lease).await.expect("claim");
        self.reported
            .push(format!("claim {at} for {lease:?}: {found:?}"));
        let (expected, first) = match self.records[at] {
            None => (Ok(1), digest),
            Some((Modelled::Claimed { token, until }, first)) if until <= self.now => {
                (Ok(token.attempt + 1), first)
            }
            Some((Modelled::Pending { attempt, until }, first)) if until <= self.now => {
                (Ok(attempt + 1), first)
            }
            Some((other, first)) => (Err(other), first),
        };
        match (expected, found) {
            (
                Ok(attempt),
                Claim::Granted {
                    token,
                    first_digest,
                },
            ) => {
                assert_eq!((token.attempt, first_digest), (attempt, first), "{self}");
                assert!(
                    !self.tokens[at].contains(&token),
                    "a token was given twice\n{self}"
                );
                self.tokens[at].push(token);
                self.records[at] = Some((
                    Modelled::Claimed {
                        token,
                        until: self.now + lease,
                    },
                    first,
                ));
            }
            (Err(Modelled::Claimed { until, .. }), Claim::InFlight { lease_left: left })
            | (Err(Modelled::Pending { until, .. }), Claim::NotYet { wait: left }) => {
                let expected = until.saturating_sub(self.now);
                assert!(
                    left <= expected && left + SLACK > expected,
                    "{left:?} is left of {expected:?}\n{self}"
                );
            }
            (Err(Modelled::Finished { dead: false, .. }), Claim::Handled { first_digest })
            | (Err(Modelled::Finished { dead: true, .. }), Claim::Dead { first_digest }) => {
                assert_eq!(first_digest, first, "{self}");
            }
            (expected, found) => panic!("expected {expected:?}, and found {found:?}\n{self}"),
        }
    }

    /// A store may keep or drop an unfinished record after the retention, so those are forgotten
    /// first.
    async fn outlast_the_retention<H: Harness>(&mut self, harness: &H, ledger: &H::Ledger) {
        for at in 0..3 {
            if !matches!(self.records[at], Some((Modelled::Finished { .. }, _))) {
                ledger
                    .forget(&key(["one", "two", "three"][at]))
                    .await
                    .expect("forget");
                self.records[at] = None;
            }
        }
        let by = Duration::from_mins(self.retention.as_secs() / 30 + 1);
        self.reported
            .push(format!("forget the unfinished, advance {by:?}"));
        harness.advance(ledger, by).await;
        self.now += by;
        for at in 0..3 {
            // The store may not have pruned the old record yet. A claim puts a new record in its
            // place, so that the store and the model agree again.
            if self.records[at].take().is_some() {
                self.claim(ledger, at, &key(["one", "two", "three"][at]))
                    .await;
            }
        }
    }

    #[track_caller]
    fn agree(&mut self, what: String, found: LeaseStatus, expected: bool) {
        self.reported.push(what);
        assert_eq!(
            found,
            if expected {
                LeaseStatus::Held
            } else {
                LeaseStatus::Lost
            },
            "{self}"
        );
    }

    fn turn_into(&mut self, at: usize, state: Modelled) {
        if let Some((record, _)) = &mut self.records[at] {
            *record = state;
        }
    }
}

impl std::fmt::Display for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "history {}:\n  {}",
            self.seed,
            self.reported.join("\n  ")
        )
    }
}

/// Names that a sender may choose: 3,000 characters that do not compress, control characters, the
/// form of a hash.
fn hostile_names() -> [String; 5] {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let long = std::iter::repeat_with(|| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + (state % 94) as u8)
    });
    let hash = "0".repeat(63);
    [
        long.take(3_000).collect(),
        "nul\0".into(),
        "line\r\nX: 1\u{7f}\u{85}".into(),
        format!("sha256:{hash}"),
        "é事🦀".repeat(400),
    ]
}
