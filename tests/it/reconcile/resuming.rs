//! A run that ends early is continued by the next.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    reconcile::{FileWatermark, MemoryWatermark},
    stores::Memory,
    testing::ManualClock,
};

use super::{
    DAY, HOUR, Handled, at, caught_up, inline,
    log::{Log, Logged, event},
    noting, noting_in_two_tries, receiver, reconcile,
};

fn events(count: i64) -> Vec<Logged> {
    (0..count)
        .map(|n| {
            event(
                &format!("evt_{n:04}"),
                at(n * 60_000),
                "user.created",
                "usr_1",
            )
        })
        .collect()
}

fn ids(count: i64) -> Vec<String> {
    events(count).into_iter().map(|event| event.id).collect()
}

#[tokio::test]
async fn a_run_that_was_killed_is_gone_on_with_by_the_next_process() {
    let folder = std::env::temp_dir().join(format!("authpi-it-watermark-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let log = Log::of(events(1_000)).await;
    // The ledger outlives the process, and so does the file.
    let ledger = Memory::new();
    let handled = Handled::default();
    let (mut kills, mut read_last) = (0, u64::MAX);
    for round in 1.. {
        assert!(round < 100, "it never comes to its end");
        let receiver = inline(ledger.clone(), noting(&handled, |_| false))
            .build()
            .unwrap();
        let before = handled.ids().len();
        let reconcile = reconcile(&log, &receiver)
            .watermark(FileWatermark::new(folder.join("users")))
            .lease(Duration::from_millis(50))
            .on_progress({
                // At a different point each time.
                let (handled, enough) = (handled.clone(), before + 90 + round * 17);
                move |_| assert!(handled.ids().len() < enough, "killed")
            })
            .build()
            .unwrap();
        let run = tokio::spawn(async move { reconcile.catch_up().await });
        match tokio::time::timeout(super::TEST_TIMEOUT, run)
            .await
            .expect("a run does not end")
        {
            Ok(report) => {
                let report = report.unwrap();
                assert!(report.is_complete());
                read_last = report.progress.read;
                break;
            }
            Err(panicked) => assert!(panicked.is_panic()),
        }
        kills += 1;
    }
    assert!(kills > 2, "it was killed {kills} times");
    assert!(read_last < 1_000, "the last run began from the beginning");
    assert_eq!(handled.ids(), ids(1_000), "each once, in order");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn an_event_that_is_not_taken_ends_the_run_and_the_next_begins_with_it() {
    let log = Log::of(events(50)).await;
    let handled = Handled::default();
    let broken = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&broken);
    let handlers = noting_in_two_tries(&handled, move |event| {
        event.id() == "evt_0030" && fails.load(Ordering::SeqCst)
    });
    let time = ManualClock::at(at(100 * HOUR));
    let receiver = inline(Memory::new().with_clock(time.clock()), handlers)
        .build()
        .unwrap();
    let store = MemoryWatermark::new();
    let reconcile = reconcile(&log, &receiver)
        .watermark(store)
        .overlap(Duration::ZERO)
        .retry_for(DAY / 2);
    let reconcile = reconcile.build().unwrap();
    for again in [false, true] {
        let report = caught_up(&reconcile).await;
        let stopped = report.stopped.as_ref().expect("an event fails");
        assert_eq!(
            (stopped.event_id.as_str(), stopped.outcome),
            ("evt_0030", "failed")
        );
        assert_eq!(
            report.watermark,
            Some(at(30 * 60_000)),
            "all events before it were ingested, and it was not"
        );
        assert_eq!(report.progress.retried, 1, "it is tried twice");
        assert_eq!(report.progress.handled, if again { 0 } else { 30 });
        time.advance(DAY);
    }
    assert_eq!(handled.ids(), ids(30));
    broken.store(false, Ordering::SeqCst);
    let report = caught_up(&reconcile).await;
    assert!(report.is_complete());
    assert_eq!(handled.ids(), ids(50));
}

#[tokio::test]
async fn an_event_that_fails_now_and_then_is_tried_again_in_its_place() {
    let log = Log::of(events(30)).await;
    let handled = Handled::default();
    let tries = Arc::new(Mutex::new(std::collections::HashMap::<String, u32>::new()));
    let handlers = noting(&handled, move |event| {
        let mut tries = tries.lock().unwrap();
        let tries = tries.entry(event.id().to_owned()).or_default();
        *tries += 1;
        *tries <= 2 && event.id().ends_with('7')
    });
    let receiver = inline(Memory::new(), handlers).build().unwrap();
    let reconcile = reconcile(&log, &receiver)
        .retry_for(Duration::from_secs(30))
        .build()
        .unwrap();
    let report = caught_up(&reconcile).await;
    assert!(report.is_complete());
    assert_eq!(report.progress.retried, 6);
    assert_eq!(handled.ids(), ids(30));
}

#[tokio::test]
async fn a_failing_ordering_key_holds_the_watermark_and_no_event_is_passed_over() {
    let events = (0..40).map(|n| {
        event(
            &format!("evt_{n:04}"),
            at(n * 60_000),
            "user.created",
            &format!("usr_{}", n % 4),
        )
    });
    let log = Log::of(events).await;
    let handled = Handled::default();
    let broken = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&broken);
    let handlers = noting(&handled, move |event| {
        event.id() == "evt_0010" && fails.load(Ordering::SeqCst)
    });
    let receiver = inline(Memory::new(), handlers).build().unwrap();
    let per_user = authpi_sdk::event::Subject::user_id;
    let reconcile = reconcile(&log, &receiver)
        .concurrency(4)
        .ordered_by(per_user)
        .overlap(Duration::ZERO)
        .build()
        .unwrap();
    let report = caught_up(&reconcile).await;
    assert_eq!(
        report
            .stopped
            .as_ref()
            .map(|stopped| stopped.event_id.as_str()),
        Some("evt_0010")
    );
    assert!(report.watermark <= Some(at(10 * 60_000)), "{report:?}");
    broken.store(false, Ordering::SeqCst);
    assert!(caught_up(&reconcile).await.is_complete());
    let mut fed = handled.ids();
    fed.sort();
    assert_eq!(fed, ids(40));
}

#[tokio::test]
async fn when_authpi_fails_midway_the_error_tells_how_far_it_came() {
    let log = Log::of((0..300).map(|n| {
        event(
            &format!("evt_{n:04}"),
            at(n * HOUR / 3),
            "user.created",
            "usr_1",
        )
    }))
    .await;
    log.reported().answers = 4;
    let (receiver, handled) = receiver();
    let reconcile = reconcile(&log, &receiver).build().unwrap();
    let error = reconcile.catch_up().await.unwrap_err();
    assert!(
        error
            .client_error()
            .is_some_and(|error| error.status() == Some(http::StatusCode::INTERNAL_SERVER_ERROR))
    );
    let so_far = error.report().progress.handled;
    assert!(
        so_far > 0 && error.report().watermark.is_some(),
        "{error:?}"
    );
    log.reported().answers = usize::MAX;
    let report = caught_up(&reconcile).await;
    assert_eq!(so_far + report.progress.handled, 300);
    assert_eq!(handled.ids(), ids(300));
}

#[tokio::test]
async fn a_receiver_that_is_draining_ends_the_run_at_once() {
    let log = Log::of(events(3)).await;
    let (receiver, handled) = receiver();
    receiver.drain().await;
    let reconcile = reconcile(&log, &receiver)
        .retry_for(Duration::from_hours(1))
        .build()
        .unwrap();
    let report = caught_up(&reconcile).await;
    assert_eq!(
        report.stopped.map(|stopped| stopped.outcome),
        Some("draining")
    );
    assert!(handled.ids().is_empty());
}

#[tokio::test]
async fn progress_is_told_with_counts_that_never_go_back() {
    let log = Log::of(events(250)).await;
    let (receiver, _handled) = receiver();
    let reported = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&reported);
    let on_progress = move |progress: &authpi_sdk::reconcile::Progress| {
        telling.lock().unwrap().push(progress.clone());
    };
    let reconcile = reconcile(&log, &receiver)
        .on_progress(on_progress)
        .build()
        .unwrap();
    let report = caught_up(&reconcile).await;
    let reported = reported.lock().unwrap();
    assert!(
        reported
            .windows(2)
            .all(|two| two[0].ingested() <= two[1].ingested() && two[0].position <= two[1].position)
    );
    assert!(
        reported
            .iter()
            .any(|progress| progress.ingested() == 100 && progress.lag > Duration::from_hours(1))
    );
    let last = reported.last().unwrap();
    assert_eq!(
        (last, last.ingested(), last.lag),
        (&report.progress, 250, Duration::ZERO)
    );
    assert!(last.rate() > 0.0 && last.pages >= 3);
}
