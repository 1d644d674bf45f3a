//! The cases of [`OrderedInbox`], beyond those of every [`Inbox`](crate::ledger::Inbox).

use std::time::Duration;

use tokio::task::JoinSet;

use super::{
    Harness, LEASE, SLACK, complete, hostile_names,
    inbox::{ENDPOINT, append, leased, nothing},
    key,
};
use crate::ledger::{Completion, Inbox as _, LeaseStatus, Ledger as _, NextEvent, OrderedInbox};

cases! { of OrderedInbox:
    /// Events with one ordering key are leased one at a time and in order. Events with another key,
    /// or without, are not blocked.
    async fn an_ordering_key_keeps_its_order_and_holds_up_nobody_else(harness) {
        let inbox = harness.fresh().await;
        for (id, ordering_key) in [("a1", Some("a")), ("a2", Some("a")), ("b1", Some("b")), ("free", None)] {
            append(&inbox, id, ordering_key).await;
        }
        let a1 = leased(&inbox).await;
        assert_eq!(a1.key, key("a1"));
        assert_eq!(leased(&inbox).await.key, key("b1"));
        assert_eq!(leased(&inbox).await.key, key("free"));
        nothing(&inbox).await;
        assert_eq!(complete(&inbox, &a1.key, a1.token).await, LeaseStatus::Held);
        assert_eq!(leased(&inbox).await.key, key("a2"));
    }

    /// A pause blocks its own ordering key, and the inbox says when it ends.
    async fn a_pause_holds_up_its_own_ordering_key_and_ends(harness) {
        let inbox = harness.fresh().await;
        append(&inbox, "a1", Some("a")).await;
        append(&inbox, "a2", Some("a")).await;
        let a1 = leased(&inbox).await;
        let pause = Duration::from_mins(10);
        assert_eq!(inbox.release(&a1.key, a1.token, pause).await.unwrap(), LeaseStatus::Held);
        let due_in = nothing(&inbox).await.expect("when the pause ends is known");
        assert!(due_in <= pause && due_in + SLACK > pause, "due in {due_in:?}");
        harness.advance(&inbox, pause).await;
        let again = leased(&inbox).await;
        assert_eq!((again.key, again.token.attempt, &again.body[..]), (key("a1"), 2, &b"body of a1"[..]));
        nothing(&inbox).await;
    }

    /// A dead event and a forgotten one unblock the next event with their ordering key.
    async fn what_is_dead_or_forgotten_frees_its_ordering_key(harness) {
        let inbox = harness.fresh().await;
        for id in ["1", "2", "3"] {
            append(&inbox, id, Some("ordering_key")).await;
        }
        let first = leased(&inbox).await;
        let dead = Completion::Dead { reason: "poisoned".into(), body: first.body.clone() };
        assert_eq!(inbox.complete(&first.key, first.token, dead).await.unwrap(), LeaseStatus::Held);
        assert_eq!(leased(&inbox).await.key, key("2"));
        assert!(inbox.forget(&key("2")).await.unwrap());
        assert_eq!(leased(&inbox).await.key, key("3"));
    }

    /// An ordering key may have any length and any characters, and is still distinct from others.
    async fn ordering_keys_of_any_name_keep_their_order(harness) {
        let inbox = harness.fresh().await;
        for name in hostile_names() {
            let ordering_keys = [format!("{name}1"), format!("{name}2")];
            for id in ["first", "second"] {
                for (n, ordering_key) in ordering_keys.iter().enumerate() {
                    append(&inbox, &format!("{id} of {n}"), Some(ordering_key)).await;
                }
            }
            for id in ["first", "second"] {
                let events = [leased(&inbox).await, leased(&inbox).await];
                nothing(&inbox).await;
                for (n, event) in events.into_iter().enumerate() {
                    assert_eq!(event.key, key(&format!("{id} of {n}")));
                    assert_eq!(complete(&inbox, &event.key, event.token).await, LeaseStatus::Held);
                    assert!(inbox.forget(&event.key).await.unwrap());
                }
            }
        }
    }

    /// Concurrent workers keep the order of each ordering key, and never hold two events with the
    /// same key.
    async fn workers_at_the_same_time_keep_each_ordering_keys_order(harness) {
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
                    let NextEvent::Leased(event) = inbox.lease_next(ENDPOINT, LEASE).await.unwrap() else { continue };
                    let n: usize = event.key.event_id().parse().unwrap();
                    done.lock().unwrap()[n % 4].push(n);
                    tokio::task::yield_now().await;
                    assert_eq!(complete(&*inbox, &event.key, event.token).await, LeaseStatus::Held);
                }
            });
        }
        workers.join_all().await;
        for (ordering_key, events) in done.lock().unwrap().iter().enumerate() {
            let expected: Vec<_> = (0..10).map(|n| n * 4 + ordering_key).collect();
            assert_eq!(events, &expected, "a ordering_key's events were leased out of their order");
        }
    }

    /// All events of an ordering key are handled, even if events are appended and forgotten
    /// meanwhile.
    async fn an_ordering_key_goes_on_while_it_is_appended_to(harness) {
        const EVENTS: usize = 60;
        let inbox = std::sync::Arc::new(harness.fresh().await);
        let mut tasks = JoinSet::new();
        for half in ["a", "b"] {
            let inbox = std::sync::Arc::clone(&inbox);
            tasks.spawn(async move {
                for n in 0..EVENTS {
                    append(&*inbox, &format!("{half}{n}"), Some("ordering_key")).await;
                    if n % 7 == 3 {
                        inbox.forget(&key(&format!("{half}{}", n - 1))).await.unwrap();
                    }
                }
            });
        }
        let work_off = async || {
            let mut idle = 0;
            while idle < 3 {
                if let NextEvent::Leased(event) = inbox.lease_next(ENDPOINT, LEASE).await.unwrap() {
                    idle = 0;
                    // The lease of an event that was forgotten meanwhile is lost.
                    let _ = complete(&*inbox, &event.key, event.token).await;
                } else {
                    idle += 1;
                    tokio::task::yield_now().await;
                }
            }
        };
        while !tasks.is_empty() {
            work_off().await;
            while tasks.try_join_next().is_some_and(|appended| appended.map(|()| true).unwrap()) {}
        }
        work_off().await;
        assert_eq!(inbox.backlog(ENDPOINT).await.unwrap().depth, 0, "the ordering_key stands still");
    }
}
