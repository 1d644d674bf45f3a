//! The health of a receiver or worker, for probes.

use std::{fmt, sync::Arc};

use super::{Mode, Receiver};
use crate::{
    ledger::{Backlog, LedgerError, LedgerErrorKind, Probes},
    telemetry,
};

/// The health of a receiver or worker. `Display` writes one line for operators.
///
/// Use it for a *readiness* probe. A process whose store is unreachable is not ready, but a restart
/// would not help, so do not use it for a liveness probe.
#[derive(Debug)]
#[non_exhaustive]
pub struct Health {
    /// The result of the write probe. A probe that has no answer after two seconds is an error. The
    /// error has a [kind](LedgerError::kind).
    pub store: Result<(), LedgerError>,
    /// Whether the receiver or worker is shutting down: it waits for running handlers and takes no
    /// new work.
    pub draining: bool,
    /// The number of deliveries or events in progress in this process.
    pub in_flight: usize,
    /// The unfinished events of this endpoint in the store: they wait for a worker or are being
    /// handled by one. `None` if the store cannot be an inbox, or did not answer.
    ///
    /// An inline receiver stores no events, so these are replayed dead letters, which wait for a
    /// worker or for a redelivery by AuthPI. If there are none, this is `None`.
    pub backlog: Option<Backlog>,
    /// Whether, in the last ten minutes, a delivery seemed to be older than the ledger's
    /// [retention](crate::ledger::Ledger::retention), and nothing has confirmed this machine's
    /// clock: neither a recent delivery nor the store's clock. Such deliveries are answered with
    /// 503. The receiver stays ready, since a single replayed delivery could cause this. Always
    /// `false` for a worker.
    pub clock_unsure: bool,
}

impl Health {
    /// Whether the receiver or worker can take new work: it is not shutting down, and the store
    /// works. A [busy](LedgerErrorKind::Busy) store counts as working: taking a process out of
    /// service would only increase the load on the others.
    pub fn is_ready(&self) -> bool {
        let works = self
            .store
            .as_ref()
            .err()
            .is_none_or(|error| error.kind() == LedgerErrorKind::Busy);
        works && !self.draining
    }

    /// Asks the probes.
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
                "; the clock may be wrong: a delivery seemed to be expired, and nothing confirms the clock",
            )?;
        }
        Ok(())
    }
}

impl Receiver {
    /// The health of this receiver. Probes the store and returns within two seconds.
    ///
    /// There are two probes. Each runs at most once a second and never concurrently; calls in
    /// between share its last answer.
    ///
    /// - The write probe creates a record under the empty endpoint name and forgets it. In a
    ///   ledger, it claims the record. In an inbox, it appends the record; `Nats` only checks its
    ///   ledger instead. Everything that uses clones of one store in the same way shares the probe:
    ///   inline receivers share one, which uses the store as a ledger, and inbox receivers and
    ///   workers share another.
    /// - The backlog probe counts the waiting events of this endpoint. It is only shared by clones
    ///   of this receiver.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled.
    pub async fn health(&self) -> Health {
        let shared = &self.shared;
        shared.log.tick(&shared.endpoint);
        let (in_flight, draining) = (shared.places.working(), shared.places.is_draining());
        let health = Health::ask(&shared.probes, &shared.endpoint, draining, in_flight).await;
        // With an inline receiver, only replayed events can wait, so an empty backlog is omitted.
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
