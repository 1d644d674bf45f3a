//! Store, respond, handle later: a receiver and workers on one store.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    Clock,
    event::{
        Event, Subject,
        types::{SessionCreated, UserCreated, UserUpdated},
    },
    handlers::{Context, HandlerError, Handlers, Terminal as _},
    ledger::{EventKey, Inbox as _, Ledger as _},
    receiver::Receiver,
    stores::Sqlite,
    testing::Fixture,
    worker::{BuildError, Worker, WorkerBuilder},
};
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use crate::drivers::odd_names_hold_up_nothing;
use crate::support::{Running, SECRET, request, verifier};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

fn receiver(store: &Sqlite) -> Receiver {
    Receiver::inbox("users", verifier(), store.clone())
        .ordered_by(Subject::user_id)
        .build()
        .unwrap()
}

async fn answer(response: Response<Full<Bytes>>) -> (u16, String) {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        head.status.as_u16(),
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

async fn deliver(receiver: &Receiver, fixture: &Fixture) -> (u16, String) {
    answer(receiver.receive(request(fixture)).await).await
}

/// Short pauses, so that tests are fast.
fn hasty(worker: WorkerBuilder) -> Worker {
    let pause = Duration::from_millis(5);
    worker
        .backoff(pause, pause)
        .poll_interval(Duration::from_millis(20))
        .build()
        .unwrap()
}

async fn until_empty(worker: &Worker) {
    let empty = async {
        while worker.backlog().await.unwrap().depth > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(TEST_TIMEOUT, empty)
        .await
        .expect("the backlog was not worked off");
}

#[tokio::test]
async fn a_stored_delivery_is_200_and_so_is_its_duplicate_and_nothing_runs() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = receiver(&store);
    let event = Fixture::of::<UserCreated>();
    assert_eq!(deliver(&receiver, &event).await, (200, String::new()));
    assert_eq!(deliver(&receiver, &event).await, (200, "duplicate".into()));
    assert_eq!(store.backlog("users").await.unwrap().depth, 1);
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_or_buried() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = receiver(&store);
    let mut forged = request(&Fixture::of::<UserCreated>());
    *forged.body_mut() = Full::new(Fixture::of::<UserUpdated>().body());
    assert_eq!(answer(receiver.receive(forged).await).await.0, 401);
    let old = Fixture::of::<UserCreated>().time(jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(
        deliver(&receiver, &old).await.0,
        503,
        "nothing confirms the clock yet"
    );
    assert_eq!(
        deliver(&receiver, &Fixture::of::<UserCreated>()).await.0,
        200
    );
    assert_eq!(deliver(&receiver, &old).await, (200, "dead_letter".into()));
    assert_eq!(store.backlog("users").await.unwrap().depth, 1);
    store.close().await;
    assert_eq!(
        deliver(&receiver, &Fixture::of::<UserCreated>()).await.0,
        503
    );
}

#[tokio::test]
async fn ids_and_ordering_keys_of_any_length_are_stored_handled_and_replayed() {
    let store = Sqlite::in_memory().await.unwrap();
    let worker = |handlers| Worker::builder("users", store.clone(), handlers);
    odd_names_hold_up_nothing((&receiver(&store), &store, SECRET), worker).await;
}

#[tokio::test]
async fn a_worker_handles_what_was_stored_before_and_after_it_started_once_each() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = receiver(&store);
    let (seen, mut handled) = mpsc::unbounded_channel();
    let handlers = Handlers::new(seen).on(
        async |event: Event<UserCreated>, cx: Context<mpsc::UnboundedSender<_>>| {
            cx.state().send((event.id().to_owned(), cx.attempt()))?;
            Ok(())
        },
    );
    deliver(&receiver, &Fixture::of::<UserCreated>().id("before")).await;
    let worker = Worker::builder("users", store.clone(), handlers)
        .poll_interval(Duration::from_mins(1))
        .build()
        .unwrap();
    let running = Running::start(&worker);
    let mut next = async || {
        timeout(TEST_TIMEOUT, handled.recv())
            .await
            .expect("nothing was handled")
            .unwrap()
    };
    assert_eq!(next().await, ("before".into(), 1));
    // No poll is due for a minute: the append itself wakes the worker.
    deliver(&receiver, &Fixture::of::<UserCreated>().id("after")).await;
    assert_eq!(next().await, ("after".into(), 1));
    until_empty(&worker).await;
    assert_eq!(
        deliver(&receiver, &Fixture::of::<UserCreated>().id("after")).await,
        (200, "duplicate".into())
    );
    running.stop().await;
    assert!(handled.try_recv().is_err());
}

#[tokio::test]
async fn a_worker_whose_clock_is_40_days_ahead_gives_nothing_up_for_its_age() {
    let store = Sqlite::in_memory().await.unwrap();
    deliver(&receiver(&store), &Fixture::of::<UserCreated>()).await;
    let handlers = Handlers::new(()).on(async |_: Event<UserCreated>, cx: Context<()>| {
        if cx.attempt() < 3 {
            Err(HandlerError::retryable("busy"))
        } else {
            Ok(())
        }
    });
    let ahead =
        Clock::from_fn(|| jiff::Timestamp::now() + jiff::SignedDuration::from_hours(40 * 24));
    let pause = Duration::from_millis(1);
    let worker = Worker::builder("users", store.clone(), handlers)
        .clock(ahead)
        .backoff(pause, pause);
    let worker = worker
        .poll_interval(Duration::from_millis(20))
        .build()
        .unwrap();
    let running = Running::start(&worker);
    until_empty(&worker).await;
    running.stop().await;
    let letters = store.dead_letters("users", None, 10).await.unwrap();
    assert!(letters.is_empty(), "{letters:?}");
}

type Seen = Mutex<BTreeMap<String, Vec<String>>>;

#[tokio::test]
async fn each_users_events_are_handled_in_order_though_one_fails() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = receiver(&store);
    let seen: Arc<Seen> = Arc::default();
    let handlers = Handlers::new(Arc::clone(&seen)).on_prefix(
        "user.",
        async |event: Event, cx: Context<Arc<Seen>>| {
            if event.id().ends_with("-0") && cx.attempt() < 3 {
                return Err(HandlerError::retryable("not yet"));
            }
            let user = event.subject().user_id().unwrap().to_owned();
            cx.state()
                .lock()
                .unwrap()
                .entry(user)
                .or_default()
                .push(event.id().to_owned());
            Ok(())
        },
    );
    for n in 0..5 {
        for user in ["ada", "bob", "cy"] {
            let event = Fixture::of::<UserUpdated>()
                .subject("user_id", user)
                .id(format!("{user}-{n}"));
            deliver(&receiver, &event).await;
        }
    }
    let worker = hasty(Worker::builder("users", store, handlers).concurrency(8));
    let running = Running::start(&worker);
    until_empty(&worker).await;
    running.stop().await;
    for (user, events) in &*seen.lock().unwrap() {
        let expected: Vec<_> = (0..5).map(|n| format!("{user}-{n}")).collect();
        assert_eq!(events, &expected);
    }
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn events_that_are_given_up_become_dead_letters_with_reason_and_attempts() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = receiver(&store);
    let handlers = Handlers::new(())
        .on(async |_: Event<UserCreated>, _| "x".parse::<u8>().map(drop).terminal())
        .on(async |_: Event<UserUpdated>, _| Err(HandlerError::retryable("the database is away")))
        .on(async |_: Event<SessionCreated>, _| panic!("boo"));
    let fixtures = [
        Fixture::of::<UserCreated>().subject("user_id", "1"),
        Fixture::of::<UserUpdated>().subject("user_id", "2"),
        Fixture::of::<SessionCreated>(),
    ];
    for fixture in &fixtures {
        deliver(&receiver, fixture).await;
    }
    let worker = hasty(Worker::builder("users", store.clone(), handlers).max_attempts(3));
    let running = Running::start(&worker);
    until_empty(&worker).await;
    running.stop().await;
    let letters = store.dead_letters("users", None, 10).await.unwrap();
    let mut reported: Vec<_> = letters
        .iter()
        .map(|letter| {
            (
                letter.key.event_id(),
                letter.attempts,
                letter.reason.as_str(),
            )
        })
        .collect();
    reported.sort_unstable();
    assert_eq!(
        reported,
        [
            (
                "evt_session.created",
                3,
                "after 3 attempts: the handler panicked: boo"
            ),
            ("evt_user.created", 1, "invalid digit found in string"),
            (
                "evt_user.updated",
                3,
                "after 3 attempts: the database is away"
            ),
        ]
    );
    assert_eq!(letters.len(), fixtures.len());
}

