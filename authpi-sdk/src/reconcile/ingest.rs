//! Ingests the events of a window with several queues, which run concurrently. Events with the same
//! ordering key are in one queue, in order. Stops at an event that is not accepted.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::{Instant, sleep},
};

use super::{Stopped, builder::Settings};
use crate::{
    event::Event,
    receiver::{Ingested, Receiver},
    signature::Verified,
};

/// The minimum pause before an event is retried.
pub(super) const MIN_PAUSE: Duration = Duration::from_millis(10);

/// Events that are ingested one after the other.
struct Queue {
    events: VecDeque<Event>,
}

/// A message about one event of the window.
pub(super) enum IngestResult {
    /// The event was accepted. All events before `all_before` are ingested; `None` if no event is
    /// left.
    Accepted {
        ingested: Ingested,
        time: Timestamp,
        all_before: Option<Timestamp>,
    },
    /// The event was not accepted, and is retried.
    Retried { ingested: Ingested },
    /// The event was not accepted, and no further event is ingested.
    Stopped(Stopped),
}

/// A window's events while they are ingested.
pub(super) struct Ingesting {
    /// The times of the events that are left in each queue.
    times: Vec<VecDeque<Timestamp>>,
    reported: mpsc::Receiver<(usize, QueueMessage)>,
    /// Dropping it cancels waiting events; running handlers continue.
    queues: JoinSet<()>,
}

enum QueueMessage {
    Accepted(Ingested, Timestamp),
    Retried(Ingested),
    Stopped(Stopped),
}

impl Ingesting {
    /// Begins to ingest the events, in their order.
    pub(super) fn begin(
        receiver: &Receiver,
        settings: &Settings,
        events: impl Iterator<Item = Event>,
    ) -> Self {
        let mut queues: Vec<Queue> = (0..settings.concurrency)
            .map(|_| Queue {
                events: VecDeque::new(),
            })
            .collect();
        let hasher = RandomState::new();
        for (n, event) in events.enumerate() {
            let ordering_key = settings
                .ordering_key
                .and_then(|ordering_key| ordering_key(event.subject()));
            let place = ordering_key.map_or(n, |ordering_key| {
                usize::try_from(hasher.hash_one(ordering_key) >> 32).unwrap_or(n)
            });
            let count = queues.len();
            queues[place % count].events.push_back(event);
        }
        let times = queues
            .iter()
            .map(|queue| queue.events.iter().map(Event::time).collect())
            .collect();
        let (sender, reported) = mpsc::channel(settings.concurrency);
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (number, queue) in queues.into_iter().enumerate() {
            let (receiver, sender, stop, retry_for) = (
                receiver.clone(),
                sender.clone(),
                Arc::clone(&stop),
                settings.retry_for,
            );
            tasks.spawn(async move {
                queue
                    .ingest(number, &receiver, retry_for, &sender, &stop)
                    .await;
            });
        }
        Self {
            times,
            reported,
            queues: tasks,
        }
    }

    /// The next message; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<IngestResult> {
        let Some((queue, message)) = self.reported.recv().await else {
            // If a queue has panicked, its events are not all ingested.
            while let Some(ended) = self.queues.join_next().await {
                if let Err(Ok(panicked)) = ended.map_err(JoinError::try_into_panic) {
                    resume_unwind(panicked);
                }
            }
            return None;
        };
        Some(match message {
            QueueMessage::Accepted(ingested, time) => {
                self.times[queue].pop_front();
                let all_before = self.times.iter().filter_map(VecDeque::front).min().copied();
                IngestResult::Accepted {
                    ingested,
                    time,
                    all_before,
                }
            }
            QueueMessage::Retried(ingested) => IngestResult::Retried { ingested },
            QueueMessage::Stopped(stopped) => IngestResult::Stopped(stopped),
        })
    }
}

impl Queue {
    async fn ingest(
        mut self,
        number: usize,
        receiver: &Receiver,
        retry_for: Duration,
        sender: &mpsc::Sender<(usize, QueueMessage)>,
        stop: &AtomicBool,
    ) {
        while let Some(event) = self.events.pop_front() {
            if stop.load(Ordering::Acquire) {
                return;
            }
            let (id, time) = (event.id().to_owned(), event.time());
            // The event is authentic: the log was read from AuthPI, with the client's credential.
            let event = Verified::new(event, None);
            let give_up = Instant::now() + retry_for;
            let message = loop {
                let (outcome, wait) = match receiver.ingest(event.clone()).await {
                    Ingested::NotAccepted {
                        outcome,
                        retry_after,
                    } => (outcome, retry_after.max(MIN_PAUSE)),
                    ingested => break QueueMessage::Accepted(ingested, time),
                };
                // A receiver that drains never accepts events again.
                let hopeless = outcome == "draining" || stop.load(Ordering::Acquire);
                if hopeless || wait > give_up.saturating_duration_since(Instant::now()) {
                    stop.store(true, Ordering::Release);
                    break QueueMessage::Stopped(Stopped {
                        event_id: id,
                        time,
                        outcome,
                    });
                }
                let again = Ingested::NotAccepted {
                    outcome,
                    retry_after: wait,
                };
                if sender
                    .send((number, QueueMessage::Retried(again)))
                    .await
                    .is_err()
                {
                    return;
                }
                sleep(wait).await;
            };
            // The channel is closed if the run was cancelled.
            if sender.send((number, message)).await.is_err() {
                return;
            }
        }
    }
}
