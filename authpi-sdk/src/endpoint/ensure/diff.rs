//! Compares the spec with the webhook: the differences, and the patch that removes them.

use std::{collections::BTreeSet, fmt};

use serde_json::Value;

use super::ownership::Mark;
use crate::{
    RawJson,
    client::{Error, Webhook, WebhookPatch, api::compare},
    event::EventType,
    generated::api::types::CreateWebhookInput,
};

/// How a webhook differed from its spec. Contains names of members and events, and no values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diff {
    /// The members that differed, in AuthPI's terms. `auth` means that the webhook was replaced.
    pub members: Vec<&'static str>,
    /// Event types that were missing.
    pub events_added: Vec<String>,
    /// Event types that were not declared.
    pub events_removed: Vec<String>,
}

impl Diff {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn add(&mut self, other: Self) {
        for member in other.members {
            if !self.members.contains(&member) {
                self.members.push(member);
            }
        }
        self.events_added.extend(other.events_added);
        self.events_removed.extend(other.events_removed);
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.members.join(", "))?;
        self.events_added
            .iter()
            .try_for_each(|event| write!(f, " +{event}"))?;
        self.events_removed
            .iter()
            .try_for_each(|event| write!(f, " -{event}"))
    }
}

/// Whether the webhook's authentication differs from the declared one, which requires another
/// webhook. A kind that this version does not know is left unchanged.
pub(super) fn authenticates_otherwise(declared: &CreateWebhookInput, there: &Webhook) -> bool {
    let known = !matches!(there.auth, crate::client::WebhookAuth::Unknown(_));
    known
        && declared
            .auth
            .as_ref()
            .is_some_and(|declared| declared.tag() != there.auth.tag())
}

/// The differences, and the patch that removes them. Name, URL and authentication are not compared,
/// since they identify a webhook. The status, and members that the spec does not set, stay
/// unchanged.
///
/// In objects without documented members, the declared members must be present. Others may be too,
/// since AuthPI may add its own.
pub(super) fn compare(
    declared: &CreateWebhookInput,
    mark: Option<&Mark>,
    there: &Webhook,
) -> Result<(Diff, WebhookPatch), Error> {
    let (mut diff, mut patch) = (Diff::default(), WebhookPatch::new());
    if let Some(description) = &declared.description
        && there.description.as_ref() != Some(description)
    {
        diff.members.push("description");
        patch = patch.description(description);
    }
    if let Some(events) = &declared.events {
        let wanted: BTreeSet<_> = events.iter().map(EventType::as_str).collect();
        let present: BTreeSet<_> = there.events.iter().map(String::as_str).collect();
        if wanted != present {
            diff.members.push("events");
            diff.events_added = wanted
                .difference(&present)
                .map(ToString::to_string)
                .collect();
            diff.events_removed = present
                .difference(&wanted)
                .map(ToString::to_string)
                .collect();
            patch = patch.events(events.iter().cloned());
        }
    }
    if let Some(subjects) = &declared.subjects {
        let there = there.subjects.as_deref().unwrap_or_default();
        if subjects.len() != there.len()
            || !there
                .iter()
                .zip(subjects)
                .all(|(there, subject)| covers(Some(there), subject))
        {
            diff.members.push("subjects");
            patch = patch.subjects(subjects.clone());
        }
    }
    if let Some(retry) = &declared.retry
        && !covers(there.retry.as_ref(), retry)
    {
        diff.members.push("retry");
        patch = patch.retry(retry.clone());
    }
    if let Some(breaker) = &declared.circuit_breaker
        && !covers(there.circuit_breaker.as_ref(), breaker)
    {
        diff.members.push("circuit_breaker");
        patch = patch.circuit_breaker(breaker.clone());
    }
    let metadata_covers = declared
        .metadata
        .as_ref()
        .is_none_or(|metadata| covers(there.metadata.as_ref(), metadata));
    if !metadata_covers || mark.is_none() {
        diff.members.push("metadata");
        // A webhook that was only known by its secret gets the mark.
        let known = || Mark {
            key: "known-by-its-secret".to_owned(),
            purpose: super::ownership::Purpose::default(),
        };
        let mark = mark.cloned().unwrap_or_else(known);
        patch = patch.metadata(mark.onto(there.metadata.as_ref(), declared.metadata.as_ref())?);
    }
    Ok((diff, patch))
}