#[tokio::test]
async fn an_event_whose_attempts_all_ended_without_a_word_is_given_up() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = receiver(&store);
    deliver(&receiver, &Fixture::of::<UserCreated>()).await;
    for _ in 0..3 {
        // A worker that leases the event and dies: its lease expires immediately.
        store.lease_next("users", Duration::ZERO).await.unwrap();
    }
    let handlers =
        Handlers::new(()).on(async |_: Event<UserCreated>, _| panic!("it was tried once more"));
    let worker = hasty(Worker::builder("users", store.clone(), handlers).max_attempts(3));
    let running = Running::start(&worker);
    until_empty(&worker).await;
    running.stop().await;
    let letters = store.dead_letters("users", None, 10).await.unwrap();
    assert_eq!(
        letters[0].reason,
        "the last of 3 attempts left no record of its end"
    );
}

#[tokio::test]
async fn an_event_that_nobody_handles_can_be_brought_back() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = receiver(&store);
    let event = Fixture::of::<UserCreated>();
    deliver(&receiver, &event).await;
    let worker = hasty(Worker::builder("users", store.clone(), Handlers::new(())));
    let running = Running::start(&worker);
    until_empty(&worker).await;
    running.stop().await;
    assert_eq!(deliver(&receiver, &event).await, (200, String::new()));
}

