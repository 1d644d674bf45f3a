//! Read, change, write.

use std::sync::atomic::{AtomicUsize, Ordering};

use authpi_emulator::Emulator;
use authpi_sdk::{
    client::{Error, WebhookPatch},
    endpoint::UpdateOutcome,
};
use serde_json::json;

use super::{
    emulator::client,
    peer::{Peer, Reply},
    spec,
};

#[tokio::test]
async fn changes_that_depend_on_what_is_there_lose_none_of_each_other() -> Result<(), Error> {
    let emulator = Emulator::start().await.unwrap();
    let client = client(&emulator);
    let made = client.webhooks().create(&spec().description("")).await?;
    let writers: Vec<_> = (0..8)
        .map(|n| {
            let (webhooks, id) = (client.webhooks(), made.webhook.id.clone());
            tokio::spawn(async move {
                let add = |webhook: &authpi_sdk::client::Webhook| {
                    let text = webhook.description.as_deref().unwrap_or_default();
                    WebhookPatch::new().description(format!("{text}{n}"))
                };
                webhooks.update_with(id, add).rounds(50).await
            })
        })
        .collect();
    for writer in writers {
        assert!(writer.await.expect("it does not panic")?.is_updated());
    }
    let mut written: Vec<_> = client
        .webhooks()
        .get(&made.webhook.id)
        .await?
        .value
        .description
        .unwrap()
        .chars()
        .collect();
    written.sort_unstable();
    assert_eq!(written.into_iter().collect::<String>(), "01234567");
    Ok(())
}

#[tokio::test]
async fn nothing_is_written_where_there_is_nothing_to_do() -> Result<(), Error> {
    let emulator = Emulator::start().await.unwrap();
    let client = client(&emulator);
    let made = client.webhooks().create(&spec()).await?;
    let mut asked = 0;
    let edited = client
        .webhooks()
        .update_with(&made.webhook.id, |webhook| {
            asked += 1;
            (webhook.name != "users").then(|| WebhookPatch::new().name("users"))
        })
        .await?;
    assert_eq!(asked, 1);
    assert!(matches!(&edited, UpdateOutcome::Unchanged(_)));
    assert_eq!(
        (edited.webhook(), edited.etag()),
        (&made.webhook, made.etag.as_ref())
    );
    Ok(())
}

const WEBHOOK: &str = r#"{"data":{"id":"wh_1","account_id":"acc_1","name":"n","url":"u","auth":{"type":"none"},"events":[],"created_at":1}}"#;

#[tokio::test]
async fn it_gives_up_after_five_rounds_with_the_refusal() {
    let peer = Peer::answering(|asked| {
        if asked.line.starts_with("PATCH") {
            Reply::json(
                412,
                r#"{"error":"precondition_failed","current_etag":"\"9\""}"#,
            )
        } else {
            Reply::new(200, &[("etag", "\"7\"")], WEBHOOK)
        }
    })
    .await;
    let asked = AtomicUsize::new(0);
    let change = |_: &_| {
        asked.fetch_add(1, Ordering::SeqCst);
        WebhookPatch::new().name("m")
    };
    let error = peer
        .client()
        .webhooks()
        .update_with("wh_1", change)
        .await
        .unwrap_err();
    assert!(error.is_precondition_failed(), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 5);
    assert_eq!(peer.asked().len(), 10);
    assert!(
        peer.asked()
            .iter()
            .filter(|asked| asked.line.starts_with("PATCH"))
            .all(|asked| { asked.header("if-match") == Some("\"7\"") })
    );
}

#[tokio::test]
async fn a_webhook_without_an_etag_is_not_changed_blindly() {
    let peer = Peer::replying(Reply::json(200, WEBHOOK)).await;
    let error = peer
        .client()
        .webhooks()
        .update_with("wh_1", |_| WebhookPatch::new().name("m"))
        .await
        .unwrap_err();
    assert!(error.is_malformed_response(), "{error}");
    assert_eq!(peer.asked().len(), 1);
    assert_eq!(json!(peer.asked()[0].body), json!(""));
}
