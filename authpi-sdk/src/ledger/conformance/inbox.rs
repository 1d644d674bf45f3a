//! The cases of [`Inbox`], beyond those of every ledger.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{DIGEST, Harness, LEASE, SLACK, complete, hostile_names, key, poll_and_drop};
use crate::ledger::{
    Appended, Claim, Completion, Digest, EventKey, Inbox, LeaseStatus, LeasedEvent, Ledger as _,
    NextEvent, Token,
};

pub(super) const ENDPOINT: &str = "conformance";

cases! { of Inbox:
    /// An appended event is leased unchanged, and gone once it is handled.
    async fn an_appended_event_is_leased_as_it_came_and_once(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "first", None).await;
        let first = leased(&inbox).await;
        assert_eq!((&first.key, &first.body[..], first.token.attempt), (&key("first"), &b"body of first"[..], 1));
        nothing(&inbox).await;
        assert_eq!(complete(&inbox, &first.key, first.token).await, LeaseStatus::Held);
        nothing(&inbox).await;
    }

    /// A second delivery of an event changes nothing, before and after the event is handled.
    async fn an_event_is_appended_once(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "once", None).await;
        append_known::<H>(&inbox, "once", false).await;
        let event = leased(&inbox).await;
        assert_eq!(&event.body[..], b"body of once");
        append_known::<H>(&inbox, "once", false).await;
        nothing(&inbox).await;
        assert_eq!(complete(&inbox, &event.key, event.token).await, LeaseStatus::Held);
        append_known::<H>(&inbox, "once", true).await;
        nothing(&inbox).await;
    }

    /// An id may have any length and any characters, and does not block other events.
    async fn ids_of_any_length_are_leased_and_done(harness) {
        let inbox = harness.fresh().await;
        let ids = hostile_names();
        for id in &ids {
            append(&inbox, id, None).await;
            append_known::<H>(&inbox, id, false).await;
        }
        append(&inbox, "plain", None).await;
        for id in ids.iter().map(String::as_str).chain(["plain"]) {
            let event = leased(&inbox).await;
            assert_eq!((&event.key, &event.body[..]), (&key(id), format!("body of {id}").as_bytes()));
            assert_eq!(complete(&inbox, &event.key, event.token).await, LeaseStatus::Held);
        }
        nothing(&inbox).await;
        for id in &ids {
            assert!(inbox.forget(&key(id)).await.unwrap(), "it was not found by its original id");
        }
    }

    /// The oldest event is leased first.
    async fn events_are_leased_in_the_order_of_arrival(harness) {
        let inbox = harness.fresh().await;
        for id in ["c", "a", "b"] {
            append(&inbox, id, None).await;
        }
        for id in ["c", "a", "b"] {
            assert_eq!(leased(&inbox).await.key, key(id));
        }
    }

    /// An event that was released with a pause is leased when the pause ends, and the inbox says
    /// when that is.
    async fn a_pause_ends(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "paused", None).await;
        append(&inbox, "other", None).await;
        let paused = leased(&inbox).await;
        let pause = Duration::from_mins(10);
        assert_eq!(inbox.release(&paused.key, paused.token, pause).await.unwrap(), LeaseStatus::Held);
        let other = leased(&inbox).await;
        assert_eq!(other.key, key("other"));
        assert_eq!(complete(&inbox, &other.key, other.token).await, LeaseStatus::Held);
        let due_in = nothing(&inbox).await.expect("when the pause ends is known");
        assert!(due_in <= pause && due_in + SLACK > pause, "due in {due_in:?}");
        harness.advance(&inbox, pause).await;
        let again = leased(&inbox).await;
        assert_eq!((again.key, again.token.attempt, &again.body[..]), (key("paused"), 2, &b"body of paused"[..]));
        nothing(&inbox).await;
    }

    /// An event that was given up is not leased again, even if it is redelivered.
    async fn a_dead_event_is_never_leased_again(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "dead", None).await;
        let event = leased(&inbox).await;
        let dead = Completion::Dead { reason: "poisoned".into(), body: event.body.clone() };
        assert_eq!(inbox.complete(&event.key, event.token, dead).await.unwrap(), LeaseStatus::Held);
        nothing(&inbox).await;
        append_known::<H>(&inbox, "dead", true).await;
        nothing(&inbox).await;
        harness.advance(&inbox, LEASE * 2).await;
        nothing(&inbox).await;
        assert_eq!(inbox.backlog(ENDPOINT).await.unwrap().depth, 0);
    }

    /// An event that is forgotten while a worker holds it is gone. A redelivery is stored as a new
    /// event.
    async fn a_forgotten_event_is_stored_afresh(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "forgotten", None).await;
        let old = leased(&inbox).await;
        assert!(inbox.forget(&key("forgotten")).await.unwrap());
        assert_eq!(complete(&inbox, &old.key, old.token).await, LeaseStatus::Lost);
        harness.advance(&inbox, LEASE * 2).await;
        nothing(&inbox).await;
        append(&inbox, "forgotten", None).await;
        let new = leased(&inbox).await;
        assert_eq!((new.token.attempt, &new.body[..]), (1, &b"body of forgotten"[..]));
        assert_ne!(new.token, old.token);
        assert_eq!(complete(&inbox, &new.key, new.token).await, LeaseStatus::Held);
        nothing(&inbox).await;
    }

    /// The lease of a worker that died expires. A worker that was only slow can then no longer
    /// complete the event.
    async fn an_expired_lease_is_leased_anew(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "slow", None).await;
        let slow = leased(&inbox).await;
        harness.advance(&inbox, LEASE).await;
        let next = leased(&inbox).await;
        assert_eq!(next.token.attempt, 2);
        assert_eq!(complete(&inbox, &slow.key, slow.token).await, LeaseStatus::Lost);
        assert_eq!(complete(&inbox, &next.key, next.token).await, LeaseStatus::Held);
    }

    /// An acknowledged event is never pruned before it is finished, however long that takes.
    async fn what_waits_is_never_pruned(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "patient", None).await;
        harness.advance(&inbox, inbox.retention() * 3).await;
        for n in 0..300 {
            let other = EventKey::new("another endpoint", n.to_string());
            inbox.claim(&other, DIGEST, LEASE).await.unwrap();
        }
        assert_eq!(leased(&inbox).await.key, key("patient"));
    }

    /// The backlog counts unfinished events and reports the age of the oldest.
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
        assert_eq!(complete(&inbox, &old.key, old.token).await, LeaseStatus::Held);
        assert_eq!(inbox.backlog(ENDPOINT).await.unwrap().depth, 1);
    }

    /// An event that an inline receiver has claimed is not leased, and keeps its body.
    async fn a_claim_keeps_an_event_from_workers_and_loses_nothing(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "both", None).await;
        let token = granted(&inbox, "both").await;
        nothing(&inbox).await;
        assert_eq!(inbox.release(&key("both"), token, Duration::ZERO).await.unwrap(), LeaseStatus::Held);
        assert_eq!(&leased(&inbox).await.body[..], b"body of both");
    }

    /// An event that was claimed but not stored, and is not finished, is stored when it is
    /// delivered again.
    async fn an_event_that_was_only_claimed_is_stored(harness) {
        let inbox = harness.fresh().await;
        let token = granted(&inbox, "claimed").await;
        assert_eq!(inbox.release(&key("claimed"), token, Duration::ZERO).await.unwrap(), LeaseStatus::Held);
        nothing(&inbox).await;
        append(&inbox, "claimed", None).await;
        assert_eq!(&leased(&inbox).await.body[..], b"body of claimed");
    }

    /// Concurrent workers never get the same event.
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
                while let NextEvent::Leased(event) = inbox.lease_next(ENDPOINT, LEASE).await.unwrap() {
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

    /// An append whose caller goes away has stored the event completely or not at all. An event
    /// that was leased to a caller that went away is leased again when the lease expires.
    async fn a_dropped_step_leaves_a_whole_event(harness) {
        let inbox = harness.fresh().await;
        for polls in 0..8 {
            let id = format!("dropped after {polls} polls");
            let (key, body) = (key(&id), Bytes::from(format!("body of {id}")));
            poll_and_drop(inbox.append(&key, DIGEST, None, body.clone()), polls).await;
            match inbox.append(&key, DIGEST, None, body.clone()).await.unwrap() {
                Appended::Stored => {}
                Appended::Duplicate { first_digest } => assert_eq!(first_digest, DIGEST),
            }
            poll_and_drop(inbox.lease_next(ENDPOINT, LEASE), polls).await;
            let mut tries = 0..100;
            let leased = loop {
                assert!(tries.next().is_some(), "an event with an abandoned lease is never leased again");
                match inbox.lease_next(ENDPOINT, LEASE).await.unwrap() {
                    NextEvent::Leased(leased) => break leased,
                    NextEvent::Empty { .. } => harness.advance(&inbox, LEASE).await,
                }
            };
            assert_eq!((&leased.key, &leased.body), (&key, &body));
            assert_eq!(complete(&inbox, &leased.key, leased.token).await, LeaseStatus::Held);
            nothing(&inbox).await;
        }
    }

    /// An endpoint's workers do not see events of other endpoints.
    async fn endpoints_have_backlogs_of_their_own(harness) {
        let inbox = harness.fresh().await;
        let other = EventKey::new("other endpoint", "1");
        inbox.append(&other, DIGEST, None, Bytes::new()).await.unwrap();
        nothing(&inbox).await;
        assert_eq!(inbox.backlog(ENDPOINT).await.unwrap().depth, 0);
        assert_eq!(inbox.backlog("other endpoint").await.unwrap().depth, 1);
    }
}

