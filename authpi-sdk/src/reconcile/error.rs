use std::fmt;

use super::{Report, WatermarkError};
use crate::{client, ledger::LedgerError};

/// Why a run ended early. Ingested events stay ingested, and the next run continues from the
/// watermark.
#[derive(Debug)]
pub struct ReconcileError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    report: Report,
}

#[derive(Debug)]
pub(super) enum Kind {
    Client(client::Error),
    Ledger(LedgerError),
    Watermark(WatermarkError),
    LeaseLost,
    NoWebhook,
}

impl ReconcileError {
    pub(super) fn after(kind: Kind, report: Report) -> Self {
        Self(Box::new(Inner { kind, report }))
    }

    /// The report of the run up to the error.
    pub fn report(&self) -> &Report {
        &self.0.report
    }

    /// The client's error, if a call to AuthPI failed.
    pub fn client_error(&self) -> Option<&client::Error> {
        match &self.0.kind {
            Kind::Client(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the ledger failed in a step that the run itself needs, such as taking its lock.
    pub fn is_ledger(&self) -> bool {
        matches!(self.0.kind, Kind::Ledger(_))
    }

    /// Whether the watermark could not be read or written.
    pub fn is_watermark(&self) -> bool {
        matches!(self.0.kind, Kind::Watermark(_))
    }

    /// Whether AuthPI has no webhook with the spec's name and URL: call
    /// [`ensure`](client::Webhooks::ensure) first.
    pub fn is_no_webhook(&self) -> bool {
        matches!(self.0.kind, Kind::NoWebhook)
    }

    /// Whether the run lost its lock, because it did not renew its lease in time. Another replica
    /// may have taken over.
    pub fn is_lease_lost(&self) -> bool {
        matches!(self.0.kind, Kind::LeaseLost)
    }
}

impl From<Kind> for ReconcileError {
    fn from(kind: Kind) -> Self {
        Self::after(kind, Report::default())
    }
}

impl From<client::Error> for Kind {
    fn from(error: client::Error) -> Self {
        Self::Client(error)
    }
}

impl From<WatermarkError> for Kind {
    fn from(error: WatermarkError) -> Self {
        Self::Watermark(error)
    }
}

impl fmt::Display for ReconcileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0.kind {
            Kind::Client(_) => "a call to AuthPI failed",
            Kind::Ledger(_) => "the ledger failed",
            Kind::Watermark(_) => "could not load or save the watermark",
            Kind::LeaseLost => "the lease was lost: it expired, or another replica has taken over",
            Kind::NoWebhook => {
                "AuthPI has no webhook with the spec's name and URL: call ensure first"
            }
        })
    }
}

impl std::error::Error for ReconcileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.kind {
            Kind::Client(error) => Some(error),
            Kind::Ledger(error) => Some(error),
            Kind::Watermark(error) => Some(error),
            Kind::LeaseLost | Kind::NoWebhook => None,
        }
    }
}
