//! Payloads of every event type against their schemas, and members that do not have the deduced
//! shape.

use std::{collections::BTreeMap, fs};

use authpi_sdk::{
    event::{Event, EventType, types::AccountCreditsUpdated},
    handlers::{Context, Handlers, Outcome},
    receiver::Receiver,
    stores::Memory,
    telemetry::PAYLOAD_MISMATCH,
    testing::Fixture,
};
use http::StatusCode;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use serde_json::{Map, Value, json};

use crate::support::{
    log::{Logged, listen},
    request, verifier,
};

const EVENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/events");

fn schema(path: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(format!("{EVENTS}/{path}")).unwrap()).unwrap()
}

/// Each event type with the schema of its payload.
fn catalogue() -> Vec<(EventType, Value)> {
    let catalogue = schema("catalogue.json");
    let entries = catalogue["oneOf"].as_array().unwrap().iter();
    let found = entries.map(|entry| {
        let name = entry["properties"]["type"]["const"].as_str().unwrap();
        let payload = entry["properties"]["data"]["$ref"].as_str().unwrap();
        (EventType::from(name), schema(payload))
    });
    found.collect()
}

fn event(event_type: &EventType, data: &Value) -> Event {
    let event = json!({ "id": "evt_1", "type": event_type, "timestamp": 1, "data": data });
    Event::from_json(event.to_string()).unwrap()
}

/// Reads the payload, and compares each member with what was sent.
fn assert_reads(event_type: &EventType, data: &Value) {
    let event = event(event_type, data).strict_payload();
    assert_eq!(event.mismatched(), [""; 0], "{event_type}");
    let payload = event.decode().unwrap();
    let extra = payload.extra().unwrap();
    assert_eq!(extra.iter().count(), 0, "{event_type}: {extra:?}");
    // Without extra members, only fields are written.
    let read = serde_json::to_value(&payload).unwrap();
    let (read, sent) = (read.as_object().unwrap(), data.as_object().unwrap());
    for (member, value) in sent {
        assert_eq!(read.get(member), Some(value), "{event_type}: {member}");
    }
    assert_eq!(read.len(), sent.len(), "{event_type}");
}

#[test]
fn the_example_of_every_schema_is_read_member_by_member() {
    let mut schemas = BTreeMap::new();
    for (event_type, schema) in catalogue() {
        let examples = schema["examples"].as_array().unwrap();
        assert!(!examples.is_empty(), "{event_type}");
        for example in examples {
            assert_reads(&event_type, example);
        }
        *schemas
            .entry(schema["title"].as_str().unwrap().to_owned())
            .or_insert(0) += 1;
    }
    let files = fs::read_dir(format!("{EVENTS}/data")).unwrap().count();
    assert_eq!((schemas.len(), files), (32, 32));
    assert_eq!(schemas.values().sum::<usize>(), EventType::ALL.len());
}

/// The kind of a property's values besides `null`.
fn kind(property: &Value) -> &str {
    let kinds = &property["type"];
    let kinds = kinds
        .as_array()
        .map_or(std::slice::from_ref(kinds), Vec::as_slice);
    let mut kinds = kinds.iter().filter_map(Value::as_str);
    kinds.find(|kind| *kind != "null").unwrap()
}

/// The `n`th value of this shape.
fn value(property: &Value, n: usize) -> Value {
    match kind(property) {
        "string" => json!(format!("text {n} \u{e9}\n")),
        "integer" => json!(1_767_225_600_000_u64 + n as u64),
        "boolean" => json!(n.is_multiple_of(2)),
        "object" => json!({ "of": n, "list": [1, null] }),
        "array" => json!([
            value(&property["items"], n),
            value(&property["items"], n + 1)
        ]),
        kind => panic!("no value of the kind {kind}"),
    }
}

/// Values of other shapes.
fn others(property: &Value) -> Vec<Value> {
    let kind = kind(property);
    let list = if kind == "array" {
        Value::Null
    } else {
        json!(["text"])
    };
    let all = [
        ("string", json!("text")),
        ("integer", json!(17)),
        ("boolean", json!(true)),
        ("object", json!({ "a": 1 })),
        ("array", list),
    ];
    let mut others: Vec<_> = all
        .into_iter()
        .filter(|(other, _)| *other != kind)
        .map(|(_, value)| value)
        .collect();
    if kind == "array" {
        // One item of another shape.
        others.push(json!([value(&property["items"], 0), 17]));
    }
    others
}

