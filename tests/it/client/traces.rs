//! The W3C trace of calls.

use std::{collections::HashSet, time::Duration};

use authpi_sdk::{
    client::{Client, RetryPolicy, retry::ExponentialBackoff},
    event::{Event, types::UserCreated},
    handlers::{Context, Handlers},
    receiver::Receiver,
    stores::Memory,
    testing::Fixture,
};
use http::{HeaderName, HeaderValue, StatusCode};
use tracing::subscriber::NoSubscriber;

use super::peer::{Asked, Peer, Reply};
use crate::support::{
    log::{Logged, listen},
    signed, verifier,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const WEBHOOK: &str = r#"{"data":{"id":"wh_1","account_id":"acc_1","name":"n","url":"https://x","auth":{"type":"none"},"events":[],"created_at":1}}"#;

/// The parts of a valid `traceparent`: the trace's id, the parent's id, the flags.
fn trace(asked: &Asked) -> [String; 3] {
    let header = asked.header("traceparent").expect("each request has one");
    let parts: Vec<_> = header.split('-').map(str::to_owned).collect();
    let [version, trace, parent, flags] = &*parts else {
        panic!("{header}")
    };
    assert_eq!(version, "00", "{header}");
    for (part, length) in [(trace, 32), (parent, 16), (flags, 2)] {
        let hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        assert!(part.len() == length && part.bytes().all(hex), "{header}");
    }
    assert!(!trace.bytes().all(|digit| digit == b'0'), "{header}");
    assert!(!parent.bytes().all(|digit| digit == b'0'), "{header}");
    [trace.clone(), parent.clone(), flags.clone()]
}

#[tokio::test]
async fn the_attempts_of_a_call_have_one_trace_and_different_parents() {
    let peer = Peer::in_turn([
        Reply::json(503, "{}"),
        Reply::json(503, "{}"),
        Reply::json(200, WEBHOOK),
    ])
    .await;
    let backoff = ExponentialBackoff::new(Duration::ZERO, Duration::ZERO);
    let policy = RetryPolicy::default().max_attempts(3).backoff(backoff);
    let client = peer.client();
    client.webhooks().get("wh_1").retry(policy).await.unwrap();
    client.webhooks().get("wh_1").await.unwrap();

    let sent: Vec<_> = peer.asked().iter().map(trace).collect();
    let traces: Vec<_> = sent.iter().map(|[trace, ..]| trace).collect();
    assert!(traces[0] == traces[1] && traces[1] == traces[2], "{sent:?}");
    assert_ne!(traces[2], traces[3], "another call has another trace");
    let parents: HashSet<_> = sent.iter().map(|[_, parent, _]| parent).collect();
    assert_eq!(parents.len(), 4, "{sent:?}");
}

#[tokio::test]
async fn the_flags_and_the_log_tell_whether_a_call_is_recorded() {
    let peer = Peer::replying(Reply::json(200, WEBHOOK)).await;
    let client = peer.client();
    {
        let _nothing = tracing::subscriber::set_default(NoSubscriber::default());
        client.webhooks().get("wh_1").await.unwrap();
    }
    let logged = Logged::default();
    {
        let _guard = listen(logged.clone());
        client.webhooks().get("wh_1").await.unwrap();
    }
    let sent = peer.asked();
    let [not_recorded, recorded] = [trace(&sent[0]), trace(&sent[1])];
    assert_eq!([&*not_recorded[2], &*recorded[2]], ["00", "01"]);
    let log = logged.text();
    assert!(log.contains(&format!("trace={}", recorded[0])), "{log}");
}

#[tokio::test]
async fn the_callers_own_trace_is_sent_instead() {
    let peer = Peer::replying(Reply::json(200, WEBHOOK)).await;
    let own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let name = HeaderName::from_static("traceparent");
    let call = peer.client().webhooks().get("wh_1");
    let call = call.header(name, HeaderValue::from_static(own));
    let logged = Logged::default();
    {
        let _guard = listen(logged.clone());
        call.await.unwrap();
    }
    assert_eq!(peer.asked()[0].header("traceparent"), Some(own));
    let log = logged.text();
    assert!(
        log.contains("trace=4bf92f3577b34da6a3ce929d0e0e4736"),
        "{log}"
    );
}

#[tokio::test]
async fn calls_of_a_handler_continue_the_events_trace_if_it_is_a_w3c_trace() {
    async fn call(_: Event<UserCreated>, cx: Context<Client>) -> authpi_sdk::HandlerResult {
        cx.state().webhooks().get("wh_1").await?;
        Ok(())
    }
    let peer = Peer::replying(Reply::json(200, WEBHOOK)).await;
    let handlers = Handlers::new(peer.client()).on(call);
    let receiver = Receiver::inline("users", verifier(), Memory::new(), handlers);
    let receiver = receiver.build().unwrap();
    let full = format!("00-{TRACE}-b7ad6b7169203331-01");
    for (n, of) in [TRACE, &full, "tr_01kdw3w5r6q8t0v2", "0"]
        .into_iter()
        .enumerate()
    {
        let body = Fixture::of::<UserCreated>().id(format!("evt_{n}")).body();
        let mut event: serde_json::Value = serde_json::from_slice(&body).unwrap();
        event["data"]["trace"] = of.into();
        let answer = receiver.receive(signed(event.to_string())).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    // After the handler, a call of this task has a trace of its own.
    peer.client().webhooks().get("wh_1").await.unwrap();
    let sent = peer.asked();
    let continues: Vec<_> = sent.iter().map(|asked| trace(asked)[0] == TRACE).collect();
    assert_eq!(continues, [true, true, false, false, false]);
}
