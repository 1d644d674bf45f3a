//! Ledgers and inboxes as trait objects, so that a receiver has no type parameter for its store.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::sleep;
use tracing::Instrument as _;

use super::{
    Appended, Backlog, Claim, Completion, Digest, EventKey, Inbox, LeaseStatus, Ledger,
    LedgerError, NextEvent, Token,
};
use crate::telemetry;

/// Any [`Ledger`]; clones share it.
pub(crate) type AnyLedger = Arc<dyn DynLedger>;

/// The pause before a failed completion is repeated: long enough to replace a broken connection.
const ONCE_MORE: Duration = Duration::from_millis(100);

/// Runs a step of the store in a span.
pub(crate) fn step<T>(
    name: &'static str,
    step: impl Future<Output = T>,
) -> impl Future<Output = T> {
    step.instrument(telemetry::span!(DEBUG, "authpi.store", step = name))
}

type Step<'a, T> = Pin<Box<dyn Future<Output = Result<T, LedgerError>> + Send + 'a>>;

/// [`Ledger`] with boxed futures.
pub(crate) trait DynLedger: Send + Sync {
    fn claim<'a>(&'a self, key: &'a EventKey, digest: Digest, lease: Duration) -> Step<'a, Claim>;
    fn renew<'a>(
        &'a self,
        key: &'a EventKey,
        token: Token,
        lease: Duration,
    ) -> Step<'a, LeaseStatus>;
    fn complete<'a>(
        &'a self,
        key: &'a EventKey,
        token: Token,
        completion: Completion,
    ) -> Step<'a, LeaseStatus>;
    fn release<'a>(
        &'a self,
        key: &'a EventKey,
        token: Token,
        pause: Duration,
    ) -> Step<'a, LeaseStatus>;
    fn forget<'a>(&'a self, key: &'a EventKey) -> Step<'a, bool>;
    fn keeps_dead_letters(&self) -> bool;
    fn retention(&self) -> Duration;
    fn server_time(&self) -> Step<'_, Option<Timestamp>>;
    fn check_write(&self) -> Step<'_, ()>;
    fn is_busy(&self) -> bool;
    fn waiting<'a>(&'a self, endpoint: &'a str) -> Step<'a, Option<Backlog>>;
    fn store_id(&self) -> Option<usize>;
}

impl<L: Ledger> DynLedger for L {
    fn claim<'a>(&'a self, key: &'a EventKey, digest: Digest, lease: Duration) -> Step<'a, Claim> {
        Box::pin(step("claim", Ledger::claim(self, key, digest, lease)))
    }

    fn renew<'a>(
        &'a self,
        key: &'a EventKey,
        token: Token,
        lease: Duration,
    ) -> Step<'a, LeaseStatus> {
        Box::pin(step("renew", Ledger::renew(self, key, token, lease)))
    }

    /// Retries once if the first attempt fails. The handler has run, and without a completion it
    /// would run again. Completing twice changes nothing.
    fn complete<'a>(
        &'a self,
        key: &'a EventKey,
        token: Token,
        completion: Completion,
    ) -> Step<'a, LeaseStatus> {
        let complete = async move {
            match Ledger::complete(self, key, token, completion.clone()).await {
                Ok(held) => Ok(held),
                Err(error) => {
                    tracing::debug!(%error, "retrying a step of the store");
                    let once_more = async {
                        sleep(ONCE_MORE).await;
                        Ledger::complete(self, key, token, completion).await
                    };
                    // Boxed because it is rare: it should not make every future larger.
                    Box::pin(once_more).await
                }
            }
        };
        Box::pin(step("complete", complete))
    }

    fn release<'a>(
        &'a self,
        key: &'a EventKey,
        token: Token,
        pause: Duration,
    ) -> Step<'a, LeaseStatus> {
        Box::pin(step("release", Ledger::release(self, key, token, pause)))
    }

    fn forget<'a>(&'a self, key: &'a EventKey) -> Step<'a, bool> {
        Box::pin(step("forget", Ledger::forget(self, key)))
    }

    fn keeps_dead_letters(&self) -> bool {
        Ledger::keeps_dead_letters(self)
    }

    fn retention(&self) -> Duration {
        Ledger::retention(self)
    }

    fn server_time(&self) -> Step<'_, Option<Timestamp>> {
        Box::pin(step("server_time", Ledger::server_time(self)))
    }

    fn check_write(&self) -> Step<'_, ()> {
        Box::pin(step("check_write", Ledger::check_write(self)))
    }

    fn is_busy(&self) -> bool {
        Ledger::is_busy(self)
    }

    fn waiting<'a>(&'a self, endpoint: &'a str) -> Step<'a, Option<Backlog>> {
        Box::pin(step("backlog", Ledger::waiting(self, endpoint)))
    }

    fn store_id(&self) -> Option<usize> {
        Ledger::store_id(self)
    }
}

/// Any [`Inbox`]; clones share it.
pub(crate) type AnyInbox = Arc<dyn DynInbox>;

/// [`Inbox`] with boxed futures.
pub(crate) trait DynInbox: DynLedger {
    fn append<'a>(
        &'a self,
        key: &'a EventKey,
        digest: Digest,
        ordering_key: Option<&'a str>,
        body: Bytes,
    ) -> Step<'a, Appended>;
    fn lease_next<'a>(&'a self, endpoint: &'a str, lease: Duration) -> Step<'a, NextEvent>;
    fn appended(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    fn backlog<'a>(&'a self, endpoint: &'a str) -> Step<'a, Backlog>;
    fn check_append(&self) -> Step<'_, ()>;
}

impl<I: Inbox> DynInbox for I {
    fn append<'a>(
        &'a self,
        key: &'a EventKey,
        digest: Digest,
        ordering_key: Option<&'a str>,
        body: Bytes,
    ) -> Step<'a, Appended> {
        Box::pin(step(
            "append",
            Inbox::append(self, key, digest, ordering_key, body),
        ))
    }

    fn lease_next<'a>(&'a self, endpoint: &'a str, lease: Duration) -> Step<'a, NextEvent> {
        Box::pin(step("lease_next", Inbox::lease_next(self, endpoint, lease)))
    }

    fn appended(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(Inbox::appended(self))
    }

    fn backlog<'a>(&'a self, endpoint: &'a str) -> Step<'a, Backlog> {
        Box::pin(step("backlog", Inbox::backlog(self, endpoint)))
    }

    fn check_append(&self) -> Step<'_, ()> {
        Box::pin(step("check_append", Inbox::check_append(self)))
    }
}
