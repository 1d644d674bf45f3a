//! The inbox: records that keep their delivery until a worker has handled it.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    Digest, EventKey, Ledger, LedgerError, Token,
    probe::{self, probe_key},
};

/// A ledger that also stores deliveries: the receiver answers at once, and a worker handles the
/// event later.
///
/// ```text
/// append -> pending(body) -> claimed(lease, token) -> handled | dead(reason, body)
///              ^------ retry -----'
/// ```
///
/// The records and their state machine are those of [`Ledger`]: [`claim`](Ledger::claim) finds an
/// appended event, and `append` finds a claimed one. The body is kept until the event is handled,
/// however long that takes: a waiting event is never pruned.
///
/// # Errors
/// As for [`Ledger`]: each step fails with [`LedgerError`] when the store cannot be reached or
/// refuses.
pub trait Inbox: Ledger {
    /// Stores a delivery. It is durable when this returns `Ok`. A known event, in any state, is
    /// left unchanged.
    ///
    /// An [`OrderedInbox`] leases events with the same `ordering_key` one at a time, in the order
    /// in which they were appended. Events without an ordering key do not wait for one another.
    /// Another inbox may ignore the ordering key. An ordering key comes from the event and may have
    /// any length: keep it as [`EventKey::bounded`] returns it.
    fn append(
        &self,
        key: &EventKey,
        digest: Digest,
        ordering_key: Option<&str>,
        body: Bytes,
    ) -> impl Future<Output = Result<Appended, LedgerError>> + Send;

    /// Leases the endpoint's oldest event that is due: pending with no pause left, or claimed under
    /// an expired lease.
    ///
    /// In an [`OrderedInbox`], an event waits until all earlier events with its ordering key are
    /// handled, dead or forgotten. It does not block other ordering keys.
    fn lease_next(
        &self,
        endpoint: &str,
        lease: Duration,
    ) -> impl Future<Output = Result<NextEvent, LedgerError>> + Send;

    /// Resolves when an event may have been appended since the call. It need not be reliable, since
    /// workers also poll. A store without notifications never resolves it.
    fn appended(&self) -> impl Future<Output = ()> + Send;

    /// The endpoint's unfinished events.
    fn backlog(&self, endpoint: &str) -> impl Future<Output = Result<Backlog, LedgerError>> + Send;

    /// The write probe of a store that is used as an inbox, like [`Ledger::check_write`]. The
    /// default appends and forgets a record under the empty endpoint name. An inbox that cannot
    /// take back a message that it has stored, such as `Nats`, only checks its ledger.
    fn check_append(&self) -> impl Future<Output = Result<(), LedgerError>> + Send {
        async {
            let key = probe_key();
            let appended = self
                .append(&key, Digest::UNCOMPARED, None, Bytes::from_static(b"{}"))
                .await;
            probe::forgotten(self, &key, appended.map(drop)).await
        }
    }
}

/// An inbox that leases events with the same ordering key in order, as [`ordered_by`] requires.
///
/// `Sqlite` and `Postgres` are ordered. A queue, which delivers messages in any order, is not.
///
/// [`ordered_by`]: crate::receiver::ReceiverBuilder::ordered_by
pub trait OrderedInbox: Inbox {}

/// The result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Appended {
    /// The event is stored and will be handled.
    Stored,
    /// The event is known: it is waiting, being handled, or finished.
    Duplicate {
        /// The digest of the first delivery of this id.
        first_digest: Digest,
    },
}

/// The next event for a worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NextEvent {
    /// The caller now holds this event's record.
    Leased(LeasedEvent),
    /// No event is due.
    Empty {
        /// When the next pause or lease ends, if known.
        due_in: Option<Duration>,
    },
}

/// An event leased to a worker.
#[derive(Clone)]
#[non_exhaustive]
pub struct LeasedEvent {
    /// The record's key.
    pub key: EventKey,
    /// Required for every further step.
    pub token: Token,
    /// The delivery's body, byte for byte.
    pub body: Bytes,
    /// When it was appended, by the store's clock.
    pub received_at: Timestamp,
}

impl LeasedEvent {
    /// For implementations of [`Inbox`].
    pub fn new(key: EventKey, token: Token, body: Bytes, received_at: Timestamp) -> Self {
        Self {
            key,
            token,
            body,
            received_at,
        }
    }
}

impl std::fmt::Debug for LeasedEvent {
    /// Omits the body: payloads do not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeasedEvent")
            .field("key", &self.key)
            .field("token", &self.token)
            .field("bytes", &self.body.len())
            .field("received_at", &self.received_at)
            .finish()
    }
}

/// An endpoint's unfinished events in an inbox: they wait for a worker or are being handled. For
/// health probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The number of events that are stored and not finished.
    pub depth: u64,
    /// How long ago the oldest of them was stored.
    pub oldest: Option<Duration>,
}
