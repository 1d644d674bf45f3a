//! `nats-server` with JetStream, in a folder of its own.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, jetstream};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{Process, folder, free_port, log, program, signal, stopped, until};

pub(crate) struct NatsServer {
    process: Option<Process>,
    folder: PathBuf,
    port: u16,
    jetstream: bool,
    /// The user of the tests' own connections.
    login: Option<(String, String)>,
}

/// A unique name for a stream and its subjects.
pub(crate) fn fresh_name() -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    format!("t{}", MADE.fetch_add(1, Ordering::Relaxed))
}

impl NatsServer {
    /// The shared one, which lives as long as this process.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<NatsServer> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    pub(crate) async fn start() -> Self {
        Self::start_with("", None).await
    }

    /// With a configuration file, in which this user and password have all permissions.
    pub(crate) async fn start_with(config: &str, login: Option<(&str, &str)>) -> Self {
        let server = Self::new();
        server.configured(config, login).started().await
    }

    pub(crate) async fn start_without_jetstream(config: &str) -> Self {
        Self {
            jetstream: false,
            ..Self::new().configured(config, None)
        }
        .started()
        .await
    }

    fn new() -> Self {
        let server = Self {
            process: None,
            folder: folder("nats", None),
            port: 0,
            jetstream: true,
            login: None,
        };
        server.configured("", None)
    }

    fn configured(mut self, config: &str, login: Option<(&str, &str)>) -> Self {
        self.configure(config, login);
        self
    }

    /// Takes effect at the next start.
    pub(crate) fn configure(&mut self, config: &str, login: Option<(&str, &str)>) {
        std::fs::write(self.folder.join("config"), config).expect("a file can be written");
        self.login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
    }

    async fn started(self) -> Self {
        let mut server = self;
        // Another program may take the port that was free.
        for _ in 0..5 {
            server.port = free_port();
            if server.begin().await {
                return server;
            }
        }
        panic!("nats-server does not start: {}", log(&server.folder));
    }

    /// Whether it accepts connections; false if it ended immediately.
    async fn begin(&mut self) -> bool {
        let (port, data) = (
            self.port.to_string(),
            self.folder.join("data").to_string_lossy().into_owned(),
        );
        let config = self.folder.join("config").to_string_lossy().into_owned();
        let args = [
            "--config",
            &config,
            "--addr",
            "127.0.0.1",
            "--port",
            &port,
            "--store_dir",
            &data,
            "--jetstream",
        ];
        let args = if self.jetstream {
            &args[..]
        } else {
            &args[..6]
        };
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        let nats_server = program("nats-server", "nats-server", &[PathBuf::from("/usr/sbin")]);
        let process = Process::start(None, "KILL", &self.folder, &nats_server, &args);
        let ready = until(
            || format!("nats-server does not answer: {}", log(&self.folder)),
            || async {
                match self.client().await {
                    // Until JetStream has read its files, it accepts connections but does not
                    // respond.
                    Ok(_) if !self.jetstream => Some(true),
                    Ok(client) => {
                        let reported: Result<Value, _> =
                            jetstream::new(client).request("INFO", &json!({})).await;
                        reported.ok().map(|_| true)
                    }
                    Err(error)
                        if !self.jetstream
                            && error.kind() == ConnectErrorKind::AuthorizationViolation =>
                    {
                        Some(true)
                    }
                    Err(_) if process.is_running() => None,
                    Err(_) => Some(false),
                }
            },
        );
        let ready = ready.await;
        if ready {
            self.process = Some(process);
        } else {
            process.stop();
        }
        ready
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its address.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A connection for the tests themselves.
    pub(crate) async fn client(&self) -> Result<Client, ConnectError> {
        let options = match &self.login {
            Some((user, password)) => {
                ConnectOptions::with_user_and_password(user.clone(), password.clone())
            }
            None => ConnectOptions::new(),
        };
        Box::pin(options.connect(self.url())).await
    }

    pub(crate) async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await.expect("it answers"))
    }

    /// Immediately, like a crash.
    pub(crate) fn stop(&mut self) {
        self.process.take().expect("it runs").stop();
    }

    /// After a stop, with the same data at the same port.
    pub(crate) async fn start_again(&mut self) {
        assert!(
            self.begin().await,
            "nats-server does not start again: {}",
            log(&self.folder)
        );
    }

    /// Stops the server, whatever it is doing, until the result is dropped.
    pub(crate) fn pause(&self) -> Paused {
        let pid = self.process.as_ref().expect("it runs").pid;
        signal("STOP", &[pid]);
        stopped(&[pid]);
        Paused { pid }
    }
}

/// Continues the server when dropped.
pub(crate) struct Paused {
    pid: u32,
}

impl Drop for Paused {
    fn drop(&mut self) {
        signal("CONT", &[self.pid]);
    }
}
