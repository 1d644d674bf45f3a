//! Health probes: whether a store can write, and how many events wait in it. The write probe of a
//! store runs at most once a second for all its receivers and workers; each of them has a backlog
//! probe of its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{AnyInbox, AnyLedger, Backlog, LedgerError, LedgerErrorKind};

/// The minimum time between the starts of two probes.
const PROBED_EVERY: Duration = Duration::from_secs(1);
/// How long a caller waits for a probe.
const PROBE_WAITS: Duration = Duration::from_secs(2);
/// A probe that takes longer is cancelled.
const PROBE_ENDS: Duration = Duration::from_secs(30);

/// The store, and what is probed.
#[derive(Clone)]
pub(crate) enum Target {
    /// Claims and forgets a record.
    Ledger(AnyLedger),
    /// Appends and forgets a record.
    Inbox(AnyInbox),
}

impl Target {
    async fn check(self) -> Result<(), LedgerError> {
        match self {
            Self::Ledger(ledger) => ledger.check_write().await,
            Self::Inbox(inbox) => inbox.check_append().await,
        }
    }

    async fn waiting(self, endpoint: Arc<str>) -> Result<Option<Backlog>, LedgerError> {
        match self {
            Self::Ledger(ledger) => ledger.waiting(&endpoint).await,
            Self::Inbox(inbox) => inbox.backlog(&endpoint).await.map(Some),
        }
    }

    fn is_busy(&self) -> bool {
        match self {
            Self::Ledger(ledger) => ledger.is_busy(),
            Self::Inbox(inbox) => inbox.is_busy(),
        }
    }

    /// The store's id, and which write is probed: `false` for a ledger, `true` for an inbox.
    fn id(&self) -> Option<(usize, bool)> {
        match self {
            Self::Ledger(ledger) => Some((ledger.store_id()?, false)),
            Self::Inbox(inbox) => Some((inbox.store_id()?, true)),
        }
    }
}

/// The health probes of one receiver or worker. Those that use a store in the same way, as a ledger
/// or as an inbox, share the write probe. Each has its own backlog probe.
pub(crate) struct Probes {
    /// Keeps the store alive, so that its id stays unique while `write` is shared.
    target: Target,
    write: Arc<Throttled<()>>,
    waiting: Throttled<Option<Backlog>>,
}

impl Probes {
    pub(crate) fn new(target: Target) -> Self {
        Self {
            write: target.id().map_or_else(Arc::default, shared),
            target,
            waiting: Throttled::default(),
        }
    }

    /// Whether the store can write, and its backlog, within two seconds.
    pub(crate) async fn ask(
        &self,
        endpoint: &Arc<str>,
    ) -> (Result<(), LedgerError>, Option<Backlog>) {
        let target = || self.target.clone();
        let (write, waiting) = tokio::join!(
            self.in_time(self.write.ask(|| target().check())),
            self.in_time(self.waiting.ask(|| target().waiting(Arc::clone(endpoint)))),
        );
        match waiting {
            Ok(waiting) => (write, waiting),
            Err(error) => (write.and(Err(error)), None),
        }
    }

    async fn in_time<T>(
        &self,
        probe: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        timeout(PROBE_WAITS, probe).await.unwrap_or_else(|late| {
            let kind = if self.target.is_busy() {
                LedgerErrorKind::Busy
            } else {
                LedgerErrorKind::Unreachable
            };
            Err(LedgerError::new("answer a probe in time", late).with_kind(kind))
        })
    }
}

/// The write probes by store, shared by its receivers and workers.
type OfStores = BTreeMap<(usize, bool), Weak<Throttled<()>>>;

/// The write probe of the store with this id.
fn shared(id: (usize, bool)) -> Arc<Throttled<()>> {
    static OF_STORES: Mutex<OfStores> = Mutex::new(BTreeMap::new());
    let mut of_stores = OF_STORES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = of_stores.get(&id).and_then(Weak::upgrade) {
        return known;
    }
    of_stores.retain(|_, known| known.strong_count() > 0);
    let made = Arc::default();
    of_stores.insert(id, Arc::downgrade(&made));
    made
}

/// A probe that runs at most once a second and never twice at a time. Callers in between share its
/// answer.
struct Throttled<T>(tokio::sync::Mutex<Asked<T>>);

struct Asked<T> {
    begun_at: Option<Instant>,
    running: Option<JoinHandle<Result<T, LedgerError>>>,
    /// The last answer, and when it arrived.
    answer: Option<(Instant, Result<T, LedgerError>)>,
}

impl<T> Default for Throttled<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::new(Asked {
            begun_at: None,
            running: None,
            answer: None,
        }))
    }
}

impl<T: Clone + Send + 'static> Throttled<T> {
    async fn ask<F>(&self, question: impl FnOnce() -> F) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, LedgerError>> + Send + 'static,
    {
        let asked_at = Instant::now();
        let mut state = self.0.lock().await;
        let Asked {
            begun_at,
            running,
            answer,
        } = &mut *state;
        let is_recent = begun_at.is_some_and(|begun_at| begun_at.elapsed() < PROBED_EVERY);
        if running.is_none()
            && let Some((answered_at, answer)) = answer
            && (is_recent || *answered_at >= asked_at)
        {
            return answer.clone();
        }
        // Runs as a task, since a caller may stop waiting; the next caller then waits for the same
        // answer.
        let running = running.get_or_insert_with(|| {
            *begun_at = Some(Instant::now());
            let question = timeout(PROBE_ENDS, question());
            tokio::spawn(async {
                question
                    .await
                    .unwrap_or_else(|late| Err(LedgerError::new("end a probe", late)))
            })
        });
        let answered = running
            .await
            .unwrap_or_else(|gone| Err(LedgerError::new("run a probe", gone)));
        state.running = None;
        state.answer = Some((Instant::now(), answered.clone()));
        answered
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_is_probed_once_a_second_and_once_at_a_time() {
        let (probe, begun, go) = (
            Arc::new(Throttled::default()),
            Arc::new(AtomicU32::new(0)),
            Semaphore::new(0),
        );
        let go = Arc::new(go);
        let ask = || {
            let (probe, begun, go) = (Arc::clone(&probe), Arc::clone(&begun), Arc::clone(&go));
            async move {
                let question = async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    go.acquire().await.unwrap().forget();
                    Ok(())
                };
                probe.ask(|| question).await.unwrap();
            }
        };
        // One caller gives up; the others wait for the probe that it began.
        assert!(timeout(Duration::from_secs(5), ask()).await.is_err());
        let asking: Vec<_> = (0..5).map(|_| tokio::spawn(ask())).collect();
        tokio::task::yield_now().await;
        go.add_permits(1);
        for asked in asking {
            asked.await.unwrap();
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        go.add_permits(9);
        for expected in 2..5 {
            tokio::time::advance(PROBED_EVERY).await;
            for _ in 0..100 {
                ask().await;
            }
            assert_eq!(begun.load(Ordering::SeqCst), expected);
        }
    }

    #[test]
    fn receivers_of_one_store_share_a_probe_and_those_of_another_do_not() {
        let (one, other) = (shared((1, false)), shared((2, false)));
        assert!(Arc::ptr_eq(&one, &shared((1, false))) && !Arc::ptr_eq(&one, &other));
        assert!(
            !Arc::ptr_eq(&one, &shared((1, true))),
            "to claim is not to append"
        );
    }
}
