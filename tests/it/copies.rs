//! Copies of one event before it is finished: which of them wait for the outcome, and how other
//! events are affected.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    event::{Event, types::UserCreated},
    handlers::{Context, Handlers},
    ledger::{Claim, Completion, Digest, EventKey, LeaseStatus, Ledger, Token},
    receiver::{Ingested, Inline, Receiver, ReceiverBuilder},
    stores::Memory,
    testing::Fixture,
};
use axum::Router;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};

use crate::over_http::{answer_to, signed_post};
use crate::support::{self, verifier};

/// Longer than any of these tests.
const TEST_TIMEOUT: Duration = Duration::from_hours(1);
const ENOUGH: Duration = Duration::from_mins(1);

/// State shared by handlers and test: events whose id starts with `slow` wait at the gate.
#[derive(Default)]
struct World {
    started: Notify,
    gate: Option<Semaphore>,
    running: AtomicUsize,
    most_running: AtomicUsize,
    handled: AtomicUsize,
}

fn receiver(ledger: Memory) -> (ReceiverBuilder<Inline>, Arc<World>) {
    let world = World {
        gate: Some(Semaphore::new(0)),
        ..World::default()
    };
    let handlers =
        Handlers::new(world).on(async |event: Event<UserCreated>, cx: Context<World>| {
            let world = cx.state();
            let running = world.running.fetch_add(1, Ordering::SeqCst) + 1;
            world.most_running.fetch_max(running, Ordering::SeqCst);
            if event.id().starts_with("slow") {
                world.started.notify_one();
                world.gate.as_ref().unwrap().acquire().await?.forget();
            }
            world.running.fetch_sub(1, Ordering::SeqCst);
            world.handled.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
    let world = handlers.state();
    (
        Receiver::inline("users", verifier(), ledger, handlers)
            .handler_timeout(TEST_TIMEOUT)
            .in_flight_wait(TEST_TIMEOUT),
        world,
    )
}

impl World {
    fn open_gate(&self) {
        self.gate.as_ref().unwrap().add_permits(1);
    }
}

fn event(id: &str) -> Fixture {
    Fixture::of::<UserCreated>().id(id.to_owned())
}

fn request(id: &str) -> Request<Full<bytes::Bytes>> {
    support::request(&event(id))
}

/// The status, and the response body.
async fn deliver(receiver: Receiver, id: String) -> (u16, String) {
    let (head, body) = receiver.receive(request(&id)).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        head.status.as_u16(),
        String::from_utf8_lossy(&body).into_owned(),
    )
}

fn delivering(receiver: &Receiver, id: &str) -> JoinHandle<(u16, String)> {
    tokio::spawn(deliver(receiver.clone(), id.to_owned()))
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(ENOUGH, future)
        .await
        .expect("it did not happen within a minute")
}

async fn serve(receiver: &Receiver) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route_service("/hooks/authpi", receiver.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_hundred_copies_of_an_unfinished_event_keep_no_other_delivery_out() {
    const COPIES: usize = 400;
    const OTHERS: usize = 1000;
    let (builder, world) = receiver(Memory::new());
    let receiver = builder.build().unwrap();
    let address = serve(&receiver).await;
    let send = move |id: String| answer_to(address, signed_post(&event(&id).body()));

    let first = tokio::spawn(send("slow".to_owned()));
    within(world.started.notified()).await;
    let (tell, mut reported) = mpsc::unbounded_channel();
    for _ in 0..COPIES {
        let tell = tell.clone();
        tokio::spawn(async move { tell.send(send("slow".to_owned()).await) });
    }
    let others: Vec<_> = (0..16)
        .map(|sender| {
            tokio::spawn(async move {
                let mut taken = 0;
                for n in 0..OTHERS / 16 {
                    let answer = send(format!("evt_{sender}_{n}")).await;
                    taken += usize::from(answer == "HTTP/1.1 200 OK");
                }
                taken
            })
        })
        .collect();
    let mut taken = 0;
    for sender in others {
        taken += within(sender).await.unwrap();
    }
    assert_eq!(
        taken,
        OTHERS / 16 * 16,
        "others were turned away by copies of an event that is not theirs"
    );

    for _ in 0..COPIES - 4 {
        assert_eq!(
            within(reported.recv()).await.unwrap(),
            "HTTP/1.1 503 Service Unavailable"
        );
    }
    // Only the first delivery keeps a permit. Each of the waiting copies takes one for a moment
    // whenever it claims again.
    within(async {
        while receiver.health().await.in_flight != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    world.open_gate();
    assert_eq!(within(first).await.unwrap(), "HTTP/1.1 200 OK");
    for _ in 0..4 {
        assert_eq!(
            within(reported.recv()).await.unwrap(),
            "HTTP/1.1 200 OK",
            "a copy that waited learns the outcome"
        );
    }
    assert_eq!(world.handled.load(Ordering::SeqCst), 1 + taken);
}

/// Sends copies until one is refused: then the maximum number waits.
async fn fill_waiters(receiver: &Receiver, id: &'static str) -> Vec<JoinHandle<(u16, String)>> {
    let (tell, mut reported) = mpsc::unbounded_channel();
    let copies: Vec<_> = (0..5)
        .map(|_| {
            let (receiver, tell) = (receiver.clone(), tell.clone());
            tokio::spawn(async move {
                let answer = deliver(receiver, id.to_owned()).await;
                let _ = tell.send(());
                answer
            })
        })
        .collect();
    within(reported.recv()).await;
    let (over, waiting): (Vec<_>, Vec<_>) = copies.into_iter().partition(JoinHandle::is_finished);
    assert_eq!((over.len(), waiting.len()), (1, 4));
    waiting
}

#[tokio::test]
async fn when_drain_begins_waiters_are_answered_at_once_and_work_is_waited_for() {
    let (builder, world) = receiver(Memory::new());
    let receiver = builder.build().unwrap();
    let first = delivering(&receiver, "slow");
    within(world.started.notified()).await;
    let waiting = fill_waiters(&receiver, "slow").await;
    let draining = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.drain().await }
    });
    for waiter in waiting {
        assert_eq!(
            within(waiter).await.unwrap(),
            (503, "try again later".to_owned())
        );
    }
    assert!(
        !draining.is_finished(),
        "drain did not wait for the handler"
    );
    world.open_gate();
    assert_eq!(within(first).await.unwrap().0, 200);
    within(draining).await.unwrap();
    assert_eq!(deliver(receiver, "slow".to_owned()).await.0, 503);
}

#[tokio::test]
async fn an_ingested_event_waits_like_a_delivery() {
    let (builder, world) = receiver(Memory::new());
    let receiver = builder.build().unwrap();
    let first = delivering(&receiver, "slow");
    within(world.started.notified()).await;
    let waiting = fill_waiters(&receiver, "slow").await;
    let fed = within(receiver.ingest(event("slow").verified())).await;
    assert!(
        matches!(
            fed,
            Ingested::NotAccepted {
                outcome: "in_flight",
                ..
            }
        ),
        "{fed:?}"
    );
    assert_eq!(
        within(receiver.ingest(event("evt_other").verified())).await,
        Ingested::Handled
    );
    world.open_gate();
    assert_eq!(within(first).await.unwrap(), (200, String::new()));
    for waiter in waiting {
        assert_eq!(within(waiter).await.unwrap(), (200, "duplicate".to_owned()));
    }
}

/// Claims the event like another process.
async fn claim_elsewhere(ledger: &Memory, id: &str) -> (EventKey, Token) {
    let key = EventKey::new("users", id);
    match ledger
        .claim(&key, Digest::of(&event(id).body()), TEST_TIMEOUT)
        .await
        .unwrap()
    {
        Claim::Granted { token, .. } => (key, token),
        other => panic!("not granted: {other:?}"),
    }
}

#[tokio::test]
async fn in_all_no_more_wait_than_may_be_in_flight() {
    let ledger = Memory::new();
    let (builder, _world) = receiver(ledger.clone());
    let receiver = builder.max_in_flight(2).build().unwrap();
    let mut elsewhere = Vec::new();
    for id in ["a", "b", "c"] {
        elsewhere.push(claim_elsewhere(&ledger, id).await);
    }
    let (tell, mut reported) = mpsc::unbounded_channel();
    let copies: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|id| {
            let (receiver, tell) = (receiver.clone(), tell.clone());
            tokio::spawn(async move {
                let answer = deliver(receiver, id.to_owned()).await;
                let _ = tell.send(answer.0);
                answer
            })
        })
        .collect();
    assert_eq!(
        within(reported.recv()).await,
        Some(503),
        "three wait where two may"
    );
    assert_eq!(
        within(deliver(receiver.clone(), "evt_other".to_owned()))
            .await
            .0,
        200
    );
    for (key, token) in elsewhere {
        assert_eq!(
            ledger
                .complete(&key, token, Completion::Handled)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
    }
    let mut statuses = Vec::new();
    for copy in copies {
        statuses.push(within(copy).await.unwrap().0);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503]);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_takes_no_claim_before_it_has_a_place_again() {
    let ledger = Memory::new();
    let (builder, world) = receiver(ledger.clone());
    let receiver = builder.max_in_flight(1).build().unwrap();
    let (key, token) = claim_elsewhere(&ledger, "slow_a").await;
    let waiter = delivering(&receiver, "slow_a");
    // The time advances by itself while all tasks wait, so this is several polls later.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let other = delivering(&receiver, "slow_b");
    world.started.notified().await;
    assert_eq!(
        ledger.release(&key, token, Duration::ZERO).await.unwrap(),
        LeaseStatus::Held
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        world.running.load(Ordering::SeqCst),
        1,
        "the waiter began without a place"
    );
    assert_eq!(claim_elsewhere(&ledger, "slow_a").await.0, key);
    ledger.forget(&key).await.unwrap();

    world.open_gate();
    assert_eq!(other.await.unwrap().0, 200);
    world.started.notified().await;
    world.open_gate();
    assert_eq!(waiter.await.unwrap(), (200, String::new()));
    assert_eq!(world.most_running.load(Ordering::SeqCst), 1);
}
