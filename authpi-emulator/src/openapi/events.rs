//! The catalogue of events, with an example of each.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The content of `openapi/events`.
pub(crate) struct EventCatalogue {
    /// The names, in the order of the description.
    pub(crate) types: Vec<String>,
    /// An example of each possible id of a subject.
    pub(super) ids: Map<String, Value>,
    /// By event type.
    pub(super) examples: BTreeMap<String, Example>,
}

/// The example of an event type.
pub(crate) struct Example {
    /// The ids in its subject.
    pub(super) members: Vec<String>,
    pub(super) data: Map<String, Value>,
}

impl EventCatalogue {
    /// A subject for an event of this type in the account.
    pub(crate) fn example_subject(&self, event_type: &str, account_id: &Value) -> Value {
        let members = self
            .examples
            .get(event_type)
            .into_iter()
            .flat_map(|example| &example.members);
        let id = |name: &String| {
            if name == "account_id" {
                account_id
            } else {
                &self.ids[name]
            }
        };
        Value::Object(
            members
                .map(|name| (name.clone(), id(name).clone()))
                .collect(),
        )
    }

    /// Data for an event of this type with `subject`: ids in the example are replaced by the
    /// subject's.
    pub(crate) fn example_data(
        &self,
        event_type: &str,
        subject: &Value,
        account_id: &Value,
    ) -> Value {
        let mut data = self
            .examples
            .get(event_type)
            .map(|example| example.data.clone())
            .unwrap_or_default();
        for value in data.values_mut().filter(|value| value.is_string()) {
            let mut names = self
                .ids
                .iter()
                .filter(|(_, id)| *id == value)
                .map(|(name, _)| name);
            let known = names.find_map(|name| match subject.get(name) {
                None if name == "account_id" => Some(account_id),
                given => given,
            });
            if let Some(id) = known {
                value.clone_from(id);
            }
        }
        Value::Object(data)
    }
}
