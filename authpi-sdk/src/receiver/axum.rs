//! `Verified<Event>` and `Verified<Bytes>` as axum extractors, for handlers with their own
//! idempotency.

use std::sync::LazyLock;

use axum_core::{
    body::Body,
    extract::{FromRef, FromRequest, Request},
    response::Response,
};
use bytes::Bytes;

use super::{
    DEFAULT_BODY_TIMEOUT, DEFAULT_RETRY_AFTER,
    budget::{BodyBudget, default_budget},
    disposition::Disposition,
    http::{Bounds, authentic},
};
use crate::{
    event::Event,
    signature::{DEFAULT_MAX_BODY, Verified, Verifier},
    telemetry::LogLimit,
};

/// The budget of all extractors in the process. A budget in the request's extensions takes
/// precedence.
static BUDGET: LazyLock<BodyBudget> =
    LazyLock::new(|| BodyBudget::new(default_budget(DEFAULT_MAX_BODY)));
/// The endpoint's name in logs and metrics.
const ENDPOINT: &str = "extractor";
/// The log limit of all extractors in the process.
static LOG: LogLimit = LogLimit::new();

/// The body of an authentic delivery, verified by the [`Verifier`] in the router's state. Refuses
/// requests as a [`Receiver`](super::Receiver) does. The body may take 10 s, and counts against a
/// [`BodyBudget`] until it is verified.
impl<S> FromRequest<S> for Verified<Bytes>
where
    Verifier: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let budget = request
            .extensions()
            .get::<BodyBudget>()
            .unwrap_or(&BUDGET)
            .clone();
        let bounds = Bounds {
            about: (ENDPOINT, &LOG),
            timeout: DEFAULT_BODY_TIMEOUT,
            budget: &budget,
            retry_after: DEFAULT_RETRY_AFTER,
        };
        authentic(&Verifier::from_ref(state), bounds, request)
            .await
            .map_err(refusal)
    }
}

/// The event of an authentic delivery. A handler that answers 200 acknowledges it, and must expect
/// to receive it again.
impl<S> FromRequest<S> for Verified<Event>
where
    Verifier: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let body = Verified::<Bytes>::from_request(request, state).await?;
        body.event().map_err(|error| {
            LOG.write(
                "an authentic delivery is not a valid event",
                "unreadable",
                |left_out| {
                    tracing::warn!(%error, left_out, "an authentic delivery is not a valid event");
                },
            );
            refusal(Disposition::Unreadable)
        })
    }
}

fn refusal(answer: Disposition) -> Response {
    answer.response().map(Body::new)
}
