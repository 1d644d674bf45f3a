//! Faults: what goes wrong on purpose, seen from the other side.

use std::time::Duration;

use authpi_emulator::{
    Emulator, EmulatorClock, RemoteEmulator,
    faults::{CallFault, CallRule, DeliveryFault, DeliveryRule, FaultPlan},
};
use authpi_sdk::{
    client::{Client, RetryPolicy, WebhookSpec},
    signature::{KeyRing, Secret, SignatureScheme, Verifier, VerifyError},
};
use axum::{Router, http::HeaderMap, routing::post};
use jiff::Timestamp;
use reqwest::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;

use super::{Authpi, NOON, endpoint::Endpoint};

/// Longer than any test takes.
const LONG: u64 = 3_600_000;

fn once(fault: DeliveryFault) -> FaultPlan {
    FaultPlan::new().delivery(DeliveryRule::new(fault).times(1))
}

fn verifier(secret: &str) -> Verifier {
    Verifier::authpi(KeyRing::new().with("test", secret))
}

/// An emulator with this plan and no retries, and a webhook for it.
struct Setting {
    authpi: Authpi,
    endpoint: Endpoint,
    webhook_id: String,
    secret: String,
}

impl Setting {
    async fn with(plan: FaultPlan) -> Self {
        let builder = Emulator::builder().retry_delays([]).faults(plan);
        let (authpi, endpoint) = (Authpi::with(builder).await, Endpoint::start().await);
        let (webhook_id, secret) = authpi.webhook(&endpoint.url, &["user.created"]).await;
        Self {
            authpi,
            endpoint,
            webhook_id,
            secret,
        }
    }

    async fn trigger(&self) {
        self.authpi.emulator.trigger("user.created").await.unwrap();
    }

    /// Triggers an event, waits for its attempt, and returns the delivery's status and error.
    async fn attempt(&self) -> (String, String) {
        self.trigger().await;
        self.authpi.emulator.deliveries_settled().await;
        let delivery = self.authpi.delivery(&self.webhook_id).await;
        let text = |name: &str| delivery[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("last_error"))
    }
}

#[tokio::test]
async fn a_duplicate_arrives_again_with_the_same_bytes() {
    let setting = Setting::with(once(DeliveryFault::Duplicate { copies: 2 })).await;
    let (status, _) = setting.attempt().await;
    assert_eq!(status, "succeeded");
    let received = setting.endpoint.received();
    assert_eq!(received.len(), 3);
    assert!(received.iter().all(|copy| copy.body == received[0].body));
}

