//! The `authpi` program, as a process.

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

/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);
/// What "within a few seconds" is.
const FEW_SECONDS: Duration = Duration::from_secs(5);

fn authpi() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_authpi"));
    for variable in ["AUTHPI_BASE_URL", "AUTHPI_ACCOUNT_ID", "AUTHPI_KEY_ID", "AUTHPI_KEY_SECRET"] {
        command.env_remove(variable);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

async fn run(command: &mut Command) -> Output {
    timeout(PATIENCE, command.output()).await.expect("the program did not end").unwrap()
}

#[track_caller]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A running `authpi emulate --json`.
struct Emulate {
    child: Child,
    out: BufReader<ChildStdout>,
    told: Value,
}

impl Emulate {
    async fn start(arguments: &[&str]) -> Self {
        let mut command = authpi();
        let mut child = command.args(["emulate", "--json"]).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        timeout(PATIENCE, out.read_line(&mut line)).await.expect("the program printed no line").unwrap();
        Self { child, out, told: serde_json::from_str(&line).unwrap() }
    }

    fn told(&self, name: &str) -> &str {
        self.told[name].as_str().unwrap()
    }

    fn address(&self) -> &str {
        self.told("base_url").strip_prefix("http://").unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}/v1/accounts/{}{path}", self.told("base_url"), self.told("account_id"));
        let request = http().post(url).basic_auth(self.told("key_id"), Some(self.told("key_secret")));
        let answer = request.json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.json().await.unwrap()
    }

    /// `authpi trigger` with what this emulator printed.
    fn trigger(&self, arguments: &[&str]) -> Command {
        let mut command = authpi();
        command.arg("trigger").args(arguments);
        for (variable, name) in [
            ("AUTHPI_BASE_URL", "base_url"),
            ("AUTHPI_ACCOUNT_ID", "account_id"),
            ("AUTHPI_KEY_ID", "key_id"),
            ("AUTHPI_KEY_SECRET", "key_secret"),
        ] {
            command.env(variable, self.told(name));
        }
        command
    }

    #[cfg(unix)]
    async fn signalled(mut self, name: &str) -> (ExitStatus, String) {
        let kill = format!("kill -{name} {}", self.child.id().unwrap());
        assert!(Command::new("sh").arg("-c").arg(kill).status().await.unwrap().success());
        let status = timeout(FEW_SECONDS, self.child.wait()).await.expect("the program did not end").unwrap();
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).await.unwrap();
        (status, rest)
    }
}

#[tokio::test]
async fn the_first_line_of_json_is_all_that_a_client_needs() {
    let emulate = Emulate::start(&[]).await;
    let names: Vec<_> = emulate.told.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["access_token", "account_id", "base_url", "key_id", "key_secret"]);
    let me = http().get(format!("{}/v1/me", emulate.told("base_url")));
    let basic = me.try_clone().unwrap().basic_auth(emulate.told("key_id"), Some(emulate.told("key_secret")));
    for request in [basic, me.bearer_auth(emulate.told("access_token"))] {
        let me: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(me["data"]["accounts"][0]["account_id"], emulate.told("account_id"));
    }
}

