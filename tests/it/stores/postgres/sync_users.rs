//! The example `sync_users_postgres`, killed again and again at the worst of moments.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    event::types::{UserCreated, UserDeleted, UserUpdated},
    signature::{Secret, SignatureScheme},
    testing::Fixture,
};
use jiff::Timestamp;
use serde_json::json;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::timeout,
};

use crate::servers::{
    DEADLINE,
    postgres::{PostgresServer, fresh_prefix},
    until,
};

const SECRET: &str = "whs_test";
const USERS: usize = 5;
const ROUNDS: usize = 2;
/// In a round, each of them sent twice.
const EVENTS: usize = 20;

/// When the program is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// As the first deliveries come in.
    AtOnce,
    /// A handler has begun its transaction, and cannot write.
    Writing,
    /// It has written, and the completion of its claim is under way.
    Completing,
    /// Some effects are committed, and some of those not answered.
    Committed,
}

/// The program, and a database of its own.
struct Service {
    process: Child,
    port: Arc<AtomicU16>,
    url: String,
}

impl Service {
    async fn start(url: String) -> Self {
        let port = Arc::default();
        let process = Self::spawn(&url, &port).await;
        Self { process, port, url }
    }

    async fn spawn(url: &str, port: &AtomicU16) -> Child {
        let mut process = Command::new(env!("CARGO_BIN_EXE_sync_users_postgres"))
            .env("DATABASE_URL", url)
            .env("AUTHPI_WEBHOOK_SECRET", SECRET)
            .env("LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the example starts");
        let out = BufReader::new(process.stdout.take().expect("it is piped"));
        let line = timeout(DEADLINE, out.lines().next_line()).await.expect("it does not listen in time").unwrap();
        let line = line.expect("the example has ended");
        let told = line.strip_prefix("listening on http://127.0.0.1:").and_then(|rest| rest.split('/').next());
        port.store(told.and_then(|port| port.parse().ok()).expect(&line), Ordering::SeqCst);
        process
    }

    async fn kill(&mut self) {
        self.process.kill().await.expect("it can be killed");
    }

    async fn start_again(&mut self) {
        self.process = Self::spawn(&self.url, &self.port).await;
    }
}

/// Delivers as AuthPI does: until it is answered 200.
async fn deliver(http: reqwest::Client, port: Arc<AtomicU16>, event: Fixture) {
    let (head, body) = event.request(&SignatureScheme::authpi(), &Secret::from(SECRET)).unwrap().into_parts();
    let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    let taken = || async {
        let url = format!("http://127.0.0.1:{}/hooks/authpi", port.load(Ordering::SeqCst));
        let sent = http.post(url).headers(head.headers.clone()).body(body.clone()).send().await.ok()?;
        match sent.status().as_u16() {
            200 => Some(()),
            503 => None,
            other => panic!("answered {other}"),
        }
    };
    until(|| "a delivery is never taken".to_owned(), taken).await;
}

/// The `n`th event: what happens to the user later has a later time, though it may be delivered before.
fn event(n: usize, begin: Timestamp) -> Fixture {
    let user = format!("usr_{}", n % USERS);
    let event = match n / USERS {
        0 => Fixture::of::<UserCreated>(),
        // The last user is deleted in the midst of it.
        7 if n % USERS == USERS - 1 => Fixture::of::<UserDeleted>(),
        _ => Fixture::of::<UserUpdated>(),
    };
    let time = begin.checked_add(Duration::from_secs(n as u64)).unwrap();
    event
        .id(format!("evt_{n}"))
        .time(time)
        .data(json!({ "id": user, "username": format!("name {n}"), "status": "active" }))
        .subject("user_id", user)
}

async fn waiting(connection: &mut PgConnection, what: &str) -> bool {
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1";
    sqlx::query(waiting).bind(what).fetch_one(connection).await.unwrap().get::<i64, _>(0) > 0
}

