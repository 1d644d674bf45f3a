//! Which handler gets which event, and testing handlers without HTTP.

use std::{sync::Mutex, time::Duration};

use crate::support::{keys, verifier};
use authpi_sdk::{
    event::{
        Event, EventType,
        types::{OrganizationCreated, UserCreated, UserDeleted},
    },
    handlers::{Context, HandlerError, Handlers, HandlersError, Outcome},
    ledger::Tx,
    receiver::{BuildError, Inline, Receiver, ReceiverBuilder},
    signature::{KeyRing, SignatureScheme, Verifier},
    stores::{Memory, Sqlite},
    testing::{Fixture, fixture},
};

type Log = Mutex<Vec<&'static str>>;

fn note(
    what: &'static str,
) -> impl Fn(Event, Context<Log>) -> std::future::Ready<authpi_sdk::HandlerResult> {
    move |_, cx| {
        cx.state().lock().unwrap().push(what);
        std::future::ready(Ok(()))
    }
}

#[tokio::test]
async fn the_exact_type_precedes_the_longest_prefix_and_the_fallback() {
    let handlers = Handlers::new(Log::default())
        .on_prefix("user.", note("user."))
        .on_prefix("user.email.", note("user.email."))
        .on(async |_: Event<UserCreated>, cx: Context<Log>| {
            cx.state().lock().unwrap().push("user.created");
            Ok(())
        })
        .on_type("user.teleported", note("user.teleported"))
        .on(async |event: Event<UserDeleted>, cx: Context<Log>| {
            let what = if event.subject().user_id().is_some() {
                "user.deleted"
            } else {
                "no user deleted"
            };
            cx.state().lock().unwrap().push(what);
            assert_eq!((cx.attempt(), cx.endpoint()), (1, "dispatch"));
            assert_eq!(cx.idempotency_key(), format!("8:dispatch:{}", event.id()));
            Ok(())
        })
        .fallback(note("otherwise"));
    let log = handlers.state();
    for name in [
        "user.created",
        "user.updated",
        "user.email.changed",
        "user.teleported",
        "user.deleted",
        "session.created",
        "usher.in",
    ] {
        assert!(matches!(
            handlers.dispatch(Fixture::new(name).verified()).await,
            Outcome::Handled
        ));
    }
    assert_eq!(
        *log.lock().unwrap(),
        [
            "user.created",
            "user.",
            "user.email.",
            "user.teleported",
            "user.deleted",
            "otherwise",
            "otherwise"
        ]
    );
}

#[tokio::test]
async fn how_a_handler_went_is_told_by_its_outcome() {
    let handlers = Handlers::new(())
        .on(async |_: Event<UserCreated>, _| Err("x".parse::<u8>().unwrap_err().into()))
        .on(async |_: Event<UserDeleted>, _| panic!("boo"));
    assert!(matches!(
        handlers.dispatch(fixture::<OrganizationCreated>()).await,
        Outcome::Unhandled
    ));
    let failed = handlers.dispatch(fixture::<UserCreated>()).await;
    assert!(matches!(failed, Outcome::Failed(error) if !error.is_terminal()));
    let panicked = handlers.dispatch(fixture::<UserDeleted>()).await;
    assert!(matches!(panicked, Outcome::Panicked(text) if text == "boo"));
}

#[tokio::test]
async fn dispatch_in_a_store_commits_or_rolls_back_the_handlers_writes() {
    let store = Sqlite::in_memory().await.unwrap();
    let handlers = Handlers::new(())
        .on_tx(async |_: Event<UserCreated>, cx, mut tx: Tx<Sqlite>| {
            assert_eq!(cx.attempt(), 1);
            sqlx::query("CREATE TABLE created (id)")
                .execute(&mut *tx)
                .await?;
            Ok(())
        })
        .on_tx(async |_: Event<UserDeleted>, _, mut tx: Tx<Sqlite>| {
            sqlx::query("DROP TABLE created").execute(&mut *tx).await?;
            Err(HandlerError::terminal("not today"))
        })
        .on(async |_: Event<OrganizationCreated>, _| Ok(()));
    let deleted = handlers.dispatch_in(&store, fixture::<UserDeleted>()).await;
    assert!(matches!(deleted, Ok(Outcome::Failed(_))), "{deleted:?}");
    let created = handlers.dispatch_in(&store, fixture::<UserCreated>()).await;
    assert!(matches!(created, Ok(Outcome::Committed)), "{created:?}");
    // The same event again: the handler runs, and finds the table of its first run.
    let again = handlers.dispatch_in(&store, fixture::<UserCreated>()).await;
    assert!(
        matches!(&again, Ok(Outcome::Failed(error)) if error.to_string().contains("already exists")),
        "{again:?}"
    );
    // The drop is rolled back, so the table exists each time.
    for _ in 0..2 {
        let deleted = handlers.dispatch_in(&store, fixture::<UserDeleted>()).await;
        assert!(
            matches!(&deleted, Ok(Outcome::Failed(error)) if error.is_terminal()),
            "{deleted:?}"
        );
    }
    let plain = handlers
        .dispatch_in(&store, fixture::<OrganizationCreated>())
        .await;
    assert!(matches!(plain, Ok(Outcome::Handled)), "{plain:?}");
    let unknown = Fixture::new("session.created").verified();
    let unhandled = handlers.dispatch_in(&store, unknown).await;
    assert!(matches!(unhandled, Ok(Outcome::Unhandled)), "{unhandled:?}");
    store.close().await;
    let closed = handlers.dispatch_in(&store, fixture::<UserCreated>()).await;
    assert!(closed.is_err(), "{closed:?}");
}

