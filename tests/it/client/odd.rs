//! Responses with an unexpected member: it is corrected or omitted, and the others are read as
//! usual.

use authpi_sdk::{
    client::Error,
    endpoint::{EndpointError, MemorySecretStore},
};

use super::{
    peer::{Peer, Reply},
    spec,
};

const WEBHOOK: &str = r#"{"id":"wh_1","account_id":"a","status":"active","name":"n","url":"https://example.com","auth_type":"none","events":["user.created"],"description":"d","status_at":1,"created_at":1}"#;
const DELIVERY: &str = r#"{"id":"d_1","webhook_id":"wh_1","event_id":"e_1","event_type":"user.created","status":"failed","attempt_count":1,"attempt_budget":5,"last_error":"refused","last_response_status":500,"created_at":1}"#;
const EVENT: &str = r#"{"spec":"1.0","id":"evt_1","trace":"t","type":"user.created","source":"s","trigger":"x","auth":{"a":2.0},"subject":{"user_id":"u"},"timestamp":1709139600000,"data":{"n":12345678901234567890123}}"#;

/// A page of three items: the same twice, and in between one with `odd` instead of `plain`.
fn page(item: &str, plain: &str, odd: &str) -> String {
    let changed = item.replacen(plain, odd, 1);
    assert_ne!(item, changed, "{plain} is not in {item}");
    format!(
        r#"{{"data":[{item},{changed},{item}],"has_more":false,"next_cursor":null,"invalid_count":2.0}}"#
    )
}

async fn peer(body: String) -> Peer {
    Peer::replying(Reply::json(200, &body)).await
}

