//! The HTTP side: checks the method, reads the body within its limits, verifies it, and passes it
//! on to detached work.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, Request, Response, header::CONTENT_LENGTH};
use http_body::Body;
use http_body_util::{BodyExt as _, Full};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{Instrument as _, Span, field::Empty};

use super::{
    Receiver, Shared, budget::BodyBudget, disposition::Disposition, in_flight::InFlightPermit,
};
use crate::{
    crash,
    signature::{FIRST_BUFFER, Verified, Verifier, VerifyError, Verifying},
    telemetry::{self, LogLimit},
    time::before,
};

impl Receiver {
    /// Handles one request and returns the answer.
    ///
    /// If the future is dropped while the body arrives, nothing is accepted. If it is dropped
    /// later, handling continues.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its timer enabled.
    pub async fn receive<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
    {
        self.receive_unverified(self.begin(request)).await
    }

    fn begin<B>(&self, request: Request<B>) -> Unverified<B> {
        let shared = &self.shared;
        let endpoint = &shared.endpoint;
        let span = telemetry::span!(
            INFO,
            "authpi.delivery",
            %endpoint,
            event_id = Empty,
            event_type = Empty,
            attempt = Empty,
            outcome = Empty,
        );
        let received_at = shared.settings.clock.now();
        let verifying =
            span.in_scope(|| begin(&shared.verifier, shared.about(), request, received_at));
        Unverified {
            span,
            received_at,
            verifying,
        }
    }

    async fn receive_unverified<B: Body>(
        &self,
        Unverified {
            span,
            received_at,
            verifying,
        }: Unverified<B>,
    ) -> Response<Full<Bytes>> {
        let shared = &self.shared;
        let authentic = match verifying {
            Ok((verifying, body)) => {
                let bounds = Bounds {
                    about: shared.about(),
                    timeout: shared.settings.body_timeout,
                    budget: &shared.bodies,
                    retry_after: shared.settings.retry_after,
                };
                bounds.read(verifying, body).instrument(span.clone()).await
            }
            Err(answer) => Err(answer),
        };
        let unread = shared.settings.type_labels.unread();
        let answer = match authentic {
            Ok(body) => {
                crash::point("verified");
                let (detached, within) = (Arc::clone(shared), span.clone());
                let work = |mut place| {
                    let work = async move {
                        let types = &detached.settings.type_labels;
                        let mut event_type = types.unread();
                        let answer = match body.event() {
                            Ok(event) => {
                                event_type = types.of(event.event_type().as_str());
                                detached
                                    .accept(&event, received_at, &mut place, &within)
                                    .await
                            }
                            Err(error) => {
                                Box::pin(detached.dead_letter_unreadable(
                                    body.into_inner(),
                                    &error,
                                    &mut place,
                                ))
                                .await
                            }
                        };
                        // Counted in the task, since the sender may have hung up.
                        detached.count(answer, &within, event_type)
                    };
                    work.instrument(span.clone())
                };
                self.run_detached(work)
                    .await
                    .unwrap_or_else(|refused| shared.count(refused, &span, unread))
            }
            Err(answer) => shared.count(answer, &span, unread),
        };
        crash::point("answering");
        answer.response()
    }

