//! A webhook: where events are sent, which events, and how they are signed.

use authpi_sdk::signature::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Event, Verdict};
use crate::ids;

/// A webhook of the account.
pub(crate) struct Webhook {
    pub(crate) id: String,
    pub(crate) account_id: String,
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) auth: Auth,
    pub(crate) events: Vec<String>,
    /// Whether it has all types of the catalogue: such a webhook also receives types outside of it.
    pub(crate) all_events: bool,
    pub(crate) status: WebhookStatus,
    pub(super) status_at: i64,
    pub(crate) status_reason: Value,
    pub(crate) status_by: Value,
    pub(crate) description: Value,
    pub(crate) subjects: Value,
    pub(crate) retry: Value,
    pub(crate) circuit_breaker: Value,
    pub(crate) metadata: Value,
    pub(super) created_at: i64,
    pub(super) updated_at: Option<i64>,
    /// The number of consecutive deliveries that used up their budget.
    pub(super) given_up: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WebhookStatus {
    Active,
    Disabled,
    Failing,
    Deleted,
}

impl WebhookStatus {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Failing => "failing",
            Self::Deleted => "deleted",
        }
    }
}

impl Webhook {
    pub(crate) fn new(id: String, account_id: String, name: String, url: String, now: i64) -> Self {
        Self {
            id,
            account_id,
            name,
            url,
            auth: Auth::of(&Value::Null),
            events: Vec::new(),
            all_events: false,
            status: WebhookStatus::Active,
            status_at: now,
            status_reason: Value::Null,
            status_by: Value::Null,
            description: Value::Null,
            subjects: Value::Null,
            retry: Value::Null,
            circuit_breaker: Value::Null,
            metadata: Value::Null,
            created_at: now,
            updated_at: None,
            given_up: 0,
        }
    }

    /// Whether an event of the catalogue is delivered here.
    pub(crate) fn wants(&self, event: &Event) -> bool {
        self.events.contains(&event.event_type) && self.takes(event)
    }

    /// Whether an event is delivered here if its type is included.
    pub(crate) fn takes(&self, event: &Event) -> bool {
        self.status == WebhookStatus::Active
            && self.takes_subject(&event.subject)
            && event.subject["webhook_id"] != self.id.as_str()
    }

    fn takes_subject(&self, subject: &Value) -> bool {
        let Some(wanted) = self.subjects.as_array().filter(|all| !all.is_empty()) else {
            return true;
        };
        let has_all = |wanted: &Value| {
            wanted
                .as_object()
                .into_iter()
                .flatten()
                .all(|(name, id)| &subject[name] == id)
        };
        wanted.iter().any(has_all)
    }

    /// Sets the webhook's status.
    pub(crate) fn become_(&mut self, status: WebhookStatus, reason: Value, by: Value, now: i64) {
        self.status = status;
        self.status_at = now;
        self.status_reason = reason;
        self.status_by = by;
        self.given_up = 0;
        self.touch(now);
    }

    /// Counts the result of a delivery; returns the webhook's new status if it changes.
    pub(super) fn count(
        &mut self,
        verdict: Verdict,
        failing_after: u32,
        now: i64,
    ) -> Option<WebhookStatus> {
        match verdict {
            Verdict::Received => {
                self.given_up = 0;
                if self.status != WebhookStatus::Failing {
                    return None;
                }
                self.become_(WebhookStatus::Active, Value::Null, "system".into(), now);
            }
            Verdict::Uncounted => return None,
            Verdict::GivenUp => {
                self.given_up = self.given_up.saturating_add(1);
                if self.status != WebhookStatus::Active || self.given_up < failing_after {
                    return None;
                }
                let reason = format!("{} deliveries in a row failed", self.given_up);
                self.become_(WebhookStatus::Failing, reason.into(), "system".into(), now);
            }
        }
        Some(self.status)
    }

    /// `updated_at` grows with each change, even within a millisecond, because the `ETag` is
    /// derived from it.
    pub(crate) fn touch(&mut self, now: i64) {
        self.updated_at = Some(now.max(self.version() + 1));
    }

    pub(crate) fn version(&self) -> i64 {
        self.updated_at.unwrap_or(self.created_at)
    }

    /// The webhook as a single resource, with its secrets only if they are new.
    pub(crate) fn shown(&self, secrets: bool) -> Value {
        json!({
            "id": self.id,
            "account_id": self.account_id,
            "name": self.name,
            "description": self.description,
            "url": self.url,
            "status": self.status.as_str(),
            "status_at": self.status_at,
            "status_reason": self.status_reason,
            "status_by": self.status_by,
            "auth": self.auth.shown(secrets),
            "events": self.events,
            "subjects": self.subjects,
            "retry": self.retry,
            "circuit_breaker": self.circuit_breaker,
            "metadata": self.metadata,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        })
    }

    /// The webhook as an item of a list.
    pub(crate) fn shown_in_list(&self) -> Value {
        let mut shown = self.shown(false);
        if let Some(members) = shown.as_object_mut() {
            for absent in ["auth", "subjects", "retry", "circuit_breaker", "metadata"] {
                members.remove(absent);
            }
            members.insert("auth_type".to_owned(), self.auth.kind.as_str().into());
        }
        shown
    }

    /// The webhook as the `data` of an event about it.
    pub(super) fn shown_in_event(&self) -> Value {
        let mut shown = self.shown(false);
        shown["auth_type"] = self.auth.kind.as_str().into();
        shown
    }
}

