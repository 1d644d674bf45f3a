//! The content of the emulated account: webhooks, the event log, deliveries.
//!
//! All in memory, behind one lock that is never held across an await. Ids sort by time, so each
//! collection is a map by id and a page is a range of it. The event log and the deliveries are
//! limited: beyond [`Builder::keep`](crate::Builder::keep), the oldest event and the oldest
//! finished delivery are dropped; beyond [`Builder::max_pending`](crate::Builder::max_pending), new
//! events are refused. Webhooks are not limited; each is created by a call.

#[cfg(feature = "inspector")]
mod attempts;
mod delivery;
mod event;
mod page;
mod saved;
mod webhook;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use serde_json::Value;

#[cfg(feature = "inspector")]
pub(crate) use attempts::{Attempt, Attempts, DELIVERIES as RECORDED_DELIVERIES};
pub(crate) use delivery::{Attempted, Delivery, DeliveryStatus, Verdict};
pub use event::Event;
pub(crate) use page::Page;
pub(crate) use saved::SavedStore;
pub(crate) use webhook::{Auth, Webhook, WebhookStatus};

use crate::{clock::EmulatorClock, ids::Ids, settings::Settings};

/// The account's state.
pub(crate) struct Store {
    pub(crate) clock: EmulatorClock,
    pub(crate) settings: Settings,
    pub(crate) ids: Ids,
    pub(crate) account_id: String,
    pub(crate) webhooks: BTreeMap<String, Webhook>,
    /// For each event type, the webhooks that subscribe to it or once did.
    interested: BTreeMap<String, BTreeSet<String>>,
    pub(crate) events: BTreeMap<String, Arc<Event>>,
    pub(crate) deliveries: BTreeMap<String, Delivery>,
    /// Deliveries that wait for an attempt, by due time.
    queue: BTreeSet<(i64, String)>,
    /// Finished deliveries, in the order in which they ended.
    over: VecDeque<String>,
    /// The number of attempts in progress.
    under_way: usize,
    /// An event was refused because of the limit, and none has been accepted since.
    full: bool,
    /// What the inspector shows of attempts.
    #[cfg(feature = "inspector")]
    pub(crate) attempts: Attempts,
}

/// An event that has happened, and the number of its pending deliveries.
pub(crate) struct Recorded {
    pub(crate) event: Arc<Event>,
    pub(crate) deliveries: usize,
}

/// Too many deliveries are pending.
#[derive(Debug)]
pub(crate) struct Full {
    /// Whether the previous event was accepted.
    pub(crate) first: bool,
}

impl Store {
    pub(crate) fn new(account_id: String, clock: EmulatorClock, settings: Settings) -> Self {
        Self {
            clock,
            settings,
            ids: Ids::default(),
            account_id,
            webhooks: BTreeMap::new(),
            interested: BTreeMap::new(),
            events: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            queue: BTreeSet::new(),
            over: VecDeque::new(),
            under_way: 0,
            full: false,
            #[cfg(feature = "inspector")]
            attempts: Attempts::default(),
        }
    }

    /// Adds a webhook.
    pub(crate) fn put(&mut self, webhook: Webhook) {
        self.note_interests(&webhook.id, &webhook.events);
        self.webhooks.insert(webhook.id.clone(), webhook);
    }

    /// Must be called when a webhook subscribes to other events.
    pub(crate) fn note_interests(&mut self, webhook_id: &str, events: &[String]) {
        for event_type in events {
            self.interested
                .entry(event_type.clone())
                .or_default()
                .insert(webhook_id.to_owned());
        }
    }

    /// Creates an event: logs it and queues it `copies` times for each webhook that subscribes to
    /// it.
    ///
    /// It does nothing if there is no capacity for its deliveries.
    pub(crate) fn record(
        &mut self,
        event_type: &str,
        subject: Value,
        data: Value,
        trigger: &str,
        copies: u32,
    ) -> Result<Recorded, Full> {
        let event = self.event(event_type, subject, data, trigger);
        let receivers = self.receivers(&event);
        let copies = usize::try_from(copies).unwrap_or(usize::MAX);
        let deliveries = receivers.len().saturating_mul(copies);
        if deliveries > self.room() {
            return Err(Full {
                first: !std::mem::replace(&mut self.full, true),
            });
        }
        self.full &= deliveries == 0;
        self.events.insert(event.id.clone(), event.clone());
        for webhook_id in receivers {
            for _ in 0..copies {
                let delivery = self.delivery(&webhook_id, &event);
                self.queue
                    .insert((delivery.created_at, delivery.id.clone()));
                self.deliveries.insert(delivery.id.clone(), delivery);
            }
        }
        self.forget_the_oldest();
        Ok(Recorded { event, deliveries })
    }

