//! Every response of the inline mode, as golden files.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use authpi_sdk::{
    Clock,
    event::{
        Event,
        types::{UserCreated, UserUpdated},
    },
    handlers::{Context, HandlerError, Handlers, Terminal as _},
    ledger::{
        Claim, Completion, Digest, EventKey, LeaseStatus, Ledger, LedgerError, LedgerErrorKind,
        Token,
    },
    receiver::{BuildError, Inline, Receiver, ReceiverBuilder, StoreFailure, VerifyOnly},
    signature::{KeyRing, SignatureScheme, Verifier},
    stores::Memory,
    testing::{Fixture, ManualClock},
};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore};

use crate::golden::assert_golden;
use crate::support::{
    SECRET, keys,
    log::{Logged, listen},
    request, signed, verifier,
};

fn created() -> Request<Full<Bytes>> {
    request(&Fixture::of::<UserCreated>())
}

fn inline(ledger: impl Ledger, handlers: Handlers<()>) -> ReceiverBuilder<Inline> {
    Receiver::inline("users", verifier(), ledger, handlers)
}

/// A receiver whose only handler returns `result` for every `user.created`.
fn answering(
    ledger: impl Ledger,
    result: impl Fn() -> authpi_sdk::HandlerResult + Send + Sync + 'static,
) -> ReceiverBuilder<Inline> {
    let result = Arc::new(result);
    inline(
        ledger,
        Handlers::new(()).on(move |_: Event<UserCreated>, _: Context<()>| {
            let result = Arc::clone(&result);
            async move { result() }
        }),
    )
}

async fn text(response: Response<Full<Bytes>>) -> String {
    let (head, body) = response.into_parts();
    let mut text = format!("{}\n", head.status);
    for (name, value) in &head.headers {
        writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
    }
    let body = body.collect().await.unwrap().to_bytes();
    writeln!(text, "\n{}", std::str::from_utf8(&body).unwrap()).unwrap();
    text
}

async fn assert_answer<B: Body>(receiver: &Receiver, request: Request<B>, golden: &str) {
    assert_golden(
        &format!("answers/{golden}.txt"),
        &text(receiver.receive(request).await).await,
    );
}

/// A memory ledger with dead letters.
#[derive(Clone, Default)]
struct Keeping {
    memory: Memory,
    dead: Arc<Mutex<Vec<(String, Bytes)>>>,
    /// The store's clock, if it has one.
    server_time: Option<Timestamp>,
}

impl Ledger for Keeping {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        self.memory.claim(key, digest, lease).await
    }
    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.memory.renew(key, token, lease).await
    }
    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        if let Completion::Dead { reason, body } = &completion {
            self.dead
                .lock()
                .unwrap()
                .push((reason.clone(), body.clone()));
        }
        self.memory.complete(key, token, completion).await
    }
    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.memory.release(key, token, pause).await
    }
    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        self.memory.forget(key).await
    }
    fn keeps_dead_letters(&self) -> bool {
        true
    }
    fn retention(&self) -> Duration {
        Ledger::retention(&self.memory)
    }
    async fn server_time(&self) -> Result<Option<Timestamp>, LedgerError> {
        Ok(self.server_time)
    }
}

/// A ledger with scripted claims, whose other operations fail.
struct Scripted(Mutex<VecDeque<Claim>>);

impl Scripted {
    fn failing() -> Self {
        Self(Mutex::default())
    }
}

fn broken<T>(step: &'static str) -> Result<T, LedgerError> {
    Err(LedgerError::new(step, "connection refused"))
}

impl Ledger for Scripted {
    async fn claim(&self, _: &EventKey, _: Digest, _: Duration) -> Result<Claim, LedgerError> {
        let next = self.0.lock().unwrap().pop_front();
        next.map_or_else(|| broken("claim"), Ok)
    }
    async fn renew(&self, _: &EventKey, _: Token, _: Duration) -> Result<LeaseStatus, LedgerError> {
        broken("renew")
    }
    async fn complete(
        &self,
        _: &EventKey,
        _: Token,
        _: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        broken("complete")
    }
    async fn release(
        &self,
        _: &EventKey,
        _: Token,
        _: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        broken("release")
    }
    async fn forget(&self, _: &EventKey) -> Result<bool, LedgerError> {
        broken("forget")
    }
    fn keeps_dead_letters(&self) -> bool {
        false
    }
    fn retention(&self) -> Duration {
        authpi_sdk::ledger::DEFAULT_RETENTION
    }
}

