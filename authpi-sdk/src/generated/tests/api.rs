//! Types of the API, and the code of the generator's golden tests, which is compiled and used
//! here.

use serde_json::{Value, json};

use crate::{
    RawJson, UnixMillis,
    client::Patch,
    event::EventType,
    generated::api::{operations, types},
    signature::Secret,
};

/// Compiles the golden files: the generator's expected output for small descriptions.
macro_rules! golden {
    ($($name:ident: $path:literal)*) => {$(
        #[path = $path]
        #[allow(unused_imports, reason = "a small description does not use them all")]
        mod $name;
    )*};
}
golden! {
    constraints: "../../../../xtask/golden/api/constraints.rs"
    descriptions: "../../../../xtask/golden/api/descriptions.rs"
    enums: "../../../../xtask/golden/api/enums.rs"
    errors: "../../../../xtask/golden/api/errors.rs"
    names: "../../../../xtask/golden/api/names.rs"
    parameters: "../../../../xtask/golden/api/parameters.rs"
    patch: "../../../../xtask/golden/api/patch.rs"
    shapes: "../../../../xtask/golden/api/shapes.rs"
    unions: "../../../../xtask/golden/api/unions.rs"
}

#[test]
fn an_unknown_union_case_survives_a_round_trip_byte_for_byte() {
    let json = r#"{"type":"mtls", "fingerprint":{"b":1,"a":1.0}}"#;
    let auth: types::WebhookAuth = serde_json::from_str(json).unwrap();
    assert!(matches!(auth, types::WebhookAuth::Unknown(_)));
    assert_eq!(auth.tag(), "mtls");
    assert_eq!(serde_json::to_string(&auth).unwrap(), json);
    assert!(!format!("{auth:?}").contains("fingerprint"));
}

