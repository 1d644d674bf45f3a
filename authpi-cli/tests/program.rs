//! The `authpi` program, run as a process.

use std::{
    env, fs,
    path::Path,
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// The timeout of everything that a test waits for.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);
/// The meaning of "within a few seconds".
const FEW_SECONDS: Duration = Duration::from_secs(5);

fn authpi() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_authpi"));
    for variable in [
        "AUTHPI_BASE_URL",
        "AUTHPI_ACCOUNT_ID",
        "AUTHPI_KEY_ID",
        "AUTHPI_KEY_SECRET",
    ] {
        command.env_remove(variable);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

async fn run(command: &mut Command) -> Output {
    timeout(TEST_TIMEOUT, command.output())
        .await
        .expect("the program did not end")
        .unwrap()
}

#[track_caller]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Answers 200 to each delivery.
struct Receiver {
    url: String,
    event_types: tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<String>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let (tell, event_types) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, tell.clone()));
            }
        });
        Self {
            url,
            event_types: event_types.into(),
        }
    }

    async fn next_event_type(&self) -> String {
        let mut event_types = self.event_types.lock().await;
        timeout(TEST_TIMEOUT, event_types.recv())
            .await
            .expect("no delivery came")
            .unwrap()
    }
}

/// Serves a connection, as far as the emulator's deliveries need it.
async fn answer(stream: TcpStream, tell: tokio::sync::mpsc::UnboundedSender<String>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream
                .read_line(&mut line)
                .await
                .ok()
                .filter(|read| *read > 0)?;
            match line.trim().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().ok()?;
                }
                None if line.trim().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        let body: Value = serde_json::from_slice(&body).ok()?;
        stream
            .get_mut()
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .ok()?;
        tell.send(body["data"]["type"].as_str()?.to_owned()).ok()?;
    }
}

/// A running `authpi emulate --json`.
struct Emulate {
    child: Child,
    out: BufReader<ChildStdout>,
    output: Value,
}

