//! The stream of dead letters, with one message per event.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    header::NATS_EXPECTED_STREAM,
    jetstream::{context::PublishErrorKind, message::StreamMessage, stream::Stream},
};
use bytes::Bytes;
use jiff::Timestamp;

use super::{
    Nats,
    failure::AnyError,
    names,
    queue::{Queue, event_headers, found, key, timestamp},
};
use crate::{
    event::Event,
    ledger::{Claim, DeadLetter, Digest, EventKey, Ledger, LedgerError, dead_letter::log_replayed},
};

const REASON: &str = "Authpi-Reason";
const ATTEMPTS: &str = "Authpi-Attempts";
const RECEIVED: &str = "Authpi-Received";

/// A dead letter to be kept.
pub(super) struct Letter<'a> {
    pub(super) key: &'a EventKey,
    pub(super) reason: &'a str,
    /// 0 if unknown.
    pub(super) attempts: u32,
    pub(super) received_at: Timestamp,
    pub(super) body: Bytes,
}

/// The stream of dead letters.
pub(super) struct Letters {
    pub(super) stream: Stream<()>,
    /// Its name.
    pub(super) name: String,
}

impl Letters {
    /// Keeps the letter, in place of an older one of the same event.
    pub(super) async fn put(&self, queue: &Queue, letter: &Letter<'_>) -> Result<(), AnyError> {
        let subject = queue.names.letter(letter.key);
        let mut reason = names::line(letter.reason);
        reason.truncate(MAX_REASON_BYTES);
        loop {
            let mut headers = event_headers(letter.key);
            headers.insert(NATS_EXPECTED_STREAM, self.name.as_str());
            headers.insert(REASON, reason.as_str());
            headers.insert(ATTEMPTS, letter.attempts.to_string());
            headers.insert(RECEIVED, letter.received_at.as_millisecond().to_string());
            let sent = queue
                .jetstream
                .publish_with_headers(subject.clone(), headers, letter.body.clone())
                .await;
            match sent {
                // The body barely fitted into the event's message, and does not fit with these
                // headers: tries without the reason.
                Err(error)
                    if error.kind() == PublishErrorKind::MaxPayloadExceeded
                        && !reason.is_empty() =>
                {
                    reason.clear();
                }
                sent => {
                    sent?.await?;
                    return Ok(());
                }
            }
        }
    }

    /// The event's letter, if any.
    pub(super) async fn get(
        &self,
        queue: &Queue,
        key: &EventKey,
    ) -> Result<Option<StreamMessage>, AnyError> {
        found(
            self.stream
                .get_last_raw_message_by_subject(&queue.names.letter(key))
                .await,
        )
    }

    /// Returns whether there was one.
    pub(super) async fn remove(&self, queue: &Queue, key: &EventKey) -> Result<bool, AnyError> {
        // Reading is cheaper than removing, and usually there is none.
        if self.get(queue, key).await?.is_none() {
            return Ok(false);
        }
        Ok(self
            .stream
            .purge()
            .filter(queue.names.letter(key))
            .await?
            .purged
            > 0)
    }

    /// The first letter of the subject at or after a position in the stream.
    pub(super) async fn at_or_after(
        &self,
        sequence: u64,
        subject: &str,
    ) -> Result<Option<StreamMessage>, AnyError> {
        found(
            self.stream
                .get_first_raw_message_by_subject(subject, sequence)
                .await,
        )
    }

    /// Removes letters that were kept before `at`, and returns their number. Finds the position by
    /// binary search.
    async fn remove_until(&self, at: Timestamp, subject: &str) -> Result<u64, AnyError> {
        let state = self.stream.get_info().await?.state;
        let (mut low, mut high) = (state.first_sequence, state.last_sequence + 1);
        while low < high {
            let middle = low.midpoint(high);
            match self.at_or_after(middle, subject).await? {
                Some(letter) if timestamp(letter.time.into()) <= at => low = letter.sequence + 1,
                _ => high = middle,
            }
        }
        // The server treats a position before its first message as everything.
        if low <= state.first_sequence.max(1) {
            return Ok(0);
        }
        Ok(self.stream.purge().sequence(low).await?.purged)
    }
}

/// Keeps a header with all its escapes small.
const MAX_REASON_BYTES: usize = 2048;

pub(super) fn read(letter: StreamMessage) -> Option<DeadLetter> {
    let header = |name: &str| {
        letter
            .headers
            .get(name)
            .map(async_nats::HeaderValue::as_str)
    };
    let died_at = timestamp(letter.time.into());
    let received_at =
        header(RECEIVED).and_then(|text| Timestamp::from_millisecond(text.parse().ok()?).ok());
    Some(DeadLetter {
        key: key(&letter.headers)?,
        reason: reason(&letter.headers),
        attempts: header(ATTEMPTS)
            .and_then(|text| text.parse().ok())
            .unwrap_or_default(),
        first_claimed_at: received_at.unwrap_or(died_at),
        died_at,
        body: letter.payload,
    })
}

