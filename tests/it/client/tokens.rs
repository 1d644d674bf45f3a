//! Access tokens that are renewed, over HTTP.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use authpi_emulator::Emulator;
use authpi_sdk::{
    Client,
    client::{AccessToken, ClientBuilder, RetryPolicy, TokenSource},
};

use super::{
    peer::{Peer, Reply},
    shown, spec,
};

const WEBHOOK: &str = r#"{"data":{"id":"wh_1","account_id":"acc_1","name":"n","url":"https://x","auth":{"type":"none"},"events":[],"created_at":1}}"#;

/// A peer that accepts only the token `good`, and a client whose source returns `tokens` in turn.
async fn peer(tokens: &[&'static str]) -> (Peer, ClientBuilder, Arc<AtomicUsize>) {
    let peer = Peer::answering(|asked| {
        if asked.header("authorization") == Some("Bearer good") {
            Reply::json(200, WEBHOOK)
        } else {
            Reply::new(401, &[], "")
        }
    })
    .await;
    let (tokens, asked) = (tokens.to_vec(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    let source = move || {
        let token = tokens.get(count.fetch_add(1, Ordering::SeqCst)).copied();
        async move {
            token
                .map(AccessToken::new)
                .ok_or_else(|| "the issuer is down".into())
        }
    };
    let builder = Client::builder()
        .base_url(&peer.base_url)
        .account("acc_1")
        .retry(RetryPolicy::never());
    (peer, builder.token_source(source), asked)
}

#[tokio::test]
async fn a_source_that_is_a_type_of_ones_own_works_with_the_emulator() {
    struct Issuer(String);
    impl TokenSource for Issuer {
        async fn token(&self) -> Result<AccessToken, Box<dyn std::error::Error + Send + Sync>> {
            Ok(AccessToken::new(self.0.clone()))
        }
    }
    let emulator = Emulator::start().await.unwrap();
    let source = Issuer(emulator.access_token().to_owned());
    let client = Client::builder()
        .base_url(emulator.base_url())
        .token_source(source)
        .build()
        .unwrap();
    assert_eq!(client.account_id().await.unwrap(), emulator.account_id());
    assert!(!format!("{client:?}").contains(emulator.access_token()));
}

#[tokio::test]
async fn a_refused_token_is_replaced_and_the_call_repeated_with_the_same_key() {
    let (peer, builder, asked) = peer(&["old", "good"]).await;
    let client = builder.build().unwrap();
    client.webhooks().create(&spec()).await.unwrap();
    let requests = peer.asked();
    assert_eq!((requests.len(), asked.load(Ordering::SeqCst)), (2, 2));
    assert_eq!(
        requests[0].header("idempotency-key"),
        requests[1].header("idempotency-key")
    );
    client.webhooks().get("wh_1").await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the new token is kept");
}

#[tokio::test]
async fn a_second_refusal_is_the_callers() {
    let (peer, builder, asked) = peer(&["old", "older", "good"]).await;
    let error = builder
        .build()
        .unwrap()
        .webhooks()
        .create(&spec())
        .await
        .unwrap_err();
    assert!(
        error.is_unauthorized() && !error.may_have_run() && error.attempts() == 2,
        "{error:?}"
    );
    assert_eq!((peer.asked().len(), asked.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn where_there_is_no_other_token_the_refusal_stays_and_says_why() {
    for (tokens, cause) in [(&["old"][..], true), (&["old", "old"], false)] {
        let (peer, builder, _) = peer(tokens).await;
        let error = builder
            .build()
            .unwrap()
            .webhooks()
            .create(&spec())
            .await
            .unwrap_err();
        assert!(
            error.is_unauthorized() && error.attempts() == 1,
            "{error:?}"
        );
        assert_eq!(
            shown(&error).contains("the issuer is down"),
            cause,
            "{}",
            shown(&error)
        );
        assert_eq!(peer.asked().len(), 1);
    }
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    let (peer, builder, asked) = peer(&[]).await;
    let error = builder
        .build()
        .unwrap()
        .webhooks()
        .create(&spec())
        .await
        .unwrap_err();
    assert!(
        error.is_credential() && !error.may_have_run() && error.attempts() == 0,
        "{error:?}"
    );
    assert_eq!(error.operation(), Some("webhooks.create"));
    assert_eq!((peer.asked().len(), asked.load(Ordering::SeqCst)), (0, 1));
}

#[tokio::test]
async fn a_source_has_as_long_as_the_call_has() {
    let peer = Peer::replying(Reply::json(200, WEBHOOK)).await;
    let builder = Client::builder().base_url(&peer.base_url).account("acc_1");
    let client = builder.token_source(std::future::pending).build().unwrap();
    let call = client
        .webhooks()
        .create(&spec())
        .timeout(std::time::Duration::from_millis(50));
    let error = call.await.unwrap_err();
    assert!(
        error.is_credential() && error.to_string().contains("in time"),
        "{error:?}"
    );
    assert!(peer.asked().is_empty());
}

#[tokio::test]
async fn an_api_key_that_is_refused_is_not_tried_twice() {
    let peer = Peer::replying(Reply::new(401, &[], "")).await;
    let error = peer.client().webhooks().create(&spec()).await.unwrap_err();
    assert!(
        error.is_unauthorized() && error.attempts() == 1 && peer.asked().len() == 1,
        "{error:?}"
    );
}
