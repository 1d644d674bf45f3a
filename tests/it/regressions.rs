//! The failure modes in `docs/failure-modes.md`, from outside: those that involve several parts.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    event::{
        Event,
        types::{UserCreated, UserDeleted, UserUpdated},
    },
    handlers::{Context, HandlerError, Handlers},
    ledger::{EventKey, Ledger},
    receiver::Receiver,
    signature::{KeyRing, SignatureScheme, Verifier, diagnose},
    stores::{Memory, Sqlite},
    testing::Fixture,
};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::{Notify, Semaphore};

use crate::support::{
    SECRET,
    log::{Logged, assert_clean, listen, personal},
    request, signed, verifier,
};

#[test]
fn every_failure_mode_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = fs::read_to_string(root.join("docs/failure-modes.md")).unwrap();
    let mut rows = BTreeSet::new();
    for row in table.lines().filter_map(|line| line.strip_prefix("| ")) {
        let Some((Ok(number), cells)) = row
            .split_once(" | ")
            .map(|(number, rest)| (number.parse::<u8>(), rest))
        else {
            continue;
        };
        assert!(rows.insert(number), "failure mode {number} has two rows");
        let (_, tests) = cells.split_once(" | ").unwrap();
        // Text between backticks is a file, or a test in the file named last.
        let (mut file, mut named) = (String::new(), 0);
        for name in tests.split('`').skip(1).step_by(2) {
            if name.contains('/') {
                file = fs::read_to_string(root.join(name))
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
            } else {
                assert!(
                    file.contains(&format!("fn {name}(")),
                    "failure mode {number}: no test is called {name}"
                );
                named += 1;
            }
        }
        assert!(
            named > 0 || tests.contains("nothing to go wrong yet"),
            "failure mode {number} has no test"
        );
    }
    assert_eq!(rows, (1..=19).collect());
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_a_delivery_neither_secret_nor_payload_is_logged() {
    let logged = Logged::default();
    let _guard = listen(logged.clone());
    let handlers = || {
        Handlers::new(())
            .on(async |event: Event<UserCreated>, _| match event.id() {
                "evt_fails" => Err(HandlerError::retryable("busy")),
                "evt_fails_for_good" => Err(HandlerError::terminal("no such user")),
                "evt_panics" => panic!("a bug"),
                "evt_stalls" => std::future::pending().await,
                "evt_wants_more" => event.data_as::<Vec<String>>().map(drop).map_err(Into::into),
                _ => Ok(()),
            })
            .on(async |event: Event<UserUpdated>, _| {
                event
                    .data_as::<bool>()
                    .map(drop)
                    .map_err(HandlerError::terminal)
            })
    };
    let sqlite = Sqlite::in_memory().await.unwrap();
    let receivers = [
        Receiver::inline("users", verifier(), Memory::new(), handlers())
            .build()
            .unwrap(),
        Receiver::inline("kept", verifier(), sqlite.clone(), handlers())
            .build()
            .unwrap(),
    ];
    let created = |id: &str| personal(Fixture::of::<UserCreated>().id(id));
    for receiver in &receivers {
        for id in [
            "evt_1",
            "evt_1",
            "evt_fails",
            "evt_fails_for_good",
            "evt_panics",
            "evt_stalls",
            "evt_wants_more",
        ] {
            receiver.receive(request(&created(id))).await;
        }
        receiver
            .receive(request(
                &created("evt_1").data(json!({ "username": "another PAYLOAD" })),
            ))
            .await;
        receiver
            .receive(request(&personal(Fixture::of::<UserUpdated>())))
            .await;
        receiver
            .receive(request(&personal(Fixture::of::<UserDeleted>())))
            .await;
        let old = created("evt_old").time(jiff::Timestamp::UNIX_EPOCH);
        receiver.receive(request(&old)).await;
        for unreadable in [
            r#"{"PAYLOAD":"#,
            r#"{"id":"PAYLOAD","type":["PAYLOAD"]}"#,
            "\"PAYLOAD\"",
            "[\"PAYLOAD\"]",
        ] {
            let sent = signed(unreadable);
            receiver.receive(sent).await;
        }
        for value in ["FORGED", "v1=FORGED", &"0".repeat(64)] {
            let mut forged = request(&created("evt_forged"));
            forged
                .headers_mut()
                .insert("x-webhook-signature", value.parse().unwrap());
            receiver.receive(forged).await;
        }
    }
    let tokens = || KeyRing::new().with("token", SECRET);
    let bearer = Receiver::inline(
        "bearer",
        Verifier::bearer(tokens()),
        Memory::new(),
        handlers(),
    )
    .build()
    .unwrap();
    let small = Receiver::inline("small", verifier().max_body(9), Memory::new(), handlers())
        .build()
        .unwrap();
    let expired = KeyRing::new().with_during("gone", SECRET, ..jiff::Timestamp::UNIX_EPOCH);
    let unset = Receiver::inline(
        "unset",
        Verifier::authpi(expired),
        Memory::new(),
        handlers(),
    )
    .build()
    .unwrap();
    for receiver in [&bearer, &small, &unset] {
        let mut sent = request(&created("evt_2"));
        sent.headers_mut()
            .insert("authorization", "Bearer FORGED".parse().unwrap());
        receiver.receive(sent).await;
    }
    sqlite.close().await;
    receivers[1].receive(request(&created("evt_3"))).await;

    let text = logged.text();
    for outcome in [
        "handled",
        "duplicate",
        "unhandled",
        "dead_letter",
        "failed",
        "cannot_keep",
        "unreadable",
        "expired",
        "unauthorized",
        "too_large",
        "no_secret",
        "store_down",
    ] {
        assert!(
            text.contains(&format!("outcome=\"{outcome}\"")),
            "{outcome} was not reached:\n{text}"
        );
    }
    assert!(
        text.contains("content differs") && text.contains("a bug"),
        "{text}"
    );
    assert_clean("the log", &text);
}

