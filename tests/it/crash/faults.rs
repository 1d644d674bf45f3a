//! Deliveries continue while the store is stopped, hangs, or cuts off a response. (`disk`: or has
//! no space left.)
//!
//! The service gets no help and is not restarted: it responds with 200, or 503 with `Retry-After`,
//! and recovers as soon as its store does. `drivers` tests how each store recovers.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use authpi_tests::harness::{EventId, Mode, Role, Store};
use tokio::task::JoinSet;

use super::{Trial, kill::ORDERING_KEYS, proxy::Proxy};
use crate::servers::{
    nats::NatsServer,
    postgres::PostgresServer,
    redis::{self, RedisServer},
    until,
};

/// What happens to the store.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It ends like in a crash, and is started again.
    Stop,
    /// It hangs for longer than the service's timeout.
    Hang,
    /// It hangs for less than the service's timeout.
    Stutter,
    /// This number of its responses are cut off.
    Cut(u32),
}

const FAULTS: [Fault; 8] = [
    Fault::Stop,
    Fault::Hang,
    Fault::Stutter,
    Fault::Cut(1),
    Fault::Cut(1),
    Fault::Cut(3),
    Fault::Cut(10),
    Fault::Stop,
];

/// The service's store timeout.
const TIMEOUT: Duration = Duration::from_millis(700);

enum Server {
    Postgres(PostgresServer),
    Redis(RedisServer),
    Nats(NatsServer),
}

impl Server {
    fn port(&self) -> u16 {
        let url = match self {
            Self::Postgres(server) => server.url(),
            Self::Redis(server) => server.url(),
            Self::Nats(server) => server.url(),
        };
        let port = url
            .rsplit(':')
            .next()
            .and_then(|rest| rest.split('/').next()?.parse().ok());
        port.expect("a server's address has a port")
    }

    fn stop(&mut self) {
        match self {
            Self::Postgres(server) => server.stop(),
            Self::Redis(server) => server.stop(),
            Self::Nats(server) => server.stop(),
        }
    }

    async fn start_again(&mut self) {
        match self {
            Self::Postgres(server) => server.start_again().await,
            Self::Redis(server) => server.start_again().await,
            Self::Nats(server) => server.start_again().await,
        }
    }

    async fn pause(&self, how_long: Duration) {
        match self {
            Self::Postgres(server) => {
                let _paused = server.pause().await;
                tokio::time::sleep(how_long).await;
            }
            Self::Nats(server) => {
                let _paused = server.pause();
                tokio::time::sleep(how_long).await;
            }
            Self::Redis(server) => {
                let _paused = server.pause();
                tokio::time::sleep(how_long).await;
            }
        }
    }
}

impl Trial {
    /// Sends deliveries during `faults`, then checks the journal.
    pub(crate) async fn endure(mut self, roles: &[Role], faults: impl AsyncFnOnce(&Self)) {
        // A claim whose response was lost blocks its event for this long.
        self.lease = Duration::from_secs(3);
        self.timeout = TIMEOUT;
        self.ports.lock().unwrap().resize(roles.len(), None);
        let started = Instant::now();
        self.prepare().await;
        let trial = Arc::new(self);
        let mut keepers = JoinSet::new();
        for (slot, &role) in roles.iter().enumerate() {
            let trial = trial.clone();
            keepers.spawn(async move { trial.live(slot, role, None).await });
        }

        let over = Arc::new(Mutex::new(false));
        let sending = {
            let (trial, over) = (trial.clone(), over.clone());
            tokio::spawn(async move {
                let mut ordering_keys = JoinSet::new();
                for ordering_key in 0..ORDERING_KEYS {
                    let (trial, over) = (trial.clone(), over.clone());
                    ordering_keys.spawn(async move {
                        trial
                            .ordering_key(ordering_key, || !*over.lock().unwrap())
                            .await
                    });
                }
                let events: Vec<EventId> = ordering_keys.join_all().await.concat();
                trial.until_done().await;
                events
            })
        };
        let faults = async {
            // A store that fails while a process opens it ends that process, as it should.
            let all_ready = |ready: &usize| *ready == roles.len();
            trial
                .ready
                .subscribe()
                .wait_for(all_ready)
                .await
                .expect("the trial has the sender");
            faults(&trial).await;
            trial.until_acknowledged(50, "all").await;
            *over.lock().unwrap() = true;
        };
        let done = async { tokio::join!(sending, faults).0 };
        let events = tokio::select! {
            done = done => done,
            Some(failed) = keepers.join_next() => std::panic::resume_unwind(failed.expect_err("processes are kept").into_panic()),
        };
        events.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
        let verdict = trial.verdict().await;
        keepers.shutdown().await;

        let [sent, refused] =
            [&trial.sent, &trial.refused].map(|count| count.load(Ordering::Relaxed));
        let took = started.elapsed().as_secs_f64();
        println!(
            "{} (seed {}): {took:.1} s, {sent} deliveries acknowledged, {refused} tries answered 503, {verdict}",
            trial.name, trial.seed
        );
        assert!(
            verdict.wrong.is_empty(),
            "{}: what must not happen has happened (above)",
            trial.name
        );
        assert!(refused > 0, "{}: the faults had no effect", trial.name);
        trial.passed.store(true, Ordering::Relaxed);
    }

