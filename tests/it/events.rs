//! Every event type, in both directions.

use std::sync::{Arc, Mutex};

use authpi_sdk::{
    event::{Event, EventData, EventType, types::UserCreated},
    handlers::{Context, Handlers},
    receiver::Receiver,
    stores::Memory,
    testing::Fixture,
};

use crate::support::{request, signed, verifier};

/// The names in the description, in its order.
fn described() -> Vec<String> {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../openapi/events/event-type.json")).unwrap();
    serde_json::from_value(schema["enum"].clone()).unwrap()
}

#[test]
fn all_106_types_are_there_in_the_descriptions_order() {
    let names: Vec<_> = EventType::ALL
        .iter()
        .map(|event_type| event_type.as_str().to_owned())
        .collect();
    assert_eq!(names.len(), 106);
    assert_eq!(names, described());
}

#[test]
fn every_type_reads_back_as_it_was_written() {
    for event_type in EventType::ALL {
        assert_eq!(&EventType::from(event_type.as_str()), event_type);
        let written = serde_json::to_string(event_type).unwrap();
        assert_eq!(
            &serde_json::from_str::<EventType>(&written).unwrap(),
            event_type
        );

        let event = Event::from_json(Fixture::new(event_type.clone()).body()).unwrap();
        assert_eq!(event.event_type(), event_type);
        let data = event.decode().unwrap();
        assert!(
            !matches!(data, EventData::Unknown(_)),
            "{event_type} has no payload type"
        );
        let again = authpi_sdk::RawJson::new(&data).unwrap();
        let again = EventData::decode(event_type, &again).unwrap();
        let (data, again) = (
            serde_json::to_value(&data).unwrap(),
            serde_json::to_value(&again).unwrap(),
        );
        assert_eq!(data, again, "{event_type} does not read back as written");
        assert_eq!(
            data,
            serde_json::from_str::<serde_json::Value>(event.raw_data().unwrap()).unwrap()
        );
    }
}

#[test]
fn an_unknown_type_keeps_its_name_and_every_byte_of_its_data() {
    let data = r#"{"b": 12345678901234567890123 ,"a":1.00}"#;
    let body = format!(r#"{{"id":"evt_1","type":"user.teleported","timestamp":1,"data":{data}}}"#);
    let event = Event::from_json(body).unwrap();
    assert_eq!(event.event_type().as_str(), "user.teleported");
    assert!(matches!(event.decode().unwrap(), EventData::Unknown(raw) if raw.get() == data));
}

#[tokio::test]
async fn every_type_and_an_unknown_one_reaches_a_handler() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handlers = Handlers::new(Arc::clone(&seen)).fallback(
        async |event: Event, cx: Context<Arc<Mutex<Vec<String>>>>| {
            cx.state()
                .lock()
                .unwrap()
                .push(event.event_type().to_string());
            Ok(())
        },
    );
    assert!(handlers.unhandled_types().is_empty());
    let receiver = Receiver::inline("all", verifier(), Memory::new(), handlers)
        .build()
        .unwrap();
    let mut names = described();
    names.push("user.teleported".to_owned());
    for name in &names {
        let delivery = request(&Fixture::new(name.as_str()));
        assert_eq!(receiver.receive(delivery).await.status(), 200, "{name}");
    }
    assert_eq!(*seen.lock().unwrap(), names);
}

#[tokio::test]
async fn a_payload_with_half_a_surrogate_pair_is_handled() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handlers = Handlers::new(Arc::clone(&seen)).on(
        async |event: Event<UserCreated>, cx: Context<Arc<Mutex<Vec<String>>>>| {
            let own: serde_json::Value = event.data_as()?;
            let user = event.data()?;
            assert_eq!(own["username"].as_str(), user.username.as_deref());
            cx.state()
                .lock()
                .unwrap()
                .extend([event.id().to_owned(), user.username.unwrap_or_default()]);
            Ok(())
        },
    );
    let receiver = Receiver::inline("odd", verifier(), Memory::new(), handlers)
        .build()
        .unwrap();
    let plain = Fixture::new(EventType::UserCreated)
        .id("evt_cut")
        .data(serde_json::json!({"username": "CUT", "CUT": ["CUT"]}));
    let plain = String::from_utf8(plain.body().to_vec()).unwrap();
    for body in [
        plain.replace("CUT", r"\ud83d"),
        plain
            .replace("evt_cut", r"evt_2\udc00")
            .replace("CUT", r"\ud83d\ude00"),
    ] {
        assert_eq!(receiver.receive(signed(body)).await.status(), 200);
    }
    assert_eq!(
        *seen.lock().unwrap(),
        ["evt_cut", "\u{fffd}", "evt_2\u{fffd}", "😀"]
    );
}