#[tokio::test]
async fn without_json_it_prints_lines_for_a_shell() {
    let mut command = authpi();
    let mut child = command.args(["emulate", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut names = Vec::new();
    while names.len() < 4 {
        let line =
            timeout(PATIENCE, lines.next_line()).await.expect("the program printed too little").unwrap().unwrap();
        if let Some((name, value)) = line.strip_prefix("export ").and_then(|line| line.split_once('=')) {
            assert!(
                value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:/.".contains(&byte)),
                "{line} needs quotes"
            );
            names.push(name.to_owned());
        }
    }
    assert_eq!(names, ["AUTHPI_BASE_URL", "AUTHPI_ACCOUNT_ID", "AUTHPI_KEY_ID", "AUTHPI_KEY_SECRET"]);
}

#[cfg(unix)]
#[tokio::test]
async fn it_ends_soon_after_a_signal_with_connections_open_and_a_receiver_that_hangs() {
    for signal in ["INT", "TERM"] {
        let emulate = Emulate::start(&[]).await;
        let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", receiver.local_addr().unwrap());
        emulate.post("/webhooks", json!({"name": "n", "url": url, "events": ["user.created"]})).await;
        assert!(run(&mut emulate.trigger(&["user.created"])).await.status.success());
        let (_hanging, _) = timeout(PATIENCE, receiver.accept()).await.expect("no delivery came").unwrap();
        let _idle = TcpStream::connect(emulate.address()).await.unwrap();
        let mut half = TcpStream::connect(emulate.address()).await.unwrap();
        half.write_all(b"POST /v1/me HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345").await.unwrap();
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
        "issuer_id=i_1",
        "--data",
        r#"{"id": "usr_1"}"#,
        "--copies",
        "2",
    ];
    let done = run(&mut emulate.trigger(&arguments)).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
    let event: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&event["type"], &event["data"]), (&json!("user.created"), &json!({"id": "usr_1"})));
    assert_eq!(event["subject"], json!({"user_id": "usr_1", "issuer_id": "i_1"}));

    // The same by options, and examples for what is not given.
    let mut by_options = authpi();
    by_options.args(["trigger", "organization.created", "--base-url", emulate.told("base_url")]);
    by_options.args(["--key-id", emulate.told("key_id"), "--key-secret", emulate.told("key_secret")]);
    let done = run(&mut by_options).await;
    let event: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(event["data"]["id"].is_string() && event["data"]["id"] == event["subject"]["org_id"], "{event}");
}

#[tokio::test]
async fn trigger_fails_with_a_reason_and_without_the_secret() {
    let emulate = Emulate::start(&[]).await;
    let secret = emulate.told("key_secret");
    let mut wrong_account = emulate.trigger(&["user.created"]);
    wrong_account.env("AUTHPI_ACCOUNT_ID", "acc_other");
    let mut wrong_secret = emulate.trigger(&["user.created"]);
    wrong_secret.env("AUTHPI_KEY_SECRET", format!("{secret}x"));
    let mut nobody_there = emulate.trigger(&["user.created"]);
    nobody_there.env("AUTHPI_BASE_URL", "http://127.0.0.1:1");
    let mut authpi_itself = emulate.trigger(&["user.created"]);
    authpi_itself.env("AUTHPI_BASE_URL", "https://api.authpi.com");
    for (mut command, status, reason) in [
        (emulate.trigger(&["user.invented"]), 1, "no event type of the catalogue"),
        (wrong_account, 1, "do not reach this account"),
        (wrong_secret, 1, "credentials are not valid"),
        (nobody_there, 1, "cannot be reached"),
        (authpi_itself, 1, "is no emulator"),
        (emulate.trigger(&["user.created", "--data", "[]"]), 2, "must be a JSON object"),
        (emulate.trigger(&["user.created", "--subject", "usr_1"]), 2, "must be of the form user_id=usr_1"),
        (emulate.trigger(&[]), 2, "<EVENT_TYPE>"),
    ] {
        let done = run(&mut command).await;
        let told = text(&done.stderr);
        assert_eq!(done.status.code(), Some(status), "{told}");
        assert!(told.contains(reason) && !told.contains(secret), "{told}");
        assert_eq!(text(&done.stdout), "");
    }
}

#[tokio::test]
async fn arguments_that_cannot_be_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (arguments, status, reason) in [
        (["--retry-delays", "5"], 2, "is no delay"),
        (["--signature-scheme", "md5"], 2, "must be authpi, timestamped or standard-webhooks"),
        (["--listen", "everywhere"], 2, "--listen"),
        (["--listen", &taken], 1, "cannot listen on"),
    ] {
        let done = run(authpi().arg("emulate").args(arguments)).await;
        let told = text(&done.stderr);
        assert_eq!(done.status.code(), Some(status), "{told}");
        assert!(told.contains(reason), "{told}");
    }
}

#[tokio::test]
async fn the_help_is_as_it_was() {
    let mut help = Vec::new();
    for arguments in [&["--help"][..], &["emulate", "--help"], &["trigger", "--help"]] {
        let done = run(authpi().args(arguments)).await;
        help.push(format!("$ authpi {}", arguments.join(" ")));
        help.extend(text(&done.stdout).lines().map(|line| line.trim_end().to_owned()));
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

/// Where the whole workspace is tested at once, authpi-sdk's feature `rustls` turns reqwest's on without a provider, and every
/// client of reqwest wants one then.
fn http() -> reqwest::Client {
    // An error says that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