pub(super) async fn append(inbox: &impl Inbox, id: &str, ordering_key: Option<&str>) {
    let body = Bytes::from(format!("body of {id}"));
    assert_eq!(
        inbox
            .append(&key(id), DIGEST, ordering_key, body)
            .await
            .unwrap(),
        Appended::Stored
    );
}

/// Appends the event with other content. `done` is whether it is finished.
async fn append_known<H: Harness<Ledger: Inbox>>(inbox: &H::Ledger, id: &str, done: bool) {
    let other = Digest::from_bytes([9; 16]);
    let appended = inbox
        .append(&key(id), other, None, Bytes::from_static(b"other"))
        .await
        .unwrap();
    let forgiven = done && !H::TELLS_WHAT_IS_DONE && appended == Appended::Stored;
    assert!(
        forgiven
            || appended
                == Appended::Duplicate {
                    first_digest: DIGEST
                },
        "{appended:?} instead of known"
    );
}

pub(super) async fn leased(inbox: &impl Inbox) -> LeasedEvent {
    match inbox.lease_next(ENDPOINT, LEASE).await.unwrap() {
        NextEvent::Leased(leased) => leased,
        NextEvent::Empty { .. } => panic!("nothing was leased"),
    }
}

pub(super) async fn nothing(inbox: &impl Inbox) -> Option<Duration> {
    match inbox.lease_next(ENDPOINT, LEASE).await.unwrap() {
        NextEvent::Leased(leased) => panic!("{leased:?} was leased"),
        NextEvent::Empty { due_in } => due_in,
    }
}

async fn granted(inbox: &impl Inbox, id: &str) -> Token {
    match inbox.claim(&key(id), DIGEST, LEASE).await.unwrap() {
        Claim::Granted { token, .. } => token,
        other => panic!("{other:?} instead of a grant"),
    }
}
