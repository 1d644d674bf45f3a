//! Health probes of receivers and workers.

use std::{future::pending, sync::Arc, time::Duration};

use authpi_sdk::{
    event::{Event, types::UserCreated},
    handlers::{Context, Handlers},
    ledger::{
        Claim, Completion, Digest, EventKey, LeaseStatus, Ledger, LedgerError, LedgerErrorKind,
        Token, Tx,
    },
    receiver::Receiver,
    stores::{Memory, Sqlite},
    telemetry::{self},
    worker::Worker,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::{
    sync::{Notify, Semaphore, oneshot},
    time::timeout,
};

use super::{TEST_TIMEOUT, created, handlers, hasty, worked_off};
use crate::support::{
    log::{Logged, listen},
    request, verifier,
};

/// Polls until the condition is true.
async fn until(mut says: impl AsyncFnMut() -> bool) {
    let said = async {
        while !says().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(TEST_TIMEOUT, said)
        .await
        .expect("the probe never said so");
}

#[tokio::test]
async fn a_probe_tells_of_the_store_of_what_runs_and_of_a_shutdown() {
    let store = Sqlite::in_memory().await.unwrap();
    let (handle, world) = handlers(store.clone());
    let receiver = Receiver::inline("users", verifier(), store.clone(), handle)
        .build()
        .unwrap();
    let health = receiver.health().await;
    assert!(
        health.is_ready() && health.in_flight == 0 && health.backlog.is_none(),
        "{health:?}"
    );
    assert_eq!(health.to_string(), "ready; in flight: 0");
    let waiting = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(request(&created("waits"))).await.status() }
    });
    world.started.notified().await;
    assert_eq!(receiver.health().await.in_flight, 1);
    let draining = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.drain().await }
    });
    until(async || receiver.health().await.draining).await;
    let health = receiver.health().await;
    assert!(!health.is_ready() && health.in_flight == 1, "{health:?}");
    world.go.add_permits(1);
    draining.await.unwrap();
    assert_eq!(waiting.await.unwrap(), 200);
    assert_eq!(
        receiver.health().await.to_string(),
        "draining; in flight: 0"
    );
    store.close().await;
    until(async || receiver.health().await.store.is_err()).await;
    let health = receiver.health().await;
    assert!(!health.is_ready(), "{health:?}");
    assert!(
        health.to_string().starts_with("the store does not respond"),
        "{health}"
    );
}

#[tokio::test]
async fn a_probe_of_a_store_that_is_busy_is_ready_and_says_so() {
    let store = Sqlite::in_memory().await.unwrap();
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let handlers = Handlers::new((Arc::clone(&started), Arc::clone(&go))).on_tx(
        async |_: Event<UserCreated>,
               cx: Context<(Arc<Notify>, Arc<Semaphore>)>,
               _tx: Tx<Sqlite>| {
            cx.state().0.notify_one();
            cx.state().1.acquire().await?.forget();
            Ok(())
        },
    );
    let receiver = Receiver::inline("users", verifier(), store.clone(), handlers);
    let receiver = receiver
        .handler_timeout(Duration::from_mins(1))
        .build()
        .unwrap();
    let waiting = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(request(&created("evt_1"))).await.status() }
    });
    started.notified().await;
    let health = receiver.health().await;
    let kind = health.store.as_ref().unwrap_err().kind();
    assert_eq!(kind, LedgerErrorKind::Busy, "{health:?}");
    assert!(
        health.is_ready()
            && health
                .to_string()
                .starts_with("ready, but the store is busy"),
        "{health}"
    );
    go.add_permits(1);
    assert_eq!(waiting.await.unwrap(), 200);
    until(async || receiver.health().await.store.is_ok()).await;
}

#[tokio::test]
async fn a_replayed_dead_letter_of_an_inline_endpoint_shows_while_it_waits() {
    let store = Sqlite::in_memory().await.unwrap();
    let (handle, _) = handlers(store.clone());
    let receiver = Receiver::inline("users", verifier(), store.clone(), handle)
        .build()
        .unwrap();
    receiver.receive(request(&created("evt_terminal"))).await;
    let letter = store
        .dead_letters("users", None, 1)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(receiver.health().await.backlog, None);
    let logged = Logged::default();
    let guard = listen(logged.clone());
    assert!(store.replay(&letter.key).await.unwrap());
    drop(guard);
    assert!(
        logged
            .text()
            .contains("it waits for a worker of its endpoint or a redelivery"),
        "{}",
        logged.text()
    );
    let recorder = DebuggingRecorder::new();
    let depth = |expected: u64| {
        let (receiver, recorder) = (&receiver, &recorder);
        async move {
            until(async || {
                let _recorded = metrics::set_default_local_recorder(recorder);
                receiver
                    .health()
                    .await
                    .backlog
                    .map_or(0, |backlog| backlog.depth)
                    == expected
            })
            .await;
            let gauges = recorder.snapshotter().snapshot().into_vec();
            let depth = gauges
                .into_iter()
                .find(|(key, ..)| key.key().name() == telemetry::INBOX_DEPTH)
                .unwrap()
                .3;
            #[expect(clippy::cast_precision_loss)]
            let expected = DebugValue::Gauge((expected as f64).into());
            assert_eq!(depth, expected);
        }
    };
    depth(1).await;
    worked_off(Worker::builder(
        "users",
        store.clone(),
        Handlers::new(()).on(async |_: Event<UserCreated>, _| Ok(())),
    ))
    .await;
    depth(0).await;
}

