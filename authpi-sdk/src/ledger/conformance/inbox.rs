//! What every [`Inbox`] must do beyond what every ledger must.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{DIGEST, Harness, LEASE, SLACK, complete, key};
use crate::ledger::{Appended, Claim, Completion, Digest, EventKey, Held, Inbox, Leased, Ledger as _, Next, Token};

const ENDPOINT: &str = "conformance";

cases! { of Inbox:
    /// What was appended is leased as it came, and gone once it is handled.
    async fn an_appended_event_is_leased_as_it_came_and_once(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "first", None).await;
        let first = leased(&inbox).await;
        assert_eq!((&first.key, &first.body[..], first.token.attempt), (&key("first"), &b"body of first"[..], 1));
        nothing(&inbox).await;
        assert_eq!(complete(&inbox, &first.key, first.token).await, Held::Yes);
        nothing(&inbox).await;
    }

    /// A second delivery of an event changes nothing, before it is handled and after.
    async fn an_event_is_appended_once(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "once", None).await;
        let again = async || {
            let other = Digest([9; 32]);
            let appended = inbox.append(&key("once"), other, None, Bytes::from_static(b"other")).await.unwrap();
            assert_eq!(appended, Appended::Known { first_digest: DIGEST });
        };
        again().await;
        let event = leased(&inbox).await;
        assert_eq!(&event.body[..], b"body of once");
        again().await;
        assert_eq!(complete(&inbox, &event.key, event.token).await, Held::Yes);
        again().await;
        nothing(&inbox).await;
    }

    /// The oldest goes first.
    async fn events_are_leased_in_the_order_of_arrival(harness) {
        let inbox = harness.fresh().await;
        for id in ["c", "a", "b"] {
            append(&inbox, id, None).await;
        }
        for id in ["c", "a", "b"] {
            assert_eq!(leased(&inbox).await.key, key(id));
        }
    }

    /// A lane's events are leased one at a time and in order; another lane, and events without, go on.
    async fn a_lane_keeps_its_order_and_holds_up_nobody_else(harness) {
        let inbox = harness.fresh().await;
        for (id, lane) in [("a1", Some("a")), ("a2", Some("a")), ("b1", Some("b")), ("free", None)] {
            append(&inbox, id, lane).await;
        }
        let a1 = leased(&inbox).await;
        assert_eq!(a1.key, key("a1"));
        assert_eq!(leased(&inbox).await.key, key("b1"));
        assert_eq!(leased(&inbox).await.key, key("free"));
        nothing(&inbox).await;
        assert_eq!(complete(&inbox, &a1.key, a1.token).await, Held::Yes);
        assert_eq!(leased(&inbox).await.key, key("a2"));
    }

    /// A pause holds up the event's own lane and says when it ends.
    async fn a_pause_holds_up_its_own_lane_and_ends(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "a1", Some("a")).await;
        append(&inbox, "a2", Some("a")).await;
        let a1 = leased(&inbox).await;
        let pause = Duration::from_mins(10);
        assert_eq!(inbox.release(&a1.key, a1.token, pause).await.unwrap(), Held::Yes);
        let due_in = nothing(&inbox).await.expect("when the pause ends is known");
        assert!(due_in <= pause && due_in + SLACK > pause, "due in {due_in:?}");
        harness.advance(&inbox, pause).await;
        let again = leased(&inbox).await;
        assert_eq!((again.key, again.token.attempt, &again.body[..]), (key("a1"), 2, &b"body of a1"[..]));
        nothing(&inbox).await;
    }

    /// A worker that died gives its lease back by expiry; one that was only slow cannot settle the event any more.
    async fn an_expired_lease_is_leased_anew(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "slow", None).await;
        let slow = leased(&inbox).await;
        harness.advance(&inbox, LEASE).await;
        let next = leased(&inbox).await;
        assert_eq!(next.token.attempt, 2);
        assert_eq!(complete(&inbox, &slow.key, slow.token).await, Held::Lost);
        assert_eq!(complete(&inbox, &next.key, next.token).await, Held::Yes);
    }

    /// A buried event and a forgotten one let the next of their lane go.
    async fn what_is_dead_or_forgotten_frees_its_lane(harness) {
        let inbox = harness.fresh().await;
        for id in ["1", "2", "3"] {
            append(&inbox, id, Some("lane")).await;
        }
        let first = leased(&inbox).await;
        let dead = Completion::Dead { reason: "poisoned".into(), body: first.body.clone() };
        assert_eq!(inbox.complete(&first.key, first.token, dead).await.unwrap(), Held::Yes);
        assert_eq!(leased(&inbox).await.key, key("2"));
        assert!(inbox.forget(&key("2")).await.unwrap());
        assert_eq!(leased(&inbox).await.key, key("3"));
    }

    /// What was acknowledged is never pruned before it is done, however long that takes.
    async fn what_waits_is_never_pruned(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "patient", None).await;
        harness.advance(&inbox, inbox.remembers_for() * 3).await;
        for n in 0..300 {
            let other = EventKey::new("another endpoint", n.to_string());
            inbox.claim(&other, DIGEST, LEASE).await.unwrap();
        }
        assert_eq!(leased(&inbox).await.key, key("patient"));
    }

    /// The backlog counts what is not done, and tells the age of the oldest.
    async fn the_backlog_counts_what_is_not_done(harness) {
        let inbox = harness.fresh().await;
        assert_eq!(inbox.backlog(ENDPOINT).await.unwrap().depth, 0);
        append(&inbox, "old", None).await;
        harness.advance(&inbox, LEASE * 2).await;
        append(&inbox, "new", None).await;
        let backlog = inbox.backlog(ENDPOINT).await.unwrap();
        assert_eq!(backlog.depth, 2);
        assert!(backlog.oldest.unwrap() >= LEASE * 2);
        let old = leased(&inbox).await;
        assert_eq!(inbox.backlog(ENDPOINT).await.unwrap().depth, 2, "what is being handled is not done");
        assert_eq!(complete(&inbox, &old.key, old.token).await, Held::Yes);
        assert_eq!(inbox.backlog(ENDPOINT).await.unwrap().depth, 1);
    }

    /// An event that a receiver without inbox has at hand is not leased meanwhile, and keeps its body.
    async fn a_claim_keeps_an_event_from_workers_and_loses_nothing(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "both", None).await;
        let token = granted(&inbox, "both").await;
        nothing(&inbox).await;
        assert_eq!(inbox.release(&key("both"), token, Duration::ZERO).await.unwrap(), Held::Yes);
        assert_eq!(&leased(&inbox).await.body[..], b"body of both");
    }

    /// An event that was claimed without being stored, and not done, is stored when it comes again.
    async fn an_event_that_was_only_claimed_is_stored(harness) {
        let inbox = harness.fresh().await;
        let token = granted(&inbox, "claimed").await;
        assert_eq!(inbox.release(&key("claimed"), token, Duration::ZERO).await.unwrap(), Held::Yes);
        nothing(&inbox).await;
        append(&inbox, "claimed", None).await;
        assert_eq!(&leased(&inbox).await.body[..], b"body of claimed");
    }

    /// Workers at the same time never get the same event.
    async fn no_event_is_leased_to_two_workers(harness) {
        let inbox = std::sync::Arc::new(harness.fresh().await);
        for n in 0..32 {
            append(&*inbox, &n.to_string(), None).await;
        }
        let mut workers = JoinSet::new();
        for _ in 0..8 {
            let inbox = std::sync::Arc::clone(&inbox);
            workers.spawn(async move {
                let mut mine = Vec::new();
                while let Next::Leased(event) = inbox.lease_next(ENDPOINT, LEASE).await.unwrap() {
                    mine.push(event.key.event_id().to_owned());
                }
                mine
            });
        }
        let mut all = workers.join_all().await.concat();
        all.sort_unstable();
        let before = all.len();
        all.dedup();
        assert_eq!((before, all.len()), (32, 32));
    }

    /// Workers at the same time keep each lane's order, and never have two events of one lane at once.
    async fn workers_at_the_same_time_keep_each_lanes_order(harness) {
        let inbox = std::sync::Arc::new(harness.fresh().await);
        for n in 0..40 {
            append(&*inbox, &format!("{n:02}"), Some(["a", "b", "c", "d"][n % 4])).await;
        }
        let done = std::sync::Arc::new(std::sync::Mutex::new(vec![Vec::new(); 4]));
        let mut workers = JoinSet::new();
        for _ in 0..8 {
            let (inbox, done) = (std::sync::Arc::clone(&inbox), std::sync::Arc::clone(&done));
            workers.spawn(async move {
                while inbox.backlog(ENDPOINT).await.unwrap().depth > 0 {
                    let Next::Leased(event) = inbox.lease_next(ENDPOINT, LEASE).await.unwrap() else { continue };
                    let n: usize = event.key.event_id().parse().unwrap();
                    done.lock().unwrap()[n % 4].push(n);
                    tokio::task::yield_now().await;
                    assert_eq!(complete(&*inbox, &event.key, event.token).await, Held::Yes);
                }
            });
        }
        workers.join_all().await;
        for (lane, events) in done.lock().unwrap().iter().enumerate() {
            let expected: Vec<_> = (0..10).map(|n| n * 4 + lane).collect();
            assert_eq!(events, &expected, "a lane's events were leased out of their order");
        }
    }

    /// An endpoint's workers see no other's events.
    async fn endpoints_have_backlogs_of_their_own(harness) {
        let inbox = harness.fresh().await;
        let other = EventKey::new("other endpoint", "1");
        inbox.append(&other, DIGEST, None, Bytes::new()).await.unwrap();
        nothing(&inbox).await;
        assert_eq!(inbox.backlog(ENDPOINT).await.unwrap().depth, 0);
        assert_eq!(inbox.backlog("other endpoint").await.unwrap().depth, 1);
    }
}

async fn append(inbox: &impl Inbox, id: &str, lane: Option<&str>) {
    let body = Bytes::from(format!("body of {id}"));
    assert_eq!(inbox.append(&key(id), DIGEST, lane, body).await.unwrap(), Appended::Stored);
}

async fn leased(inbox: &impl Inbox) -> Leased {
    match inbox.lease_next(ENDPOINT, LEASE).await.unwrap() {
        Next::Leased(leased) => leased,
        Next::Nothing { .. } => panic!("nothing was leased"),
    }
}

async fn nothing(inbox: &impl Inbox) -> Option<Duration> {
    match inbox.lease_next(ENDPOINT, LEASE).await.unwrap() {
        Next::Leased(leased) => panic!("{leased:?} was leased"),
        Next::Nothing { due_in } => due_in,
    }
}

async fn granted(inbox: &impl Inbox, id: &str) -> Token {
    match inbox.claim(&key(id), DIGEST, LEASE).await.unwrap() {
        Claim::Granted { token, .. } => token,
        other => panic!("{other:?} instead of a grant"),
    }
}
