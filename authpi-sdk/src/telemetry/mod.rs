//! Names of metrics and their labels.
//!
//! The [guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/observability/) lists them, and
//! the spans.

mod keys;
mod limit;
#[cfg(feature = "client")]
pub(crate) mod trace;
mod types;

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram, Level, Metadata, Unit};

use keys::{Label, kept};
pub(crate) use limit::LogLimit;
pub(crate) use types::TypeLabels;

/// Deliveries, by outcome: `endpoint`, `outcome`.
pub const DELIVERIES: &str = "authpi_deliveries_total";
/// Requests that were not authentic, by reason: `endpoint`, `reason`.
pub const REJECTED: &str = "authpi_rejected_total";
/// Events ingested by a receiver: `endpoint`, `outcome`.
pub const INGESTED: &str = "authpi_ingested_total";
/// Attempts of workers, by outcome: `endpoint`, `outcome`.
pub const EVENTS: &str = "authpi_events_total";
/// Failed attempts that will be retried: `endpoint`, `reason`.
pub const RETRIED: &str = "authpi_retried_total";
/// Dead letters, by reason: `endpoint`, `reason`.
pub const DEAD_LETTERS: &str = "authpi_dead_letters_total";
/// Attempts whose lease was lost: `endpoint`.
pub const LEASES_LOST: &str = "authpi_leases_lost_total";
/// Redeliveries whose content differs from the first delivery: `endpoint`.
pub const CONTENT_DIFFERS: &str = "authpi_content_differs_total";
/// Payload members that do not have the deduced shape: `type`, `member`.
pub const PAYLOAD_MISMATCH: &str = "authpi_payload_mismatch_total";
/// Records that `Memory` evicted before their retention ended: `endpoint`.
pub const EVICTED: &str = "authpi_memory_evictions_total";
/// Steps of the store that failed: `endpoint`, `step`.
pub const STORE_FAILURES: &str = "authpi_store_failures_total";
/// How long handlers took, in seconds: `endpoint`, `outcome`.
pub const HANDLER_SECONDS: &str = "authpi_handler_seconds";
/// From an event's time until it was handled, in seconds: `endpoint`.
pub const LAG_SECONDS: &str = "authpi_lag_seconds";
/// Unfinished events in the inbox: `endpoint`.
pub const INBOX_DEPTH: &str = "authpi_inbox_depth";
/// How long the oldest event in the inbox has been waiting, in seconds: `endpoint`.
pub const INBOX_OLDEST_SECONDS: &str = "authpi_inbox_oldest_seconds";
/// Calls of the client: `operation`, `outcome`.
pub const CALLS: &str = "authpi_calls_total";
/// How long calls of the client took, including retries, in seconds: `operation`.
pub const CALL_SECONDS: &str = "authpi_call_seconds";
/// Retries of the client: `operation`, `reason`.
pub const CALL_RETRIES: &str = "authpi_call_retries_total";
/// Events of the log that reconciling ingested: `endpoint`, `outcome`.
pub const RECONCILED: &str = "authpi_reconciled_total";
/// How far reconciling is behind, in seconds: `endpoint`.
pub const RECONCILE_LAG_SECONDS: &str = "authpi_reconcile_lag_seconds";

/// A span, or [`Span::none`](tracing::Span::none) if no subscriber wants it. The macros of `tracing`
/// return a span with a name even then, and that is not free: if any crate enables tracing's feature
/// `log`, such a span looks for a logger each time it is entered, recorded into or dropped. So without a
/// subscriber, `log` gets no record of a span. With `root`, the span has no parent.
macro_rules! span {
    ($level:ident, root, $($span:tt)+) => {
        $crate::telemetry::span!(
            @ $level, tracing::span!(parent: None, tracing::Level::$level, $($span)+)
        )
    };
    (@ $level:ident, $create:expr) => {
        if tracing::level_filters::LevelFilter::current() >= tracing::Level::$level {
            let span = $create;
            if span.is_disabled() { tracing::Span::none() } else { span }
        } else {
            tracing::Span::none()
        }
    };
    ($level:ident, $($span:tt)+) => {
        $crate::telemetry::span!(@ $level, tracing::span!(tracing::Level::$level, $($span)+))
    };
}