    /// The server goes through all faults, in random order.
    async fn endure_all(self, mut server: Server, proxy: Proxy, roles: &[Role]) {
        let faults = async |trial: &Self| {
            let mut dice = trial.dice("faults");
            let mut faults = FAULTS;
            dice.shuffle(&mut faults);
            for fault in faults {
                trial.until_acknowledged(5, fault).await;
                match fault {
                    Fault::Stop => {
                        server.stop();
                        trial.until_refused(1).await;
                        server.start_again().await;
                    }
                    Fault::Hang => {
                        server
                            .pause(TIMEOUT + Duration::from_millis(dice.u64(100..1_500)))
                            .await;
                    }
                    Fault::Stutter => server.pause(Duration::from_millis(dice.u64(10..200))).await,
                    Fault::Cut(replies) => {
                        proxy.cut(replies);
                        let otherwise = || format!("{}: no replies to cut", trial.name);
                        until(otherwise, || async { (proxy.left() == 0).then_some(()) }).await;
                    }
                }
            }
        };
        self.endure(roles, faults).await;
    }

    /// Waits until further deliveries are acknowledged: the service has recovered.
    pub(crate) async fn until_acknowledged(&self, further: u64, before: impl std::fmt::Debug) {
        let enough = self.sent.load(Ordering::Relaxed) + further;
        let otherwise = || {
            format!(
                "{}: the service did not recover (next: {before:?})",
                self.name
            )
        };
        until(otherwise, || async {
            (self.sent.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }

    pub(crate) async fn until_refused(&self, further: u64) {
        let enough = self.refused.load(Ordering::Relaxed) + further;
        let otherwise = || format!("{}: without a store, nothing is refused", self.name);
        until(otherwise, || async {
            (self.refused.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }
}

async fn on_postgres(name: &'static str, mode: Mode, roles: &[Role]) {
    let server = Server::Postgres(PostgresServer::start().await);
    let proxy = Proxy::to(server.port()).await;
    let url = |port| format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let store = |port| Store::Postgres(url(port), "faults_".to_owned());
    let mut trial = Trial::new(name, mode, Some(store(server.port())));
    trial.reached_by = Some(store(proxy.port));
    trial.endure_all(server, proxy, roles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_inline_nothing_is_lost() {
    on_postgres(
        "postgres faults, inline",
        Mode::Inline,
        &[Role::Receiver; 2],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_inline_an_effect_in_the_transaction_takes_place_once() {
    on_postgres(
        "postgres faults, inline in a transaction",
        Mode::InlineTx,
        &[Role::Receiver; 2],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_in_an_inbox_an_effect_in_the_transaction_takes_place_once() {
    let roles = [Role::Receiver, Role::Worker];
    on_postgres(
        "postgres faults, inbox in a transaction",
        Mode::InboxTx,
        &roles,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_an_inbox_loses_nothing() {
    on_postgres(
        "postgres faults, inbox",
        Mode::Inbox,
        &[Role::Receiver, Role::Worker],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_inline_nothing_is_lost() {
    let server = Server::Redis(RedisServer::start().await);
    let proxy = Proxy::to(server.port()).await;
    let store = |port| Store::Redis(format!("redis://127.0.0.1:{port}"), "faults:".to_owned());
    let mut trial = Trial::new(
        "redis faults, inline",
        Mode::Inline,
        Some(store(server.port())),
    );
    trial.reached_by = Some(store(proxy.port));
    trial.endure_all(server, proxy, &[Role::Receiver; 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_nats_an_inbox_loses_nothing() {
    let server = Server::Nats(NatsServer::start().await);
    let proxy = Proxy::to(server.port()).await;
    let ledger = Store::Redis(RedisServer::shared().await.url(), redis::fresh_prefix());
    let store = |port| {
        Store::Nats(
            format!("nats://127.0.0.1:{port}"),
            "faults".to_owned(),
            Box::new(ledger.clone()),
        )
    };
    let mut trial = Trial::new(
        "nats faults, inbox",
        Mode::Inbox,
        Some(store(server.port())),
    );
    trial.reached_by = Some(store(proxy.port));
    trial
        .endure_all(server, proxy, &[Role::Receiver, Role::Worker])
        .await;
}
