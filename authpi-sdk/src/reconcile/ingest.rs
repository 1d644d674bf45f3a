//! Feeds the events of a window: ordering key by ordering key in order, several ordering keys at
//! once, and none past one that is not taken.

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

/// However soon the receiver wants an event again.
pub(super) const MIN_PAUSE: Duration = Duration::from_millis(10);

/// Events that are fed one after the other.
struct Queue {
    events: VecDeque<Event>,
}

/// What is told of an event while a window is fed.
pub(super) enum IngestResult {
    /// It was taken. Nothing before `all_before` is still to be fed; none when nothing is.
    Taken {
        fed: Ingested,
        time: Timestamp,
        all_before: Option<Timestamp>,
    },
    /// It was not, and is tried again.
    Again { fed: Ingested },
    /// It was not, and no more is fed.
    Stopped(Stopped),
}

/// A window's events on their way.
pub(super) struct Feeding {
    /// The times that each queue has still to come to.
    times: Vec<VecDeque<Timestamp>>,
    reported: mpsc::Receiver<(usize, Said)>,
    /// Dropped, it breaks off what waits; what is being handled goes on.
    queues: JoinSet<()>,
}

enum Said {
    Taken(Ingested, Timestamp),
    Again(Ingested),
    Stopped(Stopped),
}

impl Feeding {
    /// Begins with them, in the order that they are in.
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
        let (tell, reported) = mpsc::channel(settings.concurrency);
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (number, queue) in queues.into_iter().enumerate() {
            let (receiver, tell, stop, retry_for) = (
                receiver.clone(),
                tell.clone(),
                Arc::clone(&stop),
                settings.retry_for,
            );
            tasks.spawn(async move {
                queue
                    .ingest(number, &receiver, retry_for, &tell, &stop)
                    .await;
            });
        }
        Self {
            times,
            reported,
            queues: tasks,
        }
    }

    /// The next news; none when all is over.
    pub(super) async fn next(&mut self) -> Option<IngestResult> {
        let Some((queue, said)) = self.reported.recv().await else {
            // A queue that has panicked has not come to its end, and must not be taken for one that
            // has.
            while let Some(ended) = self.queues.join_next().await {
                if let Err(Ok(panicked)) = ended.map_err(JoinError::try_into_panic) {
                    resume_unwind(panicked);
                }
            }
            return None;
        };
        Some(match said {
            Said::Taken(fed, time) => {
                self.times[queue].pop_front();
                let all_before = self.times.iter().filter_map(VecDeque::front).min().copied();
                IngestResult::Taken {
                    fed,
                    time,
                    all_before,
                }
            }
            Said::Again(fed) => IngestResult::Again { fed },
            Said::Stopped(stopped) => IngestResult::Stopped(stopped),
        })
    }
}

impl Queue {
    async fn ingest(
        mut self,
        number: usize,
        receiver: &Receiver,
        retry_for: Duration,
        tell: &mpsc::Sender<(usize, Said)>,
        stop: &AtomicBool,
    ) {
        while let Some(event) = self.events.pop_front() {
            if stop.load(Ordering::Acquire) {
                return;
            }
            let (id, time) = (event.id().to_owned(), event.time());
            // AuthPI's log was read over a connection that the client has authenticated.
            let event = Verified::new(event, None);
            let give_up = Instant::now() + retry_for;
            let said = loop {
                let (outcome, wait) = match receiver.ingest(event.clone()).await {
                    Ingested::NotAccepted {
                        outcome,
                        retry_after,
                    } => (outcome, retry_after.max(MIN_PAUSE)),
                    fed => break Said::Taken(fed, time),
                };
                // Draining is permanently.
                let hopeless = outcome == "draining" || stop.load(Ordering::Acquire);
                if hopeless || wait > give_up.saturating_duration_since(Instant::now()) {
                    stop.store(true, Ordering::Release);
                    break Said::Stopped(Stopped {
                        event_id: id,
                        time,
                        outcome,
                    });
                }
                let again = Ingested::NotAccepted {
                    outcome,
                    retry_after: wait,
                };
                if tell.send((number, Said::Again(again))).await.is_err() {
                    return;
                }
                sleep(wait).await;
            };
            // Nobody listens any more when the run was broken off.
            if tell.send((number, said)).await.is_err() {
                return;
            }
        }
    }
}
