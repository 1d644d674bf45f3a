//! Which events of the log are ingested, and in which order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    Clock,
    event::{Event, Subject},
    handlers::{Context, Handlers},
    ledger::{Inbox as _, NextEvent},
    receiver::Receiver,
    reconcile::MemoryWatermark,
    signature::Verifier,
    stores::{Memory, Sqlite},
    telemetry,
    testing::{Fixture, ManualClock},
};
use jiff::SignedDuration;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use serde_json::json;

use super::{
    DAY, HOUR, Handled, at, caught_up, clock, created, inline,
    log::{Log, Logged, Order, event, large, nonsense},
    noting, noting_in_two_tries, receiver, reconcile,
};

/// Events over two days, some at the same time; ids do not sort by time.
fn two_days() -> Vec<Logged> {
    let event = |n: i64| {
        let id = format!("evt_{}", (n * 7919) % 1000);
        event(
            &id,
            at(n * n * 937 % (48 * HOUR) / 5_000 * 5_000),
            "user.created",
            "usr_1",
        )
    };
    (1..=300).map(event).collect()
}

/// By time, then by id.
fn sorted(mut events: Vec<Logged>) -> Vec<String> {
    events.sort_by_key(|event| {
        let json: serde_json::Value = serde_json::from_str(event.json()).unwrap();
        (json["timestamp"].as_i64(), event.id.clone())
    });
    events.into_iter().map(|event| event.id).collect()
}

#[tokio::test]
async fn events_are_ingested_by_time_whatever_the_list_order() {
    let wanted = sorted(two_days());
    let orders = [
        Order::OldestFirst,
        Order::NewestFirst,
        Order::Shuffled(1),
        Order::Shuffled(2),
        Order::Shuffled(3),
    ];
    for order in orders {
        for (inclusive, page, limit) in [
            (false, 100, 10_000),
            (true, 7, 10_000),
            (false, 9, 20),
            (true, 100, 1),
        ] {
            let log = Log::of(two_days()).await;
            {
                let mut reported = log.reported();
                (reported.order, reported.inclusive, reported.page) = (order, inclusive, page);
            }
            let (receiver, handled) = receiver();
            let report = caught_up(&reconcile(&log, &receiver).limit(limit).build().unwrap()).await;
            let case = format!(
                "{order:?}, edges inclusive: {inclusive}, {page} to a page, {limit} at once"
            );
            assert_eq!(handled.ids(), wanted, "{case}");
            assert!(report.is_complete(), "{case}");
            // A long run reads again, and finds the last events a second time.
            assert!(
                report.progress.duplicates == 0 || report.passes > 1,
                "{case}"
            );
        }
    }
}

