//! Metrics, spans and health: exactly what `docs/observability.md` lists, and nothing secret.

mod health;
mod scenarios;
mod spans;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    future::pending,
    path::Path,
    sync::Arc,
    time::Duration,
};

use authpi_sdk::{
    event::{Event, types::UserCreated},
    handlers::{Context, HandlerError, Handlers},
    ledger::{Claim, Completion, Digest, EventKey, LeaseStatus, Ledger},
    stores::Memory,
    telemetry::{self, METRICS, MetricKind},
    testing::Fixture,
    worker::WorkerBuilder,
};
use metrics_util::{
    MetricKind as RecordedKind,
    debugging::{DebugValue, DebuggingRecorder, Snapshotter},
};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use crate::support::log::{Logged, assert_clean, listen, personal};

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

/// The emitted metrics: each one's kind and its labels.
struct Emitted(BTreeMap<String, (MetricKind, Vec<Labels>)>);

type Labels = BTreeMap<String, String>;

impl Emitted {
    fn read(snapshotter: &Snapshotter) -> Self {
        let mut emitted: BTreeMap<_, (_, Vec<_>)> = BTreeMap::new();
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let (kind, key) = (key.kind(), key.key());
            let kind = match kind {
                RecordedKind::Counter => MetricKind::Counter,
                RecordedKind::Gauge => MetricKind::Gauge,
                RecordedKind::Histogram => MetricKind::Histogram,
            };
            let labels = key
                .labels()
                .map(|label| (label.key().to_owned(), label.value().to_owned()));
            let (_, series) = emitted
                .entry(key.name().to_owned())
                .or_insert((kind, Vec::new()));
            series.push(labels.collect());
            if let DebugValue::Histogram(values) = value {
                assert!(
                    values.iter().all(|value| value.0 >= 0.0),
                    "{key:?}: {values:?}"
                );
            }
        }
        Self(emitted)
    }

    fn series(&self, metric: &str) -> &[Labels] {
        self.0.get(metric).map_or(&[], |(_, series)| series)
    }

    fn values(&self, metric: &str, label: &str) -> BTreeSet<String> {
        let series = self.series(metric).iter();
        series
            .filter_map(|labels| labels.get(label))
            .cloned()
            .collect()
    }

    fn outcomes_of(&self, metric: &str, endpoint: &str) -> BTreeSet<String> {
        let series = self.series(metric).iter();
        series
            .filter(|labels| labels["endpoint"] == endpoint)
            .map(|labels| labels["outcome"].clone())
            .collect()
    }
}

/// Runs all scenarios; returns the metrics and the log.
async fn everything() -> (Emitted, String) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let logged = Logged::default();
    {
        let _recorded = metrics::set_default_local_recorder(&recorder);
        let _guard = listen(logged.clone());
        scenarios::deliveries().await;
        scenarios::workers().await;
        scenarios::call().await;
        scenarios::payload();
    }
    (Emitted::read(&snapshotter), logged.text())
}

/// Emitted by other parts of the SDK, and tested there (`reconcile::reading`).
const ELSEWHERE: &[&str] = &[telemetry::RECONCILED, telemetry::RECONCILE_LAG_SECONDS];

/// The page, with the table of metrics as the code has it.
fn page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("docs")
        .join("observability.md");
    let written = fs::read_to_string(&page).unwrap();
    let (before, rest) = written.split_once("| `authpi_").unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    let mut expected = before.to_owned();
    for metric in METRICS {
        let labels = metric.labels.iter().map(|label| format!("`{label}`"));
        let optional = metric.optional_labels.iter();
        let optional = optional.map(|label| format!("optional `{label}`"));
        let labels: Vec<_> = labels.chain(optional).collect();
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let (name, labels, meaning) = (metric.name, labels.join(", "), metric.meaning);
        writeln!(expected, "| `{name}` | {kind} | {labels} | {meaning} |").unwrap();
    }
    expected.push('\n');
    expected.push_str(after);
    if written != expected && env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&page, &expected).unwrap();
        return expected;
    }
    assert_eq!(written, expected, "UPDATE_GOLDEN=1 writes the table");
    written
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
    for (metric, endpoint, outcomes) in scenarios::OUTCOMES {
        let counted = emitted.outcomes_of(metric, endpoint);
        let counted: Vec<_> = counted.iter().map(String::as_str).collect();
        assert_eq!(counted, *outcomes, "{metric} of the endpoint {endpoint:?}");
    }
    for metric in METRICS
        .iter()
        .filter(|metric| !ELSEWHERE.contains(&metric.name))
    {
        let (kind, series) = emitted
            .0
            .get(metric.name)
            .unwrap_or_else(|| panic!("{} is not emitted", metric.name));
        assert_eq!(*kind, metric.kind, "{}", metric.name);
        let mut documented = metric.labels.to_vec();
        documented.sort_unstable();
        for labels in series {
            let labels: Vec<_> = labels.keys().map(String::as_str).collect();
            assert_eq!(labels, documented, "{}", metric.name);
        }
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
    let steps = emitted.values(telemetry::STORE_FAILURES, "step");
    assert!(
        steps.contains("claim") && steps.contains("complete"),
        "{steps:?}"
    );

    for (name, (_, series)) in &emitted.0 {
        for value in series.iter().flat_map(Labels::values) {
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

/// The values of `type` per metric, of one endpoint.
fn types_of(emitted: &Emitted, endpoint: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut types: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (name, (_, series)) in &emitted.0 {
        let series = series
            .iter()
            .filter(|labels| labels.get("endpoint").map(String::as_str) == Some(endpoint));
        for labels in series {
            let of = labels.get("type").cloned().unwrap_or_default();
            types.entry(name.clone()).or_default().insert(of);
        }
    }
    types
}

#[tokio::test]
async fn event_types_are_a_label_if_they_are_named() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    {
        let _recorded = metrics::set_default_local_recorder(&recorder);
        scenarios::labelled().await;
    }
    let emitted = Emitted::read(&snapshotter);
    for metric in METRICS {
        for labels in emitted.series(metric.name) {
            let labels: BTreeSet<_> = labels.keys().map(String::as_str).collect();
            let documented = metric.labels.iter().chain(metric.optional_labels);
            assert_eq!(labels, documented.copied().collect(), "{}", metric.name);
        }
    }
    let all = |types: &[&str]| {
        types
            .iter()
            .map(|&of| of.to_owned())
            .collect::<BTreeSet<_>>()
    };
    let inline = types_of(&emitted, "labelled");
    assert_eq!(
        inline[telemetry::DELIVERIES],
        all(&["none", "other", "user.created"])
    );
    assert_eq!(
        inline[telemetry::HANDLER_SECONDS],
        all(&["other", "user.created"])
    );
    let inbox = types_of(&emitted, "labelled_inbox");
    assert_eq!(inbox[telemetry::INGESTED], all(&["other", "user.created"]));
    assert_eq!(inbox[telemetry::EVENTS], all(&["other", "user.created"]));
    assert_eq!(
        inbox[telemetry::HANDLER_SECONDS],
        all(&["other", "user.created"])
    );
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
    page();
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
