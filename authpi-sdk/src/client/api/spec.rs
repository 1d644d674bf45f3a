//! The desired state of a webhook.

use jiff::Timestamp;

use super::{SettableWebhookStatus, patch::Patch};
use crate::{
    RawJson, UnixMillis,
    client::transport::Error,
    event::EventType,
    generated::api::types::{
        CreateAuthInput, CreateBearerAuth, CreateBearerSignatureAuth, CreateNoneAuth,
        CreateSignatureAuth, CreateWebhookInput, UpdateAuthInput, UpdateWebhook,
    },
    signature::Secret,
};

/// How a webhook's deliveries prove that AuthPI sent them.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryAuth(Kind);

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    None,
    Bearer(Option<Secret>),
    Signature,
    BearerSignature(Option<Secret>),
}

impl DeliveryAuth {
    /// Each delivery is signed (HMAC-SHA256) with a secret that AuthPI creates and shows once.
    pub fn signature() -> Self {
        Self(Kind::Signature)
    }

    /// Each delivery contains a bearer token that AuthPI creates and shows once. Anyone who sees
    /// one delivery can forge others.
    pub fn bearer() -> Self {
        Self(Kind::Bearer(None))
    }

    /// Each delivery is signed and contains a bearer token. AuthPI creates both and shows them
    /// once.
    pub fn bearer_and_signature() -> Self {
        Self(Kind::BearerSignature(None))
    }

    /// Deliveries are not authenticated: anyone can forge them. AuthPI intends this for testing
    /// only.
    pub fn dangerously_unauthenticated() -> Self {
        Self(Kind::None)
    }

    /// Uses this bearer token instead of one that AuthPI creates. It has no effect on an
    /// authentication without a bearer token.
    ///
    /// Assumed from AuthPI's older API: AuthPI accepts a token of the caller's own as the member
    /// `bearer_token`.
    #[must_use]
    pub fn with_bearer_token(mut self, token: impl Into<Secret>) -> Self {
        if let Kind::Bearer(given) | Kind::BearerSignature(given) = &mut self.0 {
            *given = Some(token.into());
        }
        self
    }

    fn to_create(&self) -> CreateAuthInput {
        match &self.0 {
            Kind::None => CreateNoneAuth::default().into(),
            Kind::Bearer(bearer_token) => CreateBearerAuth {
                bearer_token: bearer_token.clone(),
                ..Default::default()
            }
            .into(),
            Kind::Signature => CreateSignatureAuth::default().into(),
            Kind::BearerSignature(bearer_token) => CreateBearerSignatureAuth {
                bearer_token: bearer_token.clone(),
                ..Default::default()
            }
            .into(),
        }
    }

    fn to_update(&self) -> UpdateAuthInput {
        match self.to_create() {
            CreateAuthInput::None(auth) => auth.into(),
            CreateAuthInput::Bearer(auth) => auth.into(),
            CreateAuthInput::Signature(auth) => auth.into(),
            CreateAuthInput::BearerSignature(auth) => auth.into(),
        }
    }
}

/// The webhook that a service needs.
///
/// It has a name, an address, [the events to deliver](Self::events), and the authentication of
/// deliveries, by default a signature. Events and authentication are always sent, because AuthPI's
/// documentation contradicts itself about the defaults. According to its older guide, the defaults
/// are all events and no authentication. According to AuthPI's own SDK, both members are required.
/// So `create` refuses a spec without events: call [`all_events`](Self::all_events) to get all of
/// them.
///
/// `Debug` shows no secret. The members of type [`RawJson`] are objects that AuthPI does not
/// document.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct WebhookSpec {
    pub(crate) name: String,
    pub(crate) url: String,
    description: Option<String>,
    disabled: bool,
    auth: DeliveryAuth,
    events: Vec<EventType>,
    subjects: Option<Vec<RawJson>>,
    retry: Option<RawJson>,
    circuit_breaker: Option<RawJson>,
    metadata: Option<RawJson>,
}

