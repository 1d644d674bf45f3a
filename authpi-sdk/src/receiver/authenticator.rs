//! Verifies deliveries for a service that handles them itself, without a ledger.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use jiff::Timestamp;

use super::{
    budget::BodyBudget,
    dead_letter::{age, clock_unsure, refuse},
    disposition::Disposition,
    http::{About, Bounds, authentic},
};
use crate::{
    Clock,
    event::Event,
    ledger::EventKey,
    signature::{Verified, Verifier},
    telemetry::{self, LogLimit},
    time::ClockWitness,
};

/// Verifies deliveries and leaves their events to the caller. It has the limits of a [`Receiver`]
/// for bodies, and refuses deliveries with the same answers. Created by [`Receiver::verify_only`].
/// Cheap to clone; clones share everything.
///
/// It has no ledger: an event that AuthPI delivers twice is returned twice, and a delivery that is
/// unreadable or too old is never acknowledged as a dead letter.
///
/// In axum, put it into the router's state and use [`Verified<Event>`](Verified) as an extractor
/// (feature `axum`). For actix-web and Rocket, separate crates have such an extractor: see the
/// [guide](https://docs.rs/authpi-sdk/latest/authpi_sdk/guide/frameworks/).
///
/// [`Receiver`]: super::Receiver
/// [`Receiver::verify_only`]: super::Receiver::verify_only
///
/// ```
/// # use authpi_sdk::{Verifier, receiver::{BuildError, Receiver}};
/// # fn example(verifier: Verifier) -> Result<(), BuildError> {
/// let authenticator = Receiver::verify_only("users", verifier).build()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Authenticator {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Arc<str>,
    verifier: Verifier,
    bodies: BodyBudget,
    body_timeout: Duration,
    retry_after: Duration,
    max_age: Duration,
    clock: Clock,
    log: LogLimit,
    witness: ClockWitness,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.log.flush(&self.endpoint);
    }
}

impl Authenticator {
    pub(super) fn new(
        endpoint: Arc<str>,
        verifier: Verifier,
        bodies: BodyBudget,
        settings: &super::Settings,
        max_age: Duration,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                endpoint,
                verifier,
                bodies,
                body_timeout: settings.body_timeout,
                retry_after: settings.retry_after,
                max_age,
                clock: settings.clock.clone(),
                log: LogLimit::default(),
                witness: ClockWitness::new(),
            }),
        }
    }

    /// Reads and verifies one request, and returns its event.
    ///
    /// # Errors
    /// When the request is not an authentic delivery, exceeds a limit, is too old, or contains no
    /// readable event. The error is the answer for AuthPI. It is already counted and logged, as by
    /// a [`Receiver`](super::Receiver).
    pub async fn authenticate<B: Body>(
        &self,
        request: Request<B>,
    ) -> Result<Verified<Event>, Response<Full<Bytes>>> {
        let now = self.shared.clock.now();
        let body = self.authenticate_bytes_at(request, now).await?;
        let event = self.event(&body, now);
        event.map_err(|answer| self.refused(answer))
    }

    /// Reads and verifies one request, and returns its body. The delivery may be older than
    /// [`max_age`](super::ReceiverBuilder::max_age), and the body need not be an event.
    ///
    /// # Errors
    /// As for [`authenticate`](Self::authenticate), except that age and content are not checked.
    pub async fn authenticate_bytes<B: Body>(
        &self,
        request: Request<B>,
    ) -> Result<Verified<Bytes>, Response<Full<Bytes>>> {
        let now = self.shared.clock.now();
        self.authenticate_bytes_at(request, now).await
    }

    async fn authenticate_bytes_at<B: Body>(
        &self,
        request: Request<B>,
        now: Timestamp,
    ) -> Result<Verified<Bytes>, Response<Full<Bytes>>> {
        let bounds = Bounds {
            about: self.about(),
            timeout: self.shared.body_timeout,
            budget: &self.shared.bodies,
            retry_after: self.shared.retry_after,
        };
        let body = authentic(&self.shared.verifier, bounds, request, now).await;
        body.map_err(|answer| self.refused(answer))
    }

    /// The event, if it can be read and is not too old.
    fn event(
        &self,
        body: &Verified<Bytes>,
        now: Timestamp,
    ) -> Result<Verified<Event>, Disposition> {
        let shared = &*self.shared;
        let event = body.event().map_err(|error| {
            let key = EventKey::unreadable(shared.endpoint.clone(), body);
            refuse(
                self.about(),
                &key,
                &error.to_string(),
                Disposition::Unreadable,
            )
        })?;
        if age(now, &event) <= shared.max_age {
            shared.witness.saw_recent(now);
            return Ok(event);
        }
        if !shared.witness.vouches_for(now) {
            shared.witness.unsure();
            return Err(clock_unsure(
                self.about(),
                &event,
                now,
                None,
                shared.retry_after,
            ));
        }
        let key = EventKey::expired(shared.endpoint.clone(), event.id());
        let error = "the time of the delivery is longer ago than `max_age`";
        Err(refuse(self.about(), &key, error, Disposition::Expired))
    }

    fn refused(&self, answer: Disposition) -> Response<Full<Bytes>> {
        telemetry::count_by(
            telemetry::DELIVERIES,
            &self.shared.endpoint,
            "outcome",
            answer.outcome(),
        );
        answer.response()
    }

    fn about(&self) -> About<'_> {
        (&self.shared.endpoint, &self.shared.log)
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("endpoint", &self.shared.endpoint)
            .field("verifier", &self.shared.verifier)
            .finish_non_exhaustive()
    }
}
