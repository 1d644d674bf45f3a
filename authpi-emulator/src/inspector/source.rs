//! The emulator's state as a source of the inspector.
//!
//! Changes go through the operations of the API, so that they are checked like any other call.

use std::{ops::Bound, sync::Arc};

use authpi_inspector::{
    Attempt, Delivery, DeliveryFilter, DeliveryRow, DeliveryStatus, Event, EventFilter, EventRow,
    Example, Fault, FaultKind, NewEvent, NewFault, NewWebhook, PAGE, Page, Problem, Secrets,
    SignatureView, Source, Webhook, WebhookAction, contains,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::faults;
use crate::{
    answer::Answer,
    credentials::Caller,
    error::ApiError,
    operations,
    state::State,
    store,
    store::{RECORDED_DELIVERIES, Store, WebhookStatus},
};

pub(super) struct EmulatorSource(pub(super) Arc<State>);

impl EmulatorSource {
    /// Calls an operation of the API as the account's user.
    async fn call(&self, method: Method, path: &[&str], body: &Value) -> Result<Value, Problem> {
        let world = &self.0;
        let path = format!("/v1/accounts/{}/{}", world.account.id, path.join("/"));
        let within = async || -> Result<Answer, ApiError> {
            let (operation, path) = world.description.find(&method, &path)?;
            let mut headers = HeaderMap::new();
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::CONTENT_TYPE, json);
            let body = if body.is_null() {
                Bytes::new()
            } else {
                Bytes::from(body.to_string())
            };
            let request = operations::Request {
                caller: Caller::User,
                path,
                query: operation.check_query("")?,
                body: operation.check_body(&headers, &body)?,
                headers: &headers,
            };
            operations::perform(world, operation.call, request).await
        };
        match within().await {
            Ok(answer) => Ok(answer
                .body()
                .map(|body| body["data"].clone())
                .unwrap_or_default()),
            Err(problem) => Err(problem.into()),
        }
    }
}

impl From<ApiError> for Problem {
    fn from(problem: ApiError) -> Self {
        let mut shown = Self::new(problem.description());
        shown.not_found = problem.is_not_found();
        for field in problem.fields() {
            let line = format!("{}: {}", field.field, field.message);
            if line != shown.message {
                shown.message.push_str("; ");
                shown.message.push_str(&line);
            }
        }
        shown
    }
}

impl Source for EmulatorSource {
    fn name(&self) -> String {
        "AuthPI emulator".to_owned()
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.0.changes()
    }

    fn event_types(&self) -> Vec<String> {
        self.0.description.events.types.clone()
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, Problem> {
        let store = self.0.store();
        let webhooks = store.webhooks.values().rev();
        Ok(webhooks
            .filter(|webhook| webhook.status != WebhookStatus::Deleted)
            .map(|webhook| Webhook {
                id: webhook.id.clone(),
                name: webhook.name.clone(),
                url: webhook.url.clone(),
                status: webhook.status.as_str().to_owned(),
                reason: webhook.status_reason.as_str().map(str::to_owned),
                auth: webhook.auth.kind.as_str().to_owned(),
                events: (!webhook.all_events).then(|| webhook.events.clone()),
                warning: self.0.sender.check(&webhook.url).err(),
            })
            .collect())
    }

    async fn create_webhook(&self, webhook: NewWebhook) -> Result<(String, Secrets), Problem> {
        let mut body = json!({
            "name": webhook.name,
            "url": webhook.url,
            "auth": {"type": webhook.auth},
        });
        if !webhook.events.is_empty() {
            body["events"] = webhook.events.into();
        }
        let created = self.call(Method::POST, &["webhooks"], &body).await?;
        let id = created["id"].as_str().unwrap_or_default().to_owned();
        Ok((id, secrets(&created)))
    }

    async fn change_webhook(&self, id: &str, action: WebhookAction) -> Result<Secrets, Problem> {
        let body = match action {
            WebhookAction::Enable => json!({"status": "active"}),
            WebhookAction::Disable => json!({"status": "disabled"}),
            WebhookAction::Rotate => {
                let store = self.0.store();
                let webhook = store.webhooks.get(id);
                let webhook = webhook.ok_or_else(|| Problem::not_found("webhook"))?;
                json!({"auth": {"type": webhook.auth.kind.as_str()}})
            }
            WebhookAction::Delete => {
                let path = ["webhooks", id];
                self.call(Method::DELETE, &path, &Value::Null).await?;
                return Ok(Secrets::default());
            }
            _ => return Err(Problem::new("the emulator cannot do this")),
        };
        let changed = self.call(Method::PATCH, &["webhooks", id], &body).await?;
        Ok(secrets(&changed))
    }

    async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        before: Option<&str>,
    ) -> Result<Page<DeliveryRow>, Problem> {
        let store = self.0.store();
        let mut rows = store
            .deliveries
            .range::<str, _>((Bound::Unbounded, end(before)))
            .rev()
            .map(|(_, delivery)| delivery)
            .filter(|delivery| matches(filter, &store, delivery));
        let items = rows.by_ref().take(PAGE).map(|d| row(&store, d)).collect();
        Ok(Page {
            items,
            has_more: rows.next().is_some(),
        })
    }

