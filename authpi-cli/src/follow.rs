//! Follows the event log: every event once, although AuthPI documents neither the order of the log
//! nor how soon an event appears in it.
//!
//! Each poll reads the log again from the newest event seen, less an overlap, and returns what was
//! not seen before. An event that appears later than the overlap after its time is not found.

use std::{collections::HashMap, time::Duration};

use authpi_sdk::{
    client::{self, Client, LoggedEvent},
    event::EventType,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{failure::chain, output::Output};

/// How much of the log is read again by each poll.
const OVERLAP: SignedDuration = SignedDuration::from_mins(5);
/// The pause between two polls.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause after a failed poll.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Where a follower is in the log. It can be saved and continued.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    /// Nothing before this time is wanted.
    start: Timestamp,
    /// The time of the newest event seen.
    newest: Timestamp,
    /// The ids and times, in Unix milliseconds, of the events seen within the overlap.
    seen: HashMap<String, i64>,
}

impl Position {
    pub(crate) fn new(start: Timestamp) -> Self {
        Self {
            start,
            newest: start,
            seen: HashMap::new(),
        }
    }

    /// The time from which on the log is read again.
    fn from(&self) -> Timestamp {
        self.newest
            .checked_sub(OVERLAP)
            .map_or(self.start, |from| from.max(self.start))
    }

    /// Takes the new ones of the events that were read, oldest first.
    fn advance(&mut self, read: Vec<LoggedEvent>) -> Vec<LoggedEvent> {
        let start = self.start.as_millisecond();
        let mut new: Vec<_> = read
            .into_iter()
            .filter(|event| event.timestamp.0 >= start && !self.seen.contains_key(&event.id))
            .collect();
        new.sort_by(|a, b| (a.timestamp, &a.id).cmp(&(b.timestamp, &b.id)));
        // The log can grow between two pages, so an event can be on both.
        new.dedup_by(|a, b| a.id == b.id);
        for event in &new {
            self.seen.insert(event.id.clone(), event.timestamp.0);
            if let Some(at) = event.time() {
                self.newest = self.newest.max(at);
            }
        }
        let from = self.from().as_millisecond();
        self.seen.retain(|_, at| *at >= from);
        new
    }
}

/// Reads new events from the log.
pub(crate) struct Follower {
    client: Client,
    types: Vec<EventType>,
    position: Position,
    pause: Option<Duration>,
}

impl Follower {
    pub(crate) fn new(client: &Client, types: Vec<EventType>, position: Position) -> Self {
        Self {
            client: client.clone(),
            types,
            position,
            pause: None,
        }
    }

    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// Reads the log once, and returns the new events, oldest first, and the pause before the next
    /// time. Says when AuthPI cannot be reached and when it is back; other failures are errors.
    pub(crate) async fn poll(
        &mut self,
        output: Output,
    ) -> Result<(Vec<LoggedEvent>, Duration), client::Error> {
        match self.read().await {
            Ok(read) => {
                if self.pause.take().is_some() {
                    output.note("connected again; no event was skipped");
                }
                Ok((self.position.advance(read), POLL_INTERVAL))
            }
            Err(error) if passes(&error) => {
                let pause = self
                    .pause
                    .map_or(POLL_INTERVAL, |last| (last * 2).min(MAX_PAUSE));
                self.pause = Some(pause);
                output.note(&format!("{}; trying again in {pause:?}", chain(&error)));
                Ok((Vec::new(), pause))
            }
            Err(error) => Err(error),
        }
    }

    async fn read(&self) -> Result<Vec<LoggedEvent>, client::Error> {
        let mut call = self.client.events().list().limit(100);
        // Whether the bound itself is included is not documented.
        if let Ok(from) = self
            .position
            .from()
            .checked_sub(SignedDuration::from_millis(1))
        {
            call = call.after(from);
        }
        if !self.types.is_empty() {
            call = call.event_types(self.types.iter().cloned());
        }
        let mut items = call.items();
        let mut read = Vec::new();
        while let Some(event) = items.next().await {
            read.push(event?);
        }
        Ok(read)
    }
}

/// Whether the same call may succeed later: AuthPI cannot be reached or fails, not we.
fn passes(error: &client::Error) -> bool {
    error.is_timeout()
        || error.is_connect()
        || error.status().is_none_or(|status| {
            status.is_server_error() || status == http::StatusCode::TOO_MANY_REQUESTS
        }) && !error.is_invalid_argument()
            && !error.is_configuration()
            && !error.is_credential()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(id: &str, second: i64) -> LoggedEvent {
        let event = json!({"spec": "1", "id": id, "type": "user.created", "source": "s", "timestamp": second * 1000});
        serde_json::from_value(event).unwrap()
    }

    fn ids(events: &[LoggedEvent]) -> Vec<&str> {
        events.iter().map(|event| event.id.as_str()).collect()
    }

    #[test]
    fn every_event_comes_once_and_late_ones_within_the_overlap_too() {
        let start = Timestamp::from_second(1_000).unwrap();
        let mut position = Position::new(start);
        let first = position.advance(vec![
            event("b", 1_002),
            event("a", 1_001),
            event("old", 999),
        ]);
        assert_eq!(ids(&first), ["a", "b"]);
        // `late` appears after `b`, although it happened before.
        let again = position.advance(vec![
            event("late", 1_001),
            event("a", 1_001),
            event("b", 1_002),
        ]);
        assert_eq!(ids(&again), ["late"]);
        assert!(position.advance(vec![event("late", 1_001)]).is_empty());
    }

    #[test]
    fn what_was_seen_is_kept_for_the_overlap_only_and_can_be_saved() {
        let mut position = Position::new(Timestamp::from_second(1_000).unwrap());
        position.advance(vec![event("a", 1_001)]);
        position.advance(vec![event("b", 2_000)]);
        assert_eq!(position.seen.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(position.from(), Timestamp::from_second(1_700).unwrap());
        let saved = serde_json::to_string(&position).unwrap();
        let mut read: Position = serde_json::from_str(&saved).unwrap();
        assert!(read.advance(vec![event("b", 2_000)]).is_empty());
    }
}
