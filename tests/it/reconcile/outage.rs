//! The outage drill: a receiver is down while thousands of events happen and AuthPI's retries end.
//! It returns, catches up, and serves.

use std::{collections::BTreeMap, time::Duration};

use authpi_emulator::{Emulator, EmulatorClock, NewEvent};
use authpi_sdk::{
    Clock,
    client::{Client, DeliveryStatus, WebhookPatch, WebhookSpec},
    receiver::Receiver,
    reconcile::{Reconcile, ReconcileBuilder, Report},
    signature::{KeyRing, Secret, Verifier},
    stores::Sqlite,
};
use axum::Router;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{Handled, noting};

/// Events that happen while the receiver is down; on Postgres there are more.
const MISSED: usize = 1_000;
/// Events that happen after it serves again.
const LIVE: usize = 200;
const USERS: usize = 50;
const TEST_TIMEOUT: Duration = Duration::from_mins(3);

/// AuthPI, and its events.
pub(crate) struct Outage {
    authpi: Emulator,
    client: Client,
    webhook_id: String,
    secret: Secret,
    address: std::net::SocketAddr,
    missed: usize,
    /// Ids and users, in the order of the events.
    happened: Vec<(String, String)>,
    server: Option<JoinHandle<()>>,
}

impl Outage {
    /// Everything up to the return of the receiver.
    ///
    /// Half of the earlier events are delivered without success, until AuthPI pauses the endpoint.
    /// The other half have no delivery.
    pub(crate) async fn over(missed: usize) -> Self {
        let clock = EmulatorClock::manual("2026-11-20T08:00:00Z".parse().unwrap());
        let authpi = Emulator::builder()
            .clock(clock.clone())
            .start()
            .await
            .unwrap();
        let client = Client::builder()
            .base_url(authpi.base_url())
            .api_key(authpi.key_id(), authpi.key_secret())
            .build()
            .unwrap();
        // An address without a listener.
        let address = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let spec = WebhookSpec::new("users", format!("http://{address}/hooks/authpi"));
        let spec = spec.events(["user.created".into(), "user.updated".into()]);
        let made = client.webhooks().create(&spec).await.unwrap();
        let (webhook_id, secret) = (made.webhook.id, made.secret.expect("it is signed"));
        let mut outage = Self {
            authpi,
            client,
            webhook_id,
            secret,
            address,
            missed,
            happened: Vec::new(),
            server: None,
        };

        outage.happen(missed / 2).await;
        // The longest pause between two attempts is an hour.
        for _ in 0..10 {
            clock.advance(Duration::from_mins(30));
            outage.settled().await;
        }
        let failed = outage
            .client
            .webhooks()
            .deliveries(&outage.webhook_id)
            .status(DeliveryStatus::Failed)
            .limit(1);
        assert_eq!(
            failed.await.unwrap().items[0].attempt_count,
            6,
            "retries have not run out"
        );
        let status = outage
            .client
            .webhooks()
            .get(&outage.webhook_id)
            .await
            .unwrap()
            .value
            .status;
        assert_eq!(
            status.map(|status| status.to_string()).as_deref(),
            Some("failing")
        );
        outage.happen(missed - missed / 2).await;
        outage.settled().await;
        outage
    }

    async fn happen(&mut self, events: usize) {
        for _ in 0..events {
            let n = self.happened.len();
            let user = format!("usr_{}", n % USERS);
            let name = if n < USERS {
                "user.created"
            } else {
                "user.updated"
            };
            let event = NewEvent::new(name)
                .subject(json!({"user_id": user}))
                .data(json!({"id": user, "n": n}));
            // Some events share a millisecond, and the webhook does not subscribe to some.
            if n.is_multiple_of(3) {
                self.authpi.clock().advance(Duration::from_millis(700));
                self.authpi
                    .trigger(NewEvent::new("session.created").subject(json!({"user_id": user})))
                    .await
                    .unwrap();
            }
            self.happened
                .push((self.authpi.trigger(event).await.unwrap().id, user));
        }
    }

    async fn settled(&self) {
        tokio::time::timeout(TEST_TIMEOUT, self.authpi.deliveries_settled())
            .await
            .expect("deliveries settle");
    }

    pub(crate) fn verifier(&self) -> Verifier {
        Verifier::authpi(KeyRing::new().with("test", self.secret.clone()))
    }

    /// AuthPI's clock.
    pub(crate) fn clock(&self) -> Clock {
        let clock = self.authpi.clock().clone();
        Clock::from_fn(move || clock.now())
    }

    pub(crate) fn reconcile(&self, receiver: &Receiver) -> ReconcileBuilder {
        // A small limit, so that the log is read in parts.
        Reconcile::builder(&self.client, receiver, &self.webhook_id)
            .clock(self.clock())
            .limit(700)
    }

    /// Missed events are found.
    pub(crate) async fn catch_up(&self, reconcile: &Reconcile) -> Report {
        let report = tokio::time::timeout(TEST_TIMEOUT, reconcile.catch_up())
            .await
            .expect("it ends")
            .unwrap();
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(
            report.progress.new_events(),
            self.missed as u64,
            "{report:?}"
        );
        report
    }

    /// The receiver serves again: AuthPI continues to deliver, and redelivers failed deliveries.
    pub(crate) async fn serve(&mut self, receiver: &Receiver) {
        let listener = TcpListener::bind(self.address)
            .await
            .expect("its port is still free");
        let app = Router::new().route_service("/hooks/authpi", receiver.clone());
        self.server = Some(tokio::spawn(async move {
            axum::serve(listener, app).await.unwrap();
        }));
        self.client
            .webhooks()
            .update(&self.webhook_id, &WebhookPatch::new().enable())
            .await
            .unwrap();
        for _ in 0..LIVE {
            self.happen(1).await;
            self.settled().await;
        }
        let again = self
            .client
            .webhooks()
            .redeliver_failed(&self.webhook_id)
            .timeout(TEST_TIMEOUT)
            .await
            .unwrap()
            .value;
        assert_eq!(
            (again.succeeded, again.failed),
            (i64::try_from(self.missed / 2).ok(), Some(0))
        );
        self.settled().await;
    }

    /// Ids, in the order of the events.
    pub(crate) fn ids(&self) -> Vec<&str> {
        self.happened.iter().map(|(id, _)| id.as_str()).collect()
    }

    /// The same per user.
    pub(crate) fn ids_per_user(&self) -> BTreeMap<String, Vec<String>> {
        let mut users = BTreeMap::<_, Vec<_>>::new();
        for (id, user) in &self.happened {
            users.entry(user.clone()).or_default().push(id.clone());
        }
        users
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_every_event_is_handled_once_and_in_order() {
    let mut outage = Outage::over(MISSED).await;
    let handled = Handled::default();
    let store = Sqlite::in_memory().await.unwrap();
    let handlers = noting(&handled, |_| false);
    let receiver = Receiver::inline("users", outage.verifier(), store, handlers)
        .clock(outage.clock())
        .build()
        .unwrap();
    let _ = outage
        .catch_up(&outage.reconcile(&receiver).build().unwrap())
        .await
        .into_result()
        .unwrap();
    outage.serve(&receiver).await;
    assert_eq!(handled.ids(), outage.ids());
}