    async fn delivery(&self, id: &str) -> Result<Delivery, Problem> {
        let store = self.0.store();
        let delivery = store.deliveries.get(id);
        let delivery = delivery.ok_or_else(|| Problem::not_found("delivery"))?;
        let recorded: Vec<_> = store
            .attempts
            .of(id)
            .map(|recorded| attempt(&store, recorded))
            .collect();
        let missing =
            usize::try_from(delivery.attempt_count).unwrap_or(usize::MAX) > recorded.len();
        Ok(Delivery {
            row: row(&store, delivery),
            missing: missing.then(|| {
                format!(
                    "Earlier attempts are not shown: the emulator keeps the latest 20 of each of \
                     the latest {RECORDED_DELIVERIES} deliveries, up to 64 MiB, and none over a restart."
                )
            }),
            recorded,
        })
    }

    async fn resend(&self, id: &str) -> Result<(), Problem> {
        Ok(operations::resend(&self.0, id)?)
    }

    async fn events(
        &self,
        filter: &EventFilter,
        before: Option<&str>,
    ) -> Result<Page<EventRow>, Problem> {
        let store = self.0.store();
        let wanted = |event: &store::Event| {
            let is_type = |name: &String| event.event_type == *name;
            let has_text = |text: &String| {
                // Contains the id, the subject and the payload.
                contains(event.delivered.get(), text)
            };
            filter.event_type.as_ref().is_none_or(is_type)
                && filter.text.as_ref().is_none_or(has_text)
        };
        let mut rows = store
            .events
            .range::<str, _>((Bound::Unbounded, end(before)))
            .rev()
            .map(|(_, event)| &**event)
            .filter(|event| wanted(event));
        let items = rows.by_ref().take(PAGE).map(event_row).collect();
        Ok(Page {
            items,
            has_more: rows.next().is_some(),
        })
    }

    async fn event(&self, id: &str) -> Result<Event, Problem> {
        let event = self.0.store().events.get(id).cloned();
        let event = event.ok_or_else(|| Problem::not_found("event"))?;
        Ok(Event {
            row: event_row(&event),
            // An event consists of strings, a number and JSON.
            shown: serde_json::to_value(&*event).unwrap_or_default(),
        })
    }

    fn example(&self, event_type: &str) -> Example {
        let catalogue = &self.0.description.events;
        let own = Value::from(self.0.account.id.as_str());
        let subject = catalogue.example_subject(event_type, &own);
        let data = catalogue.example_data(event_type, &subject, &own);
        Example { subject, data }
    }

    async fn trigger(&self, event: NewEvent) -> Result<String, Problem> {
        let event = crate::NewEvent::new(event.event_type)
            .subject(event.subject)
            .data(event.data);
        let recorded = self.0.trigger(event)?;
        Ok(recorded.event.id.clone())
    }

    async fn faults(&self) -> Result<Vec<Fault>, Problem> {
        Ok(faults::list(&self.0.faults))
    }

    fn fault_kinds(&self) -> Vec<FaultKind> {
        let store = self.0.store();
        let webhooks = store
            .webhooks
            .values()
            .filter(|webhook| webhook.status != WebhookStatus::Deleted)
            .map(|webhook| {
                (
                    webhook.id.clone(),
                    format!("{} ({})", webhook.name, webhook.id),
                )
            });
        faults::kinds(self.0.description, webhooks.collect())
    }