/// Whether the webhook's value has everything that is declared. Unreadable JSON never matches.
fn covers(there: Option<&RawJson>, declared: &RawJson) -> bool {
    let Some(Ok(there)) = there.map(RawJson::read::<Value>) else {
        return false;
    };
    declared
        .read::<Value>()
        .is_ok_and(|declared| compare::covers(&there, &declared))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::WebhookSpec;

    fn webhook(members: &Value) -> Webhook {
        let mut whole = json!({
            "id": "wh_1", "account_id": "acc_1", "name": "users", "url": "https://example.com", "auth": {"type": "signature"},
            "events": ["user.created", "user.updated"], "created_at": 1, "metadata": {"authpi_sdk_key": "ab", "team": "x"},
        });
        whole
            .as_object_mut()
            .unwrap()
            .extend(members.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    fn diff(spec: &WebhookSpec, there: &Webhook) -> (String, Value) {
        let (diff, patch) = compare(&spec.to_input(), Mark::of(there).as_ref(), there).unwrap();
        (
            diff.to_string(),
            serde_json::to_value(patch.as_input()).unwrap(),
        )
    }

    fn spec() -> WebhookSpec {
        WebhookSpec::new("users", "https://example.com")
            .events([EventType::UserUpdated, EventType::UserCreated])
    }

    #[test]
    fn what_the_spec_does_not_say_is_left_as_it_is() {
        let there =
            webhook(&json!({"description": "by hand", "status": "disabled", "retry": {"max": 3}}));
        assert_eq!(diff(&spec(), &there), (String::new(), json!({})));
    }

    #[test]
    fn what_differs_is_named_and_mended() {
        let raw = |value: Value| RawJson::new(&value).unwrap();
        let there =
            webhook(&json!({"retry": {"max": 3, "base": 1}, "subjects": [{"user_id": "u"}]}));
        let wanted = spec()
            .events([EventType::UserCreated, EventType::UserDeleted])
            .description("d");
        let wanted = wanted
            .retry(raw(json!({"max": 3.0})))
            .circuit_breaker(raw(json!({"after": 2})));
        let wanted = wanted
            .subjects([raw(json!({"user_id": "v"}))])
            .metadata(raw(json!({"cost": "7"})));
        let (reported, patch) = diff(&wanted, &there);
        assert_eq!(
            reported,
            "description, events, subjects, circuit_breaker, metadata +user.deleted -user.updated"
        );
        assert_eq!(
            patch["metadata"],
            json!({"authpi_sdk_key": "ab", "cost": "7", "team": "x"})
        );
        assert_eq!(patch["events"], json!(["user.created", "user.deleted"]));
        assert_eq!(patch.get("retry"), None);
    }

    #[test]
    fn a_webhook_that_lost_its_mark_gets_one() {
        let (reported, patch) = diff(&spec(), &webhook(&json!({"metadata": null})));
        assert_eq!(reported, "metadata");
        assert_eq!(
            patch["metadata"],
            json!({"authpi_sdk_key": "known-by-its-secret"})
        );
    }

    #[test]
    fn an_unknown_kind_of_authentication_is_not_replaced() {
        let input = spec().to_input();
        assert!(authenticates_otherwise(
            &input,
            &webhook(&json!({"auth": {"type": "bearer"}}))
        ));
        assert!(!authenticates_otherwise(&input, &webhook(&json!({}))));
        assert!(!authenticates_otherwise(
            &input,
            &webhook(&json!({"auth": {"type": "signature-2027"}}))
        ));
    }
}
