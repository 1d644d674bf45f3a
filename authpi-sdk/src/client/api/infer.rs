//! Infers whether a change was made although its answer was lost.

use serde::Serialize;
use serde_json::Value;

use crate::{
    client::api::{Webhook, compare},
    generated::api::types::{UpdateAuthInput, UpdateWebhook},
    json,
};

/// How it is known that a change was made.
///
/// If an answer is lost, the retry may find another state (412) or no webhook (404). The client
/// then reads the webhook again. The change counts as made if the webhook has the state that the
/// call was to produce; for a deletion, if it is deleted or missing. Another caller may have made
/// the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Applied {
    /// AuthPI's answer confirms it.
    Confirmed,
    /// No answer confirms it, but the current state is the one that the call was to produce.
    Inferred,
}

/// Whether the webhook's visible state matches the patch. A bearer token given by the caller is not
/// visible.
pub(crate) fn holds(patch: &UpdateWebhook, webhook: &Webhook) -> bool {
    let (Some(Value::Object(wanted)), Some(seen)) = (value(patch), value(webhook)) else {
        return false;
    };
    wanted
        .iter()
        .all(|(name, wanted)| match (name.as_str(), &seen[name]) {
            ("auth", seen) => seen["type"] == wanted["type"] && !sets_a_token(patch),
            ("url", Value::String(seen)) => wanted
                .as_str()
                .is_some_and(|wanted| compare::url(seen, wanted)),
            // AuthPI may add members of its own.
            ("retry" | "circuit_breaker" | "subjects", seen) => compare::covers(seen, wanted),
            // AuthPI does not document their order.
            ("events", Value::Array(seen)) => wanted.as_array().is_some_and(|wanted| {
                wanted.iter().all(|event| seen.contains(event))
                    && seen.iter().all(|event| wanted.contains(event))
            }),
            (_, seen) => seen == wanted,
        })
}

/// Converts through text: raw members may contain lone surrogates, which `serde_json::to_value`
/// refuses.
fn value(of: &impl Serialize) -> Option<Value> {
    json::read(&serde_json::to_string(of).ok()?).ok()
}

/// Whether `auth` only sets a token that the caller knows and AuthPI never shows.
fn sets_a_token(patch: &UpdateWebhook) -> bool {
    patch.auth.set().is_some()
        && !makes_a_secret(patch)
        && !matches!(patch.auth.set(), Some(UpdateAuthInput::None(_)))
}

/// Whether the patch makes AuthPI create a secret. Only the answer to the patch contains that
/// secret.
pub(crate) fn makes_a_secret(patch: &UpdateWebhook) -> bool {
    match patch.auth.set() {
        None | Some(UpdateAuthInput::None(_)) => false,
        Some(UpdateAuthInput::Bearer(bearer)) => bearer.bearer_token.is_none(),
        Some(UpdateAuthInput::Signature(_) | UpdateAuthInput::BearerSignature(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::api::{
            patch::Patch,
            spec::{DeliveryAuth, WebhookPatch},
        },
        event::EventType,
    };

    fn webhook() -> Webhook {
        serde_json::from_str(
            r#"{"id":"wh_1","account_id":"a","name":"n","url":"https://x/","status":"disabled","auth":{"type":"signature","signature_secret_hint":"...1"},
            "events":["user.created","user.updated"],"metadata":{"b":1,"a":[2.5,"x"]},"circuit_breaker":{"after":3,"pause":60},
            "created_at":1,"updated_at":2}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_change_that_can_be_seen_is_found_whatever_the_order_of_its_members() {
        let raw = |text: &str| serde_json::from_str::<crate::RawJson>(text).unwrap();
        for patch in [
            WebhookPatch::new(),
            WebhookPatch::new()
                .name("n")
                .url("https://x/")
                .disable()
                .clear_description(),
            WebhookPatch::new().events([EventType::UserUpdated, EventType::UserCreated]),
            WebhookPatch::new()
                .metadata(raw(r#"{"a":[2.5,"x"],"b":1}"#))
                .retry(Patch::Null),
            WebhookPatch::new().auth(&DeliveryAuth::signature()),
            WebhookPatch::new().url("https://X"),
            WebhookPatch::new().circuit_breaker(raw(r#"{"after":3.0}"#)),
        ] {
            assert!(holds(patch.as_input(), &webhook()), "{patch:?}");
        }
    }

    #[test]
    fn a_change_that_is_not_there_is_not_found() {
        let raw = |text: &str| serde_json::from_str::<crate::RawJson>(text).unwrap();
        for patch in [
            WebhookPatch::new().name("other"),
            WebhookPatch::new().enable(),
            WebhookPatch::new().name("n").description("d"),
            WebhookPatch::new().events([EventType::UserCreated]),
            WebhookPatch::new().events([
                EventType::UserCreated,
                EventType::UserUpdated,
                EventType::UserDeleted,
            ]),
            WebhookPatch::new().metadata(Patch::Null),
            WebhookPatch::new().metadata(raw(r#"{"a":[2.5,"x"]}"#)),
            WebhookPatch::new().auth(&DeliveryAuth::bearer()),
            WebhookPatch::new().circuit_breaker(raw(r#"{"after":4}"#)),
        ] {
            assert!(!holds(patch.as_input(), &webhook()), "{patch:?}");
        }
        // A webhook does not show its bearer token, so a patch that sets the caller's own token
        // never counts as found.
        let bearer = |auth: &str| {
            let webhook = serde_json::to_string(&webhook()).unwrap();
            let auth = webhook.replace(
                r#"{"type":"signature","signature_secret_hint":"...1"}"#,
                auth,
            );
            serde_json::from_str::<Webhook>(&auth).unwrap()
        };
        let bearer = bearer(r#"{"type":"bearer"}"#);
        assert!(holds(
            WebhookPatch::new().auth(&DeliveryAuth::bearer()).as_input(),
            &bearer
        ));
        let own = WebhookPatch::new().auth(&DeliveryAuth::bearer().with_bearer_token("mine"));
        assert!(!holds(own.as_input(), &bearer));
    }

    #[test]
    fn a_patch_makes_a_secret_where_authpi_chooses_it() {
        let makes = |auth: &DeliveryAuth| makes_a_secret(WebhookPatch::new().auth(auth).as_input());
        assert!(makes(&DeliveryAuth::signature()) && makes(&DeliveryAuth::bearer()));
        assert!(makes(
            &DeliveryAuth::bearer_and_signature().with_bearer_token("t")
        ));
        assert!(!makes(&DeliveryAuth::bearer().with_bearer_token("t")));
        assert!(!makes(&DeliveryAuth::dangerously_unauthenticated()));
        assert!(!makes_a_secret(WebhookPatch::new().name("n").as_input()));
    }

    #[test]
    fn half_a_surrogate_pair_does_not_hide_an_applied_change() {
        let webhook = r#"{"id":"wh_1","account_id":"a","name":"n","url":"u","auth":{"type":"none"},"events":[],"metadata":{"k":"\ud83d"},"created_at":1}"#;
        let webhook: Webhook = serde_json::from_str(webhook).unwrap();
        assert!(holds(WebhookPatch::new().name("n").as_input(), &webhook));
        assert!(!holds(WebhookPatch::new().name("m").as_input(), &webhook));
    }
}
