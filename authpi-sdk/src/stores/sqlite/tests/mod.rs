use std::{
    error::Error as _,
    path::PathBuf,
    sync::atomic::{AtomicI64, AtomicU32},
};

use jiff::Timestamp;
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{steps::Records, *};
use crate::{
    Clock,
    ledger::{LeasedEvent, LedgerErrorKind, Transactional as _, conformance},
};

mod clock;
mod file;
mod groups;
mod inspect;
mod transactions;

const LEASE: Duration = Duration::from_secs(30);
const DIGEST: Digest = Digest::from_bytes([7; 16]);

/// A temporary folder for each test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static FOLDERS: AtomicU32 = AtomicU32::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("authpi-sqlite-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("hooks.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A clock that moves only when set.
fn clock_at_rest() -> (Clock, Arc<AtomicI64>) {
    let millis = Arc::new(AtomicI64::new(1_700_000_000_000));
    let reported = millis.clone();
    (
        Clock::from_fn(move || {
            Timestamp::from_millisecond(reported.load(Ordering::Relaxed)).unwrap()
        }),
        millis,
    )
}

fn key(n: usize) -> EventKey {
    EventKey::new("users", format!("evt_{n}"))
}

async fn granted(ledger: &Sqlite, n: usize) -> Token {
    match ledger.claim(&key(n), DIGEST, LEASE).await.unwrap() {
        Claim::Granted { token, .. } => token,
        other => panic!("the claim of event {n} ended as {other:?}"),
    }
}

fn dead(reason: &str, body: &'static [u8]) -> Completion {
    Completion::Dead {
        reason: reason.into(),
        body: Bytes::from_static(body),
    }
}

async fn count(ledger: &Path) -> i64 {
    let mut other = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(ledger))
        .await
        .unwrap();
    let row = sqlx::query("SELECT count(*) FROM authpi_ledger")
        .fetch_one(&mut other)
        .await
        .unwrap();
    row.get(0)
}

/// An operation of the test.
struct Sql(&'static str);

impl Step for Sql {
    type Answer = ();

    async fn run(&self, records: &mut Records) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(self.0)
            .execute(&mut records.connection)
            .await
            .map(drop)
    }
}

/// Holds the connection until all of `asks` have sent their request, so that they form one group;
/// returns the results in order.
///
/// Only on a single-threaded runtime, which polls each of them once before it returns here.
async fn at_once<T: Send + 'static>(
    ledger: &Sqlite,
    asks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let held = ledger.begin().await.unwrap();
    let asking: Vec<_> = asks.into_iter().map(tokio::spawn).collect();
    tokio::task::yield_now().await;
    drop(held);
    let mut reported = Vec::new();
    for asked in asking {
        reported.push(asked.await.unwrap());
    }
    reported
}

async fn run(ledger: &Sqlite, sql: &'static str) -> Result<(), LedgerError> {
    ledger.ask("run the test's own statement", Sql(sql)).await
}

/// All errors in the chain, as a log would show them.
fn chain(error: &LedgerError) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.fold(error.to_string(), |text, cause| {
        text + ": " + &cause.to_string()
    })
}

struct Databases {
    folder: Option<Folder>,
    made: AtomicU32,
    clock: Clock,
    time: Arc<AtomicI64>,
}

impl Databases {
    fn new(folder: Option<Folder>) -> Self {
        let (clock, time) = clock_at_rest();
        Self {
            folder,
            made: AtomicU32::new(0),
            clock,
            time,
        }
    }
}

impl conformance::Harness for Databases {
    type Ledger = Sqlite;

    async fn fresh(&self) -> Sqlite {
        let options = Sqlite::options().clock(self.clock.clone());
        match &self.folder {
            Some(folder) => {
                let number = self.made.fetch_add(1, Ordering::Relaxed);
                options
                    .open(folder.0.join(format!("{number}.db")))
                    .await
                    .unwrap()
            }
            None => options.in_memory().await.unwrap(),
        }
    }

