//! Workers of other processes (here: of other pools) are notified of an append by `NOTIFY`.

use std::time::{Duration, Instant};

use authpi_sdk::{
    event::{Event, types::UserCreated},
    handlers::{Context, Handlers},
    ledger::{Appended, Inbox as _, Ledger as _},
    stores::Postgres,
    testing::Fixture,
    worker::Worker,
};
use sqlx::{
    AssertSqlSafe, PgConnection, Row as _,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{super::EVENTS, pool};
use crate::{
    drivers::{DIGEST, key},
    servers::{
        postgres::{PostgresServer, fresh_prefix},
        until,
    },
};

/// So long that a test that waits for a poll has failed.
const POLL: Duration = Duration::from_hours(1);
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A worker that reports the events that it has handled.
struct Woken {
    handled: mpsc::UnboundedReceiver<String>,
    /// Dropped to stop it.
    _stop: oneshot::Sender<()>,
}

impl Woken {
    fn start(ledger: &Postgres) -> Self {
        let (tell, handled) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let handlers = Handlers::new(tell).fallback(
            async |event: Event, cx: Context<mpsc::UnboundedSender<String>>| {
                cx.state().send(event.id().to_owned())?;
                Ok(())
            },
        );
        let worker = Worker::builder("users", ledger.clone(), handlers)
            .poll_interval(POLL)
            .build()
            .unwrap();
        tokio::spawn(async move { worker.run(async { drop(stopped.await) }).await });
        Self {
            handled,
            _stop: stop,
        }
    }

    async fn next(&mut self) -> String {
        let handled = timeout(TEST_TIMEOUT, self.handled.recv())
            .await
            .expect("the worker was not woken");
        handled.expect("the worker has ended")
    }
}

async fn append(ledger: &Postgres, n: usize) {
    let event = Fixture::of::<UserCreated>().id(format!("evt_{n}"));
    let appended = ledger
        .append(&key(n), DIGEST, None, event.body())
        .await
        .unwrap();
    assert_eq!(appended, Appended::Stored);
}

/// The number of listening connections with this name.
async fn listening(connection: &mut PgConnection, name: &str) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND query LIKE 'LISTEN%' AND state = 'idle'";
    sqlx::query(count)
        .bind(name)
        .fetch_one(connection)
        .await
        .unwrap()
        .get(0)
}

async fn until_listening(server: &PostgresServer, name: &str, connections: i64) {
    let heard = || async {
        let mut other = server.connection().await.ok()?;
        (listening(&mut other, name).await == connections).then_some(())
    };
    until(|| format!("not {connections} connections listen"), heard).await;
}

#[tokio::test]
async fn an_append_wakes_the_workers_of_another_process_at_once() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let url = format!("{}?application_name={prefix}", server.url());
    let appending = Postgres::options()
        .prefix(&prefix)
        .open(pool(server))
        .await
        .unwrap();
    let waiting = Postgres::options()
        .prefix(&prefix)
        .connect(&url)
        .await
        .unwrap();
    let mut woken = Woken::start(&waiting);
    until_listening(server, &prefix, 1).await;
    for n in 0..5 {
        append(&appending, n).await;
        assert_eq!(woken.next().await, format!("evt_{n}"));
    }
    // The ledger's own appends wake its workers, too, although they need no notification.
    append(&waiting, 5).await;
    assert_eq!(woken.next().await, "evt_5");
}

#[tokio::test]
async fn what_is_appended_before_anybody_listens_is_found_when_somebody_does() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let ledgers = [(); 2].map(|()| Postgres::options().prefix(&prefix).open(pool(server)));
    let [appending, waiting] = ledgers;
    let (appending, waiting) = (appending.await.unwrap(), waiting.await.unwrap());
    let mut woken = Woken::start(&waiting);
    for n in 0..EVENTS {
        append(&appending, n).await;
    }
    let mut handled = Vec::new();
    for _ in 0..EVENTS {
        handled.push(woken.next().await);
    }
    handled.sort_unstable();
    handled.dedup();
    assert_eq!(handled.len(), EVENTS);
}

// On a multi-threaded runtime, so that the client continues while the server, which waits for it,
// is being stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_comes_back_with_its_server() {
    let mut server = PostgresServer::start().await;
    let waiting = Postgres::connect(&format!("{}?application_name=waiting", server.url()))
        .await
        .unwrap();
    let mut woken = Woken::start(&waiting);
    until_listening(&server, "waiting", 1).await;
    server.stop();
    server.start_again().await;
    until_listening(&server, "waiting", 1).await;
    let appending = Postgres::connect(&server.url()).await.unwrap();
    append(&appending, 0).await;
    assert_eq!(woken.next().await, "evt_0");
}

