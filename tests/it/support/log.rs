//! The log of a test, and checks that it contains nothing confidential.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, Mutex, Once},
};

use authpi_sdk::testing::Fixture;
use serde_json::json;
use tracing::{Metadata, Subscriber, field::Visit, span};

/// Everything that is logged on this thread, as text.
#[derive(Clone, Default)]
pub(crate) struct Logged(Arc<Mutex<String>>);

impl Logged {
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn add(&self, record: impl FnOnce(&mut dyn Visit)) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                write!(self.0, " {field}={value:?}").unwrap();
            }
        }
        let mut line = Line(String::new());
        record(&mut line);
        self.0.lock().unwrap().push_str(&(line.0 + "\n"));
    }
}

impl Subscriber for Logged {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        self.add(|line| span.record(line));
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        self.add(|line| values.record(line));
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        self.add(|line| event.record(line));
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Sets `subscriber` for this thread, until the guard is dropped.
///
/// Tests on other threads have no subscriber. A callsite that one of them reaches first would be
/// cached as disabled. So there is always another subscriber that is interested.
pub(crate) fn listen(
    subscriber: impl Subscriber + Send + Sync,
) -> tracing::subscriber::DefaultGuard {
    static ANOTHER: Once = Once::new();
    ANOTHER.call_once(|| {
        tracing::subscriber::set_global_default(Willing).expect("no other subscriber is set");
    });
    tracing::subscriber::set_default(subscriber)
}

struct Willing;

impl Subscriber for Willing {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        ["authpi_sdk", "it"]
            .iter()
            .any(|target| metadata.target().starts_with(target))
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

pub(crate) fn assert_clean(what: &str, text: &str) {
    for marked in ["SECRET", "PAYLOAD", "PERSON", "FORGED"] {
        assert!(!text.contains(marked), "{marked} is in {what}:\n{text}");
    }
}

/// A delivery full of personal data, which must not be shown.
pub(crate) fn personal(fixture: Fixture) -> Fixture {
    fixture
        .subject("user_id", "usr_PERSON")
        .data(json!({ "username": "PAYLOAD", "other": ["PAYLOAD"], "id": 7 }))
}
