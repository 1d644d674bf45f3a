use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    AnyWatermark, MemoryWatermark, Progress, Reconcile, Shared, Watermark, WebhookRef,
    filter::{SubjectFilter, subject_is_one_of},
};
use crate::{
    Clock, RawJson,
    client::Client,
    event::{Event, Subject},
    receiver::{BuildError, MAX_DURATION, Receiver},
};

/// Settings of a [`Reconcile`]. Created by [`Reconcile::builder`].
///
/// No duration may be longer than a year. [`lease`](Self::lease), [`limit`](Self::limit) and
/// [`concurrency`](Self::concurrency) must not be zero.
#[must_use]
pub struct ReconcileBuilder {
    client: Client,
    receiver: Receiver,
    webhook: WebhookRef,
    watermark: AnyWatermark,
    settings: Settings,
}

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) since: Option<Timestamp>,
    pub(super) overlap: Duration,
    pub(super) limit: usize,
    pub(super) retry_for: Duration,
    pub(super) lease: Duration,
    pub(super) concurrency: usize,
    pub(super) ordering_key: Option<fn(&Subject) -> Option<&str>>,
    pub(super) only_if_missed: bool,
    pub(super) subjects: SubjectFilter,
    pub(super) on_progress: Option<OnProgress>,
    pub(super) clock: Clock,
}

pub(super) type OnProgress = Arc<dyn Fn(&Progress) + Send + Sync>;

impl ReconcileBuilder {
    pub(super) fn new(client: Client, receiver: Receiver, webhook: WebhookRef) -> Self {
        Self {
            client,
            receiver,
            webhook,
            watermark: Box::new(MemoryWatermark::new()),
            settings: Settings {
                since: None,
                overlap: Duration::from_mins(10),
                limit: 10_000,
                retry_for: Duration::from_mins(1),
                lease: Duration::from_secs(30),
                concurrency: 1,
                ordering_key: None,
                only_if_missed: false,
                subjects: Arc::new(subject_is_one_of),
                on_progress: None,
                clock: Clock::system(),
            },
        }
    }

    /// The store of the watermark. Default: in memory. After each start of the process, the first
    /// run then begins at the webhook's creation, or at the time from which the ledger still has
    /// records, whichever is later ([`Report::not_read_before`](super::Report::not_read_before)).
    pub fn watermark(mut self, store: impl Watermark) -> Self {
        self.watermark = Box::new(store);
        self
    }

    /// Where to begin if there is no watermark. Default: at the webhook's creation.
    ///
    /// An earlier time is allowed: events from before the webhook existed are then ingested too.
    pub fn since(mut self, begin: Timestamp) -> Self {
        self.settings.since = Some(begin);
        self
    }

    /// How far before the watermark to begin. Default 10 min; zero begins at the watermark.
    ///
    /// It must be longer than the time until an event appears in AuthPI's log (not documented),
    /// plus the difference between this machine's clock and AuthPI's. The ledger recognizes events
    /// that are read again as duplicates.
    pub fn overlap(mut self, overlap: Duration) -> Self {
        self.settings.overlap = overlap;
        self
    }

    /// The maximum number of events in memory. Default 10,000.
    ///
    /// The log is read in time windows, and a window with more events is split. A window of one
    /// millisecond is read completely, however many events it has.
    pub fn limit(mut self, events: usize) -> Self {
        self.settings.limit = events;
        self
    }

    /// How long to retry an event that the receiver does not accept, with the pauses that the
    /// receiver requests. Default 1 min; zero means a single attempt.
    pub fn retry_for(mut self, retry_for: Duration) -> Self {
        self.settings.retry_for = retry_for;
        self
    }

    /// How long the lock of a run lasts without a renewal. If a replica dies during a run, the
    /// others wait for at most this long. The run renews the lock every third of this time. Default
    /// 30 s.
    ///
    /// The lock is a record in the receiver's ledger, so it only works between replicas that share
    /// the ledger. With `Memory`, it works within one process.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How many events to ingest at once, from 1 to 4096. Default 1: one after the other, the
    /// oldest first.
    ///
    /// With more, a handler may get a newer event before an older one, unless
    /// [`ordered_by`](Self::ordered_by) orders them. The receiver's
    /// [`max_in_flight`](crate::receiver::ReceiverBuilder::max_in_flight) also applies.
    pub fn concurrency(mut self, events: usize) -> Self {
        self.settings.concurrency = events;
        self
    }

    /// Ingests events with the same ordering key one after the other, whatever the concurrency.
    /// `ordering_key` returns a member of the event's subject. For example, `Subject::user_id`
    /// orders the events of each user. If the receiver is an inbox with ordering keys, set the same
    /// function here.
    pub fn ordered_by(mut self, ordering_key: fn(&Subject) -> Option<&str>) -> Self {
        self.settings.ordering_key = Some(ordering_key);
        self
    }

    /// Makes [`run`](Reconcile::run) read the log only the first time, and when AuthPI shows a sign
    /// that an event may have been missed:
    ///
    /// - a delivery has failed since the watermark, or
    /// - the webhook is not active, was not active for some time since the watermark, or has
    ///   replaced another one.
    ///
    /// Default: the log is read every time.
    ///
    /// It is assumed that a delivery's status is only `failed` after all retries. If AuthPI never
    /// tried to deliver an event although the webhook was active, there is no sign of it. So also
    /// run without this setting from time to time.
    pub fn only_if_missed(mut self) -> Self {
        self.settings.only_if_missed = true;
        self
    }

    /// Decides which events a webhook with `subjects` receives. The function gets the event and the
    /// `subjects` as AuthPI returned them. Default, which is an assumption: an event is received if
    /// its subject has all members of one of the `subjects`. A webhook without `subjects` receives
    /// all events.
    pub fn subjects(
        mut self,
        wanted: impl Fn(&Event, &[RawJson]) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.subjects = Arc::new(wanted);
        self
    }

    /// Calls `callback` after each page that was read and each event that was ingested. It should
    /// return quickly, since the run waits for it.
    pub fn on_progress(mut self, callback: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.settings.on_progress = Some(Arc::new(callback));
        self
    }

    /// Replaces the system clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Builds the `Reconcile`.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn build(self) -> Result<Reconcile, BuildError> {
        let Self {
            client,
            receiver,
            webhook,
            watermark,
            settings,
        } = self;
        for (name, number) in [
            ("limit", settings.limit),
            ("concurrency", settings.concurrency),
        ] {
            // The concurrency is a number of tasks.
            if number == 0 || (name == "concurrency" && number > 4096) {
                return Err(BuildError::Setting(name));
            }
        }
        if settings.lease.is_zero() {
            return Err(BuildError::Setting("lease"));
        }
        for (name, duration) in [
            ("overlap", settings.overlap),
            ("retry_for", settings.retry_for),
            ("lease", settings.lease),
        ] {
            if duration > MAX_DURATION {
                return Err(BuildError::Setting(name));
            }
        }
        Ok(Reconcile {
            shared: Arc::new(Shared {
                client,
                receiver,
                webhook,
                watermark,
                settings,
            }),
        })
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            since,
            overlap,
            limit,
            retry_for,
            lease,
            concurrency,
            only_if_missed,
            ..
        } = self;
        f.debug_struct("Settings")
            .field("since", since)
            .field("overlap", overlap)
            .field("limit", limit)
            .field("retry_for", retry_for)
            .field("lease", lease)
            .field("concurrency", concurrency)
            .field("only_if_missed", only_if_missed)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ReconcileBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReconcileBuilder")
            .field("endpoint", &self.receiver.endpoint())
            .field("webhook", &self.webhook)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
