//! Deliveries that cannot be handled, and are kept as dead letters without calling a handler:
//! unreadable, expired, or refused by the store.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    Shared, claim::Claiming, disposition::Disposition, http::About, in_flight::InFlightPermit,
};
use crate::{
    event::{Event, ParseError},
    handlers::{Claimed, Finished, Resolution},
    ledger::{Digest, EventKey, LedgerError, LedgerErrorKind},
    time::agree,
};

/// A dead letter to be kept.
struct Letter<'a> {
    key: EventKey,
    digest: Digest,
    error: String,
    body: &'a Bytes,
    /// The answer if the letter cannot be kept. The answer's name is also the letter's reason.
    otherwise: Disposition,
}

impl Shared {
    /// Keeps a body that is not an event. It has no id, so its key is a hash of its content.
    pub(super) async fn dead_letter_unreadable(
        &self,
        body: Bytes,
        error: &ParseError,
        place: &mut InFlightPermit,
    ) -> Disposition {
        let letter = Letter {
            key: EventKey::unreadable(self.endpoint.clone(), &body),
            digest: Digest::of(&body),
            error: error.to_string(),
            body: &body,
            otherwise: Disposition::Unreadable,
        };
        self.dead_letter(letter, place).await
    }

    /// Keeps an event whose content the store refuses: a redelivery would be refused again.
    pub(super) async fn dead_letter_refused(
        &self,
        key: EventKey,
        digest: Digest,
        event: &Event,
        error: &LedgerError,
        place: &mut InFlightPermit,
    ) -> Disposition {
        let letter = Letter {
            key,
            digest,
            error: error.chain(),
            body: event.body(),
            otherwise: Disposition::ContentRefused,
        };
        self.dead_letter(letter, place).await
    }

    /// Answers a delivery that is older, by the `time` in its body, than the ledger's retention. It
    /// may be an old capture, replayed by an attacker after its record was pruned.
    ///
    /// If this machine's clock is wrong, every delivery looks that old. So something else has to
    /// confirm the clock: a recent delivery, or the store's own clock.
    pub(super) async fn expired(
        &self,
        event: &Event,
        now: Timestamp,
        place: &mut InFlightPermit,
    ) -> Disposition {
        if !self.witness.vouches_for(now) {
            match self.ledger.server_time().await {
                Ok(Some(store_time)) if agree(now, store_time) => {}
                Ok(store_time) => {
                    self.witness.unsure();
                    let retry_after = self.settings.retry_after;
                    return clock_unsure(self.about(), event, now, store_time, retry_after);
                }
                Err(error) => return self.store_down(&error),
            }
        }
        let letter = Letter {
            // A key of its own: the event itself may still be pending in the inbox, or be ingested
            // from AuthPI's log.
            key: EventKey::expired(self.endpoint.clone(), event.id()),
            digest: Digest::of(event.raw_bytes()),
            error: "the time of the delivery is longer ago than the ledger's retention".to_owned(),
            body: event.body(),
            otherwise: Disposition::Expired,
        };
        self.dead_letter(letter, place).await
    }

    /// Keeps the letter, once for all copies of the delivery.
    async fn dead_letter(&self, letter: Letter<'_>, place: &mut InFlightPermit) -> Disposition {
        let Letter {
            key,
            digest,
            error,
            body,
            otherwise,
        } = letter;
        if !self.ledger.keeps_dead_letters() {
            return self.refuse(&key, &error, otherwise);
        }
        let grant = match self.claim(&key, digest, None, place).await {
            Ok(Claiming::Granted(grant)) => grant,
            Ok(Claiming::Answered(answer)) => return answer,
            Err(error) if error.kind() == LedgerErrorKind::Content => {
                return self.refuse(&key, &error.chain(), otherwise);
            }
            Err(error) => return self.store_down(&error),
        };
        let claimed = Claimed {
            ledger: &self.ledger,
            key: &key,
            token: grant.token,
            requested_at: grant.requested_at,
            lease: self.settings.lease,
            log: &self.log,
            type_labels: &self.settings.type_labels,
        };
        let resolution = Resolution::DeadLetter {
            reason: otherwise.outcome(),
            error,
        };
        let retry_after = self.settings.retry_after;
        match claimed.finish(&resolution, body).await {
            Finished::Recorded | Finished::DeadLetter => Disposition::DeadLetter,
            Finished::ContentRefused(error) => self.refuse(&key, &error.chain(), otherwise),
            Finished::LeaseLost => Disposition::LeaseLost { retry_after },
            Finished::StoreDown => Disposition::StoreDown { retry_after },
        }
    }

    /// Refuses a delivery that cannot be kept.
    pub(super) fn refuse(&self, key: &EventKey, error: &str, answer: Disposition) -> Disposition {
        refuse(self.about(), key, error, answer)
    }
}

/// Logs that a delivery can be neither handled nor kept, and returns the answer.
pub(super) fn refuse(
    (endpoint, log): About<'_>,
    key: &EventKey,
    error: &str,
    answer: Disposition,
) -> Disposition {
    log.write(
        "a delivery was refused: it can be neither handled nor kept",
        answer.outcome(),
        |left_out| {
            tracing::warn!(
                endpoint,
                event_id = key.event_id(),
                outcome = answer.outcome(),
                error,
                left_out,
                "a delivery was refused: it can be neither handled nor kept"
            );
        },
    );
    answer
}

/// The age of the delivery, by the time in its signed body. Zero if that time is in the future.
pub(super) fn age(now: Timestamp, event: &Event) -> Duration {
    Duration::try_from(now.duration_since(event.delivered_at())).unwrap_or(Duration::ZERO)
}

/// Logs that the age of a delivery cannot be judged, and returns the answer.
pub(super) fn clock_unsure(
    (endpoint, log): About<'_>,
    event: &Event,
    now: Timestamp,
    store_time: Option<Timestamp>,
    retry_after: Duration,
) -> Disposition {
    let reason = if store_time.is_some() {
        "store_differs"
    } else {
        "no_witness"
    };
    log.write(
        "a delivery seems expired, and the clock is unconfirmed",
        reason,
        |left_out| {
            tracing::error!(
                endpoint,
                event_id = &*EventKey::bounded(event.id()),
                delivered_at = %event.delivered_at(),
                clock = %now,
                store_clock = store_time.map(tracing::field::display),
                left_out,
                "a delivery seems expired, and the clock is unconfirmed: check this machine's clock"
            );
        },
    );
    Disposition::ClockUnsure { retry_after }
}
