//! One run: passes over the log up to the present, until a pass leaves little behind.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};

use super::{
    Progress, ReconcileError, Report, Shared, Stopped,
    error::Kind,
    filter::Subscription,
    ingest::{IngestResult, Ingesting, MIN_PAUSE},
    log::{Entries, MAX_PAGE, Read, Reading},
    windows::{Window, Windows},
};
use crate::{RawJson, event::ParseError, ledger::EventKey, receiver::Ingested, telemetry};

/// During a pass that took less than this, few new events can have happened.
const CLOSE_ENOUGH: Duration = Duration::from_secs(1);
/// The maximum number of passes. If it is not enough, events happen faster than they are ingested,
/// and the run would never end.
const MOST_PASSES: u32 = 10;
/// The watermark is saved after this many events, and at the end of each window.
const SAVE_EVERY: u64 = 256;

pub(super) struct Passes<'a> {
    shared: &'a Shared,
    begin: Instant,
    /// The time from which the current pass reads the log.
    from: Timestamp,
    /// The page size.
    page: u32,
    report: Report,
}

impl<'a> Passes<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            begin: Instant::now(),
            from: Timestamp::MIN,
            page: MAX_PAGE,
            report: Report::default(),
        }
    }

    pub(super) async fn run(&mut self) -> Result<(), Kind> {
        let Shared {
            client,
            receiver,
            webhook,
            watermark,
            settings,
        } = self.shared;
        self.report.watermark = watermark.load(receiver.endpoint()).await?;
        let webhook = webhook.look(client).await?;
        tracing::Span::current().record("webhook_id", &webhook.id);
        let wanted = Subscription::of(&webhook, settings.subjects.clone());
        loop {
            // The clock is read once per pass, before its first window. An event that enters the
            // log late may belong to a window that was already read. The watermark is never set
            // beyond this time, so the overlap of the next pass covers such an event.
            let (now, new_before) = (settings.clock.now(), self.report.progress.new_events());
            self.report.passes += 1;
            self.pass(&wanted, now).await?;
            if self.report.stopped.is_some() {
                return Ok(());
            }
            let nothing_new = self.report.progress.new_events() == new_before;
            // `nothing_new` does not count for the first pass: that pass may have read many
            // duplicates and taken long. Later passes begin at the watermark minus the overlap, so
            // they read little.
            self.report.caught_up =
                settings.clock.since(now) < CLOSE_ENOUGH || (nothing_new && self.report.passes > 1);
            if self.report.caught_up || self.report.passes == MOST_PASSES {
                return Ok(());
            }
        }
    }

    async fn pass(&mut self, wanted: &Subscription, now: Timestamp) -> Result<(), Kind> {
        let Shared { settings, .. } = self.shared;
        self.from = begin(
            self.report.watermark,
            settings.since,
            wanted.created_at,
            settings.overlap,
        );
        self.skip_pruned(now).await?;
        let mut windows = Windows::new(self.from.as_millisecond(), now.as_millisecond());
        loop {
            let window = windows.next();
            let held = match self.read(window, wanted).await? {
                Read::Whole(held) => held,
                Read::Stopped(stopped) => {
                    self.report.stopped = Some(stopped);
                    return Ok(());
                }
                Read::TooMany { newest } => {
                    windows.split(window, newest);
                    continue;
                }
            };
            let events = held.events.len();
            self.ingest(held, now).await?;
            if self.report.stopped.is_some() || !windows.done(window, events, settings.limit) {
                return Ok(());
            }
        }
    }

    /// If the pass would begin at a time whose records the ledger may have removed, moves its
    /// beginning to the earliest time whose records it still has. Events before that would be
    /// handled again. Does nothing if `since` is set.
    ///
    /// Uses the earlier of this machine's clock and the store's, if the store has one: with a clock
    /// that is ahead, the pass would begin too late and skip events whose records the ledger still
    /// has.
    async fn skip_pruned(&mut self, now: Timestamp) -> Result<(), Kind> {
        let Shared {
            receiver, settings, ..
        } = self.shared;
        let known_from = |now| known_from(now, receiver.ledger().retention(), settings.overlap);
        if settings.since.is_some() || self.from >= known_from(now) {
            return Ok(());
        }
        let store_says = receiver
            .ledger()
            .server_time()
            .await
            .map_err(Kind::Ledger)?;
        let now = store_says.unwrap_or(now).min(now);
        let known_from = known_from(now);
        if self.from >= known_from {
            return Ok(());
        }
        if self.report.not_read_before.is_none() {
            tracing::warn!(
                endpoint = receiver.endpoint(),
                would_begin = %self.from,
                not_read_before = %known_from,
                "the ledger may have no records from before `not_read_before`, so earlier events are not read; to read them, run with `since` and without this watermark"
            );
        }
        self.report.not_read_before.get_or_insert(known_from);
        self.from = known_from;
        Ok(())
    }

    async fn read(&mut self, window: Window, wanted: &Subscription) -> Result<Read, Kind> {
        let Shared {
            client, settings, ..
        } = self.shared;
        let mut reading = Reading::begin(client, window, wanted, self.page);
        loop {
            let page = match reading.page().await {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(Read::Whole(reading.whole())),
                // Events are large: request fewer at once.
                Err(error) if error.is_too_large() && self.page > 1 => {
                    self.page /= 2;
                    reading = Reading::begin(client, window, wanted, self.page);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.report.progress.pages += 1;
            self.report.progress.read += page.wanted;
            self.report_progress();
            for (raw, error) in page.unreadable {
                if let Some(stopped) = self.bury(raw, error).await {
                    return Ok(Read::Stopped(stopped));
                }
            }
            if let Some(newest) = reading.too_many(settings.limit) {
                return Ok(Read::TooMany { newest });
            }
        }
    }

    /// Keeps an unreadable entry as a dead letter. Retries in the same way as for an event.
    async fn bury(&mut self, raw: RawJson, error: ParseError) -> Option<Stopped> {
        let Shared {
            receiver, settings, ..
        } = self.shared;
        receiver.log().write("an entry of the log is not a readable event", "unreadable", |left_out| {
            let endpoint = receiver.endpoint();
            tracing::warn!(endpoint, %error, left_out, "an entry of the log is not a readable event");
        });
        let raw = Bytes::from(String::from(raw.get()));
        let give_up = Instant::now() + settings.retry_for;
        loop {
            let (outcome, wait) = match receiver.ingest_unreadable(raw.clone(), error.clone()).await
            {
                Ingested::NotAccepted {
                    outcome,
                    retry_after,
                } if outcome != "unreadable" => (outcome, retry_after.max(MIN_PAUSE)),
                _ => {
                    self.report.unreadable += 1;
                    return None;
                }
            };
            // A receiver that drains never accepts events again.
            if outcome == "draining" || wait > give_up.saturating_duration_since(Instant::now()) {
                let event_id = EventKey::unreadable(receiver.endpoint(), &raw)
                    .event_id()
                    .to_owned();
                tracing::error!(
                    endpoint = receiver.endpoint(),
                    event_id,
                    outcome,
                    "an unreadable entry was not accepted; the run stops there"
                );
                return Some(Stopped {
                    event_id,
                    time: self.from,
                    outcome,
                });
            }
            self.report.progress.count(Ingested::NotAccepted {
                outcome,
                retry_after: wait,
            });
            self.report_progress();
            sleep(wait).await;
        }
    }

    /// Ingests the events of a window. The watermark advances up to the first event that is not
    /// ingested yet. It is never later than `now`, the time at which the pass began, nor earlier
    /// than `from`, the time from which the pass reads the log.
    async fn ingest(&mut self, held: Entries, now: Timestamp) -> Result<(), Kind> {
        let Shared {
            receiver, settings, ..
        } = self.shared;
        self.report.not_shown = self.report.not_shown.saturating_add(held.not_shown);
        let newest = held.events.last_key_value().map(|((time, _), _)| *time);
        let mut since_saved = 0;
        let mut ingesting = Ingesting::begin(receiver, settings, held.events.into_values());
        while let Some(reported) = ingesting.next().await {
            let (ingested, reached) = match reported {
                IngestResult::Accepted {
                    ingested,
                    time,
                    all_before,
                } => {
                    let reached = all_before.unwrap_or(time);
                    self.report.progress.position =
                        self.report.progress.position.max(Some(reached));
                    (ingested, all_before.or(newest))
                }
                IngestResult::Retried { ingested } => (ingested, None),
                IngestResult::Stopped(stopped) => {
                    let (event_id, outcome) = (&*stopped.event_id, stopped.outcome);
                    tracing::error!(
                        endpoint = receiver.endpoint(),
                        event_id,
                        outcome,
                        "an event was not accepted; the run stops there"
                    );
                    // Of several such events, the first one is reported.
                    let first = self
                        .report
                        .stopped
                        .take()
                        .filter(|known| known.time <= stopped.time);
                    self.report.stopped = Some(first.unwrap_or(stopped));
                    continue;
                }
            };
            let outcome = self.report.progress.count(ingested);
            telemetry::count_by(
                telemetry::RECONCILED,
                receiver.shared_endpoint(),
                "outcome",
                outcome,
            );
            self.report_progress();
            if let Some(reached) = reached {
                self.report.watermark = self
                    .report
                    .watermark
                    .max(Some(reached.min(now).max(self.from)));
                since_saved += 1;
            }
            if since_saved == SAVE_EVERY {
                since_saved = 0;
                self.save().await?;
            }
        }
        if since_saved > 0 {
            self.save().await
        } else {
            Ok(())
        }
    }

    async fn save(&self) -> Result<(), Kind> {
        let Shared {
            receiver,
            watermark,
            ..
        } = self.shared;
        match self.report.watermark {
            Some(at) => Ok(watermark.save(receiver.endpoint(), at).await?),
            None => Ok(()),
        }
    }

    fn report_progress(&mut self) {
        let Self {
            shared: Shared {
                settings, receiver, ..
            },
            begin,
            report,
            ..
        } = self;
        let progress: &mut Progress = &mut report.progress;
        progress.elapsed = begin.elapsed();
        progress.lag = progress
            .position
            .map(|position| settings.clock.since(position))
            .unwrap_or_default();
        telemetry::reconcile_lag(receiver.shared_endpoint(), progress.lag);
        if let Some(callback) = &settings.on_progress {
            callback(progress);
        }
    }

    /// Completes the report, in the span of the run.
    pub(super) fn end(mut self, ended: Result<(), Kind>) -> Result<Report, ReconcileError> {
        let endpoint = self.shared.receiver.endpoint();
        let outcome = match (&ended, &self.report.stopped) {
            (Err(_), _) => "error",
            (Ok(()), Some(_)) => "stopped",
            (Ok(()), None) if self.report.caught_up => "complete",
            (Ok(()), None) => "behind",
        };
        if outcome == "complete" {
            // The log was read up to the present.
            self.report.progress.position =
                Some(self.shared.settings.clock.now()).max(self.report.progress.position);
        }
        self.report_progress();
        let report = self.report;
        let Progress {
            read, duplicates, ..
        } = report.progress;
        let (ingested, new) = (report.progress.ingested(), report.progress.new_events());
        tracing::Span::current()
            .record("outcome", outcome)
            .record("read", read)
            .record("ingested", ingested);
        tracing::info!(
            endpoint,
            outcome,
            read,
            ingested,
            new,
            duplicates,
            "reconciled with AuthPI's log"
        );
        match ended {
            Ok(()) => Ok(report),
            Err(kind) => Err(ReconcileError::after(kind, report)),
        }
    }
}

/// Where a pass begins.
///
/// A watermark from before the webhook's creation is that of an earlier webhook of the same
/// endpoint (for example, one that was replaced to change its secret), and is valid. A later
/// watermark belongs to this webhook. This webhook has no events from before its creation, so the
/// overlap reaches back to its creation at most, or to `since` if `since` is earlier.
fn begin(
    watermark: Option<Timestamp>,
    since: Option<Timestamp>,
    created_at: Timestamp,
    overlap: Duration,
) -> Timestamp {
    let Some(watermark) = watermark else {
        return since.unwrap_or(created_at);
    };
    let overlap = SignedDuration::try_from(overlap).unwrap_or(SignedDuration::MAX);
    let begin = watermark.saturating_sub(overlap).unwrap_or(Timestamp::MIN);
    let first = since.map_or(created_at, |since| since.min(created_at));
    if watermark >= first {
        begin.max(first)
    } else {
        begin
    }
}

/// The ledger still has the records of events that were handled after this time: `now` less the
/// retention. An overlap, at most half the retention, is added, because records are pruned while a
/// run is in progress.
fn known_from(now: Timestamp, retention: Duration, overlap: Duration) -> Timestamp {
    let sure = retention.saturating_sub(overlap.min(retention / 2));
    let sure = SignedDuration::try_from(sure).unwrap_or(SignedDuration::MAX);
    now.saturating_sub(sure).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_starts_an_overlap_before_the_watermark() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (case, watermark, since, created, begins) in [
            ("nothing is known", None, None, 1_000, 1_000),
            ("a begin is given", None, Some(2_000), 1_000, 2_000),
            (
                "a begin before the creation is given",
                None,
                Some(500),
                1_000,
                500,
            ),
            ("well after the creation", Some(5_000), None, 1_000, 4_900),
            (
                "shortly after the creation",
                Some(1_050),
                None,
                1_000,
                1_000,
            ),
            (
                "shortly after a begin before the creation",
                Some(550),
                Some(500),
                1_000,
                500,
            ),
            (
                "of an earlier webhook of the endpoint",
                Some(900),
                None,
                1_000,
                800,
            ),
            (
                "a begin that has long been passed",
                Some(5_000),
                Some(2_000),
                1_000,
                4_900,
            ),
        ] {
            let begun = begin(
                watermark.map(at),
                since.map(at),
                at(created),
                Duration::from_secs(100),
            );
            assert_eq!(begun, at(begins), "{case}");
        }
    }
}
