//! Reading a store without changing it, for operators' tools.
//!
//! An [`Inspector`] is a separate handle from the [`Ledger`](super::Ledger). Opening one neither
//! creates nor migrates anything, and none of its methods writes. It does not disturb a service
//! that uses the store at the same time.
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # async fn shown() -> Result<(), Box<dyn std::error::Error>> {
//! use authpi_sdk::{
//!     ledger::{
//!         RecordState,
//!         inspect::{Filter, Inspector},
//!     },
//!     stores::Sqlite,
//! };
//!
//! let inspector = Sqlite::inspect("hooks.db").await?;
//! for endpoint in inspector.endpoints().await? {
//!     println!("{:?}", inspector.status(&endpoint).await?);
//!     let mut filter = Filter::new(endpoint).state(RecordState::Dead).limit(50);
//!     loop {
//!         let page = inspector.list(&filter).await?;
//!         for record in &page.records {
//!             println!("{} {:?}", record.key.event_id(), record.reason);
//!         }
//!         let Some(next) = page.next else { break };
//!         filter = filter.before(next);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `None` means that a value does not apply, or that the store does not know it: see each field. If
//! a store cannot answer at all, the method fails.

use std::{borrow::Cow, convert::Infallible, fmt, future::Future, str::FromStr, time::Duration};

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::{Backlog, DeadLetter, EventKey, LedgerError, RecordState};

/// A handle that reads a store and never writes.
///
/// A record is shown until the store has pruned it, which may be some time after its retention.
///
/// # Errors
/// Each method fails with [`InspectError`] when the store cannot be reached or refuses, when the
/// store was removed, replaced or migrated after the inspector was opened, and when the store
/// cannot answer.
pub trait Inspector: Send + Sync + 'static {
    /// The names of the endpoints that have records, sorted.
    fn endpoints(&self) -> impl Future<Output = Result<Vec<String>, InspectError>> + Send;

    /// The record of an event; `None` if there is none.
    fn get(
        &self,
        key: &EventKey,
    ) -> impl Future<Output = Result<Option<RecordView>, InspectError>> + Send;

    /// The dead letter of an event, with its body; `None` if there is none.
    ///
    /// # Errors
    /// [`NotKept`](InspectErrorKind::NotKept) if the store keeps no dead letters, or another kind if
    /// the store fails.
    fn dead_letter(
        &self,
        key: &EventKey,
    ) -> impl Future<Output = Result<Option<DeadLetter>, InspectError>> + Send;

    /// A page of an endpoint's records. [`RecordPage::newest_first`] says whether the list is
    /// ordered.
    fn list(
        &self,
        filter: &Filter,
    ) -> impl Future<Output = Result<RecordPage, InspectError>> + Send;

    /// The status of an endpoint. An endpoint without records has the status of an idle one.
    fn status(&self, endpoint: &str) -> impl Future<Output = Result<Status, InspectError>> + Send;
}

/// What a store knows about the record of an event. It contains neither the body nor the token.
///
/// It serializes as one flat map: `endpoint` and `event_id` for the key, times as RFC 3339,
/// durations in whole milliseconds with names that end in `_ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordView {
    /// The record's key. It contains a hash in place of an id that is too long or has control
    /// characters (see [`EventKey`]).
    #[serde(flatten, serialize_with = "as_names")]
    pub key: EventKey,
    /// The record's state.
    pub state: RecordState,
    /// The number of attempts so far, including the one in progress; 0 if the event is only stored.
    /// `None` if the store does not know it.
    pub attempts: Option<u32>,
    /// What is left of the lease, on the store's clock; zero if it has expired and no other worker
    /// has claimed the event. `None` if the record is not claimed.
    #[serde(rename = "lease_left_ms", serialize_with = "as_millis")]
    pub lease_left: Option<Duration>,
    /// What is left of the pause after a failed attempt, on the store's clock; zero if the event
    /// can be claimed now. `None` if the record is not pending.
    #[serde(rename = "pause_left_ms", serialize_with = "as_millis")]
    pub pause_left: Option<Duration>,
    /// When the event was first claimed, or stored in the inbox. `None` if the store keeps no
    /// times.
    #[serde(serialize_with = "as_rfc3339")]
    pub first_claimed_at: Option<Timestamp>,
    /// When the event was handled or given up. `None` if it is not finished, or if the store keeps
    /// no times.
    #[serde(serialize_with = "as_rfc3339")]
    pub finished_at: Option<Timestamp>,
    /// Whether redeliveries are compared with the content of the first delivery. `false` if the
    /// first copy of the event did not come as a delivery. `None` if the store does not know it.
    pub compared: Option<bool>,
    /// Whether the store has the event's body. `None` if the store does not know it.
    pub body_kept: Option<bool>,
    /// Why the event was given up. `None` if it is not dead, or if the store keeps no dead letters.
    pub reason: Option<String>,
}

