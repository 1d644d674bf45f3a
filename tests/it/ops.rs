//! `ops/`: the alerts and the dashboard use the metrics, labels and values that the code has.
//!
//! `cargo xtask test --only ops` checks the rules themselves with promtool.

use std::{collections::BTreeSet, fs, path::Path};

use authpi_sdk::telemetry::{METRICS, Metric, MetricKind};
use serde_json::Value;

fn file(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap()
}

/// The values under this key, at any depth.
fn texts<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| texts(item, key, found)),
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == key => found.push(text),
                    member => texts(member, key, found),
                }
            }
        }
        _ => {}
    }
}

fn alerts() -> Value {
    serde_norway::from_str(&file("ops/alerts.yml")).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&file("ops/dashboard.json")).unwrap()
}

fn expressions<'v>(value: &'v Value, keys: &[&str]) -> Vec<&'v str> {
    let mut found = Vec::new();
    for key in keys {
        texts(value, key, &mut found);
    }
    assert!(!found.is_empty());
    found
}

/// A part of an expression: a word, or a character that belongs to no word.
fn tokens(expression: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => 2 + rest[1..].find('"').unwrap(),
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// The metric of a time series, if the code has it, and whether the series has the label `le`.
fn metric(series: &str) -> Option<(&'static Metric, bool)> {
    METRICS.iter().find_map(|metric| {
        let suffix = series.strip_prefix(metric.name)?;
        let of_histogram = ["_bucket", "_count", "_sum"].contains(&suffix);
        let exists = match metric.kind {
            MetricKind::Histogram => of_histogram,
            _ => suffix.is_empty(),
        };
        exists.then_some((metric, suffix == "_bucket"))
    })
}

/// The words in backticks of the page, among them every value of a label.
fn documented() -> BTreeSet<String> {
    let page = file("docs/observability.md");
    let words = page.lines().filter(|line| line.starts_with("| `"));
    let words = words.flat_map(|line| line.split('`').skip(1).step_by(2));
    words.map(ToOwned::to_owned).collect()
}

/// Checks the expression, and returns the metrics in it.
fn check(expression: &str) -> BTreeSet<&'static str> {
    let documented = documented();
    let tokens = tokens(expression);
    let (mut used, mut labels) = (BTreeSet::new(), BTreeSet::<&str>::new());
    let mut at = 0;
    while let Some(&token) = tokens.get(at) {
        at += 1;
        if !token.starts_with("authpi_") {
            continue;
        }
        let (metric, has_le) =
            metric(token).unwrap_or_else(|| panic!("no metric has the series {token}"));
        used.insert(metric.name);
        labels.extend(metric.labels.iter().chain(metric.optional_labels));
        labels.extend(has_le.then_some(&"le"));
        if tokens.get(at) != Some(&"{") {
            continue;
        }
        let end = at + tokens[at..].iter().position(|token| *token == "}").unwrap();
        // A label, its operator of one or two characters, and its value.
        for matcher in tokens[at + 1..end].split(|token| *token == ",") {
            let (label, value) = (matcher[0], matcher[matcher.len() - 1].trim_matches('"'));
            assert!(
                metric.labels.contains(&label),
                "{token} has no label {label}"
            );
            for value in value.split('|').filter(|value| *value != "$endpoint") {
                assert!(documented.contains(value), "{label} is never {value:?}");
            }
        }
        at = end;
    }
    for (at, _) in tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| **token == "by")
    {
        let list = tokens[at + 2..]
            .split(|token| *token == ")")
            .next()
            .unwrap();
        for label in list.iter().filter(|token| **token != ",") {
            assert!(
                labels.contains(label),
                "nothing in {expression} has the label {label}"
            );
        }
    }
    assert!(!used.is_empty(), "no metric is in {expression}");
    used
}

#[test]
fn alerts_use_metrics_of_the_code() {
    let alerts = alerts();
    for expression in expressions(&alerts, &["expr"]) {
        check(expression);
    }
}

#[test]
fn every_alert_fires_in_a_unit_test() {
    let tests: Value = serde_norway::from_str(&file("ops/alerts.test.yml")).unwrap();
    let fired = expressions(&tests, &["labels"]);
    for alert in expressions(&alerts(), &["alert"]) {
        let label = format!("alertname=\"{alert}\"");
        assert!(
            fired.iter().any(|labels| labels.contains(&label)),
            "{alert} is not tested"
        );
    }
}

#[test]
fn the_dashboard_shows_every_metric_of_the_code() {
    let dashboard = dashboard();
    let mut shown = BTreeSet::new();
    for expression in expressions(&dashboard, &["expr"]) {
        shown.extend(check(expression));
    }
    let all: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(shown, all);

    // Variables select a label's values: `label_values({__name__=~"a|b"}, endpoint)`.
    let mut names = 0;
    for query in expressions(&dashboard, &["definition"]) {
        let words = query.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        for name in words.filter(|word| word.starts_with("authpi_")) {
            let (metric, _) = metric(name).unwrap_or_else(|| panic!("there is no {name}"));
            assert!(metric.labels.contains(&"endpoint"), "{name}");
            names += 1;
        }
    }
    assert!(names > 0);
}

#[test]
fn a_metric_a_label_or_a_value_that_the_code_does_not_have_is_noticed() {
    let fails = |expression: &'static str| std::panic::catch_unwind(|| check(expression)).is_err();
    for valid in [
        r#"sum by (endpoint) (rate(authpi_deliveries_total{outcome=~"handled|stored"}[5m])) > 0"#,
        "histogram_quantile(0.9, sum by (le, operation) (rate(authpi_call_seconds_bucket[5m])))",
    ] {
        assert!(!fails(valid), "{valid}");
    }
    for bad in [
        "rate(authpi_delivered_total[5m])",
        "rate(authpi_call_seconds[5m])",
        "rate(authpi_calls_total_count[5m])",
        r#"authpi_deliveries_total{result="handled"}"#,
        r#"authpi_deliveries_total{outcome=~"handled|done"}"#,
        "sum by (operation) (authpi_deliveries_total)",
        "sum by (le) (rate(authpi_call_seconds_count[5m]))",
        "up > 0",
    ] {
        assert!(fails(bad), "{bad}");
    }
}