#[tokio::test]
async fn a_handled_event_is_200_and_its_duplicate_too_and_runs_once() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let receiver = answering(Memory::new(), move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let receiver = receiver.build().unwrap();
    assert_answer(&receiver, created(), "handled").await;
    assert_answer(&receiver, created(), "duplicate").await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_event_that_nobody_handles_is_200_and_not_remembered() {
    let ledger = Memory::new();
    let receiver = answering(ledger.clone(), || Ok(())).build().unwrap();
    let updated = request(&Fixture::of::<UserUpdated>());
    assert_answer(&receiver, updated.clone(), "unhandled").await;
    let later = inline(
        ledger,
        Handlers::new(()).on(async |_: Event<UserUpdated>, _| Ok(())),
    )
    .build()
    .unwrap();
    assert_answer(&later, updated, "handled").await;
}

#[tokio::test]
async fn a_retryable_error_is_503_and_the_next_delivery_runs_again() {
    let runs = AtomicUsize::new(0);
    let receiver = answering(Memory::new(), move || {
        match runs.fetch_add(1, Ordering::SeqCst) {
            0 => Err("busy".parse::<u8>().unwrap_err().into()),
            _ => Ok(()),
        }
    });
    let receiver = receiver.build().unwrap();
    assert_answer(&receiver, created(), "failed").await;
    assert_answer(&receiver, created(), "handled").await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_handler_asks_for_is_the_answers_retry_after() {
    let receiver = answering(Memory::new(), || {
        Err(HandlerError::retryable("busy").after(Duration::from_millis(61_500)))
    });
    let receiver = receiver.build().unwrap();
    assert_answer(&receiver, created(), "failed-with-a-pause").await;
    let early = receiver.receive(created()).await;
    assert_eq!(early.status(), 503);
    let wait: u64 = early.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        (50..=62).contains(&wait),
        "an early delivery must wait {wait} s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_without_end_is_503_and_never_a_panic() {
    let forever = || Err(HandlerError::retryable("busy").after(Duration::MAX));
    let receiver = answering(Memory::new(), forever).build().unwrap();
    for _ in 0..2 {
        let answer = receiver.receive(created()).await;
        assert_eq!(answer.status(), 503);
        assert!(
            answer.headers()["retry-after"]
                .to_str()
                .unwrap()
                .parse::<u64>()
                .unwrap()
                > 1_000_000
        );
    }
    let wait = Claim::NotYet {
        wait: Duration::MAX,
    };
    let receiver = answering(Scripted(Mutex::new([wait].into())), || Ok(()))
        .build()
        .unwrap();
    assert_eq!(
        receiver.receive(created()).await.headers()["retry-after"],
        u64::MAX.to_string().as_str()
    );
}

#[tokio::test]
async fn a_panic_is_503_and_the_receiver_lives_on() {
    let runs = AtomicUsize::new(0);
    let receiver = answering(Memory::new(), move || {
        assert!(
            runs.fetch_add(1, Ordering::SeqCst) > 0,
            "the first attempt panics"
        );
        Ok(())
    });
    let receiver = receiver.build().unwrap();
    assert_answer(&receiver, created(), "failed").await;
    assert_answer(&receiver, created(), "handled").await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_past_its_deadline_is_dropped_and_503() {
    let dropped = Arc::new(Notify::new());
    let reported = Arc::clone(&dropped);
    let handlers = Handlers::new(()).on(move |_: Event<UserCreated>, cx: Context<()>| {
        let reported = Arc::clone(&reported);
        async move {
            tokio::spawn({
                let cx = cx.clone();
                async move {
                    cx.closed().await;
                    reported.notify_one();
                }
            });
            std::future::pending().await
        }
    });
    let receiver = inline(Memory::new(), handlers).build().unwrap();
    assert_answer(&receiver, created(), "failed").await;
    dropped.notified().await;
}

#[tokio::test]
async fn a_terminal_error_is_200_where_it_is_kept() {
    let ledger = Keeping::default();
    let receiver = answering(ledger.clone(), || "x".parse::<u8>().map(drop).terminal())
        .build()
        .unwrap();
    assert_answer(&receiver, created(), "dead-letter").await;
    assert_answer(&receiver, created(), "duplicate").await;
    let dead = ledger.dead.lock().unwrap();
    let body = Fixture::of::<UserCreated>().body();
    assert_eq!(dead.len(), 1);
    assert!(dead[0].0.contains("invalid digit") && dead[0].1.len() == body.len());
}

#[tokio::test]
async fn a_terminal_error_that_cannot_be_kept_is_503_unless_dropping_is_chosen() {
    let terminal = || Err(HandlerError::terminal("no such user"));
    let receiver = answering(Memory::new(), terminal).build().unwrap();
    assert_answer(&receiver, created(), "cannot-keep").await;
    let receiver = answering(Memory::new(), terminal)
        .drop_terminal_failures()
        .build()
        .unwrap();
    assert_answer(&receiver, created(), "dropped").await;
    assert_answer(&receiver, created(), "duplicate").await;
}

/// A receiver whose handler signals its start and waits for a permit.
fn waiting(ledger: impl Ledger) -> (ReceiverBuilder<Inline>, Arc<Notify>, Arc<Semaphore>) {
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let builder = inline(ledger, {
        let (started, go) = (Arc::clone(&started), Arc::clone(&go));
        Handlers::new(()).on(move |_: Event<UserCreated>, _: Context<()>| {
            let (started, go) = (Arc::clone(&started), Arc::clone(&go));
            async move {
                started.notify_one();
                go.acquire().await?.forget();
                Ok(())
            }
        })
    });
    (builder, started, go)
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_another_worker_is_on_waits_for_its_outcome() {
    let (builder, started, go) = waiting(Memory::new());
    let receiver = builder.build().unwrap();
    let first = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(created()).await }
    });
    started.notified().await;
    assert_answer(&receiver, created(), "in-flight").await;
    let second = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(created()).await }
    });
    tokio::task::yield_now().await;
    go.add_permits(1);
    assert_golden("answers/handled.txt", &text(first.await.unwrap()).await);
    assert_golden("answers/duplicate.txt", &text(second.await.unwrap()).await);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_503_and_its_handler_is_dropped() {
    let ledger = Memory::new();
    let (builder, started, _go) = waiting(ledger.clone());
    let receiver = builder
        .handler_timeout(Duration::from_mins(1))
        .build()
        .unwrap();
    let answer = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(created()).await }
    });
    started.notified().await;
    assert!(
        ledger
            .forget(&EventKey::new("users", "evt_user.created"))
            .await
            .unwrap()
    );
    assert_golden("answers/lease-lost.txt", &text(answer.await.unwrap()).await);
}

