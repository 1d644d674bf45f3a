use std::{error::Error, fmt, time::Duration};

use jiff::Timestamp;

use crate::receiver::Ingested;

/// The progress of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Events that were read and that the webhook subscribes to. If a window is split, or read
    /// again in smaller pages, its events count again.
    pub read: u64,
    /// Pages that were read.
    pub pages: u64,
    /// Events that were handled for the first time.
    pub handled: u64,
    /// Events that were newly stored in the inbox.
    pub stored: u64,
    /// Events that were already known to the ledger.
    pub duplicates: u64,
    /// Events without a handler.
    pub unhandled: u64,
    /// Events that were given up: kept as dead letters, or dropped as configured.
    pub dead: u64,
    /// The number of retries of events that were not accepted.
    pub retried: u64,
    /// The time up to which the log has been ingested, by the events' `timestamp`.
    pub position: Option<Timestamp>,
    /// How far `position` is behind this machine's clock; zero when the present is reached.
    pub lag: Duration,
    /// The duration of the run so far.
    pub elapsed: Duration,
}

impl Progress {
    /// All ingested events, including duplicates.
    pub fn ingested(&self) -> u64 {
        self.handled + self.stored + self.duplicates + self.unhandled + self.dead
    }

    /// Events that were new to the ledger. Events without a handler do not count, since they are
    /// not recorded.
    pub fn new_events(&self) -> u64 {
        self.handled + self.stored + self.dead
    }

    /// Ingested events per second since the run began.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 {
            self.ingested() as f64 / seconds
        } else {
            0.0
        }
    }

    /// Counts an event and returns the name of its outcome.
    pub(super) fn count(&mut self, ingested: Ingested) -> &'static str {
        let (count, outcome) = match ingested {
            Ingested::Handled => (&mut self.handled, "handled"),
            Ingested::Stored => (&mut self.stored, "stored"),
            Ingested::Duplicate => (&mut self.duplicates, "duplicate"),
            Ingested::Unhandled => (&mut self.unhandled, "unhandled"),
            Ingested::Dead => (&mut self.dead, "dead_letter"),
            Ingested::NotAccepted { .. } => (&mut self.retried, "not_accepted"),
        };
        *count += 1;
        outcome
    }
}

/// The result of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a run can stop at an event that was not accepted: see `Report::into_result`"]
#[non_exhaustive]
pub struct Report {
    /// The counts.
    pub progress: Progress,
    /// All events up to this time are ingested. The next run begins an
    /// [overlap](super::ReconcileBuilder::overlap) earlier. `None` if there was no event yet.
    pub watermark: Option<Timestamp>,
    /// The event at which the run stopped, because it was not accepted. `None` if the run did not
    /// stop early for this reason.
    pub stopped: Option<Stopped>,
    /// Whether the run has caught up with the log: its last pass took less than 1 s, or a pass
    /// after the first found nothing new. Otherwise, events happen faster than they are ingested,
    /// or the run ended early.
    pub caught_up: bool,
    /// Set if the run did not read everything that its settings and the watermark ask for, but
    /// began at this later time. The ledger may have removed the records of older events, so these
    /// would be handled again. To read them anyway, make a separate run with
    /// [`since`](super::ReconcileBuilder::since) and without the stored watermark.
    pub not_read_before: Option<Timestamp>,
    /// The number of events that AuthPI could not return (`invalid_count` of the pages read).
    pub not_shown: u64,
    /// The number of entries of the log that are not readable events, because the id, type or
    /// timestamp is missing. If the ledger keeps dead letters, they are kept as such. An entry
    /// counts each time it is read.
    pub unreadable: u64,
    /// The number of passes over the log.
    pub passes: u32,
}

impl Report {
    /// The report, unless the run stopped at an event that was not accepted.
    ///
    /// # Errors
    /// The event at which the run stopped. The next run includes it.
    pub fn into_result(self) -> Result<Self, Stopped> {
        match self.stopped {
            Some(stopped) => Err(stopped),
            None => Ok(self),
        }
    }

    /// Whether the run reached the present. [`not_read_before`](Self::not_read_before) says whether
    /// it also read all of the past.
    pub fn is_complete(&self) -> bool {
        self.stopped.is_none() && self.caught_up
    }
}

/// The event that a run stopped at, because it was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// The event's id. For an unreadable entry, the id of its dead letter: `unreadable:` and a
    /// SHA-256 hash.
    pub event_id: String,
    /// When the event happened. For an unreadable entry, the time from which the pass read the log.
    pub time: Timestamp,
    /// The outcome of the last attempt: `failed`, `in_flight`, `store_down`, … as in logs and
    /// metrics.
    pub outcome: &'static str,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            event_id,
            time,
            outcome,
        } = self;
        write!(
            f,
            "stopped at event {event_id} of {time}, which was not accepted: {outcome}"
        )
    }
}

impl Error for Stopped {}
