//! What a health probe is told.

use std::{fmt, time::Duration};

use tokio::time::timeout;

use super::{Mode, Receiver};
use crate::ledger::{Backlog, EventKey, LedgerError, Token};

/// How long a probe waits for the store.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a receiver or a worker is; its `Display` is a line for people.
///
/// For a *readiness* probe. A process whose store is away is not ready, and starting it anew would not help: do not let a liveness
/// probe ask for this.
#[derive(Debug)]
#[non_exhaustive]
pub struct Health {
    /// Whether the store answered, within two seconds.
    pub store: Result<(), LedgerError>,
    /// Whether it was told to stop: what runs is finished and nothing new is taken.
    pub draining: bool,
    /// How many deliveries or events are being worked on here.
    pub in_flight: usize,
    /// What is waiting in the inbox, where there is one and it answered.
    pub backlog: Option<Backlog>,
}

impl Health {
    /// Whether new work is welcome: the store answers and nothing is being shut down.
    pub fn is_ready(&self) -> bool {
        self.store.is_ok() && !self.draining
    }

    /// With what the inbox said, or did not say in time.
    pub(crate) async fn of_inbox(
        backlog: impl Future<Output = Result<Backlog, LedgerError>>,
        draining: bool,
        in_flight: usize,
    ) -> Self {
        let (store, backlog) = match in_time(backlog).await {
            Ok(backlog) => (Ok(()), Some(backlog)),
            Err(error) => (Err(error), None),
        };
        Self { store, draining, in_flight, backlog }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&self.store, self.draining) {
            (Err(_), _) => "the store does not answer",
            (Ok(()), true) => "draining",
            (Ok(()), false) => "ready",
        })?;
        write!(f, "; in flight: {}", self.in_flight)?;
        let Some(Backlog { depth, oldest }) = self.backlog else { return Ok(()) };
        write!(f, "; waiting: {depth}")?;
        oldest.map_or(Ok(()), |age| write!(f, ", the oldest for {} s", age.as_secs()))
    }
}

impl Receiver {
    /// How this receiver is; one step of the store, two seconds at most.
    ///
    /// An inbox is asked for its backlog, and a ledger to renew a claim that nobody has, which changes nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled.
    pub async fn health(&self) -> Health {
        let shared = &self.shared;
        let (in_flight, draining) = (shared.places.working(), shared.places.is_draining());
        match &shared.mode {
            Mode::Inbox { inbox, .. } => Health::of_inbox(inbox.backlog(&shared.endpoint), draining, in_flight).await,
            Mode::Inline(_) => {
                let (nothing, nobody) =
                    (EventKey::new(shared.endpoint.clone(), "health"), Token { attempt: 0, nonce: 0 });
                let asked = in_time(shared.ledger.renew(&nothing, nobody, PATIENCE)).await;
                Health { store: asked.map(|_lost| ()), draining, in_flight, backlog: None }
            }
        }
    }
}

async fn in_time<T>(step: impl Future<Output = Result<T, LedgerError>>) -> Result<T, LedgerError> {
    match timeout(PATIENCE, step).await {
        Ok(answered) => answered,
        Err(late) => Err(LedgerError::new("answer a probe in time", late)),
    }
}
