//! One replica at a time; periodic runs; runs only if a delivery was missed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    event::Event,
    handlers::{Context, Handlers},
    receiver::{BuildError, Receiver},
    reconcile::{MemoryWatermark, Reconcile},
    signature::Verifier,
    stores::{Memory, Sqlite},
    testing::ManualClock,
};
use serde_json::json;
use tokio::sync::{Notify, oneshot};

use super::{
    HOUR, Handled, TEST_TIMEOUT, at, caught_up, inline,
    log::{Log, event},
    noting, receiver, reconcile,
};

/// A handler that waits for permission to continue.
#[derive(Clone, Default)]
struct Gate {
    came: Arc<Notify>,
    go_on: Arc<Notify>,
    handled: Arc<AtomicUsize>,
}

fn gated(ledger: &Memory, gate: &Gate) -> Receiver {
    let handlers = Handlers::new(gate.clone()).fallback(async |_: Event, cx: Context<Gate>| {
        cx.state().came.notify_one();
        cx.state().go_on.notified().await;
        cx.state().handled.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    Receiver::inline(
        "users",
        Verifier::dangerously_accept_unauthenticated(),
        ledger.clone(),
        handlers,
    )
    .build()
    .unwrap()
}

#[tokio::test]
async fn of_two_replicas_one_runs_and_the_other_waits_or_passes() {
    let log = Log::of([event("evt_1", at(5), "user.created", "usr_1")]).await;
    let (ledger, gate, watermark) = (Memory::new(), Gate::default(), MemoryWatermark::new());
    let replica = || {
        reconcile(&log, &gated(&ledger, &gate))
            .watermark(watermark.clone())
            .build()
            .unwrap()
    };
    let (first, second) = (replica(), replica());
    let running = tokio::spawn(async move { caught_up(&first).await });
    gate.came.notified().await;
    assert_eq!(second.try_catch_up().await.unwrap(), None, "both run");
    let pages = log.reported().asked.len();
    let waiting = tokio::spawn(async move { caught_up(&second).await });
    gate.go_on.notify_one();
    assert_eq!(running.await.unwrap().progress.handled, 1);
    let report = waiting.await.unwrap();
    assert_eq!(
        (report.progress.duplicates, report.is_complete()),
        (1, true)
    );
    assert!(
        log.reported().asked.len() > pages,
        "the one that waited has not made sure"
    );
    assert_eq!(gate.handled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_turn_of_a_replica_that_died_is_taken_over_when_its_lease_is_over() {
    let log = Log::of([event("evt_1", at(5), "user.created", "usr_1")]).await;
    let clock = ManualClock::at(at(100 * HOUR));
    let (ledger, gate) = (Memory::new().with_clock(clock.clock()), Gate::default());
    let handled = Handled::default();
    // Shorter than that of an event.
    let lease = Duration::from_secs(10);
    let (died, has_died) = oneshot::channel();
    let dying = reconcile(&log, &gated(&ledger, &gate))
        .lease(lease)
        .build()
        .unwrap();
    let came = Arc::clone(&gate.came);
    // The dying replica has a runtime of its own. The runtime is forgotten and not dropped, so the
    // lease is not released, as if the process had been killed.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move { drop(dying.catch_up().await) });
        runtime.block_on(came.notified());
        std::mem::forget(runtime);
        died.send(()).unwrap();
    });
    has_died.await.unwrap();
    log.reported()
        .events
        .push(event("evt_2", at(6), "user.created", "usr_1"));
    let receiver = inline(ledger.clone(), noting(&handled, |_| false))
        .build()
        .unwrap();
    let heir = reconcile(&log, &receiver).lease(lease).build().unwrap();
    assert_eq!(
        heir.try_catch_up().await.unwrap(),
        None,
        "the lease is not over"
    );
    clock.advance(lease);
    let report = caught_up(&heir).await;
    // The dead replica's event is still under its own lease.
    assert_eq!(
        report.stopped.map(|stopped| stopped.outcome),
        Some("in_flight")
    );
}

#[tokio::test]
async fn a_run_that_is_dropped_gives_its_turn_back() {
    let log = Log::of([event("evt_1", at(5), "user.created", "usr_1")]).await;
    let (ledger, gate) = (Memory::new(), Gate::default());
    let replica = || {
        reconcile(&log, &gated(&ledger, &gate))
            .lease(Duration::from_hours(1))
            .build()
            .unwrap()
    };
    let first = replica();
    let running = tokio::spawn(async move { first.catch_up().await });
    gate.came.notified().await;
    running.abort();
    drop(running.await);
    // Running handlers continue, like a delivery's.
    gate.go_on.notify_one();
    let report = caught_up(&replica()).await;
    assert_eq!(
        (report.is_complete(), gate.handled.load(Ordering::SeqCst)),
        (true, 1)
    );
}

#[tokio::test]
async fn a_turn_that_another_has_taken_over_ends_the_run() {
    let log = Log::of([event("evt_1", at(5), "user.created", "usr_1")]).await;
    let (ledger, gate) = (Memory::new(), Gate::default());
    let slow = reconcile(&log, &gated(&ledger, &gate))
        .lease(Duration::from_millis(30))
        .build()
        .unwrap();
    let running = tokio::spawn(async move { slow.catch_up().await });
    gate.came.notified().await;
    // As if the lease had expired unnoticed, and another replica had taken over and finished.
    let key = authpi_sdk::ledger::EventKey::new("users", "reconcile:lock");
    assert!(
        authpi_sdk::ledger::Ledger::forget(&ledger, &key)
            .await
            .unwrap()
    );
    let error = tokio::time::timeout(TEST_TIMEOUT, running)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(error.is_lease_lost(), "{error}");
    gate.go_on.notify_one();
}

/// Runs it periodically until `done`.
async fn until(reconcile: &Reconcile, every: Duration, done: impl Fn() -> bool) {
    let (stop, stopped) = oneshot::channel::<()>();
    let running = {
        let reconcile = reconcile.clone();
        tokio::spawn(async move { reconcile.run(every, async { drop(stopped.await) }).await })
    };
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, waiting)
        .await
        .expect("the schedule does not do it");
    stop.send(()).unwrap();
    tokio::time::timeout(TEST_TIMEOUT, running)
        .await
        .expect("the schedule does not stop")
        .unwrap();
}

#[tokio::test]
async fn on_a_schedule_what_happens_is_found_and_a_failure_ends_nothing() {
    let log = Log::of([event("evt_1", at(5), "user.created", "usr_1")]).await;
    let (receiver, handled) = receiver();
    let reconcile = reconcile(&log, &receiver).build().unwrap();
    let every = Duration::from_millis(1);
    until(&reconcile, every, || handled.ids().len() == 1).await;
    log.reported().answers = 0;
    let asked = log.reported().asked.len();
    until(&reconcile, every, || {
        let mut reported = log.reported();
        if reported.asked.len() == asked + 2 && reported.answers == 0 {
            reported
                .events
                .push(event("evt_2", at(6), "user.created", "usr_1"));
            reported.answers = usize::MAX;
        }
        handled.ids().len() == 2
    })
    .await;
    assert_eq!(handled.ids(), ["evt_1", "evt_2"]);
}

#[tokio::test]
async fn after_the_first_look_the_log_is_left_alone_if_nothing_was_missed() {
    let log = Log::of([event("evt_1", at(5), "user.created", "usr_1")]).await;
    log.reported().webhook["status_at"] = json!(null);
    let (receiver, handled) = receiver();
    let reconcile = reconcile(&log, &receiver).only_if_missed().build().unwrap();
    let every = Duration::from_millis(1);
    let failed = |at: jiff::Timestamp| {
        json!({
            "id": format!("whd_{at}"), "webhook_id": "wh_1", "event_id": "evt_1", "event_type": "user.created",
            "status": "failed", "attempt_count": 6, "created_at": at.as_millisecond(),
        })
    };
    let looks = |n: usize| {
        let enough = log.reported().looks + n;
        let log = &log;
        move || log.reported().looks >= enough
    };
    let running = reconcile.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let running =
        tokio::spawn(async move { running.run(every, async { drop(stopped.await) }).await });
    let looked = async |times: usize| {
        let enough = looks(times);
        let looking = async {
            while !enough() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, looking)
            .await
            .expect("no further read");
        log.reported().asked.len()
    };
    let asked = looked(5).await;
    assert_eq!(
        (looked(10).await, handled.ids().len()),
        (asked, 1),
        "the log is read without a reason"
    );
    log.reported().failed_deliveries.push(failed(at(10)));
    let asked = {
        let read = looked(5).await;
        assert!(read > asked, "a failed delivery caused no read");
        read
    };
    assert_eq!(
        looked(10).await,
        asked,
        "the same failed delivery is a reason again and again"
    );
    // The endpoint was paused: no delivery shows what happened meanwhile.
    {
        let mut reported = log.reported();
        reported
            .events
            .push(event("evt_2", at(HOUR), "user.created", "usr_1"));
        reported.webhook["status_at"] = json!(at(2 * HOUR).as_millisecond());
    }
    let found = async {
        while handled.ids().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, found)
        .await
        .expect("a pause caused no read");
    stop.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test]
async fn the_log_is_read_until_it_must_contain_a_failed_deliverys_event() {
    let log = Log::of([event("evt_1", at(40_000), "user.created", "usr_1")]).await;
    log.reported().failed_deliveries.push(json!({
        "id": "whd_1", "webhook_id": "wh_1", "event_id": "evt_2", "event_type": "user.created", "status": "failed",
        "attempt_count": 6, "created_at": at(10_000).as_millisecond(),
    }));
    let (receiver, handled) = receiver();
    let reconcile = reconcile(&log, &receiver)
        .clock(super::clock(60_000))
        .only_if_missed()
        .build()
        .unwrap();
    // The newer event moves the watermark past the failed delivery, whose event enters the log
    // later.
    until(&reconcile, Duration::from_millis(1), || {
        let mut reported = log.reported();
        if reported.events.len() == 1 && reported.asked.len() >= 2 {
            reported
                .events
                .push(event("evt_2", at(9_000), "user.created", "usr_1"));
        }
        handled.ids().len() == 2
    })
    .await;
    assert_eq!(handled.ids(), ["evt_1", "evt_2"]);
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused() {
    let log = Log::start().await;
    let (receiver, _) = receiver();
    let builder = || reconcile(&log, &receiver);
    let year = Duration::from_hours(366 * 24);
    for (built, name) in [
        (builder().limit(0).build(), "limit"),
        (builder().concurrency(0).build(), "concurrency"),
        (builder().lease(Duration::ZERO).build(), "lease"),
        (builder().overlap(year).build(), "overlap"),
        (builder().retry_for(year).build(), "retry_for"),
    ] {
        assert_eq!(built.unwrap_err(), BuildError::Setting(name));
    }
}

#[tokio::test]
async fn the_record_of_whose_turn_it_is_is_no_event_to_an_inbox() {
    let log = Log::of([]).await;
    let store = Sqlite::in_memory().await.unwrap();
    let verifier = Verifier::dangerously_accept_unauthenticated();
    let receiver = Receiver::inbox("users", verifier, store.clone())
        .build()
        .unwrap();
    let _ = caught_up(&reconcile(&log, &receiver).build().unwrap())
        .await
        .into_result()
        .unwrap();
    let next = authpi_sdk::ledger::Inbox::lease_next(&store, "users", Duration::from_secs(1))
        .await
        .unwrap();
    assert!(
        matches!(next, authpi_sdk::ledger::NextEvent::Empty { .. }),
        "{next:?}"
    );
}
