//! The inbox in NATS JetStream: a stream holds the events to be handled, and a ledger of any kind
//! records which have been handled.
//!
//! ```text
//! append        publish, wait for the server to acknowledge                message -> stream
//! lease_next    fetch a message, claim its event in the ledger             granted: leased | handled: acknowledged, next one
//! renew         renew in the ledger, report progress to the stream
//! complete      complete in the ledger [keep the dead letter], acknowledge message -> gone
//! release       release in the ledger, return the message with a delay
//! ```
//!
//! The ledger decides and the stream follows. After a crash, a broken connection or a missing
//! answer in between, the message is delivered again, and its claim decides what to do with it.

mod dead_letters;
mod failure;
mod in_flight;
mod inspect;
mod names;
mod options;
mod queue;

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::jetstream::{AckKind, Context};
use bytes::Bytes;
use jiff::Timestamp;

use self::{
    dead_letters::{Letter, Letters},
    in_flight::InFlight,
    queue::{Arrived, Published, Queue},
};
use crate::{
    Clock, crash,
    ledger::{
        Appended, Backlog, Claim, Completion, Digest, EventKey, Inbox, LeaseStatus, LeasedEvent,
        Ledger, LedgerError, LedgerErrorKind, NextEvent, PoolTooSmall, Token, TransactionPermit,
        TransactionPermits, Transactional,
    },
    telemetry::{self, LogLimit},
};

pub use inspect::NatsInspector;
pub use options::NatsOptions;

/// An [`Inbox`] in NATS JetStream (2.9 or later), with a [`Ledger`] of any kind.
///
/// Clones share a connection. Receivers and workers on any number of hosts share the streams, and
/// have to share the ledger.
///
/// - **As durable as the stream.** `append` returns when the server has acknowledged the message.
///   To survive a power cut, it needs three [`replicas`](NatsOptions::replicas) or a server with
///   `sync_interval: always` (2.10). By default, a server flushes its files every minute or two. It
///   then loses nothing if the server process crashes, but it may lose the latest messages if its
///   host crashes.
/// - **The ledger decides.** JetStream delivers at least once. Each message is claimed in the
///   ledger first, so an event that the ledger knows as handled is never leased again. The ledger's
///   documentation states how reliable that is.
/// - **No order.** Events are leased roughly in the order of arrival, but the events of one subject
///   are not ordered: `Nats` is not an [`OrderedInbox`](crate::ledger::OrderedInbox), so
///   `ordered_by` does not compile.
/// - **Keeps dead letters**, whether or not the ledger does, in a separate stream, where they can
///   be [listed](Nats::dead_letters), [replayed](Nats::replay), forgotten and
///   [purged](Nats::purge).
/// - **Never hangs.** A step fails when the [`timeout`](NatsOptions::timeout) (default 5 s) or the
///   ledger's own timeout has passed.
/// - **No event blocks another.** If the ledger fails to claim an event, its message is returned
///   for a quarter of a second, and for twice as long each time, up to a minute. If the ledger
///   refuses the event's content ([`LedgerErrorKind::Content`]), or has failed five times in a row
///   for it while it works for others, the event becomes a dead letter.
/// - **Cancel safe.** A message whose `lease_next` was dropped half-way is delivered again after
///   the [`ack_wait`](NatsOptions::ack_wait).
/// - **Uses two clocks**: the ledger's for leases, the server's for redelivery. Neither has to be
///   right.
///
/// [`append`](Inbox::append) recognizes waiting events during the
/// [`duplicate_window`](NatsOptions::duplicate_window). A finished event is stored again, and
/// recognized when it would be leased. [`forget`](Ledger::forget) removes an event that a worker of
/// this process is handling; an event that waits in the stream stays there, and is handled as a new
/// one.
///
/// At most 100,000 events of an endpoint can be in progress or waiting for a retry. Later events
/// have to wait.
///
/// A message has to fit into the server's `max_payload` (1 MiB by default) and the stream's
/// `max_msg_size`; a larger one is refused as [content](LedgerErrorKind::Content). A full stream is
/// a store that [cannot write](LedgerErrorKind::CannotWrite).
///
/// TLS is a feature of async-nats (`ring` or `aws-lc-rs`). Depend on async-nats yourself to enable
/// it.
///
/// ```no_run
/// # use authpi_sdk::stores::{Nats, Postgres};
/// # async fn shown(jetstream: async_nats::jetstream::Context, ledger: Postgres) -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = Nats::options().stream("webhooks").replicas(3).open(jetstream, ledger).await?;
/// for letter in inbox.dead_letters("users", None, 100).await? {
///     eprintln!("{} after {} attempts: {}", letter.key.event_id(), letter.attempts, letter.reason);
///     inbox.replay(&letter.key).await?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct Nats<L> {
    shared: Arc<Shared<L>>,
}

