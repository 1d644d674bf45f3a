//! `postgres`, made by `initdb`.

use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::OnceCell;

use super::{Account, Process, command, folder, free_port, log, program, signal, stopped, until};

pub(crate) struct PostgresServer {
    process: Option<Process>,
    account: Option<Account>,
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
}

/// A unique prefix for tables.
pub(crate) fn fresh_prefix() -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    format!("t{}_", MADE.fetch_add(1, Ordering::Relaxed))
}

impl PostgresServer {
    /// The shared one, which lives as long as this process.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<PostgresServer> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    pub(crate) async fn start() -> Self {
        // The data must survive a crash of the server, but need not survive a power loss.
        Self::start_with(&["-c", "fsync=off"]).await
    }

    pub(crate) async fn start_with(settings: &[&str]) -> Self {
        let account = Account::other_than_root();
        let folder = folder("postgres", account);
        let made = command(account, &binary("initdb"))
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--pgdata",
            ])
            .arg(folder.join("data"))
            .output()
            .expect("initdb starts");
        assert!(
            made.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        Self::at_a_free_port(Self {
            process: None,
            account,
            folder,
            port: 0,
            settings,
        })
        .await
    }

    /// A hot standby that follows this server.
    pub(crate) async fn standby(&self) -> Self {
        let (account, port) = (self.account, self.port.to_string());
        let folder = folder("standby", account);
        let copied = command(account, &binary("pg_basebackup"))
            .args([
                "--host=127.0.0.1",
                "--username=postgres",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            ])
            .args(["--port", &port, "--pgdata"])
            .arg(folder.join("data"))
            .output()
            .expect("pg_basebackup starts");
        assert!(
            copied.status.success(),
            "pg_basebackup failed: {}",
            String::from_utf8_lossy(&copied.stderr)
        );
        let settings = self.settings.clone();
        Self::at_a_free_port(Self {
            process: None,
            account,
            folder,
            port: 0,
            settings,
        })
        .await
    }

    async fn at_a_free_port(mut server: Self) -> Self {
        // Another program may take the port that was free.
        for _ in 0..5 {
            server.port = free_port();
            if server.begin().await {
                return server;
            }
        }
        panic!("postgres does not start: {}", log(&server.folder));
    }

    /// Whether it accepts connections; false if it ended immediately.
    async fn begin(&mut self) -> bool {
        let data = self.folder.join("data").to_string_lossy().into_owned();
        let socket = format!("unix_socket_directories={}", self.folder.display());
        let port = self.port.to_string();
        let args = ["-D", &data, "-p", &port, "-h", "127.0.0.1", "-c", &socket];
        let args: Vec<_> = args
            .into_iter()
            .map(str::to_owned)
            .chain(self.settings.iter().cloned())
            .collect();
        let process = Process::start(
            self.account,
            "QUIT",
            &self.folder,
            &binary("postgres"),
            &args,
        );
        let ready = until(
            || format!("postgres does not answer: {}", log(&self.folder)),
            || async {
                match self.connection().await {
                    Ok(_) => Some(true),
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

    pub(crate) fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
            .username("postgres")
            .database("postgres")
    }

    /// Its address.
    pub(crate) fn address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.port)
    }

    pub(crate) fn socket_address(&self) -> std::net::SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// A connection for the tests themselves.
    pub(crate) async fn connection(&self) -> Result<PgConnection, sqlx::Error> {
        self.options().disable_statement_logging().connect().await
    }

    /// Immediately, like a crash.
    pub(crate) fn stop(&mut self) {
        self.process.take().expect("it runs").stop();
    }

    /// After a stop, with the same data at the same port.
    pub(crate) async fn start_again(&mut self) {
        assert!(
            self.begin().await,
            "postgres does not start again: {}",
            log(&self.folder)
        );
    }

    /// Stops the server's processes, whatever they are doing, until the result is dropped. New
    /// connections are established, but get no response.
    pub(crate) async fn pause(&self) -> Paused {
        let server = self.process.as_ref().expect("it runs").pid;
        // First the process that starts the others, so that no new ones start.
        signal("STOP", &[server]);
        let others = tokio::process::Command::new("pgrep")
            .args(["-P", &server.to_string()])
            .output()
            .await;
        let others =
            String::from_utf8(others.expect("pgrep runs").stdout).expect("pgrep tells numbers");
        let mut pids: Vec<u32> = others
            .lines()
            .map(|pid| pid.trim().parse().expect("a pid is a number"))
            .collect();
        // One may be ending meanwhile.
        pids.retain(|pid| {
            Command::new("kill")
                .args(["-STOP", &pid.to_string()])
                .output()
                .is_ok_and(|o| o.status.success())
        });
        pids.push(server);
        stopped(&pids);
        Paused { pids }
    }
}

/// Continues the server when dropped.
pub(crate) struct Paused {
    pids: Vec<u32>,
}

impl Drop for Paused {
    fn drop(&mut self) {
        // One may have ended meanwhile.
        let _ = Command::new("kill")
            .arg("-CONT")
            .args(self.pids.iter().map(u32::to_string))
            .output();
    }
}

fn binary(name: &str) -> PathBuf {
    // The newest of the versions that Debian has installed.
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    program(
        name,
        "postgresql",
        &versions
            .into_iter()
            .map(|(_, folder)| folder)
            .collect::<Vec<_>>(),
    )
}