#[tokio::test]
async fn a_page_above_the_response_limit_is_requested_in_parts() {
    let events: Vec<_> = (0..60)
        .map(|n| large(&format!("evt_{n:02}"), at(n), 300_000))
        .collect();
    let log = Log::of(events.clone()).await;
    let (receiver, handled) = receiver();
    assert!(
        caught_up(&reconcile(&log, &receiver).build().unwrap())
            .await
            .is_complete()
    );
    assert_eq!(handled.ids(), sorted(events));
    let limits: BTreeSet<_> = log
        .reported()
        .asked
        .iter()
        .filter_map(|asked| asked.get("limit").cloned())
        .collect();
    assert!(
        limits.contains("100") && limits.contains("25"),
        "{limits:?}"
    );

    // A single oversized event is reported, and nothing is skipped.
    log.reported()
        .events
        .push(large("evt_huge", at(HOUR), 9 << 20));
    let error = reconcile(&log, &receiver)
        .build()
        .unwrap()
        .catch_up()
        .await
        .unwrap_err();
    assert!(
        error.client_error().unwrap().is_malformed_response(),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_page_that_hides_the_next_one_ends_the_run_and_moves_no_watermark() {
    let log =
        Log::of((0..5).map(|n| event(&format!("evt_{n}"), at(n), "user.created", "usr_1"))).await;
    (log.reported().page, log.reported().hides_the_next) = (2, true);
    let (receiver, handled) = receiver();
    let reconcile = reconcile(&log, &receiver).build().unwrap();
    let error = reconcile.catch_up().await.unwrap_err();
    assert!(
        error
            .client_error()
            .unwrap()
            .to_string()
            .contains("next_cursor"),
        "{error:?}"
    );
    assert_eq!((error.report().watermark, handled.ids().len()), (None, 0));
    log.reported().hides_the_next = false;
    assert!(caught_up(&reconcile).await.is_complete());
    assert_eq!(handled.ids().len(), 5);
}

#[tokio::test]
async fn a_long_read_is_followed_by_another_even_without_new_events() {
    let time = Arc::new(AtomicI64::new(HOUR));
    let log = Log::of([event("evt_1", at(0), "user.created", "usr_1")]).await;
    let (receiver, handled) = receiver();
    let _ = caught_up(&reconcile(&log, &receiver).build().unwrap())
        .await
        .into_result()
        .unwrap();
    assert_eq!(handled.take(), ["evt_1"]);
    // It is known now, and another one happens after the first read has started.
    let (now, mut pages) = (Arc::clone(&time), 0);
    log.reported().before_page = Some(Box::new(move |events| {
        pages += 1;
        if pages == 2 {
            events.push(event("evt_2", at(HOUR + 1), "user.created", "usr_1"));
        }
        now.fetch_add(5_000, Ordering::SeqCst);
    }));
    let report = caught_up(
        &reconcile(&log, &receiver)
            .clock(clock_of(&time))
            .build()
            .unwrap(),
    )
    .await;
    assert_eq!(handled.take(), ["evt_2"], "{report:?}");
}

#[tokio::test]
async fn what_is_read_again_is_a_duplicate_and_what_came_late_is_found() {
    let log = Log::of([
        event("evt_1", at(HOUR), "user.created", "usr_1"),
        event("evt_3", at(3 * HOUR), "user.created", "usr_1"),
    ])
    .await;
    let (receiver, handled) = receiver();
    let reconcile = reconcile(&log, &receiver)
        .overlap(Duration::from_hours(1))
        .build()
        .unwrap();
    let report = caught_up(&reconcile).await;
    assert_eq!(report.watermark, Some(at(3 * HOUR)));
    assert_eq!(handled.take(), ["evt_1", "evt_3"]);

    // In this order: one that enters the log late, one at the edge of the overlap, one just before
    // the overlap (not read), and a new one.
    log.reported().events.extend([
        event("evt_2", at(3 * HOUR - 1), "user.created", "usr_1"),
        event("evt_edge", at(2 * HOUR), "user.created", "usr_1"),
        event("evt_before", at(2 * HOUR - 1), "user.created", "usr_1"),
        event("evt_4", at(4 * HOUR), "user.created", "usr_1"),
    ]);
    let report = caught_up(&reconcile).await;
    assert_eq!(handled.take(), ["evt_edge", "evt_2", "evt_4"]);
    assert_eq!((report.progress.read, report.progress.duplicates), (4, 1));
    assert_eq!(report.progress.new_events(), 3);
}

#[tokio::test]
async fn events_during_a_read_are_ingested_by_this_run_or_the_next() {
    for order in [Order::OldestFirst, Order::NewestFirst, Order::Shuffled(4)] {
        let log = Log::of(two_days()).await;
        let added = Arc::new(AtomicUsize::new(0));
        {
            let mut reported = log.reported();
            (reported.order, reported.page) = (order, 10);
            let added = Arc::clone(&added);
            reported.before_page = Some(Box::new(move |events| {
                let n = added.fetch_add(1, Ordering::SeqCst);
                if n < 40 {
                    let late = SignedDuration::from_secs(i64::try_from(n).unwrap());
                    events.push(event(
                        &format!("evt_new_{n}"),
                        at(99 * HOUR) + late,
                        "user.created",
                        "usr_1",
                    ));
                }
            }));
        }
        let (receiver, handled) = receiver();
        let reconcile = reconcile(&log, &receiver).build().unwrap();
        let _ = caught_up(&reconcile).await.into_result().unwrap();
        let _ = caught_up(&reconcile).await.into_result().unwrap();
        let _ = caught_up(&reconcile).await.into_result().unwrap();
        assert!(added.load(Ordering::SeqCst) >= 40);
        let (fed, logged) = (handled.ids(), log.reported().events.len());
        assert_eq!(
            fed.iter().collect::<BTreeSet<_>>().len(),
            logged,
            "{order:?}"
        );
        assert_eq!(fed.len(), logged, "{order:?}");
    }
}

#[tokio::test]
async fn a_clock_that_is_hours_off_makes_no_gap() {
    for ours in [-10 * HOUR, 0, HOUR, 700 * HOUR] {
        let log = Log::of(two_days()).await;
        let (receiver, handled) = receiver();
        let store = MemoryWatermark::new();
        let reconcile = || {
            reconcile(&log, &receiver)
                .watermark(store.clone())
                .limit(50)
        };
        let _ = caught_up(&reconcile().clock(clock(ours)).build().unwrap())
            .await
            .into_result()
            .unwrap();
        assert_eq!(
            handled.ids().len(),
            300,
            "our clock is {ours} ms after the creation"
        );
        // The clock is corrected, and more events happen.
        log.reported()
            .events
            .push(event("evt_after", at(49 * HOUR), "user.created", "usr_1"));
        let _ = caught_up(&reconcile().clock(clock(50 * HOUR)).build().unwrap())
            .await
            .into_result()
            .unwrap();
        assert_eq!(
            handled.ids().len(),
            301,
            "our clock was {ours} ms after the creation"
        );
    }
}

#[tokio::test]
async fn an_event_from_the_far_future_does_not_draw_the_watermark_along() {
    let log = Log::of([event(
        "evt_3000",
        at(9_000_000 * HOUR),
        "user.created",
        "usr_1",
    )])
    .await;
    let (receiver, handled) = receiver();
    let reconcile = reconcile(&log, &receiver).build().unwrap();
    let _ = caught_up(&reconcile).await.into_result().unwrap();
    log.reported()
        .events
        .push(event("evt_now", at(100 * HOUR), "user.created", "usr_1"));
    let _ = caught_up(&reconcile).await.into_result().unwrap();
    assert_eq!(handled.ids(), ["evt_3000", "evt_now"]);
}

#[tokio::test]
async fn the_webhooks_filter_its_subjects_and_its_creation_are_heeded() {
    let events = [
        event("evt_wanted", at(10), "user.created", "usr_1"),
        event("evt_at_creation", at(0), "user.updated", "usr_1"),
        event("evt_before", at(-1), "user.created", "usr_1"),
        event("evt_other_type", at(20), "session.created", "usr_1"),
        event("evt_other_user", at(30), "user.created", "usr_2"),
    ];
    let log = Log::of(events).await;
    let (receiver, handled) = receiver();
    let _ = caught_up(&reconcile(&log, &receiver).build().unwrap())
        .await
        .into_result()
        .unwrap();
    assert_eq!(
        handled.take(),
        ["evt_at_creation", "evt_wanted", "evt_other_user"]
    );
    assert_eq!(
        log.reported().asked[0]["event_types"],
        "user.created,user.updated"
    );

    let fresh = || super::receiver();
    log.reported().webhook["subjects"] = json!([{"org_id": "org_1"}, {"user_id": "usr_1"}]);
    let (receiver, handled) = fresh();
    let _ = caught_up(&reconcile(&log, &receiver).build().unwrap())
        .await
        .into_result()
        .unwrap();
    assert_eq!(handled.take(), ["evt_at_creation", "evt_wanted"]);

    let (receiver, handled) = fresh();
    let others =
        |event: &Event, _: &[authpi_sdk::RawJson]| event.subject().user_id() != Some("usr_1");
    let _ = caught_up(&reconcile(&log, &receiver).subjects(others).build().unwrap())
        .await
        .into_result()
        .unwrap();
    assert_eq!(handled.take(), ["evt_other_user"]);

    log.reported().webhook["subjects"] = json!(null);
    log.reported().webhook["events"] = json!([]);
    let (receiver, handled) = fresh();
    let _ = caught_up(
        &reconcile(&log, &receiver)
            .since(created() - SignedDuration::from_hours(1))
            .build()
            .unwrap(),
    )
    .await
    .into_result()
    .unwrap();
    assert_eq!(
        handled.take(),
        [
            "evt_before",
            "evt_at_creation",
            "evt_wanted",
            "evt_other_type",
            "evt_other_user"
        ],
        "a webhook without a filter, and from before its creation, as was asked for"
    );
}

#[tokio::test]
async fn an_event_reaches_its_handler_as_the_log_has_it_byte_for_byte() {
    let logged = event("evt_1", at(5), "user.created", "usr_1");
    let log = Log::of([logged.clone()]).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handlers = Handlers::new(Arc::clone(&seen)).fallback(
        async |event: Event, cx: Context<Arc<Mutex<Vec<String>>>>| {
            cx.state().lock().unwrap().push(event.raw().to_owned());
            assert_eq!(
                (event.time(), event.subject().user_id()),
                (at(5), Some("usr_1"))
            );
            Ok(())
        },
    );
    let receiver = Receiver::inline(
        "users",
        Verifier::dangerously_accept_unauthenticated(),
        Memory::new(),
        handlers,
    )
    .build()
    .unwrap();
    let _ = caught_up(&reconcile(&log, &receiver).build().unwrap())
        .await
        .into_result()
        .unwrap();
    assert_eq!(*seen.lock().unwrap(), [logged.json()]);
}

#[tokio::test]
async fn delivered_and_reconciled_events_are_handled_once() {
    let log = Log::of(["evt_1", "evt_2"].map(|id| event(id, at(5), "user.created", "usr_1"))).await;
    let (receiver, handled) = receiver();
    let deliver = async |id: &str| {
        let body = Fixture::new("user.created").id(id).time(at(5)).body();
        let request = http::Request::post("/")
            .body(http_body_util::Full::new(body))
            .unwrap();
        let answer = receiver.receive(request).await;
        String::from_utf8(
            http_body_util::BodyExt::collect(answer.into_body())
                .await
                .unwrap()
                .to_bytes()
                .to_vec(),
        )
        .unwrap()
    };
    assert_eq!(deliver("evt_1").await, "");
    let report = caught_up(&reconcile(&log, &receiver).build().unwrap()).await;
    assert_eq!(
        (report.progress.duplicates, report.progress.handled),
        (1, 1)
    );
    assert_eq!(deliver("evt_2").await, "duplicate");
    assert_eq!(handled.ids(), ["evt_1", "evt_2"]);
}

#[tokio::test]
async fn what_is_no_event_is_buried_and_holds_up_nothing() {
    let log = Log::of([
        event("evt_1", at(5), "user.created", "usr_1"),
        nonsense(at(6)),
        event("evt_2", at(7), "user.created", "usr_1"),
    ])
    .await;
    let handled = Handled::default();
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = inline(store.clone(), noting(&handled, |_| false))
        .build()
        .unwrap();
    let report = caught_up(&reconcile(&log, &receiver).build().unwrap()).await;
    assert_eq!((report.unreadable, report.is_complete()), (1, true));
    assert_eq!(handled.ids(), ["evt_1", "evt_2"]);
    let letters = store.dead_letters("users", None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(&letters[0].body[..], br#"{"type":7}"#);

    // A store without dead letters.
    let (receiver, handled) = super::receiver();
    let report = caught_up(&reconcile(&log, &receiver).build().unwrap()).await;
    assert_eq!((report.unreadable, handled.ids().len()), (1, 2));
}

#[tokio::test]
async fn an_inbox_gets_the_events_in_order_and_its_worker_handles_them() {
    let log = Log::of(two_days()).await;
    let store = Sqlite::in_memory().await.unwrap();
    let receiver = Receiver::inbox(
        "users",
        Verifier::dangerously_accept_unauthenticated(),
        store.clone(),
    )
    .ordered_by(Subject::user_id)
    .build()
    .unwrap();
    let reconcile = reconcile(&log, &receiver).build().unwrap();
    let report = caught_up(&reconcile).await;
    assert_eq!(
        (
            report.progress.stored,
            store.backlog("users").await.unwrap().depth
        ),
        (300, 300)
    );
    let again = caught_up(&reconcile).await;
    assert_eq!(again.progress.new_events(), 0);
    // All are one user's, so they are leased one after the other; the lock's record is not among
    // them.
    for id in sorted(two_days()) {
        let NextEvent::Leased(leased) = store
            .lease_next("users", Duration::from_mins(1))
            .await
            .unwrap()
        else {
            panic!("the inbox has not all events");
        };
        assert_eq!(leased.key.event_id(), id);
        let done = authpi_sdk::ledger::Completion::Handled;
        let held = authpi_sdk::ledger::Ledger::complete(&store, &leased.key, leased.token, done)
            .await
            .unwrap();
        assert_eq!(held, authpi_sdk::ledger::LeaseStatus::Held);
    }
    assert_eq!(store.backlog("users").await.unwrap().depth, 0);
}

type Users = Arc<Mutex<std::collections::BTreeMap<String, Vec<String>>>>;

#[tokio::test]
async fn concurrent_ingestion_keeps_the_order_per_user() {
    let events: Vec<_> = (0..200)
        .map(|n| {
            event(
                &format!("evt_{n:03}"),
                at(n),
                "user.updated",
                &format!("usr_{}", n % 7),
            )
        })
        .collect();
    let log = Log::of(events).await;
    let by_user = Users::default();
    let handlers =
        Handlers::new(Arc::clone(&by_user)).fallback(async |event: Event, cx: Context<Users>| {
            // Others may come in between.
            tokio::task::yield_now().await;
            let user = event.subject().user_id().unwrap_or_default().to_owned();
            cx.state()
                .lock()
                .unwrap()
                .entry(user)
                .or_default()
                .push(event.id().to_owned());
            Ok(())
        });
    let receiver = Receiver::inline(
        "users",
        Verifier::dangerously_accept_unauthenticated(),
        Memory::new(),
        handlers,
    )
    .build()
    .unwrap();
    let reconcile = reconcile(&log, &receiver)
        .concurrency(16)
        .ordered_by(Subject::user_id)
        .build()
        .unwrap();
    assert_eq!(caught_up(&reconcile).await.progress.handled, 200);
    let by_user = by_user.lock().unwrap();
    assert_eq!(by_user.len(), 7);
    for (user, events) in &*by_user {
        assert!(
            events.is_sorted(),
            "the events of {user} came as {events:?}"
        );
    }
}

/// Our clock, in milliseconds after the webhook's creation, controlled by a test.
fn clock_of(millis: &Arc<AtomicI64>) -> Clock {
    let millis = Arc::clone(millis);
    Clock::from_fn(move || at(millis.load(Ordering::SeqCst)))
}

#[tokio::test]
async fn forgotten_events_are_not_handled_again_with_a_lost_or_stale_watermark() {
    let day = 24 * HOUR;
    let log = Log::of([event("evt_old", at(HOUR), "user.created", "usr_1")]).await;
    let time = Arc::new(AtomicI64::new(day));
    let store = Sqlite::options()
        .clock(clock_of(&time))
        .retention(Duration::from_hours(30 * 24));
    let store = store.in_memory().await.unwrap();
    let handled = Handled::default();
    let receiver = inline(store, noting(&handled, |_| false))
        .clock(clock_of(&time))
        .build()
        .unwrap();
    let kept = MemoryWatermark::new();
    let with = |watermark: MemoryWatermark| {
        reconcile(&log, &receiver)
            .clock(clock_of(&time))
            .watermark(watermark)
    };
    let report = caught_up(&with(kept.clone()).build().unwrap()).await;
    assert_eq!(
        (report.not_read_before, handled.take()),
        (None, vec!["evt_old".to_owned()])
    );

    // Later claims prune handled events.
    time.store(60 * day, Ordering::SeqCst);
    log.reported()
        .events
        .push(event("evt_new", at(59 * day), "user.created", "usr_1"));
    let known_from = at(30 * day) + SignedDuration::from_mins(10);
    let report = caught_up(&with(kept.clone()).build().unwrap()).await;
    assert_eq!(
        (report.not_read_before, handled.take()),
        (Some(known_from), vec!["evt_new".to_owned()])
    );
    let report = caught_up(&with(MemoryWatermark::new()).build().unwrap()).await;
    assert_eq!(
        (report.not_read_before, handled.take()),
        (Some(known_from), vec![])
    );
    assert!(report.is_complete());
    // The watermark has moved.
    assert_eq!(
        caught_up(&with(kept).build().unwrap())
            .await
            .not_read_before,
        None
    );
    // With `since`, the old part of the log is read anyway, and the forgotten event is handled
    // again.
    let report = caught_up(
        &with(MemoryWatermark::new())
            .since(created())
            .build()
            .unwrap(),
    )
    .await;
    assert_eq!(
        (report.not_read_before, handled.take()),
        (None, vec!["evt_old".to_owned()])
    );
}

#[tokio::test]
async fn an_event_that_enters_a_read_window_late_is_found() {
    let minute = 60_000;
    let begun = 10 * HOUR;
    let log = Log::of((0..5).map(|n| {
        event(
            &format!("evt_{n}"),
            at(begun - (8 - n) * minute),
            "user.created",
            "u",
        )
    }))
    .await;
    let time = Arc::new(AtomicI64::new(begun));
    let handled = Handled::default();
    let slow = Arc::clone(&time);
    let handlers = noting(&handled, move |_| {
        slow.fetch_add(30 * minute, Ordering::SeqCst);
        false
    });
    let receiver = inline(Memory::new(), handlers).build().unwrap();
    let (seen, mut came) = (handled.clone(), false);
    log.reported().before_page = Some(Box::new(move |events| {
        if seen.ids().len() == 4 && !came {
            came = true;
            events.push(event(
                "evt_late",
                at(begun - 9 * minute),
                "user.created",
                "u",
            ));
            events.push(event(
                "evt_young",
                at(begun + 60 * minute),
                "user.created",
                "u",
            ));
        }
    }));
    let reconcile = reconcile(&log, &receiver)
        .clock(clock_of(&time))
        .limit(1)
        .build()
        .unwrap();
    let _ = caught_up(&reconcile).await.into_result().unwrap();
    let _ = caught_up(&reconcile).await.into_result().unwrap();
    let mut ids = handled.ids();
    ids.sort();
    assert_eq!(
        ids,
        [
            "evt_0",
            "evt_1",
            "evt_2",
            "evt_3",
            "evt_4",
            "evt_late",
            "evt_young"
        ]
    );
}

#[tokio::test]
async fn a_run_that_never_catches_up_ends_and_says_so() {
    let log = Log::of([]).await;
    let time = Arc::new(AtomicI64::new(HOUR));
    let handled = Handled::default();
    let slow = Arc::clone(&time);
    let handlers = noting(&handled, move |_| {
        slow.fetch_add(2_000, Ordering::SeqCst);
        false
    });
    let receiver = inline(Memory::new(), handlers).build().unwrap();
    let (mut n, now) = (0, Arc::clone(&time));
    log.reported().before_page = Some(Box::new(move |events| {
        n += 1;
        events.push(event(
            &format!("evt_{n}"),
            at(now.load(Ordering::SeqCst)),
            "user.created",
            "usr_1",
        ));
    }));
    let reconcile = reconcile(&log, &receiver)
        .clock(clock_of(&time))
        .build()
        .unwrap();
    let report = caught_up(&reconcile).await;
    assert_eq!(
        (
            report.passes,
            report.stopped.is_none(),
            report.is_complete()
        ),
        (10, true, false)
    );
    assert!(report.progress.lag >= Duration::from_secs(2), "{report:?}");
}

#[tokio::test]
async fn an_unreadable_event_is_retried_until_the_receiver_drains() {
    let log = Log::of([nonsense(at(6))]).await;
    let (receiver, _) = receiver();
    receiver.drain().await;
    let report = caught_up(&reconcile(&log, &receiver).build().unwrap()).await;
    assert_eq!(report.unreadable, 0);
    let stopped = report.stopped.unwrap();
    assert!(
        stopped.event_id.starts_with("unreadable:") && stopped.outcome == "draining",
        "{stopped:?}"
    );
}

#[tokio::test]
async fn ingested_events_are_counted_by_outcome_and_the_lag_is_reported() {
    let log = Log::of([
        event("evt_1", at(HOUR), "user.created", "usr_1"),
        event("evt_2", at(2 * HOUR), "user.created", "usr_2"),
        event("evt_3", at(3 * HOUR), "user.created", "usr_3"),
    ])
    .await;
    let (handled, time) = (Handled::default(), ManualClock::at(at(100 * HOUR)));
    let handlers = noting_in_two_tries(&handled, |event| event.id() == "evt_3");
    let receiver = inline(Memory::new().with_clock(time.clock()), handlers)
        .build()
        .unwrap();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    {
        let _recorded = metrics::set_default_local_recorder(&recorder);
        let reconcile = reconcile(&log, &receiver)
            .overlap(Duration::from_hours(100))
            .retry_for(DAY / 2);
        let reconcile = reconcile.build().unwrap();
        for _ in 0..2 {
            let _ = caught_up(&reconcile).await;
            time.advance(DAY);
        }
    }
    let (mut counted, mut lag) = (BTreeMap::new(), None);
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels = || key.key().labels().map(|label| (label.key(), label.value()));
        match (key.key().name(), value) {
            (telemetry::RECONCILED, DebugValue::Counter(count)) => {
                assert!(
                    labels().any(|label| label == ("endpoint", "users")),
                    "{key:?}"
                );
                let outcome = labels()
                    .find(|(label, _)| *label == "outcome")
                    .map(|(_, outcome)| outcome.to_owned());
                counted.insert(outcome.unwrap(), count);
            }
            (telemetry::RECONCILE_LAG_SECONDS, DebugValue::Gauge(seconds)) => {
                assert_eq!(labels().collect::<Vec<_>>(), [("endpoint", "users")]);
                lag = Some(seconds.0);
            }
            _ => {}
        }
    }
    // The second run finds the handled events of the first, and fails at the same event.
    let outcomes = [("duplicate", 2), ("handled", 2), ("not_accepted", 2)]
        .map(|(outcome, count)| (outcome.to_owned(), count));
    assert_eq!(counted, BTreeMap::from(outcomes));
    assert_eq!(
        lag,
        Some(98.0 * 3600.0),
        "as far as the last event that was taken"
    );
}