/// Counts claims.
#[derive(Clone, Default)]
struct Counting(Memory, Arc<std::sync::atomic::AtomicUsize>);

impl Ledger for Counting {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        assert_eq!(
            key.endpoint(),
            "",
            "a probe's record must not be an endpoint's"
        );
        self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.0.claim(key, digest, lease).await
    }
    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.renew(key, token, lease).await
    }
    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.complete(key, token, completion).await
    }
    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.release(key, token, pause).await
    }
    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        let known = self.0.forget(key).await?;
        assert!(known, "the probe's record is not there");
        Ok(known)
    }
    fn keeps_dead_letters(&self) -> bool {
        false
    }
    fn retention(&self) -> Duration {
        Ledger::retention(&self.0)
    }
    fn store_id(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.1).addr())
    }
}

#[tokio::test(start_paused = true)]
async fn however_many_probes_there_are_a_store_is_asked_once_a_second() {
    let store = Counting::default();
    let receiver = |endpoint: &'static str| {
        Receiver::inline(
            endpoint,
            verifier(),
            store.clone(),
            handlers(Memory::new()).0,
        )
        .build()
        .unwrap()
    };
    let receivers = [receiver("users"), receiver("orders")];
    let asked = || store.1.load(std::sync::atomic::Ordering::SeqCst);
    for second in 1..4 {
        for receiver in receivers.iter().cycle().take(500) {
            let (one, other) = tokio::join!(receiver.health(), receiver.health());
            assert!(one.is_ready() && other.is_ready());
        }
        assert_eq!(asked(), second);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_workers_probe_tells_what_waits_and_for_how_long() {
    let store = Sqlite::in_memory().await.unwrap();
    let hook = Receiver::inbox("users", verifier(), store.clone())
        .build()
        .unwrap();
    for id in ["1_waits", "2_waits", "3_waits"] {
        hook.receive(request(&created(id))).await;
    }
    let backlog = hook.health().await.backlog.unwrap();
    assert!(
        backlog.depth == 3 && backlog.oldest.is_some(),
        "{backlog:?}"
    );
    let (handle, world) = handlers(store.clone());
    let worker = hasty(Worker::builder("users", store.clone(), handle))
        .concurrency(2)
        .build()
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let worker = worker.clone();
        async move { worker.run(async { drop(stopped.await) }).await }
    });
    until(async || worker.health().await.in_flight == 2).await;
    let health = worker.health().await;
    assert!(health.is_ready(), "{health:?}");
    assert!(
        health
            .to_string()
            .starts_with("ready; in flight: 2; waiting: 3, the oldest for "),
        "{health}"
    );
    stop.send(()).unwrap();
    until(async || worker.health().await.draining).await;
    world.go.add_permits(3);
    timeout(TEST_TIMEOUT, running)
        .await
        .expect("the worker did not stop")
        .unwrap();
    let health = worker.health().await;
    assert!(!health.is_ready() && health.in_flight == 0, "{health:?}");
    until(async || {
        worker
            .health()
            .await
            .backlog
            .is_some_and(|backlog| backlog.depth == 1)
    })
    .await;
    store.close().await;
    until(async || worker.health().await.store.is_err() && hook.health().await.store.is_err())
        .await;
}

/// A slow store.
#[derive(Clone, Default)]
struct Hanging(Memory);

impl Ledger for Hanging {
    async fn claim(&self, _: &EventKey, _: Digest, _: Duration) -> Result<Claim, LedgerError> {
        pending().await
    }
    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.renew(key, token, lease).await
    }
    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.complete(key, token, completion).await
    }
    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.0.release(key, token, pause).await
    }
    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        self.0.forget(key).await
    }
    fn keeps_dead_letters(&self) -> bool {
        false
    }
    fn retention(&self) -> Duration {
        Ledger::retention(&self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_waits_two_seconds_for_a_store_that_hangs() {
    let (handle, _) = handlers(Memory::new());
    let receiver = Receiver::inline("users", verifier(), Hanging::default(), handle)
        .build()
        .unwrap();
    let asked = tokio::time::Instant::now();
    assert!(receiver.health().await.store.is_err());
    assert_eq!(asked.elapsed().as_secs(), 2);
}
