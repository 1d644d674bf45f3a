//! Lists as streams of pages and of items.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use authpi_emulator::{Emulator, NewEvent};
use authpi_sdk::{client::Error, event::EventType};

use super::{
    emulator::client,
    peer::{Peer, Reply},
    spec,
};

/// A list of webhooks by their ids, and the next cursor.
fn page(ids: &[&str], next: Option<&str>) -> Reply {
    let items: Vec<_> = ids
        .iter()
        .map(|id| {
            serde_json::json!({
                "id": id, "account_id": "acc_1", "status": "active", "name": "n", "url": "https://example.com",
                "auth_type": "signature", "events": [], "created_at": 1,
            })
        })
        .collect();
    Reply::json(
        200,
        &serde_json::json!({"data": items, "has_more": next.is_some(), "next_cursor": next, "invalid_count": 1})
            .to_string(),
    )
}

fn asks_for(line: &str, cursor: &str) -> bool {
    line.contains(&format!("cursor={cursor}"))
}

#[tokio::test]
async fn webhooks_deliveries_and_events_are_listed_to_their_ends() -> Result<(), Error> {
    let emulator = Emulator::builder().retry_delays([]).start().await.unwrap();
    let client = client(&emulator);
    let webhooks = client.webhooks();
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(webhooks.create(&spec()).await?.webhook.id);
    }
    for _ in 0..7 {
        emulator
            .trigger(NewEvent::new("user.created"))
            .await
            .unwrap();
    }
    emulator.deliveries_settled().await;
    let mut listed = Vec::new();
    let mut items = webhooks.list().limit(2).items();
    while let Some(webhook) = items.next().await {
        listed.push(webhook?.id);
    }
    assert!(items.is_finished() && items.cursor().is_none());
    made.sort();
    listed.sort();
    assert_eq!(listed, made);
    let mut deliveries = 0;
    let mut items = webhooks.deliveries(&made[0]).limit(3).items();
    while let Some(delivery) = items.next().await {
        assert_eq!(delivery?.event_type, "user.created");
        deliveries += 1;
    }
    assert_eq!(deliveries, 7);
    let mut sizes = Vec::new();
    let mut pages = client
        .events()
        .list()
        .event_types([EventType::UserCreated])
        .limit(3)
        .pages();
    while let Some(page) = pages.next().await {
        sizes.push(page?.items.len());
    }
    assert_eq!(sizes, [3, 3, 1]);
    assert!(
        pages.next().await.is_none(),
        "a list that has ended goes on"
    );
    Ok(())
}

#[tokio::test]
async fn an_error_keeps_what_came_before_and_the_same_page_comes_after_it() -> Result<(), Error> {
    let failures = Arc::new(AtomicUsize::new(1));
    let left = Arc::clone(&failures);
    let peer = Peer::answering(move |asked| {
        if asks_for(&asked.line, "c2") {
            page(&["wh_4"], None)
        } else if asks_for(&asked.line, "c1") {
            match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            }) {
                // An error that no policy retries.
                Ok(_) => Reply::json(403, r#"{"error":"access_denied"}"#),
                Err(_) => page(&["wh_3"], Some("c2")),
            }
        } else {
            page(&["wh_1", "wh_2"], Some("c1"))
        }
    })
    .await;
    let mut items = peer.client().webhooks().list().items();
    let mut seen = Vec::new();
    assert_eq!(items.cursor(), None);
    let error = loop {
        match items.next().await.expect("the list has not ended") {
            Ok(webhook) => seen.push(webhook.id),
            Err(error) => break error,
        }
    };
    assert!(error.is_forbidden(), "{error}");
    assert_eq!(seen, ["wh_1", "wh_2"]);
    assert_eq!((items.cursor(), items.is_finished()), (Some("c1"), false));
    assert!(
        items.next().await.is_none(),
        "a loop that passes over errors would not end"
    );
    assert_eq!(peer.asked().len(), 2);

    // Elsewhere, from the saved cursor …
    let mut elsewhere = peer.client().webhooks().list().cursor("c1").items();
    assert_eq!(elsewhere.cursor(), Some("c1"));
    assert_eq!(elsewhere.next().await.unwrap()?.id, "wh_3");
    // … or here.
    items.resume();
    while let Some(webhook) = items.next().await {
        seen.push(webhook?.id);
    }
    assert_eq!(seen, ["wh_1", "wh_2", "wh_3", "wh_4"]);
    assert!(items.is_finished());
    assert_eq!(items.invalid_count(), 3);
    items.resume();
    assert!(items.next().await.is_none(), "a finished list starts again");
    Ok(())
}

#[tokio::test]
async fn an_empty_page_in_the_middle_is_not_the_end() -> Result<(), Error> {
    let peer =
        Peer::answering(
            |asked| match asked.line.split_once("cursor=").map(|(_, cursor)| cursor) {
                None => page(&[], Some("c1")),
                Some("c1") => page(&[], Some("c2")),
                Some(_) => page(&["wh_1"], None),
            },
        )
        .await;
    let mut items = peer.client().webhooks().list().items();
    assert_eq!(items.next().await.unwrap()?.id, "wh_1");
    assert!(items.next().await.is_none());
    Ok(())
}