#[tokio::test]
async fn stopping_waits_for_what_runs_and_takes_no_more() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = receiver(&store);
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let runs = Arc::new(AtomicU32::new(0));
    let handlers = Handlers::new((Arc::clone(&started), Arc::clone(&go), Arc::clone(&runs)))
        .fallback(
            async |_: Event, cx: Context<(Arc<Notify>, Arc<Notify>, Arc<AtomicU32>)>| {
                let (started, go, runs) = cx.state();
                started.notify_one();
                go.notified().await;
                runs.fetch_add(1, Ordering::SeqCst);
                Ok(())
            },
        );
    let worker = hasty(Worker::builder("users", store, handlers).concurrency(1));
    deliver(&receiver, &Fixture::of::<UserCreated>()).await;
    deliver(&receiver, &Fixture::of::<SessionCreated>()).await;
    let running = Running::start(&worker);
    timeout(TEST_TIMEOUT, started.notified()).await.unwrap();
    let stopped = running.begin_stop();
    go.notify_one();
    stopped.await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert_eq!(worker.backlog().await.unwrap().depth, 1);
}

#[tokio::test]
async fn a_worker_that_is_dropped_in_the_midst_of_it_breaks_no_handler_off() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = receiver(&store);
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handlers = Handlers::new((Arc::clone(&started), Arc::clone(&go))).fallback(
        async |_: Event, cx: Context<(Arc<Notify>, Arc<Notify>)>| {
            cx.state().0.notify_one();
            cx.state().1.notified().await;
            Ok(())
        },
    );
    let worker = hasty(Worker::builder("users", store, handlers));
    deliver(&receiver, &Fixture::of::<UserCreated>()).await;
    // As in a `select!` whose other branch completes first.
    tokio::select! {
        () = worker.run(std::future::pending()) => unreachable!("it is not stopped"),
        () = started.notified() => {}
    }
    go.notify_one();
    until_empty(&worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_share_a_store_and_handle_each_event_once() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = receiver(&store);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let handlers = || {
        Handlers::new(Arc::clone(&seen)).fallback(
            async |event: Event, cx: Context<Arc<Mutex<Vec<String>>>>| {
                cx.state().lock().unwrap().push(event.id().to_owned());
                Ok(())
            },
        )
    };
    let workers = [(); 3].map(|()| hasty(Worker::builder("users", store.clone(), handlers())));
    let running = workers.each_ref().map(Running::start);
    let mut ids: Vec<_> = (0..200).map(|n| format!("evt_{n:03}")).collect();
    for id in &ids {
        let event = Fixture::of::<UserCreated>().id(id).subject("user_id", id);
        assert_eq!(deliver(&receiver, &event).await.0, 200);
        assert_eq!(deliver(&receiver, &event).await.0, 200);
    }
    until_empty(&workers[0]).await;
    for worker in running {
        worker.stop().await;
    }
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    ids.sort_unstable();
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn a_worker_whose_lease_was_lost_drops_its_handler_and_settles_nothing() {
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = receiver(&store);
    deliver(&receiver, &Fixture::of::<UserCreated>()).await;
    let (started, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handlers = Handlers::new((Arc::clone(&started), Arc::clone(&ended))).on(
        async |_: Event<UserCreated>, cx: Context<(Arc<Notify>, Arc<Notify>)>| {
            let (started, ended) = (Arc::clone(&cx.state().0), Arc::clone(&cx.state().1));
            tokio::spawn(async move {
                cx.closed().await;
                ended.notify_one();
            });
            started.notify_one();
            std::future::pending().await
        },
    );
    let worker =
        hasty(Worker::builder("users", store.clone(), handlers).lease(Duration::from_millis(300)));
    let running = Running::start(&worker);
    timeout(TEST_TIMEOUT, started.notified()).await.unwrap();
    assert!(
        store
            .forget(&EventKey::new("users", "evt_user.created"))
            .await
            .unwrap()
    );
    timeout(TEST_TIMEOUT, ended.notified())
        .await
        .expect("the handler ran on without its lease");
    running.stop().await;
    assert!(
        store
            .dead_letters("users", None, 1)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_worker_that_cannot_work_is_not_built() {
    let store = Sqlite::in_memory().await.unwrap();
    let new = |endpoint: &str| Worker::builder(endpoint, store.clone(), Handlers::new(()));
    assert_eq!(new("").build().unwrap_err(), BuildError::NoEndpoint);
    assert!(new(&"é".repeat(50)).build().is_ok());
    let long = "x".repeat(101);
    let receiver = Receiver::inbox(long.as_str(), verifier(), store.clone()).build();
    for refused in [new(&long).build().unwrap_err(), receiver.unwrap_err()] {
        assert_eq!(
            refused.to_string(),
            "the endpoint's name is 101 bytes long; use at most 100"
        );
    }
    assert_eq!(
        new("users").concurrency(0).build().unwrap_err(),
        BuildError::Setting("concurrency")
    );
    assert_eq!(
        new("users").max_attempts(0).build().unwrap_err(),
        BuildError::Setting("max_attempts")
    );
    assert_eq!(
        new("users").lease(Duration::ZERO).build().unwrap_err(),
        BuildError::Setting("lease")
    );
    let twice = Handlers::new(())
        .on(async |_: Event<UserCreated>, _| Ok(()))
        .on(async |_: Event<UserCreated>, _| Ok(()));
    assert!(matches!(
        Worker::builder("users", store, twice).build(),
        Err(BuildError::Handlers(_))
    ));
}
