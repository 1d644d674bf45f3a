//! The example `sync_users_postgres`, killed repeatedly at the worst moments.

use std::{
    process::Stdio,
    sync::{
        Arc, LazyLock, Mutex,
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
/// Per round, each sent twice.
const EVENTS: usize = 20;

/// When the program is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// At the first deliveries.
    AtOnce,
    /// A handler has begun its transaction, and cannot write.
    Writing,
    /// It has written, and the completion of its claim is in progress.
    Completing,
    /// Some effects are committed, and some of those have no response yet.
    Committed,
}

/// The program, and its own database.
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
        let line = timeout(DEADLINE, out.lines().next_line())
            .await
            .expect("it does not listen in time")
            .unwrap();
        let line = line.expect("the example has ended");
        let reported = line
            .strip_prefix("listening on http://127.0.0.1:")
            .and_then(|rest| rest.split('/').next());
        port.store(
            reported.and_then(|port| port.parse().ok()).expect(&line),
            Ordering::SeqCst,
        );
        process
    }

    async fn kill(&mut self) {
        self.process.kill().await.expect("it can be killed");
    }

    async fn start_again(&mut self) {
        self.process = Self::spawn(&self.url, &self.port).await;
    }
}

/// Delivers as a sender that retries does: until the response is 200.
async fn deliver(http: reqwest::Client, port: Arc<AtomicU16>, event: Fixture) {
    let (head, body) = event
        .request(&SignatureScheme::authpi(), &Secret::from(SECRET))
        .unwrap()
        .into_parts();
    let body = http_body_util::BodyExt::collect(body)
        .await
        .unwrap()
        .to_bytes();
    let last = Mutex::new(String::new());
    let taken = || async {
        let url = format!(
            "http://127.0.0.1:{}/hooks/authpi",
            port.load(Ordering::SeqCst)
        );
        let sent = http
            .post(url)
            .headers(head.headers.clone())
            .body(body.clone())
            .send()
            .await;
        *last.lock().unwrap() = format!("{sent:?}");
        match sent.ok()?.status().as_u16() {
            200 => Some(()),
            503 => None,
            other => panic!("answered {other}"),
        }
    };
    let never = || {
        let last = last.lock().unwrap();
        format!("never taken, at last {last}: {}", body.escape_ascii())
    };
    until(never, taken).await;
}

/// The `n`th event. A user's later events have a later time, but may be delivered earlier.
fn event(n: usize, begin: Timestamp) -> Fixture {
    let user = format!("usr_{}", n % USERS);
    let event = match n / USERS {
        0 => Fixture::of::<UserCreated>(),
        // The last user is deleted in between.
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
    sqlx::query(waiting)
        .bind(what)
        .fetch_one(connection)
        .await
        .unwrap()
        .get::<i64, _>(0)
        > 0
}

async fn applied(connection: &mut PgConnection) -> i64 {
    sqlx::query("SELECT coalesce(sum(events), 0)::bigint FROM users")
        .fetch_one(connection)
        .await
        .unwrap()
        .get(0)
}

/// What the connections to the database are doing, for the message of a failure.
async fn activity(connection: &mut PgConnection) -> String {
    let activity = "SELECT string_agg(concat_ws(' ', pid, state, wait_event_type, wait_event, \
        now() - state_change, query), E'\n') FROM pg_stat_activity WHERE datname = current_database()";
    sqlx::query(activity)
        .fetch_one(connection)
        .await
        .unwrap()
        .get(0)
}

/// Waits until a lock is waited for, or an effect has taken place.
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

/// A new database for the example, and a connection to it.
async fn database(name: &str) -> (String, PgConnection) {
    let server = PostgresServer::shared().await;
    let database = format!("{}{name}", fresh_prefix());
    let mut any = server.connection().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {database}")))
        .execute(&mut any)
        .await
        .unwrap();
    let options = server
        .options()
        .database(&database)
        .disable_statement_logging();
    let (host, port) = server.address();
    (
        format!("postgres://postgres@{host}:{port}/{database}"),
        options.connect().await.unwrap(),
    )
}

fn http() -> reqwest::Client {
    // An error means that another test has done this already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A handler takes at most 10 s.
    reqwest::Client::builder()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

/// All permutations of `count` items.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else {
        return vec![Vec::new()];
    };
    let with_last = |order: Vec<usize>| {
        (0..count).map(move |at| {
            let mut order = order.clone();
            order.insert(at, last);
            order
        })
    };
    orders(last).into_iter().flat_map(with_last).collect()
}

type Row = (String, Option<String>, Option<String>, bool, i64);

