//! The messages that this process has taken from the stream and not settled, so that the ledger's
//! outcome can be reported to the stream. If this is lost, nothing else is: unsettled messages are
//! delivered again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_nats::Subject;
use jiff::Timestamp;

use crate::ledger::{EventKey, Token};

/// Settles one delivery of a message.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) reply: Subject,
    /// When the message was stored, by the server's clock.
    pub(super) received_at: Timestamp,
}

#[derive(Default)]
pub(super) struct InFlight {
    /// Until when they are kept at most, if their end is not reported.
    leased: HashMap<(EventKey, Token), (Ticket, Instant)>,
    /// Messages that were returned, and when they are delivered again.
    waiting: HashMap<EventKey, (Ticket, Instant)>,
    /// The number of consecutive failures of the ledger to claim the event.
    refused: HashMap<EventKey, u32>,
}

/// The number of events whose failures are counted. With more, the ledger is unreachable, and the
/// events are not the cause.
const MOST_REFUSED: usize = 10_000;

/// After this time, another worker has a message that was due.
const OVERDUE: Duration = Duration::from_secs(1);
/// How often the server checks for due messages.
const GRAIN: Duration = Duration::from_millis(10);

impl InFlight {
    pub(super) fn lease(&mut self, key: &EventKey, token: Token, ticket: Ticket, lease: Duration) {
        let now = Instant::now();
        self.leased.retain(|_, (_, until)| *until > now);
        self.waiting.remove(key);
        self.refused.remove(key);
        self.leased
            .insert((key.clone(), token), (ticket, now + kept(lease)));
    }

    pub(super) fn renew(
        &mut self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Option<Ticket> {
        let (ticket, until) = self.leased.get_mut(&(key.clone(), token))?;
        *until = Instant::now() + kept(lease);
        Some(ticket.clone())
    }

    /// The holder's delivery; otherwise one that arrived while another worker held the event, and
    /// was returned.
    pub(super) fn ticket(&self, key: &EventKey, token: Token) -> Option<Ticket> {
        let found = self
            .leased
            .get(&(key.clone(), token))
            .or_else(|| self.waiting.get(key));
        found.map(|(ticket, _)| ticket.clone())
    }

    pub(super) fn lost(&mut self, key: &EventKey, token: Token) {
        self.leased.remove(&(key.clone(), token));
    }

    pub(super) fn settled(&mut self, key: &EventKey, token: Token) {
        self.lost(key, token);
        self.waiting.remove(key);
    }

    pub(super) fn waits(&mut self, key: &EventKey, ticket: Ticket, pause: Duration) {
        self.waiting
            .insert(key.clone(), (ticket, Instant::now() + pause));
    }

    /// The ledger has failed to claim it again. Returns the number of consecutive failures.
    pub(super) fn refused(&mut self, key: &EventKey) -> u32 {
        if self.refused.len() >= MOST_REFUSED && !self.refused.contains_key(key) {
            self.refused.clear();
        }
        let times = self.refused.entry(key.clone()).or_default();
        *times = times.saturating_add(1);
        *times
    }

    pub(super) fn refusals(&self, key: &EventKey) -> u32 {
        self.refused.get(key).copied().unwrap_or_default()
    }

    /// It is finished, or the ledger has answered.
    pub(super) fn answered(&mut self, key: &EventKey) {
        self.refused.remove(key);
    }

    /// Every leased delivery of the event.
    pub(super) fn forget(&mut self, key: &EventKey) -> Vec<Ticket> {
        self.leased
            .extract_if(|(leased, _), _| leased == key)
            .map(|(_, (ticket, _))| ticket)
            .collect()
    }

    /// When to look for the endpoint's next returned message. A late one is looked for again after
    /// as long as it is late, unless another process must have it by now.
    pub(super) fn due_in(&mut self, endpoint: &str) -> Option<Duration> {
        let now = Instant::now();
        self.waiting
            .retain(|_, (_, due)| now.saturating_duration_since(*due) < OVERDUE);
        let due_in = |due: Instant| match due.checked_duration_since(now) {
            Some(left) if left > GRAIN => left,
            _ => now.saturating_duration_since(due).max(GRAIN),
        };
        self.waiting
            .iter()
            .filter(|(key, _)| key.endpoint() == endpoint)
            .map(|(_, (_, due))| due_in(*due))
            .min()
    }
}

/// Long enough for a late holder: a lease that has expired may still be completed.
fn kept(lease: Duration) -> Duration {
    lease
        .saturating_mul(2)
        .clamp(Duration::from_hours(1), Duration::from_hours(7 * 24))
}
