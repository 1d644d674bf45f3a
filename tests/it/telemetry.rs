//! Spans and metrics: exactly what `docs/observability.md` lists, and nothing secret.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    fs,
    future::pending,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use authpi_sdk::{
    client::Client,
    event::{
        Event,
        types::{UserCreated, UserDeleted},
    },
    handlers::{Context, HandlerError, Handlers},
    ledger::{
        Claim, Completion, Digest, EventKey, Inbox, LeaseStatus, Ledger, LedgerError,
        LedgerErrorKind, NextEvent, Token, Tx,
    },
    receiver::{Receiver, StoreFailure},
    signature::{KeyRing, SignatureScheme, Verifier},
    stores::{Memory, Sqlite},
    telemetry::{self, METRICS, MetricKind},
    testing::Fixture,
    worker::{Worker, WorkerBuilder},
};
use bytes::Bytes;
use http::Method;
use http_body::{Body, Frame};
use metrics_util::{
    MetricKind as RecordedKind,
    debugging::{DebugValue, DebuggingRecorder, Snapshotter},
};
use tokio::{
    sync::{Notify, Semaphore, oneshot},
    time::timeout,
};
use tracing::{
    Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::answers::Picky;
use crate::support::{
    SECRET, keys,
    log::{Logged, assert_clean, listen, personal},
    request, signed, verifier,
};

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

fn created(id: &str) -> Fixture {
    personal(Fixture::of::<UserCreated>().id(id))
}

/// State shared by handlers and test.
struct World<L> {
    store: L,
    started: Notify,
    go: Semaphore,
}

/// One handler whose behaviour depends on the event's id.
fn handlers<L: Ledger>(store: L) -> (Handlers<World<L>>, Arc<World<L>>) {
    let world = World {
        store,
        started: Notify::new(),
        go: Semaphore::new(0),
    };
    let handlers =
        Handlers::new(world).on(async |event: Event<UserCreated>, cx: Context<World<L>>| {
            tracing::info!("the handler's own line");
            let key = EventKey::new(cx.endpoint(), event.id());
            match event.id().rsplit('_').next().unwrap_or_default() {
                "fails" => Err(HandlerError::retryable("busy")),
                "terminal" => Err(HandlerError::terminal("no such user")),
                "panics" => panic!("a bug"),
                "stalls" => pending().await,
                "overtaken" => {
                    cx.state().store.forget(&key).await?;
                    Ok(())
                }
                "taken" => {
                    cx.state().store.forget(&key).await?;
                    pending().await
                }
                "waits" => {
                    cx.state().started.notify_one();
                    cx.state().go.acquire().await?.forget();
                    Ok(())
                }
                _ => Ok(()),
            }
        });
    let world = handlers.state();
    (handlers, world)
}

/// A body that stalls, or fails.
struct Broken(bool);

impl Body for Broken {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.0 {
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

/// Causes each response of a receiver, for each reason.
#[expect(clippy::too_many_lines, reason = "one case after another")]
async fn deliver_everything() {
    let memory = Memory::new();
    let (handle, world) = handlers(memory.clone());
    let receiver = Receiver::inline("inline", verifier(), memory.clone(), handle)
        .handler_timeout(Duration::from_mins(1))
        .in_flight_wait(Duration::ZERO)
        .max_in_flight(2)
        .build()
        .unwrap();
    for id in ["ok", "ok", "fails", "terminal", "panics", "overtaken"] {
        receiver.receive(request(&created(id))).await;
    }
    // A timeout in a receiver of its own, so that nothing else has to finish within it.
    let soon = Duration::from_millis(20);
    let of = |endpoint: &'static str| {
        Receiver::inline(
            endpoint,
            verifier(),
            memory.clone(),
            handlers(memory.clone()).0,
        )
    };
    of("timeout")
        .handler_timeout(soon)
        .build()
        .unwrap()
        .receive(request(&created("stalls")))
        .await;
    of("lease")
        .lease(soon)
        .handler_timeout(Duration::from_mins(1))
        .build()
        .unwrap()
        .receive(request(&created("taken")))
        .await;
    let stalled = of("body").body_timeout(soon).build().unwrap();
    stalled
        .receive(request(&created("broken")).map(|_| Broken(true)))
        .await;
    receiver
        .receive(request(
            &created("ok").data(serde_json::json!({ "username": "another PAYLOAD" })),
        ))
        .await;
    receiver
        .receive(request(&personal(Fixture::of::<UserDeleted>())))
        .await;
    receiver
        .receive(request(&created("old").time(jiff::Timestamp::UNIX_EPOCH)))
        .await;
    let unreadable = || signed(r#"{"PAYLOAD":"#);
    receiver.receive(unreadable()).await;
    for forged in ["FORGED", &"0".repeat(64)] {
        let mut sent = request(&created("forged"));
        sent.headers_mut()
            .insert("x-webhook-signature", forged.parse().unwrap());
        receiver.receive(sent).await;
    }
    let mut bare = request(&created("forged"));
    *bare.headers_mut() = http::HeaderMap::new();
    receiver.receive(bare).await;
    let mut got = request(&created("got"));
    *got.method_mut() = Method::GET;
    receiver.receive(got).await;
    receiver
        .receive(request(&created("broken")).map(|_| Broken(false)))
        .await;
    let waiting = |id: &'static str| {
        let receiver = receiver.clone();
        tokio::spawn(async move { receiver.receive(request(&created(id))).await })
    };
    let first = waiting("waits");
    world.started.notified().await;
    receiver.receive(request(&created("waits"))).await;
    let second = waiting("also_waits");
    world.started.notified().await;
    receiver.receive(request(&created("too_many"))).await;
    world.go.add_permits(2);
    first.await.unwrap();
    second.await.unwrap();
    receiver.ingest(created("fed").verified()).await;
    receiver.drain().await;
    receiver.receive(request(&created("late"))).await;
    receiver.ingest(created("late").verified()).await;

    let store = Sqlite::in_memory().await.unwrap();
    let kept = Receiver::inline("kept", verifier(), store.clone(), handlers(store.clone()).0);
    let kept = kept.build().unwrap();
    kept.receive(request(&created("terminal"))).await;
    kept.receive(request(&created("old").time(jiff::Timestamp::UNIX_EPOCH)))
        .await;
    kept.receive(unreadable()).await;
    let (handle, _) = handlers(Memory::new());
    let full = Receiver::inline("full", verifier(), Memory::new().with_capacity(1), handle)
        .build()
        .unwrap();
    for id in ["first", "second"] {
        full.receive(request(&created(id))).await;
    }
    let plain = || Handlers::new(()).on(async |_: Event<UserCreated>, _| Ok(()));
    let refused = Receiver::inline(
        "buried",
        verifier(),
        Picky::new(store.clone(), 1, 0),
        plain(),
    );
    refused
        .build()
        .unwrap()
        .receive(request(&created("refused")))
        .await;
    let refused = Receiver::inline(
        "refused",
        verifier(),
        Picky::new(Memory::new(), 1, 0),
        plain(),
    );
    refused
        .build()
        .unwrap()
        .receive(request(&created("refused")))
        .await;
    let dropping = Receiver::inline(
        "dropping",
        verifier(),
        Memory::new(),
        handlers(Memory::new()).0,
    );
    dropping
        .drop_terminal_failures()
        .build()
        .unwrap()
        .receive(request(&created("terminal")))
        .await;
    let small = Receiver::inline(
        "small",
        verifier().max_body(9),
        Memory::new(),
        handlers(Memory::new()).0,
    );
    small
        .build()
        .unwrap()
        .receive(request(&created("large")))
        .await;
    let full = verifier().max_body(40_000);
    let full = Receiver::inline("full", full, Memory::new(), handlers(Memory::new()).0)
        .max_unverified_bytes(40_000)
        .build()
        .unwrap();
    let stalling =
        || request(&created("stalling")).map(|_| Stalling(Some(vec![b' '; 39_000].into())));
    // One of them is dropped to make room, and the other is then cancelled.
    tokio::select! {
        _ = full.receive(stalling()) => {}
        _ = full.receive(stalling()) => {}
    }
    let expired = KeyRing::new().with_during("gone", SECRET, ..jiff::Timestamp::UNIX_EPOCH);
    let ahead = Receiver::inline(
        "ahead",
        verifier(),
        Memory::new(),
        handlers(Memory::new()).0,
    );
    ahead
        .build()
        .unwrap()
        .receive(request(&created("old").time(jiff::Timestamp::UNIX_EPOCH)))
        .await;
    let unset = Receiver::inline(
        "unset",
        Verifier::authpi(expired),
        Memory::new(),
        handlers(Memory::new()).0,
    )
    .build()
    .unwrap();
    unset.receive(request(&created("unset"))).await;
    let stale = Verifier::new(SignatureScheme::timestamped(), keys());
    let stale = stale.clock(authpi_sdk::Clock::from_fn(|| jiff::Timestamp::UNIX_EPOCH));
    let stale = Receiver::inline("stale", stale, Memory::new(), handlers(Memory::new()).0)
        .build()
        .unwrap();
    stale
        .receive(
            created("stale")
                .request(&SignatureScheme::timestamped(), &SECRET.into())
                .unwrap(),
        )
        .await;
    store.close().await;
    kept.receive(request(&created("down"))).await;
    let anyway = Receiver::inline(
        "anyway",
        verifier(),
        store.clone(),
        handlers(Memory::new()).0,
    );
    let anyway = anyway
        .on_store_failure(StoreFailure::HandleAnyway)
        .build()
        .unwrap();
    anyway.receive(request(&created("unclaimed"))).await;
}

/// The same for a worker, and for its inbox.
async fn work_everything() {
    let store = Sqlite::in_memory().await.unwrap();
    let hooks = |endpoint: &'static str| {
        Receiver::inbox(endpoint, verifier(), store.clone())
            .build()
            .unwrap()
    };
    let hook = hooks("inbox");
    for id in ["ok", "ok", "fails", "terminal", "overtaken"] {
        hook.receive(request(&created(id))).await;
    }
    hook.receive(request(&personal(Fixture::of::<UserDeleted>())))
        .await;
    worked_off(
        hasty(Worker::builder(
            "inbox",
            store.clone(),
            handlers(store.clone()).0,
        ))
        .max_attempts(3),
    )
    .await;

    hooks("aged").receive(request(&created("fails"))).await;
    let aged = Worker::builder("aged", store.clone(), handlers(store.clone()).0);
    worked_off(hasty(aged).max_age(Duration::ZERO)).await;

    hooks("crashed").receive(request(&created("ok"))).await;
    let taken = store
        .lease_next("crashed", Duration::from_millis(1))
        .await
        .unwrap();
    assert!(matches!(taken, NextEvent::Leased(_)), "{taken:?}");
    worked_off(
        hasty(Worker::builder(
            "crashed",
            store.clone(),
            handlers(store.clone()).0,
        ))
        .max_attempts(1),
    )
    .await;

    hooks("down").receive(request(&created("waits"))).await;
    let (handle, world) = handlers(store.clone());
    let worker = hasty(Worker::builder("down", store.clone(), handle))
        .build()
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(async move { worker.run(async { drop(stopped.await) }).await });
    world.started.notified().await;
    store.close().await;
    world.go.add_permits(1);
    stop.send(()).unwrap();
    timeout(TEST_TIMEOUT, running)
        .await
        .expect("the worker did not stop")
        .unwrap();
}

/// Short pauses, so that tests are fast.
fn hasty(worker: WorkerBuilder) -> WorkerBuilder {
    let pause = Duration::from_millis(5);
    worker
        .backoff(pause, pause)
        .poll_interval(Duration::from_millis(20))
}

/// Runs the worker until nothing is left.
async fn worked_off(worker: WorkerBuilder) {
    let worker = worker.build().unwrap();
    let watched = worker.clone();
    let empty = async move {
        while watched.backlog().await.unwrap().depth > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(TEST_TIMEOUT, worker.run(empty))
        .await
        .expect("the backlog was not worked off");
}

/// A call that is retried, to a server that closes every connection.
async fn call() {
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

/// The emitted metrics: each one's kind and its label values.
#[derive(Default)]
struct Emitted(BTreeMap<String, (Option<MetricKind>, Labels)>);

type Labels = BTreeMap<String, BTreeSet<String>>;

impl Emitted {
    fn read(snapshotter: &Snapshotter) -> Self {
        let mut emitted = Self::default();
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let (kind, key) = (key.kind(), key.key());
            let kind = match kind {
                RecordedKind::Counter => MetricKind::Counter,
                RecordedKind::Gauge => MetricKind::Gauge,
                RecordedKind::Histogram => MetricKind::Histogram,
            };
            let (known, labels) = emitted.0.entry(key.name().to_owned()).or_default();
            *known = Some(kind);
            for label in key.labels() {
                labels
                    .entry(label.key().to_owned())
                    .or_default()
                    .insert(label.value().to_owned());
            }
            if let DebugValue::Histogram(values) = value {
                assert!(
                    values.iter().all(|value| value.0 >= 0.0),
                    "{key:?}: {values:?}"
                );
            }
        }
        emitted
    }

    fn values(&self, metric: &str, label: &str) -> BTreeSet<String> {
        self.0
            .get(metric)
            .and_then(|(_, labels)| labels.get(label))
            .cloned()
            .unwrap_or_default()
    }
}

async fn everything() -> (Emitted, String) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let logged = Logged::default();
    {
        let _recorded = metrics::set_default_local_recorder(&recorder);
        let _guard = listen(logged.clone());
        deliver_everything().await;
        work_everything().await;
        call().await;
    }
    (Emitted::read(&snapshotter), logged.text())
}

/// Emitted by other parts of the SDK, and tested there (`reconcile::reading`).
const ELSEWHERE: &[&str] = &[telemetry::RECONCILED, telemetry::RECONCILE_LAG_SECONDS];

fn page() -> String {
    fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .with_file_name("docs")
            .join("observability.md"),
    )
    .unwrap()
}

