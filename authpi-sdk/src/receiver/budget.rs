//! The budget for unverified bodies.
//!
//! Anyone can send a body, so the total memory of unverified bodies is bounded. The first 16 KiB of
//! each body are free, so a body of ordinary size is never charged. The server's limit of
//! concurrent requests bounds the total of these free parts. A larger body is charged for its
//! buffer, before the buffer grows, and never for the length that its sender announced.
//!
//! When the budget is full, the bodies that hold the most memory relative to their transfer rate
//! are dropped and answered with 503. Fast bodies are dropped last.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use crate::signature::FIRST_BUFFER;

/// The default budget: 64 MiB, or four bodies of the maximum size if that is more.
pub(super) fn default_budget(max_body: usize) -> usize {
    max_body.saturating_mul(4).max(64 << 20)
}

/// Charges are rounded up to a multiple of this. That covers the bookkeeping of a body, and bounds
/// the number of bodies.
const STEP: usize = 4096;

/// The number of bytes that unverified bodies may hold in total. Cheap to clone; clones share the
/// budget.
#[derive(Clone)]
pub(super) struct BodyBudget {
    shared: Arc<Shared>,
}

struct Shared {
    limit: usize,
    bodies: Mutex<Bodies>,
    /// Notified when a body has released its memory.
    freed: Notify,
}

/// The unfinished bodies that are larger than the free part.
#[derive(Default)]
struct Bodies {
    records: HashMap<u64, Record>,
    next_id: u64,
    held: usize,
    /// The memory of bodies that are being dropped.
    leaving: usize,
}

struct Record {
    held: usize,
    progress: Progress,
    /// Whether the body has to be dropped.
    is_shed: bool,
    wake: Arc<Notify>,
}

enum Verdict {
    Held,
    /// Not yet: bodies that are being dropped have to release their memory first.
    Later,
    Shed,
}

impl BodyBudget {
    /// A budget of this many bytes. A single body always fits, even if it is larger than the
    /// budget. (`ReceiverBuilder` refuses a budget that is smaller than the largest permitted
    /// body.)
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                limit: bytes,
                bodies: Mutex::default(),
                freed: Notify::new(),
            }),
        }
    }

    /// Registers a body that grows larger than the free part.
    pub(super) fn begin(&self) -> Charge {
        let wake = Arc::new(Notify::new());
        let mut bodies = self.shared.lock();
        let id = bodies.next_id;
        bodies.next_id += 1;
        let record = Record {
            held: 0,
            progress: Progress::new(Instant::now()),
            is_shed: false,
            wake: Arc::clone(&wake),
        };
        bodies.records.insert(id, record);
        Charge {
            shared: Arc::clone(&self.shared),
            id,
            wake,
        }
    }
}

impl fmt::Debug for BodyBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bodies = self.shared.lock();
        f.debug_struct("BodyBudget")
            .field("limit", &self.shared.limit)
            .field("held", &bodies.held)
            .field("bodies", &bodies.records.len())
            .finish()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Bodies> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The share of one body, released when dropped.
pub(super) struct Charge {
    shared: Arc<Shared>,
    id: u64,
    wake: Arc<Notify>,
}

/// The body has to be dropped to make room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shed;

impl Charge {
    /// Charges the body for a buffer of `buffer` bytes in total. `arrived` is the number of bytes
    /// that arrived since the last call. It only counts towards the transfer rate.
    pub(super) async fn hold(&self, buffer: usize, mut arrived: usize) -> Result<(), Shed> {
        let wanted = buffer.saturating_sub(FIRST_BUFFER).next_multiple_of(STEP);
        loop {
            // Created before the check, so that no release in between is missed.
            let freed = self.shared.freed.notified();
            let verdict = self.shared.lock().charge(
                self.id,
                wanted,
                std::mem::take(&mut arrived),
                self.shared.limit,
                Instant::now(),
            );
            match verdict {
                Verdict::Held => return Ok(()),
                Verdict::Shed => return Err(Shed),
                Verdict::Later => tokio::select! {
                    shed = self.shed() => return Err(shed),
                    () = freed => {}
                },
            }
        }
    }

