//! Deliveries, sent as AuthPI sends them: until the response is exactly 200.

use std::{sync::atomic::Ordering, time::Duration};

use authpi_sdk::{event::types::UserUpdated, signature::SignatureScheme, testing::Fixture};
use authpi_tests::harness::{Entry, EventId, SECRET};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::Trial;
use crate::servers::DEADLINE;

/// The sender's timeout. AuthPI's is unknown; this is longer than any response of ours takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

impl Trial {
    /// Sends a delivery of the event repeatedly, to any receiver, until one responds with 200.
    pub(super) async fn deliver(&self, event: EventId, mut dice: fastrand::Rng) {
        let fixture = Fixture::of::<UserUpdated>().id(event.to_string());
        let fixture = fixture
            .subject("user_id", format!("usr_{}", event.ordering_key))
            .time(self.began);
        let started = Instant::now();
        let mut last = String::from("no receiver is running");
        loop {
            let waited = started.elapsed();
            assert!(
                waited < DEADLINE * 2,
                "{}: {event} is not acknowledged after {waited:?}: {last}",
                self.name
            );
            let alive: Vec<u16> = self
                .ports
                .lock()
                .unwrap()
                .iter()
                .flatten()
                .copied()
                .collect();
            if let Some(&port) = dice.choice(&alive) {
                // Some senders hang up immediately, or in the middle.
                let hasty = dice.u8(0..20) == 0;
                let timeout = if hasty {
                    Duration::from_micros(dice.u64(100..20_000))
                } else {
                    TEST_TIMEOUT
                };
                match self.send(&fixture, port, timeout).await {
                    Ok(200) => break,
                    Ok(status) => {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        last = format!("the last answer was {status}");
                    }
                    // Killed, or not started yet; a sender cannot tell.
                    Err(error) => last = format!("the last try failed: {error}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(dice.u64(5..100))).await;
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.journal.write(&Entry::Acknowledged(event));
    }

    async fn send(&self, fixture: &Fixture, port: u16, timeout: Duration) -> reqwest::Result<u16> {
        let request = fixture
            .request(&SignatureScheme::authpi(), &SECRET.into())
            .expect("the secret is good");
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .unwrap_or_else(|never| match never {})
            .to_bytes();
        let sent = self
            .client
            .post(format!("http://127.0.0.1:{port}/"))
            .headers(head.headers)
            .body(body);
        let answer = sent.timeout(timeout).send().await?;
        let status = answer.status().as_u16();
        match status {
            200 => {}
            503 => assert!(
                answer.headers().contains_key("retry-after"),
                "{}: 503 without Retry-After",
                self.name
            ),
            other => panic!("{}: a good delivery was answered {other}", self.name),
        }
        // A response that is cut off is not an acknowledgement.
        answer.bytes().await?;
        Ok(status)
    }
}
