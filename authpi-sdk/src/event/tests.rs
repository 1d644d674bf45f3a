use super::{types::UserCreated, *};
use crate::RawJson;

/// The example delivery of AuthPI's guide (authpi.com/docs/guides/webhooks), as JSON instead of
/// JavaScript.
const GUIDE: &str = include_str!("guide-delivery.json");

fn error(body: impl Into<Bytes>) -> String {
    Event::from_json(body).unwrap_err().to_string()
}

#[test]
fn the_guides_delivery_is_read_as_it_stands() {
    let event = Event::from_json(GUIDE).unwrap();
    assert_eq!(event.event_type(), &EventType::UserCreated);
    assert_eq!(event.time().to_string(), "2024-01-01T03:21:36Z");
    assert_eq!(event.source(), Some("com.authpi/v1"));
    assert!(event.trace().is_some() && event.subject().user_id().is_some());
    let envelope = event.envelope().unwrap();
    assert_eq!(envelope.envelope_type(), "event");
    assert_eq!(envelope.webhook_id(), envelope.source().rsplit('/').next());
    assert!(event.downcast::<UserCreated>().is_ok());
}

#[test]
fn every_byte_of_the_event_is_kept() {
    let data = r#"{ "n":12345678901234567890123, "b":1.0, "a":"\u00e9", "a":2 }"#;
    let inner =
        format!(r#"{{"type":"user.teleported","id":"evt_1", "data":{data} ,"timestamp":1}}"#);
    let body =
        format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"event","data":{inner} }}"#);
    let event = Event::from_json(body.clone()).unwrap();
    assert_eq!(event.raw(), inner);
    assert_eq!(event.raw_data(), Some(data));
    assert_eq!(event.event_type().as_str(), "user.teleported");
    let written = serde_json::to_string(&event).unwrap();
    assert_eq!(written, body);
    assert_eq!(Event::from_json(written).unwrap().id(), "evt_1");
}

#[test]
fn escapes_in_what_is_routed_by_are_decoded() {
    let body = r#"{"specversion":"1.0","id":"a\n","source":"s\u00e9","type":"event","time":"2024-01-01T00:00:00Z",
        "data":{"id":"evt\u005f1","type":"user\u002ecreated","subject":{"user\u005fid":"u\"1"}}}"#;
    let event = Event::from_json(body).unwrap();
    assert_eq!(
        (event.id(), event.event_type()),
        ("evt_1", &EventType::UserCreated)
    );
    assert_eq!(event.subject().user_id(), Some("u\"1"));
}

#[test]
fn the_events_own_timestamp_goes_before_the_envelopes_time() {
    let body = |timestamp: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"s","type":"event","time":"2024-01-02T00:00:00Z",
            "data":{{"id":"e","type":"t","timestamp":{timestamp}}}}}"#
        )
    };
    let event = Event::from_json(body("1704067200000")).unwrap();
    assert_eq!(event.time().to_string(), "2024-01-01T00:00:00Z");
    assert_eq!(event.delivered_at().to_string(), "2024-01-02T00:00:00Z");
    for lenient in ["null", "\"yesterday\"", "1e300", "{}"] {
        assert_eq!(
            Event::from_json(body(lenient)).unwrap().time().to_string(),
            "2024-01-02T00:00:00Z"
        );
    }
}

#[test]
fn what_routing_does_not_need_never_fails_an_event() {
    for member in [
        r#""subject":"u""#,
        r#""subject":[1]"#,
        r#""subject":{"user_id":7}"#,
        r#""trace":{}"#,
        r#""source":1"#,
        r#""data":7"#,
    ] {
        let body = format!(
            r#"{{"specversion":"1.0","id":"1","source":"s","type":"event","time":"2024-01-01T00:00:00Z","data":{{"id":"e","type":"t",{member}}}}}"#
        );
        let event = Event::from_json(body).unwrap();
        assert_eq!(event.subject().user_id(), None);
    }
}

