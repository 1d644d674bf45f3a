//! Deliveries: their records, and redelivery.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Between, Request, etag, webhooks};
use crate::{
    answer::Answer,
    error::ApiError,
    state::{Redelivery, State},
    store::{Delivery, DeliveryStatus, Page},
};

pub(super) fn list(world: &State, request: &Request<'_>) -> Result<Answer, ApiError> {
    let mut store = world.store();
    let webhook_id = webhooks::find(&mut store, request)?.id.clone();
    let between = Between::of(request.query.get("after"), request.query.get("before"));
    let (event_type, status) = (request.text("event_type"), request.text("status"));
    let wanted = |delivery: &Delivery| {
        delivery.webhook_id == webhook_id
            && event_type.is_none_or(|wanted| delivery.event.event_type == wanted)
            && status.is_none_or(|wanted| delivery.status.as_str() == wanted)
            && between.holds(delivery.created_at)
    };
    let page = Page::of(&request.query).read(&store.deliveries, wanted, Delivery::shown)?;
    Ok(Answer::json(StatusCode::OK, page))
}

pub(super) async fn redeliver(
    world: &Arc<State>,
    request: &Request<'_>,
) -> Result<Answer, ApiError> {
    let delivery_id = request.path("delivery_id");
    let outcome = {
        let mut store = world.store();
        let webhook_id = webhooks::find(&mut store, request)?.id.clone();
        let delivery = store
            .deliveries
            .get(delivery_id)
            .filter(|delivery| delivery.webhook_id == webhook_id);
        let delivery = delivery.ok_or_else(|| ApiError::not_found("delivery"))?;
        request.check_version(delivery.version())?;
        if !store.take_now(delivery_id) {
            return Err(ApiError::conflict(
                "an attempt of this delivery is under way",
            ));
        }
        ask(world, delivery_id)
    };
    let success = outcome.await.map_err(|_| ApiError::stopping())?;
    let store = world.store();
    let delivery = store
        .deliveries
        .get(delivery_id)
        .ok_or_else(|| ApiError::not_found("delivery"))?;
    let mut shown = delivery.shown();
    shown["success"] = Value::from(success);
    Ok(Answer::resource(StatusCode::OK, shown).with_etag(&etag(delivery.version())))
}

pub(super) async fn redeliver_failed(
    world: &Arc<State>,
    request: &Request<'_>,
) -> Result<Answer, ApiError> {
    let event_type = request.body["event_type"].as_str();
    let between = Between::of(request.body.get("after"), request.body.get("before"));
    let outcomes: Vec<_> = {
        let mut store = world.store();
        let webhook_id = webhooks::find(&mut store, request)?.id.clone();
        let failed = store.deliveries.values().filter(|delivery| {
            delivery.webhook_id == webhook_id
                && delivery.status == DeliveryStatus::Failed
                && event_type.is_none_or(|wanted| delivery.event.event_type == wanted)
                && between.holds(delivery.created_at)
        });
        let failed: Vec<_> = failed.map(|delivery| delivery.id.clone()).collect();
        failed
            .iter()
            .filter(|id| store.take_now(id))
            .map(|id| ask(world, id))
            .collect()
    };
    let redelivered = outcomes.len();
    let mut succeeded = 0_usize;
    for outcome in outcomes {
        succeeded += usize::from(outcome.await.map_err(|_| ApiError::stopping())?);
    }
    let result = json!({"redelivered": redelivered, "succeeded": succeeded, "failed": redelivered - succeeded});
    Ok(Answer::resource(StatusCode::OK, result))
}

/// Starts a redelivery, without waiting for it.
#[cfg(feature = "inspector")]
pub(crate) fn resend(world: &State, delivery_id: &str) -> Result<(), ApiError> {
    let mut store = world.store();
    if !store.deliveries.contains_key(delivery_id) {
        return Err(ApiError::not_found("delivery"));
    }
    if !store.take_now(delivery_id) {
        return Err(ApiError::conflict(
            "an attempt of this delivery is under way",
        ));
    }
    drop(store);
    // The attempt does not depend on the receiver of its outcome.
    drop(ask(world, delivery_id));
    world.changed();
    Ok(())
}

/// Requests an attempt outside of the queue. The delivery is already marked as in progress.
fn ask(world: &State, delivery_id: &str) -> oneshot::Receiver<bool> {
    let (outcome, reported) = oneshot::channel();
    // If the dispatcher has ended, the sender of `outcome` is dropped, which the receiver sees.
    let _ = world.redeliveries.send(Redelivery {
        delivery_id: delivery_id.to_owned(),
        outcome,
    });
    reported
}
