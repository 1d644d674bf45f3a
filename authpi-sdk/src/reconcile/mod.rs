//! Reconciling: finds events in AuthPI's log that were not delivered, and passes them to the same
//! handlers and ledger as deliveries.
//!
//! ```text
//! watermark - overlap -> window by window of GET /events: all pages, filtered by subscription, sorted
//!                     -> Receiver::ingest, one after the other -> watermark
//! ```
//!
//! The ledger recognizes an event that was delivered before as a duplicate. Any other event is
//! handled, or stored for the worker. So an extra run does no harm.
//!
//! After an outage longer than AuthPI's retries, call [`Reconcile::catch_up`] before the service
//! starts. [`Reconcile::run`] reconciles periodically, next to the server.
//!
//! ```no_run
//! use authpi_sdk::{client::Client, receiver::Receiver, reconcile::{Reconcile, FileWatermark}};
//!
//! # async fn example(authpi: Client, hook: Receiver) -> Result<(), Box<dyn std::error::Error>> {
//! let reconcile = Reconcile::builder(&authpi, &hook, "wh_1").watermark(FileWatermark::new("users.watermark")).build()?;
//! let report = reconcile.catch_up().await?.into_result()?;
//! println!("{} events were new", report.progress.new_events());
//! // … then start the server.
//! # Ok(())
//! # }
//! ```
//!
//! # Assumptions
//!
//! AuthPI documents the log's path, its filters and the members of its events. It does not document:
//!
//! - **the order of the log.** Reconciling does not depend on it: each window of the log is read
//!   completely, then sorted by `timestamp` and id.
//! - **whether `after` and `before` are inclusive.** Reconciling works in both cases.
//! - **how soon an event appears in the log.** Assumed: within the
//!   [overlap](ReconcileBuilder::overlap) of its `timestamp`.
//! - **how long the log keeps an event.** An event that AuthPI has deleted cannot be found.
//! - **what `subjects` of a webhook mean.** Assumed: the webhook receives an event if the event's
//!   subject has all members of one of the `subjects`. [`ReconcileBuilder::subjects`] overrides
//!   this.
//! - **whether a webhook gets events about itself** (`webhook.paused`, …). They are ingested if the
//!   webhook's `events` list them.
//! - **that a delivery and the log's copy have the same id.** Assumed: `data.id` of the delivery is
//!   `id` in the log.
//!
//! The [guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/reconciling/) describes when to
//! reconcile, which events reconciling cannot find, and how the order is kept.

mod builder;
mod error;
mod filter;
mod ingest;
mod lock;
mod log;
mod report;
mod run;
mod signals;
mod watermark;
mod webhook;
mod windows;

