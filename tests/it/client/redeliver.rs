//! Redeliveries and their results.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use authpi_emulator::{Emulator, NewEvent};
use authpi_sdk::{
    client::{DeliveryStatus, Error, WebhookDelivery, WebhookSpec},
    event::EventType,
};
use serde_json::json;

use super::{
    emulator::{client, endpoint},
    peer::{Peer, Reply},
};

#[tokio::test]
async fn what_failed_is_sent_again_and_followed_to_its_end() -> Result<(), Error> {
    let emulator = Emulator::builder().retry_delays([]).start().await.unwrap();
    let client = client(&emulator);
    let (url, accepts) = endpoint().await;
    let spec =
        WebhookSpec::new("users", url).events([EventType::UserCreated, EventType::UserDeleted]);
    let webhook = client.webhooks().create(&spec).await?.webhook.id;
    for event_type in ["user.created", "user.created", "user.deleted"] {
        emulator.trigger(NewEvent::new(event_type)).await.unwrap();
    }
    emulator.deliveries_finished().await;
    let again = || {
        client
            .webhooks()
            .redeliver_failed(&webhook)
            .event_type(EventType::UserCreated)
            .track()
    };
    let mut reported = Vec::new();
    let failed = again()
        .on_progress(|progress| reported.push((progress.over(), progress.total)))
        .await?;
    assert_eq!(
        (failed.total, failed.failed, failed.is_complete()),
        (2, 2, true)
    );
    assert_eq!(reported, [(0, 2), (2, 2)]);

    accepts.store(true, Ordering::SeqCst);
    let done = again().await?;
    assert_eq!((done.total, done.succeeded, done.pending()), (2, 2, 0));
    assert_eq!(done.answer.unwrap().succeeded, Some(2));
    let nothing_left = again().await?;
    assert_eq!((nothing_left.total, nothing_left.is_complete()), (0, true));
    let rest = client
        .webhooks()
        .deliveries(&webhook)
        .status(DeliveryStatus::Failed)
        .await?;
    assert_eq!(rest.items.len(), 1);
    Ok(())
}

fn delivery(
    id: &str,
    status: &str,
    attempts: u32,
    next_attempt_at: Option<u32>,
) -> serde_json::Value {
    json!({
        "id": id, "webhook_id": "wh_1", "event_id": "evt_1", "event_type": "user.created", "status": status,
        "attempt_count": attempts, "next_attempt_at": next_attempt_at, "created_at": 1_000,
    })
}

fn list(deliveries: &[serde_json::Value]) -> Reply {
    Reply::json(
        200,
        &json!({"data": deliveries, "has_more": false, "next_cursor": null}).to_string(),
    )
}

