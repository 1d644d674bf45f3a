//! The deliveries of this run, for the inspector page. The latest are kept, within limits.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use authpi_inspector::{
    Attempt, DeliveryFilter, DeliveryRow, DeliveryStatus, PAGE, Page, contains,
};
use authpi_sdk::client::LoggedEvent;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

/// The number of deliveries that are kept.
const DELIVERIES: usize = 1_000;
/// The maximum size of their bodies, in bytes.
const BYTES: usize = 64 * 1024 * 1024;
/// The number of attempts that are kept of one delivery.
const OF_ONE: usize = 20;

/// Why attempts are missing on the page.
pub(super) const MISSING: &str =
    "Earlier attempts are not shown: the latest 20 of a delivery are kept.";

/// The deliveries, by their number.
#[derive(Default)]
pub(super) struct Session {
    kept: Mutex<Kept>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Kept {
    deliveries: BTreeMap<u64, Arc<Tracked>>,
    last: u64,
    bytes: usize,
}

/// A delivery, from its event to its end.
pub(super) struct Tracked {
    pub(super) number: u64,
    pub(super) event: LoggedEvent,
    pub(super) body: Bytes,
    created_at: Timestamp,
    progress: Mutex<Progress>,
}

/// How far a delivery is.
#[derive(Clone)]
pub(super) struct Progress {
    pub(super) status: DeliveryStatus,
    /// The number of attempts that have begun.
    pub(super) attempts: usize,
    /// The number of attempts in progress.
    pub(super) running: u32,
    next_attempt_at: Option<Timestamp>,
    /// The attempts that have ended, oldest first.
    pub(super) recorded: VecDeque<Attempt>,
}

impl Session {
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a delivery. The oldest ones are dropped.
    pub(super) fn begin(&self, event: LoggedEvent, body: Bytes) -> Arc<Tracked> {
        let mut kept = self.kept();
        kept.last += 1;
        kept.bytes += body.len();
        let tracked = Arc::new(Tracked {
            number: kept.last,
            event,
            body,
            created_at: Timestamp::now(),
            progress: Mutex::new(Progress {
                status: DeliveryStatus::Pending,
                attempts: 0,
                running: 0,
                next_attempt_at: None,
                recorded: VecDeque::new(),
            }),
        });
        kept.deliveries.insert(tracked.number, tracked.clone());
        while (kept.deliveries.len() > DELIVERIES || kept.bytes > BYTES)
            && let Some((_, oldest)) = kept.deliveries.pop_first()
        {
            kept.bytes -= oldest.body.len();
        }
        drop(kept);
        self.changed.send_replace(());
        tracked
    }

    /// Counts an attempt that begins; returns its number.
    pub(super) fn attempt(&self, tracked: &Tracked) -> usize {
        let mut progress = tracked.progress();
        progress.attempts += 1;
        progress.running += 1;
        progress.next_attempt_at = None;
        let number = progress.attempts;
        drop(progress);
        self.changed.send_replace(());
        number
    }

    /// Records an attempt that has ended.
    pub(super) fn attempted(&self, tracked: &Tracked, attempt: Attempt) {
        let mut progress = tracked.progress();
        progress.running -= 1;
        if attempt.error.is_none() {
            progress.status = DeliveryStatus::Succeeded;
            progress.next_attempt_at = None;
        }
        progress.recorded.push_back(attempt);
        if progress.recorded.len() > OF_ONE {
            progress.recorded.pop_front();
        }
        drop(progress);
        self.changed.send_replace(());
    }

    /// The next attempt follows after `pause`. `None` after the last attempt.
    pub(super) fn planned(&self, tracked: &Tracked, pause: Option<Duration>) {
        let mut progress = tracked.progress();
        match pause {
            Some(pause) => progress.next_attempt_at = Timestamp::now().checked_add(pause).ok(),
            // An attempt that the page requested may have been acknowledged meanwhile.
            None if progress.status == DeliveryStatus::Pending => {
                progress.status = DeliveryStatus::Failed;
            }
            None => {}
        }
        drop(progress);
        self.changed.send_replace(());
    }

    /// The delivery with this id.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Tracked>> {
        self.kept().deliveries.get(&id.parse().ok()?).cloned()
    }

