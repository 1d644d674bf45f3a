//! What the emulated account holds: webhooks, the event log, deliveries.
//!
//! All in memory, behind one lock that is never held while something is waited for. Ids sort by time, so each collection is a
//! map by id and a page is a range of it. The event log and the deliveries are bounded: beyond
//! [`Builder::keep`](crate::Builder::keep) the oldest event, and the oldest delivery that is over, are forgotten. Webhooks
//! are not bounded; they are made one call at a time.

mod delivery;
mod event;
mod page;
mod webhook;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

pub(crate) use delivery::{Attempted, Delivery, DeliveryStatus, Verdict};
pub use event::Event;
pub(crate) use page::Page;
pub(crate) use webhook::{Auth, Webhook, WebhookStatus};

use crate::{clock::EmulatorClock, ids::Ids, settings::Settings};

/// The account's state.
pub(crate) struct Store {
    pub(crate) clock: EmulatorClock,
    pub(crate) settings: Settings,
    pub(crate) ids: Ids,
    pub(crate) account_id: String,
    pub(crate) webhooks: BTreeMap<String, Webhook>,
    pub(crate) events: BTreeMap<String, Arc<Event>>,
    pub(crate) deliveries: BTreeMap<String, Delivery>,
    /// Deliveries that wait for an attempt: when it is due, and which.
    queue: BTreeSet<(i64, String)>,
    /// How many attempts are under way.
    under_way: usize,
}

impl Store {
    pub(crate) fn new(account_id: String, clock: EmulatorClock, settings: Settings) -> Self {
        Self {
            clock,
            settings,
            ids: Ids::default(),
            account_id,
            webhooks: BTreeMap::new(),
            events: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            queue: BTreeSet::new(),
            under_way: 0,
        }
    }

    /// Makes an event happen: it is logged, and queued for each webhook that wants it, `copies` times.
    pub(crate) fn record(
        &mut self,
        event_type: &str,
        subject: Value,
        data: Value,
        trigger: &str,
        copies: u32,
    ) -> Arc<Event> {
        let now = self.clock.millis();
        let id = self.ids.fresh("evt_", now);
        let event = Arc::new(Event::new(id, event_type, now, trigger, subject, data));
        self.events.insert(event.id.clone(), event.clone());
        let receivers: Vec<_> =
            self.webhooks.values().filter(|webhook| webhook.wants(&event)).map(|w| w.id.clone()).collect();
        for webhook_id in receivers {
            for _ in 0..copies {
                let delivery = Delivery::new(
                    self.ids.fresh("whd_", now),
                    webhook_id.clone(),
                    event.clone(),
                    self.settings.attempt_budget(),
                    now,
                );
                self.queue.insert((now, delivery.id.clone()));
                self.deliveries.insert(delivery.id.clone(), delivery);
            }
        }
        self.forget_the_oldest();
        event
    }

    /// A change of a webhook is an event, too.
    pub(crate) fn record_about(&mut self, webhook_id: &str, event_type: &str, trigger: &str) {
        let Some(webhook) = self.webhooks.get(webhook_id) else { return };
        let data = webhook.shown_in_event();
        let subject = serde_json::json!({"account_id": self.account_id, "webhook_id": webhook_id});
        self.record(event_type, subject, data, trigger, 1);
    }

    fn forget_the_oldest(&mut self) {
        while self.events.len() > self.settings.keep {
            self.events.pop_first();
        }
        let excess = self.deliveries.len().saturating_sub(self.settings.keep);
        if excess > 0 {
            let over: Vec<_> =
                self.deliveries.values().filter(|d| d.is_over()).take(excess).map(|d| d.id.clone()).collect();
            for id in over {
                self.deliveries.remove(&id);
            }
        }
    }

    /// Takes the next delivery whose time has come, and marks it as under way.
    pub(crate) fn take_due(&mut self) -> Option<String> {
        let (at, _) = self.queue.first()?;
        if *at > self.clock.millis() {
            return None;
        }
        let (_, id) = self.queue.pop_first()?;
        let delivery = self.deliveries.get_mut(&id)?;
        delivery.under_way = true;
        self.under_way += 1;
        Some(id)
    }

    /// When the next attempt is due, in Unix milliseconds.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Marks one delivery as under way out of its turn; false when it already is.
    pub(crate) fn take_now(&mut self, delivery_id: &str) -> bool {
        let Some(delivery) = self.deliveries.get_mut(delivery_id) else { return false };
        if delivery.under_way {
            return false;
        }
        delivery.under_way = true;
        if let Some(at) = delivery.next_attempt_at {
            self.queue.remove(&(at, delivery.id.clone()));
        }
        self.under_way += 1;
        true
    }

    /// Writes down how an attempt ended, and what follows from it for the delivery and for its webhook.
    pub(crate) fn attempted(&mut self, delivery_id: &str, attempted: Attempted) {
        let now = self.clock.millis();
        self.under_way = self.under_way.saturating_sub(1);
        let Some(delivery) = self.deliveries.get_mut(delivery_id) else { return };
        let verdict = delivery.attempted(attempted, &self.settings.retry_delays, now);
        if let Some(at) = delivery.next_attempt_at {
            self.queue.insert((at, delivery.id.clone()));
        }
        let webhook_id = delivery.webhook_id.clone();
        let Some(webhook) = self.webhooks.get_mut(&webhook_id) else { return };
        match webhook.count(verdict, self.settings.failing_after, now) {
            Some(WebhookStatus::Failing) => self.record_about(&webhook_id, "webhook.paused", "system"),
            Some(WebhookStatus::Active) => self.record_about(&webhook_id, "webhook.resumed", "system"),
            _ => {}
        }
    }

    /// Gives up what is queued for a webhook that wants nothing any more.
    pub(crate) fn give_up(&mut self, webhook_id: &str, why: &str) {
        let now = self.clock.millis();
        for delivery in self.deliveries.values_mut().filter(|delivery| delivery.webhook_id == webhook_id) {
            if let Some(at) = delivery.next_attempt_at {
                self.queue.remove(&(at, delivery.id.clone()));
                delivery.give_up(why, now);
            }
        }
    }

    /// Whether nothing is under way or due; with `retries`, whether nothing waits for a later attempt either.
    pub(crate) fn is_quiet(&self, retries: bool) -> bool {
        let due = if retries { i64::MAX } else { self.clock.millis() };
        self.under_way == 0 && self.next_due().is_none_or(|at| at > due)
    }
}