async fn users(connection: &mut PgConnection) -> Vec<Row> {
    let rows = sqlx::query(
        "SELECT id, username, status, deleted, events FROM users ORDER BY id COLLATE \"C\"",
    );
    let rows = rows.fetch_all(connection).await.unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4)))
        .collect()
}

/// A minute ago, plus `millis`.
fn at(millis: i64) -> Timestamp {
    static BEGIN: LazyLock<i64> = LazyLock::new(|| Timestamp::now().as_millisecond() - 60_000);
    Timestamp::from_millisecond(*BEGIN + millis).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_ends_with_the_same_rows_when_events_come_out_of_order() {
    let (url, mut connection) = database("orders").await;
    let (service, http) = (Service::start(url).await, http());
    let mut users_of_all_orders = JoinSet::new();
    let mut expected = Vec::new();
    for deleted in [false, true] {
        for order in orders(3 + usize::from(deleted)) {
            let user = format!("usr_{}_{order:?}", u8::from(deleted));
            let event = |n: i64, time: i64, event: Fixture, data| {
                event
                    .id(format!("evt_{user}_{n}"))
                    .time(at(time))
                    .subject("user_id", &user)
                    .data(data)
            };
            let events = [
                event(
                    0,
                    0,
                    Fixture::of::<UserCreated>(),
                    json!({ "username": "first", "status": "new" }),
                ),
                // Within the same millisecond.
                event(
                    1,
                    0,
                    Fixture::of::<UserUpdated>(),
                    json!({ "username": "second" }),
                ),
                event(
                    2,
                    1,
                    Fixture::of::<UserUpdated>(),
                    json!({ "status": "blocked" }),
                ),
                event(3, 2, Fixture::of::<UserDeleted>(), json!({})),
            ];
            let (http, port, count) = (http.clone(), Arc::clone(&service.port), order.len());
            users_of_all_orders.spawn(async move {
                for n in order {
                    deliver(http.clone(), Arc::clone(&port), events[n].clone()).await;
                }
            });
            let left = |text: &str| (!deleted).then(|| text.to_owned());
            expected.push((
                user,
                left("second"),
                left("blocked"),
                deleted,
                i64::try_from(count).unwrap(),
            ));
        }
    }
    timeout(DEADLINE, users_of_all_orders.join_all())
        .await
        .expect("a delivery is stuck");
    expected.sort();
    assert_eq!(users(&mut connection).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_clears_a_column_only_for_null() {
    let (url, mut connection) = database("nulls").await;
    let (service, http) = (Service::start(url).await, http());
    let said = [
        (
            json!({ "username": "ada", "status": "active" }),
            Some("ada"),
            Some("active"),
        ),
        (json!({}), Some("ada"), Some("active")),
        (
            json!({ "username": 17, "status": { "word": "blocked" } }),
            Some("ada"),
            Some("active"),
        ),
        (json!({ "username": null }), None, Some("active")),
        (
            json!({ "username": "countess", "status": null }),
            Some("countess"),
            None,
        ),
        (json!(null), Some("countess"), None),
    ];
    for (n, (said, username, status)) in (0_i64..).zip(said) {
        let event = if n == 0 {
            Fixture::of::<UserCreated>()
        } else {
            Fixture::of::<UserUpdated>()
        };
        let event = event
            .id(format!("evt_{n}"))
            .time(at(n))
            .subject("user_id", "usr_1")
            .data(said.clone());
        deliver(http.clone(), Arc::clone(&service.port), event).await;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let expected = (
            "usr_1".to_owned(),
            owned(username),
            owned(status),
            false,
            n + 1,
        );
        assert_eq!(users(&mut connection).await, [expected], "after {said}");
    }
}

/// The cookbook's statements are run unchanged.
#[tokio::test]
async fn the_cookbooks_statements_give_the_same_row_in_any_order() {
    const COOKBOOK: &str = include_str!("../../../../docs/cookbook.md");
    let between = |begin: &str, end: &str| -> &'static str {
        let (_, rest) = COOKBOOK
            .split_once(begin)
            .unwrap_or_else(|| panic!("the cookbook has no {begin:?}"));
        rest.split_once(end).expect("it ends").0
    };
    let statement = |name: &str| between(&format!("const {name}: &str = \""), "\";");
    let [create, update, delete] = ["CREATE", "UPDATE", "DELETE"].map(statement);
    let mut connection = PostgresServer::shared().await.connection().await.unwrap();
    let table = format!(
        "CREATE TEMPORARY TABLE users ({})",
        between("// users: ", "\n")
    );
    sqlx::raw_sql(AssertSqlSafe(table))
        .execute(&mut connection)
        .await
        .unwrap();
    for deleted in [false, true] {
        for order in orders(3 + usize::from(deleted)) {
            let user = format!("usr_{order:?}");
            for n in order {
                let (statement, data, as_of) = match n {
                    0 => (create, r#"{"n":0}"#, 5_i64),
                    // Within the same millisecond.
                    1 => (update, r#"{"n":1}"#, 5),
                    2 => (update, r#"{"n":2}"#, 6),
                    _ => (delete, "", 0),
                };
                let mut query = sqlx::query(statement).bind(&user);
                if n < 3 {
                    query = query.bind(data).bind(as_of);
                }
                query.execute(&mut connection).await.unwrap();
            }
            let row =
                sqlx::query("SELECT data::text, deleted FROM users WHERE id = $1").bind(&user);
            let row = row.fetch_one(&mut connection).await.unwrap();
            let expected = (!deleted).then(|| r#"{"n": 2}"#.to_owned());
            assert_eq!(
                (row.get::<Option<String>, _>(0), row.get(1)),
                (expected, deleted),
                "{user}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_applies_each_event_once_despite_kills() {
    let (url, mut observer) = database("sync").await;
    let connect = || PgConnection::connect(&url);
    let (mut first, mut second) = (connect().await.unwrap(), connect().await.unwrap());
    let mut service = Service::start(url).await;
    let http = http();
    let begin = Timestamp::from_second(Timestamp::now().as_second() - 3600).unwrap();

    let mut sent = 0;
    for _ in 0..ROUNDS {
        for moment in [
            Moment::AtOnce,
            Moment::Writing,
            Moment::Completing,
            Moment::Committed,
        ] {
            let before = applied(&mut observer).await;
            let mut table = first.begin().await.unwrap();
            if let Moment::Writing | Moment::Completing = moment {
                sqlx::query("LOCK TABLE users IN EXCLUSIVE MODE")
                    .execute(&mut *table)
                    .await
                    .unwrap();
            }
            let mut deliveries = JoinSet::new();
            // The newest first.
            for n in (sent..sent + EVENTS).rev().flat_map(|n| [n, n]) {
                deliveries.spawn(deliver(
                    http.clone(),
                    Arc::clone(&service.port),
                    event(n, begin),
                ));
            }
            sent += EVENTS;
            let mut records = second.begin().await.unwrap();
            match moment {
                Moment::AtOnce => {}
                Moment::Writing => until!("no handler writes", observer, |c| waiting(
                    c,
                    "INSERT INTO users%"
                )
                .await),
                Moment::Completing => {
                    until!("no handler writes", observer, |c| waiting(
                        c,
                        "INSERT INTO users%"
                    )
                    .await);
                    let claimed = "SELECT FROM authpi_ledger WHERE state = 1 FOR UPDATE";
                    sqlx::query(claimed).execute(&mut *records).await.unwrap();
                    table.rollback().await.unwrap();
                    table = first.begin().await.unwrap();
                    until!("no claim is completed", observer, |c| waiting(
                        c,
                        "%UPDATE authpi_ledger SET%state = 2%"
                    )
                    .await);
                }
                Moment::Committed => until!("no effect takes place", observer, |c| applied(c)
                    .await
                    >= before + 3),
            }
            service.kill().await;
            table.rollback().await.unwrap();
            records.rollback().await.unwrap();
            service.start_again().await;
            while let Some(delivered) = deliveries.join_next().await {
                if let Err(error) = delivered {
                    let activity = activity(&mut observer).await;
                    panic!("after it was killed {moment:?}: {error}\n{activity}");
                }
            }
            assert_eq!(
                applied(&mut observer).await,
                i64::try_from(sent).unwrap(),
                "after it was killed {moment:?}"
            );
        }
    }
    let rows = sqlx::query("SELECT username, deleted, events FROM users ORDER BY id")
        .fetch_all(&mut observer)
        .await;
    let rows: Vec<(Option<String>, bool, i64)> = rows
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let each = i64::try_from(sent / USERS).unwrap();
    let mut expected: Vec<_> = (sent - USERS..sent)
        .map(|n| (Some(format!("name {n}")), false, each))
        .collect();
    expected[USERS - 1] = (None, true, each);
    assert_eq!(rows, expected);

    let id = service.process.id().expect("it runs").to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .await
            .unwrap()
            .success()
    );
    let ended = timeout(DEADLINE, service.process.wait())
        .await
        .expect("SIGTERM does not end it")
        .unwrap();
    assert!(ended.success(), "ended with {ended}");
}
