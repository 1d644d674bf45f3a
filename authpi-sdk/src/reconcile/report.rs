use std::{error::Error, fmt, time::Duration};

use jiff::Timestamp;

use crate::receiver::Ingested;

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Events that were read and are wanted by the webhook, each once per window; those of a window
    /// that had to be split, or read again in smaller pages, count again.
    pub read: u64,
    /// Pages that were read.
    pub pages: u64,
    /// Events that were handled, and had not been before.
    pub handled: u64,
    /// Events that were put into the inbox, and had not been there before.
    pub stored: u64,
    /// Events that were known.
    pub duplicates: u64,
    /// Events without a handler.
    pub unhandled: u64,
    /// Events that were given up: they are dead letters, or dropped where that was chosen by name.
    pub dead: u64,
    /// Times that an event was not taken and tried again.
    pub retried: u64,
    /// Up to where the log has been fed, by the events' own `timestamp`.
    pub position: Option<Timestamp>,
    /// How far that is behind our clock; zero when the present is reached.
    pub lag: Duration,
    /// How long the run has been going on.
    pub elapsed: Duration,
}

impl Progress {
    /// All events that were fed, duplicates too.
    pub fn fed(&self) -> u64 {
        self.handled + self.stored + self.duplicates + self.unhandled + self.dead
    }

    /// New events that were ingested: what would have been missed. Those without a handler are
    /// not recorded, and so not among them.
    pub fn new_events(&self) -> u64 {
        self.handled + self.stored + self.dead
    }

    /// Events fed per second, since the run began.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 {
            self.fed() as f64 / seconds
        } else {
            0.0
        }
    }

    /// Counts an event, and says under what name.
    pub(super) fn count(&mut self, fed: Ingested) -> &'static str {
        let (count, outcome) = match fed {
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

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a run can stop at an event that was not accepted: see `Report::into_result`"]
#[non_exhaustive]
pub struct Report {
    /// The counts.
    pub progress: Progress,
    /// Up to where everything is fed: the next run begins an overlap before it. None if there was
    /// no event yet.
    pub watermark: Option<Timestamp>,
    /// The event that was not taken, and that the run therefore ended at; none if it came to the
    /// end.
    pub stopped: Option<Stopped>,
    /// Whether the last look took less than a second, or was not the first and found nothing new.
    /// If not, events happen faster than they are fed, or the run ended early.
    pub caught_up: bool,
    /// From before this nothing was read, though the run would have begun earlier: the ledger has
    /// forgotten what was handled then, so that it would be handled again. A run of its own with
    /// [`since`](super::ReconcileBuilder::since), and without the stored watermark, reads it all
    /// the same.
    pub not_read_before: Option<Timestamp>,
    /// Events that AuthPI says it could not show (`invalid_count` of the pages read).
    pub not_shown: u64,
    /// What stands in the log and is no readable event, for want of an id, a type or a timestamp.
    /// It is among the dead letters where the ledger keeps them. Counted as often as it was read.
    pub unreadable: u64,
    /// How often the log was looked at.
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

    /// Whether the present was reached. Whether all of the past was read,
    /// [`not_read_before`](Self::not_read_before) tells.
    pub fn is_complete(&self) -> bool {
        self.stopped.is_none() && self.caught_up
    }
}

/// The event that a run stopped at, because it was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Its id; of an unreadable entry, that of its dead letter, `unreadable:` and a SHA-256.
    pub event_id: String,
    /// When it happened; of an unreadable entry, where the look at the log began.
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
