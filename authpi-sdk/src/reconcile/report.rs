use std::{error::Error, fmt, time::Duration};

use jiff::Timestamp;

use crate::receiver::Ingested;

/// The progress of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Events that were read and that the webhook subscribes to, each once per window. Events of a
    /// window that was split, or read again in smaller pages, count again.
    pub read: u64,
    /// Pages that were read.
    pub pages: u64,
    /// Events that were handled for the first time.
    pub handled: u64,
    /// Events that were newly stored in the inbox.
    pub stored: u64,
    /// Events that were known.
    pub duplicates: u64,
    /// Events without a handler.
    pub unhandled: u64,
    /// Events that were given up: kept as dead letters, or dropped as configured.
    pub dead: u64,
    /// The number of retries of events that were not accepted.
    pub retried: u64,
    /// How far the log has been ingested, by the events' own `timestamp`.
    pub position: Option<Timestamp>,
    /// How far that is behind our clock; zero when the present is reached.
    pub lag: Duration,
    /// The duration of the run so far.
    pub elapsed: Duration,
}

impl Progress {
    /// All ingested events, including duplicates.
    pub fn ingested(&self) -> u64 {
        self.handled + self.stored + self.duplicates + self.unhandled + self.dead
    }

    /// New events that would have been missed. Events without a handler are not recorded, so they
    /// do not count.
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
    /// Everything up to this time is ingested; the next run begins an overlap earlier. `None` if
    /// there was no event yet.
    pub watermark: Option<Timestamp>,
    /// The event at which the run stopped because it was not accepted; `None` if the run came to
    /// its end.
    pub stopped: Option<Stopped>,
    /// Whether the last pass took less than a second, or was a later pass that found nothing new.
    /// If not, events happen faster than they are ingested, or the run ended early.
    pub caught_up: bool,
    /// Nothing before this time was read, although the run would have begun earlier: the ledger has
    /// forgotten which events were handled then, so they would be handled again. To read them
    /// anyway, make a separate run with [`since`](super::ReconcileBuilder::since) and without the
    /// stored watermark.
    pub not_read_before: Option<Timestamp>,
    /// Events that AuthPI could not show (`invalid_count` of the pages read).
    pub not_shown: u64,
    /// Entries of the log that are not readable events, because the id, type or timestamp is
    /// missing. The ledger keeps them as dead letters, if it keeps dead letters. Counted each time
    /// they were read.
    pub unreadable: u64,
    /// The number of passes over the log.
    pub passes: u32,
}

impl Report {
    /// The report of a run that came to its end.
    ///
    /// # Errors
    /// If the run stopped at an event that was not accepted. The next run starts with it.
    pub fn into_result(self) -> Result<Self, Stopped> {
        match self.stopped {
            Some(stopped) => Err(stopped),
            None => Ok(self),
        }
    }

    /// Whether the present was reached. [`not_read_before`](Self::not_read_before) says whether all
    /// of the past was read.
    pub fn is_complete(&self) -> bool {
        self.stopped.is_none() && self.caught_up
    }
}

/// The event that a run stopped at, because it was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Its id. For an unreadable entry, the id of its dead letter, `unreadable:` and a SHA-256.
    pub event_id: String,
    /// When it happened. For an unreadable entry, where the pass began.
    pub time: Timestamp,
    /// Why it was not accepted, at the last attempt: `failed`, `in_flight`, `store_down`, … as in
    /// logs and metrics.
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
