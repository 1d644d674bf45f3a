//! Which events of the log are for a webhook.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::builder::SubjectFilter;
use crate::{
    RawJson,
    client::Webhook,
    event::{Event, EventType},
    json,
};

/// The longest list of types that is put into an address, in bytes; servers commonly take 8 KB in
/// all. All 106 types together are below it.
const MAX_LIST_BYTES: usize = 4_000;

/// What a webhook wants.
pub(super) struct Wanted {
    /// All, if there are none.
    types: HashSet<EventType>,
    subjects: Vec<RawJson>,
    filter: SubjectFilter,
    pub(super) created_at: Timestamp,
}

impl Wanted {
    pub(super) fn of(webhook: &Webhook, filter: SubjectFilter) -> Self {
        Self {
            types: webhook
                .events
                .iter()
                .map(|name| EventType::from(name.as_str()))
                .collect(),
            subjects: webhook.subjects.clone().unwrap_or_default(),
            filter,
            created_at: webhook
                .created_at
                .timestamp()
                .unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    pub(super) fn wants(&self, event: &Event) -> bool {
        let of_type = self.types.is_empty() || self.types.contains(event.event_type());
        of_type
            && (self.subjects.is_empty() || {
                let subjects: Vec<_> = self.subjects.iter().map(RawJson::as_raw_value).collect();
                (self.filter)(event, &subjects)
            })
    }

    /// None if AuthPI had better be asked for all.
    pub(super) fn types_to_ask_for(&self) -> Vec<EventType> {
        let length: usize = self.types.iter().map(|name| name.as_str().len() + 1).sum();
        let can_be_asked_for =
            length <= MAX_LIST_BYTES && self.types.iter().all(|name| !name.as_str().contains(','));
        let mut types: Vec<_> = self
            .types
            .iter()
            .filter(|_| can_be_asked_for)
            .cloned()
            .collect();
        types.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        types
    }
}

/// **Assumed:** an event is wanted if its subject has all members of at least one of the webhook's
/// subjects. What AuthPI means by them is not documented.
pub(super) fn subject_is_one_of(event: &Event, subjects: &[&RawValue]) -> bool {
    type Members = std::collections::BTreeMap<String, serde_json::Value>;
    #[derive(serde::Deserialize)]
    struct Subject {
        #[serde(default)]
        subject: Members,
    }
    let Ok(Subject { subject }) = json::read(event.raw()) else {
        return false;
    };
    subjects
        .iter()
        .filter_map(|wanted| json::read::<Members>(wanted.get()).ok())
        .any(|wanted| {
            wanted
                .iter()
                .all(|(name, value)| subject.get(name) == Some(value))
        })
}