impl WebhookSpec {
    /// A webhook with this name that delivers to this address, an absolute `https` URL (or `http`,
    /// where AuthPI allows it).
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            description: None,
            disabled: false,
            auth: DeliveryAuth::signature(),
            events: Vec::new(),
            subjects: None,
            retry: None,
            circuit_breaker: None,
            metadata: None,
        }
    }

    /// The event types to deliver. AuthPI accepts exact names only, no wildcards.
    pub fn events(mut self, events: impl IntoIterator<Item = EventType>) -> Self {
        self.events.clear();
        for event in events {
            if !self.events.contains(&event) {
                self.events.push(event);
            }
        }
        self
    }

    /// Delivers every event type that this version of the SDK knows ([`EventType::ALL`]). A type
    /// that AuthPI adds later is not delivered until the webhook is changed.
    pub fn all_events(self) -> Self {
        self.events(EventType::ALL.iter().cloned())
    }

    /// Signs deliveries. This is the default.
    pub fn signed(self) -> Self {
        self.auth(DeliveryAuth::signature())
    }

    /// The authentication of deliveries.
    pub fn auth(mut self, auth: DeliveryAuth) -> Self {
        self.auth = auth;
        self
    }

    /// The webhook's description.
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Creates the webhook paused.
    pub fn disabled(mut self) -> Self {
        self.disabled = true;
        self
    }

    /// The subjects that deliveries are limited to.
    pub fn subjects(mut self, subjects: impl IntoIterator<Item = RawJson>) -> Self {
        self.subjects = Some(subjects.into_iter().collect());
        self
    }

    /// The retry settings of failed deliveries.
    pub fn retry(mut self, retry: RawJson) -> Self {
        self.retry = Some(retry);
        self
    }

    /// The settings of the circuit breaker, which pauses deliveries when too many fail.
    pub fn circuit_breaker(mut self, circuit_breaker: RawJson) -> Self {
        self.circuit_breaker = Some(circuit_breaker);
        self
    }

    /// Key-value pairs of your own.
    pub fn metadata(mut self, metadata: RawJson) -> Self {
        self.metadata = Some(metadata);
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.events.is_empty() {
            return Err(Error::invalid_argument(
                "the spec has no events: set them with `events`, or `all_events` for every known type",
            ));
        }
        Ok(())
    }

    pub(crate) fn to_input(&self) -> CreateWebhookInput {
        let mut input = CreateWebhookInput::new(&self.name, &self.url);
        input.description.clone_from(&self.description);
        input.status = self.disabled.then_some(SettableWebhookStatus::Disabled);
        input.auth = Some(self.auth.to_create());
        input.events = Some(self.events.clone());
        input.subjects.clone_from(&self.subjects);
        input.retry.clone_from(&self.retry);
        input.circuit_breaker.clone_from(&self.circuit_breaker);
        input.metadata.clone_from(&self.metadata);
        input
    }
}

/// A change of a webhook. Members that are not set stay unchanged.
///
/// For members of type [`Patch`], `Patch::Null` clears and a value sets.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct WebhookPatch(UpdateWebhook);

impl WebhookPatch {
    /// A patch without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = Patch::Set(name.into());
        self
    }

    /// Sets the address.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.0.url = Patch::Set(url.into());
        self
    }

    /// Sets the description.
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.0.description = Patch::Set(description.into());
        self
    }

    /// Clears the description.
    pub fn clear_description(mut self) -> Self {
        self.0.description = Patch::Null;
        self
    }

    /// Sets the event types to deliver.
    pub fn events(mut self, events: impl IntoIterator<Item = EventType>) -> Self {
        self.0.events = Patch::Set(events.into_iter().collect());
        self
    }

    /// Sets the authentication of deliveries. It is assumed that this creates new secrets, even if
    /// the kind stays the same.
    pub fn auth(mut self, auth: &DeliveryAuth) -> Self {
        self.0.auth = Patch::Set(auth.to_update());
        self
    }

    /// Resumes deliveries, also if AuthPI paused them after too many failures.
    pub fn enable(mut self) -> Self {
        self.0.status = Patch::Set(SettableWebhookStatus::Active);
        self
    }

    /// Pauses deliveries.
    pub fn disable(mut self) -> Self {
        self.0.status = Patch::Set(SettableWebhookStatus::Disabled);
        self
    }

    /// Sets the reason for the new status.
    pub fn status_reason(mut self, reason: impl Into<Patch<String>>) -> Self {
        self.0.status_reason = reason.into();
        self
    }

    /// Sets who changed the status.
    pub fn status_by(mut self, by: impl Into<Patch<String>>) -> Self {
        self.0.status_by = by.into();
        self
    }

    /// The subjects that deliveries are limited to.
    pub fn subjects(mut self, subjects: impl Into<Patch<Vec<RawJson>>>) -> Self {
        self.0.subjects = subjects.into();
        self
    }

    /// The retry settings of failed deliveries.
    pub fn retry(mut self, retry: impl Into<Patch<RawJson>>) -> Self {
        self.0.retry = retry.into();
        self
    }

    /// The settings of the circuit breaker, which pauses deliveries when too many fail.
    pub fn circuit_breaker(mut self, circuit_breaker: impl Into<Patch<RawJson>>) -> Self {
        self.0.circuit_breaker = circuit_breaker.into();
        self
    }

    /// Key-value pairs of your own.
    pub fn metadata(mut self, metadata: impl Into<Patch<RawJson>>) -> Self {
        self.0.metadata = metadata.into();
        self
    }

    pub(crate) fn as_input(&self) -> &UpdateWebhook {
        &self.0
    }
}