#[test]
fn errors_name_the_path_and_show_no_content() {
    let envelope = |data: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"s","type":"event","time":"2024-01-01T00:00:00Z","data":{data}}}"#
        )
    };
    for (body, said) in [
        (String::new(), "the body is not JSON (line 1, column 0)"),
        ("{".to_owned(), "the body is not JSON (line 1, column 1)"),
        (r#"{"specversion":"1.0","type":"event"}"#.to_owned(), "id is missing"),
        (r#"{"specversion":"0.3","id":"1","type":"event"}"#.to_owned(), "specversion must be 1.0"),
        (r#"{"specversion":"1.0","id":"1","type":"event"}"#.to_owned(), "source is missing"),
        (r#"{"specversion":"1.0","id":"1","source":"s","type":"event"}"#.to_owned(), "data is missing"),
        (envelope("null"), "data is missing"),
        (envelope("{}"), "data.id is missing"),
        (envelope(r#"{"id":"e"}"#), "data.type is missing"),
        (envelope(r#"{"id":"","type":"t"}"#), "data.id must be a non-empty string"),
        ("[]".to_owned(), "the body is a batch; AuthPI is not known to send batches"),
        (
            r#"{"specversion":"1.0","id":"1","source":"s","type":"event","time":"hush-hush","data":{}}"#.to_owned(),
            "time must be an RFC 3339 time",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"s","type":"event","data":{"id":"e","type":"t"}}"#.to_owned(),
            "time is missing",
        ),
    ] {
        assert_eq!(error(body), said);
    }
    let shape = error(envelope(r#"{"id":"e","type":["hush-hush"]}"#));
    assert!(
        shape.starts_with("data.type is not an AuthPI event"),
        "{shape}"
    );
    let text = error(envelope("\"hush-hush\""));
    assert!(
        text.starts_with("data is not an AuthPI event") && !text.contains("hush"),
        "{text}"
    );
    assert_eq!(error(&b"\xff"[..]), "the body is not UTF-8");
}

#[test]
fn only_the_body_selects_binary_mode_which_needs_a_timestamp() {
    let event =
        Event::from_json(r#"{"id":"evt_1","type":"user.created","timestamp":1704067200000}"#)
            .unwrap();
    assert!(event.envelope().is_none());
    assert_eq!(event.time().to_string(), "2024-01-01T00:00:00Z");
    assert_eq!(
        error(r#"{"id":"evt_1","type":"user.created"}"#),
        "timestamp is missing"
    );
}

#[test]
fn headers_of_binary_mode_are_read_and_bad_ones_named() {
    let mut headers = http::HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "s"),
        ("ce-type", "event"),
    ] {
        assert!(
            Envelope::from_unsigned_headers(&headers)
                .unwrap_err()
                .path()
                .starts_with("ce-")
        );
        headers.insert(name, value.parse().unwrap());
    }
    assert_eq!(Envelope::from_unsigned_headers(&headers).unwrap().id(), "1");
    headers.insert("ce-time", http::HeaderValue::from_bytes(b"\xff").unwrap());
    assert_eq!(
        Envelope::from_unsigned_headers(&headers)
            .unwrap_err()
            .path(),
        "ce-time"
    );
}

#[test]
fn a_batch_is_parsed_and_its_errors_name_the_place() {
    let batch = format!("[{GUIDE},{GUIDE}]");
    let events = Event::from_batch(batch).unwrap();
    assert_eq!(
        (events.len(), events[1].id()),
        (2, Event::from_json(GUIDE).unwrap().id())
    );
    assert_eq!(
        Event::from_batch(format!("[{GUIDE},{{\"id\":1}}]"))
            .unwrap_err()
            .path(),
        "[1].id"
    );
}

#[test]
fn an_event_of_a_batch_reads_back_as_it_was_written() {
    let batch = Bytes::from(format!("[{GUIDE}, {GUIDE}]"));
    for event in Event::from_batch(batch.clone()).unwrap() {
        assert_eq!(event.body(), GUIDE.trim());
        assert!(
            !batch.as_ptr_range().contains(&event.body().as_ptr()),
            "an event keeps the whole batch in memory"
        );
        let written = serde_json::to_string(&event).unwrap();
        assert_eq!(Event::from_json(written).unwrap().raw(), event.raw());
    }
}

#[test]
fn an_event_that_was_written_reads_back_through_serde() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Kept {
        event: Event,
    }
    let written = serde_json::to_string(&Kept {
        event: Event::from_json(GUIDE).unwrap(),
    })
    .unwrap();
    let read: Kept = serde_json::from_str(&written).unwrap();
    assert_eq!(read.event.body(), GUIDE.trim());
    assert_eq!(serde_json::to_string(&read).unwrap(), written);
    let error = serde_json::from_str::<Event>(r#"{"pin":"4711"}"#)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("id is missing") && !error.contains("4711"),
        "{error}"
    );
}

#[test]
fn data_of_another_shape_names_the_member_and_shows_nothing_of_it() {
    #[derive(Debug, serde::Deserialize)]
    struct User {
        #[serde(rename = "address")]
        _address: std::collections::HashMap<String, u8>,
    }
    let body = r#"{"id":"e","type":"t","timestamp":1,"data":{"address":{"hush":"hush"}}}"#;
    let error = Event::from_json(body)
        .unwrap()
        .data_as::<User>()
        .unwrap_err();
    assert_eq!(error.path(), "address.hush");
    assert!(
        !format!("{error} {error:?}").contains("hush"),
        "{error} {error:?}"
    );
}

#[test]
fn nesting_without_end_is_an_error_or_an_event_and_never_fatal() {
    for data in [
        "[".repeat(500_000),
        "[".repeat(250_000) + &"]".repeat(250_000),
        r#"{"a":"#.repeat(200_000),
    ] {
        let body = format!(
            r#"{{"id":"e","type":"user.created","timestamp":1,"data":{data},"subject":{data}}}"#
        );
        if let Ok(event) = Event::from_json(body.clone()) {
            assert!(event.decode().is_err() && event.data_as::<serde_json::Value>().is_err());
        }
        assert!(serde_json::from_str::<Event>(&body).is_err() || data.ends_with(']'));
    }
}

#[test]
fn every_id_of_a_subject_can_be_listed() {
    let body =
        r#"{"id":"e","type":"t","timestamp":1,"subject":{"user_id":"u","n":1,"team_id":"t"}}"#;
    let event = Event::from_json(body).unwrap();
    assert_eq!(
        event.subject().iter().collect::<Vec<_>>(),
        [("user_id", "u"), ("team_id", "t")]
    );
}

#[test]
fn the_envelope_alone_can_be_read() {
    let envelope = Envelope::from_json(GUIDE.as_bytes()).unwrap();
    assert_eq!(
        &envelope,
        Event::from_json(GUIDE).unwrap().envelope().unwrap()
    );
}

#[test]
fn debug_shows_neither_data_nor_ids_of_people() {
    let event = Event::from_json(GUIDE).unwrap();
    let user = event.subject().user_id().unwrap();
    let shown = format!("{event:?} {:?}", event.subject());
    assert!(
        shown.contains("UserCreated") && !shown.contains(user),
        "{shown}"
    );
}

#[test]
fn half_a_surrogate_pair_is_read_as_u_fffd_and_its_bytes_are_kept() {
    let whole = r#"{"specversion":"1.0","id":"1","source":"s","type":"event","time":"2024-01-01T00:00:00Z","data":
        {"id":"evt_1","type":"user.created","trace":"t","source":"com.authpi/v1","subject":{"user_id":"u"},"data":{"username":"ada"}}}"#;
    // A lone surrogate in each string except `specversion` and `time`, and in the names of unknown
    // members.
    let places = [
        ("\"id\":\"1\"", r#""id":"1\ud83d""#),
        (r#""source":"s""#, r#""source":"s\udc00""#),
        (r#""type":"event""#, r#""type":"event\ud83d""#),
        ("evt_1", r"evt_1\ud83d"),
        ("user.created", r"user.created\ud83d"),
        (r#""trace":"t""#, r#""trace":"t\ud83d""#),
        ("com.authpi/v1", r"com.authpi/v1\ud83d"),
        (r#"{"user_id":"u"}"#, r#"{"user_id":"u\ud83d"}"#),
        (r#"{"user_id":"u"}"#, r#"{"other\ud83d":"x","user_id":"u"}"#),
        ("\"ada\"", r#""ada\ud83d""#),
        (r#""username""#, r#""new\ud83d":1,"username""#),
        (r#""username""#, r#""new":{"\ud83d":["\udc00"]},"username""#),
        (r#""specversion""#, r#""new\ud83d":"\ud83d","specversion""#),
        (r#""subject""#, r#""new\ud83d":"\ud83d","subject""#),
    ];
    for (plain, odd) in places {
        let body = whole.replacen(plain, odd, 1);
        assert_ne!(body, whole, "{odd}");
        let event = Event::from_json(body.clone()).unwrap_or_else(|error| panic!("{odd}: {error}"));
        let shown = |text: &str| text.replace('\u{fffd}', "");
        assert_eq!(shown(event.id()), "evt_1", "{odd}");
        assert_eq!(
            (event.trace().map(shown), event.source().map(shown)),
            (Some("t".into()), Some("com.authpi/v1".into()))
        );
        assert_eq!(
            event.subject().user_id().map(shown).as_deref(),
            Some("u"),
            "{odd}"
        );
        let envelope = event.envelope().unwrap();
        assert_eq!(
            (shown(envelope.id()), shown(envelope.envelope_type())),
            ("1".into(), "event".into())
        );
        assert_eq!(
            (event.body().as_ref(), event.raw()),
            (
                body.as_bytes(),
                &body[body.find("{\"id\":\"evt").unwrap()..body.len() - 1]
            )
        );
        assert_eq!(serde_json::to_string(&event).unwrap(), body);
        let again: Event = serde_json::from_str(&body).unwrap();
        assert_eq!(again.id(), event.id());
        Envelope::from_json(body.as_bytes()).unwrap_or_else(|error| panic!("{odd}: {error}"));
        assert_eq!(
            Event::from_batch(format!(" [{body}, {body}]")).unwrap()[1].raw(),
            event.raw(),
            "{odd}"
        );
        let data = EventData::read(&EventType::UserCreated, event.raw_data().unwrap()).unwrap();
        let EventData::User(user) = data else {
            panic!("{data:?}")
        };
        assert_eq!(
            (
                user.username.as_deref().map(shown).as_deref(),
                user.extra.mismatched()
            ),
            (Some("ada"), 0),
            "{odd}"
        );
        let own: std::collections::BTreeMap<String, serde_json::Value> = event.data_as().unwrap();
        assert_eq!(
            own["username"].as_str().map(shown).as_deref(),
            Some("ada"),
            "{odd}"
        );
    }
    let odd = Event::from_json(whole.replace("ada", r"\ud83d\ude00 cut: \ud83d"))
        .unwrap()
        .downcast::<UserCreated>()
        .unwrap();
    assert_eq!(
        odd.data().unwrap().username.as_deref(),
        Some("😀 cut: \u{fffd}")
    );
    assert_eq!(
        odd.raw_data(),
        Some(r#"{"username":"\ud83d\ude00 cut: \ud83d"}"#)
    );
    // Members that do not fit, or have no field, stay unchanged.
    let extra =
        Event::from_json(whole.replace("\"ada\"", r#"["\ud83d"],"new\udc00":"\ud83d""#)).unwrap();
    let data = extra.downcast::<UserCreated>().unwrap().data().unwrap();
    assert_eq!(data.extra.mismatched(), 1);
    assert_eq!(
        data.extra.get("username").map(RawJson::get),
        Some(r#"["\ud83d"]"#)
    );
    assert_eq!(
        data.extra.get("new\u{fffd}").map(RawJson::get),
        Some(r#""\ud83d""#)
    );
    assert_eq!(
        data.extra.read::<String>("new\u{fffd}").unwrap().as_deref(),
        Some("\u{fffd}")
    );
    // A body with a lone surrogate and another mistake is still an error, and the error names the
    // path of that mistake.
    let wrong = whole
        .replace(r#""trace":"t""#, r#""trace":"\ud83d""#)
        .replace(r#""id":"evt_1","#, "");
    assert_eq!(error(wrong), "data.id is missing");
}

#[test]
fn numbers_and_times_of_odd_forms_are_read() {
    let event = |data: &str| {
        let body = format!(
            r#"{{"specversion":"1.0","id":"1","source":"s","type":"event","time":"2026-11-25T00:00:00.1234567890Z","data":{{{data}}}}}"#
        );
        Event::from_json(body).unwrap()
    };
    let read = event(r#""id":"e","type":"user.created","data":{"created_at":1.0e3}"#);
    assert_eq!(read.time().to_string(), "2026-11-25T00:00:00.123456789Z");
    let EventData::User(user) = read.decode().unwrap() else {
        panic!()
    };
    assert_eq!(user.extra.mismatched(), 0);
    // Optional members of a wrong form are ignored. Without a usable `timestamp`, the event has the
    // envelope's time.
    let read = event(
        r#""id":"e","type":"user.created","timestamp":"1e999","subject":7,"trace":[],"source":{},"data":{}"#,
    );
    assert_eq!(read.time().to_string(), "2026-11-25T00:00:00.123456789Z");
}
