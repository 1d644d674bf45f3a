//! The proof that an event takes effect once, and that nothing is lost that was acknowledged.
//!
//! A service (`tests/service`) runs as several real processes on one store. Deliveries are sent to
//! it as AuthPI sends them: signed, over HTTP, several of each event, again and again until the
//! answer is exactly 200. Meanwhile the processes are killed with SIGKILL, at each crash point that
//! the SDK names and at random moments, those of their start included, and others take their place.
//! Everything that happens is written, in order, into one journal ([`authpi_tests::harness`]), and
//! [`judge`] reads it afterwards.
//!
//! Each trial is made from a seed, which is told. `AUTHPI_CRASH_SEED` sets it, `AUTHPI_CRASH_KILLS`
//! how many processes are killed on each store, and `AUTHPI_RACE_EVENTS` how many events several
//! processes race for; `cargo xtask soak` sets all three.
//!
//! What a seed decides is which events are sent in which number and order, and who is killed when.
//! Which of two processes is the faster, it does not; a failure may take several runs of its seed
//! to come back.

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

use self::checker::{Laws, Stored, Verdict, judge};
use crate::servers::{DEADLINE, until};

/// How many processes are killed on each store, all its trials together, unless set.
const KILLS: u32 = 50;
/// How many events are raced for, unless set. The soak has 20,000.
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
            .unwrap_or_else(|_| panic!("{variable} is {text:?}, which is no number")),
    )
}

/// What is set up for one test, and taken down with it.
pub(crate) struct Trial {
    pub(crate) name: &'static str,
    seed: u64,
    folder: PathBuf,
    journal: Journal,
    store: Store,
    /// The store's address that the service is given, if it is another than ours.
    reached_by: Option<Store>,
    mode: Mode,
    lease: Duration,
    /// How long the service waits for its store.
    timeout: Duration,
    handling: Duration,
    failing: u32,
    processes: AtomicU32,
    /// How many deliveries were acknowledged, and how many tries were answered 503.
    sent: AtomicU64,
    refused: AtomicU64,
    /// The ports that are served at present, one for each receiver or none while it is dead.
    ports: Mutex<Vec<Option<u16>>>,
    /// How many processes have become ready so far.
    ready: watch::Sender<usize>,
    /// When all events happened: each delivery of one is the same.
    began: Timestamp,
    client: reqwest::Client,
    /// Set at the end of a trial that found nothing wrong.
    passed: AtomicBool,
}

impl Trial {
    /// On an SQLite file of its own, or on what `store` gives.
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
        // Reqwest may have been built to ask for one, whether there is TLS or not.
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

    /// Dice for one part of the trial, the same in each run with the same seed.
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

    /// What runs the trials of this store again, this one among them.
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

    /// What a process had to say.
    pub(crate) fn log(&self, process: u32) -> PathBuf {
        self.folder.join(format!("log-{process}"))
    }

    /// Makes the table for effects that are rows, where they are.
    async fn prepare(&self) {
        match &self.store {
            _ if !self.mode.in_transaction() => {}
            Store::Sqlite(file) => sqlite::prepare(file).await,
            Store::Postgres(url, prefix) => postgres::prepare(url, prefix).await,
            Store::Nats(_, _, ledger) => match &**ledger {
                Store::Postgres(url, prefix) => postgres::prepare(url, prefix).await,
                other => unreachable!("{other:?} is no ledger of a trial's"),
            },
            Store::Redis(..) => unreachable!("it has no transactions"),
        }
    }

    /// What is to be said of it so far.
    async fn verdict(&self) -> Verdict {
        let laws = Laws {
            mode: self.mode,
            store: &self.store,
        };
        let stored = Stored {
            rows: self.rows().await,
            dead_letters: self.dead_letters().await,
        };
        judge(laws, &Journal::read(&self.journal_file()), &stored)
    }

    /// The effects that are rows, in the order in which they took place.
    async fn rows(&self) -> Vec<EventId> {
        match &self.store {
            _ if !self.mode.in_transaction() => Vec::new(),
            Store::Sqlite(file) => sqlite::rows(file).await,
            Store::Postgres(url, prefix) => postgres::rows(url, prefix).await,
            Store::Nats(_, _, ledger) => match &**ledger {
                Store::Postgres(url, prefix) => postgres::rows(url, prefix).await,
                other => unreachable!("{other:?} is no ledger of a trial's"),
            },
            Store::Redis(..) => unreachable!("it has no transactions"),
        }
    }

    /// The dead letters in the store, as a user lists them.
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
            Store::Redis(..) => unreachable!("it is no inbox"),
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