/// The time of tokio's clock, which a test can control.
fn paused_clock() -> Clock {
    let (start, began) = (Timestamp::now(), tokio::time::Instant::now());
    Clock::from_fn(move || start + jiff::SignedDuration::try_from(began.elapsed()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_long_handler_keeps_its_lease() {
    let ledger = Memory::new().with_clock(paused_clock());
    let (builder, started, go) = waiting(ledger.clone());
    let receiver = builder
        .handler_timeout(Duration::from_mins(10))
        .lease(Duration::from_secs(3))
        .build()
        .unwrap();
    let answer = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(created()).await }
    });
    started.notified().await;
    let key = EventKey::new("users", "evt_user.created");
    for second in 0..60 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
        let other = ledger
            .claim(&key, Digest::of(b""), Duration::from_secs(3))
            .await
            .unwrap();
        assert!(
            matches!(other, Claim::InFlight { .. }),
            "another worker took over after {second} s: {other:?}"
        );
    }
    go.add_permits(1);
    assert_golden("answers/handled.txt", &text(answer.await.unwrap()).await);
}

/// A ledger with a bug.
struct Panicking {
    at_once: bool,
}

impl Ledger for Panicking {
    async fn claim(&self, _: &EventKey, _: Digest, _: Duration) -> Result<Claim, LedgerError> {
        if !self.at_once {
            tokio::task::yield_now().await;
        }
        panic!("a bug in a ledger")
    }
    async fn renew(&self, _: &EventKey, _: Token, _: Duration) -> Result<LeaseStatus, LedgerError> {
        broken("renew")
    }
    async fn complete(
        &self,
        _: &EventKey,
        _: Token,
        _: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        broken("complete")
    }
    async fn release(
        &self,
        _: &EventKey,
        _: Token,
        _: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        broken("release")
    }
    async fn forget(&self, _: &EventKey) -> Result<bool, LedgerError> {
        broken("forget")
    }
    fn keeps_dead_letters(&self) -> bool {
        false
    }
    fn retention(&self) -> Duration {
        authpi_sdk::ledger::DEFAULT_RETENTION
    }
}

#[tokio::test]
async fn a_ledger_that_panics_is_503_and_takes_no_place_for_good() {
    for at_once in [true, false] {
        let receiver = answering(Panicking { at_once }, || Ok(()))
            .max_in_flight(1)
            .build()
            .unwrap();
        for _ in 0..2 {
            assert_answer(&receiver, created(), "failed").await;
        }
        receiver.drain().await;
    }
}

#[tokio::test]
async fn a_sender_that_keeps_hanging_up_uses_no_permit_and_leaves_no_lease() {
    let ledger = Memory::new();
    let (builder, started, go) = waiting(ledger.clone());
    let receiver = builder.max_in_flight(1).build().unwrap();
    for n in 0..3 {
        let fixture = Fixture::of::<UserCreated>().id(format!("evt_{n}"));
        let sent = tokio::spawn({
            let (receiver, request) = (receiver.clone(), request(&fixture));
            async move { receiver.receive(request).await }
        });
        started.notified().await;
        sent.abort();
        assert!(sent.await.unwrap_err().is_cancelled());
        go.add_permits(1);
        // Further deliveries are not acknowledged while the handler runs. It runs to its end
        // although the first delivery was cancelled.
        let again = async {
            while receiver.receive(self::request(&fixture)).await.status() != 200 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), again)
            .await
            .expect("the place or the lease was not given back");
    }
}