    /// Runs the work detached from the request, so that the sender may hang up. The work becomes a
    /// task, unless it finishes on its first poll and no runtime is set. It holds its permit until
    /// it ends, except while it waits for the outcome of another worker. `Err` is the answer if the
    /// work was not started or did not finish.
    pub(super) async fn run_detached<W>(
        &self,
        work: impl FnOnce(InFlightPermit) -> W,
    ) -> Result<Disposition, Disposition>
    where
        W: Future<Output = Disposition> + Send + 'static,
    {
        let shared = &self.shared;
        let retry_after = shared.settings.retry_after;
        if shared.places.is_draining() {
            return Err(Disposition::Draining { retry_after });
        }
        let Some(place) = InFlightPermit::take(&shared.places) else {
            return Err(Disposition::TooMany { retry_after });
        };
        if let Some(runtime) = &self.runtime {
            return self.finished(runtime.spawn(work(place)).await.map_err(|e| e.to_string()));
        }
        let mut work = Box::pin(work(place));
        // Work that never waits is done after the first poll; a task would double its cost. There
        // is no await between that poll and the task, so the work cannot be dropped in between.
        let first =
            poll_fn(|cx| Poll::Ready(catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)))))
                .await;
        let done = match first {
            Ok(Poll::Ready(answer)) => return Ok(answer),
            Ok(Poll::Pending) => tokio::spawn(work).await.map_err(|error| error.to_string()),
            Err(_) => Err("it panicked".to_owned()),
        };
        self.finished(done)
    }

    /// The answer of detached work. If the work panicked or its runtime ended, it has no answer of
    /// its own. That is logged, and the answer is `Failed`.
    fn finished(&self, done: Result<Disposition, String>) -> Result<Disposition, Disposition> {
        let shared = &self.shared;
        done.map_err(|error| {
            // Panics of handlers are caught elsewhere, so a panic here is a bug in this crate.
            shared.log.write("the work on an event did not finish", "panic", |left_out| {
                tracing::error!(endpoint = %shared.endpoint, error, left_out, "the work on an event did not finish");
            });
            let retry_after = shared.settings.retry_after;
            Disposition::Failed { retry_after }
        })
    }
}

/// A request whose head was read, with the span of its delivery.
struct Unverified<B> {
    span: Span,
    received_at: Timestamp,
    verifying: Result<(Verifying, B), Disposition>,
}

/// The body of an authentic delivery, or the answer to the request.
pub(super) async fn authentic<B: Body>(
    verifier: &Verifier,
    bounds: Bounds<'_>,
    request: Request<B>,
    now: Timestamp,
) -> Result<Verified<Bytes>, Disposition> {
    let (endpoint, log) = bounds.about;
    log.tick(endpoint);
    let (verifying, body) = begin(verifier, bounds.about, request, now)?;
    bounds.read(verifying, body).await
}

/// Checks everything except the body. Not async, so that no future has to hold the headers.
fn begin<B>(
    verifier: &Verifier,
    about: About<'_>,
    request: Request<B>,
    now: Timestamp,
) -> Result<(Verifying, B), Disposition> {
    if request.method() != Method::POST {
        return Err(Disposition::NotPost);
    }
    let limit = verifier.body_limit();
    if announced_length(request.headers()).is_some_and(|length| length > limit as u64) {
        return Err(refuse(about, &VerifyError::TooLarge { limit }));
    }
    let verifying = verifier
        .begin_at(request.headers(), now)
        .map_err(|error| refuse(about, &error))?;
    Ok((verifying, request.into_body()))
}

/// The limits of an unauthenticated body, besides the verifier's size limit.
#[derive(Clone, Copy)]
pub(super) struct Bounds<'a> {
    pub(super) about: About<'a>,
    pub(super) timeout: Duration,
    pub(super) budget: &'a BodyBudget,
    /// The `Retry-After` of a body that is dropped because the budget is full.
    pub(super) retry_after: Duration,
}

