//! An AuthPI with one webhook and a log, whose lists a test controls.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard},
};

use authpi_sdk::client::{Client, RetryPolicy};
use axum::{
    Router,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use jiff::Timestamp;
use serde_json::{Value, json, value::RawValue};
use tokio::{net::TcpListener, task::JoinHandle};

use super::created;

/// The order of the log's list.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    OldestFirst,
    NewestFirst,
    Shuffled(u64),
}

pub(super) struct Log {
    pub(super) base_url: String,
    reported: Arc<Mutex<Reported>>,
    server: JoinHandle<()>,
}

/// The test's settings, and the recorded requests.
pub(super) struct Reported {
    pub(super) order: Order,
    /// Whether `after` and `before` include the given time.
    pub(super) inclusive: bool,
    /// The maximum number of items per page.
    pub(super) page: usize,
    pub(super) webhook: Value,
    /// The number of log requests that still succeed; later ones get 500.
    pub(super) answers: usize,
    /// Whether it reports another page, but not its cursor.
    pub(super) hides_the_next: bool,
    /// Called before each page.
    pub(super) before_page: Option<BeforePage>,
    pub(super) events: Vec<Logged>,
    pub(super) failed_deliveries: Vec<Value>,
    /// The number of requests for the webhook.
    pub(super) looks: usize,
    /// The queries of the log requests.
    pub(super) asked: Vec<HashMap<String, String>>,
}

type BeforePage = Box<dyn FnMut(&mut Vec<Logged>) + Send>;

#[derive(Clone)]
pub(super) struct Logged {
    pub(super) id: String,
    time: i64,
    event_type: String,
    json: String,
}

/// An event of a user.
pub(super) fn event(id: &str, at: Timestamp, event_type: &str, user: &str) -> Logged {
    let time = at.as_millisecond();
    let json = json!({
        "spec": "1.0", "id": id, "type": event_type, "source": "com.authpi/v1", "timestamp": time,
        "subject": {"user_id": user}, "data": {"id": user}, "a_member_of_tomorrow": {"kept": [1.0, "as it is"]},
    });
    Logged {
        id: id.to_owned(),
        time,
        event_type: event_type.to_owned(),
        json: json.to_string(),
    }
}

/// An event of this size in bytes.
pub(super) fn large(id: &str, at: Timestamp, bytes: usize) -> Logged {
    let mut event = event(id, at, "user.created", "usr_1");
    event.json = event.json.replace("as it is", &"x".repeat(bytes));
    event
}

/// An item that is not an event, at some time.
pub(super) fn nonsense(at: Timestamp) -> Logged {
    let time = at.as_millisecond();
    Logged {
        id: "?".into(),
        time,
        event_type: "user.created".into(),
        json: json!({"type": 7}).to_string(),
    }
}

impl Logged {
    pub(super) fn json(&self) -> &str {
        &self.json
    }
}