struct Shared<L> {
    ledger: L,
    queue: Queue,
    letters: Letters,
    in_flight: Mutex<InFlight>,
    clock: Clock,
    log: LogLimit,
}

/// The maximum delay of a message. If its event has to wait longer, the message is delivered and
/// returned again.
const MAX_DELAY: Duration = Duration::from_hours(1);

/// The delay of a message whose event the ledger failed to claim: it doubles with each failure, up
/// to the maximum.
const AFTER_FAILURES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_mins(1));

/// After this many consecutive failures, the ledger is tested with other events.
const SUSPECT_AFTER: u32 = 5;

/// The lease of an event while its dead letter is written.
const LETTER_WITHIN: Duration = Duration::from_secs(30);

impl Nats<()> {
    /// Options to set before opening.
    pub fn options() -> NatsOptions {
        NatsOptions::default()
    }
}

impl<L: Ledger> Nats<L> {
    /// Opens the inbox with your own connection, and creates its streams if they do not exist. Any
    /// number of processes may do so at once.
    ///
    /// Checks the streams, and creates, queries and removes a consumer. Nothing is published, so a
    /// missing permission to publish only shows with the first event, which is then refused, so
    /// that AuthPI retries it. The ledger is not checked here, since it was checked when it was
    /// opened.
    ///
    /// # Errors
    /// When the server cannot be reached or has no JetStream, when the streams or a consumer cannot
    /// be created, or when an existing stream of that name would lose events.
    pub async fn open(jetstream: Context, ledger: L) -> Result<Self, LedgerError> {
        NatsOptions::default().open(jetstream, ledger).await
    }

    /// Opens the inbox with its own connection, at `nats://user:password@host:port` or
    /// `nats://token@host:port`. The connection is replaced when it breaks, when its server has not
    /// responded for three times the [`timeout`](NatsOptions::timeout), and when JetStream is no
    /// longer available on that server. Special characters in the credentials may be escaped (`%40`
    /// for `@`).
    ///
    /// # Errors
    /// When the URL is invalid; when host, port or credentials are wrong, with the cause; otherwise
    /// as for [`open`](Nats::open).
    pub async fn connect(url: &str, ledger: L) -> Result<Self, LedgerError> {
        NatsOptions::default().connect(url, ledger).await
    }

    /// The ledger.
    pub fn ledger(&self) -> &L {
        &self.shared.ledger
    }

    fn queue(&self) -> &Queue {
        &self.shared.queue
    }

    fn letters(&self) -> &Letters {
        &self.shared.letters
    }

    fn limit(&self) -> Duration {
        self.queue().timeout
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        // The cached state is only a shortcut.
        self.shared
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a message to the stream, which delivers it again after `delay`, when the ledger may
    /// grant its event.
    async fn give_back(&self, key: &EventKey, arrived: Arrived, delay: Duration) {
        let delay = delay.min(MAX_DELAY);
        self.in_flight().waits(key, arrived.ticket.clone(), delay);
        self.queue().acknowledge(&arrived.ticket, nak(delay)).await;
    }

    /// Removes the message of a finished event. If that fails, it is delivered again.
    async fn acknowledge(&self, ticket: &in_flight::Ticket) {
        crash::point("unacknowledged");
        let settled = self
            .queue()
            .within("acknowledge", self.queue().settle(ticket, AckKind::Ack))
            .await;
        if let Err(error) = settled {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a message could not be acknowledged, and will be delivered again"
            );
        }
    }

    /// The event is finished in the ledger. Removes its message, if this process has it.
    async fn done(&self, key: &EventKey, token: Token) {
        let ticket = self.in_flight().ticket(key, token);
        if let Some(ticket) = ticket {
            self.in_flight().settled(key, token);
            self.acknowledge(&ticket).await;
        }
    }

    async fn keep(&self, letter: Letter<'_>) -> Result<(), LedgerError> {
        self.queue()
            .within(
                "keep a dead letter",
                self.letters().put(self.queue(), &letter),
            )
            .await?;
        crash::point("letter_kept");
        Ok(())
    }

    /// Returns a message that cannot be handled now, with a growing delay.
    async fn put_off(&self, key: &EventKey, arrived: Arrived) {
        let failures = self.in_flight().refused(key);
        self.give_back(key, arrived, put_off_for(failures)).await;
    }