/// How deliveries are authenticated.
pub(crate) struct Auth {
    pub(crate) kind: AuthKind,
    pub(crate) secret: Option<Secret>,
    /// The secret before the last change of `auth`.
    pub(crate) previous_secret: Option<Secret>,
    pub(crate) token: Option<Secret>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AuthKind {
    None,
    Bearer,
    Signature,
    #[serde(rename = "bearer+signature")]
    BearerAndSignature,
}

impl AuthKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bearer => "bearer",
            Self::Signature => "signature",
            Self::BearerAndSignature => "bearer+signature",
        }
    }
}

impl Auth {
    /// From the `auth` of a create or update call, which has been checked against the description;
    /// without `auth` there is no authentication.
    pub(crate) fn of(input: &Value) -> Self {
        let kind = match input["type"].as_str() {
            Some("bearer") => AuthKind::Bearer,
            Some("signature") => AuthKind::Signature,
            Some("bearer+signature") => AuthKind::BearerAndSignature,
            _ => AuthKind::None,
        };
        let token = || match input["bearer_token"].as_str() {
            Some(given) => given.to_owned(),
            None => ids::secret("whb_"),
        };
        Self {
            kind,
            // The characters after the prefix are valid base64, which the Standard Webhooks scheme
            // requires.
            secret: matches!(kind, AuthKind::Signature | AuthKind::BearerAndSignature)
                .then(|| Secret::new(ids::secret("whs_"))),
            previous_secret: None,
            token: matches!(kind, AuthKind::Bearer | AuthKind::BearerAndSignature)
                .then(|| Secret::new(token())),
        }
    }

    fn shown(&self, secrets: bool) -> Value {
        let mut shown = json!({"type": self.kind.as_str()});
        if let Some(secret) = &self.secret {
            shown["signature_algorithm"] = "hmac-sha256".into();
            shown["signature_secret_hint"] = hint(secret.expose()).into();
            if secrets {
                shown["signature_secret_plain"] = secret.expose().into();
            }
        }
        if let Some(token) = &self.token {
            shown["bearer_token_hint"] = hint(token.expose()).into();
            if secrets {
                shown["bearer_token_plain"] = token.expose().into();
            }
        }
        shown
    }
}

/// The last six characters; of a short token, which the caller chose, less than half.
fn hint(secret: &str) -> String {
    let count = secret.chars().count();
    let shown = 6.min(count / 3);
    format!(
        "...{}",
        secret.chars().skip(count - shown).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook() -> Webhook {
        let mut webhook = Webhook::new(
            "wh_1".into(),
            "acc_1".into(),
            "users".into(),
            "http://localhost".into(),
            1_000,
        );
        webhook.events = vec!["user.created".into(), "webhook.updated".into()];
        webhook
    }

    fn event(event_type: &str, subject: Value) -> Event {
        Event::new("evt_1".into(), event_type, 0, "test", subject, json!({}))
    }

    #[test]
    fn only_wanted_events_about_wanted_subjects_are_delivered() {
        let mut webhook = webhook();
        assert!(webhook.wants(&event("user.created", json!({"user_id": "usr_1"}))));
        assert!(!webhook.wants(&event("user.deleted", json!({"user_id": "usr_1"}))));
        webhook.subjects = json!([{"user_id": "usr_2"}, {"issuer_id": "i_1", "user_id": "usr_3"}]);
        assert!(!webhook.wants(&event("user.created", json!({"user_id": "usr_1"}))));
        assert!(webhook.wants(&event("user.created", json!({"user_id": "usr_2"}))));
        assert!(!webhook.wants(&event("user.created", json!({"user_id": "usr_3"}))));
    }

    #[test]
    fn an_event_about_a_webhook_is_not_delivered_to_that_webhook() {
        let webhook = webhook();
        assert!(!webhook.wants(&event("webhook.updated", json!({"webhook_id": "wh_1"}))));
        assert!(webhook.wants(&event("webhook.updated", json!({"webhook_id": "wh_2"}))));
    }

    #[test]
    fn a_webhook_fails_after_consecutive_losses_and_recovers_with_a_success() {
        let mut webhook = webhook();
        assert_eq!(webhook.count(Verdict::GivenUp, 2, 2_000), None);
        assert_eq!(webhook.count(Verdict::Received, 2, 2_000), None);
        assert_eq!(webhook.count(Verdict::GivenUp, 2, 2_000), None);
        assert_eq!(
            webhook.count(Verdict::GivenUp, 2, 2_000),
            Some(WebhookStatus::Failing)
        );
        assert_eq!(webhook.count(Verdict::GivenUp, 2, 2_000), None);
        assert_eq!(
            webhook.count(Verdict::Received, 2, 2_000),
            Some(WebhookStatus::Active)
        );
    }

    #[test]
    fn a_webhook_without_its_secrets_shown_holds_none() {
        let mut webhook = webhook();
        webhook.auth = Auth::of(&json!({"type": "bearer+signature"}));
        let (secret, token) = (
            webhook.auth.secret.clone().unwrap(),
            webhook.auth.token.clone().unwrap(),
        );
        for shown in [
            webhook.shown(false),
            webhook.shown_in_list(),
            webhook.shown_in_event(),
        ] {
            let shown = shown.to_string();
            assert!(
                !shown.contains(secret.expose()) && !shown.contains(token.expose()),
                "{shown}"
            );
        }
        assert!(webhook.shown(true).to_string().contains(secret.expose()));
        assert_eq!(hint("whs_a1b2c3d4xyz789"), "...xyz789");
        assert_eq!(hint("short"), "...t");
    }
}