impl RecordView {
    /// A view with only a key and a state; for implementations of [`Inspector`].
    pub fn new(key: EventKey, state: RecordState) -> Self {
        Self {
            key,
            state,
            attempts: None,
            lease_left: None,
            pause_left: None,
            first_claimed_at: None,
            finished_at: None,
            compared: None,
            body_kept: None,
            reason: None,
        }
    }
}

/// Which records to list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "does nothing until it is passed to `list`"]
#[non_exhaustive]
pub struct Filter {
    /// The endpoint's name.
    pub endpoint: String,
    /// Only records in this state. `None`, the default, for all.
    pub state: Option<RecordState>,
    /// The maximum number of records of a page, from 1 to [`MAX_LIMIT`](Self::MAX_LIMIT); other
    /// values are clamped to this range. [`DEFAULT_LIMIT`](Self::DEFAULT_LIMIT) by default. A store
    /// without an index may return a few more.
    pub limit: u32,
    /// Only records that follow this position of the list. In an ordered list, these are the ones
    /// claimed before it. `None`, the default, for the first page.
    pub before: Option<Cursor>,
}

impl Filter {
    /// The default of [`limit`](Self::limit).
    pub const DEFAULT_LIMIT: u32 = 100;
    /// The maximum of [`limit`](Self::limit).
    pub const MAX_LIMIT: u32 = 1_000;

    /// All records of this endpoint.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            state: None,
            limit: Self::DEFAULT_LIMIT,
            before: None,
        }
    }

    /// Only records in this state.
    pub fn state(self, state: RecordState) -> Self {
        Self {
            state: Some(state),
            ..self
        }
    }

    /// The maximum number of records of a page (default 100, at most 1,000).
    pub fn limit(self, limit: u32) -> Self {
        Self { limit, ..self }
    }

    /// Continues after a page: [`RecordPage::next`].
    pub fn before(self, cursor: Cursor) -> Self {
        Self {
            before: Some(cursor),
            ..self
        }
    }

    /// The limit, from 1 to [`MAX_LIMIT`](Self::MAX_LIMIT); for implementations of [`Inspector`].
    pub fn bounded_limit(&self) -> u32 {
        self.limit.clamp(1, Self::MAX_LIMIT)
    }
}

/// A position in a list, as text that a tool may print and read back. Its format depends on the
/// store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// A cursor from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cursor {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::new(text))
    }
}

/// A page of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordPage {
    /// The records. A page may have fewer than the limit, or none, although more pages follow.
    pub records: Vec<RecordView>,
    /// Where the next page begins. `None` if this is the last one.
    pub next: Option<Cursor>,
    /// Whether the whole list is ordered by [`RecordView::first_claimed_at`], newest first. If not,
    /// it has no order: the store keeps no times, or merges the list from several sources.
    pub newest_first: bool,
}

impl RecordPage {
    /// A page without an order; for implementations of [`Inspector`].
    pub fn new(records: Vec<RecordView>, next: Option<Cursor>) -> Self {
        Self {
            records,
            next,
            newest_first: false,
        }
    }
}

/// Counts and ages of an endpoint's records, all read at about the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The endpoint's name.
    pub endpoint: String,
    /// How many records there are. `None` if the store does not know it.
    pub counts: Option<Counts>,
    /// How long the oldest pending event has been known. `None` if no event is pending, or if the
    /// store keeps no times.
    #[serde(rename = "oldest_pending_ms", serialize_with = "as_millis")]
    pub oldest_pending: Option<Duration>,
    /// How many claimed records have a lease that has not expired. `None` if the store does not
    /// know it.
    pub leases_in_flight: Option<u64>,
    /// How many dead letters are kept. `None` if the store does not keep dead letters.
    pub dead_letters: Option<u64>,
    /// The events that wait for a worker or are being handled by one. `None` if the store is not an
    /// inbox.
    #[serde(serialize_with = "as_backlog")]
    pub inbox: Option<Backlog>,
}

impl Status {
    /// A status in which everything is unknown; for implementations of [`Inspector`].
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            counts: None,
            oldest_pending: None,
            leases_in_flight: None,
            dead_letters: None,
            inbox: None,
        }
    }
}

/// How many records an endpoint has, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Pending records, including those whose pause has not ended.
    pub pending: u64,
    /// Claimed records, including those whose lease has expired.
    pub claimed: u64,
    /// Handled records.
    pub handled: u64,
    /// Dead records.
    pub dead: u64,
}