impl Emulate {
    async fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, Stdio::inherit()).await
    }

    async fn start_with(arguments: &[&str], stderr: Stdio) -> Self {
        let mut command = authpi();
        command
            .args(["emulate", "--json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        timeout(TEST_TIMEOUT, out.read_line(&mut line))
            .await
            .expect("the program printed no line")
            .unwrap();
        Self {
            child,
            out,
            output: serde_json::from_str(&line).unwrap(),
        }
    }

    fn output(&self, name: &str) -> &str {
        self.output[name].as_str().unwrap()
    }

    fn address(&self) -> &str {
        self.output("base_url").strip_prefix("http://").unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!(
            "{}/v1/accounts/{}{path}",
            self.output("base_url"),
            self.output("account_id")
        );
        let request = http()
            .post(url)
            .basic_auth(self.output("key_id"), Some(self.output("key_secret")));
        let answer = request.json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.json().await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!(
            "{}/v1/accounts/{}{path}",
            self.output("base_url"),
            self.output("account_id")
        );
        let request = http()
            .get(url)
            .basic_auth(self.output("key_id"), Some(self.output("key_secret")));
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Waits until every delivery of this event type has finished.
    async fn until_over(&self, event_type: &str) {
        let over = async {
            loop {
                let mut deliveries = Vec::new();
                for webhook in self.get("/webhooks").await["data"].as_array().unwrap() {
                    let path = format!(
                        "/webhooks/{}/deliveries?event_type={event_type}",
                        webhook["id"].as_str().unwrap()
                    );
                    deliveries.extend(self.get(&path).await["data"].as_array().unwrap().clone());
                }
                if !deliveries.is_empty()
                    && deliveries
                        .iter()
                        .all(|delivery| delivery["status"] != "pending")
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TEST_TIMEOUT, over)
            .await
            .expect("a delivery is not over");
    }

    /// `authpi trigger` with this emulator's settings.
    fn trigger(&self, arguments: &[&str]) -> Command {
        let mut command = authpi();
        command.arg("trigger").args(arguments);
        for (variable, name) in [
            ("AUTHPI_BASE_URL", "base_url"),
            ("AUTHPI_ACCOUNT_ID", "account_id"),
            ("AUTHPI_KEY_ID", "key_id"),
            ("AUTHPI_KEY_SECRET", "key_secret"),
        ] {
            command.env(variable, self.output(name));
        }
        command
    }

    #[cfg(unix)]
    async fn signalled(mut self, name: &str) -> (ExitStatus, String) {
        let kill = format!("kill -{name} {}", self.child.id().unwrap());
        assert!(
            Command::new("sh")
                .arg("-c")
                .arg(kill)
                .status()
                .await
                .unwrap()
                .success()
        );
        let status = timeout(FEW_SECONDS, self.child.wait())
            .await
            .expect("the program did not end")
            .unwrap();
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).await.unwrap();
        (status, rest)
    }
}

#[tokio::test]
async fn the_first_line_of_json_is_all_that_a_client_needs() {
    let emulate = Emulate::start(&[]).await;
    let names: Vec<_> = emulate
        .output
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        names,
        [
            "access_token",
            "account_id",
            "base_url",
            "key_id",
            "key_secret"
        ]
    );
    let me = http().get(format!("{}/v1/me", emulate.output("base_url")));
    let basic = me
        .try_clone()
        .unwrap()
        .basic_auth(emulate.output("key_id"), Some(emulate.output("key_secret")));
    for request in [basic, me.bearer_auth(emulate.output("access_token"))] {
        let me: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(
            me["data"]["accounts"][0]["account_id"],
            emulate.output("account_id")
        );
    }
}

#[tokio::test]
async fn without_json_it_prints_lines_for_a_shell() {
    let mut command = authpi();
    let mut child = command
        .args(["emulate", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut names = Vec::new();
    while names.len() < 4 {
        let line = timeout(TEST_TIMEOUT, lines.next_line())
            .await
            .expect("the program printed too little")
            .unwrap()
            .unwrap();
        if let Some((name, value)) = line
            .strip_prefix("export ")
            .and_then(|line| line.split_once('='))
        {
            assert!(
                value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_:/.".contains(&byte)),
                "{line} needs quotes"
            );
            names.push(name.to_owned());
        }
    }
    assert_eq!(
        names,
        [
            "AUTHPI_BASE_URL",
            "AUTHPI_ACCOUNT_ID",
            "AUTHPI_KEY_ID",
            "AUTHPI_KEY_SECRET"
        ]
    );
}

#[cfg(unix)]
#[tokio::test]
async fn it_ends_soon_after_a_signal_despite_open_connections() {
    for signal in ["INT", "TERM"] {
        let emulate = Emulate::start(&[]).await;
        let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", receiver.local_addr().unwrap());
        emulate
            .post(
                "/webhooks",
                json!({"name": "n", "url": url, "events": ["user.created"]}),
            )
            .await;
        assert!(
            run(&mut emulate.trigger(&["user.created"]))
                .await
                .status
                .success()
        );
        let (_hanging, _) = timeout(TEST_TIMEOUT, receiver.accept())
            .await
            .expect("no delivery came")
            .unwrap();
        let _idle = TcpStream::connect(emulate.address()).await.unwrap();
        let mut half = TcpStream::connect(emulate.address()).await.unwrap();
        half.write_all(b"POST /v1/me HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345")
            .await
            .unwrap();
        let (status, rest) = emulate.signalled(signal).await;
        assert!(status.success(), "{signal}: {status}");
        assert_eq!(rest, "", "it printed more than its first line");
    }
}

#[tokio::test]
async fn trigger_makes_an_event_happen_with_what_it_is_given() {
    let emulate = Emulate::start(&["--retry-delays", ""]).await;
    let arguments = [
        "user.created",
        "--subject",
        "user_id=usr_1",
        "--subject=issuer_id=i_1",
        "--data",
        r#"{"id": "usr_1"}"#,
        "--copies",
        "2",
    ];
    let done = run(&mut emulate.trigger(&arguments)).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
    let event: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (&event["type"], &event["data"]),
        (&json!("user.created"), &json!({"id": "usr_1"}))
    );
    assert_eq!(
        event["subject"],
        json!({"user_id": "usr_1", "issuer_id": "i_1"})
    );

    // The same with options, and examples for the omitted ones.
    let mut by_options = authpi();
    by_options.args([
        "trigger",
        "organization.created",
        "--base-url",
        emulate.output("base_url"),
    ]);
    by_options.args([
        "--key-id",
        emulate.output("key_id"),
        "--key-secret",
        emulate.output("key_secret"),
    ]);
    let done = run(&mut by_options).await;
    let event: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(
        event["data"]["id"].is_string() && event["data"]["id"] == event["subject"]["org_id"],
        "{event}"
    );
}

#[tokio::test]
async fn trigger_fails_with_a_reason_and_without_the_secret() {
    let emulate = Emulate::start(&[]).await;
    let secret = emulate.output("key_secret");
    let mut wrong_account = emulate.trigger(&["user.created"]);
    wrong_account.env("AUTHPI_ACCOUNT_ID", "acc_other");
    let mut wrong_secret = emulate.trigger(&["user.created"]);
    wrong_secret.env("AUTHPI_KEY_SECRET", format!("{secret}x"));
    let mut nobody_there = emulate.trigger(&["user.created"]);
    nobody_there.env("AUTHPI_BASE_URL", "http://127.0.0.1:1");
    let mut authpi_itself = emulate.trigger(&["user.created"]);
    authpi_itself.env("AUTHPI_BASE_URL", "https://api.authpi.com");
    for (mut command, status, reason) in [
        (
            emulate.trigger(&["user.invented"]),
            1,
            "is not in the catalogue of event types",
        ),
        (
            emulate.trigger(&["user.create"]),
            1,
            "did you mean user.created",
        ),
        (
            emulate.trigger(&["user.teleported"]),
            1,
            "--allow-unknown-type",
        ),
        (
            emulate.trigger(&["User Created", "--allow-unknown-type"]),
            1,
            "must be words of",
        ),
        (
            emulate.trigger(&["user.created", "--subject", "a=1", "--subject", "a=2"]),
            1,
            "names a twice",
        ),
        (wrong_account, 1, "do not reach this account"),
        (wrong_secret, 1, "credentials are not valid"),
        (nobody_there, 1, "cannot be reached"),
        (authpi_itself, 1, "is not an emulator"),
        (
            emulate.trigger(&["user.created", "--data", "[]"]),
            2,
            "must be a JSON object",
        ),
        (
            emulate.trigger(&["user.created", "--subject", "usr_1"]),
            2,
            "must be of the form user_id=usr_1",
        ),
        (emulate.trigger(&[]), 2, "<EVENT_TYPE>"),
    ] {
        let done = run(&mut command).await;
        let output = text(&done.stderr);
        assert_eq!(done.status.code(), Some(status), "{output}");
        assert!(
            output.contains(reason) && !output.contains(secret),
            "{output}"
        );
        assert_eq!(text(&done.stdout), "");
    }
}

#[tokio::test]
async fn arguments_that_cannot_be_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (arguments, status, reason) in [
        (
            ["--allow-host", "http://app:8080"],
            1,
            "without scheme, port and path",
        ),
        (
            ["--max-pending", "0"],
            2,
            "must be a whole number from 1 on",
        ),
        (["--retry-delays", "5"], 2, "is not a delay"),
        (
            ["--signature-scheme", "md5"],
            2,
            "must be authpi, timestamped or standard-webhooks",
        ),
        (["--listen", "everywhere"], 2, "--listen"),
        (["--listen", &taken], 1, "cannot listen on"),
    ] {
        let done = run(authpi().arg("emulate").args(arguments)).await;
        let output = text(&done.stderr);
        assert_eq!(done.status.code(), Some(status), "{output}");
        assert!(output.contains(reason), "{output}");
    }
}

#[tokio::test]
async fn trigger_says_what_is_missing_to_reach_the_emulator() {
    let given = ["AUTHPI_BASE_URL", "AUTHPI_KEY_ID", "AUTHPI_KEY_SECRET"];
    for missing in given {
        // An empty environment variable counts as not set.
        for empty in [false, true] {
            let mut command = authpi();
            command.args(["trigger", "user.created"]);
            for name in given {
                command.env(name, "http://127.0.0.1:1");
            }
            if empty {
                command.env(missing, "");
            } else {
                command.env_remove(missing);
            }
            let done = run(&mut command).await;
            let output = text(&done.stderr);
            assert_eq!(done.status.code(), Some(1), "{output}");
            assert!(
                output.starts_with(&format!("authpi: {missing} is not set"))
                    && output.contains("authpi emulate"),
                "{output}"
            );
        }
    }
}

#[tokio::test]
async fn trigger_takes_its_arguments_in_the_order_of_its_usage_line() {
    let emulate = Emulate::start(&[]).await;
    let help = run(authpi().args(["trigger", "--help"])).await;
    let usage = text(&help.stdout)
        .lines()
        .find(|line| line.starts_with("Usage:"))
        .unwrap()
        .to_owned();
    assert!(
        usage.contains("[OPTIONS]") && usage.ends_with("<EVENT_TYPE>"),
        "{usage}"
    );
    for arguments in [
        &["--subject", "user_id=u1", "user.created"][..],
        &[
            "--subject",
            "user_id=u1",
            "--subject",
            "issuer_id=i1",
            "--copies",
            "2",
            "user.created",
        ],
        &["user.created", "--subject", "user_id=u1"],
    ] {
        let done = run(&mut emulate.trigger(arguments)).await;
        assert!(
            done.status.success(),
            "{arguments:?}: {}",
            text(&done.stderr)
        );
        let event: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(
            (&event["type"], &event["subject"]["user_id"]),
            (&json!("user.created"), &json!("u1"))
        );
    }
}

#[tokio::test]
async fn trigger_reports_events_without_webhooks_and_allows_unknown_types() {
    let emulate = Emulate::start(&["--retry-delays", ""]).await;
    let receiver = Receiver::start().await;
    let said_nothing = |done: &Output| text(&done.stderr).is_empty();
    for arguments in [
        &["user.created"][..],
        &["user.teleported", "--allow-unknown-type"],
    ] {
        let done = run(&mut emulate.trigger(arguments)).await;
        assert!(done.status.success(), "{}", text(&done.stderr));
        let output = text(&done.stderr);
        assert!(
            output.contains("not delivered") && output.contains(arguments[0]),
            "{output}"
        );
        let event: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(event["type"], arguments[0]);
    }
    emulate
        .post(
            "/webhooks",
            json!({"name": "n", "url": receiver.url, "events": ["user.deleted"]}),
        )
        .await;
    let done = run(&mut emulate.trigger(&["user.created"])).await;
    assert!(done.status.success() && text(&done.stderr).contains("not delivered"));
    emulate
        .post("/webhooks", json!({"name": "all", "url": receiver.url}))
        .await;
    for arguments in [
        &["user.created"][..],
        &["user.teleported", "--allow-unknown-type"],
    ] {
        let done = run(&mut emulate.trigger(arguments)).await;
        assert!(
            done.status.success() && said_nothing(&done),
            "{}",
            text(&done.stderr)
        );
        // Creating the second webhook caused no event for the first.
        assert_eq!(receiver.next_event_type().await, arguments[0]);
    }
}

/// The end of a pipe whose other end is closed.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[tokio::test]
async fn a_closed_pipe_ends_every_command_quietly() {
    let emulate = Emulate::start(&[]).await;
    let with = |arguments: &[&str]| {
        let mut command = authpi();
        command.args(arguments);
        command
    };
    for mut command in [
        with(&["--help"]),
        with(&["--version"]),
        with(&["emulate", "--help"]),
        with(&["emulate", "--json"]),
        with(&["emulate"]),
        emulate.trigger(&["user.created"]),
    ] {
        let done = timeout(
            TEST_TIMEOUT,
            command
                .stdout(closed())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
                .wait_with_output(),
        );
        let done = done
            .await
            .unwrap_or_else(|_| panic!("{command:?} did not end"))
            .unwrap();
        let output = text(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{command:?}: {output}");
        assert!(
            !output.contains("panicked") && !output.contains("closed"),
            "{command:?}: {output}"
        );
    }
    // Without standard error, a command still works.
    let done = run(emulate
        .trigger(&["user.created"])
        .stderr(closed())
        .stdout(Stdio::piped()))
    .await;
    assert_eq!(done.status.code(), Some(0));
    assert!(serde_json::from_slice::<Value>(&done.stdout).is_ok());
    let done = run(emulate.trigger(&["user.invented"]).stderr(closed())).await;
    assert_eq!(done.status.code(), Some(1));
}

#[cfg(unix)]
#[tokio::test]
async fn emulate_prints_a_line_per_delivery_unless_it_is_quiet() {
    for quiet in [false, true] {
        let mut arguments = vec!["--retry-delays", ""];
        arguments.extend(quiet.then_some("--quiet"));
        let mut emulate = Emulate::start_with(&arguments, Stdio::piped()).await;
        let receiver = Receiver::start().await;
        let url = format!("{}?token=secret", receiver.url);
        emulate
            .post(
                "/webhooks",
                json!({"name": "n", "url": url, "events": ["user.created"]}),
            )
            .await;
        let elsewhere = "http://app.example:8080/hooks?token=secret";
        emulate
            .post(
                "/webhooks",
                json!({"name": "m", "url": elsewhere, "events": ["user.updated"]}),
            )
            .await;
        let mut err = BufReader::new(emulate.child.stderr.take().unwrap());
        let mut output = String::new();
        timeout(TEST_TIMEOUT, err.read_line(&mut output))
            .await
            .expect("no warning")
            .unwrap();
        for event_type in ["user.created", "user.updated"] {
            assert!(
                run(&mut emulate.trigger(&[event_type]))
                    .await
                    .status
                    .success()
            );
            emulate.until_over(event_type).await;
            if !quiet {
                timeout(TEST_TIMEOUT, err.read_line(&mut output))
                    .await
                    .expect("no line")
                    .unwrap();
            }
        }
        emulate.signalled("TERM").await;
        err.read_to_string(&mut output).await.unwrap();
        let lines: Vec<_> = output.lines().collect();
        assert!(!output.contains("secret"), "{output}");
        assert!(
            lines[0].starts_with("warning: ") && lines[0].contains("--allow-host app.example"),
            "{output}"
        );
        if quiet {
            assert_eq!(lines.len(), 1, "{output}");
            continue;
        }
        let (_, created) = lines[1].split_once("user.created evt_").expect(&output);
        assert!(
            created.contains(&format!(" -> {}: 200 in ", receiver.url)),
            "{output}"
        );
        let (_, updated) = lines[2].split_once("user.updated evt_").expect(&output);
        assert!(
            updated.contains("failed: ") && updated.contains("--allow-host app.example"),
            "{output}"
        );
        assert!(updated.ends_with("(attempt 1 of 1, given up)"), "{output}");
        assert_eq!(lines.len(), 3, "{output}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn emulate_delivers_although_nobody_reads_its_log() {
    let mut emulate = Emulate::start_with(&["--retry-delays", ""], Stdio::piped()).await;
    let receiver = Receiver::start().await;
    let url = format!("{}/{}", receiver.url, "x".repeat(4_000));
    emulate
        .post(
            "/webhooks",
            json!({"name": "n", "url": url, "events": ["user.created"]}),
        )
        .await;
    // More than the pipe and the queue can hold: about 8 MB.
    let done = run(&mut emulate.trigger(&["user.created", "--copies", "1000"])).await;
    assert!(done.status.success());
    let done = run(&mut emulate.trigger(&["user.created", "--copies", "1000"])).await;
    assert!(done.status.success());
    for _ in 0..2_000 {
        receiver.next_event_type().await;
    }
    // It still ends immediately.
    let _unread = emulate.child.stderr.take();
    assert!(emulate.signalled("TERM").await.0.success());
}

#[tokio::test]
async fn the_help_is_as_it_was() {
    let mut help = Vec::new();
    for arguments in [
        &["--help"][..],
        &["emulate", "--help"],
        &["trigger", "--help"],
    ] {
        let done = run(authpi().args(arguments)).await;
        help.push(format!("$ authpi {}", arguments.join(" ")));
        help.extend(
            text(&done.stdout)
                .lines()
                .map(|line| line.trim_end().to_owned()),
        );
        help.push(String::new());
    }
    let help = help.join("\n");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &help).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap();
    assert_eq!(help, expected, "UPDATE_GOLDEN=1 accepts the change");
}

/// When the whole workspace is tested together, authpi-sdk's feature `rustls` enables reqwest's
/// without a provider, and then every reqwest client needs one.
fn http() -> reqwest::Client {
    // An error means that another test has done this already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