#[test]
fn a_payload_with_every_member_is_read_member_by_member() {
    let mut members = 0;
    for (event_type, schema) in catalogue() {
        let properties = schema["properties"].as_object().unwrap();
        let data: Map<_, _> = properties
            .iter()
            .enumerate()
            .map(|(n, (name, property))| (name.clone(), value(property, n)))
            .collect();
        members += data.len();
        assert_reads(&event_type, &data.into());
    }
    assert!(members > 1_000, "{members}");
}

/// The count per event type and member.
fn counted(snapshotter: &Snapshotter) -> BTreeMap<(String, String), u64> {
    let mut counted = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        if key.key().name() == PAYLOAD_MISMATCH {
            let label = |name| {
                let mut labels = key.key().labels();
                labels
                    .find(|label| label.key() == name)
                    .unwrap()
                    .value()
                    .to_owned()
            };
            let DebugValue::Counter(count) = value else {
                panic!("{value:?}")
            };
            counted.insert((label("type"), label("member")), count);
            assert_eq!(key.key().labels().count(), 2);
        }
    }
    counted
}

#[test]
fn every_member_of_another_shape_is_kept_listed_counted_and_logged_once() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recorded = metrics::set_default_local_recorder(&recorder);
    let logged = Logged::default();
    let _guard = listen(logged.clone());
    let mut expected = BTreeMap::new();
    for (event_type, schema) in catalogue() {
        for (name, property) in schema["properties"].as_object().unwrap() {
            let others = others(property);
            expected.insert((event_type.to_string(), name.clone()), others.len() as u64);
            for other in others {
                let event = event(&event_type, &json!({ name: other }));
                assert_eq!(event.mismatched(), [name], "{event_type}: {other}");
                let payload = event.decode().unwrap();
                let extra = payload.extra().unwrap();
                assert_eq!(extra.mismatched(), 1, "{event_type} {name}: {other}");
                assert_eq!(extra.read::<Value>(name).unwrap(), Some(other));
                // The same event is decoded a second time: now an error, and not counted again.
                let error = event.strict_payload().decode().unwrap_err();
                assert_eq!(error.path(), name, "{event_type}");
            }
            let null = event(&event_type, &json!({ name: null, "not-deduced": 1 }));
            assert_eq!(null.mismatched(), [""; 0], "{event_type}: {name}");
            null.strict_payload().decode().unwrap();
        }
    }
    // The name of a type or member that this version does not know never becomes the value of a
    // metric's label.
    for name in ["user.teleported", "user.created "] {
        let unknown = event(&name.into(), &json!({ "id": 17 }));
        unknown.strict_payload().decode().unwrap();
    }
    assert!(expected.len() > 1_000, "{}", expected.len());
    assert_eq!(counted(&snapshotter), expected);
    let log = logged.text();
    for (event_type, member) in expected.keys() {
        // Other tests of this process may have caused the lines of this type.
        if event_type != USED_ELSEWHERE.as_str() {
            let line = format!("event_type=\"{event_type}\" member=\"{member}\" found=");
            assert_eq!(log.matches(&line).count(), 1, "{line}");
        }
    }
    assert!(!log.contains("text"), "no value is logged");
}

/// The only event type whose payloads have another shape in other tests.
pub(crate) const USED_ELSEWHERE: EventType = EventType::AccountCreditsUpdated;

#[tokio::test]
async fn strict_payloads_make_it_an_error_of_the_handler() {
    async fn read(
        event: Event<AccountCreditsUpdated>,
        _: Context<()>,
    ) -> authpi_sdk::HandlerResult {
        let credits = event.data()?;
        assert_eq!(credits.account_id, None);
        Ok(())
    }
    let odd = Fixture::of::<AccountCreditsUpdated>().data(json!({ "account_id": {} }));
    let deliver = async |handlers: Handlers<()>| {
        let receiver = Receiver::inline("users", verifier(), Memory::new(), handlers);
        let receiver = receiver.build().unwrap();
        receiver.receive(request(&odd)).await.status()
    };
    let lenient = Handlers::new(()).on(read);
    assert_eq!(deliver(lenient).await, StatusCode::OK);
    let strict = Handlers::new(()).on(read).strict_payloads();
    assert_eq!(deliver(strict).await, StatusCode::SERVICE_UNAVAILABLE);

    let strict = Handlers::new(()).on(read).strict_payloads();
    let outcome = strict.dispatch(odd.verified()).await;
    let Outcome::Failed(error) = outcome else {
        panic!("{outcome:?}")
    };
    let expected = "the member `account_id` of the event's data does not have the deduced shape";
    assert_eq!(error.to_string(), expected);
}