async fn applied(connection: &mut PgConnection) -> i64 {
    sqlx::query("SELECT coalesce(sum(events), 0)::bigint FROM users").fetch_one(connection).await.unwrap().get(0)
}

/// Waits for a lock to be waited for, or an effect to take place.
macro_rules! until {
    ($what:literal, $connection:expr, |$c:ident| $ask:expr) => {{
        let connection = tokio::sync::Mutex::new(&mut $connection);
        let asked = || async {
            let mut held = connection.lock().await;
            let $c: &mut PgConnection = &mut **held;
            $ask.then_some(())
        };
        until(|| $what.to_owned(), asked).await;
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_applies_each_event_once_though_it_is_killed_in_the_midst_of_it() {
    let server = PostgresServer::shared().await;
    let database = format!("{}sync", fresh_prefix());
    let mut any = server.connection().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {database}"))).execute(&mut any).await.unwrap();
    let options = server.options().database(&database).disable_statement_logging();
    let connect = || options.connect();
    let (mut observer, mut first, mut second) =
        (connect().await.unwrap(), connect().await.unwrap(), connect().await.unwrap());
    let (host, port) = server.address();
    let mut service = Service::start(format!("postgres://postgres@{host}:{port}/{database}")).await;
    // Taken, if another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::new();
    let begin = Timestamp::from_second(Timestamp::now().as_second() - 3600).unwrap();

    let mut sent = 0;
    for _ in 0..ROUNDS {
        for moment in [Moment::AtOnce, Moment::Writing, Moment::Completing, Moment::Committed] {
            let before = applied(&mut observer).await;
            let mut table = first.begin().await.unwrap();
            if let Moment::Writing | Moment::Completing = moment {
                sqlx::query("LOCK TABLE users IN EXCLUSIVE MODE").execute(&mut *table).await.unwrap();
            }
            let mut deliveries = JoinSet::new();
            // The latest goes first.
            for n in (sent..sent + EVENTS).rev().flat_map(|n| [n, n]) {
                deliveries.spawn(deliver(http.clone(), Arc::clone(&service.port), event(n, begin)));
            }
            sent += EVENTS;
            let mut records = second.begin().await.unwrap();
            match moment {
                Moment::AtOnce => {}
                Moment::Writing => until!("no handler writes", observer, |c| waiting(c, "INSERT INTO users%").await),
                Moment::Completing => {
                    until!("no handler writes", observer, |c| waiting(c, "INSERT INTO users%").await);
                    let claimed = "SELECT FROM authpi_ledger WHERE state = 1 FOR UPDATE";
                    sqlx::query(claimed).execute(&mut *records).await.unwrap();
                    table.rollback().await.unwrap();
                    table = first.begin().await.unwrap();
                    until!("no claim is completed", observer, |c| waiting(c, "%UPDATE authpi_ledger SET%state = 2%")
                        .await);
                }
                Moment::Committed => until!("no effect takes place", observer, |c| applied(c).await >= before + 3),
            }
            service.kill().await;
            table.rollback().await.unwrap();
            records.rollback().await.unwrap();
            service.start_again().await;
            timeout(DEADLINE, deliveries.join_all()).await.unwrap_or_else(|_| panic!("killed {moment:?}, it is stuck"));
            assert_eq!(applied(&mut observer).await, i64::try_from(sent).unwrap(), "after it was killed {moment:?}");
        }
    }
    let rows = sqlx::query("SELECT username, deleted, events FROM users ORDER BY id").fetch_all(&mut observer).await;
    let rows: Vec<(Option<String>, bool, i64)> =
        rows.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let each = i64::try_from(sent / USERS).unwrap();
    let mut expected: Vec<_> = (sent - USERS..sent).map(|n| (Some(format!("name {n}")), false, each)).collect();
    expected[USERS - 1] = (None, true, each);
    assert_eq!(rows, expected);

    let id = service.process.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    let ended = timeout(DEADLINE, service.process.wait()).await.expect("SIGTERM does not end it").unwrap();
    assert!(ended.success(), "ended with {ended}");
}