#[test]
fn two_handlers_for_one_place_are_an_error_of_build() {
    let twice = |handlers: Handlers<Log>| {
        Receiver::inline("users", verifier(), Memory::new(), handlers)
            .build()
            .unwrap_err()
    };
    let new = || Handlers::new(Log::default());
    assert_eq!(
        twice(
            new()
                .on_type("user.created", note("a"))
                .on(async |_: Event<UserCreated>, _| Ok(()))
        ),
        BuildError::Handlers(HandlersError::TypeTwice(EventType::UserCreated))
    );
    assert_eq!(
        twice(
            new()
                .on_prefix("user.", note("a"))
                .on_prefix("user.", note("b"))
        ),
        BuildError::Handlers(HandlersError::PrefixTwice("user.".into()))
    );
    assert_eq!(
        twice(new().fallback(note("a")).fallback(note("b"))),
        BuildError::Handlers(HandlersError::FallbackTwice)
    );
}

#[test]
fn a_receiver_that_cannot_work_is_not_built() {
    let build = |endpoint: &str, keys: KeyRing, in_flight: usize| {
        Receiver::inline(
            endpoint,
            Verifier::authpi(keys),
            Memory::new(),
            Handlers::new(()),
        )
        .max_in_flight(in_flight)
        .build()
    };
    assert!(build("users", keys(), 1).is_ok());
    assert_eq!(build("", keys(), 1).unwrap_err(), BuildError::NoEndpoint);
    assert!(matches!(
        build("users", KeyRing::new(), 1),
        Err(BuildError::Secrets(_))
    ));
    assert_eq!(
        build("users", keys(), 0).unwrap_err(),
        BuildError::Setting("max_in_flight")
    );
    let set = |setting: fn(ReceiverBuilder<Inline>) -> ReceiverBuilder<Inline>| {
        let receiver = Receiver::inline(
            "users",
            Verifier::authpi(keys()),
            Memory::new(),
            Handlers::new(()),
        );
        setting(receiver).build().map(drop)
    };
    assert_eq!(
        set(|it| it.in_flight_wait(Duration::MAX)),
        Err(BuildError::Setting("in_flight_wait"))
    );
    assert_eq!(
        set(|it| it.handler_timeout(Duration::MAX)),
        Err(BuildError::Setting("handler_timeout"))
    );
    assert_eq!(
        set(|it| it.lease(Duration::ZERO)),
        Err(BuildError::Setting("lease"))
    );
    assert_eq!(
        set(|it| it.body_timeout(Duration::ZERO)),
        Err(BuildError::Setting("body_timeout"))
    );
    assert_eq!(
        set(|it| it.in_flight_wait(Duration::ZERO).retry_after(Duration::MAX)),
        Ok(())
    );
    let scheme = Verifier::new(
        SignatureScheme::standard_webhooks(),
        keys().with("other", "whsec_not base64"),
    );
    let with_it = Receiver::inline("users", scheme, Memory::new(), Handlers::new(())).build();
    assert!(
        matches!(with_it, Err(BuildError::Secrets(_))),
        "a secret that can verify nothing was taken"
    );
}

#[test]
fn the_types_that_nobody_handles_are_reported() {
    let handlers = Handlers::new(Log::default())
        .on_prefix("user.", note("a"))
        .on_type("session.created", note("b"));
    let unhandled = handlers.unhandled_types();
    assert_eq!(unhandled.len(), 106 - 36 - 1);
    assert!(
        unhandled.contains(&EventType::SessionUpdated)
            && !unhandled.contains(&EventType::UserCreated)
    );
}
