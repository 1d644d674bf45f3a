//! Properties of generated code: the events here, the API's types in `api`, and in `schemas` that
//! the derived schemas match the description.

#[cfg(feature = "client")]
mod api;
#[cfg(feature = "schemars")]
mod schemas;

use serde_json::{Value, json};

use crate::RawJson;

use super::events::{EventData, EventType, payload};

fn raw(json: &str) -> RawJson {
    serde_json::from_str(json).unwrap()
}

#[test]
fn every_event_type_is_found_by_its_name_and_written_by_it() {
    assert_eq!(EventType::ALL.len(), 106);
    for event_type in EventType::ALL {
        assert_eq!(&EventType::from(event_type.as_str()), event_type);
        assert!(!matches!(event_type, EventType::Unknown(_)));
        let json = serde_json::to_string(event_type).unwrap();
        assert_eq!(
            serde_json::from_str::<EventType>(&json).unwrap(),
            *event_type
        );
    }
}

#[test]
fn an_unknown_event_type_survives_a_round_trip_and_sorts_by_name() {
    for name in ["user.teleported", "", "USER.CREATED", "user.created "] {
        let event_type = EventType::from(name);
        assert!(matches!(event_type, EventType::Unknown(_)), "{name:?}");
        assert_eq!(event_type.to_string(), name);
        assert_eq!(serde_json::to_value(&event_type).unwrap(), json!(name));
    }
    let mut sorted = [
        EventType::from("user.zapped"),
        EventType::UserCreated,
        EventType::from("user.abducted"),
    ];
    sorted.sort();
    assert_eq!(
        sorted.map(|of| of.to_string()),
        ["user.abducted", "user.created", "user.zapped"]
    );
}

#[test]
fn every_event_type_has_a_payload_that_is_read_by_type_alone() {
    for event_type in EventType::ALL {
        let data =
            EventData::decode(event_type, &raw(r#"{"id":"x","not-deduced":[1, 2.0]}"#)).unwrap();
        assert!(!matches!(data, EventData::Unknown(_)), "{event_type}");
        let written = serde_json::to_string(&data).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&written).unwrap(),
            json!({"id": "x", "not-deduced": [1, 2.0]})
        );
        assert!(written.contains("[1, 2.0]"), "kept as it came");
    }
}

#[test]
fn an_unknown_event_keeps_its_bytes_exactly() {
    let json = r#"{"b": 12345678901234567890123, "a" :1.50, "b":null}"#;
    let data = EventData::decode(&EventType::from("user.teleported"), &raw(json)).unwrap();
    assert_eq!(serde_json::to_string(&data).unwrap(), json);
}

#[test]
fn a_member_of_another_shape_never_makes_an_event_fail() {
    let shapes = [
        "null",
        "true",
        "1",
        "-1.5",
        "1e400",
        r#""text""#,
        r#""\u00e9""#,
        "[]",
        "[1]",
        "{}",
        r#"{"a":[{}]}"#,
    ];
    for event_type in EventType::ALL {
        let empty = serde_json::to_value(schema_names(event_type)).unwrap();
        for name in empty.as_array().unwrap() {
            for shape in shapes {
                let json = format!("{{{name}:{shape}}}");
                let data = EventData::decode(event_type, &raw(&json)).unwrap();
                let written = serde_json::to_string(&data).unwrap();
                let again = EventData::decode(event_type, &raw(&written)).unwrap();
                assert_eq!(
                    serde_json::to_string(&again).unwrap(),
                    written,
                    "{event_type} {json}"
                );
                assert_eq!(again.extra(), data.extra(), "{event_type} {json}");
            }
        }
    }
}

/// The members of an event type's payload in the description.
fn schema_names(event_type: &EventType) -> Vec<String> {
    let events = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/events/");
    let read = |file: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(format!("{events}{file}")).unwrap()).unwrap()
    };
    let catalogue = read("catalogue.json");
    let entry = catalogue["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["properties"]["type"]["const"] == event_type.as_str())
        .unwrap();
    let payload = read(entry["properties"]["data"]["$ref"].as_str().unwrap());
    payload["properties"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

#[test]
fn payloads_stay_out_of_debug() {
    let user: payload::User =
        serde_json::from_value(json!({"username": "ada", "pin": "4711"})).unwrap();
    assert_eq!(format!("{user:?}"), "User { .. }");
    let data = EventData::decode(&EventType::UserCreated, &raw(r#"{"username":"ada"}"#)).unwrap();
    assert_eq!(format!("{data:?}"), "User { .. }");
    let unknown = EventData::decode(&EventType::from("x"), &raw(r#"{"username":"ada"}"#)).unwrap();
    assert_eq!(format!("{unknown:?}"), "Unknown(18 bytes)");
}