#[tokio::test]
async fn a_reordered_delivery_arrives_after_a_later_one() {
    let setting = Setting::with(once(DeliveryFault::Reorder { millis: LONG })).await;
    let mut events = Vec::new();
    for _ in 0..2 {
        let event = setting.authpi.emulator.trigger("user.created").await;
        events.push(event.unwrap().id);
    }
    setting.endpoint.until(2).await;
    let arrived: Vec<_> = setting
        .endpoint
        .received()
        .iter()
        .map(|received| {
            received.envelope()["data"]["id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    events.reverse();
    assert_eq!(arrived, events);
}

#[tokio::test]
async fn a_burst_waits_until_it_is_complete() {
    let burst = DeliveryFault::Burst {
        size: 3,
        millis: LONG,
    };
    let setting = Setting::with(FaultPlan::new().delivery(DeliveryRule::new(burst))).await;
    for _ in 0..2 {
        setting.trigger().await;
    }
    assert_eq!(setting.endpoint.received().len(), 0);
    setting.trigger().await;
    setting.endpoint.until(3).await;
    // The deliveries of an incomplete burst are sent when the plan is cleared.
    setting.trigger().await;
    setting.authpi.emulator.faults().clear();
    setting.authpi.emulator.deliveries_settled().await;
    assert_eq!(setting.endpoint.received().len(), 4);
}

#[tokio::test]
async fn a_delayed_and_a_slow_delivery_arrive_whole() {
    for fault in [
        DeliveryFault::Delay { millis: 1 },
        DeliveryFault::SlowBody { millis: 1 },
    ] {
        let setting = Setting::with(once(fault)).await;
        let (status, error) = setting.attempt().await;
        assert_eq!((&*status, &*error), ("succeeded", ""));
        let received = setting.endpoint.received().remove(0);
        let verified = verifier(&setting.secret).verify(&received.headers, received.body);
        assert!(verified.is_ok());
    }
}

#[tokio::test]
async fn a_cut_body_and_a_hang_up_are_recorded_as_failures() {
    for (fault, error) in [
        (DeliveryFault::CutBody, "the body was cut off"),
        (DeliveryFault::HangUp, "hung up before the response"),
    ] {
        let setting = Setting::with(once(fault)).await;
        let (status, why) = setting.attempt().await;
        assert_eq!(status, "failed");
        assert!(why.contains(error), "{why}");
    }
}

#[tokio::test]
async fn a_wrong_length_or_secret_does_not_verify() {
    for fault in [
        DeliveryFault::WrongLength,
        DeliveryFault::WrongSecret,
        DeliveryFault::RotatedSecret,
    ] {
        let setting = Setting::with(once(fault.clone())).await;
        setting.attempt().await;
        let received = setting.endpoint.received().remove(0);
        let refused = verifier(&setting.secret).verify(&received.headers, received.body);
        assert!(matches!(refused, Err(VerifyError::Mismatch)), "{fault:?}");
    }
}

#[tokio::test]
async fn a_rotated_secret_is_the_one_before_the_last_change() {
    let setting = Setting::with(once(DeliveryFault::RotatedSecret)).await;
    let path = format!("/webhooks/{}", setting.webhook_id);
    let change = json!({"auth": {"type": "signature"}});
    setting
        .authpi
        .patch(&path, &change)
        .await
        .expect(StatusCode::OK);
    setting.attempt().await;
    let received = setting.endpoint.received().remove(0);
    let verified = verifier(&setting.secret).verify(&received.headers, received.body);
    assert!(verified.is_ok());
}

#[tokio::test]
async fn a_stale_delivery_is_old_in_its_signature_and_in_its_envelope() {
    let fault = DeliveryFault::StaleTime { seconds: 86_400 };
    let builder = Emulator::builder()
        .retry_delays([])
        .signature_scheme(SignatureScheme::timestamped())
        .faults(once(fault));
    let (authpi, endpoint) = (Authpi::with(builder).await, Endpoint::start().await);
    let (_, secret) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    authpi.emulator.trigger("user.created").await.unwrap();
    authpi.emulator.deliveries_settled().await;
    let received = endpoint.received().remove(0);
    let time: Timestamp = received.envelope()["time"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let age = Timestamp::now().duration_since(time);
    assert!(age.as_hours() >= 24, "{age}");
    let keys = KeyRing::new().with("test", secret);
    let verifier = Verifier::new(SignatureScheme::timestamped(), keys);
    let refused = verifier.verify(&received.headers, received.body);
    assert!(matches!(refused, Err(VerifyError::Stale { .. })));
}

#[tokio::test]
async fn a_receivers_retry_after_counts_only_behind_the_switch() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let busy = || async {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "7200".parse().unwrap());
        (StatusCode::SERVICE_UNAVAILABLE, headers)
    };
    let app = Router::new().route("/", post(busy));
    tokio::spawn(async move { axum::serve(listener, app).await });
    for (honor, pause) in [(false, 5_000), (true, 7_200_000)] {
        let noon = Timestamp::from_millisecond(NOON).unwrap();
        let builder = Emulator::builder()
            .clock(EmulatorClock::manual(noon))
            .retry_delays([Duration::from_secs(5)])
            .honor_retry_after(honor);
        let authpi = Authpi::with(builder).await;
        let (webhook_id, _) = authpi.webhook(&url, &["user.created"]).await;
        authpi.emulator.trigger("user.created").await.unwrap();
        authpi.emulator.deliveries_settled().await;
        let delivery = authpi.delivery(&webhook_id).await;
        assert_eq!(delivery["next_attempt_at"], NOON + pause);
    }
}

fn client(emulator: &Emulator) -> Client {
    Client::builder()
        .api_key(emulator.key_id(), emulator.key_secret())
        .account(emulator.account_id())
        .base_url(emulator.base_url())
        .build()
        .unwrap()
}

fn spec() -> WebhookSpec {
    WebhookSpec::new("users", "http://127.0.0.1:1/").all_events()
}

#[tokio::test]
async fn the_client_sees_each_fault_of_the_api_for_what_it_is() {
    let emulator = Emulator::start().await.unwrap();
    let client = client(&emulator);
    let broken = async |fault: CallFault| {
        let rule = CallRule::new(fault).operation("webhooks.list");
        emulator.faults().set(FaultPlan::new().call(rule)).unwrap();
        let call = client.webhooks().list().retry(RetryPolicy::never());
        call.attempt_timeout(Duration::from_millis(500))
            .await
            .unwrap_err()
    };
    for json in [true, false] {
        let error = broken(CallFault::TooManyRequests {
            retry_after: 3,
            json,
        })
        .await;
        assert_eq!(
            error.status(),
            Some(StatusCode::TOO_MANY_REQUESTS),
            "{error}"
        );
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        let error = broken(CallFault::Error { status: 502, json }).await;
        assert_eq!(error.status(), Some(StatusCode::BAD_GATEWAY), "{error}");
    }
    assert!(broken(CallFault::Stall).await.is_timeout());
    let error = broken(CallFault::CutAnswer).await;
    assert!(
        error.is_malformed_response() || error.status().is_none(),
        "{error}"
    );
    let error = broken(CallFault::DropAnswer).await;
    assert!(error.status().is_none() && !error.is_timeout(), "{error}");
    let to = "https://example.com/".to_owned();
    assert!(broken(CallFault::Redirect { to }).await.is_redirect());
    // Other operations are not affected.
    client.whoami().await.unwrap();
}

#[tokio::test]
async fn a_call_whose_answer_is_dropped_was_performed_and_is_repeated_safely() {
    let emulator = Emulator::start().await.unwrap();
    let client = client(&emulator);
    for fault in [CallFault::DropAnswer, CallFault::CutAnswer] {
        let rule = CallRule::new(fault).operation("webhooks.create").times(1);
        emulator.faults().set(FaultPlan::new().call(rule)).unwrap();
        let made = client.webhooks().create(&spec()).await.unwrap();
        assert!(made.replayed && made.secret.is_some());
    }
    let mut webhooks = client.webhooks().list().items();
    let mut count = 0;
    while let Some(webhook) = webhooks.next().await {
        webhook.unwrap();
        count += 1;
    }
    assert_eq!(count, 2, "a call was performed twice");
}

#[tokio::test]
async fn faults_are_changed_from_another_process_and_odd_plans_are_refused() {
    let emulator = Emulator::start().await.unwrap();
    let remote = |secret| RemoteEmulator::new(emulator.base_url(), emulator.key_id(), secret);
    let control = remote(emulator.key_secret()).unwrap();
    assert_eq!(control.faults().await.unwrap(), FaultPlan::new());
    let plan = once(DeliveryFault::HangUp);
    assert_eq!(control.set_faults(&plan).await.unwrap(), plan);
    assert_eq!(emulator.faults().plan(), plan);
    let odd = FaultPlan::new().delivery(DeliveryRule::new(DeliveryFault::HangUp).rate(2.0));
    let refused = control.set_faults(&odd).await.unwrap_err().to_string();
    assert!(refused.contains("deliveries[0].rate"), "{refused}");
    assert!(emulator.faults().set(odd.clone()).is_err());
    assert_eq!(control.faults().await.unwrap(), plan, "the plan was lost");
    let refused = remote("wrong").unwrap().clear_faults().await.unwrap_err();
    assert!(refused.to_string().contains("401"), "{refused}");
    control.clear_faults().await.unwrap();
    assert_eq!(emulator.faults().plan(), FaultPlan::new());
    let refused = Emulator::builder().faults(odd).start().await.unwrap_err();
    assert!(refused.to_string().contains("rate"), "{refused}");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_credentials() {
    let started = async |seed| Emulator::builder().seed(seed).start().await.unwrap();
    let credentials = |emulator: &Emulator| {
        [
            emulator.account_id(),
            emulator.key_id(),
            emulator.key_secret(),
            emulator.access_token(),
        ]
        .map(str::to_owned)
    };
    let (one, again, other) = (started(1).await, started(1).await, started(2).await);
    assert_eq!(credentials(&one), credentials(&again));
    for (a, b) in credentials(&one).iter().zip(credentials(&other)) {
        assert_ne!(*a, b);
    }
    let unseeded = Emulator::start().await.unwrap();
    assert_ne!(
        credentials(&unseeded),
        credentials(&Emulator::start().await.unwrap())
    );
    let secret = Secret::from(one.key_secret());
    assert!(secret.expose().starts_with("sk_"));
}
