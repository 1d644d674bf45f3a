//! The schemas that schemars derives from the Rust types, compared with the description.
//!
//! This is independent of the generator: its output is compiled, and read by another crate.

use std::collections::BTreeSet;

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

use crate::generated::events::payload;

/// A schema's members and which of them are required.
fn members(schema: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let names = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect();
    let required = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    (names, required)
}

fn derived<T: JsonSchema>() -> Value {
    SchemaGenerator::default()
        .into_root_schema_for::<T>()
        .to_value()
}

fn events(file: &str) -> Value {
    let path = format!("{}/../openapi/events/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

macro_rules! payloads {
    ($($name:ident)*) => { [$((stringify!($name), derived::<payload::$name>())),*] };
}

#[test]
fn payloads_have_the_members_of_their_schemas() {
    let payloads = payloads! { Account AccountDomain Agent AgentVerifier ApiKey Approval AuthFlow AuthMethod BackupCodes Client Consent Credits Email EmailChange Group Invitation Issuer LoginLink MachineToken Membership Organization Password PersonalToken Session Sso SsoDomain SsoIdentity TrustedDevice User Verification Verifier Webhook };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/events/data");
    let mut committed = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let schema = events(&format!(
            "data/{}",
            entry.unwrap().file_name().to_str().unwrap()
        ));
        let title = schema["title"].as_str().unwrap().to_owned();
        let (_, derived) = payloads
            .iter()
            .find(|(name, _)| *name == title)
            .unwrap_or_else(|| panic!("no type for {title}"));
        assert_eq!(members(derived), members(&schema), "{title}");
        // Others are kept, and the schema allows them.
        assert_ne!(derived["additionalProperties"], false, "{title}");
        committed.insert(title);
    }
    assert_eq!(committed.len(), payloads.len());
}

#[cfg(feature = "client")]
mod api {
    use super::{BTreeSet, Value, derived, members};
    use crate::generated::api::types;

    macro_rules! types {
        ($($name:ident)*) => { [$((stringify!($name), derived::<types::$name>())),*] };
    }

    /// The description's component schemas; the emulator's crate parses YAML, so tests need no
    /// second parser.
    fn components() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/authpi.yaml");
        let document: Value =
            serde_norway::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        document["components"]["schemas"].clone()
    }

    #[test]
    fn what_is_sent_and_received_has_the_members_of_its_schema() {
        let components = components();
        let mut compared = BTreeSet::new();
        for (name, derived) in types! { ApiError AuthType BearerAuth BearerAuthWithSecret BearerSignatureAuth BearerSignatureAuthWithSecrets CallerAccountAccess CallerOrganizationAccess CallerType CreateAuthInput CreateBearerAuth CreateBearerSignatureAuth CreateNoneAuth CreateSignatureAuth CreateWebhookInput CreateWebhookResponseAuth DeliveryStatus ErrorCode Event EventAggregate EventAggregateResponse EventPage EventResponse FieldError Me MeResponse NoneAuth PreconditionFailedError RedeliverFailedInput RedeliverFailedResult RedeliverFailedResultResponse RedeliveredWebhookDelivery RedeliveredWebhookDeliveryResponse SettableSignatureAlgorithm SettableWebhookStatus SignatureAlgorithm SignatureAuth SignatureAuthWithSecret UpdateAuthInput UpdateWebhook Webhook WebhookAuth WebhookDelivery WebhookDeliveryPage WebhookListItem WebhookPage WebhookResponse WebhookStatus WebhookWithSecrets WebhookWithSecretsResponse }
        {
            let committed = &components[name];
            assert!(committed.is_object(), "{name} is not in the description");
            if committed.get("properties").is_some() {
                assert_eq!(members(&derived), members(committed), "{name}");
                compared.insert(name);
            } else {
                let options = |schema: &Value| {
                    let list = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
                    list.map_or(schema["enum"].as_array().map_or(0, Vec::len), Vec::len)
                };
                assert_eq!(options(&derived), options(committed), "{name}");
            }
        }
        assert!(compared.len() > 20, "{compared:?}");
    }
}
