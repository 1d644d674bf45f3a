//! Sends deliveries: those in the queue when they are due, and requested redeliveries.
//!
//! One task owns all attempts. It takes due deliveries from the store, sends them, records the
//! results, and sleeps until the emulator's clock reaches the next retry. An attempt belongs to
//! this task, never to the call that requested it, so a client that hangs up cancels nothing.

mod envelope;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use authpi_sdk::signature::Secret;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    assumptions,
    faults::DeliveryFault,
    ids,
    log::LogLine,
    outgoing::{Answered, Broken, Outgoing},
    state::{Redelivery, State},
    store::{Attempted, DeliveryStatus, Store, WebhookStatus},
};

/// The maximum number of concurrent attempts, once for the queue and once for redeliveries; others
/// wait.
const AT_ONCE: usize = 256;

/// Runs until it is dropped.
pub(crate) async fn run(world: Arc<State>, mut requests: mpsc::UnboundedReceiver<Redelivery>) {
    let mut attempts = JoinSet::new();
    // Redeliveries have a set and a limit of their own, so that they and the planned attempts do
    // not wait for each other.
    let mut redeliveries = JoinSet::new();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut changed = world.changes();
    loop {
        changed.mark_unchanged();
        while attempts.try_join_next().is_some() {}
        let next_due = {
            let mut store = world.store();
            while attempts.len() < AT_ONCE
                && let Some(delivery_id) = store.take_due()
            {
                let fault = draw(&world, &store, &delivery_id);
                attempts.spawn(attempt(world.clone(), delivery_id, None, fault));
            }
            if attempts.len() < AT_ONCE {
                store.next_due()
            } else {
                None
            }
        };
        tokio::select! {
            // The store or the clock has changed.
            _ = changed.changed() => {}
            () = sleep_until(&world, next_due) => {}
            Some(_) = attempts.join_next() => {}
            Some(_) = redeliveries.join_next() => {}
            request = requests.recv() => match request {
                Some(request) => {
                    let (world, room) = (world.clone(), room.clone());
                    let fault = draw(&world, &world.store(), &request.delivery_id);
                    redeliveries.spawn(async move {
                        // The semaphore is never closed. If it were, only the limit would be lost.
                        let _room = room.acquire().await;
                        attempt(world, request.delivery_id, Some(request.outcome), fault).await;
                    });
                }
                None => std::future::pending().await,
            },
        }
    }
}