impl Log {
    pub(super) async fn start() -> Self {
        let reported = Arc::new(Mutex::new(Reported {
            order: Order::NewestFirst,
            inclusive: false,
            page: 100,
            webhook: json!({
                "id": "wh_1", "account_id": "acc_1", "name": "users", "url": "http://127.0.0.1:9/", "auth": {"type": "none"},
                "status": "active", "events": ["user.created", "user.updated"], "created_at": created().as_millisecond(),
            }),
            answers: usize::MAX,
            hides_the_next: false,
            before_page: None,
            events: Vec::new(),
            failed_deliveries: Vec::new(),
            looks: 0,
            asked: Vec::new(),
        }));
        let app = Router::new()
            .route("/v1/accounts/acc_1/webhooks/wh_1", get(webhook))
            .route(
                "/v1/accounts/acc_1/webhooks/wh_1/deliveries",
                get(deliveries),
            )
            .route("/v1/accounts/acc_1/events", get(page))
            .with_state(Arc::clone(&reported));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            base_url,
            reported,
            server,
        }
    }

    pub(super) async fn of(events: impl IntoIterator<Item = Logged>) -> Self {
        let log = Self::start().await;
        log.reported().events = events.into_iter().collect();
        log
    }

    pub(super) fn reported(&self) -> MutexGuard<'_, Reported> {
        self.reported.lock().unwrap()
    }

    pub(super) fn client(&self) -> Client {
        Client::builder()
            .base_url(&self.base_url)
            .access_token("token")
            .account("acc_1")
            .retry(RetryPolicy::never())
            .build()
            .unwrap()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Shared = State<Arc<Mutex<Reported>>>;

async fn webhook(State(reported): Shared) -> Response {
    let mut reported = reported.lock().unwrap();
    reported.looks += 1;
    json(json!({"data": reported.webhook}).to_string())
}

async fn deliveries(State(reported): Shared, RawQuery(query): RawQuery) -> Response {
    let query = pairs(query.as_deref());
    let after = number(&query, "after").unwrap_or(i64::MIN);
    let reported = reported.lock().unwrap();
    let data = reported
        .failed_deliveries
        .iter()
        .filter(|delivery| delivery["created_at"].as_i64() > Some(after));
    json(
        json!({"data": data.collect::<Vec<_>>(), "has_more": false, "next_cursor": null})
            .to_string(),
    )
}

async fn page(State(reported): Shared, RawQuery(query): RawQuery) -> Response {
    let query = pairs(query.as_deref());
    let mut reported = reported.lock().unwrap();
    let reported = &mut *reported;
    reported.asked.push(query.clone());
    let Some(left) = reported.answers.checked_sub(1) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    reported.answers = left;
    if let Some(before_page) = &mut reported.before_page {
        before_page(&mut reported.events);
    }
    let edge = i64::from(reported.inclusive);
    let after = number(&query, "after").map_or(i64::MIN, |after| after - edge);
    let before = number(&query, "before").map_or(i64::MAX, |before| before + edge);
    let types: Option<BTreeSet<&str>> = query
        .get("event_types")
        .map(|types| types.split(',').collect());
    let mut listed: Vec<&Logged> = reported
        .events
        .iter()
        .filter(|event| event.time > after && event.time < before)
        .filter(|event| {
            types
                .as_ref()
                .is_none_or(|types| types.contains(event.event_type.as_str()))
        })
        .collect();
    match reported.order {
        Order::OldestFirst => listed.sort_by_key(|event| event.time),
        Order::NewestFirst => listed.sort_by_key(|event| std::cmp::Reverse(event.time)),
        Order::Shuffled(seed) => listed.sort_by_key(|event| {
            let mut hasher = DefaultHasher::new();
            (seed, &event.id).hash(&mut hasher);
            hasher.finish()
        }),
    }
    let limit = number(&query, "limit")
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(50)
        .min(reported.page);
    let begin = query.get("cursor").map_or(0, |id| {
        1 + listed.iter().position(|event| event.id == *id).unwrap()
    });
    let rest = &listed[begin..];
    let shown = &rest[..rest.len().min(limit)];
    let next_cursor = shown
        .last()
        .filter(|_| shown.len() < rest.len())
        .map(|event| &event.id);
    let data: Vec<Box<RawValue>> = shown
        .iter()
        .map(|event| RawValue::from_string(event.json.clone()).unwrap())
        .collect();
    let cursor = next_cursor.filter(|_| !reported.hides_the_next);
    let page = json!({"has_more": next_cursor.is_some(), "next_cursor": cursor});
    // Built by hand, since `Value` would rewrite the events.
    let data = serde_json::to_string(&data).unwrap();
    json(format!("{{\"data\":{data},{}", &page.to_string()[1..]))
}

fn json(body: String) -> Response {
    ([("content-type", "application/json")], body).into_response()
}

fn pairs(query: Option<&str>) -> HashMap<String, String> {
    let url = reqwest::Url::parse(&format!("http://log/?{}", query.unwrap_or_default())).unwrap();
    url.query_pairs().into_owned().collect()
}

fn number(query: &HashMap<String, String>, name: &str) -> Option<i64> {
    query.get(name).map(|text| text.parse().unwrap())
}