#[tokio::test]
async fn too_much_in_flight_and_draining_are_503_and_drain_waits_for_what_runs() {
    let (builder, started, go) = waiting(Memory::new());
    let receiver = builder.max_in_flight(1).build().unwrap();
    let running = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(created()).await }
    });
    started.notified().await;
    let other = request(&Fixture::of::<UserCreated>().id("evt_other"));
    assert_answer(&receiver, other.clone(), "too-many").await;
    let drained = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.drain().await }
    });
    tokio::task::yield_now().await;
    assert_answer(&receiver, other.clone(), "draining").await;
    assert!(
        !drained.is_finished(),
        "drain did not wait for the running handler"
    );
    go.add_permits(1);
    drained.await.unwrap();
    assert_golden("answers/handled.txt", &text(running.await.unwrap()).await);
    assert_answer(&receiver, other, "draining").await;
}

#[tokio::test]
async fn an_unreachable_store_is_503_unless_told_to_handle_anyway() {
    let receiver = answering(Scripted::failing(), || Ok(())).build().unwrap();
    assert_answer(&receiver, created(), "store-down").await;
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let handlers = Handlers::new(()).on(move |_: Event<UserCreated>, cx: Context<()>| {
        let seen = Arc::clone(&seen);
        async move {
            seen.lock().unwrap().push(cx.attempt());
            Ok(())
        }
    });
    let anyway = inline(Scripted::failing(), handlers)
        .on_store_failure(StoreFailure::HandleAnyway)
        .build()
        .unwrap();
    let logged = Logged::default();
    let _guard = listen(logged.clone());
    assert_answer(&anyway, created(), "handled").await;
    assert!(
        logged
            .text()
            .contains("handled without a claim: the event may be handled twice"),
        "{}",
        logged.text()
    );
    assert_eq!(
        *attempts.lock().unwrap(),
        [0],
        "an attempt without a claim has no number"
    );
}

#[tokio::test]
async fn a_store_that_fails_at_the_end_is_503() {
    let granted = Claim::Granted {
        token: Token {
            attempt: 1,
            nonce: 7,
        },
        first_digest: Digest::of(b""),
    };
    let receiver = answering(Scripted(Mutex::new([granted].into())), || Ok(()))
        .build()
        .unwrap();
    assert_answer(&receiver, created(), "store-down").await;
}

#[tokio::test]
async fn what_was_handled_anyway_is_200_although_the_store_failed_at_the_end() {
    let granted = Claim::Granted {
        token: Token {
            attempt: 1,
            nonce: 7,
        },
        first_digest: Digest::of(b""),
    };
    let ledger = || Scripted(Mutex::new([granted].into()));
    let anyway = |builder: ReceiverBuilder<Inline>| {
        builder
            .on_store_failure(StoreFailure::HandleAnyway)
            .build()
            .unwrap()
    };
    assert_answer(
        &anyway(answering(ledger(), || Ok(()))),
        created(),
        "handled",
    )
    .await;
    let failing = || Err(HandlerError::retryable("busy"));
    assert_answer(
        &anyway(answering(ledger(), failing)),
        created(),
        "store-down",
    )
    .await;
}

#[tokio::test]
async fn an_authentic_body_that_is_no_event_is_kept_or_400() {
    let bodies: [&[u8]; 6] = [
        b"",
        b"not json",
        b"\xff is not UTF-8",
        b"[]",
        b"{}",
        br#"{"specversion":"1.0","id":"1","source":"s","type":"event"}"#,
    ];
    for body in bodies {
        let receiver = answering(Memory::new(), || Ok(())).build().unwrap();
        assert_answer(&receiver, signed(body), "unreadable").await;
        let ledger = Keeping::default();
        let receiver = answering(ledger.clone(), || Ok(())).build().unwrap();
        assert_answer(&receiver, signed(body), "dead-letter").await;
        assert_answer(&receiver, signed(body), "duplicate").await;
        assert_eq!(ledger.dead.lock().unwrap().len(), 1);
    }
}

/// A ledger over another one, with or without dead letters, that refuses the content of some
/// operations.
pub(crate) struct Picky<L> {
    ledger: L,
    /// The number of claims and of completions that it refuses.
    refuses: [AtomicUsize; 2],
}

impl<L> Picky<L> {
    pub(crate) fn new(ledger: L, claims: usize, completions: usize) -> Self {
        Self {
            ledger,
            refuses: [claims, completions].map(AtomicUsize::new),
        }
    }

    fn look(&self, step: &'static str, which: usize) -> Result<(), LedgerError> {
        let fewer = |left: usize| left.checked_sub(1);
        match self.refuses[which].fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer) {
            Ok(_) => {
                Err(LedgerError::new(step, "it is too large").with_kind(LedgerErrorKind::Content))
            }
            Err(_) => Ok(()),
        }
    }
}