async fn sleep_until(world: &State, at: Option<i64>) {
    match at {
        Some(at) => world.clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The fault of the next attempt, if any. Drawn here, in the order in which attempts begin.
fn draw(world: &State, store: &Store, delivery_id: &str) -> Option<DeliveryFault> {
    let delivery = store.deliveries.get(delivery_id)?;
    world
        .faults
        .of_attempt(&delivery.event.event_type, &delivery.webhook_id)
}

/// Sends the request, as the fault says.
async fn send(
    world: &State,
    outgoing: Outgoing,
    fault: Option<DeliveryFault>,
) -> Result<Answered, String> {
    let (sender, holds) = (&world.sender, &world.faults.holds);
    match fault {
        Some(DeliveryFault::Duplicate { copies }) => {
            let first = sender.send(outgoing.clone()).await;
            for _ in 0..copies {
                // Only the first response counts.
                let _ = sender.send(outgoing.clone()).await;
            }
            first
        }
        Some(DeliveryFault::CutBody) => sender.send_broken(outgoing, Broken::CutBody).await,
        Some(DeliveryFault::WrongLength) => sender.send_broken(outgoing, Broken::WrongLength).await,
        Some(DeliveryFault::HangUp) => sender.send_broken(outgoing, Broken::HangUp).await,
        Some(DeliveryFault::SlowBody { millis }) => {
            let pause = Duration::from_millis(millis);
            sender.send_broken(outgoing, Broken::Slow(pause)).await
        }
        Some(DeliveryFault::Delay { millis }) => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            sender.send(outgoing).await
        }
        Some(DeliveryFault::Reorder { millis }) => {
            holds.until_overtaken(Duration::from_millis(millis)).await;
            sender.send(outgoing).await
        }
        Some(DeliveryFault::Burst { size, millis }) => {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            holds.until_burst(size, Duration::from_millis(millis)).await;
            sender.send(outgoing).await
        }
        // These are in the request itself.
        Some(
            DeliveryFault::WrongSecret
            | DeliveryFault::RotatedSecret
            | DeliveryFault::StaleTime { .. },
        )
        | None => sender.send(outgoing).await,
    }
}

/// One attempt, from the bytes to the record.
async fn attempt(
    world: Arc<State>,
    delivery_id: String,
    outcome: Option<oneshot::Sender<bool>>,
    fault: Option<DeliveryFault>,
) {
    let (at, begun) = (world.clock.millis(), Instant::now());
    let prepared = prepare(&world, &delivery_id, fault.as_ref());
    #[cfg(feature = "inspector")]
    let sent = prepared.as_ref().ok().filter(|_| world.inspector).cloned();
    let answered = match prepared {
        Ok(outgoing) => send(&world, outgoing, fault).await,
        Err(why) => Err(why),
    };
    world.faults.holds.passed();
    let retry_after = answered
        .as_ref()
        .ok()
        .and_then(|answered| answered.retry_after);
    let status = answered.as_ref().ok().map(|answered| answered.status);
    let error = match &answered {
        Ok(answered) if answered.status == 200 => None,
        Ok(answered) => Some(format!(
            "the receiver answered {}; only 200 is a receipt",
            answered.status
        )),
        Err(why) => Some(why.clone()),
    };
    let received = error.is_none();
    let is_redelivery = outcome.is_some();
    let line = {
        let mut store = world.store();
        #[cfg(feature = "inspector")]
        if world.inspector {
            let attempt = crate::store::Attempt {
                number: 1 + store
                    .deliveries
                    .get(&delivery_id)
                    .map_or(0, |delivery| delivery.attempt_count),
                at,
                took: begun.elapsed(),
                is_redelivery,
                sent,
                answered: answered.ok(),
                error: error.clone(),
            };
            store.attempts.add(&delivery_id, attempt);
        }
        store.attempted(
            &delivery_id,
            Attempted {
                at,
                is_redelivery,
                status,
                error,
                retry_after,
            },
        );
        world
            .log
            .is_on()
            .then(|| describe(&store, &delivery_id, begun.elapsed()))
            .flatten()
    };
    // Logged before those who wait for the delivery continue.
    if let Some(line) = line {
        world.log.line(|| LogLine::Attempt(line));
    }
    world.changed();
    if let Some(outcome) = outcome {
        // The caller may no longer wait for the result. The attempt is recorded anyway.
        let _ = outcome.send(received);
    }
}

/// A delivery's latest attempt, on one line.
fn describe(store: &Store, delivery_id: &str, took: Duration) -> Option<String> {
    let delivery = store.deliveries.get(delivery_id)?;
    let webhook = store.webhooks.get(&delivery.webhook_id)?;
    let url = shown(&webhook.url);
    let (event_type, event_id) = (&delivery.event.event_type, &delivery.event.id);
    let ended = match delivery.failure() {
        None => format!("200 in {} ms", took.as_millis()),
        Some(why) => {
            let next = match (delivery.status, delivery.next_attempt_at) {
                (DeliveryStatus::Pending, Some(at)) => {
                    let millis =
                        u64::try_from(at.saturating_sub(store.clock.millis())).unwrap_or(0);
                    format!("next in {:?}", Duration::from_millis(millis))
                }
                _ => "given up".to_owned(),
            };
            format!(
                "failed: {why} (attempt {} of {}, {next})",
                delivery.attempt_count, delivery.attempt_budget
            )
        }
    };
    Some(format!("{event_type} {event_id} -> {url}: {ended}"))
}

/// A URL without its query, which may contain a secret.
pub(crate) fn shown(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// The request of an attempt, or the reason that it cannot be sent.
fn prepare(
    world: &State,
    delivery_id: &str,
    fault: Option<&DeliveryFault>,
) -> Result<Outgoing, String> {
    let mut store = world.store();
    let store = &mut *store;
    let delivery = store
        .deliveries
        .get_mut(delivery_id)
        .ok_or("the delivery is gone")?;
    let webhook = store
        .webhooks
        .get(&delivery.webhook_id)
        .ok_or("the webhook is gone")?;
    if webhook.status == WebhookStatus::Deleted {
        return Err("the webhook is deleted".to_owned());
    }
    // The same bytes for each attempt, until the delivery is finished.
    let event = &delivery.event;
    let envelope_id = delivery.envelope_id.get_or_insert_with(ids::uuid);
    let body = delivery.envelope.get_or_insert_with(|| {
        let body = envelope::write(envelope_id, &webhook.id, event, event.timestamp);
        Bytes::from(body)
    });
    let mut signed_at = store.clock.now();
    let mut body = body.clone();
    if let Some(DeliveryFault::StaleTime { seconds }) = fault {
        let older = Duration::from_secs(*seconds);
        signed_at = signed_at.saturating_sub(older).unwrap_or(signed_at);
        let millis = i64::try_from(older.as_millis()).unwrap_or(i64::MAX);
        let at = event.timestamp.saturating_sub(millis);
        body = envelope::write(envelope_id, &webhook.id, event, at).into();
    }
    let body = body;
    // A new random secret.
    let other = || Secret::new(ids::secret("whs_"));
    let auth = &webhook.auth;
    let secret = auth.secret.as_ref().map(|secret| match fault {
        Some(DeliveryFault::WrongSecret) => other(),
        Some(DeliveryFault::RotatedSecret) => auth.previous_secret.clone().unwrap_or_else(other),
        _ => secret.clone(),
    });
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(assumptions::DELIVERY_CONTENT_TYPE),
    );
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("authpi-emulator/", env!("CARGO_PKG_VERSION"))),
    );
    if let Some(secret) = &secret {
        let signed = store
            .settings
            .scheme
            .sign(secret, envelope_id, signed_at, &body);
        headers.extend(signed.map_err(|error| format!("the delivery cannot be signed: {error}"))?);
    }
    if let Some(token) = &webhook.auth.token {
        let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
        let mut value = value.map_err(|_| "the bearer token is not a valid header value")?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(Outgoing {
        url: webhook.url.clone(),
        headers,
        body,
    })
}
