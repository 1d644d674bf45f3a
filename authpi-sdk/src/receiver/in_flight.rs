//! The permits for deliveries in progress, and the limits for deliveries that wait, without a
//! permit, for another worker's outcome.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, Semaphore};

use crate::ledger::EventKey;

/// How many deliveries may wait for the outcome of one event. Further ones are answered with 503.
pub(super) const MAX_WAITERS_PER_EVENT: usize = 4;

/// The permits of one receiver.
pub(super) struct InFlight {
    all: u32,
    free: Semaphore,
    /// How many permits are held by work. `drain` takes permits too.
    working: AtomicUsize,
    draining: AtomicBool,
    drain_begun: Notify,
    /// Permits for waiting, for all events together.
    waiting: Semaphore,
    waiters: Mutex<HashMap<EventKey, usize>>,
}

impl InFlight {
    pub(super) fn new(all: u32) -> Arc<Self> {
        Arc::new(Self {
            all,
            free: Semaphore::new(all as usize),
            working: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            drain_begun: Notify::new(),
            waiting: Semaphore::new(all as usize),
            waiters: Mutex::default(),
        })
    }

    pub(super) fn working(&self) -> usize {
        self.working.load(Ordering::Relaxed)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Refuses new work, ends the wait of waiting deliveries, and waits until no work is running.
    pub(super) async fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.drain_begun.notify_waiters();
        for places in [&self.waiting, &self.free] {
            if let Ok(all) = places.acquire_many(self.all).await {
                all.forget();
                places.close();
            }
        }
    }

    /// Registers a delivery that waits for the outcome of this event, unless enough are waiting.
    pub(super) fn waiter(&self, key: &EventKey) -> Option<Waiter<'_>> {
        let permit = self.waiting.try_acquire().ok()?;
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let of_event = waiters.entry(key.clone()).or_default();
        if *of_event == MAX_WAITERS_PER_EVENT {
            return None;
        }
        *of_event += 1;
        permit.forget();
        Some(Waiter {
            places: self,
            key: key.clone(),
        })
    }

    fn take(&self) -> bool {
        let Ok(permit) = self.free.try_acquire() else {
            return false;
        };
        permit.forget();
        self.working.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// One permit, until dropped.
pub(super) struct InFlightPermit {
    places: Arc<InFlight>,
    /// False while its work waits.
    is_held: bool,
}

impl InFlightPermit {
    pub(super) fn take(places: &Arc<InFlight>) -> Option<Self> {
        places.take().then(|| Self {
            places: Arc::clone(places),
            is_held: true,
        })
    }

    pub(super) fn give_back(&mut self) {
        if std::mem::take(&mut self.is_held) {
            self.places.working.fetch_sub(1, Ordering::Relaxed);
            self.places.free.add_permits(1);
        }
    }

    /// Takes a permit again, if one is free.
    pub(super) fn take_again(&mut self) -> bool {
        self.is_held = self.is_held || self.places.take();
        self.is_held
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// One waiting delivery, until dropped.
pub(super) struct Waiter<'p> {
    places: &'p InFlight,
    key: EventKey,
}

/// The receiver is shutting down.
pub(super) struct Draining;

impl Waiter<'_> {
    /// Waits for the future, but at most until a drain begins.
    pub(super) async fn until_drain<T>(
        &self,
        waited_for: impl Future<Output = T>,
    ) -> Result<T, Draining> {
        // Created before the check, so that a drain that begins in between is not missed.
        let drain_begun = self.places.drain_begun.notified();
        if self.places.is_draining() {
            return Err(Draining);
        }
        tokio::select! {
            () = drain_begun => Err(Draining),
            done = waited_for => Ok(done),
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiters = self
            .places
            .waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut of_event) = waiters.entry(self.key.clone()) {
            *of_event.get_mut() -= 1;
            if *of_event.get() == 0 {
                of_event.remove();
            }
        }
        self.places.waiting.add_permits(1);
    }
}