    /// Leases the event of a message, or settles the message if there is nothing to handle now.
    async fn lease_arrived(
        &self,
        endpoint: &str,
        arrived: Arrived,
        lease: Duration,
    ) -> Result<Option<LeasedEvent>, LedgerError> {
        let Some((key, digest)) = arrived.event.clone() else {
            let key = EventKey::new(endpoint, format!("message {}", arrived.sequence));
            let kept = self.keep_foreign(&key, &arrived).await;
            return self.settle(&key, arrived, kept).await;
        };
        let settled = match self.claim_arrived(&key, digest, lease).await {
            Ok(Claim::Granted {
                token,
                first_digest,
            }) => {
                key.compare(digest, first_digest, &self.shared.log);
                let received_at = arrived.ticket.received_at;
                self.in_flight().lease(&key, token, arrived.ticket, lease);
                return Ok(Some(LeasedEvent::new(
                    key,
                    token,
                    arrived.body,
                    received_at,
                )));
            }
            Ok(Claim::InFlight { lease_left }) => {
                self.in_flight().answered(&key);
                // The lease may end earlier, in a process that cannot notify this one.
                self.give_back(&key, arrived, lease_left.min(self.queue().ack_wait))
                    .await;
                return Ok(None);
            }
            Ok(Claim::NotYet { wait }) => {
                self.in_flight().answered(&key);
                self.give_back(&key, arrived, wait).await;
                return Ok(None);
            }
            Ok(Claim::Handled { first_digest }) => {
                key.compare(digest, first_digest, &self.shared.log);
                Ok(())
            }
            Ok(Claim::Dead { first_digest }) => {
                key.compare(digest, first_digest, &self.shared.log);
                self.keep_if_missing(&key, &arrived).await
            }
            Err(error) if error.kind() == LedgerErrorKind::Content => {
                self.bury(&key, &arrived, &error).await
            }
            Err(error) => Err(error),
        };
        self.settle(&key, arrived, settled).await
    }

    /// Removes the message of a finished event. If `done` is an error, the message is returned and
    /// delivered again later.
    async fn settle(
        &self,
        key: &EventKey,
        arrived: Arrived,
        done: Result<(), LedgerError>,
    ) -> Result<Option<LeasedEvent>, LedgerError> {
        match done {
            Ok(()) => {
                self.in_flight().answered(key);
                self.acknowledge(&arrived.ticket).await;
                Ok(None)
            }
            Err(error) => {
                self.put_off(key, arrived).await;
                Err(error)
            }
        }
    }

    /// Claims the event. After too many failures, the ledger is tested with another event. If that
    /// works, and this event is refused again, the event is the cause.
    async fn claim_arrived(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        let error = match self.ledger().claim(key, digest, lease).await {
            Err(error)
                if !matches!(
                    error.kind(),
                    LedgerErrorKind::Content | LedgerErrorKind::Busy
                ) =>
            {
                error
            }
            claimed => return claimed,
        };
        if self.in_flight().refusals(key) + 1 < SUSPECT_AFTER
            || self.ledger().check_write().await.is_err()
        {
            return Err(error);
        }
        let again = self.ledger().claim(key, digest, lease).await;
        again.map_err(|error| match error.kind() {
            LedgerErrorKind::Busy => error,
            _ => error.with_kind(LedgerErrorKind::Content),
        })
    }

    /// Keeps the event as a dead letter: the ledger works but refuses this event, so a retry would
    /// be refused too.
    async fn bury(
        &self,
        key: &EventKey,
        arrived: &Arrived,
        error: &LedgerError,
    ) -> Result<(), LedgerError> {
        let reason = error.chain();
        tracing::error!(endpoint = key.endpoint(), event_id = key.event_id(), error = %reason, "the ledger refuses an event");
        let (received_at, body) = (arrived.ticket.received_at, arrived.body.clone());
        self.keep(Letter {
            key,
            reason: &reason,
            attempts: 0,
            received_at,
            body,
        })
        .await?;
        telemetry::count_by(
            telemetry::DEAD_LETTERS,
            key.shared_endpoint(),
            "reason",
            "content_refused",
        );
        Ok(())
    }

    /// The ledger knows the event as dead, but its message was not acknowledged: the dead letter
    /// may be missing.
    async fn keep_if_missing(&self, key: &EventKey, arrived: &Arrived) -> Result<(), LedgerError> {
        let there = self
            .queue()
            .within("keep a dead letter", self.letters().get(self.queue(), key))
            .await?;
        if there.is_some() {
            return Ok(());
        }
        let reason = "the process that gave it up ended before it kept the reason";
        self.keep_unattempted(key, arrived, reason).await
    }

