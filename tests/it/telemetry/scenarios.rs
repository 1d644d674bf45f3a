//! Scenarios that together cause every metric with every value of its labels.
//!
//! Each has endpoints of its own. [`OUTCOMES`] lists what must be counted for them, so that a failure
//! names its scenario.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use authpi_sdk::{
    Clock,
    client::Client,
    event::{
        Event, EventType,
        types::{UserCreated, UserDeleted},
    },
    handlers::Handlers,
    ledger::{Inbox as _, Ledger, NextEvent},
    receiver::{Inline, Receiver, ReceiverBuilder, StoreFailure},
    signature::{KeyRing, SignatureScheme, Verifier},
    stores::{Memory, Sqlite},
    telemetry::{DELIVERIES, EVENTS, INGESTED},
    testing::Fixture,
    worker::Worker,
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body::{Body, Frame};
use http_body_util::Full;
use jiff::Timestamp;

use super::{created, handlers, hasty, worked_off};
use crate::{
    answers::Picky,
    payloads::USED_ELSEWHERE,
    support::{Running, SECRET, keys, log::personal, request, signed, verifier},
};

/// For timeouts that must expire.
const SOON: Duration = Duration::from_millis(20);
/// For timeouts that must not expire.
const LATER: Duration = Duration::from_mins(1);

/// Metric, endpoint, outcomes.
pub(super) const OUTCOMES: &[(&str, &str, &[&str])] = &[
    (
        DELIVERIES,
        "handled",
        &[
            "cannot_keep",
            "duplicate",
            "failed",
            "handled",
            "lease_lost",
            "unhandled",
        ],
    ),
    (DELIVERIES, "timeout", &["failed"]),
    (DELIVERIES, "lease", &["lease_lost"]),
    (
        DELIVERIES,
        "waiting",
        &["draining", "handled", "in_flight", "too_many"],
    ),
    (INGESTED, "waiting", &["draining", "handled"]),
    (
        DELIVERIES,
        "refused",
        &["interrupted", "not_post", "too_slow", "unauthorized"],
    ),
    (DELIVERIES, "stale", &["unauthorized"]),
    (DELIVERIES, "large", &["too_large"]),
    (DELIVERIES, "stalling", &["shed"]),
    (DELIVERIES, "unset", &["no_secret"]),
    (DELIVERIES, "ahead", &["clock_unsure"]),
    (
        DELIVERIES,
        "forgetful",
        &["expired", "handled", "unreadable"],
    ),
    (DELIVERIES, "kept", &["dead_letter", "handled"]),
    (DELIVERIES, "dropping", &["dropped"]),
    (DELIVERIES, "content_kept", &["dead_letter"]),
    (DELIVERIES, "content_refused", &["content_refused"]),
    (DELIVERIES, "evicting", &["handled"]),
    (DELIVERIES, "down", &["store_down"]),
    (DELIVERIES, "anyway", &["handled"]),
    (DELIVERIES, "inbox", &["duplicate", "stored"]),
    (
        EVENTS,
        "inbox",
        &[
            "dead_letter",
            "failed",
            "handled",
            "lease_lost",
            "unhandled",
        ],
    ),
    (EVENTS, "aged", &["dead_letter"]),
    (EVENTS, "crashed", &["dead_letter"]),
    (EVENTS, "worker_down", &["store_down"]),
];

pub(super) async fn deliveries() {
    outcomes_of_handlers().await;
    expired_timeouts().await;
    concurrent_deliveries().await;
    refused_requests().await;
    unverifiable_requests().await;
    limited_bodies().await;
    unconfirmed_clock().await;
    events_without_a_handler_call().await;
    refused_content().await;
    evicted_records().await;
    failing_store().await;
}

/// Events of a type that is a label, of another and of an unknown one; and a refused request.
pub(super) async fn labelled() {
    let handlers = || Handlers::new(()).fallback(async |_: Event, _| Ok(()));
    // The unknown type is not a label, although it is named.
    let types = [EventType::UserCreated, "user.teleported".into()];
    let events = ["user.created", "user.deleted", "user.teleported"].map(Fixture::new);

    let inline = Receiver::inline("labelled", verifier(), Memory::new(), handlers())
        .label_event_types(types.clone());
    let inline = inline.build().unwrap();
    for event in &events {
        inline.receive(request(event)).await;
    }
    inline
        .receive(request(&created("got")).map(|_| Broken { stalls: false }))
        .await;

    let store = Sqlite::in_memory().await.unwrap();
    let inbox = Receiver::inbox("labelled_inbox", verifier(), store.clone())
        .label_event_types(types.clone());
    let inbox = inbox.build().unwrap();
    for event in &events {
        inbox.ingest(event.verified()).await;
    }
    let worker = Worker::builder("labelled_inbox", store, handlers()).label_event_types(types);
    worked_off(hasty(worker)).await;
}

