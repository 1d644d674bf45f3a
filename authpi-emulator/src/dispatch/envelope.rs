//! The body of a delivery: a CloudEvents envelope in structured mode.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::store::Event;

/// The members, in the order of the delivery in AuthPI's guide.
#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    specversion: &'a str,
    source: String,
    r#type: &'a str,
    datacontenttype: &'a str,
    time: String,
    data: &'a RawValue,
}

/// `at` is the envelope's time, in Unix milliseconds.
pub(super) fn write(id: &str, webhook_id: &str, event: &Event, at: i64) -> Vec<u8> {
    let envelope = Envelope {
        id,
        specversion: "1.0",
        source: format!("com.authpi.webhooks/v1/{webhook_id}"),
        r#type: "event",
        datacontenttype: "application/json",
        // The emulator's clock stays within the calendar, and `FaultPlan` limits how much older an
        // event can get.
        time: Timestamp::from_millisecond(at)
            .unwrap_or(Timestamp::MIN)
            .to_string(),
        data: &event.delivered,
    };
    serde_json::to_vec(&envelope).expect("strings and JSON are always JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::openapi::Description;

    #[test]
    fn an_envelope_reads_as_the_one_in_authpis_guide() {
        let subject = json!({"user_id": "usr_1"});
        let event = Event::new(
            "evt_1".into(),
            "user.created",
            1_704_079_296_000,
            "test",
            subject,
            json!({"id": "usr_1"}),
        );
        let written = String::from_utf8(write("0a-1b", "wh_1", &event, event.timestamp)).unwrap();
        let expected = [
            r#"{"id":"0a-1b","specversion":"1.0","source":"com.authpi.webhooks/v1/wh_1","type":"event","#,
            r#""datacontenttype":"application/json","time":"2024-01-01T03:21:36Z","data":{"#,
            r#""id":"evt_1","type":"user.created","trace":"TRACE","source":"com.authpi/v1","#,
            r#""subject":{"user_id":"usr_1"},"data":{"id":"usr_1"}}}"#,
        ];
        assert_eq!(written, expected.concat().replace("TRACE", &event.trace));
    }
    #[test]
    fn the_delivery_of_each_event_type_is_one_by_the_description() {
        let description = Description::get();
        for name in &description.events.types {
            let subject = description.events.example_subject(name, &json!("acc_1"));
            let data = description
                .events
                .example_data(name, &subject, &json!("acc_1"));
            let event = Event::new(
                "evt_1".into(),
                name,
                1_704_079_296_000,
                "test",
                subject,
                data,
            );
            let written =
                serde_json::from_slice(&write("0a-1b", "wh_1", &event, event.timestamp)).unwrap();
            assert_eq!(description.check_delivery(&written), [], "{name}");
        }
        assert_ne!(
            description.check_delivery(&json!({"specversion": "1.0"})),
            []
        );
    }
}
