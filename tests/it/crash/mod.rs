//! Crash tests: an event takes effect once, and no acknowledged event is lost.
//!
//! A service (`tests/service`) runs as several real processes on one store. Deliveries are sent as
//! AuthPI sends them: signed, over HTTP, several per event, repeated until the response is exactly
//! 200. Meanwhile the processes are killed with SIGKILL and replaced, at each crash point that the
//! SDK defines and at random times, including start-up. Everything that happens is written, in
//! order, to one journal ([`authpi_tests::harness`]). [`check`](checker::check) reads it
//! afterwards.
//!
//! Each trial has a seed, which is printed. `AUTHPI_CRASH_SEED` sets it, `AUTHPI_CRASH_KILLS` the
//! number of processes to kill on each store, and `AUTHPI_RACE_EVENTS` the number of events that
//! several processes race for; `cargo xtask soak` sets all three.
//!
//! The seed determines which events are sent, their number and order, and which process dies when.
//! It does not determine which of two processes is faster, so a failure may need several runs of
//! its seed to recur.

mod checker;
mod faults;
mod kill;
mod nats;
mod postgres;
mod processes;
mod proxy;
mod race;
mod redis;
mod send;
mod sqlite;

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use authpi_sdk::ledger::Inbox;
use authpi_tests::harness::{ENDPOINT, EventId, Journal, Mode, Role, Setup, Store};
use jiff::Timestamp;
use tokio::sync::watch;

use self::checker::{Rules, Stored, Verdict, check};
use crate::servers::{DEADLINE, until};

/// The default number of processes to kill on each store, for all its trials.
const KILLS: u32 = 50;
/// The default number of events in a race. The soak has 20,000.
const RACED: u32 = 5_000;

/// More dead letters than any trial makes.
const ALL: u32 = 1_000_000;

fn kills() -> u32 {
    u32::try_from(number("AUTHPI_CRASH_KILLS").unwrap_or(KILLS.into())).expect("it is small")
}

fn raced() -> u32 {
    u32::try_from(number("AUTHPI_RACE_EVENTS").unwrap_or(RACED.into())).expect("it is small")
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")),
    )
}

/// The setup of one test, removed with it.
pub(crate) struct Trial {
    pub(crate) name: &'static str,
    seed: u64,
    folder: PathBuf,
    journal: Journal,
    store: Store,
    /// The store's address for the service, if it differs from ours.
    reached_by: Option<Store>,
    mode: Mode,
    lease: Duration,
    /// The service's store timeout.
    timeout: Duration,
    handling: Duration,
    failing: u32,
    processes: AtomicU32,
    /// The number of acknowledged deliveries, and of requests that got 503.
    sent: AtomicU64,
    refused: AtomicU64,
    /// The present port of each receiver; none while it is dead.
    ports: Mutex<Vec<Option<u16>>>,
    /// The number of processes that have become ready so far.
    ready: watch::Sender<usize>,
    /// The time of all events, so that all deliveries of an event are the same.
    began: Timestamp,
    client: reqwest::Client,
    /// Set at the end of a trial without violations.
    passed: AtomicBool,
}

