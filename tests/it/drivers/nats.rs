//! `Nats`: JetStream's stream over ledgers of several kinds.

mod inspect;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, stream};
use authpi_sdk::{
    Clock,
    event::{
        Event,
        types::{SessionCreated, UserCreated, UserUpdated},
    },
    handlers::{Context, HandlerError, Handlers, Terminal as _},
    ledger::{
        Appended, Claim, Completion, Digest, EventKey, Inbox, LeaseStatus, LeasedEvent, Ledger,
        LedgerError, LedgerErrorKind, NextEvent, Token, Tx, conformance,
    },
    receiver::Receiver,
    stores::{Memory, Nats, NatsOptions, Postgres, Redis, Sqlite},
    testing::Fixture,
    worker::{Worker, WorkerBuilder},
};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

use super::{DIGEST, EVENTS, LEASE, chain, key, odd_names_hold_up_nothing};
use crate::servers::{
    DEADLINE,
    forward::Forwarder,
    nats::{NatsServer, fresh_name},
    postgres::{self, PostgresServer},
    redis::{self, RedisServer},
    until,
};
use crate::support::{
    Running, SECRET, deliver,
    log::{Logged, listen},
    signed, verifier,
};

/// Short, so that the tests do not wait long for the events of a dead worker.
const ACK_WAIT: Duration = Duration::from_secs(1);

fn options(name: &str) -> NatsOptions {
    Nats::options()
        .stream(name)
        .subjects(name)
        .ack_wait(ACK_WAIT)
}

fn body(n: usize) -> Bytes {
    Bytes::from(format!("body of {n}"))
}

async fn append(inbox: &impl Inbox, n: usize) -> Appended {
    inbox.append(&key(n), DIGEST, None, body(n)).await.unwrap()
}

async fn leased(inbox: &impl Inbox, lease: Duration) -> LeasedEvent {
    let ask = || async {
        match inbox.lease_next("users", lease).await {
            Ok(NextEvent::Leased(leased)) => Some(leased),
            _ => None,
        }
    };
    until(|| "nothing was leased".to_owned(), ask).await
}