impl Counts {
    /// The number of records in this state.
    pub fn of(&self, state: RecordState) -> u64 {
        match state {
            RecordState::Pending => self.pending,
            RecordState::Claimed => self.claimed,
            RecordState::Handled => self.handled,
            RecordState::Dead => self.dead,
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn add(&mut self, state: RecordState) {
        let number = match state {
            RecordState::Pending => &mut self.pending,
            RecordState::Claimed => &mut self.claimed,
            RecordState::Handled => &mut self.handled,
            RecordState::Dead => &mut self.dead,
        };
        *number += 1;
    }
}

/// Why a store cannot be inspected, or cannot answer.
#[derive(Clone, Debug)]
pub struct InspectError {
    kind: InspectErrorKind,
    text: Cow<'static, str>,
    source: Option<LedgerError>,
}

/// The kind of an [`InspectError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InspectErrorKind {
    /// There is no such store: no file, no tables, or no streams.
    Missing,
    /// The store was created by another version of this crate, or by another program.
    Incompatible,
    /// The user lacks a privilege.
    Denied,
    /// The store has no index for this question. It can answer if the inspector is allowed to scan.
    NeedsScan,
    /// A scan reached its limit before it was complete.
    ScanLimit,
    /// The cursor is not from a list of this store.
    InvalidCursor,
    /// The store does not keep what was asked for.
    NotKept,
    /// The store failed or cannot be reached; the [`source`](std::error::Error::source) is a
    /// [`LedgerError`].
    Failed,
}

impl InspectError {
    /// `text` says what is wrong and what to do.
    pub fn new(kind: InspectErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            text: text.into(),
            source: None,
        }
    }

    /// Adds the store's own error.
    #[must_use]
    pub fn with_source(self, source: LedgerError) -> Self {
        Self {
            source: Some(source),
            ..self
        }
    }

    /// The kind of the error.
    pub fn kind(&self) -> InspectErrorKind {
        self.kind
    }
}

impl From<LedgerError> for InspectError {
    fn from(error: LedgerError) -> Self {
        Self::new(InspectErrorKind::Failed, "the store could not be inspected").with_source(error)
    }
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for InspectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

fn as_names<S: Serializer>(key: &EventKey, serializer: S) -> Result<S::Ok, S::Error> {
    let mut names = serializer.serialize_struct("EventKey", 2)?;
    names.serialize_field("endpoint", key.endpoint())?;
    names.serialize_field("event_id", key.event_id())?;
    names.end()
}

fn whole_millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[expect(clippy::ref_option, reason = "serde passes the field")]
fn as_millis<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(whole_millis).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde passes the field")]
fn as_rfc3339<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(|at| at.to_string()).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde passes the field")]
fn as_backlog<S: Serializer>(backlog: &Option<Backlog>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Numbers {
        depth: u64,
        oldest_ms: Option<u64>,
    }
    let numbers = backlog.map(|Backlog { depth, oldest }| Numbers {
        depth,
        oldest_ms: oldest.map(whole_millis),
    });
    numbers.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_view_serializes_as_one_flat_map_with_units() {
        let mut view = RecordView::new(EventKey::new("users", "evt_1"), RecordState::Claimed);
        view.attempts = Some(2);
        view.lease_left = Some(Duration::from_micros(1_500));
        view.first_claimed_at = Some(Timestamp::from_millisecond(1_700_000_000_000).unwrap());
        view.compared = Some(true);
        assert_eq!(
            serde_json::to_value(&view).unwrap(),
            json!({
                "endpoint": "users",
                "event_id": "evt_1",
                "state": "claimed",
                "attempts": 2,
                "lease_left_ms": 1,
                "pause_left_ms": null,
                "first_claimed_at": "2023-11-14T22:13:20Z",
                "finished_at": null,
                "compared": true,
                "body_kept": null,
                "reason": null,
            })
        );
    }

    #[test]
    fn a_status_serializes_what_is_unknown_as_null() {
        let mut status = Status::new("users");
        status.inbox = Some(Backlog {
            depth: 3,
            oldest: Some(Duration::from_secs(2)),
        });
        assert_eq!(
            serde_json::to_value(&status).unwrap(),
            json!({
                "endpoint": "users",
                "counts": null,
                "oldest_pending_ms": null,
                "leases_in_flight": null,
                "dead_letters": null,
                "inbox": { "depth": 3, "oldest_ms": 2_000 },
            })
        );
    }

    #[test]
    fn a_limit_is_brought_into_its_bounds() {
        let limit = |limit| Filter::new("users").limit(limit).bounded_limit();
        assert_eq!([0, 1, 1_000, 1_001].map(limit), [1, 1, 1_000, 1_000]);
    }
}
