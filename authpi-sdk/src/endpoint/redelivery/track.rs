//! Redelivers all failed deliveries and waits for their outcomes.

use std::{collections::BTreeMap, fmt, future::IntoFuture, pin::Pin, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    BACKOFF_INITIAL, BACKOFF_MAX, DEFAULT_TRACK_FOR,
    end::{End, end},
};
use crate::{
    UnixMillis, backoff,
    client::{Call, DeliveryStatus, Error, RedeliverFailed, RedeliverFailedResult},
};

impl Call<RedeliverFailed> {
    /// Redelivers the failed deliveries, polls them until each has ended, and reports the progress.
    ///
    /// It lists the failed deliveries, asks AuthPI to send them again, and polls them with random
    /// pauses, at first of up to 250 ms, doubling to up to 10 s. It keeps the id of each delivery
    /// in memory, about a hundred bytes each. If the answer is lost, or is a 5xx or 409, AuthPI may
    /// be working on it. Then it polls too, and [`RedeliveryProgress::answer`] stays empty.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example(authpi: authpi_sdk::Client, since: jiff::Timestamp) -> Result<(), authpi_sdk::client::Error> {
    /// let tracked = authpi
    ///     .webhooks()
    ///     .redeliver_failed("wh_1")
    ///     .after(since)
    ///     .track()
    ///     .within(Duration::from_secs(600))
    ///     .on_progress(|now| println!("{} of {} over, {} succeeded", now.over(), now.total, now.succeeded))
    ///     .await?;
    /// println!("{} failed again", tracked.failed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn track(self) -> Track<'static> {
        Track {
            call: self,
            within: DEFAULT_TRACK_FOR,
            on_progress: Box::new(|_| ()),
        }
    }
}

/// The progress of a redelivery.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RedeliveryProgress {
    /// The number of deliveries that had failed at the beginning.
    pub total: usize,
    /// The number of these that have succeeded since.
    pub succeeded: usize,
    /// The number of these that have failed again, without further attempts.
    pub failed: usize,
    /// The number of these that ended with a status that this version does not know.
    pub unknown: usize,
    /// AuthPI's own answer, if any. Its members are assumed.
    pub answer: Option<RedeliverFailedResult>,
}

impl RedeliveryProgress {
    /// How many have ended.
    pub fn over(&self) -> usize {
        self.succeeded + self.failed + self.unknown
    }

    /// How many have not ended: still in progress, or not sent again at all.
    pub fn pending(&self) -> usize {
        self.total.saturating_sub(self.over())
    }

    /// Whether all have ended.
    pub fn is_complete(&self) -> bool {
        self.pending() == 0
    }
}

/// A redelivery that begins when it is awaited: see [`Call::track`]. Resolves to the last
/// [`RedeliveryProgress`], complete or not.
///
/// # Errors
/// When the first list call fails, or when the redelivery fails so that nothing was sent. A failed
/// poll is only an error if the time limit has passed, or if AuthPI refuses it (401, 403, 404).
#[must_use = "does nothing until awaited"]
pub struct Track<'p> {
    call: Call<RedeliverFailed>,
    within: Duration,
    on_progress: Box<dyn FnMut(&RedeliveryProgress) + Send + 'p>,
}

impl Track<'_> {
    /// The time limit after AuthPI has answered. Default: [`DEFAULT_TRACK_FOR`] (5 min). It polls
    /// at least once.
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// Called at the beginning and on each change.
    pub fn on_progress<'q>(
        self,
        reported: impl FnMut(&RedeliveryProgress) + Send + 'q,
    ) -> Track<'q> {
        Track {
            call: self.call,
            within: self.within,
            on_progress: Box::new(reported),
        }
    }
}

impl fmt::Debug for Track<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Track")
            .field("call", &self.call)
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

impl<'p> IntoFuture for Track<'p> {
    type Output = Result<RedeliveryProgress, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'p>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(follow(self))
    }
}