    /// Keeps a message that this crate has not published.
    async fn keep_foreign(&self, key: &EventKey, arrived: &Arrived) -> Result<(), LedgerError> {
        tracing::error!(
            endpoint = key.endpoint(),
            sequence = arrived.sequence,
            "a message in the stream is not an event"
        );
        let reason = "the message names no event: another program, or an unreleased authpi-sdk, published it";
        self.keep_unattempted(key, arrived, reason).await
    }

    /// Keeps a message whose attempts are unknown.
    async fn keep_unattempted(
        &self,
        key: &EventKey,
        arrived: &Arrived,
        reason: &str,
    ) -> Result<(), LedgerError> {
        self.keep(Letter {
            key,
            reason,
            attempts: 0,
            received_at: arrived.ticket.received_at,
            body: arrived.body.clone(),
        })
        .await
    }
}

fn put_off_for(failures: u32) -> Duration {
    let (first, longest) = AFTER_FAILURES;
    first
        .saturating_mul(1 << failures.saturating_sub(1).min(31))
        .min(longest)
}

fn nak(delay: Duration) -> AckKind {
    AckKind::Nak((!delay.is_zero()).then_some(delay))
}

impl<L> Clone for Nats<L> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<L> fmt::Debug for Nats<L> {
    /// Omits the connection, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats")
            .field("queue", &self.shared.queue)
            .field("timeout", &self.shared.queue.timeout)
            .finish_non_exhaustive()
    }
}

impl<L: Ledger> Ledger for Nats<L> {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        self.ledger().claim(key, digest, lease).await
    }

    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        let held = self.ledger().renew(key, token, lease).await?;
        if held == LeaseStatus::Lost {
            self.in_flight().lost(key, token);
            return Ok(held);
        }
        let ticket = self.in_flight().renew(key, token, lease);
        if let Some(ticket) = ticket {
            self.queue().acknowledge(&ticket, AckKind::Progress).await;
        }
        Ok(held)
    }

    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        let letter = match &completion {
            Completion::Handled => None,
            Completion::Dead { reason, body } => Some((reason.clone(), body.clone())),
        };
        let ticket = self.in_flight().ticket(key, token);
        let mut kept = false;
        // If this process holds the event's message, the stream delivers it again while its dead
        // letter is missing. If not, the dead letter is written before the ledger's completion. In
        // the other order, a crash in between would leave the event dead in the ledger without a
        // dead letter, and so lost. If this call repeats one that succeeded, `renew` returns
        // `Lost`, so this block is skipped. The block below keeps the letter again, in place of the
        // first one.
        if let (None, Some((reason, body))) = (&ticket, &letter)
            && self.ledger().renew(key, token, LETTER_WITHIN).await? == LeaseStatus::Held
        {
            let (received_at, body) = (self.now(), body.clone());
            self.keep(Letter {
                key,
                reason,
                attempts: token.attempt,
                received_at,
                body,
            })
            .await?;
            kept = true;
        }
        let held = self.ledger().complete(key, token, completion).await?;
        if held == LeaseStatus::Lost {
            self.in_flight().lost(key, token);
            return Ok(held);
        }
        if let Some((reason, body)) = letter.filter(|_| !kept) {
            crash::point("given_up");
            let received_at = ticket.map_or_else(|| self.now(), |ticket| ticket.received_at);
            self.keep(Letter {
                key,
                reason: &reason,
                attempts: token.attempt,
                received_at,
                body,
            })
            .await?;
        }
        self.done(key, token).await;
        Ok(held)
    }

    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        let held = self.ledger().release(key, token, pause).await?;
        if held == LeaseStatus::Lost {
            self.in_flight().lost(key, token);
            return Ok(held);
        }
        let ticket = self.in_flight().ticket(key, token);
        if let Some(ticket) = ticket {
            let delay = pause.min(MAX_DELAY);
            {
                let mut in_flight = self.in_flight();
                in_flight.lost(key, token);
                in_flight.waits(key, ticket.clone(), delay);
            }
            // If this fails, the message is delivered again after the ack wait, and waits for the
            // rest of the pause.
            let _ = self
                .queue()
                .within("release", self.queue().settle(&ticket, nak(delay)))
                .await;
        }
        Ok(held)
    }

    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        let known = self.ledger().forget(key).await?;
        let dead = self
            .queue()
            .within("forget", self.letters().remove(self.queue(), key))
            .await?;
        let leased = self.in_flight().forget(key);
        for ticket in &leased {
            self.acknowledge(ticket).await;
        }
        Ok(known || dead)
    }

    fn keeps_dead_letters(&self) -> bool {
        true
    }

    fn retention(&self) -> Duration {
        self.ledger().retention()
    }

    /// The server time of the ledger.
    async fn server_time(&self) -> Result<Option<Timestamp>, LedgerError> {
        self.ledger().server_time().await
    }

    /// The write probe of the ledger.
    async fn check_write(&self) -> Result<(), LedgerError> {
        self.ledger().check_write().await
    }

    fn is_busy(&self) -> bool {
        self.ledger().is_busy()
    }

    async fn waiting(&self, endpoint: &str) -> Result<Option<Backlog>, LedgerError> {
        self.backlog(endpoint).await.map(Some)
    }

    fn store_id(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.shared).addr())
    }
}