impl Trial {
    /// On a separate SQLite file, or on `store`.
    pub(crate) fn new(name: &'static str, mode: Mode, store: Option<Store>) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number_of_this = MADE.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!(
            "authpi-it-crash-{}-{number_of_this}",
            std::process::id()
        ));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let seed = number("AUTHPI_CRASH_SEED").unwrap_or_else(|| fastrand::u64(0..1_000_000));
        println!("{name}: seed {seed}, journal in {}", folder.display());
        // Reqwest may have been built to require a crypto provider, even for a client that never
        // uses TLS.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            name,
            seed,
            journal: Journal::open(&folder.join("journal")).expect("a journal can be made"),
            store: store.unwrap_or_else(|| Store::Sqlite(folder.join("hooks.db"))),
            reached_by: None,
            mode,
            lease: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            handling: Duration::from_millis(20),
            failing: 30,
            processes: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            ports: Mutex::default(),
            ready: watch::Sender::default(),
            began: Timestamp::now(),
            client: reqwest::Client::new(),
            passed: AtomicBool::new(false),
            folder,
        }
    }

    /// Random numbers for one part of the trial, the same in each run with the same seed.
    fn dice(&self, part: &str) -> fastrand::Rng {
        let salt = part.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        fastrand::Rng::with_seed(self.seed ^ salt)
    }

    fn setup(&self, role: Role, death: Option<(String, u32)>) -> Setup {
        let process = self.processes.fetch_add(1, Ordering::Relaxed);
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).expect("it is short");
        Setup {
            process,
            store: self.reached_by.as_ref().unwrap_or(&self.store).clone(),
            mode: self.mode,
            role,
            journal: self.journal_file(),
            lease: millis(self.lease),
            timeout: millis(self.timeout),
            handling: millis(self.handling),
            failing: self.failing,
            seed: self.dice(&format!("process {process}")).u64(..),
            death,
        }
    }

    /// The command that repeats this store's trials, including this one.
    fn again(&self) -> String {
        let store = match &self.store {
            Store::Sqlite(_) => "sqlite",
            Store::Postgres(..) => "postgres",
            Store::Redis(..) => "redis",
            Store::Nats(..) => "nats",
        };
        format!(
            "cargo xtask soak --store {store} --seed {} --kills {} --events {}",
            self.seed,
            kills(),
            raced()
        )
    }

    fn journal_file(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// The output of a process.
    pub(crate) fn log(&self, process: u32) -> PathBuf {
        self.folder.join(format!("log-{process}"))
    }

    /// Creates the table for effects that are rows.
    async fn prepare(&self) {
        match &self.store {
            _ if !self.mode.in_transaction() => {}
            Store::Sqlite(file) => sqlite::prepare(file).await,
            Store::Postgres(url, prefix) => postgres::prepare(url, prefix).await,
            Store::Nats(_, _, ledger) => match &**ledger {
                Store::Postgres(url, prefix) => postgres::prepare(url, prefix).await,
                other => unreachable!("no trial has the ledger {other:?}"),
            },
            Store::Redis(..) => unreachable!("it has no transactions"),
        }
    }

    /// The result so far.
    async fn verdict(&self) -> Verdict {
        let rules = Rules {
            mode: self.mode,
            store: &self.store,
        };
        let stored = Stored {
            rows: self.rows().await,
            dead_letters: self.dead_letters().await,
        };
        check(rules, &Journal::read(&self.journal_file()), &stored)
    }

    /// The effects that are rows, in order.
    async fn rows(&self) -> Vec<EventId> {
        match &self.store {
            _ if !self.mode.in_transaction() => Vec::new(),
            Store::Sqlite(file) => sqlite::rows(file).await,
            Store::Postgres(url, prefix) => postgres::rows(url, prefix).await,
            Store::Nats(_, _, ledger) => match &**ledger {
                Store::Postgres(url, prefix) => postgres::rows(url, prefix).await,
                other => unreachable!("no trial has the ledger {other:?}"),
            },
            Store::Redis(..) => unreachable!("it has no transactions"),
        }
    }

    /// The dead letters in the store, as a user would list them.
    async fn dead_letters(&self) -> Vec<EventId> {
        let letters = match &self.store {
            Store::Sqlite(file) => {
                sqlite::store(file)
                    .await
                    .dead_letters(ENDPOINT, None, ALL)
                    .await
            }
            Store::Postgres(url, prefix) => {
                postgres::store(url, prefix)
                    .await
                    .dead_letters(ENDPOINT, None, ALL)
                    .await
            }
            Store::Nats(url, name, _) => {
                nats::store(url, name)
                    .await
                    .dead_letters(ENDPOINT, None, ALL)
                    .await
            }
            Store::Redis(..) => Ok(Vec::new()),
        };
        let letters = letters.expect("the store lists its dead letters");
        letters
            .iter()
            .map(|letter| {
                letter
                    .key
                    .event_id()
                    .parse()
                    .expect("they are events of ours")
            })
            .collect()
    }

    /// Waits until the inbox is empty, if there is one.
    async fn until_done(&self) {
        if self.mode.is_inline() {
            return;
        }
        match &self.store {
            Store::Sqlite(file) => self.until_empty(&sqlite::store(file).await).await,
            Store::Postgres(url, prefix) => {
                self.until_empty(&postgres::store(url, prefix).await).await;
            }
            Store::Nats(url, name, _) => self.until_empty(&nats::store(url, name).await).await,
            Store::Redis(..) => unreachable!("it is not an inbox"),
        }
    }

    async fn until_empty(&self, inbox: &impl Inbox) {
        let otherwise = || format!("{}: after {DEADLINE:?} the inbox is not empty", self.name);
        until(otherwise, || async {
            let depth = inbox
                .backlog(ENDPOINT)
                .await
                .expect("the store answers")
                .depth;
            (depth == 0).then_some(())
        })
        .await;
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if self.passed.load(Ordering::Relaxed) {
            let _ = std::fs::remove_dir_all(&self.folder);
        } else {
            eprintln!(
                "{}: failed; everything is left in {}",
                self.name,
                self.folder.display()
            );
            eprintln!("{}: to try it again: {}", self.name, self.again());
        }
    }
}

/// The program that is killed.
fn service() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_service"))
}
