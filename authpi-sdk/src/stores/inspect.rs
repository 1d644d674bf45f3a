//! Shared by the inspectors of the stores.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
use std::time::Duration;

#[cfg(any(feature = "sqlite", feature = "postgres"))]
use jiff::Timestamp;

use crate::ledger::inspect::{InspectError, InspectErrorKind};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::ledger::{
    Backlog, Digest, EventKey, RecordState,
    dead_letter::timestamp,
    inspect::{Counts, Cursor, Filter, RecordPage, RecordView, Status},
};

/// The columns of a record, without the key.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) struct Columns {
    pub(super) state: RecordState,
    pub(super) attempts: i64,
    /// What is left of the lease or pause.
    pub(super) left: Duration,
    /// Unix ms: when the pause or lease ends, or the event was finished.
    pub(super) at: i64,
    /// Unix ms.
    pub(super) first_claimed_at: i64,
    pub(super) first_digest: Digest,
    pub(super) reason: Option<String>,
    pub(super) body_kept: bool,
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
impl Columns {
    pub(super) fn view(self, key: EventKey) -> RecordView {
        let is_finished = matches!(self.state, RecordState::Handled | RecordState::Dead);
        let mut view = RecordView::new(key, self.state);
        view.attempts = Some(self.attempts.try_into().unwrap_or(u32::MAX));
        view.lease_left = (self.state == RecordState::Claimed).then_some(self.left);
        view.pause_left = (self.state == RecordState::Pending).then_some(self.left);
        view.first_claimed_at = Some(timestamp(self.first_claimed_at));
        view.finished_at = is_finished.then(|| timestamp(self.at));
        view.compared = Some(self.first_digest != Digest::UNCOMPARED);
        view.body_kept = Some(self.body_kept);
        view.reason = self.reason.filter(|_| self.state == RecordState::Dead);
        view
    }
}

/// The page of a query for one record more than the limit.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) fn page(mut records: Vec<RecordView>, limit: u32) -> RecordPage {
    let limit = limit as usize;
    let are_more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().filter(|_| are_more).map(|last| {
        let at = last
            .first_claimed_at
            .map_or(i64::MAX, Timestamp::as_millisecond);
        Cursor::new(format!("{at}:{}", last.key.event_id()))
    });
    let mut page = RecordPage::new(records, next);
    page.newest_first = true;
    page
}

/// Where the page begins: records before this time and id. `None` for the first page.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) fn position(filter: &Filter) -> Result<Option<(i64, &str)>, InspectError> {
    let Some(cursor) = &filter.before else {
        return Ok(None);
    };
    cursor
        .as_str()
        .split_once(':')
        .and_then(|(at, event_id)| Some((at.parse().ok()?, event_id)))
        .map(Some)
        .ok_or_else(invalid_cursor)
}

pub(super) fn invalid_cursor() -> InspectError {
    InspectError::new(
        InspectErrorKind::InvalidCursor,
        "the cursor is not one of this store; begin with the first page",
    )
}

/// The columns of a query for an endpoint's numbers.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) struct Numbers {
    /// By state.
    pub(super) counts: [i64; 4],
    /// Claimed records whose lease has not expired.
    pub(super) in_flight: i64,
    /// When the oldest pending event was first known, in Unix ms.
    pub(super) oldest_pending: Option<i64>,
    /// Unfinished events of the inbox.
    pub(super) depth: i64,
    /// When the oldest of these was first known, in Unix ms.
    pub(super) oldest_waiting: Option<i64>,
    /// The store's clock, in Unix ms.
    pub(super) now: i64,
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
impl Numbers {
    pub(super) fn status(self, endpoint: &str) -> Status {
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        let age = |since: i64| Duration::from_millis(count(self.now.saturating_sub(since)));
        let mut counts = Counts::default();
        let [pending, claimed, handled, dead] = self.counts.map(count);
        (counts.pending, counts.claimed) = (pending, claimed);
        (counts.handled, counts.dead) = (handled, dead);
        let mut status = Status::new(endpoint);
        status.counts = Some(counts);
        status.oldest_pending = self.oldest_pending.map(age);
        status.leases_in_flight = Some(count(self.in_flight));
        status.dead_letters = Some(dead);
        status.inbox = Some(Backlog {
            depth: count(self.depth),
            oldest: self.oldest_waiting.map(age),
        });
        status
    }
}

#[cfg(any(feature = "redis", feature = "nats"))]
pub(super) fn needs_scan(what: &'static str) -> InspectError {
    InspectError::new(
        InspectErrorKind::NeedsScan,
        format!("{what}; allow the inspector to scan"),
    )
}

#[cfg(any(feature = "redis", feature = "nats"))]
pub(super) fn scan_limit(limit: u32, of: &'static str) -> InspectError {
    InspectError::new(
        InspectErrorKind::ScanLimit,
        format!("the scan has read {limit} {of} and is not complete; raise its limit"),
    )
}

#[cfg(all(test, any(feature = "sqlite", feature = "postgres")))]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_carries_any_event_id() {
        for event_id in ["evt_1", "a:b", "", "é:事"] {
            let views = (0..2).map(|n| {
                let key = EventKey::new("users", event_id);
                let mut view = RecordView::new(key, RecordState::Handled);
                view.first_claimed_at = Some(timestamp(1_700_000_000_000 - n));
                view
            });
            let page = page(views.collect(), 1);
            assert_eq!(page.records.len(), 1);
            let filter = Filter::new("users").before(page.next.unwrap());
            let position = position(&filter).unwrap();
            assert_eq!(position, Some((1_700_000_000_000, event_id)));
        }
    }

    #[test]
    fn a_foreign_cursor_is_refused() {
        for text in ["", "5", "x:evt_1", "scan:7"] {
            let filter = Filter::new("users").before(Cursor::new(text));
            let error = position(&filter).unwrap_err();
            assert_eq!(error.kind(), InspectErrorKind::InvalidCursor, "{text}");
        }
    }
}
