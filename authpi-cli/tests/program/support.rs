//! Running the program, an emulator, and a receiver of deliveries.

#[cfg(unix)]
pub(crate) use std::process::ExitStatus;
pub(crate) use std::{
    process::{Output, Stdio},
    time::Duration,
};

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use authpi_sdk::{
    event::{Event, types::UserCreated},
    handlers::{Context, Handlers},
    receiver::Receiver as SdkReceiver,
    signature::{KeyRing, Verifier},
    stores::Memory,
};
pub(crate) use tokio::sync::mpsc;

pub(crate) use serde_json::{Value, json};
pub(crate) use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// The timeout of everything that a test waits for.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(20);
/// The meaning of "within a few seconds".
pub(crate) const FEW_SECONDS: Duration = Duration::from_secs(5);

pub(crate) fn authpi() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_authpi"));
    for variable in [
        "AUTHPI_BASE_URL",
        "AUTHPI_ACCOUNT_ID",
        "AUTHPI_KEY_ID",
        "AUTHPI_KEY_SECRET",
        "AUTHPI_PROFILE",
        "AUTHPI_WEBHOOK_SECRET",
    ] {
        command.env_remove(variable);
    }
    // Not the profiles of the user who runs the tests.
    command.env("AUTHPI_CONFIG", "/nonexistent/authpi.toml");
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

pub(crate) async fn run(command: &mut Command) -> Output {
    timeout(TEST_TIMEOUT, command.output())
        .await
        .expect("the program did not end")
        .unwrap()
}

#[track_caller]
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Answers 200 to each delivery.
pub(crate) struct Receiver {
    pub(crate) url: String,
    event_types: tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<String>>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn on(listener: TcpListener) -> Self {
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let (sender, event_types) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, sender.clone()));
            }
        });
        Self {
            url,
            event_types: event_types.into(),
        }
    }

    pub(crate) async fn next_event_type(&self) -> String {
        let mut event_types = self.event_types.lock().await;
        timeout(TEST_TIMEOUT, event_types.recv())
            .await
            .expect("no delivery came")
            .unwrap()
    }
}

/// Serves a connection, as far as the emulator's deliveries need it.
pub(crate) async fn answer(
    stream: TcpStream,
    sender: tokio::sync::mpsc::UnboundedSender<String>,
) -> Option<()> {
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
        // A test that does not ask for the types has dropped their receiver. The connection stays: if
        // it closed now, the emulator could use it once more before it noticed.
        let _ = sender.send(body["data"]["type"].as_str()?.to_owned());
    }
}

/// A running `authpi emulate --json`.
pub(crate) struct Emulate {
    pub(crate) child: Child,
    out: BufReader<ChildStdout>,
    pub(crate) output: Value,
}

impl Emulate {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, Stdio::inherit()).await
    }

    pub(crate) async fn start_with(arguments: &[&str], stderr: Stdio) -> Self {
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

    pub(crate) fn output(&self, name: &str) -> &str {
        self.output[name].as_str().unwrap()
    }

    pub(crate) fn address(&self) -> &str {
        self.output("base_url").strip_prefix("http://").unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        self.post_with(path, body, None).await
    }

    /// With an idempotency key.
    pub(crate) async fn post_once(&self, path: &str, body: Value, key: &str) -> Value {
        self.post_with(path, body, Some(key)).await
    }

    async fn post_with(&self, path: &str, body: Value, key: Option<&str>) -> Value {
        let url = format!(
            "{}/v1/accounts/{}{path}",
            self.output("base_url"),
            self.output("account_id")
        );
        let request = http()
            .post(url)
            .basic_auth(self.output("key_id"), Some(self.output("key_secret")));
        let request = match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        let answer = request.json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.json().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
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
    pub(crate) async fn until_over(&self, event_type: &str) {
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
    pub(crate) fn trigger(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["trigger"]);
        command.args(arguments);
        command
    }

    /// `authpi` with this emulator's settings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = authpi();
        command.args(arguments);
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
    pub(crate) async fn signalled(mut self, name: &str) -> (ExitStatus, String) {
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

/// A real receiver, and the ids of the users that it handles. The first `failures` attempts fail.
pub(crate) async fn sdk_receiver(
    secret: &str,
    failures: usize,
) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("http://{address}/hooks");
    let (sender, users) = mpsc::unbounded_channel();
    let state = (sender, AtomicUsize::new(failures));
    let handlers = Handlers::new(state).on(async |event: Event<UserCreated>, at: Context<_>| {
        let (sender, left): &(mpsc::UnboundedSender<String>, AtomicUsize) = at.state();
        let fail = |left: usize| left.checked_sub(1);
        if left.fetch_update(SeqCst, SeqCst, fail).is_ok() {
            return Err("not yet".into());
        }
        sender.send(event.subject().user_id().unwrap_or_default().to_owned())?;
        Ok(())
    });
    let verifier = Verifier::authpi(KeyRing::new().with("tests", secret));
    let receiver = SdkReceiver::inline("users", verifier, Memory::new(), handlers)
        .build()
        .unwrap();
    let app = axum::Router::new().route_service("/hooks", receiver);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, users)
}

/// An address whose connections are forwarded, or closed at once while it leads nowhere.
pub(crate) struct Way {
    pub(crate) address: std::net::SocketAddr,
    target: tokio::sync::watch::Sender<Option<String>>,
}

impl Way {
    /// Leads nowhere yet.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (target, current) = tokio::sync::watch::channel(None::<String>);
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                let mut current = current.clone();
                tokio::spawn(async move {
                    let Some(target) = current.borrow_and_update().clone() else {
                        return;
                    };
                    let mut there = TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut here, &mut there) => {}
                        _ = current.changed() => {}
                    }
                });
            }
        });
        Self { address, target }
    }

    /// Forwards new connections to this address, or to that of this URL.
    pub(crate) fn lead_to(&self, target: &str) {
        let target = target.strip_prefix("http://").unwrap_or(target);
        let address = target.split('/').next().unwrap_or_default();
        self.target.send_replace(Some(address.to_owned()));
    }

    /// Closes all connections, and new ones at once.
    pub(crate) fn cut(&self) {
        self.target.send_replace(None);
    }
}

/// Runs a command that must succeed, and returns its records.
pub(crate) async fn records(command: &mut Command) -> Vec<Value> {
    let done = run(command).await;
    assert!(done.status.success(), "{command:?}: {}", text(&done.stderr));
    text(&done.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The same for a command with one record.
pub(crate) async fn record(command: &mut Command) -> Value {
    let mut records = records(command).await;
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

/// Runs a command that must fail with this code and a line that contains this text.
pub(crate) async fn fails(command: &mut Command, code: i32, why: &str) {
    let done = run(command).await;
    let output = text(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{command:?}: {output}");
    assert!(output.contains(why), "{command:?}: {output}");
    assert_eq!(text(&done.stdout), "", "{command:?}");
}

/// When the whole workspace is tested together, authpi-sdk's feature `rustls` enables reqwest's
/// without a provider, and then every reqwest client needs one.
pub(crate) fn http() -> reqwest::Client {
    // An error means that another test has done this already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
