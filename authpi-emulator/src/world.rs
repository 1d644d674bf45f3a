//! All that the parts of a running emulator share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::{
    clock::EmulatorClock,
    credentials::Account,
    description::Description,
    dispatch::{AskedFor, Sender},
    idempotency::Replays,
    problem::{Field, Problem},
    store::{Event, Store},
};

pub(crate) struct World {
    pub(crate) account: Account,
    pub(crate) clock: EmulatorClock,
    pub(crate) description: &'static Description,
    pub(crate) sender: Sender,
    pub(crate) replays: Replays,
    pub(crate) asked_for: mpsc::UnboundedSender<AskedFor>,
    pub(crate) store: Mutex<Store>,
    pub(crate) changed: watch::Sender<()>,
}

impl World {
    /// The account's state. Never held over an `await`.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        // A handler that panicked half-way is answered as 500; the emulator goes on with what there is.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whom it may concern that the store has changed.
    pub(crate) fn changed(&self) {
        self.changed.send_replace(());
    }

    /// Hears of each change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Makes an event happen, as the control endpoint and the library ask for it; 422 for what is no event.
    pub(crate) fn trigger(
        &self,
        event_type: &str,
        subject: Option<Value>,
        data: Option<Value>,
        copies: u32,
    ) -> Result<Arc<Event>, Problem> {
        let mut mistakes = Vec::new();
        let catalogue = &self.description.events;
        if !catalogue.types.iter().any(|known| known == event_type) {
            mistakes.push(Field::new("type", "invalid_value", "is no event type of the catalogue"));
        }
        for (name, value) in [("subject", &subject), ("data", &data)] {
            if value.as_ref().is_some_and(|value| !value.is_object()) {
                mistakes.push(Field::new(name, "invalid_type", "must be of type object"));
            }
        }
        if !(1..=MAX_COPIES).contains(&copies) {
            mistakes.push(Field::new("copies", "invalid_value", format!("must be from 1 to {MAX_COPIES}")));
        }
        if !mistakes.is_empty() {
            return Err(Problem::invalid(mistakes));
        }
        let own = Value::from(self.account.id.as_str());
        let subject = subject.unwrap_or_else(|| catalogue.example_subject(event_type, &own));
        let data = data.unwrap_or_else(|| catalogue.example_data(event_type, &subject, &own));
        let event = self.store().record(event_type, subject, data, "emulator", copies);
        self.changed();
        Ok(event)
    }
}

/// Copies of one event that a call can ask for.
const MAX_COPIES: u32 = 1_000;