#[tokio::test]
async fn half_a_surrogate_pair_in_a_list_is_read_as_a_replacement() -> Result<(), Error> {
    let peer_of = |item: &str, plain: &str, odd: &str| peer(page(item, plain, odd));
    let webhooks = peer_of(
        WEBHOOK,
        r#""description":"d""#,
        r#""description":"d \ud83d""#,
    )
    .await
    .client()
    .webhooks()
    .list()
    .await?;
    assert_eq!(webhooks.items.len(), 3);
    assert_eq!(webhooks.items[1].description.as_deref(), Some("d \u{fffd}"));
    assert_eq!(
        (
            webhooks.items[2].description.as_deref(),
            webhooks.invalid_count
        ),
        (Some("d"), 2)
    );

    let lists = peer_of(
        WEBHOOK,
        r#""name":"n""#,
        r#""na\ud83d":1,"name":"n\ude00\ud83d\ude00""#,
    )
    .await;
    assert_eq!(
        lists.client().webhooks().list().await?.items[1].name,
        "n\u{fffd}😀"
    );

    let deliveries = peer_of(DELIVERY, "refused", r"cut \ud83d").await;
    let deliveries = deliveries.client().webhooks().deliveries("wh_1").await?;
    assert_eq!(
        deliveries.items[1].last_error.as_deref(),
        Some("cut \u{fffd}")
    );
    assert_eq!(
        (deliveries.items.len(), deliveries.unreadable.len()),
        (3, 0)
    );

    // In an event, a string is read with a replacement character, but the raw JSON of `data` stays
    // as sent.
    let odd = EVENT
        .replace(r#""trace":"t""#, r#""trace":"t\ud83d""#)
        .replace(r#""n":"#, r#""\udc00":"\ud83d","n":"#);
    let events = peer(page(EVENT, EVENT, &odd)).await;
    let events = events.client().events().list().await?;
    assert_eq!(events.items[1].trace.as_deref(), Some("t\u{fffd}"));
    assert_eq!(
        events.items[1].data.as_ref().unwrap().get(),
        r#"{"\udc00":"\ud83d","n":12345678901234567890123}"#
    );
    assert_eq!(events.items[2].trace.as_deref(), Some("t"));
    Ok(())
}

#[tokio::test]
async fn half_a_surrogate_pair_in_one_webhook_or_event_is_read_as_a_replacement()
-> Result<(), Error> {
    let webhook = r#"{"id":"wh_1","account_id":"a","name":"n \ud83d","url":"u","auth":{"type":"signature","signature_secret_hint":"…\ud83d","signature_secret_plain":"whs_1","new\ud83d":"\udc00"},"events":[],"metadata":{"k":"\ud83d"},"created_at":1.0}"#;
    for body in [
        webhook.to_owned(),
        format!(r#"{{"data":{webhook}}}"#),
        format!(r#"{{"new\ud83d":1,"data":{webhook}}}"#),
    ] {
        let peer = peer(body.clone()).await;
        let got = peer.client().webhooks().get("wh_1").await?.value;
        assert_eq!(got.name, "n \u{fffd}", "{body}");
        assert_eq!(got.metadata.as_ref().unwrap().get(), r#"{"k":"\ud83d"}"#);
        let made = peer.client().webhooks().create(&spec()).await?;
        assert_eq!(made.secret.unwrap().expose(), "whs_1");
    }
    for body in [
        EVENT.to_owned(),
        format!(r#"{{"data":{EVENT}}}"#),
        format!(r#"{{"data":{EVENT},"new":"\ud83d"}}"#),
    ] {
        let peer = peer(body.replace(r#""source":"s""#, r#""source":"s\ud83d""#)).await;
        let got = peer.client().events().get("evt_1").await?.value;
        assert_eq!(
            (got.source.as_str(), got.id.as_str()),
            ("s\u{fffd}", "evt_1"),
            "{body}"
        );
    }
    let mut latin = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{webhook}").into_bytes();
    let at = latin
        .windows(6)
        .position(|six| six == b"\\ud83d")
        .expect("the name holds it");
    latin[at] = 0xe9;
    let latin = Peer::replying(Reply::Bytes(latin)).await;
    assert_eq!(
        latin.client().webhooks().get("wh_1").await?.value.name,
        "n \u{fffd}ud83d",
        "bytes that are not UTF-8"
    );
    Ok(())
}

#[tokio::test]
async fn an_integer_that_is_written_as_a_float_is_read_in_every_list() -> Result<(), Error> {
    let peer_of = peer(page(
        DELIVERY,
        r#""attempt_count":1,"attempt_budget":5"#,
        r#""attempt_count":1.0,"attempt_budget":5.0"#,
    ))
    .await;
    let page_of = peer_of.client().webhooks().deliveries("wh_1").await?;
    assert_eq!(
        (
            page_of.items[1].attempt_count,
            page_of.items[1].attempt_budget,
            page_of.invalid_count
        ),
        (1, Some(5), 2)
    );
    let webhooks = peer(page(WEBHOOK, r#""created_at":1"#, r#""created_at":1.0"#)).await;
    assert_eq!(webhooks.client().webhooks().list().await?.items.len(), 3);
    let events = peer(page(EVENT, "1709139600000", "1709139600000.0")).await;
    assert_eq!(
        events.client().events().list().await?.items[1].timestamp.0,
        1_709_139_600_000
    );
    Ok(())
}

#[tokio::test]
async fn an_odd_member_that_may_be_absent_is_read_as_absent() -> Result<(), Error> {
    for odd in ["7", "true", "[1]", r#"{"a":1}"#] {
        let lists = peer(page(
            WEBHOOK,
            r#""description":"d""#,
            &format!(r#""description":{odd}"#),
        ))
        .await;
        let list = lists.client().webhooks().list().await?;
        assert_eq!(
            (list.items.len(), list.items[1].description.as_deref()),
            (3, None),
            "{odd}"
        );
        assert_eq!(
            (
                list.items[1].name.as_str(),
                list.items[1].status_at.map(|at| at.0)
            ),
            ("n", Some(1)),
            "{odd}"
        );
        let lists = peer(page(DELIVERY, "\"refused\"", odd)).await;
        let list = lists.client().webhooks().deliveries("wh_1").await?;
        assert_eq!(
            (
                list.items[1].last_error.as_deref(),
                list.items[1].last_response_status
            ),
            (None, Some(500)),
            "{odd}"
        );
        let lists = peer(page(
            EVENT,
            r#""trigger":"x""#,
            &format!(r#""trigger":{odd}"#),
        ))
        .await;
        let list = lists.client().events().list().await?;
        assert_eq!(
            (
                list.items[1].trigger.as_deref(),
                list.items[1].trace.as_deref()
            ),
            (None, Some("t")),
            "{odd}"
        );
    }
    for odd in [r#""5""#, "5.5", "1e300", "99999999999999999999"] {
        let lists = peer(page(
            DELIVERY,
            r#""attempt_budget":5"#,
            &format!(r#""attempt_budget":{odd}"#),
        ))
        .await;
        let list = lists.client().webhooks().deliveries("wh_1").await?;
        assert_eq!(
            (list.items[1].attempt_budget, list.items[1].attempt_count),
            (None, 1),
            "{odd}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_item_that_cannot_be_read_is_kept_as_it_came_and_the_others_are_read()
-> Result<(), Error> {
    for (plain, odd) in [
        (r#""attempt_count":1"#, r#""attempt_count":"one""#),
        (r#""id":"d_1","#, ""),
        (DELIVERY, "null"),
        (DELIVERY, "7"),
    ] {
        let lists = peer(page(DELIVERY, plain, odd)).await;
        let list = lists.client().webhooks().deliveries("wh_1").await?;
        assert_eq!((list.items.len(), list.unreadable.len()), (2, 1), "{odd}");
        assert_eq!(list.unreadable[0].get(), DELIVERY.replacen(plain, odd, 1));
        let mut items = lists.client().webhooks().deliveries("wh_1").items();
        let mut seen = 0;
        while let Some(item) = items.next().await {
            assert_eq!(item?.id, "d_1");
            seen += 1;
        }
        assert_eq!((seen, items.invalid_count()), (2, 3), "{odd}");
    }
    Ok(())
}

#[tokio::test]
async fn a_page_without_has_more_yields_its_items_then_an_error() -> Result<(), Error> {
    for end in [
        "",
        r#","has_more":"no""#,
        r#","has_more":null,"next_cursor":null"#,
        r#","has_more":false,"next_cursor":7"#,
    ] {
        let list = peer(format!(r#"{{"data":[{DELIVERY}]{end}}}"#)).await;
        let mut items = list.client().webhooks().deliveries("wh_1").items();
        assert_eq!(items.next().await.unwrap()?.id, "d_1", "{end}");
        match items.next().await {
            None => assert!(end.contains("false"), "{end}"),
            Some(next) => assert!(
                next.unwrap_err().is_malformed_response() && !end.contains("false"),
                "{end}"
            ),
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_unreadable_webhook_stops_ensure_only_if_it_may_match() {
    let named = |name: &str, created_at: &str| {
        let webhook = WEBHOOK.replace(r#""name":"n""#, &format!(r#""name":{name}"#));
        webhook.replace(
            r#""created_at":1"#,
            &format!(r#""created_at":{created_at}"#),
        )
    };
    for (neighbour, stops) in [
        (named(r#""n\ud83d""#, "1"), false),
        (named(r#""n""#, "\"long ago\""), false),
        (named(r#""users""#, "\"long ago\""), true),
        (named(r#"["users"]"#, "1"), true),
    ] {
        let list = peer(page(WEBHOOK, WEBHOOK, &neighbour)).await;
        match list.client().webhooks().find(&spec()).await {
            Ok(found) => assert!(!stops && found.is_none(), "{neighbour}"),
            Err(error) => assert!(
                stops && error.is_malformed_response(),
                "{neighbour}: {error}"
            ),
        }
    }
    // `ensure` creates nothing: the unreadable webhook may be the one it looks for, and a new one
    // would be a duplicate.
    let list = peer(page(WEBHOOK, WEBHOOK, &named(r#""users""#, "null"))).await;
    let error = list
        .client()
        .webhooks()
        .ensure(&spec(), &MemorySecretStore::new())
        .await
        .unwrap_err();
    let EndpointError::Call(error) = error else {
        panic!("{error:?}")
    };
    assert!(error.is_malformed_response(), "{error}");
    assert!(
        list.asked()
            .iter()
            .all(|asked| asked.line.starts_with("GET")),
        "{:?}",
        list.asked()
    );
}