    async fn add_fault(&self, fault: NewFault) -> Result<(), Problem> {
        faults::add(&self.0.faults, &fault)
    }

    async fn remove_fault(&self, id: &str) -> Result<(), Problem> {
        let is_removed = id.parse().is_ok_and(|id| self.0.faults.remove(id));
        if is_removed {
            Ok(())
        } else {
            Err(Problem::not_found("fault"))
        }
    }
}

/// The new secrets in a webhook that the API shows.
fn secrets(webhook: &Value) -> Secrets {
    let auth = &webhook["auth"];
    Secrets::new(
        auth["signature_secret_plain"].as_str(),
        auth["bearer_token_plain"].as_str(),
    )
}

/// The ids before `before`.
fn end(before: Option<&str>) -> Bound<&str> {
    before.map_or(Bound::Unbounded, Bound::Excluded)
}

/// The emulator's clock stays within the calendar.
fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

fn status(status: store::DeliveryStatus) -> DeliveryStatus {
    match status {
        store::DeliveryStatus::Pending => DeliveryStatus::Pending,
        store::DeliveryStatus::Succeeded => DeliveryStatus::Succeeded,
        store::DeliveryStatus::Failed => DeliveryStatus::Failed,
    }
}

fn matches(filter: &DeliveryFilter, store: &Store, delivery: &store::Delivery) -> bool {
    let event = &delivery.event;
    let has_text = |text: &String| {
        let webhook = store.webhooks.get(&delivery.webhook_id);
        // The event contains its id and its payload.
        contains(event.delivered.get(), text)
            || contains(&delivery.id, text)
            || contains(&delivery.webhook_id, text)
            || webhook.is_some_and(|w| contains(&w.name, text) || contains(&w.url, text))
            || delivery.failure().is_some_and(|why| contains(why, text))
    };
    filter
        .event_type
        .as_ref()
        .is_none_or(|name| event.event_type == *name)
        && filter
            .status
            .is_none_or(|wanted| status(delivery.status) == wanted)
        && filter.text.as_ref().is_none_or(has_text)
}

fn row(store: &Store, delivery: &store::Delivery) -> DeliveryRow {
    // Webhooks are never removed.
    let webhook = store.webhooks.get(&delivery.webhook_id);
    DeliveryRow {
        id: delivery.id.clone(),
        event_id: delivery.event.id.clone(),
        event_type: delivery.event.event_type.clone(),
        webhook: webhook.map_or_else(|| delivery.webhook_id.clone(), |w| w.name.clone()),
        url: webhook.map(|w| w.url.clone()).unwrap_or_default(),
        status: status(delivery.status),
        in_progress: delivery.under_way,
        attempts: delivery.attempt_count,
        created_at: time(delivery.created_at),
        next_attempt_at: delivery.next_attempt_at.map(time),
        last_status: delivery.last_status(),
        last_error: delivery.failure().map(str::to_owned),
    }
}

fn attempt(store: &Store, recorded: &store::Attempt) -> Attempt {
    let sent = recorded.sent.as_ref();
    let headers = sent.map(|sent| sent.headers.clone()).unwrap_or_default();
    let answered = recorded.answered.as_ref();
    Attempt {
        number: recorded.number,
        at: time(recorded.at),
        took: recorded.took,
        is_resend: recorded.is_redelivery,
        url: sent.map(|sent| sent.url.clone()).unwrap_or_default(),
        signature: SignatureView::of(&store.settings.scheme, &headers),
        headers,
        body: sent.map(|sent| sent.body.clone()).unwrap_or_default(),
        status: answered.map(|answered| answered.status),
        error: recorded.error.clone(),
        answer: answered
            .map(|answered| answered.body.clone())
            .unwrap_or_default(),
        answer_cut: answered.is_some_and(|answered| answered.is_cut),
    }
}

fn event_row(event: &store::Event) -> EventRow {
    EventRow {
        id: event.id.clone(),
        event_type: event.event_type.clone(),
        at: time(event.timestamp),
        trigger: event.trigger.clone(),
        subject: event.subject.clone(),
    }
}
