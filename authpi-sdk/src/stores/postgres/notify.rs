//! Notifies workers of other processes of an append, by `NOTIFY`.
//!
//! Not in the append's own transaction: Postgres commits transactions that notify one after
//! another, including the flush of the log, so that appends could no longer share a flush. Instead,
//! a process that has appended *rings*: a task sends one notification at once, and one more for
//! everything that is appended within the next moment. A process with waiting workers has one
//! connection on which it listens. A lost notification costs a worker one poll interval.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{
    Acquire as _, Connection as _, Row as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Postgres, Shared};
use crate::{ledger::LedgerError, stores::timeout::within};

/// The pause between two notifications of a process.
const GAP: Duration = Duration::from_millis(10);
/// The time without notifications after which a listener checks its connection.
const QUIET: Duration = Duration::from_secs(30);
/// The first and the longest pause between two attempts to listen.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The states of the bell.
const SILENT: u8 = 0;
const RINGING: u8 = 1;
/// It rings, and an event was appended for which its notification may have been too early.
const AGAIN: u8 = 2;

/// The waiting workers, and how they are notified.
pub(super) struct Wake {
    /// Notified after each append of this process, and on the notification of another one.
    appended: Arc<Notify>,
    /// The payload of this process's notifications, so that it can ignore them.
    sender: String,
    bell: AtomicU8,
    listener: Mutex<Option<JoinHandle<()>>>,
}

impl Wake {
    pub(super) fn new(nonce: u64) -> Self {
        let (bell, listener) = (AtomicU8::new(SILENT), Mutex::new(None));
        Self {
            appended: Arc::new(Notify::new()),
            sender: format!("{nonce:016x}"),
            bell,
            listener,
        }
    }
}

impl Drop for Wake {
    /// Otherwise the listener would hold its connection for the life of the process.
    fn drop(&mut self) {
        if let Some(listener) = self
            .listener
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
        {
            listener.abort();
        }
    }
}

impl Postgres {
    /// Notifies workers, in this process and others, of an append.
    pub(super) fn ring(&self) {
        let wake = &self.shared.wake;
        wake.appended.notify_waiters();
        if wake.bell.swap(AGAIN, Ordering::AcqRel) != SILENT {
            return;
        }
        let ringing = Ringing {
            ledger: self.clone(),
            done: false,
        };
        tokio::spawn(async move {
            let mut ringing = ringing;
            let Shared {
                wake, statements, ..
            } = &*ringing.ledger.shared;
            loop {
                wake.bell.store(RINGING, Ordering::Release);
                let rung = ringing
                    .ledger
                    .rows("wake other workers", &statements.ring, |query| {
                        query.bind(&wake.sender)
                    });
                if let Err(error) = rung.await {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "other processes' workers have to poll"
                    );
                }
                sleep(GAP).await;
                if wake
                    .bell
                    .compare_exchange(RINGING, SILENT, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok()
                {
                    break;
                }
            }
            // From here on, another task may ring.
            ringing.done = true;
        });
    }

    /// Resolves after the next append that this process learns of. Begins to listen for those of
    /// others.
    pub(super) fn heard(&self) -> impl Future<Output = ()> + Send {
        let wake = &self.shared.wake;
        // Created before the listener, so that no notification is missed.
        let heard = wake.appended.notified();
        let mut listener = wake.listener.lock().unwrap_or_else(PoisonError::into_inner);
        // A listener whose runtime has ended is finished.
        if listener.as_ref().is_none_or(JoinHandle::is_finished)
            && let Ok(runtime) = Handle::try_current()
        {
            *listener = Some(runtime.spawn(listen(Arc::downgrade(&self.shared))));
        }
        heard
    }
}

/// Resets the bell if its task is cancelled, as it is with its runtime.
struct Ringing {
    ledger: Postgres,
    done: bool,
}

impl Drop for Ringing {
    fn drop(&mut self) {
        if !self.done {
            self.ledger
                .shared
                .wake
                .bell
                .store(SILENT, Ordering::Release);
        }
    }
}

/// Listens as long as the ledger is in use, with a new connection whenever one is lost.
async fn listen(shared: Weak<Shared>) {
    let mut pause = PAUSES.0;
    loop {
        let begun = Instant::now();
        let Err(error) = listen_once(&shared).await else {
            return;
        };
        if begun.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        // Logged for the first failure, and for a failure after an attempt that lasted longer than
        // `PAUSES.1`; not for quick retries.
        if pause == PAUSES.0 {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "workers poll until notifications of appends work again"
            );
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Listens until the connection is lost; `Ok` when the ledger is no longer in use.
async fn listen_once(shared: &Weak<Shared>) -> Result<(), LedgerError> {
    const STEP: &str = "listen for appends";
    let Some(ledger) = shared.upgrade().map(|shared| Postgres { shared }) else {
        return Ok(());
    };
    let limit = ledger.shared.timeout;
    let (appended, sender) = (
        Arc::clone(&ledger.shared.wake.appended),
        ledger.shared.wake.sender.clone(),
    );
    // The channel's name contains the number of the ledger's table. It is read on a connection of
    // the user's pool, since a connection with another search path might find another table of the
    // same name.
    let channel = ledger
        .rows(STEP, &ledger.shared.statements.channel, |query| query)
        .await?;
    let channel = channel
        .first()
        .ok_or(sqlx::Error::RowNotFound)
        .and_then(|row| row.try_get::<String, _>(0));
    let channel = channel.map_err(|error| LedgerError::new(STEP, error))?;
    // A connection beside the user's pool, which may be small, and may be closed while we listen.
    let server = PgConnectOptions::clone(&ledger.shared.pool.connect_options());
    drop(ledger);
    let own = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(limit);
    let own = own.test_before_acquire(false).connect_lazy_with(server);
    let listener = async {
        let mut listener = PgListener::connect_with(&own).await?;
        listener.eager_reconnect(false);
        listener.listen(&channel).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    let mut listener = within(limit, STEP, listener).await?;
    // Appends before this had no notification.
    appended.notify_waiters();
    loop {
        match timeout(QUIET, listener.try_recv()).await {
            Ok(Ok(Some(notification))) if notification.payload() == sender => {}
            Ok(Ok(Some(_))) => appended.notify_waiters(),
            Ok(Ok(None)) => return Err(LedgerError::new(STEP, "the connection was lost")),
            Ok(Err(error)) => return Err(LedgerError::new(STEP, error)),
            Err(_) => {
                within(limit, STEP, async {
                    listener.acquire().await?.ping().await
                })
                .await?;
            }
        }
    }
}