/// The label's values in the page, between backticks.
fn documented(label: &str) -> BTreeSet<String> {
    let page = page();
    let row = page
        .lines()
        .find_map(|line| line.strip_prefix(&format!("| {label} | ")))
        .unwrap();
    row.split('`')
        .skip(1)
        .step_by(2)
        .map(ToOwned::to_owned)
        .collect()
}

#[tokio::test]
async fn metrics_and_labels_are_emitted_as_documented_without_secrets() {
    let (emitted, log) = everything().await;
    for metric in METRICS
        .iter()
        .filter(|metric| !ELSEWHERE.contains(&metric.name))
    {
        let (kind, labels) = emitted
            .0
            .get(metric.name)
            .unwrap_or_else(|| panic!("{} is not emitted", metric.name));
        assert_eq!(*kind, Some(metric.kind), "{}", metric.name);
        let labels: Vec<_> = labels.keys().map(String::as_str).collect();
        let mut documented = metric.labels.to_vec();
        documented.sort_unstable();
        assert_eq!(labels, documented, "{}", metric.name);
    }
    let known: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    let unknown: Vec<_> = emitted
        .0
        .keys()
        .filter(|name| !known.contains(name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");

    for (label, metric, name) in [
        ("`outcome` of a delivery", telemetry::DELIVERIES, "outcome"),
        (
            "`outcome` of a worker's attempt",
            telemetry::EVENTS,
            "outcome",
        ),
        (
            "`outcome` of a handler",
            telemetry::HANDLER_SECONDS,
            "outcome",
        ),
        ("`reason` of a refusal", telemetry::REJECTED, "reason"),
        ("`reason` of a retry", telemetry::RETRIED, "reason"),
        (
            "`reason` of a dead letter",
            telemetry::DEAD_LETTERS,
            "reason",
        ),
    ] {
        assert_eq!(emitted.values(metric, name), documented(label), "{metric}");
    }
    assert_eq!(
        emitted.values(telemetry::INGESTED, "outcome"),
        ["draining".to_owned(), "handled".to_owned()]
            .into_iter()
            .collect()
    );
    let steps = emitted.values(telemetry::STORE_FAILURES, "step");
    assert!(
        steps.contains("claim") && steps.contains("complete"),
        "{steps:?}"
    );

    for (name, (_, labels)) in &emitted.0 {
        for value in labels.values().flatten() {
            assert_clean(name, value);
            assert!(
                !value.contains("evt_") && !value.contains("usr_"),
                "{name} has an id for a label: {value}"
            );
        }
    }
    assert!(log.contains("the handler's own line"), "{log}");
    assert_clean("spans and log", &log);
}

#[tokio::test]
async fn a_memory_ledger_that_is_full_warns_once_and_counts_what_it_forgets() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let logged = Logged::default();
    let ledger = Memory::new().with_capacity(2);
    let _recorded = metrics::set_default_local_recorder(&recorder);
    let _guard = listen(logged.clone());
    for n in 0..10 {
        let key = EventKey::new("users", format!("evt_{n}"));
        let claim = ledger
            .claim(&key, Digest::of(b"PAYLOAD"), Duration::from_secs(30))
            .await
            .unwrap();
        let Claim::Granted { token, .. } = claim else {
            panic!("{claim:?}")
        };
        assert_eq!(
            ledger
                .complete(&key, token, Completion::Handled)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
    }
    assert_eq!(
        logged.text().matches("the memory ledger is full").count(),
        1,
        "{}",
        logged.text()
    );
    let counted = snapshotter.snapshot().into_vec();
    let evictions = counted
        .iter()
        .find(|(key, ..)| key.key().name() == telemetry::EVICTED);
    let (key, _, _, count) = evictions.expect("evictions are counted");
    assert_eq!(
        (
            key.key()
                .labels()
                .map(metrics::Label::value)
                .collect::<Vec<_>>(),
            count
        ),
        (vec!["users"], &DebugValue::Counter(8))
    );
    assert_eq!(ledger.evicted(), 8);
}

#[test]
fn the_page_has_the_table_of_the_code() {
    let page = page();
    let rows: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| `authpi_"))
        .map(ToOwned::to_owned)
        .collect();
    let of = |metric: &telemetry::Metric| {
        let labels: Vec<_> = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let kind = format!("{:?}", metric.kind).to_lowercase();
        format!(
            "| `{}` | {kind} | {} | {} |",
            metric.name,
            labels.join(", "),
            metric.meaning
        )
    };
    assert_eq!(rows, METRICS.iter().map(of).collect::<Vec<_>>());
}

#[test]
fn every_metric_is_described_to_the_recorder_once() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        telemetry::describe_metrics();
        for metric in METRICS {
            match metric.kind {
                MetricKind::Counter => metrics::counter!(metric.name).increment(1),
                MetricKind::Gauge => metrics::gauge!(metric.name).set(1.0),
                _ => metrics::histogram!(metric.name).record(1.0),
            }
        }
    });
    let described = snapshotter.snapshot().into_vec();
    assert_eq!(described.len(), METRICS.len());
    for (key, unit, text, _) in described {
        assert!(unit.is_some() && text.is_some(), "{key:?}");
    }
}

/// Each event that is logged on this thread, with its spans.
#[derive(Clone, Default)]
struct Scoped(Arc<Mutex<Scopes>>);

#[derive(Default)]
struct Scopes {
    spans: BTreeMap<u64, String>,
    entered: Vec<u64>,
    lines: Vec<String>,
}

impl Scoped {
    /// The spans around the line with `text`, outermost first.
    fn around(&self, text: &str) -> String {
        let scopes = self.0.lock().unwrap();
        let line = scopes.lines.iter().find(|line| line.contains(text));
        line.unwrap_or_else(|| panic!("{text:?} was not logged: {:#?}", scopes.lines))
            .clone()
    }

    /// The spans of this name, in their final state.
    fn spans(&self, name: &str) -> Vec<String> {
        let scopes = self.0.lock().unwrap();
        scopes
            .spans
            .values()
            .filter(|span| span.split(' ').next() == Some(name))
            .cloned()
            .collect()
    }
}

/// Fields as text.
struct Fields<'t>(&'t mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Scoped {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let scopes = &mut *self.0.lock().unwrap();
        let id = scopes.spans.len() as u64 + 1;
        let mut text = attributes.metadata().name().to_owned();
        attributes.record(&mut Fields(&mut text));
        scopes.spans.insert(id, text);
        span::Id::from_u64(id)
    }
    fn record(&self, id: &span::Id, values: &span::Record<'_>) {
        let scopes = &mut *self.0.lock().unwrap();
        values.record(&mut Fields(scopes.spans.get_mut(&id.into_u64()).unwrap()));
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let scopes = &mut *self.0.lock().unwrap();
        let spans: Vec<_> = scopes
            .entered
            .iter()
            .map(|id| scopes.spans[id].as_str())
            .collect();
        let mut line = spans.join(" > ") + " >";
        event.record(&mut Fields(&mut line));
        scopes.lines.push(line);
    }
    fn enter(&self, id: &span::Id) {
        self.0.lock().unwrap().entered.push(id.into_u64());
    }
    fn exit(&self, id: &span::Id) {
        let entered = &mut self.0.lock().unwrap().entered;
        let place = entered
            .iter()
            .rposition(|other| *other == id.into_u64())
            .expect("it was entered");
        entered.remove(place);
    }
}

/// A handler that signals its start, waits for a permit, then logs a line.
fn late_line() -> Handlers<(Notify, Semaphore)> {
    Handlers::new((Notify::new(), Semaphore::new(0))).on(
        async |_: Event<UserCreated>, cx: Context<(Notify, Semaphore)>| {
            cx.state().0.notify_one();
            cx.state().1.acquire().await?.forget();
            tracing::info!("a line of the handler's own");
            Ok(())
        },
    )
}

#[tokio::test]
async fn spans_follow_the_work_although_the_sender_has_hung_up() {
    let scoped = Scoped::default();
    let _guard = listen(scoped.clone());
    let handlers = late_line();
    let state = handlers.state();
    let receiver = Receiver::inline("users", verifier(), Memory::new(), handlers);
    let receiver = receiver.build().unwrap();
    let mut event: serde_json::Value = serde_json::from_slice(&created("evt_1").body()).unwrap();
    event["data"]["trace"] = "0af7651916cd43dd8448eb211c80319c".into();
    let sent = signed(event.to_string());
    let waiting = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(sent).await }
    });
    state.0.notified().await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    state.1.add_permits(1);
    receiver.drain().await;
    let event = r#"event_id="evt_1" event_type="user.created" attempt=1"#;
    assert_eq!(
        scoped.around("of the handler's own"),
        format!(
            "authpi.delivery endpoint=users {event} > authpi.handle endpoint=\"users\" {event} \
             trace=\"0af7651916cd43dd8448eb211c80319c\" > message=a line of the handler's own"
        )
    );
    for name in ["authpi.delivery", "authpi.handle"] {
        let spans = scoped.spans(name);
        assert!(
            spans.len() == 1 && spans[0].ends_with(r#"outcome="handled""#),
            "{spans:?}"
        );
    }
}

#[tokio::test]
async fn a_workers_attempt_and_an_event_that_is_fed_have_spans_of_their_own() {
    let scoped = Scoped::default();
    let _guard = listen(scoped.clone());
    let handlers = late_line();
    handlers.state().1.add_permits(1);
    let store = Sqlite::in_memory().await.unwrap();
    let hook = Receiver::inbox("users", verifier(), store.clone())
        .build()
        .unwrap();
    hook.ingest(created("evt_1").verified()).await;
    worked_off(hasty(Worker::builder("users", store, handlers))).await;
    let within = scoped.around("of the handler's own");
    let mut spans = within.split(" > ");
    assert_eq!(
        spans.next(),
        Some(
            r#"authpi.process endpoint="users" event_id="evt_1" attempt=1 event_type="user.created""#
        ),
        "{within}"
    );
    assert!(
        spans
            .next()
            .is_some_and(|span| span.starts_with("authpi.handle ")),
        "{within}"
    );
    for (name, outcome) in [
        ("authpi.process", "handled"),
        ("authpi.handle", "handled"),
        ("authpi.ingest", "stored"),
    ] {
        let spans = scoped.spans(name);
        assert!(
            spans.len() == 1 && spans[0].ends_with(&format!("outcome=\"{outcome}\"")),
            "{spans:?}"
        );
    }
    assert!(
        scoped
            .spans("authpi.store")
            .iter()
            .any(|span| span.contains(r#"step="append""#))
    );
}

#[tokio::test]
async fn each_step_of_a_store_has_a_span_that_names_it() {
    let scoped = Scoped::default();
    let _guard = listen(scoped.clone());
    let store = Sqlite::in_memory().await.unwrap();
    let verifier = || verifier();
    let (handle, _) = handlers(store.clone());
    let inline = Receiver::inline("inline", verifier(), store.clone(), handle)
        .build()
        .unwrap();
    for id in ["ok", "fails"] {
        inline.receive(request(&created(id))).await;
    }
    let inbox = Receiver::inbox("inbox", verifier(), store.clone())
        .build()
        .unwrap();
    inbox
        .receive(request(&created("old").time(jiff::Timestamp::UNIX_EPOCH)))
        .await;
    inbox.receive(request(&created("ok"))).await;
    inbox
        .receive(request(&personal(Fixture::of::<UserDeleted>())))
        .await;
    assert!(inline.health().await.is_ready() && inbox.health().await.is_ready());
    let committing =
        Handlers::new(()).on_tx(async |_: Event<UserCreated>, _, _tx: Tx<Sqlite>| Ok(()));
    worked_off(hasty(Worker::builder("inbox", store, committing))).await;
    let steps: BTreeSet<_> = scoped.spans("authpi.store").into_iter().collect();
    let promised: BTreeSet<_> = documented("`authpi.store`")
        .into_iter()
        .filter(|step| step != "step")
        .collect();
    assert_eq!(
        steps,
        promised
            .iter()
            .map(|step| format!("authpi.store step=\"{step}\""))
            .collect()
    );
}

/// Polls until the condition is true.
async fn until(mut says: impl AsyncFnMut() -> bool) {
    let said = async {
        while !says().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(TEST_TIMEOUT, said)
        .await
        .expect("the probe never said so");
}

#[tokio::test]
async fn a_probe_tells_of_the_store_of_what_runs_and_of_a_shutdown() {
    let store = Sqlite::in_memory().await.unwrap();
    let (handle, world) = handlers(store.clone());
    let receiver = Receiver::inline("users", verifier(), store.clone(), handle)
        .build()
        .unwrap();
    let health = receiver.health().await;
    assert!(
        health.is_ready() && health.in_flight == 0 && health.backlog.is_none(),
        "{health:?}"
    );
    assert_eq!(health.to_string(), "ready; in flight: 0");
    let waiting = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(request(&created("waits"))).await.status() }
    });
    world.started.notified().await;
    assert_eq!(receiver.health().await.in_flight, 1);
    let draining = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.drain().await }
    });
    until(async || receiver.health().await.draining).await;
    let health = receiver.health().await;
    assert!(!health.is_ready() && health.in_flight == 1, "{health:?}");
    world.go.add_permits(1);
    draining.await.unwrap();
    assert_eq!(waiting.await.unwrap(), 200);
    assert_eq!(
        receiver.health().await.to_string(),
        "draining; in flight: 0"
    );
    store.close().await;
    until(async || receiver.health().await.store.is_err()).await;
    let health = receiver.health().await;
    assert!(!health.is_ready(), "{health:?}");
    assert!(
        health.to_string().starts_with("the store does not respond"),
        "{health}"
    );
}

#[tokio::test]
async fn a_probe_of_a_store_that_is_busy_is_ready_and_says_so() {
    let store = Sqlite::in_memory().await.unwrap();
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let handlers = Handlers::new((Arc::clone(&started), Arc::clone(&go))).on_tx(
        async |_: Event<UserCreated>,
               cx: Context<(Arc<Notify>, Arc<Semaphore>)>,
               _tx: Tx<Sqlite>| {
            cx.state().0.notify_one();
            cx.state().1.acquire().await?.forget();
            Ok(())
        },
    );
    let receiver = Receiver::inline("users", verifier(), store.clone(), handlers);
    let receiver = receiver
        .handler_timeout(Duration::from_mins(1))
        .build()
        .unwrap();
    let waiting = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(request(&created("evt_1"))).await.status() }
    });
    started.notified().await;
    let health = receiver.health().await;
    let kind = health.store.as_ref().unwrap_err().kind();
    assert_eq!(kind, LedgerErrorKind::Busy, "{health:?}");
    assert!(
        health.is_ready()
            && health
                .to_string()
                .starts_with("ready, but the store is busy"),
        "{health}"
    );
    go.add_permits(1);
    assert_eq!(waiting.await.unwrap(), 200);
    until(async || receiver.health().await.store.is_ok()).await;
}

#[tokio::test]
async fn a_replayed_dead_letter_of_an_inline_endpoint_shows_while_it_waits() {
    let store = Sqlite::in_memory().await.unwrap();
    let (handle, _) = handlers(store.clone());
    let receiver = Receiver::inline("users", verifier(), store.clone(), handle)
        .build()
        .unwrap();
    receiver.receive(request(&created("evt_terminal"))).await;
    let letter = store
        .dead_letters("users", None, 1)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(receiver.health().await.backlog, None);
    let logged = Logged::default();
    let guard = listen(logged.clone());
    assert!(store.replay(&letter.key).await.unwrap());
    drop(guard);
    assert!(
        logged
            .text()
            .contains("it waits for a worker of its endpoint or a redelivery"),
        "{}",
        logged.text()
    );
    let recorder = DebuggingRecorder::new();
    let depth = |expected: u64| {
        let (receiver, recorder) = (&receiver, &recorder);
        async move {
            until(async || {
                let _recorded = metrics::set_default_local_recorder(recorder);
                receiver
                    .health()
                    .await
                    .backlog
                    .map_or(0, |backlog| backlog.depth)
                    == expected
            })
            .await;
            let gauges = recorder.snapshotter().snapshot().into_vec();
            let depth = gauges
                .into_iter()
                .find(|(key, ..)| key.key().name() == telemetry::INBOX_DEPTH)
                .unwrap()
                .3;
            #[expect(clippy::cast_precision_loss)]
            let expected = DebugValue::Gauge((expected as f64).into());
            assert_eq!(depth, expected);
        }
    };
    depth(1).await;
    worked_off(Worker::builder(
        "users",
        store.clone(),
        Handlers::new(()).on(async |_: Event<UserCreated>, _| Ok(())),
    ))
    .await;
    depth(0).await;
}

/// Counts claims.
#[derive(Clone, Default)]
struct Counting(Memory, Arc<std::sync::atomic::AtomicUsize>);

impl Ledger for Counting {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        assert_eq!(
            key.endpoint(),
            "",
            "a probe's record must not be an endpoint's"
        );
        self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.0.claim(key, digest, lease).await
    }
    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.renew(key, token, lease).await
    }
    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.complete(key, token, completion).await
    }
    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.release(key, token, pause).await
    }
    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        let known = self.0.forget(key).await?;
        assert!(known, "the probe's record is not there");
        Ok(known)
    }
    fn keeps_dead_letters(&self) -> bool {
        false
    }
    fn retention(&self) -> Duration {
        Ledger::retention(&self.0)
    }
    fn store_id(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.1).addr())
    }
}

#[tokio::test(start_paused = true)]
async fn however_many_probes_there_are_a_store_is_asked_once_a_second() {
    let store = Counting::default();
    let receiver = |endpoint: &'static str| {
        Receiver::inline(
            endpoint,
            verifier(),
            store.clone(),
            handlers(Memory::new()).0,
        )
        .build()
        .unwrap()
    };
    let receivers = [receiver("users"), receiver("orders")];
    let asked = || store.1.load(std::sync::atomic::Ordering::SeqCst);
    for second in 1..4 {
        for receiver in receivers.iter().cycle().take(500) {
            let (one, other) = tokio::join!(receiver.health(), receiver.health());
            assert!(one.is_ready() && other.is_ready());
        }
        assert_eq!(asked(), second);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_workers_probe_tells_what_waits_and_for_how_long() {
    let store = Sqlite::in_memory().await.unwrap();
    let hook = Receiver::inbox("users", verifier(), store.clone())
        .build()
        .unwrap();
    for id in ["1_waits", "2_waits", "3_waits"] {
        hook.receive(request(&created(id))).await;
    }
    let backlog = hook.health().await.backlog.unwrap();
    assert!(
        backlog.depth == 3 && backlog.oldest.is_some(),
        "{backlog:?}"
    );
    let (handle, world) = handlers(store.clone());
    let worker = hasty(Worker::builder("users", store.clone(), handle))
        .concurrency(2)
        .build()
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let worker = worker.clone();
        async move { worker.run(async { drop(stopped.await) }).await }
    });
    until(async || worker.health().await.in_flight == 2).await;
    let health = worker.health().await;
    assert!(health.is_ready(), "{health:?}");
    assert!(
        health
            .to_string()
            .starts_with("ready; in flight: 2; waiting: 3, the oldest for "),
        "{health}"
    );
    stop.send(()).unwrap();
    until(async || worker.health().await.draining).await;
    world.go.add_permits(3);
    timeout(TEST_TIMEOUT, running)
        .await
        .expect("the worker did not stop")
        .unwrap();
    let health = worker.health().await;
    assert!(!health.is_ready() && health.in_flight == 0, "{health:?}");
    until(async || {
        worker
            .health()
            .await
            .backlog
            .is_some_and(|backlog| backlog.depth == 1)
    })
    .await;
    store.close().await;
    until(async || worker.health().await.store.is_err() && hook.health().await.store.is_err())
        .await;
}

/// A slow store.
#[derive(Clone, Default)]
struct Hanging(Memory);

impl Ledger for Hanging {
    async fn claim(&self, _: &EventKey, _: Digest, _: Duration) -> Result<Claim, LedgerError> {
        pending().await
    }
    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.renew(key, token, lease).await
    }
    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.complete(key, token, completion).await
    }
    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.release(key, token, pause).await
    }
    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        self.0.forget(key).await
    }
    fn keeps_dead_letters(&self) -> bool {
        false
    }
    fn retention(&self) -> Duration {
        Ledger::retention(&self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_waits_two_seconds_for_a_store_that_hangs() {
    let (handle, _) = handlers(Memory::new());
    let receiver = Receiver::inline("users", verifier(), Hanging::default(), handle)
        .build()
        .unwrap();
    let asked = tokio::time::Instant::now();
    assert!(receiver.health().await.store.is_err());
    assert_eq!(asked.elapsed().as_secs(), 2);
}