    async fn advance(&self, _: &Sqlite, by: Duration) {
        self.time
            .fetch_add(by.as_millis().try_into().unwrap(), Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_in_a_file() {
    conformance::run(&Databases::new(Some(Folder::new()))).await;
    conformance::inbox::run(&Databases::new(Some(Folder::new()))).await;
    conformance::ordering::run(&Databases::new(Some(Folder::new()))).await;
}

#[tokio::test]
async fn it_conforms_in_memory() {
    conformance::run(&Databases::new(None)).await;
    conformance::inbox::run(&Databases::new(None)).await;
    conformance::ordering::run(&Databases::new(None)).await;
}

#[tokio::test]
async fn records_leases_and_dead_letters_survive_reopening() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    let handled = granted(&ledger, 0).await;
    assert_eq!(
        ledger
            .complete(&key(0), handled, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    let claimed = granted(&ledger, 1).await;
    let given_up = granted(&ledger, 2).await;
    assert_eq!(
        ledger
            .complete(&key(2), given_up, dead("no such user", b"{\xff}"))
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    ledger.close().await;
    assert!(
        !folder.0.join("hooks.db-wal").exists(),
        "closing left the journal behind"
    );

    let ledger = Sqlite::open(folder.file()).await.unwrap();
    assert_eq!(
        ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(),
        Claim::Handled {
            first_digest: DIGEST
        }
    );
    assert!(matches!(
        ledger.claim(&key(1), DIGEST, LEASE).await.unwrap(),
        Claim::InFlight { .. }
    ));
    assert_eq!(
        ledger.renew(&key(1), claimed, LEASE).await.unwrap(),
        LeaseStatus::Held
    );
    assert_eq!(
        ledger.claim(&key(2), DIGEST, LEASE).await.unwrap(),
        Claim::Dead {
            first_digest: DIGEST
        }
    );
    let letters = ledger.dead_letters("users", None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].reason.as_str(), &letters[0].body[..]),
        ("no such user", &b"{\xff}"[..])
    );
}

#[tokio::test]
async fn dead_letters_tell_what_happened_and_come_in_pages() {
    let (clock, time) = clock_at_rest();
    let ledger = Sqlite::options().clock(clock).in_memory().await.unwrap();
    for n in 0..5 {
        let token = granted(&ledger, n).await;
        assert_eq!(
            ledger
                .release(&key(n), token, Duration::ZERO)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
    }
    time.fetch_add(1_000, Ordering::Relaxed);
    for n in 0..5 {
        // The letters 1, 2 and 3 are of the same millisecond, so that a page ends within it.
        time.fetch_add(i64::from(n == 1 || n == 4), Ordering::Relaxed);
        let token = granted(&ledger, n).await;
        assert_eq!(
            ledger
                .complete(&key(n), token, dead(&format!("reason {n}"), b"body"))
                .await
                .unwrap(),
            LeaseStatus::Held
        );
    }
    let all = ledger.dead_letters("users", None, 100).await.unwrap();
    assert_eq!(all.len(), 5);
    let letter = &all[0];
    assert_eq!(
        (
            letter.key.event_id(),
            letter.attempts,
            letter.reason.as_str()
        ),
        ("evt_0", 2, "reason 0")
    );
    assert_eq!(
        letter
            .died_at
            .duration_since(letter.first_claimed_at)
            .as_millis(),
        1_000
    );
    assert!(
        !format!("{letter:?}").contains("body:"),
        "a payload in Debug: {letter:?}"
    );

    let mut paged = ledger.dead_letters("users", None, 2).await.unwrap();
    loop {
        let page = ledger.dead_letters("users", paged.last(), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert!(
        ledger
            .dead_letters("other", None, 100)
            .await
            .unwrap()
            .is_empty(),
        "another endpoint's letter"
    );

    assert!(ledger.forget(&key(0)).await.unwrap());
    assert_eq!(
        ledger.dead_letters("users", None, 100).await.unwrap().len(),
        4
    );
    assert_eq!(granted(&ledger, 0).await.attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_handles_on_one_file_one_is_granted() {
    let folder = Folder::new();
    let ledgers = [
        Sqlite::open(folder.file()).await.unwrap(),
        Sqlite::open(folder.file()).await.unwrap(),
    ];
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let ledger = ledgers[worker % 2].clone();
        workers.spawn(async move {
            let mut won = Vec::new();
            for n in 0..50 {
                match ledger.claim(&key(n), DIGEST, LEASE).await.unwrap() {
                    Claim::Granted { token, .. } => {
                        let held = ledger
                            .complete(&key(n), token, Completion::Handled)
                            .await
                            .unwrap();
                        assert_eq!(held, LeaseStatus::Held);
                        won.push(n);
                    }
                    Claim::InFlight { .. } | Claim::Handled { .. } => {}
                    other => panic!("a raced claim ended as {other:?}"),
                }
            }
            won
        });
    }
    let mut won = workers.join_all().await.concat();
    won.sort_unstable();
    assert_eq!(won, (0..50).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_can_be_opened_by_many_at_once() {
    let folder = Folder::new();
    let mut opening = tokio::task::JoinSet::new();
    for n in 0..8 {
        let file = folder.file();
        opening.spawn(async move {
            let ledger = Sqlite::open(file).await.unwrap();
            granted(&ledger, n).await;
        });
    }
    opening.join_all().await;
    assert_eq!(count(&folder.file()).await, 8);
}

#[tokio::test]
async fn a_file_shared_with_other_tables_is_left_otherwise_alone() {
    let folder = Folder::new();
    let options = SqliteConnectOptions::new()
        .filename(folder.file())
        .create_if_missing(true);
    let mut own = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE users (id TEXT); INSERT INTO users VALUES ('u'); PRAGMA user_version = 42",
    )
    .execute(&mut own)
    .await
    .unwrap();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    granted(&ledger, 0).await;
    let row =
        sqlx::query("SELECT user_version, (SELECT count(*) FROM users) FROM pragma_user_version")
            .fetch_one(&mut own)
            .await
            .unwrap();
    assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (42, 1));
}

#[tokio::test]
async fn health_probes_prune_nothing_since_the_clock_may_be_wrong() {
    let (clock, time) = clock_at_rest();
    let ledger = Sqlite::options().clock(clock).in_memory().await.unwrap();
    let token = granted(&ledger, 0).await;
    assert_eq!(
        ledger
            .complete(&key(0), token, dead("reason", b"body"))
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    time.fetch_add(40 * 24 * 60 * 60 * 1000, Ordering::Relaxed);
    for _ in 0..100 {
        ledger.check_write().await.unwrap();
        ledger.check_append().await.unwrap();
    }
    assert_eq!(
        ledger.dead_letters("users", None, 10).await.unwrap().len(),
        1
    );
    assert_eq!(
        ledger.backlog("").await.unwrap().depth,
        0,
        "a probe left its record behind"
    );
}

#[tokio::test]
async fn claims_prune_what_is_past_its_retention_and_purge_does_at_once() {
    let folder = Folder::new();
    let (clock, time) = clock_at_rest();
    let ledger = Sqlite::options()
        .clock(clock)
        .retention(Duration::from_hours(24))
        .open(folder.file())
        .await
        .unwrap();
    let day = 24 * 60 * 60 * 1000;
    for n in 0..100 {
        let token = granted(&ledger, n).await;
        let completion = if n % 2 == 0 {
            Completion::Handled
        } else {
            dead("reason", b"body")
        };
        assert_eq!(
            ledger.complete(&key(n), token, completion).await.unwrap(),
            LeaseStatus::Held
        );
    }
    time.fetch_add(day, Ordering::Relaxed);
    let mut tokens = Vec::new();
    for n in 100..200 {
        tokens.push(granted(&ledger, n).await);
    }
    // Pruning happens after a claim's response; any later operation runs after it.
    assert!(!ledger.forget(&key(1000)).await.unwrap());
    assert_eq!(count(&folder.file()).await, 100);

    assert_eq!(
        ledger.purge(Duration::ZERO).await.unwrap(),
        0,
        "claimed records were purged"
    );
    for n in 100..150 {
        assert_eq!(
            ledger
                .complete(&key(n), tokens[n - 100], Completion::Handled)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
    }
    assert_eq!(ledger.purge(Duration::from_secs(1)).await.unwrap(), 0);
    time.fetch_add(1_000, Ordering::Relaxed);
    assert_eq!(ledger.purge(Duration::from_secs(1)).await.unwrap(), 50);
    assert_eq!(count(&folder.file()).await, 50);
}

#[tokio::test]
async fn more_than_one_portion_is_purged() {
    let ledger = Sqlite::in_memory().await.unwrap();
    for n in 0..600 {
        let token = granted(&ledger, n).await;
        assert_eq!(
            ledger
                .complete(&key(n), token, Completion::Handled)
                .await
                .unwrap(),
            LeaseStatus::Held
        );
    }
    assert_eq!(ledger.purge(Duration::ZERO).await.unwrap(), 600);
}

#[tokio::test]
async fn a_later_versions_file_is_refused_and_left_alone() {
    let folder = Folder::new();
    Sqlite::open(folder.file()).await.unwrap().close().await;
    let mut other =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.file()))
            .await
            .unwrap();
    sqlx::raw_sql("UPDATE authpi_schema SET version = 99")
        .execute(&mut other)
        .await
        .unwrap();
    let error = chain(&Sqlite::open(folder.file()).await.unwrap_err());
    assert!(error.contains("hooks.db has version 99"), "{error}");
    let row = sqlx::query("SELECT version FROM authpi_schema")
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert_eq!(row.get::<i64, _>(0), 99);
}

/// The number of this process's open files whose name begins with that of the folder.
#[cfg(target_os = "linux")]
fn open_files(folder: &Folder) -> usize {
    let file = folder.file();
    let parent = file.parent().unwrap();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter(|open| open.starts_with(parent))
        .count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn neither_a_failed_opening_nor_a_closed_ledger_leaves_a_file_open() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    assert_ne!(open_files(&folder), 0);
    ledger.close().await;
    assert_eq!(open_files(&folder), 0, "after closing");
    let mut other =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.file()))
            .await
            .unwrap();
    sqlx::raw_sql("UPDATE authpi_schema SET version = 99")
        .execute(&mut other)
        .await
        .unwrap();
    other.close().await.unwrap();
    for _ in 0..20 {
        Sqlite::open(folder.file()).await.unwrap_err();
        assert_eq!(open_files(&folder), 0, "after a failed opening");
    }
}

#[tokio::test]
async fn a_file_of_an_unreleased_version_is_refused_and_left_alone() {
    let folder = Folder::new();
    let mut old = SqliteConnection::connect_with(
        &SqliteConnectOptions::new()
            .filename(folder.file())
            .create_if_missing(true),
    )
    .await
    .unwrap();
    let tables = "
        CREATE TABLE authpi_ledger (endpoint TEXT NOT NULL, event_id TEXT NOT NULL, first_digest BLOB NOT NULL) STRICT;
        INSERT INTO authpi_ledger VALUES ('users', 'evt_0', zeroblob(32));
        CREATE TABLE authpi_schema (version INTEGER NOT NULL) STRICT";
    sqlx::raw_sql(tables).execute(&mut old).await.unwrap();
    for version in 1..=7_i64 {
        let note = "DELETE FROM authpi_schema; INSERT INTO authpi_schema VALUES ";
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("{note} ({version})")))
            .execute(&mut old)
            .await
            .unwrap();
        let error = chain(&Sqlite::open(folder.file()).await.unwrap_err());
        let reported = format!(
            "hooks.db has version {version} of the ledger's tables, made by an unreleased authpi-sdk"
        );
        assert!(
            error.contains(&reported) && error.contains("open another file"),
            "{error}"
        );
        let left =
            sqlx::query("SELECT version, length(first_digest) FROM authpi_schema, authpi_ledger");
        let left = left.fetch_one(&mut old).await.unwrap();
        assert_eq!(
            (left.get::<i64, _>(0), left.get::<i64, _>(1)),
            (version, 32)
        );
    }
}

#[tokio::test]
async fn an_unusable_file_is_named_in_the_error() {
    let folder = Folder::new();
    let missing = folder.0.join("no such folder").join("hooks.db");
    let error = chain(&Sqlite::open(&missing).await.unwrap_err());
    assert!(
        error.contains(&*missing.to_string_lossy()) && error.contains("does not exist"),
        "{error}"
    );

    std::fs::write(
        folder.file(),
        "not a database, but long enough to look like one".repeat(100),
    )
    .unwrap();
    let error = chain(&Sqlite::open(folder.file()).await.unwrap_err());
    assert!(
        error.contains("hooks.db") && error.contains("not a database"),
        "{error}"
    );

    let error = chain(&Sqlite::open(&folder.0).await.unwrap_err());
    assert!(error.contains("failed to open"), "{error}");
}

#[tokio::test]
async fn a_corrupted_file_fails_the_step_and_nothing_else() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    for n in 0..100 {
        granted(&ledger, n).await;
    }
    ledger.close().await;
    let mut bytes = std::fs::read(folder.file()).unwrap();
    bytes[4096..].fill(0xa5);
    std::fs::write(folder.file(), bytes).unwrap();
    let error = match Sqlite::open(folder.file()).await {
        Ok(ledger) => ledger.claim(&key(0), DIGEST, LEASE).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(chain(&error).contains("malformed"), "{}", chain(&error));
}

#[tokio::test]
async fn a_full_disk_fails_the_step_which_can_be_repeated_when_there_is_room() {
    static LARGE: [u8; 100_000] = [b'x'; 100_000];
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    let token = granted(&ledger, 0).await;
    // SQLite's page limit has the same effect as a full disk, and gives the same error.
    run(&ledger, "PRAGMA max_page_count = 1").await.unwrap();
    let error = ledger
        .complete(&key(0), token, dead("reason", &LARGE))
        .await
        .unwrap_err();
    assert!(chain(&error).contains("full"), "{}", chain(&error));
    assert!(matches!(
        ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(),
        Claim::InFlight { .. }
    ));
    run(&ledger, "PRAGMA max_page_count = 1000000")
        .await
        .unwrap();
    assert_eq!(
        ledger
            .complete(&key(0), token, dead("reason", &LARGE))
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    assert_eq!(
        ledger.dead_letters("users", None, 1).await.unwrap()[0].body,
        &LARGE[..]
    );
}

#[tokio::test]
async fn a_file_locked_for_too_long_fails_the_step_and_recovers() {
    let folder = Folder::new();
    let ledger = Sqlite::options()
        .busy_timeout(Duration::from_millis(20))
        .open(folder.file())
        .await
        .unwrap();
    let mut other =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.file()))
            .await
            .unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let error = ledger.claim(&key(0), DIGEST, LEASE).await.unwrap_err();
    assert!(chain(&error).contains("locked"), "{}", chain(&error));
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(granted(&ledger, 0).await.attempt, 1);
}

#[tokio::test]
async fn a_closed_ledger_says_so() {
    let ledger = Sqlite::in_memory().await.unwrap();
    let clone = ledger.clone();
    ledger.close().await;
    ledger.close().await;
    let error = chain(&clone.claim(&key(0), DIGEST, LEASE).await.unwrap_err());
    assert!(error.contains("closed"), "{error}");
}

#[test]
fn a_ledger_outliving_its_runtime_fails_rather_than_hangs() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let ledger = first.block_on(Sqlite::in_memory()).unwrap();
    drop(first);
    let error = runtime()
        .block_on(ledger.claim(&key(0), DIGEST, LEASE))
        .unwrap_err();
    assert!(chain(&error).contains("runtime"), "{}", chain(&error));
}

async fn leased(ledger: &Sqlite) -> Option<LeasedEvent> {
    match ledger.lease_next("users", LEASE).await.unwrap() {
        NextEvent::Leased(leased) => Some(leased),
        NextEvent::Empty { .. } => None,
    }
}

/// SQLite's plan for a statement, one line for each table or index that it reads.
async fn plan(connection: &mut SqliteConnection, statement: &str) -> Vec<String> {
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
    let rows = sqlx::query(explain).fetch_all(connection).await.unwrap();
    rows.iter()
        .map(|row| row.get::<String, _>("detail"))
        .collect()
}

#[tokio::test]
async fn a_look_for_work_reads_no_event_that_is_paused_leased_or_behind_another() {
    let folder = Folder::new();
    Sqlite::open(folder.file()).await.unwrap().close().await;
    let options = SqliteConnectOptions::new().filename(folder.file());
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    for (statement, index) in [
        (
            statements::LEASE_NEXT,
            "authpi_inbox_ready (endpoint=? AND position>?)",
        ),
        (
            statements::WAKE,
            "authpi_inbox_waiting (endpoint=? AND at>? AND at<?)",
        ),
        (
            statements::NEXT_DUE,
            "authpi_inbox_waiting (endpoint=? AND at>?)",
        ),
        (
            statements::APPEND,
            "authpi_inbox_ordering_key (endpoint=? AND ordering_key=?)",
        ),
        (
            statements::REPLAY,
            "authpi_inbox_ordering_key (endpoint=? AND ordering_key=?)",
        ),
        (
            statements::BACKLOG,
            "authpi_inbox (endpoint=? AND position>?)",
        ),
    ] {
        let plan = plan(&mut connection, statement).await;
        assert!(
            plan.iter().any(|line| line.contains(index)),
            "{index} is not used: {plan:#?}"
        );
        let all = |line: &String| {
            line.starts_with("SCAN ")
                || ["TEMP B-TREE", "PRIMARY KEY (endpoint=?)"]
                    .iter()
                    .any(|walk| line.contains(walk))
        };
        let all = plan.iter().any(all);
        assert!(!all, "all rows are read or sorted: {plan:#?}");
    }
}

#[tokio::test]
async fn the_oldest_due_event_is_leased_first() {
    let (clock, time) = clock_at_rest();
    let ledger = Sqlite::options().clock(clock).in_memory().await.unwrap();
    // The pauses of 10,000 events end, and one step wakes at most 4096. The oldest event (position
    // 0) has the pause that ends last, so it is woken by the last step.
    run(
        &ledger,
        "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 9999)
        INSERT INTO authpi_ledger
            (endpoint, event_id, state, attempt, nonce, at, first_claimed_at, first_digest, body, position)
        SELECT 'users', 'evt_' || n, 0, 1, n, 1700000020000 - n, 1700000000000, zeroblob(16), x'', n FROM numbers",
    )
    .await
    .unwrap();
    assert_eq!(
        ledger
            .append(&key(10_000), DIGEST, None, Bytes::new())
            .await
            .unwrap(),
        Appended::Stored
    );
    assert_eq!(leased(&ledger).await.unwrap().key, key(10_000));
    time.fetch_add(20_000, Ordering::Relaxed);
    for n in 0..3 {
        assert_eq!(leased(&ledger).await.unwrap().key, key(n));
    }
}

#[tokio::test]
async fn a_handled_event_keeps_no_body_and_a_dead_one_does() {
    let folder = Folder::new();
    let ledger = Sqlite::open(folder.file()).await.unwrap();
    for n in 0..3 {
        let body = Bytes::from_static(b"body");
        assert_eq!(
            ledger.append(&key(n), DIGEST, None, body).await.unwrap(),
            Appended::Stored
        );
        let event = leased(&ledger).await.unwrap();
        let held = match n {
            0 => {
                ledger
                    .complete(&event.key, event.token, Completion::Handled)
                    .await
            }
            1 => {
                ledger
                    .commit(ledger.begin().await.unwrap(), &event.key, event.token)
                    .await
            }
            _ => {
                ledger
                    .complete(&event.key, event.token, dead("reason", b"body"))
                    .await
            }
        };
        assert_eq!(held.unwrap(), LeaseStatus::Held);
    }
    let options = SqliteConnectOptions::new().filename(folder.file());
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    let kept = sqlx::query_scalar("SELECT event_id FROM authpi_ledger WHERE body IS NOT NULL")
        .fetch_all(&mut other)
        .await;
    let kept: Vec<String> = kept.unwrap();
    assert_eq!(kept, ["evt_2"]);
}
