//! The store as it is saved and read again.
//!
//! Saving copies what can change and shares the events, so that the lock is held only briefly;
//! encoding needs no lock. What follows from the rest is not saved: the queue, the index by event
//! type, and the number of attempts in progress. An attempt that was in progress is due again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use authpi_sdk::signature::Secret;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, value::RawValue};

use super::{
    Delivery, DeliveryStatus, Event, Store, Webhook, WebhookStatus, note_over,
    webhook::{Auth, AuthKind},
};
use crate::{clock::EmulatorClock, ids::Ids, settings::Settings};

/// The content of a store.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedStore {
    /// The latest id, without its prefix. New ids are greater.
    last_id: String,
    webhooks: Vec<SavedWebhook>,
    /// The event log, and the events of deliveries that are no longer in it.
    events: Vec<SavedEvent>,
    deliveries: Vec<SavedDelivery>,
    /// The ids of finished deliveries, in the order in which they ended.
    finished: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedWebhook {
    id: String,
    name: String,
    url: String,
    auth: SavedAuth,
    events: Vec<String>,
    all_events: bool,
    status: WebhookStatus,
    status_at: i64,
    status_reason: Value,
    status_by: Value,
    description: Value,
    subjects: Value,
    retry: Value,
    circuit_breaker: Value,
    metadata: Value,
    created_at: i64,
    updated_at: Option<i64>,
    given_up: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedAuth {
    r#type: AuthKind,
    secret: Option<String>,
    previous_secret: Option<String>,
    token: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedEvent {
    timestamp: i64,
    trigger: String,
    /// Whether the event log has it.
    in_log: bool,
    delivered: Delivered,
}

/// The bytes of an event in its deliveries, unchanged.
struct Delivered(Arc<RawValue>);

impl Serialize for Delivered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Delivered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Box::<RawValue>::deserialize(deserializer)?.into()))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedDelivery {
    id: String,
    webhook_id: String,
    event_id: String,
    status: DeliveryStatus,
    attempt_count: u32,
    attempts_from_queue: usize,
    attempt_budget: u32,
    first_attempted_at: Option<i64>,
    last_attempted_at: Option<i64>,
    next_attempt_at: Option<i64>,
    last_error: Option<String>,
    last_response_status: Option<u16>,
    created_at: i64,
    updated_at: Option<i64>,
    envelope_id: Option<String>,
}

impl SavedWebhook {
    fn of(webhook: &Webhook) -> Self {
        let Webhook {
            id,
            // There is one account.
            account_id: _,
            name,
            url,
            auth,
            events,
            all_events,
            status,
            status_at,
            status_reason,
            status_by,
            description,
            subjects,
            retry,
            circuit_breaker,
            metadata,
            created_at,
            updated_at,
            given_up,
        } = webhook;
        Self {
            id: id.clone(),
            name: name.clone(),
            url: url.clone(),
            auth: SavedAuth::of(auth),
            events: events.clone(),
            all_events: *all_events,
            status: *status,
            status_at: *status_at,
            status_reason: status_reason.clone(),
            status_by: status_by.clone(),
            description: description.clone(),
            subjects: subjects.clone(),
            retry: retry.clone(),
            circuit_breaker: circuit_breaker.clone(),
            metadata: metadata.clone(),
            created_at: *created_at,
            updated_at: *updated_at,
            given_up: *given_up,
        }
    }

    fn restored(self, account_id: &str) -> Webhook {
        Webhook {
            id: self.id,
            account_id: account_id.to_owned(),
            name: self.name,
            url: self.url,
            auth: self.auth.restored(),
            events: self.events,
            all_events: self.all_events,
            status: self.status,
            status_at: self.status_at,
            status_reason: self.status_reason,
            status_by: self.status_by,
            description: self.description,
            subjects: self.subjects,
            retry: self.retry,
            circuit_breaker: self.circuit_breaker,
            metadata: self.metadata,
            created_at: self.created_at,
            updated_at: self.updated_at,
            given_up: self.given_up,
        }
    }
}

impl SavedAuth {
    fn of(auth: &Auth) -> Self {
        let Auth {
            kind,
            secret,
            previous_secret,
            token,
        } = auth;
        let exposed = |secret: &Option<Secret>| Some(secret.as_ref()?.expose().to_owned());
        Self {
            r#type: *kind,
            secret: exposed(secret),
            previous_secret: exposed(previous_secret),
            token: exposed(token),
        }
    }

    fn restored(self) -> Auth {
        Auth {
            kind: self.r#type,
            secret: self.secret.map(Secret::new),
            previous_secret: self.previous_secret.map(Secret::new),
            token: self.token.map(Secret::new),
        }
    }
}

impl SavedEvent {
    fn of(event: &Event, in_log: bool) -> Self {
        Self {
            timestamp: event.timestamp,
            trigger: event.trigger.clone(),
            in_log,
            delivered: Delivered(event.delivered.clone()),
        }
    }
}

