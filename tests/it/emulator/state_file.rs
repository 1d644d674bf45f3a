//! The state file, and what a restart continues with.

use std::{path::Path, time::Duration};

use authpi_emulator::{Builder, Emulator, NewEvent};
use serde_json::json;

use crate::support::Folder;

use super::{
    Authpi,
    endpoint::{Endpoint, Reply},
    ids,
};

async fn at_noon(builder: Builder, state: &Path) -> Authpi {
    Authpi::at_noon(builder.state_file(state)).await
}

#[tokio::test]
async fn a_retry_after_a_restart_sends_the_same_bytes_when_it_is_due() {
    let folder = Folder::new();
    let state = folder.join("state.json");
    let builder = || Emulator::builder().retry_delays([Duration::from_secs(5)]);
    let endpoint = Endpoint::start().await;
    endpoint.then([Reply::Status(500)]);
    let first = at_noon(builder(), &state).await;
    let (id, _) = first.webhook(&endpoint.url, &["user.created"]).await;
    // Numbers and the order of members stay as they are written.
    let data = json!({"z": 1.10, "a": 12_345_678_901_234_567_890_u64, "text": "é\n\u{0}"});
    let event = NewEvent::new("user.created").data(data.clone());
    let event = first.emulator.trigger(event).await.unwrap();
    first.emulator.deliveries_settled().await;
    first.emulator.try_stop().await.unwrap();

    let second = at_noon(builder(), &state).await;
    second.emulator.deliveries_settled().await;
    assert_eq!(endpoint.received().len(), 1, "it was sent too early");
    second.emulator.clock().advance(Duration::from_secs(5));
    second.emulator.deliveries_finished().await;
    let received = endpoint.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].body, received[1].body);
    let delivery = second.delivery(&id).await;
    assert_eq!(
        (&delivery["status"], &delivery["attempt_count"]),
        (&json!("succeeded"), &json!(2))
    );
    let shown = second.get(&format!("/events/{}", event.id)).await.body;
    assert_eq!(shown["data"]["data"], data);
    assert_eq!(shown["data"]["trace"], event.trace);
}

#[tokio::test]
async fn limits_and_the_status_of_webhooks_continue() {
    let folder = Folder::new();
    let state = folder.join("state.json");
    let builder = || Emulator::builder().retry_delays([]).failing_after(2);
    let endpoint = Endpoint::start().await;
    endpoint.then([Reply::Status(500), Reply::Status(500)]);
    let first = at_noon(builder(), &state).await;
    let (id, _) = first.webhook(&endpoint.url, &["user.created"]).await;
    let path = format!("/webhooks/{id}");
    first.emulator.trigger("user.created").await.unwrap();
    first.emulator.deliveries_finished().await;
    first.emulator.stop().await;

    let second = at_noon(builder(), &state).await;
    let status = second.get(&path).await.body["data"]["status"].clone();
    assert_eq!(status, "active");
    second.emulator.trigger("user.created").await.unwrap();
    second.emulator.deliveries_finished().await;
    let shown = second.get(&path).await.body;
    assert_eq!(shown["data"]["status"], "failing", "the count was lost");
    let events = ids(&second.get("/events").await.body);
    let deliveries = ids(&second.get(&format!("{path}/deliveries")).await.body);
    assert_eq!((events.len(), deliveries.len()), (4, 2));
    second.emulator.stop().await;

    // With `keep(1)`, the newest event and the newest delivery are kept. The delivery is of an
    // older event: the file keeps that event for the delivery, but it does not come back into the
    // log.
    let third = at_noon(builder().keep(1), &state).await;
    third.emulator.stop().await;
    let fourth = at_noon(builder(), &state).await;
    assert_eq!(fourth.get(&path).await.body, shown);
    assert_eq!(ids(&fourth.get("/events").await.body), events[..1]);
    let path = format!("{path}/deliveries");
    assert_eq!(ids(&fourth.get(&path).await.body), deliveries[..1]);
}

#[tokio::test]
async fn a_second_emulator_waits_for_the_first_to_stop() {
    let folder = Folder::new();
    let state = folder.join("state.json");
    let builder = || Emulator::builder().state_file(&state);
    let first = builder().start().await.unwrap();
    let key = first.key_id().to_owned();
    let refused = builder().start().await.unwrap_err().to_string();
    assert!(refused.contains("another emulator uses"), "{refused}");
    first.stop().await;
    let second = builder().start().await.unwrap();
    assert_eq!(second.key_id(), key);
}