pub(crate) use span;

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Has the value of its last measurement.
    Gauge,
    /// Counts values by size.
    Histogram,
}

/// One row of [`METRICS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The names of labels that are off by default
    /// ([`ReceiverBuilder::label_event_types`](crate::receiver::ReceiverBuilder::label_event_types)).
    pub optional_labels: &'static [&'static str],
    /// Its meaning, in one sentence.
    pub meaning: &'static str,
}

/// Every metric that this crate emits.
pub const METRICS: &[Metric] = &[
    metric_by_type(
        MetricKind::Counter,
        DELIVERIES,
        &["endpoint", "outcome"],
        "Deliveries, by outcome",
    ),
    metric(
        MetricKind::Counter,
        REJECTED,
        &["endpoint", "reason"],
        "Requests that were not authentic, by reason",
    ),
    metric_by_type(
        MetricKind::Counter,
        INGESTED,
        &["endpoint", "outcome"],
        "Events ingested by a receiver, by outcome",
    ),
    metric_by_type(
        MetricKind::Counter,
        EVENTS,
        &["endpoint", "outcome"],
        "Attempts of workers, by outcome",
    ),
    metric(
        MetricKind::Counter,
        RETRIED,
        &["endpoint", "reason"],
        "Failed attempts that will be retried",
    ),
    metric(
        MetricKind::Counter,
        DEAD_LETTERS,
        &["endpoint", "reason"],
        "Dead letters, by reason",
    ),
    metric(
        MetricKind::Counter,
        LEASES_LOST,
        &["endpoint"],
        "Attempts whose lease was lost",
    ),
    metric(
        MetricKind::Counter,
        CONTENT_DIFFERS,
        &["endpoint"],
        "Redeliveries whose content differs from the first delivery",
    ),
    metric(
        MetricKind::Counter,
        PAYLOAD_MISMATCH,
        &["type", "member"],
        "Payload members that do not have the deduced shape",
    ),
    metric(
        MetricKind::Counter,
        EVICTED,
        &["endpoint"],
        "Records that `Memory` evicted at capacity; their events would be handled again",
    ),
    metric(
        MetricKind::Counter,
        STORE_FAILURES,
        &["endpoint", "step"],
        "Steps of the store that failed",
    ),
    metric_by_type(
        MetricKind::Histogram,
        HANDLER_SECONDS,
        &["endpoint", "outcome"],
        "How long handlers took",
    ),
    metric(
        MetricKind::Histogram,
        LAG_SECONDS,
        &["endpoint"],
        "From when an event happened to when it was handled",
    ),
    metric(
        MetricKind::Gauge,
        INBOX_DEPTH,
        &["endpoint"],
        "Events in the inbox that are not yet done",
    ),
    metric(
        MetricKind::Gauge,
        INBOX_OLDEST_SECONDS,
        &["endpoint"],
        "How long the oldest event in the inbox has been waiting",
    ),
    metric(
        MetricKind::Counter,
        CALLS,
        &["operation", "outcome"],
        "Calls of the client, by outcome",
    ),
    metric(
        MetricKind::Histogram,
        CALL_SECONDS,
        &["operation"],
        "How long calls of the client took, including retries",
    ),
    metric(
        MetricKind::Counter,
        CALL_RETRIES,
        &["operation", "reason"],
        "Retries of the client",
    ),
    metric(
        MetricKind::Counter,
        RECONCILED,
        &["endpoint", "outcome"],
        "Events that reconciling ingested, by outcome",
    ),
    metric(
        MetricKind::Gauge,
        RECONCILE_LAG_SECONDS,
        &["endpoint"],
        "How far reconciling is behind",
    ),
];

const fn metric(
    kind: MetricKind,
    name: &'static str,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        labels,
        optional_labels: &[],
        meaning,
    }
}

