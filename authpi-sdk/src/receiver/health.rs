//! Health of a receiver, for probes.

use std::{fmt, sync::Arc};

use super::{Mode, Receiver};
use crate::{
    ledger::{Backlog, LedgerError, LedgerErrorKind, Probes},
    telemetry,
};

/// How a receiver or a worker is; its `Display` is a line for people.
///
/// For a *readiness* probe. A process whose store is unreachable is not ready, and restarting it would
/// not help: do not let a liveness probe ask for this.
#[derive(Debug)]
#[non_exhaustive]
pub struct Health {
    /// Whether the store could write, by a record under the empty endpoint name that was made and
    /// removed, within two seconds; or what failed, with its [kind](LedgerError::kind).
    pub store: Result<(), LedgerError>,
    /// Whether it is draining: running handlers finish, and new deliveries are refused.
    pub draining: bool,
    /// How many deliveries or events are being worked on here.
    pub in_flight: usize,
    /// What is waiting in the store for a worker of this endpoint, where the store can be an inbox
    /// and it answered. For an inline receiver: dead letters that were replayed, if any, which need
    /// a worker or a redelivery.
    pub backlog: Option<Backlog>,
    /// Whether a delivery of the last ten minutes seemed to be older than records are kept, and
    /// nothing confirmed this machine's clock: such deliveries are answered with 503. Does not make
    /// the receiver unready, since one old capture would be enough for it.
    pub clock_unsure: bool,
}

impl Health {
    /// Whether new work is welcome: nothing is being shut down, and the store works. A store that
    /// is only [busy](LedgerErrorKind::Busy) works: to take a process out for that, or end it,
    /// would make the others busier.
    pub fn is_ready(&self) -> bool {
        let works = self
            .store
            .as_ref()
            .err()
            .is_none_or(|error| error.kind() == LedgerErrorKind::Busy);
        works && !self.draining
    }

    /// With what the store said, or did not say in time.
    pub(crate) async fn ask(
        probes: &Probes,
        endpoint: &Arc<str>,
        draining: bool,
        in_flight: usize,
    ) -> Self {
        let (store, backlog) = probes.ask(endpoint).await;
        if let Some(Backlog { depth, oldest }) = backlog {
            telemetry::inbox(endpoint, depth, oldest);
        }
        Self {
            store,
            draining,
            in_flight,
            backlog,
            clock_unsure: false,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.store.as_ref().map_err(LedgerError::kind) {
            Err(LedgerErrorKind::CannotWrite) => "the store cannot write",
            Err(LedgerErrorKind::Content) => "the store refuses records",
            Err(LedgerErrorKind::Unreachable) => "the store does not respond",
            _ if self.draining => "draining",
            Err(LedgerErrorKind::Busy) => "ready, but the store is busy",
            Ok(()) => "ready",
        };
        write!(f, "{state}; in flight: {}", self.in_flight)?;
        if let Some(Backlog { depth, oldest }) = self.backlog {
            write!(f, "; waiting: {depth}")?;
            oldest.map_or(Ok(()), |age| {
                write!(f, ", the oldest for {} s", age.as_secs())
            })?;
        }
        if self.clock_unsure {
            f.write_str(
                "; the clock may be wrong: a delivery seemed to be expired and nothing confirms it",
            )?;
        }
        Ok(())
    }
}

impl Receiver {
    /// How this receiver is; two steps of the store, two seconds at most.
    ///
    /// A ledger is asked to claim and forget a record under the empty endpoint name, an inbox to
    /// append and forget one, and both how much waits. However often this is called, a store is
    /// asked once a second at most and once at a time: the receivers and workers of a process share
    /// the answer.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled.
    pub async fn health(&self) -> Health {
        let shared = &self.shared;
        shared.log.tick(&shared.endpoint);
        let (in_flight, draining) = (shared.places.working(), shared.places.is_draining());
        let health = Health::ask(&shared.probes, &shared.endpoint, draining, in_flight).await;
        // Inline, nothing waits but what was replayed, and that is worth a word only if it is
        // there.
        let inline = matches!(shared.mode, Mode::Inline(_));
        let backlog = health
            .backlog
            .filter(|backlog| !inline || backlog.depth > 0);
        Health {
            clock_unsure: shared.witness.is_unsure(),
            backlog,
            ..health
        }
    }
}