async fn handled(inbox: &impl Inbox, event: &LeasedEvent) {
    assert_eq!(
        inbox
            .complete(&event.key, event.token, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
}

async fn depth(inbox: &impl Inbox) -> u64 {
    inbox.backlog("users").await.unwrap().depth
}

/// Leases and completes events until none is left; returns their ids.
async fn work_off(inbox: &impl Inbox) -> Vec<String> {
    let (started, mut done) = (Instant::now(), Vec::new());
    loop {
        match inbox.lease_next("users", LEASE).await {
            Ok(NextEvent::Leased(event)) => {
                handled(inbox, &event).await;
                done.push(event.key.event_id().to_owned());
            }
            _ if inbox
                .backlog("users")
                .await
                .is_ok_and(|backlog| backlog.depth == 0) =>
            {
                return done;
            }
            _ => assert!(
                started.elapsed() < DEADLINE,
                "the backlog is not worked off"
            ),
        }
    }
}

fn ids(events: impl IntoIterator<Item = usize>) -> Vec<String> {
    let mut ids: Vec<_> = events
        .into_iter()
        .map(|n| key(n).event_id().to_owned())
        .collect();
    ids.sort_unstable();
    ids
}

async fn consumers(jetstream: &jetstream::Context, stream: &str) -> Vec<String> {
    let reported: Value = jetstream
        .request(format!("CONSUMER.NAMES.{stream}"), &json!({}))
        .await
        .unwrap();
    let names = reported["consumers"].as_array().into_iter().flatten();
    names
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

/// Each store has its own streams over its own memory ledger.
struct Streams {
    server: &'static NatsServer,
    jetstream: jetstream::Context,
    /// How far the time of ledgers and inboxes is ahead, in seconds.
    ahead: Arc<AtomicI64>,
    newest: Mutex<String>,
}

impl conformance::Harness for Streams {
    type Ledger = Nats<Memory>;
    const TELLS_WHAT_IS_DONE: bool = false;

    async fn fresh(&self) -> Nats<Memory> {
        let name = fresh_name();
        self.newest.lock().unwrap().clone_from(&name);
        let ahead = Arc::clone(&self.ahead);
        let now = move || {
            Timestamp::now() + Duration::from_secs(ahead.load(Ordering::Relaxed).unsigned_abs())
        };
        let clock = Clock::from_fn(now);
        let options = Nats::options()
            .stream(&name)
            .subjects(&name)
            .clock(clock.clone());
        options
            .connect(&self.server.url(), Memory::new().with_clock(clock))
            .await
            .unwrap()
    }

    /// The ledger's clock is advanced. The server's cannot be, so its timers are ended by deleting
    /// the consumers that have them: every unacknowledged message is delivered again, and the
    /// ledger decides whether its time has come.
    async fn advance(&self, _: &Nats<Memory>, by: Duration) {
        self.ahead
            .fetch_add(by.as_secs().cast_signed(), Ordering::Relaxed);
        let newest = self.newest.lock().unwrap().clone();
        let stream = self.jetstream.get_stream(&newest).await.unwrap();
        for name in consumers(&self.jetstream, &newest).await {
            let config = stream.consumer_info(&name).await.unwrap().config;
            stream.delete_consumer(&name).await.unwrap();
            stream.create_consumer(config).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms() {
    let server = NatsServer::shared().await;
    let jetstream = server.jetstream().await;
    let streams = Streams {
        server,
        jetstream,
        ahead: Arc::default(),
        newest: Mutex::default(),
    };
    conformance::run(&streams).await;
    conformance::inbox::run(&streams).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_at_once_make_streams_and_consumers_once() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let ledger = Arc::new(Memory::new());
    let mut starting = JoinSet::new();
    for n in 0..12 {
        let (name, ledger) = (name.clone(), Arc::clone(&ledger));
        starting.spawn(async move {
            // A separate connection, like a replica's.
            let inbox = options(&name).connect(&server.url(), ledger).await.unwrap();
            append(&inbox, n).await;
            handled(&inbox, &leased(&inbox, LEASE).await).await;
        });
    }
    starting.join_all().await;
    let jetstream = server.jetstream().await;
    let mut found = jetstream.get_stream(&name).await.unwrap();
    assert_eq!(
        (
            found.info().await.unwrap().state.messages,
            consumers(&jetstream, &name).await.len()
        ),
        (0, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_workers_that_race_one_handles_each_event() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let (store, prefix) = (RedisServer::shared().await, redis::fresh_prefix());
    let mut replicas = Vec::new();
    for _ in 0..3 {
        let ledger = Redis::options()
            .prefix(&prefix)
            .connect(&store.url())
            .await
            .unwrap();
        replicas.push(options(&name).connect(&server.url(), ledger).await.unwrap());
    }
    let mut racing = JoinSet::new();
    for (worker, inbox) in replicas.iter().cloned().enumerate() {
        racing.spawn(async move {
            // Every replica receives every event, in another order, while it works.
            for n in 0..EVENTS {
                append(&inbox, (n + worker * 33) % EVENTS).await;
            }
            work_off(&inbox).await
        });
    }
    let mut all = racing.join_all().await.concat();
    all.sort_unstable();
    assert_eq!(all, ids(0..EVENTS));
}

#[tokio::test]
async fn what_a_dead_worker_had_goes_to_another() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let (store, prefix) = (RedisServer::shared().await, redis::fresh_prefix());
    let ledger = || async {
        Redis::options()
            .prefix(&prefix)
            .connect(&store.url())
            .await
            .unwrap()
    };
    let dies = options(&name)
        .connect(&server.url(), ledger().await)
        .await
        .unwrap();
    append(&dies, 0).await;
    assert_eq!(leased(&dies, ACK_WAIT).await.token.attempt, 1);
    drop(dies);
    let lives = options(&name)
        .connect(&server.url(), ledger().await)
        .await
        .unwrap();
    let event = leased(&lives, LEASE).await;
    assert_eq!(
        (&event.key, event.token.attempt, event.body.clone()),
        (&key(0), 2, body(0))
    );
    handled(&lives, &event).await;
    assert_eq!(depth(&lives).await, 0);
}

#[tokio::test]
async fn a_lease_longer_than_the_ack_wait_is_exclusive_with_or_without_renewal() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let ledger = Arc::new(Memory::new());
    let holder = options(&name)
        .connect(&server.url(), Arc::clone(&ledger))
        .await
        .unwrap();
    let other = options(&name).connect(&server.url(), ledger).await.unwrap();
    append(&holder, 0).await;
    let event = leased(&holder, LEASE).await;
    let jetstream = server.jetstream().await;
    let stream = jetstream.get_stream(&name).await.unwrap();
    // The server delivers it to the other one, and the ledger reports that it is leased.
    let redelivered = || async {
        let next = other.lease_next("users", LEASE).await.unwrap();
        assert!(matches!(next, NextEvent::Empty { .. }), "{next:?}");
        (stream
            .consumer_info("users")
            .await
            .unwrap()
            .delivered
            .consumer_sequence
            > 1)
        .then_some(())
    };
    until(
        || "the message was not delivered again".to_owned(),
        redelivered,
    )
    .await;
    assert_eq!(
        holder.renew(&event.key, event.token, LEASE).await.unwrap(),
        LeaseStatus::Held
    );
    handled(&holder, &event).await;
    assert_eq!(depth(&holder).await, 0);
}

#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost_when_the_server_is_killed() {
    let (mut server, name) = (NatsServer::start().await, fresh_name());
    let options = || options(&name).timeout(Duration::from_secs(2));
    let inbox = options()
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    for n in 0..50 {
        append(&inbox, n).await;
    }
    let first = leased(&inbox, LEASE).await;
    handled(&inbox, &first).await;
    let dead = leased(&inbox, LEASE).await;
    let given_up = Completion::Dead {
        reason: "no such user".into(),
        body: dead.body.clone(),
    };
    assert_eq!(
        inbox
            .complete(&dead.key, dead.token, given_up)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    // It is leased when the server dies.
    let held = leased(&inbox, LEASE).await;

    server.stop();
    let error = chain(
        &inbox
            .append(&key(99), DIGEST, None, body(99))
            .await
            .unwrap_err(),
    );
    assert!(
        error.starts_with("the ledger failed to append: "),
        "{error}"
    );
    assert!(
        inbox.lease_next("users", LEASE).await.is_err() && inbox.backlog("users").await.is_err()
    );

    server.start_again().await;
    let back = || async { inbox.backlog("users").await.ok() };
    until(|| "the inbox does not recover".to_owned(), back).await;
    handled(&inbox, &held).await;
    let mut done = work_off(&inbox).await;
    // Unacknowledged messages may be stored anyway.
    done.retain(|id| id != key(99).event_id());
    done.extend([first, dead, held].map(|event| event.key.event_id().to_owned()));
    done.sort_unstable();
    assert_eq!(done, ids(0..50));
    assert_eq!(
        inbox.dead_letters("users", None, 10).await.unwrap().len(),
        1
    );
}

/// A killed server may have forgotten that it removed settled messages. They are then in the stream
/// again, and the old consumer never delivers them.
#[tokio::test]
async fn an_event_forgotten_after_a_server_crash_is_delivered_again() {
    let (mut server, name) = (NatsServer::start().await, fresh_name());
    let options = || options(&name).timeout(Duration::from_secs(2));
    let inbox = options()
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    for n in 0..4 {
        append(&inbox, n).await;
    }
    // One that waits for its retry holds back the consumer's floor, and those after it are done.
    let waits = leased(&inbox, LEASE).await;
    assert_eq!(waits.key, key(0));
    assert_eq!(
        inbox.release(&waits.key, waits.token, LEASE).await.unwrap(),
        LeaseStatus::Held
    );
    for n in 1..4 {
        let event = leased(&inbox, LEASE).await;
        assert_eq!(event.key, key(n));
        handled(&inbox, &event).await;
    }
    server.stop();
    server.start_again().await;
    let back = || async { inbox.backlog("users").await.ok() };
    until(|| "the inbox does not recover".to_owned(), back).await;
    for n in 1..4 {
        assert!(inbox.forget(&key(n)).await.unwrap());
        // If the old message is still in the stream, this append is a duplicate of it, and the old
        // message has to be delivered again.
        append(&inbox, n).await;
    }
    let mut done = Vec::new();
    for _ in 1..4 {
        let event = leased(&inbox, LEASE).await;
        handled(&inbox, &event).await;
        done.push(event.key.event_id().to_owned());
    }
    done.sort_unstable();
    assert_eq!(done, ids(1..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_fails_each_step_in_time_and_can_then_be_used_again() {
    let (server, name) = (NatsServer::start().await, fresh_name());
    let timeout = Duration::from_millis(300);
    // Only operations that must fail have a short timeout; those that must succeed have the
    // default.
    let ledger = Memory::new();
    let patient = options(&name)
        .connect(&server.url(), ledger.clone())
        .await
        .unwrap();
    let connect = || async {
        options(&name)
            .timeout(timeout)
            .connect(&server.url(), ledger.clone())
            .await
            .ok()
    };
    let inbox = until(|| "the inbox cannot be opened".to_owned(), connect).await;
    append(&patient, 0).await;
    let event = leased(&inbox, LEASE).await;

    let paused = server.pause();
    let started = Instant::now();
    let mut steps = JoinSet::new();
    for n in 1..=20 {
        let inbox = inbox.clone();
        steps.spawn(async move {
            let appended = inbox
                .append(&key(n), DIGEST, None, body(n))
                .await
                .unwrap_err();
            let leased = inbox.lease_next("users", LEASE).await.unwrap_err();
            let counted = inbox.backlog("users").await.unwrap_err();
            [appended, leased, counted].map(|error| chain(&error))
        });
    }
    for errors in steps.join_all().await {
        assert!(
            errors
                .iter()
                .all(|error| error.contains("did not answer within")),
            "{errors:?}"
        );
    }
    // The ledger, which is not paused, records the completion. Its message cannot be acknowledged
    // now; that happens when it is delivered again.
    assert_eq!(
        inbox
            .complete(&event.key, event.token, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    assert!(
        started.elapsed() < timeout * 20,
        "the steps took {:?}",
        started.elapsed()
    );
    drop(paused);

    let again = || async { inbox.append(&key(21), DIGEST, None, body(21)).await.ok() };
    until(|| "the inbox does not recover".to_owned(), again).await;
    // An append without a response may or may not be stored. Event 21 must be found, event 0 must
    // not be handled again, none may appear twice, and nothing else may appear.
    let mut done = work_off(&inbox).await;
    done.sort_unstable();
    assert!(
        done.contains(&key(21).event_id().to_owned())
            && !done.contains(&key(0).event_id().to_owned()),
        "{done:?}"
    );
    assert!(
        done.is_sorted_by(|one, next| one < next) && done.iter().all(|id| ids(1..=21).contains(id)),
        "{done:?}"
    );
}

/// A proxy between a client and the server that ends a connection in the middle of a response, on
/// request.
struct Cutter {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Cutter {
    async fn before(server: &NatsServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, cut) = (
            listener.local_addr().unwrap().port(),
            Arc::new(AtomicBool::new(false)),
        );
        let (to, order) = (server.url().split_off("nats://".len()), Arc::clone(&cut));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&to).await else {
                    continue;
                };
                tokio::spawn(Self::pass(client, server, Arc::clone(&order)));
            }
        });
        Self { port, cut }
    }

    async fn pass(
        mut client: TcpStream,
        mut server: TcpStream,
        cut: Arc<AtomicBool>,
    ) -> io::Result<()> {
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.split(), server.split());
        let requests = async {
            tokio::io::copy(&mut from_client, &mut to_server)
                .await
                .map(drop)
        };
        let answers = async {
            let mut buffer = [0; 4096];
            loop {
                let read = from_server.read(&mut buffer).await?;
                // A response to a request, not the server's PING.
                let in_response = read > 16 && cut.swap(false, Ordering::SeqCst);
                to_client
                    .write_all(&buffer[..if in_response { read / 2 } else { read }])
                    .await?;
                if read == 0 || in_response {
                    return Ok(());
                }
            }
        };
        tokio::select! { ended = requests => ended, ended = answers => ended }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Cuts off the next response.
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_in_any_response_neither_loses_nor_repeats_an_event() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let cutter = Cutter::before(server).await;
    let options = options(&name).timeout(Duration::from_secs(1));
    let inbox = options.connect(&cutter.url(), Memory::new()).await.unwrap();
    append(&inbox, 100).await;
    let mut done = Vec::new();
    let mut failed = 0;
    for n in 0..5 {
        // Senders without a response repeat the request, as AuthPI does.
        let started = Instant::now();
        cutter.cut();
        while inbox.append(&key(n), DIGEST, None, body(n)).await.is_err() {
            failed += 1;
            assert!(started.elapsed() < DEADLINE);
        }
        cutter.cut();
        let event = leased(&inbox, ACK_WAIT).await;
        cutter.cut();
        handled(&inbox, &event).await;
        done.push(event.key.event_id().to_owned());
    }
    assert!(failed > 0, "no answer to an append was cut off");
    done.extend(work_off(&inbox).await);
    done.sort_unstable();
    assert_eq!(done, ids((0..5).chain([100])));
}

#[tokio::test]
async fn what_the_ledger_was_told_and_the_stream_was_not_is_made_good() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let ledger = Arc::new(Memory::new());
    let crashes = options(&name)
        .connect(&server.url(), Arc::clone(&ledger))
        .await
        .unwrap();
    append(&crashes, 0).await;
    append(&crashes, 1).await;
    // For both events, the process dies after the update of the ledger and before that of the
    // stream.
    let first = leased(&crashes, LEASE).await;
    let ended = ledger
        .complete(&first.key, first.token, Completion::Handled)
        .await
        .unwrap();
    assert_eq!(ended, LeaseStatus::Held);
    let second = leased(&crashes, LEASE).await;
    let dead = Completion::Dead {
        reason: "poisoned".into(),
        body: second.body.clone(),
    };
    assert_eq!(
        ledger
            .complete(&second.key, second.token, dead)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    drop(crashes);

    let inbox = options(&name).connect(&server.url(), ledger).await.unwrap();
    assert_eq!(depth(&inbox).await, 2);
    assert!(
        work_off(&inbox).await.is_empty(),
        "an event was handed out that was done"
    );
    let letters = inbox.dead_letters("users", None, 10).await.unwrap();
    assert_eq!(
        (letters.len(), &letters[0].key, &letters[0].body),
        (1, &key(1), &body(1))
    );
    assert!(
        letters[0]
            .reason
            .contains("ended before it kept the reason"),
        "{}",
        letters[0].reason
    );
}

#[tokio::test]
async fn dead_letters_are_listed_replayed_forgotten_and_purged() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let inbox = options(&name)
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    let reason = "no such user: é\r\nAuthpi-Attempts: 7";
    for n in 0..5 {
        append(&inbox, n).await;
        let event = leased(&inbox, LEASE).await;
        let dead = Completion::Dead {
            reason: reason.into(),
            body: event.body.clone(),
        };
        assert_eq!(
            inbox.complete(&event.key, event.token, dead).await.unwrap(),
            LeaseStatus::Held
        );
    }
    assert_eq!(depth(&inbox).await, 0);
    let all = inbox.dead_letters("users", None, 10).await.unwrap();
    let reported: Vec<_> = all
        .iter()
        .map(|letter| letter.key.event_id().to_owned())
        .collect();
    assert_eq!(reported, ids(0..5));
    assert_eq!(
        (all[0].reason.as_str(), all[0].attempts, &all[0].body),
        (reason, 1, &body(0))
    );
    assert!(all[0].first_claimed_at <= all[0].died_at);
    assert!(
        inbox
            .dead_letters("others", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    // Page by page, even if the dead letter at a page's end has gone.
    assert_eq!(
        inbox.dead_letters("users", None, 2).await.unwrap(),
        all[..2]
    );
    assert_eq!(
        inbox.dead_letters("users", Some(&all[1]), 2).await.unwrap(),
        all[2..4]
    );

    assert!(inbox.replay(&key(1)).await.unwrap());
    assert!(
        !inbox.replay(&key(1)).await.unwrap(),
        "it was replayed twice"
    );
    assert!(!inbox.replay(&key(77)).await.unwrap());
    assert_eq!(
        inbox.dead_letters("users", Some(&all[1]), 2).await.unwrap(),
        all[2..4]
    );
    let event = leased(&inbox, LEASE).await;
    assert_eq!(
        (&event.key, event.token.attempt, &event.body),
        (&key(1), 1, &body(1))
    );
    // It dies again, and can be replayed again.
    let dead = Completion::Dead {
        reason: "still".into(),
        body: event.body.clone(),
    };
    assert_eq!(
        inbox.complete(&event.key, event.token, dead).await.unwrap(),
        LeaseStatus::Held
    );
    assert_eq!(
        inbox.dead_letters("users", Some(&all[4]), 2).await.unwrap()[0].reason,
        "still"
    );
    assert!(inbox.replay(&key(1)).await.unwrap());
    assert_eq!(work_off(&inbox).await, ids([1]));
    assert!(matches!(
        inbox.claim(&key(1), DIGEST, LEASE).await.unwrap(),
        Claim::Handled { .. }
    ));

    assert!(inbox.forget(&key(2)).await.unwrap());
    assert_eq!(
        inbox.dead_letters("users", None, 10).await.unwrap().len(),
        3
    );
    assert_eq!(inbox.purge(Duration::from_hours(1)).await.unwrap(), 0);
    assert_eq!(inbox.purge(Duration::ZERO).await.unwrap(), 3);
    assert!(
        inbox
            .dead_letters("users", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(inbox.purge(Duration::ZERO).await.unwrap(), 0);
}

/// A dead letter stream as an inbox creates it, except for the given changes.
fn letters(name: &str) -> stream::Config {
    stream::Config {
        name: format!("{name}_dead"),
        subjects: vec![format!("{name}.dead.*.*")],
        max_messages_per_subject: 1,
        ..Default::default()
    }
}

#[tokio::test]
async fn ids_of_any_length_are_stored_handled_and_replayed() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let pool = sqlx::postgres::PgPoolOptions::new()
        .connect_lazy_with(PostgresServer::shared().await.options());
    let ledger = Postgres::options()
        .prefix(postgres::fresh_prefix())
        .open(pool)
        .await
        .unwrap();
    let inbox = options(&name).connect(&server.url(), ledger).await.unwrap();
    let worker = |handlers| Worker::builder("users", inbox.clone(), handlers);
    odd_names_hold_up_nothing((&receiver(&inbox), &inbox, SECRET), worker).await;
}

#[tokio::test]
async fn a_replay_that_failed_at_its_end_and_is_asked_for_again_repeats_nothing() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    // The last step of a replay fails.
    let config = stream::Config {
        deny_delete: true,
        ..letters(&name)
    };
    server
        .jetstream()
        .await
        .create_stream(config)
        .await
        .unwrap();
    let inbox = options(&name)
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    append(&inbox, 0).await;
    let event = leased(&inbox, LEASE).await;
    let dead = Completion::Dead {
        reason: "no such user".into(),
        body: event.body.clone(),
    };
    assert_eq!(
        inbox.complete(&event.key, event.token, dead).await.unwrap(),
        LeaseStatus::Held
    );
    // Twice before it is handled, and twice after.
    assert!(inbox.replay(&key(0)).await.is_err() && inbox.replay(&key(0)).await.is_err());
    assert_eq!(work_off(&inbox).await, ids([0]));
    assert!(inbox.replay(&key(0)).await.is_err() && inbox.replay(&key(0)).await.is_err());
    assert!(work_off(&inbox).await.is_empty(), "it was handled twice");
    assert!(matches!(
        inbox.claim(&key(0), DIGEST, LEASE).await.unwrap(),
        Claim::Handled { .. }
    ));
}

#[tokio::test]
async fn what_is_given_up_and_could_not_be_kept_stays_with_authpi() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let ahead = Arc::new(AtomicI64::new(0));
    let moving = Arc::clone(&ahead);
    let clock = Clock::from_fn(move || {
        Timestamp::now() + Duration::from_secs(moving.load(Ordering::Relaxed).unsigned_abs())
    });
    let options = options(&name).timeout(Duration::from_secs(2));
    let inbox = options
        .connect(&server.url(), Memory::new().with_clock(clock))
        .await
        .unwrap();
    let handlers = Handlers::new(())
        .on(async |_: Event<UserUpdated>, _| "x".parse::<u8>().map(drop).terminal());
    let hook = Receiver::inline("users", verifier(), inbox.clone(), handlers)
        .build()
        .unwrap();
    let deliver_both = async || {
        let unreadable = signed("{");
        let unreadable = hook.receive(unreadable).await.status().as_u16();
        [
            unreadable,
            deliver(&hook, &Fixture::of::<UserUpdated>().id("terminal")).await,
        ]
    };
    let jetstream = server.jetstream().await;
    jetstream
        .delete_stream(format!("{name}_dead"))
        .await
        .unwrap();
    assert_eq!(deliver_both().await, [503; 2]);
    jetstream.create_stream(letters(&name)).await.unwrap();
    // The claims of the first attempts expire.
    ahead.store(3600, Ordering::Relaxed);
    assert_eq!(deliver_both().await, [200; 2]);
    assert_eq!(
        inbox.dead_letters("users", None, 10).await.unwrap().len(),
        2
    );
}

#[tokio::test]
async fn a_worker_whose_ledger_is_down_is_not_ready_though_nats_answers() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let mut store = RedisServer::start().await;
    let ledger = Redis::options().connect(&store.url()).await.unwrap();
    let inbox = options(&name).connect(&server.url(), ledger).await.unwrap();
    let worker = Worker::builder("users", inbox.clone(), Handlers::new(()))
        .build()
        .unwrap();
    assert!(worker.health().await.is_ready());
    store.stop();
    assert!(inbox.backlog("users").await.is_ok());
    let still = || "a worker whose ledger is gone stays ready".to_owned();
    until(still, async || {
        (!worker.health().await.is_ready()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn another_content_under_a_known_id_is_told() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let inbox = options(&name)
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    append(&inbox, 0).await;
    assert_eq!(work_off(&inbox).await, ids([0]));
    let logged = Logged::default();
    let _guard = listen(logged.clone());
    append(&inbox, 0).await;
    assert!(work_off(&inbox).await.is_empty() && !logged.text().contains("content differs"));
    inbox
        .append(&key(0), Digest::from_bytes([8; 16]), None, body(0))
        .await
        .unwrap();
    assert!(work_off(&inbox).await.is_empty());
    assert!(
        logged.text().contains("content differs"),
        "{}",
        logged.text()
    );
}

#[tokio::test]
async fn a_purge_removes_what_is_old_enough_and_no_more() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let ahead = Arc::new(AtomicI64::new(0));
    let moving = Arc::clone(&ahead);
    let clock = Clock::from_fn(move || {
        Timestamp::from_nanosecond(moving.load(Ordering::Relaxed).into()).unwrap()
    });
    let inbox = options(&name)
        .clock(clock)
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    for n in 0..20 {
        let endpoint = if n % 3 == 0 { "others" } else { "users" };
        let key = EventKey::new(endpoint, n.to_string());
        let Claim::Granted { token, .. } = inbox.claim(&key, DIGEST, LEASE).await.unwrap() else {
            panic!("not granted")
        };
        let dead = Completion::Dead {
            reason: String::new(),
            body: body(n),
        };
        assert_eq!(
            inbox.complete(&key, token, dead).await.unwrap(),
            LeaseStatus::Held
        );
        // Some dead letters are removed, so that the stream has gaps.
        if n % 4 == 1 {
            assert!(inbox.forget(&key).await.unwrap());
        }
    }
    let before = inbox.dead_letters("users", None, 100).await.unwrap();
    let at = before[before.len() / 2].died_at;
    ahead.store(at.as_nanosecond().try_into().unwrap(), Ordering::Relaxed);
    let purged = inbox.purge(Duration::ZERO).await.unwrap();
    let after = inbox.dead_letters("users", None, 100).await.unwrap();
    let expected: Vec<_> = before
        .iter()
        .filter(|letter| letter.died_at > at)
        .cloned()
        .collect();
    assert_eq!(after, expected);
    assert!(usize::try_from(purged).unwrap() >= before.len() - after.len());
    let others = inbox.dead_letters("others", None, 100).await.unwrap();
    assert!(!others.is_empty() && others.iter().all(|letter| letter.died_at > at));
}

#[tokio::test]
async fn a_message_that_is_no_event_becomes_a_dead_letter_and_hinders_nobody() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let inbox = options(&name)
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    let jetstream = server.jetstream().await;
    jetstream
        .publish(format!("{name}.event.users"), "hello".into())
        .await
        .unwrap()
        .await
        .unwrap();
    // In the format of an unreleased version.
    let mut unreleased = async_nats::HeaderMap::new();
    let digest = "a5".repeat(32);
    for (name, value) in [
        ("Authpi-Endpoint", "users"),
        ("Authpi-Event", "evt_9"),
        ("Authpi-Digest", &digest),
    ] {
        unreleased.insert(name, value);
    }
    let subject = format!("{name}.event.users");
    jetstream
        .publish_with_headers(subject, unreleased, "old".into())
        .await
        .unwrap()
        .await
        .unwrap();
    append(&inbox, 0).await;
    assert_eq!(work_off(&inbox).await, ids([0]));
    let letters = inbox.dead_letters("users", None, 10).await.unwrap();
    let reported: Vec<_> = letters
        .iter()
        .map(|letter| (letter.key.event_id(), &letter.body[..]))
        .collect();
    assert_eq!(
        reported,
        [("message 1", &b"hello"[..]), ("message 2", &b"old"[..])]
    );
    assert!(
        letters.iter().all(|letter| letter
            .reason
            .contains("an unreleased authpi-sdk, published it")),
        "{letters:?}"
    );
}

#[tokio::test]
async fn endpoints_and_events_of_any_name_are_kept_apart() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let inbox = options(&name)
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    let long = "x".repeat(3000);
    let names = [
        "",
        " ",
        "a.b",
        "a",
        "A",
        "*",
        ">",
        "$JS.>",
        "é",
        "a b",
        "\r\nNats-Msg-Id: x",
        "=",
        "=20",
        "事件",
        &long,
    ];
    for endpoint in names {
        for event in names {
            let stored = inbox
                .append(&EventKey::new(endpoint, event), DIGEST, None, Bytes::new())
                .await
                .unwrap();
            assert_eq!(stored, Appended::Stored, "{endpoint:?} {event:?}");
        }
    }
    for endpoint in names {
        assert_eq!(
            inbox.backlog(endpoint).await.unwrap().depth,
            names.len() as u64,
            "{endpoint:?}"
        );
        for expected in names {
            let NextEvent::Leased(event) = inbox.lease_next(endpoint, LEASE).await.unwrap() else {
                panic!("{expected:?} of {endpoint:?} was not leased");
            };
            assert_eq!(event.key, EventKey::new(endpoint, expected));
            handled(&inbox, &event).await;
        }
        assert!(matches!(
            inbox.lease_next(endpoint, LEASE).await.unwrap(),
            NextEvent::Empty { .. }
        ));
    }
}

#[tokio::test]
async fn a_consumer_that_somebody_deleted_is_made_anew_and_nothing_is_lost() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let options = options(&name).timeout(Duration::from_secs(2));
    let inbox = options.connect(&server.url(), Memory::new()).await.unwrap();
    append(&inbox, 0).await;
    append(&inbox, 1).await;
    let held = leased(&inbox, LEASE).await;
    let stream = server.jetstream().await.get_stream(&name).await.unwrap();
    stream.delete_consumer("users").await.unwrap();
    let next = leased(&inbox, LEASE).await;
    assert_eq!(next.key, key(1));
    handled(&inbox, &held).await;
    handled(&inbox, &next).await;
    assert!(work_off(&inbox).await.is_empty());
}

#[tokio::test]
async fn a_full_stream_refuses_what_is_new_and_drops_nothing() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let inbox = options(&name)
        .max_bytes(20_000)
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    let large = Bytes::from(vec![b' '; 1000]);
    let mut stored = 0;
    let error = loop {
        match inbox
            .append(&key(stored), DIGEST, None, large.clone())
            .await
        {
            Ok(_) => stored += 1,
            Err(error) => break chain(&error),
        }
    };
    assert!(
        stored > 5 && error.contains("maximum bytes exceeded"),
        "{stored} were stored: {error}"
    );
    let full = inbox
        .append(&key(stored), DIGEST, None, large.clone())
        .await
        .unwrap_err();
    assert_eq!(full.kind(), LedgerErrorKind::CannotWrite);
    // Refused as too large, instead of being sent to a server that would close the connection.
    let error = inbox
        .append(&key(1000), DIGEST, None, vec![b' '; 2_000_000].into())
        .await
        .unwrap_err();
    assert!(chain(&error).contains("limit"), "{}", chain(&error));
    assert_eq!(error.kind(), LedgerErrorKind::Content);
    let mut done = work_off(&inbox).await;
    done.sort_unstable();
    assert_eq!(done, ids(0..stored));
    assert_eq!(append(&inbox, stored).await, Appended::Stored);
}

#[tokio::test]
async fn unsafe_streams_and_invalid_names_are_refused() {
    type Spoil = fn(&mut stream::Config, Duration);
    let server = NatsServer::shared().await;
    let jetstream = server.jetstream().await;
    let day = Duration::from_hours(24);
    let config = |name: &str| stream::Config {
        name: name.to_owned(),
        subjects: vec![format!("{name}.event.*")],
        retention: stream::RetentionPolicy::WorkQueue,
        discard: stream::DiscardPolicy::New,
        ..Default::default()
    };
    let spoilt: [(Spoil, &str); 6] = [
        (
            |config, _| config.retention = stream::RetentionPolicy::Limits,
            "workqueue",
        ),
        (|config, day| config.max_age = day, "max_age"),
        (
            |config, _| (config.max_messages, config.discard) = (9, stream::DiscardPolicy::Old),
            "discard",
        ),
        (
            |config, _| config.subjects = vec![format!("{}.else", config.name)],
            "other subjects",
        ),
        (|config, _| config.no_ack = true, "no_ack"),
        (
            |config, _| config.storage = stream::StorageType::Memory,
            "in memory",
        ),
    ];
    for (spoil, why) in spoilt {
        let name = fresh_name();
        let mut config = config(&name);
        spoil(&mut config, day);
        jetstream.create_stream(config).await.unwrap();
        let error = chain(
            &options(&name)
                .open(jetstream.clone(), Memory::new())
                .await
                .unwrap_err(),
        );
        assert!(
            error.contains("cannot be used") && error.contains(why),
            "{error}"
        );
    }
    // An operator's own stream with other limits is accepted.
    let name = fresh_name();
    jetstream
        .create_stream(stream::Config {
            max_bytes: 1 << 20,
            ..config(&name)
        })
        .await
        .unwrap();
    append(
        &options(&name)
            .open(jetstream.clone(), Memory::new())
            .await
            .unwrap(),
        0,
    )
    .await;

    for bad in ["", "a.b", "a b", "a*", "über", &"x".repeat(101)] {
        let error = chain(
            &options("ok")
                .stream(bad)
                .open(jetstream.clone(), Memory::new())
                .await
                .unwrap_err(),
        );
        assert!(error.contains("cannot be used as a stream"), "{error}");
    }
    for bad in ["", ".", "a.", "a..b", "a b", "a*", ">", "$JS"] {
        let error = chain(
            &options("ok")
                .subjects(bad)
                .open(jetstream.clone(), Memory::new())
                .await
                .unwrap_err(),
        );
        assert!(
            error.contains("cannot be used as a prefix of subjects"),
            "{error}"
        );
    }
    let error = options("ok")
        .ack_wait(Duration::from_millis(10))
        .open(jetstream, Memory::new())
        .await
        .unwrap_err();
    assert!(chain(&error).contains("ack_wait"));
}

#[tokio::test]
async fn what_cannot_be_opened_is_told_without_the_password() {
    // Port 1 has no listener.
    for url in [
        "nats://me:hunter2@127.0.0.1:1",
        "nats://me:hunter2@127.0.0.1:99999999",
        "hunter2@",
    ] {
        let options = Nats::options().timeout(Duration::from_secs(1));
        let error = options.connect(url, Memory::new()).await.unwrap_err();
        assert!(
            !format!("{} {error:?}", chain(&error)).contains("hunter2"),
            "{error:?}"
        );
    }
    let inbox = options(&fresh_name())
        .connect(&NatsServer::shared().await.url(), Memory::new())
        .await
        .unwrap();
    assert!(!format!("{inbox:?}").contains("127.0.0.1"), "{inbox:?}");
}

#[tokio::test]
async fn an_event_too_large_for_the_stream_is_refused_as_content() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let config = stream::Config {
        name: name.clone(),
        subjects: vec![format!("{name}.event.*")],
        retention: stream::RetentionPolicy::WorkQueue,
        max_message_size: 5000,
        ..Default::default()
    };
    server
        .jetstream()
        .await
        .create_stream(config)
        .await
        .unwrap();
    let inbox = options(&name)
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    let error = inbox
        .append(&key(0), DIGEST, None, vec![b' '; 6000].into())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), LedgerErrorKind::Content, "{}", chain(&error));
    append(&inbox, 1).await;

    // The stream of dead letters has no such limit, but the server has one.
    let receiver = receiver(&inbox);
    for (bytes, answer, kept) in [(6_000, 200, 1), (1_020_000, 200, 2), (1_048_000, 400, 2)] {
        let event = Fixture::of::<UserCreated>()
            .id(format!("large {bytes}"))
            .data(json!({"id": "usr_1", "metadata": {"filler": "x".repeat(bytes)}}));
        assert_eq!(deliver(&receiver, &event).await, answer, "{bytes}");
        let letters = inbox.dead_letters("users", None, 10).await.unwrap();
        assert_eq!(letters.len(), kept, "{bytes}");
    }
}

#[tokio::test]
async fn the_credentials_of_the_url_are_passed_on_and_wrong_ones_are_named() {
    let server = NatsServer::start_with(
        "authorization { user: \"we@b\", password: \"p/w%hunter2\" }",
        Some(("we@b", "p/w%hunter2")),
    )
    .await;
    let at = server.address();
    let right = format!("nats://we%40b:p%2Fw%25hunter2@{at}");
    append(
        &options("one").connect(&right, Memory::new()).await.unwrap(),
        0,
    )
    .await;
    let tokens = NatsServer::start_without_jetstream("authorization { token: hunter2 }").await;
    let with_token = tokens.address();
    let wrong = [
        (
            format!("nats://we%40b:hunter2@{at}"),
            format!("could not log in to NATS at {at}"),
        ),
        (
            format!("nats://{at}"),
            format!("could not log in to NATS at {at}"),
        ),
        (
            format!("nats://not-hunter2@{with_token}"),
            format!("could not log in to NATS at {with_token}"),
        ),
        // The token is right, but JetStream is not available.
        (
            format!("nats://hunter2@{with_token}"),
            "requested JetStream resource does not exist".to_owned(),
        ),
        (
            "nats://we%40b:hunter2@127.0.0.1:1".to_owned(),
            "could not connect to NATS at 127.0.0.1:1".to_owned(),
        ),
        (
            "nats://a:hunter2@host.invalid:7000".to_owned(),
            "could not connect to NATS at host.invalid:7000".to_owned(),
        ),
    ];
    for (url, expected) in wrong {
        let options = options("two").timeout(Duration::from_secs(2));
        let error = options.connect(&url, Memory::new()).await.unwrap_err();
        assert!(
            chain(&error).contains(&expected),
            "{url}: {}",
            chain(&error)
        );
        assert!(
            !format!("{} {error:?}", chain(&error)).contains("hunter2"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_login_that_the_server_refuses_for_a_while_succeeds_later() {
    let config = |password: &str| format!("authorization {{ user: app, password: {password} }}");
    let mut server = NatsServer::start_with(&config("right"), Some(("app", "right"))).await;
    let url = format!("nats://app:right@{}", server.address());
    let inbox = options("t")
        .timeout(Duration::from_secs(1))
        .connect(&url, Memory::new())
        .await
        .unwrap();
    append(&inbox, 0).await;
    for password in ["rotated", "right"] {
        server.stop();
        server.configure(&config(password), Some(("app", password)));
        server.start_again().await;
        if password == "rotated" {
            assert!(inbox.append(&key(1), DIGEST, None, body(1)).await.is_err());
        }
    }
    let again = || async { inbox.append(&key(1), DIGEST, None, body(1)).await.ok() };
    until(|| "the inbox does not recover".to_owned(), again).await;
    assert_eq!(work_off(&inbox).await, ids(0..2));
}

#[tokio::test]
async fn a_right_that_the_user_lacks_is_named_at_open_or_by_the_step() {
    let config = r#"authorization { users = [
        { user: admin, password: admin }
        { user: mute, password: mute, permissions: { publish: { deny: ["t.event.>"] } } }
        { user: deaf, password: deaf, permissions: { publish: { deny: ["$JS.API.CONSUMER.>"] } } }
    ] }"#;
    let server = NatsServer::start_with(config, Some(("admin", "admin"))).await;
    let open = async |user: &str| {
        let url = format!("nats://{user}:{user}@{}", server.address());
        options("t")
            .timeout(Duration::from_secs(2))
            .connect(&url, Memory::new())
            .await
    };
    open("admin").await.unwrap();
    let denied = [
        (open("deaf").await.unwrap_err(), "CONSUMER.CREATE"),
        (
            open("mute")
                .await
                .unwrap()
                .append(&key(0), DIGEST, None, body(0))
                .await
                .unwrap_err(),
            "t.event.users",
        ),
    ];
    for (error, subject) in denied {
        assert_eq!(error.kind(), LedgerErrorKind::CannotWrite);
        let said = chain(&error).to_lowercase();
        assert!(
            said.contains("permissions violation") && said.contains(&subject.to_lowercase()),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_connection_to_a_server_without_jetstream_is_given_up() {
    let (server, other) = (
        NatsServer::start().await,
        NatsServer::start_without_jetstream("").await,
    );
    let address = Forwarder::to(server.address()).await;
    let options = options("t").timeout(Duration::from_secs(2));
    let inbox = options
        .connect(&format!("nats://{}", address.address()), Memory::new())
        .await
        .unwrap();
    append(&inbox, 0).await;
    address.switch(other.address());
    address.cut();
    let refused = || async {
        let error = inbox.append(&key(1), DIGEST, None, body(1)).await.err()?;
        (error.kind() == LedgerErrorKind::CannotWrite).then_some(())
    };
    until(|| "the other server is not asked".to_owned(), refused).await;
    // The other server still runs, and switching the address closes no connection: the inbox must
    // give up its connection itself.
    address.switch(server.address());
    let back = || async { inbox.append(&key(1), DIGEST, None, body(1)).await.ok() };
    until(|| "the inbox does not recover".to_owned(), back).await;
    assert_eq!(work_off(&inbox).await, ids(0..2));
}

#[tokio::test]
async fn a_connection_to_a_server_that_hangs_is_given_up() {
    let server = NatsServer::start().await;
    let address = Forwarder::to(server.address()).await;
    let options = options("t").timeout(Duration::from_secs(1));
    let inbox = options
        .connect(&format!("nats://{}", address.address()), Memory::new())
        .await
        .unwrap();
    let paused = server.pause();
    address.has_made(2).await;
    drop(paused);
    let again = || async { inbox.append(&key(0), DIGEST, None, body(0)).await.ok() };
    until(|| "the inbox does not recover".to_owned(), again).await;
}

/// A memory ledger that fails to claim one event, or all.
#[derive(Clone, Default)]
struct Refusing {
    ledger: Memory,
    /// For all events.
    down: Arc<AtomicBool>,
    /// For one event, with this kind of error.
    refuses: Option<(EventKey, LedgerErrorKind)>,
    /// How many claims of the first event it has failed.
    failed: Arc<AtomicI64>,
}

impl Ledger for Refusing {
    async fn claim(
        &self,
        asked: &EventKey,
        digest: Digest,
        lease: Duration,
    ) -> Result<Claim, LedgerError> {
        let refused = self
            .refuses
            .as_ref()
            .filter(|(refused, _)| refused == asked)
            .map(|(_, kind)| *kind);
        let kind = refused.or_else(|| {
            self.down
                .load(Ordering::SeqCst)
                .then_some(LedgerErrorKind::Unreachable)
        });
        let Some(kind) = kind else {
            return self.ledger.claim(asked, digest, lease).await;
        };
        if *asked == key(0) {
            self.failed.fetch_add(1, Ordering::SeqCst);
        }
        Err(LedgerError::new("claim", "it does not like this one").with_kind(kind))
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
        false
    }

    fn retention(&self) -> Duration {
        Ledger::retention(&self.ledger)
    }
}

#[tokio::test]
async fn an_event_refused_by_the_ledger_becomes_a_dead_letter_and_blocks_none() {
    for kind in [LedgerErrorKind::Content, LedgerErrorKind::Unreachable] {
        let (server, name) = (NatsServer::shared().await, fresh_name());
        let ledger = Refusing {
            refuses: Some((key(0), kind)),
            ..Refusing::default()
        };
        let inbox = options(&name)
            .connect(&server.url(), ledger.clone())
            .await
            .unwrap();
        for n in 0..30 {
            append(&inbox, n).await;
        }
        let mut done = Vec::new();
        while done.len() < 29 {
            let event = leased(&inbox, LEASE).await;
            handled(&inbox, &event).await;
            done.push(event.key.event_id().to_owned());
        }
        done.sort_unstable();
        assert_eq!(
            done,
            ids(1..30),
            "the others were not handled while it waited"
        );
        assert!(work_off(&inbox).await.is_empty());
        let letters = inbox.dead_letters("users", None, 10).await.unwrap();
        assert_eq!(
            (letters.len(), &letters[0].key, &letters[0].body),
            (1, &key(0), &body(0))
        );
        assert!(
            letters[0].reason.contains("it does not like this one"),
            "{}",
            letters[0].reason
        );
        let failed = ledger.failed.load(Ordering::SeqCst);
        assert_eq!(
            failed,
            if kind == LedgerErrorKind::Content {
                1
            } else {
                6
            },
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn while_the_ledger_is_down_no_event_becomes_a_dead_letter() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let ledger = Refusing {
        down: Arc::new(AtomicBool::new(true)),
        ..Refusing::default()
    };
    let inbox = options(&name)
        .connect(&server.url(), ledger.clone())
        .await
        .unwrap();
    append(&inbox, 0).await;
    append(&inbox, 1).await;
    // Each time the ledger fails to claim an event, its message returns to the stream with a longer
    // delay.
    let tried_often = || async {
        assert!(!matches!(
            inbox.lease_next("users", LEASE).await,
            Ok(NextEvent::Leased(_))
        ));
        (ledger.failed.load(Ordering::SeqCst) > 5).then_some(())
    };
    until(|| "it is not tried again".to_owned(), tried_often).await;
    ledger.down.store(false, Ordering::SeqCst);
    let mut done = work_off(&inbox).await;
    done.sort_unstable();
    assert_eq!(done, ids(0..2));
    assert!(
        inbox
            .dead_letters("users", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

fn receiver(inbox: &(impl Inbox + Clone)) -> Receiver {
    Receiver::inbox("users", verifier(), inbox.clone())
        .build()
        .unwrap()
}

/// With short pauses, so that tests are fast.
fn start(worker: WorkerBuilder) -> Running {
    let worker = worker
        .backoff(Duration::from_millis(5), Duration::from_millis(20))
        .build()
        .unwrap();
    Running::start(&worker)
}

async fn until_empty(inbox: &impl Inbox) {
    let empty = || async { (depth(inbox).await == 0).then_some(()) };
    until(|| "the backlog was not worked off".to_owned(), empty).await;
}

type Tries = Mutex<BTreeMap<String, Vec<u32>>>;

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_handle_each_event_once_with_retries_and_dead_letters() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let folder = std::env::temp_dir().join(format!("authpi-it-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut processes = Vec::new();
    for _ in 0..3 {
        let ledger = Sqlite::open(folder.join("ledger.db")).await.unwrap();
        processes.push(options(&name).connect(&server.url(), ledger).await.unwrap());
    }
    let tries: Arc<Tries> = Arc::default();
    let handlers = || {
        Handlers::new(Arc::clone(&tries))
            .on(async |event: Event<UserCreated>, cx: Context<Arc<Tries>>| {
                cx.state()
                    .lock()
                    .unwrap()
                    .entry(event.id().to_owned())
                    .or_default()
                    .push(cx.attempt());
                if cx.attempt() < 3 {
                    Err(HandlerError::retryable("not yet"))
                } else {
                    Ok(())
                }
            })
            .on(async |event: Event<UserUpdated>, cx: Context<Arc<Tries>>| {
                cx.state()
                    .lock()
                    .unwrap()
                    .entry(event.id().to_owned())
                    .or_default()
                    .push(cx.attempt());
                "x".parse::<u8>().map(drop).terminal()
            })
    };
    let worker = |inbox: &Nats<Sqlite>| start(Worker::builder("users", inbox.clone(), handlers()));
    let running: Vec<_> = processes[1..].iter().map(worker).collect();
    let receiver = receiver(&processes[0]);
    for n in 0..20 {
        let created = Fixture::of::<UserCreated>().id(format!("created-{n:02}"));
        for event in [
            created,
            Fixture::of::<SessionCreated>().id(format!("unhandled-{n}")),
        ] {
            assert_eq!(deliver(&receiver, &event).await, 200);
            assert_eq!(deliver(&receiver, &event).await, 200);
        }
    }
    assert_eq!(
        deliver(&receiver, &Fixture::of::<UserUpdated>().id("updated")).await,
        200
    );
    until_empty(&processes[0]).await;
    let mut expected: BTreeMap<_, _> = (0..20)
        .map(|n| (format!("created-{n:02}"), vec![1, 2, 3]))
        .collect();
    expected.insert("updated".into(), vec![1]);
    assert_eq!(*tries.lock().unwrap(), expected);

    let letters = processes[0].dead_letters("users", None, 10).await.unwrap();
    assert_eq!(
        (
            letters.len(),
            letters[0].key.event_id(),
            letters[0].attempts
        ),
        (1, "updated", 1)
    );
    assert_eq!(letters[0].reason, "invalid digit found in string");
    assert!(processes[0].replay(&letters[0].key).await.unwrap());
    until_empty(&processes[0]).await;
    assert_eq!(tries.lock().unwrap()["updated"], [1, 1]);
    for worker in running {
        worker.stop().await;
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_delivery_wakes_the_workers_of_other_processes() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let ledger = Arc::new(Memory::new());
    let here = options(&name)
        .connect(&server.url(), Arc::clone(&ledger))
        .await
        .unwrap();
    let there = options(&name).connect(&server.url(), ledger).await.unwrap();
    let (seen, mut handled) = mpsc::unbounded_channel();
    let handlers = Handlers::new(seen).on(
        async |event: Event<UserCreated>, cx: Context<mpsc::UnboundedSender<_>>| {
            cx.state().send(event.id().to_owned())?;
            Ok(())
        },
    );
    // No poll is due for ten minutes.
    let running =
        start(Worker::builder("users", there, handlers).poll_interval(Duration::from_mins(10)));
    let receiver = receiver(&here);
    for id in ["one", "two", "three"] {
        assert_eq!(
            deliver(&receiver, &Fixture::of::<UserCreated>().id(id)).await,
            200
        );
        let next = tokio::time::timeout(DEADLINE, handled.recv()).await;
        assert_eq!(next.expect("no worker was notified").unwrap(), id);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handlers_postgres_writes_commit_once_with_the_streams_event() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let (store, prefix) = (PostgresServer::shared().await, postgres::fresh_prefix());
    let mut other = store.connection().await.unwrap();
    let made = AssertSqlSafe(format!("CREATE TABLE {prefix}effects (id text)"));
    sqlx::raw_sql(made).execute(&mut other).await.unwrap();
    let mut processes = Vec::new();
    for _ in 0..2 {
        let ledger = Postgres::options()
            .prefix(&prefix)
            .connect(&store.url())
            .await
            .unwrap();
        processes.push(options(&name).connect(&server.url(), ledger).await.unwrap());
    }
    let worker = |inbox: &Nats<Postgres>| {
        let handlers = Handlers::new(prefix.clone()).on_tx(
            async |event: Event<UserCreated>, cx: Context<String>, mut tx: Tx<Nats<Postgres>>| {
                let sql = AssertSqlSafe(format!("INSERT INTO {}effects VALUES ($1)", *cx.state()));
                sqlx::query(sql)
                    .bind(event.id().to_owned())
                    .execute(&mut *tx)
                    .await?;
                // The first attempt's writes are rolled back.
                if cx.attempt() == 1 {
                    Err(HandlerError::retryable("not yet"))
                } else {
                    Ok(())
                }
            },
        );
        start(Worker::builder("users", inbox.clone(), handlers))
    };
    let running: Vec<_> = processes.iter().map(worker).collect();
    let receiver = receiver(&processes[0]);
    for n in 0..30 {
        assert_eq!(
            deliver(
                &receiver,
                &Fixture::of::<UserCreated>().id(format!("{n:02}"))
            )
            .await,
            200
        );
    }
    until_empty(&processes[1]).await;
    for worker in running {
        worker.stop().await;
    }
    let reported = AssertSqlSafe(format!("SELECT id FROM {prefix}effects ORDER BY id"));
    let effects: Vec<String> = sqlx::query_scalar(reported)
        .fetch_all(&mut other)
        .await
        .unwrap();
    assert_eq!(
        effects,
        (0..30).map(|n| format!("{n:02}")).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_lease_that_is_dropped_in_response_leaves_the_event_to_be_leased() {
    let (server, name) = (NatsServer::shared().await, fresh_name());
    let inbox = options(&name)
        .connect(&server.url(), Memory::new())
        .await
        .unwrap();
    for n in 0..10 {
        append(&inbox, n).await;
    }
    for polls in 0..30 {
        let mut leasing = Box::pin(inbox.lease_next("users", ACK_WAIT));
        for _ in 0..polls {
            let ready =
                poll_fn(|cx| std::task::Poll::Ready(leasing.as_mut().poll(cx).is_ready())).await;
            if ready {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let mut done = work_off(&inbox).await;
    done.sort_unstable();
    assert_eq!(done, ids(0..10));
}