/// For example, a handler takes a `Tx<Nats<Postgres>>` and writes in it as in a `Tx<Postgres>`: the
/// queue is NATS, and the effect takes place exactly once.
impl<L: Transactional> Transactional for Nats<L> {
    type Connection = L::Connection;
    type Transaction = L::Transaction;

    async fn begin(&self) -> Result<L::Transaction, LedgerError> {
        self.ledger().begin().await
    }

    fn permits(&self) -> Result<TransactionPermits, PoolTooSmall> {
        self.ledger().permits()
    }

    async fn begin_with(&self, permit: TransactionPermit) -> Result<L::Transaction, LedgerError> {
        self.ledger().begin_with(permit).await
    }

    fn abandon(
        &self,
        transaction: L::Transaction,
        cause: &(dyn std::error::Error + 'static),
    ) -> Option<String> {
        self.ledger().abandon(transaction, cause)
    }

    async fn commit(
        &self,
        transaction: L::Transaction,
        key: &EventKey,
        token: Token,
    ) -> Result<LeaseStatus, LedgerError> {
        let held = self.ledger().commit(transaction, key, token).await?;
        match held {
            LeaseStatus::Held => self.done(key, token).await,
            LeaseStatus::Lost => self.in_flight().lost(key, token),
        }
        Ok(held)
    }
}

impl<L: Ledger> Inbox for Nats<L> {
    /// Ignores the ordering key: this is not an [`OrderedInbox`](crate::ledger::OrderedInbox).
    async fn append(
        &self,
        key: &EventKey,
        digest: Digest,
        _ordering_key: Option<&str>,
        body: Bytes,
    ) -> Result<Appended, LedgerError> {
        let published = self
            .queue()
            .within("append", self.queue().publish(key, digest, body))
            .await?;
        Ok(match published {
            Published::Stored => Appended::Stored,
            Published::Waits(first_digest) => Appended::Duplicate { first_digest },
        })
    }

    async fn lease_next(&self, endpoint: &str, lease: Duration) -> Result<NextEvent, LedgerError> {
        const STEP: &str = "lease the next event";
        let until = Instant::now() + self.limit();
        self.queue().within(STEP, self.queue().listen()).await?;
        // Each message of a finished event takes a round trip or two; the caller should not wait
        // for all of them.
        while Instant::now() < until {
            let Some(arrived) = self
                .queue()
                .within(STEP, self.queue().next(endpoint))
                .await?
            else {
                return Ok(NextEvent::Empty {
                    due_in: self.in_flight().due_in(endpoint),
                });
            };
            if let Some(leased) = self.lease_arrived(endpoint, arrived, lease).await? {
                return Ok(NextEvent::Leased(leased));
            }
        }
        Ok(NextEvent::Empty {
            due_in: Some(Duration::ZERO),
        })
    }

    fn appended(&self) -> impl Future<Output = ()> + Send {
        self.queue().appended.notified()
    }

    async fn backlog(&self, endpoint: &str) -> Result<Backlog, LedgerError> {
        let (depth, first) = self
            .queue()
            .within("count the backlog", self.queue().depth(endpoint))
            .await?;
        Ok(Backlog {
            depth,
            oldest: first.map(|first| self.shared.clock.since(first)),
        })
    }

    /// Probes only the ledger, since a published message cannot be removed again.
    /// [`backlog`](Inbox::backlog) shows that the stream exists.
    async fn check_append(&self) -> Result<(), LedgerError> {
        self.ledger().check_write().await
    }
}
