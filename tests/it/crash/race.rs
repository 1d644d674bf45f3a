//! Several processes, each event delivered several times in random order, and no kills: each event
//! is handled once, and never attempted more than once.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use authpi_tests::harness::{EventId, Role};
use tokio::task::JoinSet;

use super::{Trial, raced};

/// The number of processes, and of deliveries per event.
const RACERS: usize = 3;
/// The number of deliveries in flight.
const SENDERS: usize = 48;

impl Trial {
    pub(super) async fn race(mut self, role: Role) {
        let events = raced();
        // No process dies, so no lease has to expire.
        self.lease = Duration::from_secs(30);
        self.handling = Duration::from_millis(2);
        self.failing = 0;
        self.ports.lock().unwrap().resize(RACERS, None);
        self.prepare().await;
        let trial = Arc::new(self);

        let mut keepers = JoinSet::new();
        for slot in 0..RACERS {
            let trial = trial.clone();
            keepers.spawn(async move { trial.live(slot, role, None).await });
        }
        // The race includes the creation of the tables.
        let mut deliveries: Vec<EventId> = (0..events)
            .flat_map(|ordering_key| {
                [EventId {
                    ordering_key,
                    place: 0,
                }; RACERS]
            })
            .collect();
        trial.dice("deliveries").shuffle(&mut deliveries);
        let deliveries = Arc::new(Mutex::new(deliveries));
        let started = Instant::now();
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS {
            let (trial, deliveries) = (trial.clone(), deliveries.clone());
            senders.spawn(async move {
                let mut dice = trial.dice(&format!("sender {sender}"));
                loop {
                    let Some(event) = deliveries.lock().unwrap().pop() else {
                        return;
                    };
                    trial.deliver(event, dice.fork()).await;
                }
            });
        }
        let sent = tokio::select! {
            sent = tokio::spawn(senders.join_all()) => sent.map(drop),
            Some(failed) = keepers.join_next() => failed,
        };
        sent.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
        let took = started.elapsed().as_secs_f64();
        trial.until_done().await;
        let verdict = trial.verdict().await;
        println!(
            "{} (seed {}): {took:.1} s, {} deliveries, {verdict}",
            trial.name,
            trial.seed,
            events as usize * RACERS
        );
        assert!(
            verdict.wrong.is_empty(),
            "{}: what must not happen has happened (above)",
            trial.name
        );
        let once = (
            verdict.events,
            verdict.tried,
            verdict.effects + verdict.dead_letters,
        );
        assert_eq!(
            once,
            (events as usize, events as usize, events as usize),
            "{}: not each once",
            trial.name
        );
        trial.passed.store(true, Ordering::Relaxed);
    }
}