use std::{fmt, future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::{select, time::sleep};
use tracing::{Instrument as _, field::Empty};

#[cfg(feature = "postgres")]
pub use self::watermark::PostgresWatermark;
pub use self::{
    builder::ReconcileBuilder,
    error::ReconcileError,
    report::{Progress, Report, Stopped},
    watermark::{FileWatermark, MemoryWatermark, Watermark, WatermarkError},
    webhook::WebhookRef,
};
use self::{
    builder::Settings,
    error::Kind,
    lock::{Acquired, Lock},
    run::Passes,
    signals::Seen,
    watermark::AnyWatermark,
};
use crate::{client::Client, receiver::Receiver};

/// Ingests events from AuthPI's log that were not delivered. Cheap to clone; clones share settings
/// and watermark.
#[derive(Clone)]
pub struct Reconcile {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    receiver: Receiver,
    webhook: WebhookRef,
    watermark: AnyWatermark,
    settings: Settings,
}

impl Reconcile {
    /// Reconciles `receiver`, inline or inbox, with the events of the log that the webhook
    /// subscribes to. The webhook is given by its id, or by the
    /// [`&WebhookSpec`](crate::client::WebhookSpec) that declares it.
    ///
    /// Each run reads the webhook's `events`, `subjects` and `created_at`. The webhook may be
    /// disabled or failing. The client's key needs permission to read webhooks, events, and (for
    /// [`only_if_missed`](ReconcileBuilder::only_if_missed)) deliveries.
    pub fn builder(
        client: &Client,
        receiver: &Receiver,
        webhook: impl Into<WebhookRef>,
    ) -> ReconcileBuilder {
        ReconcileBuilder::new(client.clone(), receiver.clone(), webhook.into())
    }

    /// Ingests the events of the log, from the watermark to the present. If another replica is
    /// reconciling, waits until that replica has finished, then runs.
    ///
    /// Call it before the service starts, so that missed events are handled before new deliveries.
    /// It reads the log in up to ten passes, since events happen while it runs. It stops after a
    /// pass that took less than 1 s. It also stops if the second or a later pass found nothing new.
    ///
    /// An event that is not accepted is retried for [`retry_for`](ReconcileBuilder::retry_for). If
    /// it is still not accepted, the run stops there: [`Report::stopped`] names the event, and the
    /// next run includes it. No event is skipped. Dropping the future loses no event either.
    ///
    /// # Errors
    /// When AuthPI, the ledger or the watermark's store fails, or the lock is lost.
    /// [`ReconcileError::report`] shows how far the run got. The next run continues from there.
    pub async fn catch_up(&self) -> Result<Report, ReconcileError> {
        loop {
            match self.acquire_lock().await? {
                Acquired::Ours(lock) => return self.run_locked(lock).await,
                Acquired::HeldElsewhere { lease_left } => {
                    sleep(lease_left.clamp(Duration::from_millis(10), Duration::from_secs(1)))
                        .await;
                }
            }
        }
    }

    /// As [`catch_up`](Self::catch_up), but returns `None` if another replica is reconciling.
    ///
    /// # Errors
    /// As for `catch_up`.
    pub async fn try_catch_up(&self) -> Result<Option<Report>, ReconcileError> {
        match self.acquire_lock().await? {
            Acquired::Ours(lock) => self.run_locked(lock).await.map(Some),
            Acquired::HeldElsewhere { .. } => Ok(None),
        }
    }

    /// Catches up now, and again each time `every` has passed since the end of the previous run,
    /// until `stop` resolves. `stop` cancels a run in progress, but no event is lost.
    ///
    /// Run it next to the server. A run is skipped if another replica is reconciling. A failed run
    /// is logged, and the next one tries again. With
    /// [`only_if_missed`](ReconcileBuilder::only_if_missed) the log is only read if there is a sign
    /// that an event was missed.
    pub async fn run(&self, every: Duration, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut seen = Seen::default();
        loop {
            select! {
                biased;
                () = &mut stop => return,
                () = self.scheduled(&mut seen) => {}
            }
            select! {
                biased;
                () = &mut stop => return,
                () = sleep(every) => {}
            }
        }
    }

    async fn scheduled(&self, seen: &mut Seen) {
        let shared = &self.shared;
        let endpoint = shared.receiver.endpoint();
        let ended = async {
            let missed = if shared.settings.only_if_missed {
                shared.missed(seen).await?
            } else {
                Seen::default()
            };
            if shared.settings.only_if_missed && missed == *seen {
                return Ok(());
            }
            let begun = shared.settings.clock.now();
            let complete = self
                .try_catch_up()
                .await?
                .is_some_and(|report| report.is_complete());
            // Otherwise, the missed events may not be in the log yet, so the next run reads the log
            // again.
            if complete && missed.is_settled(begun, shared.settings.overlap) {
                *seen = missed;
            }
            Ok::<_, ReconcileError>(())
        };
        if let Err(error) = ended.await {
            let source = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            tracing::error!(endpoint, %error, source, "reconciling failed");
        }
    }

    async fn acquire_lock(&self) -> Result<Acquired, ReconcileError> {
        let Shared {
            receiver, settings, ..
        } = &*self.shared;
        Lock::acquire(receiver, settings.lease)
            .await
            .map_err(|error| Kind::Ledger(error).into())
    }

    /// One run, for as long as the lock is held.
    async fn run_locked(&self, lock: Lock) -> Result<Report, ReconcileError> {
        let shared = &self.shared;
        let span = tracing::info_span!(
            "authpi.reconcile",
            endpoint = shared.receiver.endpoint(),
            webhook_id = Empty,
            outcome = Empty,
            read = Empty,
            ingested = Empty
        );
        let running = async {
            let mut passes = Passes::new(shared);
            let ended = select! {
                biased;
                ended = passes.run() => ended,
                () = lock.keep_until_lost() => Err(Kind::LeaseLost),
            };
            lock.release().await;
            passes.end(ended)
        };
        running.instrument(span).await
    }
}

impl fmt::Debug for Reconcile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconcile")
            .field("endpoint", &self.shared.receiver.endpoint())
            .field("webhook", &self.shared.webhook)
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}