    /// Records a change of a webhook, which is an event too. It has happened already, so deliveries
    /// beyond the limit fail immediately.
    pub(crate) fn record_about(&mut self, webhook_id: &str, event_type: &str, trigger: &str) {
        let Some(webhook) = self.webhooks.get(webhook_id) else {
            return;
        };
        let data = webhook.shown_in_event();
        let subject = serde_json::json!({"account_id": self.account_id, "webhook_id": webhook_id});
        let event = self.event(event_type, subject, data, trigger);
        self.events.insert(event.id.clone(), event.clone());
        for webhook_id in self.receivers(&event) {
            let mut delivery = self.delivery(&webhook_id, &event);
            if self.room() == 0 {
                delivery.give_up(
                    "too many deliveries were pending (Builder::max_pending)",
                    delivery.created_at,
                );
                note_over(&mut delivery, &mut self.over);
            } else {
                self.queue
                    .insert((delivery.created_at, delivery.id.clone()));
            }
            self.deliveries.insert(delivery.id.clone(), delivery);
        }
        self.forget_the_oldest();
    }

    fn event(&self, event_type: &str, subject: Value, data: Value, trigger: &str) -> Arc<Event> {
        let now = self.clock.millis();
        Arc::new(Event::new(
            self.ids.fresh("evt_", now),
            event_type,
            now,
            trigger,
            subject,
            data,
        ))
    }

    /// The webhooks that receive an event.
    fn receivers(&self, event: &Event) -> Vec<String> {
        if let Some(interested) = self.interested.get(&event.event_type) {
            let wants = |id: &&String| {
                self.webhooks
                    .get(*id)
                    .is_some_and(|webhook| webhook.wants(event))
            };
            return interested.iter().filter(wants).cloned().collect();
        }
        // No webhook lists this type. If it is not in the catalogue, webhooks with all events
        // receive it. If it is in the catalogue, there is no webhook with all events, so nobody
        // receives it.
        let wants = |webhook: &&Webhook| webhook.all_events && webhook.takes(event);
        self.webhooks
            .values()
            .filter(wants)
            .map(|webhook| webhook.id.clone())
            .collect()
    }

    fn delivery(&self, webhook_id: &str, event: &Arc<Event>) -> Delivery {
        let now = event.timestamp;
        let id = self.ids.fresh("whd_", now);
        Delivery::new(
            id,
            webhook_id.to_owned(),
            event.clone(),
            self.settings.attempt_budget(),
            now,
        )
    }

    /// How many more deliveries may be pending.
    fn room(&self) -> usize {
        self.settings
            .max_pending
            .saturating_sub(self.deliveries.len() - self.over.len())
    }

    fn forget_the_oldest(&mut self) {
        while self.events.len() > self.settings.keep {
            self.events.pop_first();
        }
        for _ in self.settings.keep..self.over.len() {
            let Some(id) = self.over.pop_front() else {
                return;
            };
            match self.deliveries.get(&id) {
                // A redelivery of it is in progress; it can be dropped after that.
                Some(delivery) if delivery.under_way => self.over.push_back(id),
                _ => drop(self.deliveries.remove(&id)),
            }
        }
    }

    /// Takes the next due delivery and marks it as in progress.
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