/// A payload member that does not have the deduced shape.
pub(super) fn payload() {
    let event =
        r#"{"id":"evt_1","type":"account.credits.updated","timestamp":1,"data":{"type":7}}"#;
    let event = Event::from_json(event).unwrap();
    assert_eq!(*event.event_type(), USED_ELSEWHERE);
    event.decode().unwrap();
}

pub(super) async fn workers() {
    outcomes_of_workers().await;
    exhausted_events().await;
    failing_store_of_a_worker().await;
}

/// An inline receiver whose handlers do what the event's id says.
fn inline(endpoint: &str, ledger: impl Ledger + Clone) -> ReceiverBuilder<Inline> {
    Receiver::inline(endpoint, verifier(), ledger.clone(), handlers(ledger).0)
}

async fn deliver(receiver: &Receiver, id: &str) {
    receiver.receive(request(&created(id))).await;
}

fn old() -> Request<Full<Bytes>> {
    request(&created("old").time(Timestamp::UNIX_EPOCH))
}

fn unreadable() -> Request<Full<Bytes>> {
    signed(r#"{"PAYLOAD":"#)
}

async fn outcomes_of_handlers() {
    let receiver = inline("handled", Memory::new())
        .handler_timeout(LATER)
        .build()
        .unwrap();
    for id in ["ok", "ok", "fails", "terminal", "panics", "overtaken"] {
        deliver(&receiver, id).await;
    }
    let changed = created("ok").data(serde_json::json!({ "username": "another PAYLOAD" }));
    receiver.receive(request(&changed)).await;
    let unhandled = personal(Fixture::of::<UserDeleted>());
    receiver.receive(request(&unhandled)).await;
}

async fn expired_timeouts() {
    let receiver = inline("timeout", Memory::new()).handler_timeout(SOON);
    deliver(&receiver.build().unwrap(), "stalls").await;
    let receiver = inline("lease", Memory::new())
        .lease(SOON)
        .handler_timeout(LATER);
    deliver(&receiver.build().unwrap(), "taken").await;
}

async fn concurrent_deliveries() {
    let memory = Memory::new();
    let (handlers, world) = handlers(memory.clone());
    let receiver = Receiver::inline("waiting", verifier(), memory, handlers)
        .handler_timeout(LATER)
        .in_flight_wait(Duration::ZERO)
        .max_in_flight(2)
        .build()
        .unwrap();
    let start = |id: &'static str| {
        let receiver = receiver.clone();
        tokio::spawn(async move { deliver(&receiver, id).await })
    };
    let first = start("waits");
    world.started.notified().await;
    deliver(&receiver, "waits").await;
    let second = start("also_waits");
    world.started.notified().await;
    deliver(&receiver, "too_many").await;
    world.go.add_permits(2);
    first.await.unwrap();
    second.await.unwrap();
    receiver.ingest(created("ingested").verified()).await;

    receiver.drain().await;
    deliver(&receiver, "late").await;
    receiver.ingest(created("late").verified()).await;
}

async fn refused_requests() {
    let receiver = inline("refused", Memory::new())
        .body_timeout(SOON)
        .build()
        .unwrap();
    for forged in ["FORGED", &"0".repeat(64)] {
        let mut sent = request(&created("forged"));
        sent.headers_mut()
            .insert("x-webhook-signature", forged.parse().unwrap());
        receiver.receive(sent).await;
    }
    let mut unsigned = request(&created("forged"));
    *unsigned.headers_mut() = HeaderMap::new();
    receiver.receive(unsigned).await;
    let mut got = request(&created("got"));
    *got.method_mut() = Method::GET;
    receiver.receive(got).await;
    let broken = |stalls| request(&created("broken")).map(|_| Broken { stalls });
    receiver.receive(broken(true)).await;
    receiver.receive(broken(false)).await;
}

async fn unverifiable_requests() {
    let receiver = |endpoint: &str, verifier: Verifier| {
        let handlers = handlers(Memory::new()).0;
        Receiver::inline(endpoint, verifier, Memory::new(), handlers)
            .build()
            .unwrap()
    };
    let expired = KeyRing::new().with_during("gone", SECRET, ..Timestamp::UNIX_EPOCH);
    deliver(&receiver("unset", Verifier::authpi(expired)), "unset").await;

    let scheme = SignatureScheme::timestamped();
    let sent = created("stale").request(&scheme, &SECRET.into()).unwrap();
    let behind = Verifier::new(scheme, keys()).clock(Clock::from_fn(|| Timestamp::UNIX_EPOCH));
    receiver("stale", behind).receive(sent).await;

    deliver(&receiver("large", verifier().max_body(9)), "large").await;
}

/// One of two bodies is dropped to make room, and the other is then cancelled.
async fn limited_bodies() {
    let handlers = handlers(Memory::new()).0;
    let verifier = verifier().max_body(40_000);
    let receiver = Receiver::inline("stalling", verifier, Memory::new(), handlers)
        .max_unverified_bytes(40_000)
        .build()
        .unwrap();
    let stalling =
        || request(&created("stalling")).map(|_| Stalling(Some(vec![b' '; 39_000].into())));
    tokio::select! {
        _ = receiver.receive(stalling()) => {}
        _ = receiver.receive(stalling()) => {}
    }
}

