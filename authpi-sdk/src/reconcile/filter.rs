//! Which events of the log a webhook subscribes to.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;

use crate::{
    RawJson,
    client::Webhook,
    event::{Event, EventType},
    json,
};

/// The longest list of types in a URL, in bytes. Servers commonly accept 8 KB for the whole URL.
/// The list of all 106 types is shorter.
const MAX_LIST_BYTES: usize = 4_000;

/// Whether an event matches the `subjects` of a webhook.
pub(super) type SubjectFilter = Arc<dyn Fn(&Event, &[RawJson]) -> bool + Send + Sync>;

/// The subscription of a webhook.
pub(super) struct Subscription {
    /// Empty means all types.
    types: HashSet<EventType>,
    subjects: Vec<RawJson>,
    filter: SubjectFilter,
    pub(super) created_at: Timestamp,
}

impl Subscription {
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

    pub(super) fn includes(&self, event: &Event) -> bool {
        let of_type = self.types.is_empty() || self.types.contains(event.event_type());
        of_type && (self.subjects.is_empty() || (self.filter)(event, &self.subjects))
    }

    /// The `type` filter for AuthPI's log; empty for no filter. It is empty if the list is too long
    /// for a URL, or if the name of a type contains a comma.
    pub(super) fn query_types(&self) -> Vec<EventType> {
        let length: usize = self.types.iter().map(|name| name.as_str().len() + 1).sum();
        let fits =
            length <= MAX_LIST_BYTES && self.types.iter().all(|name| !name.as_str().contains(','));
        let mut types: Vec<_> = self.types.iter().filter(|_| fits).cloned().collect();
        types.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        types
    }
}

/// **Assumed:** an event matches if its subject has all members of at least one of the webhook's
/// subjects. AuthPI does not document the meaning of `subjects`.
pub(super) fn subject_is_one_of(event: &Event, subjects: &[RawJson]) -> bool {
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