const fn metric_by_type(
    kind: MetricKind,
    name: &'static str,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric {
        optional_labels: &["type"],
        ..metric(kind, name, labels, meaning)
    }
}

/// Describes each metric to the installed `metrics` recorder. Call it once, after installing the
/// recorder. Without it, all metrics are emitted without a description.
pub fn describe_metrics() {
    for Metric {
        name,
        kind,
        meaning,
        ..
    } in METRICS.iter().copied()
    {
        let unit = if name.ends_with("_seconds") {
            Unit::Seconds
        } else {
            Unit::Count
        };
        match kind {
            MetricKind::Counter => metrics::describe_counter!(name, unit, meaning),
            MetricKind::Gauge => metrics::describe_gauge!(name, unit, meaning),
            MetricKind::Histogram => metrics::describe_histogram!(name, unit, meaning),
        }
    }
}

/// Increments a counter of the endpoint.
pub(crate) fn count(name: &'static str, endpoint: &Arc<str>) {
    counter_of(name, endpoint, None, None).increment(1);
}

/// Increments a counter of the endpoint, with one more label.
pub(crate) fn count_by(
    name: &'static str,
    endpoint: &Arc<str>,
    label: &'static str,
    word: &'static str,
) {
    counter_of(name, endpoint, Some((label, word)), None).increment(1);
}

/// Increments a counter of outcomes, which may have a label for the event's type.
pub(crate) fn count_outcome(
    name: &'static str,
    endpoint: &Arc<str>,
    outcome: &'static str,
    event_type: Option<&'static str>,
) {
    counter_of(name, endpoint, Some(("outcome", outcome)), event_type).increment(1);
}

/// Counts a payload member that does not have the deduced shape.
pub(crate) fn payload_mismatch(event_type: &'static str, member: &'static str) {
    metrics::counter!(PAYLOAD_MISMATCH, "type" => event_type, "member" => member).increment(1);
}

/// Sets the gauges of the inbox.
pub(crate) fn inbox(endpoint: &Arc<str>, depth: u64, oldest: Option<Duration>) {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2⁵³ events")]
    gauge_of(INBOX_DEPTH, endpoint).set(depth as f64);
    gauge_of(INBOX_OLDEST_SECONDS, endpoint).set(oldest.unwrap_or_default());
}

/// Records how long a handler took.
pub(crate) fn handler_took(
    endpoint: &Arc<str>,
    outcome: &'static str,
    event_type: Option<&'static str>,
    time: Duration,
) {
    let outcome = Some(("outcome", outcome));
    histogram_of(HANDLER_SECONDS, endpoint, outcome, event_type).record(time);
}

/// Records how long after it happened an event was handled.
pub(crate) fn handled_after(endpoint: &Arc<str>, lag: Duration) {
    histogram_of(LAG_SECONDS, endpoint, None, None).record(lag);
}

/// Sets how far reconciling is behind.
#[cfg(feature = "client")]
pub(crate) fn reconcile_lag(endpoint: &Arc<str>, lag: Duration) {
    gauge_of(RECONCILE_LAG_SECONDS, endpoint).set(lag);
}

// The macros of `metrics` create a key each time, which allocates even without a recorder. So keys
// are cached, and the currently installed recorder is asked.

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

fn counter_of(
    name: &'static str,
    endpoint: &Arc<str>,
    label: Label,
    event_type: Option<&'static str>,
) -> Counter {
    let key = kept(name, endpoint, label, event_type);
    metrics::with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
}

fn gauge_of(name: &'static str, endpoint: &Arc<str>) -> Gauge {
    let key = kept(name, endpoint, None, None);
    metrics::with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
}

fn histogram_of(
    name: &'static str,
    endpoint: &Arc<str>,
    label: Label,
    event_type: Option<&'static str>,
) -> Histogram {
    let key = kept(name, endpoint, label, event_type);
    metrics::with_recorder(|recorder| recorder.register_histogram(&key, &METADATA))
}
