//! `Verified<Event>` and `Verified<Bytes>` as axum extractors, for handlers that bring their own idempotency.

use axum_core::{
    body::Body,
    extract::{FromRef, FromRequest, Request},
    response::Response,
};
use bytes::Bytes;

use super::{DEFAULT_BODY_TIMEOUT, answer::Answer, http::authentic};
use crate::{
    event::Event,
    signature::{Verified, Verifier},
};

/// The body of an authentic delivery, by the [`Verifier`] in the router's state. Refuses as a [`Receiver`](super::Receiver)
/// does; the body may take 10 s.
impl<S> FromRequest<S> for Verified<Bytes>
where
    Verifier: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        authentic(&Verifier::from_ref(state), DEFAULT_BODY_TIMEOUT, "extractor", request).await.map_err(refusal)
    }
}

/// The event in an authentic delivery. Whoever takes it acknowledges with status 200, and must expect it again.
impl<S> FromRequest<S> for Verified<Event>
where
    Verifier: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let body = Verified::<Bytes>::from_request(request, state).await?;
        body.event().map_err(|error| {
            tracing::warn!(%error, "an authentic delivery is not a readable event");
            refusal(Answer::Unreadable)
        })
    }
}

fn refusal(answer: Answer) -> Response {
    answer.response().map(Body::new)
}
