//! The label `type` of metrics, which is off by default.

use std::sync::Arc;

/// The event types that are values of the label. The set is fixed when a receiver or worker is
/// built, so that no sender can create a time series.
#[derive(Clone, Debug, Default)]
pub(crate) struct TypeLabels(Option<Arc<[&'static str]>>);

impl TypeLabels {
    pub(crate) fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Some(names.into_iter().collect()))
    }

    /// The label's value for an event of this type; `None` if there is no label.
    pub(crate) fn of(&self, event_type: &str) -> Option<&'static str> {
        let names = self.0.as_ref()?;
        let name = names.iter().copied().find(|name| *name == event_type);
        Some(name.unwrap_or("other"))
    }

    /// The same for a delivery whose event was not read.
    pub(crate) fn unread(&self) -> Option<&'static str> {
        self.0.as_ref().map(|_| "none")
    }
}