async fn unconfirmed_clock() {
    let receiver = inline("ahead", Memory::new()).build().unwrap();
    receiver.receive(old()).await;
}

/// Events that are too old, unreadable or failed terminally: without and with dead letters.
async fn events_without_a_handler_call() {
    let receiver = inline("forgetful", Memory::new()).build().unwrap();
    // A recent delivery confirms the clock. Without one, the old event would not count as too old.
    deliver(&receiver, "recent").await;
    receiver.receive(old()).await;
    receiver.receive(unreadable()).await;

    let receiver = inline("kept", Sqlite::in_memory().await.unwrap())
        .build()
        .unwrap();
    deliver(&receiver, "recent").await;
    deliver(&receiver, "terminal").await;
    receiver.receive(old()).await;
    receiver.receive(unreadable()).await;

    let receiver = inline("dropping", Memory::new()).drop_terminal_failures();
    deliver(&receiver.build().unwrap(), "terminal").await;
}

async fn refused_content() {
    let plain = || Handlers::new(()).on(async |_: Event<UserCreated>, _| Ok(()));
    let kept = Picky::new(Sqlite::in_memory().await.unwrap(), 1, 0);
    let receiver = Receiver::inline("content_kept", verifier(), kept, plain());
    deliver(&receiver.build().unwrap(), "refused").await;
    let not_kept = Picky::new(Memory::new(), 1, 0);
    let receiver = Receiver::inline("content_refused", verifier(), not_kept, plain());
    deliver(&receiver.build().unwrap(), "refused").await;
}

async fn evicted_records() {
    let receiver = inline("evicting", Memory::new().with_capacity(1));
    let receiver = receiver.build().unwrap();
    for id in ["first", "second"] {
        deliver(&receiver, id).await;
    }
}

async fn failing_store() {
    let store = Sqlite::in_memory().await.unwrap();
    store.close().await;
    let receiver = inline("down", store.clone());
    deliver(&receiver.build().unwrap(), "down").await;
    let receiver = inline("anyway", store).on_store_failure(StoreFailure::HandleAnyway);
    deliver(&receiver.build().unwrap(), "unclaimed").await;
}

fn inbox(endpoint: &str, store: &Sqlite) -> Receiver {
    Receiver::inbox(endpoint, verifier(), store.clone())
        .build()
        .unwrap()
}

async fn outcomes_of_workers() {
    let store = Sqlite::in_memory().await.unwrap();
    let hook = inbox("inbox", &store);
    for id in ["ok", "ok", "fails", "terminal", "overtaken"] {
        deliver(&hook, id).await;
    }
    let unhandled = personal(Fixture::of::<UserDeleted>());
    hook.receive(request(&unhandled)).await;
    let worker = Worker::builder("inbox", store.clone(), handlers(store).0);
    worked_off(hasty(worker).max_attempts(3)).await;
}

/// Events that are given up for their age, and because every attempt ended with its process.
async fn exhausted_events() {
    let store = Sqlite::in_memory().await.unwrap();
    deliver(&inbox("aged", &store), "fails").await;
    let worker = Worker::builder("aged", store.clone(), handlers(store.clone()).0);
    worked_off(hasty(worker).max_age(Duration::ZERO)).await;

    deliver(&inbox("crashed", &store), "ok").await;
    let leased = store.lease_next("crashed", Duration::from_millis(1)).await;
    assert!(matches!(leased, Ok(NextEvent::Leased(_))), "{leased:?}");
    let worker = Worker::builder("crashed", store.clone(), handlers(store).0);
    worked_off(hasty(worker).max_attempts(1)).await;
}

async fn failing_store_of_a_worker() {
    let store = Sqlite::in_memory().await.unwrap();
    deliver(&inbox("worker_down", &store), "waits").await;
    let (handlers, world) = handlers(store.clone());
    let worker = hasty(Worker::builder("worker_down", store.clone(), handlers));
    let running = Running::start(&worker.build().unwrap());
    world.started.notified().await;
    store.close().await;
    world.go.add_permits(1);
    running.stop().await;
}

/// A call that is retried, to a server that closes every connection.
pub(super) async fn call() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let closing = tokio::spawn(async move {
        loop {
            drop(server.accept().await.unwrap());
        }
    });
    let client = Client::builder()
        .api_key("key_1", SECRET)
        .base_url(url)
        .build()
        .unwrap();
    client.whoami().await.unwrap_err();
    closing.abort();
}

/// A body that stalls, or fails.
struct Broken {
    stalls: bool,
}

impl Body for Broken {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.stalls {
            Poll::Pending
        } else {
            Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())))
        }
    }
}

/// A body that stalls after its first frame.
struct Stalling(Option<Bytes>);

impl Body for Stalling {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.take().map_or(Poll::Pending, |frame| {
            Poll::Ready(Some(Ok(Frame::data(frame))))
        })
    }
}
