//! Undelivered events are found in AuthPI's log: with a log in any order, and with the emulator
//! after an outage.

mod declared;
mod lock;
mod log;
pub(crate) mod outage;
mod processes;
mod reading;
mod resuming;
pub(crate) mod watermark;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use authpi_sdk::{
    Clock,
    event::Event,
    handlers::{Context, HandlerError, Handlers},
    ledger::Ledger,
    receiver::{Inline, Receiver, ReceiverBuilder},
    reconcile::{Reconcile, ReconcileBuilder, Report},
    signature::Verifier,
    stores::Memory,
};
use jiff::{SignedDuration, Timestamp};

use log::Log;

const TEST_TIMEOUT: Duration = Duration::from_mins(1);

/// The creation time of the tests' webhook.
fn created() -> Timestamp {
    "2026-11-01T00:00:00Z".parse().unwrap()
}

/// This number of milliseconds after the webhook's creation.
fn at(millis: i64) -> Timestamp {
    created() + SignedDuration::from_millis(millis)
}

/// A clock at this number of milliseconds after the webhook's creation.
fn clock(millis: i64) -> Clock {
    Clock::from_fn(move || at(millis))
}

const HOUR: i64 = 3_600_000;

/// The events that handlers have seen, in order.
#[derive(Clone, Default)]
struct Handled(Arc<Mutex<Vec<String>>>);

impl Handled {
    fn ids(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Handlers that record all events except those that they fail.
fn noting(
    handled: &Handled,
    fail: impl Fn(&Event) -> bool + Clone + Send + Sync + 'static,
) -> Handlers<Handled> {
    Handlers::new(handled.clone()).fallback(move |event: Event, cx: Context<Handled>| {
        let result = if fail(&event) {
            Err(HandlerError::retryable("not today"))
        } else {
            cx.state().0.lock().unwrap().push(event.id().to_owned());
            Ok(())
        };
        std::future::ready(result)
    })
}

const DAY: Duration = Duration::from_hours(24);

/// Like [`noting`], but each run attempts failing events twice. They fail with a short delay, then
/// with a delay of a day, which is longer than a run with half a day of `retry_for` waits. Before
/// the next run, the ledger's clock must advance by a day.
fn noting_in_two_tries(
    handled: &Handled,
    fail: impl Fn(&Event) -> bool + Clone + Send + Sync + 'static,
) -> Handlers<Handled> {
    Handlers::new(handled.clone()).fallback(move |event: Event, cx: Context<Handled>| {
        let result = if fail(&event) {
            let error = HandlerError::retryable("not today");
            Err(if cx.attempt() % 2 == 1 {
                error
            } else {
                error.after(DAY)
            })
        } else {
            cx.state().0.lock().unwrap().push(event.id().to_owned());
            Ok(())
        };
        std::future::ready(result)
    })
}

fn inline(ledger: impl Ledger, handlers: Handlers<Handled>) -> ReceiverBuilder<Inline> {
    let pause = Duration::from_millis(1);
    Receiver::inline(
        "users",
        Verifier::dangerously_accept_unauthenticated(),
        ledger,
        handlers,
    )
    .clock(clock(100 * HOUR))
    .retry_after(pause)
    .in_flight_wait(Duration::ZERO)
}

/// A receiver that records handled events, on its own ledger.
fn receiver() -> (Receiver, Handled) {
    let handled = Handled::default();
    (
        inline(Memory::new(), noting(&handled, |_| false))
            .build()
            .unwrap(),
        handled,
    )
}

fn reconcile(log: &Log, receiver: &Receiver) -> ReconcileBuilder {
    Reconcile::builder(&log.client(), receiver, "wh_1")
        .clock(clock(100 * HOUR))
        .retry_for(Duration::from_millis(20))
}

async fn caught_up(reconcile: &Reconcile) -> Report {
    let running = tokio::time::timeout(TEST_TIMEOUT, reconcile.catch_up());
    running
        .await
        .expect("catching up does not end")
        .expect("nothing fails")
}