impl Bounds<'_> {
    async fn read<B: Body>(
        self,
        verifying: Verifying,
        body: B,
    ) -> Result<Verified<Bytes>, Disposition> {
        let body = pin!(body);
        let whole = pin!(self.read_frames(verifying, body));
        before(|| Instant::now() + self.timeout, whole)
            .await
            .unwrap_or(Err(Disposition::TooSlow))
    }

    async fn read_frames<B: Body>(
        &self,
        mut verifying: Verifying,
        mut body: Pin<&mut B>,
    ) -> Result<Verified<Bytes>, Disposition> {
        while let Some(data) = next_data(body.as_mut()).await? {
            let is_last = body.is_end_stream();
            if verifying.buffer_for(data.len(), is_last) > FIRST_BUFFER {
                return Box::pin(self.read_large(verifying, body, data)).await;
            }
            verifying
                .take(data, is_last)
                .map_err(|error| self.refuse(&error))?;
        }
        verifying.finish().map_err(|error| self.refuse(&error))
    }

    /// Continues with a body that needs a larger buffer, within the budget.
    async fn read_large<B: Body>(
        &self,
        verifying: Verifying,
        mut body: Pin<&mut B>,
        mut data: Bytes,
    ) -> Result<Verified<Bytes>, Disposition> {
        let shed = |_| Disposition::Shed {
            retry_after: self.retry_after,
        };
        let charge = self.budget.begin();
        let mut arrived = verifying.received() + data.len();
        // Declared after the charge, so that its buffer is freed before the charge is released.
        let mut verifying = verifying;
        loop {
            let is_last = body.is_end_stream();
            charge
                .hold(verifying.buffer_for(data.len(), is_last), arrived)
                .await
                .map_err(shed)?;
            verifying
                .take(data, is_last)
                .map_err(|error| self.refuse(&error))?;
            let next = tokio::select! {
                biased;
                dropped = charge.shed() => return Err(shed(dropped)),
                next = next_data(body.as_mut()) => next?,
            };
            match next {
                Some(more) => (arrived, data) = (more.len(), more),
                None => break,
            }
        }
        // An authentic body counts as work in progress, and no longer against the budget.
        verifying.finish().map_err(|error| self.refuse(&error))
    }

    fn refuse(&self, error: &VerifyError) -> Disposition {
        refuse(self.about, error)
    }
}

async fn next_data<B: Body>(mut body: Pin<&mut B>) -> Result<Option<Bytes>, Disposition> {
    while let Some(frame) = body.frame().await {
        // The framework's error only says that the body did not arrive.
        let frame = frame.map_err(|_| Disposition::Interrupted)?;
        if let Ok(mut data) = frame.into_data() {
            return Ok(Some(data.copy_to_bytes(data.remaining())));
        }
    }
    Ok(None)
}

/// The endpoint's name for metrics and log lines, and the log limit.
pub(super) type About<'a> = (&'a str, &'a LogLimit);

/// Counts the reason, and logs it unless the body is too large. The answer does not say why a
/// signature was refused.
fn refuse((endpoint, log): About<'_>, error: &VerifyError) -> Disposition {
    let reason = error.reason();
    metrics::counter!(telemetry::REJECTED, "endpoint" => endpoint.to_owned(), "reason" => reason)
        .increment(1);
    match error {
        VerifyError::TooLarge { .. } => Disposition::TooLarge,
        VerifyError::NoUsableSecret => {
            log.write("cannot verify any delivery", reason, |left_out| {
                tracing::error!(endpoint, reason, %error, left_out, "cannot verify any delivery");
            });
            Disposition::NoSecret
        }
        _ => {
            log.write("a delivery was refused", reason, |left_out| {
                tracing::warn!(endpoint, reason, %error, left_out, "a delivery was refused");
            });
            Disposition::Unauthorized
        }
    }
}

impl Shared {
    pub(super) fn about(&self) -> About<'_> {
        (&self.endpoint, &self.log)
    }

    /// Counts the answer and returns it.
    fn count(
        &self,
        answer: Disposition,
        span: &Span,
        event_type: Option<&'static str>,
    ) -> Disposition {
        let outcome = answer.outcome();
        telemetry::count_outcome(telemetry::DELIVERIES, &self.endpoint, outcome, event_type);
        span.record("outcome", outcome);
        span.in_scope(
            || tracing::debug!(endpoint = %self.endpoint, outcome, "answered a delivery"),
        );
        self.log.tick(&self.endpoint);
        answer
    }
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl<B> tower_service::Service<Request<B>> for Receiver
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Always ready: excess requests are answered with 503.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (receiver, begun) = (self.clone(), self.begin(request));
        Box::pin(async move { Ok(receiver.receive_unverified(begun).await) })
    }
}
