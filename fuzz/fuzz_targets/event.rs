//! Arbitrary bodies: parsing never panics and keeps every byte, and a payload that is written and
//! parsed again is the same.
#![no_main]

use authpi_sdk::{
    event::{Event, EventData},
    testing::Fixture,
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, value::RawValue};

fn written(data: &EventData) -> String {
    serde_json::to_string(data).expect("what was read can be written")
}

fuzz_target!(|body: &[u8]| {
    let _ = Event::from_batch(body.to_vec());
    let Ok(event) = Event::from_json(body.to_vec()) else {
        return;
    };
    assert_eq!(event.body(), body);
    let whole = std::str::from_utf8(body).expect("only UTF-8 is readable");
    assert!(
        whole.contains(event.raw())
            && event
                .raw_data()
                .is_none_or(|data| event.raw().contains(data))
    );

    let Ok(data) = event.decode() else { return };
    let once = written(&data);
    // Put the written data into a new event of the same type, and parse that event.
    let template = Fixture::new(event.event_type().as_str())
        .data(Value::from("here"))
        .body();
    let template = std::str::from_utf8(&template).expect("a fixture is UTF-8");
    let again =
        Event::from_json(template.replacen("\"here\"", &once, 1)).expect("a fixture is readable");
    let raw: &RawValue = serde_json::from_str(again.raw_data().expect("it was put there"))
        .expect("an event's data is JSON");
    assert_eq!(raw.get(), once);
    assert_eq!(
        written(&again.decode().expect("what was written can be read")),
        once
    );
});