impl<L: Ledger> Ledger for Picky<L> {
    async fn claim(
        &self,
        key: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        self.look("claim", 0)?;
        self.ledger.claim(key, digest, lease).await
    }
    async fn renew(
        &self,
        key: &EventKey,
        token: Token,
        lease: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.ledger.renew(key, token, lease).await
    }
    async fn complete(
        &self,
        key: &EventKey,
        token: Token,
        completion: Completion,
    ) -> Result<LeaseStatus, LedgerError> {
        self.look("complete", 1)?;
        self.ledger.complete(key, token, completion).await
    }
    async fn release(
        &self,
        key: &EventKey,
        token: Token,
        pause: Duration,
    ) -> Result<LeaseStatus, LedgerError> {
        self.ledger.release(key, token, pause).await
    }
    async fn forget(&self, key: &EventKey) -> Result<bool, LedgerError> {
        self.ledger.forget(key).await
    }
    fn keeps_dead_letters(&self) -> bool {
        self.ledger.keeps_dead_letters()
    }
    fn retention(&self) -> Duration {
        Ledger::retention(&self.ledger)
    }
}

#[tokio::test]
async fn content_that_the_store_refuses_is_buried_or_400_and_never_503() {
    let never = || panic!("it was handled without a claim");
    let anyway = |receiver: ReceiverBuilder<Inline>| {
        receiver
            .on_store_failure(StoreFailure::HandleAnyway)
            .build()
            .unwrap()
    };
    let keeping = Keeping::default();
    let receiver = anyway(answering(Picky::new(keeping.clone(), 1, 0), never));
    assert_answer(&receiver, created(), "dead-letter").await;
    assert_answer(&receiver, created(), "duplicate").await;
    assert_eq!(
        keeping.dead.lock().unwrap()[0].0,
        "the ledger failed to claim: it is too large"
    );
    // In the following cases, the ledger records neither a result nor a dead letter: it refuses
    // both, or it refuses the event and keeps no dead letters.
    let receiver = anyway(answering(
        Picky::new(Keeping::default(), usize::MAX, 0),
        never,
    ));
    assert_answer(&receiver, created(), "content-refused").await;
    let receiver = anyway(answering(Picky::new(Memory::new(), 1, 0), never));
    assert_answer(&receiver, created(), "content-refused").await;
    let gives_up = || Err(HandlerError::terminal("no"));
    let receiver = anyway(answering(
        Picky::new(Keeping::default(), 0, usize::MAX),
        gives_up,
    ));
    assert_answer(&receiver, created(), "content-refused").await;
}