    /// Resolves when the body has to be dropped.
    pub(super) async fn shed(&self) -> Shed {
        self.wake.notified().await;
        Shed
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut bodies = self.shared.lock();
        let Some(record) = bodies.records.remove(&self.id) else {
            return;
        };
        bodies.held -= record.held;
        if record.is_shed {
            bodies.leaving -= record.held;
        }
        drop(bodies);
        self.shared.freed.notify_waiters();
    }
}

impl Bodies {
    fn charge(
        &mut self,
        id: u64,
        wanted: usize,
        arrived: usize,
        limit: usize,
        now: Instant,
    ) -> Verdict {
        let Some(record) = self.records.get_mut(&id) else {
            return Verdict::Shed;
        };
        record.progress.add(arrived, now);
        if record.is_shed {
            return Verdict::Shed;
        }
        let more = wanted.saturating_sub(record.held);
        // A single body within the verifier's limit always fits.
        let limit = limit.max(wanted);
        if self.held + more <= limit {
            record.held += more;
            self.held += more;
            return Verdict::Held;
        }
        while self.held - self.leaving + more > limit {
            match self.victim(id, wanted, now) {
                Some(victim) if victim != id => {
                    if let Some(record) = self.records.get_mut(&victim) {
                        record.is_shed = true;
                        record.wake.notify_one();
                        self.leaving += record.held;
                    }
                }
                _ => {
                    if let Some(record) = self.records.get_mut(&id) {
                        record.is_shed = true;
                        self.leaving += record.held;
                    }
                    return Verdict::Shed;
                }
            }
        }
        Verdict::Later
    }

    /// The body that holds the most memory relative to its transfer rate. The requesting body
    /// counts with the memory that it requests.
    fn victim(&self, asking: u64, wanted: usize, now: Instant) -> Option<u64> {
        let candidates = self.records.iter().filter(|(_, record)| !record.is_shed);
        let costs = candidates.filter_map(|(&id, record)| {
            let held = if id == asking { wanted } else { record.held };
            // Of equals, the oldest.
            (held > 0).then(|| (record.progress.cost_of(held, now), std::cmp::Reverse(id)))
        });
        costs.max().map(|(_, std::cmp::Reverse(id))| id)
    }
}

/// The recent transfer rate of a body. Only the last second counts, so that a body that stalls
/// after a fast start is noticed.
struct Progress {
    began: Instant,
    /// The current second of the body, and the bytes that arrived in it and in the one before.
    second: u64,
    current: u64,
    previous: u64,
}

impl Progress {
    fn new(began: Instant) -> Self {
        Self {
            began,
            second: 0,
            current: 0,
            previous: 0,
        }
    }

    fn add(&mut self, arrived: usize, now: Instant) {
        let second = now.saturating_duration_since(self.began).as_secs();
        (self.previous, self.current) = self.by(second);
        self.second = second;
        self.current += arrived as u64;
    }

    /// The bytes that arrived in the second before `second`, and in `second` itself.
    fn by(&self, second: u64) -> (u64, u64) {
        match second.saturating_sub(self.second) {
            0 => (self.previous, self.current),
            1 => (self.current, 0),
            _ => (0, 0),
        }
    }

