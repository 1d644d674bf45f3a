//! Reconciling: finds events in AuthPI's log that no delivery brought, and gives them to the same
//! handlers and ledger.
//!
//! ```text
//! watermark - overlap -> window by window of GET /events: read whole, what the webhook wants, sorted
//!                     -> Receiver::ingest, one after the other -> watermark
//! ```
//!
//! An event that was delivered is a duplicate there. Any other is handled, or stored for the worker.
//! So an extra run does no harm. After an outage longer than AuthPI's retries, run
//! [`Reconcile::catch_up`] before the service starts. [`Reconcile::run`] reconciles on a schedule,
//! beside the server.
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
//! - **the order of the log.** Nothing here depends on it: each window of the log is read completely,
//!   then sorted by `timestamp` and id.
//! - **whether `after` and `before` are inclusive.** Both work (`log.rs`).
//! - **how soon an event appears in the log.** Assumed: within the
//!   [overlap](ReconcileBuilder::overlap) of its `timestamp`.
//! - **how long it is kept.** An event that AuthPI has deleted cannot be found.
//! - **what `subjects` of a webhook mean.** Assumed: the webhook wants an event if the event's subject
//!   has all members of one of them (`filter.rs`). [`ReconcileBuilder::subjects`] overrides this.
//! - **whether a webhook gets events about itself** (`webhook.paused`, …). They are ingested if its
//!   `events` list them.
//! - **that a delivery and the log's copy have the same id**: `data.id` there, `id` here.
//!
//! The [guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/reconciling/) says when to run it,
//! what it cannot find, and how order is kept.

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
    lock::{Taken, Turn},
    run::Passes,
    signals::Seen,
    watermark::AnyWatermark,
};
use crate::{client::Client, receiver::Receiver};

/// Feeds a receiver what AuthPI's log knows and no delivery brought. Cheap to clone; clones share
/// everything.
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
    /// Reconciles `receiver`, inline or inbox, with the log, as far as it is about what a webhook
    /// wants: the one of an id, or the one that is there for a
    /// [`&WebhookSpec`](crate::client::WebhookSpec), which a service that declares its webhook has
    /// at hand.
    ///
    /// The webhook's `events`, `subjects` and `created_at` are asked for at each run. It may be
    /// disabled or failing. The client's key needs to read webhooks, their deliveries (only for
    /// [`only_if_missed`](ReconcileBuilder::only_if_missed)) and events.
    pub fn builder(
        client: &Client,
        receiver: &Receiver,
        webhook: impl Into<WebhookRef>,
    ) -> ReconcileBuilder {
        ReconcileBuilder::new(client.clone(), receiver.clone(), webhook.into())
    }

    /// Feeds all that the log has, up to the present. If another replica is at it, waits for its
    /// end first, and then makes sure.
    ///
    /// Call it before serving: then what was missed comes before what is delivered from now on. It
    /// looks again until a look takes less than a second, or a second one finds nothing that is
    /// new, so that little has happened since; at most ten times.
    ///
    /// An event that is not taken is tried again for as long as
    /// [`retry_for`](ReconcileBuilder::retry_for) lasts. If it is not taken then, the run ends
    /// before it: [`Report::stopped`] says which one it is, and the next run begins with it.
    /// Nothing is passed over. Dropping the future loses nothing either.
    ///
    /// # Errors
    /// When AuthPI, the ledger or the watermark's store fail, or the lease is lost.
    /// [`ReconcileError::report`] tells how far it came; the next run goes on from there.
    pub async fn catch_up(&self) -> Result<Report, ReconcileError> {
        loop {
            match self.turn().await? {
                Taken::Ours(turn) => return self.in_turn(turn).await,
                Taken::Elsewhere { lease_left } => {
                    sleep(lease_left.clamp(Duration::from_millis(10), Duration::from_secs(1)))
                        .await;
                }
            }
        }
    }

    /// As [`catch_up`](Self::catch_up), but none when another replica is at it.
    ///
    /// # Errors
    /// As for `catch_up`.
    pub async fn try_catch_up(&self) -> Result<Option<Report>, ReconcileError> {
        match self.turn().await? {
            Taken::Ours(turn) => self.in_turn(turn).await.map(Some),
            Taken::Elsewhere { .. } => Ok(None),
        }
    }

    /// Catches up now and `every` so often after the end of the time before, until `stop` resolves;
    /// then what runs is broken off, which loses nothing.
    ///
    /// Beside a server. Where another replica is at it, this one leaves out its turn; a failure is
    /// logged, and the next turn tries again. With
    /// [`only_if_missed`](ReconcileBuilder::only_if_missed) the log is read only when AuthPI shows
    /// that something was not delivered.
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
            // Else what the signs are about may enter the log yet, and the next turn reads it
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

    async fn turn(&self) -> Result<Taken, ReconcileError> {
        let Shared {
            receiver, settings, ..
        } = &*self.shared;
        Turn::take(receiver, settings.lease)
            .await
            .map_err(|error| Kind::Ledger(error).into())
    }

    /// One run, as long as the lease is ours.
    async fn in_turn(&self, turn: Turn) -> Result<Report, ReconcileError> {
        let shared = &self.shared;
        let span = tracing::info_span!(
            "authpi.reconcile",
            endpoint = shared.receiver.endpoint(),
            webhook_id = Empty,
            outcome = Empty,
            read = Empty,
            fed = Empty
        );
        let running = async {
            let mut passes = Passes::new(shared);
            let ended = select! {
                biased;
                ended = passes.run() => ended,
                () = turn.lost() => Err(Kind::LeaseLost),
            };
            turn.give_back().await;
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
