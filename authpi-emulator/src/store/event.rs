//! An event of the log.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{assumptions, ids};

/// Where every event comes from.
const SOURCE: &str = "com.authpi/v1";

/// An event as the events API shows it.
#[derive(Clone, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// Version of the event format.
    pub spec: &'static str,
    /// Id of the event, the same in each of its deliveries.
    pub id: String,
    /// Such as `user.created`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Where the event came from.
    pub source: &'static str,
    /// When it happened, in Unix milliseconds.
    pub timestamp: i64,
    /// The trace that it belongs to.
    pub trace: String,
    /// What caused it.
    pub trigger: String,
    /// Whom and what it is about, as ids.
    pub subject: Value,
    /// Its payload.
    pub data: Value,
    /// The event as in deliveries: encoded once, so that each delivery has the same bytes.
    #[serde(skip)]
    pub(crate) delivered: Arc<RawValue>,
}

impl Event {
    pub(crate) fn new(
        id: String,
        event_type: &str,
        timestamp: i64,
        trigger: &str,
        subject: Value,
        data: Value,
    ) -> Self {
        /// The members, in the order of the delivery in AuthPI's guide.
        #[derive(Serialize)]
        struct Delivered<'a> {
            id: &'a str,
            r#type: &'a str,
            trace: &'a str,
            source: &'a str,
            subject: &'a Value,
            data: &'a Value,
        }
        let (trace, source) = (ids::hex::<16>(""), SOURCE);
        let delivered = serde_json::value::to_raw_value(&Delivered {
            id: &id,
            r#type: event_type,
            trace: &trace,
            source,
            subject: &subject,
            data: &data,
        })
        .expect("strings and JSON values are always JSON");
        Self {
            spec: assumptions::EVENT_SPEC,
            id,
            event_type: event_type.to_owned(),
            source: SOURCE,
            timestamp,
            trace,
            trigger: trigger.to_owned(),
            subject,
            data,
            delivered: delivered.into(),
        }
    }
}

impl Event {
    /// The event of another run, from the bytes of its deliveries.
    pub(crate) fn restored(
        delivered: Arc<RawValue>,
        timestamp: i64,
        trigger: String,
    ) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Delivered {
            id: String,
            r#type: String,
            trace: String,
            subject: Value,
            data: Value,
        }
        let read: Delivered = serde_json::from_str(delivered.get())?;
        Ok(Self {
            spec: assumptions::EVENT_SPEC,
            id: read.id,
            event_type: read.r#type,
            source: SOURCE,
            timestamp,
            trace: read.trace,
            trigger,
            subject: read.subject,
            data: read.data,
            delivered,
        })
    }
}

impl fmt::Debug for Event {
    /// Without subject and data, which may be personal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("type", &self.event_type)
            .finish_non_exhaustive()
    }
}
