//! JetStream with file storage, beside a publish that waits for its acknowledgement.

use async_nats::{HeaderMap, jetstream};
use authpi_sdk::stores::{Memory, Nats};
use benches::rate::{Compared, Each, compare};

use super::{body, event_id, ours, servers::nats::NatsServer};

pub(crate) async fn measure(server: &NatsServer) -> Vec<Compared> {
    let inbox = inbox(server).await;
    let jetstream = server.jetstream().await;
    let stream = jetstream::stream::Config {
        name: "by_hand".to_owned(),
        subjects: vec!["by_hand.>".to_owned()],
        ..Default::default()
    };
    jetstream
        .create_stream(stream)
        .await
        .expect("a stream can be made");
    compare(&ours("NATS: append", inbox), &publish(jetstream), |_| {
        Some(0.8)
    })
    .await
}

/// Two of them do not share a ledger, which does not matter here: an event is appended once.
pub(crate) async fn inbox(server: &NatsServer) -> Nats<Memory> {
    Nats::open(server.jetstream().await, Memory::new())
        .await
        .expect("the inbox opens")
}

fn publish(jetstream: jetstream::Context) -> Each {
    Each::new("a publish with its ack", move |n| {
        let jetstream = jetstream.clone();
        async move {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", event_id(n));
            let ack = jetstream
                .publish_with_headers("by_hand.users", headers, body(&event_id(n)))
                .await;
            assert!(
                !ack.expect("it is sent")
                    .await
                    .expect("it is acknowledged")
                    .duplicate
            );
        }
    })
}