/// A slow server: its list changes with each request.
async fn slow(looks: Vec<Vec<serde_json::Value>>) -> (Peer, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let peer = Peer::answering(move |asked| {
        if asked.line.starts_with("POST") {
            return Reply::json(200, r#"{"data":{}}"#);
        }
        let look = count.fetch_add(1, Ordering::SeqCst);
        list(&looks[look.min(looks.len() - 1)])
    })
    .await;
    (peer, asked)
}

#[tokio::test]
async fn an_old_failure_is_not_an_outcome_and_a_final_unknown_status_is() -> Result<(), Error> {
    let (peer, _) = slow(vec![
        vec![
            delivery("d_1", "failed", 3, None),
            delivery("d_2", "failed", 3, None),
            delivery("d_3", "failed", 3, None),
        ],
        // Not sent yet: no change.
        vec![
            delivery("d_1", "failed", 3, None),
            delivery("d_2", "failed", 3, None),
            delivery("d_3", "failed", 3, None),
        ],
        vec![
            delivery("d_1", "pending", 4, Some(9)),
            delivery("d_2", "parked", 4, Some(9)),
            delivery("d_3", "succeeded", 4, None),
        ],
        vec![
            delivery("d_1", "failed", 5, None),
            delivery("d_2", "parked", 4, None),
            delivery("d_3", "failed", 3, None),
        ],
    ])
    .await;
    let mut reported = Vec::new();
    let call = peer.client().webhooks().redeliver_failed("wh_1").track();
    let done = call
        .on_progress(|now| reported.push((now.succeeded, now.failed, now.unknown)))
        .await?;
    assert_eq!(
        (done.total, done.succeeded, done.failed, done.unknown),
        (3, 1, 1, 1)
    );
    // (0, 0, 0) is reported twice: the second time because the response to the POST has arrived.
    assert_eq!(reported, [(0, 0, 0), (0, 0, 0), (1, 0, 0), (1, 1, 1)]);
    Ok(())
}

#[tokio::test]
async fn who_has_no_more_time_is_told_how_far_it_came() -> Result<(), Error> {
    let (peer, _) = slow(vec![vec![delivery("d_1", "failed", 3, None)]]).await;
    let reported = peer
        .client()
        .webhooks()
        .redeliver_failed("wh_1")
        .track()
        .within(Duration::ZERO)
        .await?;
    assert_eq!(
        (reported.total, reported.pending(), reported.is_complete()),
        (1, 1, false)
    );
    Ok(())
}

#[tokio::test]
async fn a_look_that_fails_is_followed_by_another_and_a_refusal_is_not() -> Result<(), Error> {
    for (status, survives) in [(500, true), (403, false)] {
        let looks = AtomicUsize::new(0);
        let peer = Peer::answering(move |asked| {
            if asked.line.starts_with("POST") {
                return Reply::json(200, r#"{"data":{}}"#);
            }
            match looks.fetch_add(1, Ordering::SeqCst) {
                0 => list(&[delivery("d_1", "failed", 3, None)]),
                1 => Reply::new(status, &[], ""),
                _ => list(&[delivery("d_1", "succeeded", 4, None)]),
            }
        })
        .await;
        let done = peer
            .client()
            .webhooks()
            .redeliver_failed("wh_1")
            .track()
            .await;
        assert_eq!(
            done.is_ok_and(|done| done.succeeded == 1),
            survives,
            "{status}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_redelivery_whose_fate_is_unknown_is_followed() -> Result<(), Error> {
    for status in [504, 409] {
        let looks = AtomicUsize::new(0);
        let peer = Peer::answering(move |asked| {
            if asked.line.starts_with("POST") {
                return Reply::new(status, &[], "");
            }
            let first = looks.fetch_add(1, Ordering::SeqCst) == 0;
            list(&[if first {
                delivery("d_1", "failed", 3, None)
            } else {
                delivery("d_1", "succeeded", 4, None)
            }])
        })
        .await;
        let done = peer
            .client()
            .webhooks()
            .redeliver_failed("wh_1")
            .track()
            .await?;
        assert_eq!((done.succeeded, done.answer), (1, None), "{status}");
    }
    Ok(())
}

#[tokio::test]
async fn a_later_look_that_hangs_ends_with_the_time_to_follow() -> Result<(), Error> {
    let looks = AtomicUsize::new(0);
    let peer = Peer::answering(move |asked| {
        if asked.line.starts_with("POST") {
            return Reply::json(200, r#"{"data":{}}"#);
        }
        let early = looks.fetch_add(1, Ordering::SeqCst) < 2;
        if early {
            list(&[delivery("d_1", "failed", 3, None)])
        } else {
            Reply::Stall(Vec::new())
        }
    })
    .await;
    let begin = std::time::Instant::now();
    let call = peer.client().webhooks().redeliver_failed("wh_1").track();
    let reported = call.within(Duration::from_millis(500)).await?;
    assert_eq!(reported.pending(), 1);
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "it waited for the client's timeout"
    );
    Ok(())
}

#[tokio::test]
async fn the_outcome_of_one_delivery_is_waited_for() -> Result<(), Error> {
    let (peer, looks) = slow(vec![
        vec![
            delivery("d_0", "succeeded", 1, None),
            delivery("d_1", "pending", 4, Some(9)),
        ],
        vec![delivery("d_1", "pending", 5, Some(9))],
        vec![delivery("d_1", "succeeded", 6, None)],
    ])
    .await;
    let client = peer.client();
    let watched: WebhookDelivery =
        serde_json::from_value(delivery("d_1", "failed", 3, None)).unwrap();
    let over = client
        .webhooks()
        .outcome(&watched)
        .await?
        .expect("it is over");
    assert_eq!(
        (over.status, over.attempt_count),
        (DeliveryStatus::Succeeded, 6)
    );
    assert_eq!(looks.load(Ordering::SeqCst), 3);
    let line = &peer.asked()[0].line;
    assert!(
        line.contains("after=998") && line.contains("before=1002") && line.contains("user.created"),
        "{line}"
    );
    Ok(())
}

#[tokio::test]
async fn a_failure_from_before_it_was_sent_again_is_no_outcome() -> Result<(), Error> {
    let before = delivery("d_1", "failed", 3, None);
    let (peer, looks) = slow(vec![
        vec![before.clone()],
        vec![before.clone()],
        vec![delivery("d_1", "failed", 4, None)],
    ])
    .await;
    let watched: WebhookDelivery = serde_json::from_value(before).unwrap();
    let outcome = || peer.client().webhooks().outcome(&watched);
    let over = outcome()
        .after_attempts(watched.attempt_count)
        .await?
        .expect("it is over");
    assert_eq!((over.attempt_count, looks.load(Ordering::SeqCst)), (4, 3));
    Ok(())
}

#[tokio::test]
async fn a_delivery_that_is_not_over_or_not_there_is_told() -> Result<(), Error> {
    let watched: WebhookDelivery =
        serde_json::from_value(delivery("d_1", "failed", 3, None)).unwrap();
    let outcome = async |peer: &Peer| {
        peer.client()
            .webhooks()
            .outcome(&watched)
            .within(Duration::ZERO)
            .await
    };
    let (going_on, _) = slow(vec![vec![delivery("d_1", "pending", 4, Some(9))]]).await;
    assert_eq!(outcome(&going_on).await?, None);
    let (gone, _) = slow(vec![vec![]]).await;
    assert!(
        outcome(&gone)
            .await
            .is_err_and(|error| error.is_malformed_response())
    );
    Ok(())
}

#[tokio::test]
async fn the_answer_of_a_redelivery_can_be_waited_on() -> Result<(), Error> {
    let emulator = Emulator::builder().retry_delays([]).start().await.unwrap();
    let client = client(&emulator);
    let (url, accepts) = endpoint().await;
    let spec = WebhookSpec::new("users", url).events([EventType::UserCreated]);
    let webhook = client.webhooks().create(&spec).await?.webhook.id;
    emulator.trigger(EventType::UserCreated).await.unwrap();
    emulator.deliveries_finished().await;
    accepts.store(true, Ordering::SeqCst);
    let failed = client
        .webhooks()
        .deliveries(&webhook)
        .await?
        .items
        .remove(0);
    let sent = client
        .webhooks()
        .redeliver(&webhook, &failed.id)
        .await?
        .value;
    let over = client.webhooks().outcome(&sent).await?.expect("it is over");
    assert!(sent.success && over.id == failed.id && over.status == DeliveryStatus::Succeeded);
    Ok(())
}
