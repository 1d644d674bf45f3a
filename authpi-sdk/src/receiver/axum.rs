//! `Verified<Event>` and `Verified<Bytes>` as axum extractors.

use axum_core::{
    body::Body,
    extract::{FromRef, FromRequest, Request},
    response::Response,
};
use bytes::Bytes;

use super::Authenticator;
use crate::{event::Event, signature::Verified};

/// The event of an authentic delivery, verified by the [`Authenticator`] in the router's state. A
/// handler that answers 200 acknowledges the event, but may still receive it again.
impl<S> FromRequest<S> for Verified<Event>
where
    Authenticator: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let authenticator = Authenticator::from_ref(state);
        let event = authenticator.authenticate(request).await;
        event.map_err(|answer| answer.map(Body::new))
    }
}

/// The body of an authentic delivery, verified by the [`Authenticator`] in the router's state. The
/// body need not be an event, and the delivery may be of any age.
impl<S> FromRequest<S> for Verified<Bytes>
where
    Authenticator: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let authenticator = Authenticator::from_ref(state);
        let body = authenticator.authenticate_bytes(request).await;
        body.map_err(|answer| answer.map(Body::new))
    }
}