    /// Bytes per second, over the last second.
    fn rate(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.began);
        let (previous, current) = self.by(age.as_secs());
        if age < Duration::from_secs(1) {
            return current * 1000 / u64::from(age.subsec_millis()).max(1);
        }
        previous * u64::from(1000 - age.subsec_millis()) / 1000 + current
    }

    /// 1000 times the bytes held, divided by the transfer rate in bytes per second plus one.
    fn cost_of(&self, held: usize, now: Instant) -> u64 {
        (held as u64).saturating_mul(1000) / (self.rate(now) + 1)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const KIB: usize = 1024;

    /// A body that holds this much beyond the free part.
    async fn holding(budget: &BodyBudget, kib: usize) -> Charge {
        let charge = budget.begin();
        charge
            .hold(FIRST_BUFFER + kib * KIB, kib * KIB)
            .await
            .unwrap();
        charge
    }

    fn held(budget: &BodyBudget) -> usize {
        budget.shared.lock().held
    }

    fn is_shed(charge: &Charge) -> bool {
        charge.shared.lock().records[&charge.id].is_shed
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_body_holds_is_given_back_when_it_ends() {
        let budget = BodyBudget::new(64 * KIB);
        let bodies = [holding(&budget, 32).await, holding(&budget, 32).await];
        assert_eq!(held(&budget), 64 * KIB);
        drop(bodies);
        assert_eq!(held(&budget), 0);
        drop(holding(&budget, 64).await);
        assert_eq!((held(&budget), budget.shared.lock().records.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_budget_drops_the_slowest_and_not_the_newcomer() {
        let budget = BodyBudget::new(64 * KIB);
        let slow = holding(&budget, 32).await;
        advance(Duration::from_secs(3)).await;
        let fast = holding(&budget, 32).await;
        let newcomer = tokio::spawn({
            let budget = budget.clone();
            async move { holding(&budget, 32).await }
        });
        slow.shed().await;
        assert!(
            !is_shed(&fast) && !newcomer.is_finished(),
            "it held more than there was"
        );
        drop(slow);
        newcomer.await.unwrap();
        assert!(!is_shed(&fast));
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_that_stall_the_largest_is_dropped_and_no_more_than_needed() {
        let budget = BodyBudget::new(112 * KIB);
        let stalled = [
            holding(&budget, 16).await,
            holding(&budget, 64).await,
            holding(&budget, 32).await,
        ];
        advance(Duration::from_secs(3)).await;
        let newcomer = budget.begin();
        let asking = newcomer.hold(FIRST_BUFFER + 64 * KIB, 64 * KIB);
        let (taken, ()) = tokio::join!(asking, async {
            stalled[1].shed().await;
            let [small, large, middle] = stalled;
            assert!(!is_shed(&small) && !is_shed(&middle));
            drop(large);
        });
        assert_eq!(taken, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_dropped_before_one_that_comes_in_at_speed() {
        let budget = BodyBudget::new(128 * KIB);
        let (trickling, steady) = (holding(&budget, 64).await, holding(&budget, 64).await);
        for _ in 0..5 {
            advance(Duration::from_secs(1)).await;
            trickling.hold(FIRST_BUFFER + 64 * KIB, 1).await.unwrap();
            steady
                .hold(FIRST_BUFFER + 64 * KIB, 10 * KIB)
                .await
                .unwrap();
        }
        let newcomer = budget.begin();
        let asking = newcomer.hold(FIRST_BUFFER + 32 * KIB, 32 * KIB);
        let (taken, ()) = tokio::join!(asking, async {
            trickling.shed().await;
            assert!(!is_shed(&steady));
            drop(trickling);
        });
        assert_eq!(taken, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_asks_for_more_and_is_the_slowest_is_dropped_itself() {
        let budget = BodyBudget::new(64 * KIB);
        let slow = holding(&budget, 32).await;
        advance(Duration::from_secs(5)).await;
        let fast = holding(&budget, 32).await;
        assert_eq!(slow.hold(FIRST_BUFFER + 64 * KIB, 1).await, Err(Shed));
        assert!(!is_shed(&fast));
        drop(slow);
        assert_eq!(held(&budget), 32 * KIB);
    }

    #[tokio::test(start_paused = true)]
    async fn one_body_always_fits_and_those_who_wait_for_room_all_get_it() {
        let budget = BodyBudget::new(32 * KIB);
        drop(holding(&budget, 100).await);
        let stalled = holding(&budget, 32).await;
        advance(Duration::from_secs(3)).await;
        let (first, second) = (budget.begin(), budget.begin());
        let (one, two, ()) = tokio::join!(
            first.hold(FIRST_BUFFER + 16 * KIB, 16 * KIB),
            second.hold(FIRST_BUFFER + 16 * KIB, 16 * KIB),
            async {
                stalled.shed().await;
                drop(stalled);
            },
        );
        assert_eq!((one, two), (Ok(()), Ok(())));
        assert_eq!(held(&budget), 32 * KIB);
    }
}
