use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::{
    AnyWatermark, MemoryWatermark, Progress, Reconcile, Shared, Watermark, WebhookRef,
    filter::{SubjectFilter, subject_is_one_of},
};
use crate::{
    Clock,
    client::Client,
    event::{Event, Subject},
    receiver::{BuildError, MAX_DURATION, Receiver},
};

/// Settings of a [`Reconcile`]; made by [`Reconcile::builder`]. No duration may be longer than a
/// year.
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

    /// Where the watermark is kept. Default: in memory, so that each start of the process begins at
    /// the webhook's creation.
    pub fn watermark(mut self, store: impl Watermark) -> Self {
        self.watermark = Box::new(store);
        self
    }

    /// Where to begin while there is no watermark: one that is there counts before it. Default: at
    /// the webhook's creation.
    ///
    /// An earlier time is allowed: then events from before the webhook existed are ingested too.
    pub fn since(mut self, begin: Timestamp) -> Self {
        self.settings.since = Some(begin);
        self
    }

    /// How far before the watermark to begin. Default 10 min.
    ///
    /// It has to be longer than an event may take to appear in AuthPI's log after its `timestamp`
    /// (not documented), and than our clock and AuthPI's may differ. What is read again is a
    /// duplicate.
    pub fn overlap(mut self, overlap: Duration) -> Self {
        self.settings.overlap = overlap;
        self
    }

    /// How many events to hold in memory at once. Default 10,000.
    ///
    /// A window of time that holds more is read in halves. A single millisecond is read in full,
    /// whatever it holds.
    pub fn limit(mut self, events: usize) -> Self {
        self.settings.limit = events;
        self
    }

    /// How long to go on trying an event that the receiver does not take, at the pauses that it
    /// asks for. Default 1 min; zero tries once.
    pub fn retry_for(mut self, retry_for: Duration) -> Self {
        self.settings.retry_for = retry_for;
        self
    }

    /// How long the other replicas wait for one that died in the middle of a run. Renewed at each
    /// third. Default 30 s.
    ///
    /// The lease is a record in the receiver's ledger, so it is as shared as that: with `Memory`,
    /// by one process.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How many events to feed at once. Default 1: one after the other, the oldest first.
    ///
    /// With more, a handler may meet a younger event before an older one, unless
    /// [`ordered_by`](Self::ordered_by) says for which events that must not be. The receiver's
    /// own limit of work in flight holds as well.
    pub fn concurrency(mut self, events: usize) -> Self {
        self.settings.concurrency = events;
        self
    }

    /// Has events that name the same thing in their subject fed one after the other, whatever the
    /// concurrency: `Subject::user_id` for each user's. Give it what the receiver has, if that is
    /// an inbox with ordering keys.
    pub fn ordered_by(mut self, ordering_key: fn(&Subject) -> Option<&str>) -> Self {
        self.settings.ordering_key = Some(ordering_key);
        self
    }

    /// Has [`run`](Reconcile::run) read the log only at its first turn, and when AuthPI shows that
    /// something may have been missed: a delivery that failed since the watermark, or a webhook
    /// that is not active, or has not been for some time since, or took another's place. Default:
    /// at each turn.
    ///
    /// That a delivery's status says `failed` only when all retries are over is assumed. Events
    /// that AuthPI never tried to deliver for another reason show nowhere, so also run without it
    /// now and then.
    pub fn only_if_missed(mut self) -> Self {
        self.settings.only_if_missed = true;
        self
    }

    /// Decides which events a webhook with `subjects` wants: the event, and those subjects as
    /// AuthPI wrote them. Default: an event whose subject has all members of one of them, which is
    /// an assumption. A webhook without `subjects` wants all.
    pub fn subjects(
        mut self,
        wanted: impl Fn(&Event, &[&RawValue]) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.subjects = Arc::new(wanted);
        self
    }

    /// Calls `tell` after each page that was read and each event that was fed. It should be quick:
    /// the run waits for it.
    pub fn on_progress(mut self, tell: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.settings.on_progress = Some(Arc::new(tell));
        self
    }

    /// Reads the time elsewhere than from the system.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Makes it.
    ///
    /// # Errors
    /// When a setting is zero or out of range.
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
            // A task each is made of the concurrency.
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