#[tokio::test]
async fn what_cannot_be_read_is_logged_with_the_key_of_its_dead_letter() {
    let logged = Logged::default();
    let _guard = listen(logged.clone());
    for receiver in [
        answering(Memory::new(), || Ok(())),
        answering(Keeping::default(), || Ok(())),
    ] {
        receiver
            .build()
            .unwrap()
            .receive(signed(&b"not json"[..]))
            .await;
    }
    let text = logged.text();
    for (message, reason) in [
        (
            "it can be neither handled nor kept",
            "outcome=\"unreadable\"",
        ),
        ("an event became a dead letter", "reason=\"unreadable\""),
    ] {
        let line = text
            .lines()
            .find(|line| line.contains(message))
            .unwrap_or_else(|| panic!("{message}: {text}"));
        assert!(
            line.contains("event_id=\"unreadable:") && line.contains(reason),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_capture_older_than_the_ledgers_memory_is_not_handled() {
    let clock = ManualClock::at("2024-01-01T03:21:36Z".parse().unwrap());
    let guide: &[u8] = include_bytes!("../../authpi-sdk/src/event/guide-delivery.json");
    let fresh = answering(Memory::new(), || Ok(()))
        .clock(clock.clock())
        .build()
        .unwrap();
    assert_answer(&fresh, signed(guide), "handled").await;
    clock.advance(Ledger::retention(&Memory::new()) + Duration::from_secs(1));
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = || {
        let runs = Arc::clone(&runs);
        move || {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    };
    // A recent signature confirms the clock.
    let recent = request(&Fixture::of::<UserCreated>().time(clock.now()));
    let receiver = answering(Memory::new(), counted())
        .clock(clock.clock())
        .build()
        .unwrap();
    assert_answer(&receiver, recent.clone(), "handled").await;
    assert_answer(&receiver, signed(guide), "expired").await;
    let keeping = answering(Keeping::default(), counted())
        .clock(clock.clock())
        .build()
        .unwrap();
    assert_answer(&keeping, recent, "handled").await;
    assert_answer(&keeping, signed(guide), "dead-letter").await;
    // A store's clock that differs by less than an hour confirms the clock, too, without a recent
    // signature.
    let server_time = Some(clock.now() + jiff::SignedDuration::from_mins(59));
    let ledger = Keeping {
        server_time,
        ..Keeping::default()
    };
    let witnessed = answering(ledger, counted())
        .clock(clock.clock())
        .build()
        .unwrap();
    assert_answer(&witnessed, signed(guide), "dead-letter").await;
    assert_eq!(
        runs.load(Ordering::SeqCst),
        2,
        "an expired delivery reached a handler"
    );
}

#[tokio::test]
async fn with_a_clock_40_days_ahead_every_delivery_is_503_and_none_is_lost() {
    let ahead = ManualClock::at(Timestamp::now() + jiff::SignedDuration::from_hours(40 * 24));
    for server_time in [None, Some(Timestamp::now())] {
        let ledger = Keeping {
            server_time,
            ..Keeping::default()
        };
        let receiver = answering(ledger.clone(), || Ok(()))
            .clock(ahead.clock())
            .build()
            .unwrap();
        let plain = answering(Memory::new(), || Ok(()))
            .clock(ahead.clock())
            .build()
            .unwrap();
        let logged = Logged::default();
        let guard = listen(logged.clone());
        for id in ["evt_1", "evt_2", "evt_1"] {
            let sent = request(&Fixture::of::<UserCreated>().id(id));
            assert_answer(&receiver, sent.clone(), "clock-unsure").await;
            assert_answer(&plain, sent, "clock-unsure").await;
        }
        drop(guard);
        assert!(ledger.dead.lock().unwrap().is_empty());
        let health = receiver.health().await;
        assert!(
            health.clock_unsure && health.is_ready() && health.to_string().contains("clock"),
            "{health}"
        );
        let lines = logged.text().matches("the clock is unconfirmed").count();
        assert_eq!(lines, 2, "once for each receiver: {}", logged.text());
    }
}

#[tokio::test]
async fn a_changed_clock_is_unconfirmed_until_a_recent_delivery() {
    let clock = ManualClock::at(Timestamp::now());
    let ledger = Keeping::default();
    let receiver = answering(ledger.clone(), || Ok(()))
        .clock(clock.clock())
        .build()
        .unwrap();
    let sent = |id: &str, time: Timestamp| request(&Fixture::of::<UserCreated>().id(id).time(time));
    assert_answer(&receiver, sent("evt_1", clock.now()), "handled").await;
    let before = clock.now();
    clock.advance(Duration::from_hours(40 * 24));
    assert_answer(&receiver, sent("evt_2", before), "clock-unsure").await;
    assert!(receiver.health().await.clock_unsure && ledger.dead.lock().unwrap().is_empty());
    // It was right: the time has really passed.
    assert_answer(&receiver, sent("evt_3", clock.now()), "handled").await;
    assert_answer(&receiver, sent("evt_2", before), "dead-letter").await;
    assert!(!receiver.health().await.clock_unsure);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_refusals_or_store_failures_is_a_few_log_lines_with_a_count() {
    let receiver = answering(Scripted::failing(), || Ok(())).build().unwrap();
    let logged = Logged::default();
    let _guard = listen(logged.clone());
    let mut forged = created();
    *forged.body_mut() = Full::new(Fixture::of::<UserCreated>().id("evt_forged").body());
    let mut unsigned = created();
    unsigned.headers_mut().clear();
    for _ in 0..1_000 {
        for (request, status) in [(&forged, 401), (&unsigned, 401), (&created(), 503)] {
            assert_eq!(receiver.receive(request.clone()).await.status(), status);
        }
    }
    let lines = |text: &str| {
        logged
            .text()
            .lines()
            .filter(|line| line.contains(text))
            .count()
    };
    let at_first = [
        ("a delivery was refused", 2),
        ("the store failed", 1),
        ("left_out", 0),
    ];
    for (text, expected) in at_first {
        assert_eq!(lines(text), expected, "{text}: {}", logged.text());
    }
    // After the flood, the next log line has the number of suppressed ones.
    tokio::time::advance(Duration::from_secs(10)).await;
    let _ = receiver.health().await;
    for reason in ["mismatch", "missing", "claim"] {
        let text = logged.text();
        let counted = text
            .lines()
            .filter(|line| line.contains(reason) && line.contains("left_out=999"))
            .count();
        assert_eq!(counted, 1, "{reason}: {text}");
    }
    receiver.receive(forged.clone()).await;
    receiver.receive(forged).await;
    drop(receiver);
    assert_eq!(
        lines("left_out=2"),
        1,
        "what was left out at the end: {}",
        logged.text()
    );
}

#[tokio::test]
async fn what_is_not_authentic_is_401_and_told_nothing() {
    let receiver = answering(Memory::new(), || {
        panic!("a forged delivery reached a handler")
    })
    .build()
    .unwrap();
    let mut forged = created();
    *forged.body_mut() = Full::new(Fixture::of::<UserCreated>().id("evt_forged").body());
    let mut unsigned = created();
    unsigned.headers_mut().clear();
    for request in [forged, unsigned] {
        assert_answer(&receiver, request, "unauthorized").await;
    }
}

#[tokio::test]
async fn a_receiver_has_one_clock_its_own_or_that_of_its_verifier() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let builder = |verifier| {
        let times = Arc::clone(&times);
        let handlers =
            Handlers::new(times).on(async |_: Event<UserCreated>, context: Context<_>| {
                let times: &Mutex<Vec<Timestamp>> = context.state();
                times.lock().unwrap().push(context.received_at());
                Ok(())
            });
        Receiver::inline("users", verifier, Memory::new(), handlers)
    };
    let scheme = SignatureScheme::timestamped();
    let signed = || {
        Fixture::of::<UserCreated>()
            .request(&scheme, &SECRET.into())
            .unwrap()
    };
    let verifier = || Verifier::new(scheme.clone(), keys());
    let at = |minutes| {
        ManualClock::at(Timestamp::now() + jiff::SignedDuration::from_mins(minutes)).clock()
    };
    // The scheme tolerates five minutes.
    let (within, late) = (at(4), at(6));

    let by_verifier = builder(verifier().clock(within.clone())).build().unwrap();
    assert_answer(&by_verifier, signed(), "handled").await;
    let by_receiver = builder(verifier().clock(late.clone())).clock(within.clone());
    assert_answer(&by_receiver.build().unwrap(), signed(), "handled").await;
    let too_late = builder(verifier().clock(within.clone())).clock(late);
    assert_answer(&too_late.build().unwrap(), signed(), "unauthorized").await;
    assert_eq!(*times.lock().unwrap(), [within.now(); 2]);
}

#[tokio::test]
async fn a_stale_signature_and_a_wrong_or_missing_bearer_token_are_401() {
    let never = || {
        Handlers::new(())
            .on(async |_: Event<UserCreated>, _| panic!("a forged delivery was handled"))
    };
    let build = |verifier| {
        Receiver::inline("users", verifier, Memory::new(), never())
            .build()
            .unwrap()
    };
    let late = ManualClock::at(Timestamp::now() + jiff::SignedDuration::from_mins(6));
    let scheme = SignatureScheme::timestamped();
    let stale = Fixture::of::<UserCreated>()
        .request(&scheme, &SECRET.into())
        .unwrap();
    assert_answer(
        &build(Verifier::new(scheme, keys()).clock(late.clock())),
        stale,
        "unauthorized",
    )
    .await;
    for verifier in [Verifier::bearer(keys()), verifier().and_bearer(keys())] {
        let receiver = build(verifier);
        assert_answer(&receiver, created(), "unauthorized").await;
        let cut_off = &SECRET[..SECRET.len() - 1];
        for wrong in [
            &format!("Bearer {cut_off}"),
            "Bearer ",
            &format!("Basic {SECRET}"),
            SECRET,
        ] {
            let mut request = created();
            request
                .headers_mut()
                .insert("authorization", wrong.parse().unwrap());
            assert_answer(&receiver, request, "unauthorized").await;
        }
    }
}

#[tokio::test]
async fn only_post_is_allowed() {
    let receiver = answering(Memory::new(), || Ok(())).build().unwrap();
    let mut request = created();
    *request.method_mut() = Method::GET;
    assert_answer(&receiver, request, "not-post").await;
}

/// A body of frames, followed by an error or by nothing.
struct Frames {
    frames: VecDeque<Bytes>,
    end: End,
}

enum End {
    Stall,
    HangUp,
    Whole,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match (self.frames.pop_front(), &self.end) {
            (Some(frame), _) => Poll::Ready(Some(Ok(Frame::data(frame)))),
            (None, End::Stall) => Poll::Pending,
            (None, End::HangUp) => {
                Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())))
            }
            (None, End::Whole) => Poll::Ready(None),
        }
    }
}

