//! The time from the start of an append to its handler, at a fixed number of events per second,
//! one at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use authpi_sdk::{
    handlers::Handlers,
    ledger::{Appended, Digest, EventKey, Inbox},
    worker::Worker,
};
use benches::{percentile, quick, table};
use serde::Serialize;
use tokio::{sync::mpsc, time::interval};

use super::{body, event_id};

const PER_SECOND: u32 = 100;
/// A separate endpoint, since others have left a backlog.
const ENDPOINT: &str = "latency";

#[derive(Serialize)]
pub(crate) struct Latency {
    store: &'static str,
    events: usize,
    per_second: u32,
    append_median_ms: f64,
    handled_median_ms: f64,
    handled_p99_ms: f64,
}

/// The worker uses `other`, if given, like another process.
pub(crate) async fn measure<I: Inbox + Clone>(
    store: &'static str,
    inbox: I,
    other: Option<I>,
) -> Latency {
    let events = if quick() { 200 } else { 2_000 };
    let (handled, mut reported) = mpsc::unbounded_channel();
    let handlers = Handlers::new(()).fallback(move |event, _| {
        let _ = handled.send((event.id().to_owned(), Instant::now()));
        std::future::ready(Ok(()))
    });
    // Polling is only a fallback, and must not affect the result.
    let worker = Worker::builder(ENDPOINT, other.unwrap_or_else(|| inbox.clone()), handlers)
        .poll_interval(Duration::from_secs(20));
    let worker = worker.build().expect("a worker");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move { worker.run(async { drop(stopped.await) }).await });

    let begun = Arc::new(Mutex::new(HashMap::new()));
    let mut appends = Vec::new();
    let mut ticks = interval(Duration::from_secs(1) / PER_SECOND);
    for n in 0..events {
        ticks.tick().await;
        let started = Instant::now();
        begun
            .lock()
            .expect("never poisoned")
            .insert(event_id(n), started);
        let (key, body) = (EventKey::new(ENDPOINT, event_id(n)), body(&event_id(n)));
        let appended = inbox
            .append(&key, Digest::from_bytes([0; 16]), None, body)
            .await
            .expect("the store answers");
        assert_eq!(
            appended,
            Appended::Stored,
            "there is something of an earlier run"
        );
        appends.push(millis(started.elapsed()));
    }
    let mut latencies = Vec::new();
    while latencies.len() < events {
        let (id, at) = reported.recv().await.expect("the worker works");
        if let Some(started) = begun.lock().expect("never poisoned").remove(&id) {
            latencies.push(millis(at - started));
        }
    }
    drop(stop);
    running.await.expect("the worker ends");
    Latency {
        store,
        events,
        per_second: PER_SECOND,
        append_median_ms: percentile(&mut appends, 50),
        handled_median_ms: percentile(&mut latencies, 50),
        handled_p99_ms: percentile(&mut latencies, 99),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

pub(crate) fn shown(latencies: &[Latency]) -> String {
    let head = [
        "100 events per second",
        "append ms",
        "handled ms",
        "99th percentile",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for one in latencies {
        let figures = [
            one.append_median_ms,
            one.handled_median_ms,
            one.handled_p99_ms,
        ];
        rows.push(
            [one.store.to_owned()]
                .into_iter()
                .chain(figures.map(|ms| format!("{ms:.1}")))
                .collect(),
        );
    }
    table(&rows)
}