/// A long reason may be cut within an escape or a character.
fn reason(headers: &HeaderMap) -> String {
    let text = headers
        .get(REASON)
        .map(async_nats::HeaderValue::as_str)
        .unwrap_or_default();
    (0..=8)
        .find_map(|cut| names::read(text.get(..text.len().checked_sub(cut)?)?))
        .unwrap_or_default()
}

impl<L: Ledger> Nats<L> {
    /// The dead letters of an endpoint, oldest first, at most `limit`; those after the letter
    /// `after`, if given. Each letter takes a round trip. Its
    /// [`first_claimed_at`](DeadLetter::first_claimed_at) is when the event was stored.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn dead_letters(
        &self,
        endpoint: &str,
        after: Option<&DeadLetter>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, LedgerError> {
        const STEP: &str = "list dead letters";
        let (queue, limit) = (self.queue(), limit as usize);
        let subject = queue.names.letters(&names::token(endpoint), "*");
        let (mut from, mut read_to) = (1, after.map(|after| after.died_at));
        if let Some(after) = after
            && let Some(last) = queue
                .within(STEP, self.letters().get(queue, &after.key))
                .await?
            && timestamp(last.time.into()) == after.died_at
        {
            (from, read_to) = (last.sequence + 1, None);
        }
        let mut letters = Vec::new();
        while letters.len() < limit {
            let next = queue
                .within(STEP, self.letters().at_or_after(from, &subject))
                .await?;
            let Some(next) = next else { break };
            from = next.sequence + 1;
            // If the letter `after` is gone or was replaced, its position is unknown: letters that
            // are not newer than it are skipped.
            letters.extend(
                read(next).filter(|letter| read_to.is_none_or(|read_to| letter.died_at > read_to)),
            );
        }
        Ok(letters)
    }

    /// Puts a dead letter back into the stream, as if its event had just been delivered, without
    /// attempts. Returns whether there was such a dead letter; afterwards there is none. If this
    /// fails half-way, the dead letter still exists. Calling it again does not make the event
    /// handled twice, but two concurrent calls for the same event may.
    ///
    /// A worker of its endpoint handles it. An endpoint that is handled inline has no worker: the
    /// event waits until one runs or AuthPI delivers it again. The
    /// [guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/dead_letters/) shows how to run
    /// one. The receiver's health and `authpi_inbox_depth` show it.
    ///
    /// # Errors
    /// When the server, or the ledger, cannot be reached or refuses.
    pub async fn replay(&self, key: &EventKey) -> Result<bool, LedgerError> {
        const STEP: &str = "replay a dead letter";
        let (queue, letters) = (self.queue(), self.letters());
        let Some(letter) = queue.within(STEP, letters.get(queue, key)).await? else {
            return Ok(false);
        };
        let body = letter.payload;
        let digest = Event::from_json(body.clone())
            .map_or_else(|_| Digest::of(&body), |event| Digest::of(event.raw_bytes()));
        // An earlier call may already have published the event, so a record is only forgotten if it
        // is dead, or was created by this call. For a handled event, nothing is published. With any
        // other record, one more message does no harm, since the ledger decides.
        let handled = match self.ledger().claim(key, digest, self.limit()).await? {
            Claim::Handled { .. } => true,
            Claim::Granted { token, .. } if token.attempt > 1 => {
                let _ = self.ledger().release(key, token, Duration::ZERO).await?;
                false
            }
            Claim::Dead { .. } | Claim::Granted { .. } => {
                self.ledger().forget(key).await?;
                false
            }
            Claim::InFlight { .. } | Claim::NotYet { .. } => false,
        };
        queue
            .within(STEP, async {
                // A separate id, so that two calls store one message, and an event that has died
                // again can be replayed again.
                let id = format!("{}@dead.{}", names::message_id(key), letter.sequence);
                if !handled {
                    queue.publish_as(id, key, digest, body).await?;
                }
                match letters.stream.delete_message(letter.sequence).await {
                    Ok(_) => Ok(()),
                    // A concurrent replay has removed it.
                    Err(_)
                        if found(letters.stream.get_raw_message(letter.sequence).await)?
                            .is_none() =>
                    {
                        Ok(())
                    }
                    Err(error) => Err(AnyError::from(error)),
                }
            })
            .await?;
        log_replayed(key);
        Ok(true)
    }

    /// Removes all dead letters, of every endpoint, that were given up at least `age` ago, by the
    /// clock of this process. Returns their number. The ledger keeps their records for its own
    /// retention.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn purge(&self, age: Duration) -> Result<u64, LedgerError> {
        const STEP: &str = "purge";
        let (queue, letters) = (self.queue(), self.letters());
        let Ok(at) = self.now().checked_sub(age) else {
            return Ok(0);
        };
        let subject = queue.names.letters("*", "*");
        queue.within(STEP, letters.remove_until(at, &subject)).await
    }
}
