//! What is still to be handled: records that keep their delivery until a worker has dealt with it.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    Digest, EventKey, Ledger, LedgerError, Token,
    probe::{self, probe_key},
};

/// A ledger that also stores deliveries, for a receiver that answers first and a worker that
/// handles later.
///
/// ```text
/// append -> pending(body) -> claimed(lease, token) -> handled | dead(reason, body)
///              ^------------- retry_at ---------------'
/// ```
///
/// It is the ledger's state machine with one more way in, on the same records: an event that was
/// appended is known to [`claim`](Ledger::claim), and the other way round. The body is kept until
/// the record is handled, and however long that takes: what was acknowledged is never pruned
/// before.
///
/// # Errors
/// As for [`Ledger`]: each step fails with [`LedgerError`] when the store cannot be reached or
/// refuses.
pub trait Inbox: Ledger {
    /// Stores a delivery; durable when it returns `Ok`. An event that is known, in whatever state,
    /// is left as it is.
    ///
    /// Events of one `ordering_key` are leased one at a time, in the order in which they were
    /// appended; those without an ordering key in any. An ordering key's name comes from the event
    /// and may be of any length: keep it as [`EventKey::bounded`] has it.
    fn append(
        &self,
        key: &EventKey,
        digest: Digest,
        ordering_key: Option<&str>,
        body: Bytes,
    ) -> impl Future<Output = Result<Appended, LedgerError>> + Send;

    /// Leases the endpoint's oldest event that is due: pending, or claimed under a lease that ran
    /// out.
    ///
    /// An event waits for all earlier ones of its ordering key until they are handled, dead or
    /// forgotten; it holds up no other ordering key.
    fn lease_next(
        &self,
        endpoint: &str,
        lease: Duration,
    ) -> impl Future<Output = Result<NextEvent, LedgerError>> + Send;

    /// Resolves when something may have been appended since this was called. A hint: workers poll
    /// as well, and a store that cannot tell never resolves.
    fn appended(&self) -> impl Future<Output = ()> + Send;

    /// How much the endpoint has before it.
    fn backlog(&self, endpoint: &str) -> impl Future<Output = Result<Backlog, LedgerError>> + Send;

    /// As [`Ledger::check_write`], for a store that is used as an inbox: by default, appends and
    /// forgets a record under the empty endpoint name. A queue that cannot take a message back
    /// checks its ledger only.
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

/// An inbox whose [`append`](Inbox::append) keeps the order per ordering key, as [`ordered_by`]
/// needs.
///
/// `Sqlite` and `Postgres` are such stores. A queue, which hands out what comes next, is not.
///
/// [`ordered_by`]: crate::receiver::ReceiverBuilder::ordered_by
pub trait OrderedInbox: Inbox {}

/// What became of a delivery that was to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Appended {
    /// It is stored, and will be handled.
    Stored,
    /// The event was known: it waits, is being handled, or is done.
    Duplicate {
        /// The digest that the first delivery of this id brought.
        first_digest: Digest,
    },
}

/// What there is to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NextEvent {
    /// This event; the caller holds its record now.
    Leased(LeasedEvent),
    /// Nothing at present.
    Empty {
        /// When the next pause or lease ends, if one is known of.
        due_in: Option<Duration>,
    },
}

/// An event that was leased to a worker.
#[derive(Clone)]
#[non_exhaustive]
pub struct LeasedEvent {
    /// Which event.
    pub key: EventKey,
    /// Needed for every further step.
    pub token: Token,
    /// The delivery's body, byte for byte.
    pub body: Bytes,
    /// When it was appended, by the store's clock.
    pub received_at: Timestamp,
}

impl LeasedEvent {
    /// For stores.
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
    /// Leaves the body out: payloads do not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeasedEvent")
            .field("key", &self.key)
            .field("token", &self.token)
            .field("bytes", &self.body.len())
            .field("received_at", &self.received_at)
            .finish()
    }
}

/// What an endpoint's workers have before them; for a health probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many events are stored and not yet done.
    pub depth: u64,
    /// How long the oldest of them has been waiting.
    pub oldest: Option<Duration>,
}
