//! Runs each example as a user would, against the emulator.

use std::{
    env,
    error::Error,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use authpi_emulator::{Emulator, NewEvent};
use authpi_sdk::{
    client::{Client, WebhookSpec},
    event::types::{UserCreated, UserDeleted, UserUpdated},
    signature::{Secret, SignatureScheme},
    testing::Fixture,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::{Row as _, SqlitePool};
use tokio::time::timeout;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Cargo builds the examples before it runs tests, in the folder above the tests.
fn example(name: &str) -> Command {
    let test = env::current_exe().expect("a test knows where it is");
    let target = test
        .ancestors()
        .nth(2)
        .expect("tests are in target/<profile>/deps");
    Command::new(target.join("examples").join(name))
}

/// Kills the program at the end of the test.
struct Running(Child);

impl Running {
    /// Stops it as Docker, Kubernetes and systemd do.
    #[cfg(unix)]
    fn terminate(&mut self) -> Outcome {
        assert!(
            Command::new("kill")
                .args(["-TERM", &self.0.id().to_string()])
                .status()?
                .success()
        );
        let ended = self.0.wait()?;
        assert!(ended.success(), "it did not end by itself: {ended}");
        Ok(())
    }

    #[cfg(not(unix))]
    fn terminate(&mut self) -> Outcome {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A separate folder in the target folder.
fn folder(name: &str) -> std::io::Result<PathBuf> {
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn client(authpi: &Emulator) -> Result<Client, Box<dyn Error>> {
    let secret = Secret::new(authpi.key_secret());
    Ok(Client::builder()
        .api_key(authpi.key_id(), secret)
        .base_url(authpi.base_url())
        .build()?)
}

#[test]
fn quickstart_ends_well_and_tells_of_every_delivery() -> Outcome {
    let output = example("quickstart").output()?;
    let printed = String::from_utf8(output.stdout)?;
    assert!(
        output.status.success(),
        "{printed}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for part in [
        "delivery answered: 200\n",
        "200 duplicate",
        "401 unauthorized",
        "503 try again later",
        "everything worked as described",
    ] {
        assert!(printed.contains(part), "{part:?} is missing in:\n{printed}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn create_webhook_prints_the_secret_once() -> Outcome {
    let authpi = Emulator::start().await?;
    let output = example("create_webhook")
        .arg("http://127.0.0.1:9/hooks/authpi")
        .env("AUTHPI_BASE_URL", authpi.base_url())
        .env("AUTHPI_KEY_ID", authpi.key_id())
        .env("AUTHPI_KEY_SECRET", authpi.key_secret())
        .output()?;
    let printed = String::from_utf8(output.stdout)?;
    assert!(
        output.status.success(),
        "{printed}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(printed.matches("whs_").count(), 1, "{printed}");
    Ok(())
}

/// The response to `GET path`.
fn get(port: u16, path: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn observe_has_metrics_a_probe_and_logs_in_json() -> Outcome {
    let port = free_port()?;
    let mut program = example("observe");
    program.env("LISTEN", format!("127.0.0.1:{port}"));
    let mut program = Running(program.stdout(Stdio::piped()).spawn()?);
    let out = program.0.stdout.take().ok_or("no output")?;
    // In any order: deliveries are concurrent.
    let mut wanted = vec![
        "listening",
        "a user was created",
        "a handler failed",
        "a payload member does not have the deduced shape; its field is empty",
    ];
    let mut lines = BufReader::new(out).lines();
    while !wanted.is_empty() {
        let line = lines
            .next()
            .ok_or_else(|| format!("not logged: {wanted:?}"))??;
        let line: Value = serde_json::from_str(&line)?;
        let (fields, span) = (&line["fields"], &line["span"]);
        let found = wanted
            .iter()
            .position(|message| fields["message"] == **message);
        match found.map(|at| wanted.remove(at)) {
            Some("a user was created") => {
                assert_eq!(span["name"], "authpi.handle", "{line}");
                assert_eq!(span["event_type"], "user.created", "{line}");
                assert_eq!(line["spans"][0]["name"], "authpi.delivery", "{line}");
            }
            Some("a handler failed") => {
                assert_eq!(fields["error"], "the database is away", "{line}");
            }
            Some("listening") | None => {}
            Some(_) => assert_eq!(fields["member"], "username", "{line}"),
        }
    }

    let ready = get(port, "/ready")?;
    assert!(
        ready.starts_with("HTTP/1.1 200") && ready.contains("ready; in flight: "),
        "{ready}"
    );
    for series in [
        r#"authpi_deliveries_total{endpoint="users",outcome="handled",type="user.created"}"#,
        r#"authpi_deliveries_total{endpoint="users",outcome="duplicate",type="user.created"}"#,
        r#"authpi_deliveries_total{endpoint="users",outcome="failed",type="user.updated"}"#,
        r#"authpi_handler_seconds_bucket{endpoint="users",outcome="handled",type="user.created",le="+Inf"}"#,
        r#"authpi_lag_seconds_bucket{endpoint="users",le="3600"}"#,
        r#"authpi_call_seconds_bucket{operation="events.get",le="+Inf"}"#,
        r#"authpi_payload_mismatch_total{type="user.created",member="username"}"#,
    ] {
        until(&format!("no metric {series}"), || {
            get(port, "/metrics").is_ok_and(|text| text.contains(series))
        })?;
    }
    program.terminate()
}

/// A service that was started on `port`, with its files in `data`.
fn serve(name: &str, port: u16, secret: &Secret, data: &Path) -> Result<Running, Box<dyn Error>> {
    let mut program = Running(
        example(name)
            .env("AUTHPI_WEBHOOK_SECRET", secret.expose())
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("DATA_DIR", data)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    assert!(line.contains("listening"), "{line}");
    Ok(program)
}

/// A port that was free a moment ago: the webhook's secret must be known before the program starts.
fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

#[tokio::test(flavor = "multi_thread")]
async fn handle_later_loses_no_event_though_it_is_killed_again_and_again() -> Outcome {
    const KILLS: usize = 8;
    const BETWEEN: usize = 20;
    let port = free_port()?;
    let authpi = Emulator::builder()
        .retry_delays([Duration::from_millis(50); 200])
        .start()
        .await?;
    let spec =
        WebhookSpec::new("audit", format!("http://127.0.0.1:{port}/hooks/authpi")).all_events();
    let made = client(&authpi)?.webhooks().create(&spec).await?;
    let secret = made.secret.ok_or("no secret")?;
    let data = folder("handle_later")?;
    let mut program = serve("handle_later", port, &secret, &data)?;
    let audit = SqlitePool::connect(&format!("sqlite:{}", data.join("audit.db").display())).await?;
    let logged = async || -> Result<usize, sqlx::Error> {
        let count: i64 = sqlx::query("SELECT count(*) FROM audit")
            .fetch_one(&audit)
            .await?
            .get(0);
        Ok(usize::try_from(count).unwrap_or(0))
    };

    for kill in 0..KILLS {
        let before = logged().await?;
        for n in 0..BETWEEN {
            let user = format!("usr_{}", n % 5);
            authpi
                .trigger(
                    NewEvent::new("user.updated")
                        .subject(json!({ "user_id": user }))
                        .copies(2),
                )
                .await?;
        }
        // At a different point of each round: a different number of events has been handled.
        while logged().await? < before + kill * 2 % BETWEEN {
            tokio::task::yield_now().await;
        }
        program.0.kill()?;
        program.0.wait()?;
        program = serve("handle_later", port, &secret, &data)?;
    }
    timeout(Duration::from_mins(1), authpi.deliveries_finished()).await?;
    let all_logged = async {
        while logged().await? < KILLS * BETWEEN {
            tokio::task::yield_now().await;
        }
        Ok::<_, sqlx::Error>(())
    };
    timeout(Duration::from_mins(1), all_logged)
        .await
        .map_err(|_| "acknowledged events never came through")??;
    assert_eq!(logged().await?, KILLS * BETWEEN);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

/// Starts a delivery of an event, on its own connection.
fn send(port: u16, secret: &Secret, event: &Fixture) -> Result<TcpStream, Box<dyn Error>> {
    let head = event
        .request(&SignatureScheme::authpi(), secret)?
        .into_parts()
        .0;
    let body = event.body();
    let mut request = format!(
        "POST /hooks/authpi HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in &head.headers {
        request.extend([name.as_str(), ": ", value.to_str()?, "\r\n"]);
    }
    request.push_str("connection: close\r\n\r\n");
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(request.as_bytes())?;
    stream.write_all(&body)?;
    Ok(stream)
}

/// Whether the event was handled now: only then is the response a 200 without a body.
fn is_handled(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n")
}

/// Delivers an event and returns the response.
fn deliver(port: u16, secret: &Secret, event: &Fixture) -> Result<String, Box<dyn Error>> {
    let mut answer = String::new();
    send(port, secret, event)?.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Repeats until the condition is true, for up to 30 s.
fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Outcome {
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > Duration::from_secs(30) {
            return Err(what.into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn the_readmes_receiver_drains_on_sigterm() -> Outcome {
    let (port, data, secret) = (
        free_port()?,
        folder("readme")?,
        Secret::new("whs_0123456789abcdef"),
    );
    let start = || -> Outcome<Running> {
        let mut program = example("readme_receiver");
        let program = program
            .env("AUTHPI_WEBHOOK_SECRET", secret.expose())
            .env("LISTEN", format!("127.0.0.1:{port}"));
        let program = Running(program.current_dir(&data).stdout(Stdio::piped()).spawn()?);
        until("it does not listen", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })?;
        Ok(program)
    };
    let mut program = start()?;
    // The handler prints more than a pipe can hold, so it blocks until this test reads.
    let event = Fixture::of::<UserCreated>().data(json!({ "username": "x".repeat(500_000) }));
    let sender = send(port, &secret, &event)?;
    let mut out = program.0.stdout.take().ok_or("no output")?;
    out.read_exact(&mut [0; 5])?;
    // The server itself has nothing to wait for: only `drain` waits for the handler.
    drop(sender);
    assert!(
        Command::new("kill")
            .args(["-TERM", &program.0.id().to_string()])
            .status()?
            .success()
    );
    until("it still listens", || {
        TcpStream::connect(("127.0.0.1", port)).is_err()
    })?;
    let mut rest = String::new();
    out.read_to_string(&mut rest)?;
    assert!(
        rest.ends_with("joined (attempt 1)\n"),
        "the handler was cut off"
    );
    let ended = program.0.wait()?;
    assert!(ended.success(), "{ended}");

    let mut program = start()?;
    let answer = deliver(port, &secret, &event)?;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("duplicate"),
        "{answer}"
    );
    program.terminate()?;
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

/// A user's events, with their times in milliseconds.
fn history(user: &str, deleted: bool) -> Vec<Fixture> {
    // In the past, but recent enough not to have expired.
    let begin = Timestamp::now().as_millisecond() - 60_000;
    let event = |millis: i64, event: Fixture, data: Value| {
        let time = Timestamp::from_millisecond(begin + millis).expect("it is today");
        event
            .id(format!("evt_{user}_{}", data["n"]))
            .time(time)
            .subject("user_id", user)
            .data(data)
    };
    let mut events = vec![
        event(
            0,
            Fixture::of::<UserCreated>(),
            json!({ "n": 0, "username": "first", "status": "new" }),
        ),
        // Within the same millisecond.
        event(
            0,
            Fixture::of::<UserUpdated>(),
            json!({ "n": 1, "username": "second" }),
        ),
        event(
            1,
            Fixture::of::<UserUpdated>(),
            json!({ "n": 2, "status": "blocked" }),
        ),
    ];
    if deleted {
        events.push(event(2, Fixture::of::<UserDeleted>(), json!({ "n": 3 })));
    }
    events
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

type Row = (String, Option<String>, Option<String>, bool);

async fn users(data: &Path) -> Outcome<Vec<Row>> {
    let users = SqlitePool::connect(&format!("sqlite:{}", data.join("users.db").display())).await?;
    let rows = sqlx::query("SELECT id, username, status, deleted FROM users ORDER BY id")
        .fetch_all(&users)
        .await?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn handle_events_ends_with_the_same_rows_when_events_come_out_of_order() -> Outcome {
    let (port, data, secret) = (
        free_port()?,
        folder("handle_events")?,
        Secret::new("whs_0123456789abcdef"),
    );
    let _program = serve("handle_events", port, &secret, &data)?;
    let mut expected = Vec::new();
    for deleted in [false, true] {
        for order in orders(history("", deleted).len()) {
            let user = format!("usr_{}_{order:?}", u8::from(deleted));
            let events = history(&user, deleted);
            for n in order {
                let answer = deliver(port, &secret, &events[n])?;
                assert!(is_handled(&answer), "{answer}");
            }
            let left = |text: &str| (!deleted).then(|| text.to_owned());
            expected.push((user, left("second"), left("blocked"), deleted));
        }
    }
    expected.sort();
    assert_eq!(users(&data).await?, expected);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn handle_events_keeps_deleted_users_deleted() -> Outcome {
    const USERS: usize = 20;
    let port = free_port()?;
    // Some deliveries are refused at first, so that some deletions overtake their creation.
    let authpi = Emulator::builder()
        .retry_delays([Duration::from_millis(100); 600])
        .start()
        .await?;
    let spec =
        WebhookSpec::new("users", format!("http://127.0.0.1:{port}/hooks/authpi")).all_events();
    let made = client(&authpi)?.webhooks().create(&spec).await?;
    let data = folder("handle_events-ghosts")?;
    let about = |event_type: &str, n: usize| {
        let user = format!("usr_{n:02}");
        NewEvent::new(event_type)
            .subject(json!({ "user_id": user }))
            .data(json!({ "id": user, "username": "ada" }))
    };
    for n in 0..USERS {
        // The service is not running yet, and both are retried at the same time.
        authpi.trigger(about("user.created", n).copies(2)).await?;
        authpi.trigger(about("user.deleted", n).copies(2)).await?;
    }
    let _program = serve(
        "handle_events",
        port,
        &made.secret.ok_or("no secret")?,
        &data,
    )?;
    timeout(Duration::from_mins(1), authpi.deliveries_finished()).await?;
    let expected: Vec<Row> = (0..USERS)
        .map(|n| (format!("usr_{n:02}"), None, None, true))
        .collect();
    assert_eq!(users(&data).await?, expected);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

/// The values in a user's events, and the columns after each event.
const SAID: [(&str, Option<&str>, Option<&str>); 6] = [
    (
        r#"{ "username": "ada", "status": "active" }"#,
        Some("ada"),
        Some("active"),
    ),
    ("{}", Some("ada"), Some("active")),
    (
        r#"{ "username": 17, "status": { "word": "blocked" } }"#,
        Some("ada"),
        Some("active"),
    ),
    (r#"{ "username": null }"#, None, Some("active")),
    (
        r#"{ "username": "countess", "status": null }"#,
        Some("countess"),
        None,
    ),
    ("null", Some("countess"), None),
];

#[tokio::test(flavor = "multi_thread")]
async fn handle_events_clears_a_column_only_for_null() -> Outcome {
    let (port, data, secret) = (
        free_port()?,
        folder("handle_events-null")?,
        Secret::new("whs_0123456789abcdef"),
    );
    let _program = serve("handle_events", port, &secret, &data)?;
    let begin = Timestamp::now().as_millisecond() - 60_000;
    for (n, (said, username, status)) in (0_i64..).zip(SAID) {
        let event = if n == 0 {
            Fixture::of::<UserCreated>()
        } else {
            Fixture::of::<UserUpdated>()
        };
        let event = event
            .id(format!("evt_{n}"))
            .time(Timestamp::from_millisecond(begin + n)?);
        let event = event
            .subject("user_id", "usr_1")
            .data(serde_json::from_str(said)?);
        let answer = deliver(port, &secret, &event)?;
        assert!(is_handled(&answer), "{answer}");
        let owned = |text: Option<&str>| text.map(str::to_owned);
        assert_eq!(
            users(&data).await?,
            [("usr_1".into(), owned(username), owned(status), false)],
            "after {said}"
        );
    }
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

#[test]
fn limited_server_takes_a_delivery_and_bounds_the_head_of_a_request() -> Outcome {
    use std::io::{Read as _, Write as _};
    let (port, data, secret) = (
        free_port()?,
        folder("limited_server")?,
        Secret::new("whs_0123456789abcdef"),
    );
    let _program = serve("limited_server", port, &secret, &data)?;
    // Sends this and reads until the server closes the connection.
    let exchange = |request: &[u8]| -> Result<String, Box<dyn Error>> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        stream.write_all(request)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let fixture = Fixture::of::<UserCreated>();
    let (signed, body) = (
        fixture.request(&SignatureScheme::authpi(), &secret)?,
        fixture.body(),
    );
    let signature = signed.headers()["x-webhook-signature"].to_str()?;
    let mut delivery = format!(
        "POST /hooks/authpi HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-webhook-signature: {signature}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    delivery.extend_from_slice(&body);
    assert!(exchange(&delivery)?.starts_with("HTTP/1.1 200"));

    let large = format!(
        "POST /hooks/authpi HTTP/1.1\r\nhost: localhost\r\nx-large: {}\r\n\r\n",
        "x".repeat(17 << 10)
    );
    // 431, or a connection that is closed before the whole request was sent. If it had been read,
    // the response would be 401.
    let answer = exchange(large.as_bytes()).unwrap_or_default();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    // Half a head. The server's timeout closes the connection; otherwise this test's read would
    // fail after a minute.
    let answer = exchange(b"POST /hooks/authpi HTTP/1.1\r\nhost: loc")?;
    assert!(!answer.contains("401"), "{answer}");
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_service_that_is_sent_sigterm_ends_well() -> Outcome {
    for name in ["handle_events", "handle_later", "limited_server"] {
        let (port, data) = (free_port()?, folder(&format!("{name}-stopped"))?);
        let mut program = serve(name, port, &Secret::new("whs_0123456789abcdef"), &data)?;
        // A service that responds is also listening for signals.
        let mut request = TcpStream::connect(("127.0.0.1", port))?;
        request.write_all(
            b"GET /hooks/authpi HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        )?;
        let mut answer = String::new();
        request.read_to_string(&mut answer)?;
        assert!(answer.contains("405"), "{answer}");
        program.terminate()?;
        std::fs::remove_dir_all(&data)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ensure_webhook_creates_once_and_serves_without_authpi_too() -> Outcome {
    let port = free_port()?;
    let authpi = Emulator::builder()
        .retry_delays([Duration::from_millis(100); 20])
        .start()
        .await?;
    let data = folder("ensure_webhook")?;
    let start = |base_url: &str| -> Result<_, Box<dyn Error>> {
        let mut program = Running(
            example("ensure_webhook")
                .env("AUTHPI_BASE_URL", base_url)
                .env("AUTHPI_KEY_ID", authpi.key_id())
                .env("AUTHPI_KEY_SECRET", authpi.key_secret())
                .env("AUTHPI_ACCOUNT_ID", authpi.account_id())
                .env(
                    "PUBLIC_URL",
                    format!("http://127.0.0.1:{port}/hooks/authpi"),
                )
                .env("LISTEN", format!("127.0.0.1:{port}"))
                .env("DATA_DIR", &data)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?,
        );
        let printed = BufReader::new(program.0.stdout.take().ok_or("no output")?).lines();
        Ok((program, printed))
    };
    // With AuthPI available, with an existing webhook, and with AuthPI unavailable.
    let nowhere = format!("http://127.0.0.1:{}", free_port()?);
    for (base_url, first) in [
        (authpi.base_url(), Some(" created")),
        (authpi.base_url(), Some(" is up to date")),
        (&nowhere, None),
    ] {
        let (mut program, mut printed) = start(base_url)?;
        let mut line = || {
            printed
                .next()
                .ok_or("it ended")?
                .map_err(Box::<dyn Error>::from)
        };
        if let Some(first) = first {
            let printed = line()?;
            assert!(printed.ends_with(first), "{printed}");
        }
        let printed = line()?;
        assert!(printed.starts_with("listening"), "{printed}");
        authpi
            .trigger(NewEvent::new("user.created").subject(json!({ "user_id": "usr_1" })))
            .await?;
        assert_eq!(line()?, "created usr_1");
        timeout(Duration::from_mins(1), authpi.deliveries_finished()).await?;
        program.terminate()?;
    }
    assert_eq!(client(&authpi)?.webhooks().list().await?.items.len(), 1);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn catch_up_handles_what_was_missed_before_it_listens() -> Outcome {
    let port = free_port()?;
    let authpi = Emulator::builder().retry_delays([]).start().await?;
    let spec = WebhookSpec::new("users", format!("http://127.0.0.1:{port}/hooks/authpi"));
    let spec = spec.events([
        "user.created".into(),
        "user.updated".into(),
        "user.deleted".into(),
    ]);
    let made = client(&authpi)?.webhooks().create(&spec).await?;
    let mut missed = Vec::new();
    for event in ["user.created", "user.updated", "user.deleted"] {
        missed.push(authpi.trigger(event).await?.id);
    }
    timeout(Duration::from_mins(1), authpi.deliveries_finished()).await?;
    let data = folder("catch_up")?;
    let mut program = Running(
        example("catch_up")
            .env("AUTHPI_BASE_URL", authpi.base_url())
            .env("AUTHPI_KEY_ID", authpi.key_id())
            .env("AUTHPI_KEY_SECRET", authpi.key_secret())
            .env("AUTHPI_WEBHOOK_ID", &made.webhook.id)
            .env(
                "AUTHPI_WEBHOOK_SECRET",
                made.secret.ok_or("no secret")?.expose(),
            )
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("DATA_DIR", &data)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut lines = BufReader::new(program.0.stdout.take().ok_or("no output")?).lines();
    let mut handled = Vec::new();
    let printed = loop {
        let line = lines.next().ok_or("it has ended")??;
        if line.starts_with("caught up") {
            break line;
        }
        handled.extend(
            line.split_once(' ')
                .filter(|(id, _)| id.starts_with("evt_"))
                .map(|(id, _)| id.to_owned()),
        );
    };
    assert_eq!(printed, "caught up: 3 events were new, 0 known");
    assert_eq!(handled, missed);
    assert!(lines.next().ok_or("it has ended")??.contains("listening"));
    // Now it serves.
    let live = authpi.trigger("user.created").await?.id;
    assert!(lines.next().ok_or("it has ended")??.starts_with(&live));
    program.terminate()?;
    std::fs::remove_dir_all(&data)?;
    Ok(())
}