async fn follow(follow: Track<'_>) -> Result<RedeliveryProgress, Error> {
    let Track {
        call,
        within,
        mut on_progress,
    } = follow;
    let mut followed = Followed::find(&call).await?;
    let mut progress = followed.progress();
    on_progress(&progress);
    if progress.total == 0 {
        return Ok(progress);
    }
    let answer = match call.clone().await {
        Ok(answered) => Some(answered.value),
        // The call failed, but AuthPI may still be sending: it may answer only after every attempt,
        // which can take longer than this client or a gateway waits.
        Err(error) if may_be_under_way(&error) => {
            tracing::debug!(%error, "unknown whether deliveries are being sent again; tracking them");
            None
        }
        Err(error) => return Err(error),
    };
    let until = crate::client::transport::call::deadline(within);
    for round in 0.. {
        let left = until.saturating_duration_since(Instant::now());
        let look = followed.look(&call);
        let looked = if round == 0 {
            Ok(look.await)
        } else {
            tokio::time::timeout_at(until, look).await
        };
        // What a poll has found before the time limit passed counts.
        let time_is_up = left.is_zero() || looked.is_err();
        match looked.unwrap_or(Ok(())) {
            Ok(()) => {}
            Err(error) if left.is_zero() => return Err(error),
            // A refusal of a call that was allowed before is permanent.
            Err(error)
                if error.is_unauthorized() || error.is_forbidden() || error.is_not_found() =>
            {
                return Err(error);
            }
            Err(error) => tracing::debug!(%error, "could not list deliveries"),
        }
        let now = RedeliveryProgress {
            answer: answer.clone(),
            ..followed.progress()
        };
        if now != progress {
            progress = now;
            on_progress(&progress);
        }
        if progress.is_complete() || time_is_up {
            break;
        }
        backoff::sleep_before_round(round, BACKOFF_INITIAL, BACKOFF_MAX.min(left)).await;
    }
    Ok(progress)
}

/// Whether AuthPI may have begun to send, although the call failed.
fn may_be_under_way(error: &Error) -> bool {
    error.may_have_run()
        && (error.fault().is_some() || error.is_server_error() || error.is_conflict())
}

/// The deliveries that are polled.
struct Followed {
    all: BTreeMap<String, Delivery>,
}

struct Delivery {
    created_at: UnixMillis,
    attempts_before: i64,
    end: Option<End>,
}

impl Followed {
    /// The failed deliveries.
    async fn find(call: &Call<RedeliverFailed>) -> Result<Self, Error> {
        let mut all = BTreeMap::new();
        let mut failed = call
            .same_deliveries()
            .status(DeliveryStatus::Failed)
            .items();
        while let Some(delivery) = failed.next().await {
            let delivery = delivery?;
            // Checked here too: AuthPI does not document the values of the `status` filter, so the
            // filter may not work.
            if delivery.status == DeliveryStatus::Failed {
                let (created_at, attempts_before) = (delivery.created_at, delivery.attempt_count);
                all.insert(
                    delivery.id,
                    Delivery {
                        created_at,
                        attempts_before,
                        end: None,
                    },
                );
            }
        }
        Ok(Self { all })
    }

    /// Polls the deliveries that have not ended, starting with the oldest.
    async fn look(&mut self, call: &Call<RedeliverFailed>) -> Result<(), Error> {
        let open = |delivery: &&Delivery| delivery.end.is_none();
        let mut left = self.all.values().filter(open).count();
        let Some(oldest) = self
            .all
            .values()
            .filter(open)
            .map(|delivery| delivery.created_at)
            .min()
        else {
            return Ok(());
        };
        let mut list = call.same_deliveries();
        let before = |at: Timestamp| at.checked_sub(jiff::SignedDuration::from_millis(2));
        if let Some(Ok(after)) = oldest.timestamp().ok().map(before) {
            list = list.after(after);
        }
        let mut listed = list.items();
        while left > 0
            && let Some(delivery) = listed.next().await
        {
            let delivery = delivery?;
            let Some(followed) = self
                .all
                .get_mut(&delivery.id)
                .filter(|followed| followed.end.is_none())
            else {
                continue;
            };
            followed.end = end(&delivery, Some(followed.attempts_before));
            left -= 1;
        }
        Ok(())
    }

    fn progress(&self) -> RedeliveryProgress {
        let mut progress = RedeliveryProgress {
            total: self.all.len(),
            ..RedeliveryProgress::default()
        };
        for delivery in self.all.values() {
            match delivery.end {
                Some(End::Succeeded) => progress.succeeded += 1,
                Some(End::Failed) => progress.failed += 1,
                Some(End::Unknown) => progress.unknown += 1,
                None => {}
            }
        }
        progress
    }
}