/// A time as a query parameter.
pub(crate) fn millis(at: Option<Timestamp>) -> Option<i64> {
    at.map(|at| UnixMillis::from(at).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_always_sends_events_and_auth() {
        let spec = WebhookSpec::new("users", "https://example.com/h")
            .events([EventType::UserCreated, EventType::UserCreated]);
        assert_eq!(
            serde_json::to_value(spec.to_input()).unwrap(),
            serde_json::json!({
                "name": "users", "url": "https://example.com/h", "auth": {"type": "signature"}, "events": ["user.created"],
            })
        );
        assert_eq!(spec, spec.clone().signed());
        assert_eq!(
            spec.all_events().to_input().events.unwrap().len(),
            EventType::ALL.len()
        );
    }

    #[test]
    fn a_spec_without_events_is_refused() {
        assert!(
            WebhookSpec::new("n", "u")
                .check()
                .unwrap_err()
                .is_invalid_argument()
        );
        assert!(WebhookSpec::new("n", "u").events([]).check().is_err());
        WebhookSpec::new("n", "u").all_events().check().unwrap();
    }

    #[test]
    fn each_kind_of_authentication_is_written_as_authpi_names_it() {
        for (auth, json) in [
            (
                DeliveryAuth::dangerously_unauthenticated(),
                r#"{"type":"none"}"#,
            ),
            (
                DeliveryAuth::signature().with_bearer_token("x"),
                r#"{"type":"signature"}"#,
            ),
            (DeliveryAuth::bearer(), r#"{"type":"bearer"}"#),
            (
                DeliveryAuth::bearer().with_bearer_token("t"),
                r#"{"type":"bearer","bearer_token":"t"}"#,
            ),
            (
                DeliveryAuth::bearer_and_signature(),
                r#"{"type":"bearer+signature"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&auth.to_create()).unwrap(), json);
            assert_eq!(serde_json::to_string(&auth.to_update()).unwrap(), json);
        }
    }

    #[test]
    fn a_bearer_token_of_ones_own_is_not_in_debug() {
        let auth = DeliveryAuth::bearer().with_bearer_token("very_secret");
        let shown = format!(
            "{auth:?}{:?}{:?}",
            WebhookSpec::new("n", "u").auth(auth.clone()),
            WebhookPatch::new().auth(&auth)
        );
        assert!(!shown.contains("very_secret"), "{shown}");
    }

    #[test]
    fn a_patch_tells_leave_clear_and_set_apart() {
        assert_eq!(
            serde_json::to_string(WebhookPatch::new().as_input()).unwrap(),
            "{}"
        );
        let patch = WebhookPatch::new()
            .clear_description()
            .events([])
            .metadata(Patch::Null)
            .disable();
        assert_eq!(
            serde_json::to_value(patch.as_input()).unwrap(),
            serde_json::json!({"description": null, "events": [], "metadata": null, "status": "disabled"})
        );
    }
}
