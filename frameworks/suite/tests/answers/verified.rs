//! `Verified<Event>` as an extractor or a guard, with the answers of a receiver.

use authpi_actix_web::VerifiedEvent as ActixEvent;
use authpi_rocket::{Refusal, VerifiedEvent as RocketEvent};
use authpi_sdk::{Event, Receiver, receiver::Authenticator, signature::Verified};
use frameworks::{
    PATH,
    scenarios::{Arrives, MAX_BODY, Sent, verifier},
};
use http::Method;
use jiff::{SignedDuration, Timestamp};

use crate::{
    assert_golden,
    http::send,
    servers::{Actix, Server, Task, serve_actix, serve_axum, serve_rocket},
};

fn authenticator() -> Authenticator {
    let builder = Receiver::verify_only("users", verifier());
    builder
        .body_timeout(std::time::Duration::from_millis(500))
        .build()
        .unwrap()
}

/// A service that answers with the event's id.
async fn assert_verified(server: &impl Server) {
    let old = || {
        use authpi_sdk::{event::types::UserCreated, testing::Fixture};
        let time = Timestamp::now() - SignedDuration::from_hours(31 * 24);
        Sent::signed(Fixture::of::<UserCreated>().time(time).body())
    };
    let refused = |sent: Sent, name| (sent, name);
    assert_golden(
        send(server.address(), &old()).await,
        "clock-unsure",
        "the first delivery is old",
    );
    // A second delivery of the same event is accepted too, since there is no ledger.
    for _ in 0..2 {
        let answer = send(server.address(), &Sent::created("evt_1"))
            .await
            .unwrap();
        assert_eq!((answer.status(), answer.body()), ("200 OK", "evt_1"));
    }
    let mut forged = Sent::created("evt_1");
    forged.body = Sent::created("evt_2").body;
    for (sent, name) in [
        refused(forged, "unauthorized"),
        refused(Sent::signed("{}"), "unreadable"),
        refused(old(), "expired"),
        refused(Sent::large("evt_1", MAX_BODY), "too-large"),
        refused(
            Sent::created("evt_1").arrives(Arrives::Stalls(64)),
            "too-slow",
        ),
    ] {
        assert_golden(send(server.address(), &sent).await, name, name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_extractor_of_axum() {
    async fn hook(event: Verified<Event>) -> String {
        event.id().to_owned()
    }
    let app = axum::Router::new().route(PATH, axum::routing::any(hook));
    let server = serve_axum(app.with_state(authenticator())).await;
    assert_verified(&server).await;
    let get = Sent {
        method: Method::GET,
        ..Sent::created("evt_1")
    };
    assert_golden(send(server.address(), &get).await, "not-post", "a GET");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_extractor_of_actix_web() {
    async fn hook(ActixEvent(event): ActixEvent) -> String {
        event.id().to_owned()
    }
    use actix_web::web;
    let authenticator = authenticator();
    let data = web::Data::new(authenticator.clone());
    let (plain, _) = serve_actix(move |app| {
        app.app_data(authenticator.clone())
            .route(PATH, web::to(hook));
    });
    assert_verified(&Actix { address: plain }).await;
    let (shared, _) = serve_actix(move |app| {
        app.app_data(data.clone()).route(PATH, web::to(hook));
    });
    let answer = send(shared, &Sent::created("evt_1")).await.unwrap();
    assert_eq!(answer.body(), "evt_1");
    let (without, _) = serve_actix(|app| {
        app.route(PATH, web::to(hook));
    });
    let answer = send(without, &Sent::created("evt_1")).await.unwrap();
    assert_eq!(answer.status(), "500 Internal Server Error");
}

#[rocket::post("/hooks/authpi", data = "<event>")]
fn rocket_hook(event: Result<RocketEvent, Refusal>) -> Result<String, Refusal> {
    Ok(event?.0.id().to_owned())
}

#[rocket::post("/hooks/authpi", data = "<event>")]
fn rocket_plain(event: RocketEvent) -> String {
    event.0.into_inner().id().to_owned()
}

async fn rocket(routes: Vec<rocket::Route>, authenticator: Option<Authenticator>) -> Task {
    let app = rocket::build().mount("/", routes);
    serve_rocket(match authenticator {
        Some(authenticator) => app.manage(authenticator),
        None => app,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_of_rocket() {
    let server = rocket(rocket::routes![rocket_hook], Some(authenticator())).await;
    assert_verified(&server).await;
    // Without a `Result`, Rocket's catcher writes the body.
    let server = rocket(rocket::routes![rocket_plain], Some(authenticator())).await;
    let answer = send(server.address(), &Sent::signed("{}")).await.unwrap();
    assert_eq!(answer.status(), "400 Bad Request");
    let server = rocket(rocket::routes![rocket_hook], None).await;
    let answer = send(server.address(), &Sent::created("evt_1"))
        .await
        .unwrap();
    assert_eq!(answer.status(), "500 Internal Server Error");
}