#[tokio::test]
async fn nothing_that_a_user_holds_shows_a_secret_or_a_payload() {
    let shown = Arc::new(Mutex::new(String::new()));
    let handlers = Handlers::new(Arc::clone(&shown)).on(
        async |event: Event<UserCreated>, cx: Context<Arc<Mutex<String>>>| {
            let data = event.data()?;
            let text = format!(
                "{event:?} {data:?} {:?} {:?} {:?} {cx:?}",
                data.extra,
                event.subject(),
                event.envelope()
            );
            *cx.state().lock().unwrap() = text;
            Ok(())
        },
    );
    let delivery = personal(Fixture::of::<UserCreated>());
    let sent = request(&delivery);
    let verified = verifier().verify(sent.headers(), delivery.body()).unwrap();
    let event = verified.event().unwrap();
    let diagnosis = diagnose(sent.headers(), &delivery.body(), &SECRET.into());
    let mut text = format!(
        "{verified:?} {event:?} {:?} {diagnosis:?} {diagnosis}",
        event.decode().unwrap()
    );
    write!(
        text,
        "{:?} {:?}",
        event.data_as::<bool>().unwrap_err(),
        event.data_as::<Vec<bool>>().unwrap_err()
    )
    .unwrap();
    write!(
        text,
        "{:?}",
        verifier().diagnose(sent.headers(), b"PAYLOAD")
    )
    .unwrap();
    write!(
        text,
        "{:?}",
        Event::from_json(r#"{"id":"PAYLOAD","type":3}"#).unwrap_err()
    )
    .unwrap();
    let mut verifying = verifier()
        .and_bearer(KeyRing::new().with("token", SECRET))
        .begin(sent.headers())
        .unwrap_err();
    write!(text, "{verifying:?} {verifying}").unwrap();
    verifying = verifier().verify(sent.headers(), "PAYLOAD").unwrap_err();
    write!(text, "{verifying:?} {verifying}").unwrap();
    let builder = Receiver::inline("users", verifier(), Memory::new(), handlers);
    write!(text, "{builder:?}").unwrap();
    let receiver = builder.build().unwrap();
    assert_eq!(receiver.receive(sent).await.status(), 200);
    write!(text, "{receiver:?} {}", shown.lock().unwrap()).unwrap();
    assert!(
        text.contains("UserCreated") && text.contains("\"other\""),
        "nothing is shown:\n{text}"
    );
    assert_clean("what Debug and Display show", &text);
}

/// A handler that waits for a permit and counts.
fn counted() -> (Handlers<()>, Arc<Notify>, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (started, go, runs) = (
        Arc::new(Notify::new()),
        Arc::new(Semaphore::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let shared = (Arc::clone(&started), Arc::clone(&go), Arc::clone(&runs));
    let handlers = Handlers::new(()).on(move |_: Event<UserCreated>, _: Context<()>| {
        let (started, go, runs) = shared.clone();
        async move {
            started.notify_one();
            runs.fetch_add(1, Ordering::SeqCst);
            go.acquire().await?.forget();
            Ok(())
        }
    });
    (handlers, started, go, runs)
}

async fn one_runs(ledger: impl Ledger) {
    let (handlers, started, go, runs) = counted();
    let receiver = Receiver::inline("users", verifier(), ledger, handlers)
        .in_flight_wait(Duration::from_mins(1));
    let receiver = receiver.build().unwrap();
    let deliveries: Vec<_> = (0..32)
        .map(|_| {
            let receiver = receiver.clone();
            // Four wait for the outcome. The others are sent again, as AuthPI does.
            tokio::spawn(async move {
                loop {
                    match receiver
                        .receive(request(&Fixture::of::<UserCreated>()))
                        .await
                        .status()
                        .as_u16()
                    {
                        503 => tokio::task::yield_now().await,
                        status => return status,
                    }
                }
            })
        })
        .collect();
    started.notified().await;
    go.add_permits(32);
    for delivery in deliveries {
        assert_eq!(delivery.await.unwrap(), 200);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_deliveries_at_once_one_is_handled_and_the_others_know_it() {
    one_runs(Memory::new()).await;
    one_runs(Sqlite::in_memory().await.unwrap()).await;
}

#[tokio::test]
async fn two_endpoints_with_one_ledger_each_handle_an_event_of_the_same_id() {
    let ledger = Memory::new();
    let (handlers, _, go, runs) = counted();
    go.add_permits(2);
    let users = Receiver::inline("users", verifier(), ledger.clone(), handlers)
        .build()
        .unwrap();
    let (handlers, _, go, others) = counted();
    go.add_permits(2);
    let orders = Receiver::inline("orders", verifier(), ledger, handlers)
        .build()
        .unwrap();
    for receiver in [&users, &orders, &users, &orders] {
        assert_eq!(
            receiver
                .receive(request(&Fixture::of::<UserCreated>()))
                .await
                .status(),
            200
        );
    }
    assert_eq!(
        (runs.load(Ordering::SeqCst), others.load(Ordering::SeqCst)),
        (1, 1)
    );
}

#[tokio::test]
async fn a_forged_delivery_leaves_no_record_and_does_not_block_the_real_one() {
    let ledger = Memory::new();
    let (handlers, _, go, runs) = counted();
    go.add_permits(1);
    let receiver = Receiver::inline("users", verifier(), ledger.clone(), handlers)
        .build()
        .unwrap();
    let real = Fixture::of::<UserCreated>().id("evt_1");
    let forged = real
        .request(&SignatureScheme::authpi(), &"whs_another".into())
        .unwrap();
    assert_eq!(receiver.receive(forged).await.status(), 401);
    assert!(ledger.is_empty(), "an unverified id reached the ledger");
    assert_eq!(receiver.receive(request(&real)).await.status(), 200);
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn headers_outside_of_the_signature_choose_neither_key_nor_handler() {
    let ledger = Memory::new();
    let (handlers, _, go, runs) = counted();
    go.add_permits(1);
    let handlers =
        handlers.on(async |_: Event<UserDeleted>, _| panic!("a header chose the handler"));
    let receiver = Receiver::inline("users", verifier(), ledger.clone(), handlers)
        .build()
        .unwrap();
    let now = jiff::Timestamp::now().as_millisecond();
    let binary = format!(r#"{{"id":"evt_1","type":"user.created","timestamp":{now}}}"#);
    for body in [
        Fixture::of::<UserCreated>().id("evt_1").body(),
        Bytes::from(binary),
    ] {
        let mut sent = signed(body);
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", "evt_2"),
            ("ce-type", "user.deleted"),
            ("ce-source", "s"),
            ("ce-time", "2026-11-23T00:00:00Z"),
            ("webhook-id", "evt_3"),
        ] {
            sent.headers_mut().insert(name, value.parse().unwrap());
        }
        assert_eq!(receiver.receive(sent).await.status(), 200);
    }
    assert_eq!((runs.load(Ordering::SeqCst), ledger.len()), (1, 1));
    assert!(
        ledger
            .forget(&EventKey::new("users", "evt_1"))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_delivery_whose_sender_hung_up_is_counted_like_any_other() {
    let logged = Logged::default();
    let _guard = listen(logged.clone());
    let (handlers, started, go, _) = counted();
    let receiver = Receiver::inline("users", verifier(), Memory::new(), handlers)
        .build()
        .unwrap();
    let waiting = tokio::spawn({
        let receiver = receiver.clone();
        async move {
            receiver
                .receive(request(&Fixture::of::<UserCreated>()))
                .await
        }
    });
    started.notified().await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    go.add_permits(1);
    receiver.drain().await;
    assert!(
        logged.text().contains("outcome=\"handled\""),
        "not counted:\n{}",
        logged.text()
    );
}