#[test]
fn a_malformed_known_union_case_is_an_error_and_not_an_unknown_one() {
    let read = |json: &str| serde_json::from_str::<unions::types::Auth>(json);
    let error = read(r#"{"type":"bearer+signature"}"#).unwrap_err();
    assert!(
        error.to_string().contains("missing member `algorithm`"),
        "{error}"
    );
    // An optional member may be unexpected, and is kept; a secret must not be lost.
    let unions::types::Auth::Bearer(odd) =
        read(r#"{"type":"bearer","bearer_token_hint":7}"#).unwrap()
    else {
        panic!()
    };
    assert_eq!((odd.bearer_token_hint, odd.extra.mismatched()), (None, 1));
    assert_eq!(
        odd.extra.get("bearer_token_hint").map(|raw| raw.get()),
        Some("7")
    );
    let error = read(r#"{"type":"bearer","bearer_token_plain":["tok_123"]}"#).unwrap_err();
    assert!(!error.to_string().contains("tok_123"), "{error}");
    for bad in [r#"{"type":7}"#, r#"{"type":null}"#, "{}", "[]", "7", "null"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_known_union_case_keeps_members_that_are_new_to_us() {
    let json = json!({"type": "signature", "signature_algorithm": "hmac-sha999", "rotated_at": 1});
    let auth: types::WebhookAuth = serde_json::from_value(json.clone()).unwrap();
    let types::WebhookAuth::Signature(of) = &auth else {
        panic!("{}", auth.tag())
    };
    assert_eq!(
        of.signature_algorithm
            .as_ref()
            .map(types::SignatureAlgorithm::as_str),
        Some("hmac-sha999")
    );
    assert_eq!(of.extra.read::<u32>("rotated_at").unwrap(), Some(1));
    assert_eq!(serde_json::to_value(&auth).unwrap(), json);
}

#[test]
fn the_tag_may_come_last_and_be_written_with_escapes() {
    let auth: types::WebhookAuth =
        serde_json::from_str(r#"{"signature_secret_hint":"...x","\u0074ype":"signatur\u0065"}"#)
            .unwrap();
    assert!(matches!(auth, types::WebhookAuth::Signature(_)));
}

#[test]
fn secrets_are_read_and_written_and_never_shown() {
    let json = json!({"type": "bearer", "bearer_token_plain": "tok_123"});
    let auth: types::CreateWebhookResponseAuth = serde_json::from_value(json.clone()).unwrap();
    let types::CreateWebhookResponseAuth::Bearer(of) = &auth else {
        panic!("{}", auth.tag())
    };
    assert_eq!(
        of.bearer_token_plain.as_ref().map(Secret::expose),
        Some("tok_123")
    );
    assert!(!format!("{auth:?}").contains("tok_123"));
    assert_eq!(serde_json::to_value(&auth).unwrap(), json);
}

#[test]
fn what_is_sent_has_its_tag() {
    let auth = types::CreateAuthInput::from(types::CreateSignatureAuth::default());
    assert_eq!(
        serde_json::to_value(auth).unwrap(),
        json!({"type": "signature"})
    );
    let mut input = types::CreateWebhookInput::new("users", "https://example.com");
    input.events = Some(vec![EventType::UserCreated]);
    input.metadata = Some(RawJson::new(&json!({"a": 1})).unwrap());
    assert_eq!(
        serde_json::to_value(&input).unwrap(),
        json!({"name": "users", "url": "https://example.com", "events": ["user.created"], "metadata": {"a": 1}})
    );
}

#[test]
fn a_partial_update_tells_keep_clear_and_set_apart() {
    let mut update = types::UpdateWebhook::default();
    assert_eq!(serde_json::to_value(&update).unwrap(), json!({}));
    update.description = Patch::Null;
    update.subjects = Patch::Set(vec![]);
    update.name = Patch::Set("users".to_owned());
    let json = json!({"name": "users", "description": null, "subjects": []});
    assert_eq!(serde_json::to_value(&update).unwrap(), json);
    assert_eq!(
        serde_json::from_value::<types::UpdateWebhook>(json).unwrap(),
        update
    );

    let mut update = patch::types::UpdateThing::default();
    update.labels = Patch::Set([].into());
    update.created_by = Patch::Null;
    assert_eq!(
        serde_json::to_value(&update).unwrap(),
        json!({"labels": {}, "createdBy": null})
    );
}

#[test]
fn a_new_status_breaks_neither_a_list_nor_an_error() {
    let item = json!({
        "id": "wh_1", "account_id": "acc_1", "status": "quarantined", "name": "n", "url": "https://x", "auth_type": "mtls",
        "events": [], "created_at": 1, "new_member": {},
    });
    let page: types::WebhookPage =
        serde_json::from_value(json!({"data": [item], "has_more": false, "next_cursor": null}))
            .unwrap();
    assert_eq!(page.data[0].status.as_str(), "quarantined");
    assert!(matches!(
        page.data[0].auth_type,
        types::AuthType::Unknown(_)
    ));
    let error: types::ApiError = serde_json::from_value(
        json!({"error": "teapot", "error_description": "", "retryable": false}),
    )
    .unwrap();
    assert_eq!(error.error.to_string(), "teapot");
}

#[test]
fn null_is_no_value_of_an_optional_list_or_map() {
    let json = json!({"id": "x", "created_at": 1.5, "day": "d", "spec": "2.0", "tags": null, "labels": null, "metadata": null});
    let thing: constraints::types::Thing = serde_json::from_value(json).unwrap();
    assert_eq!(
        (thing.tags, thing.labels, thing.metadata),
        (None, None, None)
    );
    assert_eq!(thing.created_at, UnixMillis(1));
}

#[test]
fn constraints_of_the_server_are_not_enforced_on_what_it_sends() {
    let json = json!({"id": "no_prefix_and_far_longer_than_forty_characters_are", "created_at": -1, "day": "", "spec": "", "tags": []});
    assert!(serde_json::from_value::<constraints::types::Thing>(json).is_ok());
}

#[test]
fn a_resource_is_read_with_and_without_its_envelope() {
    let thing = json!({"id": "1", "name": "n"});
    for json in [json!({"data": thing}), thing.clone()] {
        let read: shapes::types::ThingsCreateResponse = serde_json::from_value(json).unwrap();
        assert_eq!(read.data.name, "n");
    }
    // With other members next to `data`, an object is first read as the resource itself. `data` is
    // then an ordinary member.
    let beside = json!({"data": thing, "id": "2", "name": "outer"});
    let read: shapes::types::ThingsCreateResponse = serde_json::from_value(beside).unwrap();
    assert_eq!(read.data.name, "outer");
    // If that fails, it is read as an envelope. AuthPI may add members to that, at any position.
    for beside in [
        r#"{"data":{"id":"1","name":"n"},"meta":{}}"#,
        r#"{"meta":[],"data":{"id":"1","name":"n"}}"#,
    ] {
        assert_eq!(
            serde_json::from_str::<shapes::types::ThingsCreateResponse>(beside)
                .unwrap()
                .data
                .name,
            "n"
        );
    }
    for neither in [
        "{}",
        "[]",
        r#"{"meta":1}"#,
        r#"{"meta":1,"data":{"id":"1"}}"#,
    ] {
        assert!(
            serde_json::from_str::<shapes::types::ThingsCreateResponse>(neither).is_err(),
            "{neither}"
        );
    }
    let error =
        serde_json::from_str::<shapes::types::ThingsCreateResponse>(r#"{"data":{"id":"1"}}"#)
            .unwrap_err();
    assert!(error.to_string().contains("name"), "{error}");
}

#[test]
fn names_that_are_no_rust_names_are_written_as_they_are_on_the_wire() {
    let json = json!({"type": "t", "self": "s", "createdAt": "c", "2fa": true, "amount_usd": 5, "kind": "+1"});
    let thing: names::types::N2faThing = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(
        (thing.self_.as_deref(), thing.amount_micros),
        (Some("s"), Some(5))
    );
    assert_eq!(serde_json::to_value(&thing).unwrap(), json);
}

#[test]
fn an_enumeration_with_many_values_finds_each_of_them() {
    for size in enums::types::ThingSize::ALL {
        assert_eq!(enums::types::ThingSize::from(size.as_str()), *size);
    }
    assert_eq!(enums::types::ThingSize::from("z").as_str(), "z");
    assert!(serde_json::from_value::<enums::types::SettableColour>(Value::from("green")).is_err());
}

#[test]
fn the_table_says_which_headers_each_operation_takes() {
    assert_eq!(operations::ALL.len(), 12);
    for operation in operations::ALL {
        assert_eq!(
            operation.idempotency_key,
            ["POST", "PATCH"].contains(&operation.method.as_str()),
            "{}",
            operation.id
        );
    }
    assert!(operations::WEBHOOKS_UPDATE.if_match && !operations::WEBHOOKS_GET.if_match);
}