    /// The event types of the deliveries.
    pub(super) fn event_types(&self) -> Vec<String> {
        let kept = self.kept();
        let types: BTreeSet<_> = kept
            .deliveries
            .values()
            .map(|it| &it.event.r#type)
            .collect();
        types.into_iter().cloned().collect()
    }

    /// A page of deliveries, newest first.
    pub(super) fn list(
        &self,
        filter: &DeliveryFilter,
        before: Option<&str>,
        target: &str,
    ) -> Page<DeliveryRow> {
        let before = before.and_then(|id| id.parse().ok()).unwrap_or(u64::MAX);
        let deliveries: Vec<_> = {
            let kept = self.kept();
            let older = kept.deliveries.range(..before).rev();
            older.map(|(_, tracked)| tracked.clone()).collect()
        };
        let mut rows = deliveries.iter().filter_map(|tracked| {
            let row = tracked.row(target);
            tracked.matches(&row, filter).then_some(row)
        });
        Page {
            items: rows.by_ref().take(PAGE).collect(),
            has_more: rows.next().is_some(),
        }
    }
}

impl Tracked {
    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was acknowledged.
    pub(super) fn has_succeeded(&self) -> bool {
        self.progress().status == DeliveryStatus::Succeeded
    }

    pub(super) fn row(&self, target: &str) -> DeliveryRow {
        let progress = self.progress();
        let last = progress.recorded.back();
        DeliveryRow {
            id: self.number.to_string(),
            event_id: self.event.id.clone(),
            event_type: self.event.r#type.clone(),
            webhook: "listen".to_owned(),
            url: target.to_owned(),
            status: progress.status,
            in_progress: progress.running > 0,
            attempts: progress.attempts.try_into().unwrap_or(u32::MAX),
            created_at: self.created_at,
            next_attempt_at: progress.next_attempt_at,
            last_status: last.and_then(|last| last.status),
            last_error: last.and_then(|last| last.error.clone()),
        }
    }

    fn matches(&self, row: &DeliveryRow, filter: &DeliveryFilter) -> bool {
        let has_text = |text: &String| {
            // The body contains the event's id and its payload.
            contains(&String::from_utf8_lossy(&self.body), text)
                || contains(&row.url, text)
                || row
                    .last_error
                    .as_ref()
                    .is_some_and(|why| contains(why, text))
        };
        filter
            .event_type
            .as_ref()
            .is_none_or(|name| row.event_type == *name)
            && filter.status.is_none_or(|status| row.status == status)
            && filter.text.as_ref().is_none_or(has_text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(id: &str) -> LoggedEvent {
        let event =
            json!({"spec": "1", "id": id, "type": "user.created", "source": "s", "timestamp": 0});
        serde_json::from_value(event).unwrap()
    }

    fn ids(page: &Page<DeliveryRow>) -> Vec<&str> {
        page.items.iter().map(|row| &*row.event_id).collect()
    }

    #[test]
    fn the_latest_deliveries_are_kept_and_listed_in_pages() {
        let session = Session::default();
        for n in 1..=DELIVERIES + 1 {
            session.begin(event(&format!("evt_{n}")), Bytes::from(format!("<{n}>")));
        }
        assert!(session.get("1").is_none() && session.get("2").is_some());
        let filter = DeliveryFilter::default();
        let first = session.list(&filter, None, "");
        assert_eq!((first.items.len(), first.has_more), (PAGE, true));
        assert_eq!(ids(&first)[0], "evt_1001");
        let second = session.list(&filter, Some(&first.items[PAGE - 1].id), "");
        assert_eq!(ids(&second)[0], "evt_951");
        let last = session.list(&filter, Some("3"), "");
        assert_eq!((ids(&last), last.has_more), (vec!["evt_2"], false));
        let mut filter = DeliveryFilter::default();
        filter.text = Some("<77>".to_owned());
        assert_eq!(ids(&session.list(&filter, None, "")), ["evt_77"]);
        filter.status = Some(DeliveryStatus::Failed);
        assert_eq!(ids(&session.list(&filter, None, "")), [""; 0]);

        session.begin(event("large"), Bytes::from(vec![0; BYTES]));
        assert_eq!(
            ids(&session.list(&DeliveryFilter::default(), None, "")),
            ["large"]
        );
    }
}
