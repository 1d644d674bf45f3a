//! The shared state of a running emulator.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    clock::EmulatorClock,
    credentials::Account,
    error::{ApiError, Field},
    faults::FaultState,
    idempotency::Replays,
    log::{Log, LogLine},
    openapi::Description,
    outgoing::Sender,
    store::{Recorded, Store},
    trigger::NewEvent,
};

/// A request for an immediate redelivery.
pub(crate) struct Redelivery {
    pub(crate) delivery_id: String,
    /// Receives whether the receiver acknowledged it.
    pub(crate) outcome: oneshot::Sender<bool>,
}

pub(crate) struct State {
    pub(crate) account: Account,
    pub(crate) clock: EmulatorClock,
    pub(crate) description: &'static Description,
    pub(crate) sender: Sender,
    pub(crate) replays: Replays,
    pub(crate) redeliveries: mpsc::UnboundedSender<Redelivery>,
    pub(crate) store: Mutex<Store>,
    pub(crate) changed: watch::Sender<()>,
    pub(crate) log: Log,
    pub(crate) faults: Arc<FaultState>,
    pub(crate) max_pending: usize,
    pub(crate) body_timeout: Duration,
    /// Whether the inspector is served.
    #[cfg(feature = "inspector")]
    pub(crate) inspector: bool,
}

impl State {
    /// The account's state. Never held over an `await`.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        // After a panic in an operation, which is answered with 500, the emulator continues.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies waiting tasks that the store has changed.
    pub(crate) fn changed(&self) {
        self.changed.send_replace(());
    }

    /// Receives each change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Creates an event, for the control endpoint and the library; 422 if it is invalid, 503 if
    /// there is no capacity for its deliveries.
    pub(crate) fn trigger(&self, event: NewEvent) -> Result<Recorded, ApiError> {
        let NewEvent {
            event_type,
            subject,
            data,
            copies,
            allow_unknown_type,
        } = event;
        let mut mistakes = Vec::new();
        let catalogue = &self.description.events;
        if !catalogue.types.contains(&event_type) {
            if !allow_unknown_type {
                mistakes.push(Field::new(
                    "type",
                    "invalid_value",
                    unknown_type(&event_type, &catalogue.types),
                ));
            } else if !is_type_name(&event_type) {
                let message = "must be words of a-z, 0-9, - and _ with dots in between, such as user.teleported";
                mistakes.push(Field::new("type", "invalid_value", message));
            }
        }
        for (name, value) in [("subject", &subject), ("data", &data)] {
            if value.as_ref().is_some_and(|value| !value.is_object()) {
                mistakes.push(Field::new(name, "invalid_type", "must be of type object"));
            }
        }
        if !(1..=MAX_COPIES).contains(&copies) {
            mistakes.push(Field::new(
                "copies",
                "invalid_value",
                format!("must be from 1 to {MAX_COPIES}"),
            ));
        }
        if !mistakes.is_empty() {
            return Err(ApiError::invalid(mistakes));
        }
        let own = Value::from(self.account.id.as_str());
        let subject = subject.unwrap_or_else(|| catalogue.example_subject(&event_type, &own));
        let data = data.unwrap_or_else(|| catalogue.example_data(&event_type, &subject, &own));
        let recorded = self
            .store()
            .record(&event_type, subject, data, "emulator", copies);
        self.changed();
        recorded.map_err(|full| {
            let why = format!(
                "{} deliveries may be pending, and wait until some have ended, or raise \
                 --max-pending (Builder::max_pending)",
                self.max_pending
            );
            if full.first {
                self.log
                    .line(|| LogLine::Warning(format!("events are refused with 503: {why}")));
            }
            ApiError::unavailable(why)
        })
    }
}

/// The maximum number of copies of one event.
const MAX_COPIES: u32 = 1_000;
/// The maximum length of a type name.
const MAX_TYPE_NAME: usize = 100;

fn is_type_name(name: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    name.len() <= MAX_TYPE_NAME && name.contains('.') && name.split('.').all(is_word)
}

/// The reason that a type is refused, with similar names.
fn unknown_type(name: &str, known: &[String]) -> String {
    let mut near: Vec<_> = known
        .iter()
        .map(|known| (distance(name, known), known.as_str()))
        .collect();
    near.sort_unstable();
    // More distant names are not similar.
    let near = near
        .into_iter()
        .take(3)
        .filter(|(distance, known)| *distance <= known.len() / 2);
    let near: Vec<_> = near.map(|(_, name)| name).collect();
    let meant = if near.is_empty() {
        String::new()
    } else {
        format!(" (did you mean {}?)", near.join(", "))
    };
    format!(
        "is not in the catalogue of event types{meant}; to send it anyway, use --allow-unknown-type (allow_unknown_type)"
    )
}

/// The number of characters to insert, remove or replace to turn one into the other.
fn distance(a: &str, b: &str) -> usize {
    // Longer names are cut off, to limit the work.
    let a: Vec<_> = a.chars().take(MAX_TYPE_NAME).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, b) in b.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, a) in a.iter().enumerate() {
            let replaced = diagonal + usize::from(*a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[a.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_type_is_refused_with_similar_names_and_the_flag() {
        let known = &Description::get().events.types;
        let near = |name| unknown_type(name, known);
        assert!(
            near("user.create").contains("did you mean user.created, "),
            "{}",
            near("user.create")
        );
        assert!(near("users.created").contains("did you mean user.created, "));
        assert!(
            near("user.teleported").contains("user.deleted"),
            "{}",
            near("user.teleported")
        );
        for name in ["", "zzzzzzzz", &"x".repeat(10_000)] {
            assert!(!near(name).contains("did you mean"), "{}", near(name));
            assert!(near(name).contains("--allow-unknown-type"));
        }
        assert_eq!(
            [
                distance("", "abc"),
                distance("kitten", "sitting"),
                distance("a.b", "a.b")
            ],
            [3, 3, 0]
        );
    }

    #[test]
    fn a_type_name_is_words_with_dots_in_between() {
        for name in ["user.teleported", "user.mfa.factor-created", "a.b_2"] {
            assert!(is_type_name(name), "{name}");
        }
        for name in [
            "",
            "user",
            "user.",
            ".user",
            "user..x",
            "User.x",
            "user.x y",
            "user.é",
            &format!("a.{}", "b".repeat(99)),
        ] {
            assert!(!is_type_name(name), "{name}");
        }
    }
}
