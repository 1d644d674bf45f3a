//! Spans, and the lines in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    sync::{Arc, Mutex},
};

use authpi_sdk::{
    event::{
        Event,
        types::{UserCreated, UserDeleted},
    },
    handlers::{Context, Handlers},
    ledger::Tx,
    receiver::Receiver,
    stores::{Memory, Sqlite},
    testing::Fixture,
    worker::Worker,
};
use tokio::sync::{Notify, Semaphore};
use tracing::{
    Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::{created, documented, handlers, hasty, worked_off};
use crate::support::{
    log::{listen, personal},
    request, signed, verifier,
};

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