#[tokio::test]
async fn the_cursor_of_an_item_is_that_of_the_page_it_is_on() -> Result<(), Error> {
    let peer = Peer::answering(|asked| {
        if asks_for(&asked.line, "c1") {
            page(&["wh_3", "wh_4"], None)
        } else {
            page(&["wh_1", "wh_2"], Some("c1"))
        }
    })
    .await;
    let mut items = peer.client().webhooks().list().items();
    let mut cursors = Vec::new();
    while let Some(item) = items.next().await {
        item?;
        cursors.push(items.cursor().map(str::to_owned));
    }
    assert_eq!(cursors, [None, Some("c1".into()), Some("c1".into()), None]);
    Ok(())
}

#[tokio::test]
async fn a_list_whose_cursors_come_round_again_ends_with_an_error() {
    let peer = Peer::answering(|asked| {
        if asks_for(&asked.line, "c1") {
            page(&["wh_2"], Some("c2"))
        } else {
            page(&["wh_1"], Some("c1"))
        }
    })
    .await;
    let mut items = peer.client().webhooks().list().items();
    let mut seen = Vec::new();
    let error = loop {
        match items
            .next()
            .await
            .expect("it does not end as if all were well")
        {
            Ok(webhook) => seen.push(webhook.id),
            Err(error) => break error,
        }
    };
    assert!(
        error.is_malformed_response() && error.operation() == Some("webhooks.list"),
        "{error}"
    );
    assert_eq!(seen, ["wh_1", "wh_2", "wh_1"]);
    assert_eq!(peer.asked().len(), 3);
    // Also if the list started in the middle.
    let mut pages = peer.client().webhooks().list().cursor("c1").pages();
    assert!(pages.next().await.unwrap().is_ok());
    assert!(pages.next().await.unwrap().is_ok());
    assert!(pages.next().await.unwrap().is_err());
    assert!(pages.next().await.is_none());
}

#[tokio::test]
async fn a_page_that_says_more_and_names_no_cursor_is_an_error_and_no_end() -> Result<(), Error> {
    for cursor in ["null", "\"\"", "7"] {
        let first = r#"{"data":[],"has_more":true,"next_cursor":"c1"}"#;
        let hiding = format!(
            r#"{{"data":[{{"id":"d_1","webhook_id":"w","event_id":"e","event_type":"t","status":"failed","attempt_count":1,"created_at":1}}],"has_more":true,"next_cursor":{cursor}}}"#
        );
        let last = r#"{"data":[],"has_more":false,"next_cursor":null}"#;
        let peer = Peer::in_turn([first, &hiding, last].map(|body| Reply::json(200, body))).await;
        let mut items = peer.client().webhooks().deliveries("wh_1").items();
        assert_eq!(
            items
                .next()
                .await
                .expect("what came before the error stays good")?
                .id,
            "d_1"
        );
        let error = items
            .next()
            .await
            .expect("it does not end as if all were well")
            .unwrap_err();
        assert!(
            error.is_malformed_response() && error.to_string().contains("next_cursor"),
            "{error}"
        );
        assert_eq!(error.operation(), Some("webhooks.listDeliveries"));
        assert!(!items.is_finished() && items.next().await.is_none());
        // The page that did not contain the next cursor is requested again.
        assert_eq!(items.cursor(), Some("c1"));
        items.resume();
        assert!(items.next().await.is_none() && items.is_finished());
        assert!(asks_for(&peer.asked()[2].line, "c1"), "{:?}", peer.asked());
    }
    Ok(())
}

#[tokio::test]
async fn a_poll_that_is_given_up_loses_no_page_and_asks_for_none_twice() -> Result<(), Error> {
    let peer = Peer::answering(|asked| {
        if asks_for(&asked.line, "c1") {
            page(&["wh_2"], None)
        } else {
            page(&["wh_1"], Some("c1"))
        }
    })
    .await;
    let mut items = peer.client().webhooks().list().items();
    let mut seen = Vec::new();
    loop {
        let next = {
            let mut next = pin!(items.next());
            // Polled once and dropped.
            std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx))).await
        };
        match next {
            std::task::Poll::Pending => tokio::task::yield_now().await,
            std::task::Poll::Ready(Some(item)) => seen.push(item?.id),
            std::task::Poll::Ready(None) => break,
        }
    }
    assert_eq!(seen, ["wh_1", "wh_2"]);
    assert_eq!(peer.asked().len(), 2);
    Ok(())
}

#[test]
fn a_stream_can_cross_threads_and_needs_no_pinning() {
    fn is_one<T: futures_core::Stream + Send + Unpin>(_: &T) {}
    let client = authpi_sdk::Client::builder()
        .api_key("key_1", "s")
        .base_url("http://127.0.0.1:1")
        .build()
        .unwrap();
    is_one(&client.webhooks().list().pages());
    is_one(&client.events().list().items());
}