    /// Marks one delivery as in progress outside of the queue; false if it already is.
    pub(crate) fn take_now(&mut self, delivery_id: &str) -> bool {
        let Some(delivery) = self.deliveries.get_mut(delivery_id) else {
            return false;
        };
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

    /// Records the result of an attempt, and its consequences for the delivery and its webhook.
    pub(crate) fn attempted(&mut self, delivery_id: &str, mut attempted: Attempted) {
        if !self.settings.honor_retry_after {
            attempted.retry_after = None;
        }
        let now = self.clock.millis();
        self.under_way = self.under_way.saturating_sub(1);
        let Some(delivery) = self.deliveries.get_mut(delivery_id) else {
            return;
        };
        let verdict = delivery.attempted(attempted, &self.settings.retry_delays, now);
        match delivery.next_attempt_at {
            Some(at) => drop(self.queue.insert((at, delivery.id.clone()))),
            None => note_over(delivery, &mut self.over),
        }
        let webhook_id = delivery.webhook_id.clone();
        let Some(webhook) = self.webhooks.get_mut(&webhook_id) else {
            return;
        };
        match webhook.count(verdict, self.settings.failing_after, now) {
            Some(WebhookStatus::Failing) => {
                self.record_about(&webhook_id, "webhook.paused", "system");
            }
            Some(WebhookStatus::Active) => {
                self.record_about(&webhook_id, "webhook.resumed", "system");
            }
            _ => {}
        }
    }

    /// Gives up the queued deliveries of a webhook that receives no more events.
    pub(crate) fn give_up(&mut self, webhook_id: &str, why: &str) {
        let now = self.clock.millis();
        for delivery in self
            .deliveries
            .values_mut()
            .filter(|delivery| delivery.webhook_id == webhook_id)
        {
            if let Some(at) = delivery.next_attempt_at {
                self.queue.remove(&(at, delivery.id.clone()));
                delivery.give_up(why, now);
                note_over(delivery, &mut self.over);
            }
        }
    }

    /// Whether nothing is in progress or due; with `retries`, whether nothing waits for a later
    /// attempt either.
    pub(crate) fn is_quiet(&self, retries: bool) -> bool {
        let due = if retries {
            i64::MAX
        } else {
            self.clock.millis()
        };
        self.under_way == 0 && self.next_due().is_none_or(|at| at > due)
    }
}

/// Once per delivery, however often it is redelivered.
fn note_over(delivery: &mut Delivery, over: &mut VecDeque<String>) {
    if !std::mem::replace(&mut delivery.noted_as_over, true) {
        over.push_back(delivery.id.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use authpi_sdk::signature::SignatureScheme;
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn store(keep: usize) -> Store {
        let settings = Settings {
            retry_delays: vec![Duration::from_secs(5)],
            delivery_timeout: Duration::from_secs(1),
            failing_after: 2,
            keep,
            max_pending: 1_000,
            body_timeout: Duration::from_secs(1),
            hosts: crate::outgoing::Hosts::default(),
            log: crate::log::Log::default(),
            scheme: SignatureScheme::authpi(),
            honor_retry_after: false,
        };
        let mut store = Store::new(
            "acc_1".to_owned(),
            EmulatorClock::manual(Timestamp::UNIX_EPOCH),
            settings,
        );
        for id in ["wh_1", "wh_2"] {
            let mut webhook = Webhook::new(
                id.into(),
                "acc_1".into(),
                id.into(),
                "http://localhost".into(),
                0,
            );
            webhook.events = vec![
                "user.created".into(),
                "webhook.paused".into(),
                "webhook.resumed".into(),
            ];
            store.put(webhook);
        }
        store
    }

    fn happen(store: &mut Store) {
        store
            .record("user.created", json!({}), json!({}), "test", 1)
            .unwrap();
    }

    fn attempt(store: &mut Store, status: u16) -> Option<String> {
        let id = store.take_due()?;
        let error = (status != 200).then(|| "no".to_owned());
        store.attempted(
            &id,
            Attempted {
                at: 0,
                is_redelivery: false,
                status: Some(status),
                error,
                retry_after: None,
            },
        );
        Some(id)
    }

    #[test]
    fn each_webhook_that_wants_an_event_gets_one_delivery_per_copy() {
        let mut store = store(10);
        let recorded = store
            .record("user.created", json!({}), json!({}), "test", 3)
            .unwrap();
        assert_eq!(recorded.deliveries, 6);
        assert_eq!(store.deliveries.len(), 6);
        while attempt(&mut store, 200).is_some() {}
        assert!(store.is_quiet(true));
    }

    #[test]
    fn what_is_to_be_retried_is_quiet_until_its_time_has_come() {
        let mut store = store(10);
        happen(&mut store);
        assert!(!store.is_quiet(false), "it is due at once");
        while attempt(&mut store, 500).is_some() {}
        assert!(store.is_quiet(false) && !store.is_quiet(true));
        store.clock.advance(Duration::from_secs(5));
        assert!(!store.is_quiet(false));
        while attempt(&mut store, 500).is_some() {}
        assert!(store.is_quiet(true));
        assert!(
            store
                .deliveries
                .values()
                .all(|delivery| delivery.status == DeliveryStatus::Failed)
        );
    }

    #[test]
    fn a_failing_webhook_is_reported_to_others_but_not_to_itself() {
        let mut store = store(100);
        store
            .webhooks
            .get_mut("wh_2")
            .unwrap()
            .events
            .retain(|name| name != "user.created");
        for _ in 0..2 {
            happen(&mut store);
        }
        while attempt(&mut store, 500).is_some() {}
        store.clock.advance(Duration::from_secs(5));
        for _ in 0..2 {
            attempt(&mut store, 500);
        }
        assert_eq!(store.webhooks["wh_1"].status, WebhookStatus::Failing);
        let paused: Vec<_> = store
            .deliveries
            .values()
            .filter(|d| d.event.event_type == "webhook.paused")
            .collect();
        assert_eq!(
            paused
                .iter()
                .map(|delivery| delivery.webhook_id.as_str())
                .collect::<Vec<_>>(),
            ["wh_2"]
        );
        happen(&mut store);
        assert_eq!(store.queue.len(), 1, "a failing webhook got a new delivery");
    }

    #[test]
    fn the_oldest_events_and_finished_deliveries_are_dropped() {
        let mut store = store(3);
        let first = {
            happen(&mut store);
            attempt(&mut store, 200).unwrap()
        };
        for _ in 0..9 {
            happen(&mut store);
        }
        assert_eq!(
            (store.events.len(), store.deliveries.len()),
            (3, 20),
            "what is still to be sent is kept"
        );
        while attempt(&mut store, 200).is_some() {}
        happen(&mut store);
        assert_eq!(store.deliveries.len(), 3 + 2);
        assert!(!store.deliveries.contains_key(&first));
    }

    #[test]
    fn an_event_is_refused_as_a_whole_when_too_many_deliveries_are_pending() {
        let mut store = store(10);
        store.settings.max_pending = 5;
        let record = |store: &mut Store, copies| {
            store.record("user.created", json!({}), json!({}), "test", copies)
        };
        assert_eq!(record(&mut store, 2).unwrap().deliveries, 4);
        assert!(
            record(&mut store, 1).is_err_and(|full| full.first),
            "there is room for one of two deliveries"
        );
        assert!(record(&mut store, 1).is_err_and(|full| !full.first));
        assert_eq!((store.events.len(), store.deliveries.len()), (1, 4));
        while attempt(&mut store, 200).is_some() {}
        assert_eq!(
            record(&mut store, 2).unwrap().deliveries,
            4,
            "what is over takes no room"
        );
        assert!(record(&mut store, 1).is_err_and(|full| full.first));
    }

    #[test]
    fn at_the_pending_limit_a_webhook_change_fails_its_delivery() {
        let mut store = store(10);
        store.settings.max_pending = 0;
        store.record_about("wh_1", "webhook.paused", "test");
        let deliveries: Vec<_> = store.deliveries.values().collect();
        assert_eq!(
            deliveries
                .iter()
                .map(|d| (&*d.webhook_id, d.status))
                .collect::<Vec<_>>(),
            [("wh_2", DeliveryStatus::Failed)]
        );
        assert!(deliveries[0].failure().unwrap().contains("max_pending"));
        assert!(store.is_quiet(true));
    }

    #[test]
    fn an_unknown_type_goes_to_webhooks_with_all_events() {
        let mut store = store(10);
        store.webhooks.get_mut("wh_2").unwrap().all_events = true;
        let record = |store: &mut Store, name| {
            store
                .record(name, json!({}), json!({}), "test", 1)
                .unwrap()
                .deliveries
        };
        assert_eq!(record(&mut store, "user.teleported"), 1);
        assert_eq!(record(&mut store, "user.created"), 2);
    }

    #[test]
    fn what_is_given_up_while_it_is_under_way_is_not_retried() {
        let mut store = store(10);
        happen(&mut store);
        let id = store.take_due().unwrap();
        let webhook_id = store.deliveries[&id].webhook_id.clone();
        store.give_up(&webhook_id, "the webhook is deleted");
        store.attempted(
            &id,
            Attempted {
                at: 0,
                is_redelivery: false,
                status: None,
                error: Some("no".into()),
                retry_after: None,
            },
        );
        assert_eq!(store.deliveries[&id].status, DeliveryStatus::Failed);
        assert_eq!(
            store.queue.len(),
            1,
            "only the other webhook's delivery is left"
        );
    }
}