fn in_frames(size: usize, end: End) -> Request<Frames> {
    let fixture = Fixture::of::<UserCreated>();
    let (head, _) = request(&fixture).into_parts();
    let frames = fixture
        .body()
        .chunks(size)
        .map(Bytes::copy_from_slice)
        .collect();
    Request::from_parts(head, Frames { frames, end })
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_in_time_is_408_and_a_broken_one_400() {
    let receiver = answering(Memory::new(), || Ok(())).build().unwrap();
    assert_answer(&receiver, in_frames(7, End::Stall), "too-slow").await;
    assert_answer(&receiver, in_frames(7, End::HangUp), "interrupted").await;
    assert_answer(&receiver, in_frames(7, End::Whole), "handled").await;
}

#[tokio::test(start_paused = true)]
async fn with_a_full_budget_a_stalled_body_gets_503_and_a_new_one_is_read() {
    let handlers = Handlers::new(()).on(async |_: Event<UserCreated>, _| Ok(()));
    let receiver = Receiver::inline(
        "users",
        verifier().max_body(65_536),
        Memory::new(),
        handlers,
    );
    let receiver = receiver.max_unverified_bytes(65_536).build().unwrap();
    let large = |end| {
        let fixture = Fixture::of::<UserCreated>()
            .data(serde_json::json!({ "username": "x".repeat(40_000) }));
        let (head, body) = (request(&fixture).into_parts().0, fixture.body());
        let frames = body.chunks(4096).map(Bytes::copy_from_slice).collect();
        Request::from_parts(head, Frames { frames, end })
    };
    let stalled = tokio::spawn({
        let (receiver, request) = (receiver.clone(), large(End::Stall));
        async move { receiver.receive(request).await }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_answer(&receiver, large(End::Whole), "handled").await;
    assert_golden("answers/shed.txt", &text(stalled.await.unwrap()).await);
}

#[tokio::test]
async fn a_budget_that_has_no_room_for_one_body_is_refused() {
    let build = |bytes| {
        answering(Memory::new(), || Ok(()))
            .max_unverified_bytes(bytes)
            .build()
            .map(drop)
    };
    assert_eq!(
        build((1 << 20) - 1),
        Err(BuildError::Setting("max_unverified_bytes"))
    );
    assert_eq!(build(1 << 20), Ok(()));
}

#[tokio::test]
async fn a_body_over_the_cap_is_413_announced_or_not() {
    let verifier = verifier().max_body(100);
    let handlers = Handlers::new(())
        .on(async |_: Event<UserCreated>, _| panic!("an oversized delivery was handled"));
    let receiver = Receiver::inline("users", verifier, Memory::new(), handlers)
        .build()
        .unwrap();
    assert_answer(&receiver, in_frames(64, End::Stall), "too-large").await;
    let mut announced = in_frames(1, End::Stall);
    announced.headers_mut().insert("content-length", 101.into());
    assert_answer(&receiver, announced, "too-large").await;
}

#[tokio::test]
async fn having_no_usable_secret_is_500_and_never_401() {
    let expired = KeyRing::new().with_during("gone", SECRET, ..Timestamp::UNIX_EPOCH);
    let handlers = Handlers::new(()).on(async |_: Event<UserCreated>, _| Ok(()));
    let receiver = Receiver::inline("users", Verifier::authpi(expired), Memory::new(), handlers)
        .build()
        .unwrap();
    assert_answer(&receiver, created(), "no-secret").await;
}

#[test]
fn work_on_a_given_runtime_outlives_the_runtime_of_its_request() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (requests, work) = (runtime(), runtime());
    let (builder, started, go) = waiting(Memory::new());
    let receiver = builder.build().unwrap().on_runtime(work.handle().clone());
    requests.spawn({
        let receiver = receiver.clone();
        async move { receiver.receive(created()).await }
    });
    work.block_on(started.notified());
    drop(requests);
    go.add_permits(1);
    work.block_on(assert_answer(&receiver, created(), "duplicate"));
}

fn verify_only() -> ReceiverBuilder<VerifyOnly> {
    Receiver::verify_only("users", verifier())
}

#[tokio::test]
async fn verifying_only_returns_each_authentic_delivery_and_answers_the_others() {
    let authenticator = verify_only().build().unwrap();
    for _ in 0..2 {
        let event = authenticator.authenticate(created()).await.unwrap();
        assert_eq!(event.id(), "evt_user.created");
    }
    let mut unsigned = created();
    unsigned.headers_mut().clear();
    for (request, golden) in [(unsigned, "unauthorized"), (signed("{}"), "unreadable")] {
        let answer = authenticator.authenticate(request).await.unwrap_err();
        assert_golden(&format!("answers/{golden}.txt"), &text(answer).await);
    }
    let body = authenticator.authenticate_bytes(signed("{}")).await;
    assert_eq!(body.unwrap().as_ref(), b"{}");
}

#[tokio::test]
async fn verifying_only_refuses_what_is_older_than_its_maximum() {
    let hour = Duration::from_hours(1);
    let authenticator = verify_only().max_age(hour).build().unwrap();
    let sent = |ago: Duration| {
        let time = Timestamp::now() - jiff::SignedDuration::try_from(ago).unwrap();
        request(&Fixture::of::<UserCreated>().time(time))
    };
    let old = || sent(2 * hour);
    let refused = authenticator.authenticate(old()).await.unwrap_err();
    assert_golden("answers/clock-unsure.txt", &text(refused).await);
    authenticator.authenticate(sent(hour / 2)).await.unwrap();
    let refused = authenticator.authenticate(old()).await.unwrap_err();
    assert_golden("answers/expired.txt", &text(refused).await);
    assert!(authenticator.authenticate_bytes(old()).await.is_ok());
}

#[test]
fn verifying_only_checks_its_settings() {
    let zero = verify_only().max_age(Duration::ZERO).build();
    assert_eq!(zero.map(drop), Err(BuildError::Setting("max_age")));
    let unnamed = Receiver::verify_only("", verifier()).build();
    assert_eq!(unnamed.map(drop), Err(BuildError::NoEndpoint));
    let none = Receiver::verify_only("users", Verifier::authpi(KeyRing::new())).build();
    assert!(matches!(none.map(drop), Err(BuildError::Secrets(_))));
}