#[tokio::test]
async fn a_listener_whose_connection_was_ended_listens_again() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let url = format!("{}?application_name={prefix}", server.url());
    let waiting = Postgres::options()
        .prefix(&prefix)
        .connect(&url)
        .await
        .unwrap();
    let mut woken = Woken::start(&waiting);
    until_listening(server, &prefix, 1).await;
    let mut other = server.connection().await.unwrap();
    let end = "SELECT pg_terminate_backend(pid, 10000), pid FROM pg_stat_activity
        WHERE application_name = $1 AND query LIKE 'LISTEN%'";
    let ended = sqlx::query(end)
        .bind(&prefix)
        .fetch_all(&mut other)
        .await
        .unwrap();
    assert!(ended.len() == 1 && ended[0].get(0));
    until_listening(server, &prefix, 1).await;
    let appending = Postgres::options()
        .prefix(&prefix)
        .open(pool(server))
        .await
        .unwrap();
    append(&appending, 0).await;
    assert_eq!(woken.next().await, "evt_0");
}

#[tokio::test]
async fn a_listener_takes_nothing_from_the_pool_and_ends_with_the_last_clone() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let options = server.options().application_name(&prefix);
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options);
    let ledger = Postgres::options()
        .prefix(&prefix)
        .open(pool.clone())
        .await
        .unwrap();
    let mut woken = Woken::start(&ledger);
    until_listening(server, &prefix, 1).await;
    append(&ledger, 0).await;
    assert_eq!(woken.next().await, "evt_0");

    timeout(TEST_TIMEOUT, pool.close())
        .await
        .expect("the listener keeps the pool from being closed");
    drop((woken, ledger));
    until_listening(server, &prefix, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_at_the_same_time_share_a_notification() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let ledger = Postgres::options()
        .prefix(&prefix)
        .open(pool(server))
        .await
        .unwrap();
    let channel = AssertSqlSafe(format!(
        "SELECT 'authpi_appended_' || '{prefix}ledger'::regclass::oid"
    ));
    let channel: String = sqlx::query_scalar(channel)
        .fetch_one(&pool(server))
        .await
        .unwrap();
    let mut listener = PgListener::connect_with(&pool(server)).await.unwrap();
    listener.listen(&channel).await.unwrap();

    let begun = Instant::now();
    let mut appends = JoinSet::new();
    for n in 0..10 * EVENTS {
        let ledger = ledger.clone();
        appends.spawn(async move { append(&ledger, n).await });
    }
    appends.join_all().await;
    // The last notification ends the count, and is not counted itself.
    sqlx::query("SELECT pg_notify($1, 'last')")
        .bind(&channel)
        .execute(&pool(server))
        .await
        .unwrap();
    let mut notifications = 0;
    while timeout(TEST_TIMEOUT, listener.recv())
        .await
        .expect("a notification is lost")
        .unwrap()
        .payload()
        != "last"
    {
        notifications += 1;
    }
    // One immediately, and one for each 10 ms.
    let most = 1 + begun.elapsed().as_millis() / 10;
    assert!(
        (1..=most).contains(&notifications),
        "{notifications} notifications, {most} at most"
    );
}

#[tokio::test]
async fn a_replayed_dead_letter_is_handled_by_another_process() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let url = format!("{}?application_name={prefix}", server.url());
    let operator = Postgres::options()
        .prefix(&prefix)
        .open(pool(server))
        .await
        .unwrap();
    append(&operator, 0).await;
    let worker = Worker::builder(
        "users",
        operator.clone(),
        Handlers::new(()).fallback(refuse),
    )
    .build()
    .unwrap();
    let buried = async {
        while operator
            .dead_letters("users", None, 1)
            .await
            .unwrap()
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(TEST_TIMEOUT, worker.run(buried)).await.unwrap();

    let waiting = Postgres::options()
        .prefix(&prefix)
        .connect(&url)
        .await
        .unwrap();
    let mut woken = Woken::start(&waiting);
    until_listening(server, &prefix, 1).await;
    assert!(operator.replay(&key(0)).await.unwrap());
    assert_eq!(woken.next().await, "evt_0");
    let handled = || async {
        let backlog = operator.backlog("users").await.ok()?;
        (backlog.depth == 0).then_some(())
    };
    until(|| "the replayed event is not handled".to_owned(), handled).await;
    assert!(
        !operator.replay(&key(0)).await.unwrap(),
        "what was handled is replayed"
    );
    assert!(operator.forget(&key(0)).await.unwrap());
}

async fn refuse(_: Event, _: Context<()>) -> authpi_sdk::HandlerResult {
    use authpi_sdk::handlers::Terminal as _;
    Err(std::io::Error::other("no such user")).terminal()
}