impl SavedDelivery {
    fn of(delivery: &Delivery) -> Self {
        let Delivery {
            id,
            webhook_id,
            event,
            status,
            attempt_count,
            from_queue,
            attempt_budget,
            first_attempted_at,
            last_attempted_at,
            next_attempt_at,
            // It follows from the id.
            workflow_id: _,
            last_error,
            last_response_status,
            created_at,
            updated_at,
            // An attempt in progress ends with the process.
            under_way: _,
            // It follows from the list of finished deliveries.
            noted_as_over: _,
            envelope_id,
            // It follows from its id and the event.
            envelope: _,
        } = delivery;
        Self {
            id: id.clone(),
            webhook_id: webhook_id.clone(),
            event_id: event.id.clone(),
            status: *status,
            attempt_count: *attempt_count,
            attempts_from_queue: *from_queue,
            attempt_budget: *attempt_budget,
            first_attempted_at: *first_attempted_at,
            last_attempted_at: *last_attempted_at,
            next_attempt_at: *next_attempt_at,
            last_error: last_error.clone(),
            last_response_status: *last_response_status,
            created_at: *created_at,
            updated_at: *updated_at,
            envelope_id: envelope_id.clone(),
        }
    }

    fn restored(self, event: Arc<Event>) -> Delivery {
        let new = Delivery::new(
            self.id,
            self.webhook_id,
            event,
            self.attempt_budget,
            self.created_at,
        );
        Delivery {
            status: self.status,
            attempt_count: self.attempt_count,
            from_queue: self.attempts_from_queue,
            first_attempted_at: self.first_attempted_at,
            last_attempted_at: self.last_attempted_at,
            next_attempt_at: self.next_attempt_at,
            last_error: self.last_error,
            last_response_status: self.last_response_status,
            updated_at: self.updated_at,
            envelope_id: self.envelope_id,
            ..new
        }
    }
}

impl Store {
    /// A copy to save.
    pub(crate) fn saved(&self) -> SavedStore {
        let older = self
            .deliveries
            .values()
            .map(|delivery| &delivery.event)
            .filter(|event| !self.events.contains_key(&event.id));
        // Several deliveries share an event.
        let older: BTreeMap<_, _> = older.map(|event| (&event.id, event)).collect();
        let older = older.values().map(|event| SavedEvent::of(event, false));
        let in_log = self
            .events
            .values()
            .map(|event| SavedEvent::of(event, true));
        SavedStore {
            last_id: self.ids.last(),
            webhooks: self.webhooks.values().map(SavedWebhook::of).collect(),
            events: older.chain(in_log).collect(),
            deliveries: self.deliveries.values().map(SavedDelivery::of).collect(),
            finished: self.over.iter().cloned().collect(),
        }
    }

    /// The store of another run. The error says what does not fit together.
    pub(crate) fn restored(
        saved: SavedStore,
        account_id: String,
        clock: EmulatorClock,
        settings: Settings,
    ) -> Result<Self, &'static str> {
        let mut store = Self::new(account_id, clock, settings);
        store.ids = Ids::after(&saved.last_id).ok_or("last_id is not an id")?;
        for webhook in saved.webhooks {
            if store.webhooks.contains_key(&webhook.id) {
                return Err("a webhook occurs twice");
            }
            let webhook = webhook.restored(&store.account_id);
            store.put(webhook);
        }
        let mut events = BTreeMap::new();
        for SavedEvent {
            timestamp,
            trigger,
            in_log,
            delivered,
        } in saved.events
        {
            let event = Event::restored(delivered.0, timestamp, trigger)
                .map_err(|_| "an event has another form")?;
            let event = Arc::new(event);
            if in_log {
                store.events.insert(event.id.clone(), event.clone());
            }
            if events.insert(event.id.clone(), event).is_some() {
                return Err("an event occurs twice");
            }
        }
        for delivery in saved.deliveries {
            let event = events.get(&delivery.event_id);
            let event = event.ok_or("the event of a delivery is missing")?.clone();
            if !store.webhooks.contains_key(&delivery.webhook_id) {
                return Err("the webhook of a delivery is missing");
            }
            let delivery = delivery.restored(event);
            if let Some(at) = delivery.next_attempt_at {
                store.queue.insert((at, delivery.id.clone()));
            }
            if store
                .deliveries
                .insert(delivery.id.clone(), delivery)
                .is_some()
            {
                return Err("a delivery occurs twice");
            }
        }
        let finished: BTreeSet<_> = saved.finished.iter().collect();
        for delivery in store.deliveries.values() {
            if delivery.next_attempt_at.is_some() == finished.contains(&delivery.id) {
                return Err("a delivery is both or neither of pending and finished");
            }
        }
        for id in &saved.finished {
            let delivery = store.deliveries.get_mut(id);
            let delivery = delivery.ok_or("a finished delivery is missing")?;
            note_over(delivery, &mut store.over);
        }
        store.forget_the_oldest();
        Ok(store)
    }
}
